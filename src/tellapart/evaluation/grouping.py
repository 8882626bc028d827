"""Groups of alike pictures, and which of them to label first: from features alone, no labels.

Chosen by measurement (docs/decisions/0018). Costs only numpy to import.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.neighbours import unit

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

# Directions kept of the features: with 32 flowers were grouped worse, 128 took five times as long.
DIRECTIONS = 64
# Groups are found on so many pictures and then take in the others: bounded time and memory.
SAMPLE = 20_000
# The number of groups is chosen on so many: telling how apart they are takes their square.
SCORED = 3000
# Numbers that are tried: each about 1.4 times the one before.
TRIED = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)
# So many different pictures a group at least, on average, where the number is chosen.
MEAN_GROUP = 20
# More groups are taken as long as they are this nearly as well apart as the best number: two
# groups can be given one name in a moment, and one that holds two kinds has to be taken apart.
NEARLY = 0.9
# Pictures so many robust spreads further from the middle of their group belong to none.
FAR = 3.0
# Fewer different pictures than this are no group.
SMALLEST = 2
# Of so many times the wanted number, the most doubtful ones, those are chosen that differ.
DOUBTFUL = 10
# Rows multiplied at once.
_BLOCK = 8192
# Groups are looked for from so many beginnings: with one, ants and bees were not told apart.
STARTS = 4


@dataclass(frozen=True, eq=False)
class Projection:
    """Features as few numbers in which alike pictures lie close together.

    mean: (D,) and directions: (D, R) float32; the strongest directions count less than they would,
    by the root of their spread (half of a whitening).
    """

    mean: Floats
    directions: Floats

    def points(self, features: NDArray[np.float16]) -> Floats:
        """Return (N, R) float32 points of length one for features (N, D)."""
        return unit((unit(features) - self.mean) @ self.directions)


def fit_projection(batches: Iterable[NDArray[np.float16]]) -> Projection:
    """Find the directions in which features differ most, from batches (n, D) read once."""
    n = 0
    total: NDArray[np.float64] = np.zeros(0)
    square: NDArray[np.float64] = np.zeros((0, 0))
    for batch in batches:
        rows = unit(batch)
        if not n:
            D = rows.shape[1]
            total, square = np.zeros(D), np.zeros((D, D))
        n += len(rows)
        total += rows.sum(axis=0, dtype=np.float64)
        square += rows.T @ rows
    mean = total / max(n, 1)
    spread, directions = np.linalg.eigh(square / max(n, 1) - np.outer(mean, mean))
    strongest = np.arange(len(spread))[::-1][: max(1, min(DIRECTIONS, n - 1))]
    scale = np.maximum(spread[strongest], 1e-12) ** -0.25
    return Projection(
        mean.astype(np.float32), (directions[:, strongest] * scale).astype(np.float32)
    )


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each of (N,) pictures belongs to.

    of: (N,) int64 from 0, the largest group first; -1: none. typical: (N,) float32, the cosine to
    the middle of the nearest group, -1 to 1. margin: (N,) float32, how much nearer that is than
    the next one: near 0 is a borderline case.
    """

    of: Rows
    typical: Floats
    margin: Floats

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.of.max(initial=-1)) + 1


def find_groups(points: Floats, n_groups: int | None = None, seed: int = 0) -> Groups:
    """Group points (N, R) of length one, one a different picture.

    n_groups: how many; None: as many as are well apart. There are fewer where points coincide.
    """
    rng = np.random.default_rng(seed)
    chosen = n_groups or choose_count(points, rng)
    centres = _centres(points, chosen, rng)
    near, typical, margin = _nearest(points, centres)
    return Groups(_by_size(near), typical, margin)


def without_strangers(
    groups: Groups, batches: Callable[[], Iterable[NDArray[np.float16]]]
) -> Groups:
    """Take out of groups (-1) what is unlike the rest of its group, and groups too small to be one.

    batches: gives the features (n, D) of the same pictures; read twice. All D numbers are looked
    at, since what makes a picture strange need not be among those that part the others.
    """
    means = np.zeros((groups.count, 0), dtype=np.float32)
    for of, batch in _beside(groups.of, batches()):
        rows = unit(batch)
        if not means.shape[1]:
            means = np.zeros((groups.count, rows.shape[1]), dtype=np.float32)
        np.add.at(means, of, rows)
    means = unit(means)
    alike = np.concatenate(
        [
            np.einsum("nd,nd->n", unit(batch), means[of])
            for of, batch in _beside(groups.of, batches())
        ]
    )
    usual = np.array([np.median(alike[groups.of == one]) for one in range(groups.count)])
    below = usual[groups.of] - alike
    # The median distance from the median, as a standard deviation of a bell curve.
    spread = 1.4826 * float(np.median(np.abs(below)))
    kept = below <= max(FAR * spread, 1e-3)
    large = np.bincount(groups.of[kept], minlength=groups.count)[groups.of] >= SMALLEST
    # Where every picture is one of its own, they stay groups: none is stranger than the others.
    if (kept & large).any():
        kept &= large
    return replace(groups, of=_by_size(np.where(kept, groups.of, -1)))


