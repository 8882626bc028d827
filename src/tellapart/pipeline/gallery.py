"""The report's pictures: chosen, made small, and with the map of what spoke for a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixels import (
    Pixels,
    Preprocessing,
    decode_many,
    evaluation_pixels,
    read_file,
    seen_box,
)
from tellapart.data.thumbnails import SMALL_PX, shrunk, webp
from tellapart.errors import NotExplainable, UnreadablePicture
from tellapart.evaluation.decision import (
    GRID,
    Decisions,
    Rules,
    TradePoint,
    covered,
    mean_set_size,
)
from tellapart.evaluation.report import (
    Answered,
    Mistake,
    Report,
    Shown,
    Suspect,
    worst_mistakes,
)
from tellapart.evaluation.scores import interval
from tellapart.evaluation.suspects import find_suspects
from tellapart.inference.drawing import overlay
from tellapart.inference.explaining import Explainer

Floats = NDArray[np.float32]

LARGE_PX = 256
MOST_PICTURES, MOST_MAPS, MOST_SUSPECTS = 1000, 48, 24
# What keeps a page of a thousand pictures under 5 MB: bytes of thumbnails, which base64 makes a
# third larger, beside about 0.6 kB of text for each picture.
MOST_BYTES = 3_000_000


@dataclass(frozen=True, eq=False)
class Judged:
    """Pictures that scored, and what was said of them.

    paths: (N,). labels: (N,). probs: (N, K), calibrated. classes: K names. decisions: of all.
    root: the folder that names on the page begin below.
    """

    paths: Sequence[str]
    labels: NDArray[np.int64]
    probs: Floats
    classes: Sequence[str]
    decisions: Decisions
    root: Path

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each picture."""
        return np.asarray(self.probs.argmax(axis=1))


@dataclass(frozen=True)
class Maps:
    """What draws activation maps for the report; the explainer is None where there can be none."""

    explainer: Explainer | None
    preprocessing: Preprocessing

    def over(self, data: bytes, side_px: int, row: int) -> Pixels | None:
        """Draw a picture file, its longer side side_px, under the map of class number `row`."""
        if self.explainer is None:
            return None
        (maps,) = self.explainer.maps([evaluation_pixels(data, self.preprocessing)])
        picture = shrunk(data, side_px)
        box = seen_box(picture.shape[0], picture.shape[1], self.preprocessing)
        return overlay(picture, box, self.explainer.heat(maps, row))


def open_maps(graph: bytes, backbone: str, mirrored: bool, preprocessing: Preprocessing) -> Maps:
    """Get ready to draw maps with a finished graph."""
    try:
        return Maps(Explainer(graph, backbone, mirrored), preprocessing)
    except NotExplainable:
        return Maps(None, preprocessing)


def with_pictures(report: Report, judged: Judged, maps: Maps, counted: Answered) -> Report:
    """Return the report with the pictures that scored, and what the rules did to them."""
    return replace(
        report,
        mistakes=gather_mistakes(judged, maps),
        pictures=gather_pictures(judged, maps),
        answered=counted,
    )


def gather_mistakes(judged: Judged, maps: Maps) -> tuple[Mistake, ...]:
    """Return the surest mistakes; a picture that is gone since it was scored is left out."""
    found = []
    for row in worst_mistakes(judged.probs, judged.labels):
        path, predicted = judged.paths[row], int(judged.predicted[row])
        try:
            data = read_file(path)
            small = webp(shrunk(data, LARGE_PX))
            why = maps.over(data, LARGE_PX, predicted)
        except UnreadablePicture:
            continue
        found.append(
            Mistake(
                path=below(path, judged.root),
                actual=judged.classes[judged.labels[row]],
                predicted=judged.classes[predicted],
                confidence=float(judged.probs[row, predicted]),
                thumbnail=small,
                why=None if why is None else webp(why),
            )
        )
    return tuple(found)


