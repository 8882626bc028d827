"""The rate of learning as a function of how far a phase is. Needs no torch.

A pure function of the step: a resumed run needs to remember nothing, and a phase whose end moves
(a budget of time) only asks with another total.
"""

from __future__ import annotations

import math

from tellapart.training.recipe import Phase

# One-cycle, as torch's OneCycleLR has it by default.
RISE = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def rate_factor(phase: Phase, step: int, steps_per_epoch: int, n_steps: int) -> float:
    """Return what to multiply the phase's rates by at a step.

    step: from 0. n_steps: how many the phase is expected to take in all.
    """
    if phase.schedule == "step":
        epoch = step // steps_per_epoch
        factor = phase.step_factor ** (epoch // (phase.step_epochs or 1))
    elif phase.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / n_steps))
    elif phase.schedule == "one-cycle":
        factor = _one_cycle(step, n_steps)
    else:
        factor = 1.0
    warm_up = phase.warm_up_epochs * steps_per_epoch
    return factor * min(1.0, (step + 1) / warm_up) if warm_up else factor


def _one_cycle(step: int, n_steps: int) -> float:
    """Rise from 1/25 to 1 on a cosine, then fall to 1/250 000 (Smith and Topin 2018)."""
    top = RISE * n_steps - 1
    low, lowest = 1 / START_DIVISOR, 1 / START_DIVISOR / END_DIVISOR
    if step <= top:
        return _between(low, 1.0, step / max(top, 1e-9))
    return _between(1.0, lowest, (step - top) / max(n_steps - 1 - top, 1e-9))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
