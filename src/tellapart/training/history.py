"""How a training went, step by step: kept in memory, in a file, and told. Needs no torch.

The file is JSON Lines, one record a line: `{"kind": "epoch", "phase": 1, "epoch": 1, ...}`.
A loss that is no number is written NaN, as Python's json reads and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from tellapart.errors import OutputError
from tellapart.files import write_atomically
from tellapart.progress import Progress

COLUMNS = 80


@dataclass(frozen=True)
class StepRecord:
    """Where an epoch stands after `step` of its `n_steps` steps.

    `phase` and `epoch` are counted from 1, epochs anew in each phase. `loss` and `accuracy`
    (0 to 1) are means over the pictures of this epoch so far.
    """

    phase: int
    epoch: int
    step: int
    n_steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochRecord:
    """How an epoch ended; accuracies are from 0 to 1, and None where there is no valid.

    `lr` and `head_lr` are the rates of the body and of the head in its last step. `best`: no
    earlier epoch of the phase was judged as good.
    """

    phase: int
    epoch: int
    n_epochs: int
    train_loss: float
    train_accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None
    lr: float
    head_lr: float
    seconds: float
    best: bool


@dataclass(frozen=True)
class PhaseRecord:
    """How a phase ended: what learned, whether that was kept, and why, in words."""

    phase: int
    learns: str
    kept: bool
    reason: str
    best_epoch: int | None
    seconds: float


Record = StepRecord | EpochRecord | PhaseRecord

_KINDS: dict[str, type[Record]] = {
    "step": StepRecord,
    "epoch": EpochRecord,
    "phase": PhaseRecord,
}


class Tracker(Protocol):
    """Another place that figures go to as they come; see `tellapart.training.trackers`."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take figures by name, all of the same step."""

    def close(self) -> None:
        """Write what is not yet written."""


@dataclass
class Records:
    """What is known of a training, each kind in the order in which it came."""

    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Append a record to those of its kind."""
        match record:
            case StepRecord():
                self.steps.append(record)
            case EpochRecord():
                self.epochs.append(record)
            case PhaseRecord():
                self.phases.append(record)


def read_history(file: Path) -> Records:
    """Read the records of a training that ended, is going on, or was killed.

    A line that was cut off is left out, as is a record that this version does not know; without
    a file there are no records.

    Raises:
        OSError: the file is there and cannot be read.
    """
    records = Records()
    for record in _read(file):
        records.add(record)
    return records


class History(Records):
    """The records of a training in progress: each is kept, written, tracked and shown as it comes.

    file: where they go, a line each; None: they are kept in memory only. If it cannot be written,
    or a tracker fails, that is said once and the training goes on without it.
    """

    def __init__(
        self, file: Path | None, progress: Progress, trackers: Sequence[Tracker] = ()
    ) -> None:
        super().__init__()
        self._file = file
        self._progress = progress
        self._trackers = list(trackers)
        self._n_steps: dict[tuple[int, int], int] = {}

    def add(self, record: Record) -> None:
        """Append a record to those of its kind; it is neither written nor told."""
        super().add(record)
        if isinstance(record, StepRecord):
            self._n_steps[record.phase, record.epoch] = record.n_steps

    def step(self, record: StepRecord) -> None:
        """Take the running means of an epoch; they are shown only when asked to be verbose."""
        self._take(record)
        self._progress.detail(step_line(record))
        before = sum(self._n_steps.values()) - record.n_steps
        values = {"step/loss": record.loss, "step/accuracy": record.accuracy}
        self._track(values, before + record.step)

    def epoch(self, record: EpochRecord) -> None:
        """Take the figures of a whole epoch, and show them in one line."""
        self._take(record)
        self._progress.say(epoch_line(record))
        values = {
            "train/loss": record.train_loss,
            "train/accuracy": record.train_accuracy,
            "valid/loss": record.valid_loss,
            "valid/accuracy": record.valid_accuracy,
            "rate/body": record.lr,
            "rate/head": record.head_lr,
        }
        given = {name: value for name, value in values.items() if value is not None}
        self._track(given, len(self.epochs))

    def phase(self, record: PhaseRecord) -> None:
        """Take how a phase ended, and say it."""
        self._take(record)
        kept = "kept" if record.kept else "not kept"
        self._progress.say(f"phase {record.phase} ({record.learns}) {kept}: {record.reason}")

    def restore(self, phase: int, epoch: int) -> None:
        """Go on from the records in the file, without those that came after a checkpoint.

        phase, epoch: the last epoch whose weights the checkpoint holds; epoch 0: the phase was
        about to begin. Phases before it have ended, this one has not. The file is replaced in one
        step.
        """
        if self._file is None:
            return
        kept = [one for one in _read(self._file) if _is_before(one, phase, epoch)]
        for record in kept:
            self.add(record)
        try:
            write_atomically(self._file, "".join(map(_line, kept)))
        except OutputError as error:
            self._stop_writing(str(error))

    def close(self) -> None:
        """Let the trackers write what is not yet written."""
        for tracker in tuple(self._trackers):
            self._unless_failing(tracker, lambda to: to.close())

    def _take(self, record: Record) -> None:
        """Keep a record in memory and, if it can be written, in the file."""
        self.add(record)
        if self._file is None:
            return
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        except OSError as error:
            self._stop_writing(f"{self._file} could not be written: {error.strerror or error}.")

    def _stop_writing(self, why: str) -> None:
        self._file = None
        self._progress.say(
            f"{why} The training goes on; from here on its history is kept in memory only."
        )

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in tuple(self._trackers):
            self._unless_failing(tracker, lambda to: to.scalars(values, step))

    def _unless_failing(self, tracker: Tracker, call: Callable[[Tracker], None]) -> None:
        """Call a tracker; what goes wrong in another's library must not end the training."""
        try:
            call(tracker)
        except Exception as error:
            self._trackers.remove(tracker)
            self._progress.say(
                f"{type(tracker).__name__} failed: {error}. The training goes on without it."
            )


