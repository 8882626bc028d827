"""Decoding and the evaluation transform: the same pixels as Pillow's, whatever the file."""

from __future__ import annotations

import io
import resource
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from tellapart.data.pixels import (
    MAX_MEGAPIXELS,
    PICTURE_SUFFIXES,
    Preprocessing,
    decode,
    decode_many,
    evaluation_pixels,
    fit_pixels,
    read_file,
    resize,
    shortest_needed_px,
    to_rgb,
)
from tellapart.data.thumbnails import shrunk
from tellapart.errors import UnreadablePicture

Scene = Callable[..., np.ndarray]
Encode = Callable[..., bytes]

HALF = (0.5, 0.5, 0.5)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# (name, format, mode, options): every kind of file that is promised to become RGB.
KINDS = {
    "jpeg": ("JPEG", "RGB", {"quality": 90}),
    "jpeg progressive": ("JPEG", "RGB", {"quality": 90, "progressive": True}),
    "jpeg grey": ("JPEG", "L", {"quality": 90}),
    "jpeg cmyk": ("JPEG", "CMYK", {"quality": 90}),
    "png": ("PNG", "RGB", {}),
    "png grey": ("PNG", "L", {}),
    "png grey alpha": ("PNG", "LA", {}),
    "png alpha": ("PNG", "RGBA", {}),
    "png palette": ("PNG", "P", {}),
    "png palette transparent": ("PNG", "P", {"transparency": 3}),
    "png 1 bit": ("PNG", "1", {}),
    "gif": ("GIF", "P", {}),
    "gif transparent": ("GIF", "P", {"transparency": 3}),
    "bmp": ("BMP", "RGB", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff cmyk": ("TIFF", "CMYK", {}),
    "webp": ("WEBP", "RGB", {}),
    "webp alpha": ("WEBP", "RGBA", {"lossless": True}),
    "avif": ("AVIF", "RGB", {}),
}
TURNED = [name for name, (fmt, *_) in KINDS.items() if fmt not in ("GIF", "BMP")]


def skip_without(fmt: str) -> None:
    """Skip where this Pillow was built without a format."""
    if fmt in ("WEBP", "AVIF") and not features.check(fmt.lower()):
        pytest.skip(f"this Pillow has no {fmt}")


def reference(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """What Pillow alone makes of a file: full decode, upright, white behind, crop, resize."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if preprocessing.fit == "crop":
        width, height = image.size
        side = max(1, round(min(width, height) * preprocessing.crop_fraction))
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    inner = preprocessing.size_px
    outer = inner if preprocessing.fit == "crop" else round(inner / preprocessing.crop_fraction)
    image = image.resize((outer, outer), RESAMPLING[preprocessing.interpolation])
    edge = (outer - inner) // 2
    return np.asarray(image.crop((edge, edge, edge + inner, edge + inner)))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in grey levels of 255."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.uint8
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def png_claiming(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    """A tiny PNG whose header claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_kind_of_file_as_pillow_reads_it(
    kind: str, interpolation: str, scene: Scene, encode: Encode
) -> None:
    """Any format and mode gives Pillow's pixels to within one grey level on average.

    But for pure black and white: where bicubic overshoots, Pillow clips twice and we once.
    """
    fmt, mode, options = KINDS[kind]
    skip_without(fmt)
    data = encode(scene(90, 70), fmt, mode, **options)
    preprocessing = Preprocessing(48, HALF, HALF, crop_fraction=0.875, interpolation=interpolation)
    found = evaluation_pixels(data, preprocessing)
    assert found.flags.c_contiguous
    assert difference(found, reference(data, preprocessing)) < (3 if mode == "1" else 1)


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(kind: str, orientation: int, scene: Scene, encode: Encode) -> None:
    """A picture stored in any of the eight EXIF orientations is upright."""
    fmt, mode, options = KINDS[kind]
    skip_without(fmt)
    data = encode(scene(61, 40), fmt, mode, orientation, **options)
    whole = decode(data)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert whole.shape == (upright.height, upright.width, 3)
    preprocessing = Preprocessing(32, HALF, HALF, fit="squash")
    found = evaluation_pixels(data, preprocessing)
    assert difference(found, reference(data, preprocessing)) < 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    orientation=st.integers(0, 8),
    fmt=st.sampled_from(["JPEG", "PNG"]),
    preprocessing=st.builds(
        Preprocessing,
        size_px=st.sampled_from([16, 32, 224]),
        mean=st.just(HALF),
        std=st.just(HALF),
        fit=st.sampled_from(["crop", "squash"]),
        crop_fraction=st.sampled_from([1.0, 0.875]),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
    ),
)
def test_any_size_as_pillow_resizes_it(
    scene: Scene,
    encode: Encode,
    size: tuple[int, int],
    orientation: int,
    fmt: str,
    preprocessing: Preprocessing,
) -> None:
    """Any size from 16 px on gives Pillow's pixels to within 3 grey levels on average."""
    data = encode(scene(*size), fmt, orientation=orientation)
    found = evaluation_pixels(data, preprocessing)
    assert found.shape == (preprocessing.size_px, preprocessing.size_px, 3)
    assert difference(found, reference(data, preprocessing)) < 3


def test_squash_then_centre_crop_as_torchvision_does(scene: Scene) -> None:
    """Squashed to 256 and cropped to 224, a picture has the pixels that torchvision gives it."""
    from torchvision.transforms import v2  # seconds to import, for this test alone

    squash = Preprocessing(
        224, HALF, HALF, fit="squash", crop_fraction=0.875, interpolation="bilinear"
    )
    transform = v2.Compose([v2.Resize((256, 256)), v2.CenterCrop(224)])
    picture = scene(500, 375)
    found = fit_pixels(picture, squash)
    np.testing.assert_array_equal(found, np.asarray(transform(Image.fromarray(picture))))
    assert found.flags.c_contiguous


def test_what_is_decoded_is_enough_for_the_resize() -> None:
    """Twice the side that the picture is scaled to, crop included."""
    assert shortest_needed_px(Preprocessing(224, HALF, HALF)) == 448
    assert shortest_needed_px(Preprocessing(224, HALF, HALF, crop_fraction=0.875)) == 512
    assert shortest_needed_px(Preprocessing(33, HALF, HALF, crop_fraction=0.9)) == 74


def test_resizing_to_its_own_size_changes_nothing(scene: Scene) -> None:
    """A picture that has the size already is returned as it is, in either interpolation."""
    picture = scene(32, 32)
    for interpolation in ("bicubic", "bilinear"):
        np.testing.assert_array_equal(resize(picture, 32, interpolation), picture)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("height", [1, 2, 5, 500])
def test_a_picture_of_a_few_pixels_is_a_picture(
    width: int, height: int, scene: Scene, encode: Encode
) -> None:
    """Pictures down to one pixel are enlarged, near to how Pillow does it, in either way."""
    data = encode(scene(width, height), "PNG")
    for interpolation in ("bicubic", "bilinear"):
        preprocessing = Preprocessing(32, HALF, HALF, interpolation=interpolation)
        found = evaluation_pixels(data, preprocessing)
        assert difference(found, reference(data, preprocessing)) < 6


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (1201, 1999), (4000, 500), (900, 900)])
@pytest.mark.parametrize("kind", ["jpeg", "jpeg grey", "jpeg cmyk"])
def test_reduced_decoding_loses_nothing(
    width: int, height: int, kind: str, scene: Scene, encode: Encode
) -> None:
    """A JPEG decoded at a reduced scale is within one grey level of a full decode."""
    fmt, mode, options = KINDS[kind]
    data = encode(scene(width, height), fmt, mode, **options)
    assert min(decode(data, 200).shape[:2]) < min(width, height)
    assert min(decode(data, 200).shape[:2]) >= 200
    for size_px in (64, 224):
        preprocessing = Preprocessing(size_px, HALF, HALF, crop_fraction=0.875)
        found = evaluation_pixels(data, preprocessing)
        assert difference(found, reference(data, preprocessing)) < 1


