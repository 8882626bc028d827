"""Probabilities to decisions: is this picture answered, and what else might it be?

`fit_rules` chooses the rules on pictures that the network did not learn from; `decide` is the one
function that applies them, wherever answers are given. Like `calibration`, it costs only numpy to
import: prediction needs it.

What the rules promise holds for pictures drawn like those they were fitted on, and is proved with
95 % certainty. On out-of-fold predictions it is as good as cross-validation: the heads differ a
little from the one that is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Nineteen in twenty: as sure as every interval here. Proving it takes 86 answers without a
# mistake; 0.99 would take 436, which small sets of pictures do not have.
DEFAULT_ACCEPT = 0.95
DEFAULT_LEVEL = 0.95
CERTAINTY = 0.95
# This share of the pictures that do belong to a class is taken for strange.
FALSE_ALARMS = 0.02

# Thresholds that are tried, strict to loose: fixed before any picture is seen, or the exact test
# would not be exact. Ten for each power of ten of what is missing to certainty.
GRID = tuple(round(1 - 10 ** (step / 10 - 3), 6) for step in range(31))
# Where a descent over them starts.
STARTS = (0.999, 0.99, 0.9, 0.0)

STRANGE = "looks like none of the classes"


@dataclass(frozen=True)
class TradePoint:
    """How many pictures are answered from a threshold on, and how many of these are right."""

    threshold: float
    answered: int
    right: int


@dataclass(frozen=True)
class Rules:
    """When a picture is answered, and which classes stay possible. Plain values, for the bundle.

    accept: the accuracy wanted among the answered. threshold: the confidence from which a picture
    is answered. promised: whether the pictures prove that this keeps `accept`; otherwise the
    threshold is `accept` itself, as the confidence of each single answer.
    level: the share of pictures whose candidates hold their class. masses: how much probability
    may stand before a candidate, for pictures of a confidence below `level` and from there on.
    sets_promised: whether there were pictures enough to fit these.
    strange_above: a picture of more strangeness looks like no class; None: not judged.
    n: pictures they were fitted on. trade: over the fixed thresholds, strict to loose.
    """

    accept: float = DEFAULT_ACCEPT
    threshold: float = DEFAULT_ACCEPT
    promised: bool = False
    level: float = DEFAULT_LEVEL
    masses: tuple[float, float] = (DEFAULT_LEVEL, DEFAULT_LEVEL)
    sets_promised: bool = False
    strange_above: float | None = None
    n: int = 0
    trade: tuple[TradePoint, ...] = ()

    @property
    def answered_share(self) -> float | None:
        """The share of those pictures that is answered, to the nearest fixed threshold below."""
        points = [point for point in self.trade if point.threshold <= self.threshold]
        return points[0].answered / self.n if points and self.n else None


@dataclass(frozen=True, eq=False)
class Decisions:
    """What was decided about N pictures.

    order: (N, K) classes, the most probable first, of equals the first. n_candidates: (N,) how
    many of these stay possible, one or more. strange: (N,) looks like no class. unsure: (N,) is
    not answered: strange, or not confident enough.
    """

    order: NDArray[np.int64]
    n_candidates: NDArray[np.int64]
    strange: NDArray[np.bool_]
    unsure: NDArray[np.bool_]


def decide(
    probs: NDArray[np.float32], strangeness: NDArray[np.float32] | None, rules: Rules
) -> Decisions:
    """Apply the rules to calibrated probabilities (N, K) and, where it is known, strangeness (N,).

    The candidates are the first classes of the order, so that they always hold the label.
    """
    order, before = _ranked(probs)
    confidence = probs.max(axis=1)
    mass = np.where(confidence >= rules.level, rules.masses[1], rules.masses[0])
    strange = np.zeros(len(probs), dtype=bool)
    if strangeness is not None and rules.strange_above is not None:
        strange = strangeness > rules.strange_above
    return Decisions(
        order=order,
        n_candidates=np.maximum((before <= mass[:, None]).sum(axis=1), 1),
        strange=strange,
        unsure=strange | (confidence < rules.threshold),
    )


def reason(confidence: float, strange: bool, rules: Rules) -> str:
    """Say why a picture is unsure."""
    if strange:
        return STRANGE
    if rules.promised:
        return (
            f"confidence {confidence:.1%} is below {rules.threshold:.1%}, which keeps "
            f"{100 * rules.accept:.4g}% of answers right"
        )
    return f"confidence {confidence:.1%} is below {rules.threshold:.1%}"


def fit_rules(
    probs: NDArray[np.float32],
    labels: NDArray[np.int64],
    strangeness: NDArray[np.float32] | None = None,
    accept: float = DEFAULT_ACCEPT,
    level: float = DEFAULT_LEVEL,
) -> Rules:
    """Choose the rules on calibrated probabilities (N, K) of pictures not learned from.

    labels: (N,). strangeness: (N,), each judged without the picture itself. N may be 0: then
    nothing is promised, and the probabilities are taken at their word.
    """
    strange_above = _strange_above(strangeness)
    confidence, right = probs.max(axis=1, initial=0), probs.argmax(axis=1) == labels
    open_to = np.ones(len(labels), dtype=bool)
    if strangeness is not None and strange_above is not None:
        open_to = strangeness <= strange_above
    trade = []
    for threshold in GRID:
        answered = open_to & (confidence >= threshold)
        trade.append(TradePoint(threshold, int(answered.sum()), int((answered & right).sum())))
    masses, sets_promised = _fit_sets(probs, labels, level)
    rules = Rules(
        level=level,
        masses=masses,
        sets_promised=sets_promised,
        strange_above=strange_above,
        n=len(labels),
        trade=tuple(trade),
    )
    return with_accept(rules, accept)


def with_accept(rules: Rules, accept: float) -> Rules:
    """Return the rules with the threshold moved to keep another accuracy among the answered.

    The loosest threshold is taken of which an exact binomial test says that accuracy below
    `accept` would hardly give so few mistakes. Thresholds are tested in a fixed order, strict to
    loose, each descent until its first failure, the error shared between the starts: so all of
    them together err with 5 % at most (Angelopoulos et al. 2021, Learn then Test,
    arXiv:2110.01052, fixed sequence testing; for selective prediction with binomial bounds see
    Geifman and El-Yaniv 2017, arXiv:1705.08500).
    """
    if not 0 < accept < 1:
        raise ValueError(f"accept is {accept}, but it must lie between 0 and 1.")
    found = None
    for start in STARTS:
        for point in rules.trade:
            if point.threshold > start:
                continue
            wrong = point.answered - point.right
            if _at_most(wrong, point.answered, 1 - accept) > (1 - CERTAINTY) / len(STARTS):
                break
            found = point.threshold if found is None else min(found, point.threshold)
    return replace(
        rules,
        accept=accept,
        threshold=accept if found is None else found,
        promised=found is not None,
    )


def answers_needed(accept: float) -> int:
    """Return how many answers without a mistake it takes to promise `accept` at all."""
    return math.ceil(math.log((1 - CERTAINTY) / len(STARTS)) / math.log(accept))


def in_words(rules: Rules) -> str:
    """Say in a sentence or two when pictures are answered, and what that is worth."""
    wanted = f"{100 * rules.accept:.4g} %"
    if rules.promised:
        where = (
            f"from a confidence of {rules.threshold:.1%} on"
            if rules.threshold
            else "at any confidence"
        )
        return (
            f"Answers are given {where}, to {rules.answered_share or 0:.1%} of pictures like "
            f"these: with 95 % certainty, {wanted} of them or more are right. Other pictures are "
            f"called unsure."
        )
    needed, n = answers_needed(rules.accept), rules.n
    if n < needed:
        why = f"{n} pictures are too few for that: it takes {needed} answers without a mistake"
    else:
        why = f"on {n} pictures no confidence was high enough to prove it"
    return (
        f"That {wanted} of the answers are right cannot be promised: {why}. Pictures are called "
        f"unsure where the confidence is below {wanted}."
    )


def mean_set_size(decisions: Decisions) -> float:
    """Return how many candidates a picture has on average."""
    return float(decisions.n_candidates.mean())


def covered(decisions: Decisions, labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return for each picture (N,) whether its class is among its candidates."""
    rank = (decisions.order == labels[:, None]).argmax(axis=1)
    return np.asarray(rank < decisions.n_candidates)


