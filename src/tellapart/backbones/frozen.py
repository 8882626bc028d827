"""A backbone as one frozen graph: exported once by torch, kept, and read without torch after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from tellapart.backbones.cache import cache_folder, describe, mark_used
from tellapart.backbones.registry import Backbone
from tellapart.backbones.weights import Weights
from tellapart.errors import MissingExtra
from tellapart.files import write_atomically


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone ready to run.

    graph: ONNX bytes; input `pixels` (batch, S, S, 3) uint8, outputs `features` (batch, D) and,
        where a class map exists, `maps` (batch, C, H, W).
    weights: safetensors bytes, under the architecture's own names.
    """

    backbone: Backbone
    graph: bytes
    weights: bytes


def freeze(backbone: Backbone, weights: Weights) -> FrozenBackbone:
    """Return the frozen graph of a backbone with these weights.

    The first call for given weights needs torch; later ones read what was kept.

    Raises:
        MissingExtra: torch is needed and not installed.
        WeightsRefused: the weights do not belong to this backbone.
    """
    folder = cache_folder() / "backbones" / _key(backbone, weights)
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
        export_graph(network, backbone.preprocessing),
        save({name: value.contiguous() for name, value in network.state_dict().items()}),
    )
    _keep(folder, frozen, weights)
    return frozen


def _key(backbone: Backbone, weights: Weights) -> str:
    """Name the kept graph by the weights' content, the registry's facts and our own code."""
    code = files("tellapart.backbones").joinpath("network.py").read_bytes()
    facts = json.dumps([asdict(backbone), weights.sha256, hashlib.sha256(code).hexdigest()])
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


def _read(folder: Path, backbone: Backbone) -> FrozenBackbone | None:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        graph = (folder / "graph.onnx").read_bytes()
        weights = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError):
        return None
    whole = hashlib.sha256(graph).hexdigest() == about["graph_sha256"]
    return FrozenBackbone(backbone, graph, weights) if whole else None


def _keep(folder: Path, frozen: FrozenBackbone, weights: Weights) -> None:
    facts = {
        "backbone": frozen.backbone.name,
        "weights": weights.origin,
        "graph_sha256": hashlib.sha256(frozen.graph).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "graph.onnx", frozen.graph)
    write_atomically(folder / "weights.safetensors", frozen.weights)
    describe(folder, facts)
