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

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tellapart.data.catalog import SPLITS, Catalog
from tellapart.errors import AmbiguousData, TooFewPictures

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
    seed: int = 0,
) -> Catalog:
    """Give every picture a split.

    how="auto": what the folders say; where they say nothing, or train alone, a split by
    content; where they give train and test, valid is cut from train. how="none": everything
    is train, nothing is scored. how="exact": see `split_at_random`; the
    pictures come in the order in which they were dealt. how="halve-test": see
    `halve_test`. The last two do what they say to the letter: copies of one picture may teach
    and score at once, and what is remembered does not count.
    remembered: digest -> the side it was on before; wins over content, never over the folders.
    seed: of the random permutations.

    Pictures of one group (`Catalog.groups`) share a side, as copies of one picture do.

    Raises:
        TooFewPictures: a class has fewer than two pictures to learn from, or the folders give
            splits but none to learn from.
        AmbiguousData: the folders give splits and how="exact", or do not give train and one
            folder for scoring and how="halve-test"; or groups would be torn.
        ValueError: `how` is none of these.
    """
    undecided = not catalog.has_splits or bool((catalog.splits == "train").all())
    _check_groups(catalog, how)
    if how == "none":
        splits = np.full(len(catalog), "train", dtype="U5")
    elif how == "exact":
        _check_undecided(catalog, undecided)
        # In the order in which they are dealt: an epoch that does not shuffle goes by it.
        catalog = catalog.select(_dealt_order(catalog, seed))
        splits = np.repeat(SPLITS, _exact_sizes(len(catalog), fractions)).astype("U5")
    elif how == "halve-test":
        splits = halve_test(catalog, fractions.valid, seed)
    elif how != "auto":
        raise ValueError(f'how is {how!r}; expected "auto", "none", "exact" or "halve-test"')
    elif undecided:
        units = catalog.units
        known = _remembered_units(catalog.digests, units, remembered or {})
        splits = split_by_content(units, catalog.labels, known, fractions)
    else:
        splits = _complete(catalog, remembered, fractions)
    catalog = replace(catalog, splits=splits)
    _check_enough(catalog)
    return catalog


def leaked(catalog: Catalog) -> NDArray[np.bool_]:
    """Return which pictures (N,) of valid and test lie in a split before theirs, too.

    Byte for byte, under whatever label: one of train and valid would choose after it taught, one
    of test would score after it taught or chose. Splits made here have none, but "exact".
    """
    found = np.zeros(len(catalog), dtype=bool)
    for place, split in enumerate(SPLITS):
        here = catalog.splits == split
        before = catalog.digests[np.isin(catalog.splits, SPLITS[:place])]
        found |= here & np.isin(catalog.digests, before)
    return found


def split_at_random(catalog: Catalog, fractions: Fractions, seed: int) -> NDArray[np.str_]:
    """Split (N,) pictures as torch's random_split does those of torchvision's ImageFolder.

    random_split(dataset, [int(train * n), int(valid * n), the rest],
    generator=torch.Generator().manual_seed(seed)) gives the same pictures to the same splits,
    where ImageFolder finds the same files (it takes hidden ones, and no .gif or .avif). Without
    a share for test, the rest is valid.
    """
    splits = np.empty(len(catalog), dtype="U5")
    sizes = _exact_sizes(len(catalog), fractions)
    splits[_dealt_order(catalog, seed)] = np.repeat(SPLITS, sizes)
    return splits


def _dealt_order(catalog: Catalog, seed: int) -> NDArray[np.int64]:
    return _image_folder_order(catalog)[torch_permutation(len(catalog), seed)]


def _exact_sizes(n: int, fractions: Fractions) -> tuple[int, int, int]:
    # Rounded, as 1 - 0.2 - 0.1 is a little more than 0.7 and could make one picture more.
    n_train = int(round(fractions.train, 9) * n)
    n_valid = int(fractions.valid * n) if fractions.test else n - n_train
    return n_train, n_valid, n - n_train - n_valid


def halve_test(catalog: Catalog, valid: float, seed: int) -> NDArray[np.str_]:
    """Cut the folder given for scoring in two: floor(valid * n) to choose, the rest to score.

    By np.random.shuffle of the numbers of ImageFolder's pictures, after np.random.seed(seed).

    Raises:
        AmbiguousData: there is no such folder, or there are two, or none to learn from.
    """
    given = set(catalog.splits.tolist()) - {""}
    scoring = given - {"train"}
    if len(scoring) != 1 or "train" not in given:
        found = " and ".join(split for split in SPLITS if split in given) or "no split folders"
        raise AmbiguousData(
            f"{catalog.root} holds {found}. The split halve-test expects a folder to learn from "
            f"and one to score on, {catalog.root / 'train'} and {catalog.root / 'test'}, and cuts "
            f'the second in two. Nothing was trained. Choose the split "auto", or arrange the '
            f"folders so."
        )
    splits = catalog.splits.copy()
    order = _image_folder_order(catalog)
    order = order[splits[order] != "train"]
    np.random.RandomState(seed & 0xFFFFFFFF).shuffle(order)
    n_valid = math.floor(valid * len(order))
    splits[order[:n_valid]] = "valid"
    splits[order[n_valid:]] = "test"
    return splits


