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
import mmap
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.cache import describe, mark_used
from tellapart.data.pixels import Pixels, Preprocessing, decode_many
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


# Path, digest, and the numbers of the sets that lack it.
_Job = tuple[str, bytes, tuple[int, ...]]


class KeptSet:
    """Activations of one kind on disk, found by the digests of the pictures they came from."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        text = json.dumps(dict(facts), sort_keys=True).encode()
        self.folder = cache_folder() / "activations" / hashlib.sha256(text).hexdigest()[:24]
        self._facts = dict(facts)
        self._shards: list[NDArray[Any]] = []
        self._where: dict[bytes, tuple[int, int]] = {}
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
        return digest in self._where

    def get(self, digest: bytes) -> NDArray[np.float16]:
        """Return the kept activation of a picture: (D,) features, or (C, H, W) maps."""
        shard, row = self._where[digest]
        values: NDArray[np.float16] = self._shards[shard]["activation"][row]
        return values

    def forget(self) -> None:
        """Give memory back: what was read lately is read from disk again when needed."""
        for shard in self._shards:
            _forget(shard)

    def remove(self) -> None:
        """Delete what is kept; this object must not be used after."""
        self._shards, self._where = [], {}
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
        for row, digest in enumerate(records["digest"]):
            self._where[bytes(digest)] = (len(self._shards), row)
        # Digests lie between activations: reading them has mapped the whole shard.
        _forget(records)
        self._shards.append(records)


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
    paths: Sequence[str],
    digests: Sequence[bytes],
    read: Reader,
    runtime: Runtime,
    sets: Sequence[KeptSet],
    progress: Progress,
    must_keep: bool = False,
) -> Filled:
    """Compute what the sets lack of these pictures, and keep it.

    A file is decoded once for all sets, and identical files are computed once. If the disk is
    full, the run goes on without keeping.

    must_keep: others read it from the disk; if that is full, the error is raised.
    """
    jobs: dict[bytes, _Job] = {}
    for path, digest in zip(paths, digests, strict=True):
        wanted = tuple(number for number, kept in enumerate(sets) if digest not in kept)
        if wanted and digest not in jobs:
            jobs[digest] = (path, digest, wanted)
    jobs = _in_reading_order(jobs)
    errors: dict[bytes, str] = {}
    fed: deque[tuple[int, bytes]] = deque()

    def readable() -> Iterator[Pixels]:
        views = decode_many(jobs.values(), lambda job: read(*job))
        for (_, digest, wanted), pictures in zip(jobs.values(), views, strict=True):
            if isinstance(pictures, UnreadablePicture):
                errors[digest] = str(pictures)
                continue
            for number, picture in zip(wanted, pictures, strict=True):
                fed.append((number, digest))
                yield picture

    shards = [_Shard(kept, progress, must_keep) for kept in sets]
    n_views = sum(len(wanted) for *_, wanted in jobs.values())
    what = "pictures" if len(sets) == 1 else "views"
    with progress.bar("Looking at pictures", n_views, what) as advance:
        try:
            for values in runtime.run(readable()) if jobs else ():
                number, digest = fed.popleft()
                shards[number].add(digest, values)
                advance(1)
        finally:
            # Also on Ctrl-C: what was computed is kept.
            for shard in shards:
                shard.flush()
    unreadable = {row: errors[digest] for row, digest in enumerate(digests) if digest in errors}
    return Filled(unreadable, len(jobs) - len(errors))


def _in_reading_order(jobs: dict[bytes, _Job]) -> dict[bytes, _Job]:
    """Order jobs so that shards are read from front to back; others stay as they are."""
    digests = list(jobs)
    order = in_reading_order([path for path, _, _ in jobs.values()])
    return {digests[row]: jobs[digests[row]] for row in order}


def gather(digests: Sequence[bytes], kept: KeptSet) -> NDArray[np.float16]:
    """Collect activations in order of the pictures; those the set lacks are zero."""
    shape = next((kept.get(digest).shape for digest in digests if digest in kept), (0,))
    values = np.zeros((len(digests), *shape), dtype=np.float16)
    for row, digest in enumerate(digests):
        if digest in kept:
            values[row] = kept.get(digest)
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


def _forget(records: NDArray[Any]) -> None:
    mapped = getattr(records, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


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
        files("tellapart.data").joinpath(name).read_bytes()
        for name in ("pixels.py", "augmentation.py")
    )
    libraries = [f"{name} {version(name)}" for name in ("simplejpeg", "kornia_rs", "pillow")]
    with suppress(PackageNotFoundError):  # An extra; HEIC is read by it.
        libraries.append(f"pillow-heif {version('pillow-heif')}")
    return ", ".join([hashlib.sha256(code).hexdigest()[:16], *libraries])
