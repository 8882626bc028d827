"""Pictures/s from JPEG files on disk to CSV, beside three ways of knowing what that is worth.

(a) the plain loop of the other benchmarks; (b) the image-classification pipeline of transformers
around the same backbone; (c) the bound 1 / (1/decode + 1/network). Ours is
the whole of `predict --out`: from the list of files to rows on disk. The ways take turns, and a
ratio is taken within each turn. Then threads against processes for decoding, and what memory 2000
and 50 000 pictures take: processes of their own, on links with names of their own.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

if TYPE_CHECKING:
    from tellapart.backbones.network import Network
    from tellapart.data.pixels import Pixels, Preprocessing
    from tellapart.inference.classifier import Classifier

FEW, MANY = 2_000, 50_000
THREADS = (1, 2, 3, 4, 6)


def jpegs(folder: Path, n: int) -> list[str]:
    """Pick at most n JPEG files, spread over all that lie below a folder."""
    paths = sorted(str(path) for path in folder.rglob("*.jp*g"))
    return paths[:: max(1, len(paths) // n)][:n]


def rate(n: int, run: Callable[[], Iterable[object]]) -> float:
    """Time one pass over n pictures, in pictures/s."""
    began = time.perf_counter()
    for _ in run():
        pass
    return n / (time.perf_counter() - began)


def memory_mb(model: Path, pictures: list[str], n: int, folder: Path) -> float:
    """Peak memory of a whole `predict --out` on n pictures, each under a name of its own."""
    gallery = folder / f"gallery-{n}"
    gallery.mkdir()
    for number, path in enumerate(islice(cycle(pictures), n)):
        (gallery / f"{number:06d}.jpg").symlink_to(path)
    print(f"Predicting {n} pictures ...", file=sys.stderr)
    out = folder / f"{n}.csv"
    return timed(tellapart("predict", model, gallery, "--out", out, torch=False)).peak_mb


def ours(classifier: Classifier, paths: list[str], ordered: bool = True) -> Iterator[object]:
    """Predict from files to a CSV on disk; yields once, at the end."""
    from tellapart.inference.batch import predict_into
    from tellapart.inference.outputs import open_output

    with tempfile.TemporaryDirectory() as folder:
        output = open_output(Path(folder, "out.csv"), classifier.classes)
        yield predict_into(classifier, paths, output, ordered=ordered)


def transformers_pipeline(network: Network, folder: Path) -> Any:
    """The pipeline of transformers around the same backbone; None where it is missing."""
    try:
        import transformers
    except ImportError:
        print("Left out: transformers is not installed (pip install '.[bench]').", file=sys.stderr)
        return None
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    transformers.logging.set_verbosity_error()
    preprocessing = network.backbone.preprocessing
    size = preprocessing.size_px
    config = TimmWrapperConfig(
        architecture=network.backbone.name,
        num_labels=1000,
        pretrained_cfg={
            "input_size": [3, size, size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_fraction,
            "num_classes": 1000,
        },
    )
    model = TimmWrapperForImageClassification(config).eval()
    model.save_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return transformers.pipeline("image-classification", model=model, image_processor=processor)


def decode_in_processes(paths: list[str], preprocessing: Preprocessing, n: int) -> Iterator[Pixels]:
    """Decode in n processes, pixels coming back through pipes: the other way to use all cores."""
    from tellapart.data.pixels import read_pixels

    with multiprocessing.get_context("spawn").Pool(n) as pool:
        yield from pool.imap(partial(read_pixels, preprocessing=preprocessing), paths, 8)


def compare(model: Path, paths: list[str], repeats: int) -> dict[str, list[float]]:
    """Measure every way in turns; rates in pictures/s, and ratios within each turn."""
    from _plain_loop import default_network, pictures_per_s

    from tellapart.backbones.openvino_runtime import OpenVinoRuntime
    from tellapart.bundle.bundle import open_bundle
    from tellapart.data.pixels import decode_many, read_pixels
    from tellapart.inference.classifier import Classifier

    network = default_network()
    read = partial(read_pixels, preprocessing=network.backbone.preprocessing)
    runtime = OpenVinoRuntime(open_bundle(model).graph)
    classifier = Classifier.load(model)  # As the others' networks, built before the clock runs.
    n = len(paths)

    def decoded(workers: int | None = None) -> Iterator[Any]:
        return iter(decode_many(paths, read, workers))

    pixels = list(decoded())
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = transformers_pipeline(network, Path(folder))
        for turn in range(repeats + 1):
            mine = rate(n, lambda: ours(classifier, paths))
            unordered = rate(n, lambda: ours(classifier, paths, ordered=False))
            bound = 1 / (1 / rate(n, decoded) + 1 / rate(n, lambda: runtime.run(iter(pixels))))
            if turn == 0:
                continue  # the first run prepares kernels and reads the files into memory
            plain = pictures_per_s(paths, network)
            found["tellapart, pictures/s"].append(mine)
            found["tellapart --unordered, pictures/s"].append(unordered)
            found["bound, pictures/s"].append(bound)
            found["plain loop, pictures/s"].append(plain)
            found["tellapart / plain loop"].append(mine / plain)
            found["tellapart / bound"].append(mine / bound)
            if pipeline is not None:
                few = paths[: max(1, n // 2)]
                theirs = rate(len(few), lambda few=few: pipeline(few, batch_size=32))
                found["transformers pipeline, pictures/s"].append(theirs)
                found["tellapart / transformers pipeline"].append(mine / theirs)
            for workers in THREADS:
                both = rate(n, lambda workers=workers: runtime.run(decoded(workers)))
                found[f"decode in {workers} threads and network, pictures/s"].append(both)
            both = rate(
                n,
                lambda: runtime.run(decode_in_processes(paths, network.backbone.preprocessing, 2)),
            )
            found["decode in 2 processes and network, pictures/s"].append(both)
    return found


def main() -> None:
    given = options(__doc__, n=512, n_means="pictures", quick_n=64, repeats=3)
    photos = data_folder("flowers102")
    machine = describe()
    many = 4 * given.n if given.quick else MANY
    few = given.n if given.quick else FEW
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.tellapart"
        print("Training the classifier to predict with ...", file=sys.stderr)
        train = tellapart("train", photos, "-o", model, "--recipe", "fast", "--quiet")
        timed(train, TELLAPART_CACHE=name, TELLAPART_RUNS=f"{name}/runs")
        pictures = jpegs(photos, FEW)
        # First: this process is still small, and its memory counts towards that of those it starts.
        small, large = (memory_mb(model, pictures, n, folder) for n in (few, many))
        found = compare(model, jpegs(photos, given.n), given.repeats)
    targets = {
        "tellapart / plain loop": 6.0,
        "tellapart / transformers pipeline": 5.0,
        "tellapart / bound": 0.85,
    }
    figures = [Figure(name, values, at_least=targets.get(name)) for name, values in found.items()]
    figures += [
        Figure(f"peak memory at {few} pictures, MB", [small], at_most=600),
        Figure(f"peak memory at {many} pictures, MB", [large], at_most=600),
        Figure("peak memory, many / few", [large / small], at_most=1.1),
    ]
    report("predicting", machine, given, figures)


if __name__ == "__main__":
    main()
