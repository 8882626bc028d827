"""What a network is made of, and what of it learns, for people to look at. (torch)"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tellapart.backbones.network import Network


@dataclass(frozen=True)
class Part:
    """One part of a network, in the order of the forward pass.

    Attributes:
        name: its path; it can be cut there, and the part is then the first that learns.
        kind: class of the module.
        shape: of what it gives for one picture, such as (C, H, W).
        n_weights: how many it has.
        learns: whether it does.
        cut: name of the stage that starts here, or None.
        kept_kb: what a view of one picture takes in 16 bits if the network is cut here (1 KB is
            1000 bytes); None for the first part, before which nothing is kept.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    n_weights: int
    learns: bool
    cut: str | None
    kept_kb: float | None


@dataclass(frozen=True)
class Structure:
    """The parts of a backbone for pictures of one size; the head is the last."""

    backbone: str
    size_px: int
    parts: tuple[Part, ...]

    @property
    def n_weights(self) -> int:
        """How many weights the whole network has."""
        return sum(part.n_weights for part in self.parts)

    @property
    def n_learning(self) -> int:
        """How many of them learn."""
        return sum(part.n_weights for part in self.parts if part.learns)

    @property
    def kept_kb(self) -> float | None:
        """What is kept of each view, in 16 bits; None where nothing is frozen."""
        return next(part.kept_kb for part in self.parts if part.learns)


def describe(
    network: Network, size_px: int, cut: str | None, learns: Literal["head", "tail", "all"]
) -> Structure:
    """Describe a network for pictures of a size by running a black one through it.

    cut: where the tail starts; only for learns = "tail", and None there means the backbone's own.

    Raises:
        UnknownCut.
    """
    first = {
        "head": len(network.children),
        "tail": network.cut_index(cut or network.backbone.tail),
        "all": 0,
    }[learns]
    stages = {network.cut_index(name): name for name in network.cuts}
    modules = [*network.children, (network.head_name, network.head)]
    device = next(network.head.parameters()).device
    x = torch.zeros(1, 3, size_px, size_px, device=device)
    parts = []
    with _inference(network.model):
        for index, (name, module) in enumerate(modules):
            kept_kb = _numbers(x) * 2 / 1000 if index else None
            x = module(x)
            parts.append(
                Part(
                    name=name,
                    kind=type(module).__name__,
                    shape=tuple(x.shape[1:]),
                    n_weights=sum(map(_numbers, module.parameters())),
                    learns=index >= first,
                    cut=stages.get(index),
                    kept_kb=kept_kb,
                )
            )
    return Structure(network.backbone.name, size_px, tuple(parts))


def text(structure: Structure) -> str:
    """Lay out a structure as a table of at most 100 columns, with a line on top that sums it up."""
    kept_kb = structure.kept_kb
    kept = "nothing is kept" if kept_kb is None else f"{kept_kb:,.1f} KB are kept of each view"
    rows = [("part", "kind", "gives", "weights", "learns", "stage", "KB if cut")]
    for part in structure.parts:
        rows.append(
            (
                part.name,
                part.kind,
                " x ".join(map(str, part.shape)),
                f"{part.n_weights:,}" if part.n_weights else "",
                "yes" if part.learns and part.n_weights else "",
                "*" if part.cut else "",
                "" if part.kept_kb is None else f"{part.kept_kb:,.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_right = {3, 6}
    lines = [
        "  ".join(
            cell.rjust(width) if number in to_the_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    top = (
        f"{structure.backbone} at {structure.size_px} px: {structure.n_weights:,} weights, "
        f"{structure.n_learning:,} learn; {kept}."
    )
    return "\n".join([top, "", *lines])


def parameters(network: Network) -> list[tuple[str, tuple[int, ...], bool]]:
    """List all weights as (name, shape, whether it is set to learn), in the model's order."""
    return [
        (name, tuple(weight.shape), weight.requires_grad)
        for name, weight in network.model.named_parameters()
    ]


def _numbers(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Run a model without changing it: batch-norm in training would learn from the picture."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
