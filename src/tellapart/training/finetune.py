"""The one loop in which a network learns: batch, loss, gradient, step; judged on valid. (torch)

The same loop serves a head or a tail on kept activations and a whole network on live pictures;
they differ in the `Source` of their batches and in what of the network learns.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from tellapart.backbones.network import Network, Normalise
from tellapart.backbones.openvino_runtime import best_precision
from tellapart.backbones.ranks import ALONE, Ranks, fabric_devices
from tellapart.data.pixels import Preprocessing, available_cores
from tellapart.errors import CannotResume
from tellapart.training.checkpoint import (
    Checkpoint,
    CheckpointFile,
    load_module,
    optimizer_tensors,
    restore_optimizer,
)
from tellapart.training.folding import folded
from tellapart.training.history import EpochRecord, History, StepRecord
from tellapart.training.judging import UNEVEN, Judged, judge, unevenness
from tellapart.training.recipe import Phase
from tellapart.training.schedule import rate_factor
from tellapart.training.shared_norm import shared_statistics
from tellapart.training.sources import Rows, Source, batches_of

T = TypeVar("T")
R = TypeVar("R")

# Judging needs no gradients, so more fit at once.
JUDGED_AT_ONCE = 128
# How often within an epoch the running loss is told.
TOLD_PER_EPOCH = 3
# A loss this many times that of guessing, or of the first step, means that the weights are
# ruined, not that it is early.
RUINED = 10.0


@dataclass(frozen=True)
class Learner:
    """What a phase runs, from the inputs of its source to logits, and what of it learns.

    Attributes:
        prepare: source batches to the input of `module`: normalises pixels, else does nothing.
        module: everything that runs, frozen children first.
        frozen: the children that do not learn.
        body, head: the parameters that learn.
    """

    prepare: nn.Module
    module: nn.Sequential
    frozen: tuple[nn.Module, ...]
    body: tuple[nn.Parameter, ...]
    head: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a phase: rows of a source, and the labels (N,) of all its rows.

    mirror: where the valid pictures come mirrored, if they are to be judged by the mean of both.
    part: the places in rows that this process works on, of several that learn together.
    """

    source: Source
    labels: NDArray[np.int64]
    train: Rows
    valid: Rows
    n_classes: int
    mirror: Source | None = None
    part: Callable[[Rows], NDArray[np.int64]] = ALONE.live_part

    def sample(self) -> Tensor:
        """Return inputs of two pictures that teach, or of one."""
        rows = self.train[self.part(self.train)][:2]
        return next(iter(self.source.plain([rows])))

    def views(
        self, batches: Sequence[Rows], epoch: int, sample: Tensor
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield random views of this process's part of each batch, and its places in it.

        sample: of the same kind; where a batch is too small for all, a part of it is empty.
        """
        places = [self.part(rows) for rows in batches]
        own = [rows[at] for rows, at in zip(batches, places, strict=True) if len(at)]
        inputs = self.source.views(own, epoch)
        for at in places:
            yield (next(inputs) if len(at) else sample[:0]), at


@dataclass(frozen=True)
class Circumstances:
    """What surrounds a phase: where it runs, its number from 1, and who is told.

    deadline: on time.monotonic, when it should have ended; epochs are left out to keep it.
    checkpoint, best_file: the state after an epoch, and the best weights; both, or neither.
    balanced: judge every class alike, however many pictures it has.
    about: facts for the checkpoint, such as backbone, origin of its weights, and classes.
    ranks: the processes that learn together; rank 0 has the checkpoints and the clock.
    """

    fabric: Fabric
    number: int
    seed: int
    history: History
    checkpoint: CheckpointFile | None = None
    best_file: CheckpointFile | None = None
    deadline: float | None = None
    balanced: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Outcome:
    """How a phase ended. The learner holds the weights of the best epoch.

    judged: None without valid pictures, or where not one epoch gave finite numbers.
    trouble: why it stopped early, in words; None where nothing went wrong.
    """

    judged: Judged | None
    best_epoch: int | None
    epochs: int
    trouble: str | None


def open_fabric(device: str) -> Fabric:
    """Prepare the device, in 16 bits where it computes in them."""
    # Its notes about precision belong to no one's terminal.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    sixteen = best_precision() == "bf16" if device == "cpu" else _sixteen_bits(device)
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if sixteen else "32-true"
    return Fabric(accelerator=device, devices=fabric_devices(device), precision=precision)


def _sixteen_bits(device: str) -> bool:
    return device == "cuda" and torch.cuda.is_bf16_supported()


def build_learner(network: Network, phase: Phase, preprocessing: Preprocessing) -> Learner:
    """Cut the network for a phase: what runs, what learns; everything else stops learning."""
    start = first_that_learns(network, phase)
    live = phase.kept_views is None
    for parameter in network.model.parameters():
        parameter.requires_grad = False
    body = [p for _, child in network.children[start:] for p in child.parameters()]
    head = list(network.head.parameters())
    for parameter in (*body, *head):
        parameter.requires_grad = True
    children = [child for _, child in network.children]
    return Learner(
        prepare=Normalise(preprocessing) if live else nn.Identity(),
        module=nn.Sequential(*(children if live else children[start:]), network.head),
        frozen=tuple(children[:start]) if live else (),
        body=tuple(body),
        head=tuple(head),
    )


def first_that_learns(network: Network, phase: Phase) -> int:
    """Return the number of the first child that learns; their count where only the head does.

    Raises:
        UnknownCut: the backbone has no such cut.
    """
    if phase.learns == "all":
        return 0
    return network.cut_index(phase.cut) if phase.cut else len(network.children)


class Stepper:
    """Learner, loss and optimiser: takes batches, and steps.

    Of several ranks each takes its part of a batch. Losses are divided by what belongs to the whole
    one, so that the gradients of the parts, added up before the step, are those of one process.
    """

    def __init__(
        self,
        learner: Learner,
        phase: Phase,
        weights: Tensor | None,
        fabric: Fabric,
        ranks: Ranks = ALONE,
    ) -> None:
        self.learner, self.phase, self._fabric, self._ranks = learner, phase, fabric, ranks
        self.rates = (float(phase.lr), float(phase.lr) * phase.head_lr_factor)
        learner.module.to(memory_format=torch.channels_last)
        learner.prepare.to(fabric.device)
        groups = [
            {"params": list(part), "lr": rate}
            for part, rate in zip((learner.body, learner.head), self.rates, strict=True)
            if part
        ]
        self.factors = [
            rate / self.rates[1]
            for part, rate in zip((learner.body, learner.head), self.rates, strict=True)
            if part
        ]
        optimizer = _optimizer(phase, groups, fused=fabric.device.type == "cpu")
        self.module, self.optimizer = fabric.setup(learner.module, optimizer)
        self._loss_weights = None if weights is None else weights.to(fabric.device)
        self._parameters = [*learner.body, *learner.head]
        self._sides = _SideBySide(available_cores(), phase.batch // ranks.size)

    def set_rate(self, factor: float) -> None:
        """Set the rates to this many times what the phase says."""
        for group, share in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.rates[1] * share * factor

    def learn(
        self,
        inputs: Tensor,
        labels: Tensor,
        mixing: np.random.Generator,
        share: float = 1.0,
        at: NDArray[np.int64] | None = None,
    ) -> tuple[float, int]:
        """Add one batch's gradients; return its mean loss and the number of right answers.

        inputs: of this rank's part of the batch. labels: (B,) of all of it. at: the part's places.
        """
        place = torch.arange(len(labels)) if at is None else torch.from_numpy(at)
        x, other, kept = self._mixed(self.prepared(inputs), labels, mixing, place)
        totals = [self._total(labels)]
        targets = [(labels[place].to(x.device), kept)]
        if other is not None:
            totals.append(self._total(other))
            targets.append((other[place].to(x.device), 1 - kept))
        loss, right = self._gradients(x, targets, totals, share)
        summed, n_right = self._ranks.sums(loss, right)
        return summed, int(n_right)

    def _gradients(
        self,
        x: Tensor,
        targets: Sequence[tuple[Tensor, float]],
        totals: Sequence[float],
        share: float,
    ) -> tuple[float, float]:
        """Add the gradients of inputs; return the sums of their losses and right answers.

        targets: labels and their weight in the loss; totals: what the summed loss of each is
            divided by.
        """

        def part(module: nn.Module, rows: slice) -> tuple[Tensor, Tensor]:
            with self._fabric.autocast():
                logits = module(x[rows]).float()
            loss = sum(
                part * self._loss(logits, to[rows]) / total
                for (to, part), total in zip(targets, totals, strict=True)
            )
            right = (logits.argmax(dim=1) == targets[0][0][rows]).sum()
            return torch.as_tensor(loss), right

        parts = self._sides.parts(len(x), self.learner.module, x.device)
        if len(parts) == 1:
            loss, right = part(self.module, parts[0])
            self._fabric.backward(loss * share)
            return float(loss.detach()), float(right)

        def gradients(rows: slice) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
            # Fabric's wrapper insists on its own backward, which adds up in order of arrival.
            loss, right = part(self.learner.module, rows)
            found = torch.autograd.grad(loss * share, self._parameters, allow_unused=True)
            return loss.detach(), right, found

        losses, rights, found = zip(*self._sides.run(gradients, parts), strict=True)
        for each in found:
            _accumulate(self._parameters, each)
        return float(torch.stack(losses).sum()), float(torch.stack(rights).sum())

    def step(self) -> None:
        """Move the weights by the gradients gathered since the last step, on all ranks alike."""
        self._ranks.add_up([p.grad for p in self._parameters if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def prepared(self, inputs: Tensor) -> Tensor:
        """Move a batch to the device, normalised."""
        x: Tensor = self.learner.prepare(self._fabric.to_device(inputs)).float()
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def logits(self, module: nn.Module, batches: Iterable[Tensor]) -> NDArray[np.float32]:
        """Compute (N, K) logits of whole batches with a module that does not learn meanwhile."""
        module.eval()

        def answer(inputs: Tensor) -> NDArray[np.float32]:
            with torch.no_grad(), self._fabric.autocast():
                return np.asarray(module(self.prepared(inputs)).float().cpu().numpy())

        if self._fabric.device.type != "cpu":
            return np.concatenate([answer(batch) for batch in batches])
        answers: list[NDArray[np.float32]] = []
        waiting = iter(batches)
        # A pool takes all that it is given at once; there may be more than the memory holds.
        while some := list(islice(waiting, self._sides.cores)):
            answers += self._sides.run(answer, some)
        return np.concatenate(answers)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits,
            labels,
            self._loss_weights,
            reduction="sum",
            label_smoothing=self.phase.label_smoothing,
        )

    def _total(self, labels: Tensor) -> float:
        """Return what a summed loss is divided by, so that parts of a batch add up to its mean."""
        if self._loss_weights is None:
            return float(len(labels))
        return float(self._loss_weights[labels.to(self._loss_weights.device)].sum())

    def shares(self, batches: Sequence[NDArray[np.int64]]) -> list[float]:
        """Return the weight of each batch of labels in a step, so that they add up to one batch."""
        totals = [self._total(torch.from_numpy(labels)) for labels in batches]
        return [total / sum(totals) for total in totals]

    def _mixed(
        self, x: Tensor, labels: Tensor, generator: np.random.Generator, place: Tensor
    ) -> tuple[Tensor, Tensor | None, float]:
        """Mix each input with another one of the batch; return the others' labels and the share.

        x: the inputs at these places of the batch; another one may be with another rank.
        Mixup (Zhang et al. 2017) blends, cutmix (Yun et al. 2019) pastes a box.
        """
        mixup, cutmix = self.phase.mixup, self.phase.cutmix
        if not (mixup or cutmix):
            return x, None, 1.0
        paste = cutmix > 0 and x.ndim == 4 and (not mixup or generator.random() < 0.5)
        alpha = cutmix if paste else mixup or cutmix
        share = float(generator.beta(alpha, alpha))
        order = torch.from_numpy(generator.permutation(len(labels)))
        others = self._everything(x, place, len(labels))[order[place]]
        if not paste:
            return share * x + (1 - share) * others, labels[order], share
        height, width = x.shape[2:]
        side = math.sqrt(1 - share)
        y0, x0 = int(generator.integers(height)), int(generator.integers(width))
        half_h, half_w = round(height * side / 2), round(width * side / 2)
        rows = slice(max(0, y0 - half_h), min(height, y0 + half_h))
        columns = slice(max(0, x0 - half_w), min(width, x0 + half_w))
        x = x.clone()
        x[:, :, rows, columns] = others[:, :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return x, labels[order], 1 - pasted

    def _everything(self, x: Tensor, place: Tensor, n: int) -> Tensor:
        """Put the inputs of a batch together from the parts of all ranks."""
        if self._ranks.alone:
            return x
        everything = torch.zeros((n, *x.shape[1:]), dtype=x.dtype, device=x.device)
        everything[place.to(x.device)] = x
        self._ranks.add_up([everything])
        return everything


class _SideBySide:
    """Work on parts of a batch in threads that never wait for each other.

    The usual way splits every operation over the cores and waits for all of them each time. On
    small maps that wait is a large part of a step, and where others compute on the machine, most
    of it: 60 pictures/s against 120 to 260 in parts, with one other process busy on two cores.

    batch: pictures of a whole batch. What is left over is cut as those are, into parts of any
    size: two ranks cut it so, and steps grow one difference in rounding to a hundredth and more.
    """

    # Smaller parts lose more in the matrix products than they save.
    LEAST = 16

    def __init__(self, cores: int, batch: int) -> None:
        self.cores = cores
        self._n_parts = min(cores, batch // self.LEAST)
        self._pool: ThreadPoolExecutor | None = None

    def parts(self, n: int, module: nn.Module, device: torch.device) -> list[slice]:
        """Cut a batch, unless the answer for one picture depends on others, or on chance."""
        count = min(self._n_parts, n)
        if device.type != "cpu" or any(map(_mixes_pictures, module.modules())):
            count = 1
        # The optimiser of this thread waits as much for others as any operation does.
        torch.set_num_threads(1 if count > 1 else self.cores)
        return [slice(part, n, count) for part in range(count)] if count > 1 else [slice(0, n)]

    def run(self, work: Callable[[T], R], parts: Iterable[T]) -> list[R]:
        """Do the work on each part, one thread a core, and return the results in order."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.cores, "learn", initializer=_use_one_thread)
        return list(self._pool.map(work, parts))


def _use_one_thread() -> None:
    """Let torch use no other threads for this one."""
    # With its first operation a thread takes over what was last set in any other (torch 2.14).
    # Asked for its number, it does so now; else it would undo what is set here.
    torch.get_num_threads()
    torch.set_num_threads(1)


def _mixes_pictures(module: nn.Module) -> bool:
    """Tell batch-norm that learns, whose statistics are those of the batch, and dropout."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, DropPath)
    return module.training and isinstance(module, kinds)


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _optimizer(phase: Phase, groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    rate = float(phase.lr)
    if phase.optimizer == "sgd":
        return SGD(
            groups,
            lr=rate,
            momentum=phase.momentum,
            weight_decay=phase.weight_decay,
            fused=fused,
        )
    kind = Adam if phase.optimizer == "adam" else AdamW
    return kind(groups, lr=rate, weight_decay=phase.weight_decay, fused=fused)


def set_mode(learner: Learner, phase: Phase) -> None:
    """Put what learns into training mode, and each batch-norm into the mode the phase wants."""
    learner.module.train()
    if phase.bn == "eval":
        for module in learner.module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    for module in learner.frozen:
        module.train(phase.frozen_bn == "train")


def class_weights(phase: Phase, labels: NDArray[np.int64], n_classes: int) -> Tensor | None:
    """Return the (K,) weights of the loss: n / (K * n of the class), or None for equal ones."""
    counts = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    uneven = unevenness(labels) > UNEVEN
    if phase.class_weights == "none" or (phase.class_weights == "auto" and not uneven):
        return None
    return torch.from_numpy(len(labels) / (n_classes * counts)).float()


def epoch_order(phase: Phase, pictures: Pictures, seed: Sequence[int]) -> Rows:
    """Return the rows of one epoch in their order."""
    generator = np.random.default_rng([*seed, 1])
    if phase.draw == "in-order":
        return pictures.train
    if phase.draw == "shuffled":
        return generator.permutation(pictures.train)
    labels = pictures.labels[pictures.train]
    share = 1 / np.maximum(np.bincount(labels, minlength=pictures.n_classes), 1)[labels]
    return generator.choice(pictures.train, len(labels), p=share / share.sum())


class PhaseRun:
    """One phase of stepping, epoch by epoch."""

    def __init__(
        self, learner: Learner, phase: Phase, pictures: Pictures, around: Circumstances
    ) -> None:
        self._learner, self._phase, self._pictures = learner, phase, pictures
        self._around = around
        weights = class_weights(phase, pictures.labels[pictures.train], pictures.n_classes)
        self._stepper = Stepper(learner, phase, weights, around.fabric, around.ranks)
        self._sample = pictures.sample()
        self._average = copy.deepcopy(learner.module) if phase.ema else None
        self._n_epochs = phase.epochs
        self._done = 0
        self._best: Judged | None = None
        self._best_epoch: int | None = None
        self._best_state: dict[str, Tensor] = {}
        self._epoch_s: list[float] = []
        self._first_loss: float | None = None

    def run(self) -> Outcome:
        """Learn, and leave the weights of the best epoch in the learner."""
        self._resume()
        with shared_statistics(self._learner.module, self._around.ranks), self._folded():
            trouble = self._epochs()
        if self._best_state:
            self._learner.module.load_state_dict(self._best_state)
        self._learner.module.eval()
        return Outcome(self._best, self._best_epoch, self._done, trouble)

    def _folded(self) -> AbstractContextManager[object]:
        """Fold batch-norm, unless it takes statistics: the example would be among them."""
        set_mode(self._learner, self._phase)
        module = self._learner.module
        kinds = nn.modules.batchnorm._BatchNorm
        if any(part.training for part in module.modules() if isinstance(part, kinds)):
            return nullcontext()
        # Chance, as in dropout, has no place in it either; each epoch sets the mode anew.
        return folded(module.eval(), self._stepper.prepared(self._sample))

    def _epochs(self) -> str | None:
        """Run epoch by epoch until enough; return what went wrong, if anything."""
        while self._done < self._n_epochs and not self._out_of_patience():
            start = time.monotonic()
            trouble = self._epoch()
            if trouble:
                return trouble
            self._epoch_s.append(time.monotonic() - start)
            self._fit_into_time()
        return None

    def _epoch(self) -> str | None:
        """Run one epoch and judge it; return what went wrong, if anything."""
        around, phase = self._around, self._phase
        epoch = self._done + 1
        seed = (around.seed, around.number, epoch)
        # The chance of dropout is another one for the pictures of another rank.
        own = seed if around.ranks.first else (*seed, around.ranks.number)
        torch.manual_seed(int(np.random.SeedSequence(own).generate_state(1)[0]))
        start = time.monotonic()
        set_mode(self._learner, phase)
        loss, accuracy = self._steps(epoch, seed)
        # A head that was solved for may be far off on random views, and find its way back.
        early = max(math.log(self._pictures.n_classes), self._first_loss or 0.0)
        if not math.isfinite(loss) or loss > RUINED * early:
            return (
                f"the loss became {loss:.3g} in epoch {epoch}: most likely the rate "
                f"{self._stepper.rates[0]:.1e} is too high"
            )
        judged = self._judge()
        if judged and not math.isfinite(judged.raw_log_loss):
            return f"what it computes for valid pictures was no number in epoch {epoch}"
        best = self._is_best(judged)
        if best:
            self._best, self._best_epoch = judged, epoch
            self._best_state = _copied(self._judged_module())
        self._done = epoch
        groups = self._stepper.optimizer.param_groups
        around.history.epoch(
            EpochRecord(
                phase=around.number,
                epoch=epoch,
                n_epochs=self._n_epochs,
                train_loss=loss,
                train_accuracy=accuracy,
                valid_loss=judged.raw_log_loss if judged else None,
                valid_accuracy=judged.accuracy if judged else None,
                lr=groups[0]["lr"],
                head_lr=groups[-1]["lr"],
                seconds=round(time.monotonic() - start, 3),
                best=best,
            )
        )
        self._save(best)
        return None

    def _steps(self, epoch: int, seed: tuple[int, ...]) -> tuple[float, float]:
        """Step through the pictures once; return the mean loss and the accuracy while learning."""
        pictures, phase = self._pictures, self._phase
        batches = batches_of(epoch_order(phase, pictures, seed), phase.batch)
        groups = [
            batches[i : i + phase.accumulate] for i in range(0, len(batches), phase.accumulate)
        ]
        inputs = pictures.views(batches, epoch, self._sample)
        mixing = np.random.default_rng([*seed, 2])
        told_every = max(1, len(groups) // TOLD_PER_EPOCH)
        loss_sum, right, n_seen = 0.0, 0, 0
        for number, group in enumerate(groups, start=1):
            step = (epoch - 1) * len(groups) + number - 1
            factor = rate_factor(phase, step, len(groups), self._n_epochs * len(groups))
            self._stepper.set_rate(factor)
            shares = self._stepper.shares([pictures.labels[rows] for rows in group])
            for rows, share in zip(group, shares, strict=True):
                labels = torch.from_numpy(pictures.labels[rows])
                views, at = next(inputs)
                loss, n_right = self._stepper.learn(views, labels, mixing, share, at)
                self._first_loss = self._first_loss or loss
                loss_sum += loss * len(rows)
                right += n_right
                n_seen += len(rows)
            self._stepper.step()
            self._follow(step)
            if number % told_every == 0 or number == len(groups):
                self._around.history.step(
                    StepRecord(
                        self._around.number,
                        epoch,
                        number,
                        len(groups),
                        loss_sum / n_seen,
                        right / n_seen,
                    )
                )
            if not math.isfinite(loss_sum):
                break
        return loss_sum / n_seen, right / n_seen

    def _follow(self, step: int) -> None:
        """Move the average towards the weights; faster at first, when they still change much."""
        if self._average is None:
            return
        decay = min(self._phase.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, now in zip(
                self._average.state_dict().values(),
                self._learner.module.state_dict().values(),
                strict=True,
            ):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)

    def _judged_module(self) -> nn.Module:
        return self._learner.module if self._average is None else self._average

    def _judge(self) -> Judged | None:
        if not len(self._pictures.valid):
            return None
        pictures = self._pictures
        logits = logits_of(self._judged_module(), self._stepper, pictures, self._around.ranks)
        return judge(logits, pictures.labels[pictures.valid], self._around.balanced)

    def _is_best(self, judged: Judged | None) -> bool:
        if judged is None or self._phase.best == "last" or self._best is None:
            return True
        if self._phase.best == "accuracy":
            return judged.accuracy > self._best.accuracy
        if self._phase.best == "loss":
            return judged.raw_log_loss < self._best.raw_log_loss
        return judged.log_loss < self._best.log_loss

    def _out_of_patience(self) -> bool:
        patience = self._phase.patience
        return patience is not None and self._done - (self._best_epoch or 0) >= patience

    def _fit_into_time(self) -> None:
        """Let the phase end so that a deadline is kept; the schedule follows."""
        if self._around.deadline is None:
            return
        left = self._around.deadline - time.monotonic()
        fits = int(left / (sum(self._epoch_s[-3:]) / len(self._epoch_s[-3:])))
        fits = self._around.ranks.tell(lambda: fits)
        self._n_epochs = min(self._phase.epochs, max(self._done + fits, self._done))

    def _save(self, best: bool) -> None:
        around = self._around
        facts = {
            **around.about,
            "phase": around.number,
            "epoch": self._done,
            "best_epoch": self._best_epoch,
            "best": None if self._best is None else vars(self._best),
            "first_loss": self._first_loss,
        }
        if best and around.best_file:
            around.best_file.write({"model": self._best_state}, facts)
        if around.checkpoint:
            parts = {
                "model": self._learner.module.state_dict(),
                "optimizer": optimizer_tensors(self._stepper.optimizer),
                "average": {} if self._average is None else self._average.state_dict(),
            }
            around.checkpoint.write(parts, facts)

    def _resume(self) -> None:
        """Go on where a checkpoint of this phase ended."""
        around = self._around
        found, best = around.ranks.tell(self._read_checkpoint)
        if found is None or found.facts["phase"] != around.number:
            return
        load_module(self._learner.module, found.part("model"))
        restore_optimizer(self._stepper.optimizer, found.part("optimizer"))
        if self._average is not None:
            load_module(self._average, found.part("average"))
        self._done = found.facts["epoch"]
        self._first_loss = found.facts["first_loss"]
        self._best_epoch = found.facts["best_epoch"]
        self._best = Judged(**found.facts["best"]) if found.facts["best"] else None
        # It may be an epoch ahead, which is learned again; older, it could not be written.
        if best is None or (best.facts["phase"], best.facts["best_epoch"]) < (
            around.number,
            self._best_epoch,
        ):
            raise CannotResume(
                f"The best weights of phase {around.number}, of epoch {self._best_epoch}, are "
                f"missing beside its checkpoint: they could not be written. Nothing was trained. "
                f"Train again without --resume."
            )
        self._best_state = best.part("model")

    def _read_checkpoint(self) -> tuple[Checkpoint | None, Checkpoint | None]:
        around = self._around
        found = around.checkpoint.read() if around.checkpoint else None
        return found, around.best_file.read() if found and around.best_file else None


def logits_of(
    module: nn.Module, stepper: Stepper, pictures: Pictures, ranks: Ranks = ALONE
) -> NDArray[np.float32]:
    """Compute the (N, K) logits of the valid pictures; each rank its part, all get all.

    The head is linear: the mean of a picture's logits and its mirror's are those of the mean of
    their features, which is what the finished graph computes.
    """
    at = pictures.part(pictures.valid)
    logits = np.zeros((0, pictures.n_classes), dtype=np.float32)
    if len(at):
        rows = batches_of(pictures.valid[at], JUDGED_AT_ONCE)
        logits = stepper.logits(module, pictures.source.plain(rows))
        if pictures.mirror is not None:
            mirrored = stepper.logits(module, pictures.mirror.plain(rows))
            logits = np.asarray((logits + mirrored) / 2, dtype=np.float32)
    return ranks.whole(logits, at, len(pictures.valid), everywhere=True)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
