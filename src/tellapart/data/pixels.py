"""A picture file becomes the pixels that a network sees, in one way for every use.

Training, evaluation, prediction and export all go through `evaluation_pixels`: the largest
single cause of wrong answers in deployed classifiers is a second, slightly different copy of
this step.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Union, cast

import numpy as np
import simplejpeg
from kornia_rs import imgproc
from numpy.typing import NDArray

from tellapart.data.addresses import is_url
from tellapart.errors import UnreadablePicture
from tellapart.stores import AT_ONCE, is_address

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

Pixels: TypeAlias = NDArray[np.uint8]
# What may be given for one picture: a path, a file's bytes, an open file, a Pillow image, or an
# array (H, W, 3) uint8 RGB, (H, W) grey or (H, W, 4) with transparency.
Picture: TypeAlias = Union[str, os.PathLike[str], bytes, IO[bytes], NDArray[Any], "Image.Image"]
T = TypeVar("T")
R = TypeVar("R")

PICTURE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
    }
)

# A picture beyond this would need gigabytes to decode; the largest cameras make about 150.
# Pillow's own limit lies just above, at 178.96.
MAX_MEGAPIXELS = 178

# The formats that Pillow may open, likely ones first. Its other plugins stay out of reach: one
# hands what it finds in a file to Ghostscript.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")

# Codings in HEIF that pillow-heif reads (ISO/IEC 23008-12, annex B). AVIF is Pillow's.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})

_FILM_BRANDS = frozenset({b"qt  ", b"mp41", b"mp42", b"isom", b"iso2", b"M4V ", b"3gp4", b"3gp5"})

# How other files begin that lie in the place of pictures, in lower case.
_OTHER_KINDS = {
    b"<?xml": "is XML, not a picture (the download went wrong)",
    b"{": "is JSON, not a picture (the download went wrong)",
    b"[{": "is JSON, not a picture (the download went wrong)",
    b"%pdf-": "is a PDF, not a picture",
    b"pk\3\4": "is a ZIP archive, not a picture (unpack it)",
}

# What libjpeg says when pixels are missing or wrong. It goes on, and fills the rest with grey.
_JPEG_DAMAGE = ("premature end of", "bad huffman code")

# A JPEG is decoded at a reduced scale as long as this many times the input's size is left. At 2
# the pixels differ from those of a full decode by 0.02 grey levels of 255 on average, at 1 by
# 3.6, for 5 % more speed (396 ants and bees, short side 400 px or less).
REDUCE_TO = 2

# EXIF orientation -> (quarter turns counter-clockwise, then mirror left-right), EXIF 2.32, 4.6.4.
_UPRIGHT = {
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


class Loaded(str):
    """The name of a picture whose bytes came along, as they do when a shard is read as a stream.

    trouble: why there are none.
    """

    data: bytes
    trouble: str

    def __new__(cls, name: str, data: bytes, trouble: str = "") -> Loaded:
        made = super().__new__(cls, name)
        made.data, made.trouble = data, trouble
        return made


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes the (size_px, size_px, 3) pixels a network expects.

    `fit="crop"` scales the short side to size_px / crop_fraction and takes the centre square;
    `fit="squash"` scales both sides to that first. The normalisation (value / 255 - mean) / std is
    not done here: it lies inside the network's graph, so that no caller can forget or repeat it.
    """

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


def evaluation_pixels(
    data: bytes, preprocessing: Preprocessing, max_megapixels: float = MAX_MEGAPIXELS
) -> Pixels:
    """Decode one picture file into (S, S, 3) uint8 RGB, upright, as the network sees it.

    max_megapixels: a picture of more is refused by its header, before any of it is decoded.

    Raises:
        UnreadablePicture: the bytes are not a picture that can be read whole.
    """
    picture = decode(data, shortest_needed_px(preprocessing), max_megapixels)
    return fit_pixels(picture, preprocessing)


def read_pixels(path: str | Path, preprocessing: Preprocessing) -> Pixels:
    """Read one picture file from disk as the network sees it: (S, S, 3) uint8.

    Raises:
        UnreadablePicture: the file cannot be opened, or is not a picture that can be read whole.
    """
    return evaluation_pixels(read_file(path), preprocessing)


def picture_pixels(picture: Picture, preprocessing: Preprocessing) -> Pixels:
    """Turn a picture of any kind that `Picture` names into what the network sees: (S, S, 3) uint8.

    Raises:
        UnreadablePicture, TypeError: as `decoded` does.
    """
    return fit_pixels(decoded(picture, shortest_needed_px(preprocessing)), preprocessing)


