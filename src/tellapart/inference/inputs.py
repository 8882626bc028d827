"""What to predict: files, folders, patterns, a list on standard input, tables of paths."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tellapart import stores
from tellapart.data.addresses import is_url
from tellapart.data.catalog import SetAside, walk
from tellapart.data.pixels import PICTURE_SUFFIXES
from tellapart.data.shards.finding import find_shards
from tellapart.data.shards.names import Columns, expand_braces, kind_of
from tellapart.data.shards.reading import choose_columns, paths_of
from tellapart.data.tables import TABLE_SUFFIXES, open_table
from tellapart.errors import BadTable

# Stands for standard input.
STDIN = "-"


@dataclass
class Inputs:
    """The picture files that were asked for, found one after the other: never a list of all.

    All of them may be addresses of stores, too. Of shards (tar, Parquet or Arrow files with the
    pictures in them, ranges of them in braces, folders of them) each picture comes with its bytes,
    as the shard is read: a `Loaded`, which is a str.

    given: files, folders (with everything below, hidden and doubly linked folders left out as
        `train` does), glob patterns, tables (.csv, .tsv, .parquet) and "-", a list of paths on
        standard input, separated by line ends or, as `find -print0` does it, by zero bytes. URLs
        stay URLs, also in tables and lists: who reads them fetches them. What is none of these
        stays as it is, so that it is answered with an error.
    column: the tables' column of paths; None finds it by its name.
    set_aside: what was met and not entered, filled while iterating.

    Raises, while iterating:
        BadTable: a table without a column of paths, or that cannot be read.
        MissingExtra: a Parquet table, and no pyarrow.
    """

    given: Sequence[str]
    column: str | None = None
    set_aside: list[SetAside] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for one in self.given:
            yield from self._found(one)

    def count(self) -> int | None:
        """Count the files without keeping them; None where only reading would tell."""
        if STDIN in self.given or any(map(_costs_to_count, self.given)):
            return None
        return sum(1 for _ in Inputs(self.given, self.column))

    def _found(self, one: str) -> Iterator[str]:
        if one == STDIN:
            for path in _listed_on(sys.stdin.buffer):
                yield from walk(path, self._put_aside) if _is_folder(path) else (path,)
            return
        shards = self._shards(one)
        if shards:
            columns = Columns(self.column)
            choose_columns(shards, columns)
            for shard in shards:
                yield from paths_of(shard, columns)
            return
        if stores.is_address(one):
            yield from self._far(one)
            return
        path = os.path.expanduser(one)  # noqa: PTH111 (a path stays the text it was given as)
        if _is_folder(path):
            yield from walk(path, self._put_aside)
        elif os.path.lexists(path) or not glob.has_magic(path):
            is_table = Path(path).suffix.lower() in TABLE_SUFFIXES and os.path.lexists(path)
            yield from table_paths(path, self.column) if is_table else (path,)
        else:
            # pathlib takes no absolute pattern.
            yield from sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207

    def _shards(self, one: str) -> list[str]:
        """Find the shards that are meant, if any."""
        if Path(one).suffix.lower() in PICTURE_SUFFIXES:
            return []
        if is_url(one) and not one.endswith("/") and not kind_of(expand_braces(one)[0]):
            return []  # A picture, which is not asked for to find out.
        if kind_of(one) == "parquet" and not _may_be_shard(one):
            return []
        return find_shards(stores.place(one), Columns(self.column))

    def _far(self, one: str) -> Iterator[str]:
        """Find the pictures at an address: a table, a folder, a pattern, or a picture itself."""
        address = str(stores.place(one))
        if address.partition("?")[0].lower().endswith(tuple(TABLE_SUFFIXES)):
            yield from table_paths(address, self.column)
        elif is_url(one) and not one.endswith("/"):
            yield one
        elif Path(address).suffix.lower() in PICTURE_SUFFIXES and not glob.has_magic(address):
            yield address
        elif glob.has_magic(address):
            yield from stores.glob(address) or [address]
        elif ((there := stores.info(address)) is not None and there.folder) or is_url(one):
            yield from walk(address, self._put_aside)
        else:
            yield address

    def _put_aside(self, what: SetAside) -> None:
        if len(self.set_aside) < 1000:  # These are told; a million of them would only fill memory.
            self.set_aside.append(what)


def expand(inputs: Iterable[str]) -> list[str]:
    """Turn what `Inputs` takes into the list of its picture files, in order."""
    return list(Inputs(list(inputs)))


def table_paths(table: str, column: str | None = None) -> Iterator[str]:
    """Yield the paths in a table's column, those that are relative as they can be opened.

    They start at the table's folder if the first of them does, otherwise at the current one.

    Raises:
        BadTable, MissingExtra.
    """
    opened = open_table(table)
    found = opened.find_path(column)
    if found is None:
        raise _no_column(table, column, opened.columns)
    base: Path | None = None
    for (path,) in opened.cells([found]):
        if not path:
            continue
        if stores.is_address(path):
            yield path
            continue
        if base is None and not Path(path).is_absolute():
            beside = stores.place(table).parent
            there = stores.is_address(beside) or os.path.lexists(beside / path)
            base = beside if there else Path()
        yield str(base / path) if base else path


def _may_be_shard(path: str) -> bool:
    return stores.is_address(path) or os.path.isfile(os.path.expanduser(path))  # noqa: PTH111, PTH113


def _costs_to_count(one: str) -> bool:
    """Whether only reading, or asking a store, would tell how many pictures there are."""
    return (
        stores.is_address(one)
        or bool(kind_of(one))
        or (_is_folder(one) and bool(find_shards(stores.place(one))))
    )


def _is_folder(path: str) -> bool:
    # pathlib raises for a name that is too long or holds a zero byte.
    return os.path.isdir(path)  # noqa: PTH112


def _listed_on(stream: BinaryIO) -> Iterator[str]:
    """Yield the paths of a list as they arrive; a zero byte in its first part separates all."""
    read: Callable[[], bytes] = partial(getattr(stream, "read1", stream.read), 1 << 16)
    rest = read()
    end = b"\0" if b"\0" in rest else b"\n"
    while True:
        *whole, rest = rest.split(end)
        for line in whole:
            path = line if end == b"\0" else line.removesuffix(b"\r")
            if path:
                yield os.fsdecode(path)
        block = read()
        if not block:
            break
        rest += block
    if rest:
        yield os.fsdecode(rest)


def _no_column(table: str, column: str | None, names: Sequence[str]) -> BadTable:
    wanted = "one column of paths" if column is None else f"a column {column!r}"
    shown = ", ".join(repr(name) for name in names) or "none"
    return BadTable(
        f"The table {table} has the columns: {shown}. Expected {wanted} (such as path, file or "
        f"image). Nothing of it was predicted. Name the column with --column."
    )
