"""`predict --show` and `--explain`: a drawing for each answer, under a name of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart.inference.classifier import Classifier
from tellapart.pipeline.illustrating import common_folder, open_illustrator, unwritable_names


@pytest.fixture
def pictures(trained: Any, tmp_path: Path) -> Path:
    """Two pictures of the same name in two folders, one with another suffix, one broken."""
    source = sorted(trained.data.rglob("*.png"))
    for number, name in enumerate(("a/1.png", "b/1.png", "b/1.bmp")):
        target = tmp_path / "pictures" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source[20 * number]).convert("RGB").resize((96, 64)).save(target)
    (tmp_path / "pictures/b/broken.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_each_answer_gets_its_drawings(
    command: Callable[..., Any], trained: Any, pictures: Path, tmp_path: Path
) -> None:
    """Both kinds are written, no name clashes, and standard output is as without them."""
    plain = command("predict", trained.bundle, pictures, "--json", "-q")
    shown, why = tmp_path / "shown", tmp_path / "why"
    given = ("--show", shown, "--explain", why)
    drawn = command("predict", trained.bundle, pictures, "--json", "-q", *given)
    assert (plain.code, drawn.code) == (0, 0)
    assert drawn.out == plain.out
    assert len([json.loads(line) for line in drawn.out.splitlines()]) == 4
    for folder, what in ((shown, "answer"), (why, "why")):
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        assert names == [f"{p}.{what}.png" for p in ("a/1.png", "b/1.bmp", "b/1.png")]
        for path in folder.rglob("*.png"):
            with Image.open(path) as image:
                assert np.asarray(image).std() > 0


def test_three_classes_have_three_bars(
    command: Callable[..., Any], trained: Any, pictures: Path, tmp_path: Path
) -> None:
    """Where there are fewer than five classes, all are drawn."""
    assert command("predict", trained.bundle, pictures / "a", "--show", tmp_path / "s").code == 0
    with Image.open(tmp_path / "s/1.png.answer.png") as image:
        card = np.asarray(image.convert("RGB")).astype(int)
    tracks = (np.abs(card - (0xEE, 0xF0, 0xF3)).sum(axis=2) == 0).any(axis=1)
    assert np.count_nonzero(np.diff(tracks.astype(int)) == 1) == 3


def test_no_map_is_said_before_work(
    command: Callable[..., Any], format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """A classifier without maps refuses to explain, writes nothing, and still can be shown."""
    refused = command("predict", format_1, colours, "--explain", tmp_path / "why")
    assert (refused.code, refused.out) == (73, "")
    assert refused.err.startswith("tellapart: There is no map of why mean_colour answers as it")
    assert not (tmp_path / "why").exists()
    assert command("predict", format_1, colours, "--show", tmp_path / "s", "-q").code == 0
    assert len(list((tmp_path / "s").iterdir())) == 5


def test_folder_that_cannot_be_made_is_an_error(
    command: Callable[..., Any], trained: Any, pictures: Path, tmp_path: Path
) -> None:
    """A file where the folder should be: said with the cure, exit code 31."""
    (tmp_path / "taken").write_text("")
    refused = command("predict", trained.bundle, pictures, "--show", tmp_path / "taken", "-q")
    assert refused.code == 31
    assert refused.err.rstrip().endswith("or name another folder.")


def test_a_picture_that_vanished_is_left_out(trained: Any, pictures: Path, tmp_path: Path) -> None:
    """Taken away between answer and drawing: nothing is drawn and nothing raised."""
    classifier = Classifier.load(trained.bundle)
    answer = classifier.predict(pictures / "a/1.png")
    illustrator = open_illustrator(classifier, [str(pictures)], tmp_path / "s", tmp_path / "w")
    (pictures / "a/1.png").unlink()
    assert illustrator.draw(answer) == ()
    assert not (tmp_path / "s").exists()


def test_letters_without_a_font_are_warned_of(trained: Any) -> None:
    """Latin names need no warning."""
    assert unwritable_names(Classifier.load(trained.bundle)) is None


def test_common_folder_of_files_folders_and_patterns(tmp_path: Path) -> None:
    """The base of all names is what files, folders and patterns have in common."""
    for name in ("x/a", "x/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "x/a/1.png").write_bytes(b"")
    base = str(tmp_path)
    assert common_folder([f"{base}/x/a/1.png"]) == tmp_path / "x/a"
    assert common_folder([f"{base}/x/a", f"{base}/x/b"]) == tmp_path / "x"
    assert common_folder([f"{base}/x/*/1.png"]) == tmp_path / "x"
    assert common_folder([f"{base}/x/a/*.png", f"{base}/none.png"]) == tmp_path
