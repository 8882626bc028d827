"""Time, size and memory of the report at 1000 and at ten times as many test pictures.

`evaluate --report` is held against `evaluate` alone, on the same pictures, in turns: the
difference is the report. The pictures are real ones, linked under further names where there are
not enough; a picture is decoded as often as it has names.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

FACTOR = 10


def lay_out(source: Path, target: Path, n: int) -> None:
    """Link n pictures of each split's classes into class folders, evenly."""
    pictures = sorted(source.glob("*/*.jpg"))
    for number, picture in enumerate(islice(cycle(pictures), n)):
        folder = target / picture.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}-{picture.name}").symlink_to(picture.resolve())


def main() -> None:
    given = options(__doc__, n=1000, n_means="test pictures", quick_n=60, repeats=3)
    source = data_folder("intel_scenes") / "train"
    machine = describe()
    sizes = {"n": given.n, "10 n": FACTOR * given.n}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model, page = home / "model.tellapart", home / "page.html"
        environment = {"TELLAPART_CACHE": folder, "TELLAPART_RUNS": f"{folder}/runs"}
        print("Training the classifier to judge ...", file=sys.stderr)
        valid = data_folder("intel_scenes") / "valid"
        train = tellapart("train", valid, "-o", model, "--recipe", "fast", "--quiet")
        timed(train, **environment)
        for name, n in sizes.items():
            lay_out(source, home / name, n)
        figures = []
        for name in sizes:
            plain = tellapart("evaluate", model, home / name, "--quiet", "--json", torch=False)
            runs = [(timed(plain), timed([*plain, "--report", page])) for _ in range(given.repeats)]
            figures += [
                Figure(f"{name}: report, s", [b.seconds - a.seconds for a, b in runs]),
                Figure(f"{name}: with / without it", [b.seconds / a.seconds for a, b in runs]),
                Figure(f"{name}: size, MB", [page.stat().st_size / 1e6], at_most=5),
                Figure(f"{name}: peak, MB", [b.peak_mb for _, b in runs]),
                Figure(f"{name}: peak without it, MB", [a.peak_mb for a, _ in runs]),
            ]
        by_name = {figure.name: figure for figure in figures}
        first, second = (by_name[f"{name}: peak, MB"] for name in sizes)
        rise = [b / a for a, b in zip(first.values, second.values, strict=True)]
        figures.append(Figure("peak at 10 n / at n", rise, at_most=1.5))
    report("report", machine, given, figures)


if __name__ == "__main__":
    main()
