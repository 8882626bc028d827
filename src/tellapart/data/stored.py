"""Bytes of pictures that are no files of this machine: at an address of a store, or in a shard."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from tellapart import stores
from tellapart.data.addresses import is_url
from tellapart.data.shards.names import split_member
from tellapart.data.shards.reading import read_member
from tellapart.errors import StoreNotReached, UnreadablePicture
from tellapart.files import cache_folder

# Copies of a store's pictures take no more of the disk, and no more of what is free on it.
MOST_COPIED_BYTES = 2_000_000_000
MOST_OF_FREE = 0.25


class _Copies:
    """Pictures of stores, in one file without a name: it is gone when it is closed, or with us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_wanting = 0
        self._file: IO[bytes] | None = None
        self._places: dict[str, tuple[int, int]] = {}
        self._end, self._room = 0, 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, pictures of stores are asked for once: for their hash, and not for every look.

        So what is looked at is what was hashed, too. Where they are many, that holds for the first
        MOST_COPIED_BYTES. After the last such block nothing is left.
        """
        with self._lock:
            self._n_wanting += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_wanting -= 1
                if self._n_wanting == 0 and self._file is not None:
                    self._file.close()
                    self._file, self._end = None, 0
                    self._places.clear()

    def put(self, path: str, data: bytes) -> None:
        """Keep a picture if there is room; where the disk cannot be written, nothing is kept."""
        with self._lock, suppress(OSError):
            if not self._n_wanting:
                return
            file = self._file = self._file or self._open()
            if self._end + len(data) > self._room:
                return
            file.seek(self._end)
            # A disk that becomes full takes a part.
            if file.write(data) == len(data):
                self._places[path] = (self._end, len(data))
                self._end += len(data)

    def get(self, path: str) -> bytes | None:
        """Return a picture that was kept; None for any other, or if it cannot be read."""
        with self._lock, suppress(OSError):
            if self._file is not None and path in self._places:
                start, size = self._places[path]
                self._file.seek(start)
                data = self._file.read(size)
                return data if len(data) == size else None
        return None

    def _open(self) -> IO[bytes]:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._room = min(MOST_COPIED_BYTES, int(MOST_OF_FREE * shutil.disk_usage(folder).free))
        # Unbuffered: an error of the disk comes when it happens.
        return tempfile.TemporaryFile(dir=folder, buffering=0)


_copies = _Copies()
kept_copies = _copies.kept


def read_stored(path: str) -> bytes | None:
    """Read a picture at an address, or in a shard; None where the path is neither.

    Raises:
        UnreadablePicture: it is not there, or did not come after several tries.
        StoreRefused, BadAddress, MissingExtra. StoreNotReached: its store has been given up.
    """
    try:
        member = split_member(path)
        if member is not None:
            return read_member(*member)
        if is_url(path) or not stores.is_address(path):
            return None  # Of the web, pictures are fetched once and kept.
        if (copy := _copies.get(path)) is not None:
            return copy
        data = stores.read(path, 0, stores.MOST_BYTES)
    except StoreNotReached as error:
        if error.given_up:
            raise
        raise UnreadablePicture(f"did not come ({error.reason})") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "No such file or directory" if missing else error.strerror or error
        raise UnreadablePicture(f"cannot be opened ({reason})") from error
    if len(data) == stores.MOST_BYTES:
        raise UnreadablePicture(f"is larger than {stores.MOST_BYTES / 1e6:g} MB")
    _copies.put(path, data)
    return data
