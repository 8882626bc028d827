"""How format_1.tellapart was made; kept for the record, and to be run again only by mistake.

The stored file is what counts: it must open in every later version. Its network is as small as
one can be: the mean of each colour channel of an 8 x 8 picture is the feature vector.

    python tests/bundle/formats/make_format_1.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper
from safetensors.numpy import save

from tellapart.bundle.bundle import KeptFeatures, with_head, with_head_weights, write_bundle
from tellapart.bundle.manifest import Calibration, Manifest
from tellapart.data.pixels import Preprocessing

CLASSES = ("blue", "green", "red")
# Channels come as red, green, blue; classes stand in alphabetical order.
WEIGHT = np.array([[-1, -1, 3], [-1, 3, -1], [3, -1, -1]], dtype=np.float32)
BIAS = np.array([0.25, 0.0, -0.25], dtype=np.float32)


def mean_colour_graph(size_px: int = 8) -> bytes:
    """Return a graph from `pixels` (batch, S, S, 3) uint8 to `features` (batch, 3) in 0 to 1."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["features"]),
    ]
    pixels = helper.make_tensor_value_info(
        "pixels", TensorProto.UINT8, ["batch", size_px, size_px, 3]
    )
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
    ]
    graph = helper.make_graph(nodes, "mean_colour", [pixels], [features], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def make(path: Path) -> None:
    """Write the bundle."""
    kept = KeptFeatures(
        features=np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0.9, 0, 0.1]], dtype=np.float16),
        labels=np.array([0, 1, 2, 2], dtype=np.int64),
        digests=np.array([f"{number:032x}" for number in range(1, 5)], dtype="S32"),
        splits=np.array(["train", "valid", "test", ""], dtype="U5"),
    )
    manifest = Manifest(
        format=1,
        classes=CLASSES,
        preprocessing=Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        backbone="mean_colour",
        backbone_licence="Apache-2.0",
        weights_origin="written by hand",
        calibration=Calibration(temperature=1.25, fitted_on="out-of-fold"),
        runtime="none",
        recipe={"name": "probe", "learns": "head", "l2": 0.01},
        scores=None,
        data={"pictures": {"train": {"blue": 1, "green": 1, "red": 2}}},
        versions={"tellapart": "0.1.0"},
        made_on="2025-01-01T00:00:00+00:00",
    )
    untrained = save({"fc.weight": np.zeros_like(WEIGHT), "fc.bias": np.zeros_like(BIAS)})
    write_bundle(
        path,
        manifest,
        with_head(mean_colour_graph(), WEIGHT, BIAS),
        with_head_weights(untrained, "fc", WEIGHT, BIAS),
        kept,
        "<!doctype html><title>format 1</title>",
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
