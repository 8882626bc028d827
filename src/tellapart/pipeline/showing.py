"""A page of pictures as they enter the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.augmentation import DEFAULT_AUGMENTATION, read_views
from tellapart.data.pixels import read_pixels
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.stored import kept_copies
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.sheet import SheetRow, render_sheet
from tellapart.files import check_writable, write_atomically
from tellapart.pipeline.inputs import chosen_recipe, preprocessing_of
from tellapart.stores import place
from tellapart.training.recipe import DEFAULT_RECIPE, Recipe


@dataclass(frozen=True)
class Sheet:
    """A page of pictures as they enter the network."""

    path: Path
    n_pictures: int
    n_views: int

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {"sheet": str(self.path), "n_pictures": self.n_pictures, "n_views": self.n_views}


@kept_copies()
def show(
    data: AnyData,
    output: str | Path | None = None,
    *,
    recipe: Recipe | str | Path = DEFAULT_RECIPE,
    settings: Mapping[str, Any] | None = None,
    count: int = 12,
    views: int = 4,
    seed: int = 0,
) -> Sheet:
    """Write a page of pictures as they enter the network: plain, and as random views.

    data: as for `train`. output: the HTML file; by default NAME-sheet.html in this folder.

    Raises:
        TellapartError: as `train` does for data that cannot be used.
    """
    catalog = read_catalog(data, min_classes=1)
    target = place(output) if output else Path.cwd() / f"{catalog.name}-sheet.html"
    check_writable(target)
    chosen = chosen_recipe(recipe, settings)
    preprocessing, _ = preprocessing_of(chosen, catalog)
    # The last phase that draws views is the one that people ask about.
    drawn = [phase.augment for phase in chosen.phases if not phase.solved]
    augmentation = drawn[-1] if drawn else DEFAULT_AUGMENTATION
    generator = np.random.default_rng(seed)
    rows: list[SheetRow] = []
    for row in generator.permutation(len(catalog)):
        try:
            plain = read_pixels(catalog.paths[row], preprocessing)
            random = read_views(
                catalog.paths[row], preprocessing, augmentation, [generator] * views
            )
        except UnreadablePicture:
            continue
        name = catalog.shown[catalog.labels[row]]
        rows.append(SheetRow(name, str(catalog.paths[row]), [plain, *random]))
        if len(rows) == count:
            break
    about = (
        f"{len(rows)} of {len(catalog)} pictures, drawn at random, as {chosen.backbone} receives "
        f"them: {preprocessing.size_px} x {preprocessing.size_px} px, before its graph subtracts "
        f"the mean {preprocessing.mean} and divides by {preprocessing.std}. The first is what "
        f"training, scoring and prediction see; the others are random views."
    )
    write_atomically(target, render_sheet(catalog.name, about, rows))
    return Sheet(target, len(rows), views)
