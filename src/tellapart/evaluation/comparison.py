"""Two classifiers on the same pictures: how far apart they are, and whether that is chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# What a probability counts as at least: one that came out as nothing would be all that counts.
LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Difference:
    """The accuracy of a second classifier less that of a first, with its 95 % interval.

    only_first, only_second: pictures that this one alone has right. p_value: the chance that two
    equally good ones differ by as much or more.
    """

    value: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Compare which of the same N pictures two classifiers have right, (N,) each, N >= 1.

    The interval is the adjusted Wald one for paired shares (Bonett and Price 2012, doi:
    10.3102/1076998611411915), the test McNemar's, exact: a binomial one on the pictures that only
    one of them has right.
    """
    from scipy.stats import binomtest

    n = len(first)
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    p_lost, p_gained = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    middle = p_gained - p_lost
    half = 1.959964 * math.sqrt((p_gained + p_lost - middle**2) / (n + 2))
    value = (gained - lost) / n
    apart = lost + gained
    return Difference(
        value=value,
        low=max(-1.0, min(value, middle - half)),
        high=min(1.0, max(value, middle + half)),
        only_first=lost,
        only_second=gained,
        p_value=float(binomtest(gained, apart, 0.5).pvalue) if apart else 1.0,
    )


@dataclass(frozen=True)
class LossDifference:
    """The mean log loss of a second classifier less that of a first, with its 95 % interval."""

    first: float
    second: float
    value: float
    low: float
    high: float


def paired_loss(
    first: NDArray[np.float32], second: NDArray[np.float32], labels: NDArray[np.int64]
) -> LossDifference:
    """Compare the probabilities (N, K) and (N, L) that two gave for the right classes (N,), N >= 1.

    The interval is Student's, on the differences picture by picture; of one picture it is without
    bounds.
    """
    from scipy.stats import t

    n = len(labels)
    losses = [
        -np.log(np.maximum(probs[np.arange(n), labels].astype(np.float64), LEAST_PROBABILITY))
        for probs in (first, second)
    ]
    apart = losses[1] - losses[0]
    half = float("inf")
    if n > 1:
        half = float(t.ppf(0.975, n - 1) * apart.std(ddof=1) / math.sqrt(n))
    value = float(apart.mean())
    return LossDifference(
        float(losses[0].mean()), float(losses[1].mean()), value, value - half, value + half
    )
