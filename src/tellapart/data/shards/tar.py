"""Tar shards, packed or not, as WebDataset writes them."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.data.pixels import PICTURE_SUFFIXES
from tellapart.data.shards.gzipped import Gzip
from tellapart.data.shards.names import Columns, Sample, first_rows, kind_of
from tellapart.data.tables import COLUMN_NAMES
from tellapart.files import open_binary
from tellapart.stores import is_address

_SAID_BY = (".cls", ".json", ".txt")


def tar_samples(shard: str, columns: Columns) -> Iterator[Sample]:
    """Read a tar as a stream; files of one key, one after the other, are one picture."""
    with closing(_unpacked(shard)) as file:
        end = 0
        group: list[tuple[tarfile.TarInfo, bytes]] = []
        with tarfile.open(fileobj=file, mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                cast("Any", tar).members = []  # Else every header of a million stays in memory.
                if not member.isfile() or Path(member.name).name.startswith("."):
                    continue
                if group and _key(group[0][0].name) != _key(member.name):
                    yield from _grouped(group, columns)
                    group = []
                data = _member_data(tar, member)
                end = member.offset_data + member.size
                if data is not None:
                    group.append((member, data))
        yield from _grouped(group, columns)
        # Behind the last file lie two empty blocks: without them, there may have been more.
        while file.tell() < end + 512 and file.read(1 << 20):
            pass
        if file.tell() < end + 512:
            raise tarfile.ReadError("its end is missing")


class TarReader:
    """Reads members of a tar by where their bytes begin, and how many they are."""

    def __init__(
        self, shard: str, names: Sequence[str], starts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        self._shard, self._starts, self._sizes = shard, starts, sizes
        self._row = first_rows(names)
        self._lock = threading.Lock()
        parts = kind_of(shard) == "tar" and (not is_address(shard) or stores.has_ranges(shard))
        self._file = None if parts else _unpacked(shard)

    def read(self, name: str) -> bytes:
        row = self._row[name]
        start, size = int(self._starts[row]), int(self._sizes[row])
        if self._file is not None:
            with self._lock:
                self._file.seek(start)
                data = self._file.read(size)
        elif is_address(self._shard):
            data = stores.read(self._shard, start, start + size) if size else b""
        else:
            with Path(self._shard).open("rb") as file:
                file.seek(start)
                data = file.read(size)
        if len(data) != size:
            raise EOFError("it is shorter than it was")
        return data


def _member_data(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Read a file of a tar that is a picture or says something of one; None for all else."""
    ending = _ending(member.name)
    if Path(member.name).suffix.lower() not in PICTURE_SUFFIXES and ending not in _SAID_BY:
        return None
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} breaks off")
    return data


def _grouped(group: Sequence[tuple[tarfile.TarInfo, bytes]], columns: Columns) -> Iterator[Sample]:
    said = {_ending(one.name): data for one, data in group if _ending(one.name) in _SAID_BY}
    label, said_by, trouble = _said(said, columns)
    pictures = [(one, data) for one, data in group if _ending(one.name) not in _SAID_BY]
    for one, data in pictures:
        above = Path(one.name).parent.name
        if label is None and not said and above:
            label, said_by = above, "folder"
        yield Sample(one.name, label, said_by, one.offset_data, one.size, data)
    if said and not pictures:
        yield Sample(group[0][0].name, label, said_by, 0, 0, b"", trouble or "has no picture")


def _said(said: Mapping[str, bytes], columns: Columns) -> tuple[str | None, str, str]:
    """Return the label that the files beside a picture say, which of them, and what is wrong."""
    if ".cls" in said and columns.label is None:
        return said[".cls"].decode(errors="replace").strip(), ".cls", ""
    if ".json" in said:
        try:
            held = json.loads(said[".json"])
        except ValueError:
            return None, "", "has JSON beside it that cannot be read"
        if isinstance(held, dict):
            known = (columns.label,) if columns.label else COLUMN_NAMES["label"]
            named = [held[key] for key in known if isinstance(held.get(key), str | int)]
            if named:
                return str(named[0]).strip(), ".json", ""
    if ".txt" in said and columns.label is None:
        return said[".txt"].decode(errors="replace").strip(), ".txt", ""
    return None, "", ""


def _key(name: str) -> str:
    """Return what the files of one picture share: the name up to the first dot behind folders."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _ending(name: str) -> str:
    last = name.rpartition("/")[2]
    return "." + last.partition(".")[2].lower()


def _unpacked(shard: str) -> IO[bytes]:
    file = open_binary(shard)
    return file if kind_of(shard) == "tar" else io.BufferedReader(Gzip(file), 1 << 20)
