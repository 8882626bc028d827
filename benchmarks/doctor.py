"""What `inspect` finds in public sets, and what it finds of faults that were put in on purpose.

Known repeats of flowers and scenes; odd files by their right names; pictures that were saved anew,
made smaller, lost a twentieth of their edges or their colour, put beside the others; and 5 % of the
labels changed at random, each repeat with another seed. A label that was suspect before, in the set
as it comes, is no mistake of the list: precision is also given without these. Counts of what is
found in the sets as they come say how much there is to look at.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _machine import describe
from _measuring import Figure, data_folder, options, report

if TYPE_CHECKING:
    from tellapart.data.catalog import Catalog
    from tellapart.pipeline import Inspection

SETS = ("flowers102", "intel_scenes", "hymenoptera")
SPOILT = 0.05
N_CHANGED = 100


def inspected(data: Any) -> Inspection:
    """Inspect quietly; features are kept from set to set."""
    from tellapart.pipeline import inspect
    from tellapart.progress import Progress

    return inspect(data, progress=Progress("quiet"))


def counts(found: Inspection) -> dict[str, int]:
    return {one.kind: one.count for one in found.findings}


def some(catalog: Catalog, n: int) -> Catalog:
    """Take n pictures, spread over all of them."""
    import numpy as np

    if n >= len(catalog):
        return catalog
    return catalog.select(np.linspace(0, len(catalog) - 1, n).astype(np.int64))


def spoilt(catalog: Catalog, seed: int, before: set[int]) -> tuple[float, float, float]:
    """Change labels, and return precision, precision without what was suspect before, recall."""
    import numpy as np

    chance = np.random.default_rng(seed)
    n, n_classes = len(catalog), len(catalog.classes)
    rows = chance.choice(n, round(SPOILT * n), replace=False)
    labels = catalog.labels.copy()
    labels[rows] = (labels[rows] + chance.integers(1, n_classes, len(rows))) % n_classes
    suspects = set(inspected(replace(catalog, labels=labels)).likely)
    changed = set(rows.tolist())
    hits, false = len(suspects & changed), len(suspects - changed - before)
    return hits / max(len(suspects), 1), hits / max(hits + false, 1), hits / len(changed)


def changes() -> dict[str, Callable[[Any], Any]]:
    """Ways to change a Pillow picture that leave what it shows."""

    def edges_off(image: Any) -> Any:
        x, y = round(image.width / 40), round(image.height / 40)
        return image.crop((x, y, image.width - x, image.height - y))

    return {
        "saved anew (JPEG 50)": lambda image: image,
        "half as large": lambda image: image.resize((image.width // 2, image.height // 2)),
        "a twentieth cut off": edges_off,
        "without colour": lambda image: image.convert("L"),
    }


def found_again(catalog: Catalog, folder: Path) -> dict[str, float]:
    """Put changed pictures beside the others; return the share found, by the kind of change."""
    import numpy as np
    from PIL import Image

    from tellapart.data.catalog import from_lists

    rows = np.linspace(0, len(catalog) - 1, min(N_CHANGED, len(catalog))).astype(int)
    names = [catalog.classes[label] for label in catalog.labels]
    shares = {}
    for number, (what, change) in enumerate(changes().items()):
        paths, labels = catalog.paths.tolist(), list(names)
        for row in rows.tolist():
            target = folder / f"{number}-{row}.jpg"
            with Image.open(catalog.paths[row]) as image:
                data = io.BytesIO()
                changed = change(image.convert("RGB"))
                changed.save(data, "JPEG", quality=50 if number == 0 else 90)
            target.write_bytes(data.getvalue())
            paths.append(str(target))
            labels.append(names[row])
        found = inspected(from_lists(paths, labels))
        place = {path: row for row, path in enumerate(found.catalog.paths.tolist())}
        pairs = {tuple(pair) for pair in found.near.tolist()}
        wanted = [
            tuple(
                sorted((place[str(catalog.paths[row])], place[str(folder / f"{number}-{row}.jpg")]))
            )
            for row in rows.tolist()
        ]
        shares[what] = sum(pair in pairs for pair in wanted) / len(wanted)
    return shares


def odd_set(folder: Path) -> dict[str, float]:
    """Put the odd files into class folders and count what is called by a wrong name."""
    import shutil

    odd = data_folder("odd")
    for name, of_class in {
        "20805": "building",
        "10408": "street",
        "glass115": "glass",
        "metal91": "metal",
    }.items():
        (folder / of_class).mkdir()
        shutil.copy(odd / "dups_cross_class" / f"{name}.jpg", folder / of_class)
    (folder / "other").mkdir()
    kinds = {"html_named_jpg": "a web page", "lfs_pointers": "a Git LFS pointer"}
    for path in [path for path in odd.rglob("*") if path.is_file()]:
        parts = path.relative_to(odd).parts
        if parts[0] != "dups_cross_class":
            shutil.copy(path, folder / "other" / "_".join(parts))
    found = inspected(folder)
    wrong = 0
    for path in (folder / "other").iterdir():
        expected = next((word for kind, word in kinds.items() if path.name.startswith(kind)), None)
        said = found.unreadable.get(str(path))
        wrong += said is not None if expected is None else expected not in (said or "")
    blank = [rows for one in found.findings if one.kind == "blank" for rows in one.rows]
    names = {Path(found.catalog.paths[row]).name for rows in blank for row in rows}
    pairs = [
        {Path(found.catalog.paths[row]).stem for row in rows}
        for one in found.findings
        if one.kind == "conflict"
        for rows in one.rows
    ]
    known = [{"20805", "10408"}, {"glass115", "metal91"}]
    return {
        "odd files not called by their right name": wrong + (names != {"imageNotFound.gif"}),
        "odd pairs found as conflicts": sum(pair in pairs for pair in known),
    }


def main() -> None:
    given = options(__doc__, n=10**6, n_means="pictures of a set at most", quick_n=300, repeats=3)
    machine = describe()
    folders = {name: data_folder(name) for name in SETS}
    from tellapart.data.reading import read_catalog

    figures = []
    whole = not given.quick
    for name, folder in folders.items():
        catalog = some(read_catalog(folder), given.n)
        as_it_comes = inspected(catalog)
        found = counts(as_it_comes)
        exact = {"flowers102": (3, 1), "intel_scenes": (0, 0)}.get(name)
        for kind, known in zip(("duplicate", "leakage"), exact or (), strict=False):
            figure = Figure(f"{name}: {kind}, exact", [float(found.get(kind, 0))])
            limits = {"at_least": known} if known else {"at_most": 0}
            figures.append(replace(figure, **limits) if whole else figure)
        figures += [
            Figure(f"{name}: found as it comes, {kind}", [float(n)])
            for kind, n in found.items()
            if kind not in ("duplicate", "leakage", "set_aside")
        ]
        if name != "hymenoptera":
            before = set(as_it_comes.likely)
            runs = [spoilt(catalog, seed, before) for seed in range(given.repeats)]
            words = ("precision", "precision but for those suspect before", "recall")
            figures += [
                Figure(f"{name}: 5 % wrong labels, {word}", values)
                for word, values in zip(words, zip(*runs, strict=True), strict=True)
            ]
            with tempfile.TemporaryDirectory() as made:
                figures += [
                    Figure(f"{name}: found again, {what}", [share])
                    for what, share in found_again(some(catalog, 1000), Path(made)).items()
                ]
    with tempfile.TemporaryDirectory() as made:
        odd = odd_set(Path(made))
    for what, n in odd.items():
        limits = {"at_most": 0} if "not" in what else {"at_least": 2}
        figures.append(Figure(what, [float(n)], **limits))
    report("doctor", machine, given, figures)


if __name__ == "__main__":
    main()
