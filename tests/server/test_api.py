"""What the API answers, asked over a real socket."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from tellapart.inference.classifier import Prediction
from tellapart.server.auditing import judge, of_all
from tellapart.server.gate import JsonLines
from tellapart.server.settings import Limits
from tellapart.server.tokens import Token, parse_tokens

TOKENS = {role: f"{role}-0123456789abcdefghijkl" for role in ("predict", "review", "admin")}


def files(colours: Path, *names: str) -> list[tuple[str, Any]]:
    """Fields `file` of a form."""
    return [("file", (f"{name}.png", (colours / f"{name}.png").read_bytes())) for name in names]


def tokens() -> tuple[Token, ...]:
    """One token of each role."""
    return parse_tokens("\n".join(f"{role}er {role} {t}" for role, t in TOKENS.items()), "here")


def bearer(role: str) -> dict[str, str]:
    """The header of a role's token."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def test_pictures_are_answered_as_a_form_or_as_the_body(serving: Any, colours: Path) -> None:
    """A form answers each picture in order, broken ones with why; a bare body is one picture."""
    with serving() as client:
        form = [*files(colours, "red", "blue"), ("file", ("broken.png", b"\x89PNG\r\n\x1a\nxx"))]
        answers = client.post("/v1/predict", files=form).json()["answers"]
        assert [answer["label"] for answer in answers] == ["red", "blue", None]
        assert [answer["file"] for answer in answers] == ["red.png", "blue.png", "broken.png"]
        assert answers[2]["error"].startswith("is cut off or damaged")
        data = (colours / "green.png").read_bytes()
        raw = client.post(
            "/v1/predict?top=1", content=data, headers={"Content-Type": "image/png"}
        ).json()
        assert [raw["answers"][0]["label"], len(raw["answers"][0]["top"])] == ["green", 1]


def test_answers_are_those_of_the_command_line(serving: Any, colours: Path, format_1: Path) -> None:
    """The server says of a picture what `Classifier.predict` says."""
    from tellapart import Classifier

    expected = Classifier.load(format_1, accept=0.5).predict(colours / "mixed.png")
    with serving() as client:
        found = client.post("/v1/predict", files=files(colours, "mixed")).json()["answers"][0]
    assert found["top"] == [
        {"label": label, "confidence": pytest.approx(value, abs=1e-5)}
        for label, value in expected.top
    ]
    assert found["unsure"] == expected.unsure


def test_an_audit_gives_a_verdict_on_each_and_on_all_and_is_recorded(
    serving: Any, colours: Path
) -> None:
    """Each picture has its own declared class; the form's verdict is the worst; all is stored."""
    with serving() as client:
        answer = client.post(
            "/v1/audit", files=files(colours, "red", "blue"), data={"declared": ["red", "green"]}
        )
        audit = answer.json()
        assert [one["verdict"] for one in audit["pictures"]] == ["match", "unsure"]
        assert audit["verdict"] == "unsure"
        assert audit["pictures"][1]["why"].endswith("but green stays possible")
        newest = {one["file_name"]: one for one in client.get("/v1/audits").json()}
        record = newest["blue.png"]
        data = (colours / "blue.png").read_bytes()
        assert record["picture"] == hashlib.blake2b(data, digest_size=16).hexdigest()
        assert (record["declared"], record["label"]) == ("green", "blue")
        assert record["request_id"] == answer.headers["X-Request-ID"]
        assert record["form"] == audit["id"]
        assert record["at"].endswith("Z")
        only = client.get("/v1/audits", params={"verdict": "match"}).json()
        assert [one["file_name"] for one in only] == ["red.png"]


def test_a_declared_class_must_be_known_and_given_for_each(serving: Any, colours: Path) -> None:
    """An unknown class and a missing one are refused, and nothing is recorded."""
    with serving() as client:
        unknown = client.post("/v1/audit", files=files(colours, "red"), data={"declared": "pink"})
        assert unknown.status_code == 422
        assert unknown.json()["message"] == (
            "'pink' was declared, and format_1 knows no such class; it knows: blue, green, red. "
            "Nothing was recorded."
        )
        form = files(colours, "red", "blue", "green")
        few = client.post("/v1/audit", files=form, data={"declared": ["red", "blue"]})
        assert few.json()["error"] == "not_declared"
        assert client.get("/v1/audits").json() == []


def test_an_unreadable_upload_is_unsure_and_recorded(serving: Any) -> None:
    """An audit of a broken file is a fact as well: unsure, with the reason."""
    with serving() as client:
        audit = client.post(
            "/v1/audit", files=[("file", ("a.jpg", b"%PDF-1.7"))], data={"declared": "red"}
        ).json()
        assert audit["verdict"] == "unsure"
        assert audit["pictures"][0]["why"] == (
            "the picture could not be read: it is a PDF, not a picture"
        )
        assert len(client.get("/v1/audits").json()) == 1


