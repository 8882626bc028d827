"""Pictures made small for people to look at, in pages and notebooks. No network sees these.

Apart from `pixels`, so that a change here makes no kept set stale.
"""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
import simplejpeg
from kornia_rs import imgproc

from tellapart.data.pixels import Picture, Pixels, decoded

# A picture as small as this may be compressed harder: nobody sees it.
SMALL_PX = 112


def shrunk(picture: Picture, side_px: int) -> Pixels:
    """Decode a picture of any kind, upright, its longer side at most side_px: (H, W, 3) uint8.

    Raises:
        UnreadablePicture, TypeError: as `pixels.decoded` does.
    """
    pixels = decoded(picture, side_px)
    scale = side_px / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    rows, columns = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(
        imgproc.resize(np.ascontiguousarray(pixels), (rows, columns), "bicubic", antialias=True)
    )


def jpeg(picture: Pixels, quality: int = 80) -> bytes:
    """Compress (H, W, 3) pixels for where a page is made at once and thrown away."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
    return data


def webp(picture: Pixels) -> bytes:
    """Compress (H, W, 3) pixels to half of what JPEG takes at this size, for pages that are kept.

    It takes longer; every browser knows it.
    """
    from PIL import Image

    target = io.BytesIO()
    quality = 60 if max(picture.shape) <= SMALL_PX else 75
    Image.fromarray(np.ascontiguousarray(picture)).save(target, "WEBP", quality=quality)
    return target.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a JPEG or WebP file as the address of itself, so that a page needs no other file."""
    kind = "webp" if picture[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{b64encode(picture).decode('ascii')}"
