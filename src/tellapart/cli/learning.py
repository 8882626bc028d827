"""The command that makes the next classifier from corrections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tellapart.cli.options import (
    Debug,
    Json,
    Model,
    Quiet,
    Verbose,
    data_source,
    open_progress,
    print_json,
    quoted,
    say,
)

if TYPE_CHECKING:
    from tellapart.pipeline import Relearned


def learn(
    model: Model,
    reviews: Annotated[
        Path | None,
        typer.Option(
            "--from-reviews",
            metavar="DIR",
            help="Corrections: the folder of `serve --reviews`, or any labelled pictures that "
            "`train` reads.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The .tellapart file to write; by default MODEL itself, and what was there is "
            "kept as MODEL.previous.",
        ),
    ] = None,
    relabel: Annotated[
        bool,
        typer.Option(
            "--relabel", help="Believe corrections of pictures that taught under another label."
        ),
    ] = False,
    even_if_worse: Annotated[
        bool, typer.Option("--even-if-worse", help="Write it though it is not as good.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put MODEL.previous back; a second time, undo that.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Learn and compare, and write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Learn from corrections in seconds; switch only to what is not worse. Needs no torch."""
    if undo == (reviews is not None):
        raise typer.BadParameter("Say what to learn from: --from-reviews DIR; or --undo.")
    from tellapart.errors import NotBetter
    from tellapart.pipeline import learn_again, undo_learning

    if reviews is None:
        path = undo_learning(model)
        print_json({"bundle": str(path)}) if as_json else say(
            f"{path} is what it was before the last learning. --undo again takes that back."
        )
        return
    result = learn_again(
        model,
        data_source(reviews, None, None),
        output,
        relabel=relabel,
        even_if_worse=even_if_worse,
        dry_run=dry_run,
        progress=open_progress(quiet, verbose),
    )
    print_json(result.as_dict()) if as_json else _tell(result, dry_run)
    if not result.taken and result.n_corrections:
        raise NotBetter(
            f"{result.reason} Expected was a classifier that is not worse than {model}, which "
            f"stays as it is. Look at the corrections, add more of them, or take it all the same "
            f"with --even-if-worse."
        )


def _tell(result: Relearned, dry_run: bool) -> None:
    """Say how the new classifier compares, and where it lies."""
    from tellapart.pipeline import learning_in_words

    for one in result.left:
        say(f"Left out: {one.path} {one.reason}.")
    known = f"; {result.n_known} more taught or scored before" if result.n_known else ""
    say(f"{result.n_corrections} corrections{known}.")
    if result.new_classes:
        say(f"New classes: {', '.join(result.new_classes)}.")
    say(*learning_in_words(result.held_out, result.corrections), *result.notes)
    if result.taken or not result.n_corrections:
        say(result.reason)
    if result.written:
        say(f"It took {result.seconds['total']:.1f} s.\nClassifier: {result.bundle}")
        say(f"Report:     {result.report}")
    elif dry_run:
        say("Nothing was written.")
    if result.previous is not None:
        say(f"Back again: tellapart learn {quoted(result.bundle)} --undo")
