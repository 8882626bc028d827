"""Columns of a table of any length in little memory: on disk from some size on, and mapped."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tellapart.files import cache_folder

# Of one column; a scan of a million pictures is to take no more than one of ten thousand.
IN_MEMORY_BYTES = 1_000_000
# Of rows that are worked on at one time.
BLOCK_ROWS = 8192
# An array of features that takes more lies on disk: of 200 000 pictures, in 1280 numbers each.
LARGE_BYTES = 500_000_000
RESERVES = hasattr(os, "posix_fallocate")


class Column:
    """Values that are written block after block, and are then one array.

    From IN_MEMORY_BYTES on they lie in a file without a name in the cache folder, which goes with
    the last array over it: the system reads what is asked for, and may forget it again.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._file: IO[bytes] = io.BytesIO()
        self._n_bytes = 0
        self._whole: NDArray[Any] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Append values (n,), or (n, …) where the type itself has a shape."""
        block = np.ascontiguousarray(values, dtype=self._dtype.base)
        self._n_bytes += block.nbytes
        if self._n_bytes > IN_MEMORY_BYTES and isinstance(self._file, io.BytesIO):
            before = self._file.getbuffer()
            self._file = _unnamed_file()
            # If nobody asks for the array, as after an error.
            weakref.finalize(self, self._file.close)
            self._file.write(before)
        self._file.write(block.data if block.size else b"")

    def array(self) -> NDArray[Any]:
        """Return all that was added (N,), to be read only; after it nothing can be added."""
        if self._whole is None:
            with self._file:
                self._whole = self._read()
        return self._whole

    def _read(self) -> NDArray[Any]:
        if isinstance(self._file, io.BytesIO):
            return np.frombuffer(self._file.getvalue(), dtype=self._dtype)
        self._file.flush()
        return np.memmap(self._file, dtype=self._dtype, mode="r").view(np.ndarray)


class Lines:
    """Texts without zero bytes, written one after the other and read again in order."""

    def __init__(self) -> None:
        self._bytes = Column(np.dtype(np.uint8))
        self.longest = 0
        self.n = 0

    def add(self, texts: Sequence[str]) -> None:
        """Append texts, of UTF-8 or as the system names files."""
        if texts:
            joined = "".join(f"{text}\0" for text in texts).encode(errors="surrogateescape")
            self._bytes.add(np.frombuffer(joined, dtype=np.uint8))
            self.longest = max(self.longest, *map(len, texts))
            self.n += len(texts)

    def read(self) -> Iterator[str]:
        """Yield all texts."""
        whole = self._bytes.array()
        rest = b""
        for start in range(0, len(whole), 1 << 20):
            *texts, rest = (rest + whole[start : start + (1 << 20)].tobytes()).split(b"\0")
            forget(whole)
            yield from (text.decode(errors="surrogateescape") for text in texts)


def blocks(n: int, size: int | None = None) -> Iterator[slice]:
    """Cut n rows into parts of at most `size`, BLOCK_ROWS without it."""
    size = size or BLOCK_ROWS
    return (slice(start, start + size) for start in range(0, n, size))


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of zeros that can be written: a large one mapped, so it need not fit."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    if n_bytes > LARGE_BYTES:
        with suppress(OSError), _unnamed_file() as file:
            if RESERVES:  # Else a disk that fills up later would end the process, without a word.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)
            return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
    return np.zeros(shape, dtype)


def taken(values: NDArray[Any], rows: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[Any]:
    """Return `values[rows]`, mapped if it is large; the array itself where all are wanted."""
    if rows.dtype == np.bool_:
        if rows.all():
            return values
        rows = np.flatnonzero(rows)
    chosen = zeros((len(rows), *values.shape[1:]), values.dtype)
    for part in blocks(len(rows)):
        chosen[part] = values[rows[part]]
    return chosen


def _unnamed_file() -> IO[bytes]:
    """Open a file that no one sees and that goes when it is closed; on disk if that can be.

    Where the system keeps temporary files may be memory.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def forget(values: NDArray[Any]) -> None:
    """Give back the memory of what was read of a mapped array; it is read again when needed."""
    part: Any = values
    while part is not None and not isinstance(part, mmap.mmap):
        part = getattr(part, "_mmap", None) or getattr(part, "base", None)
    if part is not None and hasattr(mmap, "MADV_DONTNEED"):
        part.madvise(mmap.MADV_DONTNEED)
