"""A plan of which file goes where: by class, and by date. Nothing is touched here.

`moving.py` carries a plan out, and takes it back.
"""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tellapart.data.catalog import SetAside, walk
from tellapart.data.dates import taken
from tellapart.errors import SortRefused
from tellapart.stores import is_address, shown

How = Literal["move", "copy", "hardlink", "symlink"]

UNSURE = "_unsure"
# Where journals lie in the sorted folder; hidden, so that neither `train` nor `predict` sees it.
JOURNALS = ".tellapart"

# Go with the picture of the same name: edits beside it, the film of a live photo, and the raw
# file that an .xmp belongs to as well.
SIDECAR_SUFFIXES = frozenset({".xmp", ".aae", ".mov"})
RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2"})
_COMPANIONS = SIDECAR_SUFFIXES | RAW_SUFFIXES

DATE_PARTS = {"year": "%Y", "month": "%m", "year-month": "%Y-%m", "year-month-day": "%Y-%m-%d"}

# What most file systems allow for a name, in bytes; class names become shorter still, so that
# there is room for a number.
MAX_NAME_BYTES = 255
_MAX_CLASS_BYTES = 200
# Characters that Windows, and disks formatted for it, do not take in a name.
_ILLEGAL = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What was answered about one picture of the gallery: as much of it as sorting needs."""

    path: str
    label: str | None
    confidence: float | None = None
    unsure: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Step:
    """One file to be moved, copied or linked.

    source: absolute. target: relative to the sorted folder, parts joined by "/".
    group: the folder of its class, or "_unsure". verdict: of the picture; None for its sidecars.
    """

    source: str
    target: str
    group: str
    verdict: Verdict | None = None
    renamed: bool = False


@dataclass(frozen=True)
class Plan:
    """Which file goes where. left: what stays where it is, and why. notes: what was decided."""

    gallery: Path
    into: Path
    how: How
    steps: tuple[Step, ...]
    left: tuple[SetAside, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_pictures(self) -> int:
        """How many pictures go somewhere; sidecars not counted."""
        return sum(step.verdict is not None for step in self.steps)

    @property
    def judged(self) -> bool:
        """Whether a classifier decided, which is more or less sure; else people did."""
        return any(step.verdict and step.verdict.confidence is not None for step in self.steps)

    def groups(self) -> dict[str, list[Step]]:
        """Return the steps by the folder of their class, in string order, `_unsure` last."""
        found: dict[str, list[Step]] = {}
        for step in sorted(self.steps, key=lambda step: (step.group == UNSURE, step.group)):
            found.setdefault(step.group, []).append(step)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON types."""
        return {
            "gallery": str(self.gallery),
            "into": str(self.into),
            "how": self.how,
            "n_pictures": self.n_pictures,
            "n_sidecars": len(self.steps) - self.n_pictures,
            "groups": [
                {
                    "name": name,
                    "n_pictures": sum(step.verdict is not None for step in steps),
                    "n_sidecars": sum(step.verdict is None for step in steps),
                    "n_renamed": sum(step.renamed for step in steps),
                }
                for name, steps in self.groups().items()
            ],
            "left": [asdict(one) for one in self.left],
            "notes": list(self.notes),
        }


def find_gallery(gallery: Path, into: Path) -> tuple[list[str], list[SetAside]]:
    """List the pictures of a gallery, those in the sorted folder left out, and what was not read.

    Raises:
        SortRefused: the two folders do not go together.
    """
    check_folders(gallery, into)
    aside: list[SetAside] = []
    sorted_folder = os.path.realpath(into)
    inside: dict[str, bool] = {}
    found = []
    for path in walk(gallery, aside.append):
        folder = str(Path(path).parent)
        if folder not in inside:
            inside[folder] = Path(os.path.realpath(folder)).is_relative_to(sorted_folder)
        if not inside[folder]:
            found.append(path)
    return found, aside


def check_folders(gallery: Path, into: Path) -> None:
    """Refuse folders that cannot be sorted from or into.

    Raises:
        SortRefused.
    """
    nothing = "Nothing was moved."
    for folder in (gallery, into):
        if is_address(folder):
            raise SortRefused(
                f"{shown(folder)} lies in a store, where nothing is moved: what is sorted can be "
                f"taken back, and that stands on this machine's files. Expected folders here. "
                f"{nothing} Copy the pictures here first, or write what each of them is into a "
                f"table: tellapart predict MODEL ADDRESS --out FILE.csv"
            )
    if not gallery.is_dir():
        raise SortRefused(
            f"{gallery} is not a folder that can be sorted. Expected a folder of pictures. "
            f"{nothing} Check the path."
        )
    if into.exists() and not into.is_dir():
        raise SortRefused(
            f"{into} is a file. Expected a folder, or a name that is free. {nothing} Choose "
            f"another --into."
        )
    if not into.absolute().parent.is_dir():
        raise SortRefused(
            f"{into} cannot be made: there is no folder {into.absolute().parent}. {nothing} Make "
            f"it first, or choose another --into."
        )
    if Path(os.path.realpath(gallery)).is_relative_to(os.path.realpath(into)):
        raise SortRefused(
            f"{gallery} is, or lies in, the folder to sort into ({into}): what is sorted would be "
            f"sorted again. Expected another folder; one inside of the gallery is fine. {nothing} "
            f"Choose another --into."
        )


