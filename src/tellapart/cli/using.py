"""Commands that use a classifier."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tellapart.cli.options import (
    Accept,
    Data,
    Debug,
    Json,
    Model,
    PrecisionName,
    Quiet,
    Root,
    Verbose,
    Where,
    chosen_minimums,
    chosen_precision,
    data_source,
    open_progress,
    print_json,
    say,
)
from tellapart.errors import NoReadablePicture, listed

if TYPE_CHECKING:
    from tellapart.inference.batch import Engine
    from tellapart.inference.classifier import Classifier, Prediction
    from tellapart.inference.inputs import Inputs
    from tellapart.pipeline import Evaluation
    from tellapart.progress import Progress

# Classes that are shown where nothing else is asked for.
TOP = 5


def predict(
    model: Model,
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, glob patterns, tables (.csv, .tsv, .parquet) that name files, "
            "or - for a list on standard input."
        ),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="How many classes to show a picture; default 5.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a picture, nothing else.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print path, label, confidence, error and unsure as CSV.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to this .csv or .jsonl file, or folder of Parquet parts."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out: skip what it holds already.")
    ] = False,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Answer what is read first; wait for no slow file.")
    ] = False,
    column: Annotated[
        str | None, typer.Option(help="The tables' column of paths, if its name does not tell.")
    ] = None,
    accept: Accept = None,
    show: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also draw each picture and its most probable classes, as PNG."
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also draw what in each picture speaks for its answer."),
    ] = None,
    precision: PrecisionName = "auto",
    engine: Annotated[
        str, typer.Option(help="Who computes: local, or ray: the workers of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The cluster of --engine ray; else what RAY_ADDRESS says, else this machine.",
        ),
    ] = None,
) -> None:
    """Say what is on pictures, with calibrated confidence."""
    from tellapart.data.catalog import tell_not_entered
    from tellapart.inference.classifier import Classifier
    from tellapart.inference.inputs import Inputs

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    if as_csv and out:
        raise typer.BadParameter("--csv and --out exclude each other: name --out something.csv.")
    if top and (as_csv or (out and out.suffix.lower() == ".csv")):
        raise typer.BadParameter("CSV has one class a picture: leave --top out, or take JSON.")
    if resume and not out:
        raise typer.BadParameter("--resume goes on with an output: name it with --out.")
    if out and (show or explain):
        raise typer.BadParameter("--show and --explain draw what is printed: leave --out away.")
    _check_engine(engine, address)
    classifier = Classifier.load(model, chosen_precision(precision), accept)
    inputs = Inputs(pictures, column)
    progress = open_progress(quiet, verbose)
    with _opened(classifier, engine, model, precision, accept, address) as answering:
        if out:
            n, failed = _predict_into(
                classifier,
                answering,
                inputs,
                out,
                resume,
                top or TOP,
                not unordered,
                as_json,
                progress,
            )
        else:
            draw = _drawer(classifier, pictures, show, explain)
            print_one = _json_line if as_json else _csv_writer() if as_csv else _text_lines
            total = inputs.count() if progress.shows_bars else None
            answers = answering.stream(inputs, top or TOP, not unordered)
            n, failed = _print_all(answers, print_one, draw, total, progress)
    tell_not_entered(inputs.set_aside, progress)
    _check_any(n, failed, pictures)


def _check_any(n: int, failed: int, pictures: list[str]) -> None:
    if not n:
        raise NoReadablePicture(
            f"There are no pictures below {', '.join(pictures)}. Expected files, folders that hold "
            f"pictures, or patterns that match some. Nothing was predicted. Check the path."
        )
    if failed == n:
        raise NoReadablePicture(
            f"None of the {n} pictures could be read. Expected picture files, folders "
            f"or patterns; the reason for each stands beside it. Check the paths and the files."
        )


def _check_engine(engine: str, address: str | None) -> None:
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine {engine}: expected local or ray.")
    if address and engine != "ray":
        raise typer.BadParameter("--address names a Ray cluster: add --engine ray.")


def _print_all(
    answers: Iterable[Prediction],
    print_one: Callable[[Prediction], None],
    draw: Callable[[Prediction], object],
    total: int | None,
    progress: Progress,
) -> tuple[int, int]:
    """Print each answer, and draw it where that was asked for; return answers and errors."""
    n = failed = 0
    with progress.bar("Predicting", total, "pictures") as advance:
        for prediction in answers:
            print_one(prediction)
            draw(prediction)
            n += 1
            failed += prediction.error is not None
            advance(1)
    return n, failed


def _opened(
    classifier: Classifier,
    engine: str,
    model: Path,
    precision: str,
    accept: float | None,
    address: str | None,
) -> AbstractContextManager[Engine]:
    """Open what computes: the classifier itself, or workers that hold it, too."""
    if engine == "local":
        return nullcontext(classifier)
    from tellapart.inference.cluster import open_cluster

    return open_cluster(model, chosen_precision(precision), accept, address=address)


def _predict_into(
    classifier: Classifier,
    answering: Engine,
    inputs: Inputs,
    out: Path,
    resume: bool,
    top: int,
    ordered: bool,
    as_json: bool,
    progress: Progress,
) -> tuple[int, int]:
    """Predict into a file or folder and tell what was done; return answers and errors."""
    from tellapart.inference.batch import Tally, predict_into
    from tellapart.inference.outputs import open_output
    from tellapart.stores import is_address, place

    output = open_output(out, classifier.classes, resume)
    total = inputs.count() if progress.shows_bars else None
    tally = Tally()
    try:
        predict_into(
            answering,
            inputs,
            output,
            top=top,
            ordered=ordered,
            total=total,
            progress=progress,
            tally=tally,
        )
    except KeyboardInterrupt:
        n = tally.n + tally.n_held + len(output.held)
        if is_address(out) and out.suffix:
            progress.say(
                f"Nothing was written to {place(out)}: a file in a store appears when it is "
                f"whole. A folder (no suffix) gets whole parts as the run goes on."
            )
        else:
            progress.say(f"{place(out)} holds {n} whole answers; --resume adds the rest.")
        raise
    if as_json:
        print_json({"out": str(place(out))} | tally.as_dict())
    else:
        known = f", {tally.n_held} were there" if tally.n_held else ""
        bad = f", {tally.n_unreadable} of them not readable" if tally.n_unreadable else ""
        say(f"{place(out)}: {tally.n} answers{bad}{known} ({tally.pictures_per_s:,.0f} pictures/s)")
    return tally.n + tally.n_held, tally.n_unreadable


def evaluate(
    model: Model,
    data: Data,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    accept: Accept = None,
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            help="A score to reach, such as accuracy=0.95 or recall[cat]=0.9: below it, this "
            "ends with exit code 70. May be given several times.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a report: one HTML page, to look closer."),
    ] = None,
    root: Root = None,
    where: Where = None,
) -> None:
    """Score a classifier on labelled pictures; classes are matched by name."""
    from tellapart.inference.classifier import Classifier
    from tellapart.pipeline import check_minimums
    from tellapart.pipeline import evaluate as score

    minimums = chosen_minimums(least)
    classifier = Classifier.load(model, accept=accept)
    labelled = data_source(data, root, where)
    result = score(classifier, labelled, open_progress(quiet, verbose), report)
    print_json(result.as_dict()) if as_json else _tell_scores(result)
    check_minimums(result, minimums)


def _tell_scores(result: Evaluation) -> None:
    """Say how a classifier did."""
    scores = result.scores
    reached = scores.accuracy
    if result.split:
        say(f"Scored on the {result.split} folder.")
    if result.unknown_classes:
        say(
            f"Not scored: {result.n_unknown} pictures of classes it does not know: "
            f"{', '.join(result.unknown_classes)}."
        )
    if result.n_unreadable:
        say(f"Set aside: {result.n_unreadable} files that are no readable pictures.")
    say(f"Pictures         {scores.n}")
    say(_line("Accuracy", reached.value, reached.low, reached.high))
    if scores.top5:
        say(_line("Top 5", scores.top5.value, scores.top5.low, scores.top5.high))
    for name in ("macro_precision", "macro_recall", "macro_f1", "log_loss"):
        label = name.replace("_", " ").capitalize()
        say(_line(label, getattr(scores, name), *scores.intervals[name]))
    for label, found in (
        ("Weighted f1", scores.weighted_f1),
        ("Brier score", scores.brier),
        ("Calibration err.", scores.ece),
        ("AUROC", scores.auroc),
    ):
        if found:
            say(_line(label, found.value, found.low, found.high))
    answered, sets = result.answered, result.candidates
    say(f"Answered         {answered.share:.4f}  (wanted {answered.accept:g} of them right)")
    if answered.accuracy is not None and answered.low is not None and answered.high is not None:
        say(_line("… of them right", answered.accuracy, answered.low, answered.high))
    say(_line("In candidates", sets.coverage, sets.low, sets.high))
    say(f"Candidates each  {sets.mean_size:.2f}")


def _line(label: str, value: float, low: float, high: float) -> str:
    return f"{label:16} {value:.4f}  (95 % interval {low:.4f} to {high:.4f})"


def _drawer(
    classifier: Classifier, pictures: list[str], show: Path | None, explain: Path | None
) -> Callable[[Prediction], object]:
    if show is None and explain is None:
        return lambda _: None
    from tellapart.pipeline.illustrating import open_illustrator, unwritable_names

    illustrator = open_illustrator(classifier, pictures, show, explain)
    if warning := unwritable_names(classifier):
        say(warning, error=True)
    return illustrator.draw


def _json_line(prediction: Prediction) -> None:
    # The path as it was given, with all of its query: by it an answer is known.
    print(json.dumps(prediction.as_dict()))  # noqa: T201


def _csv_writer() -> Callable[[Prediction], None]:
    from tellapart.inference.outputs import CSV_COLUMNS, csv_cells, csv_line

    header = csv_line(CSV_COLUMNS)

    def write(prediction: Prediction) -> None:
        nonlocal header
        sys.stdout.write(header + csv_line(csv_cells(prediction)))
        header = ""

    return write


def _text_lines(prediction: Prediction) -> None:
    from tellapart.evaluation.decision import STRANGE
    from tellapart.stores import shown

    if prediction.error:
        say(f"{shown(prediction.path)}\n    not read: it {prediction.error}")
        return
    say(shown(prediction.path))
    for label, confidence in prediction.top:
        say(f"    {confidence:6.1%}  {prediction.shown(label)}")
    if prediction.unsure:
        say(f"    unsure: {prediction.reason}")
        if prediction.reason != STRANGE:
            say(f"    it may be: {listed(tuple(map(prediction.shown, prediction.candidates)))}")
