"""The command that collects pictures from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tellapart.cli.options import (
    Debug,
    Json,
    Quiet,
    Root,
    Verbose,
    Where,
    data_source,
    open_progress,
    print_json,
    say,
)

# What Openverse gives for one search without an account.
MOST = 240


def collect(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[LIST] INTO",
            help="A table (.csv, .tsv, .parquet) or text of URLs and labels, unless --search is "
            "given; and the folder in which each class gets one.",
        ),
    ],
    words: Annotated[
        str | None,
        typer.Option("--search", metavar="WORDS", help="Ask Openverse for pictures of this."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="The class of what --search finds.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="How many pictures of this search there are to be; 100."
        ),
    ] = None,
    licences: Annotated[
        str,
        typer.Option(
            "--licence",
            metavar="NAMES",
            help="Search only for these, such as cc0,by. Any open one by default.",
        ),
    ] = "",
    root: Root = None,
    where: Where = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Also ask addresses of this machine and private networks."
        ),
    ] = False,
    contact: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Tell servers whom to write to, as some ask: a mail or web address.",
        ),
    ] = "",
    pause_s: Annotated[
        float,
        typer.Option("--pause", min=0, help="Seconds between two requests to one host."),
    ] = 0.2,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Refuse larger files.")] = 50.0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Fetch pictures from a list of URLs, or from Openverse, into class folders.

    What lies there already is not fetched again: repeat the command to go on. Where each picture
    is from, its author and licence stand in INTO/collected.csv.
    """
    from tellapart.data.fetching import Fetcher, Limits
    from tellapart.pipeline import collecting

    if len(places) != (2 if words is None else 1):
        raise typer.BadParameter("expected LIST INTO, or INTO with --search WORDS.")
    progress = open_progress(quiet, verbose)
    private = True if allow_private else None
    fetcher = Fetcher(Limits(pause_s=pause_s, size_mb=max_mb), private, contact)
    if words is None:
        if label or licences or count:
            raise typer.BadParameter("--class, --count and --licence go with --search.")
        source = data_source(places[0], root, where)
        done = collecting.collect(source, places[1], fetcher=fetcher, progress=progress)
    else:
        if not label or not words.strip():
            raise typer.BadParameter("--search needs words, and --class to say what they show.")
        if root or where:
            raise typer.BadParameter("--root and --data go with a list, not with --search.")
        done = collecting.collect_search(
            words.strip(),
            label,
            count or 100,
            places[0],
            licences=licences,
            fetcher=fetcher,
            searcher=Fetcher(collecting.SEARCHING, private, contact),
            progress=progress,
        )
    print_json(done.as_dict()) if as_json else say(collecting.summary(done))
    collecting.check_collected(done)
