"""Load a classifier and ask it about pictures. Needs no torch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import OpenVinoRuntime, Precision
from tellapart.bundle.bundle import Bundle, damaged, open_bundle
from tellapart.bundle.manifest import Manifest
from tellapart.data.pixels import Picture, Pixels, decode_with_names, picture_pixels
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.calibration import softmax
from tellapart.evaluation.decision import Decisions, decide, reason, with_accept
from tellapart.inference.explaining import Explainer, Explanation

if TYPE_CHECKING:
    import pandas

# Below this many pictures one at a time is sooner done than a compiled stream of batches.
FEW = 24

# From so many pictures on, a batch is sooner done than as many single ones.
FILLS = 8

# So many unreadable files in a row are told before going on. Else they would pile up behind the
# network, which answers only when it has pictures for a batch.
_FLUSH_ERRORS = 512


@dataclass(frozen=True, repr=False)
class Prediction:
    """The answer for one picture; in a notebook it shows the picture with a bar for each class.

    `label` is the most probable class, also of a picture that is `unsure`: `reason` then says
    why. `candidates` are the classes that stay possible, the most probable first: one or more.
    `top` holds (class, probability) pairs, the most probable first. A picture that could not be
    read has `error` set and no label. `names` are what people call those classes that have a
    name besides their label. `path` is the file's, or says which one of those that were
    given it was ("picture 0"); `picture` is what was given, where that was no path.
    """

    path: str
    label: str | None
    confidence: float | None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    unsure: bool = False
    candidates: tuple[str, ...] = ()
    reason: str | None = None
    picture: Any = field(default=None, compare=False, kw_only=True)
    names: Mapping[str, str] = field(default_factory=dict, compare=False, kw_only=True)

    def __repr__(self) -> str:
        """Say in a line what the answer is."""
        if self.error is not None or self.label is None or self.confidence is None:
            return f"<Prediction {self.path}: not read, it {self.error}>"
        others = ", ".join(f"{self.shown(label)} {value:.1%}" for label, value in self.top[1:3])
        beside = f" ({others})" if others else ""
        doubt = f", unsure: {self.reason}" if self.unsure else ""
        said = f"{self.shown(self.label)} {self.confidence:.1%}"
        return f"<Prediction {self.path}: {said}{beside}{doubt}>"

    def shown(self, label: str) -> str:
        """Say what people call a class."""
        return self.names.get(label, label)

    def _repr_html_(self) -> str:
        from tellapart.inference.notebook import as_html

        return as_html([self])

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain JSON types, keys as documented for `predict --json`."""
        name = {"name": self.shown(self.label)} if self.names and self.label else {}
        return name | {
            "path": self.path,
            "label": self.label,
            "confidence": self.confidence,
            "top": [{"label": label, "confidence": value} for label, value in self.top],
            "error": self.error,
            "unsure": self.unsure,
            "candidates": list(self.candidates),
            "reason": self.reason,
        }


