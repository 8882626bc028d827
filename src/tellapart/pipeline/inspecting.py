"""A doctor for labelled pictures: what they are, what is wrong with them, what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.device import choose_device
from tellapart.backbones.extractor import open_extractor
from tellapart.backbones.frozen import freeze
from tellapart.backbones.registry import find_backbone
from tellapart.data.catalog import SPLITS, Catalog
from tellapart.data.inspection import (
    KINDS,
    Finding,
    groups_found,
    inspect_classes,
    inspect_files,
    inspect_looks,
    inspect_unreadable,
    is_blank,
    pictures_found,
)
from tellapart.data.looks import Looks
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.stored import kept_copies
from tellapart.errors import FindingsFound, MissingExtra, UnknownFinding, listed
from tellapart.evaluation.neighbours import groups_of, near_duplicates, neighbours, outliers
from tellapart.evaluation.suspects import find_doubted
from tellapart.pipeline import inputs
from tellapart.pipeline.gallery import below
from tellapart.pipeline.looked import look
from tellapart.progress import Progress
from tellapart.training.probe import fit_probe
from tellapart.training.recipe import DEFAULT_RECIPE

# Neighbours a picture; and a class needs some pictures before anybody can doubt a label.
NEIGHBOURS = 10
MIN_TO_DOUBT = 5


@dataclass(frozen=True, eq=False)
class Inspection:
    """What labelled pictures show.

    catalog: those that can be read; looks: (N,) of `data.looks.LOOK`, in its order. likely: row ->
    the class that a picture with a doubtful label probably shows. near: (M, 2) rows of pictures
    that show nearly the same. unreadable: path -> reason. notes: what was not looked for, and why.
    n_computed: pictures whose features were computed now, not found.
    """

    catalog: Catalog
    looks: Looks
    findings: tuple[Finding, ...]
    likely: Mapping[int, int]
    near: NDArray[np.int64]
    unreadable: Mapping[str, str]
    notes: tuple[str, ...]
    n_computed: int

    @property
    def understood(self) -> str:
        """Say how the data was read, and how much there is."""
        catalog = self.catalog
        splits = [name for name in SPLITS if name in catalog.counts()]
        how = f"the folders {', '.join(splits)}" if splits else "one folder a class, no splits"
        if catalog.source:
            how = f"a table with the splits {', '.join(splits)}" if splits else "a table, no splits"
        n = len(catalog.classes)
        groups = "" if catalog.groups is None else ", with groups"
        names = listed([f"{name}" for name in catalog.shown])
        return (
            f"{catalog.source or catalog.root}: {how}{groups}; {len(catalog)} pictures in {n} "
            f"class{'' if n == 1 else 'es'} ({names})."
        )

    def facts(self) -> dict[str, Any]:
        """Return sizes, formats, light and colour as plain JSON types; {} without a picture.

        mean, std: of red, green and blue as shares of 255, the means over the pictures of each
        one's own, over whole pictures made small.
        """
        looks = self.looks
        if not len(looks):
            return {}
        kinds = Counter(kind.decode() for kind in looks["kind"].tolist())
        return {
            "width_px": _spread(looks["width_px"]),
            "height_px": _spread(looks["height_px"]),
            "size_kb": _spread(looks["size_bytes"] / 1000),
            "formats": dict(kinds.most_common()),
            "light": _spread(looks["light"] / 255),
            "contrast": _spread(looks["contrast"] / 255),
            "mean": [round(float(value) / 255, 4) for value in looks["mean"].mean(axis=0)],
            "std": [round(float(value) / 255, 4) for value in looks["std"].mean(axis=0)],
        }

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON types; paths as they were found."""
        catalog = self.catalog
        return {
            "data": str(catalog.source or catalog.root),
            "understood": self.understood,
            "n": len(catalog),
            "classes": list(catalog.classes),
            "counts": catalog.counts(),
            "facts": self.facts(),
            "findings": [self._finding(one) for one in self.findings],
            "notes": list(self.notes),
            "n_computed": self.n_computed,
        }

    def _finding(self, one: Finding) -> dict[str, Any]:
        paths = [[str(self.catalog.paths[row]) for row in rows] for rows in one.rows]
        return {
            "kind": one.kind,
            "count": one.count,
            "headline": one.headline,
            "advice": one.advice,
            "detail": list(one.detail),
            "pictures": paths,
            "notes": list(one.notes),
        }

    def lines(self, one: Finding, most: int) -> list[str]:
        """Return up to `most` examples of a finding, paths below the folder of the data."""
        catalog = self.catalog
        if not one.rows:
            return [line.replace(f"{catalog.root}/", "") for line in one.detail[:most]]
        notes = one.notes or [""] * len(one.rows)
        return [
            " = ".join(below(str(catalog.paths[row]), catalog.root) for row in rows)
            + (f": {note}" if note else "")
            for rows, note in list(zip(one.rows, notes, strict=True))[:most]
        ]


