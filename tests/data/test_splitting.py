"""Splitting: by content, stable, fair to small classes."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import random_split
from torchvision.datasets import ImageFolder

from tellapart.data.catalog import SPLITS, Catalog, scan
from tellapart.data.splitting import (
    Fractions,
    _remembered_units,
    assign_splits,
    split_by_content,
    torch_permutation,
)
from tellapart.errors import AmbiguousData, TooFewPictures

Tree = Callable[..., Path]


def digest(number: int) -> bytes:
    """The digest of a picture that stands for a number."""
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest().encode()


def split(pictures: Sequence[tuple[int, int]], **options: object) -> list[str]:
    """Split pictures given as (what is on it, label)."""
    digests = np.array([digest(number) for number, _ in pictures], dtype="S32")
    labels = np.array([label for _, label in pictures], dtype=np.int64)
    return split_by_content(digests, labels, **options).tolist()


def catalog_of(pictures: Sequence[tuple[int, int, str]]) -> Catalog:
    """A catalog of pictures given as (what is on it, label, split)."""
    labels = np.array([label for _, label, _ in pictures], dtype=np.int64)
    return Catalog(
        root=Path("pets"),
        classes=tuple(f"class {label}" for label in range(int(labels.max()) + 1)),
        paths=np.array([f"pets/{row}.jpg" for row in range(len(pictures))]),
        labels=labels,
        digests=np.array([digest(number) for number, _, _ in pictures], dtype="S32"),
        splits=np.array([split for _, _, split in pictures], dtype="U5"),
    )


# Small numbers, so that repeats within and across classes are common.
pictures = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), min_size=1, max_size=80)
# The same picture always under the same label.
tidy_pictures = st.lists(st.integers(0, 300).map(lambda n: (n, n % 4)), min_size=1, max_size=80)


@given(pictures)
def test_identical_pictures_share_a_side(given_pictures: list[tuple[int, int]]) -> None:
    """However often and under whatever label a picture occurs, it is on one side."""
    sides: dict[int, set[str]] = {}
    for (number, _), side in zip(given_pictures, split(given_pictures), strict=True):
        sides.setdefault(number, set()).add(side)
    assert {len(found) for found in sides.values()} == {1}


@given(pictures, st.randoms(use_true_random=False))
def test_order_does_not_matter(given_pictures: list[tuple[int, int]], random: object) -> None:
    """Pictures in another order are on the same sides."""
    order = list(range(len(given_pictures)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = split([given_pictures[row] for row in order])
    assert shuffled == [split(given_pictures)[row] for row in order]


@given(pictures, pictures)
def test_no_picture_crosses_when_others_are_added(
    first: list[tuple[int, int]], added: list[tuple[int, int]]
) -> None:
    """With the sides of the first split remembered, adding pictures moves none."""
    sides = split(first)
    remembered = {digest(number): side for (number, _), side in zip(first, sides, strict=True)}
    assert split([*first, *added], remembered=remembered)[: len(first)] == sides


@given(tidy_pictures, tidy_pictures)
def test_without_memory_only_borrowed_pictures_move(
    first: list[tuple[int, int]], added: list[tuple[int, int]]
) -> None:
    """In a class that had pictures of its own on every side, adding pictures moves none."""
    bounds = np.cumsum([0.7, 0.15])
    content = {
        number: SPLITS[int(np.searchsorted(bounds, int(digest(number)[:16], 16) / 2**64, "right"))]
        for number, _ in first
    }
    after = split([*first, *added])
    for (number, label), before, now in zip(first, split(first), after, strict=False):
        full = {content[other] for other, its in first if its == label} == set(SPLITS)
        if full:
            assert before == now == content[number]


@given(tidy_pictures)
def test_every_class_of_three_is_on_every_side(given_pictures: list[tuple[int, int]]) -> None:
    """Three different pictures or more: each side has one. Fewer: they all teach."""
    sides = split(given_pictures)
    for label in {label for _, label in given_pictures}:
        members = [row for row, (_, its) in enumerate(given_pictures) if its == label]
        different = {given_pictures[row][0] for row in members}
        expected = set(SPLITS) if len(different) >= 3 else {"train"}
        assert {sides[row] for row in members} == expected


@given(tidy_pictures, st.floats(0.05, 0.95))
def test_a_side_without_a_fraction_stays_empty(
    given_pictures: list[tuple[int, int]], train: float
) -> None:
    """Cutting valid from train puts nothing into test."""
    sides = split(given_pictures, fractions=Fractions(train, 1 - train, 0.0))
    assert "test" not in sides


def test_fractions_are_about_right() -> None:
    """Of many pictures 70, 15 and 15 % lie on the sides, in every class."""
    sides = np.array(split([(number, number % 3) for number in range(9000)]))
    for label in range(3):
        mine = sides[label::3]
        shares = [np.mean(mine == name) for name in SPLITS]
        np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.025)


def test_no_pictures_have_no_sides() -> None:
    """An empty catalog splits into an empty array."""
    assert split([]) == []


def test_known_sides_are_pinned() -> None:
    """The side of a picture follows from its digest, in this and every later version."""
    letters = "".join(side[1] for side in split([(number, 0) for number in range(40)]))
    assert letters == "raraararrarerrrrrrrrrrrrerrerrrrrrrrrrrr"  # tRain, vAlid, tEst


@pytest.mark.parametrize("n_classes", [2, 1000])
def test_a_hundred_thousand_pictures_take_seconds(n_classes: int) -> None:
    """100 000 pictures are split in less than two seconds of processor time."""
    digests = np.array([digest(number) for number in range(100_000)], dtype="S32")
    labels = np.arange(100_000) % n_classes
    start = time.process_time()
    sides = split_by_content(digests, labels)
    remembered = dict(zip(digests.tolist(), sides.tolist(), strict=True))
    once = time.process_time() - start
    again = split_by_content(digests, labels, remembered)
    np.testing.assert_array_equal(sides, again)
    assert once < 2


def test_a_class_that_is_remembered_on_one_side_gets_others_from_new_pictures() -> None:
    """Pictures that all taught before stay; new ones fill the sides that score."""
    old = [(number, 0) for number in range(50)]
    new = [(number, 0) for number in range(50, 60)]
    remembered = {digest(number): "train" for number, _ in old}
    sides = split(old + new, remembered=remembered)
    assert set(sides[:50]) == {"train"}
    assert set(sides[50:]) >= {"valid", "test"}


def test_folders_without_splits_are_split(tree: Tree) -> None:
    """Class folders alone give all three splits."""
    catalog = assign_splits(scan(tree({"a": 8, "b": 3})))
    counts = catalog.counts()
    assert set(counts) == set(SPLITS)
    assert all(min(counts[name]) >= 1 for name in SPLITS)


def test_train_alone_is_split_by_content(tree: Tree) -> None:
    """A folder that holds only train/ is split as one without splits would be."""
    flat, nested = tree({"a": 8, "b": 8}, "flat"), tree({"train/a": 0, "train/b": 0}, "nested")
    for path in flat.rglob("*.jpg"):
        (nested / "train" / path.relative_to(flat)).write_bytes(path.read_bytes())
    one, two = assign_splits(scan(flat)), assign_splits(scan(nested))
    assert one.splits.tolist() == two.splits.tolist()
    assert set(one.splits.tolist()) == set(SPLITS)


@given(tidy_pictures)
@settings(max_examples=50)
def test_cutting_valid_from_train_keeps_test(given_pictures: list[tuple[int, int]]) -> None:
    """Given train and test, test is what the folder says and valid comes out of train."""
    many = [(number, number % 4) for number in range(1000, 1040)]
    rows = [
        (number, label, "test" if number % 3 == 0 else "train")
        for number, label in [*many, *given_pictures]
    ]
    before = catalog_of(rows)
    # As if another run, without split folders, had scored on every one of them.
    remembered = dict.fromkeys(before.digests.tolist(), "test")
    for memory in (None, remembered):
        after = assign_splits(before, remembered=memory)
        was_test = before.splits == "test"
        assert set(after.splits[was_test].tolist()) == {"test"}
        assert set(after.splits[~was_test].tolist()) == {"train", "valid"}


def test_valid_cut_from_train_has_its_share() -> None:
    """Valid is the same share of train as it is without split folders: 15 of 85."""
    rows = [(number, number % 2, "test" if number < 1000 else "train") for number in range(6000)]
    splits = assign_splits(catalog_of(rows)).splits
    assert np.mean(splits[1000:] == "valid") == pytest.approx(0.15 / 0.85, abs=0.02)


def test_folders_that_say_everything_are_believed() -> None:
    """Given train and valid, or all three, nothing moves, whatever is remembered."""
    for names in (("train", "valid"), SPLITS):
        rows = [(number, number % 2, names[number // 2 % len(names)]) for number in range(60)]
        catalog = catalog_of(rows)
        remembered = dict.fromkeys(catalog.digests.tolist(), "test")
        assert assign_splits(catalog, remembered=remembered).splits.tolist() == [
            name for _, _, name in rows
        ]


def test_split_none_trains_on_everything() -> None:
    """how="none" makes every picture train, those in a test folder too."""
    rows = [(number, number % 2, SPLITS[number % 3]) for number in range(12)]
    assert set(assign_splits(catalog_of(rows), "none").splits.tolist()) == {"train"}


def test_a_class_with_one_picture() -> None:
    """A class with one picture, or with copies of one, is named; nothing is split."""
    rows = [(number, 0, "") for number in range(9)] + [(10, 1, ""), (10, 1, ""), (11, 2, "")]
    for how in ("auto", "none"):
        with pytest.raises(TooFewPictures) as error:
            assign_splits(catalog_of(rows), how)
        assert str(error.value) == (
            "In pets these classes have fewer than 2 different readable pictures to learn from: "
            "'class 1' (1), 'class 2' (1). Nothing was trained. Add pictures of them, or take "
            "their folders away."
        )


def test_many_classes_with_too_few_pictures() -> None:
    """Of many classes with too few pictures, ten are named."""
    rows = [(label, label, "") for label in range(12)]
    with pytest.raises(TooFewPictures, match=re.escape("'class 9' (1) and 2 more. Nothing")):
        assign_splits(catalog_of(rows))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("given_split", ["", "train"])
def test_two_pictures_of_a_class_are_enough(n: int, given_split: str) -> None:
    """Two to four pictures of a class are never refused because some of them went to a side."""
    rows = [(number, 0, given_split) for number in range(100, 100 + n)]
    rows += [(number, 1, given_split) for number in range(20)]
    assign_splits(catalog_of(rows))
    if given_split:
        assign_splits(catalog_of([*rows, (50, 0, "test"), (51, 1, "test")]))


def test_a_class_that_lacks_in_train() -> None:
    """A class with pictures to score on and none to learn from is named."""
    rows = [(number, 0, "train") for number in range(9)]
    rows += [(20, 0, "test"), (21, 1, "test"), (22, 1, "test")]
    with pytest.raises(TooFewPictures, match=re.escape("'class 1' (0). Nothing was trained.")):
        assign_splits(catalog_of(rows))


@pytest.mark.parametrize(
    ("names", "said"), [(("test",), "test"), (("valid", "test"), "test and valid")]
)
def test_no_folder_to_learn_from(names: tuple[str, ...], said: str) -> None:
    """Splits without a train folder cannot teach, and the message says what to add."""
    rows = [(number, number % 2, names[number % len(names)]) for number in range(12)]
    with pytest.raises(TooFewPictures) as error:
        assign_splits(catalog_of(rows))
    assert str(error.value) == (
        f"pets holds {said} folders but no pictures to learn from. Expected class folders in "
        f"pets/train. Nothing was trained. Add them, or name the folder to learn from train."
    )


@pytest.mark.parametrize("seed", [0, 1, 330, 2**31 - 1, 2**32 - 1, 2**32, 2**63 - 1, -1, -330])
def test_the_permutation_is_torch_s(seed: int) -> None:
    """Torch's own randperm draws the same order from the same seed, around its block sizes too."""
    for n in (0, 1, 2, 3, 4, 15, 16, 17, 31, 100, 623, 624, 625, 1249, 2200, 5000):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randperm(n, generator=generator).numpy()
        np.testing.assert_array_equal(torch_permutation(n, seed), expected)


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_any_permutation_is_torch_s(n: int, seed: int) -> None:
    """Whatever the number of pictures and the seed, the order is torch's."""
    expected = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_array_equal(torch_permutation(n, seed), expected)


