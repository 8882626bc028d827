"""Which pictures are most alike, by their features: neighbours, near duplicates, outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pairs = NDArray[np.int64]

# Up to so many, every pair is compared: exact, and as fast as building an index.
EXACT_UP_TO = 12_000
# An index needs no more: what it finds is compared again in all dimensions.
INDEX_DIMENSIONS = 128
# Links a picture, and how far a search looks around (Malkov and Yashunin 2016, HNSW): with these
# all near duplicates were found, see benchmarks/neighbours.py.
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 16, 64, 32
_BLOCK = 1024
# Of each hash so many are looked at.
NEAREST = 10

# Measured on flowers and scenes (docs/decisions/0015). Of 256 bits of two hashes, pictures that
# were saved anew, made half or twice as large, or lost their colour differ in 24 or fewer in 97 of
# 100 cases; with their features as near as CLOSE, a picture that lost its edge does in 64.
SAME_BITS, LOOSE_BITS = 24, 64
SAME_COSINE, CLOSE_COSINE = 0.97, 0.90
# Where hashes agree, as on white ground, features must not contradict.
DIFFERENT_COSINE = 0.5
# Spreads below the usual similarity to the nearest five. In a bell curve 3 of 100 000 are.
OUTLIER_SPREADS = 4.0
OUTLIER_NEIGHBOURS = 5


def neighbours(features: NDArray[Any], k: int) -> tuple[Pairs, Floats]:
    """Return the k nearest others of each row and their cosines, both (N, k), the nearest first.

    features: (N, D) of any real type. k is at most N - 1. Exact up to EXACT_UP_TO rows; beyond, by
    an index of small worlds (HNSW), which misses some of the farther ones; the same rows get the
    same answer.
    """
    rows = unit(features)
    k = min(k, len(rows) - 1)
    if k < 1:
        return np.zeros((len(rows), 0), dtype=np.int64), np.zeros((len(rows), 0), np.float32)
    found = None if len(rows) <= EXACT_UP_TO else _candidates(rows, min(2 * k, len(rows) - 1))
    nearest = np.zeros((len(rows), k), dtype=np.int64)
    cosines = np.zeros((len(rows), k), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        own = np.arange(start, min(start + _BLOCK, len(rows)))[:, None]
        if found is None:
            near = rows[block] @ rows.T
            np.put_along_axis(near, own, -np.inf, axis=1)
            among = np.argpartition(-near, k - 1, axis=1)[:, :k]
        else:
            among = found[block]
            near = np.einsum("nd,nkd->nk", rows[block], rows[among])
            near[among == own] = -np.inf
            cosine = near
        cosine = np.take_along_axis(near, among, axis=1) if found is None else near
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        nearest[block] = np.take_along_axis(among, order, axis=1)
        cosines[block] = np.take_along_axis(cosine, order, axis=1)
    return nearest, cosines


def near_duplicates(
    hashes: NDArray[np.uint8],
    flat: NDArray[np.bool_],
    features: NDArray[Any] | None = None,
    nearest: tuple[Pairs, Floats] | None = None,
) -> Pairs:
    """Return pairs (M, 2) of rows, the lower one first, that show the same or nearly the same.

    hashes: (N, 32) bytes of `data.looks.difference_hash`. flat: (N,) pictures that show nothing,
    whose hash says nothing. features: (N, D), and nearest: their `neighbours`; None to go by the
    hashes alone. Of more copies of one than NEAREST the pairs are not complete, but their groups
    are.
    """
    bits = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    pairs = _pairs(neighbours(bits, NEAREST)[0])
    pairs = pairs[(_different_bits(hashes, pairs) <= SAME_BITS) & ~flat[pairs].any(axis=1)]
    if features is None or nearest is None:
        return pairs
    rows = unit(features)
    pairs = pairs[_cosines(rows, pairs) >= DIFFERENT_COSINE]
    more = _pairs(nearest[0])
    cosine = _cosines(rows, more)
    close = (_different_bits(hashes, more) <= LOOSE_BITS) & ~flat[more].any(axis=1)
    more = more[(cosine >= SAME_COSINE) | (close & (cosine >= CLOSE_COSINE))]
    return np.unique(np.concatenate([pairs, more]), axis=0)


def groups_of(pairs: Pairs, n: int) -> tuple[NDArray[np.int64], ...]:
    """Return what pairs (M, 2) of n rows join to: groups of two rows and more, by first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return ()
    links = coo_array(
        (np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n)
    )
    _, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return tuple(sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0])))


def outliers(cosines: Floats) -> NDArray[np.int64]:
    """Return rows that resemble no other picture, the strangest first.

    cosines: (N, k) of `neighbours`. A row is one where the mean of its nearest five lies
    OUTLIER_SPREADS below the median; a spread is what lies between the median and the 16th of 100.
    """
    if len(cosines) < 20 or not cosines.shape[1]:
        return np.zeros(0, dtype=np.int64)
    near = cosines[:, :OUTLIER_NEIGHBOURS].mean(axis=1)
    low, middle = np.quantile(near, [0.16, 0.5])
    strange = np.flatnonzero(near < middle - OUTLIER_SPREADS * max(float(middle - low), 1e-3))
    return strange[np.argsort(near[strange], kind="stable")].astype(np.int64)


def _candidates(rows: Floats, k: int) -> Pairs:
    """Return (N, k) rows that may be the nearest, by an index over the strongest directions."""
    import voyager

    shown = rows
    if rows.shape[1] > INDEX_DIMENSIONS:
        some = rows[:: max(1, len(rows) // 4096)]
        centre = some.mean(axis=0)
        _, directions = np.linalg.eigh((some - centre).T @ (some - centre))
        shown = unit((rows - centre) @ directions[:, -INDEX_DIMENSIONS:])
    index = voyager.Index(
        voyager.Space.InnerProduct,
        num_dimensions=shown.shape[1],
        M=LINKS,
        ef_construction=BUILD_EFFORT,
        max_elements=len(shown),
    )
    # By one thread: several would link rows in the order in which they happen to come, and the same
    # pictures would get other neighbours each time.
    index.add_items(shown, num_threads=1)
    # Each one finds itself, too.
    found, _ = index.query(shown, k=k + 1, query_ef=max(SEARCH_EFFORT, k + 1))
    return np.asarray(found, dtype=np.int64)


def _pairs(nearest: Pairs) -> Pairs:
    own = np.repeat(np.arange(len(nearest)), nearest.shape[1])
    return np.unique(np.sort(np.stack([own, nearest.reshape(-1)], axis=1), axis=1), axis=0)


def _different_bits(hashes: NDArray[np.uint8], pairs: Pairs) -> NDArray[np.int64]:
    apart = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return np.asarray(apart.sum(axis=1, dtype=np.int64))


def _cosines(rows: Floats, pairs: Pairs) -> Floats:
    found = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), 16 * _BLOCK):
        some = pairs[start : start + 16 * _BLOCK]
        found[start : start + len(some)] = np.einsum("nd,nd->n", rows[some[:, 0]], rows[some[:, 1]])
    return found


def unit(rows: NDArray[Any]) -> Floats:
    """Return rows (N, D) of length one, as float32; those of no length stay as they are."""
    long = rows.astype(np.float32)
    long /= np.maximum(np.linalg.norm(long, axis=1, keepdims=True), 1e-6)
    return np.asarray(long)
