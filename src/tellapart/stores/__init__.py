"""Addresses of object stores and servers: listed, read in parts, written whole, through fsspec.

An address is the URL of a file or folder (s3://bucket/photos). Credentials come from where each
store's own tools take them, never from the address. What may go better a little later is tried
again, a bounded number of times and seconds; what a message says has no secrets in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tellapart.errors import BadAddress
from tellapart.stores import asking
from tellapart.stores.addresses import SCHEMES, Address, is_address, place, shown
from tellapart.stores.asking import asked, opened, timed
from tellapart.stores.streams import BLOCK_BYTES, FromStart, Parts, Sought

__all__ = [
    "AT_ONCE",
    "BLOCK_BYTES",
    "MOST_BYTES",
    "SCHEMES",
    "Address",
    "Entry",
    "check_writable",
    "glob",
    "has_ranges",
    "info",
    "is_address",
    "listed",
    "make_folder",
    "open_read",
    "place",
    "read",
    "shown",
    "upload",
]

# What the stores call the version of a file, and its time.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "Last-Modified")
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
_63_BITS = (1 << 63) - 1

# A picture beyond this is none.
MOST_BYTES = 200_000_000

# Questions that are open at one time.
AT_ONCE = 16


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


def listed(folder: str | os.PathLike[str]) -> list[Entry]:
    """List the files and folders in a folder, by name; empty where there is nothing.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = opened(folder)
    try:
        found = asked(folder, lambda: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    entries = [_entry(one, prefix) for one in found if one["name"].strip("/") != path.strip("/")]
    return sorted(entries, key=lambda entry: entry.name)


def info(address: str | os.PathLike[str]) -> Entry | None:
    """Return what lies at an address; None where nothing does.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = opened(address)
    try:
        return _entry(asked(address, lambda: fs.info(path)), prefix)
    except FileNotFoundError:
        return None


def glob(pattern: str) -> list[str]:
    """Return the files that a pattern (*, ?, **) fits, by name.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, prefix = opened(pattern)
    return sorted(prefix + str(one).lstrip("/") for one in asked(pattern, lambda: fs.glob(path)))


def read(address: str | os.PathLike[str], start: int = 0, end: int | None = None) -> bytes:
    """Read a file, or its bytes from `start` up to `end`; what is cut off counts as not read.

    Raises:
        FileNotFoundError: nothing lies there. MissingExtra, BadAddress, StoreRefused,
        StoreNotReached.
    """
    fs, path, _ = opened(address)

    def once() -> bytes:
        data = bytes(timed(fs, "cat_file", path, start=start or None, end=end))
        if end is not None and len(data) > end - start:
            # A server that knows no ranges sends all of the file.
            return data[start:end]
        return data

    return asked(address, once)


def open_read(address: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading, in any order; a broken connection is made anew where it broke.

    Raises:
        FileNotFoundError, MissingExtra, BadAddress, StoreRefused, StoreNotReached: here, or while
        reading.
    """
    fs, path, _ = opened(address)
    facts = asked(address, lambda: fs.info(path))
    if facts["type"] == "directory":
        raise FileNotFoundError(f"{shown(address)} is a folder")
    size = facts.get("size")
    if size is None or not has_ranges(address):
        raw: Sought = FromStart(
            lambda: fs.open(path, "rb", block_size=0), lambda once: asked(address, once)
        )
    else:
        raw = Parts(lambda start, end: read(address, start, end), int(size))
    return io.BufferedReader(raw, BLOCK_BYTES)


def has_ranges(address: str | os.PathLike[str]) -> bool:
    """Whether parts of a file can be asked for: all stores give them, not all servers of pages.

    Raises:
        FileNotFoundError, MissingExtra, BadAddress, StoreRefused, StoreNotReached.
    """
    fs, path, _ = opened(address)
    if "http" not in fs.protocol:
        return True
    from fsspec.asyn import sync

    async def first_byte() -> bool:
        session = await fs.set_session()
        async with session.get(path, headers={"Range": "bytes=0-0"}) as answer:
            return bool(answer.status == 206)

    return asked(address, lambda: bool(sync(fs.loop, first_byte, timeout=asking.LIMITS.total_s)))


def upload(source: Path, address: str | os.PathLike[str]) -> None:
    """Put a local file in place of what lies at an address: whole, or nothing of it.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached; OSError otherwise.
    """
    fs, path, _ = opened(address)
    _writable(address)

    def once() -> None:
        with source.open("rb") as file:
            _write_whole(fs, path, file)

    asked(address, once)


def check_writable(address: str | os.PathLike[str]) -> None:
    """Find out whether a file could be written there, by beginning to and taking it back.

    Raises:
        MissingExtra, BadAddress, StoreRefused, StoreNotReached; OSError otherwise.
    """
    fs, path, _ = opened(address)
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

    asked(address, once)


def make_folder(address: str | os.PathLike[str]) -> None:
    """Make a folder where a store has such things."""
    fs, path, _ = opened(address)
    with suppress(FileExistsError, NotImplementedError, PermissionError):
        asked(address, lambda: fs.makedirs(path, exist_ok=True))


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
