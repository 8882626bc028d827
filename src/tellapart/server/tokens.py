"""Who may do what: bearer tokens with roles. Only their hashes stay in memory."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tellapart.errors import BadTokens, NoSecret

Role = Literal["predict", "review", "admin"]
# Each may do what those before it may.
ROLES: tuple[Role, ...] = get_args(Role)

# 96 bits in hexadecimal digits: what is shorter can be guessed, or was invented by a person.
MIN_CHARACTERS = 24
VARIABLE = "TELLAPART_TOKENS"
SECRET_VARIABLE = "TELLAPART_CALLBACK_SECRET"


@dataclass(frozen=True)
class Token:
    """A token, by its hash. name: whose it is, for records and logs."""

    name: str
    role: Role
    sha256: bytes

    def may(self, role: Role) -> bool:
        """Whether the role of this token includes another."""
        return ROLES.index(self.role) >= ROLES.index(role)


def read_tokens(path: Path | None) -> tuple[Token, ...]:
    """Read tokens from a file, or else from the environment variable TELLAPART_TOKENS.

    A line each: NAME ROLE TOKEN; empty lines and those that start with # are left out.

    Raises:
        BadTokens: the file cannot be read, or lines are wrong; no message holds a token.
    """
    if path is None:
        return parse_tokens(os.environ.get(VARIABLE, ""), f"the variable {VARIABLE}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    tokens = parse_tokens(text, str(path))
    if not tokens:
        raise _bad(f"{path} holds no token")
    return tokens


def read_secret(path: Path | None) -> bytes:
    """Read what callbacks are signed with, from a file or the variable; empty where none is set.

    Raises:
        NoSecret: the file cannot be read.
    """
    if path is None:
        return os.environ.get(SECRET_VARIABLE, "").strip().encode()
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise NoSecret(
            f"The secret that callbacks are signed with cannot be read: {path} "
            f"({error.strerror}). Nothing was started. Correct --callback-secret."
        ) from error


def parse_tokens(text: str, where: str) -> tuple[Token, ...]:
    """Read the lines of tokens.

    Raises:
        BadTokens: names every line that is wrong, and no token.
    """
    tokens: list[Token] = []
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            wrong.append(f"line {number} has {len(words)} words")
        elif words[1] not in ROLES:
            wrong.append(f"line {number} has a role other than {', '.join(ROLES)}")
        elif len(words[2]) < MIN_CHARACTERS:
            wrong.append(f"line {number} has a token of less than {MIN_CHARACTERS} characters")
        else:
            digest = hashlib.sha256(words[2].encode()).digest()
            if digest in [token.sha256 for token in tokens]:
                wrong.append(f"line {number} repeats a token")
            tokens.append(Token(words[0], words[1], digest))
    if wrong:
        raise _bad(f"in {where}, {'; '.join(wrong)}")
    return tuple(tokens)


def find_token(given: str, tokens: Sequence[Token]) -> Token | None:
    """Find who a token belongs to, in a time that tells nothing about any of them."""
    digest = hashlib.sha256(given.encode()).digest()
    found = None
    for token in tokens:  # all of them, also behind the one that fits
        if hmac.compare_digest(digest, token.sha256):
            found = token
    return found


def _bad(what: str) -> BadTokens:
    return BadTokens(
        f"The tokens cannot be used: {what}. Expected a line each: NAME ROLE TOKEN, where ROLE is "
        f"{', '.join(ROLES)} and TOKEN has {MIN_CHARACTERS} characters or more. Nothing was "
        f"started. Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
    )
