"""The phases of a recipe in their order: learn, judge on valid, keep what helped.

Needs no torch as long as only the head is solved for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.device import Device
from tellapart.backbones.extractor import Extractor
from tellapart.backbones.ranks import Ranks
from tellapart.backbones.weights import Weights
from tellapart.data.catalog import Catalog
from tellapart.data.columns import blocks, taken
from tellapart.data.splitting import leaked, scored_split
from tellapart.errors import BadRecipe, MissingExtra
from tellapart.progress import Progress
from tellapart.training.history import History, PhaseRecord
from tellapart.training.judging import UNEVEN, Judged, judge, unevenness
from tellapart.training.probe import Probe, fit_probe
from tellapart.training.recipe import Phase, Recipe

if TYPE_CHECKING:
    from tellapart.training.runs import Run
    from tellapart.training.tuning import Tuned, Tuner

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Material:
    """What phases work on.

    features: (N, D) float16 of the catalog's pictures, from the network as it came.
    extractor: where they come from. deadline: on time.monotonic, or None.
    run: where it is remembered; None: nowhere. head: (K, D) and (K,), of the classifier that is
    gone on from. at_hand: rows whose pictures there are, where not all are; None: all. Of several
    ranks, the first has the features and the run.
    """

    catalog: Catalog
    features: NDArray[np.float16]
    recipe: Recipe
    extractor: Extractor
    weights: Weights
    device: Device
    progress: Progress
    history: History
    run: Run | None = None
    deadline: float | None = None
    resume: bool = False
    head: tuple[Floats, Floats] | None = None
    at_hand: NDArray[np.int64] | None = None

    @property
    def ranks(self) -> Ranks:
        """The processes that work on this together: those that the extractor shares work with."""
        return self.extractor.ranks

    @property
    def scored_split(self) -> str | None:
        """The split that scores: test where there is one, else valid; None where folds do."""
        if self.recipe.data.folds is not None:
            return None
        return scored_split(self.catalog.splits)

    @cached_property
    def leaked(self) -> NDArray[np.bool_]:
        """Which pictures (N,) may neither choose nor score: see `splitting.leaked`."""
        return leaked(self.catalog)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split, without those that leaked into it."""
        return np.flatnonzero((self.catalog.splits == split) & ~self.leaked)

    @property
    def balanced(self) -> bool:
        """Whether a phase weighs classes, so that each counts the same in choosing, too."""
        uneven = unevenness(self.catalog.labels[self.rows("train")]) > UNEVEN
        return any(
            phase.draw == "balanced"
            or phase.class_weights == "balanced"
            or (phase.class_weights == "auto" and uneven)
            for phase in self.recipe.phases
        )

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""
        return {
            "arch": self.extractor.name,
            "weights": self.weights.origin,
            "n_classes": len(self.catalog.classes),
            "recipe": self.recipe.name,
        }


@dataclass(frozen=True, eq=False)
class Learned:
    """What the phases made.

    weight: (K, D), bias: (K,): the head. probe: where the head alone was solved for and stands,
    how; its out-of-fold logits are those of `taught`. tuned: the network, where more than the
    head learned; None: the features are those it came with. taught: (N,) rows that taught.
    judged: on valid, None without it. notes: what was decided by the data, in words.
    """

    weight: Floats
    bias: Floats
    probe: Probe | None
    tuned: Tuned | None
    taught: NDArray[np.bool_]
    judged: Judged | None
    notes: tuple[str, ...]

    def logits(self, features: NDArray[np.float16]) -> Floats:
        """Compute (N, K) float32 logits of (N, D) features."""
        parts = [
            features[part].astype(np.float32) @ self.weight.T + self.bias
            for part in blocks(max(1, len(features)))
        ]
        return np.concatenate(parts)


def learn(material: Material) -> Learned:
    """Run the phases of the recipe.

    Raises:
        MissingExtra: a phase that must be kept needs torch, which is not installed.
        TrainingDiverged: a phase that must be kept gave no finite numbers.
        UnknownCut: the backbone lacks the cut of a phase. CannotResume.
    """
    return _Phases(material).run()


