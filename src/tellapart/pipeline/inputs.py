"""What a training starts from: pictures, pixels, weights, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import IMAGENET_MEAN, IMAGENET_STD, Backbone, find_backbone
from tellapart.backbones.weights import Weights, find_weights, random_weights
from tellapart.bundle.bundle import SUFFIX, Bundle, open_bundle
from tellapart.data.augmentation import Step
from tellapart.data.catalog import SPLITS, Catalog
from tellapart.data.pixels import Preprocessing
from tellapart.data.reading import AnyData, data_name
from tellapart.data.splitting import (
    MIN_TO_LEARN,
    Fractions,
    assign_splits,
    split_by_content,
)
from tellapart.data.statistics import channel_statistics
from tellapart.errors import BadRecipe, BundleError, CannotFold, listed
from tellapart.files import check_writable
from tellapart.stores import place
from tellapart.training.probe import assign_folds
from tellapart.training.recipe import Phase, Recipe, load_recipe

Floats = NDArray[np.float32]

HALF = (0.5, 0.5, 0.5)
# What a score is said to be measured on where no split scored.
FOLDS = "folds"


def chosen_recipe(recipe: Recipe | str | Path, settings: Mapping[str, Any] | None) -> Recipe:
    """Return the recipe that was named, with single settings replaced; or the one given.

    Raises:
        BadRecipe.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, settings)
    if settings:
        raise BadRecipe(
            f"Settings ({', '.join(settings)}) were given beside a whole Recipe. Expected was the "
            f"name of one, or a file. Nothing was trained. Change the Recipe itself."
        )
    return recipe


def output_path(data: AnyData, output: str | Path | None) -> Path:
    """Decide where the bundle goes, and make sure it can be written before any work is done."""
    target = place(output) if output else Path.cwd() / f"{data_name(data)}{SUFFIX}"
    if target.suffix != SUFFIX:
        target = target.with_name(target.name + SUFFIX)
    check_writable(target)
    check_writable(report_path(target))
    return target


def report_path(target: Path) -> Path:
    """Return where the report of a bundle lies."""
    return target.with_name(f"{target.stem}-report.html")


def split(catalog: Catalog, recipe: Recipe, remembered: Mapping[bytes, str]) -> Catalog:
    """Give every picture its split, as the recipe has it.

    With folds none is set aside to score. Where phases learn by steps, `valid` is cut out by
    content to choose them by.

    Raises:
        CannotFold; as `assign_splits` otherwise.
    """
    how = recipe.data
    if how.folds is None:
        shares = Fractions(1 - how.valid - how.test, how.valid, how.test)
        return assign_splits(catalog, how.split, remembered, shares, how.seed)
    if how.split == "auto":
        _refuse_own_splits(catalog, how.folds)
    catalog = replace(catalog, splits=np.full(len(catalog), "", dtype="U5"))
    deal_folds(catalog, how.folds)
    return choosing(catalog, recipe)


def choosing(catalog: Catalog, recipe: Recipe) -> Catalog:
    """Put pictures into train, and a share of them into valid where phases are chosen by it."""
    share = 0.0 if recipe.probe_only else recipe.data.valid
    shares = Fractions(1 - share, share, 0.0)
    return replace(catalog, splits=split_by_content(catalog.units, catalog.labels, {}, shares))


def deal_folds(catalog: Catalog, n: int) -> NDArray[np.int64]:
    """Deal (N,) pictures out to n folds, evenly within each class; what belongs together stays.

    Raises:
        CannotFold: a class lacks in a fold's share, or in what is left to learn from.
    """
    labels, units, digests = catalog.labels, catalog.units, catalog.digests
    folds = assign_folds(labels, units, n)
    few = []
    for label, name in enumerate(catalog.classes):
        own = labels == label
        n_units = len(np.unique(units[own]))
        left = min(len(np.unique(digests[own & (folds != fold)])) for fold in range(n))
        if n_units < n or left < MIN_TO_LEARN:
            few.append(f"{name!r} ({n_units})")
    if few:
        raise CannotFold(
            f"In {catalog.source or catalog.root} these classes have too few pictures for {n} "
            f"folds: {listed(few)}. Copies of a picture, and what one group holds, count once. "
            f"Expected was one for each fold and {MIN_TO_LEARN} besides to learn from. Nothing was "
            f"trained. Take fewer folds, add pictures of them, or leave --folds out."
        )
    return folds


