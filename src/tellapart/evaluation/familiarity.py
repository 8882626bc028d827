"""How far a picture lies from all that was learned: what tells one that belongs to no class.

Chosen by measurement (docs/decisions): confidence alone hardly notices pictures of another kind,
distance in feature space alone hardly notices one more flower among flowers. So both count. Costs
only numpy to import.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.columns import blocks, taken

Floats = NDArray[np.float32]

# Directions in which pictures of one class differ most: more made no difference, 32 a small one.
DIRECTIONS = 64
# Share of the covariance that is taken to be alike in all directions; 0.1 to 0.6 differ little.
SHRINKAGE = 0.3
# How much more a spread of doubt counts than one of distance, both squared: with 1, two of five
# choices of unknown flowers were told a little worse than by confidence alone, with 2 far ones.
DOUBT = 1.5
# A confidence nearer to one than this says no more.
CLOSEST = 1e-6


@dataclass(frozen=True, eq=False)
class Familiar:
    """Where the classes lie in feature space, as small arrays for the bundle.

    centre: (D,) float32. directions: (D, R) float16, orthonormal, and stretch: (R,) float32: what
    makes the spread within a class alike in all directions. prototypes: (K, D) float16, the
    classes' means after that, at length one.
    usual: (4,) float32, median and spread towards the strange side of the log-odds of the
    confidence, and of the similarity, for pictures that belong to a class.
    """

    centre: Floats
    directions: NDArray[np.float16]
    stretch: Floats
    prototypes: NDArray[np.float16]
    usual: Floats

    def similarity(self, features: NDArray[np.float16]) -> Floats:
        """Return the cosine (N,) between features (N, D) and the nearest class, spread evened."""
        nearest = np.zeros(len(features), dtype=np.float32)
        for rows in blocks(len(features)):
            evened = self._evened(features[rows])
            nearest[rows] = (evened @ self._prototypes.T).max(axis=1)
        return nearest

    def strangeness(self, features: NDArray[np.float16], probs: Floats) -> Floats:
        """Return how strange pictures of these features and probabilities (N, K) are, 0 and up."""
        return self.strangeness_of(probs.max(axis=1, initial=0), self.similarity(features))

    def strangeness_of(self, confidence: Floats, similarity: Floats) -> Floats:
        """Return the strangeness (N,) for confidence and similarity, each (N,).

        Both are counted in spreads below what is usual, squared and added, doubt weighing more;
        what is above the usual does not count.
        """
        middle, spread, middle_similarity, spread_similarity = self.usual
        doubt = np.maximum((middle - _log_odds(confidence)) / spread, 0)
        distance = np.maximum((middle_similarity - similarity) / spread_similarity, 0)
        return np.asarray(DOUBT * doubt**2 + distance**2, dtype=np.float32)

    @property
    def far_below(self) -> float:
        """The similarity that 16 % of pictures have less of which belong to a class."""
        return float(self.usual[2] - self.usual[3])

    def with_usual(self, confidence: Floats, similarity: Floats) -> Familiar:
        """Return the same with what is usual among pictures that belong to a class, N >= 1."""
        values = [*_middle_and_spread(_log_odds(confidence)), *_middle_and_spread(similarity)]
        return replace(self, usual=np.array(values, dtype=np.float32))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name: `Familiar(**arrays)` makes the same again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _wide(self) -> Floats:
        return self.directions.astype(np.float32)

    @cached_property
    def _prototypes(self) -> Floats:
        return self.prototypes.astype(np.float32)

    def _evened(self, features: NDArray[np.float16]) -> Floats:
        return _evened(features.astype(np.float32) - self.centre, self._wide, self.stretch)


def fit_familiar(
    features: NDArray[np.float16], labels: NDArray[np.int64], n_classes: int
) -> Familiar:
    """Learn where classes lie, from features (N, D) and labels (N,) of pictures that taught.

    A cosine after whitening with the shared covariance of the classes: Mahalanobis' angle instead
    of his distance (Lee et al. 2018, arXiv:1807.03888, has the distance), for lengths of features
    say little. Of the covariance, only its strongest directions are kept apart.
    """
    from sklearn.utils.extmath import randomized_svd

    centre = _means(features, np.zeros(len(labels), dtype=np.int64), 1)[0]
    means = _means(features, labels, n_classes)
    means[np.bincount(labels, minlength=n_classes) > 0] -= centre
    n, D = features.shape
    inner = np.zeros((D, D), dtype=np.float64)
    for part in blocks(n):
        rows = features[part].astype(np.float32) - centre - means[labels[part]]
        inner += rows.T @ rows
    n_directions = max(1, min(DIRECTIONS, n - 1, D - 1))
    _, squares, found = randomized_svd(inner, n_directions, n_iter=4, random_state=0)
    variance = squares / n
    total = max(float(inner.trace()) / n, 1e-12)
    alike = SHRINKAGE * total / D
    rest = (1 - SHRINKAGE) * max(total - variance.sum(), 0.0) / max(D - n_directions, 1) + alike
    strong = (1 - SHRINKAGE) * variance + alike
    directions = np.ascontiguousarray(found.T, dtype=np.float16)
    stretch = (np.sqrt(rest / strong) - 1).astype(np.float32)
    evened = _evened(means, directions.astype(np.float32), stretch)
    return Familiar(
        centre, directions, stretch, evened.astype(np.float16), np.array([0, 1, 0, 1], np.float32)
    )


def _means(features: NDArray[np.float16], labels: NDArray[np.int64], n_classes: int) -> Floats:
    """Return the mean features (K, D) of each class, zero for one without pictures."""
    sums = np.zeros((n_classes, features.shape[1]), dtype=np.float64)
    for part in blocks(len(features)):
        rows, own = features[part].astype(np.float32), labels[part]
        for label in np.unique(own):
            sums[label] += rows[own == label].sum(axis=0, dtype=np.float64)
    counts = np.bincount(labels, minlength=n_classes)[:, None]
    return (sums / np.maximum(counts, 1)).astype(np.float32)


def held_out_similarity(
    features: NDArray[np.float16],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_classes: int,
) -> Floats:
    """Return each picture's similarity (N,) to classes that it did not help to place.

    folds: (N,) numbers from 0; pictures of one fold are judged by the others.
    """
    similarity = np.zeros(len(labels), dtype=np.float32)
    for fold in np.unique(folds):
        out = folds == fold
        judge = fit_familiar(taken(features, ~out), labels[~out], n_classes)
        similarity[out] = judge.similarity(taken(features, out))
    return similarity


def _evened(rows: Floats, directions: Floats, stretch: Floats) -> Floats:
    """Even out the spread of centred rows (N, D), and bring them to length one."""
    stretched = rows + ((rows @ directions) * stretch) @ directions.T
    length = np.linalg.norm(stretched, axis=1, keepdims=True)
    return np.asarray(stretched / np.maximum(length, 1e-12), dtype=np.float32)


def _log_odds(confidence: Floats) -> Floats:
    sure = np.clip(confidence.astype(np.float64), CLOSEST, 1 - CLOSEST)
    return np.asarray(np.log(sure) - np.log1p(-sure), dtype=np.float32)


def _middle_and_spread(values: Floats) -> tuple[float, float]:
    """Return the median, and how far below it one standard deviation of a bell curve ends."""
    low, middle = np.quantile(values, [0.16, 0.5])
    return float(middle), max(float(middle - low), 1e-3)
