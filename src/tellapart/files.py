"""Writing files so that a reader never meets a half-written one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tellapart import stores
from tellapart.errors import (
    BadAddress,
    DataNotFound,
    DiskFull,
    NotWritable,
    OutputError,
    StoreError,
)
from tellapart.stores import Address, is_address

# What the user can do when a result, or something kept between runs, cannot be written.
ELSEWHERE = "choose another place with -o"
ELSEWHERE_KEPT = "set TELLAPART_CACHE to another folder"


def cache_folder() -> Path:
    """Return the cache folder: $TELLAPART_CACHE, or this system's usual place."""
    set_by_user = os.environ.get("TELLAPART_CACHE")
    if set_by_user:
        return Path(set_by_user)
    import platformdirs

    return Path(platformdirs.user_cache_dir("tellapart", appauthor=False))


@contextmanager
def replacing(path: Path, cure: str = ELSEWHERE) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step.

    On any error, Ctrl-C included, `path` is left as it was and the temporary file is removed.
    `cure` says in the error's message how to write somewhere else. For an address the temporary
    file lies on this machine, and goes there in one upload, which is taken back if it fails.

    Raises:
        DiskFull, NotWritable: instead of the OSError that says so. StoreError.
    """
    if is_address(path):
        with _uploading(path, cure) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            # Else a power cut can leave the new name with no bytes behind it.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error, cure) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_atomically(path: Path, data: bytes | str, cure: str = ELSEWHERE) -> None:
    """Write a whole file or nothing.

    What UTF-8 cannot say, as the bytes of a file name in another encoding, is written as \\udcXX.

    Raises:
        DiskFull, NotWritable.
    """
    if isinstance(data, str):
        data = data.encode(errors="backslashreplace")
    with replacing(path, cure) as temporary:
        temporary.write_bytes(data)


def check_writable(path: Path, cure: str = ELSEWHERE) -> None:
    """Find out now, not after minutes of work, whether `path` can be written.

    `cure` says in the error's message how to write somewhere else.

    Raises:
        DiskFull, NotWritable, StoreError.
    """
    if is_address(path):
        try:
            stores.check_writable(path)
        except OSError as error:
            raise output_error(path, error, cure) from error
        return
    if path.is_dir():
        raise NotWritable(
            f"{path} is a folder; expected the name of a file to write. Nothing was done. "
            f"Give a file name, or {cure}."
        )
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        probe.write_bytes(b"probe")
    except OSError as error:
        raise output_error(path, error, cure) from error
    finally:
        if probe.exists():
            probe.unlink()


def on_this_machine(path: str | Path, what: str, cure: str = ELSEWHERE) -> Path:
    """Return a path here with ~ expanded; an address is refused, as `what` needs a folder here.

    Raises:
        BadAddress.
    """
    if is_address(path):
        raise BadAddress(
            f"{stores.shown(path)} lies in a store, and {what} on this machine alone. Expected a "
            f"folder here. Nothing was done. Copy it there afterwards: {cure}."
        )
    return Path(path).expanduser()


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file for reading, on this machine or at an address.

    Raises:
        OSError, StoreError.
    """
    return stores.open_read(path) if is_address(path) else Path(path).open("rb")


def is_file(path: str | Path) -> bool:
    """Whether a file lies at a path, on this machine or at an address.

    Raises:
        StoreError.
    """
    if is_address(path):
        there = stores.info(path)
        return there is not None and there.is_file()
    return os.path.isfile(path)  # noqa: PTH113 (pathlib raises for a name too long)


def read_bytes(path: str | Path) -> bytes:
    """Read all of a file, on this machine or at an address.

    Raises:
        OSError, StoreError.
    """
    with open_binary(path) as file:
        return file.read()


def local_copy(address: Path) -> Path:
    """Return a file that holds what lies at an address now; asked for again where that changed.

    Raises:
        DataNotFound: nothing lies there. DiskFull, NotWritable, StoreError.
    """
    there = stores.info(address)
    if there is None or there.folder:
        what = "is a folder" if there else "does not exist"
        raise DataNotFound(f"{stores.shown(address)} {what}; expected a file. Check the address.")
    key = hashlib.blake2b(str(address).encode(), digest_size=10).hexdigest()
    folder = cache_folder() / "fetched" / "stores" / key
    about, copy = folder / "about.json", folder / address.name.partition("?")[0]
    facts = json.dumps({"address": stores.shown(address), "facts": there.facts})
    if there.facts and copy.exists() and about.exists() and about.read_text() == facts:
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error, ELSEWHERE_KEPT) from error
    with (
        replacing(copy, ELSEWHERE_KEPT) as temporary,
        temporary.open("wb") as file,
        stores.open_read(address) as source,
    ):
        shutil.copyfileobj(source, file, stores.BLOCK_BYTES)
        file.flush()
    write_atomically(about, facts, ELSEWHERE_KEPT)
    return copy


@contextmanager
def _uploading(path: Path, cure: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tellapart-") as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
            stores.upload(temporary, path)
        except StoreError:
            raise
        except OSError as error:
            raise output_error(path, error, cure) from error


def output_error(path: Path, error: OSError, cure: str = ELSEWHERE) -> OutputError:
    """Turn an OSError met while writing `path` into a message that cures."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"{path} could not be written: {reason}. Nothing half-written was left behind. "
            f"Make room, or {cure}; `tellapart cache --prune` frees what is kept from earlier runs."
        )
    if isinstance(path, Address) and isinstance(error, FileNotFoundError):
        return NotWritable(
            f"{stores.shown(path)} could not be written: there is no such bucket or container "
            f"({reason}). Nothing was written. Make it, or {cure}."
        )
    if isinstance(error, FileNotFoundError):
        return NotWritable(
            f"{path} could not be written: the folder {path.parent} does not exist. "
            f"Nothing was written. Make the folder, or {cure}."
        )
    return NotWritable(
        f"{path} could not be written: {reason}. Nothing was changed. "
        f"Get the right to write there, or {cure}."
    )
