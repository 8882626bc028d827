"""`tellapart group`, `features` and `similar` from the command line, on handwritten digits."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


@pytest.fixture
def photos(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty digits in one folder, a copy whose name begins like a formula, and a broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(trained.data.rglob("*.png")):
        shutil.copy2(path, folder / f"{path.parent.name}-é {path.name}")
    shutil.copy2(sorted(folder.iterdir())[0], folder / "=copy.png")
    (folder / "bad.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return folder


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a folder: its bytes and its time."""
    return {
        os.path.relpath(path, root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    """Read a table as a spreadsheet would."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, table: list[dict[str, str]], delimiter: str = ",") -> None:
    """Write a table as a spreadsheet would."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)


def test_a_gallery_is_grouped_named_sorted_and_taken_back(command: Command, photos: Path) -> None:
    """From pictures to class folders by two tables, and back to the byte."""
    before = contents(photos)
    ended = command("group", "photos", "--groups", "3", "--json", "-q")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert (facts["n"], facts["n_different"], len(facts["groups"])) == (61, 60, 3)
    assert [one["reason"] for one in facts["left"]] == ["is empty (0 bytes)"]
    assert contents(photos) == before
    tables = photos.parent / "photos-groups"
    page = (tables / "groups.html").read_text(encoding="utf-8")
    assert "photos: groups of alike pictures" in page
    assert "http" not in page
    pictures = rows(tables / "pictures.csv")
    groups = rows(tables / "groups.csv")
    assert len(pictures) == 61
    copies = [row["group"] for row in pictures if row["path"] in ("./=copy.png", "0-é 0000.png")]
    assert len(set(copies)) == 1
    # The last group stays without a name; one picture moves into a class of its own.
    groups[0]["name"], groups[1]["name"] = "null", "één"
    pictures[0]["name"] = "odd one"
    write(tables / "groups.csv", groups, ";")
    write(tables / "pictures.csv", pictures)
    plan = json.loads(command("group", "photos", "--into", "named", "--json").out)
    assert {one["name"] for one in plan["groups"]} == {"null", "odd one", "één"}
    assert contents(photos) == before
    done = command("group", "photos", "--into", "named", "--apply")
    assert done.code == 0, done.err
    assert "have no name: they stay where they are." in done.out
    sorted_ = {path.name for path in Path("named").iterdir() if path.name[0] != "."}
    assert sorted_ == {"null", "odd one", "één"}
    assert [path.name for path in Path("named/odd one").iterdir()] == [pictures[0]["path"]]
    assert command("undo", "named").code == 0
    assert contents(photos) == before


def test_edited_tables_are_not_written_over(command: Command, photos: Path) -> None:
    """Grouping again replaces untouched tables and refuses edited ones."""
    for _ in range(2):
        assert command("group", "photos", "--groups", "2", "-q").code == 0
    names = rows(Path("photos-groups/groups.csv"))
    names[0]["name"] = "mine"
    write(Path("photos-groups/groups.csv"), names)
    ended = command("group", "photos", "--groups", "2", "-q")
    assert (ended.code, ended.out) == (106, "")
    assert ended.err == (
        f"tellapart: {photos.parent}/photos-groups holds tables that were edited since they were "
        f"written (groups.csv). Expected a new folder, or tables that nobody touched. Nothing was "
        f"changed. Sort by the tables with --into FOLDER, or group anew into another folder with "
        f"--out.\n"
    )


def test_tables_that_do_not_fit_are_refused(command: Command, photos: Path) -> None:
    """No tables, no names, an unknown group, a path that leads out: said, and nothing moves."""
    into = ("group", "photos", "--into", "named", "--apply")
    assert command(*into).code == 107
    assert command("group", "photos", "--groups", "2", "-q").code == 0
    ended = command(*into)
    assert ended.code == 108
    assert "No group has a name yet. Expected names in the column `name` of " in ended.err
    groups, pictures = (
        rows(Path("photos-groups", f"{name}.csv")) for name in ("groups", "pictures")
    )
    groups[0]["name"] = "a"
    pictures[0]["group"], pictures[1]["path"] = "9", "../other.png"
    write(Path("photos-groups/groups.csv"), groups)
    write(Path("photos-groups/pictures.csv"), pictures)
    ended = command(*into)
    assert (ended.code, ended.out) == (108, "")
    assert "line 2: there is no group '9' in groups.csv; line 3: '../other.png' is no " in ended.err
    assert not Path("named").exists()


def test_a_picture_that_changed_stays(command: Command, photos: Path) -> None:
    """What lies at a path now is not what was grouped: it stays, and the others are sorted."""
    assert command("group", "photos", "--groups", "1", "-q").code == 0
    groups = rows(Path("photos-groups/groups.csv"))
    groups[0]["name"] = "all"
    write(Path("photos-groups/groups.csv"), groups)
    Image.new("RGB", (30, 30), (9, 99, 9)).save(photos / "=copy.png")
    (photos / "1-é 0000.png").unlink(missing_ok=True)
    facts = json.loads(command("group", "photos", "--into", "named", "--json").out)
    assert [one["reason"] for one in facts["left"]] == [
        "has changed since it was grouped; run `tellapart group` again"
    ]


@pytest.mark.parametrize(
    ("files", "options", "code", "message"),
    [
        ([], [], 6, "There are no pictures below "),
        ([b"", b"<html>"], [], 6, "None of the 2 pictures below "),
        ([(1, 2, 3), (1, 2, 3)], ["--groups", "2"], 105, "2 groups were asked for, and "),
        ([(1, 2, 3)], [], 0, ""),
        ([(1, 2, 3), (1, 2, 3)], [], 0, ""),
        ([(1, 2, 3), (200, 9, 9)], ["--groups", "2"], 0, ""),
    ],
)
def test_odd_galleries(
    command: Command,
    trained: Any,
    tmp_path: Path,
    files: list[Any],
    options: list[str],
    code: int,
    message: str,
) -> None:
    """Nothing, one picture, all the same, all broken: grouped, or said in a paragraph."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, one in enumerate(files):
        if isinstance(one, bytes):
            (folder / f"{number}.png").write_bytes(one)
        else:
            Image.new("RGB", (20, 20), one).save(folder / f"{number}.png")
    ended = command("group", folder, "--out", tmp_path / "tables", "-q", *options)
    assert ended.code == code, ended.err
    assert message in ended.err
    if not code:
        assert len(rows(tmp_path / "tables" / "pictures.csv")) == len(files)


def test_a_classifier_says_what_it_doubts(command: Command, trained: Any, photos: Path) -> None:
    """With --model its own network looks, what it learned from is not suggested again."""
    Image.fromarray(np.full((40, 40, 3), 127, np.uint8)).save(photos / "grey.png")
    ended = command("group", "photos", "--model", trained.bundle, "--json", "-q")
    assert ended.code == 0, ended.err
    (only,) = json.loads(ended.out)["next"]
    assert only["path"] == "grey.png"
    assert "%" in only["why"]


def test_class_folders_are_told_of(command: Command, trained: Any, tmp_path: Path) -> None:
    """Where pictures lie in folders already, groups say from which, and train is named."""
    ended = command("group", trained.data, "--groups", "3", "--out", tmp_path / "tables", "-q")
    assert ended.code == 0, ended.err
    assert "They lie in 3 folders, whose names were not used." in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines() if "/" not in line)
    assert rows(tmp_path / "tables" / "groups.csv")[0]["folders"]


def test_features_are_written_whole(command: Command, trained: Any, tmp_path: Path) -> None:
    """Parquet and .npz hold the same rows, with labels, and the same numbers as training."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("f.parquet", "f.npz"):
        ended = command("features", trained.data, "--out", tmp_path / name, "--json", "-q")
        assert ended.code == 0, ended.err
        facts = json.loads(ended.out)
        assert (facts["n"], facts["n_labelled"], facts["n_computed"]) == (60, 60, 0)
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["path", "label", "split", "hash", "features"]
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[1280]"
    arrays = np.load(tmp_path / "f.npz")
    assert (np.stack(table["features"].to_numpy(zero_copy_only=False)) == arrays["features"]).all()
    assert table["label"].to_pylist() == arrays["label"].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "f.parquet"]
    refused = command("features", trained.data, "--out", tmp_path / "f.txt")
    assert refused.code == 31
    assert "Expected .parquet or .npz." in refused.err


def test_similar_pictures_are_listed(command: Command, photos: Path) -> None:
    """A copy comes first, the picture itself never, and a page is written when asked for."""
    ended = command("similar", photos / "=copy.png", photos, "-n", "3", "--out", "p.html", "--json")
    assert ended.code == 0, ended.err
    (answer,) = json.loads(ended.out)["answers"]
    first, *others = answer["similar"]
    assert first["same_file"]
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(others) == 2
    assert all(Path(one["path"]).name.startswith("0-") for one in [first, *others])
    assert Path("p.html").read_text().count("data:image/webp;base64,") == 4
    missing = command("similar", "nothing.png", photos)
    assert missing.code == 3
    assert "nothing.png: there is no such file. Expected picture files, and last a " in missing.err


def test_options_of_the_other_half_are_refused(command: Command, photos: Path) -> None:
    """--apply without --into, and --groups with it, are not ignored."""
    assert "--apply is for a plan" in command("group", "photos", "--apply").err
    assert (
        "--groups is for grouping"
        in command("group", "photos", "--into", "named", "--groups", "2").err
    )
