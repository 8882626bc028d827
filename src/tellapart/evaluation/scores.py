"""Predicted probabilities and true labels in, scores with their uncertainty out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.calibration import expected_calibration_error
from tellapart.evaluation.resampling import resampled_intervals

# Scores that stand as plain numbers; their intervals stand together.
PLAIN = ("macro_precision", "macro_recall", "macro_f1", "log_loss")


@dataclass(frozen=True)
class Interval:
    """A share of `n` pictures with the 95 % interval of the share in all such pictures."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval, for scores that are no share of pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How one class fared; `n` pictures truly belong to it, `n_predicted` were given to it.

    Precision is 0 for a class that was never predicted, recall and F1 are 0 for `n` = 0. Each
    interval is the 95 % one: exact for precision and recall, bootstrapped for F1. `auroc` is how
    well its probability tells it from all others; None where there is nothing to tell apart.
    """

    name: str
    n: int
    precision: float
    recall: float
    f1: float
    n_predicted: int
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]
    auroc: float | None


@dataclass(frozen=True)
class Scores:
    """Everything that was measured on one set of pictures.

    `confusion` is (K, K) int64, rows the true class, columns the predicted one, both in the
    order of `classes`; so is `per_class`. Macro averages and `balanced_accuracy` are over the
    classes that have pictures: a set that lacks a class says nothing about it, good or bad.
    Weighted ones count each class by its pictures. `intervals` holds the 95 % intervals of those
    that are plain numbers. `top5` is None where there are no more than five classes, `auroc`, the
    mean over classes of one against the rest, where only one class has pictures.
    """

    n: int
    accuracy: Interval
    macro_precision: float
    macro_recall: float
    macro_f1: float
    log_loss: float
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    per_class: tuple[ClassScore, ...]
    intervals: Mapping[str, tuple[float, float]]
    top5: Interval | None
    balanced_accuracy: Estimate
    weighted_precision: Estimate
    weighted_recall: Estimate
    weighted_f1: Estimate
    brier: Estimate
    ece: Estimate
    auroc: Estimate | None

    def renamed(self, classes: Sequence[str]) -> Scores:
        """Return the same with other names for the classes, in the same order."""
        rows = tuple(
            replace(row, name=name) for row, name in zip(self.per_class, classes, strict=True)
        )
        return replace(self, classes=tuple(classes), per_class=rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON types, the confusion matrix as a list of rows."""
        return asdict(self) | {
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "per_class": [_plain(asdict(row)) for row in self.per_class],
            "intervals": _plain(dict(self.intervals)),
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def score(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> Scores:
    """Score `probs` (N, K) against the true `labels` (N,), columns in the order of `classes`.

    The prediction is the most probable class, the first of equals. Probabilities below 1e-7 count
    as 1e-7 in the log loss, so that one sure mistake does not make it infinite. The Brier score
    sums over the classes (Brier 1950): 0 is perfect, 2 the worst. Intervals are exact for shares
    of pictures, else from 1000 resamples of the pictures, always the same ones. Raises ValueError
    where there is no picture, or where shapes, labels or values do not fit together.
    """
    _check(probs, labels, len(classes))
    from sklearn.metrics import confusion_matrix

    predicted = probs.argmax(axis=1)
    n, every_class = len(labels), np.arange(len(classes))
    # Only the true class's column is read: sklearn's log_loss copies (N, K) five times for that.
    own = np.take_along_axis(probs, labels[:, None], axis=1)[:, 0].astype(np.float64)
    losses = -np.log(own.clip(1e-7, 1.0))
    squares = np.einsum("nk,nk->n", probs, probs, dtype=np.float64) - 2 * own + 1
    aurocs, pull = _aurocs(probs, labels)
    influences = {"log_loss": losses, "brier": squares} | ({} if pull is None else {"auroc": pull})
    ends, f1_ends = resampled_intervals(probs, labels, influences)
    value, rows = _by_class(predicted, labels, classes, f1_ends, aurocs)
    value |= {name: float(moved.mean()) for name, moved in influences.items()}
    value["ece"] = expected_calibration_error(probs, labels)
    ends["ece"] = _turned(value["ece"], ends["ece"], ends["ece by chance"])

    def estimate(name: str) -> Estimate:
        return Estimate(value[name], *_around(value[name], ends[name]))

    return Scores(
        n=n,
        accuracy=interval(int((predicted == labels).sum()), n),
        macro_precision=value["macro_precision"],
        macro_recall=value["macro_recall"],
        macro_f1=value["macro_f1"],
        log_loss=value["log_loss"],
        classes=tuple(classes),
        confusion=confusion_matrix(labels, predicted, labels=every_class).astype(np.int64),
        per_class=rows,
        intervals={name: _around(value[name], ends[name]) for name in PLAIN},
        top5=_top5(probs, labels),
        # The mean recall of the classes by another name (scikit-learn: balanced_accuracy_score).
        balanced_accuracy=estimate("macro_recall"),
        weighted_precision=estimate("weighted_precision"),
        weighted_recall=estimate("weighted_recall"),
        weighted_f1=estimate("weighted_f1"),
        brier=estimate("brier"),
        ece=estimate("ece"),
        auroc=None if pull is None else _within_one(estimate("auroc")),
    )


def _by_class(
    predicted: NDArray[np.int64],
    labels: NDArray[np.integer[Any]],
    classes: Sequence[str],
    f1_ends: NDArray[np.float64],
    aurocs: NDArray[np.float64],
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Return macro and weighted averages by name, and the classes' own scores."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(classes)), zero_division=0.0
    )
    given = np.bincount(predicted, minlength=len(classes))
    right = np.bincount(predicted[predicted == labels], minlength=len(classes))
    of_given, of_own = _exact_ends(right, given), _exact_ends(right, support)
    there = support > 0
    named = {"precision": precision, "recall": recall, "f1": f1}
    averages = {}
    for name, values in named.items():
        averages[f"macro_{name}"] = float(values[there].mean())
        averages[f"weighted_{name}"] = float(np.average(values, weights=support))
    rows = tuple(
        ClassScore(
            name=name,
            n=int(support[k]),
            precision=float(precision[k]),
            recall=float(recall[k]),
            f1=float(f1[k]),
            n_predicted=int(given[k]),
            precision_interval=(float(of_given[k, 0]), float(of_given[k, 1])),
            recall_interval=(float(of_own[k, 0]), float(of_own[k, 1])),
            f1_interval=_around(float(f1[k]), f1_ends[k]),
            auroc=None if np.isnan(aurocs[k]) else float(aurocs[k]),
        )
        for k, name in enumerate(classes)
    )
    return averages, rows


def _top5(probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> Interval | None:
    if probs.shape[1] <= 5:
        return None
    from sklearn.metrics import top_k_accuracy_score

    every_class = np.arange(probs.shape[1])
    found = top_k_accuracy_score(labels, probs, k=5, labels=every_class, normalize=False)
    return interval(int(found), len(labels))


def _aurocs(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return each class's area under the ROC curve against the rest (K,), NaN where undefined.

    Beside it how far each picture (N,) pulls their mean, whose mean it is: the placements of
    DeLong, DeLong and Clarke-Pearson (1988), first order. None where no area is defined.
    """
    from scipy.stats import rankdata

    n, n_classes = probs.shape
    areas, pull = np.full(n_classes, np.nan), np.zeros(n)
    counts = np.bincount(labels, minlength=n_classes)
    defined = np.flatnonzero((counts > 0) & (counts < n))
    for k in defined:
        mine = labels == k
        ranks = rankdata(probs[:, k])
        n_mine = int(counts[k])
        above = np.empty(n)
        # The share of the other side that stands on the right side of each picture.
        above[mine] = (ranks[mine] - rankdata(probs[mine, k])) / (n - n_mine)
        above[~mine] = 1 - (ranks[~mine] - rankdata(probs[~mine, k])) / n_mine
        areas[k] = above[mine].mean()
        side = np.where(mine, n / n_mine, n / (n - n_mine))
        pull += areas[k] + (above - areas[k]) * side
    return areas, pull / len(defined) if len(defined) else None


def _exact_ends(
    right: NDArray[np.integer[Any]], n: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Return the exact 95 % intervals (K, 2) of shares right / n, as `interval` has them."""
    from scipy.special import betaincinv

    low = np.where(right > 0, betaincinv(np.maximum(right, 1), n - right + 1, 0.025), 0.0)
    high = np.where(right < n, betaincinv(right + 1, np.maximum(n - right, 1), 0.975), 1.0)
    return np.stack([low, high], axis=1)


def _within_one(found: Estimate) -> Estimate:
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def _turned(
    value: float, ends: tuple[float, float], by_chance: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of the calibration error from that of its resamples.

    Chance alone makes it too large, and a resample adds as much again: so the interval is turned
    over about the value (the basic bootstrap, Davison and Hinkley 1997, section 5.2). It begins at
    zero where chance alone can make it as large as it is.
    """
    low = 0.0 if value <= by_chance[1] else max(0.0, 2 * value - ends[1])
    return low, max(value, 2 * value - ends[0])


def _around(value: float, ends: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends, neither of which may exclude what was measured."""
    return min(float(ends[0]), value), max(float(ends[1]), value)


def interval(right: int, n: int) -> Interval:
    """Return the share `right / n` with its exact 95 % interval (Clopper and Pearson, 1934).

    Exact means never too narrow: it also holds for few pictures and for none or all right.
    """
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(confidence_level=0.95, method="exact")
    return Interval(right / n, float(found.low), float(found.high), n)


def _check(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], class_count: int
) -> None:
    if len(labels) == 0:
        raise ValueError("There is no picture to score: give one labelled picture or more.")
    if probs.shape != (len(labels), class_count):
        raise ValueError(
            f"The probabilities have shape {probs.shape}, but {len(labels)} labels and "
            f"{class_count} classes need {(len(labels), class_count)}."
        )
    if labels.min() < 0 or labels.max() >= class_count:
        raise ValueError(
            f"The labels run from {labels.min()} to {labels.max()}, but {class_count} classes "
            f"are numbered 0 to {class_count - 1}."
        )
    if not np.isfinite(probs).all():
        raise ValueError("Some probabilities are not finite numbers: the network's output is bad.")
