"""What a training would do: data and network are tried, sizes and times measured, nothing made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tellapart.bundle.bundle import open_bundle
from tellapart.data.catalog import SPLITS
from tellapart.data.pixels import Pixels, decode_many, read_pixels
from tellapart.data.reading import AnyData
from tellapart.data.stored import kept_copies
from tellapart.errors import UnreadablePicture
from tellapart.pipeline import inputs
from tellapart.pipeline.training import Source, open_source, open_tuner, prepare
from tellapart.progress import Progress
from tellapart.training.recipe import DEFAULT_RECIPE, Phase, Recipe

if TYPE_CHECKING:
    from tellapart.backbones.structure import Structure
    from tellapart.training.tuning import Tuner

DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Batch:
    """The first pictures of a split, as they went through the network.

    pixels: shape (B, S, S, 3); logits: shape (B, K), None where none could be read.
    """

    split: str
    pixels: tuple[int, ...]
    logits: tuple[int, ...] | None
    n_unreadable: int


@dataclass(frozen=True)
class PhaseForecast:
    """What a phase would do; seconds are measured on this machine, just now."""

    phase: int
    settings: Mapping[str, Any]
    structure: Structure
    kept_mb: float
    expected_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rehearsal:
    """A training that was not done."""

    classes: tuple[str, ...]
    counts: Mapping[str, int]
    batches: tuple[Batch, ...]
    phases: tuple[PhaseForecast, ...]
    features_s: float
    notes: tuple[str, ...]
    n_folds: int = 0

    @property
    def data_ready(self) -> bool:
        """Whether the first batch of each split could be read whole."""
        return bool(self.batches) and all(not batch.n_unreadable for batch in self.batches)

    @property
    def model_ready(self) -> bool:
        """Whether the network answered each picture with one number a class."""
        return all(
            batch.logits == (batch.pixels[0] - batch.n_unreadable, len(self.classes))
            for batch in self.batches
        )

    @property
    def expected_s(self) -> float:
        """Seconds the training would take."""
        once = sum(phase.expected_s for phase in self.phases)
        return self.features_s + (self.n_folds + 1) * once

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as plain JSON types."""
        return {
            "classes": list(self.classes),
            "counts": dict(self.counts),
            "data_ready": self.data_ready,
            "model_ready": self.model_ready,
            "batches": [asdict(batch) for batch in self.batches],
            "phases": [asdict(phase) for phase in self.phases],
            "kept_mb": round(sum(phase.kept_mb for phase in self.phases), 1),
            "expected_s": round(self.expected_s, 1),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """Write the forecast for a terminal."""
        from tellapart.backbones.structure import text

        lines = [*self.notes]
        for batch in self.batches:
            bad = f", {batch.n_unreadable} unreadable" if batch.n_unreadable else ""
            lines.append(f"{batch.split:6} pixels {batch.pixels} -> logits {batch.logits}{bad}")
        lines.append(f"Data: {'ready' if self.data_ready else 'NOT ready'}.")
        lines.append(f"Model: {'ready' if self.model_ready else 'NOT ready'}.")
        for phase in self.phases:
            frozen = phase.structure.n_weights - phase.structure.n_learning
            lines += ["", f"Phase {phase.phase}: {phase.settings['learns']} learns."]
            lines += [text(phase.structure)]
            lines += [
                f"Before freezing {phase.structure.n_weights:,} weights learn, after it "
                f"{phase.structure.n_learning:,}; {frozen:,} are frozen."
            ]
            lines += [f"{note[:1].upper()}{note[1:]}." for note in phase.notes]
            lines += [
                f"Kept on disk: {phase.kept_mb:,.0f} MB. Expected: {_time(phase.expected_s)}."
            ]
        if self.n_folds:
            lines += ["", f"Each of {self.n_folds} folds goes through the phases, then all do."]
        lines += ["", f"Features: {_time(self.features_s)}. In all: {_time(self.expected_s)}."]
        return "\n".join(lines)


@kept_copies()
def rehearse(
    data: AnyData,
    output: str | Path | None = None,
    recipe: Recipe | str | Path = DEFAULT_RECIPE,
    settings: Mapping[str, Any] | None = None,
    *,
    device: str = "auto",
    start: str | Path | None = None,
    progress: Progress | None = None,
) -> Rehearsal:
    """Try a training without doing it; the arguments are those of `train`. Needs torch.

    Raises:
        TellapartError: as `train` would.
    """
    progress = progress or Progress()
    target = inputs.output_path(data, output)
    before = open_bundle(start) if start else None
    source = open_source(data, target, recipe, settings, before, progress)
    stand = prepare(source, device, progress)
    tuner = open_tuner(source, stand, progress)
    catalog = source.catalog
    counts = {name: int((catalog.splits == name).sum()) for name in SPLITS}
    learns = source.recipe.phases[-1]
    tuner.begin(1, learns, None, None, False)
    size = learns.batch if not learns.solved else DEFAULT_BATCH
    batches = tuple(
        _batch(source, tuner, name, size if name == "train" else 2 * size)
        for name in SPLITS
        if counts[name]
    )
    views_s = tuner.seconds_a_picture()
    return Rehearsal(
        classes=catalog.classes,
        counts=counts,
        batches=batches,
        phases=tuple(
            _forecast(tuner, number, phase)
            for number, phase in enumerate(source.recipe.phases, start=1)
        ),
        features_s=len(catalog) * views_s,
        notes=source.notes,
        n_folds=source.recipe.data.folds or 0,
    )


def _batch(source: Source, tuner: Tuner, split: str, size: int) -> Batch:
    """Draw the first batch of a split through the network."""
    rows = np.flatnonzero(source.catalog.splits == split)[:size]
    read = partial(read_pixels, preprocessing=source.preprocessing)
    found = list(decode_many(source.catalog.paths[rows].tolist(), read))
    pictures: list[Pixels] = [one for one in found if not isinstance(one, UnreadablePicture)]
    side = source.preprocessing.size_px
    logits: NDArray[np.float32] | None = tuner.logits(np.stack(pictures)) if pictures else None
    return Batch(
        split=split,
        pixels=(len(found), side, side, 3),
        logits=None if logits is None else logits.shape,
        n_unreadable=len(found) - len(pictures),
    )


def _forecast(tuner: Tuner, number: int, phase: Phase) -> PhaseForecast:
    plan = tuner.forecast(phase)
    return PhaseForecast(
        phase=number,
        settings=plan.phase.model_dump(mode="json", exclude_none=True),
        structure=tuner.structure(plan.phase),
        kept_mb=round(plan.kept_mb, 1),
        expected_s=round(plan.expected_s or 0.0, 1),
        notes=plan.notes,
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
