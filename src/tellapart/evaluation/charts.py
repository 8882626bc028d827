"""Numbers to the geometry of small line charts; the report's template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

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


@dataclass(frozen=True)
class EpochChart:
    """Curves over the epochs of all phases, on linear axes; y grows downwards, as SVG has it.

    `lines`: the points of each curve. `dividers`: places on x between two phases. `phases`: what
    to write above each phase, `at` its middle.
    """

    lines: tuple[tuple[tuple[float, float], ...], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dividers: tuple[float, ...]
    phases: tuple[Tick, ...]


def line_chart(x: Sequence[float], y: Sequence[float]) -> LineChart:
    """Lay out the points (x, y), at least one and x > 0, with x on a logarithmic axis."""
    logs = [math.log10(value) for value in x]
    left, right = min(logs) - 0.25, max(logs) + 0.25
    axis = _Axis.around(y, 3)

    def across(log: float) -> float:
        return round((log - left) / (right - left) * WIDTH, 1)

    every = math.ceil((right - left) / 7)
    decades = range(math.ceil(left), math.floor(right) + 1)
    return LineChart(
        points=tuple((across(log), axis.up(value)) for log, value in zip(logs, y, strict=True)),
        x_ticks=tuple(Tick(across(d), f"{10.0**d:g}") for d in decades if d % every == 0),
        y_ticks=axis.ticks(),
    )


def epoch_chart(
    lines: Sequence[Sequence[float | None]],
    phases: Sequence[int],
    highest: float = math.inf,
    least_span: float = 1e-3,
) -> EpochChart:
    """Lay out curves with a value an epoch, at least one.

    lines: values from 0 to `highest`; one that is None or no number is left out.
    phases: the number of the phase that each epoch belongs to, in rising order.
    least_span: differences below it are not blown up.
    """
    n = len(phases)
    values = [y for line in lines for y in line if _is_number(y)]
    axis = _Axis.around(values or [0.0, 1.0], 5, least_span, (0.0, highest))
    first = {phase: phases.index(phase) for phase in dict.fromkeys(phases)}
    edges = [*first.values(), n]

    def across(epoch: float) -> float:
        """Place epochs, counted from 0, in the middle of columns of the same width."""
        return round((epoch + 0.5) / n * WIDTH, 1)

    step = max(1, round(round_step(n / 6)))
    return EpochChart(
        lines=tuple(
            tuple((across(i), axis.up(y)) for i, y in enumerate(line) if _is_number(y))
            for line in lines
        ),
        x_ticks=tuple(
            Tick(across(i - 1), str(i)) for i in range(1, n + 1) if n < 7 or i % step == 0
        ),
        y_ticks=axis.ticks(),
        dividers=tuple(across(edge - 0.5) for edge in edges[1:-1]),
        phases=tuple(
            Tick(across((start + end - 1) / 2), _phase_label(phase, (end - start) / n))
            for phase, start, end in zip(first, edges, edges[1:], strict=False)
        ),
    )


def round_step(wanted: float) -> float:
    """Return the 1, 2 or 5 times a power of ten that is next above `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= wanted * (1 - 1e-9))


@dataclass(frozen=True)
class _Axis:
    """A vertical axis whose ends and ticks are multiples of a round step."""

    bottom: float
    top: float
    step: float

    @classmethod
    def around(
        cls,
        values: Sequence[float],
        parts: int,
        least_span: float = 1e-3,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> _Axis:
        """Make an axis for these values, whose range takes up at most so many steps."""
        # The last term: the steps of huge values must not vanish in their rounding.
        span = max(max(values) - min(values), least_span, 1e-5 * max(map(abs, values)))
        step = round_step(span / parts)
        bottom, top = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
        if bottom == top:
            bottom, top = max(bottom - step, bounds[0]), min(top + step, bounds[1])
        return cls(bottom, top, step)

    def up(self, value: float) -> float:
        return round((self.top - value) / (self.top - self.bottom) * HEIGHT, 1)

    def ticks(self) -> tuple[Tick, ...]:
        n = round((self.top - self.bottom) / self.step)
        levels = [self.bottom + self.step * i for i in range(n + 1)]
        return tuple(Tick(self.up(level), _level(level, self.step)) for level in levels)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _phase_label(phase: int, share: float) -> str:
    """Name a phase as its share of the width allows."""
    return f"phase {phase}" if share * WIDTH > 45 else str(phase)


def _level(value: float, step: float) -> str:
    """Write a multiple of the step as shortly as tells it from the next."""
    power = math.floor(math.log10(step) + 1e-9)
    if -4 <= power < 4:
        return f"{value:.{max(0, -power)}f}"
    if abs(value) < step / 2:
        return "0"
    digits = math.floor(math.log10(abs(value)) + 1e-9) - power
    return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e")
