"""Writing files so that a reader never meets a half-written one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tellapart.errors import DiskFull, NotWritable, OutputError

# What the user can do when a result, or something kept between runs, cannot be written.
ELSEWHERE = "choose another place with -o"
ELSEWHERE_KEPT = "set TELLAPART_CACHE to another folder"


@contextmanager
def replacing(path: Path, cure: str = ELSEWHERE) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step.

    On any error, Ctrl-C included, `path` is left as it was and the temporary file is removed.
    `cure` says in the error's message how to write somewhere else.

    Raises:
        DiskFull, NotWritable: instead of the OSError that says so.
    """
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
        DiskFull, NotWritable.
    """
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


def output_error(path: Path, error: OSError, cure: str = ELSEWHERE) -> OutputError:
    """Turn an OSError met while writing `path` into a message that cures."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"{path} could not be written: {reason}. Nothing half-written was left behind. "
            f"Make room, or {cure}; `tellapart cache --prune` frees what is kept from earlier runs."
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


def cache_folder() -> Path:
    """Return the cache folder: $TELLAPART_CACHE, or this system's usual place."""
    set_by_user = os.environ.get("TELLAPART_CACHE")
    if set_by_user:
        return Path(set_by_user)
    import platformdirs

    return Path(platformdirs.user_cache_dir("tellapart", appauthor=False))
