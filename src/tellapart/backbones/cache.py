"""The folder where computed things are kept between runs, what lies in it, and how big it may be.

Everything in it can be deleted at any time: it is only ever computed again.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from tellapart.files import ELSEWHERE_KEPT, cache_folder, output_error, write_atomically

DEFAULT_LIMIT_GB = 10.0


@dataclass(frozen=True)
class KeptItem:
    """One entry of the cache: a network, activations, hashes of a folder, a host's pictures."""

    path: Path
    kind: str
    about: str
    size_mb: float
    last_used_s: float


def mark_used(folder: Path) -> None:
    """Remember that an entry was used now; the least recently used ones are pruned first."""
    try:
        os.utime(folder)
    except OSError:
        # A read-only cache still serves; it only cannot keep its order.
        return


def kept_items() -> list[KeptItem]:
    """List what is kept, most recently used first."""
    items = []
    for kind in ("backbones", "activations", "looks", "scans", "fetched"):
        root = cache_folder() / kind
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.is_dir():
                items.append(_item(folder, kind))
    return sorted(items, key=lambda item: -item.last_used_s)


def prune(limit_gb: float = DEFAULT_LIMIT_GB) -> list[KeptItem]:
    """Delete the least recently used entries until the rest fits; return what was deleted."""
    room_mb = limit_gb * 1000
    deleted = []
    for item in kept_items():
        room_mb -= item.size_mb
        if room_mb < 0:
            shutil.rmtree(item.path, ignore_errors=True)
            deleted.append(item)
    return deleted


def describe(folder: Path, facts: dict[str, str]) -> None:
    """Make an entry's folder and write in it what it is, for people and `tellapart cache`.

    Raises:
        DiskFull, NotWritable.
    """
    about = folder / "about.json"
    text = json.dumps(facts, indent=1, sort_keys=True).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = about.exists() and about.read_bytes() == text
    except OSError as error:
        raise output_error(folder, error, ELSEWHERE_KEPT) from error
    if not known:
        write_atomically(about, text, ELSEWHERE_KEPT)


def _item(folder: Path, kind: str) -> KeptItem:
    try:
        facts = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        about = ", ".join(
            f"{facts[key]}"
            for key in ("backbone", "output", "runtime", "looks", "folder", "host")
            if key in facts
        )
    except (OSError, ValueError):
        about = "incomplete"
    facts_of = [found for file in [folder, *folder.glob("*")] if (found := _stat(file))]
    size = sum(found.st_size for found in facts_of if stat.S_ISREG(found.st_mode))
    return KeptItem(folder, kind, about, size / 1e6, facts_of[0].st_mtime if facts_of else 0.0)


def _stat(path: Path) -> os.stat_result | None:
    """Look at a file that another run may rename or delete at any moment."""
    try:
        return path.stat()
    except OSError:
        return None
