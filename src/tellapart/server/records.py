"""What was audited, in a database that outlives the server. What is acknowledged is committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from tellapart.errors import BadDatabase, MissingExtra

metadata = MetaData()

# The layout as of the newest file in migrations/versions: change both, a test compares them.
audits = Table(
    "audits",
    metadata,
    Column("id", String(36), primary_key=True),
    # Pictures of one form share it.
    Column("form", String(36), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("asked_by", String(100)),
    # BLAKE2b of the file, as `train` knows pictures.
    Column("picture", String(32), nullable=False),
    Column("file_name", String(255)),
    Column("thumbnail", LargeBinary),
    Column("model", String(255), nullable=False),
    Column("model_version", String(16), nullable=False),
    Column("declared", String(255), nullable=False),
    Column("verdict", String(8), nullable=False),
    Column("reason", String(1000), nullable=False),
    Column("label", String(255)),
    Column("confidence", Float),
    Column("candidates", JSON, nullable=False),
    # What a person said: the right class (null: none of them), who, when (null: nothing yet).
    Column("decision", String(255)),
    Column("decided_by", String(100)),
    Column("decided_at", DateTime(timezone=True)),
    Index("audits_at", "at"),
    Index("audits_picture", "picture"),
)

# Who is to be told of a form of audits, until it has arrived. next_at: null where it is given up.
callbacks = Table(
    "callbacks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("form", String(36), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("url", String(2000), nullable=False),
    Column("body", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", DateTime(timezone=True)),
    Column("error", String(500)),
    Index("callbacks_next_at", "next_at"),
    Index("callbacks_form", "form"),
)

# Word for word as in the index's own condition, or SQLite does not use the index.
DOUBTFUL = audits.c.verdict != literal_column("'match'")
OPEN = and_(audits.c.decided_at.is_(None), DOUBTFUL)
Index("audits_open", audits.c.at, audits.c.id, sqlite_where=OPEN, postgresql_where=OPEN)
Index("audits_verdict", audits.c.verdict)

# Files of audited pictures that wait for a decision, where the server keeps them: each once.
originals = Table(
    "originals",
    metadata,
    Column("picture", String(32), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("size", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("originals_at", "at"),
)

_WITHOUT_PICTURE = [
    *(column for column in audits.c if column.name != "thumbnail"),
    or_(
        audits.c.thumbnail.is_not(None),
        exists().where(originals.c.picture == audits.c.picture),
    ).label("thumbnail"),
]


class Records:
    """The records in one database. Threads may share it; each call is one transaction.

    Raises (any method):
        BadDatabase: the database does not answer; nothing of the call was done.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, rows: Sequence[dict[str, Any]], messages: Sequence[dict[str, Any]] = ()) -> None:
        """Store audits and who is to be told of them, all or none.

        When this returns, a crash cannot lose them.
        """
        with self._begun() as connection:
            connection.execute(insert(audits), list(rows))
            if messages:
                connection.execute(insert(callbacks), list(messages))

    def callbacks_due(self, now: datetime, n: int) -> Sequence[RowMapping]:
        """Return n of those who are to be told by now, who has waited longest first."""
        due = select(callbacks).where(callbacks.c.next_at <= now)
        with self._begun() as connection:
            chosen = due.order_by(callbacks.c.next_at).limit(n)
            return connection.execute(chosen).mappings().all()

    def callback_done(self, id_: str) -> None:
        """Forget somebody who has been told."""
        with self._begun() as connection:
            connection.execute(delete(callbacks).where(callbacks.c.id == id_))

    def put_callback_off(self, id_: str, tries: int, again: datetime | None, why: str) -> None:
        """Write down that somebody was not reached, and when to try again; None: no more."""
        with self._begun() as connection:
            values = {"tries": tries, "next_at": again, "error": why}
            connection.execute(update(callbacks).where(callbacks.c.id == id_).values(values))

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep the files of pictures, by their hashes, until somebody decides about them."""
        with self._begun() as connection:
            there = set(
                connection.scalars(
                    select(originals.c.picture).where(originals.c.picture.in_(list(files)))
                )
            )
            now = datetime.now(UTC)
            rows = [
                {"picture": picture, "at": now, "size": len(data), "data": data}
                for picture, data in files.items()
                if picture not in there
            ]
            if rows:
                connection.execute(insert(originals), rows)

    def original(self, picture: str) -> bytes | None:
        """Return the kept file of a picture, by its hash; None where there is none."""
        with self._begun() as connection:
            chosen = select(originals.c.data).where(originals.c.picture == picture)
            found: bytes | None = connection.execute(chosen).scalar_one_or_none()
            return found

    def let_go(
        self, picture: str | None = None, *, before: datetime | None = None, most: int | None = None
    ) -> None:
        """Delete kept files: of one picture, from before a time, the oldest beyond `most` bytes."""
        with self._begun() as connection:
            if picture is not None:
                connection.execute(delete(originals).where(originals.c.picture == picture))
            if before is not None:
                connection.execute(delete(originals).where(originals.c.at < before))
            if most is not None:
                _delete_oldest(connection, most)

    def pictures(self, *, before: datetime | None = None, picture: str | None = None) -> set[str]:
        """Return the hashes of the pictures that `delete` would leave no audit of."""
        which = _which(before, picture)
        with self._begun() as connection:
            gone = set(connection.scalars(select(audits.c.picture).where(*which)))
            left = select(audits.c.picture).where(not_(and_(*which)))
            return gone - set(connection.scalars(left))

    def get(self, id_: str) -> RowMapping | None:
        """Return one audit; of its thumbnail, whether there is one."""
        with self._begun() as connection:
            chosen = select(*_WITHOUT_PICTURE).where(audits.c.id == id_)
            return connection.execute(chosen).mappings().one_or_none()

    def thumbnail(self, id_: str) -> bytes | None:
        """Return the small picture of an audit; None where none was kept."""
        with self._begun() as connection:
            chosen = select(audits.c.thumbnail).where(audits.c.id == id_)
            found: bytes | None = connection.execute(chosen).scalar_one_or_none()
            return found

    def decide(self, id_: str, decision: str | None, by: str, first: bool = False) -> bool:
        """Write down which class a person says it is; None: none of them.

        Returns whether it was written: not where there is no such audit, and with `first` not
        where somebody has decided already.
        """
        which = audits.c.id == id_
        if first:
            which = and_(which, audits.c.decided_at.is_(None))
        values = {"decision": decision, "decided_by": by, "decided_at": datetime.now(UTC)}
        return self._update(which, values)

    def undecide(self, id_: str) -> bool:
        """Take a decision back; False where there is no such audit."""
        values = dict.fromkeys(("decision", "decided_by", "decided_at"))
        return self._update(audits.c.id == id_, values)

    def restore(self, id_: str, earlier: Mapping[str, Any]) -> bool:
        """Put back what was decided earlier, if it was; False where there is no such audit."""
        names = ("decision", "decided_by", "decided_at")
        return self._update(audits.c.id == id_, {name: earlier[name] for name in names})

    def _update(self, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
        with self._begun() as connection:
            return bool(connection.execute(update(audits).where(which).values(values)).rowcount)

    def found(
        self,
        *,
        n: int = 50,
        before: datetime | None = None,
        verdict: str | None = None,
        decided: bool | None = None,
        model: str | None = None,
        after: str | None = None,
        oldest: bool = False,
    ) -> Sequence[RowMapping]:
        """Return n audits, the newest or the oldest first, without thumbnails.

        verdict: one of the three, or doubtful: mismatch and unsure. after: the audit behind which
        to go on; audits of one form have the same time, so a time alone would lose some.
        """
        which = list(_which(before, None))
        if verdict is not None:
            which.append(DOUBTFUL if verdict == "doubtful" else audits.c.verdict == verdict)
        if decided is not None:
            which.append((audits.c.decided_at.is_not if decided else audits.c.decided_at.is_)(None))
        if model is not None:
            which.append(audits.c.model == model)
        at, id_ = audits.c.at, audits.c.id
        order = (at, id_) if oldest else (at.desc(), id_.desc())
        with self._begun() as connection:
            if after is not None:
                time = connection.execute(select(at).where(id_ == after)).scalar_one_or_none()
                same = and_(at == time, id_ > after if oldest else id_ < after)
                which.append(or_(at > time if oldest else at < time, same))
            chosen = select(*_WITHOUT_PICTURE).where(*which).order_by(*order).limit(n)
            return connection.execute(chosen).mappings().all()

    def since(self, at: datetime, model: str, version: str, n: int = 20_000) -> list[RowMapping]:
        """Return what a version of a model answered from a time on, the oldest first, n at most."""
        which = and_(audits.c.at >= at, audits.c.model == model, audits.c.model_version == version)
        columns = [audits.c[name] for name in ("at", "verdict", "reason", "label", "picture")]
        newest = select(*columns).where(which).order_by(audits.c.at.desc(), audits.c.id).limit(n)
        with self._begun() as connection:
            return list(reversed(connection.execute(newest).mappings().all()))

    def counts(self) -> dict[str, int]:
        """Count the audits of each verdict, and those that wait for a person's decision."""
        with self._begun() as connection:
            of_each = select(audits.c.verdict, func.count()).group_by(audits.c.verdict)
            found = dict.fromkeys(("match", "mismatch", "unsure"), 0)
            found.update((verdict, n) for verdict, n in connection.execute(of_each))
            waiting = select(func.count()).select_from(audits).where(OPEN)
            return found | {"waiting": int(connection.execute(waiting).scalar_one())}

    def count(self, *, before: datetime | None = None, picture: str | None = None) -> int:
        """Count the audits that `delete` would take away."""
        with self._begun() as connection:
            chosen = select(func.count()).select_from(audits).where(*_which(before, picture))
            return int(connection.execute(chosen).scalar_one())

    def delete(self, *, before: datetime | None = None, picture: str | None = None) -> int:
        """Delete audits from before a time, or of one picture; return how many.

        What is kept of a picture that no audit is left of, goes with them.
        """
        which = _which(before, picture)
        if not which:
            raise ValueError("Say which audits to delete: before= or picture=.")
        with self._begun() as connection:
            forms = select(audits.c.form).where(*which)
            connection.execute(delete(callbacks).where(callbacks.c.form.in_(forms)))
            n = connection.execute(delete(audits).where(*which)).rowcount
            known = select(audits.c.picture)
            connection.execute(delete(originals).where(originals.c.picture.not_in(known)))
            return n

    def check(self) -> None:
        """Ask the database for nothing, to see whether it answers."""
        with self._begun() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unusable(self._engine.url, _reason(error)) from error


