"""When a picture was taken: what its EXIF says, otherwise the time of its file."""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path

_EXIF_FOLDER = 0x8769
# DateTimeOriginal, DateTimeDigitized (EXIF 2.32, 4.6.5), then DateTime of the file (4.6.4).
_IN_FOLDER = (0x9003, 0x9004)
_IN_FILE = 0x0132


def taken(path: str | Path) -> tuple[datetime, bool]:
    """Say when a picture was taken, in local time, and whether its EXIF says so.

    Without EXIF, or with a damaged or empty one, it is the time of the file.

    Raises:
        OSError: the file is not there.
    """
    found = _exif_date(path)
    if found is not None:
        return found, True
    return datetime.fromtimestamp(Path(path).stat().st_mtime), False


def _exif_date(path: str | Path) -> datetime | None:
    from PIL import Image

    if Path(path).suffix.lower() in (".heic", ".heif", ".hif"):
        _let_pillow_open_heic()
    try:
        # Pillow warns about what is odd in the rest of the block. One thread calls this.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                exif = image.getexif()
                inside = exif.get_ifd(_EXIF_FOLDER)
                texts = [*(inside.get(tag) for tag in _IN_FOLDER), exif.get(_IN_FILE)]
    except Exception:  # Pillow's plugins raise whatever their formats suggest.
        return None
    for text in texts:
        try:
            return datetime.strptime(str(text).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
    return None


def _let_pillow_open_heic() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()
