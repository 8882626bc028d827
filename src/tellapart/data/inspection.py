"""What the files themselves show: pictures set aside, repeats, conflicts, leaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tellapart.data.catalog import SPLITS, Catalog

MAX_EXAMPLES = 50


@dataclass(frozen=True)
class Finding:
    """Something about the pictures that their owner should know.

    kind: a stable word for programs; count: how many pictures or groups it is about.
    """

    kind: str
    count: int
    headline: str
    detail: tuple[str, ...] = ()


def inspect_files(catalog: Catalog) -> tuple[Finding, ...]:
    """Report on files set aside, identical pictures, conflicting labels and leaks."""
    found = (
        _set_aside(catalog),
        *_repeats(catalog),
        _missing_classes(catalog),
    )
    return tuple(finding for finding in found if finding is not None)


def _set_aside(catalog: Catalog) -> Finding | None:
    if not catalog.set_aside:
        return None
    lines = [f"{item.path}: {item.reason}" for item in catalog.set_aside]
    n = len(lines)
    return Finding(
        "set_aside",
        n,
        f"{n} file{'s' if n > 1 else ''} or folder{'s' if n > 1 else ''} set aside "
        f"(nothing was changed or deleted)",
        _examples(lines),
    )


def _repeats(catalog: Catalog) -> list[Finding | None]:
    """Find identical files: under one label, under two, and on both sides of a split."""
    digests, counts = np.unique(catalog.digests, return_counts=True)
    repeated = digests[counts > 1]
    same, conflict, leak = [], [], []
    order = np.argsort(catalog.digests, kind="stable")
    starts = np.searchsorted(catalog.digests[order], repeated, side="left")
    stops = np.searchsorted(catalog.digests[order], repeated, side="right")
    for start, stop in zip(starts, stops, strict=True):
        rows = order[start:stop]
        line = " = ".join(str(path) for path in catalog.paths[rows])
        two_labels = len(set(catalog.labels[rows])) > 1
        two_splits = len(set(catalog.splits[rows])) > 1
        if two_labels:
            conflict.append(line)
        if two_splits:
            leak.append(line)
        if not two_labels and not two_splits:
            same.append(line)
    return [
        _group("conflict", conflict, "the same picture under two labels: one of them is wrong"),
        _group(
            "leakage",
            leak,
            "the same picture in two splits: it is left out of what chooses and scores",
        ),
        _group("duplicate", same, "identical pictures within a class (harmless)"),
    ]


def _group(kind: str, lines: list[str], what: str) -> Finding | None:
    if not lines:
        return None
    return Finding(kind, len(lines), f"{len(lines)} x {what}", _examples(lines))


def _missing_classes(catalog: Catalog) -> Finding | None:
    """Name classes without a picture in a split that others are scored on."""
    lines = []
    for split in SPLITS:
        present = Counter(catalog.labels[catalog.splits == split].tolist())
        if present:
            absent = [name for label, name in enumerate(catalog.classes) if label not in present]
            if absent:
                lines.append(f"{split}: {', '.join(absent)}")
    if not lines:
        return None
    return Finding(
        "missing_class",
        len(lines),
        "Some classes have no picture in a split, so nothing is known about them there",
        tuple(lines),
    )


def _examples(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - MAX_EXAMPLES
    return (*lines[:MAX_EXAMPLES], *([f"… and {more} more"] if more > 0 else []))
