"""What may be given for a picture, and how answers look where people look at them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tellapart import Classifier, Prediction, Predictions


@pytest.fixture(scope="module")
def classifier(format_1: Path) -> Classifier:
    """Three colours, told apart by their mean."""
    return Classifier.load(format_1)


def ways(path: Path) -> dict[str, Any]:
    """One picture in every form that is taken."""
    data = path.read_bytes()
    with Image.open(path) as image:
        array = np.array(image.convert("RGB"))
    return {
        "text": str(path),
        "path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "file": io.BytesIO(data),
        "image": Image.open(path),
        "palette": Image.fromarray(array).convert("P"),
        "array": array,
        "with transparency": np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
    }


def test_one_picture_gives_one_answer(classifier: Classifier, colours: Path) -> None:
    """The same from every form of it."""
    (wanted,) = classifier.predict([colours / "red.png"])
    for way, given in ways(colours / "red.png").items():
        answer = classifier.predict(given)
        assert isinstance(answer, Prediction), way
        assert (answer.label, answer.top) == (wanted.label, wanted.top), way


def test_several_give_a_list_in_order(classifier: Classifier, colours: Path) -> None:
    """Mixed forms, from any iterable; each knows where it came from."""
    with Image.open(colours / "blue.png") as image:
        given = (colours / "red.png", np.array(image), (colours / "green.png").read_bytes(), image)
        answers = classifier.predict(iter(given))
    assert isinstance(answers, Predictions)
    assert [one.label for one in answers] == ["red", "blue", "green", "blue"]
    assert [one.path for one in answers] == [
        str(colours / "red.png"),
        "picture 1",
        "picture 2",
        str(colours / "blue.png"),
    ]
    assert answers[0].picture is None
    assert answers[1].picture is given[1]


def test_arrays_of_several_and_of_grey(classifier: Classifier, colours: Path) -> None:
    """(N, H, W, 3) is N pictures; grey has one channel or none."""
    with Image.open(colours / "red.png") as image:
        red = np.array(image)
    assert [one.label for one in classifier.predict(np.stack([red, red[..., ::-1]]))] == [
        "red",
        "blue",
    ]
    grey = np.full((20, 10), 128, np.uint8)
    wanted = classifier.predict(colours / "grey.png").top
    assert classifier.predict(grey).top == classifier.predict(grey[..., None]).top == wanted


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            "An array that is a picture is uint8, 0 to 255, of shape (H, W, 3) RGB, (H, W) grey "
            "or (H, W, 4), not float32 of shape (4, 4, 3).",
        ),
        (
            np.zeros((3, 4, 5), np.uint8),
            "An array that is a picture is uint8, 0 to 255, of shape (H, W, 3) RGB, (H, W) grey "
            "or (H, W, 4), not uint8 of shape (3, 4, 5).",
        ),
        (
            7,
            "A picture is a path, bytes, an open binary file, a Pillow image or a uint8 array of "
            "shape (H, W, 3), not int.",
        ),
    ],
    ids=["floats", "channels first", "a number"],
)
def test_what_is_no_picture(classifier: Classifier, wrong: Any, message: str) -> None:
    """A mistake in a program is a TypeError that says what is taken."""
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        classifier.predict(wrong)


def test_broken_pictures_are_answered_with_why(classifier: Classifier) -> None:
    """Bytes, files and images that are cut off, beside whole ones."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (99, 99, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    data = buffer.getvalue()
    half = data[: len(data) // 2]
    answers = classifier.predict([half, io.BytesIO(half), Image.open(io.BytesIO(half)), data, b""])
    assert [one.error is None for one in answers] == [False, False, False, True, False]
    assert answers[4].error == "is empty (0 bytes)"


def test_an_answer_reads_well(classifier: Classifier, colours: Path) -> None:
    """In a line: what, how sure, what else, and why it is unsure."""
    answer = classifier.predict(colours / "red.png", top=2)
    confidence, other = answer.top[0][1], answer.top[1]
    doubt = f", unsure: {answer.reason}" if answer.unsure else ""
    beside = f"({other[0]} {other[1]:.1%}){doubt}"
    path = colours / "red.png"
    assert repr(answer) == f"<Prediction {path}: red {confidence:.1%} {beside}>"
    broken = classifier.predict(b"")
    assert repr(broken) == "<Prediction picture 0: not read, it is empty (0 bytes)>"


def test_an_answer_shows_as_a_picture_with_bars(classifier: Classifier, colours: Path) -> None:
    """HTML that holds the picture, the classes, and nothing that a name could break."""
    for given in ways(colours / "red.png").values():
        html = classifier.predict(given)._repr_html_()
        assert html.count("data:image/jpeg;base64,") == (0 if hasattr(given, "getvalue") else 1)
        assert all(f"{name} " in html for name in classifier.classes)
    odd = Prediction("<b>.png", "<i>", 0.5, (("<i>", 0.5),))
    assert "<i>" not in odd._repr_html_()
    assert "<b>.png" not in odd._repr_html_()
    assert "not read: it is empty (0 bytes)" in classifier.predict(b"")._repr_html_()


def test_many_answers_show_a_few(classifier: Classifier, colours: Path) -> None:
    """A notebook keeps what it shows, so it gets no more than two dozen pictures."""
    html = classifier.predict([colours / "red.png"] * 30)._repr_html_()
    assert html.count("<img") == 24
    assert html.endswith("<p>… and 6 more pictures.</p>")


def test_answers_become_a_frame(classifier: Classifier, colours: Path) -> None:
    """A row a picture, a column a class; what was not read has its error."""
    answers = classifier.predict([colours / "red.png", b"", colours / "blue.png"])
    frame = answers.to_frame()
    assert list(frame["label"].fillna("")) == ["red", "", "blue"]
    assert frame["error"][1] == "is empty (0 bytes)"
    assert frame["p(red)"][0] == answers[0].confidence
    assert frame["p(red)"].isna().tolist() == [False, True, False]
    assert "top" not in frame
