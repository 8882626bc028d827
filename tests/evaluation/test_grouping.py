"""Groups, suggestions and likeness, on made up features whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.evaluation.grouping import (
    choose_doubtful,
    choose_spread,
    find_groups,
    fit_projection,
    most_similar,
    without_strangers,
)


def kinds(n_kinds: int, each: int, seed: int = 0) -> tuple[Any, Any]:
    """Make features (N, 32) of kinds that are wide apart, and which kind each is of."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(n_kinds), each)
    middle = 5 * rng.normal(size=(n_kinds, 32))
    return (middle[kind] + rng.normal(size=(len(kind), 32))).astype(np.float16), kind


@pytest.mark.parametrize("n_groups", [None, 6])
def test_kinds_become_groups(n_groups: int | None) -> None:
    """What is wide apart is parted, whether the number is given or chosen."""
    features, kind = kinds(6, 30)
    groups = find_groups(fit_projection([features]).points(features), n_groups)
    assert groups.count == 6
    assert len(set(zip(groups.of.tolist(), kind.tolist(), strict=True))) == 6


def test_what_comes_in_batches_is_the_same() -> None:
    """The projection does not depend on how features are cut into batches."""
    features, _ = kinds(3, 20)
    whole = fit_projection([features]).points(features)
    parts = fit_projection([features[:7], features[7:]]).points(features)
    assert np.abs(np.abs(whole @ whole.T) - np.abs(parts @ parts.T)).max() < 1e-4


def test_strangers_belong_to_no_group() -> None:
    """A picture unlike all others of its group is taken out, the others stay."""
    features, _ = kinds(3, 40)
    odd = (20 * np.random.default_rng(5).normal(size=(1, 32))).astype(np.float16)
    both = np.concatenate([features, odd])
    groups = find_groups(fit_projection([both]).points(both), 3)
    apart = without_strangers(groups, lambda: [both[:50], both[50:]])
    assert apart.of[-1] == -1
    assert (apart.of[:-1] >= 0).mean() > 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 3))
def test_any_number_of_any_pictures_is_grouped(n: int, asked: int, spread: int) -> None:
    """Groups are numbered from 0 without gaps, the largest first, also where all are the same."""
    rng = np.random.default_rng(n)
    features = (1 + spread * rng.normal(size=(n, 8))).astype(np.float16)
    points = fit_projection([features]).points(features)
    for n_groups in (None, asked):
        apart = without_strangers(find_groups(points, n_groups), lambda: [features])
        sizes = np.bincount(apart.of[apart.of >= 0], minlength=apart.count)
        assert (sizes > 0).all()
        assert (np.diff(sizes) <= 0).all()
        assert apart.count >= 1


def test_suggestions_stand_for_every_kind() -> None:
    """As many suggestions as kinds are one of each, and never more than asked for."""
    features, kind = kinds(5, 20)
    points = fit_projection([features]).points(features)
    assert sorted(kind[choose_spread(points, 5)]) == [0, 1, 2, 3, 4]
    assert len(set(choose_spread(points, 500).tolist())) == 100


def test_doubtful_suggestions_are_doubtful_and_differ() -> None:
    """Of many alike doubtful pictures one is enough."""
    features, kind = kinds(5, 20)
    doubt = np.where(np.arange(100) % 20 < 4, 0.9, 0.1).astype(np.float32)
    doubt[0] = 1
    chosen = choose_doubtful(fit_projection([features]).points(features), doubt, 2)
    assert chosen[0] == 0
    assert (doubt[chosen] > 0.5).all()
    assert len(set(kind[chosen])) == 2


def test_the_most_similar_are_those_of_brute_force() -> None:
    """Rows and cosines are right, whatever the batches."""
    features, _ = kinds(4, 10)
    unit = features.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows, cosines = most_similar(features[:3], [features[:11], features[11:]], 4)
    expected = unit[:3] @ unit.T
    assert (rows == np.argsort(-expected, axis=1, kind="stable")[:, :4]).all()
    assert np.allclose(cosines, -np.sort(-expected, axis=1)[:, :4], atol=1e-5)
