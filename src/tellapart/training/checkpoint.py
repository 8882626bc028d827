"""What a phase needs to go on after a kill: one safetensors file, written whole or not. (torch)

There is no random state in it: orders, views, mixing and dropout follow from seed, phase and
epoch alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from tellapart.errors import CannotResume, OutputError
from tellapart.files import write_atomically
from tellapart.progress import Progress

ELSEWHERE_RUNS = "set TELLAPART_RUNS to another folder"


@dataclass(frozen=True)
class Checkpoint:
    """A state of training: tensors by name, and facts as plain JSON types."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `name.`, without it."""
        start = f"{name}."
        return {
            key.removeprefix(start): value
            for key, value in self.tensors.items()
            if key.startswith(start)
        }


class CheckpointFile:
    """A place for a checkpoint; one that cannot be written is said once and done without."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self._progress = progress
        self._warned = False

    def write(self, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint; parts maps a name to tensors by name."""
        tensors = {
            f"{part}.{name}": value.detach().cpu().contiguous().clone()
            for part, values in parts.items()
            for name, value in values.items()
        }
        try:
            write_atomically(
                self.path, save(tensors, {"facts": json.dumps(dict(facts))}), ELSEWHERE_RUNS
            )
        except OutputError as error:
            if not self._warned:
                self._progress.say(f"Going on without checkpoints: {error}")
                self._warned = True

    def read(self) -> Checkpoint | None:
        """Return what was written, or None where nothing was.

        Raises:
            CannotResume: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                names = list(file.keys())
                facts = json.loads((file.metadata() or {})["facts"])
                return Checkpoint({key: file.get_tensor(key) for key in names}, facts)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CannotResume(
                f"The checkpoint {self.path} cannot be read ({error}). Expected was what an "
                f"interrupted training wrote. Nothing was trained. Train again without --resume; "
                f"what was computed from the pictures is still kept."
            ) from error


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's moments and counts, named by parameter number."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; rates are set anew at each step."""
    content = optimizer.state_dict()
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        weight = parameters[int(number)]
        # Moments must lie in memory as their weights do: the fused optimisers take that for
        # granted, and mix the numbers up without a word where it is not so (torch 2.14).
        is_moment = value.shape == weight.shape
        placed = torch.empty_like(weight, dtype=value.dtype).copy_(value) if is_moment else value
        state.setdefault(int(number), {})[name] = placed
    optimizer.load_state_dict({**content, "state": state})


def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put a module's own state back, or refuse.

    Raises:
        CannotResume: the checkpoint is of another network.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CannotResume(
            f"The checkpoint is of another network: {str(error).splitlines()[0]}. Nothing was "
            f"trained. Train again without --resume."
        ) from error
