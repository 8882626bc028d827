"""How a training went: kept, written line by line, told, and taken up again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tellapart.progress import Progress
from tellapart.training.history import (
    COLUMNS,
    EpochRecord,
    History,
    PhaseRecord,
    StepRecord,
    epoch_line,
    read_history,
    step_line,
)

STEP = StepRecord(phase=1, epoch=1, step=5, n_steps=10, loss=0.9, accuracy=0.5)
EPOCH = EpochRecord(
    phase=1,
    epoch=1,
    n_epochs=12,
    train_loss=0.412,
    train_accuracy=0.931,
    valid_loss=0.21,
    valid_accuracy=0.954,
    lr=4e-4,
    head_lr=4e-3,
    seconds=8.2,
    best=True,
)
PHASE = PhaseRecord(1, "tail", kept=True, reason="log loss fell", best_epoch=1, seconds=30.0)

figures = st.floats(0, 1e6) | st.just(math.nan) | st.just(math.inf)
shares = st.floats(0, 1)
counts = st.integers(1, 10_000)
epochs = st.builds(
    EpochRecord,
    phase=st.integers(1, 9),
    epoch=counts,
    n_epochs=counts,
    train_loss=figures,
    train_accuracy=shares,
    valid_loss=st.none() | figures,
    valid_accuracy=st.none() | shares,
    lr=st.floats(0, 10),
    head_lr=st.floats(0, 10),
    seconds=st.floats(0, 1e5),
    best=st.booleans(),
)


class Collected:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Remember the figures."""
        self.told.append((step, dict(values)))

    def close(self) -> None:
        """Remember that it is over."""
        self.closed = True


class Failing(Collected):
    """A tracker whose library fails at whatever it is told."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Fail."""
        raise RuntimeError("the server is away")


def two_phases(history: History) -> None:
    """Tell of two phases of two epochs with two steps each."""
    for phase in (1, 2):
        for epoch in (1, 2):
            for step in (5, 10):
                history.step(replace(STEP, phase=phase, epoch=epoch, step=step))
            history.epoch(replace(EPOCH, phase=phase, epoch=epoch))
        history.phase(replace(PHASE, phase=phase))


def test_what_was_told_can_be_read_back(tmp_path: Path) -> None:
    """The file holds the same records as the memory, in the same order."""
    history = History(tmp_path / "history.jsonl", Progress("quiet"))
    two_phases(history)
    read = read_history(tmp_path / "history.jsonl")
    assert (len(read.steps), len(read.epochs), len(read.phases)) == (8, 4, 2)
    assert (read.steps, read.epochs, read.phases) == (history.steps, history.epochs, history.phases)


def test_each_record_is_a_line_of_json_at_once(tmp_path: Path) -> None:
    """Another process can read a record as soon as it was told."""
    file = tmp_path / "history.jsonl"
    history = History(file, Progress("quiet"))
    for n, (tell, record, kind) in enumerate(
        [
            (history.step, STEP, "step"),
            (history.epoch, EPOCH, "epoch"),
            (history.phase, PHASE, "phase"),
        ]
    ):
        tell(record)
        lines = file.read_text("utf-8").splitlines()
        assert len(lines) == n + 1
        assert json.loads(lines[-1]) == {"kind": kind} | asdict(record)


def test_loss_that_is_no_number_comes_back_as_such(tmp_path: Path) -> None:
    """A training that diverged is remembered as it was."""
    history = History(tmp_path / "h.jsonl", Progress("quiet"))
    history.epoch(replace(EPOCH, train_loss=math.nan, valid_loss=math.inf))
    [epoch] = read_history(tmp_path / "h.jsonl").epochs
    assert math.isnan(epoch.train_loss)
    assert epoch.valid_loss == math.inf


@given(cut=st.integers(0, 2000))
def test_cut_off_file_still_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Wherever the power failed, the lines before that place are all read."""
    file = tmp_path_factory.mktemp("cut") / "history.jsonl"
    two_phases(History(file, Progress("quiet")))
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    read = read_history(file)
    found = len(read.steps) + len(read.epochs) + len(read.phases)
    # One more where only the line break is missing.
    assert found - whole[:cut].count(b"\n") in (0, 1)


def test_odd_lines_are_left_out(tmp_path: Path) -> None:
    """What another version or a broken disk wrote does not hide the rest."""
    file = tmp_path / "history.jsonl"
    History(file, Progress("quiet")).epoch(EPOCH)
    odd = b'{"kind": "epoch", "phase": 1}\n[1]\n3\n{"kind": "later"}\n\xff\xfe\n{"phase": 1}\n'
    file.write_bytes(odd + file.read_bytes())
    read = read_history(file)
    assert (read.steps, read.epochs, read.phases) == ([], [EPOCH], [])


def test_no_file_means_no_records(tmp_path: Path) -> None:
    """A run that was killed before its first epoch has an empty history."""
    assert read_history(tmp_path / "none.jsonl").epochs == []


@pytest.mark.parametrize(
    ("at", "n_steps", "n_epochs", "n_phases"),
    [((1, 0), 0, 0, 0), ((1, 1), 2, 1, 0), ((1, 2), 4, 2, 0), ((2, 0), 4, 2, 1), ((2, 2), 8, 4, 1)],
)
def test_resumed_history_forgets_what_came_after_the_checkpoint(
    tmp_path: Path, at: tuple[int, int], n_steps: int, n_epochs: int, n_phases: int
) -> None:
    """Records beyond the checkpoint are gone from memory and file, and new ones follow the rest."""
    file = tmp_path / "history.jsonl"
    two_phases(History(file, Progress("quiet")))
    with file.open("a") as cut_off:
        cut_off.write('{"kind": "ep')
    history = History(file, Progress("quiet"))
    history.restore(*at)
    history.epoch(replace(EPOCH, phase=at[0], epoch=at[1] + 1, train_loss=0.1))
    for records in (history, read_history(file)):
        assert len(records.steps) == n_steps
        assert len(records.epochs) == n_epochs + 1
        assert len(records.phases) == n_phases
        assert records.epochs[-1].train_loss == 0.1
    assert list(tmp_path.iterdir()) == [file]


def test_full_disk_is_said_once_and_ends_nothing(
    tmp_path: Path,
    limited_file_size: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the file cannot grow the records stay in memory, and one line says so."""
    file = tmp_path / "history.jsonl"
    history = History(file, Progress())
    with limited_file_size(500):
        two_phases(history)
    assert len(history.epochs) == 4
    assert capsys.readouterr().err.count(f"{file} could not be written: File too large.") == 1
    assert len(read_history(file).steps) >= 1


