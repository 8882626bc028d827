"""What the pixels of a picture show at a glance: size, light, colour, sharpness, a perceptual hash.

One decode a picture, at the scale that all of it needs: made small to LOOK_PX, about what a network
sees. What is blurred or dark at that scale is so for the network.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from tellapart.data.pixels import Pixels, decode, decode_many, read_file
from tellapart.errors import UnreadablePicture

Floats = NDArray[np.float32]

# The short side at which pictures are judged; smaller ones stay as they are.
LOOK_PX = 160
_TILES = 4
# Less than this many grey levels from pixel to pixel is no texture that could be sharp.
_FLAT = 1.0

# A row of the table of looks. mean, std: of red, green, blue; bright: the level that 95 of 100
# pixels stay below; contrast: deviation of the grey levels; even: the share of the pixels
# at the most common one; colour: mean distance of the strongest
# and the weakest channel; blur: 0 (sharp) to 1, of the sharpest parts; all levels 0 to 255.
LOOK = np.dtype(
    [
        ("width_px", "<i4"),
        ("height_px", "<i4"),
        ("size_bytes", "<i8"),
        ("kind", "S8"),
        ("mean", "<f4", (3,)),
        ("std", "<f4", (3,)),
        ("light", "<f4"),
        ("bright", "<f4"),
        ("contrast", "<f4"),
        ("even", "<f4"),
        ("colour", "<f4"),
        ("blur", "<f4"),
        ("hash", "u1", (32,)),
    ]
)
Looks = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Looked:
    """Looks (N,) of dtype LOOK, and what could not be read: row -> reason (these rows are zero)."""

    looks: Looks
    unreadable: dict[int, str]


def read_looks(paths: Sequence[str]) -> Iterator[Looks | UnreadablePicture]:
    """Look at picture files in threads, in order; what cannot be read comes as its error."""
    return decode_many(paths, lambda path: look_at(read_file(path)))


def look_at(data: bytes) -> Looks:
    """Look at one picture file: a scalar of dtype LOOK.

    Raises:
        UnreadablePicture: the bytes are no picture that can be read whole; says what they are.
    """
    pixels = decode(data, LOOK_PX)
    width, height, kind = _header(data, pixels)
    small = _small(pixels)
    # One after the other: numpy is ten times slower along an axis of three.
    channels = [small[..., number].astype(np.float32) for number in range(3)]
    red, green, blue = channels
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # Rec. 601, as JPEG has it.
    strongest = np.maximum(np.maximum(red, green), blue)
    weakest = np.minimum(np.minimum(red, green), blue)
    look = np.zeros((), dtype=LOOK)
    look["width_px"], look["height_px"] = width, height
    look["size_bytes"], look["kind"] = len(data), kind.encode()
    look["mean"] = [channel.mean() for channel in channels]
    look["std"] = [channel.std() for channel in channels]
    look["light"], look["contrast"] = grey.mean(), grey.std()
    levels = np.bincount(grey.astype(np.uint8).reshape(-1), minlength=256)
    look["even"] = levels.max() / grey.size
    look["bright"] = np.searchsorted(levels.cumsum(), 0.95 * grey.size)
    look["colour"] = (strongest - weakest).mean()
    look["blur"] = blur(grey)
    look["hash"] = difference_hash(grey)
    return look


def difference_hash(grey: Floats) -> NDArray[np.uint8]:
    """Return 256 bits as (32,) bytes: which of 16 x 16 areas is lighter than its left neighbour.

    The dHash of David Oftedal and Neal Krawetz (2013), with four times its bits. Changes of size,
    light or compression turn few of them; two photographs of one thing differ in a quarter.
    """
    # An area needs a pixel of its own.
    times = [-(-(side + 1) // length) for side, length in zip((16, 17), grey.shape, strict=True)]
    if max(times) > 1:
        grey = np.repeat(np.repeat(grey, times[0], axis=0), times[1], axis=1)
    height, width = grey.shape
    rows = np.linspace(0, height, 17).astype(int)
    columns = np.linspace(0, width, 18).astype(int)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = grey.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    corners = sums[np.ix_(rows, columns)]
    areas = np.outer(np.diff(rows), np.diff(columns))
    means = np.diff(np.diff(corners, axis=0), axis=1) / areas
    # Rounding is no difference.
    return np.packbits(means[:, 1:] > means[:, :-1] + 1e-3)


def blur(grey: Floats) -> float:
    """Say how little a picture loses when it is blurred once more: 0 (sharp) to 1 (all blurred).

    By Crete et al. 2007, The Blur Effect: the change from pixel to pixel, before and after a mean
    over neighbours. Of the parts of a picture the second sharpest counts, so that a sharp thing
    before a blurred background is sharp.
    """
    worst = np.zeros(_TILES * _TILES)
    textured = np.zeros(_TILES * _TILES, dtype=bool)
    for axis in (0, 1):
        change = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(change - np.abs(np.diff(_smoothed(grey, axis), axis=axis)), 0)
        before, gone = _tiles(change), _tiles(lost)
        textured |= before > _FLAT
        worst = np.maximum(worst, 1 - gone / np.maximum(before, 1e-6))
    sharpest = np.sort(worst[textured])
    return float(sharpest[min(1, len(sharpest) - 1)]) if len(sharpest) else 1.0


def _smoothed(grey: Floats, axis: int) -> Floats:
    """Return the mean over five neighbours along an axis."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (2, 2)
    wide = np.pad(grey, padding, mode="edge")
    if axis == 0:
        return np.asarray((wide[:-4] + wide[1:-3] + wide[2:-2] + wide[3:-1] + wide[4:]) / 5)
    return np.asarray(
        (wide[:, :-4] + wide[:, 1:-3] + wide[:, 2:-2] + wide[:, 3:-1] + wide[:, 4:]) / 5
    )


