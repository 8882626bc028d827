"""Commands that serve a classifier, and look after the records of its audits."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tellapart.cli.options import (
    Accept,
    Debug,
    Json,
    PrecisionName,
    chosen_precision,
    print_json,
    say,
    table,
)

if TYPE_CHECKING:
    from tellapart.server.running import Prepared
    from tellapart.server.settings import Settings

records = typer.Typer(name="records", invoke_without_command=True, rich_markup_mode=None)

Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where audits are recorded: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; "
        "better in the variable TELLAPART_DATABASE. By default a file in your data folder.",
    ),
]


def serve(
    models: Annotated[list[Path], typer.Argument(help="Classifiers: .tellapart files.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others need tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Lines NAME ROLE TOKEN, ROLE one of predict, review, admin; or the same lines in "
            "the variable TELLAPART_TOKENS.",
        ),
    ] = None,
    database: Database = None,
    thumbnails: Annotated[
        str, typer.Option(help="Of which audited pictures a small one is kept: none|doubtful|all.")
    ] = "none",
    allow_urls: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A host that pictures may be fetched from, or *.a.org, or * for all that are "
            "public; may be given several times. By default none.",
        ),
    ] = None,
    callbacks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="A host that may be told of audits; as --allow-urls. None."
        ),
    ] = None,
    callback_secret: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What callbacks are signed with; or the variable TELLAPART_CALLBACK_SECRET.",
        ),
    ] = None,
    picture_mb: Annotated[float, typer.Option(min=0.001, help="Largest picture.")] = 20,
    request_mb: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 100,
    megapixels: Annotated[float, typer.Option(min=0.001, help="Most pixels of a picture.")] = 50,
    pictures: Annotated[int, typer.Option(min=1, help="Most pictures in a request.")] = 64,
    waiting: Annotated[
        int, typer.Option(min=1, help="Pictures that may wait before others are sent away.")
    ] = 256,
    rate: Annotated[
        int, typer.Option(min=0, help="Requests a minute of one token or address; 0: any.")
    ] = 3000,
    upload_s: Annotated[float, typer.Option(min=0.1, help="Time to send a request.")] = 30,
    answer_s: Annotated[float, typer.Option(min=0.1, help="Time for all of a request.")] = 60,
    accept: Accept = None,
    precision: PrecisionName = "auto",
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Put pictures that a person decided about here, a folder a class, for `learn`. "
            "Until then the doubtful ones themselves are kept with the records.",
        ),
    ] = None,
    reviews_of: Annotated[
        str, typer.Option(help="Which audited pictures are kept for that: doubtful|all.")
    ] = "doubtful",
    reviews_mb: Annotated[
        float, typer.Option(min=0, help="Most of these, in MB; the oldest go first.")
    ] = 1000,
    reviews_days: Annotated[float, typer.Option(min=0, help="For how long they wait.")] = 30,
    builds: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Let admins build classifiers in the page; kept here."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer over HTTP: what is on pictures, and is it what their sender declares?"""
    if thumbnails not in ("none", "doubtful", "all"):
        raise typer.BadParameter(f"--thumbnails {thumbnails}: expected none, doubtful or all.")
    if reviews_of not in ("doubtful", "all"):
        raise typer.BadParameter(f"--reviews-of {reviews_of}: expected doubtful or all.")
    from tellapart.files import on_this_machine
    from tellapart.server.running import serve as run
    from tellapart.server.settings import Builds, Limits, Reviews, Settings
    from tellapart.server.tokens import read_secret, read_tokens

    if reviews:
        reviews = on_this_machine(reviews, "what people decide is kept", "name one with --reviews")
    if builds:
        builds = on_this_machine(builds, "what is built is kept", "name one with --builds")
    settings = Settings(
        models=tuple(models),
        database=database or default_database(),
        host=host,
        port=port,
        tokens=read_tokens(tokens),
        thumbnails=thumbnails,  # type: ignore[arg-type]  # checked above
        limits=Limits(
            picture_mb=picture_mb,
            request_mb=request_mb,
            megapixels=megapixels,
            pictures=pictures,
            waiting=waiting,
            rate_per_min=rate,
            upload_s=upload_s,
            answer_s=answer_s,
        ),
        allow_urls=tuple(allow_urls or ()),
        callbacks=tuple(callbacks or ()),
        callback_secret=read_secret(callback_secret),
        accept=accept,
        precision=chosen_precision(precision),
        reviews=Reviews(reviews, reviews_of, reviews_mb, reviews_days)  # type: ignore[arg-type]
        if reviews
        else None,
        builds=Builds(builds) if builds else None,
    )
    run(settings, lambda prepared: _tell(prepared, settings, as_json))


