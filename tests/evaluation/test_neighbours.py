"""Neighbours, near duplicates and outliers among features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.evaluation import neighbours as module
from tellapart.evaluation.neighbours import groups_of, near_duplicates, neighbours, outliers


def vectors(n: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows in a few clouds."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((max(1, n // 50), width))
    rows = centres[chance.integers(0, len(centres), n)]
    return (rows + 0.5 * chance.standard_normal((n, width))).astype(np.float16)


@given(st.integers(0, 40), st.integers(1, 8), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_the_nearest_others_come_in_order(n: int, k: int, seed: int) -> None:
    """Each row gets its k largest cosines, itself left out; fewer where there are fewer others."""
    rows = vectors(n, 6, seed) if n else np.zeros((0, 6), np.float16)
    nearest, cosines = neighbours(rows, k)
    assert nearest.shape == cosines.shape == (n, max(0, min(k, n - 1)))
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12
    exact = unit @ unit.T
    np.fill_diagonal(exact, -2)
    assert not (nearest == np.arange(n)[:, None]).any()
    best = -np.sort(-exact, axis=1)[:, : nearest.shape[1]]
    assert np.allclose(cosines, best, atol=1e-4)


def test_an_index_finds_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond EXACT_UP_TO nine of ten neighbours, every copy, exact cosines, and always the same."""
    # As features are: more numbers than directions in which they differ.
    spread = np.random.default_rng(1).standard_normal((60, 400)) / 8
    rows = (vectors(3000, 60) @ spread).astype(np.float16)
    rows[-50:] = rows[:50] + np.float16(0.01)
    exact, cosines = neighbours(rows, 5)
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    found, near = neighbours(rows, 5)
    shared = [len(set(one) & set(other)) for one, other in zip(exact, found, strict=True)]
    assert sum(shared) / (5 * len(rows)) > 0.9
    assert (found[-50:, 0] == np.arange(50)).all()
    assert np.allclose(near[-50:, 0], cosines[-50:, 0], atol=1e-4)
    assert all((neighbours(rows, 5)[0] == found).all() for _ in range(3))


def test_near_duplicates_need_what_both_say() -> None:
    """Hashes that agree make a pair unless features contradict; features alone must be nearer."""
    chance = np.random.default_rng(0)
    hashes = chance.integers(0, 256, (6, 32), dtype=np.uint8)
    hashes[1] = hashes[0] ^ np.array([255, 255] + [0] * 30, dtype=np.uint8)  # 16 bits
    hashes[3] = hashes[2]
    features = chance.standard_normal((6, 100)).astype(np.float32)
    features[1] = features[0] + 0.5 * features[5]
    features[5] = features[4] + 0.1 * features[5]
    flat = np.zeros(6, dtype=bool)
    nearest = neighbours(features, 3)
    assert near_duplicates(hashes, flat).tolist() == [[0, 1], [2, 3]]
    assert near_duplicates(hashes, flat, features, nearest).tolist() == [[0, 1], [4, 5]]
    flat[2] = True
    assert near_duplicates(hashes, flat).tolist() == [[0, 1]]


def test_pairs_join_to_groups() -> None:
    """A pair that shares a picture with another makes one group of three."""
    found = groups_of(np.array([[4, 5], [0, 2], [2, 3]]), 7)
    assert [group.tolist() for group in found] == [[0, 2, 3], [4, 5]]
    assert groups_of(np.zeros((0, 2), dtype=np.int64), 7) == ()


def test_an_outlier_resembles_no_other() -> None:
    """A row far from all is one; among rows alike there is none, nor in a handful."""
    rows = vectors(200, 32).astype(np.float32)
    rows[17] = 0
    rows[17, 0] = -50
    assert outliers(neighbours(rows, 10)[1]).tolist() == [17]
    assert not len(outliers(neighbours(rows[:10], 5)[1]))
