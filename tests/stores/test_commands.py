"""The commands on addresses of stores and on shards: as on folders of this machine."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tellapart.data import stored
from tellapart.data.pixels import read_file
from tellapart.data.reading import DataSource
from tellapart.data.stored import kept_copies
from tellapart.pipeline.features import find_similar, write_features
from tellapart.stores import asking


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the rows of a CSV of answers by the name of the picture."""
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return {row[0].rpartition("/")[2].rpartition("#")[2]: row[1:] for row in rows}


def asked_for(store: Any, ending: str) -> list[str]:
    """Return the questions for bytes of files with an ending."""
    return [one for one in store.line.asked if one.startswith("GET") and f"{ending} " in one]


@pytest.fixture
def shard(small: Path) -> bytes:
    """The small digits as a tar of class folders, dealt out as one would: not by class."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(small.rglob("*.png"), key=lambda one: one.name[::-1]):
            tar.add(path, path.relative_to(small).as_posix())
    return file.getvalue()


def test_train_evaluate_and_predict_in_a_store(
    store: Any, trained: Any, command: Callable[..., Any], own_runs: Path
) -> None:
    """Pictures, classifier, report and answers lie there; the numbers are those of here."""
    photos = store.put_folder(trained.data, "photos")
    bundle = f"{store.address}/made/digits.tellapart"
    done = command("train", photos, "-o", bundle, "--recipe", "fast", "--json", "--quiet")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["bundle"] == bundle
    assert facts["report"] == f"{store.address}/made/digits-report.html"
    assert facts["accuracy"] == trained.facts["accuracy"]
    assert facts["n_computed"] == 0  # What is frozen was computed from the same bytes before.
    assert store.names("made/") == ["made/digits-report.html", "made/digits.tellapart"]
    assert store.uploads() == []

    store.line.asked.clear()
    scored = command("evaluate", bundle, photos, "--json", "--quiet")
    assert scored.code == 0, scored.err
    here = command("evaluate", trained.bundle, trained.data, "--json", "--quiet")
    assert json.loads(scored.out)["accuracy"] == json.loads(here.out)["accuracy"]

    out = f"{store.address}/answers.csv"
    said = command("predict", bundle, photos, "--out", out, "--quiet")
    assert said.code == 0, said.err
    local = command("predict", trained.bundle, trained.data, "--csv", "--quiet")
    assert rows_of(store.get("answers.csv").decode()) == rows_of(local.out)
    refused = command("predict", bundle, photos, "--out", out, "--quiet")
    assert refused.code == 76


def test_pictures_that_stayed_are_not_asked_for_again(store: Any, small: Path) -> None:
    """The store's list says which are as they were; one that changed is read again."""
    from tellapart.data.reading import read_catalog

    photos = store.put_folder(small, "photos")
    first = read_catalog(photos)
    assert len(asked_for(store, ".png")) == len(first)
    store.line.asked.clear()
    again = read_catalog(photos)
    assert again.digests.tolist() == first.digests.tolist()
    assert asked_for(store, ".png") == []
    assert str(again.root) == photos
    name = str(first.paths[0]).removeprefix(f"{store.address}/")
    store.put(name, store.get(name) + b"more")
    changed = read_catalog(photos)
    assert [one for one in store.line.asked if name in one and one.startswith("GET")] != []
    assert (changed.digests != first.digests).sum() == 1


