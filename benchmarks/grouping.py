"""Groups against true classes, what to label first against chance, and the time that both take.

Features of flowers and scenes are computed once, in a cache of their own. Then, --repeats times
with other seeds: groups of the learning pictures, purity and normalised mutual information; so
many labels chosen by `group` against as many drawn at random, by what the probe learns from them
on `valid`; and, after a first random lot of labels, a second lot by the doubts of what that lot
taught. Last, groups and suggestions among --n made up features, wide apart and in bounded memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from _machine import describe
from _measuring import Figure, data_folder, options, report

BUDGETS = {"intel_scenes": (12, 30, 60), "flowers102": (102, 204)}
STARTS = {"intel_scenes": 30, "flowers102": 204}
TARGETS = {
    f"{name}, {n} labels: gained over random": {"at_least": 0.0}
    for name, budgets in BUDGETS.items()
    for n in budgets
}


def features_of(name: str) -> tuple[Any, Any, Any]:
    """Return features (N, D), labels and splits of a folder of the shared pictures."""
    import numpy as np

    from tellapart.data.catalog import scan
    from tellapart.pipeline.unlabelled import open_eyes
    from tellapart.progress import Progress

    catalog = scan(data_folder(name))
    kept, unreadable, _ = open_eyes().look(
        catalog.paths.tolist(), catalog.digests.tolist(), Progress("quiet")
    )
    catalog = catalog.without(unreadable)
    features = np.stack([kept.get(digest) for digest in catalog.digests.tolist()])
    return features, catalog.labels, catalog.splits


def taught(features: Any, labels: Any, rows: Any, n_classes: int) -> Any:
    """Return the probe that these rows teach."""
    import numpy as np

    from tellapart.training.probe import fit_probe

    groups = np.array([f"{row:032d}".encode() for row in rows], "S32")
    return fit_probe(features[rows], labels[rows], groups, n_classes)


def accuracy(probe: Any, features: Any, labels: Any) -> float:
    return float((probe.logits(features).argmax(axis=1) == labels).mean())


def grouped(name: str, features: Any, labels: Any, seed: int) -> dict[str, float]:
    """Compare groups with classes: as many as were chosen, and as many as there are classes."""
    import numpy as np
    from sklearn.metrics import normalized_mutual_info_score

    from tellapart.evaluation.grouping import find_groups, fit_projection, without_strangers

    points = fit_projection([features]).points(features)
    found = {}
    for how, n in (("chosen", None), ("as many as classes", len(np.unique(labels)))):
        start = time.perf_counter()
        groups = without_strangers(find_groups(points, n, seed), lambda: [features])
        seconds = time.perf_counter() - start
        there = groups.of >= 0
        of, true = groups.of[there], labels[there]
        right = sum(np.bincount(true[of == one]).max() for one in range(groups.count))
        found |= {
            f"{name}, {how}: groups": groups.count,
            f"{name}, {how}: purity": right / len(of),
            f"{name}, {how}: mutual information": normalized_mutual_info_score(true, of),
            f"{name}, {how}: in no group": 1 - there.mean(),
            f"{name}, {how}: seconds": seconds,
        }
    return found


def labelled_first(name: str, learn: Any, held: Any, seed: int) -> dict[str, float]:
    """Compare what chosen labels teach with what random ones do, on a random four fifths."""
    import numpy as np

    from tellapart.evaluation.grouping import choose_doubtful, choose_spread, fit_projection

    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(learn[1]))[: len(learn[1]) * 4 // 5])
    features, labels = learn[0][some], learn[1][some]
    n_classes = int(labels.max()) + 1
    points = fit_projection([features]).points(features)

    def score(rows: Any) -> float:
        return accuracy(taught(features, labels, rows, n_classes), *held)

    found = {}
    for n in BUDGETS[name]:
        chance, ours = score(rng.permutation(len(some))[:n]), score(choose_spread(points, n, seed))
        found |= {
            f"{name}, {n} labels: random": chance,
            f"{name}, {n} labels: chosen": ours,
            f"{name}, {n} labels: gained over random": ours - chance,
        }
    n = STARTS[name]
    first, rest = np.split(rng.permutation(len(some)), [n])
    probe = taught(features, labels, first, n_classes)
    logits = probe.logits(features[rest])
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    two = np.sort(probs / probs.sum(axis=1, keepdims=True), axis=1)[:, -2:]
    doubt = (1 - (two[:, 1] - two[:, 0])).astype(np.float32)
    more = {
        "random": rest[:n],
        "spread": rest[choose_spread(points[rest], n, seed)],
        "doubtful": rest[choose_doubtful(points[rest], doubt, n, seed)],
        "doubtful alone": rest[np.argsort(-doubt)[:n]],
    }
    for how, rows in more.items():
        found[f"{name}, {n} random labels, then {n} {how}"] = score(np.concatenate([first, rows]))
    return found


def many(n: int) -> dict[str, float]:
    """Time groups and suggestions among so many made up pictures of 200 kinds."""
    import numpy as np

    from tellapart.evaluation.grouping import (
        choose_spread,
        find_groups,
        fit_projection,
        without_strangers,
    )

    kinds = np.random.default_rng(0).normal(size=(200, 1280)).astype(np.float32)

    def batches() -> Iterator[Any]:
        for start in range(0, n, 2048):
            rng = np.random.default_rng(start)
            size = min(2048, n - start)
            near = kinds[rng.integers(200, size=size)]
            yield (near + 2 * rng.normal(size=near.shape)).astype(np.float16)

    start = time.perf_counter()
    for _ in batches():
        pass
    making = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    projection = fit_projection(batches())
    points = np.concatenate([projection.points(batch) for batch in batches()])
    groups = without_strangers(find_groups(points), batches)
    passed = time.perf_counter() - start - 4 * making
    start = time.perf_counter()
    choose_spread(points, 100)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        f"{n} pictures: grouping, s": passed,
        f"{n} pictures: groups": groups.count,
        f"{n} pictures: 100 suggestions, s": time.perf_counter() - start,
        f"{n} pictures: added to the peak memory, MB": grown / 1000,
    }


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    found = defaultdict(list)
    for figure, value in many(given.n).items():
        found[figure].append(float(value))
    for name in BUDGETS:
        features, labels, splits = features_of(name)
        learn, held = splits == "train", splits == "valid"
        for seed in range(given.repeats):
            figures = grouped(name, features[learn], labels[learn], seed) | labelled_first(
                name, (features[learn], labels[learn]), (features[held], labels[held]), seed
            )
            for figure, value in figures.items():
                found[figure].append(float(value))
    return found


def main() -> None:
    given = options(
        __doc__, n=100_000, n_means="made up pictures to group", quick_n=5000, repeats=5
    )
    for name in BUDGETS:
        data_folder(name)
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TELLAPART_CACHE", folder)
        found = measure(given)
    figures = [Figure(name, values, **TARGETS.get(name, {})) for name, values in found.items()]
    report("grouping", machine, given, figures)


if __name__ == "__main__":
    main()
