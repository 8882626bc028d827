"""Scanning: which files, classes and splits a folder holds, and what is said of the rest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tellapart.data.catalog import SPLIT_FOLDERS, Catalog, scan
from tellapart.errors import AmbiguousData, DataNotFound, NoReadablePicture, NotEnoughClasses

Tree = Callable[..., Path]


def aside(catalog: Catalog) -> dict[str, str]:
    """What was set aside: path below the root -> reason."""
    return {os.path.relpath(item.path, catalog.root): item.reason for item in catalog.set_aside}


def files(catalog: Catalog) -> list[tuple[str, str, str]]:
    """(class, split, path below the root) of each picture, in order."""
    return [
        (catalog.classes[label], str(split), os.path.relpath(path, catalog.root))
        for label, split, path in zip(catalog.labels, catalog.splits, catalog.paths, strict=True)
    ]


def test_class_folders(tree: Tree) -> None:
    """Class folders become classes in string order; nothing is decided about splits."""
    catalog = scan(tree({"10": 1, "9": 2, "1": 1}))
    assert catalog.classes == ("1", "10", "9")
    assert catalog.labels.tolist() == [0, 1, 2, 2]
    assert catalog.labels.dtype == np.int64
    assert not catalog.has_splits
    assert catalog.counts() == {"": [1, 1, 2]}
    assert catalog.set_aside == ()


def test_class_folders_may_be_nested(tree: Tree) -> None:
    """Whatever lies below a class folder belongs to it, however deep."""
    catalog = scan(tree({"cats": 1, "cats/2024/may": 2, "dogs/a": 1, "dogs/b/train": 1}))
    assert catalog.counts() == {"": [3, 2]}


def test_splits_beside_each_other(tree: Tree) -> None:
    """Split folders that hold class folders are splits; a class may lack in one."""
    catalog = scan(tree({"train/a": 3, "train/b": 2, "valid/a": 1, "test/a": 1, "test/b": 1}))
    assert catalog.has_splits
    assert catalog.classes == ("a", "b")
    assert catalog.counts() == {"train": [3, 2], "valid": [1, 0], "test": [1, 1]}


@pytest.mark.parametrize("name", sorted(SPLIT_FOLDERS))
@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
def test_every_name_of_a_split(name: str, spelled: Callable[[str], str], tree: Tree) -> None:
    """Each name that the design lists is understood, in upper case too."""
    catalog = scan(tree({f"{spelled(name)}/a": 1, f"{spelled(name)}/b": 1}))
    assert catalog.counts() == {SPLIT_FOLDERS[name]: [1, 1]}


def test_split_folders_that_repeat_their_name(tree: Tree) -> None:
    """Archives hold seg_train/seg_train/<class>; what lies beside the inner one is reported."""
    catalog = scan(
        tree(
            {
                "seg_train/seg_train/a": 2,
                "seg_train/seg_train/b": 1,
                "seg_train/__MACOSX/x": 1,
                "seg_train/readme.txt": b"hello",
                "seg_test/seg_test/a": 1,
                "seg_test/seg_test/b": 1,
                "seg_pred/seg_pred": 2,
            }
        )
    )
    assert catalog.counts() == {"train": [2, 1], "test": [1, 1]}
    assert aside(catalog) == {
        "seg_pred": "lies beside the split folders",
        "seg_train/__MACOSX": "hidden or left behind by a tool",
        ".": "1 x file ending in .txt: not a format that is read",
    }


def test_train_alone_is_a_split(tree: Tree) -> None:
    """A folder that holds only train/ is a split, not a class."""
    catalog = scan(tree({"train/a": 1, "train/b": 1}))
    assert catalog.classes == ("a", "b")
    assert catalog.counts() == {"train": [1, 1]}


def test_a_class_may_be_named_like_a_split(tree: Tree) -> None:
    """A folder named test with pictures straight inside is a class, with subfolders or without."""
    assert scan(tree({"test": 2, "rest": 2}, "one")).classes == ("rest", "test")
    catalog = scan(tree({"test": 2, "test/more": 1, "rest": 2}, "two"))
    assert catalog.classes == ("rest", "test")
    assert catalog.counts() == {"": [2, 3]}


@pytest.mark.parametrize("others", [{}, {"valid/a": 1, "valid/b": 1}, {"notes/x": 1, "val/a": 1}])
def test_a_stray_picture_does_not_make_a_split_a_class(others: dict[str, int], tree: Tree) -> None:
    """A picture beside the class folders of train is set aside; train stays a split."""
    catalog = scan(tree({"train/a": 2, "train/b": 2, "train": ["stray.jpg"], **others}))
    assert catalog.classes == ("a", "b")
    assert catalog.counts()["train"] == [2, 2]
    assert aside(catalog)["train/stray.jpg"] == "lies beside the class folders"


def test_pictures_without_classes_beside_splits(tree: Tree) -> None:
    """A test folder with unlabelled pictures beside train is reported, not made a class."""
    catalog = scan(tree({"train/a": 1, "train/b": 1, "test": 3, "extra/a": 1, ".": ["x.jpg"]}))
    assert catalog.counts() == {"train": [1, 1]}
    assert aside(catalog) == {
        "test": "lies beside the split folders",
        "extra": "lies beside the split folders",
        "x.jpg": "lies beside the split folders",
    }


def test_two_folders_for_one_split(tree: Tree) -> None:
    """val/ and valid/ side by side are refused."""
    root = tree({"train/a": 1, "val/a": 1, "valid/b": 1})
    with pytest.raises(AmbiguousData) as error:
        scan(root)
    assert str(error.value) == (
        f"{root}/val and {root}/valid both name the valid split. Expected one folder for each "
        f"split. Nothing was read. Rename or merge one of them."
    )


def test_linked_folders_are_followed(tree: Tree) -> None:
    """A class folder, a folder within it, and a picture may be links."""
    elsewhere = tree({"b": 2, "deep": 1}, "elsewhere")
    root = tree({"a": 1})
    (root / "b").symlink_to(elsewhere / "b")
    (root / "a" / "more").symlink_to(elsewhere / "deep")
    (root / "a" / "one.jpg").symlink_to(elsewhere / "b" / "000.jpg")
    catalog = scan(root)
    assert catalog.counts() == {"": [3, 2]}
    assert str(catalog.paths[-1]) == f"{root}/b/001.jpg"


def test_linked_splits_are_followed(tree: Tree) -> None:
    """The split folders themselves may be links."""
    elsewhere = tree({"a": 2, "b": 2}, "elsewhere")
    root = tree({"test/a": 1, "test/b": 1})
    (root / "train").symlink_to(elsewhere)
    assert scan(root).counts() == {"train": [2, 2], "test": [1, 1]}


@pytest.mark.parametrize(
    ("link", "target"),
    [("a/loop", "a"), ("a/x/loop", "a"), ("a/loop", "."), ("a/loop", ".."), ("a/up", "/")],
)
def test_loops_are_refused(link: str, target: str, tree: Tree) -> None:
    """A link to the folder that it lies in, or to one above it, is not entered."""
    root = tree({"a": 1, "a/x": 1, "b": 1})
    (root / link).symlink_to(root / target)
    catalog = scan(root)
    assert catalog.counts() == {"": [2, 1]}
    assert aside(catalog) == {link: "links back to a folder above it"}


def test_a_class_folder_that_links_to_the_root(tree: Tree) -> None:
    """A link beside the class folders that leads back is no class holding all pictures."""
    root = tree({"train/a": 1, "train/b": 1})
    (root / "train" / "all").symlink_to(root)
    (root / "train" / "self").symlink_to(root / "train")
    catalog = scan(root)
    assert catalog.classes == ("a", "b")
    assert aside(catalog) == {
        "train/all": "no pictures of class 'all' in it",
        "train/self": "no pictures of class 'self' in it",
    }


def test_two_folders_that_link_to_each_other(tree: Tree) -> None:
    """Links in a circle end, and each picture is taken once a class."""
    root = tree({"a/x": 1, "a/y": 1, "b": 1})
    (root / "a" / "x" / "to_y").symlink_to(root / "a" / "y")
    (root / "a" / "y" / "to_x").symlink_to(root / "a" / "x")
    catalog = scan(root)
    assert catalog.counts() == {"": [2, 1]}
    assert set(aside(catalog).values()) == {
        "links back to a folder above it",
        "links to a folder of this class that was read already",
    }


def test_links_that_lead_nowhere(tree: Tree) -> None:
    """Broken links, links to themselves and pipes are reported and do not stop the scan."""
    root = tree({"a": 1, "b": 1})
    (root / "a" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "a" / "self.jpg").symlink_to(root / "a" / "self.jpg")
    os.mkfifo(root / "a" / "pipe.jpg")
    catalog = scan(root)
    assert len(catalog) == 2
    nothing = "is a link that leads nowhere, or not a file"
    assert aside(catalog) == {
        "a/gone.jpg": nothing,
        "a/self.jpg": nothing,
        "a/pipe.jpg": nothing,
    }


def test_what_is_skipped_is_reported(tree: Tree) -> None:
    """Hidden folders, leftovers, other files, empty classes and loose pictures are named."""
    root = tree(
        {
            "a": 2,
            "b": 2,
            "empty": 0,
            "texts/a.txt": b"no picture",
            "a/.ipynb_checkpoints": 1,
            "a/Thumbs.db": b"x",
            "a/README": b"x",
            "b/more.txt": b"x",
            ".cache/deep": 1,
            "__MACOSX/a": 1,
            "a/._000.jpg": b"resource fork",
            ".": ["loose.jpg"],
        }
    )
    before = sorted(root.rglob("*"))
    catalog = scan(root)
    assert catalog.classes == ("a", "b")
    assert len(catalog) == 4
    reasons = aside(catalog)
    assert {path: why for path, why in reasons.items() if path != "."} == {
        "a/.ipynb_checkpoints": "hidden or left behind by a tool",
        ".cache": "hidden or left behind by a tool",
        "__MACOSX": "hidden or left behind by a tool",
        "empty": "no pictures of class 'empty' in it",
        "texts": "no pictures of class 'texts' in it",
        "loose.jpg": "lies beside the class folders",
    }
    assert [item.reason for item in catalog.set_aside if item.path == str(root)] == [
        "1 x file ending in .db: not a format that is read",
        "2 x file ending in .txt: not a format that is read",
        "1 x file without a suffix: not a format that is read",
        "1 x hidden file",
    ]
    assert sorted(root.rglob("*")) == before


def test_names_in_any_language(tree: Tree) -> None:
    """Spaces, accents, other scripts and upper-case suffixes are nothing special."""
    root = tree({"Große Füchse": ["ein Fuchs.JPG"], "猫": ["猫 1.jpeg", "b.JpEg"], "a'b\"": 1})
    catalog = scan(root)
    assert catalog.classes == ("Große Füchse", "a'b\"", "猫")
    assert str(catalog.paths[0]) == f"{root}/Große Füchse/ein Fuchs.JPG"
    assert len(catalog) == 4


def test_names_that_are_no_text(tree: Tree) -> None:
    """A name that is not UTF-8 could not be written into a report: it is set aside, and shown."""
    root = tree({"a": 2, "b": 1})
    try:
        (root / os.fsdecode(b"caf\xe9")).mkdir()
        (root / "a" / os.fsdecode(b"\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    catalog = scan(root)
    assert catalog.counts() == {"": [2, 1]}
    shown = "its name is not valid UTF-8; rename it"
    assert aside(catalog) == {
        "a/\N{REPLACEMENT CHARACTER}.jpg": shown,
        "caf\N{REPLACEMENT CHARACTER}": shown,
    }


def test_order_does_not_depend_on_the_file_system(tree: Tree) -> None:
    """Files made in another order give the same catalog, sorted by class, then path."""
    names = ["b", "a", "C", "10", "9", "ä"]
    one = tree({f"{split}/{name}": 3 for split in ("val", "train") for name in names}, "one")
    two = tree(
        {f"{split}/{name}": 0 for split in ("train", "val") for name in sorted(names)}, "two"
    )
    for path in sorted(one.rglob("*.jpg"), reverse=True):
        (two / path.relative_to(one)).write_bytes(path.read_bytes())
    first, second = scan(one), scan(two)
    assert first.classes == ("10", "9", "C", "a", "b", "ä")
    assert files(first) == files(second)
    assert first.digests.tolist() == second.digests.tolist()
    places = [(name, path) for name, _, path in files(first)]
    assert places == sorted(places)


def test_digests_are_of_the_content(tree: Tree) -> None:
    """A picture is known by BLAKE2b-128 of its bytes, wherever it lies."""
    root = tree({"a": 1, "b": 1})
    content = (root / "a" / "000.jpg").read_bytes()
    (root / "b" / "copy.jpg").write_bytes(content)
    catalog = scan(root)
    expected = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    assert catalog.digests.tolist().count(expected) == 2
    assert catalog.digests.dtype == np.dtype("S32")


def test_paths_are_absolute(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root gives the same catalog as an absolute one."""
    root = tree({"a": 1, "b": 1})
    monkeypatch.chdir(root)
    assert scan(".").paths.tolist() == [f"{root}/a/000.jpg", f"{root}/b/000.jpg"]
    assert scan(".").root == root


