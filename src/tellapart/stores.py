"""Addresses of object stores and servers: listed, read in parts, written whole, through fsspec.

An address is the URL of a file or folder (s3://bucket/photos). Credentials come from where each
store's own tools take them, never from the address. What may go better a little later is tried
again, a bounded number of times and seconds; what a message says has no secrets in it.
"""

from __future__ import annotations

import hashlib
import io
import ipaddress
import logging
import os
import random
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path, PosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from tellapart.errors import BadAddress, MissingExtra, StoreNotReached, StoreRefused, TellapartError

T = TypeVar("T")

# scheme -> the part of the install that brings what talks to it; "" needs nothing more.
SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "hdfs": "parquet",
    "http": "http",
    "https": "http",
    "memory": "",
}
# What people may mean as well, and is refused in words.
_OTHERS = frozenset({"ftp", "ftps", "sftp", "hf", "dbfs", "smb", "oss", "cos", "wasb", "wasbs"})
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):(//?)")
# What a failure is called, by the libraries, where credentials lack or are wrong.
_REFUSED = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
    }
)
# Of these, a query or a variable is a secret, and is cut out of what is said.
_SECRET = re.compile(r"(secret|token|key|sig|signature|password|credential|sas|connection)", re.I)
# What the stores call the version of a file, and its time.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "Last-Modified")
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
# The store's answers that no second question changes.
_FINAL = range(400, 500)
_PASSING = frozenset({408, 425, 429})
_63_BITS = (1 << 63) - 1


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
# Questions that are open at one time.
AT_ONCE = 16
# Read at one time: a second of a quick line, and little beside what a network needs.
BLOCK_BYTES = 8 << 20
# A picture beyond this is none.
MOST_BYTES = 200_000_000


class Address(PosixPath):
    """The URL of a file or folder, taken apart like a path; as text it keeps its two slashes."""

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> Address:
        """Return it as it is: there is nothing that it could be relative to."""
        return self


@dataclass(frozen=True)
class Entry:
    """A file or folder of a store, shaped like what `os.scandir` yields.

    facts: what tells whether a file has changed (version, size, time); None where the store does
    not say enough.
    """

    path: str
    folder: bool
    size: int
    facts: tuple[int, int, int] | None

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rstrip("/").rpartition("/")[2]

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Whether it is a file."""
        return not self.folder


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of a store, also where pathlib took one of its slashes."""
    text = os.fspath(path)
    # Asked of every local picture, too: most are done with here.
    if text.find(":/", 1, 12) < 0:
        return False
    match = _SCHEME.match(text)
    if match is None:
        return False
    scheme = match[1].lower()
    return scheme in SCHEMES or scheme in _OTHERS or (match[2] == "//" and scheme != "file")


def place(path: str | os.PathLike[str]) -> Path:
    """Return a path as what it is: an Address, or a path on this machine with ~ expanded.

    Raises:
        BadAddress: a scheme that is not known, or a password in it.
    """
    text = os.fspath(path)
    if text.startswith("file:/"):
        text = re.sub("^file:/+", "/", text)
    if not is_address(text):
        return Path(text).expanduser()
    return Address(_checked(text))


def shown(address: str | os.PathLike[str]) -> str:
    """Return an address as it may be printed: a query that holds secrets is left out."""
    text, mark, query = os.fspath(address).partition("?")
    return (
        f"{text}?…"
        if mark and is_address(text) and _SECRET.search(query)
        else f"{text}{mark}{query}"
    )


def listed(folder: str | os.PathLike[str]) -> list[Entry]:
    """List the files and folders in a folder, by name; empty where there is nothing.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = _opened(folder)
    try:
        found = _asked(folder, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    entries = [_entry(one, prefix) for one in found if one["name"].strip("/") != path.strip("/")]
    return sorted(entries, key=lambda entry: entry.name)


def info(address: str | os.PathLike[str]) -> Entry | None:
    """Return what lies at an address; None where nothing does.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = _opened(address)
    try:
        return _entry(_asked(address, lambda: fs.info(path)), prefix)
    except FileNotFoundError:
        return None


