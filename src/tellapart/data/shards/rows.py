"""Tables of rows with pictures: Parquet, and Arrow as `datasets` saves it."""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tellapart.data.shards.names import Columns, Sample, kind_of
from tellapart.data.tables import COLUMN_NAMES, load_pyarrow
from tellapart.errors import BadShards, UnreadablePicture
from tellapart.files import open_binary
from tellapart.stores import is_address, shown

# Rows of a table that are in memory at one time: of pictures of a megabyte, so many megabytes.
ROWS = 16


def row_samples(shard: str, columns: Columns) -> Iterator[Sample]:
    pyarrow = load_pyarrow()
    with open_binary(shard) as file:
        batches = _parquet_batches if kind_of(shard) == "parquet" else _arrow_batches
        try:
            row = 0
            for start, schema, batch in batches(file, shard, columns, pyarrow):
                picture, label, names = _columns_of(schema, shard, columns, pyarrow)
                pictures = batch.column(picture)
                labels = None if label is None else batch.column(label).to_pylist()
                for within in range(batch.num_rows):
                    data, trouble = _bytes_of(pictures[within].as_py())
                    said = None if labels is None else _called(labels[within], names)
                    place_in = start if start >= 0 else row
                    yield Sample(str(row), said, label or "", place_in, within, data, trouble)
                    row += 1
        except (pyarrow.ArrowInvalid, pyarrow.ArrowException) as error:
            raise OSError(str(error)) from error


class RowReader:
    """Reads rows of a table; going on from the last one is quick, other rows cost their batch.

    starts: where the batch of each row begins; of Arrow alone.
    """

    def __init__(self, shard: str, columns: Columns, starts: NDArray[np.int64]) -> None:
        self._starts, self._pyarrow = starts, load_pyarrow()
        self._lock = threading.Lock()
        # Of pyarrow's own, which needs no closing.
        far = is_address(shard)
        self._file = open_binary(shard) if far else self._pyarrow.OSFile(shard)
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._parquet = kind_of(shard) == "parquet"
        if self._parquet:
            opened = self._pyarrow.parquet.ParquetFile
            self._table = opened(self._file, buffer_size=1 << 20, pre_buffer=False)
            schema = self._table.schema_arrow
            groups = self._table.metadata
            sizes = [groups.row_group(one).num_rows for one in range(groups.num_row_groups)]
            self._firsts = [0, *np.cumsum(sizes).tolist()]
            # Group of rows, the row that comes next in it, and what gives it.
            self._going: tuple[int, int, Iterator[Any]] = (-1, 0, iter(()))
        else:
            _, schema = _arrow_schema(self._file, self._pyarrow)
        self._schema = schema
        self._picture = _columns_of(schema, shard, columns, self._pyarrow)[0]

    def read(self, name: str) -> bytes:
        row = int(name)
        with self._lock:
            value = (self._parquet_row if self._parquet else self._arrow_row)(row)
        data, trouble = _bytes_of(value)
        if trouble:
            raise UnreadablePicture(trouble)
        return data

    def _parquet_row(self, row: int) -> Any:
        first = self._batch_of(row)
        return self._held[first][row - first].as_py()

    def _batch_of(self, row: int) -> int:
        """Have the batch with a row in memory; return its first row."""
        for first, held in self._held.items():
            if first <= row < first + len(held):
                return first
        if not 0 <= row < self._firsts[-1]:
            raise KeyError(row)
        going, at, batches = self._going
        group = bisect.bisect_right(self._firsts, row) - 1
        if group != going or at > row:
            at = self._firsts[group]
            batches = self._table.iter_batches(
                ROWS, row_groups=[group], columns=[self._picture], use_threads=False
            )
        while True:
            batch = next(batches, None)
            if batch is None:
                raise EOFError("a group of its rows is shorter than it says")
            held = batch.column(self._picture)
            first, at = at, at + len(held)
            self._hold(first, held)
            self._going = group, at, batches
            if row < at:
                return first

    def _arrow_row(self, row: int) -> Any:
        start = int(self._starts[row])
        if start not in self._held:
            self._file.seek(start)
            message = self._pyarrow.ipc.read_message(self._file)
            batch = self._pyarrow.ipc.read_record_batch(message, self._schema)
            self._hold(start, batch.column(self._picture))
        first = int(np.searchsorted(self._starts, start))
        return self._held[start][row - first].as_py()

    def _hold(self, first: int, column: Any) -> None:
        self._held[first] = column
        # Threads ask for rows not quite in order.
        while len(self._held) > (8 if self._parquet else 2):
            self._held.popitem(last=False)


