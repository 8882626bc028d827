"""Pictures of shards, read one after the other or here and there by their names."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from tellapart.data.pixels import Loaded
from tellapart.data.shards.index import Index, index_of, samples
from tellapart.data.shards.names import Columns, first_rows, is_tar, kind_of, split_member
from tellapart.data.shards.rows import RowReader
from tellapart.data.shards.tar import TarReader
from tellapart.errors import BadShards, UnreadablePicture
from tellapart.stores import shown

# Shards that are held open for reading here and there.
OPEN_SHARDS = 32


def paths_of(shard: str, columns: Columns) -> Iterator[str]:
    """Yield the names of the pictures in a shard, each with its bytes, as `Loaded`.

    Where it is cut off or damaged, the last one is the shard itself, and why.
    """
    n = 0
    try:
        for one in samples(shard, columns):
            n += 1
            yield Loaded(f"{shard}#{one.name}", one.data, one.trouble)
    except FileNotFoundError:
        yield Loaded(shard, b"", "cannot be opened (No such file or directory)")
    except BadShards as error:
        said = str(error).removeprefix(shown(shard)).strip()
        yield Loaded(shard, b"", f"{said}, behind {n} pictures")


def read_member(shard: str, name: str) -> bytes:
    """Read one picture of a shard.

    Raises:
        UnreadablePicture: there is none of that name, or the shard cannot be read.
        StoreError, MissingExtra.
    """
    try:
        return _opened(shard).read(name)
    except (KeyError, ValueError) as error:
        raise UnreadablePicture("is not in its shard") from error
    except (OSError, EOFError, BadShards, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadablePicture(f"cannot be read from its shard ({reason})") from error


def choose_columns(shards: Iterable[str], columns: Columns) -> None:
    """Remember which columns of these shards were asked for: the name of a picture says no more.

    Where they have changed meanwhile, they are opened anew.
    """
    with _lock:
        for shard in shards:
            _columns[shard] = columns
            _readers.pop(shard, None)


def in_reading_order(paths: Sequence[str]) -> list[int]:
    """Return the rows of paths in an order in which shards are read from front to back.

    Where none lies in a shard, that is the order in which they are given.
    """
    split = [split_member(path) for path in paths]
    if not any(split):
        return list(range(len(paths)))
    places: dict[str, dict[str, int]] = {}
    for one in split:
        if one and one[0] not in places:
            places[one[0]] = first_rows(_remembered(one[0]).names)
    keys = [(one[0], places[one[0]].get(one[1], 0)) if one else ("", 0) for one in split]
    return sorted(range(len(paths)), key=keys.__getitem__)


class _Reader(Protocol):
    def read(self, name: str) -> bytes: ...


_lock = threading.Lock()
_readers: OrderedDict[str, _Reader] = OrderedDict()
_columns: dict[str, Columns] = {}


def _opened(shard: str) -> _Reader:
    with _lock:
        reader = _readers.get(shard)
        if reader is None:
            reader = _readers[shard] = _reader_of(shard)
        _readers.move_to_end(shard)
        while len(_readers) > OPEN_SHARDS:
            _readers.popitem(last=False)
    return reader


def _reader_of(shard: str) -> _Reader:
    if kind_of(shard) == "parquet":
        return RowReader(shard, _chosen(shard), np.array([], dtype=np.int64))
    index = _remembered(shard)
    if is_tar(shard):
        return TarReader(shard, index.names, index.starts, index.sizes)
    return RowReader(shard, _chosen(shard), index.starts)


def _chosen(shard: str) -> Columns:
    return _columns.get(shard, Columns())


def _remembered(shard: str) -> Index:
    try:
        return index_of(shard, _chosen(shard))
    except FileNotFoundError as error:
        raise BadShards(f"{shown(shard)} is not there") from error
