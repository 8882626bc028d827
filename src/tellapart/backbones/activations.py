"""What a frozen network makes of each picture, computed once and kept.

A kept set is a folder of shards. A shard is one .npy file of (digest, activation) records,
written whole or not at all, so a run that is killed loses at most the last shard, and two runs
may write at once. Its name ends in its checksum, so one that the disk damaged is never used.

Sets are keyed by everything that can change the numbers: the graph with its weights, the
preprocessing, the code and libraries that decode, the runtime and its precision, the output, and
the view. A picture in a set is keyed by the hash of its bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.cache import describe, mark_used
from tellapart.data.columns import blocks, forget, zeros
from tellapart.data.pixels import Pixels, Preprocessing, decode_with_names
from tellapart.data.shards.reading import in_reading_order
from tellapart.errors import OutputError, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, write_atomically
from tellapart.progress import Progress

# A shard is written when it holds this many pictures or is this old: what a kill can lose.
SHARD_PICTURES = 2048
SHARD_AGE_S = 5.0


class Runtime(Protocol):
    """Something that runs a frozen network: OpenVINO on processors, torch on accelerators."""

    @property
    def identity(self) -> str:
        """What, besides graph and pixels, can change the numbers."""

    def run(self, pictures: Iterator[Pixels]) -> Iterator[NDArray[np.float16]]:
        """Compute one activation for each picture, in order."""


class Reader(Protocol):
    """Something that turns a picture file into one array of pixels for each kept set asked for."""

    def __call__(self, path: str, digest: bytes, wanted: tuple[int, ...]) -> Sequence[Pixels]:
        """Read one file; `wanted` are the numbers of the sets that lack it."""


@dataclass(frozen=True)
class Filled:
    """What was done to fill kept sets.

    unreadable: row -> reason. n_computed: how many pictures were computed now, not found.
    """

    unreadable: dict[int, str]
    n_computed: int


Paths = Sequence[str] | NDArray[np.str_]
Digests = Sequence[bytes] | NDArray[np.bytes_]
# More than the pictures of any shard: a place is the number of the shard times this, and the row.
_SHARD = 1 << 32
# Path, digest, and the numbers of the sets that lack it.
_Job = tuple[str, bytes, tuple[int, ...]]


class KeptSet:
    """Activations of one kind on disk, found by the digests of the pictures they came from."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        text = json.dumps(dict(facts), sort_keys=True).encode()
        self.folder = cache_folder() / "activations" / hashlib.sha256(text).hexdigest()[:24]
        self._facts = dict(facts)
        self._shards: list[NDArray[Any]] = []
        self._index = _Index()
        self._opened: set[str] = set()
        self.refresh()
        if self._shards:
            mark_used(self.folder)

    def refresh(self) -> None:
        """Take up what other processes have kept here meanwhile."""
        for path in sorted(self.folder.glob("*.npy")):
            if path.name not in self._opened:
                self._open(path)

    def __contains__(self, digest: bytes) -> bool:
        return bool(self.has([digest])[0])

    def has(self, digests: Digests) -> NDArray[np.bool_]:
        """Say of which pictures (N,) an activation is kept."""
        found: NDArray[np.bool_] = self._index.find(digests) >= 0
        return found

    def get(self, digest: bytes) -> NDArray[np.float16]:
        """Return the kept activation of a picture: (D,) features, or (C, H, W) maps.

        Raises:
            KeyError: there is none.
        """
        return self._at(self._places([digest])[0])

    def rows(self, digests: Digests) -> NDArray[np.float16]:
        """Return the kept activations of pictures (N, …), one at least; KeyError if one lacks."""
        return np.stack([self._at(place) for place in self._places(digests)])

    def _places(self, digests: Digests) -> list[int]:
        places = self._index.find(digests)
        if (places < 0).any():
            raise KeyError(bytes(digests[int(np.argmin(places))]))
        found: list[int] = places.tolist()
        return found

    def _at(self, place: int) -> NDArray[np.float16]:
        values: NDArray[np.float16] = self._shards[place // _SHARD]["activation"][place % _SHARD]
        return values

    def forget(self) -> None:
        """Give memory back: what was read lately is read from disk again when needed."""
        for shard in self._shards:
            forget(shard)

    def remove(self) -> None:
        """Delete what is kept; this object must not be used after."""
        self._shards, self._index = [], _Index()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(
        self, digests: Sequence[bytes], values: Sequence[NDArray[np.float16]]
    ) -> OutputError | None:
        """Keep activations, (D,) or (C, H, W) each, as one more shard.

        If it cannot be written they are kept in memory for this run, and the error is returned.
        """
        shape = values[0].shape
        records = np.empty(len(digests), dtype=[("digest", "S32"), ("activation", "<f2", shape)])
        records["digest"], records["activation"] = digests, values
        # Through memory: on a full disk numpy's own writing loses the reason.
        file = io.BytesIO()
        np.save(file, records)
        data = file.getvalue()
        path = self.folder / f"{time.time_ns():020d}-{zlib.crc32(data):08x}.npy"
        try:
            describe(self.folder, self._facts)
            write_atomically(path, data, ELSEWHERE_KEPT)
        except OutputError as error:
            self._take(records)
            return error
        self._open(path)
        return None

    def _open(self, path: Path) -> None:
        self._opened.add(path.name)
        try:
            if f"{_checksum(path):08x}" == path.stem.rpartition("-")[2]:
                self._take(np.load(path, mmap_mode="r"))
            else:
                path.unlink(missing_ok=True)
        except OSError:
            # Pruned by another run, or damaged and read-only: it is computed again.
            return

    def _take(self, records: NDArray[Any]) -> None:
        self._shards.append(records)
        start = (len(self._shards) - 1) * _SHARD
        self._index.add(records["digest"], np.arange(start, start + len(records)))
        # Digests lie between activations: reading them has mapped the whole shard.
        forget(records)


class _Index:
    """Where the activation of each picture lies: 40 bytes a picture, as a dict takes 250."""

    def __init__(self) -> None:
        self._digests: NDArray[np.bytes_] = np.zeros(0, dtype="S32")
        self._places: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._new: list[tuple[NDArray[np.bytes_], NDArray[np.int64]]] = []
        self._lock = threading.Lock()

    def add(self, digests: NDArray[np.bytes_], places: NDArray[np.int64]) -> None:
        self._new.append((digests.copy(), places))

    def find(self, digests: Digests) -> NDArray[np.int64]:
        """Return the place (N,) of each picture, -1 where there is none."""
        asked = np.asarray(digests, dtype="S32")
        with self._lock:
            if self._new:
                self._sort_in()
        if not len(self._digests):
            return np.full(len(asked), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._digests, asked), len(self._digests) - 1)
        return np.where(self._digests[at] == asked, self._places[at], -1)

    def _sort_in(self) -> None:
        """Put new ones between the others: sorting all of a million takes a second each time."""
        digests = np.concatenate([digests for digests, _ in self._new])
        places = np.concatenate([places for _, places in self._new])
        order = np.argsort(digests)
        at = np.searchsorted(self._digests, digests[order])
        self._places = np.insert(self._places, at, places[order])
        self._digests = np.insert(self._digests, at, digests[order])
        self._new = []


