"""How a training went, as pictures that stand alone. Drawn with matplotlib, without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tellapart.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart without colour, too: by lightness and by dashes.
VALID: dict[str, Any] = {"color": "#1d4fb8", "linewidth": 2.0, "label": "valid"}
TRAIN: dict[str, Any] = {
    "color": "#7a8494",
    "linewidth": 1.6,
    "linestyle": (0, (4, 2)),
    "label": "train",
}
INK, SOFT, LINE = "#1b2330", "#566070", "#dfe1e4"
# Beyond so many epochs their dots would run together.
DOTTED_EPOCHS = 40


@dataclass(frozen=True)
class CurvePoint:
    """What one epoch showed; `phase` and `epoch` count from 1, accuracies are from 0 to 1.

    What is None was not measured; `lr` is the rate of the body.
    """

    phase: int
    epoch: int
    train_loss: float
    train_accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None
    lr: float


def rate_changes(points: Sequence[CurvePoint]) -> bool:
    """Tell whether the rate of the body is worth a chart of its own."""
    return len({point.lr for point in points}) > 1


def curves_png(epochs: Sequence[CurvePoint]) -> bytes:
    """Draw loss and accuracy over the epochs of all phases, and the rate if it changes.

    epochs: in their order, at least one. A loss that is no number leaves a gap.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with_rate = rate_changes(epochs)
    figure = _figure(5.0 if with_rate else 3.6)
    grid = figure.add_gridspec(2 if with_rate else 1, 2, height_ratios=[3, 1][: 1 + with_rate])
    loss, accuracy = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    _curves(loss, "Loss", [p.train_loss for p in epochs], [p.valid_loss for p in epochs])
    _curves(
        accuracy,
        "Accuracy in %",
        [100 * p.train_accuracy for p in epochs],
        [None if p.valid_accuracy is None else 100 * p.valid_accuracy for p in epochs],
    )
    accuracy.set_ylim(top=min(100.0, accuracy.get_ylim()[1]))
    if with_rate:
        rate = figure.add_subplot(grid[1, :])
        x = range(1, len(epochs) + 1)
        rate.step(x, [p.lr for p in epochs], where="mid", color=INK, linewidth=1.5)
        rate.set_title("Rate of the body", loc="left")
        rate.set_ylim(bottom=0)
        _epochs_axis(rate, epochs)
    for panel in (loss, accuracy):
        _epochs_axis(panel, epochs)
        _name_phases(panel, epochs)
    accuracy.legend()
    return _png(figure)


def rate_test_png(
    rates: Sequence[float], losses: Sequence[float], suggested: float | None
) -> bytes:
    """Draw the loss against the rate as a range test raised it, and the rate it suggests.

    rates: rising, above zero. losses: of the same length, as measured: they are smoothed here.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = _figure(3.6)
    panel = figure.add_subplot()
    x, y = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    smooth = _smoothed(y)
    panel.plot(x, y, color=TRAIN["color"], linewidth=0.8, alpha=0.5, label="each step")
    panel.plot(x, smooth, color=VALID["color"], linewidth=2.0, label="smoothed")
    panel.set_xscale("log")
    panel.set_xlim(x.min(), x.max())
    panel.set_xlabel("learning rate")
    panel.set_title("Loss", loc="left")
    low, high = _readable(smooth)
    panel.set_ylim(low, high)
    if suggested is not None:
        panel.axvline(suggested, color=INK, linewidth=1, linestyle=(0, (3, 3)))
        panel.annotate(
            f"suggested: {suggested:.1e}".replace("e-0", "e-"),
            (suggested, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=INK,
        )
    panel.legend(loc="lower left")
    return _png(figure)


def _curves(panel: Axes, title: str, train: Sequence[float], valid: Sequence[float | None]) -> None:
    """Draw the curves of both splits; valid above train, where there is one."""
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(train) <= DOTTED_EPOCHS else {}
    for values, style in ((train, TRAIN), (valid, VALID)):
        shown = [math.nan if y is None or not math.isfinite(y) else y for y in values]
        if not all(map(math.isnan, shown)):
            panel.plot(range(1, len(shown) + 1), shown, **style, **dots, clip_on=False)
    panel.set_title(title, loc="left")


def _epochs_axis(panel: Axes, epochs: Sequence[CurvePoint]) -> None:
    """Number the epochs through all phases, and divide the phases by thin lines."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlim(0.5, len(epochs) + 0.5)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for i in range(1, len(epochs)):
        if epochs[i].phase != epochs[i - 1].phase:
            panel.axvline(i + 0.5, color=SOFT, linewidth=0.8)


def _name_phases(panel: Axes, epochs: Sequence[CurvePoint]) -> None:
    """Write above the panel which phase is which, if there are several."""
    numbers = [point.phase for point in epochs]
    if len(set(numbers)) == 1:
        return
    panel.set_title(panel.get_title(loc="left"), loc="left", pad=18)
    for phase in dict.fromkeys(numbers):
        panel.annotate(
            f"phase {phase}" if numbers.count(phase) > 0.12 * len(numbers) else str(phase),
            (numbers.index(phase) + 0.5 + numbers.count(phase) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=SOFT,
            fontsize=8,
        )


def _smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average neighbouring steps with weights of a bell; nothing after the first non-number."""
    from scipy.ndimage import gaussian_filter1d

    n = len(losses) if np.isfinite(losses).all() else int(np.argmin(np.isfinite(losses)))
    smooth = np.full(len(losses), np.nan)
    if n:
        smooth[:n] = gaussian_filter1d(losses[:n], sigma=max(0.5, n / 50), mode="nearest")
    return smooth


def _readable(smooth: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the axis that show the fall; how high it shoots later says nothing."""
    known = smooth[np.isfinite(smooth)]
    if not known.size:
        return 0.0, 1.0
    low, start, high = known.min(), known[0], known.max()
    room = max(start - low, 0.05 * abs(start), 1e-3)
    return float(low - 0.15 * room), float(min(start + 0.6 * room, high + 0.15 * room))


def _figure(height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtra(
            f"Drawing curves needs matplotlib, and {error.name} is not installed. Nothing was "
            f"drawn. Install it with: pip install 'tellapart[train]'"
        ) from error
    layout = ConstrainedLayoutEngine(wspace=0.05, hspace=0.05)
    return Figure(figsize=(9, height), dpi=150, layout=layout)


def _png(figure: Figure) -> bytes:
    """Give all panels the same plain style, and draw them."""
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(SOFT)
        panel.tick_params(colors=SOFT, labelcolor=INK)
        panel.xaxis.label.set_color(SOFT)
        panel.grid(axis="y", color=LINE, linewidth=0.8)
        panel.set_axisbelow(True)
        if legend := panel.get_legend():
            legend.set_frame_on(False)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()
