"""Bytes of pictures that are no files of this machine: at an address of a store, or in a shard."""

from __future__ import annotations

from tellapart import stores
from tellapart.data.addresses import is_url
from tellapart.data.shards.names import split_member
from tellapart.data.shards.reading import read_member
from tellapart.errors import StoreNotReached, UnreadablePicture


def read_stored(path: str) -> bytes | None:
    """Read a picture at an address, or in a shard; None where the path is neither.

    Raises:
        UnreadablePicture: it is not there, or did not come after several tries.
        StoreRefused, BadAddress, MissingExtra. StoreNotReached: its store has been given up.
    """
    try:
        member = split_member(path)
        if member is not None:
            return read_member(*member)
        if is_url(path) or not stores.is_address(path):
            return None  # Of the web, pictures are fetched once and kept.
        data = stores.read(path, 0, stores.MOST_BYTES)
    except StoreNotReached as error:
        if error.given_up:
            raise
        raise UnreadablePicture(f"did not come ({error.reason})") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "No such file or directory" if missing else error.strerror or error
        raise UnreadablePicture(f"cannot be opened ({reason})") from error
    if len(data) == stores.MOST_BYTES:
        raise UnreadablePicture(f"is larger than {stores.MOST_BYTES / 1e6:g} MB")
    return data
