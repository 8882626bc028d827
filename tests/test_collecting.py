"""Collecting pictures: lists, searches, repeats, kills; and URLs in other commands' tables."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from tellapart.data.catalog import scan
from tellapart.data.fetching import Fetcher, Limits
from tellapart.data.reading import DataSource, read_catalog
from tellapart.errors import BadCollection, BadTable, NothingFetched, SearchFailed
from tellapart.pipeline.collecting import COLUMNS, collect, collect_search
from tellapart.progress import Progress

Command = Callable[..., Any]
QUICK = Limits(pause_s=0, retry_s=0.01, read_s=2, size_mb=1)


def fast() -> Fetcher:
    """A fetcher that may ask this machine, without pauses."""
    return Fetcher(QUICK, allow_private=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Forty pictures, all different."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number in range(40):
        colour = (6 * number, 255 - 5 * number, 90 if number % 2 else 200)
        Image.new("RGB", (40, 30), colour).save(folder / "a.png")
        made.append((folder / "a.png").read_bytes())
    return made


def rows_of(into: Path) -> list[dict[str, str]]:
    """The rows of a collection's table."""
    with (into / "collected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files_of(into: Path) -> list[str]:
    """All files that lie in a collection, but those of its bookkeeping."""
    known = {"collected.csv", ".collected.jsonl", ".collected.lock"}
    files = (path for path in into.rglob("*") if path.is_file())
    return sorted(str(one.relative_to(into)) for one in files if one.name not in known)


def wait_for(into: Path, n: int) -> None:
    """Wait until so many whole pictures lie in a collection."""
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(into.rglob("[!.]*.png"))) < n:
        time.sleep(0.01)


