"""Answers as pictures: readable in any script, the map where the network looked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tellapart.inference import lettering
from tellapart.inference.drawing import PICTURE_PX, answer_png, explanation_png, overlay

GREY = np.full((60, 100, 3), 128, dtype=np.uint8)


def pixels(png: bytes) -> np.ndarray:
    """Decode a PNG, (H, W, 3) int16."""
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(np.int16)


def test_bars_are_as_long_as_probabilities() -> None:
    """The blue of each bar has the length of its probability; the surest is darker."""
    card = pixels(answer_png(GREY, "a.jpg", [("cat", 0.75), ("dog", 0.25)]))
    blue = (card == (0x21, 0x58, 0xC9)).all(axis=2).sum(axis=1).max()
    soft = (card == (0xA9, 0xBF, 0xE8)).all(axis=2).sum(axis=1).max()
    assert blue / soft == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_card_grows_with_its_classes(n: int) -> None:
    """There is a bar for each class given, however few."""
    top = [(f"class {i}", 0.5**i) for i in range(1, n + 1)]
    card = pixels(answer_png(GREY, "a.jpg", top))
    bars = (np.abs(card - (0xEE, 0xF0, 0xF3)).sum(axis=2) == 0).any(axis=1)
    assert np.count_nonzero(np.diff(bars.astype(int)) == 1) == n


def test_card_is_whole_for_odd_pictures() -> None:
    """Pictures of one pixel, very wide ones and huge names make a card of the usual width."""
    for shape in ((1, 1, 3), (3, 900, 3), (900, 3, 3), (2000, 1500, 3)):
        png = answer_png(np.zeros(shape, np.uint8), "n" * 400, [("long name " * 40, 1.0)], "note")
        assert pixels(png).shape[1] == PICTURE_PX + 72
        box = (0.0, 0.0, float(shape[1]), float(shape[0]))
        explanation_png(np.zeros(shape, np.uint8), box, np.ones((7, 7), np.float32), "n", "a: 1 %")


def test_overlay_is_warm_for_and_blue_against() -> None:
    """Red above blue where a place speaks for the class, blue above red where against."""
    heat = np.array([[1.0, -1.0]], dtype=np.float32)
    shown = overlay(GREY, (0.0, 0.0, 100.0, 60.0), heat).astype(int)
    assert shown[30, 10, 0] > shown[30, 10, 2] + 100
    assert shown[30, 90, 2] > shown[30, 90, 0] + 100


def test_overlay_lies_where_the_network_looked() -> None:
    """The map spans the seen box alone: its hottest place is where it belongs, the rest is pale."""
    heat = np.zeros((5, 5), dtype=np.float32)
    heat[1, 3] = 1
    shown = overlay(GREY, (20.0, 0.0, 80.0, 60.0), heat).astype(int)
    warmth = shown[..., 0] - shown[..., 2]
    y, x = np.unravel_index(warmth.argmax(), warmth.shape)
    assert abs(x + 0.5 - (20 + 3.5 * 12)) <= 1
    assert abs(y + 0.5 - 1.5 * 12) <= 1
    assert (warmth[:, :20] == 0).all()
    assert (warmth[:, 80:] == 0).all()
    assert shown[:, :20].min() > shown[30, 25].max() + 20


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from([0.0, 1e-20, 1.0, 1e6]),
)
def test_overlay_of_any_map(shape: tuple[int, int], scale: float) -> None:
    """Maps of any size and strength, nothing but zeros included, give a picture."""
    heat = scale * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shown = overlay(GREY, (10.0, 0.0, 70.0, 60.0), heat)
    assert shown.shape == GREY.shape
    if scale == 0.0:
        assert (shown[..., 0] == shown[..., 2]).all()


def drawn(text: str) -> np.ndarray:
    """Write a text onto white."""
    image = Image.new("L", (400, 40), "white")
    lettering.write(ImageDraw.Draw(image), (5, 20), text, 24, "black", 380)
    return np.asarray(image)


@pytest.mark.parametrize("name", ["向日葵", "وردة حمراء", "Подсолнух", "Sonnenblume ß"])
def test_names_of_other_scripts_are_written(name: str) -> None:
    """Letters are drawn, not the boxes that stand for what a font lacks."""
    if lettering.unwritable(name):
        pytest.skip(f"no font here has the letters of {name}: apt-get install fonts-noto-cjk")
    assert (drawn(name) < 128).any()
    assert not np.array_equal(drawn(name), drawn("\uffff" * len(name)))


def test_scripts_mix_in_a_name() -> None:
    """A name that no single font has is written by several."""
    name = "\N{MATHEMATICAL SCRIPT CAPITAL X} 向 rose"
    if lettering.unwritable(name):
        pytest.skip("no font here has a script X, or Chinese")
    assert len(list(lettering._runs(name, 20))) > 1


def test_letters_that_no_font_has_are_named() -> None:
    """What cannot be written is returned, each letter once; what can is not."""
    assert lettering.unwritable("ab\u0378c\u0378") == "\u0378"
    assert lettering.unwritable("plain name") == ""


def test_fonts_are_found_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without fonts Latin names are still written, by Pillow's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for remembered in (lettering.installed_fonts, lettering._has, lettering._font):
        remembered.cache_clear()
    try:
        assert lettering.installed_fonts() == ()
        assert lettering.unwritable("rose") == ""
        assert lettering.unwritable("向") == "向"
        assert (drawn("rose") < 128).any()
        assert (drawn("向") < 128).any()
    finally:
        for remembered in (lettering.installed_fonts, lettering._has, lettering._font):
            remembered.cache_clear()


def test_long_text_ends_in_an_ellipsis() -> None:
    """A name that does not fit is cut, and keeps to its room."""
    image = Image.new("L", (400, 40), "white")
    width = lettering.write(ImageDraw.Draw(image), (0, 20), "long " * 50, 24, "black", 200)
    assert 150 < width <= 200
