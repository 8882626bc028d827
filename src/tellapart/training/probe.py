"""The convex head: multinomial logistic regression on kept features, strength chosen honestly.

The L2 strength is chosen by out-of-fold log loss inside the learning pictures, so that the
pictures that score have no say in it. Needs no torch: learning again takes seconds anywhere.

The solver is our own L-BFGS because of what was measured on 6552 x 1280 features and 102
classes (2 cores): SciPy's takes 7.0 s for one strength, of which 2.5 s are its own double
precision bookkeeping; this one takes 0.9 s to the same validation accuracy. It also solves the
folds side by side: one matrix product for all of them runs at 1.5 times the speed of one each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.ranks import free_mb
from tellapart.progress import Progress

Floats = NDArray[np.float32]

# Where the search over strengths starts, its first step, and how far it may go. With
# standardised features the best strength lay at 4e-5 for 6552 pictures and 102 classes, and at
# 0.1 for 245 pictures and 2 classes.
START_L2 = 1e-2
STEP = 10.0
# In powers of ten: nearer than this, log loss hardly changes.
WORTH_A_SOLVE = 0.1
WEAKEST_L2, STRONGEST_L2 = 1e-7, 1e2

# Of the memory that is left, what solving may take: others want some too.
MOST_OF_MEMORY = 0.6
# Features in 32 bits that are in memory at once where not all are: 32 MB.
BLOCK_VALUES = 8 << 20

# Decrease of the loss (relative, above 1) at which a solve stops: tightening it to 1e-6 took three
# times as long and moved validation log loss by less than 0.003.
TOLERANCE = 1e-4
MAX_STEPS = 200
# How strongly a head that is moved is held to what it was; see docs/decisions/0022 for others.
HELD_L2 = 1e-2
MEMORY = 10
# exp() of float32 overflows at 88.7 and loses digits below -87; sums of thousands still fit.
SAFE_EXPONENT = 70.0


@dataclass(frozen=True)
class ProbePoint:
    """What one L2 strength reached on pictures held out of its own learning."""

    l2: float
    log_loss: float
    accuracy: float
    chosen: bool = False


@dataclass(frozen=True)
class Probe:
    """A linear head on raw features: logits = features @ weight.T + bias.

    weight: (K, D) float32. bias: (K,) float32.
    path: the strengths tried, in rising order, one of them chosen.
    out_of_fold_logits: (N, K) float32 of the learning pictures, each from a head that did not
        learn from it: what temperature and thresholds may be fitted on.
    """

    weight: Floats
    bias: Floats
    path: tuple[ProbePoint, ...]
    out_of_fold_logits: Floats

    def logits(self, features: NDArray[np.float16]) -> Floats:
        """Compute (N, K) float32 logits of (N, D) features."""
        return features.astype(np.float32) @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[np.float16],
    labels: NDArray[np.int64],
    groups: NDArray[np.bytes_],
    n_classes: int,
    progress: Progress | None = None,
    limit_mb: float | None = None,
) -> Probe:
    """Fit the head on (N, D) features and (N,) labels, all of which may teach.

    groups: (N,) what must share a fold: the digests, so that no picture is judged by a head that
        learned from its own copy.
    features: may be mapped from a file; then they need not fit into memory.
    limit_mb: memory to solve in; None: a share of what the machine has left. What takes more is
        solved in blocks of rows, read again for each step: the same sums in another order.
    """
    progress = progress or Progress("quiet")
    folds = assign_folds(labels, groups, n_folds(len(labels)))
    width = n_folds(len(labels)) * n_classes
    standard, mean, spread = _standardised(features, width, progress, limit_mb)
    search = _Search(standard, labels, folds, n_classes, progress)
    chosen = search.run()
    everything = _Problem(standard, labels, np.ones((len(labels), 1), np.float32), n_classes)
    # The folds' heads are close to the one on everything: their mean saves half the steps.
    start = chosen.params.reshape(-1, search.n_folds, n_classes).mean(axis=1)
    params = minimise(everything, np.ascontiguousarray(start), chosen.point.l2)
    weight = params[:-1] / spread[:, None]
    return Probe(
        weight=np.ascontiguousarray(weight.T),
        bias=params[-1] - mean @ weight,
        path=search.path(chosen.point),
        out_of_fold_logits=chosen.logits,
    )


def move_head(
    features: NDArray[np.float16],
    labels: NDArray[np.int64],
    head: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Move a head (K, D), (K,) no further than (N, D) features and (N,) labels ask for.

    For features of a network that has itself learned from some of these pictures: it has them all
    but right, so that solving anew would choose far too weak a strength, and forget what the
    network's own steps reached. The L2 penalty is on the difference to the given head.
    """
    quiet = Progress("quiet")
    standard, mean, spread = _standardised(features, len(head[1]), quiet)
    before = (head[0] * spread).T
    offset = np.concatenate([block @ before for _, block in _blocks(standard)])
    offset += head[0] @ mean + head[1]
    teaches = np.ones((len(labels), 1), np.float32)
    problem = _Problem(standard, labels, teaches, len(head[1]), offset)
    start = np.zeros((standard.shape[1] + 1, len(head[1])), dtype=np.float32)
    params = minimise(problem, start, HELD_L2)
    weight = params[:-1] / spread[:, None]
    return np.ascontiguousarray(head[0] + weight.T), head[1] + params[-1] - mean @ weight


