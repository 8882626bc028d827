"""Where answers go: CSV, JSON Lines or a folder of Parquet parts, whole rows at any moment."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from tellapart import stores
from tellapart.data.tables import load_pyarrow
from tellapart.errors import NotWritable, OutputExists
from tellapart.files import check_writable, open_binary, output_error, replacing
from tellapart.inference.classifier import Prediction

CSV_COLUMNS = ("path", "label", "confidence", "error", "unsure")
HEADER = (",".join(CSV_COLUMNS) + "\n").encode()
# How every row of JSON Lines begins: of a file that holds no whole row, nothing else is known.
JSON_START = b'{"path": '
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
# A folder of parts may be named like one file, as other tools do.
FOLDER_SUFFIXES = frozenset({"", ".parquet"})

# Answers reach the file at least so often: a kill loses no more.
FLUSH_S = 1.0
FLUSH_ROWS = 256
# A part is closed at least so often: small files read slowly, large ones lose more to a kill.
PART_S = 60.0
PART_ROWS = 4096

ELSEWHERE = "choose another place with --out"


class Held:
    """The paths that an output holds already, eight bytes each, however long they are."""

    def __init__(self, paths: Iterable[str]) -> None:
        hashes = np.fromiter((_hash(path) for path in paths), dtype=np.uint64)
        self._hashes, self._counts = np.unique(hashes, return_counts=True)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def take(self, path: str) -> bool:
        """Say whether the output holds the path, once for each time that it does."""
        wanted = _hash(path)
        row = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if row == len(self._hashes) or int(self._hashes[row]) != wanted or not self._counts[row]:
            return False
        self._counts[row] -= 1
        return True


class Output(Protocol):
    """A place for answers. What was written is whole rows, whenever and however the run ends.

    held: what lay there before this run and was not taken yet. A context manager: leaving it
    writes what is pending.
    """

    held: Held

    def write(self, prediction: Prediction) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_output(path: str | Path, classes: Iterable[str], resume: bool = False) -> Output:
    """Open a file (.csv, .jsonl, .ndjson) or a folder of Parquet parts for answers.

    path: also the address of one in a store. A file there appears when it is whole, at the end of
        the run, and not at all where that fails; of a folder each part does.

    classes: those of the classifier; an output with others is not gone on with.
    resume: add to what lies there. Half a row at its end, left by a kill, is cut off.

    Raises:
        OutputExists: something lies there, and not to be resumed, or of another classifier.
        NotWritable, DiskFull, MissingExtra, StoreError.
    """
    target = stores.place(path)
    suffix = target.suffix.lower()
    known = frozenset(classes)
    if target.is_dir() or suffix in FOLDER_SUFFIXES:
        return _Parts(target, known, resume)
    if suffix not in JSON_SUFFIXES | {".csv"}:
        raise NotWritable(
            f"What to write into {target} is not clear from its suffix. Expected .csv, .jsonl or "
            f".ndjson, or a folder (no suffix, or .parquet) for Parquet parts. Nothing was "
            f"predicted. Name --out accordingly."
        )
    if isinstance(target, stores.Address):
        return _FarLines(target, known, resume)
    return _Lines(target, known, resume)


def csv_line(cells: Iterable[Any]) -> str:
    """Return one row of a CSV file, its line end included."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def csv_cells(prediction: Prediction) -> list[str | None]:
    """Return an answer as the cells of CSV_COLUMNS."""
    confidence = "" if prediction.confidence is None else f"{prediction.confidence:.6f}"
    unsure = "" if prediction.error else str(prediction.unsure).lower()
    return [prediction.path, prediction.label, confidence, prediction.error, unsure]


