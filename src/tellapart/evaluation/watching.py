"""Does what arrives still look like what was learned? Exact tests on counts, rarely wrong.

A classifier carries how many of its n held-out pictures were unsure, looked like no class, or lay
far out. If nothing has changed, the same must happen among new pictures, but for chance; `chance`
is that chance. All tests of one look together are wrong with `LEVEL` at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.evaluation.decision import FALSE_ALARMS, Rules

# So often a look warns of nothing, at most: with a look every 100 pictures, one in 100 000.
LEVEL = 0.001
LOOK_EVERY = 100
# Pictures that are looked back on: the short one tells large changes soon, the long one small ones.
WINDOWS = (100, 400, 1600)
# The share of held-out pictures that are less similar to their class than `far_below` says.
FAR = 0.16

Kind = Literal["unsure", "strange", "far", "class"]
KINDS: tuple[Kind, ...] = ("unsure", "strange", "far", "class")


@dataclass(frozen=True)
class Learned:
    """What is usual, as a classifier carries it.

    n: held-out pictures; unsure, strange, far: how many of them were so, None where that is not
    known. classes, counts: what it learned from. wrong: the share of answers that may be wrong, by
    which shares of answers may differ from shares of pictures; None: not known.
    """

    n: int
    unsure: int | None
    strange: int | None
    far: int | None
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    wrong: float | None

    def usual(self, kind: Kind) -> float | None:
        """Return the share of held-out pictures that were so."""
        found = {"unsure": self.unsure, "strange": self.strange, "far": self.far}.get(kind)
        return None if found is None or not self.n else found / self.n


@dataclass(frozen=True, eq=False)
class Arrived:
    """N pictures that arrived, the newest last.

    label: (N,) the place of the answer among the classes. unsure, strange: (N,). far: (N,) 1, 0,
    or -1 where it is not known.
    """

    label: NDArray[np.int64]
    unsure: NDArray[np.bool_]
    strange: NDArray[np.bool_]
    far: NDArray[np.int8]

    def last(self, n: int) -> Arrived:
        """Return the newest n of them."""
        return Arrived(self.label[-n:], self.unsure[-n:], self.strange[-n:], self.far[-n:])


@dataclass(frozen=True)
class Warned:
    """Something is no longer as it was. label: the class, where one is; chance: of being wrong."""

    kind: Kind
    label: str | None
    found: int
    n: int
    usual: float
    chance: float

    @property
    def text(self) -> str:
        """The warning in a sentence or two."""
        # At the ends of a range one digit more tells 100 % from nearly that.
        share, usual = f"{self.found / self.n:.1%}", f"{self.usual:.1%}"
        said = {
            "unsure": f"were unsure, and {usual} of pictures like those it learned from are",
            "strange": f"look like none of the classes, and {usual} of its own kind do",
            "far": f"lie far from what was learned, and {usual} of its own kind do",
            "class": f"were taken for {self.label}, which {usual} of what it learned from were",
        }[self.kind]
        return (
            f"What arrives no longer looks like what was learned: {share} of the last {self.n} "
            f"pictures {said}. Answers may be wrong more often than promised. Look at some of "
            f"these pictures, and train again with pictures like them."
        )


def learned(
    rules: Rules,
    has_familiar: bool,
    classes: Sequence[str],
    counts: Sequence[int],
    accuracy_low: float | None,
) -> Learned:
    """Say what is usual for a classifier of these rules and pictures to learn from.

    has_familiar: it can tell strangers. accuracy_low: the lower end of its accuracy's interval.
    """
    n = rules.n
    # Where the threshold lies between two that were tried, the stricter: it makes more unsure.
    stricter = [point for point in rules.trade if point.threshold >= rules.threshold]
    strange = None
    if n and has_familiar and rules.strange_above is not None:
        # The threshold is itself one of them, in the order of strangeness.
        strange = n - math.ceil((n + 1) * (1 - FALSE_ALARMS) - 1e-9)
    return Learned(
        n=n,
        unsure=n - stricter[-1].answered if n and stricter else None,
        strange=strange,
        far=math.ceil(FAR * n) if n and has_familiar else None,
        classes=tuple(classes),
        counts=tuple(counts),
        wrong=None if accuracy_low is None else 1 - accuracy_low,
    )


def chance(found: int, n_new: int, before: float, n_before: float) -> float:
    """Return how likely `found` or more of n_new are so, where `before` of n_before were.

    Beta-binomial: exact where "so" means beyond one of the old values in order, as with thresholds
    from held-out pictures, for any distribution (the coverage of split conformal prediction, Vovk
    2012, arXiv:1209.2673, prop. 2a; as a two-sample test the exceedance test, Wilks 1942); and
    above Fisher's exact probability where it means anything else.
    """
    from scipy.special import betaln, gammaln

    if found <= 0:
        return 1.0
    if found > n_new:
        return 0.0
    a, b = before + 1, max(n_before - before, 0.5)
    k = np.arange(found, n_new + 1)
    choose = gammaln(n_new + 1) - gammaln(k + 1) - gammaln(n_new - k + 1)
    total = np.exp(choose + betaln(k + a, n_new - k + b) - betaln(a, b)).sum()
    return min(1.0, float(total))


def look(usual: Learned, arrived: Arrived) -> list[Warned]:
    """Test what arrived against what is usual; return warnings, at most one of a kind.

    The error is shared evenly between windows and kinds (Bonferroni), and among classes again.
    Repeated looks are not corrected for: each errs with LEVEL.
    """
    found: dict[Kind, Warned] = {}
    level = LEVEL / (len(WINDOWS) * len(KINDS))
    for size in WINDOWS:
        if len(arrived.label) < size:
            break
        window = arrived.last(size)
        for one in (*_shares(usual, window, level), *_classes(usual, window, level)):
            if one.kind not in found or one.chance < found[one.kind].chance:
                found[one.kind] = one
    return [found[kind] for kind in KINDS if kind in found]


def _shares(usual: Learned, window: Arrived, level: float) -> list[Warned]:
    """Test the shares of which more is worse."""
    far = window.far[window.far >= 0]
    counted: dict[Kind, tuple[int | None, int, int]] = {
        "unsure": (usual.unsure, int(window.unsure.sum()), len(window.unsure)),
        "strange": (usual.strange, int(window.strange.sum()), len(window.strange)),
        "far": (usual.far, int(far.sum()), len(far)),
    }
    warned = []
    for kind, (before, n_found, n) in counted.items():
        if before is None or not n:
            continue
        by_chance = chance(n_found, n, before, usual.n)
        if by_chance < level:
            warned.append(Warned(kind, None, n_found, n, before / usual.n, by_chance))
    return warned


def _classes(usual: Learned, window: Arrived, level: float) -> list[Warned]:
    """Test the share of each class for more and for less; return the one that is farthest off.

    Answers are counted, and pictures were: wrong answers may move a share by as much as there are
    of them, so that much is allowed for on both sides.
    """
    n_before = sum(usual.counts)
    if usual.wrong is None or not n_before:
        return []
    n, K = len(window.label), len(usual.classes)
    allowed = usual.wrong * n_before
    found = np.bincount(window.label, minlength=K)
    worst: Warned | None = None
    for place, before in enumerate(usual.counts):
        count = int(found[place])
        more = chance(count, n, min(before + allowed, n_before), n_before)
        fewer = chance(n - count, n, min(n_before - before + allowed, n_before), n_before)
        by_chance = min(more, fewer)
        if by_chance < level / (2 * K) and (worst is None or by_chance < worst.chance):
            label = usual.classes[place]
            worst = Warned("class", label, count, n, before / n_before, by_chance)
    return [] if worst is None else [worst]