def test_sharp_bilinear_is_smooth() -> None:
    """Shrinking fine noise averages it, in both interpolations: no pixel is skipped."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    for interpolation in ("bicubic", "bilinear"):
        small = fit_pixels(noise, Preprocessing(32, HALF, HALF, interpolation=interpolation))
        assert small.std() < 10


def test_grey_stays_grey(scene: Scene, encode: Encode) -> None:
    """A grey picture has three equal channels."""
    for fmt in ("JPEG", "PNG"):
        pixels = evaluation_pixels(encode(scene(), fmt, "L"), Preprocessing(32, HALF, HALF))
        assert (pixels == pixels[..., :1]).all()
        assert pixels.std() > 20


@pytest.mark.parametrize(
    ("fmt", "dtype", "white"),
    [
        ("PNG", np.uint16, 65535),
        ("TIFF", np.uint16, 65535),
        ("TIFF", np.int32, 65535),
        ("TIFF", np.float32, 1),
        ("TIFF", np.float32, 255),
    ],
)
def test_wide_grey_is_scaled_not_clipped(fmt: str, dtype: type, white: int, scene: Scene) -> None:
    """16-bit, 32-bit and floating grey keep their tones in 8 bits."""
    grey = scene()[..., 0].astype(np.float64) / 255
    stored = grey * white if dtype is np.float32 else np.round(grey * white)
    file = io.BytesIO()
    Image.fromarray(stored.astype(dtype)).save(file, fmt)
    expected = np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    assert np.abs(decode(file.getvalue()).astype(int) - expected).max() <= 1


def test_sixteen_bit_of_the_other_byte_order() -> None:
    """A dark 16-bit picture in big-endian order stays dark."""
    image = Image.frombytes("I;16B", (2, 1), bytes([0, 200, 0, 100]))
    np.testing.assert_array_equal(to_rgb(image)[0, :, 0], [1, 0])


def test_floating_grey_with_holes() -> None:
    """Values that are no numbers become black, the others keep their tones."""
    values = np.array([[0.0, 0.5, 1.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    grey = to_rgb(Image.fromarray(values))[0, :, 0]
    np.testing.assert_array_equal(grey, [0, 128, 255, 0, 0, 0])


def test_transparent_parts_are_white(scene: Scene, encode: Encode) -> None:
    """What shines through is white paper, not the colour that lies hidden below."""
    picture = np.dstack([scene(), np.zeros((48, 64), dtype=np.uint8)])
    assert (decode(encode(picture, "PNG", "RGBA")) == 255).all()
    assert (decode(encode(picture, "PNG", "LA")) == 255).all()


def test_sixteen_bit_colour(scene: Scene) -> None:
    """A PNG of three times 16 bits keeps its tones."""
    wide = scene(8, 6).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    data = png_claiming(8, 6, bits=16)
    body = zlib.compress(rows)
    idat = struct.pack(">I", len(body)) + b"IDAT" + body
    idat += struct.pack(">I", zlib.crc32(b"IDAT" + body))
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    np.testing.assert_array_equal(decode(data[:start] + idat + data[end:]), scene(8, 6))


def test_the_suffix_does_not_matter(scene: Scene, encode: Encode, tmp_path: Path) -> None:
    """What a file is follows from its content."""
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(scene(), "PNG"))
    np.testing.assert_array_equal(decode(read_file(path)), scene())


def test_every_promised_suffix_can_be_read(scene: Scene, tmp_path: Path) -> None:
    """What Pillow writes for each suffix that a folder is searched for can be read."""
    for suffix in sorted(PICTURE_SUFFIXES):
        if suffix in (".webp", ".avif") and not features.check(suffix[1:]):
            continue
        if suffix in (".heic", ".heif", ".hif"):
            pillow_heif = pytest.importorskip("pillow_heif")
            pillow_heif.from_pillow(Image.fromarray(scene())).save(tmp_path / f"a{suffix}")
            assert decode(read_file(tmp_path / f"a{suffix}")).shape == (48, 64, 3)
            continue
        Image.fromarray(scene()).save(tmp_path / f"a{suffix}")
        assert decode(read_file(tmp_path / f"a{suffix}")).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "bmp"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_picture_cut_off_is_unreadable(
    kind: str, part: float, scene: Scene, encode: Encode
) -> None:
    """A file that ends early is unreadable; it does not become grey or black."""
    fmt, mode, options = KINDS[kind]
    skip_without(fmt)
    data = encode(scene(200, 150), fmt, mode, **options)
    with pytest.raises(UnreadablePicture, match=r"^is (cut off or damaged|not a picture)"):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "jpeg cmyk", "png", "gif"])
@pytest.mark.parametrize("extra", [0, 100_000])
def test_a_picture_that_ends_in_zeros_is_unreadable(
    kind: str, extra: int, scene: Scene, encode: Encode
) -> None:
    """A file whose second half was lost to zeros, as after a crash, is unreadable."""
    fmt, mode, options = KINDS[kind]
    data = encode(scene(200, 150), fmt, mode, **options)
    half = len(data) // 2
    with pytest.raises(UnreadablePicture, match=r"^is cut off or damaged"):
        decode(data[:half] + bytes(len(data) - half + extra))


@pytest.mark.parametrize("sign", ["bad Huffman code", "premature end of data segment"])
def test_damage_within_a_jpeg_is_unreadable(sign: str, scene: Scene, encode: Encode) -> None:
    """Where libjpeg notices wrong pixels and would go on in grey, the picture is unreadable."""
    data = encode(scene(200, 150), "JPEG", quality=90, progressive=True)
    generator = np.random.default_rng(0)
    for _ in range(2000):
        at = int(generator.integers(len(data) // 2, len(data) - 20))
        spoiled = data[:at] + generator.bytes(8) + data[at + 8 :]
        try:
            simplejpeg.decode_jpeg(spoiled)
        except ValueError as error:
            if sign in str(error):
                break
    with pytest.raises(UnreadablePicture, match=f"^is cut off or damaged .*{sign}"):
        decode(spoiled)


def test_messages_say_what_a_file_is(scene: Scene, encode: Encode) -> None:
    """The usual impostors are called by their names."""
    jpeg, png = encode(scene(), "JPEG"), encode(scene(), "PNG")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for data, message in {
        b"": "is empty (0 bytes)",
        bytes(4096): "holds nothing but 4096 zero bytes",
        pointer: "is a Git LFS pointer, not the picture itself (run: git lfs pull)",
        b"\n <!DOCTYPE html><title>404": "is a web page, not a picture (the download went wrong)",
        b"<html>no": "is a web page, not a picture (the download went wrong)",
        b"plain text": "is not a picture in any format that is known",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n": (
            "is not a picture in any format that is known"
        ),
        jpeg[:-100]: "is cut off or damaged (Premature end of JPEG file)",
        png[:-100]: "is cut off or damaged (Truncated File Read)",
        png_claiming(100_000, 100_000): "is 100000 x 100000 px, larger than 178 megapixels",
    }.items():
        with pytest.raises(UnreadablePicture) as error:
            decode(data)
        assert str(error.value) == message


def test_a_missing_file(tmp_path: Path) -> None:
    """A path that cannot be opened says why."""
    with pytest.raises(UnreadablePicture) as error:
        read_file(tmp_path / "gone.jpg")
    assert str(error.value) == "cannot be opened (No such file or directory)"
    with pytest.raises(UnreadablePicture, match=r"^cannot be opened \(Is a directory\)$"):
        read_file(tmp_path)


@pytest.mark.parametrize("where", ["after the end", "before the scan", "before a table"])
def test_stray_bytes_do_no_harm(where: str, scene: Scene, encode: Encode) -> None:
    """A JPEG with stray bytes that touch no pixel is read as if they were not there."""
    data = encode(scene(), "JPEG")
    at = {
        "after the end": len(data),
        "before the scan": data.index(b"\xff\xda"),
        "before a table": data.index(b"\xff\xdb"),
    }[where]
    spoiled = data[:at] + b"\x00\x12stray" + data[at:]
    assert difference(decode(spoiled), decode(data)) < 1


def test_a_picture_appended_to_another(scene: Scene, encode: Encode) -> None:
    """Of several pictures in one file, as phones write them, the first is read."""
    data = encode(scene(), "JPEG")
    np.testing.assert_array_equal(decode(data + encode(scene(seed=1), "JPEG")), decode(data))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x0f\0\x02\0\0\xff\xff\0\0\0\0",
        b"Exif\0\0neither one nor the other",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
    ],
)
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_no_harm(exif: bytes, fmt: str, scene: Scene, encode: Encode) -> None:
    """EXIF that is cut off or nonsense leaves the picture as it is, without a warning."""
    skip_without(fmt)
    data = encode(scene(), fmt, exif=exif)
    np.testing.assert_array_equal(decode(data), decode(encode(scene(), fmt)))


@pytest.mark.parametrize(("order", "kind"), [("<", 3), (">", 3), ("<", 4), (">", 4)])
def test_orientation_in_any_spelling(order: str, kind: int, scene: Scene, encode: Encode) -> None:
    """Both byte orders, and numbers of two or four bytes, say the same orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    number = struct.pack(order + "I", 6) if kind == 4 else struct.pack(order + "HH", 6, 0)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + number
    exif = b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    assert decode(encode(scene(64, 48), "JPEG", exif=exif)).shape == (64, 48, 3)


