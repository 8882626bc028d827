"""A gallery without labels, seen through a network: files -> digests -> kept features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import Digests, Filled, KeptSet, Paths
from tellapart.backbones.cache import prune
from tellapart.backbones.device import choose_device
from tellapart.backbones.extractor import Extractor, open_extractor
from tellapart.backbones.frozen import freeze
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import DEFAULT_BACKBONE, find_backbone
from tellapart.backbones.weights import find_weights
from tellapart.bundle.bundle import Bundle
from tellapart.data.catalog import SetAside, no_folder, tell_not_entered, walk
from tellapart.data.columns import blocks
from tellapart.data.hashing import hash_files
from tellapart.data.pixels import decode_many
from tellapart.data.thumbnails import shrunk, webp
from tellapart.errors import DataNotFound, NoReadablePicture, UnreadablePicture
from tellapart.evaluation.sheet import Contact
from tellapart.progress import Progress
from tellapart.stores import place, shown

# Pictures whose features are in memory at once.
BATCH = 2048


def look(
    eyes: Extractor, paths: Paths, digests: Digests, progress: Progress
) -> tuple[KeptSet, Filled]:
    """Return the kept features of the files, and what was done for it; the cache stays bounded."""
    kept, filled = eyes.plain(paths, digests, progress)
    prune()
    return kept, filled


def open_eyes(
    backbone: str | None = None,
    bundle: Bundle | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Extractor:
    """Prepare a backbone by name, or the network of a classifier, which needs no torch ever.

    Raises:
        UnknownBackbone, WeightsNotFound, MissingExtra, DeviceNotAvailable.
    """
    if bundle is not None:
        manifest = bundle.manifest
        runtime = OpenVinoRuntime(bundle.graph)
        return Extractor(manifest.backbone, bundle.graph, manifest.preprocessing, runtime)
    found = find_backbone(backbone or DEFAULT_BACKBONE)
    chosen = choose_device(device)
    weights = find_weights(found)
    frozen = freeze(found, weights)
    if frozen.not_kept and progress:
        progress.say(f"Going on without keeping the network: {frozen.not_kept}")
    return open_extractor(frozen, weights, found.preprocessing, chosen)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The readable pictures below a folder, and the features of the different ones among them.

    paths: (N,) absolute, in the order of the walk. digests: (N,). different: (U,) digests, each
    once, in order of their first picture; picture: (N,) which of them each path is.
    left: what was not used, and why.
    """

    root: Path
    paths: tuple[str, ...]
    digests: tuple[bytes, ...]
    different: tuple[bytes, ...]
    picture: NDArray[np.int64]
    kept: KeptSet
    left: tuple[SetAside, ...]
    n_computed: int

    def batches(self) -> Iterator[NDArray[np.float16]]:
        """Yield the features (n, D) of the different pictures, in order, in bounded memory."""
        return batches(self.kept, self.different)

    def relative(self, row: int) -> str:
        """Return a path below the gallery, parts joined by "/"."""
        return place(self.paths[row]).relative_to(self.root).as_posix()


def batches(kept: KeptSet, digests: Sequence[bytes]) -> Iterator[NDArray[np.float16]]:
    """Yield kept features (n, D) in order of the digests, all of which are kept."""
    for part in blocks(len(digests), BATCH):
        yield kept.rows(digests[part])
        kept.forget()


def open_gallery(folder: str | Path, eyes: Extractor, progress: Progress) -> Gallery:
    """Find the pictures below a folder, and look at those whose features are not kept yet.

    Raises:
        DataNotFound: no folder. NoReadablePicture: there is no picture that can be read.
    """
    root = place(folder).absolute()
    paths, left = find_pictures(root, progress)
    hashed, unopened = hash_files(paths, root, progress)
    digests: list[bytes] = hashed.tolist()
    able = [row for row in range(len(paths)) if row not in unopened]
    there = [paths[row] for row in able]
    known = [digests[row] for row in able]
    kept, filled = look(eyes, there, known, progress)
    left += [SetAside(paths[row], why) for row, why in unopened.items()]
    left += [SetAside(there[row], why) for row, why in filled.unreadable.items()]
    read = [row for row in range(len(there)) if row not in filled.unreadable]
    if not read:
        last = f" The first, {shown(left[-1].path)}, {left[-1].reason}." if left else ""
        raise NoReadablePicture(
            f"None of the {len(paths)} pictures below {shown(root)} could be read.{last} Nothing "
            f"was written. Check the files and their permissions."
        )
    first: dict[bytes, int] = {}
    picture = [first.setdefault(known[row], len(first)) for row in read]
    return Gallery(
        root,
        tuple(there[row] for row in read),
        tuple(known[row] for row in read),
        tuple(first),
        np.array(picture, dtype=np.int64),
        kept,
        tuple(left),
        filled.n_computed,
    )


def find_pictures(root: Path, progress: Progress) -> tuple[list[str], list[SetAside]]:
    """List the picture files below a folder that a table can name, and those it cannot.

    Raises:
        DataNotFound, NoReadablePicture.
    """
    trouble = no_folder(root)
    if trouble:
        raise DataNotFound(
            f"{shown(root)} {trouble}. Expected a folder of pictures. Nothing was read. Check "
            f"the path."
        )
    aside: list[SetAside] = []
    paths, left = [], []
    for path in walk(root, aside.append):
        try:
            path.encode()
            paths.append(path)
        except UnicodeEncodeError:
            said = path.encode(errors="backslashreplace").decode()
            left.append(SetAside(said, "has a name that is not valid UTF-8; rename it"))
    tell_not_entered(aside, progress)
    if not paths:
        raise NoReadablePicture(
            f"There are no pictures below {shown(root)}. Expected files such as .jpg or .png; "
            f"folders are looked through, hidden ones are not. Nothing was written. Check the path."
        )
    return paths, left


def contacts(paths: Sequence[str], notes: Sequence[str], side_px: int) -> list[Contact]:
    """Make pictures small for a page, each with its note; one that is gone since is left out."""

    def small(path: str) -> bytes:
        return webp(shrunk(path, side_px))

    return [
        Contact(one, Path(path).name, note)
        for path, note, one in zip(paths, notes, decode_many(paths, small), strict=True)
        if not isinstance(one, UnreadablePicture)
    ]
