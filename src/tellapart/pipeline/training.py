"""Training: folder -> Catalog -> features -> phases -> scores -> report and bundle."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import decoder_identity
from tellapart.backbones.cache import prune
from tellapart.backbones.device import Device, choose_device
from tellapart.backbones.extractor import Computed, Extractor, open_extractor
from tellapart.backbones.frozen import FrozenBackbone, freeze
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.ranks import ALONE, Ranks, open_ranks, short_hash
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import Weights
from tellapart.bundle.bundle import (
    Bundle,
    KeptFeatures,
    open_bundle,
    with_head,
    with_head_weights,
    write_bundle,
)
from tellapart.bundle.manifest import Manifest
from tellapart.data.catalog import Catalog
from tellapart.data.columns import taken
from tellapart.data.pixels import (
    Preprocessing,
    available_cores,
    decode_many,
    processes_here,
    read_pixels,
    usable_cores,
)
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.stored import kept_copies
from tellapart.errors import (
    BadRecipe,
    CannotResume,
    MissingExtra,
    NoReadablePicture,
    NotForRanks,
    TellapartError,
    UnreadablePicture,
    listed,
)
from tellapart.evaluation.calibration import softmax
from tellapart.files import write_atomically
from tellapart.pipeline import inputs
from tellapart.pipeline.folds import score_by_folds
from tellapart.pipeline.outcome import (
    Judgement,
    TrainResult,
    fingerprint,
    judge_classifier,
    make_manifest,
    make_report,
    make_result,
)
from tellapart.progress import Progress
from tellapart.training.history import History
from tellapart.training.phases import Material, learn
from tellapart.training.recipe import DEFAULT_RECIPE, Recipe
from tellapart.training.runs import Run, find_unfinished, runs_folder, start_run
from tellapart.training.trackers import open_trackers

if TYPE_CHECKING:
    from tellapart.training.tuning import Tuner

# How far the finished graph's probabilities may lie from those that were scored. The same
# runtime and precision give 0.0; 32 bits on a GPU against 16 on a processor, some hundredths.
MAX_DISAGREEMENT = 0.1
N_CHECKED = 16
# Of 400 000 pictures, in 1280 numbers each: who opens the file must hold them in memory.
MOST_CARRIED_BYTES = 1_000_000_000
# Settings that are longer are compared, and shown, by a hash.
SHOWN = 60


@kept_copies()
def train(
    data: AnyData,
    output: str | Path | None = None,
    *,
    recipe: Recipe | str | Path = DEFAULT_RECIPE,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    start: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Learn to tell the pictures in a folder apart; write a classifier and a report.

    data: a folder of class folders, or of train/valid/test folders that hold them; a table or a
        list; a `data.reading.DataSource`, which says how these are to be understood; or a Catalog,
        such as `data.catalog.from_lists` makes of paths and labels.
    output: the .tellapart file; by default named as the folder, in the current folder. The
        report lies beside it.
    recipe: a built-in one by name, a TOML file, or a Recipe.
    settings: single settings over it, such as {"backbone": "resnet18"}.
    start: an earlier classifier to go on from: its backbone, pixels and weights are taken.
    resume: go on with the interrupted run for this output.

    Where torchrun started several processes with the same arguments, they share the work. Rank 0
    writes and tells; all return what it made.

    Raises:
        TellapartError: one of its kinds, see `tellapart.errors`.
    """
    # Its own clock: a caller may use one Progress for several trainings.
    progress = replace(progress or Progress(), seconds={})
    began = time.monotonic()
    ranks = open_ranks(choose_device(device))
    if not ranks.first:
        progress = Progress("quiet")
    with progress.stage("total"):
        target = ranks.tell(lambda: inputs.output_path(data, output))

        @cache
        def before() -> Bundle | None:
            return open_bundle(start) if start else None

        sides = ranks.tell(lambda: inputs.remembered_sides(target, before()))

        def begin() -> tuple[Source, Stand]:
            source = open_source(data, target, recipe, settings, before(), progress, sides)
            with progress.stage("prepare"):
                return source, prepare(source, device, progress, ranks)

        source, stand = ranks.meet(begin, lambda found: _must_agree(*found))
        _check_shares(source, ranks)
        for note in (_what_was_understood(source, stand), *_ranks_in_words(ranks)):
            progress.say(note)
        with progress.stage("features"):
            found = look(source, stand, progress)
        result = _learn_and_write(source, stand, found, target, began, resume, progress)
        if ranks.first_at_home:
            prune()
    names = ("features", "fit", "total")
    seconds = ranks.tell(lambda: {name: round(progress.seconds[name], 3) for name in names})
    return replace(result, seconds=seconds)


