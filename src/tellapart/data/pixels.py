"""A picture file becomes the pixels that a network sees, in one way for every use.

Training, evaluation, prediction and export all go through `evaluation_pixels`: the largest
single cause of wrong answers in deployed classifiers is a second, slightly different copy of
this step.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import simplejpeg
from kornia_rs import imgproc
from numpy.typing import NDArray

from tellapart.errors import UnreadablePicture

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]
T = TypeVar("T")

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
    }
)

# A picture beyond this would need gigabytes to decode; the largest cameras make about 150.
MAX_MEGAPIXELS = 200

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


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded picture becomes the (size_px, size_px, 3) pixels a network expects.

    `fit="crop"` scales the short side to size_px / crop_fraction and takes the centre square;
    `fit="squash"` scales both sides to size_px. The normalisation (value / 255 - mean) / std is
    not done here: it lies inside the network's graph, so that no caller can forget or repeat it.
    """

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["crop", "squash"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True)
class Augmentation:
    """What a random view of a picture may change: a crop of part of its area, and a mirror."""

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


def evaluation_pixels(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Decode one picture file into (S, S, 3) uint8 RGB, upright, as the network sees it.

    Raises:
        UnreadablePicture: the bytes are not a picture that can be read whole.
    """
    shortest_px = round(preprocessing.size_px / preprocessing.crop_fraction)
    return fit_pixels(decode(data, shortest_px), preprocessing)


def fit_pixels(picture: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Crop and scale a decoded (H, W, 3) picture to (S, S, 3) uint8."""
    if preprocessing.fit == "crop":
        height, width = picture.shape[:2]
        side = max(1, round(min(height, width) * preprocessing.crop_fraction))
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    return _resize(picture, preprocessing)


def augmented_pixels(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    generator: np.random.Generator,
) -> Pixels:
    """Decode one picture file into a random (S, S, 3) uint8 view of it.

    A crop of random area and aspect ratio, tried ten times as in Szegedy et al. 2014
    (arXiv:1409.4842, section 6) before the whole picture is taken, and a random mirror.
    """
    # The smallest crop keeps sqrt(area) of a side, and must still fill the input.
    picture = decode(data, round(preprocessing.size_px / augmentation.area[0] ** 0.5))
    height, width = picture.shape[:2]
    for _ in range(10):
        area = height * width * generator.uniform(*augmentation.area)
        aspect = np.exp(generator.uniform(*np.log(augmentation.aspect)))
        crop_w, crop_h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < crop_w <= width and 0 < crop_h <= height:
            top = int(generator.integers(height - crop_h + 1))
            left = int(generator.integers(width - crop_w + 1))
            picture = picture[top : top + crop_h, left : left + crop_w]
            break
    if generator.random() < augmentation.flip:
        picture = picture[:, ::-1]
    return _resize(picture, preprocessing)


def decode(data: bytes, shortest_px: int = 0) -> Pixels:
    """Decode a picture file of any supported format into (H, W, 3) uint8 RGB, upright.

    A JPEG is decoded at the smallest scale whose sides are both >= shortest_px (0: full size):
    the rest would be thrown away by the resize that follows.

    Raises:
        UnreadablePicture: the bytes are not a picture that can be read whole; says what they are.
    """
    if data[:2] == b"\xff\xd8":
        picture = _decode_jpeg(data, shortest_px)
        if picture is not None:
            return picture
    return _decode_with_pillow(data, shortest_px)


def decode_many(
    paths: Iterable[T],
    read: Callable[[T], Pixels],
    workers: int | None = None,
) -> Iterator[Pixels | UnreadablePicture]:
    """Decode in threads, in order, a bounded number ahead; errors come as values, not raised.

    The decoders release Python's interpreter lock, so threads are enough.
    """
    workers = workers or available_cores() + 1
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Pixels | UnreadablePicture]] = deque()
        try:
            for path in paths:
                ahead.append(pool.submit(_read_or_error, read, path))
                if len(ahead) >= 8 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_file(path: str | Path) -> bytes:
    """Read a picture file's bytes.

    Raises:
        UnreadablePicture: the file is missing or may not be read.
    """
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
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _wide_grey_to_rgb(np.asarray(image))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PillowImage.new("RGBA", image.size, "white")
        image = PillowImage.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def available_cores() -> int:
    """Count the processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_or_error(read: Callable[[T], Pixels], path: T) -> Pixels | UnreadablePicture:
    try:
        return read(path)
    except UnreadablePicture as error:
        return error


def _decode_jpeg(data: bytes, shortest_px: int) -> Pixels | None:
    """Decode with libjpeg-turbo; None when the general decoder should have a look."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        if colour in ("CMYK", "YCCK"):
            return None
        _check_size(width, height)
        picture = simplejpeg.decode_jpeg(
            data, "RGB", min_height=shortest_px, min_width=shortest_px, strict=True
        )
    except ValueError:
        # Strict decoding also refuses harmless oddities, such as stray bytes between markers;
        # Pillow tells those from files that are cut off.
        return None
    return _turn_upright(picture, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    """Read the EXIF orientation (1 when there is none); parses only files that carry EXIF."""
    if b"Exif\0\0" not in data[:65536]:
        return 1
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # Broken EXIF is common and says nothing about the pixels.
        return 1


def _turn_upright(picture: Pixels, orientation: int) -> Pixels:
    turns, mirror = _UPRIGHT.get(orientation, (0, False))
    picture = np.rot90(picture, turns) if turns else picture
    return picture[:, ::-1] if mirror else picture


def _decode_with_pillow(data: bytes, shortest_px: int) -> Pixels:
    what = _not_a_picture(data)
    if what:
        raise UnreadablePicture(what)
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            if shortest_px:
                image.draft(None, (shortest_px, shortest_px))
            return to_rgb(image)
    except UnreadablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePicture("is not a picture in any format that is known") from error
    except PillowImage.DecompressionBombError as error:
        raise UnreadablePicture(f"is larger than {MAX_MEGAPIXELS} megapixels") from error
    except Exception as error:  # Pillow's plugins raise whatever their formats suggest.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadablePicture(f"is cut off or damaged ({reason})") from error


def _not_a_picture(data: bytes) -> str | None:
    """Name the usual impostors, so that the cure is plain."""
    if not data:
        return "is empty (0 bytes)"
    if data.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture itself (run: git lfs pull)"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page, not a picture (the download went wrong)"
    return None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise UnreadablePicture(
            f"is {width} x {height} px, larger than {MAX_MEGAPIXELS} megapixels"
        )


def _wide_grey_to_rgb(grey: NDArray[Any]) -> Pixels:
    """Scale 16-bit, 32-bit or floating grey to 8 bits by the range its type and values say."""
    top = float(grey.max(initial=0))
    if grey.dtype.kind == "f" and top <= 1:
        white = 1.0
    elif grey.dtype != np.uint16 and top <= 255:
        white = 255.0
    else:
        white = max(65535.0, top)
    eight = np.clip(grey.astype(np.float64) / white * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(eight[:, :, None], 3, axis=2)


def _resize(picture: Pixels, preprocessing: Preprocessing) -> Pixels:
    size = (preprocessing.size_px, preprocessing.size_px)
    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture)
    # The same numbers as Pillow's antialiased resize, in a third of its time.
    resized = imgproc.resize(
        np.ascontiguousarray(picture), size, preprocessing.interpolation, antialias=True
    )
    return np.asarray(resized)


def thumbnail(data: bytes, side_px: int = 160) -> bytes:
    """Shrink a picture file to a JPEG whose longer side is side_px, upright.

    Raises:
        UnreadablePicture: the bytes are not a picture that can be read whole.
    """
    picture = decode(data, side_px)
    scale = side_px / max(picture.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in picture.shape[:2]]
        picture = np.asarray(
            imgproc.resize(np.ascontiguousarray(picture), (size[0], size[1]), "bicubic")
        )
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=80)
    return jpeg
