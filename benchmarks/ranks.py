"""Two processes against one on the same cores: what sharing a training costs, and that it is equal.

Both train the head and then a tail on the same flowers, from an empty cache but for the exported
network. There are no more cores for two than for one, so speed is not the claim: what is measured
is the overhead. "Features" are looking at all pictures; "head" is solving for it, which the first
process does while the other waits; "tail" the random views and all steps; "the rest" the start of
the processes, export, scores, report and classifier.

Results are equal to the last bit: two processes on two cores cut and add as one does. The tail is
always kept, and how far it is from the head alone is told beside the difference that is to be none:
otherwise two heads would be compared.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

EPOCHS = 8


@dataclass(frozen=True)
class Trained:
    """What a training took, as it says and from start to exit, and what it made."""

    facts: dict[str, Any]
    seconds: float
    bundle: Path

    def took(self, *stages: str) -> float:
        return sum(self.facts["seconds"][stage] for stage in stages)

    def phase(self, number: int) -> float:
        """Seconds of a phase, from 1; it has to be one that was kept."""
        (found,) = (one for one in self.facts["phases"] if one["phase"] == number)
        if not found["kept"]:
            sys.exit(f"Phase {number} was not kept: {found['reason']}.")
        return float(found["seconds"])

    @property
    def rest(self) -> float:
        return self.seconds - self.took("features", "fit")


def write_table(folder: Path, path: Path, n: int) -> None:
    """Choose n pictures that teach and n / 5 that choose, evenly over the classes."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for split, wanted in (("train", n), ("valid", n // 5)):
            found = sorted((folder / split).glob("*/*.jpg"))
            for one in found[:: max(1, len(found) // wanted)]:
                rows.writerow([one, one.parent.name, split])


def train(table: Path, folder: Path, backbones: Path, processes: int) -> Trained:
    """Train in a cache that holds nothing but the exported network."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(backbones, folder / "backbones")
    target = folder / "x.tellapart"
    settings = {"phases.2.keep": "always", "phases.2.epochs": str(EPOCHS), "phases.2.views": "4"}
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = tellapart("train", table, "-o", target, *chosen, "--json", "--quiet")
    runs = str(folder / "runs")
    ended = timed(
        [*command, "--processes", str(processes)], TELLAPART_CACHE=str(folder), TELLAPART_RUNS=runs
    )
    return Trained(json.loads(ended.output), ended.seconds, target)


def difference(one: Path, two: Path) -> float:
    """Largest difference between the probabilities of two classifiers, on what they judged."""
    import numpy as np

    from tellapart.backbones.openvino_runtime import OpenVinoRuntime
    from tellapart.bundle.bundle import open_bundle
    from tellapart.evaluation.calibration import softmax

    said = []
    for path in (one, two):
        bundle = open_bundle(path)
        held, runtime = bundle.features, OpenVinoRuntime(bundle.graph)
        features = held.features[held.splits == "valid"].astype(np.float32)
        logits = features @ runtime.constant("head.weight").T + runtime.constant("head.bias")
        order = np.argsort(held.digests[held.splits == "valid"])
        said.append(softmax(logits)[order])
    return float(np.abs(said[0] - said[1]).max())


def main() -> None:
    given = options(__doc__, n=1500, n_means="pictures that teach", quick_n=500, repeats=3)
    flowers = data_folder("flowers102")
    machine = describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "flowers.csv"
        write_table(flowers, table, given.n)
        warm = folder / "warm"
        cache = {"TELLAPART_CACHE": str(warm), "TELLAPART_RUNS": str(warm / "runs")}
        fast = tellapart("train", table, "-o", folder / "warm.tellapart", "--recipe", "fast", "-q")
        timed(fast, **cache)
        pairs = []
        for number in range(given.repeats):
            # In turns, so that a slower minute of the machine does not fall on one of them alone.
            order = (1, 2) if number % 2 == 0 else (2, 1)
            made = {n: train(table, folder / f"{number}-{n}", warm / "backbones", n) for n in order}
            pairs.append((made[1], made[2]))
        differ = [difference(one.bundle, two.bundle) for one, two in pairs]
        learned = [difference(folder / "warm.tellapart", one.bundle) for one, _ in pairs]
    stages = ("features", "fit")
    report(
        "ranks",
        machine,
        given,
        [
            Figure("one process: features and learning, s", [a.took(*stages) for a, _ in pairs]),
            Figure("two processes: features and learning, s", [b.took(*stages) for _, b in pairs]),
            Figure(
                "features and learning, two to one",
                [b.took(*stages) / a.took(*stages) for a, b in pairs],
                at_most=1.1,
            ),
            Figure(
                "features, two to one", [b.took("features") / a.took("features") for a, b in pairs]
            ),
            Figure("learning, two to one", [b.took("fit") / a.took("fit") for a, b in pairs]),
            Figure("one process: head, s", [a.phase(1) for a, _ in pairs]),
            Figure("head, s more", [b.phase(1) - a.phase(1) for a, b in pairs]),
            Figure("one process: tail, s", [a.phase(2) for a, _ in pairs]),
            Figure("tail, two to one", [b.phase(2) / a.phase(2) for a, b in pairs]),
            Figure("one process: the rest, s", [a.rest for a, _ in pairs]),
            Figure("the rest, s more", [b.rest - a.rest for a, b in pairs]),
            Figure("whole command, one process, s", [a.seconds for a, _ in pairs]),
            Figure("whole command, two to one", [b.seconds / a.seconds for a, b in pairs]),
            Figure(
                "accuracy on valid, two less one",
                [b.facts["accuracy"]["value"] - a.facts["accuracy"]["value"] for a, b in pairs],
            ),
            Figure(
                "probabilities on valid, largest difference, millionths",
                [one * 1e6 for one in differ],
                at_most=0,
            ),
            Figure(
                "probabilities on valid, tail to head alone, largest difference",
                learned,
                at_least=0.1,
            ),
        ],
    )


if __name__ == "__main__":
    main()
