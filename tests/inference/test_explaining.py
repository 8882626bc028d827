"""Class activation maps: exact sums of what the classifier itself computes, or a plain refusal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tellapart.backbones.frozen import freeze
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import BACKBONES, find_backbone
from tellapart.backbones.weights import find_weights, random_weights
from tellapart.bundle.bundle import with_head
from tellapart.data.pixels import Preprocessing, fit_pixels, read_pixels, seen_box
from tellapart.errors import NotExplainable, UnreadablePicture
from tellapart.inference.classifier import Classifier
from tellapart.inference.explaining import Explainer

N_CLASSES = 5
# Quick to export; the others take seconds each.
QUICK = ("tf_efficientnet_lite0", "resnet18", "squeezenet1_1")
OTHERS = (
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "tf_efficientnet_lite0+lite2",
    "efficientnet_b0",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext101_32x8d",
    "densenet121",
    "inception_v3",
)


def finished(name: str, flip: bool = False) -> bytes:
    """The graph of a backbone with small input and a random head."""
    backbone = find_backbone(name)
    packaged = backbone.package or backbone.joined
    weights = find_weights(backbone) if packaged else random_weights(backbone, 0)
    # Random weights make inception's numbers grow to 1e11, beyond 16 bits: it gets tiny ones.
    std = (1e10,) * 3 if name == "inception_v3" else backbone.preprocessing.std
    size_px = max(96, 2 * backbone.min_size_px)
    preprocessing = replace(backbone.preprocessing, size_px=size_px, std=std)
    rng = np.random.default_rng(0)
    return with_head(
        freeze(backbone, weights, preprocessing, flip).graph,
        rng.normal(size=(N_CLASSES, backbone.n_features)).astype(np.float32),
        rng.normal(size=N_CLASSES).astype(np.float32),
    )


def check_exact(name: str, flip: bool = False) -> None:
    """Hold the mean of each class's map, plus its bias, to the logits that prediction computes."""
    graph = finished(name, flip)
    explainer = Explainer(graph, name, flip, "f32")
    answering = OpenVinoRuntime(graph, precision="f32", latency=True)
    rng = np.random.default_rng(1)
    size = answering.size_px
    pictures = rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pictures[1, :, : size // 2] = 0  # its mirror is another picture
    features = np.stack(list(answering.run(pictures))).astype(np.float32)
    expected = features @ explainer.weight.T + explainer.bias
    for maps, logits, own in zip(explainer.maps(pictures), expected, features, strict=True):
        heat = np.stack([explainer.heat(maps, row) for row in range(N_CLASSES)])
        assert min(heat.shape[1:]) > 1
        found = heat.mean(axis=(1, 2)) + explainer.bias
        # Features and maps are rounded to 16 bits, as they are kept: each to 2**-11 of itself.
        rounding = np.abs(explainer.weight) @ (np.abs(own) + np.abs(maps).mean(axis=(1, 2)))
        assert (np.abs(found - logits) <= 2**-11 * rounding + 1e-4).all()
        np.testing.assert_allclose(explainer.logits(maps), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_map_sums_to_the_logit(name: str) -> None:
    """For every class, the mean of its map plus its bias is the logit that prediction gives."""
    check_exact(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_map_sums_to_the_logit_in_the_others(name: str) -> None:
    """The same holds for every other backbone that has a map."""
    check_exact(name)


def test_every_backbone_with_a_map_is_tried() -> None:
    """The lists above name all rows of the table that promise a map."""
    assert {one.name for one in BACKBONES if one.maps} == {*QUICK, *OTHERS}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "squeezenet1_1"])
def test_mirrored_answers_have_mirrored_maps(name: str) -> None:
    """Where features are the mean over picture and mirror, the map is, too: the sum stays exact."""
    check_exact(name, flip=True)


@pytest.mark.parametrize("name", ["alexnet", "mobilenetv3_large_100"])
def test_hidden_layers_are_refused_in_words(name: str) -> None:
    """A backbone with hidden layers before its answer says so, and what to do."""
    with pytest.raises(NotExplainable) as refusal:
        Explainer(finished(name), name)
    assert str(refusal.value) == (
        f"There is no map of why {name} answers as it does: hidden layers lie between what it "
        "sees at each place and its answer, so no place can be said to have spoken for a class. "
        "Expected was a backbone that averages its last maps, as EfficientNet, ResNet, ResNeXt, "
        "DenseNet, Inception and SqueezeNet do. Nothing was explained. Go on without "
        "explanations, or train with another --backbone."
    )


def test_classifier_explains_its_own_answer(trained: Any) -> None:
    """By default the map is of the predicted class, its confidence that of the prediction."""
    classifier = Classifier.load(trained.bundle)
    picture = sorted(trained.data.rglob("*.png"))[0]
    answer = classifier.predict(picture)
    found = classifier.explain(picture)
    assert (found.path, found.label) == (answer.path, answer.label)
    assert found.confidence == pytest.approx(answer.confidence, abs=0.01)
    (logits,) = classifier.logits([str(picture)])
    row = classifier.classes.index(found.label)
    assert found.heat.mean() + found.bias == pytest.approx(logits[row], rel=0.01, abs=0.05)


def test_any_class_can_be_asked_about(trained: Any, tmp_path: Path) -> None:
    """A class by name gets its own map; an unknown one and no picture are refused."""
    classifier = Classifier.load(trained.bundle)
    picture = sorted(trained.data.rglob("*.png"))[0]
    heats = [classifier.explain(picture, name).heat for name in classifier.classes]
    assert not np.allclose(heats[0], heats[1])
    with pytest.raises(ValueError, match=r"There is no class '7'; there are 0, 1, 2\."):
        classifier.explain(picture, "7")
    with pytest.raises(UnreadablePicture):
        classifier.explain(tmp_path / "none.png")


def test_heat_lies_where_the_network_reacts(tmp_path: Path) -> None:
    """Only the places that an object covers speak: a spot of noise at the left heats the left."""
    graph = finished("resnet18")
    size = OpenVinoRuntime(graph).size_px
    spot = np.zeros((size, size, 3), dtype=np.uint8)
    spot[size // 3 : 2 * size // 3, : size // 3] = np.random.default_rng(0).integers(
        0, 256, (size // 3, size // 3, 3)
    )
    explainer = Explainer(graph, "resnet18", precision="f32")
    with_spot, without = explainer.maps([spot, np.zeros_like(spot)])
    change = np.abs(with_spot - without).sum(axis=0)
    assert change[:, 0].sum() > 3 * change[:, -1].sum()


@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    fraction=st.sampled_from([1.0, 0.875, 0.7]),
    fit=st.sampled_from(["crop", "squash"]),
)
def test_seen_box_is_what_the_network_sees(
    height: int, width: int, fraction: float, fit: Any
) -> None:
    """A picture whose colours are its coordinates: the network's view spans the box's ends."""
    preprocessing = Preprocessing(
        32, (0.5,) * 3, (0.5,) * 3, fit=fit, crop_fraction=fraction, interpolation="bilinear"
    )
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = 2 * np.arange(width)
    picture[..., 1] = 2 * np.arange(height)[:, None]
    view = fit_pixels(picture, preprocessing).astype(float) / 2 + 0.5
    left, top, right, bottom = seen_box(height, width, preprocessing)
    for axis, start, end in ((0, left, right), (1, top, bottom)):
        along = view[..., axis].mean(axis=axis)
        # Colours are of pixels' middles, and the outermost are repeated at the rim.
        half = (end - start) / 64
        assert along[0] == pytest.approx(start + half, abs=half + 0.6)
        assert along[-1] == pytest.approx(end - half, abs=half + 0.6)


def test_exif_orientation_is_right(tmp_path: Path) -> None:
    """A picture stored on its side and the same one stored upright have the same view and box."""
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)).resize((160, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(turned.getvalue())
    upright.save(tmp_path / "upright.png")
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    first, second = (
        read_pixels(tmp_path / f"{name}.png", preprocessing) for name in ("upright", "turned")
    )
    np.testing.assert_array_equal(first, second)
