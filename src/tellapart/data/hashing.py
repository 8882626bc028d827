"""Hash files by their bytes, and read none a second time that cannot have changed since.

What is kept says: this path, on this device, with this inode, size, time of content and time of
status, had this hash. Whoever changes a file changes its time of status, which no program can set.
Only a change within one tick of the clock leaves the times as they were, so a file that had just
been changed when it was read is not kept (git calls such an entry racy).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.errors import OutputError, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, output_error, write_atomically
from tellapart.progress import Progress

DIGEST_BYTES = 16
# No clock of a file system in use ticks slower: that of FAT does once in two seconds.
TICK_NS = 2_000_000_000
# A task for each of a million files would take a gigabyte.
CHUNK = 64
# Of the layout of what is kept; another number finds nothing of this one.
LAYOUT = 1
# Elsewhere the time of status is that of making the file, and says nothing.
KEEPS = os.name == "posix"

# In a folder of a store; below that, asking for each costs less than listing all.
FEW_IN_FOLDER = 10

Facts = tuple[int, int, int, int, int]
_63_BITS = (1 << 63) - 1
_NO_FACTS: Facts = (0, 0, 0, 0, 0)


def picture_hash(data: bytes) -> str:
    """Return the hash by which a picture file is known everywhere: its bytes', hexadecimal."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def hash_files(
    paths: Sequence[str], root: Path | None, progress: Progress
) -> tuple[NDArray[np.bytes_], dict[int, str]]:
    """Return hexadecimal BLAKE2b of each file's bytes, (N,) 'S32', and why some have none.

    root: where they lie, which is what the hashes are kept under; None: they are loose files, or
        not all that lie there, and nothing is kept. What cannot be kept is no error.
    """
    where = cache_folder() / "scans" / _name(root) if KEEPS and root is not None else None
    kept = _load(where) if where else None
    digests = np.zeros((len(paths), DIGEST_BYTES), dtype=np.uint8)
    facts = np.zeros((len(paths), len(_NO_FACTS)), dtype=np.int64)
    known = np.zeros(len(paths), dtype=bool)
    # Looked for in all paths at once: mostly, all are files of this machine.
    whole = "\0".join(paths)
    far = "://" in whole or "#" in whole
    there = _facts_in_stores(paths) if far else {}
    if kept is not None:
        facts[:] = [_facts(path) for path in paths]
        for row in [row for row, path in enumerate(paths) if path in there] if there else ():
            facts[row] = there[paths[row]]
        known = kept.find(paths, facts, digests)
    unreadable: dict[int, str] = {}
    rows = np.flatnonzero(~known).tolist()
    with progress.bar("Reading files", len(rows), "files") as advance:
        for row, digest, seen in _read(paths, rows, advance, far):
            facts[row] = there.get(paths[row], seen)
            if isinstance(digest, UnreadablePicture):
                facts[row], unreadable[row] = _NO_FACTS, str(digest)
            elif isinstance(digest, OSError):
                unreadable[row] = f"cannot be opened ({digest.strerror or digest})"
            else:
                digests[row] = np.frombuffer(digest, dtype=np.uint8)
    if where and root and rows and len(unreadable) < len(rows):
        _save(where, root, paths, facts, digests, progress)
    return np.frombuffer(digests.tobytes().hex().encode(), dtype="S32"), unreadable


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was known of M files: names joined by zero bytes, facts (M, 5), digests (M, 16)."""

    names: bytes
    facts: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def find(
        self, paths: Sequence[str], facts: NDArray[np.int64], digests: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Fill in the digests (N, 16) of files that are as they were; say which (N,) these are."""
        if _joined(paths) == self.names:
            place = np.arange(len(paths))
        else:
            # A dict only where files came or went: mostly, none did.
            rows = {name: row for row, name in enumerate(self.names.split(b"\0"))}
            place = np.array([rows.get(os.fsencode(path), -1) for path in paths], dtype=np.int64)
        same = place >= 0
        same[same] = (self.facts[place[same]] == facts[same]).all(axis=1)
        same &= facts.any(axis=1)
        digests[same] = self.digests[place[same]]
        return same


Found = tuple[int, bytes | OSError | UnreadablePicture, Facts]


def _read(
    paths: Sequence[str], rows: Sequence[int], advance: Callable[[int], None], far: bool
) -> Iterator[Found]:
    """Hash the files of these rows; hashing releases the interpreter lock, so threads help."""
    # Of a store most of the time is waiting: more at one time, and less of it in one task.
    n, threads = (4, stores.AT_ONCE) if far else (CHUNK, 4)
    read = _hashed_far if far else _hashed
    chunks = [rows[start : start + n] for start in range(0, len(rows), n)]
    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(lambda chunk: [read(row, paths[row]) for row in chunk], chunks):
            yield from results
            advance(len(results))


