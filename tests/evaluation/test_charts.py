"""The geometry of the report's charts: everything inside the frame, every label its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.evaluation.charts import (
    HEIGHT,
    WIDTH,
    EpochChart,
    LineChart,
    epoch_chart,
    line_chart,
    round_step,
)

figures = st.none() | st.floats(0, 1e30) | st.sampled_from([math.nan, math.inf])
phases = st.lists(st.integers(1, 4), min_size=1, max_size=120).map(sorted)


def check_frame(chart: LineChart | EpochChart, points: tuple[tuple[float, float], ...]) -> None:
    """Hold points and ticks to the frame, and the labels of an axis to be different."""
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert all(0 <= tick.at <= WIDTH for tick in chart.x_ticks)
    assert all(0 <= tick.at <= HEIGHT for tick in chart.y_ticks)
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert 1 <= len({tick.label for tick in ticks}) == len(ticks) <= 12


@given(points=st.lists(st.tuples(st.floats(1e-8, 1e8), st.floats(0, 100)), min_size=1, max_size=30))
def test_line_stays_in_its_frame(points: list[tuple[float, float]]) -> None:
    """Points and ticks lie inside the frame, and the labels of an axis differ."""
    chart = line_chart([x for x, _ in points], [y for _, y in points])
    # A range without a power of ten has no tick on x.
    assert len(chart.x_ticks) <= 8
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in chart.points)
    assert all(0 <= tick.at <= WIDTH for tick in chart.x_ticks)
    assert all(0 <= tick.at <= HEIGHT for tick in chart.y_ticks)
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert len({tick.label for tick in ticks}) == len(ticks) <= 8


@given(data=st.data(), numbers=phases)
def test_curves_stay_in_their_frame(data: st.DataObject, numbers: list[int]) -> None:
    """Whatever a training showed, each number of it has its place, and nothing else has one."""
    lines = [
        data.draw(st.lists(figures, min_size=len(numbers), max_size=len(numbers))) for _ in range(2)
    ]
    chart = epoch_chart(lines, numbers)
    for line, points in zip(lines, chart.lines, strict=True):
        check_frame(chart, points)
        assert len(points) == sum(y is not None and math.isfinite(y) for y in line)
        assert list(points) == sorted(points)
    assert len(chart.phases) == len(chart.dividers) + 1 == len(set(numbers))
    edges = [0.0, *chart.dividers, WIDTH]
    for phase, start, end in zip(chart.phases, edges, edges[1:], strict=False):
        assert start < phase.at < end


@given(values=st.lists(st.floats(1e-9, 1), min_size=1, max_size=50))
def test_labels_of_small_rates_differ_and_fit(values: list[float]) -> None:
    """Rates of any size have labels that fit beside the frame and say the value of their line."""
    chart = epoch_chart([values], [1] * len(values), least_span=0.1 * max(values))
    check_frame(chart, chart.lines[0])
    assert all(len(tick.label) <= 8 for tick in chart.y_ticks)


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_ticks_say_what_lies_at_them(values: list[float]) -> None:
    """A point's height, read off the ticks, is its value."""
    chart = epoch_chart([values], [1] * len(values))
    low, high = chart.y_ticks[0], chart.y_ticks[-1]
    per_unit = (float(high.label) - float(low.label)) / (low.at - high.at)
    for value, (_, y) in zip(values, chart.lines[0], strict=True):
        read = float(low.label) + (low.at - y) * per_unit
        # Heights are rounded to a tenth of a unit.
        assert read == pytest.approx(value, abs=0.06 * per_unit + 1e-9)


@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_no_accuracy_above_all(values: list[float]) -> None:
    """An axis of percentages ends at 100 and does not start below 0."""
    chart = epoch_chart([values], [1] * len(values), 100.0, 1.0)
    assert all(0 <= float(tick.label) <= 100 for tick in chart.y_ticks)


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_level_curve_at_an_end_has_room(value: float) -> None:
    """Where all is right from the start, the axis is 99.5 to 100 rather than a point."""
    chart = epoch_chart([[value] * 3], [1, 1, 1], 100.0, 1.0)
    assert len(chart.y_ticks) == 2
    assert {0.0, HEIGHT} == {tick.at for tick in chart.y_ticks}


def test_epochs_are_numbered_through_all_phases() -> None:
    """Ticks are whole epochs from 1, phases are named in their middle and divided between."""
    chart = epoch_chart([[3.0, 2.0, 1.0, 0.0]], [1, 1, 1, 2])
    assert [(tick.at, tick.label) for tick in chart.x_ticks] == [
        (37.5, "1"),
        (112.5, "2"),
        (187.5, "3"),
        (262.5, "4"),
    ]
    assert chart.dividers == (225.0,)
    assert [(phase.at, phase.label) for phase in chart.phases] == [
        (112.5, "phase 1"),
        (262.5, "phase 2"),
    ]
    assert chart.lines == (((37.5, 0.0), (112.5, 50.0), (187.5, 100.0), (262.5, 150.0)),)


def test_narrow_phase_has_a_short_name() -> None:
    """Where "phase 2" does not fit, "2" stands."""
    chart = epoch_chart([[0.0] * 20], [1] * 19 + [2])
    assert [phase.label for phase in chart.phases] == ["phase 1", "2"]


@given(wanted=st.floats(1e-9, 1e9))
def test_round_step_is_next_above(wanted: float) -> None:
    """A step is 1, 2 or 5 times a power of ten, and at most two and a half times what is wanted."""
    step = round_step(wanted)
    assert wanted * (1 - 1e-8) <= step <= wanted * 2.5 * (1 + 1e-8)
    assert f"{step:.6e}"[0] in "125"
