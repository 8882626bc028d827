"""What keeping views costs in accuracy: K kept views of each picture against live ones.

The same tail phase, kept whatever validation says, once on K = 2, 4 and 8 kept views and once on a
new view every epoch, with seeds that change views and order. Two sets: ants and bees whole, and
the first pictures of each Intel scene.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

VIEWS = ("2", "4", "8", "live")
SEEDS = 3


def part_of(folder: Path, per_class: int, into: Path) -> Path:
    """Link the first pictures of each class to learn from, and all that choose."""
    for split in ("train", "valid"):
        for classes in sorted((folder / split).iterdir()):
            target = into / split / classes.name
            target.mkdir(parents=True)
            most = per_class if split == "train" else None
            for path in sorted(classes.iterdir())[:most]:
                (target / path.name).symlink_to(path.resolve())
    return into


def accuracy(data: Path, folder: Path, views: str, seed: int) -> tuple[float, float]:
    """Return accuracy and log loss on valid after a probe and a tail phase."""
    command = tellapart("train", data, "-o", folder / "m.tellapart", "--recipe", "auto")
    settings = [f"phases.2.views={views}", "phases.2.keep=always", f"seed={seed}"]
    # The same cut for both sets, whatever their size.
    settings += ["phases.2.cut=blocks.6", "phases.2.best=last"]
    given = [part for setting in settings for part in ("--set", setting)]
    run = timed(
        [*command, *given, "--json", "-q"],
        TELLAPART_CACHE=str(folder / "cache"),
        TELLAPART_RUNS=str(folder / "runs"),
    )
    result = json.loads(run.output)
    return result["accuracy"]["value"], result["log_loss"]


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {
            "ants and bees": data_folder("hymenoptera"),
            "Intel scenes": part_of(data_folder("intel_scenes"), given.n, folder / "intel"),
        }
        for title, data in sets.items():
            for seed in range(1 if given.quick else SEEDS):
                for views in VIEWS:
                    value, loss = accuracy(data, folder, views, seed)
                    found[f"{title}, {views} views: accuracy"].append(value)
                    found[f"{title}, {views} views: log loss"].append(loss)
                    print(
                        f"{title}, seed {seed}, {views} views: {value:.4f} {loss:.4f}", flush=True
                    )
            live = statistics.mean(found[f"{title}, live views: accuracy"])
            for views in VIEWS[:-1]:
                kept = found[f"{title}, {views} views: accuracy"]
                found[f"{title}, {views} views - live, mean accuracy"] = [
                    statistics.mean(kept) - live
                ]
    return found


def main() -> None:
    given = options(__doc__, n=60, n_means="Intel pictures a class to learn from", quick_n=8)
    machine = describe()
    report("kept_views", machine, given, [Figure(*item) for item in measure(given).items()])


if __name__ == "__main__":
    main()
