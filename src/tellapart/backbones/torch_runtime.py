"""Run a frozen network on an accelerator, through torch and Lightning Fabric.

Tried on CPU only, where the tests hold it to the same numbers as OpenVINO; CUDA and MPS go
through the same lines but have not been run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from tellapart.backbones.network import Network
from tellapart.backbones.openvino_runtime import as_kept
from tellapart.data.pixels import Pixels, Preprocessing

# Accelerators want more at once than processors do.
BATCH = 64


class TorchRuntime:
    """A network's frozen part on a torch device, with the interface of `OpenVinoRuntime`."""

    def __init__(self, network: Network, preprocessing: Preprocessing, device: str) -> None:
        self._fabric = Fabric(accelerator=device, devices=1, precision="32-true")
        self._network = network
        network.model.to(self._fabric.device).to(memory_format=torch.channels_last)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocessing.mean, device=self._fabric.device).reshape(shape)
        self._std = torch.tensor(preprocessing.std, device=self._fabric.device).reshape(shape)
        self.precision = "f32"

    @property
    def identity(self) -> str:
        """What, besides graph and pixels, can change the numbers."""
        return f"torch {torch.__version__} {self._fabric.device.type} {self.precision}"

    @torch.inference_mode()
    def run(self, pictures: Iterable[Pixels]) -> Iterator[NDArray[np.float16]]:
        """Compute the features of each (S, S, 3) picture, in order, as float16."""
        batch: list[Pixels] = []
        for picture in pictures:
            batch.append(picture)
            if len(batch) == BATCH:
                yield from self._features(batch)
                batch = []
        if batch:
            yield from self._features(batch)

    def _features(self, batch: list[Pixels]) -> NDArray[np.float16]:
        pixels = self._fabric.to_device(torch.from_numpy(np.stack(batch)))
        x = pixels.permute(0, 3, 1, 2).float().div(255).sub(self._mean).div(self._std)
        features = self._network.features(x.contiguous(memory_format=torch.channels_last))
        return as_kept(features.float().cpu().numpy())