def _hashed(row: int, path: str) -> Found:
    """Hash a file; its facts are zero where it may not be kept."""
    began = time.time_ns()
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (half the time of Path.open)
            before = os.fstat(file.fileno())
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            while block := file.read(1 << 20):
                digest.update(block)
            after = os.fstat(file.fileno())
    except OSError as error:
        return row, error, _NO_FACTS
    settled = max(after.st_mtime_ns, after.st_ctime_ns) + TICK_NS <= began
    seen = _of(after) if settled and _of(before) == _of(after) else _NO_FACTS
    return row, digest.digest(), seen


def _is_far(path: str) -> bool:
    """Whether a picture is no file of its own on this machine: asked of every one of them."""
    return path.find(":/", 1, 12) > 0 or ("#" in path and _is_member(path))


def _is_member(path: str) -> bool:
    from tellapart.data.shards.names import split_member

    return split_member(path) is not None


def _hashed_far(row: int, path: str) -> Found:
    """Hash a picture that may be in a store or in a shard; it may be a file as well."""
    if not _is_far(path):
        return _hashed(row, path)
    from tellapart.data.pixels import read_file

    try:
        data = read_file(path)
    except UnreadablePicture as error:
        return row, error, _NO_FACTS
    return row, hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), _NO_FACTS


def _facts_in_stores(paths: Sequence[str]) -> dict[str, Facts]:
    """Return what stores say of the files in them, by listing their folders.

    Where a folder is listed for a few files, each is asked for by itself: the folder may be large.
    """
    folders: dict[str, list[str]] = {}
    for path in paths:
        if stores.is_address(path) and not _is_member(path):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    found: dict[str, Facts] = {}
    for folder, inside in folders.items():
        if len(inside) < FEW_IN_FOLDER:
            with ThreadPoolExecutor(stores.AT_ONCE) as pool:
                entries = [one for one in pool.map(stores.info, inside) if one]
        else:
            entries = stores.listed(folder)
        wanted = set(inside)
        found |= {
            one.path: (1, *one.facts, 0) for one in entries if one.facts and one.path in wanted
        }
    return found


def settled_facts(path: str) -> Facts | None:
    """Return the facts of a file on this machine; None where it may still change unseen."""
    try:
        found = os.stat(path)  # noqa: PTH116 (as `_facts`)
    except OSError:
        return None
    settled = max(found.st_mtime_ns, found.st_ctime_ns) + TICK_NS <= time.time_ns()
    return _of(found) if settled and KEEPS else None


def _facts(path: str) -> Facts:
    try:
        return _of(os.stat(path))  # noqa: PTH116 (as often as there are files)
    except OSError:
        return _NO_FACTS


def _of(found: os.stat_result) -> Facts:
    # Numbers of devices and inodes may take 64 bits, of which an array of signed ones holds 63.
    return (
        found.st_dev & _63_BITS,
        found.st_ino & _63_BITS,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _name(root: Path) -> str:
    key = f"{LAYOUT} {root}".encode(errors="surrogateescape")
    return hashlib.blake2b(key, digest_size=DIGEST_BYTES).hexdigest()


def _joined(paths: Sequence[str]) -> bytes:
    return os.fsencode("\0".join(paths))


def _load(where: Path) -> _Kept | None:
    """Read what is kept; None where there is none, or it is damaged."""
    try:
        # numpy forgets to close a file that it cannot read.
        with (
            (where / "hashes.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as held,
        ):
            kept = _Kept(held["names"].tobytes(), held["facts"], held["digests"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    n = kept.names.count(b"\0") + 1
    if kept.facts.shape != (n, len(_NO_FACTS)) or kept.digests.shape != (n, DIGEST_BYTES):
        return None
    if kept.facts.dtype != np.int64 or kept.digests.dtype != np.uint8:
        return None
    with suppress(OSError):
        os.utime(where)
    return kept


def _save(
    where: Path,
    root: Path,
    paths: Sequence[str],
    facts: NDArray[np.int64],
    digests: NDArray[np.uint8],
    progress: Progress,
) -> None:
    """Keep what may be kept, in one step; where nothing can be written, the next scan reads again.

    Another run that scans the same folder writes the same or newer facts: the last one stands.
    """
    good = facts.any(axis=1)
    if not good.any():
        return
    names = [paths[row] for row in np.flatnonzero(good).tolist()]
    file = io.BytesIO()
    joined = np.frombuffer(_joined(names), dtype=np.uint8)
    np.savez(file, names=joined, facts=facts[good], digests=digests[good])
    about = {"folder": f"hashes of {len(names)} files below {root}"}
    try:
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(where, error, ELSEWHERE_KEPT) from error
        write_atomically(where / "hashes.npz", file.getvalue(), ELSEWHERE_KEPT)
        write_atomically(where / "about.json", json.dumps(about), ELSEWHERE_KEPT)
    except OutputError as error:
        progress.detail(f"{error} The files will be read again next time.")
