"""Files that hold many pictures each: tar shards, Parquet with picture bytes, Arrow of `datasets`.

A picture in one is named SHARD#MEMBER, such as photos-000.tar#cat/001.jpg or train.parquet#12 (the
row), and can be read by that name in any process. Shards are read as streams, in order; what a
first reading found (names, labels, places, hashes) is kept while the file is as it was.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.data.catalog import SPLIT_FOLDERS
from tellapart.data.hashing import DIGEST_BYTES, settled_facts
from tellapart.data.pixels import PICTURE_SUFFIXES, Loaded
from tellapart.data.tables import COLUMN_NAMES, load_pyarrow
from tellapart.errors import BadShards, OutputError, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, open_binary, output_error, replacing
from tellapart.stores import is_address, place, shown

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TAR_SUFFIXES, ".arrow", ".parquet")
# Of the layout of what is kept; another number finds nothing of this one.
LAYOUT = 1
# Rows of a table that are in memory at one time: of pictures of a megabyte, so many megabytes.
ROWS = 16
# Shards that are held open for reading here and there.
OPEN_SHARDS = 32
# A gzip file is entered again at most so far before what is wanted.
SNAPSHOT_BYTES = 4 << 20
MAX_SHOWN = 3

_MEMBER = re.compile(r"(.+?\.(?:tar|tar\.gz|tgz|arrow|parquet))#(.+)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
# A name of several shards can stand for so many files at most.
MOST_SHARDS = 1_000_000
_SAID_BY = (".cls", ".json", ".txt")


@dataclass(frozen=True)
class Columns:
    """Which column, or key of JSON, holds what; None finds it by its name."""

    picture: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Sample:
    """A picture met in a shard.

    label: None where none is said; said_by: what says it: ".cls", a column, "folder"; "" for none.
    start, size: where its bytes lie in the unpacked tar; in a table, its row and the number of the
    batch. trouble: why there is no picture; then there are no bytes.
    """

    name: str
    label: str | None
    said_by: str
    start: int
    size: int
    data: bytes
    trouble: str = ""


@dataclass(frozen=True, eq=False)
class Index:
    """What a shard holds: N pictures in the order in which they lie there.

    labels: "" for none. digests: (N, 16). troubles: row -> why there is no picture.
    """

    names: list[str]
    labels: list[str]
    said_by: list[str]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    troubles: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.names)


def split_member(path: str) -> tuple[str, str] | None:
    """Split the name of a picture in a shard into shard and member; None for any other path."""
    if "#" not in path:
        return None
    match = _MEMBER.fullmatch(path)
    return None if match is None or os.path.lexists(path) else (match[1], match[2])


def is_shard_name(name: str) -> bool:
    """Whether a file is called like a shard; a .parquet may be a table of paths as well."""
    return name.lower().endswith(SUFFIXES)


def expand_braces(text: str) -> list[str]:
    """Write a{000..002}.tar or {a,b}.tar out; a text without braces stands for itself."""
    match = _RANGE.search(text)
    if match is None:
        return [text]
    if match[3] is not None:
        parts = match[3].split(",")
    else:
        first, last, width = int(match[1]), int(match[2]), len(match[1])
        if not first <= last < first + MOST_SHARDS:
            raise BadShards(
                f"The range {match[0]} in {shown(text)} stands for no files. Expected the smaller "
                f"number first, such as {{000..099}}. Nothing was read. Correct it."
            )
        parts = [f"{number:0{width}d}" for number in range(first, last + 1)]
    return [
        text[: match.start()] + part + rest
        for part in parts
        for rest in expand_braces(text[match.end() :])
    ]


def find_shards(path: Path, columns: Columns | None = None) -> list[str]:
    """Return the shards that a path names or holds, in order; none where it is something else.

    It may be one, a range of them in braces, a folder that holds them, by themselves or in folders
    of splits or in `data`, or a folder that `datasets` saved.

    Raises:
        BadShards: a range of which some are missing. MissingExtra, StoreError.
    """
    text = str(path)
    if _RANGE.search(text) and is_shard_name(text) and not os.path.lexists(text):
        return _all_there(expand_braces(text))
    if is_shard_name(text):
        there = is_address(path) or Path(text).is_file()
        return [text] if there and _holds_pictures(text, columns) else []
    return _in_folder(path, columns)


def samples(shard: str, columns: Columns) -> Iterator[Sample]:
    """Yield the pictures of a shard as they are read from it, from its beginning to its end.

    Raises:
        BadShards: it is cut off or damaged, or has no such columns. FileNotFoundError, StoreError,
        MissingExtra.
    """
    kind = _tar_samples if shard.lower().endswith(TAR_SUFFIXES) else _rows_of
    try:
        yield from kind(shard, columns)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BadShards(f"{shown(shard)} is cut off or damaged ({error})") from error


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


def index_of(shard: str, columns: Columns, read: Callable[[int], None] = lambda _: None) -> Index:
    """Return what a shard holds: as it was kept if the file is as it was, else read now.

    read: told of the pictures read.

    Raises:
        As `samples`.
    """
    facts = _facts(shard)
    where = _kept_in(shard, columns)
    kept = None if facts is None else _load(where, facts)
    if kept is not None:
        read(len(kept))
        return kept
    found: list[Sample] = []
    digests: list[bytes] = []
    for one in samples(shard, columns):
        digests.append(hashlib.blake2b(one.data, digest_size=DIGEST_BYTES).digest())
        # Without its bytes.
        found.append(
            Sample(one.name, one.label, one.said_by, one.start, one.size, b"", one.trouble)
        )
        read(1)
    index = Index(
        [one.name for one in found],
        [one.label or "" for one in found],
        [one.said_by for one in found],
        np.array([one.start for one in found], dtype=np.int64),
        np.array([one.size for one in found], dtype=np.int64),
        np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(found), DIGEST_BYTES),
        {row: one.trouble for row, one in enumerate(found) if one.trouble},
    )
    if facts is not None:
        with suppress(OutputError):  # It is read again next time.
            _save(where, facts, index, shard)
    return index


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


def split_of(shard: str) -> str:
    """Return the split that the name of a shard, or else of its folder, says; "" for none."""
    folder, _, name = shard.rpartition("/")
    words = re.split(r"[-_.]", name.lower())
    above = folder.rpartition("/")[2].lower()
    return next((SPLIT_FOLDERS[one] for one in (*words, above) if one in SPLIT_FOLDERS), "")


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
            places[one[0]] = {name: row for row, name in enumerate(_remembered(one[0]).names)}
    keys = [(one[0], places[one[0]].get(one[1], 0)) if one else ("", 0) for one in split]
    return sorted(range(len(paths)), key=keys.__getitem__)


# ---- finding


def _all_there(names: Sequence[str]) -> list[str]:
    missing = [one for one in names if not _is_file(one)]
    if missing:
        raise BadShards(
            f"{len(missing)} of {len(names)} shards are not there: "
            f"{_few(list(map(shown, missing)))}. Expected every file that the range in braces "
            f"stands for. Nothing was read. Copy them there, or correct the range."
        )
    return list(names)


def _is_file(path: str) -> bool:
    if not is_address(path):
        return Path(path).is_file()
    there = stores.info(path)
    return there is not None and there.is_file()


def _entries(folder: str | Path) -> list[stores.Entry]:
    if is_address(folder):
        return stores.listed(folder)
    try:
        with os.scandir(folder) as listing:
            found = [stores.Entry(one.path, one.is_dir(), 0, None) for one in listing]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)


def _in_folder(folder: Path, columns: Columns | None) -> list[str]:
    """Find the shards in a folder; none where it holds folders of pictures."""
    if not is_address(folder) and _begins_with_pictures(folder):
        return []
    entries = [one for one in _entries(folder) if not one.name.startswith((".", "_"))]
    names = {one.name for one in entries}
    if "dataset_dict.json" in names:
        inside = [one for one in entries if one.is_dir()]
        return [shard for one in inside for shard in _in_folder(place(one.path), columns)]
    if "state.json" in names:
        return _saved(folder)
    shards = [one.path for one in entries if one.is_file() and is_shard_name(one.name)]
    folders = [one for one in entries if one.is_dir()]
    known = {"data", *SPLIT_FOLDERS}
    pictures = any(Path(name).suffix.lower() in PICTURE_SUFFIXES for name in names)
    if pictures or any(one.name.lower() not in known for one in folders):
        return []
    for one in folders:
        within = [
            below for below in _entries(one.path) if not below.name.startswith((".", "_", "state"))
        ]
        if any(below.is_dir() for below in within):
            return []
        shards += [below.path for below in within if is_shard_name(below.name)]
    # Where a folder holds tables of paths as well, only the shards are meant.
    return [one for one in shards if _holds_pictures(one, columns)]


def _begins_with_pictures(folder: Path) -> bool:
    """Whether a picture lies in a folder: found at once in one with a million of them."""
    try:
        with os.scandir(folder) as listing:
            return any(
                Path(one.name).suffix.lower() in PICTURE_SUFFIXES and not one.name.startswith(".")
                for one in listing
            )
    except OSError:
        return False


def _saved(folder: Path) -> list[str]:
    """Read which files `datasets` saved a set into: others beside them are left-overs."""
    try:
        with open_binary(folder / "state.json") as file:
            named = [str(one["filename"]) for one in json.load(file)["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadShards(
            f"{shown(folder)} was saved by `datasets`, and its state.json cannot be read "
            f"({error}). Expected all the files that save_to_disk wrote. Nothing was read. Copy it "
            f"again."
        ) from error
    return [str(folder / name) for name in named]


def _holds_pictures(shard: str, columns: Columns | None) -> bool:
    """Whether a file called like a shard is one: a Parquet may be a table of paths."""
    if not shard.lower().endswith(".parquet"):
        return True
    pyarrow = load_pyarrow()
    try:
        with open_binary(shard) as file:
            schema = pyarrow.parquet.ParquetFile(file).schema_arrow
    except (OSError, pyarrow.ArrowInvalid):
        return False  # Said by who reads it as a table.
    found = _picture_columns(schema, pyarrow)
    wanted = columns.picture if columns else None
    return wanted in found if wanted else bool(found)


# ---- tar


class _Counted(io.RawIOBase):
    """Counts the bytes that are read from a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.n = file, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.n += len(data)
        return data


