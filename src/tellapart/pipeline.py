"""The whole story: folder -> Catalog -> features -> head -> scores -> report and bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.cache import prune
from tellapart.backbones.extractor import Extractor, open_extractor
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import DEFAULT_BACKBONE, find_backbone
from tellapart.bundle.bundle import (
    SUFFIX,
    KeptFeatures,
    open_bundle,
    with_head,
    with_head_weights,
    write_bundle,
)
from tellapart.bundle.manifest import Calibration, Manifest
from tellapart.data.catalog import SPLITS, Catalog, scan
from tellapart.data.inspection import Finding, inspect_files
from tellapart.data.pixels import (
    Augmentation,
    augmented_pixels,
    decode_many,
    evaluation_pixels,
    read_file,
    read_pixels,
    thumbnail,
)
from tellapart.data.splitting import assign_splits
from tellapart.errors import (
    BundleError,
    ClassMismatch,
    NoReadablePicture,
    TellapartError,
    UnreadablePicture,
)
from tellapart.evaluation import report as reports
from tellapart.evaluation.calibration import expected_calibration_error, fit_temperature, softmax
from tellapart.evaluation.scores import Scores, score
from tellapart.evaluation.sheet import SheetRow, render_sheet
from tellapart.files import check_writable, write_atomically
from tellapart.inference.classifier import Classifier
from tellapart.progress import Progress
from tellapart.training.probe import Probe, fit_probe

Floats = NDArray[np.float32]

# How far the finished graph's probabilities may lie from those that were scored. The same
# runtime and precision give 0.0; 32 bits on a GPU against 16 on a processor, some hundredths.
MAX_DISAGREEMENT = 0.1
N_CHECKED = 16
THUMBNAIL_PX = 256


@dataclass(frozen=True)
class TrainResult:
    """What a training gave. `as_dict` is what `train --json` prints."""

    bundle: Path
    report: Path
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    scores: Scores | None
    scored_split: str | None
    backbone: str
    device: str
    seconds: Mapping[str, float]
    pictures_per_s: float
    n_computed: int
    findings: tuple[Finding, ...]
    summary: tuple[str, ...]

    def accuracy(self) -> dict[str, Any] | None:
        """Return accuracy with its 95 % interval, and which split it was measured on.

        `selected_on` is true where that split is `valid`, which is there to choose by.
        """
        if self.scores is None:
            return None
        interval = asdict(self.scores.accuracy)
        return interval | {
            "split": self.scored_split,
            "selected_on": self.scored_split == "valid",
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return {
            "bundle": str(self.bundle),
            "report": str(self.report),
            "classes": list(self.classes),
            **{f"n_{split}": self.counts.get(split, 0) for split in SPLITS},
            "accuracy": self.accuracy(),
            "backbone": self.backbone,
            "device": self.device,
            "seconds": dict(self.seconds),
            "pictures_per_s": self.pictures_per_s,
            "n_computed": self.n_computed,
            "findings": [
                {"kind": found.kind, "count": found.count, "headline": found.headline}
                for found in self.findings
            ],
        }


@dataclass(frozen=True, eq=False)
class _Learned:
    """A calibrated head, and which rows of the catalog it learned from and is scored on."""

    probe: Probe
    temperature: float
    out_of_fold_ece: tuple[float, float]
    scored_split: str | None
    learned: NDArray[np.bool_]
    scored: NDArray[np.bool_]

    def probabilities(self, features: NDArray[np.float16]) -> Floats:
        return softmax(self.probe.logits(features), self.temperature)


def train(
    data: str | Path,
    output: str | Path | None = None,
    *,
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    split: Literal["auto", "none"] = "auto",
    device: str = "auto",
    keep_features: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Learn to tell the pictures in a folder apart; write a classifier and a report.

    data: a folder of class folders, or of train/valid/test folders that hold them.
    output: the .tellapart file; by default named as the folder, in the current folder. The
        report lies beside it.
    weights: a file of weights for the backbone, instead of those that come with it.
    split: "none" learns from everything and scores nothing.
    keep_features: whether the bundle carries its pictures' features, for learning again.

    Raises:
        TellapartError: one of its kinds, see `tellapart.errors`.
    """
    # Its own clock: a caller may use one Progress for several trainings.
    progress = replace(progress or Progress(), seconds={})
    with progress.stage("total"):
        target = _output_path(Path(data), output)
        catalog = scan(data, progress)
        sides = _remembered_sides(target)
        # Refuse before time is spent what would be refused after: sides need no pixels.
        assign_splits(catalog, split, sides)
        with progress.stage("prepare"):
            extractor = open_extractor(backbone, Path(weights) if weights else None, device)
        progress.say(_what_was_understood(catalog, extractor))
        with progress.stage("features"):
            found = extractor.features(catalog.paths.tolist(), catalog.digests.tolist(), progress)
        catalog, features = _readable(catalog, found.values, found.unreadable)
        catalog = assign_splits(catalog, split, sides)
        with progress.stage("fit"):
            learned = _learn(catalog, features, progress)
        with progress.stage("score"):
            scores = _score(catalog, features, learned)
        result = TrainResult(
            bundle=target,
            report=_report_path(target),
            classes=catalog.classes,
            counts={name: int((catalog.splits == name).sum()) for name in SPLITS},
            scores=scores,
            scored_split=learned.scored_split,
            backbone=extractor.backbone.name,
            device=extractor.device,
            seconds=dict(progress.seconds),
            pictures_per_s=round(len(found.values) / progress.seconds["features"], 1),
            n_computed=found.n_computed,
            findings=inspect_files(catalog),
            summary=_summary(catalog, learned, scores),
        )
        with progress.stage("write"):
            _write(result, catalog, features, learned, extractor, keep_features)
        prune()
    seconds = {name: round(progress.seconds[name], 3) for name in ("features", "fit", "total")}
    return replace(result, seconds=seconds)


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did on labelled pictures. `as_dict` is what `evaluate --json` prints."""

    scores: Scores
    unknown_classes: tuple[str, ...]
    n_unknown: int
    n_unreadable: int
    split: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return self.scores.as_dict() | {
            "split": self.split,
            "unknown_classes": list(self.unknown_classes),
            "n_unknown": self.n_unknown,
            "n_unreadable": self.n_unreadable,
        }


def evaluate(
    classifier: Classifier, data: str | Path, progress: Progress | None = None
) -> Evaluation:
    """Score a classifier on labelled pictures; classes are matched by name.

    data: a folder of class folders; where it holds splits, the last of test, valid, train that
        is there. Pictures of classes that the classifier does not know are counted, not scored.

    Raises:
        ClassMismatch: no class in common. NoReadablePicture: nothing left to score.
    """
    progress = progress or Progress()
    catalog = scan(data, progress, min_classes=1)
    split = next((name for name in reversed(SPLITS) if (catalog.splits == name).any()), None)
    if split:
        catalog = catalog.select(catalog.splits == split)
    place = {name: label for label, name in enumerate(classifier.classes)}
    unknown = tuple(name for name in catalog.classes if name not in place)
    if len(unknown) == len(catalog.classes):
        raise ClassMismatch(
            f"{data} holds the classes {_listed(catalog.classes)}, the classifier knows "
            f"{_listed(classifier.classes)}: none in common. Classes are matched by the names of "
            f"the folders; rename these to match, or train on this data."
        )
    labels = np.array([place.get(name, -1) for name in catalog.classes])[catalog.labels]
    paths = catalog.paths[labels >= 0].tolist()
    with progress.bar("Looking at pictures", len(paths), "pictures") as advance:
        answers = []
        for answer in classifier.logits(paths):
            answers.append(answer)
            advance(1)
    logits = [answer for answer in answers if not isinstance(answer, UnreadablePicture)]
    read = [not isinstance(answer, UnreadablePicture) for answer in answers]
    if not logits:
        raise NoReadablePicture(
            f"Of {len(paths)} pictures in {data}, none could be read: the first {answers[0]}. "
            f"Nothing was scored. Check the files."
        )
    probs = classifier.probabilities(np.stack(logits))
    return Evaluation(
        scores=score(probs, labels[labels >= 0][read], classifier.classes),
        unknown_classes=unknown,
        n_unknown=int((labels < 0).sum()),
        n_unreadable=read.count(False),
        split=split,
    )


@dataclass(frozen=True)
class Sheet:
    """A page of pictures as they enter the network."""

    path: Path
    n_pictures: int
    n_views: int

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {"sheet": str(self.path), "n_pictures": self.n_pictures, "n_views": self.n_views}


def show(
    data: str | Path,
    output: str | Path | None = None,
    *,
    backbone: str = DEFAULT_BACKBONE,
    count: int = 12,
    views: int = 4,
    seed: int = 0,
) -> Sheet:
    """Write a page of pictures as they enter the network: plain, and as random views.

    data: as for `train`. output: the HTML file; by default NAME-sheet.html in this folder.

    Raises:
        TellapartError: as `train` does for data that cannot be used.
    """
    catalog = scan(data, min_classes=1)
    target = Path(output) if output else Path.cwd() / f"{catalog.root.resolve().name}-sheet.html"
    check_writable(target)
    preprocessing = find_backbone(backbone).preprocessing
    generator = np.random.default_rng(seed)
    rows: list[SheetRow] = []
    for row in generator.permutation(len(catalog)):
        try:
            file = read_file(catalog.paths[row])
            plain = evaluation_pixels(file, preprocessing)
        except UnreadablePicture:
            continue
        random = [
            augmented_pixels(file, preprocessing, Augmentation(), generator) for _ in range(views)
        ]
        name = catalog.classes[catalog.labels[row]]
        rows.append(SheetRow(name, str(catalog.paths[row]), np.stack([plain, *random])))
        if len(rows) == count:
            break
    about = (
        f"{len(rows)} of {len(catalog)} pictures, drawn at random, as {backbone} receives them: "
        f"{preprocessing.size_px} x {preprocessing.size_px} px, before its graph subtracts the "
        f"mean {preprocessing.mean} and divides by {preprocessing.std}. The first is what "
        f"training, scoring and prediction see; the others are random views."
    )
    write_atomically(target, render_sheet(catalog.root.resolve().name, about, rows))
    return Sheet(target, len(rows), views)


def _output_path(data: Path, output: str | Path | None) -> Path:
    """Decide where the bundle goes, and make sure it can be written before any work is done."""
    target = Path(output) if output else Path.cwd() / f"{data.resolve().name}{SUFFIX}"
    target = target.expanduser()
    if target.suffix != SUFFIX:
        target = target.with_name(target.name + SUFFIX)
    check_writable(target)
    check_writable(_report_path(target))
    return target


def _report_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}-report.html")


def _what_was_understood(catalog: Catalog, extractor: Extractor) -> str:
    counts = ", ".join(
        f"{sum(numbers)} {split}" if split else f"{sum(numbers)}"
        for split, numbers in catalog.counts().items()
    )
    return (
        f"{catalog.root}: {counts} pictures in {len(catalog.classes)} classes "
        f"({_listed(catalog.classes)}).\n"
        f"Backbone {extractor.backbone.name} ({extractor.weights.origin}), "
        f"device {extractor.device}, {extractor.runtime.identity}."
    )


def _readable(
    catalog: Catalog, features: NDArray[np.float16], unreadable: Mapping[int, str]
) -> tuple[Catalog, NDArray[np.float16]]:
    """Set unreadable pictures aside.

    Raises:
        NoReadablePicture.
    """
    if len(unreadable) == len(catalog):
        row, why = next(iter(unreadable.items()))
        raise NoReadablePicture(
            f"Of {len(catalog)} pictures in {catalog.root}, none could be read. The first, "
            f"{catalog.paths[row]}, {why}. Nothing was trained."
        )
    keep = np.ones(len(catalog), dtype=bool)
    keep[list(unreadable)] = False
    return catalog.without(unreadable), features[keep]


def _remembered_sides(target: Path) -> Mapping[bytes, str]:
    """Return the sides that the pictures of the bundle to be replaced were on."""
    try:
        old = open_bundle(target)
        # One that scored nothing had everything on one side: that was no choice to stay true to.
        return old.features.sides() if old.has_features and old.manifest.scores else {}
    except BundleError:
        # There is none, or it cannot be read: then there is nothing to stay true to.
        return {}


def _learn(catalog: Catalog, features: NDArray[np.float16], progress: Progress) -> _Learned:
    """Fit and calibrate the head on every picture but those that score.

    Strength and temperature come from out-of-fold predictions, so `valid` has nothing to decide
    while only the head learns: where there is a test split to score on, it teaches too.
    """
    present = set(catalog.splits.tolist())
    scored_split = next((name for name in ("test", "valid") if name in present), None)
    scored = catalog.splits == (scored_split or "none")
    learned = ~scored
    labels = catalog.labels[learned]
    probe = fit_probe(
        features[learned], labels, catalog.digests[learned], len(catalog.classes), progress
    )
    temperature = fit_temperature(probe.out_of_fold_logits, labels)
    before, after = (
        expected_calibration_error(softmax(probe.out_of_fold_logits, t), labels)
        for t in (1.0, temperature)
    )
    return _Learned(probe, temperature, (before, after), scored_split, learned, scored)


def _score(catalog: Catalog, features: NDArray[np.float16], learned: _Learned) -> Scores | None:
    if learned.scored_split is None:
        return None
    probs = learned.probabilities(features[learned.scored])
    return score(probs, catalog.labels[learned.scored], catalog.classes)


def _write(
    result: TrainResult,
    catalog: Catalog,
    features: NDArray[np.float16],
    learned: _Learned,
    extractor: Extractor,
    keep_features: bool,
) -> None:
    """Write report and bundle, after a last check that the bundle's graph says what was scored."""
    probe = learned.probe
    graph = with_head(extractor.frozen.graph, probe.weight, probe.bias)
    _check_graph(graph, catalog, features, learned, extractor)
    manifest = _manifest(result, catalog, learned, extractor)
    page = _report(result, manifest, catalog, features, learned)
    kept = KeptFeatures(features, catalog.labels, catalog.digests, catalog.splits)
    weights = with_head_weights(
        extractor.frozen.weights, extractor.backbone.head, probe.weight, probe.bias
    )
    write_bundle(result.bundle, manifest, graph, weights, kept if keep_features else None, page)
    write_atomically(result.report, page)


