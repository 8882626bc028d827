"""Pictures of a training: they can be read, show what was measured, and leave no trace behind."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tellapart.evaluation.curves import CurvePoint, curves_png, rate_changes, rate_test_png

pytest.importorskip("matplotlib", reason="tellapart[train] is not installed")

BLUE, GREY = (0x1D, 0x4F, 0xB8), (0x7A, 0x84, 0x94)
POINT = CurvePoint(1, 1, 0.5, 0.8, 0.6, 0.75, 1e-3)
EPOCHS = [replace(POINT, epoch=i, train_loss=1 / i, valid_loss=1.2 / i) for i in range(1, 10)]

WITHOUT = """
import sys
sys.modules["matplotlib"] = None
sys.modules["matplotlib.figure"] = None
from tellapart.evaluation.curves import CurvePoint, curves_png
from tellapart.errors import MissingExtra
try:
    curves_png([CurvePoint(1, 1, 0.5, 0.8, None, None, 0.1)])
except MissingExtra as error:
    print(error)
"""


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Decode a PNG to (H, W, 3)."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has(picture: NDArray[np.uint8], colour: Sequence[int]) -> bool:
    """Tell whether a line of this colour was drawn."""
    return bool((picture == np.array(colour, np.uint8)).all(axis=2).sum() > 100)


def test_both_splits_are_drawn_in_both_panels() -> None:
    """Left is the loss, right the accuracy, each with a line for train and one for valid."""
    picture = pixels(curves_png(EPOCHS))
    height, width, _ = picture.shape
    assert (width, height) == (1350, 540)
    for panel in (picture[:, : width // 2], picture[:, width // 2 :]):
        assert has(panel, BLUE)
        assert has(panel, GREY)


def test_without_valid_there_is_one_line() -> None:
    """Where nothing was set aside only the line of train is drawn."""
    alone = [replace(point, valid_loss=None, valid_accuracy=None) for point in EPOCHS]
    picture = pixels(curves_png(alone))
    assert has(picture, GREY)
    assert not has(picture, BLUE)


def test_rate_has_a_panel_if_it_changes() -> None:
    """A rate that falls is drawn below, a rate that stays is not."""
    falling = [replace(point, lr=1e-3 / point.epoch) for point in EPOCHS]
    assert rate_changes(falling)
    assert not rate_changes(EPOCHS)
    assert pixels(curves_png(falling)).shape[0] > pixels(curves_png(EPOCHS)).shape[0]


def test_phases_are_divided() -> None:
    """A second phase adds a line and names to the picture."""
    two = [replace(point, phase=1 + (point.epoch > 4)) for point in EPOCHS]
    assert not np.array_equal(pixels(curves_png(two)), pixels(curves_png(EPOCHS)))


losses = st.none() | st.floats(0, 1e6) | st.sampled_from([math.nan, math.inf])


@settings(max_examples=15, deadline=None)  # a whole picture each
@given(
    values=st.lists(st.tuples(losses, losses, st.floats(0, 1)), min_size=1, max_size=60),
)
def test_any_training_can_be_drawn(
    values: list[tuple[float | None, float | None, float]],
) -> None:
    """Losses that are missing, huge or no numbers leave gaps, and no warning."""
    points = [
        CurvePoint(
            1 + i // 9, 1 + i % 9, math.nan if train is None else train, share, valid, share, 1
        )
        for i, (train, valid, share) in enumerate(values)
    ]
    assert pixels(curves_png(points)).shape[1] == 1350


def test_suggested_rate_is_where_the_axis_says() -> None:
    """The dashed line stands at its place between the ends of the logarithmic axis."""
    rates = np.logspace(-6, 0, 200)
    fall = 2 - np.exp(-((np.log10(rates) + 2) ** 2))
    found = []
    for suggested in (1e-5, 1e-3, 1e-1):
        plain = pixels(rate_test_png(rates.tolist(), fall.tolist(), None)).astype(int)
        marked = pixels(rate_test_png(rates.tolist(), fall.tolist(), suggested)).astype(int)
        # The label is short, the line runs through the whole panel.
        changed = (np.abs(marked - plain).sum(axis=2) > 200).sum(axis=0)
        found.append(int(changed.argmax()))
    first, second, third = found
    assert second - first == pytest.approx(third - second, abs=3)
    assert second - first > 200


@pytest.mark.parametrize(
    "measured", [[math.nan] * 30, [2.0] * 15 + [math.inf] * 15, [1.0] * 30, [0.0] * 30]
)
def test_range_test_that_went_wrong_can_be_drawn(measured: list[float]) -> None:
    """Losses that never were numbers, stopped being ones or never moved still give a picture."""
    rates = np.logspace(-6, 0, 30).tolist()
    assert pixels(rate_test_png(rates, measured, None)).shape == (540, 1350, 3)


def test_smoothing_does_not_shift_the_fall() -> None:
    """The smoothed line falls where the losses fall, not later, for the rate is read off it."""
    from tellapart.evaluation.curves import _smoothed

    losses = np.where(np.arange(200) < 100, 2.0, 1.0)
    noisy = losses + np.random.default_rng(0).normal(size=200) * 0.05
    smooth = _smoothed(noisy)
    assert int(np.argmin(np.abs(smooth - 1.5))) == pytest.approx(100, abs=2)
    assert np.abs(np.diff(smooth)).max() < np.abs(np.diff(noisy)).max() / 5


def test_drawing_leaves_no_state_behind() -> None:
    """No figure stays open, no window system is asked for: a server can draw in any thread."""
    code = (
        "import sys; from tellapart.evaluation.curves import CurvePoint, curves_png; "
        "curves_png([CurvePoint(1, 1, 0.5, 0.8, None, None, 0.1)]); "
        "print('matplotlib.pyplot' in sys.modules, 'tkinter' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_without_matplotlib_the_message_says_what_to_install() -> None:
    """Predicting needs no matplotlib; who asks for a picture is told the command."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    assert "Drawing curves needs matplotlib" in done.stdout
    assert "pip install 'tellapart[train]'" in done.stdout
