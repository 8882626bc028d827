"""Columns are the same arrays wherever they lie, and what is on disk leaves nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.data import columns
from tellapart.data.catalog import scan
from tellapart.data.columns import Column, Lines, forget, taken, zeros

Tree = Callable[..., Path]


@pytest.fixture
def all_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, in which every column lies from its first byte on."""
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(
    parts=st.lists(st.lists(st.integers(-(2**60), 2**60), max_size=5), max_size=5),
    limit=st.sampled_from([0, 9, 10_000]),
)
def test_a_column_is_all_that_was_added(parts: list[list[int]], limit: int) -> None:
    """In order, in memory and from the disk; also none at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "IN_MEMORY_BYTES", limit)
        column = Column(np.dtype(np.int64))
        for part in parts:
            column.add(np.array(part, dtype=np.int64))
        assert column.array().tolist() == list(chain.from_iterable(parts))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(
    parts=st.lists(st.lists(TEXT | st.just("b\udcff.jpg"), max_size=4), max_size=4),
    limit=st.sampled_from([0, 9, 10_000]),
)
def test_lines_are_read_as_they_were_added(parts: list[list[str]], limit: int) -> None:
    """Of any language, empty ones too, and names of files that are no valid UTF-8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "IN_MEMORY_BYTES", limit)
        lines = Lines()
        for part in parts:
            lines.add(part)
        texts = list(chain.from_iterable(parts))
        assert (list(lines.read()), lines.n) == (texts, len(texts))
        assert lines.longest == max(map(len, texts), default=0)


def test_what_is_on_disk_can_be_forgotten_and_goes_with_its_array(all_on_disk: Path) -> None:
    """It is read again when needed; no file is ever seen in the cache folder."""
    column = Column(np.dtype(np.float32))
    column.add(np.arange(5000))
    values = column.array()[10:]
    del column
    forget(values[3:])
    assert values[-1] == 4999
    assert list(all_on_disk.iterdir()) == []
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    del values
    gc.collect()


def test_a_catalog_on_disk_is_the_same(
    tree: Tree, all_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All columns, and what is selected of them."""
    root = tree({"train/a": 3, "train/b": 2, "valid/a/deep": 2, "valid/b": 1})
    far = scan(root)
    monkeypatch.undo()
    near = scan(root)
    for name in ("paths", "labels", "digests", "splits"):
        np.testing.assert_array_equal(getattr(far, name), getattr(near, name))
    assert (far.counts(), far.has_splits) == (near.counts(), True)
    chosen = far.select(far.labels == 1)
    assert chosen.paths.tolist() == near.paths[near.labels == 1].tolist()
    assert not far.paths.flags.writeable


@pytest.mark.parametrize("limit", [0, 10_000])
def test_rows_taken_are_the_same_wherever_they_lie(
    limit: int, all_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a mask or by numbers; all of them are not copied."""
    monkeypatch.setattr(columns, "LARGE_BYTES", limit)
    monkeypatch.setattr(columns, "BLOCK_ROWS", 3)
    values = zeros((10, 4), np.dtype(np.float16))
    values[:] = np.arange(40).reshape(10, 4)
    mask = np.arange(10) % 3 > 0
    np.testing.assert_array_equal(taken(values, mask), np.array(values)[mask])
    np.testing.assert_array_equal(taken(values, np.array([7, 0, 7])), np.array(values)[[7, 0, 7]])
    assert taken(values, np.ones(10, dtype=bool)) is values
    assert taken(values, np.zeros(10, dtype=bool)).shape == (0, 4)


def test_where_nothing_can_be_kept_it_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache folder that cannot be made is no error: the system's own place is taken."""
    (tmp_path / "cache").write_bytes(b"a file")
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    column = Column(np.dtype("U9"))
    column.add(np.array(["a", "bc"]))
    assert column.array().tolist() == ["a", "bc"]