def _tiles(values: Floats) -> Floats:
    """Return the means of 4 x 4 parts (16,); pixels left over at the edges do not count."""
    rows, columns = (side // _TILES for side in values.shape)
    if not rows or not columns:
        return np.full(_TILES * _TILES, values.mean() if values.size else 0.0, dtype=np.float32)
    parts = values[: rows * _TILES, : columns * _TILES].reshape(_TILES, rows, _TILES, columns)
    return np.asarray(parts.mean(axis=3).mean(axis=1).reshape(-1))


def _small(pixels: Pixels) -> Pixels:
    short = min(pixels.shape[:2])
    if short <= LOOK_PX:
        return pixels
    from PIL import Image

    rows, columns = (max(1, round(side * LOOK_PX / short)) for side in pixels.shape[:2])
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))


def _header(data: bytes, pixels: Pixels) -> tuple[int, int, str]:
    """Return width and height as seen, upright, and the format; the pixels may be reduced."""
    if data[:2] == b"\xff\xd8":
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            height, width = pixels.shape[:2]
        kind = "JPEG"
    else:
        height, width = pixels.shape[:2]
        kind = _format(data)
    if (height > width) != (pixels.shape[0] > pixels.shape[1]):
        height, width = width, height
    return width, height, kind


def _format(data: bytes) -> str:
    """Name the format of what was decoded."""
    known = {b"\x89PN": "PNG", b"GIF": "GIF", b"BM": "BMP", b"II*": "TIFF", b"MM\0": "TIFF"}
    for first, kind in known.items():
        if data.startswith(first):
            return kind
    if data[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIC"


def exif_facts(data: bytes) -> dict[str, str]:
    """Return what a picture file's EXIF says, by the tags' names, as text; {} where it has none."""
    from PIL import ExifTags, Image

    facts: dict[str, str] = {}
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
            tags = dict(exif) | dict(exif.get_ifd(ExifTags.IFD.Exif))
            places = {
                ExifTags.GPSTAGS.get(tag, str(tag)): one
                for tag, one in exif.get_ifd(ExifTags.IFD.GPSInfo).items()
            }
    except Exception:  # A damaged block says nothing about the pixels, which were read.
        return facts
    for tag, value in tags.items():
        name = ExifTags.TAGS.get(tag, f"tag {tag}")
        if name not in ("ExifOffset", "GPSInfo", "MakerNote", "UserComment"):
            facts[name] = _plain(value)
    return facts | {name: _plain(value) for name, value in places.items()}


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1") if len(value) <= 64 else f"{len(value)} bytes"
    text = "".join(one if one.isprintable() else " " for one in str(value)).strip()
    return text if len(text) <= 120 else f"{text[:119]}…"
