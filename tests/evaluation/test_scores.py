"""Scores: what they say, how they behave, what they refuse."""

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn import metrics

from tellapart.evaluation.scores import Estimate, Scores, interval, score


def drawn(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return probabilities that are right about half of the time, labels and class names."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), labels, [f"class {i}" for i in range(k)]


def flat(values: object) -> list[float]:
    """All numbers in nested plain values, in order; a missing one counts as -1."""
    if isinstance(values, dict):
        return [number for value in values.values() for number in flat(value)]
    if isinstance(values, list | tuple):
        return [number for value in values for number in flat(value)]
    return [] if isinstance(values, str) else [-1.0 if values is None else float(values)]  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [2, 6, 102])
def test_agrees_with_scikit_learn(k: int) -> None:
    """Every number is the one that scikit-learn computes."""
    probs, labels, classes = drawn(seed=k, n=1500, k=k)
    found = score(probs, labels, classes)
    said = probs.argmax(axis=1)
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(labels, said))
    assert found.macro_precision == pytest.approx(
        metrics.precision_score(labels, said, average="macro", zero_division=0)
    )
    assert found.macro_recall == pytest.approx(
        metrics.recall_score(labels, said, average="macro", zero_division=0)
    )
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(labels, said, average="macro", zero_division=0)
    )
    exact = probs.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    assert found.log_loss == pytest.approx(
        metrics.log_loss(labels, exact, labels=range(k)), rel=1e-5
    )
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, said))
    for name in ("precision", "recall", "f1"):
        theirs = getattr(metrics, f"{name}_score")(labels, said, average="weighted")
        assert getattr(found, f"weighted_{name}").value == pytest.approx(theirs)
    assert found.balanced_accuracy.value == pytest.approx(
        metrics.balanced_accuracy_score(labels, said)
    )
    brier = metrics.brier_score_loss(labels, exact, labels=range(k), scale_by_half=False)
    assert found.brier.value == pytest.approx(brier, rel=1e-5)
    one_hot = labels[:, None] == np.arange(k)
    areas = metrics.roc_auc_score(one_hot, probs, average=None)
    assert [row.auroc for row in found.per_class] == pytest.approx(areas)
    assert found.auroc is not None
    assert found.auroc.value == pytest.approx(np.mean(areas))
    if k > 5:
        assert found.top5 is not None
        assert found.top5.value == metrics.top_k_accuracy_score(labels, probs, k=5)
    else:
        assert found.top5 is None


@settings(max_examples=30, deadline=None)  # the first example imports scikit-learn
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(2, 6))
def test_order_of_pictures_does_not_matter(seed: int, n: int, k: int) -> None:
    """Shuffled rows give the same scores, and the interval holds the accuracy."""
    probs, labels, classes = drawn(seed, n, k)
    order = np.random.default_rng(seed).permutation(n)
    one, other = score(probs, labels, classes), score(probs[order], labels[order], classes)
    np.testing.assert_array_equal(one.confusion, other.confusion)
    assert one.accuracy == other.accuracy
    assert one.top5 == other.top5
    assert flat(one.as_dict()) == pytest.approx(flat(other.as_dict()), rel=1e-5, abs=1e-6)
    assert one.log_loss == pytest.approx(other.log_loss)
    assert one.accuracy.low <= one.accuracy.value <= one.accuracy.high
    assert one.confusion.sum() == one.n == n


@pytest.mark.parametrize("calibrated", [True, False])
def test_bootstrapped_intervals_cover(calibrated: bool) -> None:
    """Of 100 sets of pictures, 88 intervals or more of each score hold what is true of all."""
    probs, labels, classes = drawn(seed=1, n=100_000, k=4)
    if calibrated:  # labels drawn from the probabilities themselves
        labels = (np.log(probs) + np.random.default_rng(2).gumbel(size=probs.shape)).argmax(axis=1)
    true = estimates(score(probs[:30_000], labels[:30_000], classes))
    if calibrated:
        true["ece"] = (0.0, 0.0, 0.0)
    held = dict.fromkeys(true, 0)
    for trial in range(100):
        rows = slice(300 * trial, 300 * trial + 300)
        for name, (_, low, high) in estimates(score(probs[rows], labels[rows], classes)).items():
            held[name] += low <= true[name][0] <= high
    assert min(held.values()) >= 88, held


def estimates(found: Scores) -> dict[str, tuple[float, float, float]]:
    """Value and ends of every score that has an interval by resampling."""
    named = {
        name: (one.value, one.low, one.high)
        for name, one in vars(found).items()
        if isinstance(one, Estimate)
    }
    return named | {name: (getattr(found, name), *ends) for name, ends in found.intervals.items()}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(2, 7))
