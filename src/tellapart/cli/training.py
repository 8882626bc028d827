"""Commands that make a classifier, or look at what one is made from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tellapart.cli.options import (
    Accept,
    Backbone,
    Data,
    Debug,
    DeviceName,
    Json,
    Quiet,
    RecipeName,
    Root,
    Settings,
    Verbose,
    Weights,
    Where,
    budget_seconds,
    chosen_settings,
    data_source,
    open_progress,
    print_json,
    quoted,
    say,
)

if TYPE_CHECKING:
    from tellapart.pipeline import TrainResult

QUALITIES = {"fast": "fast", "balanced": "auto", "best": "best"}


def train(
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The .tellapart file to write, with a report beside it; by default named as the "
            "data, in the current folder.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="One that `recipes` lists, or a .toml file; default auto.")
    ] = None,
    quality: Annotated[
        Literal["fast", "balanced", "best"] | None,
        typer.Option(help="Short for the recipes fast, auto and best."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time it may take, such as 90s, 2m or 1h.")
    ] = None,
    settings: Settings = None,
    backbone: Backbone = None,
    weights: Weights = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="auto (the default): by folders or content; none: learn from all, score "
            "nothing; exact: torch's random split; halve-test: a share of test chooses, the "
            "rest scores."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="For small sets: score by so many folds, learn from all pictures."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random; default 0.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A .tellapart file to go on from: more pictures, a new class, a longer recipe.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run for this output.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try data and network, and say what would be done.")
    ] = False,
    features: Annotated[
        bool, typer.Option(help="Keep the pictures' features in the file, for learning again.")
    ] = True,
    device: DeviceName = "auto",
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train with so many processes on this machine; see docs/ranks.md."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    accept: Accept = None,
    root: Root = None,
    where: Where = None,
) -> None:
    """Learn from a folder of labelled pictures; write a classifier and a report."""
    from tellapart.backbones.ranks import is_first
    from tellapart.pipeline import rehearse
    from tellapart.pipeline import train as learn

    if recipe and quality:
        raise typer.BadParameter("--recipe and --quality exclude each other.")
    name = QUALITIES[quality] if quality else recipe or "auto"
    chosen = chosen_settings(
        settings,
        {"backbone": backbone, "weights": weights, "data.split": split, "seed": seed}
        | {"accept": accept, "data.folds": folds}
        | {"budget_s": budget_seconds(budget) if budget else None}
        | {"data.keep_features": None if features else False},
    )
    progress = open_progress(quiet, verbose)
    labelled = data_source(data, root, where)
    if dry_run and resume:
        raise typer.BadParameter("--dry-run only tries things: leave --resume out.")
    if _in_processes(processes, dry_run):
        return
    if dry_run:
        tried = rehearse(
            labelled, output, name, chosen, device=device, start=start, progress=progress
        )
        print_json(tried.as_dict()) if as_json else say(tried.text())
        return
    result = learn(
        labelled,
        output,
        recipe=name,
        settings=chosen,
        device=device,
        start=start,
        resume=resume,
        progress=progress,
    )
    if not is_first():
        return
    print_json(result.as_dict()) if as_json else _tell(result)


def _in_processes(n: int | None, dry_run: bool) -> bool:
    """Start the processes that were asked for; tell whether they have done the work."""
    from tellapart.backbones.ranks import STARTED, in_ranks

    if (in_ranks() or (n or 1) > 1) and dry_run:
        raise typer.BadParameter("--dry-run tries things in one process: leave --processes out.")
    if in_ranks() and n is not None and STARTED not in os.environ:
        raise typer.BadParameter("--processes starts what torchrun has started: leave it out.")
    if in_ranks() or (n or 1) == 1:
        return False
    from tellapart.pipeline import start_processes

    code = start_processes(n or 1, sys.argv[1:])
    if code:
        raise typer.Exit(code)
    return True


def _tell(result: TrainResult) -> None:
    """Say how a training went."""
    for finding in result.findings:
        say(f"Note: {finding.headline}.")
    say(*result.summary)
    seconds = result.seconds
    say(
        f"It took {seconds['total']:.1f} s: features {seconds['features']:.1f} s "
        f"({result.n_computed} of {sum(result.counts.values())} pictures computed, the rest kept "
        f"from before), learning {seconds['fit']:.1f} s."
    )
    say(f"Classifier: {result.bundle}\nReport:     {result.report}")
    say(f"Try it:     tellapart predict {quoted(result.bundle)} PICTURE…")


def find_lr(
    data: Data,
    plot: Annotated[
        Path | None, typer.Option("-o", "--plot", help="The PNG to draw; by default NAME-lr.png.")
    ] = None,
    recipe: RecipeName = "auto",
    phase: Annotated[
        int | None, typer.Option(min=1, help="Which phase; by default the first that has a rate.")
    ] = None,
    first: Annotated[float, typer.Option("--start", help="The smallest rate.")] = 1e-7,
    last: Annotated[float, typer.Option("--end", help="The largest rate.")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="How many rates to try.")] = 100,
    settings: Settings = None,
    backbone: Backbone = None,
    weights: Weights = None,
    device: DeviceName = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    root: Root = None,
    where: Where = None,
) -> None:
    """Find a rate for a phase: raise it step by step, and look where the loss falls fastest."""
    from tellapart.pipeline import find_rate

    if not 0 < first < last:
        raise typer.BadParameter("--start must be above 0 and below --end.")
    found = find_rate(
        data_source(data, root, where),
        plot,
        recipe=recipe,
        settings=chosen_settings(settings, {"backbone": backbone, "weights": weights}),
        phase=phase,
        rates=(first, last, steps),
        device=device,
        progress=open_progress(quiet, verbose),
    )
    if as_json:
        print_json(found.as_dict())
        return
    say(f"Suggested rate of phase {found.phase}: {found.suggested:.2g}")
    say(f"Plot: {found.plot}")
    setting = f"phases.{found.phase}.lr={found.suggested:.2g}"
    say(f"Use it: tellapart train {quoted(data)} --set {setting}")


def show(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The HTML page to write.")
    ] = None,
    recipe: RecipeName = "auto",
    settings: Settings = None,
    backbone: Backbone = None,
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 12,
    views: Annotated[int, typer.Option(min=0, help="Random views of each, besides plain.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed shows other pictures and views.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
    root: Root = None,
    where: Where = None,
) -> None:
    """Write a sheet of pictures as they enter the network, plain and as random views."""
    from tellapart.pipeline import show as draw

    chosen = chosen_settings(settings, {"backbone": backbone})
    labelled = data_source(data, root, where)
    sheet = draw(
        labelled, output, recipe=recipe, settings=chosen, count=count, views=views, seed=seed
    )
    if as_json:
        print_json(sheet.as_dict())
        return
    say(f"Sheet of {sheet.n_pictures} pictures: {sheet.path}")


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to put the pictures.")] = Path("digits"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write 1797 handwritten digits as class folders, to try things on. Needs no network."""
    from tellapart.data.demo import write_digits

    n = write_digits(folder)
    if as_json:
        print_json({"folder": str(folder), "n": n})
        return
    say(f"{n} pictures of handwritten digits in {folder}")
    say(f"Next: tellapart train {quoted(folder)}")
