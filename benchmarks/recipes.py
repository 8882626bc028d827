"""What the built-in recipes reach on real pictures, and how long they take, from nothing.

Each training starts with an empty cache, so that everything is computed; seeds change the views
that are drawn and the order of the pictures. The scores are on the valid pictures that also chose
phases and epochs, as in every report of such a run. Budgets: what a training took of the time it
was given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

# (pictures, recipe, how many seeds)
RUNS = [
    ("hymenoptera", "best", 3),
    ("hymenoptera", "auto", 3),
    ("intel_scenes", "fast", 1),
    ("intel_scenes", "best", 3),
    ("intel_scenes", "auto", 3),
    ("flowers102", "best", 1),
    ("flowers102", "auto", 1),
]
BUDGETS = [("flowers102", 150), ("intel_scenes", 60)]
TARGETS: dict[str, dict[str, float]] = {
    "flowers102, auto: accuracy": {"at_least": 0.97},
    "flowers102, auto: s": {"at_most": 240},
    "flowers102, best: accuracy": {"at_least": 0.98},
    "flowers102, best: s": {"at_most": 600},
    "intel_scenes, auto: accuracy": {"at_least": 0.915},
    "intel_scenes, best: accuracy": {"at_least": 0.925},
    "hymenoptera, best: accuracy": {"at_least": 0.96},
}


def train(pictures: str, recipe: str, *more: str) -> dict[str, float]:
    """Train in a process of its own, with nothing kept from before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "m.tellapart"
        command = tellapart("train", data_folder(pictures), "-o", target, "--recipe", recipe)
        run = timed(
            [*command, "--json", "-q", *more],
            TELLAPART_CACHE=str(folder / "cache"),
            TELLAPART_RUNS=str(folder / "runs"),
        )
    result = json.loads(run.output)
    accuracy = result["accuracy"]
    return {
        "accuracy": accuracy["value"],
        "lower end of its interval": accuracy["low"],
        f"wrong of {accuracy['n']}": round((1 - accuracy["value"]) * accuracy["n"]),
        "phases kept": sum(phase["kept"] for phase in result["phases"]),
        "s": run.seconds,
        "peak MB": run.peak_mb,
    }


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    found = defaultdict(list)
    for pictures, recipe, seeds in RUNS:
        for seed in range(min(seeds, given.n)):
            values = train(pictures, recipe, "--seed", str(seed))
            for what, value in values.items():
                found[f"{pictures}, {recipe}: {what}"].append(value)
            print(f"{pictures}, {recipe}, seed {seed}: {values}", flush=True)
    for pictures, budget_s in BUDGETS:
        values = train(pictures, "auto", "--budget", f"{budget_s}s")
        name = f"{pictures}, budget of {budget_s} s"
        found[f"{name}: share used"].append(values["s"] / budget_s)
        found[f"{name}: accuracy"].append(values["accuracy"])
        print(f"{name}: {values}", flush=True)
    return found


def main() -> None:
    given = options(__doc__, n=3, n_means="seeds at most", quick_n=1)
    machine = describe()
    if given.quick:
        RUNS[:] = [run for run in RUNS if run[0] == "hymenoptera"]
        BUDGETS.clear()
    found = measure(given)
    figures = [Figure(name, values, **TARGETS.get(name, {})) for name, values in found.items()]
    report("recipes", machine, given, figures)


if __name__ == "__main__":
    main()
