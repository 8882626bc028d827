"""What pixels show, looked at once a picture and kept: a second look costs no decoding."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import decoder_identity
from tellapart.backbones.cache import describe, mark_used
from tellapart.data.catalog import Catalog
from tellapart.data.looks import LOOK, Looked, read_looks
from tellapart.errors import OutputError, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, write_atomically
from tellapart.progress import Progress

_RECORD = np.dtype([("digest", "S32"), ("look", LOOK)])


def look(catalog: Catalog, progress: Progress) -> Looked:
    """Return the looks of all pictures: kept ones, and the rest looked at now and kept."""
    folder = _folder()
    known = _kept(folder)
    lacking = np.flatnonzero(~np.isin(catalog.digests, known["digest"]))
    _, first = np.unique(catalog.digests[lacking], return_index=True)
    lacking = lacking[np.sort(first)]
    new = np.zeros(len(lacking), dtype=_RECORD)
    errors: dict[bytes, str] = {}
    n_done = 0
    try:
        with progress.bar("Looking at pixels", len(lacking), "pictures") as advance:
            found = read_looks(catalog.paths[lacking].tolist())
            for row, one in zip(lacking.tolist(), found, strict=True):
                digest = bytes(catalog.digests[row])
                if isinstance(one, UnreadablePicture):
                    errors[digest] = str(one)
                else:
                    new[n_done] = (digest, one)
                    n_done += 1
                advance(1)
    finally:
        # Also on Ctrl-C: what was looked at is kept.
        _keep(folder, new[:n_done], progress)
    every = np.concatenate([known, new[:n_done]])
    unreadable = {
        row: errors[digest]
        for row, digest in enumerate(catalog.digests.tolist())
        if digest in errors
    }
    return Looked(_gathered(catalog.digests, every), unreadable)


def _gathered(digests: NDArray[np.bytes_], records: NDArray[Any]) -> NDArray[Any]:
    """Put looks in the order of the pictures; those that are not there are zero."""
    looks = np.zeros(len(digests), dtype=LOOK)
    if len(records):
        order = np.argsort(records["digest"], kind="stable")
        place = np.searchsorted(records["digest"], digests, sorter=order)
        place = order[np.minimum(place, len(order) - 1)]
        there = records["digest"][place] == digests
        looks[there] = records["look"][place[there]]
    return looks


def _folder() -> Path:
    """Name the folder by all that decides what is seen: the decoders, and the code that looks."""
    code = files("tellapart.data").joinpath("looks.py").read_bytes()
    text = decoder_identity().encode() + code
    return cache_folder() / "looks" / hashlib.sha256(text).hexdigest()[:24]


def _kept(folder: Path) -> NDArray[Any]:
    parts = list(_parts(folder))
    if parts:
        mark_used(folder)
    return np.concatenate([np.zeros(0, dtype=_RECORD), *parts])


def _parts(folder: Path) -> Iterator[NDArray[Any]]:
    for path in sorted(folder.glob("*.npy")):
        try:
            records = np.load(path)
        except (OSError, ValueError, EOFError):
            # Pruned by another run, or damaged: looked at again.
            continue
        if records.dtype == _RECORD:
            yield records


def _keep(folder: Path, records: NDArray[Any], progress: Progress) -> None:
    if not len(records):
        return
    file = io.BytesIO()
    np.save(file, records)
    try:
        describe(folder, {"looks": "what pixels show", "decoder": decoder_identity()})
        write_atomically(folder / f"{time.time_ns():020d}.npy", file.getvalue(), ELSEWHERE_KEPT)
    except OutputError as error:
        progress.say(f"Going on without keeping what was looked at: {error}")
