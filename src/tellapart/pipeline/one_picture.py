"""One picture file, looked at closely: what it is, what its EXIF says, its channels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart import stores
from tellapart.data.inspection import BLANK_CONTRAST, BLURRED, DARK_LEVEL, EVEN, GREY_COLOUR
from tellapart.data.looks import exif_facts, look_at
from tellapart.data.pixels import PICTURE_SUFFIXES, read_file
from tellapart.data.thumbnails import shrunk, webp
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.diagnosis import Channel, render_picture
from tellapart.files import write_atomically
from tellapart.stores import is_address, place, shown

SHOWN_PX = 512


@dataclass(frozen=True)
class OnePicture:
    """What one picture is. facts, exif: name -> value, in words; notes: what is odd about it."""

    path: str
    facts: Mapping[str, str]
    exif: Mapping[str, str]
    notes: tuple[str, ...]
    numbers: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "path": self.path,
            **self.numbers,
            "exif": dict(self.exif),
            "notes": list(self.notes),
        }


def is_picture(path: Path) -> bool:
    """Say whether a path is one picture, not a set of them: a file with a picture's suffix."""
    if is_address(path):
        there = path.suffix.lower() in PICTURE_SUFFIXES and stores.info(path)
        return bool(there and there.is_file())
    path = path.expanduser()
    is_file = os.path.isfile(path)  # noqa: PTH113 (a name that is too long)
    return path.suffix.lower() in PICTURE_SUFFIXES and is_file


def look_closer(path: str | Path, report: Path | None = None) -> OnePicture:
    """Describe one picture file; report: a page to write with its channels as pictures.

    Raises:
        UnreadablePicture: it is none, and what it is instead. DiskFull, NotWritable.
    """
    path = place(path)
    try:
        data = read_file(path)
        look = look_at(data)
    except UnreadablePicture as error:
        raise UnreadablePicture(
            f"{shown(path)} {error}. Expected a picture that can be read whole. Nothing was "
            f"changed."
        ) from error
    colour = [round(float(value) / 255, 4) for value in look["mean"]]
    spread = [round(float(value) / 255, 4) for value in look["std"]]
    numbers: dict[str, Any] = {
        "width_px": int(look["width_px"]),
        "height_px": int(look["height_px"]),
        "size_bytes": len(data),
        "format": look["kind"].item().decode(),
        "light": round(float(look["light"]) / 255, 4),
        "contrast": round(float(look["contrast"]) / 255, 4),
        "blur": round(float(look["blur"]), 4),
        "mean": colour,
        "std": spread,
        "hash": look["hash"].tobytes().hex(),
    }
    facts = {
        "File": shown(path),
        "Size": f"{numbers['width_px']} x {numbers['height_px']} px, {len(data):,} bytes",
        "Format": numbers["format"],
        "Brightness": f"{numbers['light']:.3f} of 1, contrast {numbers['contrast']:.3f}",
        "Mean (R, G, B)": ", ".join(f"{value:.3f}" for value in colour),
        "Std (R, G, B)": ", ".join(f"{value:.3f}" for value in spread),
        "Blur": f"{numbers['blur']:.2f} (0 sharp; above {BLURRED:g} it counts as blurred)",
    }
    found = OnePicture(shown(path), facts, exif_facts(data), tuple(_oddities(look)), numbers)
    if report is not None:
        write_atomically(report, _page(found, data), "choose another place with --report")
    return found


def _oddities(look: Any) -> list[str]:
    notes = []
    even = look["even"] > EVEN and look["colour"] < GREY_COLOUR
    if look["contrast"] < BLANK_CONTRAST or even:
        notes.append("It is of nearly one colour, as a placeholder or a failed export is.")
    elif look["bright"] < DARK_LEVEL:
        notes.append("It is very dark.")
    elif look["blur"] > BLURRED:
        notes.append("It is blurred all over.")
    if look["colour"] < GREY_COLOUR:
        notes.append("It is grey: red, green and blue are alike.")
    return notes


def _page(found: OnePicture, data: bytes) -> str:
    picture = shrunk(data, SHOWN_PX)
    channels = [Channel("as it is", webp(picture))]
    for number, name in enumerate(("red", "green", "blue")):
        level = picture[..., number]
        grey = level[..., None].repeat(3, axis=2)
        channels.append(Channel(f"{name}, mean {level.mean() / 255:.2f} of 1", webp(grey)))
    return render_picture(Path(found.path).name, channels, found.facts, found.exif, found.notes)