def listed(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def after(folder: Path, data: bytes) -> Callable[[Any], None]:
    """Serve a picture once its twin lies in that folder: two at a time may overtake each other."""

    def answer(handler: Any) -> None:
        give_up = time.monotonic() + 10
        while not any(folder.glob("*")) and time.monotonic() < give_up:
            time.sleep(0.01)
        handler.send(data)

    return answer


def test_a_list_into_class_folders(
    web: Any, pictures: list[bytes], tmp_path: Path, command: Command
) -> None:
    """New ones, repeats and refusals are told apart; author and licence go along."""
    jpeg, into = tmp_path / "x.jpg", tmp_path / "into"
    Image.new("RGB", (64, 48), (9, 99, 199)).save(jpeg)
    web.pages |= {
        "/a.jpg": pictures[0],
        "/b": pictures[1],
        "/same.png": after(into / "red", pictures[0]),
        "/other.png": after(into / "blau ü", pictures[1]),
        "/Katze%20%C3%BC.png": jpeg.read_bytes(),
        "/page.jpg": b"<!doctype html><title>Not here</title>",
        "/lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "/empty.jpg": b"",
        "/cut.jpg": jpeg.read_bytes()[:-100],
        "/large.jpg": bytes(200_000),
    }
    table = listed(
        tmp_path / "list.csv",
        "url,label,creator,license,note",
        f"{web.url}/a.jpg,red,Ann,CC BY 4.0,x",
        f"{web.url}/b,blau ü,Bob,,",
        f"{web.url}/same.png,red,Cid,,",
        f"{web.url}/other.png,red,,,",
        f"{web.url}/Katze ü.png,red,,,",
        *(f"{web.url}/{name}.jpg,red,,," for name in ("page", "lfs", "empty", "cut", "large")),
        f"{web.url}/gone.jpg,red,,,",
        "http://[::ffff:7f00:1]:9/x.jpg,red,,,",
    )
    how = ("--allow-private", "--pause", "0", "--max-mb", "0.1")
    run = command("collect", table, into, *how)
    assert run.code == 0, run.err
    assert run.err.splitlines()[0] == (
        f"{table}: 12 rows, path from 'url', label from 'label' (not used: 'note'); with each "
        f"picture: author, licence."
    )
    lines = run.out.splitlines()
    assert lines[0] == "New            3  (blau ü 1, red 2)"
    assert lines[1] == "Repeats        2  (the same bytes as another picture)"
    assert lines[2].startswith(f"    in another class: {web.url}/other.png is blau ü/")
    assert lines[3:5] == ["Refused        7", "    4 x not a picture, such as"]
    assert {line.strip() for line in lines[4:] if " x " in line} == {
        "4 x not a picture, such as",
        "1 x too large, such as",
        "1 x gone, such as",
        "1 x unreachable, such as",
    }
    assert f"        {web.url}/gone.jpg answers 404 Not Found" in lines
    assert lines[-1] == f"Sources and licences: {into}/collected.csv"
    rows = {row["url"]: row for row in rows_of(into)}
    assert list(rows) and list(next(iter(rows.values()))) == list(COLUMNS)
    first = rows[f"{web.url}/a.jpg"]
    assert (first["label"], first["author"], first["licence"]) == ("red", "Ann", "CC BY 4.0")
    # The suffix is the content's; nothing of the server's names is in the file's.
    assert first["path"].endswith(".png")
    assert rows[f"{web.url}/Katze ü.png"]["path"].endswith(".jpg")
    assert (into / first["path"]).read_bytes() == pictures[0]
    assert files_of(into) == sorted(row["path"] for row in rows.values())
    assert len(scan(into)) == len(read_catalog(into / "collected.csv")) == 3


def test_again_loads_nothing(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """A second run asks only for what was refused; what the user took away stays away."""
    web.pages |= {f"/{number}": pictures[number] for number in range(4)} | {"/copy": pictures[0]}
    names = (*range(4), "copy", "late")
    table = listed(tmp_path / "list.txt", *(f"{web.url}/{name} red" for name in names))
    into = tmp_path / "into"
    done = collect(DataSource(table), into, fetcher=fast())
    assert (done.n_new, len(done.repeats), list(done.refused)) == (4, 1, [f"{web.url}/late"])
    asked = len(web.asked)
    removed, moved = rows_of(into)[:2]
    (into / removed["path"]).unlink()
    (into / "blue").mkdir()
    (into / moved["path"]).rename(into / "blue" / "mine.png")
    web.pages["/late"] = pictures[9]
    done = collect(DataSource(table), into, fetcher=fast())
    assert web.asked[asked:] == ["/late"]
    gone = 2 if removed["url"].endswith("/0") else 1  # Its copy is the same picture.
    assert (done.n_new, done.n_there, done.n_removed) == (1, 5 - gone, gone)
    rows = {row["url"]: row for row in rows_of(into)}
    # The table tells where pictures lie now, and what the user made of them.
    assert removed["url"] not in rows
    assert (rows[moved["url"]]["path"], rows[moved["url"]]["label"]) == ("blue/mine.png", "blue")
    # The table alone is enough to go on from, as in a folder that was copied without hidden files.
    (into / ".collected.jsonl").unlink()
    asked = len(web.asked)
    collect(DataSource(table), into, fetcher=fast())
    assert f"/{rows[moved['url']]['url'].rpartition('/')[2]}" not in web.asked[asked:]


def test_what_lies_there_already(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """Pictures of the user's own count as well: their bytes are not added a second time."""
    into = tmp_path / "into"
    (into / "red").mkdir(parents=True)
    (into / "red" / "own.png").write_bytes(pictures[0])
    web.pages |= {"/0": pictures[0], "/1": pictures[1]}
    table = listed(tmp_path / "list.txt", f"{web.url}/0 red", f"{web.url}/1 red")
    done = collect(DataSource(table), into, fetcher=fast())
    assert files_of(into)[-1] == "red/own.png"
    assert len(files_of(into)) == 2
    # It is told where the user's own picture can be found on the network.
    assert {row["path"] for row in rows_of(into)} == set(files_of(into))
    assert done.n_new == 2


def test_splits_and_groups(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """A column of splits becomes folders above the classes, one of groups stays in the table."""
    web.pages |= {f"/{number}.png": pictures[number] for number in range(8)}
    table = listed(
        tmp_path / "list.csv",
        "file;kind;part;patient",
        *(
            f"{number}.png;{'ab'[number % 2]};{'val' if number > 5 else 'training'};{number // 2}"
            for number in range(8)
        ),
    )
    columns = {"label": "kind", "split": "part", "group": "patient"}
    into = tmp_path / "into"
    done = collect(DataSource(table, f"{web.url}/", columns), into, fetcher=fast())
    assert done.n_new == 8
    assert scan(into).counts() == {"train": [3, 3], "valid": [1, 1]}
    catalog = read_catalog(into / "collected.csv")
    assert catalog.counts() == {"train": [3, 3], "valid": [1, 1]}
    assert set(catalog.groups.tolist()) == {"0", "1", "2", "3"}
    # A collection is a list itself, for others to collect.
    again = collect(DataSource(into / "collected.csv"), tmp_path / "2", fetcher=fast())
    assert again.n_new == 8
    assert files_of(tmp_path / "2") == files_of(into)


def test_killed_and_resumed(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """A killed run goes on: whole files only, and nothing that had come is asked for again."""

    def slow(data: bytes) -> Callable[[Any], None]:
        return lambda handler: (time.sleep(0.05), handler.send(data))

    web.pages |= {f"/{number}": slow(data) for number, data in enumerate(pictures)}
    table = listed(tmp_path / "list.txt", *(f"{web.url}/{n} red" for n in range(len(pictures))))
    into = tmp_path / "into"
    args = ["collect", table, into, "--allow-private", "--pause", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tellapart", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(into, 8)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [name for name in files_of(into) if not name.endswith(".part")]
    assert 8 <= len(kept) < len(pictures)
    assert {(into / name).read_bytes() for name in kept} <= set(pictures)
    # Half a line and half a file, as a kill can leave them.
    with (into / ".collected.jsonl").open("a", encoding="utf-8") as memory:
        memory.write('{"url": "http')
    (into / "red" / f".{'0' * 20}.png.{'0' * 8}.part").write_bytes(pictures[0][:9])
    asked = web.asked.copy()
    done = collect(DataSource(table), into, fetcher=fast())
    assert done.n_new + done.n_there == len(pictures)
    assert {(into / name).read_bytes() for name in files_of(into)} == set(pictures)
    assert len(files_of(into)) == len(rows_of(into)) == len(pictures)
    # Two were on their way when it was killed, and one file may not have been written down yet.
    assert len(set(asked) & set(web.asked[len(asked) :])) <= 3


def test_ctrl_c_writes_the_table(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """An interrupted run says that it goes on, and its table is there at once."""
    web.pages |= {
        f"/{number}": lambda handler, data=data: (time.sleep(0.05), handler.send(data))
        for number, data in enumerate(pictures)
    }
    table = listed(tmp_path / "list.txt", *(f"{web.url}/{n} red" for n in range(len(pictures))))
    into = tmp_path / "into"
    args = ["collect", table, into, "--allow-private", "--pause", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tellapart", *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(into, 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.endswith("what was computed is kept: the same command goes on from there.\n")
    assert len(rows_of(into)) == len(files_of(into)) >= 5


def test_two_runs_at_once(web: Any, pictures: list[bytes], tmp_path: Path) -> None:
    """A second run into the same folder is refused while the first one works."""
    refused = []

    def page(handler: Any) -> None:
        try:
            collect(DataSource(table), tmp_path / "into", fetcher=fast())
        except BadCollection as error:
            refused.append(str(error))
        handler.send(pictures[0])

    web.pages["/0"] = page
    table = listed(tmp_path / "list.txt", f"{web.url}/0 red")
    collect(DataSource(table), tmp_path / "into", fetcher=fast())
    assert refused == [
        f"Another run is collecting into {tmp_path}/into. Expected one at a time. Nothing was "
        f"fetched. Wait for it, or collect into another folder."
    ]


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        (
            ["http://h/1 ..", "http://h/2 a/b", "http://h/3 ok"],
            BadCollection,
            "2 classes cannot be names of folders: '..', 'a/b'. Expected names that every system "
            'takes: without / \\ : * ? " < > |, no dot at either end. Nothing was fetched. Rename '
            "them.",
        ),
        (
            ["http://h/1 Cat", "http://h/2 cat"],
            BadCollection,
            "Some class names differ only in case or in how accents are written: 'Cat' and 'cat' "
            "(among the folders of INTO as well). They may be one class or two. Nothing was "
            "fetched. Write them alike.",
        ),
        (
            ["a/1.jpg red", "http://h/2 red"],
            BadTable,
            "LIST has 1 rows that name no URL: line 1 (HERE/a/1.jpg). Expected http or https. "
            "Nothing was fetched. Say where they start with --root https://…, or choose the column "
            "with --data path=COLUMN.",
        ),
        (
            ["ftp://h/1.jpg red", "http://h/2"],
            BadTable,
            "LIST has 1 lines that are not one path and one label: line 2: 'http://h/2'. Expected "
            "the path of a picture, white space and its label, or a tab between them. Nothing was "
            "read. Correct them; where the class lies in the path, say how with --data pattern=….",
        ),
        (
            ["ftp://h/1.jpg red"],
            BadTable,
            "LIST has 1 rows that cannot be used: line 1 names a URL of a kind that is not known: "
            "download it first. Nothing was read. Correct them, or choose other columns with "
            "--data label=COLUMN or --data split=COLUMN (--data split= takes none).",
        ),
    ],
)
def test_lists_that_will_not_do(
    rows: list[str], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    """They are refused before anything is asked for, all rows of a kind at once."""
    table = listed(tmp_path / "list.txt", *rows)
    into = tmp_path / "into"
    with pytest.raises(kind) as error:
        collect(DataSource(table), into, fetcher=fast())
    shown = str(error.value).replace(str(table), "LIST").replace(str(into), "INTO")
    assert shown.replace(str(Path.cwd()), "HERE") == said
    assert not into.exists()


def test_a_class_that_is_there_in_another_case(tmp_path: Path) -> None:
    """A folder that some systems take for the same one is named."""
    (tmp_path / "into" / "CAT").mkdir(parents=True)
    table = listed(tmp_path / "list.txt", "http://h/1 cat")
    with pytest.raises(BadCollection, match="'CAT' and 'cat'"):
        collect(DataSource(table), tmp_path / "into", fetcher=fast())


def test_nothing_came(web: Any, tmp_path: Path, command: Command) -> None:
    """Where not one picture came, that is an error of its own, behind the whole summary."""
    table = listed(tmp_path / "list.txt", f"{web.url}/1 red", f"{web.url}/2 red")
    run = command("collect", table, tmp_path / "into", "--json", "-q")
    assert run.code == 100
    facts = json.loads(run.out)
    assert (facts["n_new"], facts["n_refused"]) == (0, 2)
    assert [one["kind"] for one in facts["refused"]] == ["address", "address"]
    reason = "leads to 127.0.0.1, which belongs to this machine or to a private network"
    assert run.err == (
        f"tellapart: Not one of 2 pictures came: 2 x address ({web.url}/1 {reason}; {web.url}/2 "
        f"{reason}). Nothing was added to {tmp_path}/into. Check the URLs and the network; "
        f"addresses of this machine and of private networks are asked only with "
        f"--allow-private.\n"
    )
    assert web.asked == []


@pytest.mark.parametrize(
    "args",
    [
        ["LIST"],
        ["LIST", "into", "--search", "x", "--class", "y"],
        ["into", "--search", "x"],
        ["into", "--search", " ", "--class", "y"],
        ["LIST", "into", "--class", "y"],
        ["LIST", "into", "--count", "5"],
        ["into", "--search", "x", "--class", "y", "--root", "/"],
        ["into", "--search", "x", "--class", "y", "--count", "241"],
    ],
)
def test_wrong_command_lines(args: list[str], command: Command) -> None:
    """What would have no effect is refused."""
    assert command("collect", *args).code == 2


class Openverse:
    """Openverse's interface over HTTP: pages, licences, limits and errors, as it documents them."""

    def __init__(self, web: Any, pictures: list[bytes], n: int) -> None:
        self.web, self.n = web, n
        self.asked: list[dict[str, str]] = []
        self.throttled = 0
        self.retry_after = "1"
        web.pages |= {f"/full/{number}.jpg": pictures[number] for number in range(n)}
        web.pages["/v1/images/"] = self.page

    def page(self, handler: Any) -> None:
        query = {key: one[0] for key, one in parse_qs(urlsplit(handler.path).query).items()}
        self.asked.append(query)
        size, page = int(query["page_size"]), int(query["page"])
        if self.throttled:
            self.throttled -= 1
            said = {"detail": "Request was throttled. Expected available in 1 second."}
            self.answer(handler, said, 429, Retry_After=self.retry_after)
        elif size > 20:
            self.answer(handler, {"detail": "page_size may not exceed 20"}, 401)
        elif query.get("license") == "none":
            self.answer(handler, {"detail": {"license": ["License 'none' does not exist."]}}, 400)
        else:
            numbers = range(self.n)[size * (page - 1) : size * page]
            facts = {"result_count": self.n, "page_count": -(-self.n // size), "page_size": size}
            works = [self.work(number) for number in numbers]
            self.answer(handler, facts | {"page": page, "results": works})

    def work(self, number: int) -> dict[str, Any]:
        return {
            "id": f"id-{number}",
            "title": f"Red car,\n {number}",
            "url": f"{self.web.url}/full/{number}.jpg",
            "foreign_landing_url": f"https://photos.example/{number}",
            "creator": None if number == 3 else f"Ann {number}",
            "creator_url": "https://photos.example/ann",
            "license": "cc0" if number == 1 else "by-sa",
            "license_version": "1.0" if number == 1 else "2.0",
            "license_url": "https://creativecommons.org/licenses/by-sa/2.0/",
            "provider": "flickr",
            "source": "flickr",
            "attribution": f'"Red car" by Ann {number} is licensed under CC BY-SA 2.0.',
            "mature": False,
        }

    def answer(self, handler: Any, facts: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(facts).encode()
        handler.send(body, status, Content_Type="application/json", **headers)


@pytest.fixture
def openverse(web: Any, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Openverse:
    """A stand-in for Openverse that finds 30 pictures."""
    monkeypatch.setenv("TELLAPART_OPENVERSE", f"{web.url}/v1/")
    return Openverse(web, pictures, 30)


def searched(into: Path, count: int = 30, words: str = "red cars", **options: Any) -> Any:
    """Collect what a search for cars finds."""
    how = {"fetcher": fast(), "searcher": fast()} | options
    return collect_search(words, "cars", count, into, **how)


def test_a_search(openverse: Openverse, tmp_path: Path, command: Command) -> None:
    """As many as were wanted come, each with what names its author, source and licence."""
    into = tmp_path / "into"
    run = command(
        "collect", into, "--search", "red cars", "--class", "cars", "--count", "5",
        "--licence", "by-sa,cc0", "--allow-private", "--pause", "0", "--contact", "me@e.org",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert run.err == "Searching Openverse for 'red cars': 5 pictures for cars.\n"
    assert run.out.splitlines()[0] == "New            5  (cars 5)"
    assert openverse.asked == [
        {"q": "red cars", "page": "1", "page_size": "20", "license": "by-sa,cc0"}
    ]
    assert len([path for path in openverse.web.asked if path.startswith("/full")]) == 5
    assert "me@e.org" in openverse.web.headers[0]["User-Agent"]
    row = {one["url"].rpartition("/")[2]: one for one in rows_of(into)}
    path, digest = row["0.jpg"].pop("path"), row["0.jpg"].pop("digest")
    assert path == f"cars/{digest[:20]}.png"
    assert row["0.jpg"] == {
        "label": "cars",
        "split": "",
        "group": "",
        "url": f"{openverse.web.url}/full/0.jpg",
        "source": "flickr",
        "page": "https://photos.example/0",
        "title": "Red car, 0",
        "author": "Ann 0",
        "author_url": "https://photos.example/ann",
        "licence": "CC BY-SA 2.0",
        "licence_url": "https://creativecommons.org/licenses/by-sa/2.0/",
        "attribution": '"Red car" by Ann 0 is licensed under CC BY-SA 2.0.',
        "search": "red cars",
    }
    assert row["1.jpg"]["licence"] == "CC0 1.0"
    assert row["3.jpg"]["author"] == ""


def test_a_search_goes_on(openverse: Openverse, tmp_path: Path) -> None:
    """The wanted number counts what is there; further pages are asked for, and nothing twice."""
    into = tmp_path / "into"
    assert searched(into, 5).n_new == 5
    assert searched(into, 5).notes == ["5 pictures of this search were there already."]
    openverse.web.pages["/full/7.jpg"] = b"<html>"
    done = searched(into, 28)
    assert (done.n_new, len(done.refused), done.n_there) == (23, 1, 5)
    loaded = [path for path in openverse.web.asked if path.startswith("/full")]
    assert len(loaded) == len(set(loaded)) == 29
    assert [one["page"] for one in openverse.asked] == ["1", "1", "2"]
    done = searched(into, 40)
    assert (done.n_new, done.notes) == (1, ["The search found no more: 11 of 40 are missing."])


def test_a_search_that_is_throttled(openverse: Openverse, tmp_path: Path) -> None:
    """What it asks to wait is waited; where that is long, the search ends and says so."""
    openverse.throttled = 1
    start = time.monotonic()
    assert searched(tmp_path / "into", 3).n_new == 3
    assert time.monotonic() - start > 0.9
    openverse.throttled, openverse.retry_after = 9, "30000"
    with pytest.raises(SearchFailed) as error:
        searched(tmp_path / "into", 30)
    assert str(error.value) == (
        f"The search for 'red cars' failed: {openverse.web.url}/v1/images/?q=red+cars&page=1"
        f"&page_size=20 answers 429 Too Many Requests, come back in 30000 s (Request was "
        f"throttled. Expected available in 1 second.). What was collected until then is kept. It "
        f"limits how often it is asked; the same command goes on later."
    )
    assert len(rows_of(tmp_path / "into")) == 3


def test_a_search_that_fails(openverse: Openverse, tmp_path: Path, command: Command) -> None:
    """Refusals come with the reason that was given; other answers are called what they are."""
    with pytest.raises(SearchFailed) as error:
        searched(tmp_path / "into", licences="none")
    assert """answers 400 Bad Request ({"license": ["License 'none' does not""" in str(error.value)
    assert str(error.value).endswith("is kept. Change --search or --licence.")
    for body in (b"<html>", b'{"results": {}}', b'{"results": [1], "page_count": 1}', b"[]"):
        openverse.web.pages["/v1/images/"] = body
        with pytest.raises(SearchFailed, match="does not answer as Openverse does"):
            searched(tmp_path / "into")
    run = command("collect", tmp_path / "into", "--search", "x", "--class", "cars")
    assert run.code == 101
    assert "belongs to this machine or to a private network" in run.err


def test_urls_that_a_search_lies_about(openverse: Openverse, tmp_path: Path) -> None:
    """A result without a URL is passed over; names and labels of a server make no file names."""
    works = [openverse.work(0), openverse.work(1), openverse.work(2)]
    works[0]["url"] = None
    works[1]["url"] = f"{openverse.web.url}/..%2f..%2f/etc/passwd"
    openverse.web.pages["/..%2f..%2f/etc/passwd"] = openverse.web.pages["/full/1.jpg"]
    openverse.web.pages["/v1/images/"] = json.dumps({"results": works, "page_count": 1}).encode()
    assert searched(tmp_path / "into" / "deep").n_new == 2
    assert {path.parts[-2] for path in tmp_path.rglob("*.png")} == {"cars"}


@pytest.fixture
def urls(web: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small digits as a table of URLs, in a cache that holds none of them."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    real = Path(os.environ["TELLAPART_CACHE"])
    cache = tmp_path / "cache"
    cache.mkdir()
    # Exported networks are shared with the other tests.
    (real / "backbones").mkdir(exist_ok=True)
    (cache / "backbones").symlink_to(real / "backbones")
    monkeypatch.setenv("TELLAPART_CACHE", str(cache))
    lines = ["image,label"]
    # Eight a class, since one host is asked five times a second at most.
    for path in (one for name in "012" for one in sorted((small / name).iterdir())[:8]):
        web.pages[f"/set/{path.parent.name}/{path.name}"] = path.read_bytes()
        lines.append(f"{path.parent.name}/{path.name},{path.parent.name}")
    return listed(tmp_path / "urls.csv", *lines)


@pytest.mark.slow
def test_a_table_of_urls_from_training_to_answers(
    urls: Path, web: Any, tmp_path: Path, command: Command
) -> None:
    """`train`, `evaluate` and `predict` take URLs; each is fetched once, and known by its URL."""
    root = f"{web.url}/set"
    bundle = tmp_path / "d.tellapart"
    run = command("train", urls, "-o", bundle, "--recipe", "fast", "--root", root)
    assert run.code == 0, run.err
    assert run.err.splitlines()[:2] == [
        f"{urls}: 24 rows, path from 'image', label from 'label'; paths start at {root}/.",
        f"{urls}: 24 of 24 URLs are kept in the cache.",
    ]
    facts = json.loads(command("evaluate", bundle, urls, "--root", root, "--json").out)
    assert facts["n"] == 24
    first = next(web.url + path for path in sorted(web.pages) if "/0/" in path)
    table = listed(tmp_path / "some.csv", "url", first, f"{web.url}/gone.png")
    out = command("predict", bundle, table, first, "--json", "-q").out
    answers = [json.loads(line) for line in out.splitlines()]
    assert [one["path"] for one in answers] == [first, f"{web.url}/gone.png", first]
    assert answers[0]["label"] == answers[2]["label"] == "0"
    assert answers[1]["error"] == "answers 404 Not Found"
    assert len(web.asked) == 25
    items = json.loads(command("cache", "--json").out)["items"]
    assert [one["about"] for one in items if one["kind"] == "fetched"] == ["127.0.0.1"]


def test_urls_that_do_not_come(urls: Path, web: Any) -> None:
    """They are named in one message and set aside; where none comes, that is an error."""
    for path in sorted(path for path in web.pages if "/1/" in path)[:2]:
        del web.pages[path]
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    catalog = read_catalog(DataSource(urls, f"{web.url}/set"), Heard())
    assert len(catalog) == 22
    aside = [one.path for one in catalog.set_aside]
    assert len(aside) == 2
    assert said[2] == (
        f"2 of 24 URLs in {urls} did not give a picture: 2 x gone ({aside[0]} answers 404 Not "
        f"Found; {aside[1]} answers 404 Not Found). They are set aside. Repeat the command to ask "
        f"for them again; what came is kept. Addresses of this machine and of private networks are "
        f"asked only with TELLAPART_ALLOW_PRIVATE=1."
    )
    with pytest.raises(NothingFetched, match=r"24 of 24 URLs in .* Nothing was read\. Check"):
        read_catalog(DataSource(urls, f"{web.url}/elsewhere"))
