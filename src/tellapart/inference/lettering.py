"""Writing names of any script into pictures, with the fonts that this machine has."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

# Looked at first, if they are there: they hold many scripts. Parts of file names, in lower case.
PREFERRED = (
    "notosans-regular",
    "dejavusans.",
    "notosanscjk-regular",
    "arial unicode",
    "arialuni",
    "segoeui.",
    "msyh",
    "hiragino",
    "pingfang",
    "droidsansfallback",
    "notosans",
)
# A character that no font may have: what is drawn for it is what stands for a missing one.
_NOWHERE = "\uffff"


def write(
    draw: ImageDraw, at: tuple[float, float], text: str, size_px: int, ink: str, most_px: float
) -> float:
    """Write a line of text, no wider than most_px, its middle height at `at`; return its width.

    What does not fit ends in "…". A letter that no font has is drawn as an empty box; `unwritable`
    says beforehand which these are.
    """
    text = _shortened(text, size_px, most_px)
    x, y = at
    for part, font in _runs(text, size_px):
        draw.text((x, y), part, fill=ink, font=font, anchor="lm")
        x += font.getlength(part)
    return x - at[0]


def width_px(text: str, size_px: int) -> float:
    """Measure a line of text."""
    return sum(font.getlength(part) for part, font in _runs(text, size_px))


def unwritable(text: str) -> str:
    """Return the characters of a text that no font on this machine has, each once."""
    return "".join(c for c in dict.fromkeys(text) if not any(_has(p, c) for p in _fonts_for(c)))


def _shortened(text: str, size_px: int, most_px: float) -> str:
    text = " ".join(text.split())
    if width_px(text, size_px) <= most_px:
        return text
    while text and width_px(f"{text}…", size_px) > most_px:
        text = text[: -max(1, len(text) // 20)]
    return f"{text.rstrip()}…"


def _runs(text: str, size_px: int) -> Iterator[tuple[str, Font]]:
    """Split a text by the font that can write it: one for all of it where there is one.

    Splitting would put the words of a right-to-left name in the wrong order.
    """
    missing = [c for c in dict.fromkeys(text) if not _has("", c)]
    whole = next(
        (p for p in _fonts_for(*missing[:1]) if all(_has(p, c) for c in dict.fromkeys(text))), None
    )
    if whole is not None:
        yield text, _font(whole, size_px)
        return
    run, before = "", ""
    for character in text:
        joins = unicodedata.category(character) in ("Mn", "Me", "Cf")
        path = (
            before if joins else next((p for p in _fonts_for(character) if _has(p, character)), "")
        )
        if run and path != before:
            yield run, _font(before, size_px)
            run = ""
        run, before = run + character, path
    if run:
        yield run, _font(before, size_px)


def _fonts_for(*missing: str) -> Iterator[str]:
    """Yield fonts to try: Pillow's own, named "", and those installed where it lacks something."""
    yield ""
    if missing and not _has("", missing[0]):
        yield from installed_fonts()


@cache
def installed_fonts() -> tuple[str, ...]:
    """Find the font files of this machine, those that hold many scripts first."""
    home = Path.home()
    if sys.platform == "win32":
        windows = Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts")
        folders = [windows, home / "AppData/Local/Microsoft/Windows/Fonts"]
    elif sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        own = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
        folders = [home / ".fonts", *(Path(one, "fonts") for one in (own, *shared.split(":")))]
    found = {
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    }

    def rank(path: str) -> tuple[int, str]:
        name = Path(path).name.lower()
        return next((i for i, part in enumerate(PREFERRED) if part in name), len(PREFERRED)), path

    return tuple(sorted(found, key=rank))


@lru_cache(maxsize=64)
def _font(path: str, size_px: int) -> Font:
    from PIL import ImageFont

    return ImageFont.truetype(path, size_px) if path else ImageFont.load_default(size_px)


@lru_cache(maxsize=4096)
def _has(path: str, character: str) -> bool:
    """Tell whether a font has a character, by drawing it beside one that none has."""
    if character.isspace() or unicodedata.category(character) == "Cf":
        return True
    try:
        font = _font(path, 24)
        return bytes(font.getmask(character)) != bytes(font.getmask(_NOWHERE))
    except (OSError, ValueError):
        # No font after all, or one that cannot be scaled.
        return False
