"""Nothing acknowledged is lost: kills, stops, new models, full queues, two kinds of database."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event

from tellapart.errors import BadDatabase
from tellapart.server.records import metadata, open_records
from tellapart.server.settings import Limits

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def row(number: int, at: datetime | None = None) -> dict[str, Any]:
    """An audit as the server stores it."""
    return {
        "id": f"{number:032x}",
        "form": f"{number:032x}",
        "request_id": "r",
        "at": at or datetime.now(UTC),
        "picture": f"{number % 2:032x}",
        "model": "m",
        "model_version": "v",
        "declared": "a",
        "verdict": "match",
        "reason": "why",
        "candidates": ["a"],
    }


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL of this session's own."""
    if not POSTGRES:
        pytest.skip("PostgreSQL's programs are not in /usr/lib/postgresql")
    programs = POSTGRES[-1].parent
    user: dict[str, Any] = {}
    # Not below pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="tellapart-postgres-"))
    if os.getuid() == 0:
        try:
            other = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        user = {"user": other.pw_uid, "group": other.pw_gid}
        os.chown(folder, other.pw_uid, other.pw_gid)
    data, log = folder / "data", folder / "log"

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(programs / "initdb", "-D", data, "-U", "tellapart", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -h 127.0.0.1"
    run(programs / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql://tellapart:secret@127.0.0.1:{port}/postgres"
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An URL of each kind of database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path / 'some' / 'records.sqlite'}"


def test_records_are_kept_listed_decided_and_deleted(database: str) -> None:
    """The same on both databases; opening again changes nothing."""
    with closing(open_records(database)) as records:
        old = datetime.now(UTC) - timedelta(days=100)
        records.add([row(1, old), row(2, old), row(3), row(4)])
    with closing(open_records(database)) as records:
        assert [found["id"][-1] for found in records.found(n=2, verdict="match")] in (
            ["3", "4"],
            ["4", "3"],
        )
        assert records.decide(row(3)["id"], "b", "me")
        assert not records.decide("f" * 32, "b", "me")
        kept = records.get(row(3)["id"])
        assert kept is not None
        assert (kept["decision"], kept["decided_by"]) == ("b", "me")
        month = datetime.now(UTC) - timedelta(days=30)
        assert records.count(before=month) == records.delete(before=month) == 2
        assert records.delete(picture=row(3)["picture"]) == 1
        assert [found["id"] for found in records.found()] == [row(4)["id"]]
        assert records.delete(picture=row(4)["picture"]) == 1


def test_reviewers_share_a_queue(database: str) -> None:
    """The oldest undecided first, page after page, also of one time; deciding can be first only."""
    with closing(open_records(database)) as records:
        before = records.counts()
        at = datetime.now(UTC)
        verdicts = ["mismatch", "unsure", "match", "mismatch", "unsure"]
        rows = [row(20 + n, at) | {"verdict": verdict} for n, verdict in enumerate(verdicts)]
        records.add([one | {"model": "queue"} for one in rows])
        asked = {"n": 2, "verdict": "doubtful", "decided": False, "model": "queue"}
        pages = [records.found(**asked, oldest=True)]
        pages.append(records.found(**asked, oldest=True, after=pages[0][-1]["id"]))
        assert [[one["id"][-2:] for one in page] for page in pages] == [["14", "15"], ["17", "18"]]
        newest = records.found(**asked)
        assert [one["id"][-2:] for one in newest] == ["18", "17"]
        assert [one["id"][-2:] for one in records.found(**asked, after=newest[1]["id"])] == [
            "15",
            "14",
        ]
        first, second, *_ = (one["id"] for one in rows)
        assert records.decide(first, None, "me", first=True)
        assert not records.decide(first, "b", "you", first=True)
        assert records.decide(second, "b", "you")
        changed = {name: n - before[name] for name, n in records.counts().items()}
        assert changed == {"match": 1, "mismatch": 2, "unsure": 2, "waiting": 2}
        decided = records.found(decided=True, model="queue")
        assert [(one["decision"], one["decided_by"]) for one in decided] == [
            ("b", "you"),
            (None, "me"),
        ]
        assert records.undecide(first)
        assert len(records.found(decided=True, model="queue")) == 1
        for one in rows:
            records.delete(picture=one["picture"])


def test_the_queue_is_found_by_its_index(tmp_path: Path) -> None:
    """SQLite reads what waits, and how many wait, from the index that holds nothing else."""
    path = tmp_path / "records.sqlite"
    with closing(open_records(f"sqlite:///{path}")) as records:
        asked: list[str] = []

        @event.listens_for(records._engine, "before_cursor_execute")
        def seen(*told: Any) -> None:
            asked.append(told[2])

        records.found(verdict="doubtful", decided=False, oldest=True)
        records.counts()
    with closing(sqlite3.connect(path)) as connection:
        plans = [
            connection.execute(f"EXPLAIN QUERY PLAN {one}", (5,) * one.count("?")).fetchall()
            for one in asked
            if one.startswith("SELECT")
        ]
    used = [str(plan) for plan in plans]
    assert [
        "audits_open" in used[0],
        "audits_verdict" in used[1],
        "audits_open" in used[2],
    ] == [True] * 3


def test_one_bad_row_stores_none(database: str) -> None:
    """Records that belong together are stored together or not at all."""
    with closing(open_records(database)) as records:
        with pytest.raises(BadDatabase):
            records.add([row(7), row(7)])
        assert records.found() == []


def test_migrations_end_in_the_layout_of_the_code(database: str) -> None:
    """What migrations make is what `records.audits` describes."""
    open_records(database).close()
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_server_records_in_postgresql(serving: Any, colours: Path, postgres: str) -> None:
    """An audit over HTTP stands in PostgreSQL when it is answered."""
    with serving(database=postgres) as client:
        form = [("file", ("r.png", (colours / "red.png").read_bytes()))]
        audit = client.post("/v1/audit", files=form, data={"declared": "red"}).json()
        with closing(open_records(postgres)) as records:
            kept = records.get(audit["pictures"][0]["id"])
            assert kept is not None
            assert kept["verdict"] == "match"


def test_too_many_at_once_are_sent_away_and_come_again(serving: Any, colours: Path) -> None:
    """Beyond what may wait, the answer is 429 with Retry-After; whoever was taken is answered."""
    form = [("file", ("r.png", (colours / "red.png").read_bytes()))] * 4
    with serving(limits=Limits(waiting=4)) as client, ThreadPoolExecutor(12) as pool:

        def ask(_: int) -> httpx.Response:
            return client.post("/v1/predict", files=form)

        answers = list(pool.map(ask, range(48)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        assert all(a.headers["Retry-After"] == "1" for a in answers if a.status_code == 429)
        assert ask(0).status_code == 200


def test_a_new_file_is_taken_up_under_load_without_losing_a_request(
    serving: Any, colours: Path, format_1: Path, tmp_path: Path
) -> None:
    """Every request is answered, by the old version or the new; a broken file changes nothing."""
    from tellapart.bundle.bundle import open_bundle, rewrite_bundle

    model = tmp_path / "m.tellapart"
    shutil.copy(format_1, model)
    form = [("file", ("r.png", (colours / "red.png").read_bytes()))]
    with serving(models=(model,), watch_s=0.05) as client:
        statuses: list[int] = []
        versions: list[str] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                answer = client.post("/v1/predict", files=form)
                statuses.append(answer.status_code)
                versions.append(answer.json()["model_version"])

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        bundle = open_bundle(model)
        rewrite_bundle(bundle, bundle.manifest.model_copy(update={"made_on": "later"}), model)
        until = time.monotonic() + 30
        while len(set(versions)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        broken = tmp_path / "broken"
        broken.write_bytes(b"no bundle")
        broken.replace(model)
        while 'outcome="refused"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert len(set(versions)) == 2
        assert client.get("/v1/models").json()[0]["made_on"] == "later"


@pytest.fixture
def started(format_1: Path, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Start `tellapart serve` as a process of its own; return it and its address."""
    running: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tellapart", "serve", str(format_1), "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TELLAPART_DATABASE": f"sqlite:///{tmp_path / 'kept.sqlite'}"},
        )
        running.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["url"]

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def audit_until(url: str, picture: bytes, acknowledged: list[str], lost: list[str]) -> None:
    """Send audits until the server is gone; note which were acknowledged and which broke off."""
    with httpx.Client(base_url=url, timeout=30) as client:
        while True:
            try:
                answer = client.post(
                    "/v1/audit", files=[("file", ("r.png", picture))], data={"declared": "red"}
                )
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                lost.append(repr(error))
                return
            assert answer.status_code == 200, answer.text
            acknowledged.append(answer.json()["pictures"][0]["id"])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_acknowledged_outlives_the_process(
    started: Any, colours: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """After kill -9 every acknowledged audit is in the database; SIGTERM answers all it took."""
    process, url = started()
    picture = (colours / "red.png").read_bytes()
    acknowledged: list[str] = []
    lost: list[str] = []
    threads = [
        threading.Thread(target=audit_until, args=(url, picture, acknowledged, lost))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 40:
        time.sleep(0.01)
    process.send_signal(how)
    ended = process.wait(60)
    for thread in threads:
        thread.join()
    with closing(sqlite3.connect(tmp_path / "kept.sqlite")) as connection:
        kept = {name for (name,) in connection.execute("SELECT id FROM audits")}
    assert len(acknowledged) >= 40
    assert set(acknowledged) <= kept
    if how is signal.SIGTERM:
        # What was not even begun may find its kept connection closed; nothing taken is dropped.
        assert kept == set(acknowledged)
        assert ended in (0, -signal.SIGTERM)
