"""Gzip files that are entered in the middle."""

from __future__ import annotations

import bisect
import zlib
from typing import IO

from tellapart.stores.streams import Sought

# A gzip file is entered again at most so far before what is wanted.
SNAPSHOT_BYTES = 4 << 20


class Gzip(Sought):
    """A gzip file that can be entered in the middle, where it was passed before.

    The state of unpacking is remembered every few megabytes (40 kB each), so going back costs no
    more than unpacking these again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at, self._packed_at = 0, 0
        self._unpacker = zlib.decompressobj(wbits=31)
        self._rest = b""
        # (place unpacked, place packed, state of unpacking), the beginning first.
        self._states = [(0, 0, self._unpacker.copy())]

    def _bytes_at(self, place: int, most: int) -> bytes:
        row = bisect.bisect_right(self._states, place, key=lambda state: state[0]) - 1
        if place < self._at or self._states[row][0] > self._at:
            self._at, self._packed_at, state = self._states[row]
            self._unpacker, self._rest = state.copy(), b""
            self._file.seek(self._packed_at)
        while self._at < place:
            if not self._next(min(1 << 20, place - self._at)):
                return b""
        return self._next(most)

    def _next(self, most: int) -> bytes:
        while True:
            if not self._rest and not self._unpacker.eof:
                self._remember()
            if not self._rest and self._unpacker.eof:
                # Another one may follow: gzip files are joined by writing one behind the other.
                self._rest = self._unpacker.unused_data.lstrip(b"\0") or self._more()
                if not self._rest:
                    return b""
                self._unpacker = zlib.decompressobj(wbits=31)
            self._rest = self._rest or self._more()
            if not self._rest:
                raise EOFError("its end is missing")
            data = self._unpacker.decompress(self._rest, most)
            self._rest = self._unpacker.unconsumed_tail
            if data:
                self._at += len(data)
                return data

    def _more(self) -> bytes:
        data = self._file.read(1 << 16)
        self._packed_at += len(data)
        return data

    def _remember(self) -> None:
        """Remember the state, if far enough from the last one; nothing waits to be unpacked now."""
        if self._at >= self._states[-1][0] + SNAPSHOT_BYTES:
            self._states.append((self._at, self._packed_at, self._unpacker.copy()))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
