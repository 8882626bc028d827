"""Pictures from the network: asked for politely, checked by their bytes, kept by their URL.

No cookies, no passwords and no proxies: a proxy would look the names up, and nobody could tell
where they lead.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from tellapart.data.addresses import (
    Place,
    checked_addresses,
    is_allowed,
    place_of,
)
from tellapart.data.pixels import available_cores, decode
from tellapart.errors import NotFetched, UnreadablePicture
from tellapart.files import ELSEWHERE_KEPT, cache_folder, output_error, write_atomically
from tellapart.progress import Progress
from tellapart.stores.addresses import private_allowed

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import BaseHTTPResponse

R = TypeVar("R")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
# What may go better a little later.
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# Nothing packed is asked for; these come nevertheless.
_PACKED = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})

# Hosts whose pace is remembered; the first is forgotten for one more.
_MOST_HOSTS = 10_000

# A picture is checked at a reduced scale: all of its bytes are read, few pixels are kept.
_CHECKED_PX = 64
# Pictures that are checked at the same time: each may take a gigabyte.
_checking = threading.BoundedSemaphore(available_cores())

# How the files of each format begin, and what they are called.
_SUFFIXES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II": ".tif",
    b"MM": ".tif",
}


@dataclass(frozen=True)
class Limits:
    """How long, how large and how often.

    total_s: a picture may take, however slowly it drips. size_mb: unpacked. tries: of a picture,
    where it may go better a little later. retry_s: before the second try; twice that before the
    third. longest_wait_s: what a server may ask to wait; beyond it the picture is given up.
    per_host: asked for at one time from one host; pause_s: between the starts of two.
    give_up_after: so many times in a row that a host could not be reached, and it is asked no more:
    else each of a dead host's ten thousand pictures would be waited for.
    """

    connect_s: float = 10
    read_s: float = 20
    total_s: float = 120
    size_mb: float = 50
    redirects: int = 5
    tries: int = 3
    retry_s: float = 1
    longest_wait_s: float = 60
    per_host: int = 2
    pause_s: float = 0.2
    at_once: int = 16
    give_up_after: int = 6


class Fetcher:
    """Asks servers for files, each host at its own pace.

    allow_private: also addresses of this machine and of private networks; None: as the
        environment's TELLAPART_ALLOW_PRIVATE says. contact: told to the servers beside what this
        program is. hosts: the only ones that are asked, also where another redirects to them, as
        `addresses.is_allowed` reads them; None: all.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        allow_private: bool | None = None,
        contact: str = "",
        hosts: Sequence[str] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._allowed = hosts
        self._allow_private = allow_private
        about = "fetches labelled pictures for one person" + (f"; {contact}" if contact else "")
        # Latin-1 is what a header can say, and a line end would begin another one.
        about = " ".join(about.encode("latin-1", "replace").decode("latin-1").split())
        self._agent = f"tellapart/{version('tellapart')} ({about})"
        self._tls = ssl.create_default_context()
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._stopped = threading.Event()
        self._talking: set[socket.socket] = set()

    def get(self, url: str, accept: str = "image/*,*/*;q=0.1") -> bytes:
        """Fetch a file, following redirects, and trying again where that may help.

        Raises:
            NotFetched.
        """
        for attempt in range(self.limits.tries):
            try:
                return self._follow(url, accept)
            except NotFetched as error:
                if error.again_s is None or attempt == self.limits.tries - 1:
                    raise
                wait_s = max(error.again_s, self.limits.retry_s * 2**attempt)
                if wait_s > self.limits.longest_wait_s:
                    raise
                self._wait(wait_s)
        raise AssertionError("unreachable")

    def get_many(
        self, urls: Sequence[str], read: Callable[[str, bytes], R]
    ) -> Iterator[tuple[str, R | NotFetched]]:
        """Fetch many files at once, and yield what `read` makes of each as it is ready.

        read: called in a thread; an UnreadablePicture from it counts as not fetched.
        """
        # A lane asks one host for one file after the other, so none waits for a turn while
        # another host has nothing to do; a host has as many lanes as may ask it at one time.
        waiting: dict[str, deque[str]] = {}
        for url in urls:
            waiting.setdefault(_host_of(url), deque()).append(url)
        done: SimpleQueue[tuple[str, R | NotFetched] | BaseException] = SimpleQueue()
        over = threading.Event()

        def lane(queue: deque[str]) -> None:
            while queue and not over.is_set():
                try:
                    url = queue.popleft()
                    done.put((url, self._read(url, read)))
                except IndexError:  # Its other lane took the last one.
                    return
                except BaseException as error:
                    done.put(error)
                    return

        pool = ThreadPoolExecutor(self.limits.at_once, thread_name_prefix="fetch")
        try:
            for _ in range(self.limits.per_host):
                for queue in waiting.values():
                    pool.submit(lane, queue)
            for _ in range(len(urls)):
                one = done.get()
                if isinstance(one, BaseException):
                    raise one
                yield one
        except BaseException:
            self.stop()
            raise
        finally:
            over.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """Hang up everywhere, so that nothing is waited for; this fetcher is of no use after."""
        self._stopped.set()
        with self._lock:
            talking = list(self._talking)
        for sock in talking:
            _hang_up(sock)

    def _read(self, url: str, read: Callable[[str, bytes], R]) -> R | NotFetched:
        try:
            return read(url, self.get(url))
        except NotFetched as error:
            return error
        except UnreadablePicture as error:
            return NotFetched("not a picture", str(error))

    def _follow(self, url: str, accept: str) -> bytes:
        for _ in range(self.limits.redirects + 1):
            place = self._place(url)
            answer = self._in_turn(place, partial(self._ask, place, accept))
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise NotFetched("redirects", f"redirects more than {self.limits.redirects} times")

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send something once; a redirect is not followed.

        Raises:
            NotFetched: it did not arrive, or was not answered with success (2xx).
        """
        place = self._place(url)

        def send() -> bytes:
            with self._talking_to(place) as (connection, late):
                given = {"Host": place.named, "User-Agent": self._agent, **headers}
                with _in_words(late, self.limits):
                    connection.request(
                        "POST", place.target, body=body, headers=given, preload_content=False
                    )
                    with closing(connection.getresponse()) as response:
                        said = response.read(2000, decode_content=False)
                        if not 200 <= response.status < 300:
                            raise _refusal(response.status, "", said.decode(errors="replace"))
            return b""

        self._in_turn(place, send)

    def _place(self, url: str) -> Place:
        place = place_of(url)
        if self._allowed is not None and not is_allowed(place, self._allowed):
            raise NotFetched("address", f"is at {place.named}, which is not among allowed hosts")
        return place

    def _in_turn(self, place: Place, ask: Callable[[], bytes | str]) -> bytes | str:
        """Ask a host when it is its turn, and learn from the answer."""
        with self._lock:
            host = self._hosts.setdefault(place.host, _Host(self.limits))
            if len(self._hosts) > _MOST_HOSTS:
                del self._hosts[next(iter(self._hosts))]
        with host.slots:
            self._wait(host.turn())
            try:
                answer = ask()
            except NotFetched as error:
                host.note(error)
                raise
            host.note(None)
        return answer

    def _ask(self, place: Place, accept: str) -> bytes | str:
        """Ask for a file; return its bytes, or where it is said to be."""
        with self._talking_to(place) as (connection, late), _in_words(late, self.limits):
            connection.request(
                "GET",
                place.target,
                headers={"Host": place.named, "User-Agent": self._agent, "Accept": accept}
                | {"Accept-Encoding": "identity"},
                preload_content=False,
            )
            with closing(connection.getresponse()) as response:
                answer = _answer(response, self.limits)
            if late.is_set() or self._stopped.is_set():  # An end without a length says nothing.
                raise TimeoutError
            return answer

    @contextmanager
    def _talking_to(self, place: Place) -> Iterator[tuple[HTTPConnection, threading.Event]]:
        """Connect to a checked address, and hang up in the end, or when it takes too long."""
        private_too = self._allow_private
        if private_too is None:
            private_too = private_allowed()
        connection = self._connect(place, checked_addresses(place, private_too))
        # Where the answer has no length, the connection forgets its socket while it is read.
        sock: socket.socket = connection.sock
        late = threading.Event()

        def give_up() -> None:
            late.set()
            _hang_up(sock)

        watchdog = threading.Timer(self.limits.total_s, give_up)
        watchdog.daemon = True
        try:
            with self._lock:
                self._talking.add(sock)
            self._wait(0)  # Who stopped meanwhile did not see this one.
            watchdog.start()
            yield connection, late
        finally:
            watchdog.cancel()
            with self._lock:
                self._talking.discard(sock)
            connection.close()

    def _connect(self, place: Place, addresses: Sequence[str]) -> HTTPConnection:
        """Connect to the first of the addresses that answers; TLS is held to the host's name."""
        from urllib3.connection import HTTPConnection, HTTPSConnection
        from urllib3.exceptions import SSLError

        seconds = self.limits.connect_s
        for number, address in enumerate(addresses, start=1):
            if place.secure:
                connection: HTTPConnection = HTTPSConnection(
                    address,
                    place.port,
                    timeout=seconds,
                    ssl_context=self._tls,
                    server_hostname=place.host,
                )
            else:
                connection = HTTPConnection(address, place.port, timeout=seconds)
            try:
                connection.connect()
                connection.timeout = self.limits.read_s
                return connection
            except Exception as error:
                connection.close()
                if not isinstance(error, _troubles()):
                    raise
                if number == len(addresses):
                    again_s = None if isinstance(error, ssl.SSLError | SSLError) else 0.0
                    said = f"cannot be reached ({_reason(error)})"
                    raise NotFetched("unreachable", said, again_s) from error
        raise NotFetched("unreachable", "has a host without an address")

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise NotFetched("unreachable", "was not asked for: the run was stopped")