@kept_copies()
def inspect(
    data: AnyData,
    *,
    backbone: str | None = None,
    features: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
) -> Inspection:
    """Look for what is wrong with labelled pictures. Nothing is changed.

    backbone: whose features say what is alike; by default the one that `train` takes, which then
        finds them kept. features: False leaves out what needs them: likenesses that no hash shows,
        outliers and wrong labels.

    Raises:
        TellapartError: the data cannot be read at all.
    """
    progress = progress or Progress()
    found = read_catalog(data, progress, min_classes=1)
    with progress.stage("pixels"):
        looked = look(found, progress)
    unreadable = {str(found.paths[row]): why for row, why in looked.unreadable.items()}
    keep = np.array([row for row in range(len(found)) if row not in looked.unreadable], np.int64)
    catalog, looks = found.select(keep), looked.looks[keep]
    notes: list[str] = []
    values, n_computed = None, 0
    if not features:
        notes.append("Outliers and wrong labels were not looked for: that needs features.")
    elif len(catalog):
        try:
            with progress.stage("features"):
                values, n_computed = _features(catalog, backbone, device, progress)
        except MissingExtra as error:
            notes.append(f"Outliers and wrong labels were not looked for. {error}")
    with progress.stage("findings"):
        nearest = None if values is None else neighbours(values, NEIGHBOURS)
        near = near_duplicates(looks["hash"], is_blank(looks), values, nearest)
        likely: dict[int, int] = {}
        more: list[Finding | None] = []
        if values is not None and nearest is not None:
            likely, more = _from_features(catalog, values, nearest, near, notes)
    every = [
        inspect_unreadable(list(unreadable), list(unreadable.values())),
        *inspect_files(catalog),
        *inspect_classes(catalog),
        *inspect_looks(catalog, looks),
        *_near_found(catalog, near),
        *more,
    ]
    order = list(KINDS)
    findings = sorted((one for one in every if one), key=lambda one: order.index(one.kind))
    return Inspection(
        catalog, looks, tuple(findings), likely, near, unreadable, tuple(notes), n_computed
    )


def check_kinds(names: Sequence[str], option: str) -> None:
    """Refuse names that no finding has.

    Raises:
        UnknownFinding: names all of them, and what they may have meant.
    """
    unknown = [name for name in names if name not in KINDS]
    if not unknown:
        return
    near = [match for name in unknown for match in get_close_matches(name, KINDS, 1, 0.5)]
    meant = f" Did you mean {', '.join(near)}?" if near else ""
    raise UnknownFinding(
        f"{option} {','.join(unknown)}: no finding has that name. Expected any of "
        f"{', '.join(KINDS)}, with commas between them.{meant} Nothing was looked at."
    )


def check_findings(found: Inspection, kinds: Sequence[str]) -> None:
    """Fail where the pictures show any of these kinds.

    Raises:
        FindingsFound.
    """
    there = [one for one in found.findings if one.kind in kinds]
    if there:
        said = "; ".join(f"{one.kind} ({one.count})" for one in there)
        raise FindingsFound(
            f"{found.catalog.source or found.catalog.root} shows what --fail-on names: {said}. "
            f"Expected none of it. Nothing was changed. The list above says which pictures and "
            f"what to do; --write-clean writes a table without what can safely go."
        )


