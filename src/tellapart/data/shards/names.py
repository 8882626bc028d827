"""What shards are called, and the pictures in them: SHARD#MEMBER."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tellapart.data.catalog import SPLIT_FOLDERS
from tellapart.errors import BadShards
from tellapart.stores import is_address, shown

_KINDS = {
    ".tar": "tar",
    ".tar.gz": "packed",
    ".tgz": "packed",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# The query of a URL belongs to the shard.
_MEMBER = re.compile(
    r"(.+?\.(?:tar|tar\.gz|tgz|arrow|parquet)(?:\?[^#]*)?)#(.+)", re.IGNORECASE | re.DOTALL
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
# A name of several shards can stand for so many files at most.
MOST_SHARDS = 1_000_000


def first_rows(names: Sequence[str]) -> dict[str, int]:
    """Return the row of each name; of one that is there twice the first counts, as in a catalog."""
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, row)
    return rows


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


def split_member(path: str) -> tuple[str, str] | None:
    """Split the name of a picture in a shard into shard and member; None for any other path."""
    if "#" not in path:
        return None
    match = _MEMBER.fullmatch(path)
    if match is None or not kind_of(match[1]) or os.path.lexists(path):
        return None
    return match[1], match[2]


def kind_of(name: str) -> str:
    """Return "tar", "packed" (a tar in gzip), "parquet" or "arrow", as a name says; "" for others.

    A .parquet may be a table of paths as well.
    """
    plain = _without_query(name).lower()
    return next((kind for ending, kind in _KINDS.items() if plain.endswith(ending)), "")


def is_tar(name: str) -> bool:
    """Whether a file is called like a tar, packed or not."""
    return kind_of(name) in ("tar", "packed")


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


def split_of(shard: str) -> str:
    """Return the split that the name of a shard, or else of its folder, says; "" for none."""
    folder, _, name = _without_query(shard).rpartition("/")
    words = re.split(r"[-_.]", name.lower())
    above = folder.rpartition("/")[2].lower()
    return next((SPLIT_FOLDERS[one] for one in (*words, above) if one in SPLIT_FOLDERS), "")


def _without_query(name: str) -> str:
    return name.partition("?")[0] if is_address(name) else name