def _refuse_own_splits(catalog: Catalog, n: int) -> None:
    given = [name for name in SPLITS if (catalog.splits == name).any()]
    if set(given) <= {"train"}:
        return
    raise CannotFold(
        f"{catalog.source or catalog.root} comes with splits ({', '.join(given)}), and --folds {n} "
        f"deals all pictures out anew. Expected were pictures without splits. Nothing was trained. "
        f"Leave --folds out to learn and score by these splits, or put all pictures together with "
        f"--split none."
    )


def remembered_sides(target: Path, start: Bundle | None) -> dict[bytes, str]:
    """Return the sides of the pictures of the bundle to be replaced, or gone on from."""
    try:
        old = start or open_bundle(target)
        # Where nothing scored, or folds did, nothing was set aside: no choice to stay true to.
        scored = (old.manifest.scores or {}).get("accuracy") or {"split": FOLDS}
        return old.features.sides() if old.has_features and scored.get("split") != FOLDS else {}
    except BundleError:
        # There is none, or it cannot be read: then there is nothing to stay true to.
        return {}


def choose_weights(recipe: Recipe, backbone: Backbone, start: Bundle | None) -> Weights:
    """Find the weights that the recipe starts from, or those of an earlier classifier.

    Raises:
        WeightsNotFound, WeightsRefused.
    """
    if start is not None:
        return Weights(
            path=start.path,
            sha256=start.manifest.sha256["weights.safetensors"],
            origin=f"{start.path.name}, itself from {start.manifest.weights_origin}",
            licence=start.manifest.backbone_licence,
            data=start.weights,
        )
    if recipe.weights == "none":
        return random_weights(backbone, recipe.seed)
    file = None if recipe.weights == "pretrained" else Path(recipe.weights).expanduser()
    return find_weights(backbone, file)


def head_of(start: Bundle, classes: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return the head (K, D), (K,) of an earlier classifier for these classes, matched by name.

    A class that it does not know starts at zero.
    """
    runtime = OpenVinoRuntime(start.graph)
    weight, bias = runtime.constant("head.weight"), runtime.constant("head.bias")
    known = {name: row for row, name in enumerate(start.manifest.classes)}
    new_weight = np.zeros((len(classes), weight.shape[1]), dtype=np.float32)
    new_bias = np.zeros(len(classes), dtype=np.float32)
    for row, name in enumerate(classes):
        if name in known:
            new_weight[row], new_bias[row] = weight[known[name]], bias[known[name]]
    return new_weight, new_bias


def with_enlarged_views(recipe: Recipe) -> Recipe:
    """Scale the steps of random views up where they end below what the backbone takes."""
    least = find_backbone(recipe.backbone).min_size_px

    def enlarged(phase: Phase) -> Phase:
        sizes = [size for step in phase.augment if (size := _size_px(step))]
        if not sizes or sizes[-1] >= least:
            return phase
        times = least / sizes[-1]
        steps = [
            step.model_copy(update={"size_px": math.ceil(size * times)})
            if (size := _size_px(step))
            else step
            for step in phase.augment
        ]
        return phase.model_copy(update={"augment": tuple(steps)})

    return recipe.model_copy(update={"phases": tuple(map(enlarged, recipe.phases))})


def _size_px(step: Step) -> int | None:
    size: int | None = getattr(step, "size_px", None)
    return size


def preprocessing_of(recipe: Recipe, catalog: Catalog) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return how pictures become pixels, and what was decided about it, in words."""
    backbone = find_backbone(recipe.backbone)
    given = recipe.pixels.model_dump(exclude_none=True, exclude={"normalisation"})
    preprocessing = replace(backbone.preprocessing, **given)
    notes = []
    if recipe.weights == "none":
        notes.append(
            "RANDOM WEIGHTS: this network has learned nothing yet. Unless all of it learns, for "
            "long and from many pictures, its answers are little better than guesses."
        )
    if preprocessing.size_px < backbone.min_size_px:
        notes.append(
            f"{backbone.name} needs an input of {backbone.min_size_px} px or more: it gets that "
            f"instead of {preprocessing.size_px} px."
        )
        preprocessing = replace(preprocessing, size_px=backbone.min_size_px)
    kind = recipe.pixels.normalisation
    if kind == "measured":
        taught = catalog.paths[catalog.splits == "train"].tolist()
        mean, std = channel_statistics(taught, preprocessing)
        shown = ", ".join(f"{value:.4f}" for value in (*mean, *std))
        notes.append(f"Mean and deviation of the pictures' channels: {shown}.")
    elif kind == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    elif kind == "half":
        mean, std = HALF, HALF
    else:
        mean, std = preprocessing.mean, preprocessing.std
    return replace(preprocessing, mean=mean, std=std), tuple(notes)
