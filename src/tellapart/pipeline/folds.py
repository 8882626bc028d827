"""Scores by folds: each picture by a classifier that did not learn from it, on small sets.

Every fold is a training of its own. Whatever is learned or chosen, from the strength of the head to
the threshold of "unsure", is learned and chosen inside it, without the pictures that it scores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.calibration import softmax
from tellapart.evaluation.decision import Decisions
from tellapart.pipeline.inputs import choosing, deal_folds
from tellapart.pipeline.outcome import Folded, Judgement, judge_classifier
from tellapart.progress import Progress
from tellapart.training.history import History
from tellapart.training.phases import Material, learn

Floats = NDArray[np.float32]


def score_by_folds(material: Material) -> Folded:
    """Train once for each fold of the recipe, and let the fold's classifier judge its pictures.

    What is frozen was computed once for all of them. Of several ranks the first judges; what the
    others return says nothing.

    Raises:
        CannotFold; as `learn` otherwise.
    """
    catalog, progress = material.catalog, material.progress
    n = material.recipe.data.folds or 0
    fold = deal_folds(catalog, n)
    shape = (len(catalog), len(catalog.classes))
    raw, probs = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    order = np.zeros(shape, dtype=np.int64)
    n_candidates = np.zeros(len(catalog), dtype=np.int64)
    strange, unsure = np.zeros(len(catalog), dtype=bool), np.zeros(len(catalog), dtype=bool)
    stood: Counter[int] = Counter()
    with progress.bar("Folds", n, "folds") as advance:
        for number in range(n):
            own = material_of_fold(material, fold == number)
            learned = learn(own)
            if not material.ranks.first:
                continue
            judged = judge_classifier(own, learned)
            rows = np.flatnonzero(fold == number)
            raw[rows], probs[rows], decided = _said(judged, rows)
            order[rows], n_candidates[rows] = decided.order, decided.n_candidates
            strange[rows], unsure[rows] = decided.strange, decided.unsure
            stood.update(one.phase for one in own.history.phases if one.kept)
            right = float((probs[rows].argmax(axis=1) == catalog.labels[rows]).mean())
            progress.say(f"fold {number + 1} of {n}: right on {right:.1%} of {len(rows)} pictures")
            advance(1)
    decisions = Decisions(order, n_candidates, strange, unsure)
    return Folded(fold, raw, probs, decisions, dict(stood))


def material_of_fold(material: Material, held_out: NDArray[np.bool_]) -> Material:
    """Return what a fold works on: the pictures held out (N,) are its test, and nothing else."""
    catalog, recipe = material.catalog, material.recipe
    rest = np.flatnonzero(~held_out)
    splits = np.full(len(catalog), "test", dtype="U5")
    splits[rest] = choosing(catalog.select(rest), recipe).splits
    quiet = Progress("quiet", dict(material.progress.seconds))
    return replace(
        material,
        catalog=replace(catalog, splits=splits),
        recipe=recipe.model_copy(update={"data": recipe.data.model_copy(update={"folds": None})}),
        progress=quiet,
        history=History(None, quiet),
        run=None,
        resume=False,
    )


def _said(judged: Judgement, rows: NDArray[np.int64]) -> tuple[Floats, Floats, Decisions]:
    """Return a fold's probabilities without and with its temperature, and its decisions."""
    features = judged.features[rows]
    probs = judged.probabilities(features)
    return softmax(judged.learned.logits(features)), probs, judged.decide(features, probs)
