"""Commands for pictures without labels: groups, features, and what is similar."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tellapart.cli.options import (
    Backbone,
    Data,
    Debug,
    DeviceName,
    Json,
    Quiet,
    Root,
    Verbose,
    Where,
    data_source,
    open_progress,
    print_json,
    quoted,
    say,
    table,
)
from tellapart.cli.sorting import How, carry_out, show_plan

if TYPE_CHECKING:
    from tellapart.data.catalog import SetAside
    from tellapart.pipeline import Answer, Grouped

# So many groups are named on the terminal; the page and --json have all.
SHOWN = 20

Network = Annotated[
    Path | None,
    typer.Option("--model", help="A classifier (.tellapart) whose network looks instead."),
]


class Kind(StrEnum):
    """The numbers that features are written as."""

    float32 = "float32"
    float16 = "float16"


def group(
    gallery: Annotated[Path, typer.Argument(help="A folder of pictures; none needs a label.")],
    groups: Annotated[
        int | None, typer.Option(min=1, help="How many groups; else as many as are well apart.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The page and tables; else FOLDER-groups.")
    ] = None,
    next_: Annotated[
        int | None, typer.Option("--next", min=0, help="How many to suggest for labels; else 24.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Plan where named groups go: each name gets a folder here.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --into: carry the plan out.")
    ] = False,
    how: Annotated[
        How | None, typer.Option(help="With --into: what happens to a picture; else move.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="The contact sheet of a plan; else INTO-plan.html here.")
    ] = None,
    backbone: Backbone = None,
    model: Network = None,
    device: DeviceName = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Group pictures without labels, to name the groups and sort by the names."""
    from tellapart.pipeline import grouping, naming

    progress = open_progress(quiet, verbose)
    if into is None:
        _refuse("for a plan: name a folder with --into", apply=apply, how=how, sheet=sheet)
        _refuse_both(backbone, model)
        found = grouping.group(
            gallery,
            out,
            n_groups=groups,
            n_next=grouping.N_NEXT if next_ is None else next_,
            backbone=backbone,
            model=model,
            device=device,
            progress=progress,
        )
        if as_json:
            print_json(found.as_dict())
        else:
            _show_groups(found, gallery, out)
        return
    _refuse(
        "for grouping, which was done before: leave --into away, or leave it out",
        groups=groups,
        next=next_,
        backbone=backbone,
        model=model,
    )
    if apply and sheet:
        raise typer.BadParameter("--sheet shows a plan: leave --apply away, or leave it out.")
    tables = grouping.tables_folder(gallery, out)
    plan = naming.plan_named(gallery, tables, into, (how or How.move).value, progress)
    if apply:
        carry_out(plan, into, as_json, progress)
    else:
        show_plan(plan, into, sheet, as_json)


def features(
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write: .parquet or .npz.")],
    root: Root = None,
    where: Where = None,
    kind: Annotated[Kind, typer.Option("--type", help="The numbers written.")] = Kind.float32,
    backbone: Backbone = None,
    model: Network = None,
    device: DeviceName = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write what a network makes of each picture into a table."""
    from tellapart.pipeline.features import write_features

    _refuse_both(backbone, model)
    found = write_features(
        data_source(data, root, where),
        out,
        backbone=backbone,
        model=model,
        kind=kind.value,
        device=device,
        progress=open_progress(quiet, verbose),
    )
    if as_json:
        print_json(found.as_dict())
        return
    say(f"{found.out}: {found.n} pictures, {found.n_features} features each ({found.backbone})")
    say(f"With a label: {found.n_labelled}. Computed now: {found.n_computed}, else kept before.")
    _tell_left(found.left)


def similar(
    pictures: Annotated[list[Path], typer.Argument(help="One picture or more.")],
    folder: Annotated[Path, typer.Argument(help="The folder to look through.")],
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="How many for each.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Write a page with the pictures, too.")] = None,
    backbone: Backbone = None,
    model: Network = None,
    device: DeviceName = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the pictures of a folder that are most like a given one."""
    from tellapart.pipeline.features import find_similar
    from tellapart.stores import shown

    _refuse_both(backbone, model)
    answers = find_similar(
        pictures,
        folder,
        top=top,
        page=out,
        backbone=backbone,
        model=model,
        device=device,
        progress=open_progress(quiet, verbose),
    )
    if as_json:
        page = shown(out) if out else None
        print_json({"page": page, "answers": [one.as_dict() for one in answers]})
        return
    for one in answers:
        _show_similar(one)
    if out:
        say(f"Page: {shown(out)}")


def _show_similar(answer: Answer) -> None:
    from tellapart.stores import shown

    say(shown(answer.picture))
    if answer.error:
        say(f"    not read: it {answer.error}")
    for one in answer.similar:
        say(f"    {one.similarity:5.2f}  {shown(one.path)}{'  (the same file)' * one.same_file}")


def _show_groups(found: Grouped, gallery: Path, out: Path | None) -> None:
    from tellapart.stores import is_address, place

    gallery = place(gallery)
    copies = found.n - found.n_different
    say(f"{found.n} pictures, {copies} of them copies, in {len(found.groups)} groups.")
    say()
    rows = []
    for one in found.groups[:SHOWN]:
        room = 80 - 7 - 10 - 2
        shown = one.example if len(one.example) <= room else "…" + one.example[1 - room :]
        rows.append([f"{one.number:>5}", f"{one.n:>8}", shown])
    table(["group", "pictures", "most typical"], rows)
    if len(found.groups) > SHOWN:
        say(f"and {len(found.groups) - SHOWN} more")
    say()
    if found.n_none:
        say(f"Unlike all groups: {found.n_none}")
    _tell_left(found.left)
    if found.n_folders > 1:
        say(f"They lie in {found.n_folders} folders, whose names were not used. If these are")
        say(f"their classes, learn from them: tellapart train {quoted(gallery)}")
    say(f"Look at {found.folder / 'groups.html'}")
    if not is_address(gallery):  # In a store, nothing is moved.
        say("and write names into groups.csv beside it, then:")
        again = f" --out {quoted(out)}" if out else ""
        say(f"    tellapart group {quoted(gallery)}{again} --into NEW_FOLDER")
    if found.next:
        say(f"Most worth a label: the {len(found.next)} pictures of next.csv, for")
        say(f"    tellapart train {quoted(found.folder / 'next.csv')} --root {quoted(gallery)}")


def _tell_left(left: Sequence[SetAside]) -> None:
    if left:
        from tellapart.stores import shown

        say(f"Left out: {len(left)}; the first, {shown(left[0].path)}")
        say(f"    {left[0].reason}")


def _refuse(why: str, **given: object) -> None:
    for name, value in given.items():
        if value:
            raise typer.BadParameter(f"--{name} is {why}.")


def _refuse_both(backbone: str | None, model: Path | None) -> None:
    if backbone and model:
        raise typer.BadParameter("--backbone and --model exclude each other: a model has its own.")