def test_an_explanation_is_drawn_on_request(serving: Any, trained: Any) -> None:
    """`explain=true` adds a PNG of what speaks for the answer."""
    picture = next((trained.data / "1").iterdir()).read_bytes()
    with serving(models=(trained.bundle,)) as client:
        audit = client.post(
            "/v1/audit?explain=true",
            files=[("file", ("a.png", picture))],
            data={"declared": "0"},
        ).json()
    assert audit["verdict"] == audit["pictures"][0]["verdict"] == "mismatch"
    assert base64.b64decode(audit["pictures"][0]["explanation"]).startswith(b"\x89PNG")


def test_a_reviewers_decision_is_written_down(serving: Any, colours: Path) -> None:
    """A person's word, with name and time, is added to the record; unknown records are refused."""
    with serving(tokens=tokens()) as client:
        form = {"files": files(colours, "grey"), "data": {"declared": "red"}}
        audit = client.post("/v1/audit", **form, headers=bearer("predict")).json()
        url = f"/v1/audits/{audit['pictures'][0]['id']}"
        said = client.post(
            f"{url}/decision", json={"decision": "grey"}, headers=bearer("review")
        ).json()
        assert (said["decision"], said["decided_by"]) == ("grey", "reviewer")
        assert client.get(url, headers=bearer("review")).json() == said
        nobody = client.post(
            f"/v1/audits/{'0' * 32}/decision", json={"decision": "x"}, headers=bearer("review")
        )
        assert nobody.status_code == 404


def test_a_decision_is_changed_taken_back_or_only_the_first(serving: Any, colours: Path) -> None:
    """A later one replaces it unless the first alone counts; null is none of them; it can go."""
    with serving(tokens=tokens(), thumbnails="doubtful") as client:
        form = {"files": files(colours, "grey"), "data": {"declared": "red"}}
        audit = client.post("/v1/audit", **form, headers=bearer("predict")).json()
        url, given = f"/v1/audits/{audit['pictures'][0]['id']}", bearer("review")
        none = client.post(f"{url}/decision", json={"decision": None}, headers=given).json()
        assert (none["decision"], none["decided_by"]) == (None, "reviewer")
        second = client.post(
            f"{url}/decision", json={"decision": "red", "first": True}, headers=bearer("admin")
        )
        assert (second.status_code, second.json()["message"]) == (
            409,
            "reviewer has decided already: none of them. Nothing was changed.",
        )
        later = client.post(f"{url}/decision", json={"decision": "red"}, headers=bearer("admin"))
        assert (later.json()["decision"], later.json()["decided_by"]) == ("red", "adminer")
        gone = client.delete(f"{url}/decision", headers=given).json()
        assert (gone["decision"], gone["decided_by"], gone["decided_at"]) == (None, None, None)
        assert client.delete(f"/v1/audits/{'0' * 32}/decision", headers=given).status_code == 404
        assert client.get("/v1/audits/counts", headers=given).json()["waiting"] == 1


def test_what_was_kept_of_a_picture_is_shown_to_reviewers(serving: Any, colours: Path) -> None:
    """The thumbnail is a JPEG for those who may review; where none was kept, that is said."""
    with serving(tokens=tokens(), thumbnails="doubtful") as client:
        form = {"files": files(colours, "red", "grey"), "data": {"declared": ["red", "blue"]}}
        audit = client.post("/v1/audit", **form, headers=bearer("predict")).json()
        match, doubt = (f"/v1/audits/{one['id']}" for one in audit["pictures"])
        shown = client.get(f"{doubt}/thumbnail", headers=bearer("review"))
        assert (shown.headers["Content-Type"], shown.content[:2]) == ("image/jpeg", b"\xff\xd8")
        assert client.get(f"{doubt}/thumbnail", headers=bearer("predict")).status_code == 403
        none = client.get(f"{match}/thumbnail", headers=bearer("review"))
        assert (none.status_code, none.json()["error"]) == (404, "no_thumbnail")
        told = [client.get(url, headers=bearer("review")).json() for url in (match, doubt)]
        assert [one["thumbnail"] for one in told] == [False, True]


def test_lists_go_on_behind_an_audit(serving: Any, colours: Path) -> None:
    """Pictures of one form share a time: behind the last of a page comes the next, none is lost."""
    with serving() as client:
        names = ("red", "blue", "green", "grey", "mixed")
        client.post("/v1/audit", files=files(colours, *names), data={"declared": "red"})
        seen, last = [], {}
        while page := client.get("/v1/audits", params={"n": 2} | last).json():
            seen += [one["file_name"] for one in page]
            last = {"after": page[-1]["id"]}
        assert sorted(seen) == sorted(f"{name}.png" for name in names)
        lost = client.get("/v1/audits", params={"after": "0" * 32})
        assert lost.status_code == 404


