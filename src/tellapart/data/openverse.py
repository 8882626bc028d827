"""Openverse, a search for openly licensed pictures: what it finds, with whom to name for it.

Its interface is described at https://api.openverse.org/v1/. Without an account it gives 20 works a
page, 240 a search, and takes about 20 requests a minute and 200 a day. Its terms ask to keep to
that, not to copy its catalogue, and to name the authors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from tellapart.data.addresses import is_url
from tellapart.data.fetching import Fetcher
from tellapart.data.reading import NamedUrl
from tellapart.errors import NotFetched, SearchFailed

OPENVERSE = "https://api.openverse.org/v1/"
PER_PAGE = 20
MOST_FOUND = 240

# Whose short name is not said with "CC" before it.
_LICENCES = {"cc0": "CC0", "pdm": "Public Domain Mark"}


def search(
    words: str, label: str, fetcher: Fetcher, licences: str = ""
) -> Iterator[list[NamedUrl]]:
    """Yield what a search finds, page after page, as pictures of the class `label`.

    licences: only these, such as "cc0,by". The environment's TELLAPART_OPENVERSE names another
    server with the same interface.

    Raises, while iterating:
        SearchFailed.
    """
    for page in range(1, MOST_FOUND // PER_PAGE + 1):
        asked = {"q": words, "page": page, "page_size": PER_PAGE}
        answer = _page(asked | ({"license": licences} if licences else {}), fetcher)
        yield [_named(work, label) for work in answer["results"] if is_url(_text(work, "url"))]
        if page >= answer["page_count"]:
            return


def _page(asked: dict[str, Any], fetcher: Fetcher) -> dict[str, Any]:
    server = os.environ.get("TELLAPART_OPENVERSE") or OPENVERSE
    url = f"{server.rstrip('/')}/images/?{urlencode(asked)}"
    try:
        found = json.loads(fetcher.get(url, "application/json"))
    except NotFetched as error:
        said = _detail(error.body)
        cure = "Check the network, or name another server of this kind with TELLAPART_OPENVERSE"
        if error.kind == "busy":
            cure = "It limits how often it is asked; the same command goes on later"
        elif said:
            cure = "Change --search or --licence"
        raise SearchFailed(
            f"The search for {asked['q']!r} failed: {url} {error}{said}. What was collected until "
            f"then is kept. {cure}."
        ) from error
    except ValueError:
        found = None
    if not (
        isinstance(found, dict)
        and isinstance(found.get("results"), list)
        and all(isinstance(work, dict) for work in found["results"])
        and isinstance(found.get("page_count"), int)
    ):
        raise SearchFailed(
            f"The search for {asked['q']!r} failed: {url} does not answer as Openverse does. "
            f"Expected JSON with page_count and results. What was collected until then is kept. "
            f"Check TELLAPART_OPENVERSE, or use a later tellapart."
        )
    return found


def _named(work: dict[str, Any], label: str) -> NamedUrl:
    """Keep what names a work: title, author, source and licence."""
    short, number = _text(work, "license").lower(), _text(work, "license_version")
    licence = _LICENCES.get(short, f"CC {short.upper()}" if short else "")
    about = {
        "source": _text(work, "source") or _text(work, "provider"),
        "page": _text(work, "foreign_landing_url"),
        "title": _text(work, "title"),
        "author": _text(work, "creator"),
        "author_url": _text(work, "creator_url"),
        "licence": f"{licence} {number}".strip(),
        "licence_url": _text(work, "license_url"),
        "attribution": _text(work, "attribution"),
    }
    return NamedUrl(_text(work, "url"), label, about=about)


def _text(work: dict[str, Any], key: str) -> str:
    """Read a text that may be missing; on one line, so that a table keeps its rows."""
    value = work.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _detail(body: str) -> str:
    """Read why a request was refused, as Django's REST framework says it."""
    try:
        detail = json.loads(body)
    except ValueError:
        return ""
    if isinstance(detail, dict):
        detail = detail.get("detail", detail)
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return f" ({' '.join(text.split())[:300]})"