def open_records(url: str) -> Records:
    """Open the records at an SQLAlchemy URL, and bring their tables to this version's layout.

    Raises:
        BadDatabase: a URL that is none, a database that does not answer, or one of a later version.
        MissingExtra: PostgreSQL, without its driver.
    """
    engine = _engine(url)
    try:
        with engine.begin() as connection:
            _upgrade(connection, engine.url)
    except SQLAlchemyError as error:
        engine.dispose()
        raise _unusable(engine.url, _reason(error)) from error
    except BadDatabase:
        engine.dispose()
        raise
    return Records(engine)


def _engine(text: str) -> Engine:
    try:
        url = make_url(text)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise NoSuchModuleError(url.get_backend_name())
        engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        # Not the text itself: a password may stand in it.
        raise BadDatabase(
            "The database is no URL that is known. Expected sqlite:///PATH or "
            "postgresql://HOST/NAME, where USER:PASSWORD@ stands before HOST. Nothing was "
            "started. Correct --database or TELLAPART_DATABASE."
        ) from error
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Records in PostgreSQL need a driver that is not installed "
            f"({error.name}). Nothing was started. Install it with: "
            f"pip install 'tellapart[postgres]'"
        ) from error
    if url.get_backend_name() == "sqlite":
        _set_up_sqlite(engine, url)
    return engine