class _Host:
    """When a host may be asked again."""

    def __init__(self, limits: Limits) -> None:
        self.slots = threading.BoundedSemaphore(limits.per_host)
        self._limits = limits
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._n_misses = 0

    def turn(self) -> float:
        """Take the next turn, and return in how many seconds it comes.

        Raises:
            NotFetched: the host asked to be left alone for longer than that, or is given up.
        """
        with self._lock:
            if self._n_misses >= self._limits.give_up_after:
                said = f"has a host that could not be reached {self._n_misses} times in a row"
                raise NotFetched("unreachable", said)
            now = time.monotonic()
            wait_s = max(0.0, self._free_at - now)
            if wait_s > self._limits.longest_wait_s:
                raise NotFetched("busy", f"has a host that asks to wait {wait_s:.0f} s")
            self._free_at = now + wait_s + self._limits.pause_s
        return wait_s

    def note(self, error: NotFetched | None) -> None:
        """Learn from an answer, or from what came instead of one."""
        with self._lock:
            missed = error is not None and error.kind == "unreachable"
            self._n_misses = self._n_misses + 1 if missed else 0
            if error is not None and error.again_s:
                self._free_at = max(self._free_at, time.monotonic() + error.again_s)


def check_picture(data: bytes) -> str:
    """Make sure that bytes are a whole picture, and return the suffix that its content has.

    Raises:
        UnreadablePicture: says what they are instead.
    """
    with _checking:
        decode(data, _CHECKED_PX)
    if data[4:8] == b"ftyp":
        return ".avif" if b"avif" in data[8:64] else ".heic"
    return next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".img")


