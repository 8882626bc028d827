"""A plan says where every picture goes, under a name that is legal and free."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.dates import taken
from tellapart.errors import SortRefused
from tellapart.inference.sorting import (
    Plan,
    Verdict,
    find_gallery,
    key,
    numbered,
    plan_sort,
    safe_name,
)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """An empty gallery."""
    folder = tmp_path / "gallery"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    """Write files, each with its own bytes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def moves(plan: Plan) -> dict[str, str]:
    """Return source -> target, both relative."""
    return {os.path.relpath(step.source, plan.gallery): step.target for step in plan.steps}


def planned(gallery: Path, labels: dict[str, str | None], **options: str) -> Plan:
    """Plan to sort pictures of these labels; None is unsure."""
    verdicts = [
        Verdict(str(gallery / name), label, unsure=label is None) for name, label in labels.items()
    ]
    return plan_sort(verdicts, gallery, gallery.parent / "sorted", **options)  # type: ignore[arg-type]


def test_pictures_go_to_their_class_and_unsure_ones_apart(gallery: Path) -> None:
    """One folder a class, `_unsure` last; what could not be read stays where it is."""
    put(gallery, "a.jpg", "deep/b.jpg", "c.jpg", "bad.jpg")
    verdicts = [
        Verdict(str(gallery / "a.jpg"), "dog", 0.9),
        Verdict(str(gallery / "deep/b.jpg"), "cat", 0.8),
        Verdict(str(gallery / "c.jpg"), "cat", 0.4, unsure=True),
        Verdict(str(gallery / "bad.jpg"), None, error="is empty (0 bytes)"),
        Verdict(str(gallery / "gone.jpg"), "cat", 0.8),
    ]
    plan = plan_sort(verdicts, gallery, gallery.parent / "sorted")
    assert moves(plan) == {
        "a.jpg": "dog/a.jpg",
        "deep/b.jpg": "cat/b.jpg",
        "c.jpg": "_unsure/c.jpg",
    }
    assert list(plan.groups()) == ["cat", "dog", "_unsure"]
    assert [(Path(one.path).name, one.reason) for one in plan.left] == [
        ("bad.jpg", "is empty (0 bytes)"),
        ("gone.jpg", "is gone since it was looked at"),
    ]


def test_sidecars_go_with_their_picture(gallery: Path) -> None:
    """Edits, live-photo films and raw files of the same name, whatever their case."""
    names = ["I.jpg", "I.xmp", "I.jpg.xmp", "I.AAE", "i.mov", "I.CR2", "I.txt", "J.mov", "x/I.xmp"]
    put(gallery, *names)
    plan = planned(gallery, {"I.jpg": "cat"})
    went = {"I.jpg", "I.xmp", "I.jpg.xmp", "I.AAE", "i.mov", "I.CR2"}
    assert moves(plan) == {name: f"cat/{name}" for name in went}
    assert plan.n_pictures == 1


def test_a_sidecar_of_two_pictures_goes_with_the_first(gallery: Path) -> None:
    """And the plan says so."""
    put(gallery, "I.jpg", "I.png", "I.xmp")
    plan = planned(gallery, {"I.jpg": "cat", "I.png": "dog"})
    assert moves(plan)["I.xmp"] == "cat/I.xmp"
    assert plan.notes == ("1 sidecars belong to two pictures: they go with the first.",)


def test_names_that_clash_get_numbers_and_keep_their_sidecars(gallery: Path) -> None:
    """Also names that differ in case alone, and stems that would seem to own another's sidecar."""
    put(gallery, "a/I.jpg", "a/I.xmp", "b/I.jpg", "b/I.xmp", "c/i.JPG", "d/I.png")
    plan = planned(gallery, dict.fromkeys(("a/I.jpg", "b/I.jpg", "c/i.JPG", "d/I.png"), "cat"))
    assert moves(plan) == {
        "a/I.jpg": "cat/I.jpg",
        "a/I.xmp": "cat/I.xmp",
        "b/I.jpg": "cat/I (2).jpg",
        "b/I.xmp": "cat/I (2).xmp",
        "c/i.JPG": "cat/i (3).JPG",
        "d/I.png": "cat/I (4).png",
    }
    assert [group["n_renamed"] for group in plan.as_dict()["groups"]] == [4]


