"""From files to features: a frozen backbone, its runtime and what is kept, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tellapart.backbones.activations import Computed, Runtime, compute, kept_set
from tellapart.backbones.device import Device, choose_device
from tellapart.backbones.frozen import FrozenBackbone, freeze
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import Backbone, find_backbone
from tellapart.backbones.weights import Weights, find_weights
from tellapart.data.pixels import read_pixels
from tellapart.progress import Progress


@dataclass(frozen=True)
class Extractor:
    """A backbone with its weights, ready to turn picture files into features."""

    backbone: Backbone
    weights: Weights
    frozen: FrozenBackbone
    runtime: Runtime
    device: Device

    def features(
        self, paths: Sequence[str], digests: Sequence[bytes], progress: Progress
    ) -> Computed:
        """Return (N, D) float16 features of picture files: kept ones, and the rest computed."""
        preprocessing = self.backbone.preprocessing
        kept = kept_set(
            self.backbone.name, self.frozen.graph, preprocessing, self.runtime, "features"
        )
        read = partial(read_pixels, preprocessing=preprocessing)
        if self.frozen.not_kept:
            progress.say(f"Going on without keeping the network: {self.frozen.not_kept}")
        return compute(paths, digests, read, self.runtime, kept, progress)


def open_extractor(name: str, weights_file: Path | None, device: str) -> Extractor:
    """Find a backbone and its weights, and prepare it for the device.

    Raises:
        UnknownBackbone, WeightsNotFound, WeightsRefused, MissingExtra, DeviceNotAvailable.
    """
    backbone = find_backbone(name)
    chosen = choose_device(device)
    weights = find_weights(backbone, weights_file)
    frozen = freeze(backbone, weights)
    if chosen == "cpu":
        runtime: Runtime = OpenVinoRuntime(frozen.graph)
    else:
        from tellapart.backbones.network import build_network
        from tellapart.backbones.torch_runtime import TorchRuntime

        network = build_network(backbone, weights)
        runtime = TorchRuntime(network, backbone.preprocessing, chosen)
    return Extractor(backbone, weights, frozen, runtime, chosen)