def fetched(url: str) -> Path:
    """Return the file that holds a URL's picture: fetched and checked the first time, then kept.

    Raises:
        NotFetched, UnreadablePicture, DiskFull, NotWritable.
    """
    return kept(url) or _keep(url, _shared().get(url))


def fetch_all(
    urls: Sequence[str], progress: Progress, fetcher: Fetcher | None = None
) -> tuple[dict[str, Path], dict[str, NotFetched]]:
    """Fetch what is not kept yet; return the file of each URL, and why others have none.

    Raises:
        DiskFull, NotWritable.
    """
    files = {url: path for url in dict.fromkeys(urls) if (path := kept(url))}
    for folder in {path.parent for path in files.values()}:
        with suppress(OSError):  # A read-only cache serves as well; it only is pruned too early.
            os.utime(folder)
    missing = [url for url in dict.fromkeys(urls) if url not in files]
    failed: dict[str, NotFetched] = {}
    if missing:
        fetcher = fetcher or Fetcher()
        with progress.bar("Fetching", len(missing), "pictures") as advance:
            for url, found in fetcher.get_many(missing, _keep):
                if isinstance(found, NotFetched):
                    failed[url] = found
                else:
                    files[url] = found
                advance(1)
    return files, failed


def kept(url: str) -> Path | None:
    """Return the file that is kept of a URL, None where there is none yet."""
    base = _kept_base(url)
    for suffix in (*dict.fromkeys(_SUFFIXES.values()), ".avif", ".heic", ".img"):
        path = base.with_name(base.name + suffix)
        if path.exists():
            return path
    return None


def in_words(failed: dict[str, NotFetched], most: int = 3) -> str:
    """Say why files were not fetched: how many of each kind, and the first few of it."""
    kinds: dict[str, list[str]] = {}
    for url, error in failed.items():
        kinds.setdefault(error.kind, []).append(f"{url} {error}")
    said = []
    for kind, lines in sorted(kinds.items(), key=lambda item: -len(item[1])):
        more = f"; and {len(lines) - most} more" if len(lines) > most else ""
        said.append(f"{len(lines)} x {kind} ({'; '.join(lines[:most])}{more})")
    return ", ".join(said)


@cache
def _shared() -> Fetcher:
    """What fetches single pictures for this process."""
    return Fetcher()


