"""From files to features or activations: a frozen network, its runtime and what is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import (
    Digests,
    Filled,
    KeptSet,
    Paths,
    Runtime,
    fill,
    gather,
    kept_set,
)
from tellapart.backbones.device import Device
from tellapart.backbones.frozen import FrozenBackbone
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.ranks import ALONE, Ranks
from tellapart.backbones.weights import Weights
from tellapart.data.augmentation import Augmentation, read_views, view_generator
from tellapart.data.pixels import Pixels, Preprocessing, read_pixels
from tellapart.progress import Progress

if TYPE_CHECKING:
    from tellapart.backbones.network import Network


@dataclass(frozen=True)
class Computed:
    """Features of (N,) pictures, and what could not be read.

    values: (N, D) float16; rows in `unreadable` are zero.
    unreadable: row -> reason.
    n_computed: how many were computed now rather than found.
    """

    values: NDArray[np.float16]
    unreadable: dict[int, str]
    n_computed: int


@dataclass(frozen=True)
class Extractor:
    """A frozen graph from pixels to one output, ready to run over picture files.

    name: the backbone's, or what a classifier's manifest says it is.
    output: "features" (D,), or "activations": what enters a cut, (C, H, W) or (D,).
    ranks: those that share the work. All of them must then call the same methods in turn.
    """

    name: str
    graph: bytes
    preprocessing: Preprocessing
    runtime: Runtime
    output: str = "features"
    ranks: Ranks = ALONE

    def features(self, paths: Paths, digests: Digests, progress: Progress) -> Computed:
        """Return (N, D) float16 features of picture files: kept ones, and the rest computed.

        Of several ranks the first has them all, and the others none: (N, 0).
        """
        rows, files, own = self._own(paths, digests)
        kept, filled = self._plain(files, own, progress)
        values = self.ranks.whole(gather(own, kept), rows, len(digests))
        filled = self._together(filled, rows)
        return Computed(values, filled.unreadable, filled.n_computed)

    def plain(self, paths: Paths, digests: Digests, progress: Progress) -> tuple[KeptSet, Filled]:
        """Keep the output for the plain view of each picture; say what was done for it.

        Of several ranks each computes its share. The set then holds what lies in the cache
        folder of this one.
        """
        rows, files, own = self._own(paths, digests)
        kept, filled = self._plain(files, own, progress, must_keep=not self.ranks.alone)
        filled = self._together(filled, rows)
        kept.refresh()
        return kept, filled

    def own_features(self, paths: Paths, digests: Digests, progress: Progress) -> Computed:
        """Return the features of just these pictures, on this rank alone."""
        kept, filled = self._plain(paths, digests, progress)
        return Computed(gather(digests, kept), filled.unreadable, filled.n_computed)

    def _own(
        self, paths: Paths, digests: Digests
    ) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bytes_]]:
        """Return the rows that this rank computes, and their paths and digests."""
        files, known = np.asarray(paths, dtype=np.str_), np.asarray(digests, dtype="S32")
        rows = self.ranks.own(known)
        # Alone without a copy: of many, they lie on disk.
        return (rows, files, known) if self.ranks.alone else (rows, files[rows], known[rows])

    def _plain(
        self,
        paths: Paths,
        digests: Digests,
        progress: Progress,
        must_keep: bool = False,
    ) -> tuple[KeptSet, Filled]:
        kept = self._set("plain")
        read, runtime = self._read_plain, self.runtime
        return kept, fill(paths, digests, read, runtime, [kept], progress, must_keep)

    def _together(self, filled: Filled, rows: NDArray[np.int64]) -> Filled:
        """Join what all ranks did, each for its rows; wait until all are done."""
        own = {int(rows[row]): why for row, why in filled.unreadable.items()}
        done = self.ranks.gather(Filled(own, filled.n_computed))
        unreadable = {row: why for one in done for row, why in one.unreadable.items()}
        n_computed = sum(one.n_computed for one in done)
        return Filled(dict(sorted(unreadable.items())), n_computed)

    def n_lacking(self, digests: Digests) -> int:
        """Count those whose output for the plain view is not kept yet, by any rank for its own."""
        kept = self._set("plain")
        own = np.asarray(digests, dtype="S32")[self.ranks.own(digests)]
        return int(self.ranks.sums(int((~kept.has(own)).sum()))[0])

    def views(
        self,
        paths: Paths,
        digests: Digests,
        augmentation: Augmentation,
        numbers: Sequence[tuple[int, int]],
        progress: Progress,
    ) -> list[KeptSet]:
        """Keep the output for random views of each picture, each file decoded once for all.

        numbers: (seed, view) of each view; the same numbers are the same view in every run.
        """
        _, files, own = self._own(paths, digests)
        steps = [step.model_dump(mode="json") for step in augmentation]
        sets = [self._set(json.dumps([steps, seed, view])) for seed, view in numbers]

        def read(path: str, digest: bytes, wanted: tuple[int, ...]) -> list[Pixels]:
            drawn = [numbers[number] for number in wanted]
            generators = [view_generator(digest, view, seed) for seed, view in drawn]
            return read_views(path, self.preprocessing, augmentation, generators)

        fill(files, own, read, self.runtime, sets, progress, must_keep=not self.ranks.alone)
        self.ranks.wait()
        for kept in sets:
            kept.refresh()
        return sets

    def _set(self, view: str) -> KeptSet:
        return kept_set(self.name, self.graph, self.preprocessing, self.runtime, self.output, view)

    def _read_plain(self, path: str, digest: bytes, wanted: tuple[int, ...]) -> list[Pixels]:
        return [read_pixels(path, self.preprocessing)]


def open_extractor(
    frozen: FrozenBackbone,
    weights: Weights,
    preprocessing: Preprocessing,
    device: Device,
    flip: bool = False,
) -> Extractor:
    """Prepare a frozen backbone to give features on the device.

    flip: whether they are the mean over each picture and its mirror, as in the graph.
    """
    if device == "cpu":
        runtime: Runtime = OpenVinoRuntime(frozen.graph)
    else:
        from tellapart.backbones.network import build_network
        from tellapart.backbones.torch_runtime import TorchRuntime

        network = build_network(frozen.backbone, weights)
        runtime = TorchRuntime(network, preprocessing, device, flip=flip)
    return Extractor(frozen.backbone.name, frozen.graph, preprocessing, runtime)


def open_prefix(
    network: Network, preprocessing: Preprocessing, cut: str, device: Device
) -> Extractor:
    """Prepare the part of a network before a cut, with the weights it has now. Needs torch."""
    from tellapart.backbones.network import export_graph

    graph = export_graph(network, preprocessing, cut=cut)
    if device == "cpu":
        runtime: Runtime = OpenVinoRuntime(graph, "activations")
    else:
        from tellapart.backbones.torch_runtime import TorchRuntime

        runtime = TorchRuntime(network, preprocessing, device, stop=network.cut_index(cut))
    return Extractor(network.backbone.name, graph, preprocessing, runtime, "activations")


def open_finished(
    network: Network, graph: bytes, preprocessing: Preprocessing, device: Device, flip: bool = False
) -> Extractor:
    """Prepare a network that has learned, exported as `graph`, to give features. Needs torch."""
    if device == "cpu":
        runtime: Runtime = OpenVinoRuntime(graph)
    else:
        from tellapart.backbones.torch_runtime import TorchRuntime

        runtime = TorchRuntime(network, preprocessing, device, flip=flip)
    return Extractor(network.backbone.name, graph, preprocessing, runtime)
