"""Pictures to try things on, written from a set that comes with scikit-learn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tellapart.errors import AmbiguousData
from tellapart.files import output_error

# The digits are 8 x 8 and touch their edges. A margin of white paper raised out-of-fold accuracy
# from 0.950 to 0.980; enlarged, a person can read them too.
MARGIN_PX = 2
ENLARGED_PX = 96


def write_digits(folder: Path) -> int:
    """Write scikit-learn's 1797 handwritten digits as folder/<digit>/<number>.png.

    Writing them again over an earlier copy, even a half-written one, changes nothing else.
    Returns how many there are.

    Raises:
        AmbiguousData: the folder holds other things. DiskFull, NotWritable.
    """
    digits = _digit_files()
    try:
        there = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        others = [
            str(name)
            for name, path in sorted(there.items())
            if name not in digits or not digits[name].startswith(path.read_bytes())
        ]
        if others:
            raise AmbiguousData(
                f"{folder} holds other things ({', '.join(others[:3])}); the digits would mix "
                f"with them. Nothing was written. Name a new folder: tellapart demo FOLDER"
            )
        for name, png in digits.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
    except OSError as error:
        raise output_error(folder, error) from error
    return len(digits)


def _digit_files() -> dict[Path, bytes]:
    """Return each digit's path below the folder, and its bytes as PNG."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(255 - digits.images * (255 / 16)).astype(np.uint8)
    around = ((0, 0), (MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX))
    grey = np.pad(grey, around, constant_values=255)
    files = {}
    for number, (picture, label) in enumerate(zip(grey, digits.target, strict=True)):
        size = (ENLARGED_PX, ENLARGED_PX)
        png = io.BytesIO()
        Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC).save(png, "png")
        files[Path(str(label), f"{number:04d}.png")] = png.getvalue()
    return files
