"""Callbacks: signed, tried again, kept in the database until they arrive, off by default."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tellapart.errors import NoSecret
from tellapart.server import telling
from tellapart.server.records import open_records
from tellapart.server.settings import Settings

SECRET = b"0123456789abcdefghijklmnop"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, twice, and allow addresses of this machine."""
    monkeypatch.setattr(telling, "AGAIN_AFTER_S", (0.05, 0.05))
    monkeypatch.setattr(telling, "LOOK_S", 0.05)
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")


def calling(web: Any) -> dict[str, Any]:
    """Settings that allow calling a server of this machine."""
    return {"callbacks": (web.url.removeprefix("http://"),), "callback_secret": SECRET}


def audited(client: httpx.Client, colours: Path, callback: str) -> Any:
    """Audit a red picture, and ask to be called back."""
    return client.post(
        "/v1/audit",
        files=[("file", ("r.png", (colours / "red.png").read_bytes()))],
        data={"declared": "red", "callback": callback},
    )


def wait_for(what: Callable[[], Any]) -> Any:
    """Return what is true in the end, within ten seconds."""
    until = time.monotonic() + 10
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def due(database: Path) -> list[Any]:
    """What still waits to be told, now or later."""
    with closing(open_records(f"sqlite:///{database}")) as records:
        return list(records.callbacks_due(datetime.now(UTC) + timedelta(days=9), 100))


def test_by_default_nobody_is_called(serving: Any, web: Any, colours: Path, quick: None) -> None:
    """403 where there are none; 422 for another host; nothing is recorded either way."""
    with serving() as client:
        refused = audited(client, colours, f"{web.url}/done")
        assert (refused.status_code, refused.json()["error"]) == (403, "no_callbacks")
        assert client.get("/v1/audits").json() == []
    with serving(**calling(web)) as client:
        for url in ("http://127.0.0.1:9/done", "https://elsewhere.example/", "gopher://x", "x"):
            refused = audited(client, colours, url)
            assert (refused.status_code, refused.json()["error"]) == (422, "callback_not_allowed")
        assert client.get("/v1/audits").json() == []
    assert web.asked == []


def test_an_audit_is_told_and_signed(
    serving: Any, web: Any, colours: Path, tmp_path: Path, quick: None
) -> None:
    """The body is the answer; the signature holds for its bytes and time, and for no others."""
    web.pages["/done"] = b"thanks"
    with serving(**calling(web)) as client:
        answer = audited(client, colours, f"{web.url}/done?order=7").json()
        wait_for(lambda: not due(tmp_path / "records.sqlite"))
        assert 'tellapart_callbacks_total{outcome="delivered"} 1.0' in client.get("/metrics").text
    (body,), (headers,) = web.bodies, web.headers
    assert web.asked == ["/done?order=7"]
    told = json.loads(body)
    assert told["id"] == answer["id"]
    assert told["pictures"][0]["verdict"] == "match"
    parts = dict(part.split("=") for part in headers["X-Tellapart-Signature"].split(","))
    expected = hmac.new(SECRET, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(parts["v1"], expected)
    assert abs(int(parts["t"]) - time.time()) < 60


def test_what_does_not_arrive_is_sent_again(
    serving: Any, web: Any, colours: Path, tmp_path: Path, quick: None
) -> None:
    """An error and then success: told twice, with the same id; a redirect is not followed."""
    answers = iter([(500, {}), (302, {"Location": f"{web.url}/elsewhere"}), (204, {})])

    def moody(handler: Any) -> None:
        status, headers = next(answers)
        handler.send(b"", status, **headers)

    web.pages["/moody"] = moody
    with serving(**calling(web)) as client:
        audited(client, colours, f"{web.url}/moody")
        wait_for(lambda: not due(tmp_path / "records.sqlite"))
        text = client.get("/metrics").text
    assert web.asked == ["/moody"] * 3
    assert len({headers["X-Tellapart-Id"] for headers in web.headers}) == 1
    assert 'outcome="put off"} 2.0' in text


def test_who_is_never_reached_is_given_up_and_written_down(
    serving: Any, web: Any, colours: Path, tmp_path: Path, quick: None
) -> None:
    """After the last try the reason stays in the database, is counted, and is tried no more."""
    web.pages["/never"] = lambda h: h.send(b"", 503)
    with serving(**calling(web)) as client:
        audited(client, colours, f"{web.url}/never")
        wait_for(lambda: 'outcome="given up"} 1.0' in client.get("/metrics").text)
        asked = len(web.asked)
        time.sleep(0.3)
        assert len(web.asked) == asked == 3
    import sqlite3

    with closing(sqlite3.connect(tmp_path / "records.sqlite")) as connection:
        kept = connection.execute("SELECT tries, next_at, error FROM callbacks").fetchall()
    assert kept == [(3, None, "answers 503 Service Unavailable")]


def test_what_could_not_be_told_is_told_after_a_restart(
    serving: Any,
    web: Any,
    colours: Path,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop, graceful or not, loses nothing; records that are deleted are told to nobody."""
    monkeypatch.setattr(telling, "AGAIN_AFTER_S", (0.5,) * 9)
    web.pages["/later"] = lambda h: h.send(b"", 503)
    database = tmp_path / "records.sqlite"
    with serving(**calling(web)) as client:
        audited(client, colours, f"{web.url}/later")
        wait_for(lambda: web.asked)
    assert [row["url"] for row in due(database)] == [f"{web.url}/later"]
    web.pages["/later"] = b"ok"
    with serving(**calling(web)):
        wait_for(lambda: not due(database))
    web.pages["/later"] = lambda h: h.send(b"", 503)
    with serving(**calling(web)) as client:
        audited(client, colours, f"{web.url}/later")
        with closing(open_records(f"sqlite:///{database}")) as records:
            assert records.delete(before=datetime.now(UTC) + timedelta(days=1)) == 2
        assert due(database) == []


def test_callbacks_need_a_secret(format_1: Path) -> None:
    """Without one nothing starts, and no message shows one."""
    with pytest.raises(NoSecret) as error:
        Settings((format_1,), "sqlite://", callbacks=("a.org",), callback_secret=b"short")
    assert str(error.value) == (
        "Callbacks are signed, and the secret for that has 5 bytes; expected 24 or more. Nothing "
        "was started. Put one into a file and name it with --callback-secret FILE, or set "
        "TELLAPART_CALLBACK_SECRET. Make one with: "
        "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
    )
    assert "0123" not in repr(Settings((format_1,), "sqlite://", callback_secret=SECRET))
