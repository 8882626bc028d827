"""What is an address, and how it may be written and shown."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path, PosixPath, PurePosixPath
from urllib.parse import urlsplit

from tellapart.errors import BadAddress
from tellapart.hiding import without_secrets

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


class Address(PosixPath):
    """The URL of a file or folder, taken apart like a path; as text it keeps its two slashes."""

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def suffix(self) -> str:
        """The ending of its name, without a query."""
        return PurePosixPath(self.name.partition("?")[0]).suffix

    @property
    def stem(self) -> str:
        """Its name without an ending and a query."""
        return PurePosixPath(self.name.partition("?")[0]).stem

    def absolute(self) -> Address:
        """Return it as it is: there is nothing that it could be relative to."""
        return self


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
    return Address(checked(text))


def checked(text: str) -> str:
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


def shown(address: str | os.PathLike[str]) -> str:
    """Return an address as it may be printed or kept: without what is secret in it.

    The name of a picture in a shard stays behind it; other paths are returned as they are.
    """
    text = os.fspath(address)
    return without_secrets(_SCHEME.sub(r"\1://", text, count=1)) if is_address(text) else text


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
