"""Run a frozen network on an accelerator, through torch and Lightning Fabric. (torch)

Tried on CPU only, where the tests hold it to the same numbers as OpenVINO; CUDA and MPS go
through the same lines but have not been run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from tellapart.backbones.network import Frozen, Network
from tellapart.backbones.openvino_runtime import as_kept
from tellapart.backbones.ranks import fabric_devices
from tellapart.data.pixels import Pixels, Preprocessing

TorchPrecision = Literal["32-true", "bf16-mixed"]

# Accelerators want more at once than processors do.
BATCH = 64


class TorchRuntime:
    """A network's frozen part on a torch device, with the interface of `OpenVinoRuntime`.

    The network's own parts are moved to the device and run there, in inference mode.

    Args:
        stop: how many of the network's children run (`Network.cut_index` of the cut); None: all,
            which gives the features.
        flip: average the features over each picture and its mirror.
        precision: "bf16-mixed": what gains by it runs in 16 bits.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        device: str,
        *,
        stop: int | None = None,
        flip: bool = False,
        precision: TorchPrecision = "32-true",
    ) -> None:
        self._fabric = Fabric(
            accelerator=device, devices=fabric_devices(device), precision=precision
        )
        self._frozen = Frozen(network, preprocessing, stop, flip)
        self._frozen.to(self._fabric.device).to(memory_format=torch.channels_last)
        self.precision = "bf16" if precision == "bf16-mixed" else "f32"

    @property
    def identity(self) -> str:
        """What, besides graph and pixels, can change the numbers."""
        return f"torch {torch.__version__} {self._fabric.device.type} {self.precision}"

    def run(self, pictures: Iterable[Pixels]) -> Iterator[NDArray[np.float16]]:
        """Compute what the frozen part gives for each (S, S, 3) picture, in order, as float16."""
        batch: list[Pixels] = []
        for picture in pictures:
            batch.append(picture)
            if len(batch) == BATCH:
                yield from self._compute(batch)
                batch = []
        if batch:
            yield from self._compute(batch)

    def _compute(self, batch: list[Pixels]) -> NDArray[np.float16]:
        # Each time: a loop may have put shared parts into training mode meanwhile.
        self._frozen.eval()
        pixels = self._fabric.to_device(torch.from_numpy(np.stack(batch)))
        with torch.inference_mode(), self._fabric.autocast():
            values: torch.Tensor = self._frozen(pixels)
        return as_kept(values.float().cpu().numpy())
