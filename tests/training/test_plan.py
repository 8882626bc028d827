"""A phase is fitted to pictures, disk and time: never more than there is, and it is said."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tellapart.backbones.registry import BACKBONES
from tellapart.training.plan import (
    FEW,
    JUDGED_SHARE,
    MANY,
    MIN_EPOCHS,
    SHARE_FOR_VIEWS,
    STRETCH,
    Plan,
    Speed,
    choose_cut,
    fit_disk,
    fit_time,
)
from tellapart.training.recipe import Phase

KB = 18.8


def tail(views: int | str | None = 4, epochs: int = 12) -> Phase:
    """A tail with so many kept views."""
    return Phase(learns="tail", cut="auto", views=views, epochs=epochs)


def needed_mb(phase: Phase, n_train: int, n_valid: int, kb: float) -> float:
    """What a phase keeps: plain views of all, random ones of those that teach."""
    views = phase.kept_views
    if views is None:
        return 0.0
    return ((n_train + n_valid) + views * n_train) * kb / 1000


counts = st.integers(1, 2_000_000)
sizes_kb = st.floats(0.5, 5000)
rooms_mb = st.floats(0, 1e6)
speeds = st.builds(Speed, st.floats(1, 1e4), st.floats(1, 1e4))


# ---- where the tail starts


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_more_of_the_network_learns_from_more_pictures(backbone: object) -> None:
    """From a stage later than usual with few pictures to one earlier with many, for every one."""
    cuts, usual = backbone.cuts, backbone.tail  # type: ignore[attr-defined]
    place = cuts.index(usual)
    chosen = [choose_cut(cuts, usual, n) for n in (1, FEW - 1, FEW, MANY - 1, MANY, 10**7)]
    places = [cuts.index(cut) for cut in chosen]
    assert places == sorted(places, reverse=True)
    assert places[2] == places[3] == place
    assert places[0] == places[1] == min(place + 1, len(cuts) - 1)
    assert places[4] == places[5] == max(place - 1, 0)


def test_the_usual_tails() -> None:
    """In the default backbone: the head convolution, the last block, the last two."""
    cuts = ("conv_stem", *(f"blocks.{number}" for number in range(7)), "conv_head")
    found = [choose_cut(cuts, "blocks.6", n) for n in (245, 6552, 100_000)]
    assert found == ["conv_head", "blocks.6", "blocks.5"]


# ---- disk


@given(counts, counts, sizes_kb, rooms_mb, st.integers(0, 64))
@settings(deadline=None)
def test_what_is_kept_fits_the_room(
    n_train: int, n_valid: int, kb: float, room_mb: float, views: int
) -> None:
    """And the plan says how much it is; views are only ever taken away."""
    plan = fit_disk(tail(views), n_train, n_valid, kb, room_mb)
    assert plan.kept_mb == pytest.approx(needed_mb(plan.phase, n_train, n_valid, kb))
    assert plan.kept_mb <= room_mb * (1 + 1e-9)
    kept = plan.phase.kept_views
    if kept is not None:
        assert kept <= views
        # As many as fit: one more would not.
        more = tail(kept + 1) if kept < 64 else None
        fits = more is None or needed_mb(more, n_train, n_valid, kb) <= room_mb * (1 - 1e-9)
        assert kept == views or not fits


@given(counts, counts, sizes_kb, rooms_mb, st.integers(0, 64))
@settings(deadline=None)
def test_what_the_disk_changes_is_said(
    n_train: int, n_valid: int, kb: float, room_mb: float, views: int
) -> None:
    """One note exactly where the phase is another; with what it needed and what there was."""
    before = tail(views)
    plan = fit_disk(before, n_train, n_valid, kb, room_mb)
    assert bool(plan.notes) is (plan.phase != before)
    for note in plan.notes:
        wanted = f"{views} kept views need {needed_mb(before, n_train, n_valid, kb):,.0f} MB, "
        assert note.startswith(f"{wanted}{room_mb:,.0f} MB may be used: ")


def test_fewer_views_then_live() -> None:
    """1000 and 200 pictures at 18.8 KB: 97.8 MB for four views, 41.4 for one."""
    plan = fit_disk(tail(), 1000, 200, KB, 100)
    assert (plan.phase.views, plan.notes) == (4, ())
    plan = fit_disk(tail(), 1000, 200, KB, 70)
    assert plan.phase.views == 2
    assert plan.notes == ("4 kept views need 98 MB, 70 MB may be used: 2 are kept",)
    plan = fit_disk(tail(), 1000, 200, KB, 41)
    assert plan.phase.views == "live"
    assert plan.phase.kept_views is None
    assert plan.notes == (
        "4 kept views need 98 MB, 41 MB may be used: nothing is kept, the phase runs live",
    )


def test_a_later_cut_before_nothing_is_kept() -> None:
    """The first one where a view fits; it too may mean fewer views; without one, it runs live."""
    later = {"layer3": 10.0, "layer4": 5.0, "pool": 1.0}
    plan = fit_disk(tail(), 1000, 200, KB, 18, later=later)
    assert (plan.phase.cut, plan.phase.views, plan.kept_mb) == ("layer4", 2, 16.0)
    assert plan.notes == (
        "4 kept views need 98 MB, 18 MB may be used: the tail starts later, at layer4",
        "4 kept views need 26 MB, 18 MB may be used: 2 are kept",
    )
    plan = fit_disk(tail(), 1000, 200, KB, 2, later=later)
    assert (plan.phase.cut, plan.phase.views) == (tail().cut, "live")


def test_a_live_phase_needs_no_room() -> None:
    """Nothing is kept, nothing is said."""
    for phase in (Phase(learns="all"), tail("live")):
        assert fit_disk(phase, 10**6, 10**6, 5000, 0) == Plan(phase, 0.0)


# ---- time


def cost_s(phase: Phase, n_train: int, n_valid: int, speed: Speed) -> float:
    """What a phase takes by the figures that were measured."""
    views = phase.kept_views
    seconds = phase.epochs * (n_train + JUDGED_SHARE * n_valid) / speed.learned_per_s
    if views is not None:
        seconds += ((n_train + n_valid) + views * n_train) / speed.views_per_s
    return seconds


@given(counts, counts, speeds, st.floats(-100, 1e6), st.integers(0, 64), st.integers(1, 100))
@settings(deadline=None)
def test_a_phase_fits_the_time_or_is_left_out(
    n_train: int, n_valid: int, speed: Speed, left_s: float, views: int, epochs: int
) -> None:
    """Fewer than MIN_EPOCHS epochs mean that it is left out; else it takes no more than is left."""
    plan = fit_time(Plan(tail(views, epochs), 0.0), n_train, n_valid, speed, left_s)
    assert plan.expected_s == pytest.approx(cost_s(plan.phase, n_train, n_valid, speed))
    assert plan.phase.epochs >= 1
    if plan.phase.epochs >= MIN_EPOCHS:
        assert plan.expected_s <= left_s * (1 + 1e-9)
    assert plan.phase.epochs <= STRETCH * epochs
    assert (plan.phase.kept_views or 0) <= STRETCH * views


def test_what_is_kept_already_takes_no_time() -> None:
    """Plain views computed before, as on the way to the features, leave the time to learning."""
    anew, kept = (
        fit_time(Plan(tail(), 0.0, n_plain=n), 1000, 200, Speed(100, 500), None)
        for n in (None, 200)
    )
    assert anew.expected_s is not None
    assert kept.expected_s == pytest.approx(anew.expected_s - 10)


@given(counts, counts, speeds, st.floats(1, 1e6), st.integers(1, 64))
@settings(deadline=None)
def test_views_take_at_most_half_the_time(
    n_train: int, n_valid: int, speed: Speed, left_s: float, views: int
) -> None:
    """The rest is for learning from them; a single view is kept whatever it takes."""
    phase = fit_time(Plan(tail(views), 0.0), n_train, n_valid, speed, left_s).phase
    assert phase.kept_views is not None
    views_s = ((n_train + n_valid) + phase.kept_views * n_train) / speed.views_per_s
    assert phase.kept_views == 1 or views_s <= SHARE_FOR_VIEWS * left_s * (1 + 1e-9)


@given(
    st.integers(1, 100_000),
    st.integers(1, 20_000),
    sizes_kb,
    rooms_mb,
    speeds,
    st.floats(1, 1e6),
    st.integers(0, 64),
)
@settings(deadline=None)
def test_time_never_brings_more_views_than_the_disk_has_room_for(
    n_train: int,
    n_valid: int,
    kb: float,
    room_mb: float,
    speed: Speed,
    left_s: float,
    views: int,
) -> None:
    """However much time there is; and the plan still says how much is kept."""
    on_disk = fit_disk(tail(views), n_train, n_valid, kb, room_mb)
    plan = fit_time(on_disk, n_train, n_valid, speed, left_s)
    assert plan.kept_mb == pytest.approx(needed_mb(plan.phase, n_train, n_valid, kb))
    assert plan.kept_mb <= room_mb * (1 + 1e-9)


@given(counts, counts, speeds, st.integers(0, 64), st.integers(1, 100))
@settings(deadline=None)
def test_without_a_limit_the_phase_is_what_it_says(
    n_train: int, n_valid: int, speed: Speed, views: int, epochs: int
) -> None:
    """Only how long it should take is added."""
    before = Plan(tail(views, epochs), 3.0, ("a note",))
    plan = fit_time(before, n_train, n_valid, speed, None)
    assert (plan.phase, plan.kept_mb, plan.notes) == (before.phase, 3.0, ("a note",))
    assert plan.expected_s == pytest.approx(cost_s(plan.phase, n_train, n_valid, speed))


@given(counts, counts, speeds, st.floats(1, 1e5), st.floats(1, 10), st.integers(0, 64))
@settings(deadline=None)
def test_more_time_is_never_less_learning(
    n_train: int, n_valid: int, speed: Speed, left_s: float, factor: float, views: int
) -> None:
    """Neither fewer views, nor, for as many views, fewer epochs."""
    short, long = (
        fit_time(Plan(tail(views), 0.0), n_train, n_valid, speed, seconds).phase
        for seconds in (left_s, left_s * factor)
    )
    assert (long.kept_views or 0) >= (short.kept_views or 0)
    assume(long.kept_views == short.kept_views)
    assert long.epochs >= short.epochs


def test_what_the_time_changes_is_said() -> None:
    """What is left, and what it allows: with views where they are kept."""
    speed = Speed(views_per_s=100, learned_per_s=500)
    plan = fit_time(Plan(tail(), 97.8, ("fewer views",)), 1000, 200, speed, 100)
    # 12 s for plain views, 10 s a view, 2.16 s an epoch.
    assert (plan.phase.views, plan.phase.epochs) == (3, 24)
    assert plan.notes == ("fewer views", "100 s are left for it: 24 epochs on 3 views")
    live = fit_time(Plan(tail("live"), 0.0), 1000, 200, Speed(1e9, 100), 101)
    assert live.notes == ("101 s are left for it: 9 epochs",)
    assert live.phase.views == "live"


@pytest.mark.parametrize("left_s", [-50.0, 0.0, 1.0])
def test_no_time_is_no_phase(left_s: float) -> None:
    """One epoch, which is fewer than a phase needs."""
    plan = fit_time(Plan(tail(), 0.0), 1000, 200, Speed(100, 500), left_s)
    assert plan.phase.epochs == 1 < MIN_EPOCHS


def test_notes_are_sentences_without_a_full_stop() -> None:
    """They are shown with a capital and a full stop, and joined to others."""
    plan = fit_time(fit_disk(tail(), 1000, 200, KB, 70), 1000, 200, Speed(100, 500), 100)
    assert len(plan.notes) == 2
    assert all(re.fullmatch(r"\S.*[^.]", note) for note in plan.notes)
