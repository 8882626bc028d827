"""`serve` and `records` on the command line: what is refused, and how it can be cured."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tellapart.data.hashing import picture_hash
from tellapart.server.records import open_records

Command = Callable[..., Any]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database for this test alone, named by the variable."""
    url = f"sqlite:///{tmp_path / 'r.sqlite'}"
    monkeypatch.setenv("TELLAPART_DATABASE", url)
    return url


def test_a_taken_port_is_told(command: Command, format_1: Path, database: str) -> None:
    """Exit code 110, before anything is loaded."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = command("serve", format_1, "--port", port)
    assert ended.code == 110
    assert ended.err == (
        f"tellapart: 127.0.0.1 port {port} cannot be listened on: Address already in use. Expected "
        f"a free port of this machine. Nothing was started. Choose another with --port (0 takes "
        f"any that is free), or stop what uses it.\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_others_are_served_only_with_tokens(
    command: Command, format_1: Path, database: str, host: str
) -> None:
    """Exit code 111 for every address that other machines may reach."""
    ended = command("serve", format_1, "--host", host)
    assert ended.code == 111
    assert f"--host {host} can be reached from other machines, and there are no" in ended.err
    assert "Give tokens with --tokens FILE" in ended.err


def test_wrong_tokens_are_all_named_and_none_is_shown(
    command: Command, format_1: Path, database: str, tmp_path: Path
) -> None:
    """Exit code 112, each line with what is wrong with it."""
    path = tmp_path / "tokens"
    path.write_text("# ours\na predict short\nb boss 0123456789012345678901234\nc predict\n")
    ended = command("serve", format_1, "--tokens", path)
    assert ended.code == 112
    assert (
        f"in {path}, line 2 has a token of less than 24 characters; line 3 has a role other than "
        f"predict, review, admin; line 4 has 2 words." in ended.err
    )
    assert "short" not in ended.err
    assert "0123456789" not in ended.err
    assert command("serve", format_1, "--tokens", tmp_path / "none").code == 112


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle9://x:pass-word@h/n", "postgresql://u:pass-word@127.0.0.1:1/n"]
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    command: Command, format_1: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Exit code 113."""
    monkeypatch.setenv("TELLAPART_DATABASE", url)
    ended = command("serve", format_1, "--port", "0")
    assert ended.code == 113, ended.err
    assert "pass-word" not in ended.err


def test_a_database_of_something_else_or_of_later_is_refused(
    command: Command, format_1: Path, tmp_path: Path, database: str
) -> None:
    """Exit code 113 for a file that is no database, and for a layout of the future."""
    (tmp_path / "text").write_text("no database " * 100)
    ended = command("serve", format_1, "--port", "0", "--database", f"sqlite:///{tmp_path}/text")
    assert ended.code == 113
    assert "file is not a database" in ended.err
    open_records(database).close()
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    ended = command("serve", format_1, "--port", "0")
    assert ended.code == 113
    assert "it was made by a later version of tellapart" in ended.err


def test_models_that_cannot_be_served_are_told(
    command: Command, format_1: Path, database: str, tmp_path: Path
) -> None:
    """Missing, broken, and two of one name: codes 20, 21 and 114."""
    assert command("serve", tmp_path / "none.tellapart", "--port", "0").code == 20
    broken = tmp_path / "broken.tellapart"
    broken.write_bytes(format_1.read_bytes()[:-500])
    assert command("serve", broken, "--port", "0").code == 21
    ended = command("serve", format_1, format_1)
    assert ended.code == 114
    assert "Two classifiers would be served as format_1;" in ended.err


def test_records_are_listed_and_deleted_by_command(
    command: Command, database: str, tmp_path: Path
) -> None:
    """The newest first; old ones and those of one picture go, after a look if wanted."""
    picture = tmp_path / "p.jpg"
    picture.write_bytes(b"picture")
    common = {
        **{"request_id": "r", "model": "m", "model_version": "v", "declared": "a"},
        **{"verdict": "unsure", "reason": "why", "candidates": ["a"]},
    }
    now = datetime.now(UTC)
    with closing(open_records(database)) as records:
        for number, (days, known) in enumerate(
            [(100, "x"), (1, picture_hash(b"picture")), (0, "x")]
        ):
            at = now - timedelta(days=days)
            records.add([common | {"id": str(number), "form": "f", "at": at, "picture": known}])
    listed = json.loads(command("records", "--json").out)["audits"]
    assert [one["id"] for one in listed] == ["2", "1", "0"]
    assert listed[0]["at"].endswith("+00:00")
    assert len(command("records").out.splitlines()) == 4
    old = ("records", "delete", "--older-than", "90d")
    assert command(*old, "--dry-run").out == "Would delete 1 records.\n"
    assert command(*old).out == "Deleted 1 records.\n"
    ended = command("records", "delete", "--picture", picture, "--json")
    assert json.loads(ended.out) == {"n": 1, "deleted": True}
    assert command("records", "delete").code == 2
    assert command("records", "delete", "--older-than", "soon").code == 2