def glob(pattern: str) -> list[str]:
    """Return the files that a pattern (*, ?, **) fits, by name.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = _opened(pattern)
    return sorted(prefix + str(one).lstrip("/") for one in _asked(pattern, lambda: fs.glob(path)))


def read(address: str | os.PathLike[str], start: int = 0, end: int | None = None) -> bytes:
    """Read a file, or its bytes from `start` up to `end`; what is cut off counts as not read.

    Raises:
        FileNotFoundError: nothing lies there. MissingExtra, BadAddress, StoreRefused,
        StoreNotReached.
    """
    fs, path, _ = _opened(address)

    def once() -> bytes:
        data = bytes(_timed(fs, "cat_file", path, start=start or None, end=end))
        if end is not None and len(data) > end - start:
            # A server that knows no ranges sends all of the file.
            return data[start:end]
        return data

    return _asked(address, once)


def open_read(address: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading, in any order; a broken connection is made anew where it broke.

    Raises:
        FileNotFoundError, MissingExtra, BadAddress, StoreRefused, StoreNotReached: here, or while
        reading.
    """
    fs, path, _ = _opened(address)
    facts = _asked(address, lambda: fs.info(path))
    if facts["type"] == "directory":
        raise FileNotFoundError(f"{shown(address)} is a folder")
    size = facts.get("size")
    if size is None or not has_ranges(address):
        return io.BufferedReader(_Stream(address, fs, path), BLOCK_BYTES)
    return io.BufferedReader(_Parts(address, int(size)), BLOCK_BYTES)