def kept_set(
    backbone: str,
    graph: bytes,
    preprocessing: Preprocessing,
    runtime: Runtime,
    output: str,
    view: str = "plain",
) -> KeptSet:
    """Open the kept set for a graph, a preprocessing, a runtime and a view; new if there is none.

    view: "plain", or everything that decides how a random view is drawn.
    """
    return KeptSet(
        {
            "backbone": backbone,
            "graph": hashlib.sha256(graph).hexdigest(),
            "preprocessing": json.dumps(asdict(preprocessing), sort_keys=True),
            "decoder": decoder_identity(),
            "runtime": runtime.identity,
            "output": output,
            "view": view,
        }
    )


def fill(
    paths: Paths,
    digests: Digests,
    read: Reader,
    runtime: Runtime,
    sets: Sequence[KeptSet],
    progress: Progress,
    must_keep: bool = False,
) -> Filled:
    """Compute what the sets lack of these pictures, and keep it.

    A file is decoded once for all sets, and identical files are computed once. If the disk is
    full, the run goes on without keeping. Never are all pictures in memory, however many.

    must_keep: others read it from the disk; if that is full, the error is raised.
    """
    files, known = np.asarray(paths, dtype=np.str_), np.asarray(digests, dtype="S32")
    n_views = sum(int((~kept.has(one)).sum()) for one in _blocks(known) for kept in sets)
    errors: dict[bytes, str] = {}
    fed: deque[tuple[int, bytes]] = deque()
    n_begun = 0

    def readable() -> Iterator[Pixels]:
        nonlocal n_begun
        jobs = _lacking(files, known, sets)
        for (_, digest, wanted), pictures in decode_with_names(jobs, lambda job: read(*job)):
            n_begun += 1
            if isinstance(pictures, UnreadablePicture):
                errors[digest] = str(pictures)
                continue
            for number, picture in zip(wanted, pictures, strict=True):
                fed.append((number, digest))
                yield picture

    shards = [_Shard(kept, progress, must_keep) for kept in sets]
    what = "pictures" if len(sets) == 1 else "views"
    with progress.bar("Looking at pictures", n_views, what) as advance:
        try:
            for values in runtime.run(readable()) if n_views else ():
                number, digest = fed.popleft()
                shards[number].add(digest, values)
                advance(1)
        finally:
            # Also on Ctrl-C: what was computed is kept.
            for shard in shards:
                shard.flush()
    rows = enumerate(chain.from_iterable(one.tolist() for one in _blocks(known))) if errors else ()
    unreadable = {row: errors[digest] for row, digest in rows if digest in errors}
    return Filled(unreadable, n_begun - len(errors))


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array in parts; what is mapped is in memory only while its part is worked on."""
    for part in blocks(len(values)):
        yield values[part]
        forget(values)


def _lacking(
    paths: NDArray[np.str_], digests: NDArray[np.bytes_], sets: Sequence[KeptSet]
) -> Iterator[_Job]:
    """Yield each different picture that a set lacks, those in shards from front to back."""
    if any("#" in path for part in _blocks(paths) for path in part.tolist()):
        order = in_reading_order(paths.tolist())
        paths, digests = paths[order], digests[order]
    begun: set[bytes] = set()
    for files, known in zip(_blocks(paths), _blocks(digests), strict=True):
        # Of what was begun before, only what is not kept yet: what comes twice is computed once.
        before = np.array([*begun], dtype="S32")
        begun = set(before[~np.all([kept.has(before) for kept in sets], axis=0)].tolist())
        lacking = np.stack([~kept.has(known) for kept in sets])
        for row in np.flatnonzero(lacking.any(axis=0)).tolist():
            digest = bytes(known[row])
            if digest not in begun:
                begun.add(digest)
                yield str(files[row]), digest, tuple(np.flatnonzero(lacking[:, row]).tolist())


def gather(digests: Digests, kept: KeptSet) -> NDArray[np.float16]:
    """Collect activations in order of the pictures; those the set lacks are zero.

    Many are mapped: they need not fit into memory.
    """
    known = np.asarray(digests, dtype="S32")
    there = np.flatnonzero(kept.has(known))
    shape = kept.get(known[there[0]]).shape if len(there) else (0,)
    values = zeros((len(known), *shape), np.dtype(np.float16))
    for rows in _blocks(there):
        values[rows] = kept.rows(known[rows])
        kept.forget()
    return values


class _Shard:
    """Activations not yet written."""

    def __init__(self, kept: KeptSet, progress: Progress, must_keep: bool) -> None:
        self._kept, self._progress, self._must_keep = kept, progress, must_keep
        self._warned = False
        self._start()

    def add(self, digest: bytes, values: NDArray[np.float16]) -> None:
        self._digests.append(digest)
        self._values.append(values)
        old = time.monotonic() - self._since > SHARD_AGE_S
        if old or len(self._digests) >= SHARD_PICTURES:
            self.flush()

    def flush(self) -> None:
        if self._digests:
            error = self._kept.add(self._digests, self._values)
            if error and self._must_keep:
                raise error
            if error and not self._warned:
                self._progress.say(f"Going on without keeping what is computed: {error}")
                self._warned = True
        self._start()

    def _start(self) -> None:
        self._digests: list[bytes] = []
        self._values: list[NDArray[np.float16]] = []
        self._since = time.monotonic()


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


@cache
def decoder_identity() -> str:
    """Name everything that turns files into pixels: our own code by hash, libraries by version."""
    code = b"".join(
        package_files("tellapart.data").joinpath(name).read_bytes()
        for name in ("pixels.py", "augmentation.py")
    )
    libraries = [f"{name} {version(name)}" for name in ("simplejpeg", "kornia_rs", "pillow")]
    with suppress(PackageNotFoundError):  # An extra; HEIC is read by it.
        libraries.append(f"pillow-heif {version('pillow-heif')}")
    return ", ".join([hashlib.sha256(code).hexdigest()[:16], *libraries])