def torch_permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Return torch.randperm(n, generator=torch.Generator().manual_seed(seed)) without torch.

    Both draw 32-bit numbers from a Mersenne Twister seeded in the same way; torch swaps place i
    with one of those from i on, chosen by the remainder. (It uses more bits from 214 million on.)
    """
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    draws = twister.randint(0, 1 << 32, size=max(n - 1, 0), dtype=np.uint32)
    further = draws % np.arange(n, 1, -1, dtype=np.uint32)
    order = list(range(n))
    for place, steps in enumerate(further.tolist()):
        order[place], order[place + steps] = order[place + steps], order[place]
    return np.array(order, dtype=np.int64)


def split_by_content(
    digests: NDArray[np.bytes_],
    labels: NDArray[np.int64],
    remembered: Mapping[bytes, str] | None = None,
    fractions: Fractions = Fractions(),
) -> NDArray[np.str_]:
    """Split (N,) pictures by their content digests: identical pictures share a side.

    digests: or the names of what else must stay together, see `Catalog.units`.

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


def _image_folder_order(catalog: Catalog) -> NDArray[np.int64]:
    """Return the rows in torchvision's order: by class, by folder within it, by name.

    The catalog's own differs where a class has subfolders: "b/1.jpg" comes before "c.jpg" there.
    """
    paths = [os.path.split(path) for path in catalog.paths.tolist()]
    rows = sorted(range(len(paths)), key=lambda row: (catalog.labels[row], paths[row]))
    return np.array(rows, dtype=np.int64)


def _remembered_units(
    digests: NDArray[np.bytes_], units: NDArray[np.bytes_], remembered: Mapping[bytes, str]
) -> dict[bytes, str]:
    """Say where each unit was before, by its pictures: what scored once does not teach later."""
    sides: dict[bytes, str] = {}
    for digest, unit in zip(digests.tolist(), units.tolist(), strict=True):
        side = remembered.get(digest)
        if side is not None:
            sides[unit] = max(side, sides.get(unit, side), key=SPLITS.index)
    return sides


def _check_groups(catalog: Catalog, how: str) -> None:
    """Refuse to tear what belongs together."""
    if catalog.groups is None or how == "none":
        return
    where = catalog.source or catalog.root
    if how in ("exact", "halve-test"):
        raise AmbiguousData(
            f"{where} gives groups that are to stay together, and the split {how} deals out single "
            f'pictures. Nothing was trained. Choose the split "auto", or leave the groups out with '
            f"--data group="
        )
    grouped = (catalog.groups != "") & (catalog.splits != "")
    pairs = np.unique(np.stack([catalog.groups[grouped], catalog.splits[grouped]]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    torn = [repr(name) for name in names[counts > 1].tolist()]
    if torn:
        more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
        raise AmbiguousData(
            f"In {where} these groups lie in more than one of the splits that are given: "
            f"{', '.join(torn[:5])}{more}. What belongs together would teach and score at once. "
            f"Nothing was trained. Leave the splits out with --data split= or the groups with "
            f"--data group="
        )


def _check_undecided(catalog: Catalog, undecided: bool) -> None:
    if undecided:
        return
    given = " and ".join(split for split in SPLITS if (catalog.splits == split).any())
    raise AmbiguousData(
        f"{catalog.root} holds {given} folders, and the split exact would mix their pictures. "
        f"Expected a folder of class folders alone. Nothing was trained. To keep the folders' "
        f'own splits choose the split "auto"; to draw anew, name one folder, such as '
        f"{catalog.root / 'train'}, as the data."
    )


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
        units = catalog.units[rows]
        splits[rows] = split_by_content(
            units,
            catalog.labels[rows],
            _remembered_units(catalog.digests[rows], units, allowed),
            Fractions(1 - share, share, 0.0),
        )
    return splits


def scored_split(splits: NDArray[np.str_]) -> str | None:
    """Return which of these splits (N,) scores: test where there is one, else valid, else none."""
    present = set(splits.tolist())
    return next((split for split in ("test", "valid") if split in present), None)


def teaching_counts(catalog: Catalog) -> NDArray[np.int64]:
    """Count the different pictures (K,) of each class that may teach: all but what is scored."""
    teaches = catalog.splits != (scored_split(catalog.splits) or "none")
    picture = np.unique(catalog.digests[teaches], return_inverse=True)[1]
    different = np.unique(np.stack([catalog.labels[teaches], picture]), axis=1)
    return np.bincount(different[0], minlength=len(catalog.classes))


def _check_enough(catalog: Catalog) -> None:
    """Refuse classes with too few pictures that may teach: all but the side that is scored."""
    given = set(catalog.splits.tolist())
    if "train" not in given:
        raise TooFewPictures(
            f"{catalog.root} holds {' and '.join(sorted(given))} folders but no pictures to learn "
            f"from. Expected class folders in {catalog.root / 'train'}. Nothing was trained. "
            f"Add them, or name the folder to learn from train."
        )
    few = [
        f"{name!r} ({count})"
        for name, count in zip(catalog.classes, teaching_counts(catalog), strict=True)
        if count < MIN_TO_LEARN
    ]
    if few:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        raise TooFewPictures(
            f"In {catalog.root} these classes have fewer than {MIN_TO_LEARN} different readable "
            f"pictures to learn from: {', '.join(few[:10])}{more}. Nothing was trained. "
            f"Add pictures of them, or take their folders away."
        )
