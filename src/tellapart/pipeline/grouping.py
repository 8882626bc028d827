"""A gallery without labels: groups to look at, tables to name them in, what to label first."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.bundle.bundle import Bundle, open_bundle
from tellapart.data.catalog import SetAside
from tellapart.data.stored import kept_copies
from tellapart.errors import TooFewToGroup, listed
from tellapart.evaluation.grouping import (
    Groups,
    choose_doubtful,
    choose_spread,
    find_groups,
    fit_projection,
    without_strangers,
)
from tellapart.evaluation.sheet import ContactGroup, render_contact_sheet
from tellapart.files import on_this_machine, write_atomically
from tellapart.inference.classifier import Classifier
from tellapart.pipeline.naming import (
    ELSEWHERE,
    GROUPS,
    NEXT,
    PICTURES,
    check_place,
    shown_hash,
    shown_path,
    write_tables,
)
from tellapart.pipeline.unlabelled import Gallery, contacts, open_eyes, open_gallery
from tellapart.progress import Progress
from tellapart.stores import is_address, place, shown

PAGE = "groups.html"
N_NEXT = 24

# Thumbnails on the page, of about 3 KB each: it stays under 5 MB, however many pictures there are.
BUDGET = 1200
THUMBNAIL_PX = 112
# Suggestions on the page; the table has all.
MOST_NEXT = 120
# Pictures a group on the page: at least, at most; every third one is a borderline case.
FEWEST, MOST = 3, 12

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """A group as people see it. number: from 1. folders: where its pictures lay, most first."""

    number: int
    n: int
    example: str
    folders: str


@dataclass(frozen=True)
class Suggestion:
    """A picture worth a label, and why. group: its number, 0 for none."""

    path: str
    group: int
    why: str


@dataclass(frozen=True)
class Grouped:
    """What was found and written. n_different: pictures without their copies."""

    folder: Path
    gallery: Path
    n: int
    n_different: int
    n_none: int
    groups: tuple[Group, ...]
    next: tuple[Suggestion, ...]
    n_folders: int
    left: tuple[SetAside, ...]
    n_computed: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return asdict(self) | {"folder": str(self.folder), "gallery": str(self.gallery)}


@kept_copies()
def group(
    gallery: str | Path,
    out: str | Path | None = None,
    *,
    n_groups: int | None = None,
    n_next: int = N_NEXT,
    backbone: str | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Grouped:
    """Group the pictures below a folder by what is on them; write a page and tables to name them.

    out: a folder for groups.html, groups.csv, pictures.csv and next.csv; else FOLDER-groups here.
    n_groups: how many; None: as many as are well apart. n_next: how many pictures to suggest for
    labelling. model: a classifier whose network looks, and whose doubts say what to label.

    Raises:
        DataNotFound, NoReadablePicture, TooFewToGroup, TablesEdited, and those of `open_eyes`.
    """
    progress = progress or Progress()
    start = time.monotonic()
    gallery = place(gallery).absolute()
    target = tables_folder(gallery, out)
    bundle = open_bundle(model) if model else None
    check_place(target)
    seen = open_gallery(gallery, open_eyes(backbone, bundle, device, progress), progress)
    if n_groups is not None and n_groups > len(seen.different):
        raise TooFewToGroup(
            f"{n_groups} groups were asked for, and {shown(gallery)} holds {len(seen.different)} "
            f"different pictures. Expected at least one for each group. Nothing was written. Ask "
            f"for fewer with --groups, or leave it out."
        )
    projection = fit_projection(seen.batches())
    points = np.concatenate([projection.points(batch) for batch in seen.batches()])
    groups = without_strangers(find_groups(points, n_groups), seen.batches)
    album = _Album(seen, groups)
    suggested = album.suggest(points, n_next, bundle)
    result = Grouped(
        folder=target,
        gallery=gallery,
        n=len(seen.paths),
        n_different=len(seen.different),
        n_none=int((album.of < 0).sum()),
        groups=tuple(album.groups()),
        next=tuple(suggested),
        n_folders=len(set(album.folders)),
        left=seen.left,
        n_computed=seen.n_computed,
        seconds=round(time.monotonic() - start, 3),
    )
    album.write(result)
    return result


def tables_folder(gallery: Path, out: str | Path | None) -> Path:
    """Return where the tables of a gallery lie: as given, or FOLDER-groups in this folder.

    Raises:
        BadAddress: as given, and not on this machine.
    """
    if out:
        return on_this_machine(out, "the page and the tables are written", ELSEWHERE)
    gallery = place(gallery)
    name = (gallery if is_address(gallery) else gallery.resolve()).name or "pictures"
    return Path.cwd() / f"{name}-groups"


class _Album:
    """A gallery and its groups, from the side of the files: copies of a picture share a group."""

    def __init__(self, seen: Gallery, groups: Groups) -> None:
        self.seen, self.found = seen, groups
        self.of = groups.of[seen.picture]
        self.folders = [str(Path(seen.relative(row)).parent) for row in range(len(seen.paths))]
        # The first file of each different picture.
        self.first = np.unique(seen.picture, return_index=True)[1]

    def groups(self) -> Iterator[Group]:
        """Describe the groups, the largest first."""
        for number in range(self.found.count):
            rows = np.flatnonzero(self.of == number)
            folders = Counter(self.folders[row] for row in rows).most_common(3)
            example = self.seen.relative(self._typical(number)[0])
            yield Group(
                number + 1,
                len(rows),
                example,
                ", ".join(f"{name} {n}" for name, n in folders),
            )

    def suggest(
        self, points: NDArray[np.float32], n: int, bundle: Bundle | None
    ) -> list[Suggestion]:
        """Choose what to label next: what stands for many or, with a classifier, what it doubts."""
        known = set(bundle.features.digests.tolist()) if bundle and bundle.has_features else set()
        rows = np.array(
            [row for row, one in enumerate(self.seen.different) if one not in known], dtype=np.int64
        )
        if not n or not len(rows):
            return []
        if bundle is None:
            chosen = rows[choose_spread(points[rows], n)]
            why = ["stands for many"] * len(chosen)
        else:
            doubt, words = _doubts(Classifier(bundle), self.seen)
            chosen = rows[choose_doubtful(points[rows], doubt[rows], n)]
            why = [words[row] for row in chosen]
        files = self.first[chosen]
        return [
            Suggestion(self.seen.relative(row), int(self.of[row]) + 1, reason)
            for row, reason in zip(files, why, strict=True)
        ]

    def write(self, result: Grouped) -> None:
        """Write the page and the tables; the page last, as it names them."""
        write_tables(
            result.folder,
            {
                GROUPS: self._group_rows(result),
                PICTURES: self._picture_rows(),
                NEXT: [
                    ("path", "label", "in_group", "why"),
                    *((shown_path(one.path), "", one.group or "", one.why) for one in result.next),
                ],
            },
            {"gallery": shown(result.gallery), "made_on": datetime.now(UTC).isoformat()},
        )
        write_atomically(result.folder / PAGE, self._page(result), ELSEWHERE)

    def _group_rows(self, result: Grouped) -> Iterator[Sequence[Any]]:
        yield ("group", "name", "pictures", "example", "folders")
        for one in result.groups:
            yield one.number, "", one.n, shown_path(one.example), shown_path(one.folders)

    def _picture_rows(self) -> Iterator[Sequence[Any]]:
        """Yield the pictures by group, the most typical first; those of no group last."""
        typical = self.found.typical[self.seen.picture]
        group = np.where(self.of < 0, self.found.count, self.of)
        yield ("path", "group", "name", "typical", "hash")
        for row in np.lexsort((-typical, group)):
            number = int(self.of[row]) + 1
            path = shown_path(self.seen.relative(row))
            digest = shown_hash(self.seen.digests[row])
            yield path, number or "", "", f"{typical[row]:.3f}", digest

    def _typical(self, number: int) -> Rows:
        """Return the first files of a group's different pictures, the most typical first."""
        rows = np.flatnonzero(self.found.of == number)
        return np.asarray(self.first[rows[np.argsort(-self.found.typical[rows], kind="stable")]])

    def _page(self, result: Grouped) -> str:
        largest = result.groups[: BUDGET // FEWEST]
        each = min(MOST, max(FEWEST, BUDGET // (len(largest) + 1)))
        sections = []
        for one in largest:
            rows, notes = self._chosen(one.number - 1, each)
            about = f"{one.n} pictures"
            if result.n_folders > 1:
                about += f", from the folders {one.folders}"
            sections.append(self._section(f"Group {one.number}", about, rows, notes))
        if result.n_none:
            rows = self._typical(-1)[::-1][:each]
            about = f"{result.n_none} pictures, unlike the others of any group"
            sections.append(self._section("No group", about, rows, [""] * len(rows), True))
        if result.next:
            row_of = {path: row for row, path in enumerate(self.seen.paths)}
            first = result.next[:MOST_NEXT]
            rows = np.array([row_of[str(self.seen.root / one.path)] for one in first])
            about = f"{len(rows)} of the {len(result.next)} pictures of {NEXT}: they teach most"
            reasons = [one.why for one in first]
            sections.append(self._section("Label these next", about, rows, reasons))
        return render_contact_sheet(
            result.gallery.name,
            f"{result.n} pictures of {shown(result.gallery)} in {len(result.groups)} groups.",
            sections,
            [
                f"Write names for groups into the column “name” of {GROUPS}. Two groups may get "
                f"the same name; one without a name stays where it is.",
                f"A picture that belongs elsewhere: change its group in {PICTURES}, or give it a "
                f"name of its own there.",
                _then(result.gallery),
                *(
                    [f"The {len(largest)} largest groups are shown."]
                    if len(largest) < len(result.groups)
                    else []
                ),
            ],
            "groups of alike pictures",
        )

    def _chosen(self, number: int, each: int) -> tuple[Rows, list[str]]:
        """Choose a group's most typical pictures and, after them, its most borderline ones."""
        rows = self._typical(number)
        if len(rows) <= each:
            return rows, [""] * len(rows)
        typical, rest = rows[: each - each // 3], rows[each - each // 3 :]
        lead = self.found.margin[self.seen.picture[rest]]
        borderline = rest[np.argsort(lead, kind="stable")[: each // 3]]
        notes = [""] * len(typical) + ["borderline"] * len(borderline)
        return np.concatenate([typical, borderline]), notes

    def _section(
        self, name: str, about: str, rows: Rows, notes: Sequence[str], unsure: bool = False
    ) -> ContactGroup:
        paths = [self.seen.paths[row] for row in rows]
        return ContactGroup(name, about, unsure, contacts(paths, notes, THUMBNAIL_PX))


def _then(gallery: Path) -> str:
    if is_address(gallery):
        return f"{PICTURES} and {GROUPS} say what belongs together: nothing is moved in a store."
    return (
        f"Then: tellapart group {gallery.name} --into NEW_FOLDER shows what would go where; "
        f"--apply does it, and tellapart undo takes it back."
    )


def _doubts(classifier: Classifier, seen: Gallery) -> tuple[NDArray[np.float32], list[str]]:
    """Return how little the surest class leads for each different picture (U,), and in words."""
    doubt, words = [], []
    for batch in seen.batches():
        probs = classifier.probabilities(classifier.head(batch))
        order = np.argsort(-probs, axis=1)[:, :2]
        two = np.take_along_axis(probs, order, axis=1)
        doubt.append(1 - (two[:, 0] - two[:, -1]))
        names = [[classifier.manifest.shown[label] for label in pair] for pair in order]
        words += [
            f"{listed(pair)}: {a:.0%}, {b:.0%}" for pair, (a, b) in zip(names, two, strict=True)
        ]
    return np.concatenate(doubt).astype(np.float32), words
