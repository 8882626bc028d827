"""The page of an inspection: which pictures it shows, made small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.inspection import Finding
from tellapart.data.pixels import decode_many
from tellapart.data.thumbnails import shrunk, webp
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.diagnosis import (
    ClassSheet,
    Diagnosis,
    Example,
    Section,
    Thumbnail,
    render_diagnosis,
)
from tellapart.files import write_atomically
from tellapart.pipeline.cleaning import Cleaned
from tellapart.pipeline.inspecting import Inspection

# Examples of a finding, pictures in each, and their longer side.
EXAMPLES, TOGETHER, FOUND_PX = 24, 4, 160
# Pictures on all contact sheets together, on one of them at most and at least, and their side.
ON_SHEETS, MOST, LEAST, SHEET_PX = 600, 18, 2, 88
LIGHTS = 24


def write_page(found: Inspection, path: Path, cleaned: Cleaned | None = None) -> None:
    """Write one HTML file that shows what was found; it opens offline.

    Its size is bounded whatever the set: some 3 MB.

    Raises:
        DiskFull, NotWritable.
    """
    catalog = found.catalog
    sheets = _chosen(found)
    rows = {
        row for one in found.findings for group in one.rows[:EXAMPLES] for row in group[:TOGETHER]
    }
    large = _thumbnails(found, sorted(rows), FOUND_PX)
    small = _thumbnails(found, sorted({row for one in sheets for row in one}), SHEET_PX)
    looks = found.looks
    light, _ = np.histogram(looks["light"], bins=LIGHTS, range=(0, 256))
    mean = looks["mean"].mean(axis=0).tolist() if len(looks) else [0, 0, 0]
    red, green, blue = (round(value) for value in mean)
    shown = Diagnosis(
        title=catalog.name,
        understood=found.understood,
        notes=found.notes,
        facts=_facts(found.facts()),
        colour=(red, green, blue),
        light=light.tolist(),
        sections=[_section(found, one, large) for one in found.findings],
        sheets=[
            ClassSheet(
                name,
                {split: counts[label] for split, counts in catalog.counts().items()},
                [small[row] for row in sheets[label] if row in small],
            )
            for label, name in enumerate(catalog.shown)
        ],
        splits=list(catalog.counts()),
        cleaned=_cleaned_in_words(cleaned),
    )
    write_atomically(path, render_diagnosis(shown), "choose another place with --report")


def _section(found: Inspection, one: Finding, thumbnails: dict[int, Thumbnail]) -> Section:
    notes = one.notes or [""] * len(one.rows)
    examples = [
        Example(
            [thumbnails[row] for row in rows[:TOGETHER] if row in thumbnails],
            note,
            max(0, len(rows) - TOGETHER),
        )
        for rows, note in list(zip(one.rows, notes, strict=True))[:EXAMPLES]
    ]
    lines = [] if one.rows else found.lines(one, len(one.detail))
    n_more = len(one.rows) - len(examples)
    return Section(one.kind, one.headline, one.advice, examples, lines, n_more)


def _chosen(found: Inspection) -> list[list[int]]:
    """Choose pictures of each class for its sheet, spread over all of it."""
    catalog = found.catalog
    most = min(MOST, max(LEAST, ON_SHEETS // max(len(catalog.classes), 1)))
    chosen = []
    for label in range(len(catalog.classes)):
        rows = np.flatnonzero(catalog.labels == label)
        places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
        chosen.append(rows[np.unique(places)].tolist() if len(rows) else [])
    return chosen


def _thumbnails(found: Inspection, rows: Sequence[int], side_px: int) -> dict[int, Thumbnail]:
    """Make pictures small; one that is gone since is left out."""
    catalog = found.catalog

    def small(row: int) -> bytes:
        return webp(shrunk(str(catalog.paths[row]), side_px))

    return {
        row: Thumbnail(
            one,
            Path(str(catalog.paths[row])).name,
            catalog.shown[catalog.labels[row]],
            str(catalog.splits[row]),
        )
        for row, one in zip(rows, decode_many(rows, small), strict=True)
        if not isinstance(one, UnreadablePicture)
    }


def _facts(facts: dict[str, Any]) -> dict[str, str]:
    if not facts:
        return {}

    def spread(name: str, unit: str) -> str:
        one = facts[name]
        return f"{one['min']:.0f} to {one['max']:.0f} {unit}, half below {one['median']:.0f}"

    return {
        "Width": spread("width_px", "px"),
        "Height": spread("height_px", "px"),
        "File": spread("size_kb", "kB"),
        "Formats": ", ".join(f"{name} {n}" for name, n in facts["formats"].items()),
        "Mean (R, G, B)": ", ".join(f"{value:.3f}" for value in facts["mean"]),
        "Std (R, G, B)": ", ".join(f"{value:.3f}" for value in facts["std"]),
    }


def _cleaned_in_words(cleaned: Cleaned | None) -> list[str]:
    if cleaned is None:
        return []
    left = ", ".join(f"{n} ({why})" for why, n in cleaned.counts().items()) or "none"
    return [
        f"{cleaned.path} lists {cleaned.n} of {cleaned.n_all} pictures to train on. "
        f"Left out: {left}."
    ]