def test_what_is_in_the_sorted_folder_is_not_overwritten(gallery: Path) -> None:
    """A name taken there is taken; a folder there is used as it is spelled."""
    put(gallery, "I.jpg")
    put(gallery.parent / "sorted", "Cat/i.JPG")
    plan = planned(gallery, {"I.jpg": "cat"})
    assert moves(plan) == {"I.jpg": "Cat/I (2).jpg"}


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_copying_twice_copies_once(gallery: Path, how: str) -> None:
    """What lies there already, the same, is not done again; a changed one gets a number."""
    put(gallery, "a/I.jpg", "b/I.jpg")
    labels = {"a/I.jpg": "cat", "b/I.jpg": "cat"}
    folder = gallery.parent / "sorted" / "cat"
    folder.mkdir(parents=True)
    make = {"copy": shutil.copy, "hardlink": os.link, "symlink": os.symlink}[how]
    make(gallery / "a/I.jpg", folder / "I.jpg")
    plan = planned(gallery, labels, how=how)
    assert moves(plan) == {"b/I.jpg": "cat/I (2).jpg"}
    assert plan.notes == ("1 files are there already, and stay as they are.",)
    make(gallery / "b/I.jpg", folder / "I (2).jpg")
    assert planned(gallery, labels, how=how).steps == ()


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("cat", "cat"),
        ("größe 大", "größe 大"),
        ("../x", "___x"),
        ("..", "__"),
        (".hidden", "_hidden"),
        ("a/b\\c:d", "a_b_c_d"),
        ("con", "con_"),
        ("LPT1.txt", "LPT1.txt_"),
        ("name. ", "name"),
        ("   ", "_"),
        ("", "_"),
        ("tab\there\0", "tab_here_"),
        ("é" * 300, "é" * 100),
        ("caf\udce9", "caf_"),
        ("e\u0301", "é"),
    ],
)
def test_class_names_become_folder_names(label: str, folder: str) -> None:
    """Legal on every system, and inside of the sorted folder."""
    assert safe_name(label) == folder


@given(st.text())
def test_no_class_name_leads_out(label: str) -> None:
    """Whatever a class is called: one name, not hidden, of a length that leaves room."""
    name = safe_name(label)
    assert name == Path(name).name
    assert name.encode()
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert safe_name(name) == name


def test_classes_whose_folders_would_be_one_get_two(gallery: Path) -> None:
    """Names that become alike, differ in case, are reserved, or are taken by a file."""
    put(gallery, *(f"{n}.jpg" for n in range(6)))
    put(gallery.parent / "sorted", "bird")
    labels = ("a/b", "a_b", "A_B", "_unsure", "bird", None)
    plan = planned(gallery, {f"{n}.jpg": label for n, label in enumerate(labels)})
    assert list(moves(plan).values()) == [
        "a_b/0.jpg",
        "a_b (2)/1.jpg",
        "A_B (3)/2.jpg",
        "_unsure (2)/3.jpg",
        "bird (2)/4.jpg",
        "_unsure/5.jpg",
    ]
    assert plan.notes[0] == (
        "Class 'a/b' goes to the folder 'a_b': its name is not one for folders, or is taken."
    )


def test_long_names_stay_within_what_disks_take() -> None:
    """A number takes the place of letters, also of long ones, never of the suffix."""
    stem = "ü" * 125
    name = numbered(f"{stem}.jpeg", stem, 12)
    assert name.endswith(" (12).jpeg")
    assert len(name.encode()) <= 255
    assert key("É.JPG") == key("e\u0301.jpg")


