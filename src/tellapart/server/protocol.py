"""HTTP's beginning, bounded: uvicorn waits for ever for headers, of any size."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 32 * 1024
HEADERS_S = 15.0


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed when its headers are too large or do not come."""

    _reading_headers = True
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._no_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it makes the headers too large."""
        if self._reading_headers:
            self._header_bytes += len(data)
            # What stands in `data` behind the headers counts too, so the parser looks first.
        super().data_received(data)
        if self._reading_headers and self._header_bytes > HEADER_BYTES:
            self._refuse(431, "Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin a request: on a kept connection, its headers have a time of their own."""
        super().on_message_begin()
        if not self._reading_headers:
            self._expect_headers()

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        self._reading_headers = False
        self._no_deadline()
        super().on_headers_complete()

    def _expect_headers(self) -> None:
        self._reading_headers = True
        self._header_bytes = 0
        self._no_deadline()
        self._deadline = self.loop.call_later(HEADERS_S, self._refuse, 408, "Request Timeout")

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, phrase: str) -> None:
        transport: Any = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        transport.close()