def _parquet_batches(
    file: IO[bytes], shard: str, columns: Columns, pyarrow: Any
) -> Iterator[tuple[int, Any, Any]]:
    """Yield batches of a few rows of the columns that matter, however large the row groups."""
    opened = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    schema = opened.schema_arrow
    picture, label, _ = _columns_of(schema, shard, columns, pyarrow)
    wanted = [picture] if label is None else [picture, label]
    for batch in opened.iter_batches(ROWS, columns=wanted, use_threads=False):
        yield -1, schema, batch


def _arrow_batches(
    file: IO[bytes], shard: str, columns: Columns, pyarrow: Any
) -> Iterator[tuple[int, Any, Any]]:
    """Yield the batches of an Arrow stream as it holds them, with the place of each."""
    file, schema = _arrow_schema(file, pyarrow)
    while True:
        start = file.tell()
        try:
            message = pyarrow.ipc.read_message(file)
        except (EOFError, StopIteration):
            message = None
        if message is None:
            return
        batch = pyarrow.ipc.read_record_batch(message, schema)
        for first in range(0, batch.num_rows, ROWS):
            yield start, schema, batch.slice(first, ROWS)


def _arrow_schema(file: IO[bytes], pyarrow: Any) -> tuple[IO[bytes], Any]:
    """Read the schema of an Arrow stream, or of an Arrow file, which is one in a wrapping."""
    file.seek(8 if file.read(6) == b"ARROW1" else 0)
    return file, pyarrow.ipc.read_schema(pyarrow.ipc.read_message(file))


def picture_columns(schema: Any, pyarrow: Any) -> list[str]:
    """Return the columns that hold bytes, by themselves or beside a path."""

    def holds(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(one.name == "bytes" and holds(one.type) for one in kind)
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    return [one.name for one in schema if holds(one.type)]


def _columns_of(
    schema: Any, shard: str, columns: Columns, pyarrow: Any
) -> tuple[str, str | None, Sequence[str]]:
    """Return the columns of pictures and labels, and what the numbers of these are called.

    Raises:
        BadShards: which columns there are.
    """
    there = ", ".join(f"{one.name} ({one.type})" for one in schema)
    pictures = picture_columns(schema, pyarrow)
    if columns.picture is not None:
        pictures = [one for one in pictures if one == columns.picture]
    elif len(pictures) > 1:
        usual = {*COLUMN_NAMES["path"], "img", "picture", "photo"}
        pictures = [one for one in pictures if one.lower() in usual] or pictures
    if len(pictures) != 1:
        raise BadShards(
            f"{shown(shard)} has the columns: {there}. Expected one of pictures, as bytes or as a "
            f"struct with bytes; say which with --data path=COLUMN"
        )
    if columns.label is not None:
        if columns.label not in schema.names:
            raise BadShards(
                f"{shown(shard)} has the columns: {there}. Expected a column {columns.label!r} of "
                f"labels"
            )
        label: str | None = columns.label
    else:
        known = [one for one in schema.names if one.lower() in COLUMN_NAMES["label"]]
        label = known[0] if len(known) == 1 else None
    return pictures[0], label, _class_names(schema, label)


def _class_names(schema: Any, label: str | None) -> Sequence[str]:
    """Return what `datasets` says that the numbers of a column stand for."""
    about = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(about)["info"]["features"][label] if about and label else {}
        names = feature.get("names") or feature.get("names", [])
        return [str(one) for one in names] if feature.get("_type") == "ClassLabel" else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _called(value: Any, names: Sequence[str]) -> str | None:
    if value is None:
        return None
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    # What `datasets` writes where a label is not known.
    return None if names and value == -1 else str(value).strip()


def _bytes_of(value: Any) -> tuple[bytes, str]:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data:
        return bytes(data), ""
    elsewhere = value.get("path") if isinstance(value, dict) else None
    return b"", f"holds no bytes, only the path {elsewhere}" if elsewhere else "holds no bytes"