def n_folds(n: int) -> int:
    """Choose how many folds: fewer where there are pictures enough, since each one costs."""
    return 5 if n < 5000 else 3


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.bytes_], folds: int
) -> NDArray[np.int64]:
    """Deal (N,) pictures out to folds, evenly within each class, groups kept together.

    The order of dealing is that of the digests: random, and the same in every run.
    """
    unique, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    dealt = np.zeros(len(unique), dtype=np.int64)
    # Continuing the count from class to class keeps the folds equal where classes are tiny.
    order = np.lexsort((unique, labels[first]))
    dealt[order] = np.arange(len(unique)) % folds
    return dealt[inverse]


def available_mb() -> float:
    """Say how much memory this process may still take, in MB: what the system has, or a container.

    Where nothing tells, 4000.
    """
    found = [free for read in (free_mb, _free_of_container) if (free := read()) is not None]
    return min(found, default=4000.0)


def _free_of_container() -> float | None:
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        return (most - used) / 1e6
    except (OSError, ValueError):  # No such file, or "max": no limit.
        return None


def _needed_mb(shape: tuple[int, ...], width: int) -> float:
    """Say what solving at once takes: features in 32 bits, and three arrays of logits."""
    n, n_features = shape
    return 4 * n * (n_features + 3 * width) / 1e6


def _standardised(
    features: NDArray[np.float16], width: int, progress: Progress, limit_mb: float | None = None
) -> tuple[Floats | Standardised, Floats, Floats]:
    """Return features of mean 0 and spread 1, and both: a whole array, or one read in blocks.

    width: how many logits a row gets. limit_mb: see `fit_probe`.
    """
    limit_mb = available_mb() * MOST_OF_MEMORY if limit_mb is None else limit_mb
    needed_mb = _needed_mb(features.shape, width)
    if needed_mb > limit_mb:
        progress.say(
            f"Solving for the head in blocks: at once it would take {needed_mb:,.1f} MB, and "
            f"{limit_mb:,.1f} MB may be taken."
        )
        standard = Standardised(features)
        return standard, standard.mean, standard.spread
    whole = features.astype(np.float32)
    mean, spread = whole.mean(axis=0), whole.std(axis=0) + 1e-6
    whole -= mean
    whole /= spread
    return whole, mean, spread


def _blocks(standard: Floats | Standardised) -> Iterator[tuple[slice, Floats]]:
    if isinstance(standard, Standardised):
        return standard.blocks()
    return iter([(slice(0, len(standard)), standard)])


