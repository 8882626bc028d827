"""Learning again from corrections: a bundle's features and some new pictures -> the next bundle.

Needs no torch: the head alone learns, on features of the network that is in the bundle already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tellapart import stores
from tellapart.backbones.frozen import FrozenBackbone
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import Weights
from tellapart.bundle.bundle import SUFFIX, Bundle, open_bundle
from tellapart.bundle.manifest import Manifest
from tellapart.data.catalog import SetAside
from tellapart.data.reading import AnyData
from tellapart.data.stored import kept_copies
from tellapart.errors import NothingToLearnOn, NotWritable
from tellapart.evaluation.calibration import fit_temperature, softmax
from tellapart.evaluation.comparison import (
    Difference,
    LossDifference,
    paired_difference,
    paired_loss,
)
from tellapart.evaluation.report import percent
from tellapart.evaluation.scores import Interval, interval
from tellapart.files import check_writable, is_file, read_bytes, write_atomically
from tellapart.pipeline.corrections import Corrected, add_corrections
from tellapart.pipeline.inputs import head_of, report_path
from tellapart.pipeline.outcome import (
    Judgement,
    TrainResult,
    judge_classifier,
    make_manifest,
    make_result,
)
from tellapart.pipeline.training import write
from tellapart.pipeline.unlabelled import open_eyes
from tellapart.progress import Progress
from tellapart.stores import Address, place
from tellapart.training.history import History, PhaseRecord
from tellapart.training.phases import Learned, Material
from tellapart.training.probe import assign_folds, fit_probe, move_head
from tellapart.training.recipe import Recipe, load_recipe

Floats = NDArray[np.float32]

# How much fewer may be right on held-out pictures, as a share of them, before that alone says no;
# a single picture never does. And how much more, of what it was, the log loss may be.
FEWER_RIGHT, MORE_LOSS = 0.01, 0.02
# Heads that judge corrections that they did not learn from, where it is not done anyway.
N_FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """Old and new classifier on the same pictures of the old one's classes, that taught neither.

    split: which; "out-of-fold" where there is none: then both are judged by heads that did not
    learn from the picture, and the old one by heads without the corrections.
    """

    split: str
    n: int
    before: Interval
    after: Interval
    difference: Difference
    log_loss: LossDifference

    @property
    def worse(self) -> str | None:
        """Why the new one counts as worse; None where it does not."""
        apart, loss = self.difference, self.log_loss
        fewer = apart.only_first - apart.only_second
        if apart.high < 0:
            return "fewer are right, which chance alone does not explain"
        if fewer > max(1, FEWER_RIGHT * self.n):
            return f"{fewer} fewer are right, more than one in {1 / FEWER_RIGHT:.0f}"
        if loss.low > 0 and loss.value > MORE_LOSS * loss.first:
            return "its probabilities fit less, which chance alone does not explain"
        return None


@dataclass(frozen=True)
class OnCorrections:
    """How many corrections each has right; the new one by heads that did not learn from them.

    They came about because the old one was wrong or unsure, so this flatters the new one, and does
    not decide. n_new: of classes that the old one cannot know; after_new: of these, how many right.
    """

    n: int
    before: int
    after: int
    n_new: int
    after_new: int


@dataclass(frozen=True)
class Relearned:
    """What learning again gave. `as_dict` is what `learn --json` prints.

    taken: whether it is not worse, or was taken all the same; reason: in a sentence. previous:
    where the one before lies, None where nothing was replaced. n_known: corrections that taught or
    scored with this label before.
    """

    bundle: Path
    report: Path
    previous: Path | None
    taken: bool
    written: bool
    reason: str
    classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    n_corrections: int
    n_known: int
    n_relabelled: int
    held_out: HeldOut | None
    corrections: OnCorrections
    left: tuple[SetAside, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        paths = {"bundle": str(self.bundle), "report": str(self.report)}
        previous = None if self.previous is None else str(self.previous)
        return asdict(self) | paths | {"previous": previous}


@kept_copies()
def learn_again(
    model: str | Path,
    data: AnyData,
    output: str | Path | None = None,
    *,
    relabel: bool = False,
    even_if_worse: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Relearned:
    """Learn from corrections on the features that a classifier carries, and write the next one.

    data: labelled pictures of any kind, such as the folder that `serve --reviews` fills.
    output: by default in place of the old one, which is kept beside it as `.previous`.
    relabel: take the word of corrections about pictures that taught under another label.
    even_if_worse: write it though `HeldOut.worse` says no. dry_run: write nothing.

    Raises:
        NothingToLearnOn: the bundle carries no features. BadCorrections: with all that is wrong.
        TellapartError: as reading labelled pictures, and writing, do.
    """
    progress = replace(progress or Progress(), seconds={})
    with progress.stage("total"):
        bundle = open_bundle(model)
        target = _target(bundle, output, dry_run)
        _check_features(bundle)
        stamp = _stamp(bundle.path)
        with progress.stage("features"):
            found = add_corrections(bundle, data, relabel, progress)
        if not len(found.corrections):
            return _nothing_new(bundle, target, found)
        material = _material(bundle, found, progress)
        with progress.stage("fit"):
            learned, cross = _learn(bundle, material, found)
        with progress.stage("score"):
            judgement = judge_classifier(material, learned)
            held_out = _held_out(bundle, material, judgement, found)
        taken, reason = _verdict(held_out, even_if_worse)
        result = _result(bundle, material, judgement, found, held_out, target)
        previous = None
        if taken and not dry_run:
            with progress.stage("write"):
                previous = _switch(bundle, result, material, judgement, found, stamp)
    return replace(
        _nothing_new(bundle, target, found),
        previous=previous,
        taken=taken,
        written=taken and not dry_run,
        reason=reason,
        held_out=held_out,
        corrections=_on_corrections(bundle, found, cross),
        notes=_notes(bundle),
        seconds={name: round(value, 3) for name, value in progress.seconds.items()},
    )


def _nothing_new(bundle: Bundle, target: Path, found: Corrected) -> Relearned:
    return Relearned(
        bundle=target,
        report=report_path(target),
        previous=None,
        taken=False,
        written=False,
        reason="There is nothing new to learn: all of it taught or scored before.",
        classes=found.catalog.classes,
        new_classes=found.new_classes,
        n_corrections=len(found.corrections),
        n_known=found.n_known,
        n_relabelled=found.n_relabelled,
        held_out=None,
        corrections=OnCorrections(0, 0, 0, 0, 0),
        left=found.catalog.set_aside,
        notes=(),
        seconds={},
    )


def undo_learning(model: str | Path) -> Path:
    """Put the classifier before the last learning back; what it replaces becomes `.previous`.

    Raises:
        NothingToLearnOn: there is none. BundleDamaged: it is no whole classifier.
    """
    path = place(model)
    before = previous_path(path)
    if not is_file(before):
        raise NothingToLearnOn(
            f"{before} does not exist, so there is nothing to go back to. Expected was the "
            f"classifier that `tellapart learn` kept when it replaced {path}. Nothing was changed."
        )
    page = open_bundle(before).report
    old, new = read_bytes(before), read_bytes(path) if is_file(path) else None
    write_atomically(path, old)
    write_atomically(report_path(path), page)
    if new is not None:
        write_atomically(before, new)
    return path


def previous_path(path: Path) -> Path:
    """Return where the classifier lies that one at this path replaced."""
    return path.with_name(f"{path.name}.previous")


def _target(bundle: Bundle, output: str | Path | None, dry_run: bool) -> Path:
    target = place(output) if output else bundle.path
    if target.suffix != SUFFIX:
        target = target.with_name(target.name + SUFFIX)
    if not dry_run:
        for path in (target, report_path(target)):
            check_writable(path)
    return target


def _check_features(bundle: Bundle) -> None:
    if bundle.has_features:
        return
    raise NothingToLearnOn(
        f"{bundle.path} carries no features of the pictures it learned from; learning again in "
        f"seconds stands on these. Nothing was learned. Train it again without --no-features; or "
        f"put the corrections among its pictures and go on from it with: tellapart train FOLDER "
        f"--from {bundle.path.name}"
    )


def _material(bundle: Bundle, found: Corrected, progress: Progress) -> Material:
    manifest = bundle.manifest
    return Material(
        catalog=found.catalog,
        features=found.features,
        recipe=_recipe(manifest),
        extractor=open_eyes(bundle=bundle),
        weights=Weights(
            bundle.path,
            manifest.sha256["weights.safetensors"],
            manifest.weights_origin,
            manifest.backbone_licence,
        ),
        device="cpu",
        progress=progress,
        history=History(None, progress),
        at_hand=np.flatnonzero(~found.old),
    )


def _recipe(manifest: Manifest) -> Recipe:
    """Return the recipe of a classifier, without folds, for what it says about its scores."""
    rules = manifest.calibration.rules
    facts = {name: manifest.recipe[name] for name in Recipe.model_fields if name in manifest.recipe}
    try:
        recipe = Recipe.model_validate(facts)
    except ValidationError:
        # One of an earlier or later version, whose settings are none of ours.
        recipe = load_recipe("fast", {"backbone": manifest.backbone})
    data = recipe.data.model_copy(update={"folds": None, "keep_features": True})
    own = {"data": data, "accept": rules.accept, "level": rules.level}
    return recipe.model_copy(update=own)


def _network_learned(bundle: Bundle) -> bool:
    """Whether more than the head has learned, so that its features know the pictures that taught.

    Only then temperature and rules could not be fitted on out-of-fold predictions.
    """
    return bundle.manifest.calibration.fitted_on != "out-of-fold"


def _learn(bundle: Bundle, material: Material, found: Corrected) -> tuple[Learned, Floats]:
    """Return the head, and logits (M, K) of the corrections by heads that did not learn from them.

    Where the head alone has learned, it is solved for anew, as `train` would; where the network
    has, the old head is moved.
    """
    start = time.monotonic()
    catalog, features = material.catalog, material.features
    n_classes = len(catalog.classes)
    taught = np.asarray(catalog.splits != (material.scored_split or "none"))
    if _network_learned(bundle):
        taught = np.asarray(catalog.splits == "train")
        head = head_of(bundle, catalog.classes)
        weight, bias = move_head(features[taught], catalog.labels[taught], head)
        cross = _moved_without(material, found, taught, head)
        learned = Learned(weight, bias, None, None, taught, None, ())
        how = "the old head moved"
    else:
        probe = fit_probe(
            features[taught],
            catalog.labels[taught],
            catalog.units[taught],
            n_classes,
            material.progress,
        )
        row_of = np.cumsum(taught) - 1
        cross = probe.out_of_fold_logits[row_of[found.corrections]]
        learned = Learned(probe.weight, probe.bias, probe, None, taught, None, ())
        how = "solved for anew"
    seconds = round(time.monotonic() - start, 3)
    material.history.phase(PhaseRecord(1, "head", True, how, None, seconds))
    return learned, cross


def _moved_without(
    material: Material, found: Corrected, taught: NDArray[np.bool_], head: tuple[Floats, Floats]
) -> Floats:
    """Return logits (M, K) of the corrections, each by a head moved without it."""
    catalog, features, rows = material.catalog, material.features, found.corrections
    logits = np.zeros((len(rows), len(catalog.classes)), dtype=np.float32)
    if not len(rows):
        return logits
    folds = assign_folds(catalog.labels[rows], catalog.units[rows], N_FOLDS)
    for fold in np.unique(folds):
        teaches = taught.copy()
        teaches[rows[folds == fold]] = False
        weight, bias = move_head(features[teaches], catalog.labels[teaches], head)
        logits[folds == fold] = features[rows[folds == fold]].astype(np.float32) @ weight.T + bias
    return logits


def _held_out(
    bundle: Bundle, material: Material, judgement: Judgement, found: Corrected
) -> HeldOut | None:
    """Compare old and new on pictures that taught neither; None where there are none.

    Pictures of classes that the old one does not know are left out.
    """
    catalog = material.catalog
    known = ~np.isin(np.array(catalog.classes)[catalog.labels], found.new_classes)
    rows = np.flatnonzero(judgement.scored & known)
    split = judgement.scored_split
    if len(rows) and split is not None:
        new = judgement.probabilities(material.features[rows])
        old = _old_probabilities(bundle, material.features[rows], catalog.classes)
    elif judgement.learned.probe is not None:
        rows, split = np.flatnonzero(found.old & known), "out-of-fold"
        row_of = np.cumsum(judgement.learned.taught) - 1
        logits = judgement.learned.probe.out_of_fold_logits[row_of[rows]]
        new = softmax(logits, judgement.temperature)
        old = _old_out_of_fold(material, found)[known[found.old]]
    else:
        return None
    labels = catalog.labels[rows]
    right = [probs.argmax(axis=1) == labels for probs in (old, new)]
    return HeldOut(
        split=split,
        n=len(rows),
        before=interval(int(right[0].sum()), len(rows)),
        after=interval(int(right[1].sum()), len(rows)),
        difference=paired_difference(right[0], right[1]),
        log_loss=paired_loss(old, new, labels),
    )


def _old_probabilities(
    bundle: Bundle, features: NDArray[np.float16], classes: tuple[str, ...]
) -> Floats:
    """Return what the old one says (N, K) of features, 0 for classes that it does not know."""
    manifest = bundle.manifest
    weight, bias = head_of(bundle, manifest.classes)
    logits = features.astype(np.float32) @ weight.T + bias
    probs = np.zeros((len(features), len(classes)), dtype=np.float32)
    column = [classes.index(name) for name in manifest.classes]
    probs[:, column] = softmax(logits, manifest.calibration.temperature)
    return probs


def _old_out_of_fold(material: Material, found: Corrected) -> Floats:
    """Return what heads that learned without the corrections say of pictures they did not see."""
    catalog, old = material.catalog, found.old
    labels, n_classes = found.old_labels, len(catalog.classes)
    probe = fit_probe(material.features[old], labels, catalog.units[old], n_classes)
    return softmax(probe.out_of_fold_logits, fit_temperature(probe.out_of_fold_logits, labels))


def _on_corrections(bundle: Bundle, found: Corrected, cross: Floats) -> OnCorrections:
    catalog, rows = found.catalog, found.corrections
    labels = catalog.labels[rows]
    old = _old_probabilities(bundle, found.features[rows], catalog.classes)
    new_class = np.isin(np.array(catalog.classes)[labels], found.new_classes)
    after = cross.argmax(axis=1) == labels
    return OnCorrections(
        n=len(rows),
        before=int((old.argmax(axis=1) == labels).sum()),
        after=int(after.sum()),
        n_new=int(new_class.sum()),
        after_new=int((after & new_class).sum()),
    )


def _verdict(held_out: HeldOut | None, anyway: bool) -> tuple[bool, str]:
    """Say whether the new one is taken, and why."""
    if held_out is None:
        why = "no picture was held out, so that nothing shows that it is not worse"
    elif held_out.worse:
        why = f"on {held_out.n} {_where(held_out)} {held_out.worse}"
    else:
        return True, f"It is not worse on {held_out.n} {_where(held_out)}."
    if anyway:
        return True, f"Taken all the same: {why}."
    return False, f"Not taken: {why}."


def _where(held_out: HeldOut) -> str:
    if held_out.split == "out-of-fold":
        return "pictures, each judged by heads that did not learn from it,"
    return f"{held_out.split} pictures that taught neither"


def learning_in_words(held_out: HeldOut | None, told: OnCorrections) -> tuple[str, ...]:
    """Say how old and new compare, on what was held out and on the corrections."""
    lines = []
    if held_out is not None:
        apart, loss = held_out.difference, held_out.log_loss
        lines.append(
            f"On {held_out.n} {_where(held_out)}: {percent(held_out.before.value)} were right, "
            f"{percent(held_out.after.value)} are now ({apart.value:+.2%}, 95 % interval "
            f"{apart.low:+.2%} to {apart.high:+.2%}; {apart.only_second} gained, "
            f"{apart.only_first} lost); log loss {loss.first:.4f}, now {loss.second:.4f}."
        )
    if told.n:
        of_new = (
            f"; {told.after_new} of the {told.n_new} of new classes, which the old one cannot know"
            if told.n_new
            else ""
        )
        lines.append(
            f"Of {told.n} corrections the old one has {told.before} right, the new one {told.after}"
            f", each judged without it{of_new}."
        )
    return tuple(lines)


def _result(
    bundle: Bundle,
    material: Material,
    judgement: Judgement,
    found: Corrected,
    held_out: HeldOut | None,
    target: Path,
) -> TrainResult:
    """Put together what the report and the manifest say, as after a training."""
    result = make_result(material, judgement, target, found.n_computed, ())
    seconds = material.progress.seconds["features"]
    lines = (
        *result.summary,
        f"Learned again from {bundle.path.name} with {len(found.corrections)} corrections.",
        *learning_in_words(held_out, OnCorrections(0, 0, 0, 0, 0)),
        "Pictures from before are known by their features alone, and are not shown.",
    )
    return replace(
        result, summary=lines, pictures_per_s=round(found.n_computed / max(seconds, 1e-3), 1)
    )


def _switch(
    bundle: Bundle,
    result: TrainResult,
    material: Material,
    judgement: Judgement,
    found: Corrected,
    stamp: tuple[int, int, int],
) -> Path | None:
    """Write the next classifier, keeping the file that it replaces."""
    manifest = _next_manifest(bundle, make_manifest(result, material, judgement), found)
    frozen = FrozenBackbone(find_backbone(manifest.backbone), bundle.graph, bundle.weights)
    if _stamp(bundle.path) != stamp:
        raise NotWritable(
            f"{bundle.path} was replaced while this was learned, by another training perhaps. "
            f"Expected was the classifier that was learned from. Nothing was written. Learn again."
        )
    previous = None
    if is_file(result.bundle):
        previous = previous_path(result.bundle)
        write_atomically(previous, read_bytes(result.bundle))
    write(result, manifest, material, judgement, frozen)
    return previous


def _next_manifest(bundle: Bundle, made: Manifest, found: Corrected) -> Manifest:
    """Return the facts of the next classifier: how the network came about stays as it was."""
    before = bundle.manifest
    step = {
        "on": datetime.now(UTC).isoformat(timespec="seconds"),
        "pictures": len(found.corrections),
        "new_classes": list(found.new_classes),
    }
    corrections = [*before.data.get("corrections", ()), step]
    fitted_on = before.calibration.fitted_on if _network_learned(bundle) else "out-of-fold"
    return made.model_copy(
        update={
            "recipe": before.recipe,
            "runtime": before.runtime,
            "data": made.data | {"corrections": corrections},
            "calibration": made.calibration.model_copy(update={"fitted_on": fitted_on}),
        }
    )


def _notes(bundle: Bundle) -> tuple[str, ...]:
    if bundle.manifest.int8 is None:
        return ()
    return ("The 8-bit graph is left out, as its head is the old one: run `tellapart quantize`.",)


def _stamp(path: Path) -> tuple[int, int, int]:
    if isinstance(path, Address):
        there = stores.info(path)
        return (there and there.facts) or (0, 0, 0)
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
