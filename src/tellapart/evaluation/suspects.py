"""Labels that are probably wrong, by confident learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_suspects(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Return the rows whose label is probably wrong, the most probable first.

    probs: (N, K) of classifiers that did not learn from the row they judge, as out-of-fold
        predictions are. labels: (N,) as given.

    A class is believed of a picture where its probability reaches the mean that it has on
    pictures labelled so. A label is suspect where another class is believed, more than the label
    is, and is the most probable one: the off-diagonal of the confident joint in Northcutt, Jiang
    and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels, section 3.1.
    The order is that of the margin between label and other class (section 4).
    """
    if len(labels) == 0:
        return np.zeros(0, dtype=np.int64)
    rows = np.arange(len(labels))
    own = probs[rows, labels].astype(np.float64)
    n = np.bincount(labels, minlength=probs.shape[1])
    usual = np.bincount(labels, weights=own, minlength=probs.shape[1]) / np.maximum(n, 1)
    # Of a class without pictures nobody knows what it usually gets.
    usual[n == 0] = np.inf
    predicted = probs.argmax(axis=1)
    highest = probs[rows, predicted]
    # Only where the most probable class is believed: it then is the surest of those believed.
    suspect = np.flatnonzero((predicted != labels) & (highest >= usual[predicted]))
    margin = own[suspect] - highest[suspect]
    return suspect[np.argsort(margin, kind="stable")].astype(np.int64)
