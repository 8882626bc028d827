"""Predicted probabilities and true labels in, scores with their uncertainty out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A share of `n` pictures with the 95 % interval of the share in all such pictures."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ClassScore:
    """How one class fared; `n` pictures truly belong to it.

    Precision is 0 for a class that was never predicted, recall and F1 are 0 for `n` = 0.
    """

    name: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """Everything that was measured on one set of pictures.

    `confusion` is (K, K) int64, rows the true class, columns the predicted one, both in the
    order of `classes`; so is `per_class`. The macro averages are over the classes that have
    pictures: a set that lacks a class says nothing about it, good or bad.
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

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON types, the confusion matrix as a list of rows."""
        return asdict(self) | {
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "per_class": [asdict(row) for row in self.per_class],
        }


def score(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> Scores:
    """Score `probs` (N, K) against the true `labels` (N,), columns in the order of `classes`.

    The prediction is the most probable class, the first of equals. Probabilities below 1e-7 count
    as 1e-7 in the log loss, so that one sure mistake does not make it infinite. Raises ValueError
    where there is no picture, or where shapes, labels or values do not fit together.
    """
    _check(probs, labels, len(classes))
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = probs.argmax(axis=1)
    every_class = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=every_class, zero_division=0.0
    )
    present = support > 0
    # Only the true class's column is read: sklearn's log_loss copies (N, K) five times for that.
    own = np.take_along_axis(probs, labels[:, None], axis=1).astype(np.float64)
    return Scores(
        n=len(labels),
        accuracy=interval(int((predicted == labels).sum()), len(labels)),
        macro_precision=float(precision[present].mean()),
        macro_recall=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        log_loss=float(-np.log(own.clip(1e-7, 1.0)).mean()),
        classes=tuple(classes),
        confusion=confusion_matrix(labels, predicted, labels=every_class).astype(np.int64),
        per_class=tuple(
            ClassScore(name, int(n), float(p), float(r), float(f))
            for name, n, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
        ),
    )


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
