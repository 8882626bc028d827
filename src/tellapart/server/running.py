"""Start a server, and end it without losing what it took."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import uvicorn

from tellapart.errors import CannotListen
from tellapart.server.app import create_app
from tellapart.server.batching import Workers
from tellapart.server.fetching import Fetching
from tellapart.server.filing import Filing, check_folder
from tellapart.server.gate import Gate, JsonLines
from tellapart.server.jobs import Jobs
from tellapart.server.metrics import Metrics
from tellapart.server.models import Models
from tellapart.server.protocol import BoundedProtocol
from tellapart.server.records import open_records
from tellapart.server.service import Service
from tellapart.server.settings import Settings
from tellapart.server.telling import Telling
from tellapart.server.watching import BACK
from tellapart.server.writing import Writer

# As many as any proxy keeps, and within the usual limit of open files (1024).
MAX_CONNECTIONS = 900


@dataclass(frozen=True)
class Prepared:
    """A server that has loaded all it needs and listens, but answers nobody yet."""

    url: str
    service: Service
    server: uvicorn.Server
    listening: socket.socket

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT; then finish what was taken, and end."""
        self.server.run(sockets=[self.listening])


def prepare(settings: Settings) -> Prepared:
    """Load classifiers, open the records and take the port, so that all errors come before.

    Raises:
        BundleNotFound, BundleDamaged, BundleFromFuture, NotQuantised, BadDatabase, MissingExtra,
        CannotListen.
    """
    listening = _listen(settings.host, settings.port)
    try:
        metrics = Metrics()
        workers = Workers(settings.limits, metrics)
        models = Models(settings, workers)
        for offered in (settings.reviews, settings.builds):
            if offered is not None:
                check_folder(offered.folder)
        records = open_records(settings.database)
    except BaseException:
        listening.close()
        raise
    for model in models:
        model.watch.recall(records.since(datetime.now(UTC) - BACK, model.name, model.version))
    service = Service(
        settings,
        metrics,
        workers,
        models,
        records,
        Writer(records),
        Fetching(settings),
        Telling(settings, records, metrics),
        Jobs(),
        Filing(settings.reviews, records) if settings.reviews else None,
    )
    config = uvicorn.Config(
        Gate(create_app(service), settings, metrics),
        http=BoundedProtocol,
        loop="asyncio",  # The same one everywhere, not uvloop where something else brought it.
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Anybody could claim to be anybody.
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=round(settings.limits.answer_s) + 5,
        lifespan="on",
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return Prepared(f"http://{shown}:{port}", service, uvicorn.Server(config), listening)


def serve(settings: Settings, ready: Callable[[Prepared], None]) -> None:
    """Serve until told to stop. ready: called once it listens.

    Raises:
        As `prepare` does.
    """
    log_as_json()
    prepared = prepare(settings)
    ready(prepared)
    prepared.run()


def log_as_json() -> None:
    """Send the logs of server and uvicorn to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("tellapart.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(
            f"{host} port {port} cannot be listened on: {reason}. Expected a free port of this "
            f"machine. Nothing was started. Choose another with --port (0 takes any that is free), "
            f"or stop what uses it."
        ) from error
    return listening