def _check_graph(
    graph: bytes,
    catalog: Catalog,
    features: NDArray[np.float16],
    learned: _Learned,
    extractor: Extractor,
) -> None:
    """Run a few pictures through the finished graph: what was scored is what will run."""
    rows = np.flatnonzero(learned.scored if learned.scored.any() else learned.learned)
    rows = rows[:: max(1, len(rows) // N_CHECKED)][:N_CHECKED]
    read = partial(read_pixels, preprocessing=extractor.backbone.preprocessing)
    pictures = list(decode_many(catalog.paths[rows].tolist(), read))
    # A picture taken away while the run went on is no reason to lose the run.
    there = [not isinstance(picture, UnreadablePicture) for picture in pictures]
    rows = rows[there]
    if not len(rows):
        return
    pixels = (picture for picture in pictures if not isinstance(picture, UnreadablePicture))
    again = np.stack(list(OpenVinoRuntime(graph).run(pixels)))
    difference = np.abs(learned.probabilities(again) - learned.probabilities(features[rows])).max()
    if difference > MAX_DISAGREEMENT:
        raise TellapartError(
            f"The finished classifier gives probabilities that differ by up to {difference:.2f} "
            f"from those that were scored, on {len(rows)} pictures; at most {MAX_DISAGREEMENT} "
            f"was expected. Nothing was written. If pictures changed during the run, train "
            f"again; otherwise clear what is kept with `tellapart cache --clear` and report it."
        )


def _manifest(
    result: TrainResult, catalog: Catalog, learned: _Learned, extractor: Extractor
) -> Manifest:
    chosen = next(point for point in learned.probe.path if point.chosen)
    counts = {
        split: dict(zip(catalog.classes, n, strict=True)) for split, n in catalog.counts().items()
    }
    return Manifest(
        classes=catalog.classes,
        preprocessing=extractor.backbone.preprocessing,
        backbone=extractor.backbone.name,
        backbone_licence=extractor.weights.licence,
        weights_origin=extractor.weights.origin,
        calibration=Calibration(temperature=learned.temperature, fitted_on="out-of-fold"),
        runtime=extractor.runtime.identity,
        recipe={"name": "probe", "learns": "head", "l2": chosen.l2},
        scores=None
        if result.scores is None
        else result.scores.as_dict() | {"accuracy": result.accuracy()},
        data={"pictures": counts, "fingerprint": _fingerprint(catalog)},
        versions={name: version(name) for name in ("tellapart", "openvino", "numpy")},
        made_on=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _fingerprint(catalog: Catalog) -> str:
    """Name the data by its content: pictures, labels and splits, in any order."""
    lines = sorted(
        f"{digest.decode()} {catalog.classes[label]} {split}"
        for digest, label, split in zip(
            catalog.digests, catalog.labels, catalog.splits, strict=True
        )
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _report(
    result: TrainResult,
    manifest: Manifest,
    catalog: Catalog,
    features: NDArray[np.float16],
    learned: _Learned,
) -> str:
    before, after = learned.out_of_fold_ece
    return reports.render(
        reports.Report(
            title=catalog.root.resolve().name,
            made_on=manifest.made_on,
            summary=result.summary,
            classes=catalog.classes,
            counts={split: tuple(n) for split, n in catalog.counts().items()},
            scores=result.scores,
            scored_split=result.scored_split,
            findings=result.findings,
            mistakes=_mistakes(catalog, features, learned),
            probe_path=tuple(
                reports.ProbePoint(point.l2, point.log_loss, point.accuracy, point.chosen)
                for point in learned.probe.path
            ),
            calibration=reports.Calibration(
                learned.temperature, before, after, "out-of-fold training pictures"
            ),
            speed_s=result.seconds,
            pictures_per_s=result.pictures_per_s,
            facts={
                "Backbone": f"{manifest.backbone} ({manifest.weights_origin})",
                "Licence of the weights": manifest.backbone_licence,
                "Device": f"{result.device}, {manifest.runtime}",
                "Recipe": f"head only, L2 strength {manifest.recipe['l2']:.1e}",
                "Versions": ", ".join(f"{k} {v}" for k, v in manifest.versions.items()),
            },
        )
    )


def _mistakes(
    catalog: Catalog, features: NDArray[np.float16], learned: _Learned
) -> tuple[reports.Mistake, ...]:
    if learned.scored_split is None:
        return ()
    rows = np.flatnonzero(learned.scored)
    probs = learned.probabilities(features[rows])
    mistakes = []
    for worst in reports.worst_mistakes(probs, catalog.labels[rows]):
        path = str(catalog.paths[rows[worst]])
        try:
            small = thumbnail(read_file(path), THUMBNAIL_PX)
        except UnreadablePicture:
            # Taken away while the run went on.
            continue
        actual = catalog.classes[catalog.labels[rows[worst]]]
        predicted = catalog.classes[int(probs[worst].argmax())]
        mistakes.append(reports.Mistake(path, actual, predicted, float(probs[worst].max()), small))
    return tuple(mistakes)


def _summary(catalog: Catalog, learned: _Learned, scores: Scores | None) -> tuple[str, ...]:
    """Say in words what was reached and how sure that is."""
    n = int(learned.learned.sum())
    lines = [f"Learned {len(catalog.classes)} classes from {n} pictures."]
    if scores is None:
        return (*lines, "Everything was used for learning, so nothing was scored.")
    reached = scores.accuracy
    wrong = scores.n - int(scores.confusion.trace())
    lines.append(
        f"Right on {reports.percent(reached.value)} of {scores.n} {learned.scored_split} pictures "
        f"it never learned from ({wrong} wrong); between {reports.percent(reached.low)} and "
        f"{reports.percent(reached.high)} can be expected on pictures like these."
    )
    if learned.scored_split == "valid":
        lines.append(
            "There is no test split. This run chose nothing on the valid pictures, but if you "
            "choose between runs by this score, it becomes too hopeful."
        )
    return tuple(lines)


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f", … {more} more" if more > 0 else "")
