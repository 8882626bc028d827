"""Which addresses may be asked: http and https, and by default public ones alone."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from tellapart.errors import NotFetched
from tellapart.stores.addresses import is_public

# What is escaped already, and what has a meaning in a path or a query, stays as it is.
_KEPT = "/%:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True)
class Place:
    """A URL taken apart. host: in ASCII; target: path and query, escaped, as a server is asked."""

    secure: bool
    host: str
    port: int
    target: str

    @property
    def named(self) -> str:
        """The host as the Host header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def is_url(text: str) -> bool:
    """Whether a text is a URL that could be fetched."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_allowed(place: Place, hosts: Sequence[str]) -> bool:
    """Whether a place is among hosts that were allowed: `a.org`, `a.org:8080`, `*.a.org` or `*`.

    Only with its port is a host allowed at another than the usual one.
    """
    for allowed in hosts:
        parts = urlsplit(f"//{allowed}")
        name, host = parts.hostname or "", place.host.lower()
        if place.port == (parts.port or (443 if place.secure else 80)) and (
            name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))
        ):
            return True
    return False


def is_host(text: str) -> bool:
    """Whether a text can be read as `is_allowed` reads hosts."""
    try:
        parts = urlsplit(f"//{text}")
        known = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    plain = (parts.hostname or "").removeprefix("*.")
    return bool(known) and parts.netloc == text and (plain == "*" or not set(plain) & set("*/@ "))


def place_of(url: str) -> Place:
    """Take a URL apart.

    Raises:
        NotFetched: it is neither http nor https, or cannot be understood.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise NotFetched("address", f"leads to {url[:80]}, which is neither http nor https")
        if parts.username is not None:
            raise NotFetched("address", "names a user, and no passwords are sent")
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:  # A UnicodeError is one, too.
        raise NotFetched("address", f"is no URL that can be understood ({error})") from error
    if not host or any(ord(one) < 32 for one in url):
        raise NotFetched("address", "is no URL that can be understood")
    target = quote(parts.path or "/", safe=_KEPT)
    query = quote(parts.query, safe=_KEPT)
    return Place(parts.scheme == "https", host, port, f"{target}?{query}" if query else target)


def checked_addresses(place: Place, private_too: bool) -> list[str]:
    """Look a host up, and return its addresses; a single one that is private refuses them all.

    Whoever connects does so to one of these, not to the name: it could mean another address by
    then.

    Raises:
        NotFetched.
    """
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFetched("unreachable", f"has a host that is not known ({reason})") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    private = [one for one in addresses if not is_public(one)]
    if private and not private_too:
        raise NotFetched(
            "address",
            f"leads to {private[0]}, which belongs to this machine or to a private network",
        )
    return addresses
