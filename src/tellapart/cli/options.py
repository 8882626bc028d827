"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tellapart.hiding import without_secrets
from tellapart.progress import Progress

if TYPE_CHECKING:
    from tellapart.data.reading import DataSource


def _debug(value: bool) -> None:
    if value:
        os.environ["TELLAPART_DEBUG"] = "1"


def _accept(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g}: expected a share between 0 and 1, such as 0.95.")
    return value


Data = Annotated[
    Path,
    typer.Argument(
        help="Folder of class folders, or of train/valid/test folders with them; or a table (.csv, "
        ".tsv, .parquet) or list of files and labels."
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Where the relative paths of a table or list start; may be a URL."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=VALUE",
        help="Where labels come from: path, label, split or group=COLUMN; "
        "pattern={label}_{number}.jpg; names=FILE.json (class -> its name for people). May be "
        "given several times.",
    ),
]
Model = Annotated[Path, typer.Argument(help="A classifier: a .tellapart file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more while working.")]
Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_debug, is_eager=True, help="Show the traceback of an error."),
]
Backbone = Annotated[
    str | None,
    typer.Option(help="Which pretrained network looks at the pictures; see `backbones`."),
]
Weights = Annotated[
    str | None,
    typer.Option(help="pretrained (the default), none (random), or a file of weights."),
]
RecipeName = Annotated[str, typer.Option(help="One that `recipes` lists, or a .toml file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A single setting of the recipe, such as phases.2.epochs=5. May be given several "
        "times; `recipes show NAME` prints what a recipe sets.",
    ),
]
Accept = Annotated[
    float | None,
    typer.Option(
        callback=_accept,
        help="Accuracy wanted among the pictures not called unsure, such as 0.95.",
    ),
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

PrecisionName = Annotated[
    str, typer.Option("--precision", help="auto, f32, bf16, or int8 where `quantize` put it in.")
]


def chosen_precision(name: str) -> Literal["f32", "bf16", "int8"] | None:
    """Read a precision; None is what is fastest here without costing accuracy."""
    known: dict[str, Literal["f32", "bf16", "int8"] | None] = {
        "auto": None,
        "f32": "f32",
        "bf16": "bf16",
        "int8": "int8",
    }
    if name not in known:
        raise typer.BadParameter(f"--precision {name}: expected {', '.join(known)}.")
    return known[name]


def chosen_settings(texts: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
    """Gather settings given one by one: --set NAME=VALUE, and those with options of their own."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"--set {text}: expected NAME=VALUE, such as seed=1.")
        chosen[name.strip()] = value.strip()
    return chosen


def data_source(data: Path, root: str | None, texts: list[str] | None) -> DataSource:
    """Gather what says how labelled pictures are to be understood."""
    from tellapart.data.reading import KINDS, DataSource

    chosen: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        known = (*KINDS, "pattern", "names")
        if not equals or name not in known or name in chosen:
            raise typer.BadParameter(
                f"--data {text}: expected NAME=VALUE, once for each of {', '.join(known)}."
            )
        chosen[name] = value
    pattern, names = chosen.pop("pattern", None), chosen.pop("names", None)
    return DataSource(data, root, chosen, pattern or None, Path(names) if names else None)


def budget_seconds(text: str) -> float:
    """Read a time: 90, 90s, 2m, 1.5h."""
    number, unit = text[:-1], text[-1:]
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(unit)
    try:
        seconds = float(text) if factor is None else factor * float(number)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"--budget {text}: expected a time such as 90s, 2m or 1h.")
    return seconds


def chosen_minimums(texts: list[str] | None) -> dict[str, float]:
    """Read --min NAME=VALUE, each value a share; the name of a class may hold any character."""
    chosen = {}
    for text in texts or ():
        name, equals, value = text.rpartition("=")
        try:
            least = float(value)
        except ValueError:
            least = -1.0
        if not equals or not name.strip() or not 0 <= least <= 1:
            raise typer.BadParameter(
                f"--min {text}: expected NAME=VALUE with a value from 0 to 1, such as "
                f"accuracy=0.95 or recall[cat]=0.9."
            )
        chosen[name.strip()] = least
    return chosen


def open_progress(quiet: bool, verbose: bool) -> Progress:
    return Progress("quiet" if quiet else "verbose" if verbose else "normal")


def say(*lines: str, end: str = "\n", error: bool = False) -> None:
    """Print lines of text, on standard error if asked, without what is secret in addresses.

    All that a command says goes through here, but for predictions, which name each picture by the
    path that was given.
    """
    text = without_secrets("\n".join(lines))
    print(text, end=end, file=sys.stderr if error else sys.stdout)


def print_json(value: Any) -> None:
    # ASCII alone: right in every encoding, and the only way to say a name that is no UTF-8.
    say(json.dumps(value))


def table(header: list[str], rows: Iterable[list[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def quoted(path: Path) -> str:
    from tellapart.stores import shown

    return shlex.quote(shown(path))
