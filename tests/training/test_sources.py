"""Where batches come from: what was kept, the views that seed and epoch say, live pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.backbones.activations import KeptSet
from tellapart.data.augmentation import (
    DEFAULT_AUGMENTATION,
    RandomResizedCrop,
    read_views,
    view_generator,
)
from tellapart.data.catalog import Catalog, scan
from tellapart.data.pixels import Preprocessing, read_pixels
from tellapart.errors import UnreadablePicture
from tellapart.training import sources
from tellapart.training.sources import KeptSource, LiveSource, Rows, batches_of

Keep = Callable[..., KeptSet]

N, N_VIEWS = 60, 3
SMALL = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def digests() -> np.ndarray:
    """One of each row; rows 5 and 9 are the same picture."""
    names = np.array([f"{row:032x}".encode() for row in range(N)], dtype="S32")
    names[9] = names[5]
    return names


@pytest.fixture(scope="module")
def kept(keep: Keep, digests: np.ndarray) -> KeptSource:
    """A source whose values say which row and view they are: row in the first, view in the last."""
    whole = np.zeros((N, 2, 3, 2), dtype=np.float16)
    whole[:, 0] = np.arange(N)[:, None, None]
    whole[9, 0] = 5
    sets = []
    for view in range(1 + N_VIEWS):
        whole[:, 1] = view
        sets.append(keep(digests, whole))
    return KeptSource(digests, sets[0], sets[1:], seed=3)


@pytest.fixture(scope="module")
def catalog(shapes: Path) -> Catalog:
    """Real pictures."""
    return scan(shapes)


def drawn(source: KeptSource, epoch: int, batches: list[Rows] | None = None) -> list[int]:
    """Which view of each picture an epoch gets."""
    rows = [np.arange(N)] if batches is None else batches
    return torch.cat(list(source.views(rows, epoch)))[:, 1, 0, 0].int().tolist()


def test_the_kept_numbers_come_back(kept: KeptSource) -> None:
    """To the last bit, in 16 bits, in the order of the rows, batch by batch."""
    rows = np.random.default_rng(0).permutation(N)
    batches = batches_of(rows, 16)
    found = list(kept.plain(batches))
    assert [len(batch) for batch in found] == [len(batch) for batch in batches]
    whole = torch.cat(found)
    assert whole.dtype == torch.float16
    assert whole.shape == (N, 2, 3, 2)
    assert whole[:, 0, 0, 0].tolist() == [5 if row == 9 else row for row in rows]
    assert (whole[:, 1] == 0).all()


def test_views_are_of_the_right_pictures(kept: KeptSource) -> None:
    """Whatever the order and the batches, each row gets its own activation and its own view."""
    in_order = dict(zip(range(N), drawn(kept, 1), strict=True))
    rows = np.random.default_rng(1).permutation(N)
    batches = batches_of(rows, 7)
    whole = torch.cat(list(kept.views(batches, 1)))
    assert whole[:, 0, 0, 0].tolist() == [5 if row == 9 else row for row in rows]
    assert whole[:, 1, 0, 0].tolist() == [in_order[row] for row in rows]


def test_views_follow_from_seed_and_epoch_alone(kept: KeptSource, digests: np.ndarray) -> None:
    """The same twice; others in another epoch, and with another seed."""
    assert drawn(kept, 1) == drawn(kept, 1)
    assert drawn(kept, 1) != drawn(kept, 2)
    other = KeptSource(digests, kept.plain_set, kept.view_sets, seed=4)
    assert drawn(kept, 1) != drawn(other, 1)


def test_every_view_is_drawn_about_as_often(kept: KeptSource) -> None:
    """The plain one among them: a quarter each of 60 pictures x 40 epochs, within 5 sigma."""
    counts = np.bincount(np.concatenate([drawn(kept, epoch) for epoch in range(40)]))
    expected = N * 40 / (1 + N_VIEWS)
    assert len(counts) == 1 + N_VIEWS
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    per_picture = np.array([drawn(kept, epoch) for epoch in range(40)])
    assert all(len(set(views)) == 1 + N_VIEWS for views in per_picture.T.tolist())


def test_without_random_views_the_plain_one_is_learned_from(kept: KeptSource) -> None:
    """As where views = 0."""
    assert set(drawn(KeptSource(kept.digests, kept.plain_set, (), 3), 1)) == {0}


def test_a_batch_more_is_read_while_one_is_learned(kept: KeptSource) -> None:
    """One ahead, no more: the memory holds two batches."""
    asked = []

    def batches() -> object:
        for start in range(0, N, 10):
            asked.append(start)
            yield np.arange(start, start + 10)

    found = kept.plain(batches())
    assert asked == []
    next(found)
    assert asked == [0, 10]
    next(found)
    assert asked == [0, 10, 20]
    assert len(list(found)) == 4


def test_nothing_asked_for_is_nothing_read(kept: KeptSource) -> None:
    """No batch, no answer, no error."""
    assert list(kept.plain([])) == []
    assert list(kept.views([], 1)) == []


def test_a_picture_that_is_not_kept_is_an_error_where_it_is_asked_for(kept: KeptSource) -> None:
    """Not a hang in the thread that reads, and not another picture's numbers."""
    stranger = KeptSource(np.array([b"f" * 32]), kept.plain_set, (), 0)
    with pytest.raises(KeyError):
        list(stranger.plain([np.array([0])]))


