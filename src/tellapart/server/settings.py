"""What a server is told before it starts: plain values, checked once."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tellapart.data.addresses import is_host
from tellapart.errors import BadHosts, BadModels, NoSecret, NotSafeToServe
from tellapart.server.tokens import SECRET_VARIABLE, Token

# As for tokens: what is shorter can be guessed.
MIN_SECRET = 24

Thumbnails = Literal["none", "doubtful", "all"]


@dataclass(frozen=True)
class Reviews:
    """Where pictures go that a person has decided about: folder/<class>/<hash>.<suffix>.

    Until then the audited files themselves are kept with the records: of which, how many megabytes
    of them in all, the oldest going first, and for how many days.
    """

    folder: Path
    of: Literal["doubtful", "all"] = "doubtful"
    mb: float = 1000
    days: float = 30


@dataclass(frozen=True)
class Builds:
    """Where classifiers are built from pictures of the page, and how much there may be.

    most: builds at once. pictures, mb: of one build. days: after which one that nobody touches is
    deleted. train_s: how long a training may take.
    """

    folder: Path
    most: int = 20
    pictures: int = 2000
    mb: float = 1000
    days: float = 30
    train_s: float = 1800


@dataclass(frozen=True)
class Limits:
    """What a client may ask for; beyond it, the request is refused and says so.

    picture_mb, request_mb: of one picture, of a whole request. megapixels: of one picture, told by
    its header before anything of it is decoded. pictures: in one request. upload_s: for sending a
    request. answer_s: for all of a request. waiting: pictures that wait for the network, all
    clients together, before others are sent away with 429. held_mb: bytes of unanswered requests.
    rate_per_min: requests of one token, or of one address where there are no tokens; 0: any.
    """

    picture_mb: float = 20
    request_mb: float = 100
    megapixels: float = 50
    pictures: int = 64
    upload_s: float = 30
    answer_s: float = 60
    waiting: int = 256
    held_mb: float = 512
    rate_per_min: int = 3000


@dataclass(frozen=True)
class Settings:
    """All that decides how a server runs.

    models: files, each served under its name without the suffix; the first is the default.
    database: an SQLAlchemy URL. thumbnails: which audited pictures leave a small one in the
    records. watch_s: how often the files are looked at for new ones in their place.
    allow_urls, callbacks: hosts that pictures may be fetched from, and that may be told of audits,
    as `addresses.is_allowed` reads them; none by default. callback_secret: what such a message is
    signed with.
    accept, precision: as `Classifier.load` takes them. reviews, builds: None: not offered. learn_s:
    how long learning from reviews may take.
    """

    models: tuple[Path, ...]
    database: str
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[Token, ...] = ()
    thumbnails: Thumbnails = "none"
    limits: Limits = field(default_factory=Limits)
    watch_s: float = 1.0
    allow_urls: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()
    callback_secret: bytes = field(default=b"", repr=False)
    accept: float | None = None
    precision: Literal["bf16", "f32", "int8"] | None = None
    reviews: Reviews | None = None
    builds: Builds | None = None
    learn_s: float = 600

    def __post_init__(self) -> None:
        names = model_names(self.models)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadModels(
                f"Two classifiers would be served as {', '.join(twice)}; expected file names that "
                f"differ, as they are what clients ask for. Nothing was started. Rename one file."
            )
        _check_hosts([*self.allow_urls, *self.callbacks])
        if self.callbacks and len(self.callback_secret) < MIN_SECRET:
            raise NoSecret(
                f"Callbacks are signed, and the secret for that has {len(self.callback_secret)} "
                f"bytes; expected {MIN_SECRET} or more. Nothing was started. Put one into a file "
                f"and name it with --callback-secret FILE, or set {SECRET_VARIABLE}. Make one "
                f"with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if not self.tokens and not is_loopback(self.host):
            raise NotSafeToServe(
                f"--host {self.host} can be reached from other machines, and there are no tokens: "
                f"anybody could ask. Expected tokens, or an address of this machine alone such as "
                f"127.0.0.1. Nothing was started. Give tokens with --tokens FILE, a line each: "
                f"NAME ROLE TOKEN."
            )


def _check_hosts(hosts: Sequence[str]) -> None:
    wrong = [host for host in hosts if not is_host(host)]
    if wrong:
        raise BadHosts(
            f"{', '.join(wrong)} cannot be allowed; expected hosts such as images.example.org, "
            f"images.example.org:8443, *.example.org (all below it), or * (all). Nothing was "
            f"started. Correct --allow-urls or --callbacks."
        )


def model_names(paths: Sequence[Path]) -> list[str]:
    """Return the names that clients use for classifier files."""
    return [path.name.removesuffix(".tellapart") for path in paths]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