def test_every_interval_holds_its_score(seed: int, n: int, k: int) -> None:
    """However few pictures: ends in order, around the value, and within what is possible."""
    found = score(*drawn(seed, n, k))
    for name, (value, low, high) in estimates(found).items():
        assert 0 <= low <= value <= high, name
        assert high <= 1 + 1e-6 or name in ("log_loss", "brier"), name
    for row in found.per_class:
        for name in ("precision", "recall", "f1"):
            low, high = getattr(row, f"{name}_interval")
            assert 0 <= low <= getattr(row, name) <= high <= 1 + 1e-6
        if row.n:
            exact = interval(round(row.recall * row.n), row.n)
            assert row.recall_interval == pytest.approx((exact.low, exact.high))


def test_one_class_alone_has_no_area_under_its_curve() -> None:
    """Where all pictures belong to one class there is nothing to rank."""
    found = score(np.full((3, 2), 0.5, dtype=np.float32), np.zeros(3, int), ["a", "b"])
    assert found.auroc is None
    assert [row.auroc for row in found.per_class] == [None, None]


def test_scoring_is_quick_and_bounded() -> None:
    """1000 pictures of 100 classes cost well under two seconds, all intervals included."""
    given_ = drawn(seed=0, n=1000, k=100)
    score(*given_)
    start = time.process_time()
    score(*given_)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("n", [1, 5, 20, 50])
def test_interval_covers_at_least_95_percent(n: int) -> None:
    """Whatever the true share, the interval from n pictures holds it 95 times in 100 or more."""
    intervals = [interval(right, n) for right in range(n + 1)]
    shares = np.linspace(0.001, 0.999, 999)
    low = np.array([found.low for found in intervals])[:, None]
    high = np.array([found.high for found in intervals])[:, None]
    chance = binom.pmf(np.arange(n + 1)[:, None], n, shares)
    held = np.where((low <= shares) & (shares <= high), chance, 0).sum(axis=0)
    assert held.min() >= 0.95


def test_interval_at_the_ends_has_the_closed_form() -> None:
    """None or all right of n gives the bounds 0 and 1 and the root of 0.025."""
    assert interval(0, 20).low == 0
    assert interval(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert interval(20, 20).low == pytest.approx(0.025 ** (1 / 20))
    assert interval(20, 20).high == 1


def test_a_class_without_pictures_costs_nothing() -> None:
    """A class that the scored set lacks is left out of the macro averages."""
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], dtype=np.float32)
    found = score(probs, np.array([0, 1]), ["a", "b", "never there"])
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == (1, 1, 1)
    assert found.per_class[2].n == 0
    assert found.confusion.shape == (3, 3)


def test_a_class_never_predicted_has_no_precision() -> None:
    """A class that has pictures but is never predicted counts as zero, without a warning."""
    probs = np.array([[0.9, 0.1], [0.8, 0.2]], dtype=np.float32)
    found = score(probs, np.array([0, 1]), ["a", "b"])
    assert found.per_class[1].precision == 0
    assert found.macro_recall == 0.5


def test_a_sure_mistake_keeps_the_log_loss_finite() -> None:
    """A probability of zero for the true class counts as 1e-7."""
    probs = np.array([[1.0, 0.0]], dtype=np.float32)
    assert score(probs, np.array([1]), ["a", "b"]).log_loss == pytest.approx(-math.log(1e-7))


def test_as_dict_is_plain_json() -> None:
    """The dictionary survives JSON unchanged and has the confusion matrix as rows."""
    probs, labels, classes = drawn(seed=0, n=30, k=3)
    found = score(probs, labels, classes)
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["confusion"] == found.confusion.tolist()
    assert set(plain["accuracy"]) == {"value", "low", "high", "n"}


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "There is no picture to score"),
        (np.ones((2, 3)), np.array([0, 1]), r"have shape \(2, 3\), but 2 labels and 2 classes"),
        (np.ones((2, 2)), np.array([0, 2]), "labels run from 0 to 2, but 2 classes"),
        (np.full((1, 2), np.nan), np.array([0]), "not finite numbers"),
    ],
)
def test_refuses_what_does_not_fit(probs: np.ndarray, labels: np.ndarray, message: str) -> None:
    """No pictures, wrong shapes, unknown labels and broken probabilities are named."""
    with pytest.raises(ValueError, match=message):
        score(probs, labels, ["a", "b"])
