"""Pictures of all requests go through the network together, under a limit of time and number."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixels import Pixels, Preprocessing, available_cores, evaluation_pixels
from tellapart.errors import UnreadablePicture
from tellapart.inference.classifier import Classifier
from tellapart.server.metrics import Metrics
from tellapart.server.refusing import Refused
from tellapart.server.settings import Limits

# Two batches of the compiled size: as many as are under way at once on few cores.
MOST = 16

# Encoders write about ten scans. Each makes the decoder go over the whole picture again, so
# that a file of a few megabytes with nothing but scans would keep it busy for hours.
MAX_SCANS = 200

Features = NDArray[np.float16]


def bounded_pixels(data: bytes, megapixels: float, preprocessing: Preprocessing) -> Pixels:
    """Decode a file that a stranger sent, as the network sees it: (S, S, 3) uint8.

    Raises:
        UnreadablePicture: also a picture of more megapixels, or of too many scans.
    """
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > MAX_SCANS:
        raise UnreadablePicture(f"has more than {MAX_SCANS} scans, which no camera writes")
    return evaluation_pixels(data, preprocessing, megapixels)


class Workers:
    """The threads of a server, and how many pictures it has taken; shared by all classifiers.

    decoders: as many as cores, which bounds what decoding takes of the memory. network: one, since
    the network itself uses all cores.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.decoders: Executor = ThreadPoolExecutor(available_cores(), "decode")
        self.network: Executor = ThreadPoolExecutor(1, "network")
        self.taken = 0

    def take(self, n: int) -> None:
        """Take n pictures, to be given back when they are answered.

        Raises:
            Refused: 429, so many wait already that others have to come again.
        """
        if self.taken and self.taken + n > self.limits.waiting:
            raise Refused(
                429,
                "busy",
                f"{self.taken} pictures wait already, of {self.limits.waiting} at most. Nothing "
                f"was computed. Send it again in a second.",
                {"Retry-After": "1"},
            )
        self.taken += n
        self.metrics.waiting.set(self.taken)

    def give_back(self, n: int) -> None:
        """Count n pictures as answered."""
        self.taken -= n
        self.metrics.waiting.set(self.taken)

    def close(self) -> None:
        """Let the threads end what they are at."""
        for pool in (self.decoders, self.network):
            pool.shutdown(wait=True)


class Batcher:
    """One classifier, asked by many at once. To be made and used on one event loop."""

    def __init__(self, classifier: Classifier, workers: Workers, wait_s: float) -> None:
        self.classifier = classifier
        self._workers = workers
        self._wait_s = wait_s
        self._n_decoding = 0
        self._ready: deque[tuple[Pixels, asyncio.Future[Features]]] = deque()
        self._changed = asyncio.Event()
        self._runs: asyncio.Task[None] | None = None

    async def features(self, data: bytes) -> Features:
        """Return the (D,) features of a picture file.

        Raises:
            UnreadablePicture.
        """
        loop = asyncio.get_running_loop()
        preprocessing = self.classifier.manifest.preprocessing
        read = partial(bounded_pixels, data, self._workers.limits.megapixels)
        self._n_decoding += 1
        try:
            pixels = await loop.run_in_executor(self._workers.decoders, read, preprocessing)
        finally:
            self._n_decoding -= 1
            self._changed.set()
        future: asyncio.Future[Features] = loop.create_future()
        self._ready.append((pixels, future))
        if self._runs is None:
            self._runs = loop.create_task(self._run())
        return await future

    async def _run(self) -> None:
        """Send what is ready through the network, batch after batch, until nothing is."""
        try:
            while self._ready:
                await self._gather()
                batch = [self._ready.popleft() for _ in range(min(MOST, len(self._ready)))]
                # Whoever has given up needs no answer.
                batch = [(pixels, future) for pixels, future in batch if not future.done()]
                if batch:
                    await self._answer(batch)
        finally:
            self._runs = None

    async def _answer(self, batch: list[tuple[Pixels, asyncio.Future[Features]]]) -> None:
        loop = asyncio.get_running_loop()
        pixels = [one for one, _ in batch]
        try:
            found = await loop.run_in_executor(self._workers.network, self._compute, pixels)
        except Exception as error:  # It belongs to those who asked, and must not end the others.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), features in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(features)

    async def _gather(self) -> None:
        """Wait for pictures that are being decoded, no longer than is allowed; often not at all."""
        until = time.monotonic() + self._wait_s
        while len(self._ready) < MOST and self._n_decoding:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return
            # The decoded one is entered by its own task, which has not run yet.
            await asyncio.sleep(0)

    def _compute(self, pixels: list[Pixels]) -> list[Features]:
        self._workers.metrics.batch.observe(len(pixels))
        return list(self.classifier.features_of(pixels))
