"""Is a picture what its sender declares it to be? One function decides, on an answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tellapart.inference.classifier import Prediction

Verdict = Literal["match", "mismatch", "unsure"]


@dataclass(frozen=True)
class Judgement:
    """A verdict, and why, in a sentence."""

    verdict: Verdict
    reason: str


def judge(answer: Prediction, declared: str) -> Judgement:
    """Compare the answer for one picture with the class that was declared.

    Only an answer that is not unsure decides. It matches if it is the declared class, and
    contradicts if the declared class is not even among the candidates, which hold the right one in
    95 % of pictures. All else is unsure, and for a person to look at.
    """
    if answer.error is not None or answer.label is None or answer.confidence is None:
        return Judgement("unsure", f"the picture could not be read: it {answer.error}")
    if answer.unsure:
        return Judgement("unsure", str(answer.reason))
    seen = f"{answer.shown(answer.label)} with {answer.confidence:.1%}"
    if answer.label == declared:
        return Judgement("match", f"it shows {seen}, as declared")
    if declared in answer.candidates:
        return Judgement("unsure", f"it shows {seen}, but {answer.shown(declared)} stays possible")
    return Judgement("mismatch", f"it shows {seen}, not {answer.shown(declared)}")


def was_unsure(reason: str) -> bool:
    """Whether the answer behind a judgement on a readable picture was unsure, by its reason."""
    return not reason.startswith("it shows ")


def of_all(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a form of several pictures: its worst one."""
    for verdict in ("mismatch", "unsure"):
        if verdict in verdicts:
            return verdict
    return "match"
