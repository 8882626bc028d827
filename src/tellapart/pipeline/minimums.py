"""Minimums that a classifier must reach, for pipelines that stop where it does not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tellapart.errors import BelowMinimum, UnknownScore
from tellapart.evaluation.scores import Estimate, Interval
from tellapart.pipeline.scoring import Evaluation

# The smaller, the better: a minimum would ask for the opposite of what is meant.
LOSSES = ("log_loss", "brier", "ece")


def check_minimums(evaluation: Evaluation, minimums: Mapping[str, float]) -> None:
    """Hold an evaluation to minimums by the names of its scores, such as {"recall[cat]": 0.9}.

    Raises:
        UnknownScore: there is no score of a name. BelowMinimum: with every minimum that is missed.
    """
    found = named_scores(evaluation)
    unknown = [_not_there(name, found) for name in minimums if name not in found]
    if unknown:
        raise UnknownScore(
            f"{' '.join(unknown)} Nothing was compared. Correct --min; the scores are "
            f"{', '.join(name for name in found if '[' not in name)}, and recall[CLASS], "
            f"precision[CLASS], f1[CLASS] and auroc[CLASS]."
        )
    missed = []
    for name, least in minimums.items():
        value = found[name]
        if value is None:
            missed.append(f"{name} cannot be measured on these pictures (at least {least:g})")
        elif value < least:
            missed.append(f"{name} is {value:.4f}, at least {least:g}")
    if missed:
        raise BelowMinimum(
            f"{len(missed)} of {len(minimums)} minimums missed, on {evaluation.scores.n} "
            f"pictures: {'; '.join(missed)} was expected."
        )


def named_scores(evaluation: Evaluation) -> dict[str, float | None]:
    """Return every score that can be held to a minimum by its name; None: not measurable here."""
    scores = evaluation.scores
    found: dict[str, float | None] = {}
    for name, value in vars(scores).items():
        if name in LOSSES:
            continue
        if isinstance(value, Interval | Estimate):
            found[name] = value.value
        elif isinstance(value, float) or value is None:
            found[name] = value
    found["answered.share"] = evaluation.answered.share
    found["answered.accuracy"] = evaluation.answered.accuracy
    found["candidates.coverage"] = evaluation.candidates.coverage
    for row in scores.per_class:
        # Of a class without pictures, nothing is known.
        found[f"recall[{row.name}]"] = row.recall if row.n else None
        found[f"precision[{row.name}]"] = row.precision if row.n else None
        found[f"f1[{row.name}]"] = row.f1 if row.n else None
        found[f"auroc[{row.name}]"] = row.auroc
    return found


def _not_there(name: str, known: Mapping[str, float | None]) -> str:
    if name in LOSSES:
        return f"{name} is better the smaller it is: it has no minimum."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"There is no score {name}{f': did you mean {near[0]}?' if near else '.'}"