def _ranked(probs: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the order of classes (N, K), and the probability that stands before each of them."""
    order = np.argsort(-probs, axis=1, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=1).astype(np.float64)
    before = np.cumsum(ranked, axis=1)
    before -= ranked
    # Rounding must not put anything before the first class.
    before[:, 0] = 0.0
    return order, before


def _fit_sets(
    probs: NDArray[np.float32], labels: NDArray[np.int64], level: float
) -> tuple[tuple[float, float], bool]:
    """Find the masses for which candidates hold the class in `level` of the pictures.

    Split conformal prediction (Vovk, Gammerman and Shafer 2005) on the probability that stands
    before the true class (Romano, Sesia and Candes 2020, arXiv:2006.02544, without its own). It is
    fitted apart for pictures of a confidence below and from `level` on, so that it also holds
    among the unclear ones, for which alone the candidates matter.
    """
    order, before = _ranked(probs)
    rank = (order == labels[:, None]).argmax(axis=1)
    mass = np.take_along_axis(before, rank[:, None], axis=1)[:, 0]
    clear = probs.max(axis=1, initial=0) >= level
    everywhere = _conformal(mass, level)
    if everywhere is None:
        return (level, level), False
    unclear = _conformal(mass[~clear], level)
    sure = _conformal(mass[clear], level)
    # Too few for a group of its own: what holds for all, and no less than the probabilities say.
    return (
        max(everywhere, level) if unclear is None else unclear,
        everywhere if sure is None or unclear is None else sure,
    ), True


def _conformal(scores: Sequence[float] | NDArray[np.float64], level: float) -> float | None:
    """Return the score that a new one does not exceed with `level`; None: too few to tell."""
    place = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else None


def _strange_above(strangeness: NDArray[np.float32] | None) -> float | None:
    """Return the strangeness that few pictures exceed which do belong to a class."""
    if strangeness is None:
        return None
    return _conformal(strangeness.astype(np.float64), 1 - FALSE_ALARMS)


def _at_most(wrong: int, n: int, share: float) -> float:
    """Return the chance of `wrong` mistakes or fewer in n answers, each with chance `share`.

    scipy.stats.binom.cdf, without the second that importing it costs a prediction.
    """
    k = np.arange(wrong + 1)
    choose = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k]
    chances = np.exp(choose + k * math.log(share) + (n - k) * math.log1p(-share))
    return float(chances.sum())
