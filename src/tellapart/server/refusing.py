"""What a client is told when it gets no answer."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """A request that is not answered. code: one word for programs; message: for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
