"""A folder of labelled pictures becomes a Catalog: which files, which classes, which splits."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
DIGEST_BYTES = 16


@dataclass(frozen=True)
class SetAside:
    """A file or folder that is not used, and why. Nothing is ever deleted."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Catalog:
    """Labelled pictures in a fixed order: by class, then by path.

    paths: (N,) as found below `root`, absolute.
    labels: (N,) int64, index into `classes`.
    digests: (N,) 'S32', hexadecimal BLAKE2b of each file's bytes: what a picture is known by.
    splits: (N,) 'U5', "train", "valid" or "test"; "" while nothing has been decided.
    classes: K names in string order ("1", "10", "2"); the order of every array of size K.
    """

    root: Path
    classes: tuple[str, ...]
    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    digests: NDArray[np.bytes_]
    splits: NDArray[np.str_]
    set_aside: tuple[SetAside, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

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
class _Found:
    """What a walk through the folders has met so far."""

    files: list[tuple[str, str, str]] = field(default_factory=list)  # (class, split, path)
    empty: list[tuple[str, str]] = field(default_factory=list)  # (class, folder)
    set_aside: list[SetAside] = field(default_factory=list)
    other_suffixes: Counter[str] = field(default_factory=Counter)


def scan(root: str | Path, progress: Progress | None = None, min_classes: int = 2) -> Catalog:
    """Read a folder of class folders, or of split folders that hold class folders.

    A folder named like a split ("train", "val", …) is one when class folders lie in it;
    pictures straight inside make it a class that happens to have that name.
    min_classes: fewer than these are refused (one is enough to score a classifier on).

    Raises:
        DataNotFound, AmbiguousData, NotEnoughClasses, NoReadablePicture.
    """
    progress = progress or Progress("quiet")
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataNotFound(
            f"{root} {what}. Expected a folder that holds one folder of pictures a class, such as "
            f"{root.name or 'photos'}/cats and {root.name or 'photos'}/dogs. Check the path."
        )
    found = _Found()
    splits = _split_folders(root)
    if splits:
        for folder, split in splits:
            _walk_classes(folder, split, found)
        _note_others_beside(root, {_top_below(root, folder) for folder, _ in splits}, found)
    else:
        _walk_classes(root, "", found)
    return _catalog(root, found, progress, min_classes)


def _catalog(root: Path, found: _Found, progress: Progress, min_classes: int) -> Catalog:
    """Check what was found, hash every file, and put it in order."""
    classes = tuple(sorted({name for name, _, _ in found.files}))
    for name, folder in found.empty:
        found.set_aside.append(SetAside(folder, f"no pictures of class {name!r} in it"))
    for suffix, count in sorted(found.other_suffixes.items()):
        found.set_aside.append(
            SetAside(str(root), f"{count} files ending in {suffix or 'nothing'}: not pictures")
        )
    _check_classes(root, classes, found, min_classes)
    files = sorted(found.files)
    index = {name: label for label, name in enumerate(classes)}
    paths = [path for _, _, path in files]
    digests, unreadable = _hash_files(paths, progress)
    catalog = Catalog(
        root=root,
        classes=classes,
        paths=np.array(paths, dtype=np.str_),
        labels=np.array([index[name] for name, _, _ in files], dtype=np.int64),
        digests=np.array(digests, dtype="S32"),
        splits=np.array([split for _, split, _ in files], dtype="U5"),
        set_aside=tuple(found.set_aside),
    )
    return catalog.without(unreadable)


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    """Find the folders that are splits: named like one, with class folders inside."""
    splits: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split is None:
            continue
        # Archives often repeat the name: seg_train/seg_train/<class>.
        inner = [sub for sub in _subfolders(folder) if sub.name.lower() == folder.name.lower()]
        holder = inner[0] if inner and len(_subfolders(folder)) == 1 else folder
        if not _subfolders(holder) or _holds_pictures(holder):
            continue
        if split in splits:
            raise AmbiguousData(
                f"{splits[split]} and {holder} both name the {split} split. Expected one folder "
                f"for each split. Nothing was read. Rename or merge one of them."
            )
        splits[split] = holder
    return [(splits[split], split) for split in SPLITS if split in splits]


def _walk_classes(folder: Path, split: str, found: _Found) -> None:
    """Take each folder inside as a class, with everything below it."""
    for entry in _entries(folder, found):
        if entry.is_dir():
            before = len(found.files)
            for path in _pictures_below(entry, found):
                found.files.append((entry.name, split, path))
            if len(found.files) == before:
                found.empty.append((entry.name, str(entry)))
        elif entry.suffix.lower() in PICTURE_SUFFIXES:
            found.set_aside.append(SetAside(str(entry), "lies beside the class folders"))
        else:
            found.other_suffixes[entry.suffix.lower()] += 1


def _pictures_below(folder: Path, found: _Found) -> Iterator[str]:
    """Yield the picture files below a folder; links are followed, loops are not."""
    stack: list[tuple[Path, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while stack:
        current, above = stack.pop()
        for entry in _entries(current, found):
            if entry.is_dir():
                real = os.path.realpath(entry)
                if real in above:
                    found.set_aside.append(SetAside(str(entry), "links back to a folder above it"))
                else:
                    stack.append((entry, (*above, real)))
            elif entry.suffix.lower() in PICTURE_SUFFIXES:
                yield str(entry)
            else:
                found.other_suffixes[entry.suffix.lower()] += 1


def _entries(folder: Path, found: _Found) -> list[Path]:
    """List a folder in order, leaving hidden and leftover things out, and saying so."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        found.set_aside.append(
            SetAside(str(folder), f"cannot be opened ({error.strerror or error})")
        )
        return []
    kept = []
    for name in names:
        path = folder / name
        if name.startswith(".") or name in _LEFTOVER_FOLDERS:
            if path.is_dir():
                found.set_aside.append(SetAside(str(path), "hidden or left behind by a tool"))
        else:
            kept.append(path)
    return kept


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder, _Found()) if entry.is_dir()]


def _holds_pictures(folder: Path) -> bool:
    return any(entry.suffix.lower() in PICTURE_SUFFIXES for entry in _entries(folder, _Found()))


def _top_below(root: Path, folder: Path) -> str:
    return folder.relative_to(root).parts[0]


def _note_others_beside(root: Path, splits: set[str], found: _Found) -> None:
    """Report what lies beside the split folders: it is not used."""
    for entry in _entries(root, found):
        if entry.name not in splits and (
            entry.is_dir() or entry.suffix.lower() in PICTURE_SUFFIXES
        ):
            found.set_aside.append(SetAside(str(entry), "lies beside the split folders"))


def _check_classes(root: Path, classes: Sequence[str], found: _Found, min_classes: int) -> None:
    """Refuse what cannot be learned from, before any time is spent on it."""
    if not found.files:
        aside = f" ({len(found.set_aside)} things were set aside.)" if found.set_aside else ""
        raise NoReadablePicture(
            f"No pictures were found in the folders below {root}. Expected one folder of pictures "
            f"a class, with files ending in {', '.join(sorted(PICTURE_SUFFIXES))}.{aside}"
        )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    clashes = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if clashes:
        raise AmbiguousData(
            f"In {root} some class names differ only in case or in how accents are written: "
            f"{'; '.join(clashes)}. They may be one class or two; nothing was trained. "
            f"Rename or merge the folders."
        )
    if len(classes) < min_classes:
        raise NotEnoughClasses(
            f"{root} holds pictures of one class only ({classes[0]!r}, {len(found.files)} "
            f"pictures). Telling apart needs at least two. Put each class into a folder of its "
            f"own below {root}; pictures of anything else can serve as a second class."
        )


def _hash_files(paths: Sequence[str], progress: Progress) -> tuple[list[bytes], dict[int, str]]:
    """Hash every file's bytes; hashing releases the interpreter lock, so threads help."""
    digests: list[bytes] = []
    unreadable: dict[int, str] = {}
    with (
        progress.bar("Reading files", len(paths), "files") as advance,
        ThreadPoolExecutor(4) as pool,
    ):
        for row, result in enumerate(pool.map(_digest, paths, chunksize=1)):
            if isinstance(result, OSError):
                unreadable[row] = f"cannot be opened ({result.strerror or result})"
            digests.append(b"" if isinstance(result, OSError) else result)
            advance(1)
    return digests, unreadable


def _digest(path: str) -> bytes | OSError:
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return error
    return digest.hexdigest().encode()