def test_without_sets_rows_aside(tree: Tree) -> None:
    """Rows that proved unreadable leave every array, with their reason; classes stay."""
    catalog = scan(tree({"a": 2, "b": 1}))
    assert catalog.without({}) is catalog
    less = catalog.without({0: "is empty (0 bytes)", 2: "is cut off"})
    assert less.classes == ("a", "b")
    assert len(less) == len(less.labels) == len(less.digests) == len(less.splits) == 1
    assert less.paths.tolist() == [catalog.paths[1]]
    assert aside(less) == {"a/000.jpg": "is empty (0 bytes)", "b/000.jpg": "is cut off"}
    assert catalog.set_aside == ()


def test_one_class_is_enough_to_score_on(tree: Tree) -> None:
    """min_classes=1 lets a folder of one class pass."""
    assert scan(tree({"a": 2}), min_classes=1).classes == ("a",)


def test_missing_folder(tmp_path: Path) -> None:
    """A path where nothing lies, and one where a file lies, are told apart."""
    gone = tmp_path / "pets"
    with pytest.raises(DataNotFound) as error:
        scan(gone)
    assert str(error.value) == (
        f"{gone} does not exist. Expected a folder that holds one folder of pictures a class, "
        f"such as pets/cats and pets/dogs. Check the path."
    )
    gone.write_bytes(b"")
    with pytest.raises(DataNotFound, match="is a file, not a folder"):
        scan(gone)


