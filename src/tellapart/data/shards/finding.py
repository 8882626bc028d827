"""Which shards a path names or holds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tellapart import stores
from tellapart.data.catalog import SPLIT_FOLDERS
from tellapart.data.pixels import PICTURE_SUFFIXES
from tellapart.data.shards.names import Columns, expand_braces, kind_of
from tellapart.data.shards.rows import picture_columns
from tellapart.data.tables import load_pyarrow
from tellapart.errors import BadShards, listed
from tellapart.files import is_file, open_binary
from tellapart.stores import is_address, place, shown


def find_shards(path: Path, columns: Columns | None = None) -> list[str]:
    """Return the shards that a path names or holds, in order; none where it is something else.

    It may be one, a range of them in braces, a folder that holds them, by themselves or in folders
    of splits or in `data`, or a folder that `datasets` saved.

    Raises:
        BadShards: a range of which some are missing. MissingExtra, StoreError.
    """
    text = str(path)
    if kind_of(text):
        names = [text] if os.path.lexists(text) else expand_braces(text)
        if names != [text]:
            return _all_there(names)
        there = is_address(path) or Path(text).is_file()
        return [text] if there and _holds_pictures(text, columns) else []
    return _in_folder(path, columns)


def _all_there(names: Sequence[str]) -> list[str]:
    missing = [one for one in names if not is_file(one)]
    if missing:
        raise BadShards(
            f"{len(missing)} of {len(names)} shards are not there: "
            f"{listed(list(map(shown, missing)), 3)}. Expected every file that the range in braces "
            f"stands for. Nothing was read. Copy them there, or correct the range."
        )
    return list(names)


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
    shards = [one.path for one in entries if one.is_file() and kind_of(one.name)]
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
        shards += [below.path for below in within if kind_of(below.name)]
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
    if kind_of(shard) != "parquet":
        return True
    pyarrow = load_pyarrow()
    try:
        with open_binary(shard) as file:
            schema = pyarrow.parquet.ParquetFile(file).schema_arrow
    except (OSError, pyarrow.ArrowInvalid):
        return False  # Said by who reads it as a table.
    found = picture_columns(schema, pyarrow)
    wanted = columns.picture if columns else None
    return wanted in found if wanted else bool(found)
