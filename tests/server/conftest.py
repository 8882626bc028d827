"""The real server on a real socket, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tellapart.server.running import prepare
from tellapart.server.settings import Settings

Serving = Callable[..., AbstractContextManager[httpx.Client]]


@contextmanager
def served(settings: Settings) -> Iterator[httpx.Client]:
    """Run a server, and a client that knows its address."""
    prepared = prepare(settings)
    thread = threading.Thread(target=prepared.run)
    thread.start()
    try:
        while not prepared.server.started and thread.is_alive():
            time.sleep(0.01)
        with httpx.Client(base_url=prepared.url, timeout=60) as client:
            yield client
    finally:
        prepared.server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def serving(format_1: Path, tmp_path: Path) -> Serving:
    """Serve the stored bundle of three colours; keyword arguments are settings."""

    def start(**settings: Any) -> AbstractContextManager[httpx.Client]:
        given: dict[str, Any] = {
            "models": (format_1,),
            "database": f"sqlite:///{tmp_path / 'records.sqlite'}",
            "port": 0,
            # Its rules were fitted on nothing: the confidence itself decides.
            "accept": 0.5,
        }
        return served(Settings(**given | settings))

    return start
