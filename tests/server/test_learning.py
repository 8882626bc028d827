"""Reviews become a folder, the folder a better classifier, and pictures a new one: over HTTP."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tellapart.server.records import open_records
from tellapart.server.settings import Builds, Reviews
from tellapart.server.tokens import parse_tokens


def wait(ask: Callable[[], Any], until: Callable[[Any], bool], seconds: float = 240) -> Any:
    """Ask until the answer is as wanted."""
    end = time.monotonic() + seconds
    while True:
        found = ask()
        if until(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def audit(client: httpx.Client, path: Path, declared: str) -> dict[str, Any]:
    """Audit one picture; return what was said of it."""
    files = [("file", (path.name, path.read_bytes()))]
    answer = client.post("/v1/audit", files=files, data={"declared": declared})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["pictures"][0]
    return told


def decide(client: httpx.Client, id_: str, decision: str | None) -> httpx.Response:
    """Say what a picture shows."""
    return client.post(f"/v1/audits/{id_}/decision", json={"decision": decision})


def below(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


def test_decisions_file_and_move_pictures(serving: Any, colours: Path, tmp_path: Path) -> None:
    """A decision puts the picture under its class, another moves it, null and undo take it out."""
    folder = tmp_path / "reviews"
    with serving(reviews=Reviews(folder)) as client:
        told = audit(client, colours / "red.png", "blue")
        assert told["verdict"] != "match" and below(folder) == []
        assert client.get(f"/v1/audits/{told['id']}/thumbnail").status_code == 200
        record = client.get(f"/v1/audits/{told['id']}").json()
        name = f"{record['picture']}.png"
        assert decide(client, told["id"], "red").status_code == 200
        assert below(folder) == [f"red/{name}"]
        assert (folder / "red" / name).read_bytes() == (colours / "red.png").read_bytes()
        assert decide(client, told["id"], "a/new: class").status_code == 200
        assert below(folder) == [f"a_new_ class/{name}"]
        assert decide(client, told["id"], None).status_code == 200
        assert below(folder) == []
        # It waited nowhere any more, so there is nothing to file.
        assert decide(client, told["id"], "red").status_code == 200
        again = audit(client, colours / "red.png", "blue")
        decide(client, again["id"], "red")
        client.delete(f"/v1/audits/{again['id']}/decision")
        assert below(folder) == []
        decide(client, again["id"], "red")
        assert below(folder) == [f"red/{name}"]


def test_a_matching_picture_is_not_kept(serving: Any, colours: Path, tmp_path: Path) -> None:
    """Only doubtful pictures are kept for review, unless all are wanted."""
    folder = tmp_path / "reviews"
    for of, n in (("doubtful", 0), ("all", 1)):
        with serving(reviews=Reviews(folder, of)) as client:
            told = audit(client, colours / "red.png", "red")
            assert told["verdict"] == "match"
            decide(client, told["id"], "green")
            assert len(below(folder)) == n


def test_kept_files_are_bounded_and_deleted_with_their_records(
    serving: Any, colours: Path, tmp_path: Path, command: Any
) -> None:
    """Too many bytes: the oldest go. Deleting records deletes files, filed ones on request."""
    folder, url = tmp_path / "reviews", f"sqlite:///{tmp_path / 'records.sqlite'}"
    size = (colours / "red.png").stat().st_size
    records = open_records(url)
    records.keep({"a" * 32: b"x" * size, "b" * 32: b"y" * size})
    records.let_go(most=size)
    assert [records.original(one * 32) is not None for one in "ab"].count(True) == 1
    with serving(reviews=Reviews(folder)) as client:
        first = audit(client, colours / "red.png", "blue")
        second = audit(client, colours / "green.png", "blue")
        decide(client, first["id"], "red")
    assert len(below(folder)) == 1
    chosen = ("--database", url, "--reviews", folder, "--json")
    told = command("records", "delete", "--picture", colours / "red.png", *chosen)
    assert told.out == '{"n": 1, "deleted": true, "n_reviews": 1}\n'
    assert below(folder) == []
    picture = records.get(second["id"])["picture"]  # type: ignore[index]
    assert records.original(picture) is not None
    records.delete(picture=picture)
    assert records.original(picture) is None


@pytest.mark.slow
def test_learning_changes_the_answer(
    serving: Any, trained: Any, digits: Path, tmp_path: Path
) -> None:
    """Reviewed pictures of a new class are learned by a process, and the server answers by it."""
    model = Path(shutil.copy(trained.bundle, tmp_path / "m.tellapart"))
    folder = tmp_path / "reviews"
    tokens = parse_tokens("a admin aaaaaaaaaaaaaaaaaaaaaaaa\nr review rrrrrrrrrrrrrrrrrrrrrrrr", "")
    given = {"models": (model,), "reviews": Reviews(folder, "all"), "accept": None, "watch_s": 0.1}
    sevens = sorted((digits / "7").iterdir())
    with serving(**given, tokens=tokens) as client:
        client.headers["Authorization"] = "Bearer " + 24 * "r"
        for path in sevens[:6]:
            decide(client, audit(client, path, "1")["id"], "7")
        assert client.post("/v1/models/m/learn").status_code == 403
        client.headers["Authorization"] = "Bearer " + 24 * "a"
        stood = client.get("/v1/models/m/learn").json()
        assert stood["reviews"] == {"7": 6} and not stood["can_go_back"]
        assert client.post("/v1/models/m/learn").status_code == 202
        assert client.post("/v1/models/m/learn").json()["error"] == "busy_learning"

        def stands() -> Any:
            return client.get("/v1/models/m/learn").json()

        ended = wait(stands, lambda one: one["work"]["state"] != "running")
        assert ended["work"]["state"] == "done", ended
        assert ended["work"]["result"]["new_classes"] == ["7"]
        now = wait(stands, lambda one: one["version"] != stood["version"])
        assert now["can_go_back"]
        unseen = [("file", path.read_bytes()) for path in sevens[100:120]]
        answers = client.post("/v1/predict", files=unseen).json()["answers"]
        assert [one["label"] for one in answers].count("7") >= 12
        client.post("/v1/models/m/learn", json={"undo": True})
        wait(stands, lambda one: one["version"] == stood["version"])


def test_learning_says_what_is_wrong(serving: Any, format_1: Path, tmp_path: Path) -> None:
    """Without --reviews it is refused; what the command says is told; a process can be ended."""
    with serving() as client:
        name = client.get("/v1/models").json()[0]["name"]
        assert client.post(f"/v1/models/{name}/learn").json()["error"] == "no_reviews"
        assert client.post("/v1/models/other/learn").status_code == 404
        assert client.post("/v1/builds", json={"name": "x"}).json()["error"] == "no_builds"
    with serving(reviews=Reviews(tmp_path / "r"), learn_s=30) as client:
        client.post(f"/v1/models/{name}/learn")
        path = f"/v1/models/{name}/learn"
        ended = wait(lambda: client.get(path).json(), lambda one: one["work"]["state"] != "running")
        assert ended["work"]["state"] == "failed"
        assert "No pictures were found" in ended["work"]["error"]
        client.post(f"/v1/models/{name}/learn")
        client.delete(f"/v1/models/{name}/learn")
        ended = wait(lambda: client.get(path).json(), lambda one: one["work"]["state"] != "running")
        assert ended["work"]["state"] == "stopped"


def test_a_build_keeps_classes_and_pictures(serving: Any, colours: Path, tmp_path: Path) -> None:
    """Classes are there before their pictures; a moved or deleted picture leaves its class."""
    red = {"file": (colours / "red.png").read_bytes()}
    with serving(builds=Builds(tmp_path / "builds")) as client:
        assert client.get("/v1/me").json()["builds_days"] == 30
        path = f"/v1/builds/{client.post('/v1/builds', json={'name': 'x'}).json()['id']}"
        longest = "花" * 66
        for label in (longest, "red", "red"):
            made = client.post(f"{path}/classes", params={"label": label})
            assert made.status_code == 201
        for bad in (longest + "花", "Red", "a/b", " x"):
            refused = client.post(f"{path}/classes", params={"label": bad}).json()
            assert refused["error"] == "bad_label"
        assert (
            "at most 200 bytes (66 Chinese characters)"
            in client.post(f"{path}/classes", params={"label": longest + "花"}).json()["message"]
        )
        for label in ("red", longest):
            told = client.post(f"{path}/pictures", params={"label": label}, files=red).json()
        held = {one["label"]: len(one["pictures"]) for one in told["build"]["classes"]}
        assert held == {"red": 0, longest: 1}
        place = f"{path}/pictures/{told['added'][0]}"
        small = client.get(place)
        assert (small.headers["content-type"], small.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
        assert client.post(f"{path}/train").json()["error"] == "too_few_classes"
        assert len(client.delete(place).json()["classes"]) == 2
        assert client.get(place).json()["error"] == "unknown_picture"
        assert client.delete(f"{path}/train").json()["work"] is None


@pytest.mark.slow
def test_a_classifier_is_built(serving: Any, small: Path, tmp_path: Path, trained: Any) -> None:
    """Two classes of pictures are sent, trained, tried, fetched and deleted."""
    builds = tmp_path / "builds"
    with serving(builds=Builds(builds, most=1)) as client:
        made = client.post("/v1/builds", json={"name": "Noughts: ones"}).json()
        path = f"/v1/builds/{made['id']}"
        assert client.post("/v1/builds", json={"name": "b"}).json()["error"] == "too_many"
        assert client.post(f"{path}/train").json()["error"] == "too_few_classes"
        for label in ("0", "1"):
            pictures = [("file", one.read_bytes()) for one in sorted((small / label).iterdir())]
            added = client.post(f"{path}/pictures", params={"label": label}, files=pictures).json()
            assert len(added["added"]) == 20 and not added["left_out"]
        sent = client.post(f"{path}/pictures", params={"label": "1"}, files={"file": b"no"}).json()
        assert len(sent["left_out"]) == 1
        for bad in ("../0", "a/b", ".x", "CON"):
            answer = client.post(f"{path}/pictures", params={"label": bad}, files={"file": b"no"})
            assert answer.json()["error"] == "bad_label"
        gone = added["added"][0]
        assert len(client.delete(f"{path}/pictures/{gone}").json()["classes"][1]["pictures"]) == 19
        assert client.get(f"{path}/file").status_code == 404
        assert client.post(f"{path}/train").status_code == 202
        ended = wait(lambda: client.get(path).json(), lambda one: one["work"]["state"] != "running")
        assert ended["work"]["state"] == "done" and ended["has_file"], ended
        model = client.post(f"{path}/try").json()["model"]
        # It is its maker's: nobody else is offered it.
        assert model not in client.get("/v1/models").text
        assert model not in client.get("/v1/watch").text
        asked = {"file": sorted((small / "0").iterdir())[0].read_bytes()}
        said = client.post("/v1/predict", params={"model": model}, files=asked).json()
        assert said["answers"][0]["label"] == "0"
        fetched = client.get(f"{path}/file")
        assert fetched.content[:2] == b"PK"
        assert "Noughts_ ones.tellapart" in httpx.Headers(fetched.headers)[
            "content-disposition"
        ].replace("%20", " ")
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404
        assert client.post("/v1/predict", params={"model": model}, files=asked).status_code == 404
        assert list(builds.iterdir()) == []
