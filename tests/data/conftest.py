"""Small real pictures for the tests of the data layer."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

Scene = Callable[..., np.ndarray]
Encode = Callable[..., bytes]
Tree = Callable[..., Path]


def _scene(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 with a different colour in each corner, as smooth as a photograph.

    No turn or mirror image of it equals it.
    """
    y, x = np.mgrid[:height, :width]
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    wave = 20 * np.sin(6 * u + seed) * np.cos(4 * v + seed)
    channels = [230 * u * (1 - 0.5 * v) + 10, 220 * v + 15, 120 + 100 * (1 - u) * (1 - v)]
    return np.clip(np.stack(channels, axis=-1) + wave[..., None], 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Draw a picture: scene(width, height, seed)."""
    return _scene


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode a picture with Pillow: encode(picture, "PNG", mode="LA", orientation=6, …)."""

    def call(
        picture: np.ndarray, fmt: str, mode: str = "RGB", orientation: int = 0, **options: Any
    ) -> bytes:
        image = Image.fromarray(picture).convert(mode)
        if orientation:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        file = io.BytesIO()
        image.save(file, fmt, **options)
        return file.getvalue()

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write files below a folder: tree({"cats": 3, "train/dogs": ["a.jpg"], "x.txt": b"…"}).

    A number makes that many different pictures, a list one picture of each name. Returns the
    folder. Pictures differ from one another, everywhere and always in the same way.
    """
    count = 0

    def picture() -> bytes:
        nonlocal count
        count += 1
        return bytes(simplejpeg.encode_jpeg(_scene(32, 24, seed=count), quality=90))

    def call(files: dict[str, int | list[str] | bytes], root: str = "photos") -> Path:
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        for name, what in files.items():
            path = folder / name
            if isinstance(what, bytes):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(what)
                continue
            path.mkdir(parents=True, exist_ok=True)
            names = what if isinstance(what, list) else [f"{i:03d}.jpg" for i in range(what)]
            for one in names:
                (path / one).write_bytes(picture())
        return folder

    return call


@pytest.fixture(scope="session")
def odd() -> Path:
    """Real specimens of what breaks classifiers."""
    root = Path(__file__).parents[2]
    folder = (root / os.environ.get("TELLAPART_DATA", "../shared/data") / "odd").resolve()
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; name the folder that holds it with TELLAPART_DATA")
    return folder
