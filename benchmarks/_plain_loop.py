"""The plain way, always the same: Pillow + torchvision in a DataLoader, fp32 torch, batch 32."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from tellapart.backbones.network import Network, build_network
from tellapart.backbones.registry import DEFAULT_BACKBONE, Backbone, find_backbone
from tellapart.backbones.weights import find_weights

BATCH = 32
WORKERS = 2


class Pictures(Dataset[Tensor]):
    """Picture files as normalised tensors, the way the tutorials do it."""

    def __init__(self, paths: Sequence[str], transform: transforms.Compose) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Tensor:
        return read(self._paths[row], self._transform)


def read(path: str, transform: transforms.Compose) -> Tensor:
    """Read one picture file as (3, S, S) float32."""
    with Image.open(path) as image:
        tensor: Tensor = transform(image.convert("RGB"))
    return tensor


def tutorial_transform(backbone: Backbone) -> transforms.Compose:
    """The evaluation transform of the tutorials, with the numbers of this backbone."""
    preprocessing = backbone.preprocessing
    interpolation = InterpolationMode(preprocessing.interpolation)
    return transforms.Compose(
        [
            transforms.Resize(preprocessing.size_px, interpolation),
            transforms.CenterCrop(preprocessing.size_px),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def default_network() -> Network:
    """The network that the product runs by default, with the same packaged weights."""
    backbone = find_backbone(DEFAULT_BACKBONE)
    return build_network(backbone, find_weights(backbone))


@torch.inference_mode()
def pictures_per_s(paths: Sequence[str], network: Network) -> float:
    """Compute features of all files; the rate includes starting the workers, as users pay it."""
    pooled = nn.Sequential(*(child for _, child in network.children)).eval()
    size = network.backbone.preprocessing.size_px
    pooled(torch.zeros(BATCH, 3, size, size))  # the first batch prepares kernels
    pictures = Pictures(paths, tutorial_transform(network.backbone))
    start = time.perf_counter()
    n = 0
    for batch in DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS):
        n += len(pooled(batch))
    return n / (time.perf_counter() - start)


def pictures_per_s_alone(paths: Sequence[str]) -> float:
    """Build the network and measure: for a process started for this alone."""
    return pictures_per_s(paths, default_network())
