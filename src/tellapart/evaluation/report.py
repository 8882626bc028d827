"""The facts of one training, or of one evaluation, as a page that opens anywhere.

A section of the page is a field of `Report` plus a block of `report.html.jinja` that prints it:
a new section adds one of each.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.inspection import Finding
from tellapart.evaluation.calibration import Reliability
from tellapart.evaluation.charts import (
    EpochChart,
    LineChart,
    epoch_chart,
    line_chart,
    reliability_chart,
    round_step,
    trade_chart,
)
from tellapart.evaluation.curves import CurvePoint, rate_changes
from tellapart.evaluation.decision import Rules, TradePoint
from tellapart.evaluation.pages import page_template
from tellapart.evaluation.scores import ClassScore, Interval, Scores

# Up to so many classes the counts of the confusion matrix fit on a page and can be read.
ANNOTATED_CLASSES = 20
PAIRS_SHOWN = 15
# The rest of the grid is folded away, and not printed.
PICTURES_IN_VIEW = 48
WHAT_LEARNED = {"head": "the last layer", "tail": "the last blocks", "all": "the whole network"}


@dataclass(frozen=True)
class Mistake:
    """A picture of the scored split that was predicted wrongly; classes are display names.

    `why` is the picture under the map of what spoke for the predicted class, where there is
    such a map.
    """

    path: str
    actual: str
    predicted: str
    confidence: float
    thumbnail: bytes
    why: bytes | None = None


@dataclass(frozen=True)
class Shown:
    """A picture of the scored split in the grid; `actual` and `predicted` number the classes."""

    path: str
    actual: int
    predicted: int
    confidence: float
    unsure: bool
    thumbnail: bytes
    why: bytes | None = None

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.actual == self.predicted


@dataclass(frozen=True)
class Suspect:
    """A picture whose label is probably wrong: `label` as given, `likely` as it looks.

    The probabilities are of a classifier that did not learn from it. `split` is where it lies.
    """

    path: str
    split: str
    label: str
    likely: str
    label_probability: float
    likely_probability: float
    thumbnail: bytes


@dataclass(frozen=True)
class Answered:
    """What the rules for "unsure" did to the scored pictures.

    `right` is of the answered pictures, None where none was answered; `covered` is the share of
    all pictures whose class was among their candidates, `candidates` how many these are on
    average. `trade` is what each threshold answers and gets right of these same pictures.
    """

    rules: Rules
    answered: Interval
    right: Interval | None
    covered: Interval
    candidates: float
    trade: tuple[TradePoint, ...]


@dataclass(frozen=True)
class ProbePoint:
    """What one strength of regularisation (`l2` > 0) scored out-of-fold inside train.

    Exactly one point of a path is the `chosen` one.
    """

    l2: float
    log_loss: float
    accuracy: float
    chosen: bool


@dataclass(frozen=True)
class Calibration:
    """The temperature and the expected calibration error without and with it.

    `measured_on` says in words on which pictures, such as "out-of-fold inside train".
    """

    temperature: float
    error_before: float
    error_after: float
    measured_on: str


@dataclass(frozen=True)
class PhaseRow:
    """How one phase of learning ended.

    `learns` says what learned: "head", "tail" or "all". `reason` says in words why its result was
    `kept` or not. `best_epoch` counts from 1 within the phase; None where it had no epochs.
    """

    learns: str
    kept: bool
    reason: str
    best_epoch: int | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything the page shows, as plain data.

    `made_on` is an ISO date and time. `summary` are sentences in plain words. `scores` is None
    where no split was set aside to score. `counts` maps a split to its pictures per class, in the
    order of `classes`. `speed_s` maps a stage to its seconds. `phases` are all phases of the
    training in their order, `curves` the epochs of those that had some. `pictures` are those of
    the scored split that the page has room for, all wrong ones first to be let in. `suspects` are
    the first of `n_suspects`. `reliability` is without and with the temperature. Empty fields and
    None leave their section out.
    """

    title: str
    made_on: str
    summary: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    scores: Scores | None
    scored_split: str | None = None
    findings: tuple[Finding, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    probe_path: tuple[ProbePoint, ...] = ()
    calibration: Calibration | None = None
    speed_s: Mapping[str, float] | None = None
    pictures_per_s: float | None = None
    facts: Mapping[str, str] | None = None
    curves: tuple[CurvePoint, ...] = ()
    phases: tuple[PhaseRow, ...] = ()
    pictures: tuple[Shown, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    n_suspects: int = 0
    reliability: tuple[Reliability, Reliability] | None = None
    answered: Answered | None = None

    def __post_init__(self) -> None:
        """Refuse counts or scores that are not about `classes`: their rows would be misnamed."""
        lengths = {split: len(counts) for split, counts in self.counts.items()}
        if any(length != len(self.classes) for length in lengths.values()):
            raise ValueError(f"The counts are of {lengths} classes, not of {len(self.classes)}.")
        if self.scores and self.scores.classes != self.classes:
            raise ValueError("The classes of the scores are not the classes of the report.")


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix that is not empty; `share` is of its row."""

    row: int
    column: int
    count: int
    share: float


@dataclass(frozen=True)
class Panel:
    """One chart of the section on regularisation, with the words that go with it."""

    name: str
    chart: LineChart
    chosen: int
    chosen_label: str


@dataclass(frozen=True)
class EpochPanel:
    """One chart over the epochs; `styles` names what each of its lines shows."""

    name: str
    chart: EpochChart
    styles: tuple[str, ...]


def render(report: Report) -> str:
    """Return the report as one HTML page that needs no other file and asks for none.

    Style, charts and thumbnails are inside it; names of classes and files are escaped.
    """
    from tellapart.evaluation.figures import as_json

    page = page_template("report.html.jinja", percent=percent, duration=_duration, loss=_loss)
    script = files("tellapart.evaluation").joinpath("report.js").read_text("utf-8")
    scores, answered = report.scores, report.answered
    return page.render(
        report=report,
        scores=scores,
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        figures=as_json(report),
        class_ticks=_class_ticks(len(report.classes)),
        cells=_cells(scores) if scores else [],
        annotated=len(report.classes) <= ANNOTATED_CLASSES,
        confused=_most_confused(scores) if scores else [],
        hardest_first=_hardest_first(scores) if scores else [],
        panels=_panels(report.probe_path),
        epoch_panels=_epoch_panels(report.curves, report.phases),
        has_valid=any(point.valid_loss is not None for point in report.curves),
        what_learned=WHAT_LEARNED,
        in_view=PICTURES_IN_VIEW,
        reliability=reliability_chart(*report.reliability) if report.reliability else None,
        trade=trade_chart(answered.trade, answered.answered.n, answered.rules.threshold)
        if answered and answered.trade
        else None,
    )


def worst_mistakes(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], limit: int = 24
) -> NDArray[np.int64]:
    """Return the rows of `probs` (N, K) that are wrong about `labels` (N,), the surest first."""
    wrong = np.flatnonzero(probs.argmax(axis=1) != labels)
    surest_first = np.argsort(-probs[wrong].max(axis=1), kind="stable")
    return wrong[surest_first][:limit].astype(np.int64)


def percent(share: float) -> str:
    """Return `share` as "95.1 %"; only a share of exactly one reads "100.0 %"."""
    shown = f"{100 * share:.1f}"
    if shown == "100.0" and share < 1:
        shown = "99.9"
    return f"{shown}\N{NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"


def _loss(value: float) -> str:
    return f"{value:.4f}" if value < 1e4 else f"{value:.1e}"


def _class_ticks(class_count: int) -> range:
    """Return about five round class numbers, counted from 1, to write along the heat map."""
    step = max(1, round(round_step(class_count / 6)))
    return range(step, class_count + 1, step)


def _cells(scores: Scores) -> list[Cell]:
    """Return the cells that are not empty, row by row."""
    rows, columns = np.nonzero(scores.confusion)
    counts = scores.confusion[rows, columns]
    shares = counts / scores.confusion.sum(axis=1)[rows]
    return [
        Cell(*found)
        for found in zip(
            rows.tolist(), columns.tolist(), counts.tolist(), shares.tolist(), strict=True
        )
    ]


def _most_confused(scores: Scores) -> list[Cell]:
    wrong = [cell for cell in _cells(scores) if cell.row != cell.column]
    return sorted(wrong, key=lambda cell: (-cell.count, -cell.share))[:PAIRS_SHOWN]


def _hardest_first(scores: Scores) -> list[tuple[int, ClassScore]]:
    """Return the classes with their numbers (from 1), least recall first, without pictures last."""
    numbered = enumerate(scores.per_class, start=1)
    return sorted(numbered, key=lambda row: (row[1].n == 0, row[1].recall, row[1].f1))


def _panels(path: Sequence[ProbePoint]) -> list[Panel]:
    if not path:
        return []
    points = sorted(path, key=lambda point: point.l2)
    chosen = [point.chosen for point in points].index(True)
    l2 = [point.l2 for point in points]
    accuracy = [100 * point.accuracy for point in points]
    loss = [point.log_loss for point in points]
    at = f"chosen {l2[chosen]:.2g}: "
    return [
        Panel(
            "Accuracy in %", line_chart(l2, accuracy, 1.0), chosen, f"{at}{accuracy[chosen]:.1f} %"
        ),
        Panel("Log loss", line_chart(l2, loss), chosen, f"{at}{loss[chosen]:.3f}"),
    ]


def _epoch_panels(points: Sequence[CurvePoint], phases: Sequence[PhaseRow]) -> list[EpochPanel]:
    """Lay out loss and accuracy over the epochs of all phases, and the rate if it changes."""
    if not points:
        return []
    numbers = [point.phase for point in points]
    kept = {(number, row.best_epoch) for number, row in enumerate(phases, 1) if row.kept}
    hits = [(point.phase, point.epoch) in kept for point in points]

    def panel(name: str, field: str, scale: float, *limits: float) -> EpochPanel:
        train, valid = (
            [None if y is None else scale * y for y in map(attrgetter(f"{split}_{field}"), points)]
            for split in ("train", "valid")
        )
        judged = train if all(y is None for y in valid) else valid
        marks = [y if hit else None for y, hit in zip(judged, hits, strict=True)]
        chart = epoch_chart((train, valid, marks), numbers, *limits)
        return EpochPanel(name, chart, ("train", "valid", "kept"))

    panels = [
        panel("Loss", "loss", 1, math.inf, 1e-3),
        panel("Accuracy in %", "accuracy", 100, 100.0, 1.0),
    ]
    if rate_changes(points):
        rates = [point.lr for point in points]
        chart = epoch_chart([rates], numbers, least_span=0.1 * max(rates))
        panels.append(EpochPanel("Learning rate of the body", chart, ("rate",)))
    return panels