class Predictions(list[Prediction]):
    """The answers for several pictures: a list that shows as pictures with bars in a notebook."""

    def _repr_html_(self) -> str:
        from tellapart.inference.notebook import as_html

        return as_html(self)

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas frame, a row a picture: what `as_dict` says, and a column a class of top.

        Raises:
            MissingExtra: pandas is not installed.
        """
        from tellapart.inference.notebook import as_frame

        return as_frame(self)


class Classifier:
    """A trained classifier, read from one file.

    >>> cats = Classifier.load("pets.tellapart")              # doctest: +SKIP
    >>> cats.predict(["a.jpg", "b.jpg"])[0].label             # doctest: +SKIP
    'cat'
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision | Literal["int8"] | None = None,
        accept: float | None = None,
    ) -> None:
        self._bundle = bundle
        # What is not in 8 bits runs in what is fastest.
        self._precision: Precision | None = None if precision == "int8" else precision
        self._graph = bundle.int8_graph if precision == "int8" else None
        rules = bundle.manifest.calibration.rules
        self.rules = rules if accept is None else with_accept(rules, accept)

    @classmethod
    def load(
        cls,
        path: str | Path,
        precision: Precision | Literal["int8"] | None = None,
        accept: float | None = None,
    ) -> Classifier:
        """Open a .tellapart file.

        precision: "bf16" or "f32"; "int8" takes the 8-bit graph that `quantize` put in; None
            takes what is fastest on this machine without costing accuracy.
        accept: the accuracy wanted among the pictures that are not called unsure; None: as set
            in the file.

        Raises:
            BundleNotFound, BundleDamaged, BundleFromFuture, NotQuantised.
        """
        return cls(open_bundle(path), precision, accept)

    @property
    def manifest(self) -> Manifest:
        """The facts of this classifier."""
        return self._bundle.manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of every array of size K."""
        return self.manifest.classes

    @overload  # A str is one picture, though it is an iterable of str too.
    def predict(  # type: ignore[overload-overlap]
        self, pictures: Picture, top: int = 5
    ) -> Prediction: ...

    @overload
    def predict(self, pictures: Iterable[Picture], top: int = 5) -> Predictions: ...

    def predict(
        self, pictures: Picture | Iterable[Picture], top: int = 5
    ) -> Prediction | Predictions:
        """Answer for one picture, or for each of several, in order.

        pictures: one is a path, the bytes of a file, an open binary file, a Pillow image, or an
            array (H, W, 3) uint8 RGB, (H, W) grey or (H, W, 4); it gives one Prediction. Any
            iterable of these, or an array (N, H, W, 3), gives a list of them.

        Unreadable ones have `error` set; what is no picture at all is a TypeError.
        """
        if is_one(pictures):
            return next(self.stream([cast("Picture", pictures)], top))
        return Predictions(self.stream(list(cast("Iterable[Picture]", pictures)), top))

    def stream(
        self, pictures: Iterable[Picture], top: int = 5, ordered: bool = True
    ) -> Iterator[Prediction]:
        """Answer for each picture, in bounded memory.

        ordered: False answers in the order in which files are read, so none waits for a slow one.
        """
        for row, (picture, result) in enumerate(self._features(pictures, ordered)):
            name = _name(picture, row)
            if isinstance(result, UnreadablePicture):
                found = Prediction(name, None, None, error=str(result))
            else:
                (found,) = self.answers([name], result[None], top)
            yield found if _is_path(picture) else replace(found, picture=picture)

    def answers(
        self, paths: Sequence[str], features: NDArray[np.float16], top: int = 5
    ) -> list[Prediction]:
        """Answer for pictures whose features (N, D) are known, in order."""
        probs = self.probabilities(self.head(features))
        decisions = self.decide(features, probs)
        return [
            self._prediction(path, probs, decisions, row, top) for row, path in enumerate(paths)
        ]

    def decide(self, features: NDArray[np.float16], probs: NDArray[np.float32]) -> Decisions:
        """Decide about pictures of these features (N, D) and probabilities (N, K)."""
        familiar = self._bundle.familiar
        strangeness = None if familiar is None else familiar.strangeness(features, probs)
        return decide(probs, strangeness, self.rules)

    def features_of(self, pixels: Sequence[Pixels]) -> Iterator[NDArray[np.float16]]:
        """Yield (D,) features of pictures that are already as the network sees them, (S, S, 3)."""
        # Padding a batch costs as much as filling it.
        runtime = self._few if len(pixels) < FILLS else self._many
        return runtime.run(pixels)

    def prepare(self) -> None:
        """Compute one blank picture: what is read from the file and compiled, is so from here on.

        The file may be replaced afterwards: nothing of it is read again.

        Raises:
            BundleDamaged: what is in the file cannot be run.
        """
        size_px = self.manifest.preprocessing.size_px
        blank = np.zeros((size_px, size_px, 3), np.uint8)
        for n in (1, FILLS):
            self.answers(["blank"] * n, np.stack(list(self.features_of([blank] * n))))

    def explain(self, picture: Picture, label: str | None = None) -> Explanation:
        """Show where in a picture the evidence for a class lies; by default for its own answer.

        >>> cats.explain("a.jpg").heat.shape                      # doctest: +SKIP
        (7, 7)

        Raises:
            UnreadablePicture. NotExplainable: hidden layers precede the backbone's answer.
            ValueError: there is no class of that name.
        """
        if label is not None and label not in self.classes:
            raise ValueError(f"There is no class {label!r}; there are {', '.join(self.classes)}.")
        pixels = picture_pixels(picture, self.manifest.preprocessing)
        (maps,) = self.explainer.maps([pixels])
        logits = self.explainer.logits(maps)
        row = int(logits.argmax()) if label is None else self.classes.index(label)
        return Explanation(
            path=_name(picture, 0),
            label=self.classes[row],
            confidence=float(self.probabilities(logits[None])[0, row]),
            heat=self.explainer.heat(maps, row),
            bias=float(self.explainer.bias[row]),
        )

    @cached_property
    def explainer(self) -> Explainer:
        """What draws class activation maps from this classifier's own graph.

        Raises:
            NotExplainable.
        """
        return Explainer(
            self._graph or self._bundle.graph,
            self.manifest.backbone,
            bool(self.manifest.recipe.get("flip_at_test", False)),
            self._precision,
        )

    def logits(
        self, pictures: Iterable[Picture]
    ) -> Iterator[NDArray[np.float32] | UnreadablePicture]:
        """Yield (K,) logits of each picture in order, or why it could not be read."""
        for _, result in self._features(pictures):
            yield result if isinstance(result, UnreadablePicture) else self.head(result[None])[0]

    def features(
        self, pictures: Iterable[Picture]
    ) -> Iterator[NDArray[np.float16] | UnreadablePicture]:
        """Yield (D,) features of each picture in order, or why it could not be read."""
        return (result for _, result in self._features(pictures))

    def _features(
        self, pictures: Iterable[Picture], ordered: bool = True
    ) -> Iterator[tuple[Picture, NDArray[np.float16] | UnreadablePicture]]:
        """Yield each picture with its (D,) features, or why it could not be read."""
        rest = iter(pictures)
        first = list(islice(rest, FEW))
        read = partial(picture_pixels, preprocessing=self.manifest.preprocessing)
        workers = 1 if len(first) == 1 else None
        decoded = decode_with_names(chain(first, rest), read, workers, ordered)
        # What went into the network or was unreadable, and was not answered yet.
        waiting: deque[tuple[Picture, UnreadablePicture | None]] = deque()

        def readable() -> Iterator[Pixels]:
            n_errors = 0
            for path, picture in decoded:
                if isinstance(picture, UnreadablePicture):
                    waiting.append((path, picture))
                    n_errors += 1
                    if n_errors == _FLUSH_ERRORS:
                        return
                else:
                    waiting.append((path, None))
                    yield picture
                    n_errors = 0

        while first:
            runtime = self._few if len(first) < FEW else self._many
            for features in runtime.run(readable()):
                yield from _errors_first(waiting)
                yield waiting.popleft()[0], features
            if not waiting:
                return
            yield from _errors_first(waiting)

    def head(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        """Compute (N, K) logits of (N, D) features, in 32 bits as in training."""
        weight, bias = self._head
        logits: NDArray[np.float32] = features.astype(np.float32) @ weight.T + bias
        return logits

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn (N, K) logits into calibrated probabilities."""
        return softmax(logits, self.manifest.calibration.temperature)

    def _prediction(
        self, path: str, probs: NDArray[np.float32], decisions: Decisions, row: int, top: int
    ) -> Prediction:
        order = decisions.order[row]
        ranked = [(self.classes[place], float(probs[row, place])) for place in order[:top]]
        confidence = float(probs[row, order[0]])
        unsure = bool(decisions.unsure[row])
        return Prediction(
            path,
            self.classes[order[0]],
            confidence,
            tuple(ranked),
            unsure=unsure,
            candidates=tuple(self.classes[place] for place in order[: decisions.n_candidates[row]]),
            reason=reason(confidence, bool(decisions.strange[row]), self.rules) if unsure else None,
            names=self.manifest.display_names,
        )

    @cached_property
    def _few(self) -> OpenVinoRuntime:
        return self._compile(latency=True)

    @cached_property
    def _many(self) -> OpenVinoRuntime:
        return self._compile(latency=False)

    def _compile(self, latency: bool) -> OpenVinoRuntime:
        """Build the graph for running, and check that it fits the manifest.

        Raises:
            BundleDamaged: somebody changed one of them by hand.
        """
        graph = self._graph or self._bundle.graph
        try:
            runtime = OpenVinoRuntime(graph, precision=self._precision, latency=latency)
            n_classes = len(runtime.constant("head.bias"))
        except (RuntimeError, KeyError) as error:
            raise damaged(self._bundle.path, "its graph cannot be run") from error
        found = f"{n_classes} classes at {runtime.size_px} px"
        expected = f"{self.manifest.n_classes} classes at {self.manifest.preprocessing.size_px} px"
        if found != expected:
            what = f"its graph is for {found}, its manifest for {expected}"
            raise damaged(self._bundle.path, what)
        return runtime

    @cached_property
    def _head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        built = self.__dict__.get("_few") or self._many
        return built.constant("head.weight"), built.constant("head.bias")


def _errors_first(
    waiting: deque[tuple[Picture, UnreadablePicture | None]],
) -> Iterator[tuple[Picture, UnreadablePicture]]:
    """Take the unreadable ones from the left, up to the next that has an answer."""
    while waiting and (error := waiting[0][1]) is not None:
        yield waiting.popleft()[0], error


def is_one(pictures: object) -> bool:
    """Whether this is one picture, rather than several."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim < 4
    several = isinstance(pictures, Iterable) and not isinstance(
        pictures, str | os.PathLike | bytes | bytearray | memoryview
    )
    # Files and Pillow images can be iterated over too, by lines and by nothing of use.
    return not several or hasattr(pictures, "read") or hasattr(pictures, "getbands")


def _is_path(picture: object) -> bool:
    return isinstance(picture, str | os.PathLike)


def _name(picture: object, row: int) -> str:
    """Name a picture by its path, by that of the open file or image, or by its place."""
    if isinstance(picture, str | os.PathLike):
        return str(os.fspath(picture))  # Without the bytes that may have come along.
    name = getattr(picture, "filename", None) or getattr(picture, "name", None)
    return name if isinstance(name, str) else f"picture {row}"
