"""Cutting: a prefix and a suffix are the network, wherever it is cut and whatever runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tellapart.backbones.network import (
    Frozen,
    Network,
    Normalise,
    build_network,
    export_graph,
    export_tail,
)
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import BACKBONES, Backbone, find_backbone
from tellapart.data.pixels import Pixels, Preprocessing
from tellapart.errors import UnknownCut

Build = Callable[[Backbone], Network]
Size = Callable[[Backbone], int]

# One small backbone of each kind; the others are left to the long run where weights are drawn.
SMALL = {
    "tf_efficientnet_lite0",
    "resnet18",
    "mobilenetv3_large_100",
    "densenet121",
    "alexnet",
    "squeezenet1_1",
    "convnext_tiny",
}
# Those that are exported in a second or two.
QUICK = {"resnet18", "squeezenet1_1"}
LITE0 = find_backbone("lite0")
RESNET18 = find_backbone("resnet18")
SQUEEZENET = find_backbone("squeezenet1_1")


def marked(*values: Any, slow: bool) -> Any:
    """Name a case after its values, and leave it to the long run if it is slow."""
    name = "-".join(str(getattr(value, "name", value)) for value in values)
    return pytest.param(*values, id=name, marks=[pytest.mark.slow] if slow else [])


DRAWN = [marked(backbone, slow=backbone.name not in SMALL) for backbone in BACKBONES]
EXPORTED = [marked(backbone, slow=backbone.name not in QUICK) for backbone in BACKBONES]


def some_pixels(n: int, size_px: int) -> Pixels:
    """Draw (n, S, S, 3) pixels."""
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def at(backbone: Backbone, size_px: int) -> Preprocessing:
    """Take the backbone's own preprocessing, for another size."""
    return replace(backbone.preprocessing, size_px=size_px)


