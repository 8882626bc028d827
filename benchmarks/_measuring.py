"""How every benchmark measures and tells: figures with targets, whole processes, options."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _machine import Machine, in_words

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Figure:
    """What was measured, once a repeat, and what it should be: the median is compared."""

    name: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    def row(self) -> list[str]:
        """The figure as cells: name, median, range, n, target, verdict."""
        spread = f"{number(min(self.values))} – {number(max(self.values))}"
        verdict = {None: "", True: "reached", False: "not reached"}[self.reached]
        return [self.name, number(self.median), spread, str(len(self.values)), self.target, verdict]

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "median": round(self.median, 4),
            "values": [round(value, 4) for value in self.values],
            "target": self.target or None,
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Finished:
    """A process that ended well: wall seconds from start to exit, and its peak memory."""

    seconds: float
    peak_mb: float
    output: str


def options(
    doc: str | None, *, n: int, n_means: str, quick_n: int, repeats: int | None = None
) -> argparse.Namespace:
    """Read --n, --quick and, unless repeating shows nothing new, --repeats; --quick sets both."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help=f"default {repeats}")
    parser.add_argument("--n", type=int, default=n, help=f"{n_means}; default {n}")
    parser.add_argument(
        "--quick", action="store_true", help="only try the script out: little, once, not recorded"
    )
    given = parser.parse_args()
    if given.quick:
        given.n = quick_n
        if repeats is not None:
            given.repeats = 1
    return given


def data_folder(name: str) -> Path:
    """Find a folder of the shared pictures, or end the script, saying so, where there is none."""
    given = os.environ.get("TELLAPART_DATA")
    folder = (Path(given) if given else ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        print(f"Skipped: there are no {name} pictures. Name their folder in TELLAPART_DATA.")
        sys.exit(0)
    return folder


def timed(command: Sequence[str | Path], **environment: str) -> Finished:
    """Run a whole process; one that fails ends the benchmark with what it said.

    The kernel counts the memory of the process that starts another towards the other's peak, so
    a script that quotes peaks must itself stay small: no numpy, no torch.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | environment,
            stdout=output,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{command} ended with {process.returncode}:\n{errors.read()}{output.read()}")
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, else in KiB
        return Finished(seconds, usage.ru_maxrss * unit / 1e6, output.read())


def tellapart(*arguments: str | Path, torch: bool = True) -> list[str | Path]:
    """The command line of a tellapart command, also one in which torch cannot be imported."""
    if torch:
        return [sys.executable, "-m", "tellapart", *arguments]
    return [sys.executable, Path(__file__).with_name("_without_torch.py"), *arguments]


def number(value: float) -> str:
    """Four digits, or all digits before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table: first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(
    script: str, machine: Machine, given: argparse.Namespace, figures: Sequence[Figure]
) -> None:
    """Print machine and figures, and append them to results/<script>.json unless --quick.

    machine: as described before the run, so that its load is what others caused.
    """
    print(f"\n{in_words(machine)}")
    print(", ".join(f"{name} {value}" for name, value in vars(given).items()) + "\n")
    header = ["figure", "median", "range", "repeats", "target", ""]
    print(table(header, [figure.row() for figure in figures]))
    if (machine["load_1_min"] or 0) >= 1:
        print("\nOthers were computing: threads that wait for each other, as in the plain loop,")
        print("suffer most, so ratios flatter tellapart. Measure again on a quiet machine.")
    if given.quick:
        print("\nA quick run shows that the script works, no more. Not recorded.")
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{script}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    run = {
        "machine": machine,
        "options": vars(given),
        "figures": [figure.as_dict() for figure in figures],
    }
    text = json.dumps([*earlier, run], indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def warm(folder: Path) -> None:
    """Read every picture below a folder once, so that the disk has no part in what is measured."""
    for path in folder.rglob("*.jpg"):
        path.read_bytes()
