"""A folder of labelled pictures becomes a Catalog: which files, which classes, which splits."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.data.columns import BLOCK_ROWS, Column, Lines
from tellapart.data.hashing import DIGEST_BYTES, Hashes
from tellapart.data.pixels import PICTURE_SUFFIXES
from tellapart.errors import AmbiguousData, DataNotFound, NoReadablePicture, NotEnoughClasses
from tellapart.progress import Progress

SPLITS = ("train", "valid", "test")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "seg_train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "seg_test": "test",
}
# Folders that tools leave behind. Hidden ones (".ipynb_checkpoints") go by their dot.
_LEFTOVER_FOLDERS = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN"})


@dataclass(frozen=True)
class SetAside:
    """A file or folder that is not used, and why. Nothing is ever deleted."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Catalog:
    """Labelled pictures in a fixed order: by class; then by path, or as `walk` finds them.

    Of many pictures the columns lie on disk, mapped: they can be read only.

    root: absolute; links in it are not resolved.
    paths: (N,) as found below `root`, absolute.
    labels: (N,) int64, index into `classes`.
    digests: (N,) 'S32', hexadecimal BLAKE2b of each file's bytes: what a picture is known by.
    splits: (N,) 'U5', "train", "valid" or "test"; "" while nothing has been decided.
    classes: K names in string order ("1", "10", "2"); the order of every array of size K.
    groups: (N,) what the user wants kept on one side of every split; "" belongs to none.
    display_names: class -> what people call it, where that is something else.
    source: the table that named the pictures, "" where folders did.
    """

    root: Path
    classes: tuple[str, ...]
    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    digests: NDArray[np.bytes_]
    splits: NDArray[np.str_]
    set_aside: tuple[SetAside, ...] = ()
    groups: NDArray[np.str_] | None = None
    display_names: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def name(self) -> str:
        """What the data is called: its folder, or its table without the suffix."""
        return Path(self.source).stem if self.source else self.root.resolve().name

    @property
    def shown(self) -> tuple[str, ...]:
        """What people call the classes, in class order."""
        return tuple(self.display_names.get(name, name) for name in self.classes)

    @property
    def units(self) -> NDArray[np.bytes_]:
        """Name what must stay together, (N,) 'S32': copies of a picture, and the user's groups.

        Without groups these are the digests. A picture that lies in two groups makes them one.
        """
        if self.groups is None:
            return self.digests
        return _units(self.digests, self.groups)

    @property
    def has_splits(self) -> bool:
        """Whether the folders themselves said what is for training and what for scoring."""
        return bool(len(self)) and bool((self.splits != "").all())

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Catalog:
        """Keep the given rows; classes stay as they are."""
        return replace(
            self,
            paths=self.paths[rows],
            labels=self.labels[rows],
            digests=self.digests[rows],
            splits=self.splits[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def without(self, unreadable: Mapping[int, str]) -> Catalog:
        """Set aside the rows that proved unreadable, each with its reason."""
        if not unreadable:
            return self
        keep = np.ones(len(self), dtype=bool)
        keep[list(unreadable)] = False
        aside = tuple(SetAside(str(self.paths[row]), why) for row, why in unreadable.items())
        return replace(self.select(keep), set_aside=self.set_aside + aside)

    def counts(self) -> dict[str, list[int]]:
        """Count pictures: split -> one number a class, in class order."""
        return {
            split: np.bincount(
                self.labels[self.splits == split], minlength=len(self.classes)
            ).tolist()
            for split in ("", *SPLITS)
            if (self.splits == split).any()
        }


@dataclass
class _Listing:
    """Picture files in order, a run of one class and split after the other; never a list of all."""

    runs: list[tuple[str, str, int]] = field(default_factory=list)  # class, split, number of files
    paths: Lines = field(default_factory=Lines)

    def __len__(self) -> int:
        return self.paths.n

    def add(self, label: str, split: str, paths: Iterable[str]) -> int:
        """Append a run of files; return how many these were."""
        before, rest = len(self), iter(paths)
        while block := list(islice(rest, BLOCK_ROWS)):
            self.paths.add(block)
        n = len(self) - before
        if n:
            self.runs.append((label, split, n))
        return n

    def blocks(self) -> Iterator[list[tuple[str, str, str]]]:
        """Yield (class, split, path) of all files, a bounded number at a time."""
        paths = self.paths.read()
        files = ((label, split, path) for label, split, n in self.runs for path in islice(paths, n))
        while block := list(islice(files, BLOCK_ROWS)):
            yield block


@dataclass
class _Found:
    """What a walk through the folders has met so far."""

    listing: _Listing = field(default_factory=_Listing)
    set_aside: list[SetAside] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # what kind of file, how many
    any_name: bool = False  # also names that cannot be written into a manifest
    groups: dict[str, str] = field(default_factory=dict)  # path -> group
    source: str = ""  # the table that named them
    digests: dict[str, bytes] = field(default_factory=dict)  # path -> hash, where known already

    def put_aside(self, path: str | Path, reason: str) -> None:
        self.set_aside.append(SetAside(str(path), reason))


def scan(root: str | Path, progress: Progress | None = None, min_classes: int = 2) -> Catalog:
    """Read a folder of class folders, or of split folders that hold class folders.

    A folder named like a split ("train", "val", …) is one when class folders lie in it; one
    with nothing but pictures straight inside is a class that happens to have that name.
    min_classes: fewer than these are refused (one is enough to score a classifier on).

    Raises:
        DataNotFound, AmbiguousData, NotEnoughClasses, NoReadablePicture.
    """
    progress = progress or Progress("quiet")
    root = stores.place(root)
    trouble = no_folder(root)
    if trouble:
        name = root.name or "photos"
        raise DataNotFound(
            f"{root} {trouble}. Expected a folder that holds one folder of pictures a class, such "
            f"as {name}/cats and {name}/dogs. Check the path."
        )
    root = root.absolute()
    found = _Found()
    splits = _split_folders(root)
    folders = _class_folders(root, splits, found)
    if splits:
        _note_others_beside(root, {folder for folder, _ in splits}, found)
    for label, _, folder, split, above in sorted(folders):
        if not found.listing.add(label, split, _pictures_below(folder, above, found)):
            found.put_aside(folder, f"no pictures of class {label!r} in it")
    return _catalog(root, found, progress, min_classes)


def scan_unlabelled(folder: str | Path, progress: Progress) -> Catalog:
    """Read all pictures below a folder as ones of a class without a name, "".

    Raises:
        DataNotFound, NoReadablePicture.
    """
    root = stores.place(folder).absolute()
    found = _Found()
    found.listing.add("", "", _pictures_below(root, (), found))
    return _catalog(root, found, progress, min_classes=1)


def walk(folder: str | Path, put_aside: Callable[[SetAside], None]) -> Iterator[str]:
    """Yield the picture files below a folder, found as `scan` finds those of a class.

    In a fixed order, one folder at a time. put_aside is told of folders and links not entered,
    as they are met. Names that are no valid UTF-8 are yielded too: only training refuses them.
    """
    found = _Found(any_name=True)
    for path in _pictures_below(stores.place(folder), (), found):
        while found.set_aside:
            put_aside(found.set_aside.pop(0))
        yield path
    for last in found.set_aside:
        put_aside(last)


def tell_not_entered(aside: Iterable[SetAside], progress: Progress) -> None:
    """Say what `walk` met and left out; hidden things only to those who ask for more."""
    for one in aside:
        tell = progress.detail if one.reason.startswith("hidden") else progress.say
        tell(f"Not entered: {one.path} {one.reason}.")


def from_lists(
    paths: Sequence[str | os.PathLike[str]],
    labels: Sequence[str],
    progress: Progress | None = None,
    *,
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    set_aside: Sequence[SetAside] = (),
    source: str = "",
    min_classes: int = 2,
) -> Catalog:
    """Make a Catalog of picture files and their classes, one name a file; the order is the usual.

    Paths are made absolute; the root is the folder that holds them all. A file given twice with
    the same class counts once. splits, groups, source: as in `Catalog`. set_aside: what the
    caller left out.

    Raises:
        DataNotFound: no files. AmbiguousData, NotEnoughClasses, NoReadablePicture.
    """
    columns = [given for given in (labels, splits, groups) if given is not None]
    if any(len(paths) != len(column) for column in columns):
        lengths = " and ".join(str(len(column)) for column in columns)
        raise ValueError(f"{len(paths)} paths were given with {lengths} labels")
    if not len(paths):
        raise DataNotFound(
            "No pictures were given. Expected paths of picture files and a class for each. "
            "Nothing was read."
        )
    whole = [str(stores.place(path).absolute()) for path in paths]
    files = set(zip(map(str, labels), whole, splits or [""] * len(whole), strict=True))
    found = _Found(_listing(files), set_aside=list(set_aside), source=source)
    if groups is not None:
        found.groups = dict(zip(whole, groups, strict=True))
    root = common_folder(whole)
    return _catalog(root, found, progress or Progress("quiet"), min_classes)


def from_hashed(
    files: Sequence[tuple[str, str, str]],
    digests: Mapping[str, bytes],
    root: Path,
    progress: Progress,
    *,
    set_aside: Sequence[SetAside],
    source: str,
    min_classes: int,
) -> Catalog:
    """Make a Catalog of (class, path, split) whose hashes by path are known already.

    Raises:
        AmbiguousData, NotEnoughClasses, NoReadablePicture.
    """
    found = _Found(_listing(files), set_aside=list(set_aside), source=source)
    found.digests = dict(digests)
    return _catalog(root, found, progress, min_classes)


def _listing(files: Iterable[tuple[str, str, str]]) -> _Listing:
    """Put (class, path, split) in order: by class, then by path."""
    listing = _Listing()
    for (label, split), run in groupby(sorted(files), key=lambda file: (file[0], file[2])):
        listing.add(label, split, [path for _, path, _ in run])
    return listing


def _catalog(root: Path, found: _Found, progress: Progress, min_classes: int) -> Catalog:
    """Check what was found, and hash every file."""
    for kind, count in sorted(found.others.items()):
        found.put_aside(root, f"{count} x {kind}")
    listing = found.listing
    classes = tuple(sorted({label for label, _, _ in listing.runs}))
    _check_classes(root, classes, found, min_classes)
    rows = _Rows(classes, listing.paths.longest)
    unreadable: list[SetAside] = []
    with (
        Hashes(None if found.digests else root, progress) as hashes,
        progress.bar("Reading files", len(listing), "files") as advance,
    ):
        for block in listing.blocks():
            names = [path for _, _, path in block]
            errors: dict[int, str] = {}
            if found.digests:
                digests = np.array([found.digests[path] for path in names], dtype="S32")
            else:
                digests, errors = hashes.of(names, advance)
            unreadable += [SetAside(names[row], why) for row, why in sorted(errors.items())]
            able = [row for row in range(len(block)) if row not in errors]
            rows.add([block[row] for row in able], digests[able])
    if len(unreadable) == len(listing):
        raise NoReadablePicture(
            f"Of {len(listing)} pictures in {root}, none could be opened. The first, "
            f"{unreadable[0].path}, {unreadable[0].reason}. Nothing was read. Check the "
            f"permissions of the files."
        )
    paths = rows.paths.array()
    return Catalog(
        root=root,
        classes=classes,
        paths=paths,
        labels=rows.labels.array(),
        digests=rows.digests.array(),
        splits=rows.splits.array(),
        set_aside=(*found.set_aside, *unreadable),
        groups=np.array([found.groups[path] for path in paths]) if found.groups else None,
        source=found.source,
    )


class _Rows:
    """The columns of a Catalog that is being made."""

    def __init__(self, classes: Sequence[str], longest: int) -> None:
        self._index = {name: label for label, name in enumerate(classes)}
        self.paths = Column(np.dtype(f"U{longest}"))
        self.labels = Column(np.dtype(np.int64))
        self.digests = Column(np.dtype("S32"))
        self.splits = Column(np.dtype("U5"))

    def add(self, files: Sequence[tuple[str, str, str]], digests: NDArray[np.bytes_]) -> None:
        labels, splits, paths = zip(*files, strict=True) if files else ((), (), ())
        self.paths.add(np.array(paths, dtype=np.str_))
        self.labels.add(np.array([self._index[label] for label in labels], dtype=np.int64))
        self.digests.add(digests)
        self.splits.add(np.array(splits, dtype=np.str_))


def _units(digests: NDArray[np.bytes_], groups: NDArray[np.str_]) -> NDArray[np.bytes_]:
    """Join pictures and groups to what must stay together; named so that adding renames none.

    A unit is named by the hash of its first group, or by the digest of a picture without one: the
    names of its pictures would change when others are added.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pictures, picture = np.unique(digests, return_inverse=True)
    names, group = np.unique(groups, return_inverse=True)
    # A node for each picture, then one for each group; what belongs to none is tied to nothing.
    grouped = np.flatnonzero(groups != "")
    ends = picture[grouped], len(pictures) + group[grouped]
    n = len(pictures) + len(names)
    links = coo_array((np.ones(len(grouped), dtype=np.int8), ends), shape=(n, n))
    n_units, unit = connected_components(links, directed=False)
    hashed = [
        hashlib.blake2b(f"group {name}".encode(), digest_size=DIGEST_BYTES)
        for name in names.tolist()
    ]
    named = np.array([*pictures.tolist(), *(one.hexdigest().encode() for one in hashed)], "S32")
    of_unit = np.zeros(n_units, dtype="S32")
    # Written from last to first, so that the first group has the last word.
    for node in range(n - 1, -1, -1):
        if node >= len(pictures) or not of_unit[unit[node]]:
            of_unit[unit[node]] = named[node]
    return np.asarray(of_unit[unit[picture]])


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    """Find the folders that are splits: named like one, with class folders inside.

    A stray picture beside these class folders changes nothing, unless classes lie beside this
    folder too and no other is a split: then it is a class whose pictures lie in subfolders.
    """
    folders = _listed(root, _Found())[0]
    named = [folder for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    holders = [holder for folder in named if (holder := _class_holder(folder))]
    mixed = {holder for holder in holders if _listed(holder, _Found())[1]}
    if len(folders) > len(named) and len(mixed) == len(holders):
        return []
    splits: dict[str, Path] = {}
    for holder in holders:
        split = SPLIT_FOLDERS[holder.name.lower()]
        if split in splits:
            raise AmbiguousData(
                f"{splits[split]} and {holder} both name the {split} split. Expected one folder "
                f"for each split. Nothing was read. Rename or merge one of them."
            )
        splits[split] = holder
    return [(splits[split], split) for split in SPLITS if split in splits]


def _class_holder(folder: Path) -> Path | None:
    """Return the folder that holds a split's class folders; None where there are none."""
    inside = _listed(folder, _Found())[0]
    if len(inside) == 1 and inside[0].name.lower() == folder.name.lower():
        # Archives often repeat the name: seg_train/seg_train/<class>.
        folder = inside[0]
        inside = _listed(folder, _Found())[0]
    return folder if inside else None


# Class, its folder as text (they are sorted by these two), split, and the real paths above it.
_ClassFolder = tuple[str, str, Path, str, tuple[str, ...]]


def _class_folders(
    root: Path, splits: Sequence[tuple[Path, str]], found: _Found
) -> list[_ClassFolder]:
    """Take each folder in the root, or in those of splits, as a class with everything below it."""
    folders: list[_ClassFolder] = []
    above = (os.path.realpath(root),) if splits else ()
    for holder, split in splits or [(root, "")]:
        inside, pictures = _listed(holder, found)
        for picture in pictures:
            found.put_aside(picture, "lies beside the class folders")
        led = (*above, os.path.realpath(holder))
        folders += [(folder.name, str(folder), folder, split, led) for folder in inside]
    return folders


def _pictures_below(folder: Path, above: tuple[str, ...], found: _Found) -> Iterator[str]:
    """Yield the picture files below a folder; links are followed, loops are not.

    above: the real paths of the folders that led here.
    """
    stack = [(folder, above)]
    seen: set[str] = set()
    while stack:
        current, above = stack.pop()
        real = os.path.realpath(current)
        if any(Path(one).is_relative_to(real) for one in above):
            found.put_aside(current, "links back to a folder above it")
        elif real in seen:
            found.put_aside(current, "links to a folder of this class that was read already")
        else:
            seen.add(real)
            folders, pictures = _listed(current, found)
            yield from pictures
            stack += [(below, (*above, real)) for below in reversed(folders)]


def _listed(folder: Path, found: _Found) -> tuple[list[Path], list[str]]:
    """List the folders and the pictures in a folder, by name; note what is neither."""
    try:
        entries = _entries(folder)
    except OSError as error:
        found.put_aside(folder, f"cannot be opened ({error.strerror or error})")
        return [], []
    folders, pictures = [], []
    for entry in entries:
        is_folder, is_file = _kind(entry)
        suffix = _suffix(entry.name)
        if entry.name.startswith(".") or entry.name in _LEFTOVER_FOLDERS:
            if is_folder:
                found.put_aside(entry.path, "hidden or left behind by a tool")
            else:
                found.others["hidden file"] += 1
        elif not (found.any_name or _is_text(entry.name)) and (
            is_folder or suffix in PICTURE_SUFFIXES
        ):
            shown = os.fsencode(entry.path).decode(errors="replace")
            found.put_aside(shown, "its name is not valid UTF-8; rename it")
        elif is_folder:
            folders.append(type(folder)(entry.path))
        elif suffix not in PICTURE_SUFFIXES:
            ending = f"ending in {suffix}" if suffix else "without a suffix"
            found.others[f"file {ending}: not a format that is read"] += 1
        elif is_file:
            pictures.append(entry.path)
        else:
            found.put_aside(entry.path, "is a link that leads nowhere, or not a file")
    return folders, pictures


def _entries(folder: Path) -> Sequence[os.DirEntry[str] | stores.Entry]:
    if isinstance(folder, stores.Address):
        return stores.listed(folder)
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def common_folder(paths: Sequence[str]) -> Path:
    """Return the folder that holds all files; the current one where they lie in several stores."""
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # Some on this machine, some not.
        common = ""
    return stores.place(common).absolute()


def _suffix(name: str) -> str:
    """Return what Path(name).suffix.lower() does, in a tenth of the time: every file is asked."""
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _kind(entry: os.DirEntry[str] | stores.Entry) -> tuple[bool, bool]:
    """Say whether an entry, or what it links to, is a folder and whether it is a file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # A link to itself, or into a folder that may not be entered.
        return False, False


def no_folder(path: Path) -> str | None:
    """Say why a path is no folder; None if it is one."""
    if isinstance(path, stores.Address):
        there = stores.info(path)
        if there is None:
            return "does not exist"
        return None if there.folder else "is a file, not a folder"
    try:
        if path.is_dir():
            return None
        return "is a file, not a folder" if path.exists() else "does not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror or error})"


def _is_text(name: str) -> bool:
    """Say whether a name can be written into reports and manifests."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:  # Names from old archives, in an encoding that nobody noted.
        return False
    return True


def _note_others_beside(root: Path, splits: set[Path], found: _Found) -> None:
    """Report what lies beside the folders that hold a split's classes: it is not used."""
    parents = {root, *(folder.parent for folder in splits)}
    for parent in sorted(parents):
        folders, pictures = _listed(parent, found)
        unused = [str(folder) for folder in folders if folder not in splits | parents]
        for path in (*unused, *pictures):
            found.put_aside(path, "lies beside the split folders")


def _check_classes(root: Path, classes: Sequence[str], found: _Found, min_classes: int) -> None:
    """Refuse what cannot be learned from, before any time is spent on it."""
    if not found.listing:
        aside = [f"{item.path} {item.reason}" for item in found.set_aside]
        seen = f" Set aside: {'; '.join(aside[:3])}" if aside else ""
        more = f"; and {len(aside) - 3} more" if len(aside) > 3 else ""
        raise NoReadablePicture(
            f"No pictures were found in the folders below {root}. Expected one folder of pictures "
            f"a class, with files ending in {', '.join(sorted(PICTURE_SUFFIXES))}. "
            f"Nothing was read.{seen}{more}"
        )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    clashes = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if clashes:
        cure = "Write them alike" if found.source else "Rename or merge the folders"
        raise AmbiguousData(
            f"In {found.source or root} some class names differ only in case or in how accents are "
            f"written: {'; '.join(clashes)}. They may be one class or two; nothing was trained. "
            f"{cure}."
        )
    if len(classes) < min_classes and found.source:
        raise NotEnoughClasses(
            f"{found.source} names pictures of one class only ({classes[0]!r}, "
            f"{len(found.listing)} pictures). Telling apart needs at least two. Nothing was read. "
            f"Add pictures of anything else as a second class, or say where the labels are with "
            f"--data label=COLUMN."
        )
    if len(classes) < min_classes:
        folders = {path.rpartition("/")[0] for path in found.listing.paths.read()}
        deeper = f" If the folders below it are the classes, give {root / classes[0]} instead."
        raise NotEnoughClasses(
            f"{root} holds pictures of one class only ({classes[0]!r}, {len(found.listing)} "
            f"pictures). Telling apart needs at least two. Nothing was read. Put each class into "
            f"a folder of its own below {root}; pictures of anything else can serve as a second "
            f"class.{deeper if len(folders) > 1 else ''}"
        )