def _learn_and_write(
    source: Source,
    stand: Stand,
    found: Computed,
    target: Path,
    began: float,
    resume: bool,
    progress: Progress,
) -> TrainResult:
    """Run the phases on what was looked at, judge what they made, and write it."""
    ranks = stand.extractor.ranks
    catalog, features = _readable(source, found.values, found.unreadable)
    run = ranks.lead(lambda: _open_run(source, catalog, target, resume, progress))
    with _remembered(run, began, progress) as ending:
        material = Material(
            catalog=catalog,
            features=features,
            recipe=source.recipe,
            extractor=stand.extractor,
            weights=stand.weights,
            device=stand.device,
            progress=progress,
            history=_open_history(source, run, progress),
            run=run,
            deadline=_deadline(source.recipe, began),
            resume=resume,
            head=inputs.head_of(source.start, catalog.classes) if source.start else None,
        )
        with progress.stage("fit"):
            learned = learn(material)
        folded = None
        if source.recipe.data.folds:
            with progress.stage("score"):
                folded = score_by_folds(material)

        def finish() -> TrainResult:
            with progress.stage("score"):
                judgement = judge_classifier(material, learned, folded)
            result = make_result(material, judgement, target, found.n_computed, source.notes)
            with progress.stage("write"):
                manifest = make_manifest(result, material, judgement)
                write(result, manifest, material, judgement, stand.frozen)
            return result

        result: TrainResult = ranks.tell(finish)
        ending.accuracy = result.accuracy()
        material.history.close()
        return result


@dataclass(frozen=True, eq=False)
class Source:
    """What a training is about: pictures, recipe, and an earlier classifier to go on from.

    scanned: the pictures with the splits that their folders give; catalog: with all of them.
    """

    scanned: Catalog
    catalog: Catalog
    recipe: Recipe
    start: Bundle | None
    sides: Mapping[bytes, str]
    preprocessing: Preprocessing
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Stand:
    """A backbone with its weights, frozen and ready on the device."""

    weights: Weights
    frozen: FrozenBackbone
    extractor: Extractor
    device: Device


def open_source(
    data: AnyData,
    target: Path,
    recipe: Recipe | str | Path,
    settings: Mapping[str, Any] | None,
    before: Bundle | None,
    progress: Progress,
    sides: Mapping[bytes, str] | None = None,
) -> Source:
    """Read pictures and recipe, and refuse before time is spent what would be refused after.

    before: the classifier that is gone on from. sides: of pictures that had one before; None: as
        the bundles that are there remember.
    """
    chosen = inputs.chosen_recipe(recipe, settings)
    given = sorted({"backbone", "weights"} & (settings or {}).keys())
    if before is not None and given:
        raise BadRecipe(
            f"{' and '.join(given)} cannot be chosen when going on from {before.path}: its own "
            f"backbone ({before.manifest.backbone}) and weights are taken. Nothing was trained. "
            f"Leave {' and '.join(given)} out, or train without --from."
        )
    if before is not None and chosen.data.folds is not None:
        raise BadRecipe(
            f"--folds {chosen.data.folds} scores pictures with classifiers that never learned from "
            f"them, and {before.path} may have learned from some. Nothing was trained. Leave "
            f"--folds out, or train without --from."
        )
    if before is not None:
        chosen = chosen.model_copy(update={"backbone": before.manifest.backbone})
    scanned = read_catalog(data, progress)
    if before is not None:
        scanned = _with_names_of(before, scanned)
    if sides is None:
        sides = inputs.remembered_sides(target, before)
    # Sides need no pixels; a hopeless folder is refused here.
    catalog = inputs.split(scanned, chosen, sides)
    if before is None:
        preprocessing, notes = inputs.preprocessing_of(chosen, catalog)
        chosen = inputs.with_enlarged_views(chosen)
    else:
        preprocessing, notes = before.manifest.preprocessing, ()
    return Source(scanned, catalog, chosen, before, sides, preprocessing, notes)


def _with_names_of(before: Bundle, catalog: Catalog) -> Catalog:
    """Call the classes what people called them before, where nothing else is said now."""
    known = before.manifest.display_names
    names = {name: shown for name, shown in known.items() if name in catalog.classes}
    return replace(catalog, display_names=names | dict(catalog.display_names))


