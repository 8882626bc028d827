"""Intervals of scores that are no plain shares: by resampling the pictures, all at once.

The bootstrap (Efron 1979) as products of matrices: a resample is how often it draws each picture,
and every score here follows from weighted sums over pictures. 1000 pictures of 100 classes take
a fraction of a second; memory is bounded, for resamples come in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.calibration import bin_of

Floats = NDArray[np.float32]

N_RESAMPLES = 1000
# Numbers a block may hold: 32 MB.
BLOCK = 8_000_000
PERCENT = (2.5, 97.5)


def resampled_intervals(
    probs: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    influences: Mapping[str, NDArray[np.float64]],
    seed: int = 0,
) -> tuple[dict[str, tuple[float, float]], NDArray[np.float64]]:
    """Return the 95 % interval of each score by name, and of each class's F1 as (K, 2).

    probs: (N, K), labels: (N,), N >= 1. influences: (N,) for each score that is a mean, or
    behaves like one: how far each picture moves it. "ece by chance" is what the calibration error
    would be if every confidence were right (Broecker and Smith 2007, consistency resampling). The
    same pictures in another order give the same intervals.
    """
    said = probs.argmax(axis=1)
    confidence = probs.max(axis=1).astype(np.float64)
    # Pictures are numbered by what they say, not by where they stand.
    order = np.lexsort((*reversed(list(influences.values())), confidence, said, labels))
    labels, said, confidence = labels[order], said[order], confidence[order]
    n, n_classes = probs.shape
    truth, answer = _one_hot(labels, n_classes), _one_hot(said, n_classes)
    place = bin_of(confidence)
    in_bin = _one_hot(place, int(place.max()) + 1)
    surplus = in_bin * (confidence - (said == labels)).astype(np.float32)[:, None]
    means = np.stack([values[order] for values in influences.values()], axis=1)
    rng = np.random.default_rng(seed)
    columns: dict[str, list[NDArray[np.float64]]] = {}
    per_class = []
    n_block = max(1, min(N_RESAMPLES, BLOCK // (n + 3 * n_classes)))
    for start in range(0, N_RESAMPLES, n_block):
        rows = min(n_block, N_RESAMPLES - start)
        weights = _draws(rng, rows, n)
        found, f1 = _class_scores(weights, truth, answer, truth * answer)
        found["ece"] = np.abs(weights @ surplus).sum(axis=1) / n
        by_chance = (confidence - (rng.random((rows, n)) < confidence)).astype(np.float32)
        found["ece by chance"] = np.abs(by_chance @ in_bin).sum(axis=1) / n
        moved = weights @ means.astype(np.float32) / n
        found |= {name: moved[:, column] for column, name in enumerate(influences)}
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        per_class.append(f1)
    spread = {
        name: np.percentile(np.concatenate(parts), PERCENT) for name, parts in columns.items()
    }
    ends = {name: (float(low), float(high)) for name, (low, high) in spread.items()}
    return ends, np.percentile(np.concatenate(per_class), PERCENT, axis=0).T


def _draws(rng: np.random.Generator, rows: int, n: int) -> Floats:
    """Return how often each of n pictures is drawn (rows, n), n draws a row."""
    drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=rows * n)
    return counts.reshape(rows, n).astype(np.float32)


def _class_scores(
    weights: Floats, truth: Floats, answer: Floats, both: Floats
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Return macro and weighted scores of each resample, and each class's F1 (rows, K)."""
    own, given, right = (weights @ one for one in (truth, answer, both))
    parts = {
        "precision": right / np.maximum(given, 1),
        "recall": right / np.maximum(own, 1),
        "f1": 2 * right / np.maximum(own + given, 1),
    }
    there = own > 0
    found = {}
    for name, values in parts.items():
        found[f"macro_{name}"] = (values * there).sum(axis=1) / there.sum(axis=1)
        found[f"weighted_{name}"] = (values * own).sum(axis=1) / own.sum(axis=1)
    return found, parts["f1"]


def _one_hot(labels: NDArray[np.integer[Any]], n: int) -> Floats:
    return np.asarray(labels[:, None] == np.arange(n), dtype=np.float32)
