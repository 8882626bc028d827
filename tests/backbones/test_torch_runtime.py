"""Both runtimes are held to the same numbers, on the processor that every machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tellapart.backbones.frozen import freeze
from tellapart.backbones.network import build_network, export_graph
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.torch_runtime import BATCH, TorchRuntime
from tellapart.backbones.weights import find_weights
from tellapart.data.pixels import Pixels, read_pixels

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TELLAPART_DATA", ROOT.parent / "shared" / "data"))
LITE0 = find_backbone("tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    """The default backbone in torch, on the processor."""
    network = build_network(LITE0, find_weights(LITE0))
    return TorchRuntime(network, LITE0.preprocessing, "cpu")


@pytest.fixture(scope="module")
def photos(digits: Path) -> list[Pixels]:
    """Twelve photographs where there are some, else digits, as the network sees them."""
    paths = sorted((DATA / "intel_scenes" / "valid").glob("*/*.jpg"))[::50]
    paths = paths or sorted(digits.glob("*/*.png"))[::150]
    return [read_pixels(str(path), LITE0.preprocessing) for path in paths][:12]


def test_torch_and_openvino_give_the_same_features(
    runtime: TorchRuntime, photos: list[Pixels], trained: Any
) -> None:
    """In 32 bits they differ by a last digit of the 16 that are kept: 0.04 % of the largest.

    OpenVINO's 16 bits differ from torch's 32 as they do from its own 32: see
    test_openvino_runtime.
    """
    frozen = freeze(LITE0, find_weights(LITE0))
    ours = np.stack(list(runtime.run(photos))).astype(np.float32)
    exact = np.stack(list(OpenVinoRuntime(frozen.graph, precision="f32").run(photos)))
    fast = np.stack(list(OpenVinoRuntime(frozen.graph, precision="bf16").run(photos)))
    assert ours.shape == (len(photos), LITE0.n_features)
    assert np.abs(ours - exact).max() < 0.001 * ours.max()
    assert np.quantile(np.abs(ours - fast), 0.99) < 0.02 * ours.max()


def test_batches_and_order_do_not_matter(runtime: TorchRuntime, photos: list[Pixels]) -> None:
    """Empty input gives nothing; a picture's features do not depend on its neighbours."""
    assert list(runtime.run([])) == []
    forwards = np.stack(list(runtime.run(photos[:3]))).astype(np.float32)
    backwards = np.stack(list(runtime.run(photos[2::-1])))[::-1]
    (alone,) = runtime.run(photos[:1])
    assert np.abs(forwards - backwards).max() < 0.001 * forwards.max()
    assert np.abs(forwards[0] - alone).max() < 0.001 * forwards.max()
    assert alone.dtype == np.float16


@pytest.mark.slow
def test_more_pictures_than_one_batch_come_out_in_order(
    runtime: TorchRuntime, photos: list[Pixels]
) -> None:
    """One batch and a bit: every picture's features at its place."""
    many = [photos[number % 2] for number in range(BATCH + 3)]
    features = np.stack(list(runtime.run(many))).astype(np.float32)
    assert len(features) == len(many)
    for number, row in enumerate(features):
        assert np.abs(row - features[number % 2]).max() < 0.001 * features.max()


def test_the_identity_names_library_device_and_precision(runtime: TorchRuntime) -> None:
    """What torch computed is never taken for what OpenVINO did."""
    assert runtime.identity.startswith("torch ")
    assert runtime.identity.endswith(" cpu f32")


def test_a_prefix_gives_what_openvino_gives(
    runtime: TorchRuntime, photos: list[Pixels], trained: Any
) -> None:
    """Cut at the tail, both runtimes give the same maps; the parts before may have been training.

    In 16 bits torch on a processor is as far from 32 as OpenVINO is.
    """
    network = build_network(LITE0, find_weights(LITE0))
    network.model.train()
    stop, preprocessing = network.cut_index(LITE0.tail), LITE0.preprocessing
    graph = export_graph(network, preprocessing, cut=LITE0.tail)
    exact = np.stack(list(OpenVinoRuntime(graph, "activations", "f32").run(photos)))
    ours = np.stack(list(TorchRuntime(network, preprocessing, "cpu", stop=stop).run(photos)))
    fast = TorchRuntime(network, preprocessing, "cpu", stop=stop, precision="bf16-mixed")
    fast_ours = np.stack(list(fast.run(photos))).astype(np.float32)
    assert ours.shape == (len(photos), 192, 7, 7)
    assert ours.dtype == np.float16
    largest = np.abs(exact).max()
    assert np.abs(ours.astype(np.float32) - exact).max() < 0.001 * largest
    assert 0 < np.quantile(np.abs(fast_ours - exact), 0.99) < 0.02 * largest
    assert fast.identity == runtime.identity.replace(" f32", " bf16")


def test_flipping_averages_over_the_mirror(runtime: TorchRuntime, photos: list[Pixels]) -> None:
    """The features of a picture and of its mirror, averaged, are one picture's."""
    network = build_network(LITE0, find_weights(LITE0))
    flipping = TorchRuntime(network, LITE0.preprocessing, "cpu", flip=True)
    both = np.stack(list(flipping.run(photos[:3]))).astype(np.float32)
    plain = np.stack(list(runtime.run(photos[:3]))).astype(np.float32)
    mirrored = np.stack(list(runtime.run([photo[:, ::-1] for photo in photos[:3]])))
    assert np.abs(both - (plain + mirrored) / 2).max() < 0.001 * plain.max()
    assert np.abs(both - plain).max() > 0.01 * plain.max()
