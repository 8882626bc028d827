"""Fit a phase to the data, the disk and the time there is. Needs no torch.

What is chosen here depends on numbers only: pictures, megabytes and seconds, the latter measured
on this machine before they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tellapart.training.recipe import Phase

# Below so many pictures that teach, less of the network learns; above, more.
FEW, MANY = 1000, 20_000
# With a budget, a phase may get up to so many times the epochs and views that the recipe says.
STRETCH = 2
# Share of the time left that may go into computing views; the rest goes into learning.
SHARE_FOR_VIEWS = 0.5
MIN_EPOCHS = 3
# What judging a picture takes of what learning from it takes: 0.29 s for 600 scenes in a tail that
# learned 860 a second.
JUDGED_SHARE = 0.4
# As many as a recipe may ask for.
MOST_VIEWS = 64


@dataclass(frozen=True)
class Speed:
    """What was measured: views/s through the frozen part, and pictures/s in steps."""

    views_per_s: float
    learned_per_s: float


@dataclass(frozen=True)
class Plan:
    """A phase as it will run, and what was changed, in words.

    phase: with its cut, views and epochs decided. kept_mb: size of what it keeps, 0 if live.
    expected_s: None where nothing was measured. most_views: that there is room for.
    """

    phase: Phase
    kept_mb: float
    notes: tuple[str, ...] = ()
    expected_s: float | None = None
    most_views: int = MOST_VIEWS
    n_plain: int | None = None


def choose_cut(cuts: Sequence[str], tail: str, n_train: int) -> str:
    """Choose where the tail starts: later with few pictures, earlier with many.

    cuts: names in the order of the network. tail: the backbone's usual one.
    """
    usual = cuts.index(tail)
    if n_train < FEW:
        return cuts[min(usual + 1, len(cuts) - 1)]
    return cuts[max(usual - 1, 0)] if n_train >= MANY else tail


def fit_disk(
    phase: Phase,
    n_train: int,
    n_valid: int,
    kb_a_view: float,
    room_mb: float,
    later: Mapping[str, float] | None = None,
) -> Plan:
    """Take fewer views where the kept ones would need more room than there is, or a later cut.

    later: the cuts behind that of the phase, in order, each with the kilobytes that a view keeps
        there.

    Without enough room for one view anywhere, or for plain views where no others are asked for,
    the phase has no `kept_views` left: it runs live.
    """
    views = phase.kept_views
    if views is None:
        return Plan(phase, 0.0)
    plain_mb = (n_train + n_valid) * kb_a_view / 1000
    view_mb = n_train * kb_a_view / 1000
    fits = math.floor((room_mb - plain_mb) / max(view_mb, 1e-9))
    if fits >= views:
        return Plan(phase, plain_mb + views * view_mb, most_views=min(fits, MOST_VIEWS))
    wanted = f"{views} kept views need {plain_mb + views * view_mb:,.0f} MB"
    if fits >= 1:
        return Plan(
            phase.model_copy(update={"views": fits}),
            plain_mb + fits * view_mb,
            (f"{wanted}, {room_mb:,.0f} MB may be used: {fits} are kept",),
            most_views=fits,
        )
    for cut, kb in (later or {}).items():
        moved = fit_disk(phase.model_copy(update={"cut": cut}), n_train, n_valid, kb, room_mb)
        if moved.phase.kept_views is not None:
            words = f"{wanted}, {room_mb:,.0f} MB may be used: the tail starts later, at {cut}"
            return replace(moved, notes=(words, *moved.notes))
    return Plan(
        phase.model_copy(update={"views": "live"}),
        0.0,
        (f"{wanted}, {room_mb:,.0f} MB may be used: nothing is kept, the phase runs live",),
    )


def fit_time(plan: Plan, n_train: int, n_valid: int, speed: Speed, left_s: float | None) -> Plan:
    """Choose views and epochs so that the phase takes the seconds left; None: as it says.

    Returns a plan of fewer than MIN_EPOCHS epochs where there is no time for it.
    """
    phase = plan.phase
    views = phase.kept_views
    n_plain = n_train + n_valid if plan.n_plain is None else plan.n_plain
    plain_s = 0.0 if views is None else n_plain / speed.views_per_s
    view_s = n_train / speed.views_per_s
    if left_s is None:
        epochs_s = phase.epochs * seconds_an_epoch(n_train, n_valid, speed)
        return replace(plan, expected_s=plain_s + (views or 0) * view_s + epochs_s)
    if views is not None:
        most = max(1, math.floor((SHARE_FOR_VIEWS * left_s - plain_s) / view_s))
        chosen = min(most, views * STRETCH if left_s > 0 else views, plan.most_views)
        plain = n_train + n_valid
        kept_mb = plan.kept_mb * (plain + chosen * n_train) / (plain + views * n_train)
        plan = replace(plan, phase=phase.model_copy(update={"views": chosen}), kept_mb=kept_mb)
    spent_s = plain_s + (plan.phase.kept_views or 0) * view_s
    epoch_s = seconds_an_epoch(n_train, n_valid, speed)
    fitted = fit_epochs(plan, phase.epochs, epoch_s, left_s - spent_s)
    expected_s = spent_s + fitted.phase.epochs * epoch_s
    return replace(fitted, expected_s=expected_s, notes=(*plan.notes, _time_note(fitted, left_s)))


def fit_epochs(plan: Plan, wanted: int, epoch_s: float, left_s: float) -> Plan:
    """Choose the epochs that there is time for: at least one, at most STRETCH times the wanted."""
    epochs = max(min(math.floor(left_s / epoch_s), wanted * STRETCH), 1)
    return replace(plan, phase=plan.phase.model_copy(update={"epochs": epochs}))


def fit_again(plan: Plan, wanted: int, epoch_s: float, left_s: float) -> Plan:
    """Choose the epochs anew once the views are computed: what that takes is the least known."""
    fitted = fit_epochs(plan, wanted, epoch_s, left_s)
    if fitted.phase.epochs == plan.phase.epochs:
        return plan
    words = f"with all views computed, {left_s:.0f} s are left: {fitted.phase.epochs} epochs"
    return replace(fitted, notes=(*plan.notes, words))


def seconds_an_epoch(n_train: int, n_valid: int, speed: Speed) -> float:
    """Estimate an epoch: it learns from the one, and is judged on the other."""
    return (n_train + JUDGED_SHARE * n_valid) / speed.learned_per_s


def _time_note(plan: Plan, left_s: float) -> str:
    views = plan.phase.kept_views
    words = f"{plan.phase.epochs} epochs" + (f" on {views} views" if views else "")
    return f"{left_s:.0f} s are left for it: {words}"