def test_each_picture_is_asked_for_once(
    store: Any, colours: Path, own_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes serve for its hash and for every look of a run, where the disk has room for them.

    After the run the store is asked again: what lies there may be another picture by then.
    """

    def new(shade: int) -> str:
        for name in ("a", "b"):
            image = Image.new("RGB", (40, 40), (shade, 40, ord(name)))
            image.save(own_runs.parent / "x.png")
            store.put(f"photos-{shade}/{name}.png", (own_runs.parent / "x.png").read_bytes())
        store.line.asked.clear()
        return f"{store.address}/photos-{shade}"

    photos = new(1)
    write_features(DataSource(photos), own_runs.parent / "a.npz")
    for name in ("a", "b"):
        assert len(asked_for(store, f"{name}.png")) == 1
    assert read_file(f"{photos}/a.png") == store.get("photos-1/a.png")
    assert len(asked_for(store, "a.png")) == 2
    photos = new(3)
    find_similar([f"{photos}/a.png"], photos, top=1)
    assert [len(asked_for(store, f"{name}.png")) for name in "ab"] == [1, 1]
    monkeypatch.setattr(stored, "MOST_COPIED_BYTES", len(store.get("photos-1/a.png")) + 1)
    photos = new(2)
    write_features(DataSource(photos), own_runs.parent / "b.npz")
    assert sorted(len(asked_for(store, f"{name}.png")) for name in "ab") == [1, 2]


def test_a_full_disk_keeps_no_half_copies(
    store: Any, own_runs: Path, limited_file_size: Callable[..., Any]
) -> None:
    """What was not kept whole is asked for again, and is whole."""
    first = store.put("a.png", b"a" * 600)
    second = store.put("b.png", b"b" * 600)
    with kept_copies():
        with limited_file_size(1000):
            assert (read_file(first), read_file(second)) == (b"a" * 600, b"b" * 600)
        store.line.asked.clear()
        assert (read_file(first), read_file(second)) == (b"a" * 600, b"b" * 600)
    assert (len(asked_for(store, "a.png")), len(asked_for(store, "b.png"))) == (0, 1)


def test_shards_in_a_store(
    store: Any, trained: Any, shard: bytes, command: Callable[..., Any], own_runs: Path
) -> None:
    """Training, scoring and predicting from a tar give what the folder gave."""
    address = store.put("digits-000.tar", shard)
    bundle = own_runs.parent / "a.tellapart"
    done = command(
        "train", f"{store.address}/digits-{{000..000}}.tar", "-o", bundle, "--recipe", "fast",
        "--json", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert (facts["accuracy"], facts["n_computed"]) == (trained.facts["accuracy"], 0)
    scored = command("evaluate", trained.bundle, address, "--json", "--quiet")
    here = command("evaluate", trained.bundle, trained.data, "--json", "--quiet")
    assert json.loads(scored.out)["accuracy"] == json.loads(here.out)["accuracy"]
    said = command("predict", trained.bundle, address, "--csv", "--quiet")
    local = command("predict", trained.bundle, trained.data, "--csv", "--quiet")
    assert {name.rpartition("/")[2]: row for name, row in rows_of(said.out).items()} == rows_of(
        local.out
    )


def test_parts_in_a_store_are_gone_on_with(
    store: Any, format_1: Path, colours: Path, command: Callable[..., Any]
) -> None:
    """Each part is whole; --resume skips what they hold."""
    photos = store.put_folder(colours, "photos")
    out = f"{store.address}/answers"
    first = command("predict", format_1, f"{photos}/red.png", "--out", out, "--json", "--quiet")
    assert first.code == 0, first.err
    again = command("predict", format_1, photos, "--out", out, "--resume", "--json", "--quiet")
    assert again.code == 0, again.err
    facts = json.loads(again.out)
    assert (facts["n"], facts["n_held"]) == (4, 1)
    assert store.names("answers/") == ["answers/part-00000.parquet", "answers/part-00001.parquet"]
    parts = [pq.read_table(io.BytesIO(store.get(one))) for one in store.names("answers/")]
    assert sorted(path for part in parts for path in part.column("path").to_pylist()) == sorted(
        f"{photos}/{path.name}" for path in colours.iterdir()
    )


def test_lines_in_a_store_are_gone_on_with_or_not_there(
    store: Any, format_1: Path, colours: Path, command: Callable[..., Any]
) -> None:
    """A file appears when it is whole; with --resume a longer one takes its place."""
    photos = store.put_folder(colours, "photos")
    out = f"{store.address}/answers.jsonl"
    store.line.always["POST"] = "drop"
    lost = command("predict", format_1, photos, "--out", out, "--quiet")
    assert lost.code == 123
    store.line.always.clear()
    asking._misses.clear()
    assert store.names("answers") == []
    assert command("predict", format_1, f"{photos}/red.png", "--out", out, "--quiet").code == 0
    again = command("predict", format_1, photos, "--out", out, "--resume", "--quiet")
    assert again.code == 0, again.err
    assert len(store.get("answers.jsonl").splitlines()) == 5


def test_a_picture_that_does_not_come_is_a_bad_row(
    store: Any, format_1: Path, colours: Path, command: Callable[..., Any]
) -> None:
    """After its tries it is answered with why, and the others are answered."""
    red = store.put("red.png", (colours / "red.png").read_bytes())
    missing = f"{store.address}/none.png"
    said = command("predict", format_1, red, missing, "--csv", "--quiet")
    assert said.code == 0, said.err
    rows = rows_of(said.out)
    assert rows["red.png"][0] == "red"
    assert rows["none.png"][2] == "cannot be opened (No such file or directory)"
    store.line.always["GET"] = "cut"
    lost = command("predict", format_1, red, "--csv", "--quiet")
    assert lost.code == 6
    assert rows_of(lost.out)["red.png"][2].startswith("did not come (")
    assert "secret-of-the-tests" not in lost.out + lost.err


def test_tables_in_a_store(store: Any, colours: Path, trained: Any) -> None:
    """Paths in a table start at its folder there, or are addresses themselves."""
    from tellapart.data.reading import read_catalog

    store.put_folder(trained.data, "photos")
    names = [f"{kind}/{path.name}" for kind in "01" for path in (trained.data / kind).iterdir()]
    lines = [f"photos/{name},{name[0]}" for name in names[:-1]]
    lines.append(f"{store.address}/photos/{names[-1]},{names[-1][0]}")
    address = store.put("table.csv", "\n".join(["path,label", *lines, "gone.png,1"]).encode())
    catalog = read_catalog(address)
    assert len(catalog) == len(names)
    assert [(one.path, one.reason) for one in catalog.set_aside] == [
        (f"{store.address}/gone.png", "cannot be opened (No such file or directory)")
    ]


@pytest.mark.parametrize(
    ("command_line", "code", "words"),
    [
        (
            ("train", "s3://no-such-bucket/photos"),
            3,
            "s3://no-such-bucket/photos does not exist. Expected a folder that holds one folder of "
            "pictures a class, such as photos/cats and photos/dogs. Check the path.",
        ),
        (
            ("predict", "s3://no-such-bucket/a.tellapart", "x.jpg"),
            20,
            "s3://no-such-bucket/a.tellapart does not exist; expected a classifier file ending in "
            ".tellapart. Check the address, or put one there with: tellapart train FOLDER -o "
            "ADDRESS",
        ),
    ],
)
def test_what_is_not_there(
    store: Any, command: Callable[..., Any], command_line: tuple[str, ...], code: int, words: str
) -> None:
    """A missing bucket is said as any other missing place is."""
    done = command(*command_line)
    assert done.code == code
    assert words in " ".join(done.err.split())


def test_shards_and_folders_of_a_server_of_pages(
    web: Any, format_1: Path, colours: Path, command: Callable[..., Any], monkeypatch: Any
) -> None:
    """A tar is read as a stream; of a folder the page that lists it is followed."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    asking._talker.cache_clear()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(colours.iterdir()):
            tar.add(path, path.name)
            web.pages[f"/photos/{path.name}"] = path.read_bytes()
    web.pages["/a.tar"] = file.getvalue()
    links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in colours.iterdir())
    web.pages["/photos/"] = web.pages["/photos"] = f"<html>{links}</html>".encode()
    here = rows_of(command("predict", format_1, colours, "--csv", "--quiet").out)
    said = command("predict", format_1, f"{web.url}/a.tar", "--csv", "--quiet")
    assert said.code == 0, said.err
    assert rows_of(said.out) == here
    said = command("predict", format_1, f"{web.url}/photos/", "--csv", "--quiet")
    assert said.code == 0, said.err
    assert rows_of(said.out) == here


