"""Tables and lists that name picture files: CSV, TSV, Parquet, and plain lines of text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tellapart.data.pixels import PICTURE_SUFFIXES
from tellapart.errors import BadTable, MissingExtra
from tellapart.files import open_binary
from tellapart.stores import is_address

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})

# What the columns are usually called; compared without case.
COLUMN_NAMES = {
    "path": ("path", "file", "filename", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "labels", "class", "class_name", "classname", "category", "target"),
    "split": ("split", "subset", "partition"),
    "group": ("group", "group_id"),
    # Where there is no column of paths.
    "url": ("url", "image_url", "uri", "link"),
    # What is known about a picture from the network, and goes with it.
    "source": ("source", "provider"),
    "page": ("page", "landing_url", "foreign_landing_url"),
    "title": ("title",),
    "author": ("author", "creator", "photographer"),
    "author_url": ("author_url", "creator_url"),
    "licence": ("licence", "license"),
    "licence_url": ("licence_url", "license_url"),
    "attribution": ("attribution",),
}
ABOUT = (
    "source", "page", "title", "author", "author_url", "licence", "licence_url", "attribution",
)  # fmt: skip

_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(PICTURE_SUFFIXES))
_PATH_THEN_LABEL = re.compile(rf"(.*?(?:{_SUFFIXES}))\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A table on disk whose rows have not been read yet.

    columns: their names; "1", "2", … where it has no header. delimiter: None for Parquet.
    """

    path: str
    columns: tuple[str, ...]
    headed: bool
    delimiter: str | None

    def find(self, kind: str, given: str | None = None) -> str | None:
        """Find the column of a kind of `COLUMN_NAMES`: the given one, or by its name.

        None where there is none, or several.
        """
        if given is not None:
            return given if self.columns.count(given) == 1 else None
        known = COLUMN_NAMES[kind]
        found = [name for name in self.columns if name.strip().lower() in known]
        return found[0] if len(found) == 1 else None

    def find_path(self, given: str | None = None) -> str | None:
        """Find the column of paths, which may also be the only one, or be known by its content."""
        if given is None and not self.headed:
            first = next(self.cells(self.columns))
            return next(
                name for name, cell in zip(self.columns, first, strict=False) if _is_picture(cell)
            )
        if given is None and len(self.columns) == 1:
            return self.columns[0]
        kind = "url" if given is None and not self.named("path") else "path"
        return self.find(kind, given)

    def named(self, kind: str) -> tuple[str, ...]:
        """Return the columns that are called like a kind."""
        known = COLUMN_NAMES[kind]
        return tuple(name for name in self.columns if name.strip().lower() in known)

    def cells(self, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield the cells of the columns, row by row, as text; "" where one is missing.

        Raises:
            BadTable, MissingExtra.
        """
        rows = self._csv_rows if self.delimiter else self._parquet_rows
        try:
            yield from rows([self.columns.index(column) for column in columns])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(self.path, error) from error

    def _csv_rows(self, places: list[int]) -> Iterator[tuple[str, ...]]:
        with _open_text(self.path) as file:
            rows = csv.reader(file, delimiter=self.delimiter or ",")
            if self.headed:
                next(rows)
            for row in rows:
                if row:
                    yield tuple(row[place] if place < len(row) else "" for place in places)

    def _parquet_rows(self, places: list[int]) -> Iterator[tuple[str, ...]]:
        pyarrow = load_pyarrow()
        names = [self.columns[place] for place in places]
        try:
            with open_binary(self.path) as opened:
                file = pyarrow.parquet.ParquetFile(opened)
                for batch in file.iter_batches(4096, columns=names):
                    columns = [
                        batch.column(batch.schema.names.index(name)).to_pylist() for name in names
                    ]
                    for cells in zip(*columns, strict=True):
                        yield tuple("" if cell is None else str(cell) for cell in cells)
        except pyarrow.ArrowInvalid as error:
            raise OSError(str(error)) from error


def open_table(path: str) -> Table:
    """Open a table far enough to know its columns.

    Raises:
        BadTable, MissingExtra.
    """
    try:
        if path.lower().endswith(".parquet"):
            return _open_parquet(path)
        with _open_text(path) as file:
            first = file.readline()
            if not first.strip():
                return Table(path, (), True, ",")
            delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t", key=first.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    # A bare list of files has no header: its first row is one.
    if any(map(_is_picture, header)):
        numbers = tuple(str(number) for number in range(1, len(header) + 1))
        return Table(path, numbers, False, delimiter)
    return Table(path, tuple(header), True, delimiter)


def split_line(line: str) -> tuple[str, str] | None:
    """Split a line into path and label, at a tab, or at the white space behind a picture's suffix.

    A URL ends at the first white space. None where there is no such place, or more than one.
    """
    if "\t" in line:
        path, _, label = line.partition("\t")
        return (path, label) if path and label and "\t" not in label else None
    if is_address(line):
        parts = line.split(maxsplit=1)
        return (parts[0], parts[1]) if len(parts) == 2 else None
    places = [match.end() for match in _PATH_THEN_LABEL.finditer(line)]
    return (line[: places[0]].rstrip(), line[places[0] :]) if len(places) == 1 else None


def read_lines(path: str) -> list[tuple[int, str]]:
    """Return the lines of a text that are not empty, with their numbers from 1.

    Raises:
        BadTable.
    """
    try:
        with io.TextIOWrapper(open_binary(path), encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    lines = enumerate(text.split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def load_pyarrow() -> Any:
    """Import pyarrow with its Parquet part.

    Raises:
        MissingExtra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "Reading and writing Parquet needs pyarrow, which is not installed. CSV and JSON Lines "
            "need nothing. Install it with: pip install 'tellapart[parquet]'"
        ) from error
    return pyarrow


def _open_text(path: str) -> IO[str]:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")


def _open_parquet(path: str) -> Table:
    pyarrow = load_pyarrow()
    try:
        with open_binary(path) as file:
            names = pyarrow.parquet.ParquetFile(file).schema_arrow.names
    except pyarrow.ArrowInvalid as error:
        raise OSError(str(error)) from error
    return Table(path, tuple(names), True, None)


def _is_picture(cell: str) -> bool:
    return is_address(cell) or Path(cell).suffix.lower() in PICTURE_SUFFIXES


def _unreadable(path: str, error: Exception) -> BadTable:
    return BadTable(
        f"The table {path} cannot be read: {error}. Expected UTF-8 text with one row a line, "
        f"or Parquet. Nothing after that row was used. Save it again as CSV in UTF-8."
    )