class _Lines:
    """Rows of text. Each flush writes at a remembered place, so one cut short can be repeated."""

    def __init__(self, path: Path, known: frozenset[str], resume: bool) -> None:
        self._path = path
        self._json = path.suffix.lower() in JSON_SUFFIXES
        _refuse_existing(path, resume, path.exists() and path.stat().st_size > 0)
        self._whole = 0
        self.held = Held(self._rows(known) if resume and path.exists() else ())
        self._pending: list[bytes] = []
        self._flushed = time.monotonic()
        try:
            self._file = path.open("r+b" if path.exists() else "xb", buffering=0)
            self._file.truncate(self._whole)
        except OSError as error:
            raise output_error(path, error, ELSEWHERE) from error
        if not self._whole and not self._json:
            self._pending.append(HEADER)

    def write(self, prediction: Prediction) -> None:
        self._add(
            json.dumps(prediction.as_dict()) + "\n"
            if self._json
            else csv_line(csv_cells(prediction))
        )
        if len(self._pending) >= FLUSH_ROWS or time.monotonic() - self._flushed >= FLUSH_S:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._file.close()

    def _add(self, line: str) -> None:
        self._pending.append(line.encode(errors="backslashreplace"))

    def _flush(self) -> None:
        data = b"".join(self._pending)
        try:
            self._file.seek(self._whole)
            done = 0
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            self._file.truncate(self._whole)
            self._pending.clear()
            raise output_error(self._path, error, ELSEWHERE) from error
        # In one step: a Ctrl-C between the two would write the rows again.
        self._whole, self._pending = self._whole + len(data), []
        self._flushed = time.monotonic()

    @property
    def place(self) -> Path:
        """Where the rows are."""
        return self._path

    def _rows(self, known: frozenset[str]) -> Iterator[str]:
        """Yield the path of each whole row and leave in `_whole` where the last one ends."""
        with self._path.open("rb") as file:
            rows = _json_rows(file) if self._json else _csv_rows(file)
            for number, (end, path, label) in enumerate(rows, start=1):
                if path is None or (label and label not in known):
                    raise _not_ours(self._path, f"row {number} is no answer of this classifier")
                self._whole = end
                if end > len(HEADER) or self._json:
                    yield path
            if not self._whole:
                file.seek(0)
                start = JSON_START if self._json else HEADER
                if not start.startswith(file.read(len(start))):
                    raise _not_ours(self._path, "it does not begin as one")


class _FarLines:
    """Rows of text for a store, which knows whole files only: written here, sent at the end.

    held: as it was there before; with these rows the file is replaced.
    """

    def __init__(self, address: stores.Address, known: frozenset[str], resume: bool) -> None:
        there = stores.info(address)
        _refuse_existing(address, resume, there is not None and there.size > 0)
        check_writable(address, ELSEWHERE)
        self._address = address
        self._folder = tempfile.TemporaryDirectory(prefix="tellapart-")
        local = Path(self._folder.name) / address.name
        try:
            if there is not None and there.size:
                with stores.open_read(address) as source, local.open("wb") as file:
                    shutil.copyfileobj(source, file, stores.BLOCK_BYTES)
            self._lines = _Lines(local, known, resume)
        except BaseException:
            self._folder.cleanup()
            raise
        self.held = self._lines.held

    def write(self, prediction: Prediction) -> None:
        self._lines.write(prediction)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._folder:
            self._lines.__exit__()
            if kind is None:
                with replacing(self._address, ELSEWHERE) as temporary:
                    shutil.move(self._lines.place, temporary)