def test_an_epoch_may_be_left_early(kept: KeptSource) -> None:
    """As when a loss is no number; the next one starts anew."""
    found = kept.views([np.arange(10)] * 4, 1)
    next(found)
    found.close()
    assert len(list(kept.views([np.arange(10)] * 4, 1))) == 4


# ---- memory


def resident_mb() -> float:
    """Memory of this process, mapped files included."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.fixture
def large(keep: Keep) -> KeptSource:
    """A source of 48 MB."""
    n = 240
    digests = np.array([f"{row:032x}".encode() for row in range(n)], dtype="S32")
    values = np.random.default_rng(0).integers(0, 9, (n, 100_000)).astype(np.float16)
    return KeptSource(digests, keep(digests, values), (), seed=0)


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


@needs_proc
def test_forgetting_gives_memory_back(large: KeptSource) -> None:
    """Pages that were read are resident until they are forgotten; then they are read again."""
    expected = [large.plain_set.get(one)[::999].copy() for one in large.digests.tolist()]
    full = resident_mb()
    large.plain_set.forget()
    assert full - resident_mb() > 40
    again = [large.plain_set.get(one)[::999] for one in large.digests.tolist()]
    assert np.array_equal(again, expected)


@needs_proc
def test_an_epoch_does_not_fill_the_memory(
    large: KeptSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 8 MB, no more than that and three batches is resident of 48 MB."""
    monkeypatch.setattr(sources, "FORGET_AFTER_BYTES", 8_000_000)
    batches = batches_of(np.arange(240), 10)
    list(large.plain(batches))
    before = resident_mb()
    most = max(resident_mb() - before for _ in large.plain(batches))
    assert most < 20
    assert resident_mb() - before < 8


# ---- live


def live(catalog: Catalog, seed: int = 3) -> LiveSource:
    """Real pictures, drawn anew in each epoch."""
    return LiveSource(catalog.paths, catalog.digests, SMALL, DEFAULT_AUGMENTATION, seed)


def test_live_views_are_those_of_the_documented_generators(catalog: Catalog) -> None:
    """View 1 000 000 + epoch of each picture's own generator: no kept view is drawn again."""
    rows = np.array([4, 0, 11, 7, 40])
    found = torch.cat(list(live(catalog).views([rows[:3], rows[3:]], epoch=2)))
    assert found.dtype == torch.uint8
    assert found.shape == (5, 32, 32, 3)
    for picture, row in zip(found, rows, strict=True):
        generator = view_generator(bytes(catalog.digests[row]), 1_000_002, 3)
        path = str(catalog.paths[row])
        (expected,) = read_views(path, SMALL, DEFAULT_AUGMENTATION, [generator])
        assert torch.equal(picture, torch.from_numpy(expected))


def test_live_views_change_with_epoch_and_seed(catalog: Catalog) -> None:
    """And with nothing else: batches and their order do not matter."""
    rows = np.arange(6)

    def views(source: LiveSource, epoch: int) -> torch.Tensor:
        return torch.cat(list(source.views([rows], epoch)))

    one = views(live(catalog), 1)
    assert torch.equal(one, views(live(catalog), 1))
    turned = torch.cat(list(live(catalog).views([rows[5:], rows[4::-1]], 1)))
    assert torch.equal(one, turned.flip(0))
    assert not torch.equal(one, views(live(catalog), 2))
    assert not torch.equal(one, views(live(catalog, seed=4), 1))


def test_live_plain_pictures_are_those_of_evaluation(catalog: Catalog) -> None:
    """One way from file to pixels."""
    (found,) = live(catalog).plain([np.array([3, 1])])
    for picture, row in zip(found, (3, 1), strict=True):
        assert torch.equal(picture, torch.from_numpy(read_pixels(catalog.paths[row], SMALL)))


def test_views_may_be_of_another_size_than_the_input(catalog: Catalog) -> None:
    """As in the first reference system: crops of 128 teach, whole pictures of 224 are judged."""
    steps = (RandomResizedCrop(size_px=16),)
    source = LiveSource(catalog.paths, catalog.digests, SMALL, steps, 0)
    assert next(source.views([np.arange(2)], 1)).shape == (2, 16, 16, 3)
    assert next(source.plain([np.arange(2)])).shape == (2, 32, 32, 3)


def test_a_picture_that_is_taken_away_is_named(catalog: Catalog, tmp_path: Path) -> None:
    """It was readable before; a silent hole in a batch would shift all labels after it."""
    paths = catalog.paths[:3].astype(object)
    paths[1] = str(tmp_path / "gone.jpg")
    source = LiveSource(paths, catalog.digests[:3], SMALL, DEFAULT_AUGMENTATION, 0)
    for batches in (source.plain([np.arange(3)]), source.views([np.arange(3)], 1)):
        with pytest.raises(UnreadablePicture, match="cannot be opened"):
            list(batches)


# ---- batches


@given(st.integers(0, 200), st.integers(1, 70))
@settings(deadline=None)
def test_batches_hold_every_row_once_in_order(n: int, size: int) -> None:
    """All are of the size asked for but the last; a row alone joins those before it."""
    rows = np.random.default_rng(0).permutation(n)
    batches = batches_of(rows, size)
    assert np.concatenate([*batches, rows[:0]]).tolist() == rows.tolist()
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size + 1 for batch in batches)
    assert n == 1 or size == 1 or all(len(batch) > 1 for batch in batches)


def test_a_batch_of_one_that_is_asked_for_stays_one() -> None:
    """batch = 1 means one picture a step, the last one too."""
    assert [len(batch) for batch in batches_of(np.arange(4), 1)] == [1, 1, 1, 1]
