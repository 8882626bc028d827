"""Training and predicting with scikit-learn's verbs: fit, predict, predict_proba, score."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from tellapart.bundle.bundle import SUFFIX
from tellapart.data.catalog import from_lists
from tellapart.data.pixels import Picture
from tellapart.errors import UnreadablePicture
from tellapart.files import write_atomically
from tellapart.inference.classifier import Classifier
from tellapart.pipeline.training import train
from tellapart.progress import Progress


class PictureClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of picture files for scikit-learn's tools: clone, cross_val_score, GridSearchCV.

    X is a sequence of paths, not a matrix; `predict` and `predict_proba` take all that
    `Classifier.predict` takes, in a sequence. y is one class a picture: text or numbers.

    >>> probe = PictureClassifier(recipe="fast")                        # doctest: +SKIP
    >>> cross_val_score(probe, paths, labels, cv=5)                     # doctest: +SKIP

    Args:
        recipe: a built-in one by name, or a TOML file. "fast" learns the head alone, in seconds;
            what several fits look at again is kept between them.
        settings: single settings over it, such as {"backbone": "resnet18"}.
        device: auto, cpu, cuda or mps.
        verbose: whether progress is shown.

    Attributes:
        classes_: (K,) the classes, sorted; the columns of `predict_proba`.
        result_: what training found, see `TrainResult`; its files were not kept.
        bundle_: the bytes of the .tellapart file, for `save`.
    """

    def __init__(
        self,
        recipe: str = "auto",
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.device = device
        self.verbose = verbose

    def fit(self, X: Sequence[str | os.PathLike[str]], y: ArrayLike) -> PictureClassifier:  # noqa: N803
        """Learn to tell the picture files X apart by their classes y.

        A part of them is set aside to judge by, as `train` does it.

        Raises:
            TellapartError: one of its kinds. TypeError: X holds something else than paths.
        """
        paths, labels = list(X), np.asarray(y)
        wrong = next((one for one in paths if not isinstance(one, str | os.PathLike)), None)
        if wrong is not None:
            raise TypeError(f"fit takes paths of picture files, not {type(wrong).__name__}.")
        if labels.shape != (len(paths),):
            raise ValueError(
                f"{len(paths)} pictures were given with labels of shape {labels.shape}."
            )
        self.classes_ = np.unique(labels)
        catalog = from_lists(paths, [str(label) for label in labels.tolist()])
        with tempfile.TemporaryDirectory() as folder:
            self.result_ = train(
                catalog,
                Path(folder, f"fitted{SUFFIX}"),
                recipe=self.recipe,
                settings=self.settings,
                device=self.device,
                progress=Progress("normal" if self.verbose else "quiet"),
            )
            self.bundle_ = self.result_.bundle.read_bytes()
        self.__dict__.pop("_classifier", None)
        return self

    def predict_proba(self, X: Sequence[Picture]) -> NDArray[np.float32]:  # noqa: N803
        """Return calibrated probabilities (N, K), the columns in the order of `classes_`.

        Raises:
            UnreadablePicture: some cannot be read; all are named.
        """
        classifier = self.classifier()
        answers = list(classifier.logits(list(X)))
        broken = [
            f"{one if isinstance(one, str | os.PathLike) else f'picture {row}'} {answer}"
            for row, (one, answer) in enumerate(zip(X, answers, strict=True))
            if isinstance(answer, UnreadablePicture)
        ]
        if broken:
            raise UnreadablePicture(
                f"{len(broken)} of {len(answers)} pictures cannot be read: {'; '.join(broken)}. "
                f"Expected was a picture for each answer. Nothing was answered. Leave them out."
            )
        logits = np.stack([one for one in answers if not isinstance(one, UnreadablePicture)])
        names = {name: column for column, name in enumerate(classifier.classes)}
        order = [names[str(label)] for label in self.classes_.tolist()]
        return classifier.probabilities(logits)[:, order]

    def predict(self, X: Sequence[Picture]) -> NDArray[Any]:  # noqa: N803
        """Return the most probable class (N,) of each picture, as y had it.

        Raises:
            UnreadablePicture: some cannot be read; all are named.
        """
        probs = self.predict_proba(X)
        best: NDArray[Any] = self.classes_[probs.argmax(axis=1)]
        return best

    def save(self, path: str | Path) -> None:
        """Write what was learned as a .tellapart file, for `tellapart` and `Classifier.load`.

        Raises:
            DiskFull, NotWritable.
        """
        check_is_fitted(self)
        write_atomically(Path(path), self.bundle_, "choose another place")

    def classifier(self) -> Classifier:
        """Return what was learned as a `Classifier`."""
        check_is_fitted(self)
        if "_classifier" not in self.__dict__:
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, True)
            path = Path(folder, f"fitted{SUFFIX}")
            self.save(path)
            self._classifier = Classifier.load(path)
        return self._classifier

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled for this process."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_classifier"}

    def __sklearn_tags__(self) -> Any:
        """Say that X is no matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags
