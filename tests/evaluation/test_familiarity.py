"""Pictures that belong to no class are told by where they lie, and by doubt."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tellapart.evaluation.familiarity import Familiar, fit_familiar, held_out_similarity


def clouds(seed: int, n: int = 300, k: int = 4, d: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return features of k clouds, wide in a direction that says nothing, and their labels."""
    centres = 2 * np.random.default_rng(0).normal(size=(k, d))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    features = centres[labels] + rng.normal(size=(n, d))
    features[:, 0] += 20 * rng.normal(size=n)
    return features.astype(np.float16), labels


def strangers(n: int = 200, d: int = 40) -> np.ndarray:
    """Features that lie nowhere near the clouds, wide in the same direction."""
    rng = np.random.default_rng(5)
    features = 2 * rng.normal(size=(1, d)) + rng.normal(size=(n, d))
    features[:, 0] += 20 * rng.normal(size=n)
    return features.astype(np.float16)


@pytest.fixture(scope="module")
def familiar() -> Familiar:
    """Fitted on one draw of the clouds, usual on another."""
    features, labels = clouds(1)
    placed = fit_familiar(features, labels, 4)
    others, _ = clouds(2)
    return placed.with_usual(np.full(300, 0.9, np.float32), placed.similarity(others))


def test_strangers_lie_farther_than_new_pictures_of_a_class(familiar: Familiar) -> None:
    """The similarity tells them apart although features differ most where it says nothing."""
    own, other = familiar.similarity(clouds(3)[0]), familiar.similarity(strangers())
    truth = np.r_[np.ones(len(own)), np.zeros(len(other))]
    assert roc_auc_score(truth, np.r_[own, other]) > 0.99


def test_doubt_and_distance_both_make_strange(familiar: Familiar) -> None:
    """Either adds to the strangeness, neither takes from it, and the usual is not strange."""
    usual = familiar.usual
    sure, near = np.full(3, 0.999, np.float32), np.full(3, 1.0, np.float32)
    assert familiar.strangeness_of(sure, near).tolist() == [0, 0, 0]
    doubt = familiar.strangeness_of(np.array([0.9, 0.6, 0.3], np.float32), near)
    assert (np.diff(doubt) > 0).all()
    distance = familiar.strangeness_of(sure, usual[2] - np.array([0, 1, 2], np.float32) * usual[3])
    assert distance.tolist() == pytest.approx([0, 1, 4], abs=1e-3)
    both = familiar.strangeness_of(np.full(3, 0.3, np.float32), np.full(3, -1.0, np.float32))
    assert (both > doubt[2]).all()


def test_its_own_arrays_make_it_again(familiar: Familiar) -> None:
    """Rebuilt from its arrays, it says the same to the last bit; they are small."""
    again = Familiar(**familiar.arrays())
    features, _ = clouds(3)
    probs = np.full((300, 4), 0.25, np.float32)
    assert (again.strangeness(features, probs) == familiar.strangeness(features, probs)).all()
    assert sum(array.nbytes for array in familiar.arrays().values()) < 10_000


def test_a_picture_does_not_vouch_for_itself() -> None:
    """Held out, pictures are as similar as new ones; taught, they look more so."""
    features, labels = clouds(1, n=60)
    placed = fit_familiar(features, labels, 4)
    new = float(np.median(placed.similarity(clouds(2)[0])))
    held_out = float(np.median(held_out_similarity(features, labels, np.arange(60) % 3, 4)))
    taught = float(np.median(placed.similarity(features)))
    assert taught > new
    assert abs(held_out - new) < taught - new


@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 2), (10, 12)])
def test_hardly_any_pictures_are_enough(n: int, k: int) -> None:
    """One picture a class, or classes without any: finite numbers, and no warning."""
    features = np.random.default_rng(0).normal(size=(n, 20)).astype(np.float16)
    labels = np.arange(n) % k
    placed = fit_familiar(features, labels, k)
    similarity = held_out_similarity(features, labels, np.arange(n) % 2, k)
    familiar = placed.with_usual(np.full(n, 1.0, np.float32), similarity)
    strangeness = familiar.strangeness(features, np.full((n, k), 1 / k, np.float32))
    assert np.isfinite(strangeness).all()
    assert (strangeness >= 0).all()