def _features(
    catalog: Catalog, backbone: str | None, device: str, progress: Progress
) -> tuple[NDArray[np.float16], int]:
    """Return the features (N, D) that a training with these settings will find kept."""
    given = {"backbone": backbone} if backbone else None
    recipe = inputs.chosen_recipe(DEFAULT_RECIPE, given)
    network = find_backbone(recipe.backbone)
    preprocessing, _ = inputs.preprocessing_of(recipe, catalog)
    weights = inputs.choose_weights(recipe, network, None)
    frozen = freeze(network, weights, preprocessing, recipe.flip_at_test)
    extractor = open_extractor(
        frozen, weights, preprocessing, choose_device(device), recipe.flip_at_test
    )
    found = extractor.features(catalog.paths.tolist(), catalog.digests.tolist(), progress)
    return found.values, found.n_computed


def _near_found(catalog: Catalog, near: NDArray[np.int64]) -> list[Finding | None]:
    """Sort pairs that are alike by what is wrong with them; identical files are told apart."""
    one, other = near.T
    differ = catalog.digests[one] != catalog.digests[other]
    labels = catalog.labels[one] != catalog.labels[other]
    splits = catalog.splits[one] != catalog.splits[other]
    kinds = [
        ("near_conflict", labels, "nearly the same picture under two labels"),
        ("near_leakage", ~labels & splits, "nearly the same picture in two splits"),
        ("near_duplicate", ~labels & ~splits, "nearly the same picture twice"),
    ]
    return [
        groups_found(catalog, kind, groups_of(near[differ & chosen], len(catalog)), what)
        for kind, chosen, what in kinds
    ]


def _from_features(
    catalog: Catalog,
    values: NDArray[np.float16],
    alike: tuple[NDArray[np.int64], NDArray[np.float32]],
    near: NDArray[np.int64],
    notes: list[str],
) -> tuple[dict[int, int], list[Finding | None]]:
    """Find outliers and doubtful labels; return the likely classes of these, and both findings."""
    nearest, cosines = alike
    strange = outliers(cosines)
    found = [pictures_found(catalog, "outlier", strange, "a picture that resembles no other")]
    counts = np.bincount(catalog.labels, minlength=len(catalog.classes))
    judged = np.flatnonzero(counts[catalog.labels] >= MIN_TO_DOUBT)
    known = np.unique(catalog.labels[judged])
    if len(known) < 2:
        notes.append(
            f"Wrong labels were not looked for: that needs two classes of {MIN_TO_DOUBT} pictures."
        )
        return {}, found
    # Pictures that are nearly the same share a fold: else one would vouch for the other.
    units = _units(catalog, near)
    place = np.full(len(catalog), -1)
    place[judged] = np.arange(len(judged))
    own = place[nearest[judged]]
    labels = np.searchsorted(known, catalog.labels[judged])

    def fit(rows: NDArray[np.int64]) -> Any:
        return fit_probe(values[judged][rows], labels[rows], units[judged][rows], len(known))

    doubted = find_doubted(values[judged], labels, (own, cosines[judged]), fit)
    likely = {int(judged[row]): int(known[label]) for row, label in doubted.items()}
    rows = np.array(list(likely), dtype=np.int64)
    words = [
        f"labelled {catalog.shown[catalog.labels[row]]}, looks like {catalog.shown[label]}"
        for row, label in likely.items()
    ]
    what = "a label that is probably wrong"
    return likely, [*found, pictures_found(catalog, "wrong_label", rows, what, words)]


def _units(catalog: Catalog, near: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Name what must share a fold: copies, the user's groups, and pictures that are nearly so."""
    units, number = np.unique(catalog.units, return_inverse=True)
    same = number[near]
    joined = np.arange(len(units))
    for group in groups_of(same[same[:, 0] != same[:, 1]], len(units)):
        joined[group] = group[0]
    return np.asarray(units[joined[number]])


def _spread(values: NDArray[Any]) -> dict[str, float]:
    low, middle, high = np.quantile(values.astype(np.float64), [0, 0.5, 1])
    return {"min": round(low, 4), "median": round(middle, 4), "max": round(high, 4)}
