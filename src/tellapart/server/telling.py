"""Telling others of an audit: what is to be said lies in the database until it has arrived."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import RowMapping

from tellapart.data.addresses import is_allowed, place_of
from tellapart.data.fetching import Fetcher
from tellapart.data.fetching import Limits as Pace
from tellapart.errors import BadDatabase, NotFetched
from tellapart.server.metrics import Metrics
from tellapart.server.records import Records
from tellapart.server.refusing import Refused
from tellapart.server.settings import Settings

log = logging.getLogger("tellapart.server")

# After each failure; after the last one it is given up: about three hours in all.
AGAIN_AFTER_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0, 3600.0)
AT_ONCE = 8
LONGEST_URL = 2000
# How often is looked for what is due, where nobody says that there is something.
LOOK_S = 5.0


def signed(body: bytes, secret: bytes, at: int) -> str:
    """Return the signature of a message at a time in seconds: HMAC-SHA256 over "time.body"."""
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Telling:
    """Sends what is due, at least once each, again and again later if it does not arrive."""

    def __init__(self, settings: Settings, records: Records, metrics: Metrics) -> None:
        self._hosts = settings.callbacks
        self._secret = settings.callback_secret
        self._records = records
        self._metrics = metrics
        pace = Pace(
            connect_s=5,
            read_s=10,
            total_s=15,
            tries=1,
            longest_wait_s=15,
            per_host=4,
            pause_s=0,
            give_up_after=10**9,
        )
        self._fetcher = Fetcher(pace, hosts=settings.callbacks)
        self._threads = ThreadPoolExecutor(AT_ONCE, "tell")
        self._new = asyncio.Event()

    def check(self, url: str | None) -> None:
        """Make sure, before anything is computed, that this may be told.

        Raises:
            Refused: 403 no callbacks are allowed, 422 not to this address.
        """
        if url is None:
            return
        if not self._hosts:
            raise Refused(403, "no_callbacks", "This server calls nobody back.")
        what = "callback: expected a URL of a host that this server may call."
        try:
            allowed = len(url) <= LONGEST_URL and is_allowed(place_of(url), self._hosts)
        except NotFetched as error:
            raise Refused(422, "callback_not_allowed", what) from error
        if not allowed:
            raise Refused(422, "callback_not_allowed", what)

    def message(self, url: str, form: str, body: str) -> dict[str, Any]:
        """Return what is to be kept with the audits of a form."""
        now = datetime.now(UTC)
        return {
            "id": uuid.uuid4().hex,
            "form": form,
            "at": now,
            "url": url,
            "body": body,
            "tries": 0,
            "next_at": now,
        }

    def wake(self) -> None:
        """Say that there is something new."""
        self._new.set()

    async def run(self) -> None:
        """Send for ever what is due; without allowed hosts, what was kept stays as it is."""
        while self._hosts:
            self._new.clear()
            try:
                sent = await self._send_due()
            except Exception as error:  # Whatever it is, the next ones are to be sent.
                log.error("callbacks wait: %s", error, exc_info=not isinstance(error, BadDatabase))
                sent = 0
            if not sent:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._new.wait(), LOOK_S)

    async def _send_due(self) -> int:
        loop = asyncio.get_running_loop()
        due = await loop.run_in_executor(
            self._threads, self._records.callbacks_due, datetime.now(UTC), AT_ONCE
        )
        await asyncio.gather(
            *(loop.run_in_executor(self._threads, partial(self._send, row)) for row in due)
        )
        return len(due)

    def _send(self, row: RowMapping) -> None:
        body = row["body"].encode()
        try:
            self._fetcher.post(
                row["url"],
                body,
                {
                    "Content-Type": "application/json",
                    "X-Tellapart-Id": row["id"],
                    "X-Tellapart-Signature": signed(body, self._secret, int(time.time())),
                },
            )
        except NotFetched as error:
            self._put_off(row, str(error))
            return
        self._records.callback_done(row["id"])
        self._metrics.callbacks.labels("delivered").inc()

    def _put_off(self, row: RowMapping, why: str) -> None:
        tries = row["tries"] + 1
        over = tries > len(AGAIN_AFTER_S)
        wait_s = 0.0 if over else AGAIN_AFTER_S[tries - 1]
        again = None if over else datetime.now(UTC) + timedelta(seconds=wait_s)
        self._records.put_callback_off(row["id"], tries, again, why[:500])
        self._metrics.callbacks.labels("given up" if over else "put off").inc()
        host = place_of(row["url"]).named
        said = "is given up" if over else f"is tried again in {wait_s:g} s"
        log.log(
            logging.ERROR if over else logging.WARNING,
            "the callback of audit %s to %s %s: it %s",
            row["form"],
            host,
            said,
            why,
        )

    def close(self) -> None:
        """Hang up; what has not arrived stays in the database, for the next start."""
        self._fetcher.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
