"""Corrections put beside what a classifier carries: which teach, and which contradict it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.bundle.bundle import Bundle
from tellapart.bundle.manifest import Manifest
from tellapart.data.catalog import Catalog
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.splitting import MIN_TO_LEARN, scored_split, teaching_counts
from tellapart.errors import BadCorrections, listed
from tellapart.inference.sorting import key, safe_name
from tellapart.pipeline.unlabelled import look, open_eyes
from tellapart.progress import Progress


@dataclass(frozen=True, eq=False)
class Corrected:
    """The pictures of a classifier and the corrections together, in one Catalog.

    catalog: first those that the classifier carries, of which there are no files, then the new.
    features: (N, D) float16. old: (N,) those it carries. corrections: rows that teach now what
    they did not: new ones, and those with another label than before. new_classes: those that it
    did not know. n_known: corrections that it had with the same label, or that score. n_computed:
    pictures that were looked at now.
    """

    catalog: Catalog
    features: NDArray[np.float16]
    old: NDArray[np.bool_]
    old_labels: NDArray[np.int64]
    corrections: NDArray[np.int64]
    new_classes: tuple[str, ...]
    n_known: int
    n_relabelled: int
    n_computed: int

    @property
    def n_new(self) -> int:
        """How many pictures it did not carry."""
        return int((~self.old).sum())


def add_corrections(bundle: Bundle, data: AnyData, relabel: bool, progress: Progress) -> Corrected:
    """Put labelled pictures beside those that a bundle carries; look at those it does not.

    All of them teach, but for those that folders named valid or test set aside to score.
    relabel: take their word where the bundle has a picture under another label.

    Raises:
        BadCorrections: with all that is wrong. DataError: as `read_catalog`.
    """
    given = read_catalog(data, progress, min_classes=1)
    problems: list[str] = []
    names = _classes_meant(given.classes, bundle.manifest, problems)
    known = _known(bundle)
    position: dict[bytes, int] = {}
    labels = [names[label] for label in given.labels.tolist()]
    digests: list[bytes] = given.digests.tolist()
    for row, digest in enumerate(digests):
        position.setdefault(digest, row)
    problems += _twice(given, labels)
    moved = {
        digest: labels[row]
        for digest, row in position.items()
        if digest in known and known[digest] != {labels[row]}
    }
    if moved and not relabel:
        problems.append(_contradictions(given, moved, known, position))
    rows = np.array([row for digest, row in position.items() if digest not in known], np.int64)
    found = _joined(bundle, given, labels, rows, moved, progress)
    problems += _too_few(found)
    if problems:
        raise BadCorrections(_in_words(found.catalog, given, problems))
    return replace(found, n_known=len(position) - len(rows) - len(moved))


def _classes_meant(folders: Sequence[str], manifest: Manifest, problems: list[str]) -> list[str]:
    """Find the class that each folder means: by label, by name for people, or a new one.

    Folders of corrections have names that every system takes, so these count as well.
    """
    classes = manifest.classes
    meant: dict[str, set[str]] = {}
    for label in classes:
        for name in (label, manifest.display_names.get(label, label)):
            meant.setdefault(name, set()).add(label)
            meant.setdefault(safe_name(name), set()).add(label)
    alike = {key(name): label for name, labels in meant.items() for label in labels}
    names = []
    for folder in folders:
        found = meant.get(folder, set())
        if folder in classes or not found:
            names.append(folder)
            if folder not in classes and key(folder) in alike:
                problems.append(
                    f"the class {folder!r} is written like {alike[key(folder)]!r} but for case or "
                    f"accents: name them alike"
                )
            continue
        names.append(min(found))
        if len(found) > 1:
            called = " and ".join(map(repr, sorted(found)))
            problems.append(f"the folder {folder!r} may mean the classes {called}: name one")
    return names


def _known(bundle: Bundle) -> dict[bytes, set[str]]:
    """Say which labels the pictures of a bundle have, by their digests."""
    classes, kept = bundle.manifest.classes, bundle.features
    known: dict[bytes, set[str]] = {}
    for digest, label in zip(kept.digests.tolist(), kept.labels.tolist(), strict=True):
        known.setdefault(digest, set()).add(classes[label])
    return known


def _twice(given: Catalog, labels: Sequence[str]) -> list[str]:
    """Name the pictures that lie under two labels."""
    where: dict[bytes, dict[str, int]] = {}
    for row, digest in enumerate(given.digests.tolist()):
        where.setdefault(digest, {}).setdefault(labels[row], row)
    both = [rows for rows in where.values() if len(rows) > 1]
    if not both:
        return []
    shown = [" = ".join(_short(given, row) for row in rows.values()) for rows in both]
    return [f"{_pictures(len(both))} under two labels: {listed(shown)}"]


def _contradictions(
    given: Catalog,
    moved: dict[bytes, str],
    known: dict[bytes, set[str]],
    position: dict[bytes, int],
) -> str:
    shown = [
        f"{_short(given, position[digest])} (known as {', '.join(sorted(known[digest]))})"
        for digest in moved
    ]
    return (
        f"{_pictures(len(moved))} known to the classifier under another label: {listed(shown)}; "
        f"--relabel takes the word of the corrections"
    )


def _joined(
    bundle: Bundle,
    given: Catalog,
    labels: Sequence[str],
    rows: NDArray[np.int64],
    moved: dict[bytes, str],
    progress: Progress,
) -> Corrected:
    """Make one Catalog of what a bundle carries and of the new pictures that can be read."""
    kept, manifest = bundle.features, bundle.manifest
    features, unreadable, n_computed = _look(bundle, given, rows, progress)
    able = np.array([row not in unreadable for row in range(len(rows))], dtype=bool)
    chosen = given.select(rows).without(unreadable)
    own = [labels[row] for row in rows[able].tolist()]
    classes = tuple(sorted({*manifest.classes, *own, *moved.values()}))
    number = {name: label for label, name in enumerate(classes)}
    before = np.array([number[name] for name in manifest.classes], np.int64)[kept.labels]
    now = before.copy()
    for row, digest in enumerate(kept.digests.tolist()):
        if digest in moved:
            now[row] = number[moved[digest]]
    held_out = scored_split(kept.splits) or "valid"
    sides = [held_out if side in ("valid", "test") else "train" for side in chosen.splits]
    catalog = Catalog(
        root=given.root,
        classes=classes,
        paths=np.array([*(f"picture-{one.decode()}" for one in kept.digests), *chosen.paths]),
        labels=np.concatenate([now, np.array([number[name] for name in own], np.int64)]),
        digests=np.concatenate([kept.digests, chosen.digests]),
        splits=np.concatenate([kept.splits, np.array(sides, "U5")]).astype("U5"),
        set_aside=chosen.set_aside,
        display_names={
            name: shown for name, shown in manifest.display_names.items() if name in classes
        },
        source=str(bundle.path),
    )
    changed = np.concatenate([before != now, np.ones(len(own), dtype=bool)])
    return Corrected(
        catalog=catalog,
        features=np.concatenate([kept.features, features[able]]),
        old=np.arange(len(catalog)) < len(before),
        old_labels=before,
        corrections=np.flatnonzero(changed & (catalog.splits != scored_split(catalog.splits))),
        new_classes=tuple(name for name in classes if name not in set(manifest.classes)),
        n_known=0,
        n_relabelled=len(moved),
        n_computed=n_computed,
    )


def _look(
    bundle: Bundle, given: Catalog, rows: NDArray[np.int64], progress: Progress
) -> tuple[NDArray[np.float16], dict[int, str], int]:
    """Return the features (M, D) of new pictures in the bundle's own network."""
    width = bundle.features.features.shape[1]
    if not len(rows):
        return np.zeros((0, width), np.float16), {}, 0
    digests: list[bytes] = given.digests[rows].tolist()
    eyes = open_eyes(bundle=bundle)
    kept, filled = look(eyes, given.paths[rows].tolist(), digests, progress)
    features = np.zeros((len(rows), width), np.float16)
    for row, digest in enumerate(digests):
        if row not in filled.unreadable:
            features[row] = kept.get(digest)
    return features, dict(filled.unreadable), filled.n_computed