def _must_agree(source: Source, stand: Stand) -> dict[str, str]:
    """Return what must be the same on all ranks, in words short enough to compare."""
    catalog = source.catalog
    # In this order: rows are what the ranks speak of.
    pictures = b"".join(catalog.digests.tolist())
    sides = json.dumps([catalog.classes, catalog.labels.tolist(), catalog.splits.tolist()])
    programs = ", ".join(
        f"{name} {version(name)}" for name in ("tellapart", "torch", "numpy", "openvino")
    )
    return {
        "programs": f"{programs}, {short_hash(decoder_identity())}",
        "pictures": f"{len(catalog)} in {len(catalog.classes)} classes, "
        f"{short_hash(pictures.decode())}",
        "labels and splits": short_hash(sides),
        "pixels": short_hash(repr(source.preprocessing)),
        "weights": f"{stand.frozen.backbone.name} {short_hash(stand.weights.sha256)}",
        "network": short_hash(hashlib.sha256(stand.frozen.graph).hexdigest()),
        "runtime": stand.extractor.runtime.identity,
        **{f"the recipe's {name}": _short(value) for name, value in source.recipe.facts().items()},
    }


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= SHOWN else short_hash(text)


def _check_shares(source: Source, ranks: Ranks) -> None:
    """Refuse more ranks than there are pictures for.

    Raises:
        NotForRanks.
    """
    if ranks.alone:
        return
    teaching = source.catalog.digests[source.catalog.splits == "train"].tolist()
    kept = {ranks.homes[rank] for rank in ranks.owners(teaching).tolist()}
    if len(set(teaching)) < ranks.size or len(kept) < ranks.n_homes:
        raise NotForRanks(
            f"{ranks.size} processes train together on {len(set(teaching))} different pictures "
            f"that teach, and some would have none to learn from. Nothing was trained. Start fewer "
            f"processes: one is fast enough for so few."
        )


def _ranks_in_words(ranks: Ranks) -> list[str]:
    if ranks.alone:
        return []
    n_cores = available_cores()
    cores = "1 core" if n_cores == 1 else f"{n_cores} cores"
    lines = [f"{ranks.size} processes share the work, each on {cores}."]
    if ranks.n_homes > 1:
        lines[0] += f" They keep what they compute in {ranks.n_homes} places, each its share."
    if processes_here() > usable_cores():
        lines.append(
            f"WARNING: {processes_here()} processes on a machine with {usable_cores()} cores wait "
            f"for each other; as many as there are cores would be faster."
        )
    return lines


def prepare(source: Source, device: str, progress: Progress, ranks: Ranks = ALONE) -> Stand:
    """Find the backbone and its weights, and make it ready for the device."""
    backbone = find_backbone(source.recipe.backbone)
    chosen = choose_device(device)
    weights = inputs.choose_weights(source.recipe, backbone, source.start)
    frozen = freeze(backbone, weights, source.preprocessing, source.recipe.flip_at_test)
    if frozen.not_kept:
        progress.say(f"Going on without keeping the network: {frozen.not_kept}")
    extractor = open_extractor(
        frozen, weights, source.preprocessing, chosen, source.recipe.flip_at_test
    )
    return Stand(weights, frozen, replace(extractor, ranks=ranks), chosen)


def open_tuner(source: Source, stand: Stand, progress: Progress) -> Tuner:
    """Open the network of a source, with nothing learned yet."""
    try:
        from tellapart.training.tuning import Tuner
    except ImportError as error:
        raise MissingExtra(
            "Trying a training out needs PyTorch, which is not installed. Nothing was done. "
            "Install it with: pip install 'tellapart[train]'"
        ) from error
    return Tuner(
        Material(
            catalog=source.catalog,
            features=np.zeros((len(source.catalog), 0), dtype=np.float16),
            recipe=source.recipe,
            extractor=stand.extractor,
            weights=stand.weights,
            device=stand.device,
            progress=progress,
            history=History(None, progress),
        )
    )


