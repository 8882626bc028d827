"""Two networks side by side as one chain: it is cut, kept, learns and runs like any other. (torch)

What both give at a stage lies one after the other in the channels, so that the joined network is
an ordered list of children too, and its activations, features and class maps are single tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Children = Sequence[tuple[str, nn.Module]]

# A picture for counting channels: any size does.
PROBE_PX = 32


class Beside(nn.Module):
    """Two modules, each on its own channels of the input; their outputs are put together.

    n_first: how many channels, in front, are the first one's; None: both take all.
    """

    def __init__(self, first: nn.Module, second: nn.Module, n_first: int | None) -> None:
        super().__init__()
        self.first, self.second, self._n_first = first, second, n_first

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, C1 + C2, ...) of (N, C, H, W)."""
        n = self._n_first
        parts = (x, x) if n is None else (x[:, :n], x[:, n:])
        return torch.cat([self.first(parts[0]), self.second(parts[1])], dim=1)


class Joined(nn.Module):
    """The owner of the weights of both networks and of their one head.

    Args:
        first, second: models whose own heads were taken out.
    """

    def __init__(
        self, first: nn.Module, second: nn.Module, n_features: int, n_classes: int
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.classifier = nn.Linear(n_features, n_classes)


def side_by_side(
    first: Children, second: Children, starts: Sequence[str]
) -> list[tuple[str, nn.Module]]:
    """Return the children of the joined network: one a stage, named by where the stage starts.

    A whole stage, because batch-norm is folded into the convolution before it only where nothing
    stands between them.

    Args:
        first, second: children of the same names, but for how many there are within one.
        starts: names of children; a stage starts at each.
    """
    children: list[tuple[str, nn.Module]] = []
    n_first: int | None = None
    x = torch.zeros(1, 3, PROBE_PX, PROBE_PX)
    for (name, one), (_, other) in zip(
        _stages(first, starts), _stages(second, starts), strict=True
    ):
        children.append((name, Beside(one, other, n_first)))
        with torch.no_grad():
            x = one(x)
        n_first = x.shape[1]
    return children


def _stages(children: Children, starts: Sequence[str]) -> list[tuple[str, nn.Sequential]]:
    stages: list[tuple[str, list[nn.Module]]] = []
    for name, child in children:
        if name in starts:
            stages.append((name, []))
        stages[-1][1].append(child)
    return [(name, nn.Sequential(*parts)) for name, parts in stages]
