"""When a picture is answered, what else it may be, and what that promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from tellapart.evaluation.calibration import softmax
from tellapart.evaluation.decision import (
    CERTAINTY,
    FALSE_ALARMS,
    GRID,
    STARTS,
    Rules,
    TradePoint,
    _at_most,
    answers_needed,
    covered,
    decide,
    fit_rules,
    in_words,
    mean_set_size,
    reason,
    with_accept,
)

LOGITS = arrays(np.float32, (5, 4), elements=st.floats(-30, 30, width=32))


def drawn(seed: int, n: int, k: int = 5, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated probabilities (N, K), and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probs = softmax((sharp * rng.normal(size=(n, k))).astype(np.float32))
    labels = (np.log(probs) + rng.gumbel(size=probs.shape)).argmax(axis=1)
    return probs, labels


@pytest.fixture(scope="module")
def true() -> dict[float, float]:
    """The true accuracy of `drawn` pictures answered from each threshold on."""
    confidence = drawn(999, 200_000)[0].max(axis=1)
    return {threshold: float(confidence[confidence >= threshold].mean()) for threshold in GRID}


@given(
    logits=LOGITS,
    masses=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    level=st.floats(0.5, 0.999),
)
def test_candidates_are_never_empty_and_begin_with_the_label(
    logits: np.ndarray, masses: tuple[float, float], level: float
) -> None:
    """One candidate or more, the most probable first, none left out that is more probable."""
    probs = softmax(logits)
    found = decide(probs, None, Rules(masses=masses, level=level))
    assert (found.n_candidates >= 1).all()
    assert (found.n_candidates <= 4).all()
    np.testing.assert_array_equal(found.order[:, 0], probs.argmax(axis=1))
    assert (np.diff(np.take_along_axis(probs, found.order, axis=1), axis=1) <= 0).all()
    assert not found.strange.any()


@given(logits=LOGITS, threshold=st.sampled_from(GRID), order=st.permutations(range(5)))
def test_each_picture_is_decided_alone(
    logits: np.ndarray, threshold: float, order: list[int]
) -> None:
    """Pictures in another order, or one by one, are decided the same, bit for bit."""
    probs = softmax(logits)
    strangeness = np.abs(logits[:, 0])
    rules = Rules(threshold=threshold, strange_above=10.0)
    whole, moved = (
        decide(probs, strangeness, rules),
        decide(probs[order], strangeness[order], rules),
    )
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(values[order], getattr(moved, name))
        alone = decide(probs[2:3], strangeness[2:3], rules)
        np.testing.assert_array_equal(values[2:3], getattr(alone, name))


def test_strange_or_not_confident_is_unsure() -> None:
    """Either reason is enough; at the threshold itself a picture is answered."""
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.9, 0.1]], dtype=np.float32)
    strangeness = np.array([0, 0, 5], dtype=np.float32)
    found = decide(probs, strangeness, Rules(threshold=0.9, strange_above=4.0))
    assert found.unsure.tolist() == [False, True, True]
    assert found.strange.tolist() == [False, False, True]
    assert not decide(probs, strangeness, Rules(threshold=0.5)).unsure.any()


@pytest.mark.parametrize("accept", [0.7, 0.85])
def test_the_promise_is_kept(accept: float, true: dict[float, float]) -> None:
    """In 300 calibrations, the answered fall short of what was promised in 5 % of cases or fewer.

    Drawn from a classifier whose accuracy at every threshold is known.
    """
    broken = promised = 0
    for seed in range(300):
        probs, labels = drawn(seed, 400)
        rules = fit_rules(probs, labels, accept=accept)
        promised += rules.promised
        broken += rules.promised and true[rules.threshold] < accept
    assert promised > 60
    assert broken <= binom.ppf(0.99, 300, 1 - CERTAINTY)


def test_the_threshold_is_not_stricter_than_it_must_be(true: dict[float, float]) -> None:
    """With many pictures, the promise costs nearly nothing over knowing the truth."""
    probs, labels = drawn(0, 20_000)
    rules = fit_rules(probs, labels, accept=0.8)
    loosest = min(threshold for threshold in GRID if true[threshold] >= 0.8)
    assert rules.promised
    assert GRID.index(loosest) - GRID.index(rules.threshold) <= 1


@given(st.integers(0, 300), st.integers(0, 60), st.floats(0.001, 0.5))
def test_the_binomial_tail_is_scipys(n: int, wrong: int, share: float) -> None:
    """Computed without scipy, which prediction does not import, to the same number."""
    wrong = min(wrong, n)
    assert _at_most(wrong, n, share) == pytest.approx(binom.cdf(wrong, n, share), abs=1e-9)


@given(
    st.lists(st.integers(0, 40), min_size=31, max_size=31),
    st.lists(st.floats(0, 1), min_size=31, max_size=31),
    st.floats(0.5, 0.99),
    st.floats(0.5, 0.99),
)
def test_wanting_more_never_loosens(
    answers: list[int], shares: list[float], one: float, other: float
) -> None:
    """Where both accuracies are promised, the higher one has the higher threshold, or the same."""
    wrong = np.cumsum([round(n * share) for n, share in zip(answers, shares, strict=True)])
    total = np.cumsum(answers)
    trade = tuple(
        TradePoint(threshold, int(n), int(n - bad))
        for threshold, n, bad in zip(GRID, total, wrong, strict=True)
    )
    rules = Rules(n=int(total[-1]), trade=trade)
    less, more = (with_accept(rules, accept) for accept in sorted((one, other)))
    assert more.threshold >= less.threshold or not more.promised
    assert less.promised or not more.promised
    assert with_accept(more, less.accept) == less


def test_too_few_pictures_promise_nothing() -> None:
    """The plain word, what it would take, and what is done instead."""
    assert answers_needed(0.95) == 86
    probs, labels = drawn(0, 40, sharp=9)
    rules = fit_rules(probs, labels)
    assert (rules.promised, rules.threshold, rules.n) == (False, 0.95, 40)
    assert in_words(rules) == (
        "That 95 % of the answers are right cannot be promised: 40 pictures are too few for that: "
        "it takes 86 answers without a mistake. Pictures are called unsure where the confidence is "
        "below 95 %."
    )
    just = np.tile(np.array([[0.9999, 0.0001]], dtype=np.float32), (86, 1))
    assert fit_rules(just, np.zeros(86, np.int64)).promised
    assert not fit_rules(just[1:], np.zeros(85, np.int64)).promised


def test_pictures_enough_but_not_good_enough() -> None:
    """Where no confidence is high enough, that is what is said."""
    probs, labels = drawn(0, 3000)
    rules = fit_rules(probs, labels, accept=0.999)
    assert not rules.promised
    assert in_words(rules) == (
        "That 99.9 % of the answers are right cannot be promised: 3000 pictures are too few for "
        "that: it takes 4380 answers without a mistake. Pictures are called unsure where the "
        "confidence is below 99.9 %."
    )
    wrong = fit_rules(probs, (probs.argmax(axis=1) + 1) % 5)
    assert in_words(wrong) == (
        "That 95 % of the answers are right cannot be promised: on 3000 pictures no confidence was "
        "high enough to prove it. Pictures are called unsure where the confidence is below 95 %."
    )


def test_a_promise_in_words() -> None:
    """From where on, for how many pictures, and how sure that is."""
    trade = (TradePoint(0.9, 300, 299), TradePoint(0.0, 400, 350))
    rules = with_accept(Rules(n=400, trade=trade), 0.95)
    assert in_words(rules) == (
        "Answers are given from a confidence of 90.0% on, to 75.0% of pictures like these: with "
        "95 % certainty, 95 % of them or more are right. Other pictures are called unsure."
    )
    assert in_words(with_accept(rules, 0.8)).startswith("Answers are given at any confidence, to ")
    said = reason(0.5, False, rules)
    assert said == "confidence 50.0% is below 90.0%, which keeps 95% of answers right"
    assert reason(0.99, True, rules) == "looks like none of the classes"


@pytest.mark.parametrize("accept", [0, 1, -1, float("nan")])
def test_a_wanted_accuracy_that_is_none_is_refused(accept: float) -> None:
    """Certainty cannot be had, nor can less than nothing."""
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        with_accept(Rules(), accept)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_candidates_cover_among_clear_and_unclear_pictures(level: float) -> None:
    """Over 200 calibrations, the sets hold the class as often as promised, in both groups."""
    held: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(200):
        probs, labels = drawn(seed, 400, sharp=3)
        rules = fit_rules(probs, labels, level=level)
        assert rules.sets_promised
        new, truth = drawn(10_000 + seed, 500, sharp=3)
        found = covered(decide(new, None, rules), truth)
        clear = new.max(axis=1) >= level
        for side in (True, False):
            held[side].append(float(found[clear == side].mean()))
    assert np.mean(held[False]) == pytest.approx(level, abs=0.01)
    assert np.mean(held[True]) >= level - 0.005


def test_too_few_pictures_for_sets_take_probabilities_at_their_word() -> None:
    """Candidates then are the classes until their probabilities add up to the level."""
    probs, labels = drawn(0, 10)
    rules = fit_rules(probs, labels)
    assert (rules.masses, rules.sets_promised) == ((0.95, 0.95), False)
    three = np.array([[0.6, 0.36, 0.04]], dtype=np.float32)
    assert decide(three, None, rules).n_candidates.tolist() == [2]
    nothing = fit_rules(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert nothing == replace(Rules(), trade=nothing.trade)
    assert (nothing.answered_share, nothing.promised) == (None, False)


def test_few_that_belong_to_a_class_are_strange() -> None:
    """The share of false alarms is kept on pictures like those it was fitted on."""
    alarms = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        probs, labels = drawn(seed, 200)
        rules = fit_rules(probs, labels, rng.chisquare(2, 200).astype(np.float32))
        new = rng.chisquare(2, 500).astype(np.float32)
        alarms.append(float(decide(drawn(seed, 500)[0], new, rules).strange.mean()))
    assert np.mean(alarms) == pytest.approx(FALSE_ALARMS, abs=0.005)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(0, 150))
def test_rules_do_not_depend_on_the_order_of_pictures(seed: int, n: int) -> None:
    """Fitted on the same pictures in another order, they are equal."""
    probs, labels = drawn(seed, n)
    strangeness = np.random.default_rng(seed).random(n).astype(np.float32)
    order = np.random.default_rng(seed).permutation(n)
    one = fit_rules(probs, labels, strangeness)
    assert fit_rules(probs[order], labels[order], strangeness[order]) == one
    assert asdict(one)["n"] == n


def test_starts_lie_on_the_grid() -> None:
    """Every descent begins at a threshold that is tried, and the last tries to answer all."""
    assert set(STARTS) <= set(GRID)
    assert GRID[-1] == STARTS[-1] == 0


def test_the_size_of_sets_is_counted() -> None:
    """The mean over pictures, between one and the number of classes."""
    probs, _ = drawn(0, 100)
    assert 1 <= mean_set_size(decide(probs, None, Rules())) <= 5


def test_deciding_costs_only_numpy() -> None:
    """Prediction imports it, so scipy and scikit-learn must stay out."""
    code = (
        "import sys, tellapart.inference.classifier;"
        "import tellapart.evaluation.familiarity, tellapart.evaluation.decision as d;"
        "d.with_accept(d.Rules(n=100, trade=(d.TradePoint(0.9, 100, 99),)), 0.9);"
        "print([m for m in ('scipy', 'sklearn', 'torch', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
