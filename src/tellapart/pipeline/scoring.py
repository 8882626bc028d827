"""How a classifier does on labelled pictures: folder -> Catalog -> logits -> scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.catalog import SPLITS, scan
from tellapart.errors import ClassMismatch, NoReadablePicture, UnreadablePicture
from tellapart.evaluation.scores import Scores, score
from tellapart.inference.classifier import Classifier
from tellapart.pipeline.outcome import listed
from tellapart.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on labelled pictures. `as_dict` is what `evaluate --json` prints."""

    scores: Scores
    unknown_classes: tuple[str, ...]
    n_unknown: int
    n_unreadable: int
    split: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return self.scores.as_dict() | {
            "split": self.split,
            "unknown_classes": list(self.unknown_classes),
            "n_unknown": self.n_unknown,
            "n_unreadable": self.n_unreadable,
        }


def evaluate(
    classifier: Classifier, data: str | Path, progress: Progress | None = None
) -> Evaluation:
    """Score a classifier on labelled pictures; classes are matched by name.

    data: a folder of class folders; where it holds splits, the last of test, valid, train that
        is there. Pictures of classes that the classifier does not know are counted, not scored.

    Raises:
        ClassMismatch: no class in common. NoReadablePicture: nothing left to score.
    """
    progress = progress or Progress()
    catalog = scan(data, progress, min_classes=1)
    split = next((name for name in reversed(SPLITS) if (catalog.splits == name).any()), None)
    if split:
        catalog = catalog.select(catalog.splits == split)
    place = {name: label for label, name in enumerate(classifier.classes)}
    unknown = tuple(name for name in catalog.classes if name not in place)
    if len(unknown) == len(catalog.classes):
        raise ClassMismatch(
            f"{data} holds the classes {listed(catalog.classes)}, the classifier knows "
            f"{listed(classifier.classes)}: none in common. Classes are matched by the names of "
            f"the folders; rename these to match, or train on this data."
        )
    labels = np.array([place.get(name, -1) for name in catalog.classes])[catalog.labels]
    paths = catalog.paths[labels >= 0].tolist()
    with progress.bar("Looking at pictures", len(paths), "pictures") as advance:
        answers = []
        for answer in classifier.logits(paths):
            answers.append(answer)
            advance(1)
    logits = [answer for answer in answers if not isinstance(answer, UnreadablePicture)]
    read = [not isinstance(answer, UnreadablePicture) for answer in answers]
    if not logits:
        raise NoReadablePicture(
            f"Of {len(paths)} pictures in {data}, none could be read: the first {answers[0]}. "
            f"Nothing was scored. Check the files."
        )
    probs = classifier.probabilities(np.stack(logits))
    return Evaluation(
        scores=score(probs, labels[labels >= 0][read], classifier.classes),
        unknown_classes=unknown,
        n_unknown=int((labels < 0).sum()),
        n_unreadable=read.count(False),
        split=split,
    )
