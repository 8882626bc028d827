"""Where a phase gets its batches from: kept activations, or pictures drawn live. (torch)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.backbones.activations import KeptSet
from tellapart.data.augmentation import Augmentation, read_views, view_generator
from tellapart.data.pixels import Pixels, Preprocessing, decode_many, read_pixels
from tellapart.errors import UnreadablePicture

Rows = NDArray[np.int64]

# Kept activations are mapped into memory; after so many bytes read the pages are given back. A
# batch or so: reading one activation at random may map the 2 MB around it, so 32 MB held 450 MB.
FORGET_AFTER_BYTES = 2_000_000


class Source(Protocol):
    """Inputs of a phase for rows of a catalog, one batch after the other."""

    def views(self, batches: Iterable[Rows], epoch: int) -> Iterator[Tensor]:
        """Yield a random view of each picture, as the epoch and the seed have it."""

    def plain(self, batches: Iterable[Rows]) -> Iterator[Tensor]:
        """Yield each picture as evaluation sees it."""


@dataclass(frozen=True)
class KeptSource:
    """Activations at a cut, computed once: the plain view and K random ones a picture.

    Batches are (B, C, H, W), or (B, D) where the cut is the head, float16 as kept.
    """

    digests: NDArray[np.bytes_]
    plain_set: KeptSet
    view_sets: Sequence[KeptSet]
    seed: int

    def views(self, batches: Iterable[Rows], epoch: int) -> Iterator[Tensor]:
        """Draw one of the kept views of each picture, the plain one among them."""
        sets = (self.plain_set, *self.view_sets)
        drawn = np.random.default_rng([self.seed, epoch]).integers(len(sets), size=len(self))
        yield from self._read(batches, [sets[view] for view in drawn])

    def plain(self, batches: Iterable[Rows]) -> Iterator[Tensor]:
        """Yield the plain view of each picture."""
        yield from self._read(batches, [self.plain_set] * len(self))

    def __len__(self) -> int:
        return len(self.digests)

    def _read(self, batches: Iterable[Rows], sets: Sequence[KeptSet]) -> Iterator[Tensor]:
        """Read one batch ahead, so that the disk works while the processor learns."""

        def gather(rows: Rows) -> Tensor:
            digests = self.digests[rows].tolist()
            values = [sets[row].get(one) for row, one in zip(rows, digests, strict=True)]
            return torch.from_numpy(np.stack(values))

        n_read = 0
        with ThreadPoolExecutor(1, thread_name_prefix="kept") as pool:
            waiting = None
            for rows in chain(batches, [None]):
                coming = pool.submit(gather, rows) if rows is not None else None
                if waiting is not None:
                    batch = waiting.result()
                    n_read += batch.nbytes
                    if n_read > FORGET_AFTER_BYTES:
                        self._forget()
                        n_read = 0
                    yield batch
                waiting = coming
        self._forget()

    def _forget(self) -> None:
        for kept in (self.plain_set, *self.view_sets):
            kept.forget()


@dataclass(frozen=True)
class LiveSource:
    """Pictures decoded anew in each epoch: batches of pixels (B, S, S, 3) uint8."""

    paths: NDArray[np.str_]
    digests: NDArray[np.bytes_]
    preprocessing: Preprocessing
    augmentation: Augmentation
    seed: int
    mirrored: bool = False

    def views(self, batches: Iterable[Rows], epoch: int) -> Iterator[Tensor]:
        """Decode and draw a new view of each picture."""

        def read(row: int) -> Pixels:
            # Views that are kept count from 0 and never reach so far.
            generator = view_generator(bytes(self.digests[row]), 1_000_000 + epoch, self.seed)
            path = str(self.paths[row])
            return read_views(path, self.preprocessing, self.augmentation, [generator])[0]

        yield from _stacked(batches, read)

    def plain(self, batches: Iterable[Rows]) -> Iterator[Tensor]:
        """Decode each picture as evaluation does; mirrored left to right, if this source is."""
        read = partial(read_pixels, preprocessing=self.preprocessing)
        for pixels in _stacked(batches, lambda row: read(str(self.paths[row]))):
            yield pixels.flip(2) if self.mirrored else pixels


def _stacked(batches: Iterable[Rows], read: Callable[[int], Pixels]) -> Iterator[Tensor]:
    sized = [rows.tolist() for rows in batches]
    pictures = decode_many(chain.from_iterable(sized), read)
    for rows in sized:
        yield torch.from_numpy(np.stack([_whole(one) for one in islice(pictures, len(rows))]))


def _whole(picture: Pixels | UnreadablePicture) -> Pixels:
    if isinstance(picture, UnreadablePicture):
        # All were read before; this one was changed or taken away while the run went on.
        raise picture
    return picture


def batches_of(rows: Rows, size: int) -> list[Rows]:
    """Cut rows into batches; a single one left over joins the batch before it.

    Batch-norm has no statistics of a single value, and torch refuses it.
    """
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches
