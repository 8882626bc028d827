"""The command that looks for what is wrong with labelled pictures."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tellapart.cli.options import (
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

if TYPE_CHECKING:
    from tellapart.pipeline.cleaning import Cleaned
    from tellapart.pipeline.inspecting import Inspection
    from tellapart.pipeline.one_picture import OnePicture

# Classes listed in the terminal, and examples of a finding.
CLASSES, EXAMPLES = 20, 3


def inspect(
    data: Annotated[
        Path,
        typer.Argument(help="Labelled pictures, as `train` takes them; or one picture file."),
    ],
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page with the pictures, to look closer."),
    ] = None,
    write_clean: Annotated[
        Path | None,
        typer.Option(
            metavar="LIST.csv",
            help="Write a table of the pictures to use, for `train`. The pictures stay as they "
            "are.",
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Findings whose pictures --write-clean leaves out, too, such as "
            "wrong_label,blank.",
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Findings that end this with exit code 90, such as leakage,conflict.",
        ),
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features/--no-features",
            help="Without them it is quick, and outliers and wrong labels are not looked for.",
        ),
    ] = True,
    backbone: Annotated[
        str | None,
        typer.Option(help="Whose features say what is alike; by default the one `train` takes."),
    ] = None,
    device: DeviceName = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    root: Root = None,
    where: Where = None,
) -> None:
    """Look for what is wrong with labelled pictures, and say what to do. Changes nothing."""
    from tellapart import pipeline
    from tellapart.pipeline import cleaning, one_picture
    from tellapart.pipeline.diagnosis import write_page
    from tellapart.stores import shown

    wanted, left_out = _kinds(fail_on), _kinds(drop)
    pipeline.check_kinds(wanted, "--fail-on")
    cleaning.check_drop(left_out)
    if drop and write_clean is None:
        raise typer.BadParameter("--drop says what --write-clean leaves out: give that, too.")
    for target in filter(None, (report, write_clean)):
        cleaning.check_target(target)
    if one_picture.is_picture(data):
        _refuse_for_one(write_clean, fail_on)
        picture = one_picture.look_closer(data, report)
        print_json(picture.as_dict()) if as_json else _tell_one(picture, report)
        return
    progress = open_progress(quiet, verbose)
    found = pipeline.inspect(
        data_source(data, root, where),
        backbone=backbone,
        features=features,
        device=device,
        progress=progress,
    )
    cleaned = cleaning.write_clean(found, write_clean, left_out) if write_clean else None
    if report:
        write_page(found, report, cleaned)
    if as_json:
        clean = {} if cleaned is None else {"clean": cleaned.as_dict()}
        print_json(found.as_dict() | clean)
    else:
        _tell(found)
        if cleaned:
            _tell_cleaned(cleaned)
        say(f"Page: {shown(report)}" if report else "See the pictures: add --report PAGE.html")
    pipeline.check_findings(found, wanted)


def _kinds(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _refuse_for_one(write_clean: Path | None, fail_on: str | None) -> None:
    if write_clean or fail_on:
        raise typer.BadParameter(
            "--write-clean and --fail-on are about a set of pictures, and one picture was given."
        )


def _tell(found: Inspection) -> None:
    """Say what the pictures are and what is wrong with them."""
    paragraph(found.understood)
    say()
    _tell_counts(found)
    facts = found.facts()
    if facts:
        say()
        for line in in_words(facts):
            paragraph(line, "                ")
    say()
    if not found.findings:
        say("Nothing was found that is wrong with them.")
    for number, one in enumerate(found.findings):
        if number:
            say()
        paragraph(f"{one.kind}: {one.headline}", "    ")
        for line in found.lines(one, EXAMPLES):
            paragraph(f"  - {line}", "    ")
        more = max(len(one.rows), one.count if one.detail and not one.rows else 0) - EXAMPLES
        if more > 0:
            say(f"  … and {more} more")
        paragraph(f"  → {one.advice}", "    ")
    if found.findings:
        say()
    for note in found.notes:
        paragraph(f"Note: {note}")


def _tell_counts(found: Inspection) -> None:
    counts, names = found.catalog.counts(), found.catalog.shown
    splits = list(counts)
    totals = [sum(one) for one in zip(*counts.values(), strict=True)]
    order = range(len(names))
    if len(names) > CLASSES:
        rising = sorted(order, key=lambda label: totals[label])
        half = CLASSES // 2
        order = [*rising[:half], *rising[-half:]]  # type: ignore[assignment]
        say(f"The {half} smallest and the {half} largest of {len(names)} classes")
    rows = [[names[label][:40], *(str(counts[one][label]) for one in splits)] for label in order]
    rows.append(["all", *(str(sum(counts[one])) for one in splits)])
    table(["class", *(one or "pictures" for one in splits)], rows)


def in_words(facts: dict[str, Any]) -> Iterable[str]:
    """Say sizes, formats, light and colour, a line each."""
    width, height, size = facts["width_px"], facts["height_px"], facts["size_kb"]
    yield (
        f"Sizes           {width['min']:.0f} to {width['max']:.0f} px wide (half below "
        f"{width['median']:.0f}), {height['min']:.0f} to {height['max']:.0f} px high (half below "
        f"{height['median']:.0f}); {size['median']:.0f} kB"
    )
    formats = (f"{name} {count}" for name, count in facts["formats"].items())
    yield f"Formats         {', '.join(formats)}"
    light = facts["light"]
    yield (
        f"Brightness      {light['min']:.2f} to {light['max']:.2f} of 1, half below "
        f"{light['median']:.2f}"
    )
    for name, word in (("mean", "Mean (R, G, B)"), ("std", "Std  (R, G, B)")):
        yield f"{word:15} {', '.join(f'{value:.3f}' for value in facts[name])}"


def _tell_cleaned(cleaned: Cleaned) -> None:
    paragraph(f"{quoted(cleaned.path)}: {cleaned.n} of {cleaned.n_all} pictures, to train on with")
    say(f"    tellapart train {quoted(cleaned.path)}")
    for reason, count in cleaned.counts().items():
        paragraph(f"  left out {count:6}  {reason}", "                    ")
    if cleaned.n_marked:
        paragraph(f"  marked   {cleaned.n_marked:6}  label probably wrong (column suspect)")
    if cleaned.n_grouped:
        paragraph(f"  grouped  {cleaned.n_grouped:6}  nearly the same (column group)")
    if cleaned.left_out:
        paragraph(f"Each of these with its reason: {quoted(cleaned.reasons_path)}")


def _tell_one(picture: OnePicture, report: Path | None) -> None:
    from tellapart.stores import shown

    for name, value in picture.facts.items():
        paragraph(f"{name:18} {value}", " " * 19)
    if picture.exif:
        say("\nEXIF")
        for name, value in picture.exif.items():
            paragraph(f"{name[:26]:26} {value}", " " * 27)
    say()
    for note in picture.notes:
        paragraph(note)
    hint = "See its red, green and blue: add --report PAGE.html"
    say(f"Page: {shown(report)}" if report else hint)


def paragraph(text: str, indent: str = "") -> None:
    """Print a paragraph within the terminal's width; names are not cut."""
    width = min(shutil.get_terminal_size().columns, 100)
    say(
        textwrap.fill(
            text,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    )
