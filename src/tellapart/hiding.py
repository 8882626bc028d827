"""Addresses without what is secret in them, wherever something is said, shown or kept."""

from __future__ import annotations

import re

# Of these, a query or a variable is a secret.
SECRET = re.compile(
    r"(secret|token|key|sig|signature|password|credential|sas|connection|auth|jwt)", re.IGNORECASE
)
# The name of a picture in a shard follows behind a #. Where a path is said from its folder on, an
# address has no scheme any more. In JSON a quote follows behind a backslash, and stays one.
_QUERY = re.compile(r"(?<=\w)\?([^\s?#='\"<>/\\]+=(?:[^\s#'\"<>\\]|\\[^\s#'\"<>\\])*)")
# pathlib takes one of the two slashes.
_PASSWORD = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*:/{1,2})[^\s/?#@'\"<>]*:[^\s/?#'\"<>]*@")


def without_secrets(text: str) -> str:
    """Return a text in which addresses have no passwords, and no queries that hold secrets.

    A query ends where a space, a quote or a # does.
    """
    if "@" in text and ":/" in text:
        text = _PASSWORD.sub(r"\1…@", text)
    return _QUERY.sub(_hidden, text) if "?" in text else text


def _hidden(found: re.Match[str]) -> str:
    query = found[1]
    if not SECRET.search(query):
        return found[0]
    # What ends a sentence is not the address's.
    return "?…" + query[len(query.rstrip(".,:;)")) :]
