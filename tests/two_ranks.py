"""What processes that train together do in the tests: run by torchrun, and by the test itself.

As a program, its argument is a folder: each rank writes what came out into it, and then trains on
what the other one does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tellapart.backbones import ranks as joining
from tellapart.backbones.ranks import Ranks, open_ranks
from tellapart.errors import BadRecipe, NotForRanks, TellapartError
from tellapart.progress import Progress
from tellapart.training.finetune import (
    Circumstances,
    Learner,
    PhaseRun,
    Pictures,
)
from tellapart.training.history import History
from tellapart.training.lr_finder import find_rate
from tellapart.training.recipe import Phase

N, N_VALID, K = 23, 6, 3
PHASES: dict[str, dict[str, Any]] = {
    "batch-norm": {"bn": "train", "class_weights": "balanced", "label_smoothing": 0.1, "ema": 0.9},
    "mixed": {"mixup": 0.4, "cutmix": 0.4, "accumulate": 2, "optimizer": "sgd", "momentum": 0.9},
    "one at a time": {"batch": 1, "bn": "train", "lr": 1e-3, "class_weights": "balanced"},
    "patient": {"batch": 5, "lr": 0.03, "epochs": 9, "patience": 2, "draw": "balanced"},
}


class Array:
    """A source of inputs that lie in memory."""

    def __init__(self) -> None:
        self.x = np.random.default_rng(1).normal(size=(N + N_VALID, 3, 6, 6)).astype(np.float32)

    def views(self, batches: Iterable[Any], epoch: int) -> Iterator[Tensor]:
        for rows in batches:
            yield torch.from_numpy(self.x[rows] + np.float32(epoch / 100))

    def plain(self, batches: Iterable[Any]) -> Iterator[Tensor]:
        for rows in batches:
            yield torch.from_numpy(self.x[rows])


def learner() -> Learner:
    """A small network with batch-norm, the same each time."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    head = nn.Linear(8 * 4, K)
    module = nn.Sequential(*body, nn.Flatten(), head)
    learns = [p for part in body for p in part.parameters()]
    return Learner(nn.Identity(), module, (), tuple(learns), tuple(head.parameters()))


def pictures(ranks: Ranks) -> Pictures:
    """Rows with uneven classes, of which each rank has those that it keeps."""
    rows = np.arange(N + N_VALID)
    digests = [f"{row * 2654435761 % 2**32:032x}"[::-1].encode() for row in rows]
    part = ranks.kept_part(digests)
    return Pictures(Array(), rows**2 % 7 % K, rows[:N], rows[N:], K, part=part)


def learn_all(ranks: Ranks) -> dict[str, Any]:
    """Learn each phase; return weights, buffers and records by name."""
    found: dict[str, Any] = {}
    # In 32 bits, so that figures can be compared closely.
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    for name, settings in PHASES.items():
        phase = Phase(learns="all", **{"epochs": 3, "batch": 4, "lr": 1e-2, **settings})
        history = History(None, Progress("quiet"))
        ours = learner()
        around = Circumstances(fabric, 1, 5, history, ranks=ranks)
        outcome = PhaseRun(ours, phase, pictures(ranks), around).run()
        for key, value in ours.module.state_dict().items():
            found[f"{name}/{key}"] = value.numpy()
        records = [(r.train_loss, r.train_accuracy, r.valid_loss) for r in history.epochs]
        found[f"{name}/records"] = np.array(records)
        found[f"{name}/best"] = np.array([outcome.best_epoch, outcome.epochs])
    phase = Phase(learns="all", batch=4)
    rates = find_rate(learner(), phase, pictures(ranks), fabric, steps=20, ranks=ranks)
    found["rates/losses"] = np.array(rates.losses)
    return found


def refused(ranks: Ranks) -> dict[str, str]:
    """Meet where something is wrong; return what each kind of trouble says."""

    def recipe() -> str:
        raise BadRecipe("the recipe is bad")

    def elsewhere() -> str:
        if ranks.first:
            return "found"
        raise BadRecipe("not here")

    said = {}
    for name, work in {
        "all": lambda: ranks.meet(recipe, lambda _: {}),
        "one": lambda: ranks.meet(elsewhere, lambda _: {}),
        "first": lambda: ranks.tell(recipe),
        "facts": lambda: ranks.meet(
            lambda: "found", lambda _: {"same": "x", "seed": str(ranks.number), "of": "abc"}
        ),
    }.items():
        try:
            work()
        except TellapartError as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def short_of_memory() -> str:
    """Join again where a rank needs more memory than any machine has; return what is said."""
    enough, joining.LEAST_MB = joining.LEAST_MB, 1e9
    try:
        open_ranks("cpu")
    except NotForRanks as error:
        return str(error)
    finally:
        joining.LEAST_MB = enough
    return ""


def main(folder: Path, *train: str) -> None:
    """Do all of the above as one of two ranks, each with a cache folder of its own."""
    number = int(os.environ["RANK"])
    os.environ["TELLAPART_CACHE"] = str(folder / f"cache-{number}")
    ranks = open_ranks("cpu")
    found = learn_all(ranks)
    found["homes"] = np.array(ranks.homes)
    own = np.flatnonzero(np.arange(20_000) % 3 % 2 == number)
    values = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float16)
    found["whole"] = ranks.whole(values[own], own, len(values), everywhere=True) - values
    found["only first"] = np.array(ranks.whole(values[own], own, len(values)).shape)
    found["empty"] = ranks.whole(values[: 3 * number], np.arange(3 * number), 4, everywhere=True)
    found["short"] = np.array(short_of_memory())
    found["said"] = np.array([f"{key}: {text}" for key, text in sorted(refused(ranks).items())])
    np.savez(folder / f"rank-{number}.npz", **found)
    from tellapart.cli.main import main as command

    sys.argv = ["tellapart", "train", *train, "--set", f"seed={number}"]
    command()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