def _set_up_sqlite(engine: Engine, url: URL) -> None:
    """Let readers not wait for the writer, and let commits reach the disk before they count."""
    if url.database and url.database != ":memory:":
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _unusable(url, error.strerror or str(error)) from error

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {setting}").close()


def _upgrade(connection: Connection, url: URL) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    head = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() == head:
        return
    if connection.dialect.name == "postgresql":
        # Two servers that start at once: the second waits, and finds all done.
        connection.execute(select(func.pg_advisory_xact_lock(0x7E11A9A7)))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise _unusable(url, f"it was made by a later version of tellapart ({error})") from error


def _delete_oldest(connection: Connection, most: int) -> None:
    """Delete kept files, the oldest first, until at most so many bytes are left."""
    total = connection.execute(select(func.coalesce(func.sum(originals.c.size), 0))).scalar_one()
    if total <= most:
        return
    order = select(originals.c.picture, originals.c.size).order_by(originals.c.at)
    gone = []
    for picture, size in connection.execute(order):
        if total <= most:
            break
        gone.append(picture)
        total -= size
    connection.execute(delete(originals).where(originals.c.picture.in_(gone)))


def _which(before: datetime | None, picture: str | None) -> list[ColumnElement[bool]]:
    which = []
    if before is not None:
        which.append(audits.c.at < before)
    if picture is not None:
        which.append(audits.c.picture == picture)
    return which


def _reason(error: SQLAlchemyError) -> str:
    """Say what the driver said, without SQLAlchemy's additions, which may quote what was stored."""
    inner = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(inner).split()) or type(inner).__name__


def _unusable(url: URL, reason: str) -> BadDatabase:
    shown = url.render_as_string(hide_password=True)
    return BadDatabase(
        f"The records at {shown} cannot be used: {reason}. Expected a database that can be read "
        f"and written, as no audit is answered that is not recorded. Nothing was recorded. "
        f"Check that it is there, or name another with --database URL."
    )