def _keep(url: str, data: bytes) -> Path:
    """Check a picture and write it into the cache."""
    suffix = check_picture(data)
    base = _kept_base(url)
    about = base.parent / "about.json"
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(base.parent, error, ELSEWHERE_KEPT) from error
    if not about.exists():
        write_atomically(about, json.dumps({"host": _host_of(url)}), ELSEWHERE_KEPT)
    path = base.with_name(base.name + suffix)
    write_atomically(path, data, ELSEWHERE_KEPT)
    return path


def _kept_base(url: str) -> Path:
    """Say where a URL's picture is kept, without the suffix, which only its bytes can tell."""
    safe = re.compile(r"[^A-Za-z0-9._-]+")
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    stem = safe.sub("_", name.rpartition(".")[0] or name)[:40].strip("._-")
    key = hashlib.blake2b(url.encode(errors="replace"), digest_size=10).hexdigest()
    host = safe.sub("_", _host_of(url))[:80].strip("._-") or "unnamed"
    return cache_folder() / "fetched" / host / f"{stem}-{key}".lstrip("-")


def _host_of(url: str) -> str:
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _answer(response: BaseHTTPResponse, limits: Limits) -> bytes | str:
    """Read an answer: the bytes of a file, or where it is said to be.

    Raises:
        NotFetched; whatever reading raises.
    """
    status, headers = response.status, response.headers
    if status in _REDIRECTS and headers.get("Location"):
        # Headers come as Latin-1; those who do not escape them write UTF-8.
        return headers["Location"].encode("latin-1", "replace").decode(errors="replace")
    most = int(limits.size_mb * 1e6)
    if status != 200:
        body = response.read(2000, decode_content=False).decode(errors="replace")
        raise _refusal(status, headers.get("Retry-After", ""), body)
    packed = headers.get("Content-Encoding", "identity").lower()
    if packed not in _PACKED:
        raise NotFetched("not a picture", f"is packed as {packed[:20]}, which was not asked for")
    declared = headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > most:
        raise NotFetched("too large", f"is larger than {limits.size_mb:g} MB")
    data = bytearray()
    for block in response.stream(1 << 16, decode_content=True):
        data += block
        if len(data) > most:
            raise NotFetched("too large", f"is larger than {limits.size_mb:g} MB")
    return bytes(data)


def _refusal(status: int, retry_after: str, body: str) -> NotFetched:
    reason = http.client.responses.get(status, "")
    text = f"answers {status} {reason}".rstrip()
    kind = "server error" if status >= 500 else "refused"
    if status in _GONE:
        kind = "gone"
    elif status == 429:
        kind = "busy"
    again_s = _seconds(retry_after) if status in _PASSING else None
    if again_s:
        text += f", come back in {again_s:.0f} s"
    return NotFetched(kind, text, again_s, body)


def _seconds(retry_after: str) -> float:
    """Read how long a server asks to wait, given in seconds or as a date; 0 where it does not."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


@contextmanager
def _in_words(late: threading.Event, limits: Limits) -> Iterator[None]:
    """Turn what goes wrong while talking to a server into words."""
    from urllib3.exceptions import DecodeError, ReadTimeoutError

    try:
        yield
    except NotFetched:
        raise
    except _troubles() as error:
        if late.is_set():
            slow = f"took longer than {limits.total_s:g} s"
            raise NotFetched("too slow", slow, 0) from error
        if _cause(error, TimeoutError, ReadTimeoutError):
            slow = f"sent nothing for {limits.read_s:g} s"
            raise NotFetched("too slow", slow, 0) from error
        if isinstance(error, DecodeError):
            raise NotFetched("cut off", "arrived packed in a way that is damaged", 0) from error
        short = _cause(error, http.client.IncompleteRead)
        if isinstance(short, http.client.IncompleteRead):
            # urllib3 counts the bytes, http.client brings them.
            n = short.partial if isinstance(short.partial, int) else len(short.partial)
            said = f"is cut off: {n} bytes arrived, {short.expected} were missing"
            raise NotFetched("cut off", said, 0) from error
        raise NotFetched("cut off", f"is cut off ({_reason(error)})", 0) from error


@cache
def _troubles() -> tuple[type[Exception], ...]:
    from urllib3.exceptions import HTTPError

    return (HTTPError, http.client.HTTPException, OSError)


def _cause(error: BaseException | None, *kinds: type[BaseException]) -> BaseException | None:
    """Find an error of these kinds among an error and what led to it."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def _reason(error: BaseException) -> str:
    """Say in few words what went wrong below; the outermost error often only wraps it."""
    while (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__ or error
    said = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(said).split()) or type(error).__name__


def _hang_up(sock: socket.socket) -> None:
    """End a talk from outside, which wakes whoever reads from it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