def check_layout(layout: str) -> list[str]:
    """Return the parts of a layout such as "class/year-month".

    Raises:
        SortRefused.
    """
    parts = layout.split("/")
    if set(parts) - DATE_PARTS.keys() - {"class"} or parts.count("class") != 1:
        raise SortRefused(
            f"--by {layout} is not a layout. Expected class once, and any of "
            f"{', '.join(DATE_PARTS)}, with / between: class/year-month. Nothing was moved."
        )
    return parts


def plan_sort(
    verdicts: Iterable[Verdict],
    gallery: str | Path,
    into: str | Path,
    how: How = "move",
    layout: str = "class",
) -> Plan:
    """Decide where every picture of a gallery goes, and its sidecars with it.

    Nothing is overwritten: a name that is taken, also in other case, gets a number. When copying
    or linking, what lies there already with the same content is not done again. Pictures that
    could not be read stay where they are; so does what a link leads to, when moving.

    Raises:
        SortRefused.
    """
    gallery, into = Path(gallery).absolute(), Path(into).absolute()
    check_folders(gallery, into)
    planner = _Planner(gallery, into, how, check_layout(layout))
    for verdict in verdicts:
        planner.take(verdict)
    return planner.plan()


@dataclass
class _Planner:
    gallery: Path
    into: Path
    how: How
    layout: list[str]
    steps: list[Step] = field(default_factory=list)
    left: list[SetAside] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._real = os.path.realpath(self.gallery)
        self._labels: dict[str, str] = {}
        self._folders: dict[str, _Folder] = {}
        self._companions: dict[str, dict[str, list[str]]] = {}
        self._claimed: set[str] = set()
        self._classes = _Folder(self.into)

    def take(self, verdict: Verdict) -> None:
        """Plan one picture and its companions."""
        path = verdict.path
        reason = self._stays(verdict)
        if reason:
            self.left.append(SetAside(path, reason))
            return
        unsure = verdict.unsure or verdict.label is None
        group = UNSURE if unsure else self._class_folder(str(verdict.label))
        folder = "/".join(self._parts(group, path))
        here = self._folders.setdefault(folder, _Folder(self.into / folder))
        source = Path(path)
        names = [source.name, *self._companions_of(source)]
        number = here.free(source, names, self.how)
        for name in names:
            target = numbered(name, source.stem, number)
            if here.holds_same(target, source.parent / name, self.how):
                self.counts["there"] += 1
                continue
            if here.holds(target):
                taken_by = f"stays: {folder}/{target} is another file"
                self.left.append(SetAside(str(source.parent / name), taken_by))
                continue
            is_picture = name == source.name
            self.steps.append(
                Step(
                    str(source.parent / name),
                    f"{folder}/{target}",
                    group,
                    verdict if is_picture else None,
                    target != name,
                )
            )
            here.claim(source, target)

    def plan(self) -> Plan:
        """Return everything planned so far."""
        notes = [
            f"Class {label!r} goes to the folder {folder!r}: its name is not one for folders, or "
            f"is taken."
            for label, folder in self._labels.items()
            if label != folder
        ]
        if self.counts["shared"]:
            notes.append(
                f"{self.counts['shared']} sidecars belong to two pictures: they go with the first."
            )
        if self.counts["there"]:
            notes.append(f"{self.counts['there']} files are there already, and stay as they are.")
        if self.layout != ["class"]:
            notes.append(
                f"Dates: {self.counts['exif']} from EXIF, {self.counts['file']} from the time of "
                f"the file."
            )
        if self.into.is_relative_to(self.gallery):
            notes.append(f"{self.into.name} lies in the gallery: what is in it was left out.")
        return Plan(
            self.gallery, self.into, self.how, tuple(self.steps), tuple(self.left), tuple(notes)
        )

    def _stays(self, verdict: Verdict) -> str | None:
        """Say why a picture stays where it is; None if it does not."""
        if verdict.error is not None:
            return verdict.error
        if not os.path.lexists(verdict.path):
            return "is gone since it was looked at"
        if self.how == "move":
            below = os.path.relpath(Path(verdict.path).absolute(), self.gallery)
            if os.path.realpath(verdict.path) != os.path.join(self._real, below):
                return "is reached through a link; --how copy sorts a copy of it"
        return None

    def _parts(self, group: str, path: str) -> Iterator[str]:
        date, from_exif = None, False
        if self.layout != ["class"]:
            date, from_exif = taken(path)
            self.counts["exif" if from_exif else "file"] += 1
        for part in self.layout:
            yield group if date is None or part == "class" else date.strftime(DATE_PARTS[part])

    def _class_folder(self, label: str) -> str:
        if label not in self._labels:
            folder = safe_name(label)
            others = {key(one) for one in (UNSURE, JOURNALS, *self._labels.values())}
            number = 1
            while key(chosen := numbered(folder, folder, number)) in others or (
                not (self.into / self._classes.spelled(chosen)).is_dir()
                and self._classes.holds(chosen)
            ):
                number += 1
            self._labels[label] = self._classes.spelled(chosen)
        return self._labels[label]

    def _companions_of(self, picture: Path) -> list[str]:
        """Name the files that go along: IMG.xmp, IMG.jpg.xmp, IMG.aae, IMG.mov, IMG.cr2."""
        folder = str(picture.parent)
        if folder not in self._companions:
            by_base: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder)):
                base, suffix = os.path.splitext(name)
                if suffix.lower() in _COMPANIONS:
                    by_base.setdefault(base.lower(), []).append(name)
            self._companions[folder] = by_base
        found = self._companions[folder]
        names = []
        for base in (picture.stem, picture.name):
            for name in found.get(base.lower(), ()):
                whole = str(picture.parent / name)
                if whole in self._claimed:
                    self.counts["shared"] += 1
                elif _begins_with(name, picture.stem) and _is_plain_file(whole):
                    self._claimed.add(whole)
                    names.append(name)
        return names


