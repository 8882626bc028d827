"""What 20 corrections change: seconds of `learn`, and accuracy on pictures that taught neither.

102 flowers. In each seed 20 classes, drawn anew, are poorly covered: 5 pictures each to learn from.
Their other pictures are a pool, of which the classifier is asked, in random order, until it was
wrong about 20: these are the corrections, as reviewers would make them. Scored are the `valid`
pictures of all classes, on which `learn` decides whether to switch, and the rest of the pool that
was not asked about, which decides nothing. (Those asked about and right are left out of both.)
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

POOR, FEW, CORRECTIONS = 20, 5, 20


def lay_out(flowers: Path, into: Path, seed: int) -> Path:
    """Link the pictures to learn from and those of `valid`; return the folder of the pool."""
    draw = random.Random(seed)
    classes = sorted(one.name for one in (flowers / "train").iterdir())
    poor = set(draw.sample(classes, POOR))
    for name in classes:
        taught = sorted((flowers / "train" / name).iterdir())
        if name in poor:
            draw.shuffle(taught)
            link(taught[FEW:], into / "pool" / name)
            taught = taught[:FEW]
        link(taught, into / "data" / "train" / name)
        link(sorted((flowers / "valid" / name).iterdir()), into / "data" / "valid" / name)
    return into / "pool"


def link(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())


def correct(pool: Path, corrections: Path, model: Path, seed: int, folder: Path) -> int:
    """Move the first mistakes about the pool to the corrections; leave out what was asked till
    then. Return how many were asked about."""
    paths = sorted(pool.rglob("*.*"))
    random.Random(seed).shuffle(paths)
    out = folder / "answers.jsonl"
    timed(tellapart("predict", model, pool, "--out", out, "-q"), **environment(folder))
    told = {one["path"]: one["label"] for one in map(json.loads, out.read_text().splitlines())}
    found = 0
    for n, path in enumerate(paths, start=1):
        label = path.parent.name
        if told[str(path)] != label:
            target = corrections / label
            target.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.name)
            found += 1
        else:
            path.unlink()
        if found == CORRECTIONS:
            return n
    return len(paths)


def environment(folder: Path) -> dict[str, str]:
    # Features of the same pictures are computed once for all seeds.
    return {
        "TELLAPART_CACHE": str(folder.parent / "cache"),
        "TELLAPART_RUNS": str(folder.parent / "runs"),
    }


def one_seed(flowers: Path, folder: Path, seed: int, found: dict[str, list[float]]) -> None:
    pool = lay_out(flowers, folder, seed)
    old, new, corrections = folder / "old.tellapart", folder / "new.tellapart", folder / "reviews"
    around = environment(folder)
    timed(tellapart("train", folder / "data", "-o", old, "--recipe", "fast", "-q"), **around)
    asked = correct(pool, corrections, old, seed, folder)
    command = tellapart("learn", old, "--from-reviews", corrections, "-o", new, torch=False)
    run = timed([*command, "--even-if-worse", "--json", "-q"], **around)
    learned = json.loads(run.output)
    compared = json.loads(timed(tellapart("compare", old, new, pool, "--json", "-q")).output)
    held_out, told = learned["held_out"], learned["corrections"]
    apart, loss = held_out["difference"], held_out["log_loss"]
    values = {
        "seconds, whole process, without torch": run.seconds,
        "peak memory, MB": run.peak_mb,
        "pictures asked about until 20 were wrong": asked,
        "valid (all classes): pictures": held_out["n"],
        "valid: accuracy before": held_out["before"]["value"],
        "valid: accuracy after": held_out["after"]["value"],
        "valid: difference": apart["value"],
        "valid: difference, 95 % interval from": apart["low"],
        "valid: difference, 95 % interval to": apart["high"],
        "valid: log loss before": loss["first"],
        "valid: log loss after": loss["second"],
        "rest of the pool (poor classes): pictures": compared["n"],
        "rest of the pool: accuracy before": compared["first"]["value"],
        "rest of the pool: accuracy after": compared["second"]["value"],
        "rest of the pool: difference": compared["difference"]["value"],
        "rest of the pool: difference, 95 % interval from": compared["difference"]["low"],
        "rest of the pool: difference, 95 % interval to": compared["difference"]["high"],
        "corrections right after, each judged without it, of 20": told["after"],
        "switched": float(learned["reason"].startswith("It is not worse")),
    }
    for name, value in values.items():
        found[name].append(value)
    print(seed, {name: round(value, 4) for name, value in values.items()}, flush=True)


def main() -> None:
    given = options(__doc__, n=5, n_means="seeds", quick_n=1)
    machine = describe()
    flowers = data_folder("flowers102")
    found: dict[str, list[float]] = defaultdict(list)
    os.environ.pop("TELLAPART_CACHE", None)
    with tempfile.TemporaryDirectory() as name:
        for seed in range(given.n):
            folder = Path(name) / str(seed)
            folder.mkdir()
            one_seed(flowers, folder, seed, found)
    report("learning", machine, given, [Figure(*item) for item in found.items()])


if __name__ == "__main__":
    main()