def test_a_large_permutation_is_torch_s() -> None:
    """The order of a quarter of a million pictures is torch's."""
    expected = torch.randperm(250_000, generator=torch.Generator().manual_seed(7)).numpy()
    np.testing.assert_array_equal(torch_permutation(250_000, 7), expected)


def splits_of_torch(root: Path, train: float, valid: float, seed: int) -> dict[str, str]:
    """Path -> split, as ImageFolder and random_split give it in the tutorials."""
    dataset = ImageFolder(str(root))
    sizes = [int(train * len(dataset)), int(valid * len(dataset))]
    sizes.append(len(dataset) - sum(sizes))
    parts = random_split(dataset, sizes, generator=torch.Generator().manual_seed(seed))
    return {
        dataset.imgs[row][0]: name
        for name, part in zip(SPLITS, parts, strict=True)
        for row in part.indices
    }


# Names and subfolders that sort differently by whole path and by folder, then name.
AWKWARD = {
    "10": 9,
    "2": ["z.jpg", "A.JPG", "b.jpg", "b 1.jpg", "ä.jpg", "a10.jpg", "a9.jpg"],
    "2/sub": 4,
    "2/b": 3,
    "2/b 2/deep": 3,
    "2/b.jpg.d": 2,
    "角度正": 8,
}