def test_one_class_only(tree: Tree) -> None:
    """One class is refused; where it has folders inside, these are offered as the classes."""
    root = tree({"cats": 3})
    message = (
        f"{root} holds pictures of one class only ('cats', 3 pictures). Telling apart needs at "
        f"least two. Nothing was read. Put each class into a folder of its own below {root}; "
        f"pictures of anything else can serve as a second class."
    )
    with pytest.raises(NotEnoughClasses, match=f"^{re.escape(message)}$"):
        scan(root)
    root = tree({"archive/cats": 1, "archive/dogs": 1}, "wrapped")
    with pytest.raises(NotEnoughClasses) as error:
        scan(root)
    assert str(error.value).endswith(
        f" If the folders below it are the classes, give {root / 'archive'} instead."
    )


def test_no_pictures(tree: Tree) -> None:
    """A folder without pictures says what it expected and what it met."""
    root = tree({"a/x.txt": b"x", ".": ["1.jpg", "2.jpg"], "b": 0})
    with pytest.raises(NoReadablePicture) as error:
        scan(root)
    assert str(error.value) == (
        f"No pictures were found in the folders below {root}. Expected one folder of pictures a "
        f"class, with files ending in .avif, .bmp, .gif, .heic, .heif, .hif, .jfif, .jpe, .jpeg, "
        f".jpg, .png, .tif, .tiff, .webp. Nothing was read. Set aside: {root}/1.jpg lies "
        f"beside the class folders; {root}/2.jpg lies beside the class folders; {root}/a no "
        f"pictures of class 'a' in it; and 2 more"
    )