def test_dates_come_from_exif_or_from_the_file(gallery: Path) -> None:
    """The layout's parts, and how many of the dates came from where."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2021:07:14 12:00:00"
    Image.new("RGB", (8, 8)).save(gallery / "exif.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(gallery / "bare.jpg")
    put(gallery, "broken.jpg", "exif.xmp")
    noon = datetime(2019, 3, 2, 12).timestamp()
    for name in ("bare.jpg", "broken.jpg"):
        os.utime(gallery / name, (noon, noon))
    assert taken(gallery / "exif.jpg") == (datetime(2021, 7, 14, 12), True)
    labels = dict.fromkeys(("exif.jpg", "bare.jpg"), "cat") | {"broken.jpg": None}
    plan = planned(gallery, labels, layout="class/year-month")
    assert moves(plan) == {
        "exif.jpg": "cat/2021-07/exif.jpg",
        "exif.xmp": "cat/2021-07/exif.xmp",
        "bare.jpg": "cat/2019-03/bare.jpg",
        "broken.jpg": "_unsure/2019-03/broken.jpg",
    }
    assert plan.notes == ("Dates: 1 from EXIF, 2 from the time of the file.",)
    other = planned(gallery, labels, layout="year/month/class")
    assert moves(other)["exif.jpg"] == "2021/07/cat/exif.jpg"


@pytest.mark.parametrize("layout", ["", "class/day", "year", "class/class", "../class"])
def test_an_unknown_layout_is_refused(gallery: Path, layout: str) -> None:
    """With the parts that there are."""
    with pytest.raises(SortRefused) as refused:
        planned(gallery, {}, layout=layout)
    assert str(refused.value) == (
        f"--by {layout} is not a layout. Expected class once, and any of year, month, year-month, "
        f"year-month-day, with / between: class/year-month. Nothing was moved."
    )


def test_what_links_lead_to_is_copied_not_moved(gallery: Path) -> None:
    """A linked picture, or one in a linked folder, is not taken from its place."""
    put(gallery.parent / "other", "f.jpg")
    put(gallery, "a.jpg")
    (gallery / "link.jpg").symlink_to("a.jpg")
    (gallery / "more").symlink_to(gallery.parent / "other")
    labels = dict.fromkeys(("a.jpg", "link.jpg", "more/f.jpg"), "cat")
    plan = planned(gallery, labels)
    assert list(moves(plan)) == ["a.jpg"]
    assert {one.reason for one in plan.left} == {
        "is reached through a link; --how copy sorts a copy of it"
    }
    assert list(moves(planned(gallery, labels, how="copy"))) == list(labels)


def test_a_sorted_folder_inside_the_gallery_is_left_out(gallery: Path) -> None:
    """Pictures sorted before are not sorted again, also where a link leads to them."""
    put(gallery, "a.jpg", "sorted/cat/b.jpg", ".hidden/c.jpg")
    (gallery / "link").symlink_to("sorted")
    found, aside = find_gallery(gallery, gallery / "sorted")
    assert found == [str(gallery / "a.jpg")]
    assert [Path(one.path).name for one in aside] == [".hidden", "sorted"]
    plan = plan_sort([Verdict(found[0], "cat")], gallery, gallery / "sorted")
    assert plan.notes == ("sorted lies in the gallery: what is in it was left out.",)


def test_folders_that_do_not_go_together_are_refused(gallery: Path) -> None:
    """The gallery itself or above, a file, a place that is not there, no gallery."""
    put(gallery, "file")
    for into, what in (
        (gallery, "is, or lies in, the folder to sort into"),
        (gallery.parent, "is, or lies in, the folder to sort into"),
        (gallery / "file", "is a file. Expected a folder, or a name that is free."),
        (gallery / "no" / "way", "cannot be made: there is no folder"),
    ):
        with pytest.raises(SortRefused, match=what):
            find_gallery(gallery, into)
    with pytest.raises(SortRefused, match="is not a folder that can be sorted"):
        find_gallery(gallery / "file", gallery.parent / "sorted")
