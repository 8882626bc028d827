"""What a picture costs, and how much memory, among 1000, 10 000, 100 000 and a million.

JPEGs of 64 px, each made a file of its own by a comment in it (links would be one picture, as
pictures are known by their bytes). Four stages, each a process of its own with the whole start
of Python in its time and peak: `scan` of the class folders; `features` of all pictures, nothing
kept before; the probe on these features; `predict --out` to CSV. The network looks at 64 px, too:
so a million take minutes, and what is not the network weighs most. At 224 px it costs ten times as
much a picture, the same among many as among few.

The disk cache is warm: a disk that must turn for each small file would hide all else.
With --work what was measured is kept there, and the same command goes on after an interruption:
a million pictures take hours. The last table and the figure are of everything found there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from _machine import describe
from _measuring import RESULTS, Figure, report, tellapart, timed, warm

WRITE = """
import io, random, sys
from pathlib import Path
from PIL import Image
root, n = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(0)
plain = []
for number in range(300):
    image = Image.new("RGB", (8, 8))
    colour = [chance.randrange(256) if part == number % 3 else 60 for part in range(3)]
    noisy = lambda: tuple(min(255, part + chance.randrange(90)) for part in colour)
    image.putdata([noisy() for _ in range(64)])
    file = io.BytesIO()
    image.resize((64, 64)).save(file, "JPEG", quality=85)
    plain.append(file.getvalue())
for number in range(n):
    folder = root / f"class-{number % 3}" / f"{number // 3000:04d}"
    if number % 3000 < 3:
        folder.mkdir(parents=True, exist_ok=True)
    data, said = plain[number % 300], b"%09d" % number
    comment = b"\\xff\\xfe" + (len(said) + 2).to_bytes(2, "big") + said
    (folder / f"{number:07d}.jpg").write_bytes(data[:2] + comment + data[2:])
(root.parent / f"{root.name}.whole").touch()
"""
SCAN = "import sys; from tellapart.data.catalog import scan; print(len(scan(sys.argv[1])))"
# The features are mapped, as a training has them where they are many.
PROBE = """
import shutil, sys, zipfile
import numpy as np
from tellapart.training.probe import fit_probe
with zipfile.ZipFile(sys.argv[1]) as held:
    with held.open("features.npy") as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with held.open("label.npy") as file:
        _, labels = np.unique(np.lib.format.read_array(file), return_inverse=True)
    with held.open("hash.npy") as file:
        digests = np.lib.format.read_array(file).astype("S32")
