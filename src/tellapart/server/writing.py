"""Audits of many requests become records together: one commit, and then all are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tellapart.errors import BadDatabase
from tellapart.server.records import Records

Rows = Sequence[dict[str, Any]]


class Writer:
    """The one thread that adds records. While it commits, what comes next gathers."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._thread = ThreadPoolExecutor(1, "records")
        self._waiting: list[tuple[Rows, Rows, asyncio.Future[None]]] = []
        self._runs: asyncio.Task[None] | None = None

    async def add(self, rows: Rows, messages: Rows = ()) -> None:
        """Store these audits, and who is to be told; when it returns, they are committed.

        Raises:
            BadDatabase: they are not.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((rows, messages, future))
        if self._runs is None:
            self._runs = loop.create_task(self._run())
        await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            together, self._waiting = self._waiting, []
            rows = [row for some, _, _ in together for row in some]
            messages = [one for _, some, _ in together for one in some]
            failed: BadDatabase | None = None
            try:
                await loop.run_in_executor(self._thread, self._records.add, rows, messages)
            except BadDatabase as error:
                failed = error
            for _, _, future in together:
                if not future.done():
                    future.set_exception(failed) if failed else future.set_result(None)
        self._runs = None

    def close(self) -> None:
        """Let the last commit end."""
        self._thread.shutdown(wait=True)
