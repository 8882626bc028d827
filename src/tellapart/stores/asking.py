"""What talks to stores, and how long and how often it is asked."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from tellapart.errors import BadAddress, MissingExtra, StoreNotReached, TellapartError
from tellapart.stores.addresses import checked, extra_of, is_public, private_allowed, shown
from tellapart.stores.refusals import (
    behind,
    is_passing,
    is_refusal,
    reason_of,
    refused,
    status_of,
)

T = TypeVar("T")

# The store's answers that no second question changes.
_FINAL = range(400, 500)
_PASSING = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Limits:
    """How long and how often a store is asked.

    read_s: without a byte arriving. total_s: for one part of a file, however slowly it drips.
    tries: of each question; wait_s: before the second, twice that before the third, and so on.
    misses: questions in a row that may come to nothing before the store is given up.
    """

    connect_s: float = 10
    read_s: float = 20
    total_s: float = 120
    tries: int = 4
    wait_s: float = 0.5
    misses: int = 8


LIMITS = Limits()
# Questions in a row that came to nothing, of each store.
_misses: dict[str, int] = {}
_lock = threading.Lock()


def opened(address: str | os.PathLike[str]) -> tuple[Any, str, str]:
    """Return what talks to an address's store, its path there, and what stands before paths.

    Raises:
        MissingExtra, BadAddress, StoreRefused.
    """
    text = checked(os.fspath(address))
    scheme, _, rest = text.partition("://")
    host = rest.partition("/")[0]
    try:
        fs = _talker(scheme.lower(), host if scheme == "hdfs" else "")
    except ImportError as error:
        extra = extra_of(text)
        raise MissingExtra(
            f"{shown(text)} needs what talks to {scheme}://, which is not installed "
            f"({error.name or error}). Nothing was read or written. Install it with: "
            f"pip install 'tellapart[{extra}]'"
        ) from error
    except (ValueError, OSError) as error:
        # adlfs without an account, hdfs without its library: said when it is opened.
        raise refused(address, error) from error
    if scheme in ("http", "https"):
        return fs, text, ""
    if scheme == "hdfs":
        return fs, "/" + rest.partition("/")[2], f"{scheme}://{host}/"
    return fs, rest, f"{scheme}://"


def asked(address: str | os.PathLike[str], once: Callable[[], T]) -> T:
    """Ask a store, again where that may help, and turn what goes wrong into words.

    Raises:
        FileNotFoundError, StoreRefused, StoreNotReached; an OSError that no trying again helps.
    """
    store = _store(address)
    if _misses.get(store, 0) >= LIMITS.misses:
        raise _not_reached(address, f"it gave no answer {LIMITS.misses} times in a row", True)
    # What talks to Google's tries six times by itself, and cannot be told not to.
    tries = 1 if store.startswith(("gs:", "gcs:")) else LIMITS.tries
    for attempt in range(1, tries + 1):
        try:
            answer = once()
        except (NotADirectoryError, IsADirectoryError, TellapartError):
            raise
        except Exception as met:
            error = behind(met)
            if isinstance(error, FileNotFoundError | TellapartError):
                raise error from None
            if is_refusal(error):
                raise refused(address, error) from error
            status = status_of(error)
            if not isinstance(error, OSError) and status is None and not is_passing(error):
                raise
            if status == 404:  # Of Azure, which calls it an error of its own.
                raise FileNotFoundError(reason_of(error)) from error
            if status in _FINAL and status not in _PASSING:
                raise OSError(reason_of(error)) from error
            if attempt == tries:
                with _lock:
                    _misses[store] = _misses.get(store, 0) + 1
                raise _not_reached(address, reason_of(error)) from error
            time.sleep(LIMITS.wait_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
        else:
            with _lock:
                _misses.pop(store, None)
            return answer
    raise AssertionError("unreachable")


def timed(fs: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call what talks to a store, for no longer than a part of a file may take."""
    if not getattr(fs, "async_impl", False):
        return getattr(fs, name)(*args, **kwargs)
    from fsspec.asyn import sync

    return sync(fs.loop, getattr(fs, f"_{name}"), *args, timeout=LIMITS.total_s, **kwargs)


@cache
def _talker(scheme: str, host: str) -> Any:
    """Return what talks to a store, its own retries off: here, they are counted once."""
    import fsspec

    for name in ("gcsfs", "s3fs", "adlfs", "fsspec", "azure", "aiobotocore", "botocore"):
        # They write tracebacks of what is tried again; what remains is said once, by us.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # One for a process and a store is kept here, with the environment as it is now.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        config = {"connect_timeout": LIMITS.connect_s, "read_timeout": LIMITS.read_s}
        options["config_kwargs"] = config | {"retries": {"total_max_attempts": 1}}
        options["config_kwargs"]["max_pool_connections"] = 32
    elif scheme in ("http", "https"):
        options |= {"get_client": _http_client}
    if scheme == "hdfs":
        name, _, port = host.partition(":")
        options = {"host": name or "default", "port": int(port or 0)}
    made = fsspec.filesystem(scheme, **options)
    if scheme in ("s3", "s3a"):
        made.retries = 1
    return made


async def _http_client(**kwargs: Any) -> Any:
    """Make a client that connects to public addresses alone, redirects included."""
    import aiohttp

    def connected(about: Any) -> socket.socket:
        family, kind, protocol, _, address = about
        if not (private_allowed() or is_public(str(address[0]))):
            raise BadAddress(
                f"An address leads to {address[0]}, which belongs to this machine or to a private "
                f"network. Expected one of the internet. Nothing was read. Set "
                f"TELLAPART_ALLOW_PRIVATE=1 to allow it."
            )
        return socket.socket(family, kind, protocol)

    waits = aiohttp.ClientTimeout(total=None, connect=LIMITS.connect_s, sock_read=LIMITS.read_s)
    kwargs.pop("loop", None)
    connector = aiohttp.TCPConnector(socket_factory=connected)
    return aiohttp.ClientSession(connector=connector, timeout=waits, **kwargs)


def _store(address: str | os.PathLike[str]) -> str:
    scheme, _, rest = os.fspath(address).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _not_reached(
    address: str | os.PathLike[str], reason: str, given_up: bool = False
) -> StoreNotReached:
    return StoreNotReached(
        f"{shown(address)} could not be reached: {reason}. Expected an answer within "
        f"{LIMITS.read_s:g} s; it was tried {LIMITS.tries} times. What was done before that is "
        f"kept. Check the network and the address, then repeat the command.",
        reason,
        given_up,
    )
