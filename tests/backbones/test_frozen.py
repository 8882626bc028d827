"""The exported network is kept by all that makes it, and found again without torch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from safetensors.torch import load

from tellapart.backbones.frozen import FrozenBackbone, freeze
from tellapart.backbones.network import Normalise, build_network
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import random_weights
from tellapart.errors import MissingExtra

BACKBONE = find_backbone("squeezenet1_1")
SMALL = replace(BACKBONE.preprocessing, size_px=40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("flip", [False, True])
def test_size_normalisation_and_flip_are_in_the_graph(flip: bool) -> None:
    """What a recipe asks of the pixels is what the frozen graph does."""
    asked = replace(SMALL, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    weights = random_weights(BACKBONE, 0)
    frozen = freeze(BACKBONE, weights, asked, flip)
    runtime = OpenVinoRuntime(frozen.graph, precision="f32")
    assert runtime.size_px == 40
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    x = Normalise(asked)(torch.from_numpy(pixels))
    network = build_network(BACKBONE, weights)
    with torch.no_grad():
        expected = network.features(x)
        if flip:
            expected = (expected + network.features(x.flip(3))) / 2
    (found,) = runtime.run(pixels)
    np.testing.assert_allclose(found, expected[0], atol=2e-3 * float(expected.abs().max()))


def test_the_backbone_s_own_preprocessing_is_the_default() -> None:
    """Not asked for anything else, the graph is the one for the backbone's own input."""
    weights = random_weights(BACKBONE, 0)
    frozen = freeze(BACKBONE, weights)
    assert frozen == freeze(BACKBONE, weights, BACKBONE.preprocessing)
    (shape,) = [i.get_partial_shape() for i in ov.Core().read_model(frozen.graph).inputs]
    assert shape.to_string() == "[?,224,224,3]"


def test_each_kind_is_kept_by_itself(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size, normalisation, flip or seed is another graph; each is found without torch."""
    wanted = [
        (random_weights(BACKBONE, 0), SMALL, False),
        (random_weights(BACKBONE, 1), SMALL, False),
        (random_weights(BACKBONE, 0), replace(SMALL, size_px=41), False),
        (random_weights(BACKBONE, 0), replace(SMALL, std=(0.2, 0.2, 0.2)), False),
        (random_weights(BACKBONE, 0), SMALL, True),
    ]
    frozen: list[FrozenBackbone] = []
    for weights, preprocessing, flip in wanted:
        frozen.append(freeze(BACKBONE, weights, preprocessing, flip))
        assert len(list((own_cache / "backbones").iterdir())) == len(frozen)
    assert len({kind.graph for kind in frozen}) == len(wanted)
    # The same weights whatever the pictures are, and the same again for the same seed.
    assert len({kind.weights for kind in frozen}) == 2
    monkeypatch.setitem(sys.modules, "tellapart.backbones.network", None)
    for kind, (weights, preprocessing, flip) in zip(frozen, wanted, strict=True):
        assert freeze(BACKBONE, weights, preprocessing, flip) == kind
    with pytest.raises(MissingExtra):
        freeze(BACKBONE, random_weights(BACKBONE, 2), SMALL)


def test_frozen_weights_are_the_network_s() -> None:
    """The safetensors beside the graph hold every entry under the architecture's own names."""
    weights = random_weights(BACKBONE, 3)
    held = load(freeze(BACKBONE, weights, SMALL).weights)
    state = build_network(BACKBONE, weights).state_dict()
    assert held.keys() == state.keys()
    assert all(torch.equal(held[name], value) for name, value in state.items())
