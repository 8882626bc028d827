"""Files that are read from any place on, of which only the way to the bytes differs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any

# Read at one time: a second of a quick line, and little beside what a network needs.
BLOCK_BYTES = 8 << 20


class Sought(io.RawIOBase):
    """A file that keeps where it stands; what derives from it knows the bytes behind a place."""

    _place = 0

    def _bytes_at(self, place: int, most: int) -> bytes:
        """Return some bytes from a place on, none behind the end."""
        raise NotImplementedError

    def _size(self) -> int:
        """Find the size by reading on to the end."""
        place = self._place
        while data := self._bytes_at(place, 1 << 20):
            place += len(data)
        return place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._place
        elif whence == io.SEEK_END:
            offset += self._size()
        self._place = max(0, offset)
        return self._place

    def readall(self) -> bytes:
        blocks = []
        while block := self.read(BLOCK_BYTES):
            blocks.append(block)
        return b"".join(blocks)

    def readinto(self, buffer: Any) -> int:
        data = self._bytes_at(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class Parts(Sought):
    """A file of known size, each part of which is asked for by itself: `part(start, end)`."""

    def __init__(self, part: Callable[[int, int], bytes], size: int) -> None:
        self._part, self._known_size = part, size

    def _size(self) -> int:
        return self._known_size

    def _bytes_at(self, place: int, most: int) -> bytes:
        end = min(place + most, self._known_size)
        return self._part(place, end) if end > place else b""


class FromStart(Sought):
    """A file of a server that sends it from the start only: to go back is to begin again.

    begin: opens it. asked: does something with it, again where that may help.
    """

    def __init__(
        self, begin: Callable[[], IO[bytes]], asked: Callable[[Callable[[], bytes]], bytes]
    ) -> None:
        self._begin, self._asked = begin, asked
        self._file: IO[bytes] | None = None
        self._at = 0

    def _bytes_at(self, place: int, most: int) -> bytes:
        return self._asked(lambda: self._next(place, min(most, 1 << 20)))

    def _next(self, place: int, most: int) -> bytes:
        try:
            if self._file is None or self._at > place:
                self._file, self._at = self._begin(), 0
            while self._at < place:
                passed = len(self._file.read(min(1 << 20, place - self._at)))
                if not passed:
                    return b""
                self._at += passed
            data = bytes(self._file.read(most))
        except Exception:
            self._file = None
            raise
        self._at += len(data)
        return data
