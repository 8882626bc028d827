"""Every figure of the report as a table: what its page offers as CSV and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tellapart.evaluation.report import Report


@dataclass(frozen=True)
class Table:
    """A figure's numbers: a row of plain JSON values for each of its points."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def tables(report: Report) -> dict[str, Table]:
    """Return the numbers behind each figure that the report has, by the figure's name."""
    found = {
        "confusion": _confusion(report),
        "classes": _of_values(report.scores.per_class if report.scores else ()),
        "predictions": _predictions(report),
        "mistakes": _columns(report.mistakes, "path", "actual", "predicted", "confidence"),
        "suspects": _columns(
            report.suspects,
            *("path", "split", "label", "likely", "label_probability", "likely_probability"),
        ),
        "reliability": _reliability(report),
        "unsure": _trade(report),
        "pictures": _counts(report),
        "epochs": _of_values(report.curves),
        "phases": _of_values(report.phases),
        "regularisation": _of_values(report.probe_path),
        "time": Table(("stage", "seconds"), tuple((report.speed_s or {}).items())),
    }
    return {name: table for name, table in found.items() if table.rows}


def as_json(report: Report) -> str:
    """Write all tables as JSON that can stand inside a page: no name in it can end its element."""
    found = {
        name: {
            "columns": table.columns,
            # JSON has no word for what is no number.
            "rows": [[_finite(value) for value in row] for row in table.rows],
        }
        for name, table in tables(report).items()
    }
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _columns(rows: Iterable[object], *names: str) -> Table:
    return Table(names, tuple(tuple(getattr(row, name) for name in names) for row in rows))


def _of_values(rows: Sequence[Any]) -> Table:
    """List dataclasses of plain values."""
    return _columns(rows, *(field.name for field in fields(rows[0]))) if rows else Table((), ())


def _confusion(report: Report) -> Table:
    scores = report.scores
    columns = ("actual", "predicted", "pictures", "share_of_actual")
    if scores is None:
        return Table(columns, ())
    rows = []
    for actual, counts in enumerate(scores.confusion.tolist()):
        total = max(sum(counts), 1)
        rows += [
            (scores.classes[actual], scores.classes[predicted], count, count / total)
            for predicted, count in enumerate(counts)
            # Of a thousand classes a million pairs never happen.
            if count or len(counts) <= 20
        ]
    return Table(columns, tuple(rows))


def _predictions(report: Report) -> Table:
    names = report.classes
    return Table(
        ("path", "actual", "predicted", "confidence", "right", "unsure"),
        tuple(
            (
                one.path,
                names[one.actual],
                names[one.predicted],
                one.confidence,
                one.actual == one.predicted,
                one.unsure,
            )
            for one in report.pictures
        ),
    )


def _reliability(report: Report) -> Table:
    columns = ("temperature", "low", "high", "pictures", "confidence", "accuracy")
    found = zip(("without", "with"), report.reliability or (), strict=False)
    return Table(
        columns,
        tuple(
            (which, one.low, one.high, one.n, one.confidence, one.accuracy)
            for which, reliability in found
            for one in reliability.bins
        ),
    )


def _trade(report: Report) -> Table:
    answered = report.answered
    rows = () if answered is None else answered.trade
    n = 1 if answered is None else answered.answered.n
    return Table(
        ("threshold", "answered", "right", "share_answered", "accuracy_of_answered"),
        tuple(
            (
                one.threshold,
                one.answered,
                one.right,
                one.answered / n,
                one.right / one.answered if one.answered else None,
            )
            for one in rows
        ),
    )


def _counts(report: Report) -> Table:
    return Table(
        ("class", *(split or "pictures" for split in report.counts)),
        tuple(
            (name, *numbers)
            for name, *numbers in zip(report.classes, *report.counts.values(), strict=True)
        ),
    )