@pytest.mark.parametrize(
    "data",
    [
        png_claiming(100_000, 100_000),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(9) + b"\x02\0;",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 60000, 60000, 1, 24, 0, *[0] * 5),
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0",
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
        b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00\xff\xd9",
    ],
    ids=["png", "gif", "bmp", "webp", "jpeg"],
)
def test_decompression_bombs_are_refused(data: bytes) -> None:
    """A small file that claims gigabytes of pixels is refused at once, without memory for them."""
    decode(png_claiming(1, 1))  # loads the decoders
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    with pytest.raises(UnreadablePicture):
        decode(data)
    assert time.process_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb < 50


def test_a_large_picture_is_read_without_a_warning() -> None:
    """Above Pillow's 89 megapixels, where it would print a warning, and below ours: it is read."""
    side = 9500
    assert Image.MAX_IMAGE_PIXELS < side**2 < MAX_MEGAPIXELS * 1_000_000
    file = io.BytesIO()
    Image.new("1", (side, side), 1).save(file, "PNG")
    assert (evaluation_pixels(file.getvalue(), Preprocessing(8, HALF, HALF)) == 255).all()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(sorted(KINDS)), where=st.floats(0, 1), junk=st.binary(max_size=12))
def test_damage_is_never_a_crash(
    scene: Scene, encode: Encode, kind: str, where: float, junk: bytes
) -> None:
    """Whatever bytes are overwritten, a file is a picture or UnreadablePicture, nothing else."""
    fmt, mode, options = KINDS[kind]
    data = encode(scene(40, 30), fmt, mode, **options)
    at = int(where * len(data))
    try:
        pixels = evaluation_pixels(
            data[:at] + junk + data[at + len(junk) :], Preprocessing(8, HALF, HALF)
        )
    except UnreadablePicture as error:
        assert "\n" not in str(error)
    else:
        assert pixels.shape == (8, 8, 3)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_crash(data: bytes) -> None:
    """Arbitrary bytes are UnreadablePicture."""
    with pytest.raises(UnreadablePicture):
        decode(data)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(800, 400, (160, 80)), (20, 10, (20, 10)), (3000, 2, (160, 1))],
)
def test_thumbnails(
    width: int, height: int, expected: tuple[int, int], scene: Scene, encode: Encode
) -> None:
    """A small picture is upright, its longer side 160 px, never enlarged, and looks the same."""
    data = encode(scene(width, height), "PNG", orientation=6)
    small = shrunk(data, 160)
    assert small.shape[:2] == expected
    whole = Image.fromarray(decode(data)).resize(small.shape[1::-1], Image.Resampling.BICUBIC)
    assert difference(np.asarray(small), np.asarray(whole)) < 4