def has_ranges(address: str | os.PathLike[str]) -> bool:
    """Whether parts of a file can be asked for: all stores give them, not all servers of pages.

    Raises:
        FileNotFoundError, MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, _ = _opened(address)
    if "http" not in fs.protocol:
        return True
    from fsspec.asyn import sync

    async def asked() -> bool:
        session = await fs.set_session()
        async with session.get(path, headers={"Range": "bytes=0-0"}) as answer:
            return bool(answer.status == 206)

    return _asked(address, lambda: bool(sync(fs.loop, asked, timeout=LIMITS.total_s)))


def upload(source: Path, address: str | os.PathLike[str]) -> None:
    """Put a local file in place of what lies at an address: whole, or nothing of it.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached; OSError otherwise.
    """
    fs, path, _ = _opened(address)
    _writable(address)

    def once() -> None:
        with source.open("rb") as file:
            _write_whole(fs, path, file)

    _asked(address, once)


def check_writable(address: str | os.PathLike[str]) -> None:
    """Find out whether a file could be written there, by beginning to and taking it back.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached; OSError otherwise.
    """
    fs, path, _ = _opened(address)
    _writable(address)

    def once() -> None:
        if _has_uploads(fs):
            file = fs.open(path, "wb", autocommit=False)
            try:
                file.write(b"probe")
                file.flush(force=True)
            finally:
                _give_up(file)
        else:
            probe = f"{path}.{secrets.token_hex(4)}.part"
            fs.pipe_file(probe, b"probe")
            fs.rm_file(probe)

    _asked(address, once)


def make_folder(address: str | os.PathLike[str]) -> None:
    """Make a folder where a store has such things."""
    fs, path, _ = _opened(address)
    with suppress(FileExistsError, NotImplementedError, PermissionError):
        _asked(address, lambda: fs.makedirs(path, exist_ok=True))


def extra_of(address: str | os.PathLike[str]) -> str:
    """Name the part of the install that an address needs; "" for none."""
    match = _SCHEME.match(os.fspath(address))
    return SCHEMES.get(match[1].lower(), "") if match else ""


def private_allowed() -> bool:
    """Whether the user allowed addresses of this machine and of private networks."""
    return os.environ.get("TELLAPART_ALLOW_PRIVATE", "") not in ("", "0")


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, as are those of IPv4 that it may wrap."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _Parts(io.RawIOBase):
    """A file of known size, read part by part, each asked for and tried again on its own."""

    def __init__(self, address: str | os.PathLike[str], size: int) -> None:
        self._address, self._size, self._at = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readall(self) -> bytes:
        blocks = []
        while block := self.read(BLOCK_BYTES):
            blocks.append(block)
        return b"".join(blocks)

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = read(self._address, self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Stream(io.RawIOBase):
    """A file of a server that sends it from the start only: to go back is to begin again."""

    def __init__(self, address: str | os.PathLike[str], fs: Any, path: str) -> None:
        self._address, self._fs, self._path = address, fs, path
        self._file: Any = None
        self._at = self._wanted = 0
        self._end: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._wanted

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._end is None:
            self._wanted = self._at
            while self.read(1 << 20):
                pass
            self._end = self._wanted
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._wanted, io.SEEK_END: self._end or 0}[whence]
        self._wanted = max(0, base + offset)
        return self._wanted

    def readinto(self, buffer: Any) -> int:
        data = _asked(self._address, lambda: self._next(min(len(buffer), 1 << 20)))
        buffer[: len(data)] = data
        self._wanted = self._at
        return len(data)

    def _next(self, most: int) -> bytes:
        try:
            if self._file is None or self._at > self._wanted:
                self._file, self._at = self._fs.open(self._path, "rb", block_size=0), 0
            while self._at < self._wanted:
                passed = len(self._file.read(min(1 << 20, self._wanted - self._at)))
                if not passed:
                    return b""
                self._at += passed
            data = bytes(self._file.read(most))
        except Exception:
            self._file = None
            raise
        self._at += len(data)
        return data


def _checked(text: str) -> str:
    """Make sure that an address can be understood, and give it back its two slashes."""
    text = _SCHEME.sub(r"\1://", text, count=1)
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name != "memory")
        raise BadAddress(
            f"{shown(text)} begins with {scheme}://, which is not known. Expected a path on this "
            f"machine, or {known}. Nothing was read or written. Copy it to one of these first."
        )
    if "@" in text and ":" in urlsplit(text).netloc.rpartition("@")[0]:
        raise BadAddress(
            f"An address of {scheme}:// has a password in it, where it would be seen in lists of "
            f"commands and in logs. Expected credentials in the environment, where the store's own "
            f"tools look for them. Nothing was read or written. Take it out; docs/storage.md names "
            f"the variables."
        )
    return text


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


def _opened(address: str | os.PathLike[str]) -> tuple[Any, str, str]:
    """Return what talks to an address's store, its path there, and what stands before paths.

    Raises:
        MissingExtra, BadAddress, StoreRefused.
    """
    text = _checked(os.fspath(address))
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
        raise _refused(address, error) from error
    if scheme in ("http", "https"):
        return fs, text, ""
    if scheme == "hdfs":
        return fs, "/" + rest.partition("/")[2], f"{scheme}://{host}/"
    return fs, rest, f"{scheme}://"


async def _http_client(**kwargs: Any) -> Any:
    """Make a client that connects to public addresses alone, redirects included."""
    import aiohttp

    def checked(about: Any) -> socket.socket:
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
    connector = aiohttp.TCPConnector(socket_factory=checked)
    return aiohttp.ClientSession(connector=connector, timeout=waits, **kwargs)


def _entry(found: dict[str, Any], prefix: str) -> Entry:
    name = str(found["name"])
    folder = found["type"] == "directory"
    path = name if prefix == "" else prefix + name.lstrip("/")
    size = int(found.get("size") or 0)
    return Entry(path.rstrip("/") if folder else path, folder, size, _facts(found, size))


def _facts(found: dict[str, Any], size: int) -> tuple[int, int, int] | None:
    """Return what changes when a file does: its version or hash where there is one, else its time.

    A time alone says nothing while the clock may not have ticked since.
    """
    given = (found.get(key) for key in _VERSIONS)
    version = next((str(one) for one in given if one), "")
    times = (found.get(key) for key in _TIMES)
    when = next((one for one in times if one), None)
    if isinstance(when, datetime):
        when = when.timestamp()
    mtime = int(float(when) * 1e9) if isinstance(when, int | float) else 0
    if not version and (not mtime or mtime + 2_000_000_000 > time.time_ns()):
        return None
    hashed = hashlib.blake2b(version.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") & _63_BITS, size, mtime


_misses: dict[str, int] = {}
_lock = threading.Lock()


def _asked(address: str | os.PathLike[str], once: Callable[[], T]) -> T:
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
            error = _behind(met)
            if isinstance(error, FileNotFoundError | TellapartError):
                raise error from None
            if _is_refusal(error):
                raise _refused(address, error) from error
            status = _status(error)
            if not isinstance(error, OSError) and status is None and not _passing(error):
                raise
            if status in _FINAL and status not in _PASSING:
                raise OSError(_reason(error)) from error
            if attempt == tries:
                with _lock:
                    _misses[store] = _misses.get(store, 0) + 1
                raise _not_reached(address, _reason(error)) from error
            time.sleep(LIMITS.wait_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
        else:
            with _lock:
                _misses.pop(store, None)
            return answer
    raise AssertionError("unreachable")


def _timed(fs: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call what talks to a store, for no longer than a part of a file may take."""
    if not getattr(fs, "async_impl", False):
        return getattr(fs, name)(*args, **kwargs)
    from fsspec.asyn import sync

    return sync(fs.loop, getattr(fs, f"_{name}"), *args, timeout=LIMITS.total_s, **kwargs)


