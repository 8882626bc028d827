"""`tellapart sort` and `tellapart undo` from the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file below a folder: its bytes and its time."""
    return {
        os.path.relpath(path, root): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def gallery(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The colours, with sidecars and a file that is no picture; the current folder is above."""
    shutil.copytree(colours, tmp_path / "photos")
    (tmp_path / "photos" / "red.xmp").write_text("edits")
    (tmp_path / "photos" / "bad.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_a_plan_touches_nothing(command: Command, format_1: Path, gallery: Path) -> None:
    """A table of what would go where, a contact sheet, and how to go on; nothing else happens."""
    before = contents(gallery)
    ended = command("sort", format_1, "photos", "--into", "sorted", "--min-confidence", "0.5")
    assert (ended.code, ended.err) == (0, "")
    here = gallery.parent
    lines = ended.out.splitlines()
    assert lines[:2] == [
        f"A plan: move 5 pictures of {here}/photos",
        f"into {here}/sorted. Nothing was touched.",
    ]
    assert lines[3] == "folder   pictures  sidecars   renamed  least sure"
    assert all(len(line) <= 80 for line in lines[3 : lines.index("", 3)])
    assert lines[-7:] == [
        "",
        "Left where they are: 1",
        f"    {here}/photos/bad.png",
        "        is empty (0 bytes)",
        "Contact sheet: sorted-plan.html",
        "To carry it out, give the same command with --apply.",
        f"To take it back then: tellapart undo {here}/sorted",
    ]
    page = (here / "sorted-plan.html").read_text()
    assert "sorted: what would go where" in page
    assert page.count("data:image/jpeg;base64,") == 5
    assert contents(gallery) == before
    assert not (here / "sorted").exists()


def test_sorted_and_taken_back(command: Command, format_1: Path, gallery: Path) -> None:
    """What the plan says is done, and undone to the byte; both tell how many."""
    before = contents(gallery)
    args = ("sort", format_1, "photos", "--into", "sorted", "--min-confidence", "0.7", "--json")
    plan = json.loads(command(*args).out)
    done = json.loads(command(*args, "--apply").out)
    assert (plan["applied"], done["applied"], done["n_done"]) == (False, True, 6)
    assert plan["sheet"] == "sorted-plan.html"
    assert plan["groups"] == done["groups"]
    assert (done["n_pictures"], done["n_sidecars"]) == (5, 1)
    assert [one["reason"] for one in done["left"]] == ["is empty (0 bytes)"]
    groups = {one["name"]: one["n_pictures"] for one in plan["groups"]}
    assert groups.pop("_unsure") >= 1
    for name, n in groups.items():
        assert len(list(Path("sorted", name).glob("*.png"))) == n
    assert set(contents(gallery)) == {"bad.png"}
    undone = command("undo", "sorted")
    assert (undone.code, undone.out) == (0, "Undone: 6 files are as they were.\n")
    assert contents(gallery) == before
    assert not Path("sorted").exists()
    again = command("undo", "sorted")
    assert again.code == 79
    assert "There is no journal of a sort in" in again.err


def test_what_is_unsure_goes_apart(command: Command, format_1: Path, gallery: Path) -> None:
    """What the classifier calls unsure, and what --min-confidence does."""
    args = ("sort", format_1, gallery, "--into", "sorted", "--json")
    predicted = command("predict", format_1, gallery, "--json").out.splitlines()
    unsure = sum(json.loads(line)["unsure"] for line in predicted)
    groups = {one["name"]: one["n_pictures"] for one in json.loads(command(*args).out)["groups"]}
    assert groups.get("_unsure", 0) == unsure
    every = json.loads(command(*args, "--min-confidence", "1").out)["groups"]
    assert [(one["name"], one["n_pictures"]) for one in every] == [("_unsure", 5)]


def test_files_that_could_not_be_undone_have_an_exit_code(
    command: Command, format_1: Path, gallery: Path
) -> None:
    """78, the reason, and the others are back."""
    command("sort", format_1, gallery, "--into", "sorted", "--apply")
    (moved,) = Path("sorted").rglob("red.png")
    moved.write_bytes(b"edited")
    ended = command("undo", "sorted")
    assert ended.code == 78
    where = moved.absolute()
    assert ended.out == (
        "Undone: 5 files are as they were.\n"
        "Left where they are: 1\n"
        f"    {where}\n        was changed since it was sorted\n"
    )
    assert ended.err == (
        f"tellapart: 1 files were left as they are in sorted: the first, {where}, was changed "
        f"since it was sorted. Expected files as they were planned or sorted. All others are done; "
        f"nothing was overwritten. See to the reasons, and give the same command again.\n"
    )
    assert set(contents(gallery)) == {
        f"{name}.png" for name in ("bad", "blue", "green", "grey", "mixed")
    } | {"red.xmp"}


def test_a_second_sort_is_undone_first(
    command: Command, format_1: Path, gallery: Path, colours: Path
) -> None:
    """Each undo takes one sort back and says how many are left."""
    args = ("sort", format_1, gallery, "--into", "sorted", "--apply")
    command(*args)
    shutil.copy(colours / "red.png", gallery)
    command(*args)
    assert {path.name for path in Path("sorted").rglob("red*.png")} == {"red.png", "red (2).png"}
    assert command("undo", "sorted").out == (
        "Undone: 1 files are as they were.\n"
        "Earlier sorts into sorted: 1. Undo again for the one before.\n"
    )
    (gallery / "red.png").unlink()
    assert command("undo", "sorted").out == "Undone: 6 files are as they were.\n"


def test_ctrl_c_while_sorting_can_be_undone(
    format_1: Path, colours: Path, tmp_path: Path, command: Command
) -> None:
    """A real SIGINT in the middle: exit code 130, how to go back, and the way back works."""
    gallery, into = tmp_path / "gallery", tmp_path / "sorted"
    gallery.mkdir()
    for n in range(3000):
        (gallery / f"{n}.png").write_bytes((colours / "red.png").read_bytes())
    before = contents(gallery)
    call = [sys.executable, "-m", "tellapart", "sort", format_1, gallery, "--into", into, "--apply"]
    run = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(into.glob("*/*.png")):
        assert run.poll() is None, run.stderr
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f" files were sorted: tellapart undo {into}\n" in err
    assert command("undo", into).code == 0
    assert contents(gallery) == before


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["photos", "--into", "photos"], 77, "is, or lies in, the folder to sort into"),
        (["nothing", "--into", "sorted"], 77, "is not a folder that can be sorted"),
        (["photos", "--into", "sorted", "--by", "size"], 77, "--by size is not a layout."),
        (["photos", "--into", "sorted", "--how", "burn"], 2, "'burn' is not one of"),
        (["photos"], 2, "Missing option '--into'"),
        (["photos", "--into", "s", "--apply", "--sheet", "x.html"], 2, "--sheet shows a plan: "),
    ],
)
def test_what_cannot_be_sorted_is_refused(
    command: Command, format_1: Path, gallery: Path, args: list[str], code: int, said: str
) -> None:
    """Before a picture is looked at, with a code of its own."""
    ended = command("sort", format_1, *args)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert gallery.is_dir()
