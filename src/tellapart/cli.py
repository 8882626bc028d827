"""The commands: strings in, one library call, words out. Heavy imports wait inside the commands."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from tellapart.errors import NoReadablePicture, TellapartError

if TYPE_CHECKING:
    from tellapart.inference.classifier import Prediction
    from tellapart.progress import Progress


class _Stopped(Exception):
    """Ctrl-C, in a shape that reaches `main`: typer would end the process without a word."""


class _NobodyReads(Exception):
    """A closed pipe, in a shape that reaches `main`: typer would call it a failure."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command, and leave it to `main` how an interrupted one ends."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Stopped from error
        except BrokenPipeError as error:
            raise _NobodyReads from error


app = typer.Typer(
    name="tellapart",
    cls=_Commands,
    help="Tell pictures apart: a folder of labelled pictures in, a classifier in one file out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _debug(value: bool) -> None:
    if value:
        os.environ["TELLAPART_DEBUG"] = "1"


Data = Annotated[
    Path, typer.Argument(help="Folder of class folders, or of train/valid/test folders with them.")
]
Model = Annotated[Path, typer.Argument(help="A classifier: a .tellapart file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more while working.")]
Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_debug, is_eager=True, help="Show the traceback of an error."),
]
BackboneName = Annotated[
    str, typer.Option(help="Which pretrained network looks at the pictures; see `backbones`.")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def train(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The .tellapart file to write.")
    ] = None,
    backbone: BackboneName = "tf_efficientnet_lite0",
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights for the backbone.")
    ] = None,
    split: Annotated[
        Literal["auto", "none"],
        typer.Option(help="auto: by folders or content; none: learn from all, score nothing."),
    ] = "auto",
    device: DeviceName = "auto",
    features: Annotated[
        bool, typer.Option(help="Keep the pictures' features in the file, for learning again.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Learn from a folder of labelled pictures; write a classifier and a report."""
    from tellapart.pipeline import train as learn

    result = learn(
        data,
        output,
        backbone=backbone,
        weights=weights,
        split=split,
        device=device,
        keep_features=features,
        progress=_progress(quiet, verbose),
    )
    if as_json:
        _print_json(result.as_dict())
        return
    for finding in result.findings:
        print(f"Note: {finding.headline}.")
    print(*result.summary, sep="\n")
    seconds = result.seconds
    print(
        f"It took {seconds['total']:.1f} s: features {seconds['features']:.1f} s "
        f"({result.n_computed} of {sum(result.counts.values())} pictures computed, the rest kept "
        f"from before), learning {seconds['fit']:.1f} s."
    )
    print(f"Classifier: {result.bundle}\nReport:     {result.report}")
    print(f"Try it:     tellapart predict {_quoted(result.bundle)} PICTURE…")


@app.command()
def predict(
    model: Model,
    pictures: Annotated[list[str], typer.Argument(help="Files, folders or glob patterns.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show a picture.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a picture, nothing else.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print path, label, confidence and error as CSV.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Say what is on pictures, with calibrated confidence."""
    from tellapart.inference.classifier import Classifier, expand

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    classifier = Classifier.load(model)
    paths = expand(pictures)
    if not paths:
        raise NoReadablePicture(
            f"There are no pictures below {', '.join(pictures)}. Expected files, folders that hold "
            f"pictures, or patterns that match some. Nothing was predicted. Check the path."
        )
    print_one = _json_line if as_json else _csv_writer() if as_csv else _text_lines
    failed = 0
    with _progress(quiet, verbose).bar("Predicting", len(paths), "pictures") as advance:
        for prediction in classifier.stream(paths, top):
            print_one(prediction)
            failed += prediction.error is not None
            advance(1)
    if failed == len(paths):
        raise NoReadablePicture(
            f"None of the {len(paths)} pictures could be read. Expected picture files, folders "
            f"or patterns; the reason for each stands beside it. Check the paths and the files."
        )


@app.command()
def evaluate(
    model: Model,
    data: Data,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score a classifier on labelled pictures; classes are matched by name."""
    from tellapart.inference.classifier import Classifier
    from tellapart.pipeline import evaluate as score

    result = score(Classifier.load(model), data, _progress(quiet, verbose))
    if as_json:
        _print_json(result.as_dict())
        return
    scores = result.scores
    reached = scores.accuracy
    if result.split:
        print(f"Scored on the {result.split} folder.")
    if result.unknown_classes:
        print(
            f"Not scored: {result.n_unknown} pictures of classes it does not know: "
            f"{', '.join(result.unknown_classes)}."
        )
    if result.n_unreadable:
        print(f"Set aside: {result.n_unreadable} files that are no readable pictures.")
    print(f"Pictures         {scores.n}")
    print(
        f"Accuracy         {reached.value:.4f}  (95 % interval {reached.low:.4f} to "
        f"{reached.high:.4f})"
    )
    for name in ("macro_precision", "macro_recall", "macro_f1", "log_loss"):
        print(f"{name.replace('_', ' ').capitalize():16} {getattr(scores, name):.4f}")


@app.command()
def backbones(as_json: Json = False, debug: Debug = False) -> None:
    """List the networks that can be used, and which of them work offline right now."""
    from tellapart.backbones.registry import BACKBONES, DEFAULT_BACKBONE
    from tellapart.backbones.weights import available_offline

    rows = [
        {
            "name": backbone.name,
            "default": backbone.name == DEFAULT_BACKBONE,
            "offline": available_offline(backbone),
            "licence": backbone.licence,
            "params_m": backbone.params_m,
            "size_px": backbone.preprocessing.size_px,
            "speed": backbone.speed,
        }
        for backbone in BACKBONES
    ]
    if as_json:
        _print_json({"backbones": rows})
        return
    _table(
        ["name", "offline", "licence", "weights", "input", "speed"],
        [
            [
                f"{row['name']} (default)" if row["default"] else str(row["name"]),
                f"yes: {row['offline']}" if row["offline"] else "no",
                str(row["licence"]),
                f"{row['params_m']} M",
                f"{row['size_px']} px",
                str(row["speed"]),
            ]
            for row in rows
        ],
    )


@app.command()
def cache(
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what was not used lately, down to --max-gb.")
    ] = False,
    max_gb: Annotated[float, typer.Option(min=0, help="How much --prune leaves.")] = 10.0,
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is kept between runs, and make room. Deleting only costs computing it again."""
    from tellapart.backbones import cache as kept

    deleted = kept.prune(0.0 if clear else max_gb) if prune or clear else []
    items = kept.kept_items()
    if as_json:
        _print_json(
            {
                "folder": str(kept.cache_folder()),
                "size_mb": round(sum(item.size_mb for item in items), 3),
                "deleted": [str(item.path) for item in deleted],
                "items": [
                    {"path": str(item.path), "kind": item.kind, "about": item.about}
                    | {"size_mb": round(item.size_mb, 3)}
                    for item in items
                ],
            }
        )
        return
    if deleted:
        print(f"Deleted {len(deleted)} entries, {sum(i.size_mb for i in deleted):.0f} MB.")
    print(f"{kept.cache_folder()}: {sum(item.size_mb for item in items):.0f} MB")
    if items:
        _table(
            ["kind", "MB", "what"],
            [[item.kind, f"{item.size_mb:.1f}", item.about] for item in items],
        )


@app.command()
def show(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The HTML page to write.")
    ] = None,
    backbone: BackboneName = "tf_efficientnet_lite0",
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 12,
    views: Annotated[int, typer.Option(min=0, help="Random views of each, besides plain.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed shows other pictures and views.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a sheet of pictures as they enter the network, plain and as random views."""
    from tellapart.pipeline import show as draw

    sheet = draw(data, output, backbone=backbone, count=count, views=views, seed=seed)
    if as_json:
        _print_json(sheet.as_dict())
        return
    print(f"Sheet of {sheet.n_pictures} pictures: {sheet.path}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the pictures.")] = Path("digits"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write 1797 handwritten digits as class folders, to try things on. Needs no network."""
    from tellapart.data.demo import write_digits

    n = write_digits(folder)
    if as_json:
        _print_json({"folder": str(folder), "n": n})
        return
    print(f"{n} pictures of handwritten digits in {folder}")
    print(f"Next: tellapart train {_quoted(folder)}")


def main() -> None:
    """Run the command line; errors become one paragraph and an exit code of their own."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding cannot say must not end a run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app(standalone_mode=True)
        finally:
            # Now rather than at exit, where nothing can be done about a closed pipe.
            sys.stdout.flush()
    except TellapartError as error:
        _stop(str(error), error.exit_code)
    except (_Stopped, KeyboardInterrupt):
        _stop(
            "Stopped. Nothing half-written was left behind, and what was computed is kept: "
            "the same command goes on from there.",
            130,
        )
    except (_NobodyReads, BrokenPipeError):
        # The reader has had enough (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("TELLAPART_DEBUG"):
            raise
        _stop(
            f"Something went wrong that nobody foresaw: {type(error).__name__}: {error}. "
            f"Run the same command with --debug and report what it prints.",
            1,
        )


def _stop(message: str, code: int) -> None:
    if os.environ.get("TELLAPART_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"tellapart: {message}", file=sys.stderr)
    sys.exit(code)


def _progress(quiet: bool, verbose: bool) -> Progress:
    from tellapart.progress import Progress

    return Progress("quiet" if quiet else "verbose" if verbose else "normal")


def _print_json(value: dict[str, Any]) -> None:
    # ASCII alone: right in every encoding, and the only way to say a name that is no UTF-8.
    print(json.dumps(value))


def _json_line(prediction: Prediction) -> None:
    _print_json(prediction.as_dict())


def _csv_writer() -> Callable[[Prediction], None]:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "confidence", "error"])

    def write(prediction: Prediction) -> None:
        confidence = "" if prediction.confidence is None else f"{prediction.confidence:.6f}"
        writer.writerow([prediction.path, prediction.label, confidence, prediction.error])

    return write


def _text_lines(prediction: Prediction) -> None:
    if prediction.error:
        print(f"{prediction.path}\n    not read: it {prediction.error}")
        return
    print(prediction.path)
    for label, confidence in prediction.top:
        print(f"    {confidence:6.1%}  {label}")


def _table(header: list[str], rows: Iterable[list[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
