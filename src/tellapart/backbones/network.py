"""A backbone as an ordered list of children and a head, its weights loaded and checked. (torch)"""

from __future__ import annotations

import copy
import difflib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.onnx.symbolic_helper import parse_args
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic
from torchvision import models

from tellapart.backbones.joining import Joined, side_by_side
from tellapart.backbones.registry import Backbone, find_backbone
from tellapart.backbones.weights import Weights
from tellapart.data.pixels import Pixels, Preprocessing
from tellapart.errors import UnknownCut, WeightsRefused

# Threads and runtimes differ by less than 1e-4 in these logits, the wrong padding by 0.69 or more,
# the wrong normalisation by 0.56 or more.
GOLDEN_TOLERANCE = 1e-2
GOLDEN_STEP = 125

# Of the ONNX that is written.
OPSET = 17

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

    It can be cut before any child: those before the cut are the frozen prefix, the others and
    the head are the suffix that learns.

    Attributes:
        model: the architecture, which owns all weights under its own names.
        children: (path, module), in the order of the forward pass, up to the input of the head.
            Parts of the model, apart from a flattening or pooling that its forward does itself.
            None of them overwrites its input.
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
        """The final linear layer as it is in the model now: features (N, D) to logits (N, K)."""
        return self.model.get_submodule(self.head_name)

    @property
    def cuts(self) -> tuple[str, ...]:
        """Where its stages start, in order: the cuts that are shown to people."""
        return self.backbone.cuts

    def cut_index(self, cut: str) -> int:
        """Return the index among the children of the first one that learns.

        cut: the path of a child ("layer4.1"), or of something that holds children ("layer4" is
            the first child in it), or of the head: then all children are frozen.

        Raises:
            UnknownCut: there is no such part; the message suggests the nearest.
        """
        names = [*(name for name, _ in self.children), self.head_name]
        for index, name in enumerate(names):
            if name == cut or name.startswith(f"{cut}."):
                return index
        near = [name for name in names if cut.startswith(f"{name}.")] or (
            difflib.get_close_matches(cut, [*self.cuts, *names], n=1)
        )
        raise UnknownCut(
            f'{self.backbone.name} has no part "{cut}" to cut at.'
            f"{f' Did you mean {near[0]!r}?' if near else ''} Its stages start at "
            f"{', '.join(self.cuts)}; the cut is the first part that learns. Nothing was trained. "
            f"`tellapart backbones show {self.backbone.name}` lists all parts that can be named."
        )

    def part(self, start: int, stop: int | None = None) -> nn.Sequential:
        """Return children[start:stop] as one module, which shares them."""
        return nn.Sequential(*(child for _, child in self.children[start:stop]))

    def suffix(self, cut: str) -> nn.Sequential:
        """Return what learns, as one module: activations that enter the cut to logits (N, K).

        It shares the children from the cut on, and the head as it is now.

        Raises:
            UnknownCut.
        """
        return nn.Sequential(*self.part(self.cut_index(cut)), self.head)

    def new_head(self, n_classes: int, how: Literal["new", "xavier"] = "new") -> None:
        """Put in a random head, drawn by torch's global generator.

        "new": as a linear layer comes. "xavier": its weight is Glorot-uniform (Glorot and
        Bengio 2010), its bias still as it comes.
        """
        head = nn.Linear(self.n_features, n_classes)
        if how == "xavier":
            nn.init.xavier_uniform_(head.weight)
        self._put_head(head)

    def set_head(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """Put in the head with weight (K, D) and bias (K,)."""
        # on "meta" no number is drawn only to be replaced
        head = nn.Linear(self.n_features, len(bias), device="meta")
        values = {"weight": torch.tensor(weight), "bias": torch.tensor(bias)}
        head.load_state_dict(values, assign=True)
        self._put_head(head)

    def _put_head(self, head: nn.Linear) -> None:
        self.model.set_submodule(self.head_name, head.to(next(self.head.parameters()).device))

    def features(self, x: Tensor) -> Tensor:
        """Compute the features (N, D) of normalised pictures (N, 3, S, S)."""
        return self.features_and_maps(x)[0]

    def features_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the features (N, D), and the maps (N, D, H, W) whose average they are.

        The maps are None where hidden layers sit between them and the head (`backbone.maps`).
        """
        return _run(self.children, self.backbone.maps, x)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all weights under the architecture's own names."""
        return dict(self.model.state_dict())


def build_network(backbone: Backbone, weights: Weights | None) -> Network:
    """Build the backbone in inference mode, with these weights or (None) with random ones.

    Weights whose head is for another number of classes are taken without it: a fresh head for
    1000 stands in its place.
    Without weights, random ones come from torch's global generator, which the caller seeds; with
    weights that generator is left as it was, and what they do not say (`random_weights`, a fresh
    head) depends on their seed alone. A packaged file is proved right by computing known numbers
    with it: nothing crashes when padding or normalisation is wrong, accuracy just falls (0.888 to
    0.706 on ImageNet pictures).

    squeezenet: its own head is a 1x1 convolution, a ReLU and an average. Here the features are
    the average of the last maps and the head is the same weights as a linear layer, without that
    ReLU, so that learning a head is the same convex problem for all.

    Raises:
        WeightsRefused: they are something else than this backbone's weights.
    """
    with torch.random.fork_rng(devices=[], enabled=weights is not None):
        if weights is not None:
            # torch.manual_seed would seed accelerators too, whose state is not put back.
            torch.default_generator.manual_seed(weights.seed or 0)
        if backbone.joined:
            parts = weights.joined if weights and weights.joined else (None, None)
            networks = [
                build_network(find_backbone(name), part)
                for name, part in zip(backbone.joined, parts, strict=True)
            ]
            network = _side_by_side(backbone, *networks)
        elif backbone.library == "timm":
            model: nn.Module = timm.create_model(backbone.name, pretrained=False)
            network = Network(backbone, model.eval(), _children(model, backbone.head))
        else:
            model = models.get_model(backbone.name, weights=None)
            network = Network(backbone, model.eval(), _children(model, backbone.head))
        if weights is not None and weights.seed is None and not weights.joined:
            _load(network.model, backbone, weights)
    if weights is not None and weights.sha256 == backbone.sha256:
        _check_golden(network, weights)
    return network


def export_graph(
    network: Network,
    preprocessing: Preprocessing,
    *,
    cut: str | None = None,
    flip: bool = False,
) -> bytes:
    """Write the frozen network as ONNX, the same bytes each time.

    Input `pixels` (batch, S, S, 3) uint8 RGB; the normalisation is inside. Outputs `features`
    (batch, D) float32 and, where a class map exists, `maps` (batch, D, H, W) float32; with a cut
    `activations` (batch, C, H, W) or (batch, D) float32 alone, which is what enters the cut.

    flip: the features are the mean of those of the picture and of its mirror; the maps are the
        picture's. Not together with a cut: activations are of one view.

    Raises:
        UnknownCut.
    """
    if cut is not None and flip:
        raise ValueError("activations at a cut are of one view: flip is for the features")
    stop = None if cut is None else network.cut_index(cut)
    has_maps = cut is None and network.backbone.maps is not None
    outputs = ["activations"] if cut is not None else ["features", "maps"][: 1 + has_maps]
    size = preprocessing.size_px
    pixels = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    return _to_onnx(Frozen(network, preprocessing, stop, flip, has_maps), "pixels", pixels, outputs)


def export_tail(network: Network, cut: str, activation_shape: tuple[int, ...]) -> bytes:
    """Write the network from a cut on, without its head, as ONNX; the same bytes each time.

    Input `activations` (batch, ...) float32, output `features` (batch, D) float32.

    activation_shape: of one picture at the cut, (C, H, W) or (D,).

    Raises:
        UnknownCut.
    """
    tail = network.part(network.cut_index(cut))
    return _to_onnx(tail, "activations", torch.zeros(1, *activation_shape), ["features"])


class Frozen(nn.Module):
    """The frozen part of a network as one module: pixels (N, S, S, 3) uint8 to what it gives.

    Args:
        stop: how many of the children run; None: all, which gives the features.
        flip: average the features over each picture and its mirror.
        maps: give (features, maps of the plain picture) instead.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        stop: int | None = None,
        flip: bool = False,
        maps: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.parts = network.part(0, stop)
        self._names = [name for name, _ in network.children[:stop]]
        self._maps = network.backbone.maps if maps else None
        self._flip = flip

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Compute what this part gives, in float32."""
        if self._flip:
            pixels = torch.cat([pixels, pixels.flip(2)])
        children = zip(self._names, self.parts, strict=True)
        x, maps = _run(children, self._maps, self.normalise(pixels))
        if self._flip:
            x = x.reshape(2, -1, *x.shape[1:]).mean(0)
            maps = None if maps is None else maps.reshape(2, -1, *maps.shape[1:])[0]
        return x if maps is None else (x, maps)


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


def _run(
    children: Iterable[tuple[str, nn.Module]], maps_name: str | None, x: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Run children in order; return what comes out, and what the child of that name gave."""
    maps = None
    for name, child in children:
        x = child(x)
        if name == maps_name:
            maps = x
    return x, maps


def _to_onnx(module: nn.Module, name: str, example: Tensor, outputs: list[str]) -> bytes:
    """Write a copy of a module in inference mode, with one input and a free batch size."""
    frozen = copy.deepcopy(module).cpu().float().eval()
    file = io.BytesIO()
    target: Any = file  # works, though the types of the exporter know only paths
    with torch.no_grad(), _adaptive_pooling_exported(), warnings.catch_warnings():
        # It warns that another exporter is to replace it, which took 13.9 s instead of 0.96 s, and
        # that vgg looks at the size of its input, which is the same for all pictures.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            frozen,
            (example,),
            target,
            input_names=[name],
            output_names=outputs,
            dynamic_axes={axes: {0: "batch"} for axes in [name, *outputs]},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


@contextmanager
def _adaptive_pooling_exported() -> Iterator[None]:
    """Let the exporter write pooling to any size; its own takes only whole factors.

    alexnet pools whatever comes to 6 x 6, and vgg what is smaller to 7 x 7.
    """
    operator = "aten::adaptive_avg_pool2d"
    register_custom_op_symbolic(operator, _pooling_as_products, OPSET)
    try:
        yield
    finally:
        unregister_custom_op_symbolic(operator, OPSET)


@parse_args("v", "is")
def _pooling_as_products(graph: Any, x: Any, size: list[int]) -> Any:
    """Write (N, C, H, W) pooled to the size as (size[0], H) times x times (W, size[1])."""
    if size == [1, 1]:
        return graph.op("GlobalAveragePool", x)
    rows, columns = (
        functional.adaptive_avg_pool1d(torch.eye(side)[None], wanted)[0]
        for side, wanted in zip(x.type().varyingSizes()[2:], size, strict=True)
    )
    left, right = (
        graph.op("Constant", value_t=matrix.contiguous()) for matrix in (rows.T, columns)
    )
    return graph.op("MatMul", graph.op("MatMul", left, x), right)


def _side_by_side(backbone: Backbone, first: Network, second: Network) -> Network:
    """Join two networks; the head is a fresh one for their features together."""
    names = [name for name, _ in first.children]
    pooling = names[names.index(str(first.backbone.maps)) + 1]
    children = side_by_side(first.children, second.children, (*backbone.cuts, pooling))
    n_classes = first.head.get_parameter("weight").shape[0]
    for network in (first, second):
        network.model.set_submodule(network.head_name, nn.Identity())
    model = Joined(first.model, second.model, backbone.n_features, n_classes)
    return Network(backbone, model.eval(), children)


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
    for _, child in children:
        if isinstance(child, nn.ReLU | nn.Hardswish):
            # What enters a cut may be kept, and is not to be changed by what learns.
            child.inplace = False
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
    if _head_of_other_classes(own, state, backbone.head):
        state |= {name: own[name] for name in _head_entries(backbone.head)}
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


def _head_entries(head: str) -> tuple[str, str]:
    return f"{head}.weight", f"{head}.bias"


def _head_of_other_classes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: str
) -> bool:
    """Whether the head fits the features, and only the number of classes is not ours."""
    if any(name not in state for name in _head_entries(head)):
        return False
    weight, bias = (state[name] for name in _head_entries(head))
    width = own[f"{head}.weight"].shape[1:].numel()
    return (
        weight.ndim > 1
        and len(weight) != len(own[f"{head}.weight"])
        and weight.shape[1:].numel() == width
        and bias.shape == weight.shape[:1]
    )


def _read(weights: Weights) -> dict[str, Tensor]:
    """Read weights without ever running code from them."""
    try:
        if weights.data is not None:
            content: Any = load(weights.data)
        elif weights.path.suffix == ".safetensors":
            content = load_file(weights.path)
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