def _tar_samples(shard: str, columns: Columns) -> Iterator[Sample]:
    """Read a tar as a stream; files of one key, one after the other, are one picture."""
    with closing(_unpacked(shard)) as file:
        counted = _Counted(file)
        end = 0
        group: list[tuple[tarfile.TarInfo, bytes]] = []
        with tarfile.open(fileobj=counted, mode="r|", bufsize=1 << 20) as tar:
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
                if end > counted.n:
                    raise tarfile.ReadError(f"{member.name} breaks off")
        yield from _grouped(group, columns)
        # Behind the last file lie two empty blocks: without them, there may have been more.
        while counted.n < end + 512 and counted.read(1 << 20):
            pass
        if counted.n < end + 512:
            raise tarfile.ReadError("its end is missing")


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
    return file if shard.lower().endswith(".tar") else io.BufferedReader(_Gzip(file), 1 << 20)


class _Gzip(io.RawIOBase):
    """A gzip file that can be entered in the middle, where it was passed before.

    The state of unpacking is remembered every few megabytes (40 kB each), so going back costs no
    more than unpacking these again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._start()
        # (place unpacked, place packed, state of unpacking), the beginning first.
        self._states = [(0, 0, zlib.decompressobj(wbits=31))]

    def _start(self) -> None:
        self._at, self._packed_at = 0, 0
        self._unpacker = zlib.decompressobj(wbits=31)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            offset += self._at
        row = bisect.bisect_right(self._states, offset, key=lambda state: state[0]) - 1
        if offset < self._at or self._states[row][0] > self._at:
            at, packed_at, state = self._states[row]
            self._at, self._packed_at, self._unpacker, self._rest = at, packed_at, state.copy(), b""
            self._file.seek(packed_at)
        while self._at < offset and self.read(min(1 << 20, offset - self._at)):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        while True:
            if not self._rest and not self._unpacker.eof:
                self._remember()
            if not self._rest and self._unpacker.eof:
                # Another one may follow: gzip files are joined by writing one behind the other.
                self._rest = self._unpacker.unused_data.lstrip(b"\0") or self._more()
                if not self._rest:
                    return 0
                self._unpacker = zlib.decompressobj(wbits=31)
            self._rest = self._rest or self._more()
            if not self._rest:
                raise EOFError("its end is missing")
            data = self._unpacker.decompress(self._rest, len(buffer))
            self._rest = self._unpacker.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)

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


# ---- tables of rows: Parquet, and Arrow as `datasets` saves it


def _rows_of(shard: str, columns: Columns) -> Iterator[Sample]:
    pyarrow = load_pyarrow()
    with open_binary(shard) as file:
        batches = _parquet_batches if shard.lower().endswith(".parquet") else _arrow_batches
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


def _picture_columns(schema: Any, pyarrow: Any) -> list[str]:
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
    pictures = _picture_columns(schema, pyarrow)
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


# ---- reading here and there


class _Reader(Protocol):
    def read(self, name: str) -> bytes: ...


class _Tar:
    """Reads members of a tar by their place."""

    def __init__(self, shard: str) -> None:
        index = _remembered(shard)
        self._shard = shard
        self._row = {name: row for row, name in enumerate(index.names)}
        self._index = index
        self._lock = threading.Lock()
        parts = shard.lower().endswith(".tar") and (
            not is_address(shard) or stores.has_ranges(shard)
        )
        self._file = None if parts else _unpacked(shard)

    def read(self, name: str) -> bytes:
        row = self._row[name]
        start, size = int(self._index.starts[row]), int(self._index.sizes[row])
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


class _Rows:
    """Reads rows of a table; going on from the last one is quick, other rows cost their batch."""

    def __init__(self, shard: str) -> None:
        self._shard, self._pyarrow = shard, load_pyarrow()
        self._lock = threading.Lock()
        # Of pyarrow's own, which needs no closing.
        far = is_address(shard)
        self._file = open_binary(shard) if far else self._pyarrow.OSFile(shard)
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._parquet = shard.lower().endswith(".parquet")
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
            self._index = _remembered(shard)
        self._schema = schema
        self._picture = _columns_of(schema, shard, _chosen(shard), self._pyarrow)[0]

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
        start = int(self._index.starts[row])
        if start not in self._held:
            self._file.seek(start)
            message = self._pyarrow.ipc.read_message(self._file)
            batch = self._pyarrow.ipc.read_record_batch(message, self._schema)
            self._hold(start, batch.column(self._picture))
        first = int(np.searchsorted(self._index.starts, start))
        return self._held[start][row - first].as_py()

    def _hold(self, first: int, column: Any) -> None:
        self._held[first] = column
        # Threads ask for rows not quite in order.
        while len(self._held) > (8 if self._parquet else 2):
            self._held.popitem(last=False)


_lock = threading.Lock()
_readers: OrderedDict[str, _Reader] = OrderedDict()
_columns: dict[str, Columns] = {}


def _opened(shard: str) -> _Reader:
    with _lock:
        reader = _readers.get(shard)
        if reader is None:
            reader = _Tar(shard) if shard.lower().endswith(TAR_SUFFIXES) else _Rows(shard)
            _readers[shard] = reader
        _readers.move_to_end(shard)
        while len(_readers) > OPEN_SHARDS:
            _readers.popitem(last=False)
    return reader


def choose_columns(shards: Iterable[str], columns: Columns) -> None:
    """Remember which columns of these shards were asked for: the name of a picture says no more.

    Where they have changed meanwhile, they are opened anew.
    """
    with _lock:
        for shard in shards:
            _columns[shard] = columns
            _readers.pop(shard, None)


def _chosen(shard: str) -> Columns:
    return _columns.get(shard, Columns())


def _remembered(shard: str) -> Index:
    try:
        return index_of(shard, _chosen(shard))
    except FileNotFoundError as error:
        raise BadShards(f"{shown(shard)} is not there") from error


# ---- what is kept


def _facts(shard: str) -> tuple[int, ...] | None:
    """Return what tells whether a file changed; None where nothing does."""
    if is_address(shard):
        there = stores.info(shard)
        return None if there is None else there.facts
    return settled_facts(shard)


def _kept_in(shard: str, columns: Columns) -> Path:
    whole = shard if is_address(shard) else str(Path(shard).absolute())
    key = json.dumps([LAYOUT, whole, columns.picture, columns.label]).encode()
    return cache_folder() / "scans" / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}"


def _load(where: Path, facts: tuple[int, ...]) -> Index | None:
    try:
        with (where / "shard.npz").open("rb") as file, np.load(file, allow_pickle=False) as held:
            if held["facts"].tolist() != list(facts):
                return None
            said = json.loads(held["said"].tobytes())
            index = Index(
                said["names"],
                said["labels"],
                said["said_by"],
                held["starts"],
                held["sizes"],
                held["digests"],
                {int(row): why for row, why in said["troubles"].items()},
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    with suppress(OSError):
        os.utime(where)
    return index


def _save(where: Path, facts: tuple[int, ...], index: Index, shard: str) -> None:
    said = {
        "names": index.names,
        "labels": index.labels,
        "said_by": index.said_by,
        "troubles": {str(row): why for row, why in index.troubles.items()},
    }
    about = json.dumps({"folder": f"what {len(index)} pictures are in {shown(shard)}"})
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(where, error, ELSEWHERE_KEPT) from error
    with replacing(where / "shard.npz", ELSEWHERE_KEPT) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            facts=np.array(facts, dtype=np.int64),
            said=np.frombuffer(json.dumps(said).encode(), dtype=np.uint8),
            starts=index.starts,
            sizes=index.sizes,
            digests=index.digests,
        )
    with replacing(where / "about.json", ELSEWHERE_KEPT) as temporary:
        temporary.write_text(about)


def _few(items: Sequence[str]) -> str:
    more = len(items) - MAX_SHOWN
    return "; ".join(items[:MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
