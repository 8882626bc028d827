"""Hash files by their bytes, and read none a second time that cannot have changed since.

What is kept says: this path, on this device, with this inode, size, time of content and time of
status, had this hash. Whoever changes a file changes its time of status, which no program can set.
Only a change within one tick of the clock leaves the times as they were, so a file that had just
been changed when it was read is not kept (git calls such an entry racy).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.data.columns import blocks
from tellapart.errors import OutputError, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, output_error, write_atomically
from tellapart.progress import Progress

if TYPE_CHECKING:
    from sqlite3 import Connection

DIGEST_BYTES = 16
# No clock of a file system in use ticks slower: that of FAT does once in two seconds.
TICK_NS = 2_000_000_000
# A task for each of a million files would take a gigabyte.
CHUNK = 64
# Files whose facts and hashes are in memory at one time.
BATCH = 8192
# Of the layout of what is kept; another number finds nothing of this one.
LAYOUT = 2
# Another run writes a batch in less.
WAIT_S = 5.0
TABLES = """
CREATE TABLE IF NOT EXISTS folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS files (
    folder INTEGER, name BLOB, device INTEGER, inode INTEGER, size INTEGER, content_ns INTEGER,
    status_ns INTEGER, digest BLOB, checksum INTEGER, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
"""
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
    digests = np.zeros(len(paths), dtype="S32")
    unreadable: dict[int, str] = {}
    # Files of one folder after the other, as stores are asked and what is kept is found by folder.
    order = sorted(range(len(paths)), key=paths.__getitem__)
    with (
        Hashes(root, progress) as hashes,
        progress.bar("Reading files", len(paths), "files") as advance,
    ):
        for part in blocks(len(order), BATCH):
            rows = order[part]
            found, errors = hashes.of([paths[row] for row in rows], advance)
            digests[rows] = found
            unreadable |= {rows[row]: why for row, why in errors.items()}
    return digests, dict(sorted(unreadable.items()))


class Hashes:
    """The hashes of the files below one folder, kept between runs; open it by `with`.

    root: as in `hash_files`.
    """

    def __init__(self, root: Path | None, progress: Progress) -> None:
        self._kept = _Kept.open(root, progress) if root is not None and KEEPS else None
        # What a store said of the last folder: its files may come in several batches.
        self._listed: tuple[str, dict[str, Facts]] = ("", {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept:
            self._kept.close()

    def of(
        self, paths: Sequence[str], advance: Callable[[int], None] = lambda _: None
    ) -> tuple[NDArray[np.bytes_], dict[int, str]]:
        """Return the same as `hash_files` for some files, best those of one folder at a time."""
        digests = [bytes(DIGEST_BYTES)] * len(paths)
        unreadable: dict[int, str] = {}
        # Looked for in all paths at once: mostly, all are files of this machine.
        whole = "\0".join(paths)
        far = "://" in whole or "#" in whole
        there = self._facts_in_stores(paths) if far else {}
        known = self._find(paths, there)
        for row, kept in known.items():
            digests[row] = kept
        advance(len(known))
        rows = (
            [row for row in range(len(paths)) if row not in known] if known else range(len(paths))
        )
        settled: list[tuple[str, Facts, bytes]] = []
        for row, digest, seen in self._read(paths, rows, advance, far):
            if isinstance(digest, UnreadablePicture):
                unreadable[row] = str(digest)
            elif isinstance(digest, OSError):
                unreadable[row] = f"cannot be opened ({digest.strerror or digest})"
            else:
                digests[row] = digest
                facts = there.get(paths[row], seen)
                if facts != _NO_FACTS:
                    settled.append((paths[row], facts, digest))
        if self._kept and settled:
            self._kept.keep(settled)
        return np.frombuffer(b"".join(digests).hex().encode(), dtype="S32"), unreadable

    def _find(self, paths: Sequence[str], there: dict[str, Facts]) -> dict[int, bytes]:
        """Return the hashes that are kept of files that are as they were, by row."""
        if self._kept is None or self._kept.was_empty:
            return {}
        folders: dict[str, list[int]] = {}
        for row, path in enumerate(paths):
            folders.setdefault(path.rpartition("/")[0], []).append(row)
        found: dict[int, bytes] = {}
        for folder, rows in folders.items():
            kept = self._kept.find(folder, [paths[row] for row in rows])
            for row in rows:
                path = paths[row]
                if path in kept:
                    facts, digest = kept[path]
                    if facts == (there.get(path) or _facts(path)):
                        found[row] = digest
        return found

    def _read(
        self, paths: Sequence[str], rows: Sequence[int], advance: Callable[[int], None], far: bool
    ) -> Iterator[Found]:
        """Hash the files of these rows; hashing releases the interpreter lock, so threads help."""
        # Of a store most of the time is waiting: more at one time, and less of it in one task.
        n, threads = (4, stores.AT_ONCE) if far else (CHUNK, 4)
        read = _hashed_far if far else _hashed
        chunks = [rows[part] for part in blocks(len(rows), n)]
        with ThreadPoolExecutor(threads) as pool:
            for results in pool.map(lambda chunk: [read(row, paths[row]) for row in chunk], chunks):
                yield from results
                advance(len(results))

    def _facts_in_stores(self, paths: Sequence[str]) -> dict[str, Facts]:
        """Return what stores say of the files in them, by listing their folders.

        Where a folder is listed for a few files, each is asked for by itself: the folder may be
        large.
        """
        folders: dict[str, list[str]] = {}
        for path in paths:
            if stores.is_address(path) and not _is_member(path):
                folders.setdefault(path.rpartition("/")[0], []).append(path)
        found: dict[str, Facts] = {}
        for folder, inside in folders.items():
            if folder == self._listed[0]:
                facts = self._listed[1]
            elif len(inside) < FEW_IN_FOLDER:
                with ThreadPoolExecutor(stores.AT_ONCE) as pool:
                    facts = _facts_of([one for one in pool.map(stores.info, inside) if one])
            else:
                facts = _facts_of(stores.listed(folder))
                self._listed = folder, facts
            found |= {path: facts[path] for path in inside if path in facts}
        return found


Found = tuple[int, bytes | OSError | UnreadablePicture, Facts]


class _Kept:
    """Hashes of files in an SQLite file: so many as there may be, in little memory.

    Whatever goes wrong with it, files are only read again.
    """

    def __init__(self, where: Path, root: Path, progress: Progress) -> None:
        self._where, self._root, self._progress = where, root, progress
        self._connection: Connection | None = _connected(where)
        self._changed = False
        # Then nothing need be looked for, and no file be asked twice what it is like.
        self.was_empty = not self._ask("SELECT 1 FROM files LIMIT 1")

    @classmethod
    def open(cls, root: Path, progress: Progress) -> _Kept | None:
        """Open what is kept for a folder; None where nothing can be kept, which is told."""
        import sqlite3

        where = cache_folder() / "scans" / _name(root)
        try:
            return cls(where, root, progress)
        except (OSError, sqlite3.Error) as error:
            _tell(where, error, progress)
            return None

    def find(self, folder: str, paths: Sequence[str]) -> dict[str, tuple[Facts, bytes]]:
        """Return what is kept of files that lie straight in a folder, by path."""
        marks = ",".join("?" * len(paths))
        asked = (
            "SELECT name, device, inode, size, content_ns, status_ns, digest, checksum FROM files "
            f"WHERE folder = (SELECT id FROM folders WHERE path = ?) AND name IN ({marks})"
        )
        start = len(folder) + 1
        names = {os.fsencode(path[start:]): path for path in paths}
        values = self._ask(asked, (os.fsencode(folder), *names))
        return {
            names[name]: ((device, inode, size, content, status), digest)
            for name, device, inode, size, content, status, digest, checksum in values
            if zlib.crc32(name + digest) == checksum
        }

    def keep(self, files: Sequence[tuple[str, Facts, bytes]]) -> None:
        """Keep the facts and hashes of files, all or none of them."""
        folders = [(folder,) for folder in {_parted(path)[0] for path, *_ in files}]
        self._ask("INSERT OR IGNORE INTO folders (path) VALUES (?)", many=folders)
        self._ask(
            "INSERT OR REPLACE INTO files VALUES "
            "((SELECT id FROM folders WHERE path = ?), ?, ?, ?, ?, ?, ?, ?, ?)",
            many=[
                (folder, name, *facts, digest, zlib.crc32(name + digest))
                for path, facts, digest in files
                for folder, name in [_parted(path)]
            ],
        )
        self._ask("COMMIT")
        self._changed = True

    def close(self) -> None:
        """Say what lies here, for people and `tellapart cache`, and let go of the file."""
        if self._connection is not None and self._changed:
            files = f"{self._n_files()} files below {stores.shown(self._root)}"
            about = {"folder": f"hashes of {files}"}
            try:
                write_atomically(self._where / "about.json", json.dumps(about), ELSEWHERE_KEPT)
            except OutputError as error:
                _tell(self._where, error, self._progress)
        if self._connection is not None:
            self._connection.close()

    def _n_files(self) -> int:
        found = self._ask("SELECT count(*) FROM files")
        return int(found[0][0]) if found else 0

    def _ask(
        self, command: str, values: Sequence[object] = (), many: Sequence[Sequence[object]] = ()
    ) -> list[tuple[Any, ...]]:
        """Ask SQLite; where it fails, nothing is kept from there on, and what is there goes."""
        import sqlite3

        if self._connection is None:
            return []
        try:
            if many:
                if not self._connection.in_transaction:
                    self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(command, many)
                return []
            return self._connection.execute(command, values).fetchall()
        except sqlite3.Error as error:
            self._connection.close()
            self._connection = None
            if not isinstance(error, sqlite3.OperationalError):  # It is damaged.
                with suppress(OSError):
                    _file(self._where).unlink()
            _tell(self._where, error, self._progress)
            return []


def _parted(path: str) -> tuple[bytes, bytes]:
    folder, _, name = os.fsencode(path).rpartition(b"/")
    return folder, name


def _tell(where: Path, error: Exception, progress: Progress) -> None:
    if not isinstance(error, OutputError):
        failed = error if isinstance(error, OSError) else OSError(0, str(error))
        error = output_error(where, failed, ELSEWHERE_KEPT)
    progress.detail(f"{error} The files will be read again next time.")


def _file(where: Path) -> Path:
    return where / "hashes.sqlite"


def _connected(where: Path) -> Connection:
    """Open the SQLite file, made anew where it is none; for reading alone where no more may be.

    Raises:
        OSError, sqlite3.Error.
    """
    import sqlite3

    where.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.utime(where)
    try:
        return _made(_file(where))
    except sqlite3.OperationalError:
        connection = sqlite3.connect(f"{_file(where).absolute().as_uri()}?mode=ro", uri=True)
        with closing(connection.execute("SELECT count(*) FROM folders")):
            return connection
    except sqlite3.DatabaseError:
        _file(where).unlink()
        return _made(_file(where))


def _made(file: Path) -> Connection:
    import sqlite3

    connection = sqlite3.connect(file, timeout=WAIT_S, isolation_level=None)
    try:
        # A power cut may leave anything in the file: each row's checksum tells, and files are read.
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(TABLES)
        connection.execute("SELECT folder, status_ns, checksum FROM files LIMIT 1").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


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


def _facts_of(entries: Sequence[stores.Entry]) -> dict[str, Facts]:
    return {one.path: (1, *one.facts, 0) for one in entries if one.facts}


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