class _Parts:
    """A folder of Parquet files, each written whole and then given its name."""

    def __init__(self, folder: Path, known: frozenset[str], resume: bool) -> None:
        self._arrow = load_pyarrow()
        self._folder = folder
        try:
            parts = self._opened(folder, resume)
        except OSError as error:
            raise output_error(folder, error, ELSEWHERE) from error
        self.held = Held(self._rows(parts, known))
        numbers = (part.stem.partition("-")[2] for part in parts)
        # As numbers: from 100 000 on, the last by name is not the last.
        self._next = max((int(one) for one in numbers if one.isdecimal()), default=-1) + 1
        self._pending: list[dict[str, Any]] = []
        self._begun = time.monotonic()

    def _opened(self, folder: Path, resume: bool) -> list[Path]:
        """Make the folder where there is none, and return the parts in it."""
        if isinstance(folder, stores.Address):
            found = [stores.place(one.path) for one in stores.listed(folder)]
            _refuse_existing(folder, resume, bool(found))
            stores.make_folder(folder)
            check_writable(folder / "part-00000.parquet", ELSEWHERE)
            return [one for one in found if fnmatch(one.name, "part-*.parquet")]
        folder.mkdir(exist_ok=True)
        _refuse_existing(folder, resume, any(folder.iterdir()))
        for torn in folder.glob(".part-*.parquet.*.part"):
            torn.unlink()  # Ours: a kill stopped it from getting its name.
        return sorted(folder.glob("part-*.parquet"))

    def write(self, prediction: Prediction) -> None:
        self._pending.append(prediction.as_dict())
        if len(self._pending) >= PART_ROWS or time.monotonic() - self._begun >= PART_S:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = [
            {name: _utf8(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in self._pending
        ]
        table = self._arrow.Table.from_pylist(rows, schema=_schema(self._arrow))
        with replacing(self._folder / f"part-{self._next:05d}.parquet", ELSEWHERE) as temporary:
            self._arrow.parquet.write_table(table, temporary)
        self._next, self._pending, self._begun = self._next + 1, [], time.monotonic()

    def _rows(self, parts: list[Path], known: frozenset[str]) -> Iterator[str]:
        for part in parts:
            try:
                with open_binary(part) as file:
                    table = self._arrow.parquet.read_table(file, columns=["path", "label"])
            except (self._arrow.ArrowInvalid, KeyError, OSError) as error:
                raise _not_ours(part, "it cannot be read as answers") from error
            labels = set(table.column("label").unique().to_pylist())
            if not labels <= known | {None}:
                raise _not_ours(part, "it holds answers of another classifier")
            yield from table.column("path").to_pylist()


def _schema(arrow: Any) -> Any:
    """Return the columns of a part: the keys of `Prediction.as_dict`, with their types."""
    text, number = arrow.string(), arrow.float64()
    pair = arrow.struct([("label", text), ("confidence", number)])
    return arrow.schema(
        [
            ("path", text),
            ("label", text),
            ("confidence", number),
            ("top", arrow.list_(pair)),
            ("error", text),
            ("unsure", arrow.bool_()),
            ("candidates", arrow.list_(text)),
            ("reason", text),
        ]
    )


def _json_rows(file: Iterable[bytes]) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield (end in bytes, path, label) of each whole line; the path is None where there is none.

    A last line without its end is left out.
    """
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            row = json.loads(line)
            yield end, str(row["path"]), row["label"]
        except (ValueError, KeyError, TypeError):
            yield end, None, None


def _csv_rows(file: Iterable[bytes]) -> Iterator[tuple[int, str | None, str | None]]:
    """Yield (end in bytes, path, label) of each whole row; the path is None where there is none.

    A name may hold line ends, so that a row is whole only when its quotes are closed. What breaks
    off at the end is left out; what is wrong before that has no path.
    """
    end, at_end = 0, False

    def lines() -> Iterator[str]:
        nonlocal end, at_end
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield line.decode(errors="replace")
        at_end = True

    rows = csv.reader(lines(), strict=True)
    try:
        for header in islice(rows, 1):
            yield end, "" if tuple(header) == CSV_COLUMNS else None, None
        for row in rows:
            whole = len(row) == len(CSV_COLUMNS)
            yield end, row[0] if whole else None, row[1] if whole else None
    except csv.Error:
        if not at_end:
            yield end, None, None


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(_bytes(path), digest_size=8).digest(), "little")


def _bytes(text: str) -> bytes:
    # As it stands in every output, so that a path is known again.
    return text.encode(errors="backslashreplace")


def _utf8(text: str) -> str:
    return _bytes(text).decode()


def _refuse_existing(path: Path, resume: bool, there: bool) -> None:
    if there and not resume:
        raise OutputExists(
            f"{path} holds something already. Expected a new name: results are never overwritten. "
            f"Nothing was predicted. Add --resume to go on with it, or choose another --out."
        )


def _not_ours(path: Path, what: str) -> OutputExists:
    return OutputExists(
        f"{path} cannot be gone on with: {what}. Expected an output of `predict` with the same "
        f"classifier. It was left as it is, and nothing was predicted. Choose another --out."
    )
