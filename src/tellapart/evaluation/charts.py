"""Numbers to the geometry of a small line chart; the report's template draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The plot inside its frame, in SVG user units; the template's viewBox leaves room for labels.
WIDTH = 300.0
HEIGHT = 150.0


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, `at` in SVG user units."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One curve over a logarithmic axis; y grows downwards, as SVG has it."""

    points: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def line_chart(x: Sequence[float], y: Sequence[float]) -> LineChart:
    """Lay out the points (x, y), at least one and x > 0, with x on a logarithmic axis."""
    logs = [math.log10(value) for value in x]
    left, right = min(logs) - 0.25, max(logs) + 0.25
    step = round_step(max(max(y) - min(y), 1e-3) / 3)
    bottom, top = (math.floor(min(y) / step)) * step, (math.ceil(max(y) / step)) * step
    if bottom == top:
        bottom, top = bottom - step, top + step

    def across(log: float) -> float:
        return round((log - left) / (right - left) * WIDTH, 1)

    def up(value: float) -> float:
        return round((top - value) / (top - bottom) * HEIGHT, 1)

    every = math.ceil((right - left) / 7)
    decades = range(math.ceil(left), math.floor(right) + 1)
    levels = [bottom + step * i for i in range(round((top - bottom) / step) + 1)]
    return LineChart(
        points=tuple((across(log), up(value)) for log, value in zip(logs, y, strict=True)),
        x_ticks=tuple(Tick(across(d), f"{10.0**d:g}") for d in decades if d % every == 0),
        y_ticks=tuple(Tick(up(v), _level(v, step)) for v in levels),
    )


def round_step(wanted: float) -> float:
    """Return the 1, 2 or 5 times a power of ten that is next above `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= wanted * (1 - 1e-9))


def _level(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}"
