"""Near duplicates among 100 000 feature vectors: how long, and is any missed?

The vectors (1280 numbers) are made to lie as features do: random ones around 2000 centres that
differ in 64 directions, without negative numbers; one in fifty is another one again with some
noise, as a picture saved anew is. `neighbours` looks for the ten nearest of each; recall is held
against the exact answer for a part. Beside it, the plain way (every vector with every other, by
matrix products, the ten largest kept) is timed on a part and counted up.
"""

from __future__ import annotations

import time

from _machine import describe
from _measuring import Figure, options, report

K, D = 10, 1280


def main() -> None:
    given = options(__doc__, n=100_000, n_means="vectors", quick_n=8000, repeats=3)
    machine = describe()
    import numpy as np

    from tellapart.evaluation.neighbours import neighbours

    chance = np.random.default_rng(0)
    directions = chance.standard_normal((64, D), dtype=np.float32)
    n_again = given.n // 50
    centres = chance.standard_normal((2000, 64), dtype=np.float32)
    inner = centres[chance.integers(0, 2000, given.n)]
    inner = inner + 0.6 * chance.standard_normal(inner.shape, dtype=np.float32)
    vectors = np.empty((given.n, D), dtype=np.float16)
    for start in range(0, given.n, 5000):
        rows = inner[start : start + 5000] @ directions / 8
        rows += 0.3 * chance.standard_normal(rows.shape, dtype=np.float32)
        vectors[start : start + 5000] = np.maximum(rows, 0)
    noise = chance.standard_normal((n_again, D), dtype=np.float32)
    again = vectors[:n_again].astype(np.float32) * (1 + 0.1 * noise)
    vectors[-n_again:] = np.maximum(again, 0)
    part = chance.choice(given.n, min(given.n, 1000), replace=False)
    unit = vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    seconds, work, ratios, recalls, missed = [], [], [], [], []
    for _ in range(given.repeats):
        start, busy = time.perf_counter(), time.process_time()
        nearest, _ = neighbours(vectors, K)
        seconds.append(time.perf_counter() - start)
        work.append(time.process_time() - busy)
        busy = time.process_time()
        near = unit[part] @ unit.T
        near[np.arange(len(part)), part] = -1
        exact = np.argpartition(-near, K, axis=1)[:, :K]
        plain = (time.process_time() - busy) * given.n / len(part)
        ratios.append(plain / work[-1])
        hits = [len(set(nearest[row]) & set(best)) for row, best in zip(part, exact, strict=True)]
        recalls.append(sum(hits) / (K * len(part)))
        copies = np.arange(given.n - n_again, given.n)
        found = (nearest[copies] == np.arange(n_again)[:, None]).any(axis=1)
        back = (nearest[:n_again] == copies[:, None]).any(axis=1)
        missed.append(float((~(found | back)).sum()))
    size = f"{given.n} x {D}"
    figures = [
        Figure(f"{size}: ten nearest of each, s", seconds, at_most=60),
        # Others' work on the same cores does not count into this one.
        Figure(f"{size}: the same, processor time over two cores, s", [s / 2 for s in work]),
        Figure(f"{size}: every pair by matrix products, times that work", ratios, at_least=1),
        Figure(f"{size}: of the ten nearest found", recalls, at_least=0.8),
        Figure(f"{size}: of {n_again} near duplicates missed", missed, at_most=0),
    ]
    report("neighbours", machine, given, figures)


if __name__ == "__main__":
    main()
