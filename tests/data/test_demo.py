"""The demonstration pictures: real, complete, and never mixed with other things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tellapart.data.catalog import scan
from tellapart.data.demo import ENLARGED_PX, write_digits
from tellapart.data.pixels import decode, read_file
from tellapart.errors import AmbiguousData, NotWritable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, written once; no test may change them."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "digits"
    assert write_digits(folder) == 1797
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_digits_are_class_folders(folder: Path) -> None:
    """1797 different digits lie in ten class folders, as scikit-learn labels them."""
    catalog = scan(folder)
    assert catalog.classes == tuple("0123456789")
    assert len(set(catalog.digests.tolist())) == len(catalog) == 1797
    assert catalog.counts()[""] == np.bincount(load_digits().target).tolist()
    assert catalog.set_aside == ()


def test_digits_are_dark_on_white_paper(folder: Path) -> None:
    """A digit is a square grey picture with a white margin and ink in the middle."""
    pixels = decode(read_file(folder / "0" / "0000.png"))
    assert pixels.shape == (ENLARGED_PX, ENLARGED_PX, 3)
    assert (pixels[:8] > 250).all()
    assert pixels.min() < 60


def test_writing_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """A second run gives the same bytes, and mends what an interrupted one left."""
    copy = tmp_path / "digits"
    for name, data in content(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    (copy / "3" / "0003.png").unlink()
    (copy / "4" / "0004.png").write_bytes(b"")
    whole = (copy / "5" / "0005.png").read_bytes()
    (copy / "5" / "0005.png").write_bytes(whole[:50])
    assert write_digits(copy) == 1797
    assert content(copy) == content(folder)


@pytest.mark.parametrize("name", ["3/0003.png", "notes.txt"])
def test_other_things_are_never_touched(name: str, tmp_path: Path) -> None:
    """A folder that holds anything else is refused before a byte is written."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(AmbiguousData) as error:
        write_digits(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds other things ({name}); the digits would mix with them. Nothing was "
        f"written. Name a new folder: tellapart demo FOLDER"
    )
    assert content(tmp_path) == {name: b"mine"}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """Where a file has the folder's name, the error says so and the file stays."""
    path = tmp_path / "digits"
    path.write_bytes(b"mine")
    with pytest.raises(NotWritable, match=r"digits could not be written: "):
        write_digits(path)
    assert path.read_bytes() == b"mine"