def test_why_is_told_as_a_map(serving: Any, trained: Any, colours: Path) -> None:
    """Places and where they lie, for the answer or for a class; a bad class or file is refused."""
    data = next((trained.data / "1").iterdir()).read_bytes()
    with serving(models=(trained.bundle,)) as client:
        form = {"files": [("file", ("a.png", data))]}
        own = client.post("/v1/explain", **form).json()
        other = client.post("/v1/explain?label=0", **form).json()
        assert (own["label"], other["label"]) == ("1", "0")
        assert (len(own["heat"]), len(own["heat"][0])) == (7, 7)
        assert own["heat"] != other["heat"]
        left, top, right, bottom = own["box"]
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert client.post("/v1/explain?label=x", **form).json()["error"] == "unknown_class"
        two = client.post("/v1/explain", files=files(colours, "red", "blue"))
        assert (two.status_code, two.json()["error"]) == (413, "too_many")
        broken = client.post("/v1/explain", files=[("file", ("a.png", b"<html>"))])
        assert broken.json()["error"] == "unreadable"
        assert client.get("/v1/audits").json() == []


def test_who_asks_is_told_what_they_may(serving: Any) -> None:
    """Name and role of the token, and limits; without tokens, everything is allowed."""
    with serving(tokens=tokens()) as client:
        me = client.get("/v1/me", headers=bearer("review")).json()
        assert (me["name"], me["role"], me["thumbnails"], me["pictures"]) == (
            *("reviewer", "review", "none"),
            64,
        )
        assert client.get("/v1/me").status_code == 401
    with serving() as client:
        me = client.get("/v1/me").json()
        assert (me["name"], me["role"]) == (None, "admin")


def test_roles_decide_who_may_do_what(serving: Any, colours: Path) -> None:
    """No token, a wrong one, one of a lesser role: refused; health is open to all."""
    with serving(tokens=tokens()) as client:
        allowed = {
            ("/v1/models", "predict"): 200,
            ("/v1/audits", "predict"): 403,
            ("/v1/audits", "review"): 200,
            ("/metrics", "review"): 403,
            ("/metrics", "admin"): 200,
        }
        for (path, role), status in allowed.items():
            assert client.get(path, headers=bearer(role)).status_code == status, (path, role)
        for header in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic eDp5"}):
            refused = client.get("/v1/models", headers=header)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}


def test_guessing_tokens_is_slowed_down(serving: Any) -> None:
    """After thirty wrong tokens in a minute an address has to wait."""
    with serving(tokens=tokens()) as client:
        wrong = {"Authorization": "Bearer wrong"}
        statuses = [client.get("/v1/models", headers=wrong).status_code for _ in range(32)]
        assert statuses[:30] == [401] * 30
        assert statuses[-1] == 429