def look(source: Source, stand: Stand, progress: Progress) -> Computed:
    """Compute the features of all pictures, and keep on the way what the first tail learns from.

    Those that choose or score always go through the whole graph, as in prediction.
    """
    catalog, extractor = source.catalog, stand.extractor
    teaches = catalog.splits == "train"
    through = None
    phase = source.recipe.looked_through
    # Features that are kept already cost nothing.
    if phase and extractor.n_lacking(catalog.digests[teaches].tolist()):
        # Without torch there will be no such phase, and nothing to keep for it.
        with suppress(MissingExtra):
            through = open_tuner(source, stand, progress).look_through(phase)
    if through is None:
        return extractor.features(catalog.paths.tolist(), catalog.digests.tolist(), progress)
    train, rest = np.flatnonzero(teaches), np.flatnonzero(~teaches)
    others = extractor.features(
        catalog.paths[rest].tolist(), catalog.digests[rest].tolist(), progress
    )
    values = np.zeros((len(catalog), through.values.shape[1]), dtype=np.float16)
    values[train] = through.values
    # Not one that could be read has no width either.
    values[rest] = others.values if others.values.shape[1] else 0
    unreadable = {
        int(rows[row]): why
        for rows, found in ((train, through), (rest, others))
        for row, why in found.unreadable.items()
    }
    return Computed(values, unreadable, through.n_computed + others.n_computed)


def _what_was_understood(source: Source, stand: Stand) -> str:
    catalog = source.catalog
    counts = ", ".join(
        f"{sum(numbers)} {split}" if split else f"{sum(numbers)}"
        for split, numbers in catalog.counts().items()
    )
    lines = [
        f"{catalog.source or catalog.root}: {counts} pictures in {len(catalog.classes)} classes "
        f"({listed(catalog.shown)}){_groups_in_words(catalog)}.",
        f"Recipe {source.recipe.name}, backbone {stand.frozen.backbone.name} "
        f"({stand.weights.origin}), device {stand.device}, {stand.extractor.runtime.identity}.",
    ]
    return "\n".join([*lines, *_folds_in_words(source.recipe), *source.notes])


def _folds_in_words(recipe: Recipe) -> list[str]:
    n = recipe.data.folds
    if n is None:
        return []
    said = (
        f"{n} folds: each picture is scored by a classifier that learned from the other folds "
        f"alone; the one that is written learns from all."
    )
    dear = f" All phases run {n + 1} times." if not recipe.probe_only else ""
    return [said + dear]


def _groups_in_words(catalog: Catalog) -> str:
    if catalog.groups is None:
        return ""
    return f", {len(set(catalog.groups.tolist()) - {''})} groups that stay together"


def _readable(
    source: Source, features: NDArray[np.float16], unreadable: Mapping[int, str]
) -> tuple[Catalog, NDArray[np.float16]]:
    """Set unreadable pictures aside, and see to it that each class still has a picture a side.

    Raises:
        NoReadablePicture.
    """
    catalog = source.catalog
    if len(unreadable) == len(catalog):
        row, why = next(iter(unreadable.items()))
        raise NoReadablePicture(
            f"Of {len(catalog)} pictures in {catalog.root}, none could be read. The first, "
            f"{catalog.paths[row]}, {why}. Nothing was trained."
        )
    keep = np.ones(len(catalog), dtype=bool)
    keep[list(unreadable)] = False
    if source.recipe.data.split in ("exact", "halve-test"):
        # Dealt once, by the number of files: a second time would deal otherwise.
        return catalog.without(unreadable), taken(features, keep)
    rest = source.scanned.without(unreadable)
    return inputs.split(rest, source.recipe, source.sides), taken(features, keep)


def _open_run(
    source: Source, catalog: Catalog, target: Path, resume: bool, progress: Progress
) -> Run:
    """Start to remember this run, or take up the interrupted one.

    Raises:
        CannotResume: there is none, or it had another recipe or other data.
    """
    recipe, data = source.recipe.facts(), fingerprint(catalog)
    if source.start is not None:
        data += f" from {source.start.manifest.sha256['weights.safetensors']}"
    if not resume:
        return start_run(target.stem, catalog.root, data, recipe, target, progress)
    run = find_unfinished(target, progress)
    if run is None:
        raise CannotResume(
            f"There is no interrupted training of {target}. Expected was one that was stopped or "
            f"killed; `tellapart runs` lists all. Nothing was trained. Train without --resume."
        )
    changed = [
        what
        for what, same in (
            ("recipe", run.facts.recipe == recipe),
            ("pictures, labels or splits", run.facts.fingerprint == data),
        )
        if not same
    ]
    if changed:
        raise CannotResume(
            f"The interrupted training {run.facts.id} had another {' and other '.join(changed)}. "
            f"Going on would mix two trainings. Nothing was trained, and the checkpoint is kept. "
            f"Give the same data and recipe, or train without --resume."
        )
    run.resume()
    return run