def test_classifiers_in_a_store_are_served_and_changed(
    store: Any, format_1: Path, command: Callable[..., Any]
) -> None:
    """What is opened from a store can be set in it, and is what a server begins with."""
    from tellapart.inference.classifier import Classifier

    address = store.put("a.tellapart", format_1.read_bytes())
    done = command("accept", address, "0.9")
    assert done.code == 0, done.err
    assert Classifier.load(address).rules.accept == 0.9
    said = command("info", address, "--json")
    assert json.loads(said.out)["path"] == address


def test_pictures_of_a_store_are_grouped_and_compared(
    store: Any, small: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Tables lie here and name what lies there; a page is written there whole."""
    monkeypatch.chdir(tmp_path)
    photos = store.put_folder(small, "photos")
    done = command("group", photos, "--groups", "3", "--quiet", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert (facts["gallery"], facts["n"]) == (photos, 60)
    table = (tmp_path / "photos-groups/pictures.csv").read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(table)))
    here = {path.relative_to(small).as_posix() for path in small.rglob("*.png")}
    assert {row["path"] for row in rows} == here
    asked = f"{photos}/{min(here)}"
    page = f"{store.address}/similar.html"
    done = command("similar", asked, photos, "--top", "1", "--out", page, "--quiet")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == asked
    assert done.out.splitlines()[-1] == f"Page: {page}"
    assert b"</html>" in store.get("similar.html")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (
            ("group", "{}/photos", "--out", "{}/groups"),
            126,
            "{}/groups lies in a store, and the page and the tables are written on this machine "
            "alone. Expected a folder here. Nothing was done. Copy it there afterwards: choose "
            "another place with --out.",
        ),
        (
            ("group", "{}/photos", "--into", "sorted"),
            77,
            "{}/photos lies in a store, where nothing is moved: what is sorted can be taken back, "
            "and that stands on this machine's files. Expected folders here. Nothing was moved. "
            "Copy the pictures here first, or write what each of them is into a table: tellapart "
            "predict MODEL ADDRESS --out FILE.csv",
        ),
        (
            ("collect", "--search", "cats", "--class", "cat", "{}/cats"),
            126,
            "{}/cats lies in a store, and pictures are collected on this machine alone. Expected a "
            "folder here. Nothing was done. Copy it there afterwards: collect into another folder.",
        ),
        (
            ("undo", "{}/sorted"),
            79,
            "There is no journal of a sort in {}/sorted. Expected the folder that was given to "
            "`tellapart sort … --into`. Nothing was changed. Check the path.",
        ),
        (
            ("serve", "a.tellapart", "--builds", "{}/builds"),
            126,
            "{}/builds lies in a store, and what is built is kept on this machine alone. Expected "
            "a folder here. Nothing was done. Copy it there afterwards: name one with --builds.",
        ),
    ],
)
def test_what_needs_a_folder_here(
    store: Any, command: Callable[..., Any], line: tuple[str, ...], code: int, words: str
) -> None:
    """It is refused in words before anything is done, and says what to do instead."""
    done = command(*(one.format(store.address) for one in line))
    assert done.code == code
    assert words.format(store.address) in " ".join(done.err.split())
    assert store.names() == []


def test_one_picture_of_a_store_is_inspected(
    store: Any, colours: Path, command: Callable[..., Any]
) -> None:
    """As one of this machine, with its page beside it."""
    red = store.put("red.png", (colours / "red.png").read_bytes())
    done = command("inspect", red, "--report", f"{store.address}/red.html")
    assert done.code == 0, done.err
    assert f"Page: {store.address}/red.html" in done.out
    assert b"</html>" in store.get("red.html")


def test_a_classifier_of_a_store_learns_again(
    store: Any, trained: Any, command: Callable[..., Any], tmp_path: Path, own_runs: Path
) -> None:
    """The one before is kept beside it, and --undo puts it back."""
    before = trained.bundle.read_bytes()
    model = store.put("m.tellapart", before)
    new = store.put("new/1/a.png", (trained.data / "1/0001.png").read_bytes() + b"more")
    reviews = new.rpartition("/1/")[0]
    done = command("learn", model, "--from-reviews", reviews, "--even-if-worse", "--quiet")
    assert done.code == 0, done.err
    assert store.get("m.tellapart.previous") == before
    assert store.get("m.tellapart") != before
    assert command("learn", model, "--undo").code == 0
    assert store.get("m.tellapart") == before


def test_an_export_is_checked_on_pictures_of_a_store(
    store: Any, trained: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    """The example reads copies of them, as it reads files."""
    photos = store.put("photos/1.png", (trained.data / "1/0001.png").read_bytes())
    done = command(
        "export", trained.bundle, "--to", "onnx", "-o", tmp_path / "x",
        "--check", photos.rpartition("/")[0], "--json", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["agreement"]["n"] == 1


SECRET = "NOT-TO-BE-SEEN"


def test_signatures_are_neither_said_nor_kept(
    web: Any, shard: bytes, trained: Any, command: Callable[..., Any], tmp_path: Path,
    own_runs: Path, cache: Path, monkeypatch: Any,
) -> None:  # fmt: skip
    """A signed URL given as data is in no message, report, classifier, list of runs or cache."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    asking._talker.cache_clear()
    web.pages["/x.tar"], web.pages["/broken.tar"] = shard, shard[:9000]
    query = f"?X-Amz-Signature={SECRET}&X-Amz-Date=1"
    tar = f"{web.url}/x.tar{query}"
    said = []
    for code, *line in (
        (0, "train", tar, "-o", tmp_path / "a.tellapart", "--recipe", "fast", "--verbose"),
        (0, "evaluate", tmp_path / "a.tellapart", tar, "--report", tmp_path / "e.html", "--json"),
        (0, "inspect", tar, "--report", tmp_path / "i.html", "--json"),
        (125, "train", f"{web.url}/broken.tar{query}"),
        (125, "train", f"{web.url}/none.tar{query}"),
        (3, "train", f"{web.url}/none{query}"),
        (126, "train", f"http://user:{SECRET}@127.0.0.1/x.tar"),
        (0, "predict", tmp_path / "a.tellapart", tar),
        (0, "runs", "--json"),
        (0, "cache", "--json"),
    ):
        done = command(*line)
        assert done.code == code, (line, done.err)
        said.append(done.out + done.err)
    assert SECRET not in "".join(said)
    assert "/x.tar?…" in "".join(said)
    for folder in (tmp_path, own_runs, cache):
        for path in folder.rglob("*"):
            assert SECRET not in str(path)
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    # What answers are known by stays as it was given.
    done = command("predict", tmp_path / "a.tellapart", tar, "--csv", "--quiet")
    assert f"{tar}#" in done.out
