"""Pictures of all requests go through the network together."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import BATCH
from tellapart.data.pixels import Pixels, Preprocessing, available_cores, evaluation_pixels
from tellapart.errors import UnreadablePicture
from tellapart.inference.classifier import Classifier
from tellapart.server.metrics import Metrics
from tellapart.server.refusing import Refused
from tellapart.server.settings import Limits

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

    decoders, network: as many of each as cores. The first bounds what decoding takes of the
    memory; of the second, a classifier uses as many as its network has streams.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.decoders: Executor = ThreadPoolExecutor(available_cores(), "decode")
        self.network: Executor = ThreadPoolExecutor(available_cores(), "network")
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
    """One classifier, asked by many at once. To be made and used on one event loop.

    A picture that is ready waits for no other while a stream of the network is idle. What gathers
    while all are busy goes together, as soon as it fills a batch for each of them.
    """

    def __init__(self, classifier: Classifier, workers: Workers) -> None:
        self.classifier = classifier
        self._workers = workers
        self._ready: deque[tuple[Pixels, asyncio.Future[Features]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def features(self, data: bytes) -> Features:
        """Return the (D,) features of a picture file.

        Raises:
            UnreadablePicture.
        """
        loop = asyncio.get_running_loop()
        preprocessing = self.classifier.manifest.preprocessing
        read = partial(bounded_pixels, data, self._workers.limits.megapixels)
        pixels = await loop.run_in_executor(self._workers.decoders, read, preprocessing)
        future: asyncio.Future[Features] = loop.create_future()
        self._ready.append((pixels, future))
        self._start()
        return await future

    def _start(self) -> None:
        """Give each idle stream the next pictures."""
        streams = self.classifier.n_streams
        while self._ready and len(self._running) < streams:
            n = BATCH if len(self._ready) >= BATCH * streams else 1
            batch = [self._ready.popleft() for _ in range(n)]
            # Whoever has given up needs no answer.
            batch = [(pixels, future) for pixels, future in batch if not future.done()]
            if batch:
                task = asyncio.get_running_loop().create_task(self._answer(batch))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _answer(self, batch: list[tuple[Pixels, asyncio.Future[Features]]]) -> None:
        loop = asyncio.get_running_loop()
        pixels = [one for one, _ in batch]
        alone = self._workers.taken == 1
        try:
            found = await loop.run_in_executor(self._workers.network, self._compute, pixels, alone)
        except Exception as error:  # It belongs to those who asked, and must not end the others.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), features in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(features)

    def _compute(self, pixels: list[Pixels], alone: bool) -> list[Features]:
        self._workers.metrics.batch.observe(len(pixels))
        return self.classifier.features_of(pixels, alone)