def pause(number: int) -> np.ndarray:
    """Return a picture that says its number, later ones sooner."""
    time.sleep(0.001 * (number % 5 == 0))
    if number % 7 == 3:
        raise UnreadablePicture(f"number {number} is damaged")
    return np.full((1, 1, 3), number, dtype=np.uint8)


def test_decode_many_keeps_order() -> None:
    """Results come in the order of the paths; errors come as values in their places."""
    for number, result in enumerate(decode_many(range(200), pause, workers=3)):
        if number % 7 == 3:
            assert isinstance(result, UnreadablePicture)
            assert str(result) == f"number {number} is damaged"
        else:
            assert result[0, 0, 0] == number
    assert number == 199
    assert list(decode_many([], pause)) == []


def test_decode_many_is_bounded() -> None:
    """Only a bounded number of pictures is decoded, or even asked for, ahead of the consumer."""
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = decode_many(endless(), pause, workers=2)
    for _ in range(50):
        next(results)
    results.close()
    assert taken <= 50 + 8 * 2


def test_decode_many_stops_when_the_consumer_stops() -> None:
    """After the consumer leaves nothing more is read, and no thread stays behind."""
    read = []

    def note(number: int) -> np.ndarray:
        read.append(number)
        return pause(0)

    for _ in decode_many(range(10_000), note, workers=2):
        break
    after = len(read)
    assert after <= 8 * 2 + 1
    time.sleep(0.05)
    assert len(read) == after
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_decode_many_does_not_hide_faults() -> None:
    """An error that is not about the picture reaches the caller."""
    with pytest.raises(ZeroDivisionError):
        list(decode_many([0], lambda number: np.zeros(1 // number, dtype=np.uint8)))


def test_decode_many_reads_files(scene: Scene, encode: Encode, tmp_path: Path) -> None:
    """Threads decode every kind of file to the same pixels as one thread does."""
    paths = []
    for name, (fmt, mode, options) in KINDS.items():
        if fmt == "AVIF" and not features.check("avif"):
            continue
        path = tmp_path / name
        path.write_bytes(encode(scene(), fmt, mode, **options))
        paths += [path] * 5
    preprocessing = Preprocessing(16, HALF, HALF)

    def read(path: Path) -> np.ndarray:
        return evaluation_pixels(read_file(path), preprocessing)

    for path, found in zip(paths, decode_many(paths, read, workers=4), strict=True):
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, read(path))


def test_specimens_are_called_by_their_names(odd: Path) -> None:
    """Each real specimen is read, or refused with the right word."""
    said: dict[str, set[str]] = {}
    for path in sorted(odd.rglob("*")):
        if path.is_file():
            try:
                pixels = evaluation_pixels(read_file(path), Preprocessing(64, HALF, HALF))
                word = "grey" if (pixels == pixels[..., :1]).all() else "colour"
            except UnreadablePicture as error:
                word = str(error)
            said.setdefault(path.relative_to(odd).parts[0], set()).add(word)
    assert said == {
        "dups_cross_class": {"colour"},
        "exif": {"colour"},
        "gray": {"grey"},
        "html_named_jpg": {"is a web page, not a picture (the download went wrong)"},
        "imageNotFound.gif": {"colour"},
        "lfs_pointers": {"is a Git LFS pointer, not the picture itself (run: git lfs pull)"},
    }


def test_turned_specimens_are_upright(odd: Path) -> None:
    """Real pictures with EXIF orientation come out as Pillow turns them."""
    preprocessing = Preprocessing(224, HALF, HALF)
    turned = 0
    for path in sorted((odd / "exif").iterdir()):
        data = path.read_bytes()
        with Image.open(path) as image:
            turned += image.getexif().get(0x0112) in (5, 6, 7, 8)
        assert (
            difference(evaluation_pixels(data, preprocessing), reference(data, preprocessing)) < 2
        )
    assert turned


def heic(picture: np.ndarray, **options: Any) -> bytes:
    """Encode as phones do; skips where pillow-heif is not installed."""
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(file, quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_read_upright(orientation: int, scene: Scene) -> None:
    """The picture of a phone comes out as it was held, turned once."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(_tagged(scene(), exif)))
    found = decode(heic(scene(), exif=exif.tobytes()))
    assert found.shape == expected.shape
    assert difference(found, expected) < 4


def _tagged(picture: np.ndarray, exif: Image.Exif) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", exif=exif)
    return Image.open(file)


def test_heic_behind_the_brand_of_its_container(scene: Scene) -> None:
    """Files whose first brand is mif1 are HEIC if they name it among the others."""
    data = heic(scene(640, 480))
    renamed = data[:8] + b"mif1" + data[12:]
    np.testing.assert_array_equal(decode(renamed), decode(data))


def test_damaged_heic_is_unreadable(scene: Scene) -> None:
    """Cut off anywhere, or too large: it is refused in words."""
    data = heic(scene(640, 480))
    for part in (0.02, 0.3, 0.9):
        with pytest.raises(UnreadablePicture, match=r"^is cut off or damaged \("):
            decode(data[: int(part * len(data))])
    with pytest.raises(UnreadablePicture) as refused:
        decode(data, max_megapixels=0.3)
    assert str(refused.value) == "is 640 x 480 px, larger than 0.3 megapixels"


def test_heic_without_its_library_says_what_to_install(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the command."""
    data = heic(scene())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadablePicture) as refused:
        decode(data)
    assert str(refused.value) == (
        "is a HEIC picture, and pillow-heif is not installed (run: pip install 'tellapart[heic]')"
    )


def test_animations_show_their_first_frame(scene: Scene) -> None:
    """Of GIF, WebP, PNG and TIFF with several frames the first is the picture."""
    first, second = (Image.fromarray(scene(seed=seed)) for seed in (0, 3))
    for fmt in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        options = {"lossless": True} if fmt == "WEBP" else {}
        first.save(file, fmt, save_all=True, append_images=[second], **options)
        whole = decode(file.getvalue())
        assert difference(whole, np.asarray(first)) < difference(whole, np.asarray(second))
        assert difference(whole, np.asarray(first)) < 6


def test_other_kinds_of_files_are_called_by_their_names() -> None:
    """What people mix up with pictures is named where its first bytes tell."""
    for data, message in {
        b"%PDF-1.7\n": "is a PDF, not a picture",
        b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>": (
            "is an SVG drawing, which has no pixels (save it as PNG)"
        ),
        b"PK\3\4rest": "is a ZIP archive, not a picture (unpack it)",
        b'{"message": "Not Found"}': "is JSON, not a picture (the download went wrong)",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": (
            "is XML, not a picture (the download went wrong)"
        ),
        b"\0\0\0\x18ftypmp42\0\0\0\0": "is a film, not a picture",
    }.items():
        with pytest.raises(UnreadablePicture) as refused:
            decode(data)
        assert str(refused.value) == message
