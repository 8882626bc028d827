"""The tables in which people name groups and move single pictures, and the plan they become."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tellapart.data.catalog import SetAside
from tellapart.data.hashing import hash_files
from tellapart.data.tables import open_table
from tellapart.errors import BadTable, TablesDoNotFit, TablesEdited, TablesNotFound
from tellapart.files import output_error, write_atomically
from tellapart.inference.outputs import csv_line
from tellapart.inference.sorting import How, Plan, Verdict, check_folders, plan_sort
from tellapart.progress import Progress
from tellapart.stores import place

GROUPS, PICTURES, NEXT, ABOUT = "groups.csv", "pictures.csv", "next.csv", "about.json"
ELSEWHERE = "choose another place with --out"

# Before a hash: spreadsheets would take one that is all digits for a number.
_HASH = "blake2b-"
# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@")


def write_tables(
    folder: Path, tables: Mapping[str, Iterable[Sequence[Any]]], facts: Mapping[str, Any]
) -> None:
    """Write tables (name -> rows, the header first) and what tells later whether they were edited.

    Raises:
        DiskFull, NotWritable.
    """
    written = {}
    for name, rows in tables.items():
        # With a byte order mark, by which spreadsheets know UTF-8.
        data = "".join(map(csv_line, rows)).encode("utf-8-sig")
        write_atomically(folder / name, data, ELSEWHERE)
        written[name] = hashlib.sha256(data).hexdigest()
    about = json.dumps({**facts, "written": written}, indent=1)
    write_atomically(folder / ABOUT, about, ELSEWHERE)


def check_place(folder: Path) -> None:
    """Make the folder for tables, and refuse one whose tables somebody has edited.

    Raises:
        TablesEdited, DiskFull, NotWritable.
    """
    edited = [name for name in (GROUPS, PICTURES, NEXT) if _edited(folder, name)]
    if edited:
        raise TablesEdited(
            f"{folder} holds tables that were edited since they were written "
            f"({', '.join(edited)}). Expected a new folder, or tables that nobody touched. "
            f"Nothing was changed. Sort by the tables with --into FOLDER, or group anew into "
            f"another folder with --out."
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(folder, error, ELSEWHERE) from error


def shown_path(path: str) -> str:
    """Write a relative path so that no spreadsheet takes it for a formula."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def shown_hash(digest: bytes) -> str:
    """Write the hash of a file as it stands in a table."""
    return _HASH + digest.decode()


def plan_named(
    gallery: str | Path,
    tables: str | Path,
    into: str | Path,
    how: How = "move",
    progress: Progress | None = None,
) -> Plan:
    """Decide where the pictures of named groups go. Nothing is touched.

    Pictures without a name stay where they are. What is gone is counted, as it may have been
    sorted before; what has changed since it was grouped stays and is told in `left`.

    Raises:
        TablesNotFound, TablesDoNotFit, BadTable; SortRefused: the folders do not go together.
    """
    gallery, into = place(gallery).absolute(), place(into)
    check_folders(gallery, into.absolute())
    rows, n_unnamed = _named_rows(Path(tables).expanduser())
    there = [row for row in rows if (gallery / row.path).is_file()]
    if not there:
        raise TablesDoNotFit(
            f"None of the {len(rows)} named pictures of {tables} lies in {gallery}; the first is "
            f"{rows[0].path}. Expected the folder that was grouped. Nothing was moved. Check the "
            f"path, or group it anew: they may have been sorted already."
        )
    paths = [str(gallery / row.path) for row in there]
    digests, unopened = hash_files(paths, None, progress or Progress("quiet"))
    verdicts, changed = [], []
    for number, row in enumerate(there):
        if number in unopened:
            changed.append(SetAside(paths[number], unopened[number]))
        elif row.hash and row.hash != shown_hash(digests[number]):
            why = "has changed since it was grouped; run `tellapart group` again"
            changed.append(SetAside(paths[number], why))
        else:
            verdicts.append(Verdict(paths[number], row.name))
    plan = plan_sort(verdicts, gallery, into, how)
    gone = len(rows) - len(there)
    notes = [
        f"{n_unnamed} pictures have no name: they stay where they are." if n_unnamed else "",
        f"{gone} named pictures are no longer there, as after a sort." if gone else "",
    ]
    return replace(
        plan, left=(*plan.left, *changed), notes=(*plan.notes, *(one for one in notes if one))
    )


@dataclass(frozen=True)
class _Row:
    """A named picture: its path below the gallery, its class, and its hash as in the table."""

    path: str
    name: str
    hash: str


def _named_rows(folder: Path) -> tuple[list[_Row], int]:
    """Read both tables; return the pictures that have a name, and how many have none."""
    names: dict[str, str] = {}
    problems = []
    for group, name in _cells(folder / GROUPS, ("group", "name")):
        if names.setdefault(_number(group), name.strip()) != name.strip():
            problems.append(f"{GROUPS} has two names for group {group}")
    found: dict[str, _Row] = {}
    n_unnamed = 0
    columns = ("path", "group", "name", "hash")
    for line, (path, group, own, digest) in enumerate(_cells(folder / PICTURES, columns), start=2):
        parts = PurePosixPath(path)
        name = own.strip() or names.get(_number(group), "")
        if parts.is_absolute() or ".." in parts.parts or not path.strip():
            problems.append(f"line {line}: {path!r} is no path below the gallery")
        elif _number(group) and _number(group) not in names and not own.strip():
            problems.append(f"line {line}: there is no group {group!r} in {GROUPS}")
        elif str(parts) in found and found[str(parts)].name != name:
            problems.append(f"line {line}: {path} has two names, {found[str(parts)].name!r} too")
        elif name:
            found[str(parts)] = _Row(str(parts), name, digest.strip())
        else:
            n_unnamed += 1
    if problems:
        raise TablesDoNotFit(
            f"{folder / PICTURES} cannot be used: {'; '.join(problems[:6])}"
            f"{f' and {len(problems) - 6} more' if len(problems) > 6 else ''}. Expected a row a "
            f"picture, its group one of {GROUPS}, or empty. Nothing was moved. "
            f"Correct these lines, or group the pictures anew."
        )
    if not found:
        raise TablesDoNotFit(
            f"No group has a name yet. Expected names in the column `name` of {folder / GROUPS}, "
            f"or of {PICTURES} for single pictures. Nothing was moved. Look at groups.html, write "
            f"names, and give the same command again."
        )
    return list(found.values()), n_unnamed


def _cells(path: Path, columns: Sequence[str]) -> Iterable[tuple[str, ...]]:
    if not path.is_file():
        raise TablesNotFound(
            f"There is no table {path}. Expected the folder that `tellapart group` wrote, with "
            f"{GROUPS} and {PICTURES}. Nothing was moved. Name it with --out, or group the "
            f"pictures first, without --into."
        )
    table = open_table(str(path))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise BadTable(
            f"The table {path} has no column {', '.join(missing)}; it has "
            f"{', '.join(table.columns) or 'none'}. Nothing was moved. Give it the first line "
            f"{','.join(columns)} again."
        )
    return table.cells(columns)


def _number(group: str) -> str:
    """Read a group as it may come back from a spreadsheet."""
    return group.strip().removesuffix(".0")


def _edited(folder: Path, name: str) -> bool:
    """Whether a table lies there that is not as it was written."""
    if not (folder / name).exists():
        return False
    try:
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["written"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return hashlib.sha256((folder / name).read_bytes()).hexdigest() != str(written)
