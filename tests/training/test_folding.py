"""Batch-norm that keeps its statistics, computed inside the convolution before it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from tellapart.training.folding import folded


def ready(model: nn.Module, learning: bool = False) -> nn.Module:
    """Give every batch-norm statistics and scales that differ from nothing done."""
    torch.manual_seed(3)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features) / 5
            part.running_var = torch.rand(part.num_features) + 0.5
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
    return model.train(learning)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_large_100"])
def test_output_and_gradients_are_those_of_the_two_modules(name: str) -> None:
    """Every parameter, those of batch-norm too, gets the gradient that it gets unfolded."""
    # In 64 bits, as an activation with a kink turns rounding into other gradients.
    model = ready(timm.create_model(name, num_classes=7)).double()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    before, wanted = model(x), gradients(model, x)
    with folded(model, x[:1]) as n_pairs:
        assert n_pairs > 10
        torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-8)
        found = gradients(model, x)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_everything_is_as_before_afterwards() -> None:
    """Weights, their names and the way the modules run are unchanged once the block is left."""
    model = ready(timm.create_model("resnet18", num_classes=3))
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    with folded(model, x):
        assert list(model.state_dict()) == list(state)
    assert torch.equal(model(x), before)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_batch_norm_that_learns_statistics_is_left_alone() -> None:
    """In training mode its output depends on the batch: nothing can be folded."""
    model = ready(timm.create_model("resnet18", num_classes=3), learning=True)
    with folded(model, torch.randn(4, 3, 64, 64)) as n_pairs:
        assert n_pairs == 0


class Shared(nn.Module):
    """A convolution whose output goes to a batch-norm and, past it, to the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_nothing_is_folded_where_something_else_takes_the_same_output() -> None:
    """The result would change, which is found out, and the modules stay as they are."""
    model = ready(Shared())
    x = torch.randn(2, 3, 5, 5)
    before = model(x)
    with folded(model, x) as n_pairs:
        assert n_pairs == 0
        assert torch.equal(model(x), before)
