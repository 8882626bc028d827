"""How a classifier does on labelled pictures: folder -> Catalog -> features -> scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.catalog import SPLITS, Catalog
from tellapart.data.inspection import inspect_files
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.shards.reading import in_reading_order
from tellapart.data.stored import kept_copies
from tellapart.errors import (
    ClassMismatch,
    NoReadablePicture,
    NotExplainable,
    UnreadablePicture,
    listed,
)
from tellapart.evaluation import report as reports
from tellapart.evaluation.calibration import reliability, softmax
from tellapart.evaluation.scores import Scores, score
from tellapart.files import check_writable, write_atomically
from tellapart.inference.classifier import Classifier
from tellapart.pipeline.gallery import (
    Judged,
    Maps,
    answered,
    gather_suspects,
    labels_in_words,
    with_pictures,
)
from tellapart.pipeline.outcome import made_with
from tellapart.progress import Progress

ELSEWHERE = "choose another place with --report"


@dataclass(frozen=True)
class Answered:
    """The pictures that were not called unsure: which share, and how many of them were right.

    accuracy, low, high: with its exact 95 % interval, None where not one was answered. accept: the
    accuracy that was wanted, promised: whether the classifier's own pictures proved it.
    """

    share: float
    accuracy: float | None
    low: float | None
    high: float | None
    n: int
    accept: float
    threshold: float
    promised: bool


@dataclass(frozen=True)
class Candidates:
    """How often the candidates held the true class, with its exact 95 % interval.

    level: how often they should. mean_size: candidates a picture.
    """

    level: float
    coverage: float
    low: float
    high: float
    mean_size: float


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on labelled pictures. `as_dict` is what `evaluate --json` prints.

    `scores` count every picture, also those that were called unsure.
    """

    scores: Scores
    answered: Answered
    candidates: Candidates
    unknown_classes: tuple[str, ...]
    n_unknown: int
    n_unreadable: int
    split: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return self.scores.as_dict() | {
            "answered": asdict(self.answered),
            "candidates": asdict(self.candidates),
            "split": self.split,
            "unknown_classes": list(self.unknown_classes),
            "n_unknown": self.n_unknown,
            "n_unreadable": self.n_unreadable,
        }


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled pictures of classes that are known: `actual` (N,) are their names.

    unknown_classes: what else was there, n_unknown pictures of it. catalog: with these, too.
    """

    catalog: Catalog
    paths: list[str]
    actual: NDArray[np.str_]
    split: str | None
    unknown_classes: tuple[str, ...]
    n_unknown: int


@kept_copies()
def evaluate(
    classifier: Classifier,
    data: AnyData,
    progress: Progress | None = None,
    report: str | Path | None = None,
) -> Evaluation:
    """Score a classifier on labelled pictures; classes are matched by name.

    data: a folder of class folders; where it holds splits, the last of test, valid, train that
        is there. Pictures of classes that the classifier does not know are counted, not scored.
    report: an HTML file to write, where one is wanted.

    Raises:
        ClassMismatch: no class in common. NoReadablePicture: nothing left to score.
        DiskFull, NotWritable: the report's place, found out before pictures are looked at.
    """
    progress = progress or Progress()
    if report is not None:
        check_writable(Path(report), ELSEWHERE)
    found = find_labelled(data, classifier.classes, progress)
    start = time.monotonic()
    read, features = look(classifier, found.paths, data, progress)
    seconds = {"looking at pictures": time.monotonic() - start}
    place = {name: label for label, name in enumerate(classifier.classes)}
    labels = np.array([place[str(name)] for name in found.actual[read]], dtype=np.int64)
    logits = classifier.head(features)
    probs = classifier.probabilities(logits)
    paths = [path for path, there in zip(found.paths, read, strict=True) if there]
    decisions = classifier.decide(features, probs)
    root = found.catalog.root
    judged = Judged(paths, labels, probs, classifier.manifest.shown, decisions, root)
    counted = answered(judged, classifier.rules)
    result = Evaluation(
        scores=score(probs, labels, classifier.classes),
        answered=_answered(counted),
        candidates=_candidates(counted),
        unknown_classes=found.unknown_classes,
        n_unknown=found.n_unknown,
        n_unreadable=int((~read).sum()),
        split=found.split,
    )
    if report is not None:
        with progress.stage("report"):
            page = evaluation_page(
                classifier, result, judged, counted, logits, found.catalog, seconds
            )
            write_atomically(Path(report), page, ELSEWHERE)
    return result


def evaluation_page(
    classifier: Classifier,
    result: Evaluation,
    judged: Judged,
    counted: reports.Answered,
    logits: NDArray[np.float32],
    catalog: Catalog,
    seconds: Mapping[str, float],
) -> str:
    """Draw the page that shows how a classifier did. logits: (N, K) of the judged pictures."""
    scores, manifest = result.scores, classifier.manifest
    where = f"{result.split} pictures" if result.split else "pictures"
    splits = [result.split or ""] * scores.n
    suspects, n_suspects = gather_suspects(
        judged.paths, splits, judged.labels, judged.probs, judged.classes, judged.root
    )
    before, after = (reliability(p, judged.labels) for p in (softmax(logits), judged.probs))
    page = reports.Report(
        title=catalog.name,
        made_on=datetime.now(UTC).isoformat(timespec="seconds"),
        summary=_summary(result, n_suspects),
        classes=manifest.shown,
        counts={result.split or "pictures": tuple(int(row.n) for row in scores.per_class)},
        scores=scores.renamed(manifest.shown),
        scored_split=result.split,
        findings=inspect_files(catalog),
        calibration=reports.Calibration(
            manifest.calibration.temperature, before.error, after.error, where
        ),
        speed_s=seconds,
        pictures_per_s=(scores.n + result.n_unreadable) / max(sum(seconds.values()), 1e-9),
        facts=made_with(manifest) | {"Classifier": f"made on {manifest.made_on}"},
        suspects=suspects,
        n_suspects=n_suspects,
        reliability=(before, after),
    )
    maps = Maps(None, manifest.preprocessing)
    with suppress(NotExplainable):
        maps = Maps(classifier.explainer, manifest.preprocessing)
    return reports.render(with_pictures(page, judged, maps, counted))


def _summary(result: Evaluation, n_suspects: int) -> tuple[str, ...]:
    """Say in words how the classifier did."""
    scores, reached = result.scores, result.scores.accuracy
    wrong = scores.n - int(scores.confusion.trace())
    lines = [
        f"Right on {reports.percent(reached.value)} of {scores.n} pictures ({wrong} wrong); "
        f"between {reports.percent(reached.low)} and {reports.percent(reached.high)} can be "
        f"expected on pictures like these."
    ]
    if result.unknown_classes:
        lines.append(
            f"Not scored: {result.n_unknown} pictures of classes it does not know: "
            f"{listed(result.unknown_classes)}."
        )
    if result.n_unreadable:
        lines.append(f"Set aside: {result.n_unreadable} files that are no readable pictures.")
    lines += labels_in_words(n_suspects)
    return tuple(lines)


def find_labelled(data: AnyData, known: Sequence[str], progress: Progress) -> Labelled:
    """Find the labelled pictures whose classes are known, by name.

    Raises:
        ClassMismatch: there are none.
    """
    catalog = read_catalog(data, progress, min_classes=1)
    split = next((name for name in reversed(SPLITS) if (catalog.splits == name).any()), None)
    if split:
        catalog = catalog.select(catalog.splits == split)
    unknown = tuple(name for name in catalog.classes if name not in set(known))
    if len(unknown) == len(catalog.classes):
        raise ClassMismatch(
            f"{data} holds the classes {listed(catalog.classes)}, the classifier knows "
            f"{listed(known)}: none in common. Classes are matched by the names of "
            f"the folders; rename these to match, or train on this data."
        )
    actual = np.array(catalog.classes)[catalog.labels]
    keep = ~np.isin(actual, unknown)
    paths, n_unknown = catalog.paths[keep].tolist(), int((~keep).sum())
    return Labelled(catalog, paths, actual[keep], split, unknown, n_unknown)


def look(
    classifier: Classifier, paths: Sequence[str], data: AnyData, progress: Progress
) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
    """Return which pictures of `data` could be read (N,), and the features of these (M, D).

    Raises:
        NoReadablePicture: not one of them.
    """
    answers: list[NDArray[np.float16] | UnreadablePicture] = []
    order = in_reading_order(paths)
    with progress.bar("Looking at pictures", len(paths), "pictures") as advance:
        for answer in classifier.features([paths[row] for row in order]):
            answers.append(answer)
            advance(1)
    answers = [answer for _, answer in sorted(zip(order, answers, strict=True), key=itemgetter(0))]
    rows = [answer for answer in answers if not isinstance(answer, UnreadablePicture)]
    if not rows:
        raise NoReadablePicture(
            f"Of {len(paths)} pictures in {data}, none could be read: the first {answers[0]}. "
            f"Nothing was scored. Check the files."
        )
    return np.array([not isinstance(one, UnreadablePicture) for one in answers]), np.stack(rows)


def _answered(counted: reports.Answered) -> Answered:
    reached, rules = counted.right, counted.rules
    return Answered(
        share=counted.answered.value,
        accuracy=reached.value if reached else None,
        low=reached.low if reached else None,
        high=reached.high if reached else None,
        n=reached.n if reached else 0,
        accept=rules.accept,
        threshold=rules.threshold,
        promised=rules.promised,
    )


def _candidates(counted: reports.Answered) -> Candidates:
    held = counted.covered
    return Candidates(counted.rules.level, held.value, held.low, held.high, counted.candidates)
