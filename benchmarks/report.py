"""Time, size and memory of the report at 1000 and at ten times as many test pictures.

The report is the last stage of `evaluate --report`; its time, and the peak of memory before and
after it, are taken inside a process of its own. The pictures are real ones, linked under further
names where there are not enough; a picture is decoded as often as it has names.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

FACTOR = 10

EVALUATE = """
import json, resource, sys, time
from contextlib import contextmanager
from tellapart import Classifier, evaluate
from tellapart.progress import Progress

peaks = []

class Watched(Progress):
    @contextmanager
    def stage(self, name):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        with super().stage(name):
            yield

progress = Watched("quiet")
model, data, page = sys.argv[1:]
start = time.monotonic()
evaluate(Classifier.load(model), data, progress, page)
seconds = progress.seconds["report"]
look = time.monotonic() - start - seconds
print(json.dumps({"report": seconds, "look": look, "before": peaks[-1]}))
"""


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
        for name, n in sizes.items():
            runs = [
                timed([sys.executable, "-c", EVALUATE, model, home / name, page])
                for _ in range(given.repeats)
            ]
            seconds = [json.loads(run.output) for run in runs]
            figures += [
                Figure(f"{name}: report, s", [one["report"] for one in seconds]),
                Figure(f"{name}: looking at {n}, s", [one["look"] for one in seconds]),
                Figure(f"{name}: size, MB", [page.stat().st_size / 1e6], at_most=5),
                Figure(f"{name}: peak before the report, MB", [one["before"] for one in seconds]),
                Figure(f"{name}: peak, MB", [run.peak_mb for run in runs]),
            ]
        by_name = {figure.name: figure for figure in figures}
        for name in sizes:
            before, after = (
                by_name[f"{name}: peak before the report, MB"],
                by_name[f"{name}: peak, MB"],
            )
            added = [b - a for a, b in zip(before.values, after.values, strict=True)]
            figures.append(
                Figure(f"{name}: what the report adds to the peak, MB", added, at_most=150)
            )
    report("report", machine, given, figures)


if __name__ == "__main__":
    main()
