"""What people are shown of a network agrees with the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tellapart.backbones.network import Network, build_network
from tellapart.backbones.registry import BACKBONES, Backbone, find_backbone
from tellapart.backbones.structure import describe, parameters, text
from tellapart.errors import UnknownCut

LITE0 = find_backbone("lite0")
RESNET18 = find_backbone("resnet18")


def shapes_only(backbone: Backbone) -> Network:
    """Build a network that has no numbers, only shapes: enough to be described."""
    with torch.device("meta"):
        return build_network(backbone, None)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_every_backbone_can_be_described(backbone: Backbone) -> None:
    """Every weight is counted once, every stage is marked, and the table fits at any usual size."""
    network = shapes_only(backbone)
    structure = describe(network, backbone.preprocessing.size_px, None, "tail")
    assert structure.n_weights == sum(weight.numel() for weight in network.model.parameters())
    assert structure.n_learning == sum(
        weight.numel() for weight in network.suffix(backbone.tail).parameters()
    )
    assert tuple(part.cut for part in structure.parts if part.cut) == network.cuts
    assert [part.name for part in structure.parts] == [
        *(name for name, _ in network.children),
        backbone.head,
    ]
    assert structure.parts[-1].shape == (1000,)
    assert structure.parts[-2].shape == (backbone.n_features,)
    for size_px in (backbone.min_size_px, backbone.preprocessing.size_px, 512):
        table = text(describe(network, size_px, None, "all"))
        assert max(map(len, table.splitlines())) <= 100


def test_what_is_kept_is_what_enters_the_cut() -> None:
    """The default's tail keeps 192 x 7 x 7 numbers of 16 bits a view: 18.8 KB."""
    structure = describe(shapes_only(LITE0), 224, None, "tail")
    assert structure.kept_kb == 192 * 7 * 7 * 2 / 1000
    learning = [part.name for part in structure.parts if part.learns]
    assert learning == ["blocks.6", "conv_head", "bn2", "global_pool", "classifier"]
    (part,) = (part for part in structure.parts if part.name == "blocks.6")
    assert (part.kind, part.shape, part.n_weights) == ("Sequential", (320, 7, 7), 605_440)
    assert (part.cut, part.kept_kb) == ("blocks.6", structure.kept_kb)


@pytest.mark.parametrize(
    ("learns", "cut", "names", "kept_kb"),
    [
        ("head", None, ["fc"], 512 * 2 / 1000),
        (
            "tail",
            "layer4.1",
            ["layer4.1", "global_pool", "fc"],
            512 * 7 * 7 * 2 / 1000,
        ),
        ("tail", "layer4", ["layer4.0", "layer4.1", "global_pool", "fc"], 256 * 14 * 14 * 2 / 1000),
    ],
)
def test_what_learns_follows_the_phase(
    learns: str, cut: str | None, names: list[str], kept_kb: float
) -> None:
    """The head, a tail from any cut: what learns is marked, and what is kept is counted."""
    structure = describe(shapes_only(RESNET18), 224, cut, learns)  # type: ignore[arg-type]
    assert [part.name for part in structure.parts if part.learns] == names
    assert structure.kept_kb == kept_kb


def test_where_all_learns_nothing_is_kept() -> None:
    """Full fine-tuning keeps no view."""
    structure = describe(shapes_only(RESNET18), 64, None, "all")
    assert structure.n_learning == structure.n_weights
    assert structure.kept_kb is None


def test_an_unknown_cut_is_named() -> None:
    """A dry run finds a wrong cut."""
    with pytest.raises(UnknownCut, match="Did you mean 'layer4'"):
        describe(shapes_only(RESNET18), 64, "layer9", "tail")


def test_the_table_reads_well() -> None:
    """A line that sums up, then a row a part."""
    lines = text(describe(shapes_only(LITE0), 224, None, "tail")).splitlines()
    assert lines[0] == (
        "tf_efficientnet_lite0 at 224 px: 4,652,008 weights, 2,298,600 learn; "
        "18.8 KB are kept of each view."
    )
    assert [line.split() for line in (lines[2], lines[3], lines[11], lines[14])] == [
        ["part", "kind", "gives", "weights", "learns", "stage", "KB", "if", "cut"],
        ["conv_stem", "Conv2dSame", "32", "x", "112", "x", "112", "864", "*"],
        ["blocks.6", "Sequential", "320", "x", "7", "x", "7", "605,440", "yes", "*", "18.8"],
        ["global_pool", "SelectAdaptivePool2d", "1280", "125.4"],
    ]
    assert (
        text(describe(shapes_only(LITE0), 224, None, "all"))
        .splitlines()[0]
        .endswith("4,652,008 learn; nothing is kept.")
    )


def test_describing_changes_nothing(lively: Callable[[Backbone], Network]) -> None:
    """Batch-norm in training does not learn from the black picture, and stays in training."""
    network = lively(RESNET18)
    network.suffix("layer4").train()
    modes = [module.training for module in network.model.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    describe(network, 40, None, "tail")
    assert [module.training for module in network.model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_parameters_say_what_learns() -> None:
    """Names, shapes and flags, as they are before and after freezing."""
    network = shapes_only(RESNET18)
    assert parameters(network)[0] == ("conv1.weight", (64, 3, 7, 7), True)
    network.part(0, network.cut_index("layer4")).requires_grad_(False)
    names = [name for name, _, learns in parameters(network) if learns]
    assert names[0] == "layer4.0.conv1.weight"
    assert parameters(network)[-1] == ("fc.bias", (1000,), True)
    assert len(parameters(network)) == len(list(network.model.parameters()))