@pytest.mark.parametrize("other", ["Cats", "CATS", "cats\N{COMBINING ACUTE ACCENT}"])
def test_classes_that_look_the_same(other: str, tree: Tree) -> None:
    """Classes that differ only in case, or in how an accent is written, are refused."""
    name = "cat\N{LATIN SMALL LETTER S WITH ACUTE}" if "\u0301" in other else "cats"
    root = tree({f"train/{name}": 1, "train/dogs": 1, f"valid/{other}": 1})
    if len(list(root.glob("*/*"))) < 3:
        pytest.skip("this file system takes them for one folder")
    both = " and ".join(map(repr, sorted([name, other])))
    with pytest.raises(AmbiguousData) as error:
        scan(root)
    assert str(error.value) == (
        f"In {root} some class names differ only in case or in how accents are written: {both}. "
        f"They may be one class or two; nothing was trained. Rename or merge the folders."
    )


@pytest.fixture
def permissions_count(tmp_path: Path) -> None:
    """Skip where permissions do not bind the one who runs the tests, as with root."""
    probe = tmp_path / "probe"
    probe.touch(0)
    if os.access(probe, os.R_OK):
        pytest.skip("this user may read every file")


@pytest.mark.usefixtures("permissions_count")
def test_files_that_may_not_be_read(tree: Tree) -> None:
    """A file without permission is set aside; where that holds for all, the scan ends."""
    root = tree({"a": 2, "b": 1})
    (root / "a" / "000.jpg").chmod(0)
    catalog = scan(root)
    assert aside(catalog) == {"a/000.jpg": "cannot be opened (Permission denied)"}
    for path in root.rglob("*.jpg"):
        path.chmod(0)
    with pytest.raises(NoReadablePicture) as error:
        scan(root)
    assert str(error.value) == (
        f"Of 3 pictures in {root}, none could be opened. The first, {root}/a/000.jpg, cannot be "
        f"opened (Permission denied). Nothing was read. Check the permissions of the files."
    )


@pytest.mark.usefixtures("permissions_count")
def test_folders_that_may_not_be_entered(tree: Tree) -> None:
    """A folder without permission is set aside, and so is a link into one."""
    elsewhere = tree({"a": 1}, "elsewhere")
    root = tree({"a": 1, "b": 1, "c": 1})
    (root / "a" / "link.jpg").symlink_to(elsewhere / "a" / "000.jpg")
    (root / "c").chmod(0)
    elsewhere.chmod(0)
    try:
        catalog = scan(root)
        with pytest.raises(DataNotFound, match=r"/a cannot be opened \(Permission denied\)\. Exp"):
            scan(elsewhere / "a")
    finally:
        elsewhere.chmod(0o700)
        (root / "c").chmod(0o700)
    assert catalog.classes == ("a", "b")
    assert [item.reason for item in catalog.set_aside] == [
        "is a link that leads nowhere, or not a file",
        "cannot be opened (Permission denied)",
        "no pictures of class 'c' in it",
    ]
