"""What a shard holds: read as a stream, and kept."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart import stores
from tellapart.data.hashing import DIGEST_BYTES, settled_facts
from tellapart.data.shards.names import Columns, Sample, is_tar
from tellapart.data.shards.rows import row_samples
from tellapart.data.shards.tar import tar_samples
from tellapart.errors import BadShards, OutputError
from tellapart.files import ELSEWHERE_KEPT, cache_folder, output_error, replacing
from tellapart.stores import is_address, shown

# Of the layout of what is kept; another number finds nothing of this one.
LAYOUT = 1


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


def samples(shard: str, columns: Columns) -> Iterator[Sample]:
    """Yield the pictures of a shard as they are read from it, from its beginning to its end.

    Raises:
        BadShards: it is cut off or damaged, or has no such columns. FileNotFoundError, StoreError,
        MissingExtra.
    """
    kind = tar_samples if is_tar(shard) else row_samples
    try:
        yield from kind(shard, columns)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BadShards(f"{shown(shard)} is cut off or damaged ({error})") from error


def index_of(shard: str, columns: Columns, read: Callable[[int], None] = lambda _: None) -> Index:
    """Return what a shard holds: as it was kept if the file is as it was, else read now.

    read: told of the pictures read.

    Raises:
        As `samples`.
    """
    facts = _facts(shard)
    where = kept_in(shard, columns)
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


def _facts(shard: str) -> tuple[int, ...] | None:
    """Return what tells whether a file changed; None where nothing does."""
    if is_address(shard):
        there = stores.info(shard)
        return None if there is None else there.facts
    return settled_facts(shard)


def kept_in(shard: str, columns: Columns) -> Path:
    """Return the folder where what a shard holds is kept, as it was read by these columns."""
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
