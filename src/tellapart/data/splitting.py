"""Decide which pictures teach and which ones score, so that adding pictures moves none.

A picture's side follows from its content alone: the hash of its bytes is a number between 0
and 1, and the fractions cut that line. So identical pictures share a side, the order and number
of the others do not matter, and a picture that has scored never teaches later.

A small class can come out without a picture on one side. It then borrows the one whose number
lies nearest to that side. No rule on content alone can both give every class of three a picture
a side and never move one (docs/decisions/0003 has the proof), so sides are also remembered:
a bundle carries the side of each of its pictures, and training again into it keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tellapart.data.catalog import SPLITS, Catalog
from tellapart.errors import TooFewPictures

MIN_TO_LEARN = 2


@dataclass(frozen=True)
class Fractions:
    """Shares of a class that go to each split; they add up to one."""

    train: float = 0.7
    valid: float = 0.15
    test: float = 0.15


def assign_splits(
    catalog: Catalog,
    how: str = "auto",
    remembered: Mapping[bytes, str] | None = None,
    fractions: Fractions = Fractions(),
) -> Catalog:
    """Give every picture a split.

    how="auto": what the folders say; where they say nothing, or train alone, a split by
    content; where they give train and test, valid is cut from train. how="none": everything
    is train, nothing is scored.

    Raises:
        TooFewPictures: a class has fewer than two pictures to learn from.
    """
    if how == "none":
        splits = np.full(len(catalog), "train", dtype="U5")
    elif not catalog.has_splits or (catalog.splits == "train").all():
        splits = split_by_content(catalog.digests, catalog.labels, remembered, fractions)
    else:
        splits = _complete(catalog, remembered, fractions)
    catalog = replace(catalog, splits=splits)
    _check_enough(catalog)
    return catalog


def split_by_content(
    digests: NDArray[np.bytes_],
    labels: NDArray[np.int64],
    remembered: Mapping[bytes, str] | None = None,
    fractions: Fractions = Fractions(),
) -> NDArray[np.str_]:
    """Split (N,) pictures by their content digests: identical pictures share a side.

    A class with three or more different pictures has at least one on each side that has a
    fraction. `remembered` (digest -> split) wins over content.
    """
    unique, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    position = np.array([int(digest[:16], 16) / 2**64 for digest in unique])
    bounds = np.cumsum([fractions.train, fractions.valid])
    sides = np.array(SPLITS)[np.searchsorted(bounds, position, side="right")].astype("U5")
    known = np.zeros(len(unique), dtype=bool)
    for index, digest in enumerate(unique):
        if remembered and digest in remembered:
            sides[index], known[index] = remembered[digest], True
    # A picture filed under two classes counts for the first; both copies follow its side.
    owner = labels[first]
    for label in np.unique(owner):
        _lend(np.flatnonzero(owner == label), sides, position, known, fractions)
    return sides[inverse]


def _lend(
    members: NDArray[np.int64],
    sides: NDArray[np.str_],
    position: NDArray[np.float64],
    known: NDArray[np.bool_],
    fractions: Fractions,
) -> None:
    """Give a class a picture on every side that has none, from sides that have two or more."""
    edges = np.cumsum([0.0, fractions.train, fractions.valid, fractions.test])
    wanted = [s for s in SPLITS if getattr(fractions, s) > 0]
    if len(members) < len(wanted):
        # Too few to score: they all teach.
        free = members[~known[members]]
        sides[free] = "train"
        return
    for split in wanted:
        if (sides[members] == split).any():
            continue
        middle = edges[SPLITS.index(split) : SPLITS.index(split) + 2].mean()
        spare = [m for m in members if not known[m] and (sides[members] == sides[m]).sum() > 1]
        if spare:
            nearest = min(spare, key=lambda m: (abs(position[m] - middle), position[m]))
            sides[nearest] = split


def _complete(
    catalog: Catalog, remembered: Mapping[bytes, str] | None, fractions: Fractions
) -> NDArray[np.str_]:
    """Cut a valid split out of train where the folders give train and test alone."""
    splits = catalog.splits.copy()
    if (splits == "train").any() and not (splits == "valid").any():
        share = fractions.valid / (fractions.train + fractions.valid)
        rows = np.flatnonzero(splits == "train")
        splits[rows] = split_by_content(
            catalog.digests[rows],
            catalog.labels[rows],
            remembered,
            Fractions(1 - share, share, 0.0),
        )
    return splits


def _check_enough(catalog: Catalog) -> None:
    counts = np.zeros(len(catalog.classes), dtype=int)
    for label in range(len(catalog.classes)):
        rows = (catalog.labels == label) & (catalog.splits == "train")
        counts[label] = len(np.unique(catalog.digests[rows]))
    few = [
        f"{name!r} ({count})"
        for name, count in zip(catalog.classes, counts, strict=True)
        if count < MIN_TO_LEARN
    ]
    if few:
        raise TooFewPictures(
            f"In {catalog.root} these classes have fewer than {MIN_TO_LEARN} different readable "
            f"pictures to learn from: {', '.join(few)}. Nothing was trained. Add pictures of "
            f"them, or take their folders away."
        )
