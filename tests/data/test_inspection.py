"""File findings: what is set aside, repeated, in conflict, leaked or missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tellapart.data.catalog import Catalog, scan
from tellapart.data.inspection import MAX_EXAMPLES, Finding, inspect_files
from tellapart.data.pixels import decode, read_file
from tellapart.data.splitting import assign_splits
from tellapart.errors import UnreadablePicture

Tree = Callable[..., Path]


def findings(catalog: Catalog) -> dict[str, Finding]:
    """Findings by kind."""
    found = inspect_files(catalog)
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


def test_clean_data_has_no_findings(tree: Tree) -> None:
    """Different pictures in every class and split leave nothing to say."""
    assert inspect_files(scan(tree({"a": 3, "b": 3}, "flat"))) == ()
    splits = {f"{split}/{name}": 2 for split in ("train", "valid", "test") for name in "ab"}
    assert inspect_files(scan(tree(splits, "split"))) == ()


def test_what_was_set_aside_is_listed(tree: Tree) -> None:
    """Everything set aside is listed with its reason, in one finding."""
    root = tree({"a": 2, "b": 2, "a/.cache": 1, "c": 0})
    catalog = scan(root).without({0: "is empty (0 bytes)"})
    found = findings(catalog)["set_aside"]
    assert found.count == 3
    assert found.headline == "3 files or folders set aside (nothing was changed or deleted)"
    assert found.detail == (
        f"{root}/a/.cache: hidden or left behind by a tool",
        f"{root}/c: no pictures of class 'c' in it",
        f"{root}/a/000.jpg: is empty (0 bytes)",
    )


def test_repeats_within_a_class_are_harmless(tree: Tree) -> None:
    """Copies in one class and split are counted as groups, with all their paths."""
    root = tree({"a": 2, "b": 2})
    for name in ("x.jpg", "y.jpg"):
        shutil.copy(root / "a" / "000.jpg", root / "a" / name)
    found = findings(scan(root))
    assert list(found) == ["duplicate"]
    assert found["duplicate"].headline == "1 x identical pictures within a class (harmless)"
    assert found["duplicate"].detail == (f"{root}/a/000.jpg = {root}/a/x.jpg = {root}/a/y.jpg",)


def test_the_same_picture_under_two_labels(tree: Tree) -> None:
    """A picture in two classes is a conflict."""
    root = tree({"a": 2, "b": 2})
    shutil.copy(root / "a" / "001.jpg", root / "b" / "copy.jpg")
    found = findings(scan(root))
    assert list(found) == ["conflict"]
    assert found["conflict"].headline == (
        "1 x the same picture under two labels: one of them is wrong"
    )
    assert found["conflict"].detail == (f"{root}/a/001.jpg = {root}/b/copy.jpg",)


def test_the_same_picture_in_two_splits(tree: Tree) -> None:
    """A picture in train and test is a leak, and a conflict too where the labels differ."""
    root = tree({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    shutil.copy(root / "train" / "a" / "000.jpg", root / "test" / "a" / "leak.jpg")
    found = findings(scan(root))
    assert list(found) == ["leakage"]
    assert found["leakage"].headline == (
        "1 x the same picture in two splits: it is left out of what chooses and scores"
    )
    shutil.copy(root / "train" / "a" / "001.jpg", root / "test" / "b" / "both.jpg")
    found = findings(scan(root))
    assert {kind: finding.count for kind, finding in found.items()} == {
        "conflict": 1,
        "leakage": 2,
    }


def test_our_own_split_never_leaks(tree: Tree) -> None:
    """Whatever is copied within a folder without splits, no copy lands on the other side."""
    root = tree({"a": 12, "b": 12})
    for path in sorted(root.glob("a/*.jpg")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        shutil.copy(path, root / "b" / f"wrong {path.name}")
    found = findings(assign_splits(scan(root)))
    assert "leakage" not in found
    assert found["conflict"].count == 12


def test_classes_that_lack_in_a_split(tree: Tree) -> None:
    """Classes without a picture in a split are named split by split."""
    root = tree({"train/a": 1, "train/b": 1, "train/c": 1, "valid/a": 1, "test/c": 1})
    found = findings(scan(root))["missing_class"]
    assert found.detail == ("valid: b, c", "test: a, b")
    assert found.headline == (
        "Some classes have no picture in a split, so nothing is known about them there"
    )


def test_long_lists_are_cut(tree: Tree) -> None:
    """At most a fixed number of examples is listed; the rest is counted."""
    catalog = scan(tree({"a": 60, "b": 2}))
    found = findings(catalog.without(dict.fromkeys(range(60), "is cut off")))["set_aside"]
    assert found.count == 60
    assert len(found.detail) == MAX_EXAMPLES + 1
    assert found.detail[-1] == "… and 10 more"


def test_real_pairs_across_classes_are_conflicts(odd: Path, tmp_path: Path) -> None:
    """The real pairs of one picture in two classes are found, once in class folders."""
    for name, label in {
        "20805.jpg": "buildings",
        "10408.jpg": "street",
        "glass115.jpg": "glass",
        "metal91.jpg": "metal",
    }.items():
        (tmp_path / label).mkdir()
        shutil.copy(odd / "dups_cross_class" / name, tmp_path / label)
    found = findings(scan(tmp_path))
    assert list(found) == ["conflict"]
    assert set(found["conflict"].detail) == {
        f"{tmp_path}/buildings/20805.jpg = {tmp_path}/street/10408.jpg",
        f"{tmp_path}/glass/glass115.jpg = {tmp_path}/metal/metal91.jpg",
    }


@pytest.mark.parametrize("folder", ["html_named_jpg", "lfs_pointers"])
def test_real_impostors_are_set_aside(folder: str, odd: Path) -> None:
    """A real folder whose pictures never arrived scans, and each file can then be set aside."""
    catalog = scan(odd / folder / "flowers", min_classes=1)
    assert catalog.has_splits
    unreadable = {}
    for row, path in enumerate(catalog.paths):
        with pytest.raises(UnreadablePicture) as error:
            decode(read_file(path))
        unreadable[row] = str(error.value)
    assert len(catalog.without(unreadable)) == 0