def test_full_disk_does_not_keep_a_run_from_going_on(
    tmp_path: Path,
    limited_file_size: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the shortened file cannot be written the old one stays, and the records are there."""
    file = tmp_path / "history.jsonl"
    two_phases(History(file, Progress("quiet")))
    before = file.read_bytes()
    history = History(file, Progress())
    with limited_file_size(500):
        history.restore(1, 2)
    assert len(history.epochs) == 2
    assert file.read_bytes() == before
    assert "kept in memory only" in capsys.readouterr().err


def test_history_without_a_file_is_kept_in_memory() -> None:
    """A run that cannot be remembered still has its records."""
    history = History(None, Progress("quiet"))
    history.restore(1, 0)
    two_phases(history)
    assert len(history.phases) == 2


def test_trackers_are_told_steps_and_epochs(tmp_path: Path) -> None:
    """Steps are numbered over all epochs, epochs over all phases, and go on after a resume."""
    first, second = Collected(), Collected()
    history = History(tmp_path / "h.jsonl", Progress("quiet"), [first])
    two_phases(history)
    history.close()
    of_steps = [step for step, values in first.told if "step/loss" in values]
    of_epochs = [(step, values) for step, values in first.told if "train/loss" in values]
    assert of_steps == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [step for step, _ in of_epochs] == [1, 2, 3, 4]
    assert of_epochs[0][1] == {
        "train/loss": 0.412,
        "train/accuracy": 0.931,
        "valid/loss": 0.21,
        "valid/accuracy": 0.954,
        "rate/body": 4e-4,
        "rate/head": 4e-3,
    }
    assert first.closed
    resumed = History(tmp_path / "h.jsonl", Progress("quiet"), [second])
    resumed.restore(2, 1)
    resumed.step(replace(STEP, phase=2, epoch=2))
    resumed.epoch(replace(EPOCH, phase=2, epoch=2, valid_loss=None, valid_accuracy=None))
    assert [step for step, _ in second.told] == [35, 4]
    assert "valid/loss" not in second.told[1][1]


def test_failing_tracker_is_said_once_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What goes wrong in a tracker's library ends neither the training nor the other trackers."""
    other = Collected()
    history = History(None, Progress(), [Failing(), other])
    two_phases(history)
    history.close()
    assert capsys.readouterr().err.count("Failing failed: the server is away.") == 1
    assert len(other.told) == 12


def test_an_epoch_reads_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Loss, accuracy, rate and time are told after each epoch, the best so far with a star."""
    history = History(None, Progress())
    history.step(STEP)
    history.epoch(EPOCH)
    history.epoch(replace(EPOCH, epoch=2, best=False, seconds=83.4, valid_accuracy=1.0))
    history.phase(replace(PHASE, kept=False))
    assert capsys.readouterr().err.splitlines() == [
        "phase 1 epoch  1/12  train 0.412 93.1 %  valid 0.210 95.4 % * rate 4.0e-4  8.2 s",
        "phase 1 epoch  2/12  train 0.412 93.1 %  valid 0.210  100 %   rate 4.0e-4   83 s",
        "phase 1 (tail) not kept: log loss fell",
    ]


def test_running_means_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The verbose level shows the steps within an epoch."""
    History(None, Progress("verbose")).step(STEP)
    assert capsys.readouterr().err == "phase 1 epoch 1 step  5/10  train 0.900 50.0 %\n"


@given(record=epochs)
def test_an_epoch_always_fits_the_terminal(record: EpochRecord) -> None:
    """The line has at most 80 columns up to 999 epochs, whatever the figures."""
    record = replace(record, n_epochs=min(record.n_epochs, 999), epoch=min(record.epoch, 999))
    assert len(epoch_line(record)) <= COLUMNS


@example(record=replace(EPOCH, train_accuracy=0.99999))
@given(record=epochs.filter(lambda one: one.train_accuracy < 1))
def test_only_all_reads_as_all(record: EpochRecord) -> None:
    """An accuracy just below one does not read 100 %."""
    shown = re.search(r"(\S+) %", epoch_line(replace(record, valid_accuracy=None)))
    assert shown
    assert float(shown[1]) < 100


def test_steps_line_up() -> None:
    """The lines of one epoch have the same length."""
    lines = {len(step_line(replace(STEP, step=step, n_steps=500))) for step in (1, 50, 500)}
    assert len(lines) == 1
