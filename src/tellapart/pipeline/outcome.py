"""What a training gave, in numbers and in words: result, manifest, report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.bundle.manifest import Calibration, Manifest
from tellapart.data.catalog import SPLITS, Catalog
from tellapart.data.columns import taken
from tellapart.data.inspection import Finding, inspect_files
from tellapart.evaluation import report as reports
from tellapart.evaluation.calibration import Reliability, fit_temperature, reliability, softmax
from tellapart.evaluation.curves import CurvePoint
from tellapart.evaluation.decision import Decisions, Rules, decide, fit_rules, in_words
from tellapart.evaluation.familiarity import Familiar, fit_familiar, held_out_similarity
from tellapart.evaluation.scores import Interval, Scores, interval, score
from tellapart.pipeline.gallery import (
    Judged,
    answered,
    gather_suspects,
    labels_in_words,
    open_maps,
    with_pictures,
)
from tellapart.pipeline.inputs import FOLDS, report_path
from tellapart.training.history import PhaseRecord
from tellapart.training.phases import Learned, Material
from tellapart.training.probe import assign_folds

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FoldScores:
    """Accuracy of each fold on the pictures that it held out; `stood`: phase -> folds that kept it.

    mean, sd: over the folds, each counting the same; sd with n - 1.
    """

    accuracies: tuple[float, ...]
    stood: Mapping[int, int]

    @property
    def mean(self) -> float:
        """The mean over the folds."""
        return float(np.mean(self.accuracies))

    @property
    def sd(self) -> float:
        """The standard deviation over the folds."""
        return float(np.std(self.accuracies, ddof=1))

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON types."""
        return {
            "n": len(self.accuracies),
            "mean": self.mean,
            "sd": self.sd,
            "accuracies": list(self.accuracies),
        }


