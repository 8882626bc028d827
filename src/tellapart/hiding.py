"""Addresses without what is secret in them, wherever something is said, shown or kept."""

from __future__ import annotations

import re

# Of these, a query or a variable is a secret.
SECRET = re.compile(
    r"(secret|token|key|sig|signature|password|credential|sas|connection|auth|jwt)", re.IGNORECASE
)
# pathlib takes one of the two slashes; the name of a picture in a shard follows behind a #.
_ADDRESS = re.compile(
    r"\b(https?|s3a?|gs|gcs|az|abfss?|hdfs|ftps?)(:/{1,2})([^\s/?#@'\"<>]*:[^\s/?#'\"<>]*@)?"
    r"([^\s?'\"<>]*)(?:\?([^\s#'\"<>]*))?",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return a text in which addresses have no passwords, and no queries that hold secrets.

    A query ends where a space, a quote or a # does.
    """
    if ":/" not in text or ("?" not in text and "@" not in text):
        return text
    return _ADDRESS.sub(_hidden, text)


def _hidden(address: re.Match[str]) -> str:
    scheme, slashes, password, where, query = address.groups()
    if query and SECRET.search(query):
        # What ends a sentence is not the address's.
        query = "…" + query[len(query.rstrip(".,:;)")) :]
    after = "" if query is None else f"?{query}"
    return f"{scheme}{slashes}{'…@' if password else ''}{where}{after}"