def choose_count(points: Floats, rng: np.random.Generator) -> int:
    """Choose how many groups: the most that are nearly as well apart as the best number is.

    How well is the mean silhouette (Rousseeuw 1987) on at most SCORED of the points.
    """
    from sklearn.metrics import silhouette_score

    some = points[_sample(len(points), SCORED, rng)]
    scores: list[tuple[float, int]] = []
    for count in TRIED:
        if count > max(2, len(points) // MEAN_GROUP) or count >= _n_different(some):
            break
        near = _nearest(some, _centres(some, count, rng))[0]
        if len(np.unique(near)) < 2:
            break
        scores.append((float(silhouette_score(some, near)), count))
    if not scores:
        return 1
    best = max(scores)
    chosen = best[1]
    for score, count in scores[scores.index(best) + 1 :]:
        if score < NEARLY * best[0]:
            break
        chosen = count
    return chosen


def choose_spread(points: Floats, n: int, seed: int = 0) -> Rows:
    """Choose n points (N, R) that stand for all: the most central of each of n groups.

    The largest group comes first. After TypiClust (Hacohen et al. 2022, arXiv:2202.02794).
    """
    rng = np.random.default_rng(seed)
    near, typical, _ = _nearest(points, _centres(points, min(n, len(points)), rng))
    return _best_of_each(near, typical, n)


def choose_doubtful(points: Floats, doubt: Floats, n: int, seed: int = 0) -> Rows:
    """Choose n points (N, R) of much doubt (N,) that differ from each other.

    The most doubtful of each of n groups among the DOUBTFUL x n most doubtful, as in Cluster-Margin
    (Citovsky et al. 2021, arXiv:2107.14263).
    """
    rng = np.random.default_rng(seed)
    rows = np.argsort(-doubt, kind="stable")[: DOUBTFUL * n]
    near, _, _ = _nearest(points[rows], _centres(points[rows], min(n, len(rows)), rng))
    chosen = rows[_best_of_each(near, doubt[rows], n)]
    return np.asarray(chosen[np.argsort(-doubt[chosen], kind="stable")])


def most_similar(
    wanted: NDArray[np.float16], batches: Iterable[NDArray[np.float16]], top: int
) -> tuple[Rows, Floats]:
    """Return the rows (M, top) most similar to wanted (M, D), and their cosines (M, top), in order.

    batches: (n, D) features, read once; rows are counted through all of them.
    """
    asked = unit(wanted)
    rows = np.zeros((len(wanted), 0), dtype=np.int64)
    values = np.zeros((len(wanted), 0), dtype=np.float32)
    start = 0
    for batch in batches:
        here = asked @ unit(batch).T
        values = np.concatenate([values, here], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(batch)), here.shape)
        rows = np.concatenate([rows, numbers], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :top]
        values = np.take_along_axis(values, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        start += len(batch)
    return rows, np.clip(values, -1, 1)


def _centres(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return the middles (count, R) of groups, of length one, found on a sample."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    some = points[_sample(len(points), max(SAMPLE, 5 * count), rng)]
    count = min(count, len(some))
    found = KMeans(count, n_init=STARTS, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        # Where pictures look the same there are fewer middles than were asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(some)
    return unit(found.cluster_centers_)


def _nearest(points: Floats, centres: Floats) -> tuple[Rows, Floats, Floats]:
    """Return for each point (N,) its nearest centre, the cosine, the lead over the next."""
    near = np.zeros(len(points), dtype=np.int64)
    typical, margin = (np.zeros(len(points), dtype=np.float32) for _ in range(2))
    for start in range(0, len(points), _BLOCK):
        block = slice(start, start + _BLOCK)
        cosines = points[block] @ centres.T
        near[block] = cosines.argmax(axis=1)
        ranked = np.partition(cosines, -2, axis=1) if len(centres) > 1 else cosines
        typical[block] = ranked[:, -1]
        margin[block] = ranked[:, -1] - ranked[:, -2] if len(centres) > 1 else 1
    return near, typical, margin


def _by_size(of: Rows) -> Rows:
    """Number groups anew from 0, the largest first: people look at the large ones first."""
    names, place, sizes = np.unique(of[of >= 0], return_inverse=True, return_counts=True)
    number = np.empty(len(names), dtype=np.int64)
    number[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    numbered = np.full(len(of), -1, dtype=np.int64)
    numbered[of >= 0] = number[place]
    return numbered


def _beside(
    of: Rows, batches: Iterable[NDArray[np.float16]]
) -> Iterator[tuple[Rows, NDArray[np.float16]]]:
    start = 0
    for batch in batches:
        yield of[start : start + len(batch)], batch
        start += len(batch)


def _best_of_each(near: Rows, value: Floats, n: int) -> Rows:
    """Return the row of the highest value in each group, the largest group first, n at most."""
    order = np.lexsort((-value, near))
    groups, first, sizes = np.unique(near[order], return_index=True, return_counts=True)
    ranked = np.lexsort((groups, -sizes))
    return np.asarray(order[first[ranked]][:n], dtype=np.int64)


def _sample(n: int, most: int, rng: np.random.Generator) -> Rows:
    if n <= most:
        return np.arange(n)
    return np.sort(rng.choice(n, most, replace=False))


def _n_different(points: Floats) -> int:
    return len(np.unique(np.round(points, 4), axis=0))