def through_openvino(graph: bytes, values: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Compute all outputs of a graph in 32 bits, without rounding them afterwards."""
    compiled = ov.Core().compile_model(
        ov.Core().read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = compiled(values)
    return {output.get_any_name(): found[output] for output in compiled.outputs}


def assert_near(found: NDArray[Any], expected: NDArray[Any], tolerance: float = 1e-4) -> None:
    """Compare to a part of the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("backbone", DRAWN)
def test_prefix_and_suffix_are_the_network(
    backbone: Backbone, lively: Build, small_input: Size
) -> None:
    """Cut at any child, the two parts give the whole's logits to the last bit.

    What enters the cut is left as it was, so it can be kept and used again.
    """
    network, size = lively(backbone), small_input(backbone)
    x = torch.randn(2, 3, size, size)
    names = [*(name for name, _ in network.children), network.head_name]
    children = [child for _, child in network.children]
    with torch.no_grad():
        whole = network.head(network.features(x))
        activations = x
        for index, name in enumerate(names):
            assert network.cut_index(name) == index
            assert list(network.part(0, index)) == children[:index]
            # A prefix is the one before it and one child more: not all of it is run each time.
            activations = network.part(max(index - 1, 0), index)(activations)
            before = activations.clone()
            assert torch.equal(network.suffix(name)(activations), whole)
            assert torch.equal(activations, before)
    assert whole.std() > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_stages_can_be_cut_in_their_order(backbone: Backbone) -> None:
    """The first cut freezes nothing; each later one freezes more; the tail's is one of them."""
    with torch.device("meta"):
        network = build_network(backbone, None)
    indices = [network.cut_index(cut) for cut in network.cuts]
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert backbone.tail in network.cuts
    for start, stop in zip(indices, [*indices[1:], None], strict=True):
        assert list(network.part(start, stop).parameters())


@pytest.mark.parametrize(
    ("backbone", "cut"),
    [
        marked(backbone, cut, slow=backbone.name not in QUICK | {"alexnet"} or cut != backbone.tail)
        for backbone in BACKBONES
        for cut in (backbone.cuts if backbone.name in SMALL else [backbone.tail])
    ],
)
def test_exported_prefix_and_tail_give_the_features_of_the_whole(
    backbone: Backbone, cut: str, lively: Build, small_input: Size
) -> None:
    """OpenVINO on both halves gives what torch gives on the whole, for any batch."""
    network, preprocessing = lively(backbone), at(backbone, small_input(backbone))
    pixels = some_pixels(3, preprocessing.size_px)
    prefix = export_graph(network, preprocessing, cut=cut)
    found = through_openvino(prefix, pixels)
    assert list(found) == ["activations"]
    tail = export_tail(network, cut, found["activations"].shape[1:])
    features = through_openvino(tail, found["activations"])
    assert list(features) == ["features"]
    with torch.no_grad():
        expected = network.features(Normalise(preprocessing)(torch.from_numpy(pixels)))
    assert_near(features["features"], expected.numpy(), 1e-3)


@pytest.mark.parametrize("backbone", DRAWN)
def test_a_step_changes_what_learns_and_nothing_else(
    backbone: Backbone, lively: Build, small_input: Size
) -> None:
    """A small step down the gradient of the suffix lowers the loss; the prefix keeps every bit."""
    network, size = lively(backbone), small_input(backbone)
    network.new_head(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cut = network.cut_index(backbone.tail)
    labels = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        activations = network.part(0, cut)(torch.randn(4, 3, size, size))
    suffix = network.suffix(backbone.tail)
    # SGD's step would be lost in the rounding of norms' weights, which are 1.
    optimizer = torch.optim.Adam(suffix.parameters(), lr=1e-6)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(suffix(activations), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    learns = [name for name, _ in network.children[cut:]] + [network.head_name]
    if backbone.joined:
        stages = [*learns[:-1], "bn2"]  # which is in the stage of conv_head
        both = [f"{which}.{name}" for which in ("first", "second") for name in stages]
        learns = [*both, network.head_name]
    weights = dict(network.model.named_parameters())
    assert changed == {
        name for name in weights if any(name.startswith(f"{part}.") for part in learns)
    }


@pytest.mark.parametrize(
    ("cut", "index"),
    [
        ("conv1", 0),
        ("layer1", 4),
        ("layer4", 10),
        ("layer4.0", 10),
        ("layer4.1", 11),
        ("global_pool", 12),
        ("fc", 13),
    ],
)
def test_a_cut_is_the_first_thing_that_learns(cut: str, index: int) -> None:
    """Children, what holds them, and the head are understood by their names."""
    assert build_network(RESNET18, None).cut_index(cut) == index


def test_hidden_layers_beside_the_head_can_be_cut_off() -> None:
    """alexnet's head lies in the container of its hidden layers, which is where its tail starts."""
    with torch.device("meta"):
        network = build_network(find_backbone("alexnet"), None)
    assert network.children[network.cut_index("classifier")][0] == "classifier.0"
    assert network.cut_index("classifier.6") == len(network.children)


@pytest.mark.parametrize(
    ("cut", "suggestion"),
    [
        ("layer5", " Did you mean 'layer4'?"),
        ("layer4.7", " Did you mean 'layer4.1'?"),
        ("layer4.0.conv1", " Did you mean 'layer4.0'?"),
        ("blocks.6", ""),
        ("", ""),
    ],
)
def test_an_unknown_cut_gets_the_nearest_and_all_stages(cut: str, suggestion: str) -> None:
    """The message leads to a name that works."""
    with pytest.raises(UnknownCut) as error:
        build_network(RESNET18, None).cut_index(cut)
    assert str(error.value) == (
        f'resnet18 has no part "{cut}" to cut at.{suggestion} Its stages start at conv1, layer1, '
        "layer2, layer3, layer4; the cut is the first part that learns. Nothing was trained. "
        "`tellapart backbones show resnet18` lists all parts that can be named."
    )


@pytest.mark.parametrize("cut", ["conv1", "fc"])
def test_the_outermost_cuts_freeze_nothing_and_everything(cut: str, lively: Build) -> None:
    """Cut at the first child, pixels are only normalised; at the head, features come out."""
    network, preprocessing = lively(RESNET18), at(RESNET18, 40)
    pixels = some_pixels(2, 40)
    found = through_openvino(export_graph(network, preprocessing, cut=cut), pixels)
    x = Normalise(preprocessing)(torch.from_numpy(pixels))
    with torch.no_grad():
        expected = x if cut == "conv1" else network.features(x)
    assert_near(found["activations"], expected.numpy())


@pytest.mark.parametrize(
    "backbone", [marked(LITE0, slow=False), marked(find_backbone("alexnet"), slow=True)]
)
def test_flipping_averages_a_picture_and_its_mirror(backbone: Backbone, lively: Build) -> None:
    """Features are the mean of both, maps those of the plain picture; so in torch alone."""
    network, preprocessing = lively(backbone), at(backbone, 65)
    pixels = some_pixels(3, 65)
    plain = through_openvino(export_graph(network, preprocessing), pixels)
    mirrored = through_openvino(export_graph(network, preprocessing), pixels[:, :, ::-1])
    both = through_openvino(export_graph(network, preprocessing, flip=True), pixels)
    assert list(both) == list(plain)
    expected = (plain["features"] + mirrored["features"]) / 2
    assert np.abs(plain["features"] - expected).max() > 0.01 * np.abs(expected).max()
    assert_near(both["features"], expected)
    if backbone.maps:
        assert_near(both["maps"], plain["maps"])
    with torch.no_grad():
        in_torch = Frozen(network, preprocessing, flip=True)(torch.from_numpy(pixels))
    assert_near(in_torch.numpy(), expected)


def test_activations_are_of_one_view(lively: Build) -> None:
    """A cut together with flipping is a mistake of the caller."""
    network = lively(SQUEEZENET)
    with pytest.raises(ValueError, match="one view"):
        export_graph(network, SQUEEZENET.preprocessing, cut="features.9", flip=True)


def test_halves_are_the_same_bytes_each_time(lively: Build) -> None:
    """Two exports of a half are equal bit by bit, even while some of it learns."""
    network, preprocessing = lively(SQUEEZENET), at(SQUEEZENET, 65)

    def halves() -> list[bytes]:
        prefix = export_graph(network, preprocessing, cut="features.9")
        return [prefix, export_tail(network, "features.9", (256, 3, 3))]

    first = halves()
    network.suffix("features.9").train()
    network.part(0, 9).requires_grad_(False)
    assert halves() == first


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_runtime_takes_activations(dtype: Any, lively: Build) -> None:
    """A graph that starts at a cut runs on what was kept, in order, batches and a rest."""
    network = lively(SQUEEZENET)
    runtime = OpenVinoRuntime(export_tail(network, "features.9", (256, 3, 3)), precision="f32")
    kept = np.random.default_rng(0).normal(size=(19, 256, 3, 3)).astype(dtype)
    with torch.no_grad():
        tail = network.part(network.cut_index("features.9"))
        expected = tail(torch.from_numpy(kept).float()).numpy()
    found = np.stack(list(runtime.run(iter(kept))))
    assert found.dtype == np.float16
    assert_near(found.astype(np.float32), expected, 1e-3)
    assert list(runtime.run([])) == []


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_the_smallest_input_is_known(backbone: Backbone) -> None:
    """The network takes pictures of that size; one pixel less fails in torch or in OpenVINO."""
    with torch.device("meta"):
        network = build_network(backbone, None)

    def features(size_px: int) -> tuple[int, ...]:
        shape = network.features(torch.zeros(1, 3, size_px, size_px, device="meta")).shape
        return tuple(shape)

    least = backbone.min_size_px
    assert features(least) == features(least + 7) == (1, backbone.n_features)
    if backbone.name != "squeezenet1_1":  # torch's pooling may leave the map, OpenVINO's may not
        with pytest.raises(RuntimeError):
            features(least - 1)


@pytest.mark.parametrize("backbone", EXPORTED)
def test_the_smallest_input_runs_in_openvino(backbone: Backbone, lively: Build) -> None:
    """The exported graph of the smallest input gives torch's features, and so do larger ones.

    Neither size leaves alexnet and vgg maps that they pool evenly.
    """
    network = lively(backbone)
    for size_px in (backbone.min_size_px, backbone.min_size_px + 50):
        preprocessing = at(backbone, size_px)
        pixels = some_pixels(2, size_px)
        found = through_openvino(export_graph(network, preprocessing), pixels)
        with torch.no_grad():
            expected = network.features(Normalise(preprocessing)(torch.from_numpy(pixels)))
        assert_near(found["features"], expected.numpy(), 1e-3)


def test_squeezenet_s_smallest_input_is_openvino_s() -> None:
    """One pixel less and OpenVINO does not take the graph."""
    with pytest.raises(RuntimeError, match="larger than the data shape"):
        OpenVinoRuntime(
            export_graph(
                build_network(SQUEEZENET, None), at(SQUEEZENET, SQUEEZENET.min_size_px - 1)
            )
        )