@pytest.mark.parametrize("seed", [0, 330])
@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33)])
def test_the_exact_split_is_torch_s(
    shares: tuple[float, float, float], seed: int, tree: Tree
) -> None:
    """Each file is on the side where ImageFolder and random_split put it."""
    root = tree(AWKWARD)
    train, valid, test = shares
    for given_train in (train, 1 - valid - test):
        fractions = Fractions(given_train, valid, test)
        catalog = assign_splits(scan(root), "exact", fractions=fractions, seed=seed)
        found = dict(zip(catalog.paths.tolist(), catalog.splits.tolist(), strict=True))
        assert found == splits_of_torch(root, train, valid, seed)


def test_the_exact_split_of_the_facades() -> None:
    """2200 pictures, shares 0.7, 0.2, 0.1 and seed 330: 1540, 440 and 220, pinned."""
    catalog = catalog_of([(number, number // 1100, "") for number in range(2200)])
    paths = np.array([f"facades/{row // 1100}/{row:04d}.jpg" for row in range(2200)])
    catalog = replace(catalog, paths=paths)
    dealt = assign_splits(catalog, "exact", fractions=Fractions(0.7, 0.2, 0.1), seed=330)
    assert [int((dealt.splits == name).sum()) for name in SPLITS] == [1540, 440, 220]
    expected = torch.randperm(2200, generator=torch.Generator().manual_seed(330)).numpy()
    # In the order in which they are dealt, the first ones to train.
    numbers = [int(Path(path).stem) for path in dealt.paths]
    assert numbers == expected.tolist()
    assert sorted(numbers[1980:])[:5] == [1, 8, 16, 24, 32]
    assert dealt.splits[1980:].tolist() == ["test"] * 220


def test_shares_that_do_not_add_up_to_the_last_digit() -> None:
    """A share of 1 - 0.2 - 0.1 counts as 0.7: int(0.7 * 90) is 62, with or without noise."""
    assert int((1 - 0.2 - 0.1) * 90) == 63
    catalog = catalog_of([(number, number % 2, "") for number in range(90)])
    for train in (0.7, 1 - 0.2 - 0.1):
        splits = assign_splits(catalog, "exact", fractions=Fractions(train, 0.2, 0.1)).splits
        assert int((splits == "train").sum()) == 62


def test_the_exact_split_without_a_test_share() -> None:
    """Without a share for test nothing is left over for it."""
    catalog = catalog_of([(number, number % 2, "") for number in range(37)])
    splits = assign_splits(catalog, "exact", fractions=Fractions(0.8, 0.2, 0.0)).splits
    assert [int((splits == name).sum()) for name in SPLITS] == [29, 8, 0]


def test_the_exact_split_forgets_and_separates_copies() -> None:
    """What is remembered does not count, and copies of one picture may be on several sides."""
    catalog = catalog_of([(number % 5, number % 5 % 2, "") for number in range(100)])
    remembered = dict.fromkeys(catalog.digests.tolist(), "test")
    plain = assign_splits(catalog, "exact").splits
    assert assign_splits(catalog, "exact", remembered).splits.tolist() == plain.tolist()
    assert len(set(plain[::5].tolist())) == 3


@pytest.mark.parametrize("names", [("train", "valid"), ("train", "test"), ("valid",), SPLITS])
def test_the_exact_split_of_split_folders_is_refused(names: tuple[str, ...]) -> None:
    """Folders that give splits are not mixed; the message says what to choose."""
    rows = [(number, number % 2, names[number // 2 % len(names)]) for number in range(60)]
    with pytest.raises(AmbiguousData) as error:
        assign_splits(catalog_of(rows), "exact")
    assert str(error.value) == (
        f"pets holds {' and '.join(names)} folders, and the split exact would mix their pictures. "
        f"Expected a folder of class folders alone. Nothing was trained. To keep the folders' own "
        f'splits choose the split "auto"; to draw anew, name one folder, such as pets/train, as '
        f"the data."
    )


def test_the_exact_split_of_train_alone() -> None:
    """A folder that holds only train/ is split as one without splits would be."""
    rows = [(number, number % 2) for number in range(60)]
    one, two = (
        assign_splits(catalog_of([(*row, given_split) for row in rows]), "exact", seed=3)
        for given_split in ("", "train")
    )
    assert one.splits.tolist() == two.splits.tolist()


@pytest.mark.parametrize("scored", ["valid", "test"])
def test_half_of_the_test_folder_chooses(scored: str, tree: Tree) -> None:
    """The scoring folder is cut as the tutorial cuts it; train stays as it is."""
    folders = {f"{scored}/{name}": what for name, what in AWKWARD.items()}
    root = tree({"train/10": 5, "train/2": 5, "train/角度正": 5, **folders})
    for share in (0.2, 0.5):
        catalog = assign_splits(scan(root), "halve-test", fractions=Fractions(1, share, 0), seed=5)
        images = ImageFolder(str(root / scored)).imgs
        indices = list(range(len(images)))
        np.random.seed(5)
        np.random.shuffle(indices)
        chooses = {images[row][0] for row in indices[: int(np.floor(share * len(images)))]}
        for path, split in zip(catalog.paths.tolist(), catalog.splits.tolist(), strict=True):
            if Path(path).is_relative_to(root / "train"):
                assert split == "train"
            else:
                assert split == ("valid" if path in chooses else "test")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("",), "no split folders"),
        (("train",), "train"),
        (("test",), "test"),
        (SPLITS, "train and valid and test"),
    ],
)
def test_no_folder_to_halve(names: tuple[str, ...], said: str) -> None:
    """Without train and exactly one folder for scoring, the message says what was found."""
    rows = [(number, number % 2, names[number // 2 % len(names)]) for number in range(60)]
    with pytest.raises(AmbiguousData) as error:
        assign_splits(catalog_of(rows), "halve-test")
    assert str(error.value) == (
        f"pets holds {said}. The split halve-test expects a folder to learn from and one to score "
        f"on, pets/train and pets/test, and cuts the second in two. Nothing was trained. Choose "
        f'the split "auto", or arrange the folders so.'
    )


def sides(catalog: Catalog) -> dict[bytes, str]:
    """Return the split of each picture, in whatever order they come."""
    return dict(zip(catalog.digests.tolist(), catalog.splits.tolist(), strict=True))


def test_another_seed_is_another_split() -> None:
    """Both random ways follow from the seed alone."""
    flat = catalog_of([(number, number % 2, "") for number in range(200)])
    given_test = catalog_of(
        [(number, number % 2, "train" if number < 100 else "test") for number in range(200)]
    )
    for catalog, how in ((flat, "exact"), (given_test, "halve-test")):
        first, again, other = (sides(assign_splits(catalog, how, seed=seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other


@given(st.integers(20, 300), st.floats(0.2, 0.6), st.floats(0.0, 0.39), st.integers(0, 99))
@settings(max_examples=50)
def test_every_picture_is_on_one_side_in_the_right_number(
    n: int, train: float, valid: float, seed: int
) -> None:
    """The exact split gives int(train * n) and int(valid * n) pictures, and the rest to test."""
    catalog = catalog_of([(number, number % 2, "") for number in range(n)])
    train, valid = round(train, 4), round(valid, 4)
    fractions = Fractions(train, valid, 1 - train - valid)
    try:
        splits = assign_splits(catalog, "exact", fractions=fractions, seed=seed).splits
    except TooFewPictures:  # Chance left a class with fewer than two to learn from.
        return
    counts = [int((splits == name).sum()) for name in SPLITS]
    assert counts == [int(train * n), int(valid * n), n - int(train * n) - int(valid * n)]


def test_an_unknown_way_to_split() -> None:
    """A way that does not exist is the caller's mistake, and the message lists those that do."""
    catalog = catalog_of([(number, number % 2, "") for number in range(12)])
    message = 'how is \'random\'; expected "auto", "none", "exact" or "halve-test"'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        assign_splits(catalog, "random")


def test_only_the_splits_change() -> None:
    """Assigning splits leaves the rest of the catalog alone."""
    before = catalog_of([(number, number % 2, "") for number in range(12)])
    after = assign_splits(before)
    assert replace(after, splits=before.splits).paths is before.paths
    assert before.splits.tolist() == [""] * 12


grouped_pictures = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=60
)


def grouped(pictures: list[tuple[int, int, int]]) -> Catalog:
    """Pictures (content, label, group); group 0 is none."""
    names = np.array(["" if group == 0 else f"g{group}" for _, _, group in pictures])
    digests = [hashlib.blake2b(bytes([one]), digest_size=16).hexdigest() for one, _, _ in pictures]
    return Catalog(
        root=Path("/photos"),
        classes=("a", "b", "c"),
        paths=np.array([f"/photos/{n}.jpg" for n in range(len(pictures))]),
        labels=np.array([label for _, label, _ in pictures]),
        digests=np.array(digests, dtype="S32"),
        splits=np.full(len(pictures), "", dtype="U5"),
        groups=names,
    )


@settings(deadline=None)  # the first call imports SciPy
@given(grouped_pictures)
def test_a_group_never_straddles_the_split(pictures: list[tuple[int, int, int]]) -> None:
    """Pictures of one group, and copies of one picture, share a side; folds are units as well."""
    catalog = grouped(pictures)
    assert catalog.groups is not None
    sides = split_by_content(catalog.units, catalog.labels)
    for keys in (catalog.groups, catalog.digests):
        for key in set(keys.tolist()) - {""}:
            assert len(set(sides[keys == key].tolist())) == 1
            assert len(set(catalog.units[keys == key].tolist())) == 1


@settings(deadline=None)
@given(grouped_pictures, st.lists(st.tuples(st.integers(41, 90), st.integers(0, 2)), max_size=30))
def test_no_group_crosses_when_others_are_added(
    pictures: list[tuple[int, int, int]], more: list[tuple[int, int]]
) -> None:
    """New pictures, in groups of their own, in old ones or in none, rename no unit.

    What is not borrowed keeps its side by its name; what is remembered keeps it in any case.
    """
    before = grouped(pictures)
    added = [(content, label, (0, 3, 9)[content % 3]) for content, label in more]
    after = grouped([*pictures, *added])
    known = dict(zip(before.digests.tolist(), before.units.tolist(), strict=True))
    for digest, unit in zip(after.digests.tolist(), after.units.tolist(), strict=True):
        assert known.get(digest, unit) == unit
    sides = split_by_content(before.units, before.labels)
    held = dict(zip(before.digests.tolist(), sides.tolist(), strict=True))
    remembered = _remembered_units(after.digests, after.units, held)
    again = split_by_content(after.units, after.labels, remembered)
    assert again[: len(pictures)].tolist() == sides.tolist()


def test_what_scored_does_not_teach_when_groups_come_later() -> None:
    """Where a group's pictures were on several sides before, all of it goes on scoring."""
    digests = np.array([b"a", b"b", b"c"], dtype="S32")
    units = np.array([b"u", b"u", b"c"], dtype="S32")
    held = {b"a": "test", b"b": "train", b"c": "valid"}
    assert _remembered_units(digests, units, held) == {b"u": "test", b"c": "valid"}


@pytest.mark.parametrize("how", ["exact", "halve-test"])
def test_what_would_tear_groups_is_refused(how: str) -> None:
    """A split of single pictures, and given splits that tear a group, name the way out."""
    catalog = grouped([(1, 0, 1), (2, 0, 1), (3, 1, 2), (4, 1, 2), (5, 2, 0), (6, 2, 0)])
    with pytest.raises(AmbiguousData) as refused:
        assign_splits(catalog, how)
    assert str(refused.value) == (
        f"/photos gives groups that are to stay together, and the split {how} deals out single "
        f'pictures. Nothing was trained. Choose the split "auto", or leave the groups out with '
        f"--data group="
    )
    torn = replace(catalog, splits=np.array(["train", "test", *4 * ["train"]]))
    with pytest.raises(AmbiguousData) as refused:
        assign_splits(torn)
    assert str(refused.value) == (
        "In /photos these groups lie in more than one of the splits that are given: 'g1'. What "
        "belongs together would teach and score at once. Nothing was trained. Leave the splits "
        "out with --data split= or the groups with --data group="
    )
    assert assign_splits(torn, "none").splits.tolist() == ["train"] * 6