def gather_pictures(judged: Judged, maps: Maps) -> tuple[Shown, ...]:
    """Return as many scored pictures as the page has room for, in no order.

    Wrong ones are let in first, the surest first and these with maps; then some of every class.
    """
    rows = _by_importance(judged)[:MOST_PICTURES]
    shown: list[Shown] = []
    room = MOST_BYTES
    wrong = judged.predicted != judged.labels
    mapped = set(rows[wrong[rows]][:MOST_MAPS].tolist())

    def read(row: int) -> tuple[bytes, bytes | None]:
        data = read_file(judged.paths[row])
        return webp(shrunk(data, SMALL_PX)), data if row in mapped else None

    for row, found in zip(rows.tolist(), decode_many(rows.tolist(), read), strict=True):
        if isinstance(found, UnreadablePicture):
            continue
        small, data = found
        predicted = int(judged.predicted[row])
        over = None if data is None else maps.over(data, SMALL_PX, predicted)
        why = None if over is None else webp(over)
        room -= len(small) + len(why or b"")
        if room < 0:
            break
        shown.append(
            Shown(
                path=below(judged.paths[row], judged.root),
                actual=int(judged.labels[row]),
                predicted=predicted,
                confidence=float(judged.probs[row, predicted]),
                unsure=bool(judged.decisions.unsure[row]),
                thumbnail=small,
                why=why,
            )
        )
    # The same order every time: it only must not be the classes'.
    order = np.random.default_rng(0).permutation(len(shown))
    return tuple(shown[place] for place in order)


def gather_suspects(
    paths: Sequence[str],
    splits: Sequence[str],
    labels: NDArray[np.int64],
    probs: Floats,
    classes: Sequence[str],
    root: Path,
) -> tuple[tuple[Suspect, ...], int]:
    """Return the likeliest of the labels that are probably wrong, and how many there are.

    probs: (N, K) of classifiers that did not learn from the picture they judge.
    """
    rows = find_suspects(probs, labels)
    shown = []
    for row in rows[:MOST_SUSPECTS].tolist():
        likely = int(probs[row].argmax())
        try:
            small = webp(shrunk(read_file(paths[row]), LARGE_PX))
        except UnreadablePicture:
            continue
        shown.append(
            Suspect(
                path=below(paths[row], root),
                split=splits[row],
                label=classes[labels[row]],
                likely=classes[likely],
                label_probability=float(probs[row, labels[row]]),
                likely_probability=float(probs[row, likely]),
                thumbnail=small,
            )
        )
    return tuple(shown), len(rows)


def labels_in_words(n_suspects: int) -> tuple[str, ...]:
    """Say that labels are to be checked, where any are."""
    if not n_suspects:
        return ()
    are = "label is" if n_suspects == 1 else "labels are"
    return (f"{n_suspects} {are} probably wrong: look at them, and correct those that are.",)


def answered(judged: Judged, rules: Rules) -> Answered:
    """Count what the rules for "unsure", and each other threshold, do to the scored pictures."""
    right = judged.predicted == judged.labels
    sure = ~judged.decisions.unsure
    confidence, n = judged.probs.max(axis=1), len(right)
    thresholds = sorted({*GRID, rules.threshold}, reverse=True)
    trade = [
        TradePoint(threshold, int(above.sum()), int((right & above).sum()))
        for threshold in thresholds
        for above in [~judged.decisions.strange & (confidence >= threshold)]
    ]
    return Answered(
        rules=rules,
        answered=interval(int(sure.sum()), n),
        right=interval(int((right & sure).sum()), int(sure.sum())) if sure.any() else None,
        covered=interval(int(covered(judged.decisions, judged.labels).sum()), n),
        candidates=mean_set_size(judged.decisions),
        trade=tuple(trade),
    )


def below(path: str, root: Path) -> str:
    """Name a file by its way from the root, where it lies below it."""
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return path


def _by_importance(judged: Judged) -> NDArray[np.int64]:
    """Order rows: wrong ones, the surest first; then the right ones, class by class in turns."""
    wrong = worst_mistakes(judged.probs, judged.labels, len(judged.labels))
    right = np.flatnonzero(judged.predicted == judged.labels)
    # A picture of each class, then a second one of each, and so on.
    turn = np.zeros(len(right), dtype=np.int64)
    for label in np.unique(judged.labels[right]):
        own = np.flatnonzero(judged.labels[right] == label)
        turn[own] = _spread(len(own))
    return np.concatenate([wrong, right[np.argsort(turn, kind="stable")]])


def _spread(n: int) -> NDArray[np.int64]:
    """Deal n turns so that the first few lie far apart: files in a row often look alike."""
    return np.random.default_rng(n).permutation(n)