def _open_history(source: Source, run: Run | None, progress: Progress) -> History:
    if run is None:
        return History(None, progress)
    # In one place for all, or runs could not be compared with each other.
    name = run.facts.id or run.facts.name
    trackers = open_trackers(source.recipe.log, name, runs_folder())
    return History(run.history, progress, trackers)


def _deadline(recipe: Recipe, began: float) -> float | None:
    return None if recipe.budget_s is None else began + recipe.budget_s


@dataclass
class _Ending:
    accuracy: Mapping[str, Any] | None = None


@contextmanager
def _remembered(run: Run | None, began: float, progress: Progress) -> Iterator[_Ending]:
    """Write into the run how it ended, whichever way; None: it is another rank's to do."""
    ending = _Ending()
    if run is None:
        yield ending
        return
    state: Literal["done", "failed", "stopped"] = "failed"
    try:
        yield ending
        state = "done"
    except KeyboardInterrupt:
        state = "stopped"
        if run.checkpoint is not None and run.checkpoint.exists():
            progress.say("A phase had begun: --resume goes on from its last whole epoch.")
        raise
    finally:
        run.finish(state, ending.accuracy, round(time.monotonic() - began, 3))


def write(
    result: TrainResult,
    manifest: Manifest,
    material: Material,
    judgement: Judgement,
    frozen: FrozenBackbone,
) -> None:
    """Write report and bundle, after a last check that the bundle's graph says what was scored."""
    learned = judgement.learned
    body, weights = frozen.graph, frozen.weights
    if learned.tuned is not None:
        body, weights = learned.tuned.graph, learned.tuned.weights
    graph = with_head(body, learned.weight, learned.bias)
    _check_graph(graph, material, judgement)
    page = make_report(result, manifest, material, judgement, graph)
    catalog = material.catalog
    kept = KeptFeatures(judgement.features, catalog.labels, catalog.digests, catalog.splits)
    weights = with_head_weights(weights, frozen.backbone.head, learned.weight, learned.bias)
    keep = material.recipe.data.keep_features and _can_carry(judgement.features, material.progress)
    write_bundle(
        result.bundle, manifest, graph, weights, kept if keep else None, page, judgement.familiar
    )
    write_atomically(result.report, page)


def _can_carry(features: NDArray[np.float16], progress: Progress) -> bool:
    """Whether the file stays one that can be sent with all features in it; say so if not."""
    if features.nbytes <= MOST_CARRIED_BYTES:
        return True
    progress.say(
        f"The features of {len(features)} pictures are not kept in the file: they take "
        f"{features.nbytes / 1e9:.1f} GB, and up to {MOST_CARRIED_BYTES / 1e9:g} are carried. "
        f"Learning from corrections will need the pictures; `train --from` can do it."
    )
    return False


def _check_graph(graph: bytes, material: Material, judgement: Judgement) -> None:
    """Run a few pictures through the finished graph: what was scored is what will run."""
    catalog = material.catalog
    rows = np.flatnonzero(judgement.scored if judgement.scored.any() else judgement.learned.taught)
    if material.at_hand is not None:
        rows = material.at_hand
    rows = rows[:: max(1, len(rows) // N_CHECKED)][:N_CHECKED]
    read = partial(read_pixels, preprocessing=material.extractor.preprocessing)
    pictures = list(decode_many(catalog.paths[rows].tolist(), read))
    # A picture taken away while the run went on is no reason to lose the run.
    there = [not isinstance(picture, UnreadablePicture) for picture in pictures]
    rows = rows[there]
    if not len(rows):
        return
    pixels = (picture for picture in pictures if not isinstance(picture, UnreadablePicture))
    runtime = OpenVinoRuntime(graph)
    features = np.stack(list(runtime.run(pixels))).astype(np.float32)
    # The head as it lies in the graph, as prediction reads it.
    logits = features @ runtime.constant("head.weight").T + runtime.constant("head.bias")
    again = softmax(logits, judgement.temperature)
    difference = np.abs(again - judgement.probabilities(judgement.features[rows])).max()
    if difference > MAX_DISAGREEMENT:
        raise TellapartError(
            f"The finished classifier gives probabilities that differ by up to {difference:.2f} "
            f"from those that were scored, on {len(rows)} pictures; at most {MAX_DISAGREEMENT} "
            f"was expected. Nothing was written. If pictures changed during the run, train "
            f"again; otherwise clear what is kept with `tellapart cache --clear` and report it."
        )
