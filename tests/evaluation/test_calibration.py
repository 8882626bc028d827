"""Temperature, softmax and calibration error."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tellapart.evaluation.calibration import (
    TEMPERATURE_MAX,
    TEMPERATURE_MIN,
    expected_calibration_error,
    fit_temperature,
    reliability,
    softmax,
)

LOGITS = arrays(np.float32, (4, 3), elements=st.floats(-1e4, 1e4, width=32))


def sampled(seed: int, n: int, k: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits z and labels drawn from softmax(z / temperature)."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(n, k))).astype(np.float32)
    gumbel = rng.gumbel(size=(n, k))
    return logits, (logits / temperature + gumbel).argmax(axis=1)


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Return the mean log loss of softmax(logits / temperature)."""
    own = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(own.astype(np.float64)).mean())


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
def test_softmax_rows_sum_to_one_and_keep_the_order(logits: np.ndarray, temperature: float) -> None:
    """Rows are probabilities in float32, and the largest logit has the largest of them."""
    probs = softmax(logits, temperature)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    rows = np.arange(len(logits))
    assert (probs[rows, logits.argmax(axis=1)] == probs.max(axis=1)).all()


def test_softmax_leaves_its_input_alone() -> None:
    """The logits that were given are not written to."""
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    softmax(logits, 2.0)
    assert logits.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_softmax_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    """Zero, negative and missing temperatures are refused by value."""
    with pytest.raises(ValueError, match=f"temperature is {temperature}, but"):
        softmax(np.zeros((1, 2), np.float32), temperature)


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("k", [2, 20])
def test_temperature_is_recovered(true: float, k: int) -> None:
    """Labels drawn at a temperature give that temperature back, to the noise of 20,000 draws."""
    logits, labels = sampled(seed=k, n=20_000, k=k, temperature=true)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.1)


@settings(max_examples=30, deadline=None)  # the first example imports scipy
@given(seed=st.integers(0, 10_000), true=st.floats(0.2, 5))
def test_no_other_temperature_is_better(seed: int, true: float) -> None:
    """The smoothed loss at the fitted temperature is at most that on a grid over the bounds."""
    logits, labels = sampled(seed, n=60, k=4, temperature=true)
    share = 0.5 / (len(labels) + 1)

    def smoothed(temperature: float) -> float:
        probs = softmax(logits, temperature).astype(np.float64)
        runner_up = float(-np.log(np.sort(probs, axis=1)[:, -2]).mean())
        return (1 - share) * log_loss(logits, labels, temperature) + share * runner_up

    best = smoothed(fit_temperature(logits, labels))
    grid = np.geomspace(TEMPERATURE_MIN, TEMPERATURE_MAX, 40)
    with np.errstate(divide="ignore"):  # a sure mistake at a low temperature costs infinity
        assert best <= min(smoothed(float(t)) for t in grid) + 1e-4


@pytest.mark.parametrize("sign", [1, -1])
def test_temperature_stays_in_its_bounds(sign: int) -> None:
    """All right or all wrong has no minimum; the answer is still a usable number."""
    labels = np.arange(50) % 5
    logits = sign * 100 * np.eye(5, dtype=np.float32)[labels]
    assert TEMPERATURE_MIN <= fit_temperature(logits, labels) <= TEMPERATURE_MAX


def test_calibration_error_of_known_cases() -> None:
    """Sure and right is 0, sure and wrong is 1, 75 % sure and right half of the time is 0.25."""
    sure = np.array([[1.0, 0.0]] * 4, dtype=np.float32)
    less = np.array([[0.75, 0.25]] * 4, dtype=np.float32)
    assert expected_calibration_error(sure, np.array([0, 0, 0, 0])) == 0
    assert expected_calibration_error(sure, np.array([1, 1, 1, 1])) == 1
    assert expected_calibration_error(less, np.array([0, 0, 1, 1])) == pytest.approx(0.25)


def test_temperature_lowers_the_calibration_error() -> None:
    """Logits that are three times too sure are calibrated by the temperature found on others."""
    logits, labels = sampled(seed=1, n=8000, k=5, temperature=3.0)
    temperature = fit_temperature(logits[:4000], labels[:4000])
    held_out, truth = logits[4000:], labels[4000:]
    before = expected_calibration_error(softmax(held_out), truth)
    after = expected_calibration_error(softmax(held_out, temperature), truth)
    assert after < 0.03
    assert before > 0.2


@pytest.mark.parametrize("k", [2, 10, 102])
def test_twenty_that_are_all_right_are_no_proof_of_certainty(k: int) -> None:
    """However many classes, the mean confidence stays a little below one."""
    logits = np.random.default_rng(0).normal(size=(20, k)).astype(np.float32)
    labels = np.arange(20) % k
    logits[np.arange(20), labels] += 5
    confidence = softmax(logits, fit_temperature(logits, labels)).max(axis=1).mean()
    assert 0.94 < confidence < 0.99


@given(confidence=st.lists(st.floats(0.01, 1), min_size=1, max_size=60), seed=st.integers(0, 1000))
def test_a_reliability_diagram_accounts_for_every_picture(
    confidence: list[float], seed: int
) -> None:
    """Bins hold all pictures, each in its own range, none empty, and add up to the error."""
    probs = np.array(confidence)[:, None] * np.array([[1.0, 0.0]])
    labels = np.random.default_rng(seed).integers(0, 2, len(confidence))
    found = reliability(probs, labels)
    assert sum(one.n for one in found.bins) == found.n == len(confidence)
    for one in found.bins:
        assert one.low - 1e-9 <= one.confidence <= one.high + 1e-9
        assert 0 <= one.accuracy <= 1 <= one.n
    assert found.error == pytest.approx(expected_calibration_error(probs, labels))
    apart = [one.n * abs(one.confidence - one.accuracy) for one in found.bins]
    assert found.error == pytest.approx(sum(apart) / found.n)


def test_no_pictures_are_refused() -> None:
    """Neither a temperature nor an error can come from nothing."""
    with pytest.raises(ValueError, match="no picture to fit a temperature on"):
        fit_temperature(np.zeros((0, 2), np.float32), np.zeros(0, int))
    with pytest.raises(ValueError, match="no picture to measure calibration on"):
        expected_calibration_error(np.zeros((0, 2), np.float32), np.zeros(0, int))


def test_importing_costs_only_numpy() -> None:
    """Prediction imports softmax from here, so scipy and scikit-learn must stay out."""
    code = (
        "import sys, tellapart.evaluation.calibration, tellapart.evaluation.report as r; "
        "print([m for m in ('scipy', 'sklearn', 'torch', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
