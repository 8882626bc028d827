"""What pixels show: sizes, light, colour, blur, hashes, EXIF."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tellapart.data.looks import LOOK_PX, blur, difference_hash, exif_facts, look_at
from tellapart.errors import UnreadablePicture

Scene = Callable[..., np.ndarray]
Encode = Callable[..., bytes]


def noise(width: int = 200, height: int = 200, seed: int = 0) -> np.ndarray:
    """A picture with much texture."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    """How many bits of two hashes differ."""
    return int(np.bitwise_count(one ^ other).sum())


@pytest.mark.parametrize(
    ("fmt", "kind"), [("JPEG", b"JPEG"), ("PNG", b"PNG"), ("WEBP", b"WEBP"), ("GIF", b"GIF")]
)
def test_sizes_are_those_of_the_whole_file(
    scene: Scene, encode: Encode, fmt: str, kind: bytes
) -> None:
    """Decoding at a smaller scale does not change what is told of the file."""
    data = encode(scene(800, 600), fmt)
    look = look_at(data)
    assert (look["width_px"], look["height_px"], look["kind"]) == (800, 600, kind)
    assert look["size_bytes"] == len(data)


def test_a_turned_picture_is_told_upright(scene: Scene, encode: Encode) -> None:
    """EXIF orientation 6 swaps width and height."""
    look = look_at(encode(scene(800, 600), "JPEG", orientation=6))
    assert (look["width_px"], look["height_px"]) == (600, 800)


def test_light_and_colour_are_those_of_the_pixels(encode: Encode) -> None:
    """A flat colour has that mean, no deviation, no contrast, and its distance from grey."""
    picture = np.full((40, 60, 3), (200, 100, 50), dtype=np.uint8)
    look = look_at(encode(picture, "PNG"))
    assert look["mean"].tolist() == pytest.approx([200, 100, 50])
    assert look["std"].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert look["light"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=0.01)
    assert (look["contrast"], look["colour"]) == pytest.approx((0, 150), abs=1e-3)
    assert look["even"] == 1


def test_blurring_raises_blur() -> None:
    """The more a picture is blurred, the less it loses when blurred again."""
    picture = Image.fromarray(noise()).convert("L")
    values = [
        blur(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32))
        for radius in (0, 1, 3)
    ]
    assert values[0] < values[1] < 0.5 < values[2]
    assert values[2] > 0.72


def test_a_sharp_part_makes_a_picture_sharp() -> None:
    """A sharp thing before a blurred ground is sharp."""
    grey = Image.fromarray(noise()).convert("L")
    picture = np.array(grey.filter(ImageFilter.GaussianBlur(4)), dtype=np.float32)
    picture[50:150, 50:150] = np.asarray(grey, dtype=np.float32)[50:150, 50:150]
    assert blur(picture) < 0.5


def test_hashes_tell_pictures_not_files(scene: Scene, encode: Encode) -> None:
    """Other size, quality and colour leave a hash alike; another picture has another."""
    picture = np.asarray(
        Image.fromarray(noise(24, 18)).resize((640, 480), Image.Resampling.BICUBIC)
    )
    first = look_at(encode(picture, "PNG"))["hash"]
    half = np.asarray(Image.fromarray(picture).resize((320, 240)))
    for data in (
        encode(picture, "JPEG", quality=40),
        encode(half, "PNG"),
        encode(picture, "PNG", mode="L"),
    ):
        assert distance(first, look_at(data)["hash"]) <= 24
    assert distance(first, look_at(encode(picture[:, ::-1], "PNG"))["hash"]) > 64
    assert distance(first, look_at(encode(scene(640, 480), "PNG"))["hash"]) > 64


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (8, 8), (16, 17), (17, 16), (3, 400)])
def test_the_smallest_pictures_are_looked_at(shape: tuple[int, int], encode: Encode) -> None:
    """Pictures with fewer pixels than a hash has areas still get one, without a warning."""
    look = look_at(encode(noise(shape[1], shape[0]), "PNG"))
    assert np.isfinite(look["blur"])
    assert difference_hash(np.zeros(shape, dtype=np.float32)).sum() == 0


def test_what_is_no_picture_is_named() -> None:
    """A web page named as a picture is called one."""
    with pytest.raises(UnreadablePicture, match="is a web page, not a picture"):
        look_at(b"<!DOCTYPE html><html></html>")


def test_exif_is_told_by_names(scene: Scene) -> None:
    """Tags of the file come as text; none where there are none, or where the block is damaged."""
    exif = Image.Exif()
    exif[0x010F] = "Maker\0"
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, "JPEG", exif=exif)
    assert exif_facts(file.getvalue()) == {"Make": "Maker", "Orientation": "6"}
    plain = io.BytesIO()
    Image.fromarray(scene()).save(plain, "JPEG")
    assert exif_facts(plain.getvalue()) == {}
    assert exif_facts(b"\xff\xd8Exif\0\0II*\0\xff\xff\xff\xff") == {}


def test_large_pictures_are_judged_small(encode: Encode) -> None:
    """A picture and its double are as sharp: both are looked at with LOOK_PX."""
    small = noise(LOOK_PX, LOOK_PX)
    double = np.asarray(Image.fromarray(small).resize((640, 640), Image.Resampling.BICUBIC))
    one, other = (float(look_at(encode(one, "PNG"))["blur"]) for one in (small, double))
    assert abs(one - other) < 0.15
