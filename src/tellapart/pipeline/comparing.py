"""Two classifiers on the same labelled pictures, picture by picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.data.reading import AnyData
from tellapart.data.stored import kept_copies
from tellapart.evaluation.comparison import Difference, paired_difference
from tellapart.evaluation.scores import Interval, interval
from tellapart.inference.classifier import Classifier
from tellapart.pipeline.scoring import find_labelled, look
from tellapart.progress import Progress


@dataclass(frozen=True)
class ClassChange:
    """How many of a class's n pictures each of two classifiers has right, as recall."""

    name: str
    n: int
    first: float
    second: float


@dataclass(frozen=True)
class Flip:
    """A picture that two classifiers call differently.

    kind: "gained": the second alone is right; "lost": the first alone is; "changed": neither is.
    """

    path: str
    actual: str
    first: str
    second: str
    first_confidence: float
    second_confidence: float
    kind: Literal["gained", "lost", "changed"]


@dataclass(frozen=True)
class Comparison:
    """How two classifiers differ on the same pictures. `as_dict` is what `compare --json` prints.

    per_class: every class that has pictures, the largest change first. flips: gained, lost,
    changed, each with the surest second answers first. left_out: classes that not both know.
    """

    n: int
    first: Interval
    second: Interval
    difference: Difference
    per_class: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    left_out: tuple[str, ...]
    n_left_out: int
    n_unreadable: int
    split: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return asdict(self)

    def verdict(self) -> str:
        """Say in a sentence what the difference is worth."""
        p = self.difference.p_value
        if self.difference.value == 0:
            return "Both have the same number of pictures right."
        better = "second" if self.difference.value > 0 else "first"
        if p < 0.05:
            return f"The {better} is better; by chance alone it would look so once in {1 / p:.0f}."
        return f"The {better} has more right, but chance alone does that often: it proves nothing."


@kept_copies()
def compare(
    first: Classifier, second: Classifier, data: AnyData, progress: Progress | None = None
) -> Comparison:
    """Compare two classifiers on the labelled pictures of classes that both know, by name.

    data: as for `evaluate`.

    Raises:
        ClassMismatch: no class that both know is there. NoReadablePicture.
    """
    progress = progress or Progress()
    both = [name for name in first.classes if name in set(second.classes)]
    found = find_labelled(data, both, progress)
    said = [_said(one, found.paths, data, progress) for one in (first, second)]
    read = said[0][0] & said[1][0]
    paths, actual = np.array(found.paths)[read], found.actual[read]
    names = [answers[read] for _, answers, _ in said]
    confidences = [values[read] for _, _, values in said]
    right = [answers == actual for answers in names]
    return Comparison(
        n=len(actual),
        first=interval(int(right[0].sum()), len(actual)),
        second=interval(int(right[1].sum()), len(actual)),
        difference=paired_difference(right[0], right[1]),
        per_class=_changes(actual, right[0], right[1]),
        flips=_flips(paths, actual, names, confidences),
        left_out=found.unknown_classes,
        n_left_out=found.n_unknown,
        n_unreadable=int((~read).sum()),
        split=found.split,
    )


def _said(
    classifier: Classifier, paths: list[str], data: AnyData, progress: Progress
) -> tuple[NDArray[np.bool_], NDArray[np.str_], NDArray[np.float32]]:
    """Return which pictures were read (N,), what they were called, and how surely."""
    read, features = look(classifier, paths, data, progress)
    probs = classifier.probabilities(classifier.head(features))
    names = np.full(len(paths), "", dtype=np.array(classifier.classes).dtype)
    confidence = np.zeros(len(paths), dtype=np.float32)
    names[read] = np.array(classifier.classes)[probs.argmax(axis=1)]
    confidence[read] = probs.max(axis=1)
    return read, names, confidence


def _changes(
    actual: NDArray[np.str_], first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[ClassChange, ...]:
    rows = []
    for name in np.unique(actual):
        mine = actual == name
        rows.append(
            ClassChange(
                str(name), int(mine.sum()), float(first[mine].mean()), float(second[mine].mean())
            )
        )
    return tuple(sorted(rows, key=lambda row: (-abs(row.second - row.first), row.name)))


def _flips(
    paths: NDArray[np.str_],
    actual: NDArray[np.str_],
    names: list[NDArray[np.str_]],
    confidences: list[NDArray[np.float32]],
) -> tuple[Flip, ...]:
    flips = []
    for row in np.flatnonzero(names[0] != names[1]):
        one, other = str(names[0][row]), str(names[1][row])
        kind: Literal["gained", "lost", "changed"] = "changed"
        if actual[row] in (one, other):
            kind = "gained" if actual[row] == other else "lost"
        sure = (float(confidences[0][row]), float(confidences[1][row]))
        flips.append(Flip(str(paths[row]), str(actual[row]), one, other, *sure, kind))
    order = ("gained", "lost", "changed")
    return tuple(sorted(flips, key=lambda one: (order.index(one.kind), -one.second_confidence)))
