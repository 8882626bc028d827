"""What arrives at a classifier, over time, and whether it still looks like what was learned.

Nothing of it is stored. After a restart, audits are looked up in the records; what was only
predicted, and how far audited pictures lay from what was learned, is counted from then on.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import RowMapping

from tellapart.data.hashing import picture_hash
from tellapart.evaluation.decision import STRANGE
from tellapart.evaluation.watching import KINDS, LOOK_EVERY, WINDOWS, Arrived, Learned, Warned, look
from tellapart.inference.classifier import Prediction
from tellapart.server.auditing import Verdict, was_unsure
from tellapart.server.metrics import Metrics
from tellapart.server.schemas import WatchedModel, WatchedStep, WatchWarning

log = logging.getLogger("tellapart.server")

STEP = timedelta(minutes=10)
# A day of steps; longer is for Prometheus to keep.
STEPS = 144
BACK = STEP * STEPS


@dataclass
class Step:
    """What arrived within ten minutes. far is counted among n_placed."""

    at: datetime
    n: int = 0
    unsure: int = 0
    strange: int = 0
    far: int = 0
    n_placed: int = 0
    unreadable: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Seen:
    label: int
    unsure: bool
    strange: bool
    far: int


class Watch:
    """What arrived at one version of one classifier. For one event loop."""

    def __init__(
        self, name: str, learned: Learned, far_below: float | None, metrics: Metrics
    ) -> None:
        self.name = name
        self.learned = learned
        self.warnings: list[Warned] = []
        self._far_below = far_below
        self._metrics = metrics
        self._places = {label: place for place, label in enumerate(learned.classes)}
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._seen: deque[_Seen] = deque(maxlen=max(WINDOWS))
        # A client that sends one picture again and again must not look like a change.
        self._digests: deque[str] = deque()
        self._known: set[str] = set()
        self._since_look = 0
        for kind in KINDS:
            usual = learned.usual(kind)
            if usual is not None:
                metrics.usual.labels(name, kind).set(usual)

    def note(self, data: bytes, answer: Prediction, similarity: float | None) -> None:
        """Count a picture and its answer, unless the same one has just been counted."""
        step = self._step(datetime.now(UTC))
        if answer.error is not None or answer.label is None:
            step.unreadable += 1
            return
        if self._is_repeat(picture_hash(data)):
            return
        far = -1
        if similarity is not None and self._far_below is not None:
            far = int(similarity < self._far_below)
        strange = answer.reason == STRANGE
        self._count(step, answer.label, answer.unsure, strange, far)
        watched = self._metrics.watched
        watched.labels(self.name, "seen").inc()
        for what, so in (("unsure", answer.unsure), ("strange", strange), ("far", far == 1)):
            if so:
                watched.labels(self.name, what).inc()
        self._metrics.labels.labels(self.name, answer.label).inc()
        self._since_look += 1
        if self._since_look >= LOOK_EVERY:
            self.look()

    def note_verdict(self, verdict: Verdict) -> None:
        """Count the verdict on an audited picture."""
        self._step(datetime.now(UTC)).verdicts[verdict] += 1

    def recall(self, rows: Iterable[RowMapping]) -> None:
        """Count audits from before a restart, the oldest first."""
        for row in rows:
            at = row["at"].replace(tzinfo=row["at"].tzinfo or UTC)
            step = self._step(at)
            step.verdicts[row["verdict"]] += 1
            if row["label"] not in self._places:
                step.unreadable += row["label"] is None
            elif not self._is_repeat(row["picture"]):
                reason = row["reason"]
                self._count(step, row["label"], was_unsure(reason), reason == STRANGE, -1)
        self.look()

    def look(self) -> None:
        """Test the newest pictures; a warning that is new is logged, and so is one that ended."""
        self._since_look = 0
        before = {(one.kind, one.label) for one in self.warnings}
        self.warnings = look(self.learned, self.arrived)
        now = {(one.kind, one.label) for one in self.warnings}
        for one in self.warnings:
            if (one.kind, one.label) not in before:
                log.warning("%s: %s", self.name, one.text)
        for kind, label in sorted(before - now, key=str):
            log.info("%s: the share of %s is as usual again", self.name, label or kind)
        for kind in KINDS:
            given = any(one.kind == kind for one in self.warnings)
            self._metrics.warnings.labels(self.name, kind).set(given)

    @property
    def arrived(self) -> Arrived:
        """The newest pictures, as they are tested."""
        seen = list(self._seen)
        return Arrived(
            np.array([one.label for one in seen], np.int64),
            np.array([one.unsure for one in seen], bool),
            np.array([one.strange for one in seen], bool),
            np.array([one.far for one in seen], np.int8),
        )

    def told(self, version: str) -> WatchedModel:
        """Say all of it, for people and programs."""
        learned = self.learned
        total = sum(learned.counts)
        return WatchedModel(
            model=self.name,
            version=version,
            held_out=learned.n,
            usual={kind: learned.usual(kind) for kind in KINDS if kind != "class"},
            learned={
                label: n / total
                for label, n in zip(learned.classes, learned.counts, strict=True)
                if total
            },
            look_every=LOOK_EVERY,
            counted=len(self._seen),
            warnings=[
                WatchWarning(
                    kind=one.kind,
                    label=one.label,
                    share=one.found / one.n,
                    n=one.n,
                    usual=one.usual,
                    message=one.text,
                )
                for one in self.warnings
            ],
            steps=[WatchedStep(**vars(step)) for step in self._recent()],
        )

    def _recent(self) -> Sequence[Step]:
        oldest = datetime.now(UTC) - BACK
        return [step for step in self._steps if step.at >= oldest]

    def _step(self, at: datetime) -> Step:
        begun = at - timedelta(seconds=at.timestamp() % STEP.total_seconds())
        begun = begun.replace(microsecond=0)
        if not self._steps or self._steps[-1].at < begun:
            self._steps.append(Step(begun))
        return self._steps[-1]

    def _count(self, step: Step, label: str, unsure: bool, strange: bool, far: int) -> None:
        step.n += 1
        step.unsure += unsure
        step.strange += strange
        step.far += far == 1
        step.n_placed += far >= 0
        step.labels[label] += 1
        self._seen.append(_Seen(self._places[label], unsure, strange, far))

    def _is_repeat(self, digest: str) -> bool:
        if digest in self._known:
            return True
        self._digests.append(digest)
        self._known.add(digest)
        if len(self._digests) > max(WINDOWS):
            self._known.discard(self._digests.popleft())
        return False