class _Phases:
    """The state between phases: the head that stands, how it is judged, and the network."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._head: tuple[Floats, Floats] | None = None
        self._probe: Probe | None = None
        self._judged: Judged | None = None
        self._tuner: Tuner | None = None
        self._tuned = False
        self._resumed_at = 0
        self._notes: list[str] = []

    def run(self) -> Learned:
        material = self._material
        if material.balanced:
            times = unevenness(material.catalog.labels[material.rows("train")])
            self._notes.append(
                f"The largest class has {times:.0f} times the pictures of the smallest. Rare ones "
                f"weigh more where the network learns by steps, and count as much in choosing."
            )
        if material.resume:
            self._go_back()
        for number, phase in enumerate(material.recipe.phases, start=1):
            if number < self._resumed_at:
                self._solve_again(number, phase)
            elif phase.solved:
                self._solve(number, phase)
            elif number >= self._resumed_at:
                self._step(number, phase)
        taught = material.catalog.splits == "train"
        if self._probe is not None and not self._tuned:
            taught = self._refit()
        if self._head is None:
            raise BadRecipe(_NOT_ONE_PHASE)
        return Learned(
            *self._head,
            probe=None if self._tuned else self._probe,
            tuned=self._tuner.finish(material) if self._tuned and self._tuner else None,
            taught=taught,
            judged=self._judged,
            notes=tuple(self._notes),
        )

    def _solve_again(self, number: int, phase: Phase) -> None:
        """Solve again for the head that stood when the run was interrupted."""
        kept = [one.phase for one in self._material.history.phases if one.kept]
        if phase.solved and not self._tuned and kept and kept[-1] == number:
            self._probe = self._fit(self._material.features, self._taught_by_probe())
            self._head = (self._probe.weight, self._probe.bias)

    def _solve(self, number: int, phase: Phase) -> None:
        """Solve for the head on the plain features."""
        material = self._material
        start = time.monotonic()
        features = material.features
        if self._tuned and self._tuner:
            features = self._tuner.features(material)
        probe = self._fit(features, self._taught_by_probe())
        valid = material.rows("valid")
        labels = material.catalog.labels
        judged = None
        if len(valid):
            judged = material.ranks.tell(
                lambda: judge(probe.logits(features[valid]), labels[valid], material.balanced)
            )
        better = self._judged is None or judged is None or judged.better_than(self._judged)
        kept = better or phase.keep == "always"
        if kept:
            self._head, self._judged = (probe.weight, probe.bias), judged
            self._probe = None if self._tuned else probe
            if self._tuner:
                self._tuner.set_head(*self._head)
        reason = f"{judged} on valid" if judged else "there are no valid pictures to judge it by"
        self._record(number, phase, kept, reason, None, start)

    def _taught_by_probe(self) -> NDArray[np.bool_]:
        """Rows that teach a probe: while only the head learns, valid has nothing to decide."""
        material = self._material
        if material.recipe.probe_only:
            return np.asarray(material.catalog.splits != (material.scored_split or "none"))
        return np.asarray(material.catalog.splits == "train")

    def _fit(self, features: NDArray[np.float16], taught: NDArray[np.bool_]) -> Probe:
        """Fit the head; of several ranks the first does, and keeps the out-of-fold logits."""
        catalog, ranks = self._material.catalog, self._material.ranks
        solved: Probe | None = None

        def solve() -> Probe:
            nonlocal solved
            solved = fit_probe(
                taken(features, taught),
                catalog.labels[taught],
                catalog.units[taught],
                len(catalog.classes),
                self._material.progress,
            )
            return replace(solved, out_of_fold_logits=solved.out_of_fold_logits[:0])

        told = ranks.tell(solve)
        return solved or told

    def _refit(self) -> NDArray[np.bool_]:
        """Let valid teach too where nothing but the head stands and test scores."""
        material = self._material
        wanted = np.asarray(material.catalog.splits != (material.scored_split or "none"))
        if not np.array_equal(wanted, self._taught_by_probe()):
            self._probe = self._fit(material.features, wanted)
            self._head = (self._probe.weight, self._probe.bias)
        return wanted

    def _step(self, number: int, phase: Phase) -> None:
        """Learn by steps; take the result back where it did not help and need not be kept."""
        material, start = self._material, time.monotonic()
        refused = self._refusal(phase)
        if refused:
            self._record(number, phase, False, refused, None, start)
            return
        tuner = self._open_tuner()
        if number != self._resumed_at:
            tuner.begin(number, phase, self._head or material.head, self._judged, self._tuned)
        result = tuner.run(number, phase, self._judged)
        self._notes += [f"Phase {number}: {note}." for note in result.notes]
        if result.kept:
            self._judged, self._head = result.judged, tuner.head()
            self._tuned = self._tuned or phase.moves_body
            self._probe = None
        elif self._head is not None:
            tuner.set_head(*self._head)
        self._record(number, phase, result.kept, result.reason, result.best_epoch, start)

    def _refusal(self, phase: Phase) -> str | None:
        """Say why a phase cannot run; None where it can."""
        material = self._material
        optional = phase.keep == "if_better"
        if optional and not len(material.rows("valid")) and self._head is not None:
            return "there are no valid pictures to judge it by"
        try:
            import torch  # noqa: F401
        except ImportError as error:
            if not optional or self._head is None:
                raise MissingExtra(
                    f"The recipe {material.recipe.name} has a phase that needs PyTorch, which is "
                    f"not installed. Nothing was trained. Install it with: pip install "
                    f"'tellapart[train]', or solve for the head alone with --recipe fast."
                ) from error
            return "it needs PyTorch: pip install 'tellapart[train]'"
        return None

    def _open_tuner(self) -> Tuner:
        if self._tuner is None:
            from tellapart.training.tuning import Tuner

            self._tuner = Tuner(self._material)
        return self._tuner

    def _go_back(self) -> None:
        """Take up the state in which the interrupted run began its last phase."""
        run, history, ranks = self._material.run, self._material.history, self._material.ranks
        file = run.checkpoint and run.checkpoint.with_name("before.safetensors") if run else None
        if not ranks.tell(lambda: file is not None and file.exists()):
            # Not one phase had begun that needs the network, or torch.
            history.restore(1, 0)
            return
        before = self._open_tuner().go_back()
        for record in ranks.tell(lambda: list(history.phases)):
            if not ranks.first:
                history.add(record)
        if before is not None:
            self._resumed_at = before.phase
            self._tuned, self._judged = before.tuned, before.judged
            self._head = before.head

    def _record(
        self, number: int, phase: Phase, kept: bool, reason: str, best: int | None, start: float
    ) -> None:
        if any(record.phase == number for record in self._material.history.phases):
            return
        seconds = round(time.monotonic() - start, 3)
        self._material.history.phase(PhaseRecord(number, phase.learns, kept, reason, best, seconds))


_NOT_ONE_PHASE = (
    "Not one phase of the recipe gave a head. Expected was at least one that is kept. Nothing was "
    'written. Put a phase with learns = "head" and optimizer = "lbfgs" first, or set '
    'keep = "always".'
)
