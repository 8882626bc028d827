"""What was promised, on pictures used neither for fitting nor for choosing. Features are kept.

The `valid` pictures of flowers and scenes are cut in two at random, --repeats times: temperature,
threshold and candidate sets are fitted on one half, as they are once a tail has learned, and held
to the other. Then the same as `train --recipe fast` does it: fitted out-of-fold on the learning
pictures, held to all of `valid`. Last, half of the flowers are taken for unknown: the head learns
the others, and the strangeness is to tell the two apart among `valid`, against 1 - the largest
probability; scenes among the flowers are the easy case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

TARGETS: dict[str, dict[str, float]] = {
    # The halves have fewer than 500 pictures: chance alone makes about 0.026 and 0.032 of them.
    "flowers, out-of-fold: ECE after": {"at_most": 0.03},
    "scenes, out-of-fold: ECE after": {"at_most": 0.03},
    "flowers, halves: coverage of the 95 % sets": {"at_least": 0.95},
    "scenes, halves: coverage of the 95 % sets": {"at_least": 0.95},
    "flowers, halves: accuracy of the answered, wanted 0.95": {"at_least": 0.95},
    "scenes, halves: accuracy of the answered, wanted 0.95": {"at_least": 0.95},
    "flowers, halves: accuracy of the answered, wanted 0.98": {"at_least": 0.98},
}
ACCEPTS = (0.95, 0.98)


def trained(name: str, folder: Path) -> Any:
    """Train on a folder of the shared pictures in a process of its own; return the bundle."""
    from tellapart.bundle.bundle import open_bundle

    path = folder / f"{name}.tellapart"
    train = tellapart("train", data_folder(name), "-o", path, "--recipe", "fast", "--quiet")
    timed(train, TELLAPART_CACHE=str(folder / "cache"), TELLAPART_RUNS=str(folder / "runs"))
    return open_bundle(path)


def by_chance(probs: Any) -> float:
    """The calibration error of as many pictures whose probabilities are exactly right."""
    import numpy as np

    from tellapart.evaluation.calibration import expected_calibration_error

    rng = np.random.default_rng(0)
    logs = np.log(np.maximum(probs, 1e-12))
    draws = [(logs + rng.gumbel(size=probs.shape)).argmax(axis=1) for _ in range(20)]
    return float(np.mean([expected_calibration_error(probs, drawn) for drawn in draws]))


def held_to(
    name: str, probs: Any, labels: Any, strangeness: Any, rules: Any, uncalibrated: Any
) -> dict[str, float]:
    """Hold rules to pictures that had no part in them."""
    from tellapart.evaluation.calibration import expected_calibration_error
    from tellapart.evaluation.decision import covered, decide, with_accept

    decided = decide(probs, strangeness, rules)
    unclear = probs.max(axis=1) < rules.level
    found = {
        f"{name}: pictures held to": len(labels),
        f"{name}: accuracy": (probs.argmax(axis=1) == labels).mean(),
        f"{name}: ECE before": expected_calibration_error(uncalibrated, labels),
        f"{name}: ECE after": expected_calibration_error(probs, labels),
        f"{name}: ECE by chance alone": by_chance(probs),
        f"{name}: coverage of the 95 % sets": covered(decided, labels).mean(),
        f"{name}: … of those of unclear pictures": covered(decided, labels)[unclear].mean(),
        f"{name}: candidates a picture": decided.n_candidates.mean(),
        f"{name}: … an unclear picture": decided.n_candidates[unclear].mean(),
        f"{name}: known taken for strange": decided.strange.mean(),
    }
    right = probs.argmax(axis=1) == labels
    for accept in ACCEPTS:
        moved = with_accept(rules, accept)
        sure = ~decide(probs, strangeness, moved).unsure
        found[f"{name}: promised, wanted {accept}"] = float(moved.promised)
        found[f"{name}: answered, wanted {accept}"] = sure.mean()
        found[f"{name}: accuracy of the answered, wanted {accept}"] = right[sure].mean()
    return found


def halves(name: str, bundle: Any, seed: int) -> dict[str, float]:
    """Fit on one random half of valid, hold to the other."""
    import numpy as np

    from tellapart.evaluation.calibration import fit_temperature, softmax
    from tellapart.evaluation.decision import fit_rules
    from tellapart.inference.classifier import Classifier

    kept, classifier = bundle.features, Classifier(bundle)
    rows = np.flatnonzero(kept.splits == "valid")
    order = np.random.default_rng(seed).permutation(rows)
    fit, rest = order[: len(rows) // 2], order[len(rows) // 2 :]
    logits = classifier.head(kept.features[rows])
    place = {row: number for number, row in enumerate(rows)}
    fit_at, rest_at = ([place[row] for row in half] for half in (fit, rest))
    temperature = fit_temperature(logits[fit_at], kept.labels[fit])
    probs = softmax(logits, temperature)
    similarity = bundle.familiar.similarity(kept.features[rows])
    confidence = probs.max(axis=1)
    familiar = bundle.familiar.with_usual(confidence[fit_at], similarity[fit_at])
    strangeness = familiar.strangeness_of(confidence, similarity)
    rules = fit_rules(probs[fit_at], kept.labels[fit], strangeness[fit_at])
    return held_to(
        f"{name}, halves",
        probs[rest_at],
        kept.labels[rest],
        strangeness[rest_at],
        rules,
        softmax(logits[rest_at]),
    )


def out_of_fold(name: str, bundle: Any) -> dict[str, float]:
    """Hold what `train` fitted out-of-fold to valid, which had no part in it."""
    import numpy as np

    from tellapart.evaluation.calibration import softmax
    from tellapart.inference.classifier import Classifier

    kept, classifier = bundle.features, Classifier(bundle)
    rows = np.flatnonzero(kept.splits == "valid")
    logits = classifier.head(kept.features[rows])
    probs = classifier.probabilities(logits)
    strangeness = bundle.familiar.strangeness(kept.features[rows], probs)
    return held_to(
        f"{name}, out-of-fold",
        probs,
        kept.labels[rows],
        strangeness,
        classifier.rules,
        softmax(logits),
    )


def unknown(flowers: Any, scenes: Any, seed: int) -> dict[str, float]:
    """Learn half of the flowers, and tell them from the other half, and from scenes."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from tellapart.evaluation.calibration import fit_temperature, softmax
    from tellapart.evaluation.decision import fit_rules
    from tellapart.evaluation.familiarity import fit_familiar, held_out_similarity
    from tellapart.training.probe import assign_folds, fit_probe

    kept = flowers.features
    n_all = len(flowers.manifest.classes)
    known = np.sort(np.random.default_rng(seed).permutation(n_all)[: n_all // 2])
    place = np.full(n_all, -1)
    place[known] = np.arange(len(known))
    labels = place[kept.labels]
    taught = (kept.splits == "train") & (labels >= 0)
    x, y, digests = kept.features[taught], labels[taught], kept.digests[taught]
    probe = fit_probe(x, y, digests, len(known))
    temperature = fit_temperature(probe.out_of_fold_logits, y)
    own = softmax(probe.out_of_fold_logits, temperature)
    similar = held_out_similarity(x, y, assign_folds(y, digests, 3), len(known))
    familiar = fit_familiar(x, y, len(known)).with_usual(own.max(axis=1), similar)
    rules = fit_rules(own, y, familiar.strangeness_of(own.max(axis=1), similar))
    valid = kept.splits == "valid"
    others = scenes.features.features[scenes.features.splits == "valid"]
    found = {}
    for case, new in (("other flowers", kept.features[valid & (labels < 0)]), ("scenes", others)):
        both = np.concatenate([kept.features[valid & (labels >= 0)], new])
        strange_ones = np.arange(len(both)) >= len(both) - len(new)
        probs = softmax(probe.logits(both), temperature)
        strangeness = familiar.strangeness(both, probs)
        ours, plain = (roc_auc_score(strange_ones, s) for s in (strangeness, -probs.max(axis=1)))
        noticed = strangeness > rules.strange_above
        found |= {
            f"unknown {case}: AUROC": ours,
            f"unknown {case}: AUROC of the softmax maximum": plain,
            f"unknown {case}: AUROC gained": ours - plain,
            f"unknown {case}: noticed": noticed[strange_ones].mean(),
            f"unknown {case}: known taken for strange": noticed[~strange_ones].mean(),
        }
    return found


def measure(given: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    print("Training two classifiers to start ...", file=sys.stderr)
    bundles = {
        "flowers": trained("flowers102", folder),
        "scenes": trained("intel_scenes", folder),
    }
    found = defaultdict(list)
    for seed in range(given.repeats):
        for name, bundle in bundles.items():
            for figure, value in halves(name, bundle, seed).items():
                found[figure].append(float(value))
    for name, bundle in bundles.items():
        for figure, value in out_of_fold(name, bundle).items():
            found[figure].append(float(value))
    for seed in range(given.n):
        for figure, value in unknown(bundles["flowers"], bundles["scenes"], seed).items():
            found[figure].append(float(value))
    return found


def main() -> None:
    given = options(__doc__, n=5, n_means="choices of unknown flowers", quick_n=1, repeats=10)
    data_folder("intel_scenes")
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given, Path(folder))
    for case in ("other flowers", "scenes"):
        TARGETS[f"unknown {case}: AUROC gained"] = {"at_least": 0}
    figures = [Figure(name, values, **TARGETS.get(name, {})) for name, values in found.items()]
    report("honesty", machine, given, figures)


if __name__ == "__main__":
    main()
