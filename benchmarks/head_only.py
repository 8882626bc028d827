"""Learn a head with `tellapart train --recipe fast`, whole processes, nothing kept before.

Flowers: 6552 pictures to learn from, scored on 818; then the same command again, on kept
features, in a process where torch cannot be imported. Ants and bees: 245 and 153. Digits: what
`make demo` does. The plain loop computes features of 256 flowers without learning anything, which
is the least that one epoch of a plain head-only training costs; nothing is extrapolated from it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

ALL = 6552
PLAIN_N = 256
TARGETS: dict[str, dict[str, float]] = {
    "flowers: accuracy": {"at_least": 0.935},
    "flowers: first run, s": {"at_most": 75},
    "flowers: second run without torch, s": {"at_most": 12},
    "flowers: first run, peak MB": {"at_most": 2000},
    "ants and bees: accuracy": {"at_least": 0.94},
    "digits: accuracy": {"at_least": 0.94},
}


def flowers(n: int, folder: Path) -> Path:
    """Return the flowers, or a folder that links to about n of them, all classes alike."""
    whole = data_folder("flowers102")
    if n >= ALL:
        return whole
    classes = sorted(path.name for path in (whole / "train").iterdir())
    for split in ("train", "valid"):
        for name in classes:
            target = folder / split / name
            target.mkdir(parents=True)
            for path in sorted((whole / split / name).iterdir())[: max(1, n // len(classes))]:
                (target / path.name).symlink_to(path.resolve())
    return folder


def train(data: Path, folder: Path, torch: bool = True) -> dict[str, float]:
    """Train in a process of its own; the cache and what is written lie in the folder."""
    folder.mkdir(exist_ok=True)
    options = ("-o", folder / "m.tellapart", "--recipe", "fast", "--json", "-q")
    places = {f"TELLAPART_{name.upper()}": str(folder / name) for name in ("cache", "runs")}
    run = timed(tellapart("train", data, *options, torch=torch), **places)
    result = json.loads(run.output)
    accuracy, n_scored = result["accuracy"]["value"], result["accuracy"]["n"]
    return {
        "accuracy": accuracy,
        f"wrong of {n_scored}": round((1 - accuracy) * n_scored),
        "run, s": run.seconds,
        "run, peak MB": run.peak_mb,
        "of which features, s": result["seconds"]["features"],
        "of which learning, s": result["seconds"]["fit"],
        "whole run, pictures/s": (result["n_train"] + result["n_valid"]) / run.seconds,
    }


def plain_rate(data: Path) -> float:
    """Measure the plain loop in a process of its own, so that this one stays small."""
    from _plain_loop import pictures_per_s_alone

    paths = sorted(str(path) for path in (data / "train").rglob("*.jpg"))
    return pictures_per_s_alone(paths[:: max(1, len(paths) // PLAIN_N)][:PLAIN_N])


def in_fresh_process(data: Path) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(plain_rate, data).result()


def one_repeat(pictures: Path) -> dict[str, float]:
    """Measure everything once, each training with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed(tellapart("demo", folder / "digits"))
        first = train(pictures, folder / "flowers")
        second = train(pictures, folder / "flowers", torch=False)
        bees = train(data_folder("hymenoptera"), folder / "bees")
        digits = train(folder / "digits", folder / "digits-model")
    plain = in_fresh_process(pictures)
    return {
        **{f"flowers: {what.replace('run,', 'first run,')}": first[what] for what in first},
        "flowers: second run without torch, s": second["run, s"],
        "flowers: second run without torch, peak MB": second["run, peak MB"],
        **{f"ants and bees: {what}": bees[what] for what in bees},
        **{f"digits: {what}": digits[what] for what in digits},
        f"plain loop on {PLAIN_N} flowers, features only, pictures/s": plain,
        "flowers: whole first run / plain loop": first["whole run, pictures/s"] / plain,
    }


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        pictures = flowers(given.n, Path(folder))
        for _ in range(given.repeats):
            for name, value in one_repeat(pictures).items():
                found[name].append(value)
    return found


def main() -> None:
    given = options(__doc__, n=ALL, n_means="flowers to learn from", quick_n=306, repeats=3)
    data_folder("hymenoptera")
    machine = describe()
    found = measure(given)
    figures = [Figure(name, values, **TARGETS.get(name, {})) for name, values in found.items()]
    report("head_only", machine, given, figures)


if __name__ == "__main__":
    main()