def _tell(prepared: Prepared, settings: Settings, as_json: bool) -> None:
    names = [model.name for model in prepared.service.models]
    if as_json:
        print_json({"url": prepared.url, "models": names, "tokens": len(settings.tokens)})
    else:
        asked = "with a token" if settings.tokens else "from this machine, without tokens"
        say(f"Serving {', '.join(names)} on {prepared.url} ({asked}). Ctrl-C ends it.")
    import sys

    sys.stdout.flush()


@records.callback()
def list_records(
    context: typer.Context,
    database: Database = None,
    n: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    verdict: Annotated[str | None, typer.Option(help="match, mismatch or unsure alone.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the newest audits that `serve` recorded; `records delete` deletes some."""
    if context.invoked_subcommand:
        return
    if verdict not in (None, "match", "mismatch", "unsure"):
        raise typer.BadParameter(f"--verdict {verdict}: expected match, mismatch or unsure.")
    from tellapart.server.records import open_records

    rows = open_records(database or default_database()).found(n=n, verdict=verdict)
    if as_json:
        print_json({"audits": [_plain(dict(row)) for row in rows]})
        return
    table(
        ["when (UTC)", "declared", "verdict", "seen", "decision", "picture"],
        [
            [
                f"{row['at']:%Y-%m-%d %H:%M:%S}",
                row["declared"],
                row["verdict"],
                row["label"] or "-",
                row["decision"] or "-",
                row["picture"],
            ]
            for row in rows
        ],
    )


@records.command("delete")
def delete_records(
    database: Database = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Audits of before that, such as 90d or 12h.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All audits of this very picture.")
    ] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also delete the pictures in this folder of `serve --reviews` that no audit is "
            "left of.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete records for good: those that are old, or those of one picture."""
    if (older_than is None) == (picture is None):
        raise typer.BadParameter("Say which records: --older-than AGE, or --picture FILE.")
    from tellapart.data.hashing import picture_hash
    from tellapart.server.records import open_records

    which: dict[str, Any] = {}
    if older_than is not None:
        which["before"] = _before(older_than)
    if picture is not None:
        try:
            which["picture"] = picture_hash(picture.read_bytes())
        except OSError as error:
            raise typer.BadParameter(f"--picture {picture}: {error.strerror}.") from error
    opened = open_records(database or default_database())
    files = _filed(opened.pictures(**which), reviews) if reviews else []
    n = opened.count(**which) if dry_run else opened.delete(**which)
    if not dry_run:
        for path in files:
            path.unlink(missing_ok=True)
    if as_json:
        filed = {"n_reviews": len(files)} if reviews else {}
        print_json({"n": n, "deleted": not dry_run, **filed})
        return
    also = f" and {len(files)} reviewed pictures" if reviews else ""
    say(f"{'Would delete' if dry_run else 'Deleted'} {n} records{also}.")


def _filed(pictures: set[str], reviews: Path) -> list[Path]:
    from tellapart.server.filing import filed

    return [path for picture in sorted(pictures) for path in filed(reviews.expanduser(), picture)]


def default_database() -> str:
    """Return $TELLAPART_DATABASE, or a file in this system's usual place."""
    set_by_user = os.environ.get("TELLAPART_DATABASE")
    if set_by_user:
        return set_by_user
    import platformdirs

    folder = platformdirs.user_data_path("tellapart", appauthor=False)
    return f"sqlite:///{folder / 'records.sqlite'}"


def _before(age: str) -> datetime:
    from datetime import UTC, timedelta

    factor = {"d": 86400.0, "h": 3600.0, "m": 60.0}.get(age[-1:])
    try:
        seconds = float(age[:-1]) * (factor or 0)
        if not (factor and seconds >= 0):
            raise ValueError
        return datetime.now(UTC) - timedelta(seconds=seconds)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"--older-than {age}: expected an age such as 90d, 12h or 30m."
        ) from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    from datetime import UTC

    return {
        name: value.replace(tzinfo=value.tzinfo or UTC).isoformat()
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }
