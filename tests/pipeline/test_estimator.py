"""scikit-learn's verbs over picture files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import model_selection
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from tellapart import Classifier, PictureClassifier
from tellapart.errors import DataNotFound, NotEnoughClasses, UnreadablePicture

# Those of scikit-learn's checks that fit no matrix of numbers: X is a sequence of files here.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_positive_only_tag_during_fit",
)


@pytest.fixture(scope="module")
def files(small: Path) -> tuple[list[Path], list[int]]:
    """Sixty digits and what they are, in no order."""
    paths = sorted(small.rglob("*.png"), key=lambda path: path.name[::-1])
    return paths, [int(path.parent.name) for path in paths]


@pytest.fixture(scope="module")
def fitted(files: Any, trained: Any) -> PictureClassifier:
    """The quickest recipe, fitted once; `trained` has the network exported."""
    return PictureClassifier(recipe="fast").fit(*files)


@pytest.mark.parametrize("name", [name for name in CHECKS if hasattr(estimator_checks, name)])
def test_scikit_learns_own_checks(name: str) -> None:
    """All that ask nothing of numbers in X pass."""
    if name == "check_positive_only_tag_during_fit":
        pytest.skip("it fits a matrix of numbers")
    getattr(estimator_checks, name)("PictureClassifier", PictureClassifier())


def test_it_answers_in_the_classes_it_was_given(fitted: PictureClassifier, files: Any) -> None:
    """Numbers stay numbers, columns stand in the order of `classes_`."""
    paths, labels = files
    assert fitted.classes_.tolist() == [0, 1, 2]
    probs = fitted.predict_proba(paths)
    assert probs.shape == (60, 3)
    assert np.allclose(probs.sum(1), 1, atol=1e-5)
    assert fitted.predict(paths).tolist() == fitted.classes_[probs.argmax(1)].tolist()
    assert fitted.score(paths, labels) >= 0.95
    with Path(paths[0]).open("rb") as file:
        assert fitted.predict([file]).tolist() == fitted.predict([paths[0]]).tolist()


def test_classes_sort_as_numbers_do(files: Any) -> None:
    """10 comes after 2 in `classes_`, though "10" comes before "2" in a bundle."""
    paths, labels = files
    renamed = np.array([0, 2, 10])[labels]
    model = PictureClassifier(recipe="fast").fit(paths, renamed)
    assert model.classes_.tolist() == [0, 2, 10]
    assert model.classifier().classes == ("0", "10", "2")
    assert model.score(paths, renamed) >= 0.95


def test_it_is_cloned_and_cross_validated(files: Any) -> None:
    """Parameters travel, what was learned does not; scikit-learn's tools take it."""
    model = PictureClassifier(recipe="fast", settings={"seed": 1})
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert other.set_params(recipe="auto").recipe == "auto"
    with pytest.raises(NotFittedError):
        other.predict(files[0])
    scores = model_selection.cross_val_score(model, np.array(files[0], dtype=str), files[1], cv=2)
    assert scores.min() >= 0.9


def test_it_travels(fitted: PictureClassifier, files: Any, tmp_path: Path) -> None:
    """By pickle between processes, and as a bundle for everything else."""
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(files[0]), fitted.predict_proba(files[0]))
    fitted.save(tmp_path / "digits.tellapart")
    answers = Classifier.load(tmp_path / "digits.tellapart").predict(files[0])
    assert [int(one.label or -1) for one in answers] == fitted.predict(files[0]).tolist()


def test_wrong_input(fitted: PictureClassifier, files: Any, tmp_path: Path) -> None:
    """Arrays to learn from, labels that do not fit, one class, nothing, broken pictures."""
    paths, labels = files
    model = PictureClassifier(recipe="fast")
    with pytest.raises(TypeError, match=r"^fit takes paths of picture files, not ndarray\.$"):
        model.fit(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"^60 pictures .* labels of shape \(59,\)\.$"):
        model.fit(paths, labels[:-1])
    with pytest.raises(NotEnoughClasses):
        model.fit(paths, [1] * 60)
    with pytest.raises(DataNotFound, match=r"^No pictures were given\."):
        model.fit([], [])
    with pytest.raises(UnreadablePicture) as error:
        fitted.predict([paths[0], tmp_path / "none.png", b""])
    assert str(error.value) == (
        f"2 of 3 pictures cannot be read: {tmp_path / 'none.png'} cannot be opened (No such file "
        f"or directory); picture 2 is empty (0 bytes). Expected was a picture for each answer. "
        f"Nothing was answered. Leave them out."
    )
