"""Which device computes: asked for by name, or the best one that is there."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tellapart.errors import DeviceNotAvailable

Device = Literal["cpu", "cuda", "mps"]
DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(asked: str) -> Device:
    """Resolve "auto", "cpu", "cuda" or "mps" to a device that is there.

    Importing torch takes seconds, so "auto" asks it only where the system shows an accelerator.

    Raises:
        DeviceNotAvailable: no such name, or no such device here.
    """
    if asked not in DEVICES:
        raise DeviceNotAvailable(
            f"--device {asked!r} is not known. Use one of {', '.join(DEVICES)}."
        )
    if asked == "cpu" or (asked == "auto" and not _accelerator_in_sight()):
        return "cpu"
    there = _usable()
    if asked == "auto":
        return there[0]
    if asked not in there:
        raise DeviceNotAvailable(
            f"--device {asked} was asked for, but torch finds no such device here. Usable: "
            f"{', '.join(there)}. Nothing was done. Use --device auto to take the best there is."
        )
    return asked


def _accelerator_in_sight() -> bool:
    if find_spec("torch") is None:
        return False
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    nvidia = Path("/dev/nvidiactl").exists() or platform.system() == "Windows"
    return apple or nvidia


def _usable() -> list[Device]:
    """List the devices torch can use here, best first."""
    if find_spec("torch") is None:
        return ["cpu"]
    import torch

    there: list[Device] = []
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    return [*there, "cpu"]
