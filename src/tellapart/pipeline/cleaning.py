"""A table of the pictures to use, and of what was left out and why. The pictures stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.catalog import SPLITS, Catalog
from tellapart.errors import UnknownFinding
from tellapart.evaluation.neighbours import groups_of
from tellapart.files import check_writable, write_atomically
from tellapart.inference.outputs import csv_line
from tellapart.pipeline.inspecting import Inspection, check_kinds

ELSEWHERE = "choose another place"
# What --drop may name: findings about single pictures, or about groups of which one stays.
SINGLE = ("wrong_label", "blank", "dark", "blurry", "grey", "outlier")
GROUPS = ("near_conflict", "near_leakage", "near_duplicate")

REASONS = {
    "unreadable": "no readable picture",
    "conflict": "the same picture is there under another label",
    "leakage": "the same picture is in the split that scores",
    "duplicate": "the same picture is in the table",
    "near_conflict": "nearly the same picture is there under another label",
    "near_leakage": "nearly the same picture is in the split that scores",
    "near_duplicate": "nearly the same picture is in the table",
    "wrong_label": "the label is probably wrong",
    "blank": "of nearly one colour",
    "dark": "very dark",
    "blurry": "blurred all over",
    "grey": "grey among coloured ones",
    "outlier": "resembles no other",
}


@dataclass(frozen=True)
class Cleaned:
    """What was written. left_out: path -> why; n_all: pictures found, unreadable ones included."""

    path: Path
    reasons_path: Path
    n: int
    n_all: int
    n_marked: int
    n_grouped: int
    left_out: Mapping[str, str]

    def counts(self) -> dict[str, int]:
        """Count what was left out by reason; of unreadable files, all together."""
        known = set(REASONS.values())
        reasons = (why if why in known else REASONS["unreadable"] for why in self.left_out.values())
        return dict(Counter(reasons).most_common())

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "path": str(self.path),
            "n": self.n,
            "n_all": self.n_all,
            "n_marked": self.n_marked,
            "n_grouped": self.n_grouped,
            "reasons": self.counts(),
            "left_out": dict(self.left_out),
        }


def check_drop(kinds: Sequence[str]) -> None:
    """Refuse what --drop cannot leave out.

    Raises:
        UnknownFinding.
    """
    check_kinds(kinds, "--drop")
    other = [kind for kind in kinds if kind not in (*SINGLE, *GROUPS)]
    if other:
        raise UnknownFinding(
            f"--drop {','.join(other)}: this cannot be dropped, or always is. Expected any of "
            f"{', '.join((*SINGLE, *GROUPS))}. Nothing was looked at."
        )


def check_target(path: Path) -> None:
    """Find out now whether a file can be written.

    Raises:
        DiskFull, NotWritable.
    """
    check_writable(path, ELSEWHERE)


def write_clean(found: Inspection, path: Path, drop: Sequence[str] = ()) -> Cleaned:
    """Write a CSV of the pictures to use (path, label, split, group, suspect), absolute paths.

    Left out: what cannot be read; all copies of a picture with two labels, for nobody knows which
    is right; of a picture in two splits those that do not score (test scores before valid, valid
    before train), so that no score changes its pictures; of copies inside a split all but one; and
    what `drop` names. Labels that are probably wrong stay, with the likely class as `suspect`.
    Where there are no splits yet, pictures that are nearly the same get a group. Beside it, what
    was left out and why.

    Raises:
        DiskFull, NotWritable.
    """
    catalog = found.catalog
    why = _left_out(found, drop)
    rows = np.array([row for row in range(len(catalog)) if row not in why], dtype=np.int64)
    groups = _groups(found, rows)
    columns = ["path", "label"]
    columns += ["split"] if catalog.has_splits else []
    columns += ["group"] if groups is not None else []
    columns += ["suspect"] if found.likely else []
    lines = []
    for place, row in enumerate(rows.tolist()):
        cells = {
            "path": str(catalog.paths[row]),
            "label": catalog.classes[catalog.labels[row]],
            "split": str(catalog.splits[row]),
            "group": "" if groups is None else groups[place],
            "suspect": catalog.classes[found.likely[row]] if row in found.likely else "",
        }
        lines.append([cells[name] for name in columns])
    left_out = dict(found.unreadable)
    left_out |= {str(catalog.paths[row]): REASONS[kind] for row, kind in sorted(why.items())}
    reasons_path = path.with_name(f"{path.stem}-left-out.csv")
    write_atomically(path, "".join(map(csv_line, [columns, *lines])), ELSEWHERE)
    rest = [["path", "why"], *(list(one) for one in left_out.items())]
    write_atomically(reasons_path, "".join(map(csv_line, rest)), ELSEWHERE)
    return Cleaned(
        path=path,
        reasons_path=reasons_path,
        n=len(rows),
        n_all=len(catalog) + len(found.unreadable),
        n_marked=sum(row in found.likely for row in rows.tolist()),
        n_grouped=sum(one.startswith("near-") for one in groups or ()),
        left_out=left_out,
    )


def _left_out(found: Inspection, drop: Sequence[str]) -> dict[int, str]:
    """Return row -> kind of finding that leaves it out; the first reason counts."""
    catalog = found.catalog
    by_kind = {one.kind: one.rows for one in found.findings}
    why: dict[int, str] = {}
    for kind in ("conflict", *(kind for kind in SINGLE if kind in drop)):
        for group in by_kind.get(kind, ()):
            why |= {row: kind for row in group if row not in why}
    _, copies = np.unique(catalog.digests, return_inverse=True)
    order = np.argsort(copies, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(copies[order])) + 1) if len(order) else []
    for same in parts:
        _keep_scoring(catalog, same, why, ("leakage", "duplicate"))
    for kind in (kind for kind in GROUPS if kind in drop):
        for rows in by_kind.get(kind, ()):
            if kind == "near_conflict":
                why |= {row: kind for row in rows if row not in why}
            else:
                _keep_scoring(catalog, np.array(rows), why, (kind, kind))
    return why


def _keep_scoring(
    catalog: Catalog, group: NDArray[np.int64], why: dict[int, str], kinds: tuple[str, str]
) -> None:
    """Of pictures that are the same keep one, of the split that scores; say why the others go."""
    left = [row for row in group.tolist() if row not in why]
    rank = {split: place for place, split in enumerate(("", *SPLITS))}
    left.sort(key=lambda row: (-rank[str(catalog.splits[row])], row))
    for row in left[1:]:
        across = catalog.splits[row] != catalog.splits[left[0]]
        why[row] = kinds[0] if across else kinds[1]


def _groups(found: Inspection, rows: NDArray[np.int64]) -> list[str] | None:
    """Return the user's groups, or those of pictures nearly the same; None where there are none.

    With splits given, only the user's: what a split parts already cannot be kept together.
    """
    catalog = found.catalog
    own = [""] * len(catalog) if catalog.groups is None else catalog.groups.tolist()
    if not catalog.has_splits:
        kept = set(rows.tolist())
        taken = set(own)
        for number, group in enumerate(groups_of(found.near, len(catalog)), start=1):
            members = [row for row in group.tolist() if row in kept]
            given = sorted({own[row] for row in members} - {""})
            if len(members) > 1 and not given and f"near-{number}" not in taken:
                for row in members:
                    own[row] = f"near-{number}"
    groups = [own[row] for row in rows.tolist()]
    return groups if any(groups) else None
