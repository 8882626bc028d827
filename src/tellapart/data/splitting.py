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

from collections import Counter
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
    remembered: digest -> the side it was on before; wins over content, never over the folders.

    Raises:
        TooFewPictures: a class has fewer than two pictures to learn from, or the folders give
            splits but none to learn from.
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

    A class with three or more different pictures of its own has at least one on each side that
    has a fraction. `remembered` (digest -> split) wins over content.
    """
    unique, inverse = np.unique(digests, return_inverse=True)
    position = np.array([int(digest[:16], 16) / 2**64 for digest in unique.tolist()])
    bounds = np.cumsum([fractions.train, fractions.valid])
    sides = np.array(SPLITS)[np.searchsorted(bounds, position, side="right")].astype("U5")
    remembered = remembered or {}
    known = np.array([digest in remembered for digest in unique.tolist()], dtype=bool)
    sides[known] = [remembered[digest] for digest in unique[known].tolist()]
    # A picture filed under two classes counts for the first; both copies follow its side.
    owner = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(owner, inverse, labels)
    by_owner = np.argsort(owner, kind="stable")
    for members in np.split(by_owner, np.flatnonzero(np.diff(owner[by_owner])) + 1):
        _lend(members, sides, position, known, fractions)
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
        sides[members[~known[members]]] = "train"
        return
    for split in wanted:
        have = Counter(sides[members].tolist())
        if have[split]:
            continue
        middle = edges[SPLITS.index(split) : SPLITS.index(split) + 2].mean()
        rich = [side for side, count in have.items() if count > 1]
        spare = members[~known[members] & np.isin(sides[members], rich)]
        if len(spare):
            away = np.abs(position[spare] - middle)
            sides[spare[np.lexsort((position[spare], away))[0]]] = split


def _complete(
    catalog: Catalog, remembered: Mapping[bytes, str] | None, fractions: Fractions
) -> NDArray[np.str_]:
    """Cut a valid split out of train where the folders give train and test alone."""
    splits = catalog.splits.copy()
    if (splits == "train").any() and not (splits == "valid").any():
        share = fractions.valid / (fractions.train + fractions.valid)
        rows = np.flatnonzero(splits == "train")
        # What was test in a folder without splits is in train by the user's own hand now.
        allowed = {one: side for one, side in (remembered or {}).items() if side != "test"}
        splits[rows] = split_by_content(
            catalog.digests[rows],
            catalog.labels[rows],
            allowed,
            Fractions(1 - share, share, 0.0),
        )
    return splits


def _check_enough(catalog: Catalog) -> None:
    """Refuse classes with too few pictures that may teach: all but the side that is scored."""
    given = set(catalog.splits.tolist())
    if "train" not in given:
        raise TooFewPictures(
            f"{catalog.root} holds {' and '.join(sorted(given))} folders but no pictures to learn "
            f"from. Expected class folders in {catalog.root / 'train'}. Nothing was trained. "
            f"Add them, or name the folder to learn from train."
        )
    scored = next((split for split in ("test", "valid") if split in given), None)
    teaches = catalog.splits != scored
    picture = np.unique(catalog.digests[teaches], return_inverse=True)[1]
    different = np.unique(np.stack([catalog.labels[teaches], picture]), axis=1)
    counts = np.bincount(different[0], minlength=len(catalog.classes))
    few = [
        f"{name!r} ({count})"
        for name, count in zip(catalog.classes, counts, strict=True)
        if count < MIN_TO_LEARN
    ]
    if few:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        raise TooFewPictures(
            f"In {catalog.root} these classes have fewer than {MIN_TO_LEARN} different readable "
            f"pictures to learn from: {', '.join(few[:10])}{more}. Nothing was trained. "
            f"Add pictures of them, or take their folders away."
        )
