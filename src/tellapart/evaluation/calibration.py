"""Logits to probabilities that mean what they say.

`softmax` is imported wherever predictions are made, so this module costs only numpy to import.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPERATURE_MIN = 0.05
TEMPERATURE_MAX = 20.0


def softmax(logits: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the probabilities (N, K) float32 of `logits` (N, K), rows summing to one.

    A temperature above one makes them less sure, below one surer; the order stays.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}, but it must be above zero.")
    # The maximum goes first: a large logit over a small temperature must not overflow.
    probs = np.asarray(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
    probs /= temperature
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=1, keepdims=True)
    return probs


def fit_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """Return the temperature for which softmax(logits / temperature) has the least log loss.

    `logits` (N, K) must come from pictures that the network did not learn from (`labels` (N,)).
    The loss has one minimum (Guo et al. 2017, On Calibration of Modern Neural Networks, section
    4.2). It is searched between 0.05 and 20: where every picture is right there is no minimum,
    sharper is always better, and the answer stays inside these bounds.
    """
    if len(labels) == 0:
        raise ValueError("There is no picture to fit a temperature on: give one or more.")
    from scipy.optimize import minimize_scalar

    centred = np.asarray(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
    own = np.take_along_axis(centred, labels[:, None], axis=1).mean(dtype=np.float64)
    # As if half a picture more were wrong, with the runner-up for its class: without it, twenty
    # pictures that are all right end at the sharpest temperature allowed and claim certainty (mean
    # confidence 1.000; with it 0.97, for 2 classes and for 102). Spreading a whole one over all
    # classes does the same for two, but made 102 too modest: calibration error on the other half
    # of 818 flowers 0.035 instead of 0.032, 0.026 being chance.
    share = 0.5 / (len(labels) + 1)
    runner_up = np.partition(centred, -2, axis=1)[:, -2].mean(dtype=np.float64)
    own = (1 - share) * own + share * runner_up
    room = np.empty_like(centred)

    def log_loss(log_temperature: float) -> float:
        sharpness = math.exp(-log_temperature)
        np.exp(np.multiply(centred, np.float32(sharpness), out=room), out=room)
        return float(np.log(room.sum(axis=1, dtype=np.float64)).mean() - own * sharpness)

    bounds = (math.log(TEMPERATURE_MIN), math.log(TEMPERATURE_MAX))
    found = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x)


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures whose predicted class has a probability above `low`, up to `high`.

    `confidence` and `accuracy` are their means; NaN is never there: empty bins are left out.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How confidence and accuracy compare, bin by bin: the data of a reliability diagram.

    `error` is the expected calibration error: how far they lie apart, over the pictures.
    """

    n: int
    error: float
    bins: tuple[ReliabilityBin, ...]


def reliability(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], bins: int = 15
) -> Reliability:
    """Sort pictures into bins of equal width by the probability of their predicted class.

    probs: (N, K), labels: (N,), N >= 1 (Guo et al. 2017, equation 3).
    """
    if len(labels) == 0:
        raise ValueError("There is no picture to measure calibration on: give one or more.")
    confidence = probs.max(axis=1).astype(np.float64)
    right = probs.argmax(axis=1) == labels
    place = bin_of(confidence, bins)
    found = []
    for number in np.unique(place):
        inside = place == number
        found.append(
            ReliabilityBin(
                low=float(number / bins),
                high=float((number + 1) / bins),
                n=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(right[inside].mean()),
            )
        )
    error = sum(one.n * abs(one.confidence - one.accuracy) for one in found) / len(labels)
    return Reliability(len(labels), error, tuple(found))


def bin_of(confidence: NDArray[np.float64], bins: int = 15) -> NDArray[np.int64]:
    """Return the number (N,) of the bin, of equal width, closed above, that each value lies in."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], bins: int = 15
) -> float:
    """Return how far confidence and accuracy lie apart, 0 to 1, averaged over the pictures.

    At 0.03, pictures called 90 % sure are right about 87 or 93 % of the time.
    """
    return reliability(probs, labels, bins).error
