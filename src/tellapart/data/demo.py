"""Pictures to try things on, written from a set that comes with scikit-learn."""

from __future__ import annotations

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

    Writing them again over an earlier copy changes nothing. Returns how many there are.

    Raises:
        AmbiguousData: the folder holds other things. DiskFull, NotWritable.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = {str(digit) for digit in digits.target_names}
    others = sorted({entry.name for entry in folder.glob("*")} - names)
    if others:
        raise AmbiguousData(
            f"{folder} holds other things ({', '.join(others[:3])}); the digits would mix with "
            f"them. Nothing was written. Name a new folder: tellapart demo FOLDER"
        )
    grey = np.round(255 - digits.images * (255 / 16)).astype(np.uint8)
    around = ((0, 0), (MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX))
    grey = np.pad(grey, around, constant_values=255)
    try:
        for number, (picture, label) in enumerate(zip(grey, digits.target, strict=True)):
            path = folder / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (ENLARGED_PX, ENLARGED_PX)
            Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC).save(path)
    except OSError as error:
        raise output_error(folder, error) from error
    return len(digits.target)
