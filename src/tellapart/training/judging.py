"""How a network does on the pictures that choose. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

# From here on the rarest class has too few pictures to be learned at its own weight.
UNEVEN = 10

# Temperatures that are tried; calibration refines them later.
TEMPERATURES = (1.0, *np.geomspace(0.2, 5.0, 33))


@dataclass(frozen=True)
class Judged:
    """Scores on the valid pictures.

    log_loss: at the single temperature that suits it best, as calibration will choose it;
        otherwise label smoothing, which makes networks too modest, could never win.
    raw_log_loss: at temperature one.
    """

    log_loss: float
    raw_log_loss: float
    accuracy: float

    def better_than(self, other: Judged) -> bool:
        """Whether log loss fell and accuracy did not."""
        # As many right of each class, but others, differ by rounding.
        return self.log_loss < other.log_loss and self.accuracy > other.accuracy - 1e-9

    def __str__(self) -> str:
        """Write the two scores that decide."""
        return f"log loss {self.log_loss:.3f}, accuracy {self.accuracy:.1%}"


def judge(logits: NDArray[np.float32], labels: NDArray[np.int64], balanced: bool = False) -> Judged:
    """Score (N, K) logits against (N,) labels, N >= 1.

    balanced: every class counts the same, however many pictures it has.
    """
    rows = np.arange(len(labels))
    weights = 1 / np.bincount(labels)[labels] if balanced else np.ones(len(labels))
    losses = [
        float(np.average(-log_softmax(logits / t, axis=1)[rows, labels], weights=weights))
        for t in TEMPERATURES
    ]
    accuracy = float(np.average(logits.argmax(axis=1) == labels, weights=weights))
    return Judged(min(losses), losses[0], accuracy)


def unevenness(labels: NDArray[np.int64]) -> float:
    """Return how many times the pictures of the rarest class the largest one has."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(counts.max() / counts.min())
