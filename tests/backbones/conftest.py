"""Networks for tests that need weights, but not pretrained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tellapart.backbones.network import Network, build_network
from tellapart.backbones.registry import Backbone

Build = Callable[[Backbone], Network]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other make these tests four times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def lively() -> Build:
    """Build a small-input network whose random weights give numbers of a usual size.

    Fresh batch-norm changes nothing, and without it numbers vanish or explode on their way (1e-6
    in efficientnet_b0, 1e11 in inception_v3); here it has seen one batch of noise.
    """

    def build(backbone: Backbone) -> Network:
        torch.manual_seed(0)
        network = build_network(backbone, None)
        norms = [m for m in network.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            network.features(torch.randn(8, 3, small_px(backbone), small_px(backbone)))
        for norm in norms:
            norm.eval()
        return network

    return build


def small_px(backbone: Backbone) -> int:
    """A size that is quick to compute, odd, and leaves some maps wider than one pixel."""
    return max(65, backbone.min_size_px)


@pytest.fixture(scope="session")
def small_input() -> Callable[[Backbone], int]:
    """Name the input size in pixels that `lively` networks are tried with."""
    return small_px