class Standardised:
    """Features (N, D) that are made 32 bits wide, of mean 0 and spread 1, a block at a time."""

    def __init__(self, features: NDArray[np.float16]) -> None:
        self._features = features
        self.shape = features.shape
        self._rows = max(1, BLOCK_VALUES // max(1, features.shape[1]))
        n = max(1, len(features))
        # The blocks as they are, until both are known.
        self.mean = np.zeros(self.shape[1], np.float32)
        self.spread = np.ones(self.shape[1], np.float32)
        total = sum(block.sum(axis=0, dtype=np.float64) for _, block in self.blocks())
        self.mean = (total / n).astype(np.float32)
        squares = sum(np.square(block).sum(axis=0, dtype=np.float64) for _, block in self.blocks())
        self.spread = (np.sqrt(squares / n) + 1e-6).astype(np.float32)

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield rows, and their features (n, D)."""
        for start in range(0, len(self._features), self._rows):
            rows = slice(start, start + self._rows)
            block = self._features[rows].astype(np.float32)
            block -= self.mean
            block /= self.spread
            yield rows, block


@dataclass(frozen=True)
class _Tried:
    point: ProbePoint
    params: Floats
    logits: Floats


class _Search:
    """Walks over L2 strengths from the start towards lower out-of-fold log loss."""

    def __init__(
        self,
        standard: Floats | Standardised,
        labels: NDArray[np.int64],
        folds: NDArray[np.int64],
        n_classes: int,
        progress: Progress,
    ) -> None:
        self._features, self._labels, self._folds = standard, labels, folds
        self._progress = progress
        self.n_folds = int(folds.max()) + 1
        self._n_classes = n_classes
        teaches = (folds[:, None] != np.arange(self.n_folds)).astype(np.float32)
        self._problem = _Problem(standard, labels, teaches, n_classes)
        self._points: list[ProbePoint] = []

    def run(self) -> _Tried:
        """Go by factors of ten while it helps, then to the lowest point of a parabola."""
        best = start = self._try(START_L2, None)
        for factor in (1 / STEP, STEP):
            before = start
            while WEAKEST_L2 <= before.point.l2 * factor <= STRONGEST_L2:
                tried = self._try(before.point.l2 * factor, before.params)
                if tried.point.log_loss >= best.point.log_loss:
                    break
                best = before = tried
            if best is not start:
                break
        refined = self._lowest_between(best.point.l2)
        if refined is not None:
            tried = self._try(refined, best.params)
            best = tried if tried.point.log_loss < best.point.log_loss else best
        return best

    def _lowest_between(self, l2: float) -> float | None:
        """Estimate the best strength from the one given and its neighbours, on a log scale.

        None where a neighbour is missing, or the estimate is too near to be worth a solve.
        """
        loss = {round(math.log10(point.l2), 6): point.log_loss for point in self._points}
        middle = round(math.log10(l2), 6)
        step = math.log10(STEP)
        left, right = loss.get(round(middle - step, 6)), loss.get(round(middle + step, 6))
        if left is None or right is None:
            return None
        bend = left - 2 * loss[middle] + right
        shift = step * (left - right) / (2 * bend) if bend > 0 else 0.0
        return float(10 ** (middle + shift)) if abs(shift) > WORTH_A_SOLVE else None

    def path(self, chosen: ProbePoint) -> tuple[ProbePoint, ...]:
        """Return what was tried, by rising strength, the chosen one marked."""
        return tuple(
            replace(point, chosen=point is chosen)
            for point in sorted(self._points, key=lambda point: point.l2)
        )

    def _try(self, l2: float, start: Floats | None) -> _Tried:
        if start is None:
            width = self.n_folds * self._n_classes
            start = np.zeros((self._features.shape[1] + 1, width), dtype=np.float32)
        params = minimise(self._problem, start, l2)
        logits = self._problem.logits_of(params, self._folds)
        log_loss = _log_loss(logits, self._labels)
        accuracy = float((logits.argmax(axis=1) == self._labels).mean())
        self._points.append(ProbePoint(l2, log_loss, accuracy))
        self._progress.detail(
            f"  L2 {l2:.1e}: out-of-fold log loss {log_loss:.4f}, accuracy {accuracy:.4f}"
        )
        return _Tried(self._points[-1], params, logits)


class _Problem:
    """Mean cross-entropy of F heads on the same features, each with its own learning rows.

    teaches: (N, F), 1 where a row teaches head f. Parameters are (D + 1, F * K), bias last.
    offset: (N, K), what is added to the logits of every head.
    """

    def __init__(
        self,
        features: Floats | Standardised,
        labels: NDArray[np.int64],
        teaches: Floats,
        n_classes: int,
        offset: Floats | None = None,
    ) -> None:
        self._features, self._labels, self._offset = features, labels, offset
        self._share = teaches / teaches.sum(axis=0, dtype=np.float64).astype(np.float32)
        self._n_classes = n_classes

    def _logits(self, rows: slice, features: Floats, params: Floats) -> Floats:
        """Compute (n, F, K) logits of some rows."""
        flat: Floats = features @ params[:-1]
        flat += params[-1]
        logits: Floats = flat.reshape(len(flat), -1, self._n_classes)
        if self._offset is not None:
            logits += self._offset[rows, None]
        return logits

    def logits_of(self, params: Floats, heads: NDArray[np.int64]) -> Floats:
        """Compute (N, K) logits, each row's from the head named in `heads` (N,)."""
        chosen = np.empty((len(self._labels), self._n_classes), np.float32)
        for rows, features in _blocks(self._features):
            z = self._logits(rows, features, params)
            chosen[rows] = z[np.arange(len(z)), heads[rows]]
        return chosen

    def value_and_gradient(self, params: Floats, l2: float) -> tuple[float, Floats]:
        """Compute the sum over heads of mean cross-entropy + l2 / 2 * |weight|^2, and its slope."""
        loss, gradient = 0.0, np.zeros_like(params)
        for rows, features in _blocks(self._features):
            loss += self._add(rows, features, params, gradient)
        gradient[:-1] += l2 * params[:-1]
        return loss + 0.5 * l2 * _dot(params[:-1], params[:-1]), gradient

    def _add(self, rows: slice, features: Floats, params: Floats, gradient: Floats) -> float:
        """Return the cross-entropy of some rows; add its slope to the gradient."""
        labels, share = self._labels[rows], self._share[rows]
        z = self._logits(rows, features, params)
        place = np.arange(len(z))
        if max(z.max(), -z.min()) > SAFE_EXPONENT:
            # Rare, and a tenth of the time of a step.
            z -= z.max(axis=2, keepdims=True)
        right = z[place, :, labels]
        np.exp(z, out=z)
        total = z.sum(axis=2)
        loss = ((np.log(total) - right) * share).sum(dtype=np.float64)
        z *= (share / total)[:, :, None]
        z[place, :, labels] -= share
        error = z.reshape(len(z), -1)
        gradient[:-1] += features.T @ error
        gradient[-1] += error.sum(axis=0)
        return float(loss)


def minimise(problem: _Problem, start: Floats, l2: float) -> Floats:
    """Minimise by L-BFGS with backtracking (Nocedal and Wright 2006, algorithms 7.4 and 3.1)."""
    params = start
    value, gradient = problem.value_and_gradient(params, l2)
    pairs: list[tuple[Floats, Floats, float]] = []
    for _ in range(MAX_STEPS):
        direction = _direction(gradient, pairs)
        slope = _dot(gradient, direction)
        step = 1.0
        while True:
            new = params + np.float32(step) * direction
            new_value, new_gradient = problem.value_and_gradient(new, l2)
            if new_value <= value + 1e-4 * step * slope or step < 1e-6:
                break
            step /= 2
        if new_value >= value:
            break
        moved, bent = new - params, new_gradient - gradient
        curvature = _dot(moved, bent)
        if curvature > 0:
            pairs = [*pairs[1 - MEMORY :], (moved, bent, 1 / curvature)]
        small = value - new_value < TOLERANCE * max(1.0, abs(new_value))
        params, value, gradient = new, new_value, new_gradient
        if small:
            break
    return params


def _direction(gradient: Floats, pairs: list[tuple[Floats, Floats, float]]) -> Floats:
    """Apply the inverse Hessian estimated from the last steps to the negative gradient."""
    q = -gradient
    if not pairs:
        return q / max(np.float32(_dot(q, q) ** 0.5), np.float32(1e-12))
    kept = []
    for moved, bent, rho in reversed(pairs):
        alpha = rho * _dot(moved, q)
        q -= np.float32(alpha) * bent
        kept.append(alpha)
    _, bent, rho = pairs[-1]
    q /= np.float32(rho * _dot(bent, bent))
    for (moved, bent, rho), alpha in zip(pairs, reversed(kept), strict=True):
        q += np.float32(alpha - rho * _dot(bent, q)) * moved
    return q


def _dot(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b))


def _log_loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    top = logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return float(np.mean(total - logits[np.arange(len(labels)), labels]))
