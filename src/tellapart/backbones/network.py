"""A backbone as an ordered list of children and a head, its weights loaded and checked. (torch)"""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from tellapart.backbones.registry import Backbone
from tellapart.backbones.weights import Weights
from tellapart.data.pixels import Pixels, Preprocessing
from tellapart.errors import WeightsRefused

# Threads and runtimes differ by less than 1e-4 in these logits, the wrong padding by 0.69 or more,
# the wrong normalisation by 0.56 or more.
GOLDEN_TOLERANCE = 1e-2
GOLDEN_STEP = 125

# torchvision's files of these backbones call some weights otherwise than timm does.
RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "densenet121": ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
    "vgg16": (
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    ),
}


@dataclass(frozen=True)
class Network:
    """A backbone as an ordered list of children; running them in order gives the features.

    Attributes:
        model: the architecture, which owns all weights under its own names.
        children: (path, module), in the order of the forward pass, up to the input of the head.
            Parts of the model, apart from a flattening or pooling that its forward does itself.
    """

    backbone: Backbone
    model: nn.Module
    children: list[tuple[str, nn.Module]]

    @property
    def n_features(self) -> int:
        """D, the width of the features."""
        return self.backbone.n_features

    @property
    def head_name(self) -> str:
        """Path of the final linear layer in the model and in the state dict."""
        return self.backbone.head

    @property
    def head(self) -> nn.Module:
        """The final linear layer as it is in the model now: features (N, D) to logits (N, K).

        Another one is put in with `model.set_submodule(head_name, nn.Linear(D, K))`.
        """
        return self.model.get_submodule(self.head_name)

    def features(self, x: Tensor) -> Tensor:
        """Compute the features (N, D) of normalised pictures (N, 3, S, S)."""
        return self.features_and_maps(x)[0]

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the features (N, D), and the maps (N, D, H, W) whose average they are.

        The maps are None where hidden layers sit between them and the head (`backbone.maps`).
        """
        maps = None
        for name, child in self.children:
            x = child(x)
            if name == self.backbone.maps:
                maps = x
        return x, maps

    def state_dict(self) -> dict[str, Tensor]:
        """Return all weights under the architecture's own names."""
        return dict(self.model.state_dict())


def build_network(backbone: Backbone, weights: Weights | None) -> Network:
    """Build the backbone in inference mode, with these weights or (None) with random ones.

    Random weights come from torch's global generator, which the caller seeds. A packaged file is
    proved right by computing known numbers with it: nothing crashes when padding or
    normalisation is wrong, accuracy just falls (0.888 to 0.706 on ImageNet pictures).

    squeezenet: its own head is a 1x1 convolution, a ReLU and an average. Here the features are
    the average of the last maps and the head is the same weights as a linear layer, without that
    ReLU, so that learning a head is the same convex problem for all.

    Raises:
        WeightsRefused: the file holds something else than this backbone's weights.
    """
    if backbone.library == "timm":
        model: nn.Module = timm.create_model(backbone.name, pretrained=False)
    else:
        model = models.get_model(backbone.name, weights=None)
    model.eval()
    if weights is not None:
        _load(model, backbone, weights)
    network = Network(backbone, model, _children(model, backbone.head))
    if weights is not None and weights.sha256 == backbone.sha256:
        _check_golden(network, weights)
    return network


def export_graph(network: Network, preprocessing: Preprocessing) -> bytes:
    """Write the frozen network as ONNX, the same bytes each time.

    Input `pixels` (batch, S, S, 3) uint8 RGB; the normalisation is inside. Outputs `features`
    (batch, D) float32 and, where a class map exists, `maps` (batch, D, H, W) float32.
    """
    graph = copy.deepcopy(_Graph(network, preprocessing)).cpu().float().eval()
    outputs = ["features"] if network.backbone.maps is None else ["features", "maps"]
    size = preprocessing.size_px
    file = io.BytesIO()
    target: Any = file  # works, though the types of the exporter know only paths
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter that is to replace this one took 13.9 s instead of 0.96 s.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            graph,
            (torch.zeros(1, size, size, 3, dtype=torch.uint8),),
            target,
            input_names=["pixels"],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in ["pixels", *outputs]},
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


