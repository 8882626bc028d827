"""Pictures that clients name by URL: only from hosts that the operator allowed, within limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tellapart.data.fetching import Fetcher
from tellapart.data.fetching import Limits as Pace
from tellapart.errors import NotFetched
from tellapart.server.refusing import Refused
from tellapart.server.settings import Settings

log = logging.getLogger("tellapart.server")

AT_ONCE = 16
PER_HOST = 8
TOTAL_S = 15.0
REDIRECTS = 3

Hold = Callable[[int], None]


class Fetching:
    """Fetches what clients name. Slow hosts keep these threads waiting, and no others."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.allow_urls
        self._most = settings.limits.waiting
        self._n_waiting = 0
        pace = Pace(
            connect_s=5,
            read_s=10,
            total_s=TOTAL_S,
            size_mb=settings.limits.picture_mb,
            redirects=REDIRECTS,
            # Whoever asked waits: they may come again.
            tries=1,
            longest_wait_s=TOTAL_S,
            per_host=PER_HOST,
            pause_s=0,
            give_up_after=10**9,
        )
        self._fetcher = Fetcher(pace, hosts=settings.allow_urls)
        self._threads = ThreadPoolExecutor(AT_ONCE, "fetch")

    async def get(self, urls: Sequence[str], hold: Hold) -> list[bytes]:
        """Fetch these files, in order. hold: told of the bytes of each; it may refuse more.

        Raises:
            Refused: 403 no URLs are allowed; 422 some were not fetched: all or nothing; 429.
        """
        if not self._hosts:
            raise Refused(
                403, "no_urls", "This server fetches no pictures by URL. Send the picture itself."
            )
        if self._n_waiting and self._n_waiting + len(urls) > self._most:
            what = "So many pictures are being fetched that others have to come again."
            raise Refused(429, "busy", what, {"Retry-After": "2"})
        self._n_waiting += len(urls)
        try:
            found = await asyncio.gather(
                *(self._one(url, hold) for url in urls), return_exceptions=True
            )
        finally:
            self._n_waiting -= len(urls)
        failed = {}
        for url, one in zip(urls, found, strict=True):
            if isinstance(one, NotFetched):
                log.info("not fetched: %s %s", url[:500], one)
                failed[url] = _told(one)
            elif isinstance(one, BaseException):
                raise one
        if failed:
            said = "; ".join(f"{url[:200]} {why}" for url, why in list(failed.items())[:10])
            what = f"{len(failed)} of {len(urls)} pictures could not be fetched: {said}."
            raise Refused(422, "not_fetched", f"{what} Nothing was computed.")
        return [one for one in found if isinstance(one, bytes)]

    async def _one(self, url: str, hold: Hold) -> bytes:
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._threads, self._fetcher.get, url)
        hold(len(data))
        return data

    def close(self) -> None:
        """Hang up; nobody waits for these any more."""
        self._fetcher.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _told(error: NotFetched) -> str:
    """Say why to a client; what a name means inside this network is not theirs to know."""
    if error.kind == "address":
        return "is not at an address that this server may ask"
    return "cannot be reached" if error.kind == "unreachable" else str(error)
