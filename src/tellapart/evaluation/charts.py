"""Numbers to the geometry of small line charts; the report's template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from tellapart.evaluation.calibration import Reliability
    from tellapart.evaluation.decision import TradePoint

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


def line_chart(x: Sequence[float], y: Sequence[float], least_span: float = 1e-3) -> LineChart:
    """Lay out the points (x, y), at least one and x > 0, with x on a logarithmic axis.

    least_span: differences below it are not blown up.
    """
    logs = [math.log10(value) for value in x]
    left, right = min(logs) - 0.25, max(logs) + 0.25
    axis = _Axis.around(y, 3, least_span)

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


@dataclass(frozen=True)
class Spot:
    """A point of a chart with a radius, both in SVG user units, and what it says in words."""

    x: float
    y: float
    radius: float
    words: str


@dataclass(frozen=True)
class ReliabilityChart:
    """Accuracy over confidence, both from 0 to 1; on the line from corner to corner they agree."""

    before: tuple[Spot, ...]
    after: tuple[Spot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class TradeChart:
    """Accuracy of the answered over the share that is answered, as the threshold falls.

    chosen: where the threshold in use lies; None where it answers nothing.
    """

    spots: tuple[Spot, ...]
    chosen: Spot | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def reliability_chart(before: Reliability, after: Reliability) -> ReliabilityChart:
    """Lay out both diagrams; a spot's area grows with its pictures."""
    most = max(one.n for one in (*before.bins, *after.bins))
    axis = _Axis(0.0, 1.0, 0.25)

    def spots(found: Reliability) -> tuple[Spot, ...]:
        return tuple(
            Spot(
                round(one.confidence * WIDTH, 1),
                axis.up(one.accuracy),
                round(2.5 + 8.5 * math.sqrt(one.n / most), 1),
                f"{one.n} pictures: {one.confidence:.1%} sure, {one.accuracy:.1%} right",
            )
            for one in found.bins
        )

    return ReliabilityChart(spots(before), spots(after), _share_ticks(), _percents(axis))


def trade_chart(points: Sequence[TradePoint], n: int, threshold: float) -> TradeChart:
    """Lay out what each threshold answers and gets right of n pictures, n > 0."""
    found = [point for point in points if point.answered]
    axis = _Axis.around([p.right / p.answered for p in found] or [1.0], 4, 0.02, (0.0, 1.0))

    def spot(point: TradePoint) -> Spot:
        share, right = point.answered / n, point.right / point.answered
        words = f"from {point.threshold:.1%} on: {share:.1%} answered, {right:.1%} of them right"
        return Spot(round(share * WIDTH, 1), axis.up(right), 3.0, words)

    chosen = min(found, key=lambda point: abs(point.threshold - threshold), default=None)
    return TradeChart(
        tuple(spot(point) for point in found),
        None if chosen is None else spot(chosen),
        _share_ticks(),
        _percents(axis),
    )


def _share_ticks() -> tuple[Tick, ...]:
    return tuple(Tick(WIDTH * part / 4, f"{25 * part} %") for part in range(5))


def _percents(axis: _Axis) -> tuple[Tick, ...]:
    n = round((axis.top - axis.bottom) / axis.step)
    levels = [axis.bottom + axis.step * i for i in range(n + 1)]
    return tuple(
        Tick(axis.up(level), f"{_level(100 * level, 100 * axis.step)} %") for level in levels
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