@dataclass(frozen=True)
class Leaked:
    """Pictures of the scored split that lie in another one as well, left out of every score.

    n: how many. accuracy: what it would have been with them.
    """

    n: int
    accuracy: Interval

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON types."""
        return {"n": self.n, "accuracy_with": asdict(self.accuracy)}


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
    recipe: str
    phases: tuple[PhaseRecord, ...]
    findings: tuple[Finding, ...]
    summary: tuple[str, ...]
    folds: FoldScores | None = None
    leaked: Leaked | None = None

    def accuracy(self) -> dict[str, Any] | None:
        """Return accuracy with its 95 % interval, and which split it was measured on.

        `selected_on` is true where that split is `valid`, which is there to choose by. Where folds
        scored, the split is "folds": all pictures, each judged by the fold that held it out.
        """
        if self.scores is None:
            return None
        interval = asdict(self.scores.accuracy)
        folds = {} if self.folds is None else {"folds": self.folds.as_dict()}
        return interval | {
            "split": self.scored_split,
            "selected_on": self.scored_split == "valid",
            **folds,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return {
            "bundle": str(self.bundle),
            "report": str(self.report),
            "classes": list(self.classes),
            **{f"n_{split}": self.counts.get(split, 0) for split in SPLITS},
            "accuracy": self.accuracy(),
            "log_loss": None if self.scores is None else self.scores.log_loss,
            "leaked": None if self.leaked is None else self.leaked.as_dict(),
            "backbone": self.backbone,
            "device": self.device,
            "recipe": self.recipe,
            "phases": [asdict(phase) for phase in self.phases],
            "seconds": dict(self.seconds),
            "pictures_per_s": self.pictures_per_s,
            "n_computed": self.n_computed,
            "findings": [
                {"kind": found.kind, "count": found.count, "headline": found.headline}
                for found in self.findings
            ],
        }


FittedOn = Literal["out-of-fold", "valid", "nothing"]
# As many parts as say how usual pictures look that did not place their own class.
N_PARTS = 3


@dataclass(frozen=True, eq=False)
class Folded:
    """What classifiers said of the pictures that they did not learn from, one for each fold.

    fold: (N,) the one that held a picture out. raw, probs: (N, K) without and with the temperature
    of that fold; decisions: by its rules. stood: phase -> how many folds kept it.
    """

    fold: NDArray[np.int64]
    raw: Floats
    probs: Floats
    decisions: Decisions
    stood: Mapping[int, int]

    def scores(self, labels: NDArray[np.int64]) -> FoldScores:
        """Score each fold against the labels (N,)."""
        right = self.probs.argmax(axis=1) == labels
        numbers = range(int(self.fold.max()) + 1)
        shares = tuple(float(right[self.fold == number].mean()) for number in numbers)
        return FoldScores(shares, self.stood)


@dataclass(frozen=True, eq=False)
class Judgement:
    """A classifier with its temperature and its rules, and how it did.

    features: (N, D) float16 of the catalog's pictures in the final network. scored: (N,) the
    rows that score, without those that leaked. folded: where folds scored, what they said; all
    else is of the classifier that learned from all. fitted_on: the pictures that temperature and
    rules were fitted on.
    familiar: what tells pictures of no class; None where there was nothing to fit it on.
    before, after: reliability without and with the temperature, on the pictures that score, or
    else on those it was fitted on; None where there were none.
    """

    learned: Learned
    features: NDArray[np.float16]
    temperature: float
    rules: Rules
    familiar: Familiar | None
    fitted_on: FittedOn
    before: Reliability | None
    after: Reliability | None
    scored_split: str | None
    scored: NDArray[np.bool_]
    scores: Scores | None
    folded: Folded | None = None
    leaked: Leaked | None = None

    @property
    def reliability(self) -> tuple[Reliability, Reliability] | None:
        """Reliability without and with the temperature, where both are known."""
        if self.before is None or self.after is None:
            return None
        return self.before, self.after

    def probabilities(self, features: NDArray[np.float16]) -> Floats:
        """Turn (N, D) features into calibrated probabilities (N, K)."""
        return softmax(self.learned.logits(features), self.temperature)

    def decide(self, features: NDArray[np.float16], probs: Floats) -> Decisions:
        """Decide about pictures of these features (N, D) and probabilities (N, K)."""
        strange = None if self.familiar is None else self.familiar.strangeness(features, probs)
        return decide(probs, strange, self.rules)

    @cached_property
    def of_scored(self) -> tuple[Floats, Decisions]:
        """Probabilities (N, K) and decisions of the pictures that score.

        Telling strangers takes seconds on thousands of pictures, so that is done once.
        """
        if self.folded is not None:
            return self.folded.probs, self.folded.decisions
        features = taken(self.features, self.scored)
        probs = self.probabilities(features)
        return probs, self.decide(features, probs)


def judge_classifier(
    material: Material, learned: Learned, folded: Folded | None = None
) -> Judgement:
    """Calibrate, choose the rules, and score what was learned.

    While only the head was solved for, temperature and rules come from out-of-fold predictions;
    once more has learned, from valid. folded: what scores instead of a split.
    """
    catalog, recipe = material.catalog, material.recipe
    features = material.features if learned.tuned is None else learned.tuned.features
    fitted_on, rows, logits = _to_fit_on(material, learned, features)
    labels = catalog.labels[rows]
    temperature = fit_temperature(logits, labels) if len(rows) else 1.0
    probs = softmax(logits, temperature)
    familiar, strangeness = None, None
    if len(rows):
        familiar, similarity = _placed(material, learned, features, rows)
        familiar = familiar.with_usual(probs.max(axis=1), similarity)
        strangeness = familiar.strangeness_of(probs.max(axis=1), similarity)
    scored = _scored(material, folded)
    raw, probs_scored = softmax(logits), probs
    if folded is not None:
        labels, raw, probs_scored = catalog.labels, folded.raw, folded.probs
    elif scored.any():
        logits, labels = learned.logits(taken(features, scored)), catalog.labels[scored]
        raw, probs_scored = softmax(logits), softmax(logits, temperature)
    scores = score(probs_scored, labels, catalog.classes) if scored.any() else None
    before, after = (
        reliability(found, labels) if len(labels) else None for found in (raw, probs_scored)
    )
    return Judgement(
        learned=learned,
        features=features,
        temperature=temperature,
        rules=fit_rules(probs, catalog.labels[rows], strangeness, recipe.accept, recipe.level),
        familiar=familiar,
        fitted_on=fitted_on,
        before=before,
        after=after,
        scored_split=FOLDS if folded is not None else material.scored_split,
        scored=scored,
        scores=scores,
        folded=folded,
        leaked=_leaked(material, learned, features),
    )


def _scored(material: Material, folded: Folded | None) -> NDArray[np.bool_]:
    """Say which pictures (N,) score."""
    catalog = material.catalog
    if folded is not None:
        return np.ones(len(catalog), dtype=bool)
    return np.asarray(catalog.splits == (material.scored_split or "none")) & ~material.leaked


def _leaked(material: Material, learned: Learned, features: NDArray[np.float16]) -> Leaked | None:
    """Score what has leaked into the scored split along with the rest of it."""
    catalog = material.catalog
    rows = np.flatnonzero(catalog.splits == (material.scored_split or "none"))
    n = int(material.leaked[rows].sum())
    if not n:
        return None
    right = learned.logits(taken(features, rows)).argmax(axis=1) == catalog.labels[rows]
    return Leaked(n, interval(int(right.sum()), len(rows)))


def _to_fit_on(
    material: Material, learned: Learned, features: NDArray[np.float16]
) -> tuple[FittedOn, NDArray[np.int64], Floats]:
    """Choose the pictures that calibration may look at: their rows, and logits not learned on."""
    valid = material.rows("valid")
    if learned.probe is not None:
        return "out-of-fold", np.flatnonzero(learned.taught), learned.probe.out_of_fold_logits
    if len(valid):
        return "valid", valid, learned.logits(taken(features, valid))
    return "nothing", valid, np.zeros((0, len(material.catalog.classes)), dtype=np.float32)


def _placed(
    material: Material,
    learned: Learned,
    features: NDArray[np.float16],
    rows: NDArray[np.int64],
) -> tuple[Familiar, Floats]:
    """Place the classes, and return the similarity of the rows, which did not help with it."""
    catalog, taught = material.catalog, learned.taught
    n_classes = len(catalog.classes)
    placed = fit_familiar(taken(features, taught), catalog.labels[taught], n_classes)
    if not taught[rows].any():
        return placed, placed.similarity(taken(features, rows))
    folds = assign_folds(catalog.labels[rows], catalog.units[rows], N_PARTS)
    return placed, held_out_similarity(
        taken(features, rows), catalog.labels[rows], folds, n_classes
    )


def make_result(
    material: Material,
    judgement: Judgement,
    target: Path,
    n_computed: int,
    notes: tuple[str, ...],
) -> TrainResult:
    """Put the result of a training together."""
    catalog, progress = material.catalog, material.progress
    return TrainResult(
        bundle=target,
        report=report_path(target),
        classes=catalog.classes,
        counts={name: int((catalog.splits == name).sum()) for name in SPLITS},
        scores=judgement.scores,
        scored_split=judgement.scored_split,
        backbone=material.extractor.name,
        device=material.device,
        recipe=material.recipe.name,
        phases=tuple(material.history.phases),
        seconds=dict(progress.seconds),
        pictures_per_s=round(len(catalog) / progress.seconds["features"], 1),
        n_computed=n_computed,
        findings=inspect_files(catalog),
        summary=(*_summary(material, judgement), *notes, *judgement.learned.notes),
        folds=judgement.folded.scores(catalog.labels) if judgement.folded is not None else None,
        leaked=judgement.leaked,
    )


def make_manifest(result: TrainResult, material: Material, judgement: Judgement) -> Manifest:
    """Write down every fact of the classifier that is not an array."""
    catalog, extractor = material.catalog, material.extractor
    counts = {
        split: dict(zip(catalog.classes, n, strict=True)) for split, n in catalog.counts().items()
    }
    return Manifest(
        classes=catalog.classes,
        display_names=dict(catalog.display_names),
        preprocessing=extractor.preprocessing,
        backbone=extractor.name,
        backbone_licence=material.weights.licence,
        weights_origin=material.weights.origin,
        calibration=Calibration(
            temperature=judgement.temperature,
            fitted_on=judgement.fitted_on,
            rules=judgement.rules,
        ),
        runtime=extractor.runtime.identity,
        recipe=material.recipe.facts() | {"done": [asdict(phase) for phase in result.phases]},
        scores=None
        if result.scores is None
        else result.scores.as_dict()
        | {"accuracy": result.accuracy()}
        | ({} if result.leaked is None else {"leaked": result.leaked.as_dict()}),
        data={"pictures": counts, "fingerprint": fingerprint(catalog)},
        versions={name: version(name) for name in ("tellapart", "openvino", "numpy")},
        made_on=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def fingerprint(catalog: Catalog) -> str:
    """Name the data by its content: pictures, labels and splits, in any order."""
    lines = sorted(
        f"{digest.decode()} {catalog.classes[label]} {split}"
        for digest, label, split in zip(
            catalog.digests, catalog.labels, catalog.splits, strict=True
        )
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def make_report(
    result: TrainResult, manifest: Manifest, material: Material, judgement: Judgement, graph: bytes
) -> str:
    """Draw the page that shows how the training went. graph: the finished one, with its head."""
    catalog, probe = material.catalog, judgement.learned.probe
    judged = _judged(catalog, judgement)
    suspects, n_suspects = _suspects(catalog, judgement)
    page = reports.Report(
        title=catalog.name,
        made_on=manifest.made_on,
        summary=(*result.summary, *labels_in_words(n_suspects)),
        classes=catalog.shown,
        counts={split: tuple(n) for split, n in catalog.counts().items()},
        scores=result.scores.renamed(catalog.shown) if result.scores else None,
        scored_split=_scored_on(result),
        findings=result.findings,
        probe_path=tuple(
            reports.ProbePoint(point.l2, point.log_loss, point.accuracy, point.chosen)
            for point in (probe.path if probe else ())
        ),
        phases=_phase_rows(result),
        curves=_curves(material),
        calibration=_calibration(judgement),
        speed_s=result.seconds,
        pictures_per_s=result.pictures_per_s,
        facts=made_with(manifest) | {"Device": f"{result.device}, {manifest.runtime}"},
        suspects=suspects,
        n_suspects=n_suspects,
        reliability=judgement.reliability,
    )
    if judged is not None:
        flip = material.recipe.flip_at_test
        maps = open_maps(graph, manifest.backbone, flip, manifest.preprocessing)
        page = with_pictures(page, judged, maps, answered(judged, judgement.rules))
    return reports.render(page)


def _scored_on(result: TrainResult) -> str | None:
    if result.folds is not None:
        return f"{len(result.folds.accuracies)} folds"
    return result.scored_split


def made_with(manifest: Manifest) -> dict[str, str]:
    """Return what a classifier was made with, as the report lists it."""
    return {
        "Backbone": f"{manifest.backbone} ({manifest.weights_origin})",
        "Licence of the weights": manifest.backbone_licence,
        "Recipe": str(manifest.recipe.get("name", "unknown")),
        "Versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    }


def _calibration(judgement: Judgement) -> reports.Calibration | None:
    if judgement.reliability is None:
        return None
    before, after = judgement.reliability
    where = "out-of-fold training" if judgement.fitted_on == "out-of-fold" else "valid"
    return reports.Calibration(
        judgement.temperature,
        before.error,
        after.error,
        "pictures in folds" if judgement.folded else f"{judgement.scored_split or where} pictures",
    )


def _phase_rows(result: TrainResult) -> tuple[reports.PhaseRow, ...]:
    return tuple(
        reports.PhaseRow(one.learns, one.kept, one.reason, one.best_epoch, one.seconds)
        for one in result.phases
    )


def _curves(material: Material) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(
            one.phase,
            one.epoch,
            one.train_loss,
            one.train_accuracy,
            one.valid_loss,
            one.valid_accuracy,
            one.lr,
        )
        for one in material.history.epochs
    )


def _judged(catalog: Catalog, judgement: Judgement) -> Judged | None:
    rows = np.flatnonzero(judgement.scored)
    if not len(rows):
        return None
    probs, decisions = judgement.of_scored
    return Judged(
        paths=[str(path) for path in catalog.paths[rows]],
        labels=catalog.labels[rows],
        probs=probs,
        classes=catalog.shown,
        decisions=decisions,
        root=catalog.root,
    )


def _suspects(catalog: Catalog, judgement: Judgement) -> tuple[tuple[reports.Suspect, ...], int]:
    """Look for wrong labels among all pictures that were judged by what did not learn from them."""
    rows = np.flatnonzero(judgement.scored)
    probs, _ = judgement.of_scored
    probe = judgement.learned.probe
    if probe is not None and judgement.folded is None:
        rows = np.concatenate([rows, np.flatnonzero(judgement.learned.taught)])
        out_of_fold = softmax(probe.out_of_fold_logits, judgement.temperature)
        probs = np.concatenate([probs, out_of_fold])
    paths, splits = catalog.paths[rows].tolist(), catalog.splits[rows].tolist()
    return gather_suspects(paths, splits, catalog.labels[rows], probs, catalog.shown, catalog.root)


def _summary(material: Material, judgement: Judgement) -> tuple[str, ...]:
    """Say in words what was reached and how sure that is."""
    n, scores = int(judgement.learned.taught.sum()), judgement.scores
    learned = f"Learned {len(material.catalog.classes)} classes from {n} pictures."
    if scores is None:
        lines = _nothing_scored(judgement)
    elif judgement.folded is not None:
        lines = _in_folds(material, judgement.folded, scores)
    else:
        lines = _on_split(material, judgement, scores)
    return (learned, *lines, in_words(judgement.rules))


def _nothing_scored(judgement: Judgement) -> list[str]:
    if judgement.leaked is None:
        return ["Everything was used for learning, so nothing was scored."]
    return [
        f"Nothing was scored: each of the {judgement.leaked.n} {judgement.scored_split} pictures "
        f"is a copy of one in another split, and being right on these says nothing."
    ]


def _in_folds(material: Material, folded: Folded, scores: Scores) -> list[str]:
    """Say how the folds scored, how far they lie apart, and what that is the score of."""
    found, reached = folded.scores(material.catalog.labels), scores.accuracy
    n, wrong = len(found.accuracies), scores.n - int(scores.confusion.trace())
    share = reports.percent
    lines = [
        f"Right on {share(reached.value)} of {scores.n} pictures in {n} folds ({wrong} wrong), "
        f"each judged by a classifier that did not learn from it: mean of the folds "
        f"{share(found.mean)}, standard deviation {share(found.sd)}, from "
        f"{share(min(found.accuracies))} to {share(max(found.accuracies))}; between "
        f"{share(reached.low)} and {share(reached.high)} can be expected on pictures like these.",
        f"The classifier that was written was not scored itself: it learned like those of the "
        f"folds, from more pictures. {_nobody_chose(material)}",
    ]
    lines += [
        f"Phase {phase} was kept in {kept} of {n} folds."
        for phase, kept in sorted(found.stood.items())
        if not material.recipe.phases[phase - 1].solved
    ]
    return lines


def _nobody_chose(material: Material) -> str:
    if material.recipe.probe_only:
        return "Nothing was chosen on pictures that scored."
    n_valid = len(material.rows("valid"))
    return f"Nothing was chosen on pictures that scored; {n_valid} valid ones chose its phases."


def _on_split(material: Material, judgement: Judgement, scores: Scores) -> list[str]:
    """Say what was reached on the split that scored, and what it cannot be taken for."""
    reached, split = scores.accuracy, judgement.scored_split
    wrong = scores.n - int(scores.confusion.trace())
    lines = [
        f"Right on {reports.percent(reached.value)} of {scores.n} {split} "
        f"pictures it never learned from ({wrong} wrong); between {reports.percent(reached.low)} "
        f"and {reports.percent(reached.high)} can be expected on pictures like these."
    ]
    if judgement.leaked is not None:
        n, those = judgement.leaked.n, judgement.leaked.accuracy
        are = "picture is a copy of one" if n == 1 else "pictures are copies of some"
        lines.append(
            f"{n} more {split} {are} in another split, and left out of the scores; with "
            f"{'it' if n == 1 else 'them'}, it is right on {reports.percent(those.value)} of "
            f"{those.n}."
        )
    if split == "valid" and material.recipe.probe_only:
        lines.append(
            "There is no test split. This run chose nothing on the valid pictures, but if you "
            "choose between runs by this score, it becomes too hopeful."
        )
    elif split == "valid":
        lines.append(
            "There is no test split. Phases and epochs were chosen on the same valid pictures, so "
            "this score is a little too hopeful; a test folder would give an honest one."
        )
    return lines
