"""Commands that sort a gallery, and that take it back."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tellapart.cli.options import (
    Accept,
    Debug,
    Json,
    Model,
    Quiet,
    Verbose,
    open_progress,
    print_json,
    quoted,
    say,
    table,
)
from tellapart.errors import NotAllMoved

if TYPE_CHECKING:
    from tellapart.data.catalog import SetAside
    from tellapart.inference.sorting import Plan
    from tellapart.progress import Progress

# So many of the files that stay are named one by one; --json names all.
NAMED = 10


class How(StrEnum):
    """What happens to a picture."""

    move = "move"
    copy = "copy"
    hardlink = "hardlink"
    symlink = "symlink"


def sort(
    model: Model,
    gallery: Annotated[Path, typer.Argument(help="The folder of pictures to sort.")],
    into: Annotated[Path, typer.Option(help="The folder in which each class gets one.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Carry the plan out; without it nothing is touched.")
    ] = False,
    how: Annotated[How, typer.Option(help="What happens to a picture.")] = How.move,
    by: Annotated[
        str, typer.Option(help="Folders: class, and year, month, year-month, year-month-day.")
    ] = "class",
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Below this a picture is unsure, whatever else is."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="The contact sheet of a plan; else INTO-plan.html here.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    accept: Accept = None,
) -> None:
    """Sort a gallery into a folder a class: a plan first, and it can be undone."""
    from tellapart.inference.classifier import Classifier
    from tellapart.pipeline import plan_sorting

    if apply and sheet:
        raise typer.BadParameter("--sheet shows a plan: leave --apply away, or leave it out.")
    progress = open_progress(quiet, verbose)
    plan = plan_sorting(
        Classifier.load(model, accept=accept),
        gallery,
        into,
        how=how.value,
        layout=by,
        min_confidence=min_confidence,
        progress=progress,
    )
    if apply:
        carry_out(plan, into, as_json, progress)
    else:
        show_plan(plan, into, sheet, as_json)


def undo(
    into: Annotated[Path, typer.Argument(help="The folder that was sorted into.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Take the last sort into a folder back: files, folders and times as they were."""
    from tellapart.inference.moving import undo as take_back
    from tellapart.stores import place

    outcome = take_back(place(into), open_progress(quiet, verbose))
    if as_json:
        print_json(outcome.as_dict())
    else:
        say(f"Undone: {outcome.n_done} files are as they were.")
        _show_left(outcome.left)
        if outcome.n_earlier:
            say(f"Earlier sorts into {into}: {outcome.n_earlier}. Undo again for the one before.")
    _complain(outcome.left, f"{len(outcome.left)} files were left as they are in {into}")


def show_plan(plan: Plan, into: Path, sheet: Path | None, as_json: bool) -> None:
    """Print a plan and write its contact sheet; nothing of the gallery is touched."""
    from tellapart.pipeline import write_contact_sheet

    sheet = sheet or Path(f"{into.absolute().name}-plan.html")
    write_contact_sheet(plan, sheet)
    if as_json:
        print_json(plan.as_dict() | {"sheet": str(sheet), "applied": False})
    else:
        _print_plan(plan, sheet)


def carry_out(plan: Plan, into: Path, as_json: bool, progress: Progress) -> None:
    """Carry a plan out, print what was done, and how to take it back."""
    from tellapart.inference.moving import Outcome, apply

    outcome = Outcome()
    try:
        apply(plan, progress, outcome)
    except KeyboardInterrupt:
        progress.say(f"{outcome.n_done} files were sorted: tellapart undo {quoted(into)}")
        raise
    facts = plan.as_dict()
    if as_json:
        facts["left"] += outcome.as_dict()["left"]
        print_json(facts | {"applied": True, "n_done": outcome.n_done})
    else:
        say(f"Done: {outcome.n_done} files into {into}.", *plan.notes)
        _show_left([*plan.left, *outcome.left])
        say(f"To take it back: tellapart undo {quoted(into)}")
    _complain(outcome.left, f"{len(outcome.left)} of {len(plan.steps)} files could not be sorted")


def _print_plan(plan: Plan, sheet: Path) -> None:
    say(f"A plan: {plan.how} {plan.n_pictures} pictures of {plan.gallery}")
    say(f"into {plan.into}. Nothing was touched.")
    say()
    rows = []
    for name, steps in plan.groups().items():
        pictures = [step.verdict.confidence or 0 for step in steps if step.verdict]
        renamed = sum(step.renamed for step in steps if step.verdict)
        rows.append(
            [
                name if len(name) <= 36 else name[:35] + "…",
                f"{len(pictures):>8}",
                f"{len(steps) - len(pictures):>8}",
                f"{renamed:>8}",
                f"{min(pictures, default=0):>10.0%}",
            ]
        )
    header = ["folder", "pictures", "sidecars", " renamed", "least sure"]
    n_columns = len(header) if plan.judged else len(header) - 1
    table(header[:n_columns], [row[:n_columns] for row in rows])
    say()
    for note in plan.notes:
        say(note)
    _show_left(plan.left)
    say(f"Contact sheet: {sheet}")
    if plan.steps:
        say("To carry it out, give the same command with --apply.")
        say(f"To take it back then: tellapart undo {quoted(plan.into)}")


def _show_left(left: Sequence[SetAside]) -> None:
    if left:
        say(f"Left where they are: {len(left)}")
    for one in left[:NAMED]:
        say(f"    {one.path}\n        {one.reason}")
    if len(left) > NAMED:
        say(f"    and {len(left) - NAMED} more; --json names all")


def _complain(left: Sequence[SetAside], what: str) -> None:
    if left:
        raise NotAllMoved(
            f"{what}: the first, {left[0].path}, {left[0].reason}. Expected files as they were "
            f"planned or sorted. All others are done; nothing was overwritten. See to the reasons, "
            f"and give the same command again."
        )