def _has_uploads(fs: Any) -> bool:
    """Whether a file being written can be taken back, so that nothing of it is ever seen."""
    return fs.protocol in ("s3", "gs") or bool({"s3", "gs"} & set(fs.protocol))


def _write_whole(fs: Any, path: str, source: IO[bytes]) -> None:
    if _has_uploads(fs):
        file = fs.open(path, "wb", autocommit=False)
        try:
            shutil.copyfileobj(source, file, BLOCK_BYTES)
            file.close()
            file.commit()
        except BaseException:
            _give_up(file)
            raise
    elif "memory" in fs.protocol:
        fs.pipe_file(path, source.read())
    else:
        # Azure shows a blob when its last block is committed; elsewhere moving is one step.
        moved = "hdfs" in fs.protocol
        target = f"{path}.{secrets.token_hex(4)}.part" if moved else path
        with fs.open(target, "wb") as file:
            shutil.copyfileobj(source, file, BLOCK_BYTES)
        if moved:
            fs.mv(target, path)


def _give_up(file: Any) -> None:
    """Abort an upload that was begun, so that its parts are not kept and paid for."""
    with suppress(Exception):
        file.discard()
    file.closed = True  # Else forgetting the file would send the rest of it.


def _writable(address: str | os.PathLike[str]) -> None:
    if urlsplit(os.fspath(address)).scheme in ("http", "https"):
        raise BadAddress(
            f"{shown(address)} cannot be written: servers of pages take no files. Expected a path "
            f"on this machine, or an address such as s3://bucket/name. Nothing was done."
        )


def _store(address: str | os.PathLike[str]) -> str:
    scheme, _, rest = os.fspath(address).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _behind(error: Exception) -> BaseException:
    """Return what is behind a file that is said to be missing: perhaps the line is only broken."""
    if not isinstance(error, FileNotFoundError):
        return error
    for one in _causes(error)[1:]:
        if isinstance(one, TellapartError):
            return one
        if type(one).__module__.startswith("aiohttp") and _status(one) not in (404, 410):
            return one
    return error


def _causes(error: BaseException | None) -> list[BaseException]:
    # Not what was met before it: a file found missing, where a folder was then looked for.
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error comes from, if it comes from one."""
    for one in _causes(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(one, "status", None) or getattr(one, "status_code", None)
            status = status or getattr(one, "code", None)
        with suppress(TypeError, ValueError):
            if status and 100 <= int(status) < 600:
                return int(status)
    return None


def _is_refusal(error: BaseException) -> bool:
    named = any(type(one).__name__ in _REFUSED for one in _causes(error))
    return named or isinstance(error, PermissionError) or _status(error) in (401, 403)


def _passing(error: BaseException) -> bool:
    """Whether an error that is no OSError tells of a connection, as those of some libraries do."""
    modules = {type(one).__module__.partition(".")[0] for one in _causes(error)}
    talkers = {
        "aiohttp",
        "botocore",
        "aiobotocore",
        "azure",
        "google",
        "gcsfs",
        "fsspec",
        "asyncio",
    }
    return bool(modules & talkers)


def _refused(address: str | os.PathLike[str], error: BaseException) -> StoreRefused:
    scheme = os.fspath(address).partition(":")[0].lower()
    where = {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (of an open bucket: "
        "FSSPEC_S3_ANON=true)",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
        "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or _SAS_TOKEN",
        "parquet": "the login and the configuration of Hadoop (HADOOP_HOME, CLASSPATH)",
    }.get(SCHEMES.get(scheme, ""), "an address that anybody may read")
    return StoreRefused(
        f"{shown(address)} may not be used: {_reason(error)}. Expected credentials that allow it, "
        f"where the store's own tools look for them: {where}. Nothing was read or written. Set "
        f"them, or check the address."
    )


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


def _reason(error: BaseException) -> str:
    """Say in few words what went wrong, without what is secret."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = re.sub(r"\?[^\s'\"]*", "?…", said)
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            said = said.replace(value, "…")
    return said[:300].rstrip(".")