def _too_few(found: Corrected) -> list[str]:
    """Name classes that have too few different pictures to learn from."""
    few = [
        f"{name!r} ({n}{', new' if name in found.new_classes else ''})"
        for name, n in zip(
            found.catalog.classes, teaching_counts(found.catalog).tolist(), strict=True
        )
        if n < MIN_TO_LEARN
    ]
    if not few:
        return []
    return [f"fewer than {MIN_TO_LEARN} different readable pictures to learn from: {listed(few)}"]


def _in_words(catalog: Catalog, given: Catalog, problems: Sequence[str]) -> str:
    aside = [f"{_below(given, one.path)} {one.reason}" for one in catalog.set_aside]
    also = f" Not readable, and left out: {listed(aside)}." if aside else ""
    return (
        f"The corrections in {given.source or given.root} cannot be learned from: "
        f"{'; '.join(problems)}. Expected was one label a picture, and {MIN_TO_LEARN} pictures or "
        f"more of a new class. Nothing was learned.{also} Correct the folder, and learn again."
    )


def _pictures(n: int) -> str:
    return f"{n} picture{' is' if n == 1 else 's are'}"


def _short(given: Catalog, row: int) -> str:
    return _below(given, str(given.paths[row]))


def _below(given: Catalog, path: str) -> str:
    try:
        return Path(path).relative_to(given.root).as_posix()
    except ValueError:
        return path
