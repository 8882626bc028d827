"""8 bits against 16 and 32: speed, agreement and accuracy on two sets of pictures.

A classifier of each set is trained (the head alone), then quantised with 300 of its training
pictures. Accuracy and agreement are on pictures of `valid`, which it neither learned from nor was
quantised with. Speeds are taken in turns, ratios within each turn: of the network alone, and of the
whole way from JPEG files to answers.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

if TYPE_CHECKING:
    from tellapart import Classifier

SETS = ("intel_scenes", "flowers102")


def measure(photos: Path, folder: str, n: int, repeats: int) -> dict[str, list[float]]:
    """Train, quantise, and measure on one set."""
    from tellapart import Classifier, quantize
    from tellapart.pipeline.exporting import spread
    from tellapart.progress import Progress

    model = Path(folder, f"{photos.name}.tellapart")
    print(f"Training and quantising on {photos.name} ...", file=sys.stderr)
    train = tellapart("train", photos, "-o", model, "--recipe", "fast", "--quiet")
    timed(train, TELLAPART_CACHE=folder, TELLAPART_RUNS=f"{folder}/runs")
    facts = quantize(model, photos, progress=Progress("quiet"))
    scored = f"{photos.name} ({facts.n})"
    found = {
        f"{scored}: accuracy, {name}": [value] for name, value in (facts.accuracy or {}).items()
    }
    found[f"{scored}: same class in 8 bits as in 32"] = [facts.agreement]
    paths = spread(sorted(map(str, (photos / "valid").glob("*/*.jp*g"))), n)
    loaded = {name: Classifier.load(model, name) for name in ("f32", "bf16", "int8")}
    rates = speeds(loaded, paths, repeats)
    return found | {f"{photos.name} ({len(paths)}): {name}": one for name, one in rates.items()}


def speeds(loaded: dict[str, Classifier], paths: list[str], repeats: int) -> dict[str, list[float]]:
    """Answer the same pictures in each precision, in turns: as pixels in memory, and as files."""
    from tellapart.data.pixels import read_pixels

    preprocessing = loaded["f32"].manifest.preprocessing
    pixels = [read_pixels(path, preprocessing) for path in paths]
    found = defaultdict(list)
    for kind, pictures in (("network", pixels), ("from files", paths)):
        for turn in range(repeats + 1):
            rates = {name: rate(classifier, pictures) for name, classifier in loaded.items()}
            if not turn:
                continue  # the first prepares kernels
            for name, value in rates.items():
                found[f"{kind}, {name}, pictures/s"].append(value)
            found[f"{kind}, int8 / f32"].append(rates["int8"] / rates["f32"])
            found[f"{kind}, int8 / bf16"].append(rates["int8"] / rates["bf16"])
    return found


def rate(classifier: Classifier, pictures: Sequence[Any]) -> float:
    """Answer them all and say how many came each second."""
    began = time.perf_counter()
    for _ in classifier.logits(pictures):
        pass
    return len(pictures) / (time.perf_counter() - began)


def main() -> None:
    given = options(__doc__, n=256, n_means="pictures timed a set", quick_n=32, repeats=5)
    folders = [data_folder(name) for name in SETS]
    machine = describe()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for photos in folders[:1] if given.quick else folders:
            found |= measure(photos, folder, given.n, given.repeats)
    report("int8", machine, given, [Figure(name, values) for name, values in found.items()])


if __name__ == "__main__":
    main()
