"""Phases that change more than a solved head: cut, keep, learn, judge, take back. (torch)"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from tellapart.backbones.activations import KeptSet
from tellapart.backbones.extractor import Computed, Extractor, open_finished, open_prefix
from tellapart.backbones.network import Normalise, build_network, export_graph, export_tail
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.structure import Structure, describe
from tellapart.data.augmentation import Flip
from tellapart.data.pixels import Pixels, decode_many, read_pixels
from tellapart.errors import TrainingDiverged, UnreadablePicture
from tellapart.files import cache_folder
from tellapart.training.checkpoint import Checkpoint, CheckpointFile, load_module
from tellapart.training.finetune import (
    Circumstances,
    Learner,
    Outcome,
    PhaseRun,
    Pictures,
    Stepper,
    build_learner,
    open_fabric,
    set_mode,
)
from tellapart.training.folding import folded
from tellapart.training.judging import Judged
from tellapart.training.lr_finder import RateTest, find_rate
from tellapart.training.plan import (
    MIN_EPOCHS,
    Plan,
    Speed,
    choose_cut,
    fit_again,
    fit_disk,
    fit_time,
    seconds_an_epoch,
)
from tellapart.training.probe import fit_probe
from tellapart.training.recipe import Phase
from tellapart.training.shared_norm import shared_statistics
from tellapart.training.sources import KeptSource, LiveSource, Source

if TYPE_CHECKING:
    from tellapart.training.phases import Material

Floats = NDArray[np.float32]

# Pictures and steps that are measured before a phase is planned; the views are kept.
MEASURED_PICTURES = 192
MEASURED_STEPS = 3
# Seconds of the probe's solver a picture, feature and class: 6.5 s for 6552 x 1280 x 102.
PROBE_S = 8e-9
# What a plan may change of a phase.
DECIDED = ("cut", "views", "epochs", "lr")
# Disk that is left to others.
SPARED_MB = 1000.0


@dataclass(frozen=True)
class Result:
    """How a phase ended, in words for the user, and whether it stands."""

    kept: bool
    reason: str
    judged: Judged | None
    best_epoch: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Before:
    """The state in which a phase began: its number, and what stood until then."""

    phase: int
    tuned: bool
    judged: Judged | None
    head: tuple[Floats, Floats] | None


@dataclass(frozen=True, eq=False)
class Tuned:
    """A network that learned.

    graph: ONNX bytes, pixels to features. weights: safetensors bytes under the architecture's
    own names. features: (N, D) float16 of the catalog's pictures in this network.
    """

    graph: bytes
    weights: bytes
    features: NDArray[np.float16]
    unreadable: dict[int, str]


@dataclass(frozen=True)
class Prepared:
    """A phase ready to run."""

    phase: Phase
    learner: Learner
    pictures: Pictures
    plan: Plan
    plain: KeptSet | None


class Tuner:
    """A network on its way through the phases."""

    def __init__(self, material: Material) -> None:
        self._material = material
        # The backbone's own weights; the head is that of the classes from the first phase on.
        self.network = build_network(find_backbone(material.extractor.name), material.weights)
        self.fabric = open_fabric(material.device)
        self._prefixes: dict[tuple[str | None, int], Extractor] = {}
        # Counts the times that the body changed: what was cut before is another prefix then.
        self._version = 0
        self._kept_at: tuple[str, int, KeptSet] | None = None

    # ---- the head

    def set_head(self, weight: Floats, bias: Floats) -> None:
        """Put in a head of (K, D) and (K,)."""
        self.network.set_head(weight, bias)

    def head(self) -> tuple[Floats, Floats]:
        """Return the head, (K, D) and (K,)."""
        head = self.network.head
        weight, bias = (head.get_parameter(name).detach().cpu() for name in ("weight", "bias"))
        return weight.float().numpy().copy(), bias.float().numpy().copy()

    # ---- one phase

    def begin(
        self,
        number: int,
        phase: Phase,
        head: tuple[Floats, Floats] | None,
        judged: Judged | None,
        tuned: bool,
    ) -> None:
        """Put the head in that a phase starts from, and remember this state for going on."""
        if head is None or phase.start != "kept":
            torch.manual_seed(self._material.recipe.seed)
            n_classes = len(self._material.catalog.classes)
            self.network.new_head(n_classes, "xavier" if phase.start == "xavier" else "new")
        else:
            self.set_head(*head)
        file = self._file("before")
        if file:
            facts = {
                **self._material.about(),
                "phase": number,
                "tuned": tuned,
                "judged": None if judged is None else vars(judged),
            }
            parts = {"network": self.network.state_dict()}
            if head is not None:
                # What stands, beside what the phase starts from, which may be new.
                names = ("weight", "bias")
                parts["head"] = dict(zip(names, map(torch.from_numpy, head), strict=True))
            file.write(parts, facts)

    def begin_like(self, number: int, phases: Sequence[Phase]) -> None:
        """Put a head in as a phase would find it: solved for, where one before it does that."""
        material = self._material
        if not any(phase.solved for phase in phases[: number - 1]):
            self.begin(number, phases[number - 1], None, None, False)
            return
        rows = material.rows("train")
        found = material.extractor.features(*self._files(rows), material.progress)
        probe = fit_probe(
            found.values,
            material.catalog.labels[rows],
            material.catalog.digests[rows],
            len(material.catalog.classes),
            material.progress,
        )
        self.begin(number, phases[number - 1], (probe.weight, probe.bias), None, False)

    def go_back(self) -> Before | None:
        """Load the state in which the interrupted run began its last phase."""
        ranks = self._material.ranks
        found, last = ranks.tell(lambda: (self._read("before"), self._read("checkpoint")))
        if found is None:
            return None
        self.network.new_head(len(self._material.catalog.classes), "new")
        load_module(self.network.model, found.part("network"))
        self._version += 1
        facts = found.facts
        judged = Judged(**facts["judged"]) if facts["judged"] else None
        stood = found.part("head")
        head = (stood["weight"].numpy(), stood["bias"].numpy()) if stood else None
        same = last is not None and last.facts["phase"] == facts["phase"]
        epoch = last.facts["epoch"] if last is not None and same else 0
        self._material.history.restore(facts["phase"], epoch)
        return Before(facts["phase"], facts["tuned"], judged, head)

    def run(self, number: int, phase: Phase, standing: Judged | None) -> Result:
        """Run a phase and judge it; the network is as before where it is not kept.

        Raises:
            TrainingDiverged: it had to be kept, and gave no finite numbers.
            UnknownCut.
        """
        prepared = self.prepare(phase, self._deadline(), self._planned(number, phase))
        if prepared is None:
            reason = "there was no time left for it"
            return Result(False, reason, None, None)
        learner = prepared.learner
        before = {name: value.clone() for name, value in learner.module.state_dict().items()}
        outcome = PhaseRun(
            learner, prepared.phase, prepared.pictures, self._circumstances(number, prepared)
        ).run()
        kept, reason = _verdict(phase, outcome, standing)
        if not kept:
            learner.module.load_state_dict(before)
        elif phase.moves_body:
            self._version += 1
            self._prefixes.clear()
            cut = prepared.phase.cut
            self._kept_at = (cut, self._version, prepared.plain) if cut and prepared.plain else None
        self.network.model.cpu()
        return Result(kept, reason, outcome.judged, outcome.best_epoch, prepared.plan.notes)

    def prepare(
        self, phase: Phase, deadline: float | None = None, planned: Plan | None = None
    ) -> Prepared | None:
        """Plan a phase, compute what it keeps, and cut the network for it; None: no time.

        planned: how an interrupted run had planned it, which then holds, whatever there is now.
        """
        if planned is not None:
            self._say(planned.notes)
            return self._prepared(planned, *self._pictures(planned.phase))
        plan, wanted, epoch_s = self.plan(phase), phase.epochs, 0.0
        if deadline is not None:
            if self._left_s(deadline) <= 0:
                return None
            speed = self.measure(plan.phase)
            plan = replace(plan, n_plain=self._n_plain(plan.phase))
            left_s = self._left_s(deadline)
            plan = fit_time(plan, self._n("train"), self._n("valid"), speed, left_s)
            too_few = plan.phase.epochs < min(MIN_EPOCHS, wanted)
            if too_few or (plan.expected_s or 0.0) > left_s:
                return None
            epoch_s = seconds_an_epoch(self._n("train"), self._n("valid"), speed)
        self._say(plan.notes)
        pictures, plain = self._pictures(plan.phase)
        if deadline is not None and plain is not None:
            n_said = len(plan.notes)
            plan = fit_again(plan, wanted, epoch_s, self._left_s(deadline))
            self._say(plan.notes[n_said:])
        return self._prepared(plan, pictures, plain)

    def _prepared(self, plan: Plan, pictures: Pictures, plain: KeptSet | None) -> Prepared:
        """Cut the network for a planned phase, and find its rate where that is asked for."""
        phase = plan.phase
        learner = build_learner(self.network, phase, self._material.extractor.preprocessing)
        if phase.lr == "auto":
            found = find_rate(learner, phase, pictures, self.fabric, ranks=self._material.ranks)
            self._material.progress.say(f"The range test suggests a rate of {found.suggested:.1e}.")
            phase = phase.model_copy(update={"lr": found.suggested})
        return Prepared(phase, learner, pictures, plan, plain)

    def _say(self, notes: Sequence[str]) -> None:
        for note in notes:
            self._material.progress.say(f"{note[:1].upper()}{note[1:]}.")

    def plan(self, phase: Phase) -> Plan:
        """Decide cut and views by the number of pictures and the room on the disk."""
        material = self._material
        if phase.cut == "auto":
            tail = self.network.backbone.tail
            cut = choose_cut(self.network.cuts, tail, self._n("train"))
            phase = phase.model_copy(update={"cut": cut})
        if phase.kept_views is None:
            return Plan(phase, 0.0)
        room_mb = min(material.recipe.kept_gb * 1000, self._room_mb())
        numbers = self._n("train"), self._n("valid"), self.kept_kb(phase), room_mb
        plan = fit_disk(phase, *numbers)
        if phase.cut is None or plan.phase.kept_views is not None:
            return plan
        first = self.network.cut_index(phase.cut)
        cuts = [cut for cut in self.network.cuts if self.network.cut_index(cut) > first]
        kept = {cut: self.kept_kb(phase.model_copy(update={"cut": cut})) for cut in cuts}
        return fit_disk(phase, *numbers, later=kept)

    def kept_kb(self, phase: Phase) -> float:
        """Return the size of what a view keeps, in kilobytes."""
        if phase.cut is None:
            return self.network.n_features * 2 / 1000
        size_px = self._material.extractor.preprocessing.size_px
        first = self.network.part(0, self.network.cut_index(phase.cut)).eval()
        with torch.no_grad():
            shape = first(torch.zeros(1, 3, size_px, size_px)).shape
        return float(np.prod(shape)) * 2 / 1000

    def measure(self, phase: Phase) -> Speed:
        """Measure views/s and pictures/s of a phase on this machine, now."""
        material, ranks = self._material, self._material.ranks
        rows = material.rows("train")[:MEASURED_PICTURES]
        sets: list[KeptSet] = []
        if phase.kept_views is not None:
            # Opened before the clock starts: exporting and compiling happen once.
            prefix = self._prefix(phase)
            start = time.monotonic()
            # A view number that no phase draws: what is measured must not be kept already.
            unused = ranks.tell(lambda: int(time.time_ns() % 2**31))
            sets = self._views(prefix, rows, phase, [(unused, 2**20)])
            views_per_s = len(rows) / (time.monotonic() - start)
            source: Source = KeptSource(self._digests(), sets[0], (), 0)
        else:
            source = self._live(phase)
            views_per_s = 1e9
        learned_per_s = self._measure_steps(phase, source, rows)
        ranks.wait()
        for kept in sets:
            kept.remove()
        return ranks.tell(lambda: Speed(views_per_s, learned_per_s))

    def _measure_steps(self, phase: Phase, source: Source, rows: NDArray[np.int64]) -> float:
        """Measure pictures/s of steps on these rows of a source; the weights are put back."""
        ranks = self._material.ranks
        labels = self._material.catalog.labels
        n_classes = len(self._material.catalog.classes)
        pictures = Pictures(source, labels, rows, rows[:0], n_classes, part=self._part(phase))
        learner = build_learner(self.network, phase, self._material.extractor.preprocessing)
        before = {name: value.clone() for name, value in learner.module.state_dict().items()}
        trial = phase.model_copy(update={"lr": 1e-6})
        stepper = Stepper(learner, trial, None, self.fabric, ranks)
        set_mode(learner, phase)
        batches = [np.resize(rows, phase.batch)] * (MEASURED_STEPS + 1)
        sample = pictures.sample()
        times = []
        with (
            shared_statistics(learner.module, ranks),
            folded(learner.module, stepper.prepared(sample)),
        ):
            inputs = pictures.views(batches, 0, sample)
            last = time.monotonic()
            for (batch, at), these in zip(inputs, batches, strict=True):
                targets = torch.from_numpy(labels[these])
                stepper.learn(batch, targets, np.random.default_rng(0), at=at)
                stepper.step()
                # From step to step: a phase that runs live waits for pictures as well.
                last, before_it = time.monotonic(), last
                times.append(last - before_it)
        learner.module.load_state_dict(before)
        return phase.batch / float(np.median(times[1:]))

    def rate_test(self, phase: Phase, start: float, end: float, steps: int) -> RateTest:
        """Find a rate for a phase as it would begin now."""
        trial = phase if phase.lr != "auto" else phase.model_copy(update={"lr": 1e-3})
        prepared = self.prepare(trial)
        if prepared is None:
            raise RuntimeError("a phase without a deadline is always prepared")
        return find_rate(
            prepared.learner,
            prepared.phase,
            prepared.pictures,
            self.fabric,
            start=start,
            end=end,
            steps=steps,
        )

    # ---- looking ahead

    def forecast(self, phase: Phase) -> Plan:
        """Plan a phase and say how long it would take, from a short measurement."""
        if phase.solved:
            n_classes = len(self._material.catalog.classes)
            size = self._n("train") * self.network.n_features * n_classes
            return Plan(phase, 0.0, (), 1.0 + size * PROBE_S)
        plan = self.plan(phase)
        speed = self.measure(plan.phase)
        if phase == self._material.recipe.looked_through:
            # The others are looked at for the features already, see `look_through`.
            plan = replace(plan, n_plain=self._n("valid"))
        return fit_time(plan, self._n("train"), self._n("valid"), speed, None)

    def structure(self, phase: Phase) -> Structure:
        """Describe the network and what of it a phase lets learn."""
        size_px = self._material.extractor.preprocessing.size_px
        return describe(self.network, size_px, phase.cut, phase.learns)

    def seconds_a_picture(self) -> float:
        """Measure the seconds that a picture takes from file to features."""
        rows = self._material.rows("train")[:MEASURED_PICTURES]
        extractor = self._material.extractor
        paths = self._files(rows)[0]
        read = partial(read_pixels, preprocessing=extractor.preprocessing)
        pictures = (
            one for one in decode_many(paths, read) if not isinstance(one, UnreadablePicture)
        )
        start = time.monotonic()
        done = sum(1 for _ in extractor.runtime.run(pictures))
        return (time.monotonic() - start) / max(1, done)

    @torch.no_grad()
    def logits(self, pixels: Pixels) -> Floats:
        """Compute (N, K) logits of pixels (N, S, S, 3)."""
        normalise = Normalise(self._material.extractor.preprocessing)
        features = self.network.features(normalise(torch.from_numpy(pixels)))
        answers: Floats = self.network.head(features).float().numpy()
        return answers

    def look_through(self, phase: Phase) -> Computed | None:
        """Compute the features of the pictures that teach by way of what a tail phase keeps.

        So they go through the frozen part once, not once for the features and once for the phase.
        None where the phase keeps nothing before a cut.

        Returns:
            Of the rows of train, in their order: within the 16 bits of activations and of the
            runtime what the whole network gives.
        """
        plan = self.plan(phase)
        cut = plan.phase.cut
        if cut is None or plan.phase.kept_views is None:
            return None
        paths, digests = self._files(self._material.rows("train"))
        kept, filled = self._prefix(plan.phase).plain(paths, digests, self._material.progress)
        rows = self._material.ranks.own(digests)
        own = np.array(digests)[rows]
        there = kept.has(own)
        values = np.zeros((len(own), self.network.n_features), dtype=np.float16)
        if there.any():
            values[there] = self._from_cut(cut, kept, own[there].tolist())
        values = self._material.ranks.whole(values, rows, len(digests))
        return Computed(values, filled.unreadable, filled.n_computed)

    # ---- what comes out

    def features(self, material: Material) -> NDArray[np.float16]:
        """Compute (N, D) float16 features of all pictures in the network as it is now."""
        return self.finish(material).features

    def finish(self, material: Material) -> Tuned:
        """Export the network, and compute the features of all pictures with it.

        Those that choose or score go through the exported graph from their files. Those that
        taught go on from what is kept at the last cut, which saves most of the work.
        """
        preprocessing = material.extractor.preprocessing
        flip = material.recipe.flip_at_test
        graph = export_graph(self.network, preprocessing, flip=flip)
        finished = open_finished(self.network, graph, preprocessing, material.device, flip)
        catalog, ranks = material.catalog, material.ranks
        rows = ranks.own(catalog.digests.tolist())
        own = catalog.digests[rows]
        short = np.zeros(len(rows), dtype=bool)
        values = np.zeros((len(rows), self.network.n_features), dtype=np.float16)
        if self._kept_at and self._kept_at[1] == self._version and not flip:
            cut, _, kept = self._kept_at
            short = (catalog.splits[rows] == "train") & kept.has(own)
        if short.any():
            values[short] = self._from_cut(cut, kept, own[short].tolist())
        rest = rows[~short]
        found = finished.own_features(
            catalog.paths[rest].tolist(), own[~short].tolist(), material.progress
        )
        # Not one that could be read has no width.
        values[~short] = found.values if found.values.shape[1] else 0
        weights = {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        unread = ranks.gather({int(rest[row]): why for row, why in found.unreadable.items()})
        unreadable = {row: why for each in unread for row, why in each.items()}
        values = ranks.whole(values, rows, len(catalog))
        return Tuned(graph, save(weights), values, unreadable)

    def _from_cut(self, cut: str, kept: KeptSet, digests: Sequence[bytes]) -> NDArray[np.float16]:
        shape = kept.get(digests[0]).shape
        runtime = OpenVinoRuntime(export_tail(self.network, cut, shape))
        answers = np.stack(list(runtime.run(kept.get(digest) for digest in digests)))
        kept.forget()
        return answers

    # ---- pieces

    def _n(self, split: str) -> int:
        return len(self._material.rows(split))

    def _n_plain(self, phase: Phase) -> int:
        """Count the pictures whose plain view a phase has to compute before it learns."""
        if phase.kept_views is None:
            return 0
        splits = self._material.catalog.splits
        return self._prefix(phase).n_lacking(self._digests()[splits != "test"].tolist())

    def _digests(self) -> NDArray[np.bytes_]:
        return self._material.catalog.digests

    def _part(self, phase: Phase) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        """Return what of some rows is this rank's to learn from."""
        ranks = self._material.ranks
        if phase.kept_views is None:
            return ranks.live_part
        return ranks.kept_part(self._digests().tolist())

    def _left_s(self, deadline: float) -> float:
        """Return the seconds until then, by the clock of rank 0."""
        return self._material.ranks.tell(lambda: deadline - time.monotonic())

    def _room_mb(self) -> float:
        """Return how much can be kept on disk, by all ranks together, of whom each has a share."""
        ranks = self._material.ranks
        return min(ranks.gather(_free_mb(cache_folder()) - SPARED_MB)) * ranks.n_homes

    def _deadline(self) -> float | None:
        """When the phase should end: the whole deadline, less what comes after it."""
        deadline = self._material.deadline
        if deadline is None:
            return None
        n_after = self._n("valid") + self._n("test")
        return deadline - AFTER_S - n_after * self._material_s()

    def _material_s(self) -> float:
        """Estimate the seconds a picture takes from file to features."""
        seconds = self._material.progress.seconds.get("features", 0.0)
        return max(seconds / max(1, len(self._material.catalog)), 1 / 300)

    def _pictures(self, phase: Phase) -> tuple[Pictures, KeptSet | None]:
        material = self._material
        train, valid = material.rows("train"), material.rows("valid")
        n_classes = len(material.catalog.classes)
        labels = material.catalog.labels
        flip = material.recipe.flip_at_test
        if phase.kept_views is None:
            live = self._live(phase)
            mirror = replace(live, mirrored=True) if flip else None
            part = self._part(phase)
            return Pictures(live, labels, train, valid, n_classes, mirror, part), None
        prefix = self._prefix(phase)
        both = np.concatenate([train, valid])
        plain, _ = prefix.plain(*self._files(both), material.progress)
        numbers = [(material.recipe.seed, view) for view in range(phase.kept_views)]
        sets = self._views(prefix, train, phase, numbers) if numbers else []
        # A picture that was taken away since has no place in the phase.
        part = self._part(phase)
        train = self._kept(train, (plain, *sets), part)
        valid = self._kept(valid, (plain,), part)
        source = KeptSource(self._digests(), plain, sets, material.recipe.seed)
        # Where the head alone learns, its features are means of both already.
        mirrored = None
        if flip and phase.cut is not None and len(valid):
            mirrored = KeptSource(self._digests(), self._mirrored(prefix, valid), (), 0)
        return Pictures(source, labels, train, valid, n_classes, mirrored, part), plain

    def _kept(
        self,
        rows: NDArray[np.int64],
        sets: Sequence[KeptSet],
        part: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Return those rows that lie in all sets, each looked up by the rank that reads it."""
        at = part(rows)
        digests = self._digests()[rows[at]]
        found = np.all([kept.has(digests) for kept in sets], axis=0)
        there = self._material.ranks.whole(found, at, len(rows), everywhere=True)
        return np.asarray(rows[there])

    def _mirrored(self, prefix: Extractor, rows: NDArray[np.int64]) -> KeptSet:
        mirror = (Flip(horizontal=1.0),)
        return prefix.views(*self._files(rows), mirror, [(0, 0)], self._material.progress)[0]

    def _views(
        self,
        prefix: Extractor,
        rows: NDArray[np.int64],
        phase: Phase,
        numbers: Sequence[tuple[int, int]],
    ) -> list[KeptSet]:
        return prefix.views(*self._files(rows), phase.augment, numbers, self._material.progress)

    def _live(self, phase: Phase) -> LiveSource:
        catalog = self._material.catalog
        return LiveSource(
            catalog.paths,
            catalog.digests,
            self._material.extractor.preprocessing,
            phase.augment,
            self._material.recipe.seed,
        )

    def _files(self, rows: NDArray[np.int64]) -> tuple[list[str], list[bytes]]:
        catalog = self._material.catalog
        return catalog.paths[rows].tolist(), catalog.digests[rows].tolist()

    def _prefix(self, phase: Phase) -> Extractor:
        """Return what is frozen in a phase, as the network is now, ready to run."""
        if phase.cut is None and self._version == 0:
            return self._material.extractor
        key = (phase.cut, self._version)
        if key not in self._prefixes:
            preprocessing, device = self._material.extractor.preprocessing, self._material.device
            if phase.cut is None:
                flip = self._material.recipe.flip_at_test
                graph = export_graph(self.network, preprocessing, flip=flip)
                found = open_finished(self.network, graph, preprocessing, device, flip)
            else:
                found = open_prefix(self.network, preprocessing, phase.cut, device)
            self._prefixes[key] = replace(found, ranks=self._material.ranks)
        return self._prefixes[key]

    def _planned(self, number: int, phase: Phase) -> Plan | None:
        """Return how the interrupted run planned this phase: time and room are others now."""

        def read() -> Plan | None:
            found = self._read("checkpoint")
            if found is None or found.facts["phase"] != number or "planned" not in found.facts:
                return None
            decided = phase.model_copy(update=found.facts["planned"])
            return Plan(decided, 0.0, tuple(found.facts["notes"]))

        return self._material.ranks.tell(read)

    def _circumstances(self, number: int, prepared: Prepared) -> Circumstances:
        material = self._material
        planned = {name: getattr(prepared.phase, name) for name in DECIDED}
        return Circumstances(
            fabric=self.fabric,
            number=number,
            seed=material.recipe.seed,
            history=material.history,
            checkpoint=self._file("checkpoint"),
            best_file=self._file("best"),
            deadline=self._deadline(),
            balanced=material.balanced,
            about={**material.about(), "planned": planned, "notes": list(prepared.plan.notes)},
            ranks=material.ranks,
        )

    def _read(self, name: str) -> Checkpoint | None:
        file = self._file(name)
        return file.read() if file else None

    def _file(self, name: str) -> CheckpointFile | None:
        run = self._material.run
        if run is None or run.checkpoint is None:
            return None
        path: Path = run.checkpoint.with_name(f"{name}.safetensors")
        return CheckpointFile(path, self._material.progress)


# Exporting, scoring, report and bundle, besides looking at the pictures that score.
AFTER_S = 6.0


def _verdict(phase: Phase, outcome: Outcome, standing: Judged | None) -> tuple[bool, str]:
    """Decide whether a phase stands, and say why."""
    trouble = f"; it stopped early, as {outcome.trouble}" if outcome.trouble else ""
    judged = outcome.judged
    if phase.keep == "always" or standing is None:
        if outcome.best_epoch is None:
            raise TrainingDiverged(
                f"A phase that has to be kept gave no usable weights: {outcome.trouble}. Expected "
                f"was a loss that falls. Nothing was written. Lower lr, or find one with "
                f'`tellapart find-lr` or lr = "auto".'
            )
        return True, (f"{judged} on valid" if judged else "it had to be") + trouble
    if judged is None:
        return False, f"it gave nothing to judge{trouble}"
    if phase.best == "accuracy":
        better = judged.accuracy > standing.accuracy
    else:
        better = judged.better_than(standing)
    words = "better than" if better else "not better than"
    return better, f"{judged} on valid, {words} {standing}{trouble}"


def _free_mb(folder: Path) -> float:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e6
