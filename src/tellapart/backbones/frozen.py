"""A backbone as one frozen graph: exported once by torch, kept, and read without torch after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

from tellapart.backbones.cache import describe, mark_used
from tellapart.backbones.registry import Backbone
from tellapart.backbones.weights import Weights
from tellapart.data.pixels import Preprocessing
from tellapart.errors import MissingExtra, OutputError
from tellapart.files import ELSEWHERE_KEPT, cache_folder, write_atomically


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone ready to run.

    graph: ONNX bytes; input `pixels` (batch, S, S, 3) uint8, outputs `features` (batch, D) and,
        where a class map exists, `maps` (batch, C, H, W).
    weights: safetensors bytes, under the architecture's own names.
    not_kept: why the next run will have to prepare it again; None where it was kept.
    """

    backbone: Backbone
    graph: bytes
    weights: bytes
    not_kept: OutputError | None = None


def freeze(
    backbone: Backbone,
    weights: Weights,
    preprocessing: Preprocessing | None = None,
    flip: bool = False,
) -> FrozenBackbone:
    """Return the frozen graph of a backbone with these weights.

    The first call for given weights, preprocessing and flip needs torch; later ones read what
    was kept.

    preprocessing: whose size and normalisation the graph gets; None: the backbone's own.
    flip: whether the features are the mean over each picture and its mirror.

    Raises:
        MissingExtra: torch is needed and not installed.
        WeightsRefused: the weights do not belong to this backbone.
    """
    preprocessing = preprocessing or backbone.preprocessing
    folder = cache_folder() / "backbones" / _key(backbone, weights, preprocessing, flip)
    found = _read(folder, backbone)
    if found:
        mark_used(folder)
        return found
    try:
        from safetensors.torch import save

        from tellapart.backbones.network import build_network, export_graph
    except ImportError as error:
        raise MissingExtra(
            f"Preparing {backbone.name} for the first time needs PyTorch, and {error.name} is not "
            f"installed. Predicting and learning again from kept pictures do not. "
            f"Install it with: pip install 'tellapart[train]'"
        ) from error
    network = build_network(backbone, weights)
    frozen = FrozenBackbone(
        backbone,
        export_graph(network, preprocessing, flip=flip),
        save({name: value.contiguous() for name, value in network.state_dict().items()}),
    )
    return replace(frozen, not_kept=_keep(folder, frozen, weights))


def _key(backbone: Backbone, weights: Weights, preprocessing: Preprocessing, flip: bool) -> str:
    """Name the kept graph by all that makes it: weights, facts of the registry, our own code."""
    code = files("tellapart.backbones").joinpath("network.py").read_bytes()
    facts = [asdict(backbone), weights.sha256, asdict(preprocessing), flip]
    text = json.dumps([*facts, hashlib.sha256(code).hexdigest()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(folder: Path, backbone: Backbone) -> FrozenBackbone | None:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        graph = (folder / "graph.onnx").read_bytes()
        weights = (folder / "weights.safetensors").read_bytes()
        expected = [about["graph_sha256"], about["weights_sha256"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = [hashlib.sha256(data).hexdigest() for data in (graph, weights)] == expected
    return FrozenBackbone(backbone, graph, weights) if whole else None


def _keep(folder: Path, frozen: FrozenBackbone, weights: Weights) -> OutputError | None:
    """Keep it for later runs; this one goes on without where that cannot be done."""
    facts = {
        "backbone": frozen.backbone.name,
        "weights": weights.origin,
        "graph_sha256": hashlib.sha256(frozen.graph).hexdigest(),
        "weights_sha256": hashlib.sha256(frozen.weights).hexdigest(),
    }
    try:
        describe(folder, facts)
        write_atomically(folder / "graph.onnx", frozen.graph, ELSEWHERE_KEPT)
        write_atomically(folder / "weights.safetensors", frozen.weights, ELSEWHERE_KEPT)
    except OutputError as error:
        return error
    return None
