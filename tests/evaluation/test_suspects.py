"""Labels that are probably wrong: those that were spoilt come first, right ones stay out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.evaluation.calibration import softmax
from tellapart.evaluation.neighbours import neighbours
from tellapart.evaluation.suspects import find_doubted, find_suspects
from tellapart.training.probe import Probe, fit_probe


def spoilt(seed: int, k: int, n: int = 2000, share: float = 0.05) -> tuple[np.ndarray, ...]:
    """Probabilities of a good classifier, labels of which a share is wrong, and which."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), true] += 4
    labels, wrong = true.copy(), rng.random(n) < share
    labels[wrong] = (true[wrong] + rng.integers(1, k, wrong.sum())) % k
    return softmax(logits), labels, wrong


@pytest.mark.parametrize("k", [2, 10, 50])
def test_spoilt_labels_are_found(k: int) -> None:
    """Of 5 % spoilt labels most are found, and nearly all that is found was spoilt."""
    probs, labels, wrong = spoilt(0, k)
    found = find_suspects(probs, labels)
    assert wrong[found].mean() > 0.95
    assert wrong[found].sum() > 0.45 * wrong.sum()


@given(seed=st.integers(0, 1000), k=st.integers(2, 6))
def test_order_of_rows_changes_nothing(seed: int, k: int) -> None:
    """The same pictures are found in the same order of likelihood, however the rows lie."""
    probs, labels, _ = spoilt(seed, k, n=60, share=0.2)
    order = np.random.default_rng(seed).permutation(60)
    margins = probs[np.arange(60), labels] - probs.max(axis=1)
    first = find_suspects(probs, labels)
    second = order[find_suspects(probs[order], labels[order])]
    assert set(first) == set(second)
    np.testing.assert_array_equal(margins[first], margins[second])
    assert (np.diff(margins[first]) >= 0).all()


def test_right_predictions_are_never_suspect() -> None:
    """A label that is the most probable class stands, however unsure."""
    probs = np.array([[0.4, 0.35, 0.25], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    assert find_suspects(probs, probs.argmax(axis=1)).tolist() == []


def test_an_unusually_weak_belief_is_no_suspicion() -> None:
    """Another class must be as likely as it usually is on its own pictures."""
    usual = [[0.05, 0.95]] * 3 + [[0.95, 0.05]] * 3
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probs = np.array([*usual, [0.4, 0.6], [0.03, 0.97]])
    assert find_suspects(probs, labels).tolist() == [7]


def test_classes_without_pictures_suspect_nothing() -> None:
    """Where no picture has a label, nothing is known of what it usually gets; no rows, no rows."""
    probs = np.array([[0.1, 0.9], [0.2, 0.8]])
    assert find_suspects(probs, np.array([0, 0])).tolist() == []
    assert find_suspects(probs[:0], np.array([], dtype=int)).tolist() == []


def clouds(seed: int = 0, n: int = 400, share: float = 0.05) -> tuple[np.ndarray, ...]:
    """Features of four classes that overlap a little, labels of which a share is wrong, which."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    features = rng.normal(size=(4, 16))[true] * 1.2 + rng.normal(size=(n, 16))
    labels, wrong = true.copy(), rng.random(n) < share
    labels[wrong] = (true[wrong] + rng.integers(1, 4, wrong.sum())) % 4
    return features.astype(np.float16), labels, wrong


def test_doubted_labels_come_with_what_they_look_like() -> None:
    """Most spoilt labels are found with another class, and most that is found was spoilt."""
    features, labels, wrong = clouds()
    names = np.arange(len(labels)).astype("S32")

    def fit(rows: np.ndarray) -> Probe:
        return fit_probe(features[rows], labels[rows], names[rows], 4)

    found = find_doubted(features, labels, neighbours(features, 10), fit)
    rows = np.array(list(found))
    assert wrong[rows].mean() > 0.6
    assert wrong[rows].sum() > 0.7 * wrong.sum()
    assert all(likely != labels[row] for row, likely in found.items())
    once = find_suspects(softmax(fit(np.arange(len(labels))).out_of_fold_logits), labels)
    assert wrong[rows].sum() >= wrong[once].sum()


def test_a_label_that_the_nearest_share_is_not_doubted() -> None:
    """Where every neighbour that is believed has the label, heads alone do not make it suspect."""
    features, labels, _ = clouds()
    names = np.arange(len(labels)).astype("S32")

    def fit(rows: np.ndarray) -> Probe:
        return fit_probe(features[rows], labels[rows], names[rows], 4)

    everything = [np.flatnonzero(labels == label) for label in range(4)]
    own = np.stack([np.resize(everything[label], 120) for label in labels])
    assert find_doubted(features, labels, (own, np.ones(own.shape)), fit) == {}
