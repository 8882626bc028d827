"""What every request goes through first: who asks, how often, how much, for how long; and its log.

Plain ASGI around the whole application, so that it also holds for what has no route.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tellapart.hiding import without_secrets
from tellapart.server.metrics import Metrics
from tellapart.server.refusing import Refused
from tellapart.server.settings import Limits, Settings, is_loopback
from tellapart.server.tokens import Token, find_token

log = logging.getLogger("tellapart.server")

SECURITY_HEADERS = {
    # What is shown as a page may do nothing at all; the page itself brings its own policy.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# For health checks, which ask often and learn nothing.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
WRONG_TOKENS_PER_MIN = 30
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass
class Rates:
    """A bucket of requests for each client, filled at an even rate; bounded in memory."""

    per_min: int
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, who: str) -> float:
        """Take one; return 0, or in how many seconds there is one again."""
        now = time.monotonic()
        left, then = self._left.pop(who, (float(self.per_min), now))
        left = min(float(self.per_min), left + (now - then) * self.per_min / 60)
        self._left[who] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > 10_000:
            del self._left[next(iter(self._left))]  # who asked longest ago
        return 0.0 if left >= 1 else (1 - left) * 60 / self.per_min


@dataclass
class _Exchange:
    """One request and its answer, as far as they have come."""

    request_id: str
    held: int = 0
    status: int = 0
    began: float = field(default_factory=time.perf_counter)


class Gate:
    """The application behind its limits."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._rates = Rates(settings.limits.rate_per_min)
        self._wrong = Rates(WRONG_TOKENS_PER_MIN)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        exchange = _Exchange(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8))
        state = scope.setdefault("state", {})
        state["request_id"] = exchange.request_id
        state["hold"] = partial(self._hold, exchange)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                answer = MutableHeaders(scope=message)
                for header, value in SECURITY_HEADERS.items():
                    answer.setdefault(header, value)
                answer["X-Request-ID"] = exchange.request_id
            await send(message)

        try:
            async with asyncio.timeout(self._settings.limits.answer_s):
                state["token"] = self._admit(scope, headers)
                await self._app(scope, self._bounded(receive, exchange), sending)
        except Exception as error:
            if exchange.status:  # Too late to say anything.
                log.exception("an answer broke off", extra={"request_id": exchange.request_id})
                raise
            refused = _as_refusal(error, exchange.request_id, self._settings.limits)
            await refusal(refused, exchange.request_id)(scope, receive, sending)
        finally:
            self._held -= exchange.held
            self._tell(scope, exchange)

    def _admit(self, scope: Scope, headers: Headers) -> Token | None:
        """Say whose token came with a request; None where there are no tokens, or none came.

        Raises:
            Refused: 401 a wrong token, 403 another site's page, 413 too large, 429 too often.
        """
        limits, tokens = self._settings.limits, self._settings.tokens
        if scope["path"] in OPEN_PATHS:
            return None
        client = scope["client"][0] if scope.get("client") else "unknown"
        kind, _, given = headers.get("authorization", "").partition(" ")
        token = None
        if not tokens:
            _check_same_site(headers)
        elif given:
            token = find_token(given.strip(), tokens) if kind.lower() == "bearer" else None
            if token is None:
                _wait(self._wrong.take(client))
                raise unauthorised("the token that was sent is not known")
        if limits.rate_per_min:
            _wait(self._rates.take(token.name if token else client))
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limits.request_mb * 1e6:
            raise _too_large(limits)
        return token

    def _bounded(self, receive: Receive, exchange: _Exchange) -> Receive:
        """Count what a request's body brings, and how long it takes for that."""
        limits = self._settings.limits
        until = time.monotonic() + limits.upload_s
        more = True

        async def receiving() -> Message:
            nonlocal more
            if not more:  # From here on it only waits for the client to go away.
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                raise Refused(
                    408, "too_slow", f"The request was not sent within {limits.upload_s:g} s."
                ) from error
            more = message.get("more_body", False)
            n = len(message.get("body", b""))
            self._hold(exchange, n)
            return message

        return receiving

    def _hold(self, exchange: _Exchange, n: int) -> None:
        """Count bytes that a request brings, or that are fetched for it.

        Raises:
            Refused: 413 it brings too many, 429 all together do.
        """
        limits = self._settings.limits
        self._held += n
        exchange.held += n
        if exchange.held > limits.request_mb * 1e6:
            raise _too_large(limits)
        if self._held > limits.held_mb * 1e6:
            raise Refused(
                429,
                "busy",
                "The server holds as many unanswered bytes as it may. Send it again later.",
                {"Retry-After": "2"},
            )

    def _tell(self, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path", "other")
        seconds = time.perf_counter() - exchange.began
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if not log.isEnabledFor(logging.INFO):
            return
        token = scope["state"].get("token")
        facts: dict[str, Any] = {
            "request_id": exchange.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "ms": round(1000 * seconds, 1),
            "client": scope["client"][0] if scope.get("client") else None,
            "who": token.name if token else None,
            "bytes": exchange.held,
        }
        log.info("request", extra=facts)


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line; what a client sent is only ever inside a string.

    Addresses are said without what is secret in them.
    """

    FACTS = ("request_id", "method", "path", "status", "ms", "client", "who", "bytes")

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        facts: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        facts |= {name: getattr(record, name) for name in self.FACTS if hasattr(record, name)}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(facts))


def refusal(refused: Refused, request_id: str) -> JSONResponse:
    """Return the answer that says why there is none."""
    return JSONResponse(
        {"error": refused.code, "message": refused.message, "request_id": request_id},
        refused.status,
        refused.headers,
    )


def unauthorised(what: str) -> Refused:
    """Refuse somebody unknown."""
    return Refused(
        401,
        "unauthorised",
        f"This needs a token, and {what}. Send the header Authorization: Bearer TOKEN.",
        {"WWW-Authenticate": "Bearer"},
    )


def _as_refusal(error: Exception, request_id: str, limits: Limits) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, TimeoutError):
        return Refused(
            503,
            "too_long",
            f"It took longer than {limits.answer_s:g} s. Send fewer pictures at once.",
            {"Retry-After": "5"},
        )
    log.exception("nobody foresaw this", extra={"request_id": request_id}, exc_info=error)
    return Refused(
        500, "unforeseen", "Something went wrong that nobody foresaw; the log says what."
    )


def _check_same_site(headers: Headers) -> None:
    """Without tokens, keep out pages of other sites that are open in a browser on this machine.

    A page elsewhere may send forms to any address, and may give its own name this machine's
    address; its Origin or its Host gives it away.
    """
    host = headers.get("host", "")
    # The port stands behind the last colon, unless that lies inside the brackets of IPv6.
    name = host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host
    origin = headers.get("origin")
    if not is_loopback(name.strip("[]")) or (origin and urlsplit(origin).netloc != host):
        raise Refused(
            403,
            "another_site",
            "Without tokens, this server answers only requests from this machine, to its own "
            "address, and not those of other sites' pages.",
        )


def _wait(seconds: float) -> None:
    if seconds:
        raise Refused(
            429,
            "too_often",
            "There were more requests than one client may send. Send it again later.",
            {"Retry-After": str(int(seconds) + 1)},
        )


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413, "too_large", f"A request may have {limits.request_mb:g} MB. Send fewer pictures."
    )
