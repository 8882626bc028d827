"""Find a rate: raise it step by step until the loss grows, and look where it fell fastest. (torch)

The range test of Smith 2015 (arXiv:1506.01186), with the smoothing and the stop that fastai gave
it. The weights are put back afterwards.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from lightning_fabric import Fabric

from tellapart.backbones.ranks import ALONE, Ranks
from tellapart.errors import TrainingDiverged
from tellapart.training.finetune import Learner, Pictures, Stepper, class_weights, set_mode
from tellapart.training.recipe import Phase
from tellapart.training.shared_norm import shared_statistics
from tellapart.training.sources import batches_of

SMOOTHING = 0.9
# The test ends where the smoothed loss is this many times its lowest.
STOP_AT = 4.0
# Losses of the first steps are noise, and the last ones explode.
SKIP_START, SKIP_END = 5, 3


@dataclass(frozen=True)
class RateTest:
    """Rates tried, in rising order, the smoothed loss at each, and the rate to learn with."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


def find_rate(
    learner: Learner,
    phase: Phase,
    pictures: Pictures,
    fabric: Fabric,
    *,
    start: float = 1e-7,
    end: float = 1.0,
    steps: int = 100,
    ranks: Ranks = ALONE,
) -> RateTest:
    """Try rates of the body from start to end, each times the same factor more than the last.

    The phase's optimiser, batch, loss and rate of the head beside the body's are used; weights
    are as before afterwards.

    Raises:
        TrainingDiverged: the loss was no number from the start.
    """
    before = copy.deepcopy(learner.module.state_dict())
    trial = replace_rate(phase, start)
    weights = class_weights(phase, pictures.labels[pictures.train], pictures.n_classes)
    stepper = Stepper(learner, trial, weights, fabric, ranks)
    torch.manual_seed(0)
    set_mode(learner, phase)
    try:
        with shared_statistics(learner.module, ranks):
            rates, losses = _climb(stepper, pictures, (start, end), steps)
    finally:
        learner.module.load_state_dict(before)
    if len(rates) < 2:
        raise TrainingDiverged(
            f"The loss was no number at the smallest rate, {start:.1e}. Expected was one that "
            f"falls before it rises. The weights are as before. Lower the first rate with --start."
        )
    return RateTest(tuple(rates), tuple(losses), _suggest(rates, losses))


def replace_rate(phase: Phase, rate: float) -> Phase:
    """Return the phase with another rate of the body."""
    return phase.model_copy(update={"lr": rate})


def _climb(
    stepper: Stepper, pictures: Pictures, ends: tuple[float, float], steps: int
) -> tuple[list[float], list[float]]:
    order = np.random.default_rng(0).permutation(pictures.train)
    batches = batches_of(order, stepper.phase.batch)
    batches = list(islice(cycle(batches), steps))
    inputs = pictures.views(batches, 0, pictures.sample())
    mixing = np.random.default_rng(0)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for number, rows in enumerate(batches):
        rate = ends[0] * (ends[1] / ends[0]) ** (number / max(1, steps - 1))
        stepper.set_rate(rate / ends[0])
        labels = torch.from_numpy(pictures.labels[rows])
        views, at = next(inputs)
        loss, _ = stepper.learn(views, labels, mixing, at=at)
        stepper.step()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (number + 1))
        if not math.isfinite(loss) or (losses and smoothed > STOP_AT * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
    return rates, losses


def _suggest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the loss fell fastest over the logarithm of the rate.

    No faster than a tenth of where the loss was lowest.
    """
    logs, values = np.log(rates), np.array(losses)
    lowest = int(values.argmin())
    inner = slice(SKIP_START, max(SKIP_START + 2, min(lowest + 1, len(values) - SKIP_END)))
    if len(values[inner]) < 2:
        return rates[lowest] / 10
    slopes = np.gradient(values[inner], logs[inner])
    steepest = rates[SKIP_START + int(slopes.argmin())]
    return float(min(steepest, rates[lowest] / 10) if lowest > SKIP_START else steepest)