def epoch_line(record: EpochRecord) -> str:
    """Return the figures of an epoch as a line of a table; * marks the best of its phase so far."""
    width = len(str(record.n_epochs))
    line = f"phase {record.phase} epoch {record.epoch:{width}}/{record.n_epochs}"
    line += f"  train {_figures(record.train_loss, record.train_accuracy)}"
    if record.valid_loss is not None and record.valid_accuracy is not None:
        line += f"  valid {_figures(record.valid_loss, record.valid_accuracy)}"
    rate = f"{record.lr:.1e}".replace("e-0", "e-").replace("e+0", "e+")
    line += f" {'*' if record.best else ' '} rate {rate} {_seconds(record.seconds)}"
    # Only beyond 99 epochs or 1000 seconds.
    return line if len(line) <= COLUMNS else line.replace(" epoch ", " ", 1)


def step_line(record: StepRecord) -> str:
    """Return the running means of an epoch as a line of a table."""
    width = len(str(record.n_steps))
    return (
        f"phase {record.phase} epoch {record.epoch} step {record.step:{width}}/{record.n_steps}"
        f"  train {_figures(record.loss, record.accuracy)}"
    )


def _figures(loss: float, accuracy: float) -> str:
    """Write loss and accuracy in 12 columns; only an accuracy of exactly one reads 100."""
    decimals = 3 if loss < 10 else 2 if loss < 100 else 1
    shown = f"{loss:5.{decimals}f}" if not loss >= 1000 else f"{loss:5.0e}"
    percent = " 100" if accuracy == 1 else f"{min(100 * accuracy, 99.9):4.1f}"
    return f"{shown} {percent} %"


def _seconds(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:4.1f} s"
    return f"{seconds:4.0f} s" if seconds < 1000 else f"{seconds / 60:.0f} min"


def _is_before(record: Record, phase: int, epoch: int) -> bool:
    if isinstance(record, PhaseRecord):
        return record.phase < phase
    return (record.phase, record.epoch) <= (phase, epoch)


def _line(record: Record) -> str:
    kind = next(name for name, made in _KINDS.items() if isinstance(record, made))
    return json.dumps({"kind": kind} | asdict(record)) + "\n"


def _read(file: Path) -> Iterator[Record]:
    """Read the records that can be read, in the order of the file."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            facts = json.loads(line)
            yield _KINDS[facts.pop("kind")](**facts)
        except (ValueError, KeyError, TypeError, AttributeError):
            # Cut off by a crash, or of a later version.
            continue
