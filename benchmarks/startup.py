"""Seconds and memory of whole processes: `predict` of one picture, `--help`, `import timm`.

The plain way starts with `import timm`, so that is what a prediction is held against; the
network, its weights and the picture would come on top.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed


def main() -> None:
    given = options(__doc__, n=1, n_means="pictures to predict", quick_n=1, repeats=9)
    photos = data_folder("hymenoptera")
    pictures = sorted((photos / "val").glob("*/*.jpg"))[: given.n]
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.tellapart")
        print("Training the classifier to start ...", file=sys.stderr)
        train = tellapart("train", photos, "-o", model, "--recipe", "fast", "--quiet")
        timed(train, TELLAPART_CACHE=folder, TELLAPART_RUNS=f"{folder}/runs")
        commands: dict[str, list[str | Path]] = {
            "predict": tellapart("predict", model, *pictures, "--quiet", "--json"),
            "import timm": [sys.executable, "-c", "import timm"],
            "--help": tellapart("--help"),
        }
        for command in commands.values():
            timed(command)  # once unmeasured: files come into memory, bytecode is written
        runs = [
            {name: timed(command) for name, command in commands.items()}
            for _ in range(given.repeats)
        ]
    figures = [
        Figure(
            "predict / import timm",
            [run["predict"].seconds / run["import timm"].seconds for run in runs],
            at_most=0.25,
        ),
        Figure("predict, peak MB", [run["predict"].peak_mb for run in runs], at_most=350),
        Figure("--help, s", [run["--help"].seconds for run in runs], at_most=0.5),
        Figure("predict, s", [run["predict"].seconds for run in runs]),
        Figure("import timm, s", [run["import timm"].seconds for run in runs]),
        Figure("import timm, peak MB", [run["import timm"].peak_mb for run in runs]),
    ]
    report("startup", machine, given, figures)


if __name__ == "__main__":
    main()
