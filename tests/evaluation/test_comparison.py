"""The difference between two classifiers on the same pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tellapart.evaluation.comparison import paired_difference


def cells(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pictures two classifiers have right, by how often each case occurs."""
    first = np.repeat([True, True, False, False], [both, lost, gained, neither])
    second = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return first, second


def test_mcnemar_counts_only_the_pictures_they_disagree_on() -> None:
    """Exact: twice the binomial tail of the smaller count; none to disagree on proves nothing."""
    found = paired_difference(*cells(80, 1, 9, 10))
    assert (found.only_first, found.only_second) == (1, 9)
    assert found.value == pytest.approx(0.08)
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert paired_difference(*cells(5, 0, 0, 5)).p_value == 1


@given(*[st.integers(0, 30)] * 4, st.integers(0, 100))
def test_it_turns_with_its_sides_and_ignores_the_order(
    both: int, lost: int, gained: int, neither: int, seed: int
) -> None:
    """Swapped classifiers give the negative; shuffled pictures the same; ends hold the value."""
    first, second = cells(both, lost, gained, neither + 1)
    found = paired_difference(first, second)
    order = np.random.default_rng(seed).permutation(len(first))
    assert paired_difference(first[order], second[order]) == found
    swapped = paired_difference(second, first)
    assert swapped.value == pytest.approx(-found.value)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))
    assert swapped.p_value == pytest.approx(found.p_value)
    assert -1 <= found.low <= found.value <= found.high <= 1
    if lost + gained:
        assert found.p_value == pytest.approx(binomtest(gained, lost + gained).pvalue)


@pytest.mark.parametrize("shares", [(0.8, 0.05, 0.05, 0.1), (0.6, 0.02, 0.2, 0.18)])
def test_the_interval_covers(shares: tuple[float, ...]) -> None:
    """Of 2000 sets of 80 pictures, 94 in 100 intervals or more hold the true difference."""
    drawn = np.random.default_rng(0).multinomial(80, shares, size=2000)
    found = [paired_difference(*cells(*row)) for row in drawn.tolist()]
    held = [one.low <= shares[2] - shares[1] <= one.high for one in found]
    assert np.mean(held) >= 0.94