def decoded(picture: Picture, shortest_px: int = 0) -> Pixels:
    """Turn a picture of any kind that `Picture` names into (H, W, 3) uint8 RGB, upright.

    shortest_px: as for `decode`; what is decoded already stays as large as it is.

    Raises:
        UnreadablePicture: a file that cannot be opened, or bytes that are no whole picture.
        TypeError: it is nothing of what `Picture` names.
    """
    if isinstance(picture, str | os.PathLike):
        return decode(read_file(os.fspath(picture)), shortest_px)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), shortest_px)
    if isinstance(picture, np.ndarray):
        return _array_to_rgb(picture)
    # A Pillow image that was opened from a file has no `read`; an open file has no `getbands`.
    if hasattr(picture, "getbands"):
        try:
            return to_rgb(cast("Image.Image", picture))
        except OSError as error:  # It was opened, and is only read now.
            raise UnreadablePicture(f"is cut off or damaged ({error})") from error
    if hasattr(picture, "read"):
        return decode(picture.read(), shortest_px)
    raise TypeError(
        f"A picture is a path, bytes, an open binary file, a Pillow image or a uint8 array of "
        f"shape (H, W, 3), not {type(picture).__name__}."
    )


def fit_pixels(picture: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Crop and scale a decoded (H, W, 3) picture to (S, S, 3) uint8."""
    size_px, fraction = preprocessing.size_px, preprocessing.crop_fraction
    if preprocessing.fit == "squash":
        picture = resize(picture, round(size_px / fraction), preprocessing.interpolation)
        return np.ascontiguousarray(_centre_square(picture, size_px))
    picture = _centre_square(picture, max(1, round(min(picture.shape[:2]) * fraction)))
    return resize(picture, size_px, preprocessing.interpolation)


def seen_box(
    height_px: int, width_px: int, preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of what `fit_pixels` keeps of an upright picture."""
    if preprocessing.fit == "crop":
        side = max(1, round(min(height_px, width_px) * preprocessing.crop_fraction))
        left, top = (width_px - side) // 2, (height_px - side) // 2
        return float(left), float(top), float(left + side), float(top + side)
    whole = round(preprocessing.size_px / preprocessing.crop_fraction)
    start = (whole - preprocessing.size_px) // 2 / whole
    end = start + preprocessing.size_px / whole
    return start * width_px, start * height_px, end * width_px, end * height_px


def shortest_needed_px(preprocessing: Preprocessing) -> int:
    """Say how long a decoded picture's short side must be, for `fit_pixels` to miss nothing."""
    return math.ceil(REDUCE_TO * preprocessing.size_px / preprocessing.crop_fraction)


def resize(picture: Pixels, size_px: int, interpolation: Literal["bicubic", "bilinear"]) -> Pixels:
    """Scale a (H, W, 3) uint8 picture to (size_px, size_px, 3), averaging what it shrinks."""
    size = (size_px, size_px)
    picture = np.ascontiguousarray(picture)
    if picture.shape[:2] == size:
        return picture
    if interpolation == "bicubic":
        # Pillow's numbers in half of its time, to 0.05 grey levels on photographs. They part in
        # the outermost rows, and where bicubic overshoots black or white.
        return np.asarray(imgproc.resize(picture, size, "bicubic", antialias=True))
    # kornia's bilinear skips pixels when it shrinks (20 grey levels apart), whatever it is told.
    from PIL import Image as PillowImage

    bilinear = PillowImage.Resampling.BILINEAR
    return np.asarray(PillowImage.fromarray(picture).resize(size, bilinear))


def decode(data: bytes, shortest_px: int = 0, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Decode a picture file of any supported format into (H, W, 3) uint8 RGB, upright.

    A JPEG is decoded at the smallest scale whose sides are both >= shortest_px (0: full size):
    the rest would be thrown away by the resize that follows.

    Raises:
        UnreadablePicture: the bytes are not a picture that can be read whole; says what they are.
    """
    if data[:2] == b"\xff\xd8":
        picture = _decode_jpeg(data, shortest_px, max_megapixels)
        if picture is not None:
            return picture
    if _is_heic(data):
        return _decode_heic(data, max_megapixels)
    return _decode_with_pillow(data, shortest_px, max_megapixels)


def decode_many(
    paths: Iterable[T],
    read: Callable[[T], R],
    workers: int | None = None,
) -> Iterator[R | UnreadablePicture]:
    """Decode in threads, in order, a bounded number ahead; errors come as values, not raised.

    The decoders release Python's interpreter lock, so threads are enough.
    """
    return (picture for _, picture in decode_with_names(paths, read, workers))


def decode_with_names(
    paths: Iterable[T],
    read: Callable[[T], R],
    workers: int | None = None,
    ordered: bool = True,
) -> Iterator[tuple[T, R | UnreadablePicture]]:
    """Decode as `decode_many` does, and yield each path beside what became of it.

    ordered: False yields what is ready first, so that nothing waits for a slow file.
    """
    rest = iter(paths)
    first = list(islice(rest, 1))
    if workers is None:
        # Of a store most of the time is waiting.
        far = bool(first) and isinstance(first[0], str) and is_address(first[0])
        workers = AT_ONCE if far else available_cores() + 1
    paths = chain(first, rest)
    done: SimpleQueue[Future[tuple[T, R | UnreadablePicture]]] = SimpleQueue()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[tuple[T, R | UnreadablePicture]]] = deque()
        n_ahead = 0
        try:
            for path in paths:
                future = pool.submit(_read_or_error, read, path)
                n_ahead += 1
                if ordered:
                    ahead.append(future)
                else:
                    future.add_done_callback(done.put)
                if n_ahead >= 8 * workers:
                    yield (ahead.popleft() if ordered else done.get()).result()
                    n_ahead -= 1
            for _ in range(n_ahead):
                yield (ahead.popleft() if ordered else done.get()).result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_file(path: str | Path) -> bytes:
    """Read a picture file's bytes; those of a URL are fetched once, checked and kept.

    It may be at an address of a store, and a picture in a shard, as SHARD#MEMBER.

    Raises:
        UnreadablePicture: the file is missing or may not be read, or did not come.
        StoreError, MissingExtra.
    """
    text = os.fspath(path)
    if isinstance(text, Loaded):
        if text.trouble:
            raise UnreadablePicture(text.trouble)
        return text.data
    if "#" in text or is_address(text):
        from tellapart.data.stored import read_stored

        if (data := read_stored(text)) is not None:
            return data
    if is_url(text):
        from tellapart.data.fetching import fetched

        path = fetched(text)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadablePicture(f"cannot be opened ({error.strerror or error})") from error


def to_rgb(image: Image.Image) -> Pixels:
    """Turn a Pillow image of any mode into (H, W, 3) uint8 RGB, upright.

    Transparent parts become white; 16-bit grey is scaled to 8 bits (Pillow's own conversion
    would clip it to white); CMYK and palettes are converted.
    """
    from PIL import Image as PillowImage

    # First the pixels: a PNG may carry its EXIF behind them, and a TIFF is turned by loading it.
    image.load()
    orientation = _orientation(image.info.get("exif", b""))
    if image.mode.startswith(("I", "F")):
        return _turn_upright(_wide_grey_to_rgb(np.asarray(image)), orientation)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PillowImage.new("RGBA", image.size, "white")
        image = PillowImage.alpha_composite(white, image)
    return _turn_upright(np.array(image.convert("RGB")), orientation)


def _array_to_rgb(array: NDArray[Any]) -> Pixels:
    """Check an array, and give it three channels."""
    from PIL import Image as PillowImage

    shape = array.shape
    if (
        array.dtype != np.uint8
        or 0 in shape
        or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4)))
    ):
        raise TypeError(
            f"An array that is a picture is uint8, 0 to 255, of shape (H, W, 3) RGB, (H, W) grey "
            f"or (H, W, 4), not {array.dtype} of shape {shape}."
        )
    if array.ndim == 3 and shape[2] == 3:
        return array
    grey = array.ndim == 2 or shape[2] == 1
    plain = np.ascontiguousarray(array.reshape(shape[:2]) if grey else array)
    return to_rgb(PillowImage.fromarray(plain))


def available_cores() -> int:
    """Count the processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_or_error(read: Callable[[T], R], path: T) -> tuple[T, R | UnreadablePicture]:
    try:
        return path, read(path)
    except UnreadablePicture as error:
        return path, error


def _decode_jpeg(data: bytes, shortest_px: int, max_megapixels: float) -> Pixels | None:
    """Decode with libjpeg-turbo; None when the general decoder should have a look."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_megapixels)
        cmyk = colour in ("CMYK", "YCCK")
        picture = simplejpeg.decode_jpeg(
            data,
            "CMYK" if cmyk else "RGB",
            min_height=shortest_px,
            min_width=shortest_px,
            strict=True,
        )
    except ValueError as error:
        if any(sign in str(error).lower() for sign in _JPEG_DAMAGE):
            raise UnreadablePicture(f"is cut off or damaged ({error})") from error
        # Strict decoding also refuses harmless oddities, such as stray bytes between markers.
        return None
    if cmyk:
        # Stored inverted, as Adobe does and Pillow assumes: 255 is no ink.
        ink_free = picture.astype(np.uint16)
        picture = (ink_free[..., :3] * ink_free[..., 3:] // 255).astype(np.uint8)
    at = data.find(b"Exif\0\0", 0, 1 << 17)
    return _turn_upright(picture, _orientation(data[at : at + 65536]) if at > 0 else 1)


def _orientation(exif: bytes) -> int:
    """Read the orientation (tag 0x0112, TIFF 6.0 section 2) from an EXIF block; 1 if it has none.

    By hand, because Pillow's reader prints warnings about the rest of a damaged block.
    """
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == 0x0112:
                number = f"{order}I" if kind == 4 else f"{order}H"
                return int(struct.unpack_from(number, block, entry + 8)[0])
    except struct.error:  # Cut off; common, and it says nothing about the pixels.
        pass
    return 1


def _turn_upright(picture: Pixels, orientation: int) -> Pixels:
    turns, mirror = _UPRIGHT.get(orientation, (0, False))
    picture = np.rot90(picture, turns) if turns else picture
    return picture[:, ::-1] if mirror else picture


def _decode_with_pillow(data: bytes, shortest_px: int, max_megapixels: float) -> Pixels:
    what = _not_a_picture(data)
    if what:
        raise UnreadablePicture(what)
    try:
        with _open(data) as image:
            _check_size(*image.size, max_megapixels)
            if image.format == "PNG":
                # Only this checks the sums; pixels lost to zeros would become black.
                image.verify()
                image = _open(data)  # noqa: PLW2901
            if shortest_px:
                image.draft(None, (shortest_px, shortest_px))
            return to_rgb(image)
    except UnreadablePicture:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their formats suggest.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadablePicture(f"is cut off or damaged ({reason})") from error


def _open(data: bytes) -> ImageFile:
    """Read a file's header as PIL.Image.open does, which would also print warnings.

    It warns of 90 megapixels and more, and of JPEGs that are not quite the MPO they claim to be;
    warnings cannot be silenced in one thread alone.
    """
    from PIL import Image as PillowImage
    from PIL.JpegImagePlugin import JpegImageFile

    PillowImage.preinit()
    for name in _FORMATS:
        if name not in PillowImage.OPEN:
            PillowImage.init()
        factory, accepts = PillowImage.OPEN.get(name, (None, None))
        if factory and accepts and accepts(data[:16]) is True:
            factory = JpegImageFile if name == "JPEG" else factory
            return factory(io.BytesIO(data), "")
    raise UnreadablePicture("is not a picture in any format that is known")


def _is_heic(data: bytes) -> bool:
    """Say whether a file names HEVC as its coding: phones also write it behind the brand mif1."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}
    return not _HEIC_BRANDS.isdisjoint(brands) and b"avif" not in brands


def _decode_heic(data: bytes, max_megapixels: float) -> Pixels:
    """Decode with libheif, which also turns the picture: its EXIF must not turn it again."""
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadablePicture(
            "is a HEIC picture, and pillow-heif is not installed "
            "(run: pip install 'tellapart[heic]')"
        ) from error
    try:
        found = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)
        width, height = found.size
        _check_size(width, height, max_megapixels)
        image = found.to_pillow()
        image.info = {}
        return to_rgb(image)
    except UnreadablePicture:
        raise
    except Exception as error:  # libheif's errors come as several kinds.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadablePicture(f"is cut off or damaged ({reason})") from error


def _not_a_picture(data: bytes) -> str | None:
    """Name the usual impostors, so that the cure is plain."""
    if not data:
        return "is empty (0 bytes)"
    if not data.strip(b"\0"):
        return f"holds nothing but {len(data)} zero bytes"
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture itself (run: git lfs pull)"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page, not a picture (the download went wrong)"
    return _other_kind(data, start)


def _other_kind(data: bytes, start: bytes) -> str | None:
    """Name what else is kept or sent in place of a picture; start: its first bytes, stripped."""
    if b"<svg" in start:
        return "is an SVG drawing, which has no pixels (save it as PNG)"
    for first, what in _OTHER_KINDS.items():
        if start.startswith(first):
            return what
    if data[4:8] == b"ftyp" and data[8:12] in _FILM_BRANDS:
        return "is a film, not a picture"
    return None


def _check_size(width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1_000_000:
        raise UnreadablePicture(
            f"is {width} x {height} px, larger than {max_megapixels:g} megapixels"
        )


def _wide_grey_to_rgb(grey: NDArray[Any]) -> Pixels:
    """Scale 16-bit, 32-bit or floating grey to 8 bits by the range its type and values say."""
    values = np.nan_to_num(grey.astype(np.float32), nan=0, posinf=0, neginf=0)
    top = float(values.max(initial=0))
    if grey.dtype.kind == "f" and top <= 1:
        white = 1.0
    elif grey.dtype.kind != "u" and top <= 255:
        white = 255.0
    else:
        white = max(65535.0, top)
    eight = np.clip(values / white * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)


def _centre_square(picture: Pixels, side_px: int) -> Pixels:
    height, width = picture.shape[:2]
    top, left = (height - side_px) // 2, (width - side_px) // 2
    return picture[top : top + side_px, left : left + side_px]
