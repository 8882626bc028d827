"""A classifier as a torch program, and its weights under the architecture's own names. (torch)"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torchvision import models

from tellapart.backbones.network import Frozen, Network, Normalise, build_network
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import Backbone, find_backbone
from tellapart.backbones.weights import Weights
from tellapart.bundle.bundle import Bundle
from tellapart.bundle.export import Answer
from tellapart.errors import CannotExport, UnknownBackbone


class _Calibrated(nn.Module):
    """Pixels (N, S, S, 3) uint8 to probabilities (N, K)."""

    def __init__(self, features: nn.Module, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.features, self.head, self.temperature = features, head, temperature

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.head(self.features(pixels))
        return torch.softmax(logits / self.temperature, dim=1)


def write_program(bundle: Bundle, path: Path, facts: dict[str, Any]) -> Answer:
    """Write a torch.export program, which torch alone loads; return what it computes.

    Not TorchScript, which torch has deprecated. The batch size is free; the class names are in
    the extra file "classes.json".

    Raises:
        CannotExport: the bundle's backbone is none of the registry.
    """
    network = _network(bundle)
    manifest = bundle.manifest
    flip = bool(manifest.recipe.get("flip_at_test"))
    frozen = Frozen(network, manifest.preprocessing, flip=flip)
    whole = _Calibrated(frozen, network.head, manifest.calibration.temperature).eval()
    size = manifest.preprocessing.size_px
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own parts that are to change
        shapes = {"pixels": {0: torch.export.Dim("batch")}}
        program = torch.export.export(whole, (example,), dynamic_shapes=shapes)
        torch.export.save(
            program, str(path), extra_files={"classes.json": json.dumps(facts["classes"])}
        )
        loaded = torch.export.load(str(path)).module()
    return lambda pixels: _numbers(loaded, pixels)


def write_state_dict(bundle: Bundle, path: Path, facts: dict[str, Any]) -> Answer:
    """Write the weights so that timm's or torchvision's own model loads them; return its answers.

    The answers are those of that model, freshly built, after `load_state_dict(strict=True)`.

    Raises:
        CannotExport: the bundle's backbone is none of the registry, or joined of two.
    """
    manifest = bundle.manifest
    model = _own_model(bundle)
    own = model.state_dict()
    state = {
        name: value.reshape(own[name].shape).contiguous() if name in own else value
        for name, value in load(bundle.weights).items()
    }
    note = {"classes": json.dumps(facts["classes"]), "architecture": manifest.backbone}
    path.write_bytes(save(state, note))
    model.load_state_dict(load_file(path), strict=True)
    normalise = Normalise(manifest.preprocessing)
    flip = bool(manifest.recipe.get("flip_at_test"))

    def answer(pixels: Tensor) -> Tensor:
        x = normalise(pixels)
        logits = (model(x) + model(x.flip(3))) / 2 if flip else model(x)
        return torch.softmax(logits / manifest.calibration.temperature, dim=1)

    model.eval()
    return lambda pixels: _numbers(answer, pixels)


def _numbers(answer: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        # In parts: all at once would need gigabytes.
        parts = np.array_split(pixels, math.ceil(len(pixels) / 8))
        answers = [answer(torch.from_numpy(part.copy())) for part in parts]
    result: NDArray[np.float32] = torch.cat(answers).numpy()
    return result


def _network(bundle: Bundle) -> Network:
    """Build the network of a bundle, with its weights and its head."""
    manifest, backbone = bundle.manifest, _backbone(bundle)
    weights = Weights(
        bundle.path,
        manifest.sha256["weights.safetensors"],
        manifest.weights_origin,
        manifest.backbone_licence,
        bundle.weights,
    )
    network = build_network(backbone, weights)
    runtime = OpenVinoRuntime(bundle.graph)
    network.set_head(runtime.constant("head.weight"), runtime.constant("head.bias"))
    return network


def _own_model(bundle: Bundle) -> nn.Module:
    """Build the architecture as its library does, with a head for the bundle's classes."""
    backbone, n_classes = _backbone(bundle), bundle.manifest.n_classes
    if backbone.joined:
        raise CannotExport(
            f"{bundle.path} holds {backbone.name}, which is {' and '.join(backbone.joined)} side "
            f"by side: no library has one architecture for both, so there is no state dict that it "
            f"would load. Nothing was written. Export it whole, --to torch, onnx or openvino, or "
            f"train with one of the two."
        )
    if backbone.library == "timm":
        model: nn.Module = timm.create_model(backbone.name, pretrained=False, num_classes=n_classes)
    else:
        model = models.get_model(backbone.name, weights=None, num_classes=n_classes)
    return model


def _backbone(bundle: Bundle) -> Backbone:
    try:
        return find_backbone(bundle.manifest.backbone)
    except UnknownBackbone as error:
        raise CannotExport(
            f"{bundle.path} was trained on {bundle.manifest.backbone!r}, which is no backbone of "
            f"this version: its weights have no torch architecture to go into. Nothing was "
            f"written. Its graph can be exported: --to onnx, openvino or web."
        ) from error
