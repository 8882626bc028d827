"""Batch-norm with the statistics of the whole batch, whichever ranks its parts are on. (torch)

torch's SyncBatchNorm does this on GPUs only. Statistics are of the values as they are, in 32 bits:
the mean first, then what varies around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.backbones.ranks import Ranks

Norm = nn.modules.batchnorm._BatchNorm


@contextmanager
def shared_statistics(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Inside the block each batch-norm in training mode sees the parts of all ranks.

    All ranks must run the module equally often, an empty part included.
    """
    norms = [] if ranks.alone else [part for part in module.modules() if isinstance(part, Norm)]
    for norm in norms:
        norm.forward = _shared(norm, ranks)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; so is its gradient, as each rank's loss is a part of one loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        summed = x.clone()
        ranks.add_up([summed])
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone()
        ctx.ranks.add_up([summed])
        return summed, None


def _shared(norm: Norm, ranks: Ranks) -> Callable[[Tensor], Tensor]:
    # timm's batch-norms carry the activation that follows.
    following = [part for name in ("drop", "act") if (part := getattr(norm, name, None))]

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            output: Tensor = type(norm).forward(norm, x)
            return output
        values = _normalised(norm, x, ranks).to(x.dtype)
        for then in following:
            values = then(values)
        return values

    return forward


def _normalised(norm: Norm, x: Tensor, ranks: Ranks) -> Tensor:
    """Normalise (N, C, ...) by channel, and let the running statistics follow."""
    values = x.float()
    over = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    (count,) = ranks.sums(x.numel() / x.shape[1])
    mean: Tensor = _Sum.apply(values.sum(over), ranks) / count
    centred = values - mean.view(shape)
    variance: Tensor = _Sum.apply((centred**2).sum(over), ranks) / count
    _follow(norm, mean.detach(), variance.detach() * (count / max(1.0, count - 1)))
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    values = centred * scale.view(shape)
    return values if norm.bias is None else values + norm.bias.view(shape)


def _follow(norm: Norm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if share is None:
            share = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share or 0.0)
    norm.running_var.lerp_(variance, share or 0.0)