class _Folder:
    """The names that are taken in one folder: those on disk, and those planned."""

    def __init__(self, path: Path) -> None:
        self._path = path
        listed = os.listdir(path) if path.is_dir() else []
        self._names = {key(name): name for name in listed}
        # Whose file has this stem? Another picture of the same stem would seem to own its sidecars.
        self._owners: dict[str, tuple[str, str] | None] = {
            key(os.path.splitext(name)[0]): None for name in listed
        }
        self._planned: set[str] = set()

    def free(self, source: Path, names: Sequence[str], how: How) -> int:
        """Return the number that makes the names free; links and copies may be there."""
        number = 1
        while True:
            targets = [numbered(name, source.stem, number) for name in names]
            if self.holds_same(targets[0], source, how):
                return number
            stem = numbered(source.stem, source.stem, number)
            owner = self._owners.get(key(stem), self._owner(source))
            if owner == self._owner(source) and not any(map(self.holds, targets)):
                return number
            number += 1

    def holds(self, name: str) -> bool:
        """Whether a name is taken, in whatever case."""
        return key(name) in self._names

    def holds_same(self, name: str, source: Path, how: How) -> bool:
        """Whether what is to be copied or linked lies there from an earlier time."""
        if how == "move" or key(name) in self._planned or not self.holds(name):
            return False
        there = self._path / self.spelled(name)
        try:
            if how == "symlink":
                return there.is_symlink() and os.readlink(there) == os.path.realpath(source)
            if there.is_symlink() or not there.is_file():
                return False
            if how == "hardlink":
                return there.samefile(source)
            return filecmp.cmp(there, source, shallow=False)
        except OSError:
            return False

    def spelled(self, name: str) -> str:
        """Return the name as it stands on disk, where another case or normal form does."""
        return self._names.get(key(name), name)

    def claim(self, source: Path, name: str) -> None:
        """Take a name for a file of this source."""
        self._names[key(name)] = name
        self._planned.add(key(name))
        stem = os.path.splitext(name)[0]
        self._owners[key(stem)] = self._owner(source)

    @staticmethod
    def _owner(source: Path) -> tuple[str, str]:
        return str(source.parent), source.stem.lower()


def _begins_with(name: str, stem: str) -> bool:
    # Lower case can be longer than what it comes from, so that a name must be cut first.
    return name[: len(stem)].lower() == stem.lower()


def _is_plain_file(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def key(name: str) -> str:
    """Return what two names share that some file systems take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def numbered(name: str, stem: str, number: int) -> str:
    """Put a number behind the stem of a name: IMG.jpg.xmp, IMG, 2 -> IMG (2).jpg.xmp."""
    if number == 1:
        return name
    head, tail = name[: len(stem)], f" ({number}){name[len(stem) :]}"
    while head and len(os.fsencode(head + tail)) > MAX_NAME_BYTES:
        head = head[:-1]
    return head + tail


def safe_name(label: str) -> str:
    """Turn a class name into the name of one folder, legal on every system.

    No separators, no leading dots (such folders are hidden, and ".." leads out), nothing that
    Windows reserves or cuts off. A name that is legal stays as it is.
    """
    name = unicodedata.normalize("NFC", label.encode(errors="replace").decode())
    name = _ILLEGAL.sub("_", name)
    dots = len(name) - len(name.lstrip("."))
    name = ("_" * dots + name[dots:]).strip().rstrip(". ")
    if _RESERVED.fullmatch(name):
        name = f"{name}_"
    while len(name.encode()) > _MAX_CLASS_BYTES:
        name = name[:-1]
    return name or "_"
