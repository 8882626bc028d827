"""How phases are judged: log loss, at the temperature that suits it best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight

from tellapart.evaluation.calibration import softmax
from tellapart.training.judging import TEMPERATURES, Judged, judge, unevenness

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def answers(n: int, n_classes: int, scale: float, seed: int) -> tuple[Logits, Labels]:
    """Logits that are right more often than not, and how sure of themselves they are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    return (scale * logits).astype(np.float32), labels


def cross_entropy(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean log loss; scikit-learn's cuts off what 16 logits and more below cost."""
    logs = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-logs[np.arange(len(labels)), labels].mean())


cases = st.tuples(
    st.integers(1, 80), st.integers(2, 12), st.floats(0.05, 5), st.integers(0, 10_000)
)


@given(cases)
@example((75, 6, 4.0, 0))
@settings(max_examples=15, deadline=None)
def test_at_temperature_one_nothing_is_changed(case: tuple[int, int, float, int]) -> None:
    """Log loss and accuracy of the probabilities as they are."""
    logits, labels = answers(*case)
    judged = judge(logits, labels)
    expected = cross_entropy(logits, labels)
    assert judged.raw_log_loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert judged.accuracy == accuracy_score(labels, logits.argmax(axis=1))


@given(cases)
@settings(max_examples=4, deadline=None)
def test_the_temperature_is_the_best_of_those_tried(case: tuple[int, int, float, int]) -> None:
    """As low as the lowest at any of them, and never above the raw loss."""
    logits, labels = answers(*case)
    judged = judge(logits, labels)
    assert judged.log_loss <= judged.raw_log_loss
    tried = [cross_entropy(logits, labels, t) for t in TEMPERATURES]
    assert judged.log_loss == pytest.approx(min(tried), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_what_is_tried_lies_close_enough_to_the_true_minimum(scale: float) -> None:
    """Within 0.2 % of what a solver finds between 0.2 and 5."""
    logits, labels = answers(300, 5, scale, seed=1)
    found = minimize_scalar(
        lambda log_t: log_loss(labels, softmax(logits, float(np.exp(log_t)))),
        bounds=(np.log(0.2), np.log(5.0)),
        method="bounded",
    )
    assert judge(logits, labels).log_loss == pytest.approx(found.fun, rel=2e-3)


@given(st.floats(0.4, 2.5), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_being_too_sure_or_too_modest_changes_nothing(factor: float, seed: int) -> None:
    """The same logits, a constant times larger, are judged alike; the raw loss tells them apart."""
    logits, labels = answers(200, 4, 1.0, seed)
    one, other = judge(logits, labels), judge(logits * np.float32(factor), labels)
    assert other.log_loss == pytest.approx(one.log_loss, rel=5e-3)
    assert other.accuracy == one.accuracy


def test_a_single_picture_and_hopeless_logits_are_judged() -> None:
    """Finite, however sure of the wrong class."""
    judged = judge(np.array([[1000.0, -1000.0]], dtype=np.float32), np.array([1]))
    assert judged == Judged(pytest.approx(400.0), pytest.approx(2000.0), 0.0)


def test_better_is_a_lower_loss_without_a_lower_accuracy() -> None:
    """Alike is not better; the raw loss decides nothing."""
    standing = Judged(0.5, 0.6, 0.9)
    assert Judged(0.4, 9.9, 0.9).better_than(standing)
    assert Judged(0.4, 0.6, 0.95).better_than(standing)
    assert not Judged(0.4, 0.5, 0.89).better_than(standing)
    assert not Judged(0.5, 0.5, 0.95).better_than(standing)
    assert not standing.better_than(standing)


@given(st.integers(1, 60), st.integers(2, 5), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_as_many_right_is_as_accurate_whichever_they_are(
    n: int, n_classes: int, balanced: bool, seed: int
) -> None:
    """No rounding may make a phase that is right about other pictures look worse or better."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    right = rng.random(n) < 0.6
    # As many of each class, but others.
    other = right.copy()
    for label in range(n_classes):
        other[labels == label] = rng.permutation(right[labels == label])
    judged = []
    for chosen, sure in ((right, 3.0), (other, 4.0)):
        logits = np.eye(n_classes)[(labels + ~chosen) % n_classes]
        judged.append(judge((sure * logits).astype(np.float32), labels, balanced))
    one, two = judged
    if one.log_loss < two.log_loss:
        one, two = two, one
    assert one.accuracy == pytest.approx(two.accuracy)
    assert two.better_than(one) is (two.log_loss < one.log_loss)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_balanced_every_class_counts_the_same(scale: float) -> None:
    """As scikit-learn's balanced accuracy, and its log loss weighted by class."""
    logits, labels = answers(200, 4, scale, seed=2)
    keep = (labels > 0) | (np.arange(200) % 10 == 0)
    logits, labels = logits[keep], labels[keep]
    judged = judge(logits, labels, balanced=True)
    weights = compute_sample_weight("balanced", labels)
    probs = softmax(logits.astype(np.float64))
    assert judged.raw_log_loss == pytest.approx(log_loss(labels, probs, sample_weight=weights))
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert judged.accuracy == pytest.approx(expected)
    assert judged.accuracy != pytest.approx(judge(logits, labels).accuracy)


@pytest.mark.parametrize(
    ("labels", "times"), [([0, 1, 2], 1.0), ([0] * 30 + [1] * 3, 10.0), ([2, 2, 2, 5], 3.0)]
)
def test_unevenness_is_of_the_classes_that_are_there(labels: list[int], times: float) -> None:
    """The largest beside the smallest; a class without a picture is none."""
    assert unevenness(np.array(labels)) == times


def test_what_is_no_number_is_better_than_nothing() -> None:
    """A loss of NaN never wins, whichever side it is on."""
    nan, finite = Judged(float("nan"), float("nan"), 0.9), Judged(0.5, 0.6, 0.5)
    assert not nan.better_than(finite)
    assert not finite.better_than(nan)
    logits = np.array([[np.nan, 1.0], [2.0, 1.0]], dtype=np.float32)
    assert np.isnan(judge(logits, np.array([0, 0])).raw_log_loss)


def test_in_words() -> None:
    """The two figures that decide."""
    assert str(Judged(0.12345, 0.5, 0.98765)) == "log loss 0.123, accuracy 98.8%"
