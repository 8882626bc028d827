"""What the files themselves show: pictures set aside, repeats, conflicts, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.catalog import SPLITS, Catalog
from tellapart.data.looks import Looks

MAX_EXAMPLES = 50

# What `inspect` can find, the gravest first -> what to do about it.
KINDS = {
    "unreadable": "Get these files again, or leave them out: --write-clean does.",
    "conflict": "Keep the copy with the right label. --write-clean leaves all of them out.",
    "leakage": "Score and learn from different pictures: --write-clean keeps the copy that scores.",
    "near_conflict": "Look at each pair: is one label wrong, or are both things on the picture?",
    "near_leakage": "Look at each pair. --write-clean --drop near_leakage keeps those that score.",
    "wrong_label": "Look at them, and correct those that are wrong. --write-clean marks them; with "
    "--drop wrong_label it leaves them out.",
    "missing_class": "Add pictures of these classes to that split, or take the classes out.",
    "tiny_class": "Collect more pictures of these classes, or join them with others.",
    "imbalance": "Collect more of the small classes; look at recall by class, not at accuracy.",
    "blank": "A placeholder or a failed export: get the picture again, or --drop blank.",
    "dark": "Brighten or replace them, unless such pictures will be asked about.",
    "blurry": "Replace them, unless such pictures will be asked about.",
    "grey": "Fine if grey pictures will be asked about. Where one class has most of them, it may "
    "be told by its grey alone.",
    "outlier": "Look whether they belong here at all.",
    "near_duplicate": "Harmless inside a split. Where there are none yet, --write-clean groups "
    "them, so that no split parts them.",
    "duplicate": "Harmless; --write-clean keeps one of each.",
    "set_aside": "Nothing, if that was meant: no command uses these.",
}

# Fewer pictures of a class than these teach little; so few of the largest class's are uneven.
TINY, UNEVEN = 10, 0.1
# Deviation of grey levels below which a picture shows nothing: JPEG's own noise makes 1 to 2.
BLANK_CONTRAST = 4.0
# A placeholder is grey with most pixels at one level: 0.88 of one that was met, 0.66 of photographs
# at most. Where more than a few are like that, the set is of drawings.
EVEN, FEW_EVEN = 0.8, 0.1
# Dark: 95 of 100 pixels lie below this level. Of 2798 photographs of scenes and insects none does,
# of 7370 flowers not one in a thousand.
DARK_LEVEL = 56.0
# Blurred at LOOK_PX: photographs of three sets blurred by two pixels reach 0.63 to 0.87; as they
# are, the softest of 10 168 has 0.70.
BLURRED = 0.72
# Distance of the channels, and the share of the set up to which grey pictures are the exception.
GREY_COLOUR, FEW_GREY = 2.0, 0.5


@dataclass(frozen=True)
class Finding:
    """Something about the pictures that their owner should know.

    kind: a stable word for programs, one of KINDS; count: how many pictures or groups it is about.
    rows: the pictures of each of these by their rows in the Catalog, () where they have none.
    notes: a word on each of `rows`, () where there is nothing to say.
    """

    kind: str
    count: int
    headline: str
    detail: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS[self.kind]


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
        two_labels = len(set(catalog.labels[rows])) > 1
        two_splits = len(set(catalog.splits[rows])) > 1
        if two_labels:
            conflict.append(rows)
        if two_splits:
            leak.append(rows)
        if not two_labels and not two_splits:
            same.append(rows)
    wrong = "the same picture under two labels: one of them is wrong"
    learned = "the same picture in two splits: it is left out of what chooses and scores"
    return [
        groups_found(catalog, "conflict", conflict, wrong),
        groups_found(catalog, "leakage", leak, learned),
        groups_found(catalog, "duplicate", same, "identical pictures within a class (harmless)"),
    ]


def groups_found(
    catalog: Catalog, kind: str, groups: Sequence[NDArray[np.int64]], what: str
) -> Finding | None:
    """Report groups of rows that show the same; None where there are none."""
    if not groups:
        return None
    lines = [" = ".join(str(path) for path in catalog.paths[rows]) for rows in groups]
    rows = tuple(tuple(group.tolist()) for group in groups)
    return Finding(kind, len(groups), f"{len(groups)} x {what}", _examples(lines), rows)


def pictures_found(
    catalog: Catalog, kind: str, rows: NDArray[np.int64], what: str, notes: Sequence[str] = ()
) -> Finding | None:
    """Report single pictures, each with a note; None where there are none."""
    if not len(rows):
        return None
    paths = catalog.paths[rows].tolist()
    lines = [f"{path}: {note}" for path, note in zip(paths, notes, strict=True)] if notes else paths
    numbers = tuple((row,) for row in rows.tolist())
    headline = f"{len(rows)} x {what}"
    return Finding(kind, len(rows), headline, _examples(lines), numbers, tuple(notes))


def inspect_unreadable(paths: Sequence[str], reasons: Sequence[str]) -> Finding | None:
    """Report files that are no pictures that can be read, each named for what it is."""
    if not paths:
        return None
    n = len(paths)
    lines = [f"{path} {reason}" for path, reason in zip(paths, reasons, strict=True)]
    what = "file that is" if n == 1 else "files that are"
    return Finding("unreadable", n, f"{n} {what} no readable picture", _examples(lines))


def inspect_classes(catalog: Catalog) -> list[Finding | None]:
    """Report classes with few pictures to learn from, and with few beside the largest."""
    teaches = catalog.splits == "train"
    of_class = catalog.labels[teaches] if teaches.any() else catalog.labels
    counts = np.bincount(of_class, minlength=len(catalog.classes))
    most = int(counts.max(initial=0))
    largest = catalog.shown[int(counts.argmax())] if len(counts) else ""
    named = list(zip(catalog.shown, counts.tolist(), strict=True))
    tiny = [f"{name}: {n} picture{'s' if n != 1 else ''}" for name, n in named if n < TINY]
    few = [f"{name}: {n}, {largest} has {most}" for name, n in named if n < UNEVEN * most]
    found: list[Finding | None] = []
    if tiny:
        words = f"{_classes(len(tiny))} with fewer than {TINY} pictures to learn from"
        found.append(Finding("tiny_class", len(tiny), words, _examples(tiny)))
    if few:
        words = f"{_classes(len(few))} with less than a tenth of the largest one's pictures"
        found.append(Finding("imbalance", len(few), words, _examples(few)))
    return found


def inspect_looks(catalog: Catalog, looks: Looks) -> list[Finding | None]:
    """Report blank, dark, blurry pictures, and grey ones among coloured. looks: (N,) of LOOK."""
    blank = is_blank(looks)
    dark = ~blank & (looks["bright"] < DARK_LEVEL)
    blurred = ~blank & ~dark & (looks["blur"] > BLURRED)
    grey = ~blank & (looks["colour"] < GREY_COLOUR)
    rows = np.flatnonzero(grey) if grey.sum() <= FEW_GREY * len(grey) else np.zeros(0, np.int64)
    n_grey, n = (
        np.bincount(labels, minlength=len(catalog.classes))
        for labels in (catalog.labels[rows], catalog.labels)
    )
    notes = [
        f"grey in {catalog.shown[label]}: {n_grey[label]} of {n[label]}"
        for label in catalog.labels[rows]
    ]
    darkest, softest = _rising(dark, looks["bright"]), _rising(blurred, -looks["blur"])
    empty = np.flatnonzero(blank)
    return [
        pictures_found(catalog, "blank", empty, "a picture of nearly one colour"),
        pictures_found(catalog, "dark", darkest, "a very dark picture"),
        pictures_found(catalog, "blurry", softest, "a picture that is blurred all over"),
        pictures_found(catalog, "grey", rows, "a grey picture among coloured ones", notes),
    ]


def is_blank(looks: Looks) -> NDArray[np.bool_]:
    """Say which pictures (N,) show nothing: of one colour, or nearly so where others are not."""
    flat = looks["contrast"] < BLANK_CONTRAST
    even = (looks["even"] > EVEN) & (looks["colour"] < GREY_COLOUR)
    return np.asarray(flat | even if even.sum() <= max(1, FEW_EVEN * len(even)) else flat)


def _rising(chosen: NDArray[np.bool_], by: NDArray[np.float32]) -> NDArray[np.int64]:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(by[rows], kind="stable")]


def _classes(n: int) -> str:
    return f"{n} class{'es' if n > 1 else ''}"


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
