"""From files to features or activations: a frozen network, its runtime and what is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import (
    Filled,
    KeptSet,
    Runtime,
    fill,
    gather,
    kept_set,
)
from tellapart.backbones.device import Device
from tellapart.backbones.frozen import FrozenBackbone
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
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
    """

    name: str
    graph: bytes
    preprocessing: Preprocessing
    runtime: Runtime
    output: str = "features"

    def features(
        self, paths: Sequence[str], digests: Sequence[bytes], progress: Progress
    ) -> Computed:
        """Return (N, D) float16 features of picture files: kept ones, and the rest computed."""
        kept, filled = self.plain(paths, digests, progress)
        return Computed(gather(digests, kept), filled.unreadable, filled.n_computed)

    def plain(
        self, paths: Sequence[str], digests: Sequence[bytes], progress: Progress
    ) -> tuple[KeptSet, Filled]:
        """Keep the output for the plain view of each picture; say what was done for it."""
        kept = self._set("plain")
        return kept, fill(paths, digests, self._read_plain, self.runtime, [kept], progress)

    def n_lacking(self, digests: Sequence[bytes]) -> int:
        """Count those whose output for the plain view is not kept yet."""
        kept = self._set("plain")
        return sum(digest not in kept for digest in digests)

    def views(
        self,
        paths: Sequence[str],
        digests: Sequence[bytes],
        augmentation: Augmentation,
        numbers: Sequence[tuple[int, int]],
        progress: Progress,
    ) -> list[KeptSet]:
        """Keep the output for random views of each picture, each file decoded once for all.

        numbers: (seed, view) of each view; the same numbers are the same view in every run.
        """
        steps = [step.model_dump(mode="json") for step in augmentation]
        sets = [self._set(json.dumps([steps, seed, view])) for seed, view in numbers]

        def read(path: str, digest: bytes, wanted: tuple[int, ...]) -> list[Pixels]:
            drawn = [numbers[number] for number in wanted]
            generators = [view_generator(digest, view, seed) for seed, view in drawn]
            return read_views(path, self.preprocessing, augmentation, generators)

        fill(paths, digests, read, self.runtime, sets, progress)
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
