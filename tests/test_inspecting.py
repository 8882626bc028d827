"""`tellapart inspect`: what it says of sets and of single pictures, and the table it writes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart.data.inspection import KINDS
from tellapart.data.reading import read_catalog
from tellapart.pipeline import inspect
from tellapart.pipeline.cleaning import REASONS
from tellapart.progress import Progress

Command = Callable[..., Any]
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TELLAPART_DATA", ROOT.parent / "shared" / "data"))
QUICK = "--no-features"


def shared(name: str) -> Path:
    """A folder of the shared pictures; the test is skipped where there is none."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no pictures at {DATA}; set TELLAPART_DATA")
    return DATA / name


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """A colourful picture that no other seed resembles."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    fine = np.random.default_rng(seed).integers(-25, 25, (size[1], size[0], 3))
    whole = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(whole + fine, 0, 255).astype(np.uint8))


def put(root: Path, *names: str) -> Path:
    """Write a picture of its own at each of these paths."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    return root


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    """A set with train and valid that has one of nearly everything."""
    root = put(
        tmp_path / "ill",
        *(f"{split}/{name}/{n}.png" for split in ("train", "valid") for name in "ab" for n in "12"),
    )
    train, valid = root / "train", root / "valid"
    shutil.copy(train / "a/1.png", train / "a/copy.png")
    shutil.copy(train / "a/2.png", train / "b/conflict.png")
    shutil.copy(valid / "b/1.png", train / "b/leak.png")
    Image.open(train / "b/1.png").convert("RGB").save(train / "b/anew.jpg", quality=60)
    Image.open(train / "b/2.png").convert("RGB").save(valid / "b/anew.jpg", quality=60)
    Image.new("RGB", (50, 50), "white").save(train / "a/white.png")
    Image.fromarray(np.asarray(picture(50)) // 5).save(train / "a/night.png")
    picture(51).convert("L").save(train / "a/grey.png")
    (train / "a/page.jpg").write_text("<!DOCTYPE html><html></html>")
    (train / "a/pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (train / "c").mkdir()
    picture(52).save(train / "c/only.png")
    return root


def kinds(outcome: Any) -> dict[str, dict[str, Any]]:
    """Findings of a --json answer by kind."""
    return {one["kind"]: one for one in json.loads(outcome.out)["findings"]}


def test_every_fault_is_found_and_named(ill: Path, command: Command) -> None:
    """Each kind comes with its count, its pictures and what to do; grave ones first."""
    found = kinds(command("inspect", ill, QUICK, "--json"))
    assert list(found) == [kind for kind in KINDS if kind in found]
    names = {
        kind: [
            sorted(str(Path(path).relative_to(ill)) for path in group) for group in one["pictures"]
        ]
        for kind, one in found.items()
        if one["pictures"]
    }
    assert names == {
        "conflict": [["train/a/2.png", "train/b/conflict.png"]],
        "leakage": [["train/b/leak.png", "valid/b/1.png"]],
        "duplicate": [["train/a/1.png", "train/a/copy.png"]],
        "near_duplicate": [["train/b/1.png", "train/b/anew.jpg"]],
        "near_leakage": [["train/b/2.png", "valid/b/anew.jpg"]],
        "blank": [["train/a/white.png"]],
        "dark": [["train/a/night.png"]],
        "grey": [["train/a/grey.png"]],
    }
    assert [line.partition("ill/")[2] for line in found["unreadable"]["detail"]] == [
        "train/a/page.jpg is a web page, not a picture (the download went wrong)",
        "train/a/pointer.jpg is a Git LFS pointer, not the picture itself (run: git lfs pull)",
    ]
    assert found["missing_class"]["detail"] == ["valid: c"]
    assert found["tiny_class"]["count"] == 3
    assert all(one["advice"] == KINDS[kind] for kind, one in found.items())


def test_the_terminal_says_what_was_understood_first(ill: Path, command: Command) -> None:
    """First how the data was read, then counts, then findings, within 80 columns."""
    out = command("inspect", ill, QUICK).out
    assert " ".join(out.split()).startswith(
        f"{ill}: the folders train, valid; 17 pictures in 3 classes (a, b, c). class train valid"
    )
    assert "conflict: 1 x the same picture under two labels: one of them is wrong" in out
    assert "  - train/a/2.png = train/b/conflict.png\n  → Keep the copy" in out
    long = [line for line in out.splitlines() if len(line) > 80 and str(ill) not in line]
    assert long == []
    assert "Note: Outliers and wrong labels were not looked for: that needs features." in out


@pytest.mark.parametrize(
    ("names", "code"), [("conflict", 90), ("leakage,conflict", 90), ("blurry,imbalance", 0)]
)
def test_fail_on_ends_with_a_code_of_its_own(
    ill: Path, command: Command, names: str, code: int
) -> None:
    """What --fail-on names and is there ends with 90, after all was said; else with 0."""
    run = command("inspect", ill, QUICK, "--json", "--fail-on", names)
    assert run.code == code
    assert json.loads(run.out)["findings"]
    assert run.err == "" if code == 0 else "conflict (1)" in run.err


def test_unknown_kinds_are_refused_with_the_nearest(ill: Path, command: Command) -> None:
    """A name that no finding has is refused before anything is read."""
    run = command("inspect", ill, "--fail-on", "leekage,conflict")
    assert run.code == 91
    assert run.err == (
        f"tellapart: --fail-on leekage: no finding has that name. Expected any of "
        f"{', '.join(KINDS)}, with commas between them. Did you mean leakage? Nothing was looked "
        f"at.\n"
    )
    run = command("inspect", ill, "--write-clean", ill.parent / "x.csv", "--drop", "unreadable")
    assert run.code == 91
    assert "--drop unreadable: this cannot be dropped, or always is." in run.err
    assert command("inspect", ill, "--drop", "blank").code == 2


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_clean_table_keeps_what_scores(ill: Path, tmp_path: Path, command: Command) -> None:
    """Unreadable files, conflicts, copies and what train has of valid go; valid stays whole."""
    table = tmp_path / "clean.csv"
    before = {path: path.stat().st_mtime_ns for path in ill.rglob("*")}
    facts = json.loads(
        command("inspect", ill, QUICK, "--write-clean", table, "--json", "--quiet").out
    )["clean"]
    kept = {str(Path(row["path"]).relative_to(ill)) for row in rows_of(table)}
    left = {
        str(Path(row["path"]).relative_to(ill)): row["why"]
        for row in rows_of(tmp_path / "clean-left-out.csv")
    }
    assert left == {
        "train/a/page.jpg": "is a web page, not a picture (the download went wrong)",
        "train/a/pointer.jpg": "is a Git LFS pointer, not the picture itself (run: git lfs pull)",
        "train/a/2.png": REASONS["conflict"],
        "train/b/conflict.png": REASONS["conflict"],
        "train/a/copy.png": REASONS["duplicate"],
        "train/b/leak.png": REASONS["leakage"],
    }
    assert kept == {str(path.relative_to(ill)) for path in ill.rglob("*.*")} - set(left)
    assert (facts["n"], facts["n_all"]) == (len(kept), 19)
    assert {path: path.stat().st_mtime_ns for path in ill.rglob("*")} == before
    again = kinds(command("inspect", table, QUICK, "--json", "--quiet"))
    assert not {"unreadable", "conflict", "leakage", "duplicate"} & set(again)
    splits = read_catalog(table).counts()
    assert {name: sum(counts) for name, counts in splits.items()} == {"train": 8, "valid": 5}


def test_more_is_dropped_when_asked(ill: Path, tmp_path: Path, command: Command) -> None:
    """--drop leaves out single pictures and the train side of pairs; the score's stay."""
    table = tmp_path / "clean.csv"
    drop = "blank,near_leakage,near_duplicate"
    command("inspect", ill, QUICK, "--write-clean", table, "--drop", drop)
    kept = {str(Path(row["path"]).relative_to(ill)) for row in rows_of(table)}
    assert not {"train/a/white.png", "train/b/2.png"} & kept
    assert "valid/b/anew.jpg" in kept
    assert len({"train/b/1.png", "train/b/anew.jpg"} & kept) == 1


def test_without_splits_near_copies_share_a_group(tmp_path: Path, command: Command) -> None:
    """What is nearly the same gets a group, so that a later split does not part it."""
    root = put(tmp_path / "set", *(f"{name}/{n}.png" for name in "ab" for n in range(6)))
    Image.open(root / "a/1.png").save(root / "a/anew.jpg", quality=50)
    table = tmp_path / "clean.csv"
    run = command("inspect", root, QUICK, "--write-clean", table)
    assert "grouped       2  nearly the same (column group)" in run.out
    groups = {Path(row["path"]).name: row["group"] for row in rows_of(table) if row["group"]}
    assert groups == {"1.png": "near-1", "anew.jpg": "near-1"}
    assert read_catalog(table).groups is not None


def test_a_clean_table_trains(small: Path, trained: Any, tmp_path: Path, command: Command) -> None:
    """train takes the table as it is; a wrong label is marked, and features were kept for it."""
    root = tmp_path / "digits"
    shutil.copytree(small, root)
    (root / "0/bad.png").write_bytes(b"")
    spoilt = sorted((root / "1").iterdir())[0]
    shutil.move(spoilt, root / "0" / f"moved-{spoilt.name}")
    table, bundle = tmp_path / "clean.csv", tmp_path / "d.tellapart"
    facts = json.loads(command("inspect", root, "--write-clean", table, "--json", "-q").out)
    suspects = {Path(row["path"]).name: row["suspect"] for row in rows_of(table) if row["suspect"]}
    assert suspects.get(f"moved-{spoilt.name}") == "1"
    run = command("train", table, "-o", bundle, "--recipe", "fast", "--json", "-q")
    assert run.code == 0, run.err
    told = json.loads(run.out)
    assert told["n_computed"] == 0
    assert told["n_train"] + told["n_valid"] + told["n_test"] == facts["clean"]["n"]
    again = json.loads(command("inspect", root, "--json", "-q").out)
    assert again["n_computed"] == 0
    assert again["findings"] == facts["findings"]


def test_a_page_shows_the_pictures_and_asks_for_nothing(
    ill: Path, tmp_path: Path, command: Command
) -> None:
    """One file with a section a finding and a sheet a class, no script and no outside address."""
    page = tmp_path / "page.html"
    assert command("inspect", ill, QUICK, "--report", page).code == 0
    text = page.read_text("utf-8")
    for kind in ("conflict", "leakage", "unreadable", "blank"):
        assert f'<section id="{kind}"' in text
    assert text.count('<details class="sheet" open>') == 3
    assert "is a web page, not a picture" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "<script" not in text


def test_names_of_all_kinds(tmp_path: Path, command: Command) -> None:
    """Accents, spaces, markup and line breaks in names are told as they are."""
    root = put(
        tmp_path / "Bäume & <b>", "Ängste/ü 1.png", "Ängste/日本.png", "b/<i>.png", "b/a\nb.png"
    )
    shutil.copy(root / "Ängste/ü 1.png", root / "b/同じ.png")
    page, table = tmp_path / "page.html", tmp_path / "clean.csv"
    run = command("inspect", root, QUICK, "--report", page, "--write-clean", table)
    assert run.code == 0
    assert "b/同じ.png = Ängste/ü 1.png" in run.out
    assert "<i>.png" not in page.read_text("utf-8")
    assert {Path(row["path"]).name for row in rows_of(table)} == {"日本.png", "<i>.png", "a\nb.png"}
    assert len(read_catalog(table, min_classes=1)) == 3


@pytest.mark.parametrize("n", [1, 3])
def test_one_class_of_few_pictures(tmp_path: Path, command: Command, n: int) -> None:
    """A folder with one class is looked at, with features as well."""
    root = put(tmp_path / "set", *(f"only/{number}.png" for number in range(n)))
    run = command("inspect", root, "--report", tmp_path / "p.html")
    assert run.code == 0, run.err
    assert f"{n} pictures in 1 class (only)" in " ".join(run.out.split())
    assert "Wrong labels were not looked for: that needs two classes of 5 pictures." in (
        " ".join(run.out.split())
    )


def test_nothing_but_broken_files(tmp_path: Path, command: Command) -> None:
    """Where not one file can be read, all are named, and the table is empty."""
    root = tmp_path / "set"
    for name in ("a/1.jpg", "b/2.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"\0" * 10 + name.encode())
    (root / "b/3.jpg").write_bytes(b"")
    page, table = tmp_path / "page.html", tmp_path / "clean.csv"
    run = command("inspect", root, "--report", page, "--write-clean", table)
    assert run.code == 0, run.err
    assert "unreadable: 3 files that are no readable picture" in run.out
    assert "b/3.jpg is empty (0 bytes)" in run.out
    assert rows_of(table) == []


def test_a_hundred_classes_make_a_small_page(tmp_path: Path, command: Command) -> None:
    """Sheets share a bound: with many classes each shows less, and the terminal lists some."""
    root = put(tmp_path / "set", *(f"c{k:03}/{n}.png" for k in range(102) for n in range(7)))
    page = tmp_path / "page.html"
    run = command("inspect", root, QUICK, "--report", page)
    assert "The 10 smallest and the 10 largest of 102 classes" in run.out
    assert page.stat().st_size < 3_000_000
    assert page.read_text("utf-8").count('<details class="sheet">') == 102


def test_one_picture(tmp_path: Path, command: Command) -> None:
    """A picture file is described, with EXIF, and its channels are on the page."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    path, page = tmp_path / "one.jpg", tmp_path / "one.html"
    picture(3).save(path, exif=exif)
    run = command("inspect", path, "--report", page)
    assert run.code == 0, run.err
    assert "Size               90 x 70 px" in run.out
    assert "Make                       Maker" in run.out
    text = page.read_text("utf-8")
    assert all(f">{name}, mean 0." in text for name in ("red", "green", "blue"))
    facts = json.loads(command("inspect", path, "--json").out)
    assert (facts["width_px"], facts["exif"]) == (90, {"Make": "Maker"})
    assert command("inspect", path, "--fail-on", "dark").code == 2


def test_one_file_that_is_no_picture(tmp_path: Path, command: Command) -> None:
    """It is called what it is, with the exit code of an unreadable picture."""
    path = tmp_path / "one.jpg"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    run = command("inspect", path)
    assert run.code == 50
    assert run.err == (
        f"tellapart: {path} is a Git LFS pointer, not the picture itself (run: git lfs pull). "
        f"Expected a picture that can be read whole. Nothing was changed.\n"
    )


def test_places_that_cannot_be_written_are_refused_first(ill: Path, command: Command) -> None:
    """A report in a folder that is not there ends before any picture is looked at."""
    run = command("inspect", ill, "--report", ill / "none" / "page.html")
    assert run.code == 31
    assert run.out == ""


def test_known_repeats_of_flowers(tmp_path: Path, command: Command) -> None:
    """Of the classes that have them, the three pairs inside train and the one across are found."""
    flowers = shared("flowers102")
    for split in ("train", "valid"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for name in ("31", "94", "99"):
            (tmp_path / "set" / split / name).symlink_to(flowers / split / name)
    found = kinds(command("inspect", tmp_path / "set", QUICK, "--json"))
    assert found["duplicate"]["count"] == 3
    assert [[Path(path).name for path in pair] for pair in found["leakage"]["pictures"]] == [
        ["image_08077.jpg", "image_08067.jpg"]
    ]
    assert not {"blank", "dark", "blurry", "grey", "unreadable", "conflict"} & set(found)


def test_odd_files_are_called_by_their_names(tmp_path: Path, command: Command) -> None:
    """Web pages, LFS pointers and a placeholder; pictures under two labels are conflicts."""
    odd = shared("odd")
    root = tmp_path / "odd"
    shutil.copytree(odd / "html_named_jpg", root / "pages")
    shutil.copytree(odd / "lfs_pointers", root / "pointers")
    for name in ("10408", "20805", "glass115", "metal91"):
        (root / name).mkdir()
        shutil.copy(odd / "dups_cross_class" / f"{name}.jpg", root / name)
    shutil.copytree(odd / "exif", root / "fine")
    shutil.copy(odd / "imageNotFound.gif", root / "fine")
    answer = command("inspect", root, QUICK, "--json")
    found = kinds(answer)
    conflicts = [sorted(Path(path).stem for path in pair) for pair in found["conflict"]["pictures"]]
    assert sorted(conflicts) == [["10408", "20805"], ["glass115", "metal91"]]
    assert [Path(path).name for (path,) in found["blank"]["pictures"]] == ["imageNotFound.gif"]
    broken = [path for name in ("pages", "pointers") for path in (root / name).rglob("*.jpg")]
    assert found["unreadable"]["count"] == len(broken)
    said = found["unreadable"]["detail"][:-1]
    assert all(
        ("is a web page" if "/pages/" in line else "is a Git LFS pointer") in line for line in said
    )


@pytest.mark.slow
def test_spoilt_labels_of_scenes_are_found() -> None:
    """Of 5 % labels changed in 1200 scenes two thirds are found, and come early in the list."""
    catalog = read_catalog(shared("intel_scenes"))
    catalog = catalog.select(np.arange(0, len(catalog), 2))
    chance = np.random.default_rng(0)
    rows = chance.choice(len(catalog), len(catalog) // 20, replace=False)
    labels = catalog.labels.copy()
    labels[rows] = (labels[rows] + chance.integers(1, 6, len(rows))) % 6
    found = list(inspect(replace(catalog, labels=labels), progress=Progress("quiet")).likely)
    assert len(set(found) & set(rows.tolist())) >= 2 / 3 * len(rows)
    assert len(set(found[: len(rows)]) & set(rows.tolist())) >= 0.6 * len(rows)
