"""The rate over the steps: torch's own schedulers, step for step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from tellapart.training.recipe import Phase
from tellapart.training.schedule import rate_factor

SCHEDULES = {
    "constant": {},
    "step": {"step_epochs": 2},
    "cosine": {},
    "one-cycle": {},
}


def phase(schedule: str, **more: object) -> Phase:
    """A phase with a schedule and what that needs."""
    return Phase(learns="all", schedule=schedule, **(SCHEDULES[schedule] | more))


def factors(made: Phase, steps_per_epoch: int, n_steps: int) -> list[float]:
    """Every factor of a phase that is n_steps long."""
    return [rate_factor(made, step, steps_per_epoch, n_steps) for step in range(n_steps)]


def torchs(make: Callable[[Optimizer], LRScheduler], n_steps: int, every: int = 1) -> list[float]:
    """The rates of a torch scheduler that is stepped after every so many steps; the top is 1."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for step in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        # OneCycleLR refuses the step after the last.
        if (step + 1) % every == 0 and step + 1 < n_steps:
            scheduler.step()
    return rates


@given(st.integers(1, 200))
@example(1)
@example(3)
@example(10)
@settings(max_examples=40, deadline=None)
def test_one_cycle_is_torchs(n_steps: int) -> None:
    """As OneCycleLR with its defaults, for any number of steps."""
    expected = torchs(
        lambda of: OneCycleLR(of, max_lr=1.0, total_steps=n_steps, cycle_momentum=False), n_steps
    )
    assert factors(phase("one-cycle"), 1, n_steps) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_cosine_is_torchs(n_steps: int) -> None:
    """As CosineAnnealingLR down to zero."""
    expected = torchs(lambda of: CosineAnnealingLR(of, T_max=n_steps), n_steps)
    # Theirs multiplies from step to step, and so gathers errors of rounding.
    assert factors(phase("cosine"), 1, n_steps) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@given(st.integers(1, 7), st.integers(1, 5), st.floats(0.05, 0.9), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_steps_are_torchs(
    steps_per_epoch: int, step_epochs: int, factor: float, epochs: int
) -> None:
    """As StepLR that is stepped once an epoch."""
    made = phase("step", step_epochs=step_epochs, step_factor=factor)
    n_steps = epochs * steps_per_epoch
    expected = torchs(lambda of: StepLR(of, step_epochs, factor), n_steps, every=steps_per_epoch)
    assert factors(made, steps_per_epoch, n_steps) == pytest.approx(expected)


def test_constant_stays() -> None:
    """The rate is what the phase says, at every step."""
    assert factors(phase("constant"), 3, 9) == [1.0] * 9


def test_the_reference_systems_fall_where_their_texts_say() -> None:
    """Flowers: a tenth after each 10 of 20 epochs; facade: no fall within its 30 epochs."""
    flowers = phase("step", step_epochs=10)
    assert [rate_factor(flowers, step, 8, 160) for step in (0, 79, 80, 159)] == pytest.approx(
        [1, 1, 0.1, 0.1]
    )
    facade = phase("step", step_epochs=30, epochs=30)
    assert set(factors(facade, 2, 60)) == {1.0}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_in_a_line_from_zero(schedule: str) -> None:
    """Over the first epochs, or a part of one, it multiplies what the schedule says."""
    plain = factors(phase(schedule, epochs=4), 10, 40)
    for epochs, rising in ((2.0, 20), (0.5, 5)):
        warm = factors(phase(schedule, epochs=4, warm_up_epochs=epochs), 10, 40)
        ratios = [one / other for one, other in zip(warm, plain, strict=True) if other > 1e-12]
        expected = [min(1.0, (step + 1) / rising) for step in range(len(ratios))]
        assert ratios == pytest.approx(expected)


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(0, 400),
    st.integers(1, 20),
    st.integers(1, 300),
    st.floats(0, 12),
)
@settings(deadline=None)
def test_a_factor_is_never_outside_zero_and_one(
    schedule: str, step: int, steps_per_epoch: int, n_steps: int, warm_up: float
) -> None:
    """At any step, also beyond an end that moved closer while the phase ran."""
    made = phase(schedule, warm_up_epochs=warm_up)
    assert 0 <= rate_factor(made, min(step, n_steps), steps_per_epoch, n_steps) <= 1


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.07), ("one-cycle", 1e-5)])
def test_a_phase_that_is_shortened_still_ends_slowly(schedule: str, last: float) -> None:
    """When the end moves from step 100 to 40 at step 20, the rest follows the shorter schedule."""
    made = phase(schedule)
    rates = [rate_factor(made, step, 10, 100 if step < 20 else 40) for step in range(40)]
    assert rates[20:] == factors(made, 10, 40)[20:]
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < last
