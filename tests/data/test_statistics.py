"""The colours of a data set: the numbers that torch's formula gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tellapart.data.pixels import Preprocessing, read_pixels
from tellapart.data.statistics import channel_statistics
from tellapart.errors import NoReadablePicture

Scene = Callable[..., np.ndarray]
Encode = Callable[..., bytes]
Tree = Callable[..., Path]

HALF = (0.5, 0.5, 0.5)


def torch_statistics(pictures: list[np.ndarray], batch: int) -> tuple[list[float], list[float]]:
    """The tutorials' formula: over batches of (N, 3, S, S) floats between 0 and 1."""
    data = torch.tensor(np.stack(pictures), dtype=torch.float64).permute(0, 3, 1, 2) / 255
    mean, std = torch.zeros(3), torch.zeros(3)
    for images in data.split(batch):
        flat = images.reshape(images.size(0), images.size(1), -1)
        mean = mean + flat.mean(2).sum(0)
        std = std + flat.std(2).sum(0)
    return (mean / len(data)).tolist(), (std / len(data)).tolist()


@pytest.mark.parametrize("size_px", [16, 64])
def test_statistics_as_torch_computes_them(size_px: int, tree: Tree) -> None:
    """Mean and deviation are torch's, to rounding, whatever the batches were."""
    preprocessing = Preprocessing(size_px, HALF, HALF)
    paths = sorted(tree({"a": 30}).rglob("*.jpg"))
    mean, std = channel_statistics(paths, preprocessing)
    for batch in (1, 7):
        expected = torch_statistics([read_pixels(path, preprocessing) for path in paths], batch)
        np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
        np.testing.assert_allclose(std, expected[1], rtol=1e-12)


def test_unreadable_files_do_not_count(tree: Tree) -> None:
    """A file that is no picture changes neither number."""
    preprocessing = Preprocessing(16, HALF, HALF)
    root = tree({"a": 5, "a/bad.jpg": b"<html>404"})
    paths = sorted(root.rglob("*.jpg"))
    assert len(paths) == 6
    readable = [path for path in paths if path.name != "bad.jpg"]
    assert channel_statistics(paths, preprocessing) == channel_statistics(readable, preprocessing)


def test_deviation_is_within_pictures_not_between(encode: Encode, tmp_path: Path) -> None:
    """Black and white pictures have a mean of one half and the least deviation there is."""
    for name, level in (("black", 0), ("white", 255)):
        flat = np.full((20, 20, 3), level, dtype=np.uint8)
        (tmp_path / f"{name}.png").write_bytes(encode(flat, "PNG"))
    mean, std = channel_statistics(sorted(tmp_path.iterdir()), Preprocessing(16, HALF, HALF))
    assert mean == HALF
    assert std == pytest.approx((1 / 255, 1 / 255, 1 / 255))


def test_channels_are_red_green_blue(encode: Encode, tmp_path: Path) -> None:
    """The numbers come in the order red, green, blue, as shares of 255."""
    flat = np.full((20, 20, 3), (255, 51, 0), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode(flat, "PNG"))
    mean, _ = channel_statistics([tmp_path / "a.png"], Preprocessing(16, HALF, HALF))
    assert mean == pytest.approx((1.0, 0.2, 0.0))


def test_no_readable_picture(tmp_path: Path) -> None:
    """Where nothing can be read, the message says what to do instead."""
    with pytest.raises(NoReadablePicture) as error:
        channel_statistics([tmp_path / "a.jpg", tmp_path / "b.jpg"], Preprocessing(16, HALF, HALF))
    assert str(error.value) == (
        "Of 2 pictures, none could be read, so the colours of the data cannot be measured. Check "
        'the files, or choose normalisation = "backbone".'
    )