def test_pages_of_other_sites_are_kept_out_where_there_are_no_tokens(serving: Any) -> None:
    """A foreign Origin, and a foreign name for this machine, are refused."""
    with serving() as client:
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            refused = client.get("/v1/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]) == (403, "another_site")
        assert client.get("/v1/models").status_code == 200


def test_every_answer_has_security_headers_and_a_request_id(serving: Any) -> None:
    """Also one that is refused; a client's own id is kept if it is harmless."""
    with serving() as client:
        for path in ("/healthz", "/nothing"):
            answer = client.get(path, headers={"X-Request-ID": "mine-1"})
            assert answer.headers["X-Request-ID"] == "mine-1"
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        odd = client.get("/healthz", headers={"X-Request-ID": 'a"b c'})
        assert len(odd.headers["X-Request-ID"]) == 16


def test_a_client_that_asks_too_often_has_to_wait(serving: Any) -> None:
    """The rate holds for each client, and says when to come again."""
    with serving(limits=Limits(rate_per_min=3)) as client:
        answers = [client.get("/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 21


def test_models_are_listed_and_asked_by_name(serving: Any, trained: Any, format_1: Path) -> None:
    """The first is the default; an unknown name is 404 and names those there are."""
    with serving(models=(format_1, trained.bundle)) as client:
        models = client.get("/v1/models").json()
        assert [(one["name"], one["default"]) for one in models] == [
            ("format_1", True),
            ("small", False),
        ]
        assert models[0]["classes"] == ["blue", "green", "red"]
        picture = next((trained.data / "2").iterdir()).read_bytes()
        form = {"files": [("file", ("a.png", picture))]}
        asked = client.post("/v1/predict?model=small", **form).json()
        assert asked["answers"][0]["label"] == "2"
        lost = client.post("/v1/predict?model=x", **form)
        assert (lost.status_code, lost.json()["message"]) == (
            404,
            "There is no classifier 'x'; there are: format_1, small.",
        )


def test_metrics_count_what_was_done(serving: Any, colours: Path) -> None:
    """Requests, pictures and audits are in Prometheus's text."""
    with serving() as client:
        client.post("/v1/audit", files=files(colours, "red"), data={"declared": "red"})
        text = client.get("/metrics").text
    assert 'tellapart_audits_total{model="format_1",verdict="match"} 1.0' in text
    assert 'tellapart_requests_total{route="/v1/audit",status="200"} 1.0' in text
    assert "tellapart_waiting_pictures 0.0" in text


def test_thumbnails_follow_the_policy(serving: Any, colours: Path, tmp_path: Path) -> None:
    """`doubtful` keeps a small picture of what did not match, and of nothing else."""
    import sqlite3

    with serving(thumbnails="doubtful") as client:
        client.post(
            "/v1/audit", files=files(colours, "red", "blue"), data={"declared": ["red", "red"]}
        )
    with sqlite3.connect(tmp_path / "records.sqlite") as connection:
        rows = connection.execute("SELECT file_name, thumbnail FROM audits").fetchall()
    connection.close()
    kept = dict(rows)
    assert kept["red.png"] is None
    assert kept["blue.png"].startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("label", "unsure", "candidates", "verdict"),
    [
        ("a", False, ("a",), "match"),
        ("b", False, ("b",), "mismatch"),
        ("b", False, ("b", "a"), "unsure"),
        ("a", True, ("a", "b"), "unsure"),
        ("b", True, ("b",), "unsure"),
    ],
)
def test_only_a_sure_answer_decides(
    label: str, unsure: bool, candidates: tuple[str, ...], verdict: str
) -> None:
    """Matching and contradicting need an answer that is not unsure, and no doubt of the class."""
    answer = Prediction(
        "x", label, 0.9, unsure=unsure, candidates=candidates, reason="why" if unsure else None
    )
    assert judge(answer, "a").verdict == verdict


def test_a_form_is_as_good_as_its_worst_picture() -> None:
    """Mismatch, then unsure, then match."""
    assert of_all(["match", "unsure", "mismatch"]) == "mismatch"
    assert of_all(["match", "unsure"]) == "unsure"
    assert of_all(["match", "match"]) == "match"


def test_logs_are_json_lines() -> None:
    """A log line is one JSON object with the request's id, whatever stands in it; no secrets."""
    record = logging.LogRecord("tellapart.server", logging.INFO, "", 0, "request", (), None)
    record.request_id, record.path = "r1", '/a"\n{'
    line = JsonLines().format(record)
    assert "\n" not in line
    facts = json.loads(line)
    assert (facts["request_id"], facts["path"], facts["level"]) == ("r1", '/a"\n{', "info")
    record.msg = 'not fetched: "http://h/a.png?sig=hidden"'
    assert json.loads(JsonLines().format(record))["message"] == 'not fetched: "http://h/a.png?…"'


def test_openapi_describes_every_route(serving: Any) -> None:
    """The description names all routes, with examples; no page for it is served."""
    with serving() as client:
        described = client.get("/openapi.json").json()
        assert client.get("/docs").status_code == 404
    assert set(described["paths"]) == {
        *("/v1/predict", "/v1/audit", "/v1/audits", "/v1/audits/{id}"),
        *("/v1/audits/{id}/decision", "/v1/models", "/healthz", "/readyz", "/metrics"),
        *("/v1/audits/counts", "/v1/audits/{id}/thumbnail", "/v1/explain", "/v1/me", "/v1/watch"),
        *("/v1/models/{name}/learn", "/v1/builds", "/v1/builds/{id}", "/v1/builds/{id}/try"),
        *("/v1/builds/{id}/pictures", "/v1/builds/{id}/pictures/{picture}"),
        *("/v1/builds/{id}/classes", "/v1/builds/{id}/train", "/v1/builds/{id}/file"),
    }
    assert described["components"]["schemas"]["Answer"]["properties"]["file"]["examples"]


def test_a_broken_database_acknowledges_nothing(
    serving: Any, colours: Path, tmp_path: Path
) -> None:
    """Where a record cannot be written, the audit is not answered, and readiness says so."""
    import sqlite3

    with serving() as client:
        with sqlite3.connect(tmp_path / "records.sqlite") as connection:
            connection.execute("DROP TABLE audits")
        connection.close()
        failed = client.post("/v1/audit", files=files(colours, "red"), data={"declared": "red"})
        assert (failed.status_code, failed.json()["error"]) == (503, "no_records")
        assert str(tmp_path) not in failed.text
        assert isinstance(client.post("/v1/predict", files=files(colours, "red")), httpx.Response)