class Normalise(nn.Module):
    """Turn pixels (N, S, S, 3) uint8 into what the network takes, (N, 3, S, S) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise; the result is on the device of the pixels, where this module must be."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


def golden_picture(size_px: int) -> Pixels:
    """Draw the (S, S, 3) picture behind the golden logits; whole numbers only, so always equal."""
    y, x = np.mgrid[:size_px, :size_px]
    rings = (x * x + y * y) // 50
    return np.stack([(rings + (3 * c + 1) * x + 40 * c) % 256 for c in range(3)], -1).astype("u1")


def golden_logits(network: Network) -> Tensor:
    """Compute every 125th logit of the golden picture."""
    preprocessing = network.backbone.preprocessing
    pixels = torch.from_numpy(golden_picture(preprocessing.size_px))[None]
    with torch.no_grad():
        logits: Tensor = network.head(network.features(Normalise(preprocessing)(pixels)))
    return logits[0, ::GOLDEN_STEP]


class _Graph(nn.Module):
    """What is exported: normalisation and children, without the head."""

    def __init__(self, network: Network, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.parts = nn.ModuleList(child for _, child in network.children)
        self.normalise = Normalise(preprocessing)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features, maps = self.network.features_and_maps(self.normalise(pixels))
        return features if maps is None else (features, maps)


def _children(model: nn.Module, head_name: str) -> list[tuple[str, nn.Module]]:
    """List what runs before the head: top-level modules, containers expanded once."""
    children: list[tuple[str, nn.Module]] = []
    for name, module in _expanded(model, head_name):
        if name == head_name:
            break
        if isinstance(module, nn.Linear) and "flatten" not in dict(children):
            # alexnet's forward flattens by itself before its first linear layer
            children.append(("flatten", nn.Flatten()))
        children.append((name, module))
    head = model.get_submodule(head_name)
    if isinstance(head, nn.Conv2d):  # squeezenet, see build_network
        linear = nn.Linear(head.in_channels, head.out_channels)
        linear.load_state_dict(
            {
                name: weight.view(linear.get_parameter(name).shape)
                for name, weight in head.state_dict().items()
            }
        )
        model.set_submodule(head_name, linear)
        children += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    return children


def _expanded(model: nn.Module, head_name: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential) or head_name.startswith(f"{name}."):
            for inner, module in child.named_children():
                yield f"{name}.{inner}", module
        else:
            yield name, child


def _load(model: nn.Module, backbone: Backbone, weights: Weights) -> None:
    """Put the file's weights into the model, or refuse them whole."""
    own = model.state_dict()
    state = _read(weights)
    if weights.sha256 == backbone.sha256 and len(state) == len(own):
        # The packaged files have names of their own, in timm's order.
        state = dict(zip(own, state.values(), strict=True))
    else:
        state = _timm_names(state, backbone)
    for name, tensor in state.items():
        # vgg's first linear layers are convolutions in timm, squeezenet's head is linear in ours
        expected = own[name].shape if name in own else tensor.shape
        if {tensor.ndim, len(expected)} == {2, 4} and tensor.numel() == expected.numel():
            state[name] = tensor.reshape(expected)
    problems = _problems(own, state)
    if problems:
        shown = "; ".join(problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsRefused(
            f"The weights in {weights.path} ({weights.origin}) are not those of {backbone.name}: "
            f"{shown}{more}. Expected was a state dict with the {len(own)} entries of "
            f"{backbone.library}'s {backbone.name}. Nothing was loaded. Name the right file with "
            "--weights, or the backbone that these weights belong to with --backbone."
        )
    # not strict: old files lack num_batches_tracked, which inference does not use
    model.load_state_dict(state, strict=False)


def _read(weights: Weights) -> dict[str, Tensor]:
    """Read a file of weights without ever running code from it."""
    try:
        if weights.path.suffix == ".safetensors":
            content: Any = load_file(weights.path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd pickles, which are refused anyway
                content = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, no such format, or a pickle that holds code
        raise _unreadable(weights, f"it cannot be read safely ({type(error).__name__})") from error
    for wrapper in ("state_dict", "model", "model_state"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise _unreadable(weights, f"it holds a {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _unreadable(weights, f"its entry {name!r} is a {type(value).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _unreadable(weights: Weights, reason: str) -> WeightsRefused:
    return WeightsRefused(
        f"{weights.path} ({weights.origin}) is no file of weights: {reason}. Expected was a state "
        "dict of tensors, bare or under 'state_dict', saved by torch or as safetensors; other "
        "pickles can hold code and are never opened. Nothing was loaded. Save the weights with "
        "torch.save(model.state_dict(), FILE) and name that FILE with --weights."
    )


def _timm_names(state: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        # inception's auxiliary head only helps training from nothing; ours has none
        if backbone.name == "inception_v3" and name.startswith("AuxLogits."):
            continue
        new_name = name
        for pattern, replacement in RENAMES.get(backbone.name, ()):
            new_name = re.sub(pattern, replacement, new_name)
        renamed[new_name] = tensor
    return renamed


def _problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    missing = [
        f"{name} is missing"
        for name in own
        if name not in state and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [f"{name} is unexpected" for name in state if name not in own]
    return shapes + missing + unexpected


def _check_golden(network: Network, weights: Weights) -> None:
    """Refuse a network that does not compute what these weights computed when they were pinned."""
    golden = network.backbone.golden
    logits = golden_logits(network)
    if golden is None or (logits - torch.tensor(golden)).abs().max() <= GOLDEN_TOLERANCE:
        return
    raise WeightsRefused(
        f"{network.backbone.name} with the weights in {weights.path} ({weights.origin}) computes "
        f"{[round(value, 2) for value in logits.tolist()]} for a test picture; expected was "
        f"{[round(value, 2) for value in golden]}. Padding or normalisation of the network are not "
        f"those the weights were trained with, so it was not used. timm {timm.__version__} may "
        "build it otherwise than earlier versions: install the one tellapart was tested with, or "
        "choose another backbone with --backbone."
    )