features = np.load(sys.argv[2], mmap_mode="r")
fit_probe(features, labels.astype(np.int64), digests, 3)
"""
# Of the pictures, and of what the network looks at.
SIDE_PX = 64
STAGES = ("scan", "features", "probe", "predict")
# Of the peak among the most against that among so many.
FLAT, BASE = 1.5, 10_000


def measured(root: Path, n: int, stage: str, repeat: int) -> tuple[float, float]:
    """Run one stage among n pictures; return seconds, and the peak of its memory in MB."""
    folder, model = root / str(n), root / "m.tellapart"
    features, out = root / f"{n}.npz", root / f"{n}.csv"
    cache = root / f"cache-{stage}-{n}-{repeat}"
    out.unlink(missing_ok=True)
    command: list[str | Path] = {
        "scan": [sys.executable, "-c", SCAN, folder],
        "features": tellapart(
            "features",
            folder,
            "--model",
            model,
            "--out",
            features,
            "--type",
            "float16",
            torch=False,
        ),
        "probe": [sys.executable, "-c", PROBE, features, root / "features.npy"],
        "predict": tellapart("predict", model, folder, "--out", out, torch=False),
    }[stage]
    ended = timed(command, TELLAPART_CACHE=str(cache))
    return ended.seconds, ended.peak_mb


def prepare(root: Path, sizes: list[int]) -> None:
    """Write what is missing: the pictures, and a classifier of the fewest."""
    for n in sizes:
        if not (root / f"{n}.whole").exists():
            print(f"Writing {n} pictures ...", file=sys.stderr)
            timed([sys.executable, "-c", WRITE, root / str(n), str(n)])
    model = root / "m.tellapart"
    if not model.exists():
        recipe = ["--recipe", "fast", "--set", f"pixels.size_px={SIDE_PX}"]
        train = tellapart("train", root / str(min(sizes)), "-o", model, *recipe, "-q")
        timed(train, TELLAPART_CACHE=str(root / "cache"), TELLAPART_RUNS=str(root / "runs"))


def draw(found: dict[str, dict[int, list[tuple[float, float]]]], path: Path) -> None:
    """Draw milliseconds a picture and peak memory by the number of pictures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for stage, by_size in found.items():
        sizes = sorted(by_size)
        for axis, part, scale in ((axes[0], 0, 1e3), (axes[1], 1, 1)):
            values = [
                sorted(one[part] for one in by_size[n])[len(by_size[n]) // 2]
                * (scale / n if part == 0 else 1)
                for n in sizes
            ]
            axis.plot(sizes, values, marker="o", label=stage)
    for axis, title in zip(axes, ("ms a picture", "peak memory, MB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="pictures", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def sizes_up_to(most: int) -> list[int]:
    """Return two numbers of pictures or more, by tens up to the most."""
    sizes = [most]
    while sizes[0] >= 10_000:
        sizes.insert(0, sizes[0] // 10)
    return sizes if len(sizes) > 1 else [most // 2, most]


def as_figures(found: dict[str, dict[int, list[tuple[float, float]]]]) -> list[Figure]:
    """Seconds and peaks by stage and size, and what one picture more costs of each."""
    figures = []
    for stage, by_size in found.items():
        for n, values in by_size.items():
            figures += [
                Figure(f"{stage}, {n}: s", [seconds for seconds, _ in values]),
                Figure(f"{stage}, {n}: ms a picture", [1e3 * one / n for one, _ in values]),
                Figure(f"{stage}, {n}: peak, MB", [peak for _, peak in values]),
            ]
        few, many = (BASE if BASE in by_size else min(by_size)), max(by_size)
        pairs = list(zip(by_size[few], by_size[many], strict=False))
        more = [1e6 * (b[0] - a[0]) / (many - few) for a, b in pairs]
        figures.append(Figure(f"{stage}: us for one more, {few} to {many}", more))
        grows = [1e3 * (b[1] - a[1]) / (many - few) for a, b in pairs]
        figures.append(Figure(f"{stage}: kB for one more, {few} to {many}", grows))
        flat = FLAT if stage != "probe" else None
        peaks = [b[1] / a[1] for a, b in pairs]
        figures.append(Figure(f"{stage}: peak at {many} / at {few}", peaks, at_most=flat))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    most = "the most pictures; fewer by tens, down to 1000, are measured too; default 10 000"
    parser.add_argument("--n", type=int, default=10_000, help=most)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder to keep pictures and figures in")
    parser.add_argument("--quick", action="store_true", help="only try the script out")
    given = parser.parse_args()
    if given.quick:
        given.n, given.repeats = 120, 1
    sizes = sizes_up_to(given.n)
    machine = describe()
    with tempfile.TemporaryDirectory() as name:
        root = given.work or Path(name)
        root.mkdir(exist_ok=True)
        prepare(root, sizes)
        kept = root / "measured.json"
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
        done = {tuple(json.loads(line)[:3]): json.loads(line)[3:] for line in lines}
        for repeat in range(given.repeats):
            for n in sizes:
                for stage in STAGES:
                    if (stage, n, repeat) not in done:
                        warm(root / str(n))
                        print(f"{stage}, {n} pictures ...", file=sys.stderr)
                        done[stage, n, repeat] = list(measured(root, n, stage, repeat))
                        with kept.open("a", encoding="utf-8") as file:
                            line = [stage, n, repeat, *done[stage, n, repeat]]
                            file.write(json.dumps(line) + "\n")
        given.work = None  # Nothing that names one machine.
    found: dict[str, dict[int, list[tuple[float, float]]]] = {stage: {} for stage in STAGES}
    for (stage, n, _), (seconds, peak_mb) in sorted(done.items()):
        found[stage].setdefault(n, []).append((seconds, peak_mb))
    if not given.quick:
        draw(found, RESULTS / "scale.png")
    report("scale", machine, given, as_figures(found))


if __name__ == "__main__":
    main()
