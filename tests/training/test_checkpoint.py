"""A phase that was killed and taken up again ends as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tellapart.errors import CannotResume
from tellapart.progress import Progress
from tellapart.training.checkpoint import (
    CheckpointFile,
    load_module,
    optimizer_tensors,
    restore_optimizer,
)
from tellapart.training.finetune import Circumstances, Learner, Outcome, PhaseRun, Pictures
from tellapart.training.history import EpochRecord, History
from tellapart.training.recipe import Phase

pytestmark = pytest.mark.usefixtures("one_thread")

Around = Callable[..., Circumstances]
MakeLearner = Callable[..., Learner]
MakePictures = Callable[..., Pictures]
Differing = Callable[..., list[str]]

QUIET = Progress("quiet")

PHASES = {
    "adam": {"optimizer": "adam", "lr": 1e-2, "weight_decay": 0.01},
    "sgd with momentum": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9},
    "sgd without": {"optimizer": "sgd", "lr": 0.05},
    "average": {"lr": 1e-2, "ema": 0.9},
    "one-cycle": {"lr": 1e-2, "schedule": "one-cycle"},
    "everything": {
        "lr": 1e-2,
        "schedule": "one-cycle",
        "ema": 0.8,
        "mixup": 0.4,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "warm_up_epochs": 1.5,
        "accumulate": 2,
        "head_lr_factor": 5,
        "draw": "balanced",
        "best": "accuracy",
        "patience": 10,
    },
    "last": {"lr": 1e-2, "best": "last"},
}


def phase(**more: Any) -> Phase:
    """Four epochs."""
    usual = {"learns": "tail", "cut": "auto", "epochs": 4, "batch": 16, "bn": "train"}
    return Phase(**(usual | more))


class Killed(History):
    """A history during whose nth epoch the process is killed."""

    def __init__(self, epoch: int, file: Path | None = None) -> None:
        super().__init__(file, QUIET)
        self._last = epoch

    def epoch(self, record: EpochRecord) -> None:
        """Take the epoch, or die of it: its checkpoint has not been written then."""
        if record.epoch == self._last:
            raise KeyboardInterrupt
        super().epoch(record)


class DyingFile(CheckpointFile):
    """A checkpoint during whose nth writing the process is killed."""

    writes = 0

    def write(self, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Write it, or die before."""
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        super().write(parts, facts)


def files(folder: Path, kind: type[CheckpointFile] = CheckpointFile) -> dict[str, CheckpointFile]:
    """The two files of a phase in a run's folder."""
    return {
        "checkpoint": kind(folder / "checkpoint.safetensors", QUIET),
        "best_file": CheckpointFile(folder / "best.safetensors", QUIET),
    }


def timeless(records: list[EpochRecord]) -> list[EpochRecord]:
    """Without how long each epoch took."""
    return [replace(record, seconds=0.0) for record in records]


@pytest.fixture
def unbroken(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> Callable[[Phase], tuple[Outcome, Learner, list[EpochRecord]]]:
    """Run a phase from its start to its end."""

    def run(made: Phase) -> tuple[Outcome, Learner, list[EpochRecord]]:
        learner, about = toy_learner(dropout=0.2), around()
        return PhaseRun(learner, made, toy_pictures(), about).run(), learner, about.history.epochs

    return run


@pytest.mark.parametrize("name", PHASES)
@pytest.mark.parametrize("killed_in", [2, 3])
def test_a_killed_phase_goes_on_as_if_nothing_had_been(
    name: str,
    killed_in: int,
    tmp_path: Path,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    unbroken: Callable[..., Any],
    differing: Differing,
) -> None:
    """The same weights to the last bit, the same history, the same best, for every kind of phase.

    What the process held in memory is gone: everything is built anew before it goes on.
    """
    made = phase(**PHASES[name])
    log = tmp_path / "history.jsonl"
    with pytest.raises(KeyboardInterrupt):
        history = Killed(killed_in, log)
        PhaseRun(
            toy_learner(dropout=0.2),
            made,
            toy_pictures(),
            around(history=history, **files(tmp_path)),
        ).run()
    # Where a network starts from must not matter: another one goes on.
    learner, history = toy_learner(seed=9, dropout=0.2), History(log, QUIET)
    history.restore(1, killed_in - 1)
    resumed = PhaseRun(
        learner, made, toy_pictures(), around(history=history, **files(tmp_path))
    ).run()

    outcome, whole, epochs = unbroken(made)
    assert resumed == outcome
    assert differing(learner.module.state_dict(), whole.module.state_dict()) == []
    assert timeless(history.epochs) == timeless(epochs)
    assert [record.epoch for record in history.epochs] == [1, 2, 3, 4]


def test_what_counts_as_ruin_is_the_same_afterwards(
    tmp_path: Path, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """A loss is held against that of the phase's first step, not of the first after a kill."""
    made, first = phase(lr=1e-2), []
    for kill in (False, True):
        given = files(tmp_path / str(kill))
        given["checkpoint"].path.parent.mkdir()
        if kill:
            with pytest.raises(KeyboardInterrupt):
                about = around(history=Killed(3), **given)
                PhaseRun(toy_learner(), made, toy_pictures(), about).run()
        PhaseRun(toy_learner(), made, toy_pictures(), around(**given)).run()
        found = given["checkpoint"].read()
        assert found is not None
        first.append(found.facts["first_loss"])
    assert first[0] == first[1] > 0


def test_a_kill_between_the_best_weights_and_the_checkpoint_does_no_harm(
    tmp_path: Path,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    unbroken: Callable[..., Any],
    differing: Differing,
) -> None:
    """The best file is an epoch ahead then: that epoch is learned again."""
    made = phase(lr=1e-2)
    with pytest.raises(KeyboardInterrupt):
        about = around(**files(tmp_path, DyingFile))
        PhaseRun(toy_learner(dropout=0.2), made, toy_pictures(), about).run()
    best = CheckpointFile(tmp_path / "best.safetensors", QUIET).read()
    before = CheckpointFile(tmp_path / "checkpoint.safetensors", QUIET).read()
    assert best is not None
    assert before is not None
    assert (before.facts["epoch"], best.facts["epoch"]) == (2, 3)
    learner = toy_learner(seed=9, dropout=0.2)
    resumed = PhaseRun(learner, made, toy_pictures(), around(**files(tmp_path))).run()
    outcome, whole, _ = unbroken(made)
    assert resumed == outcome
    assert differing(learner.module.state_dict(), whole.module.state_dict()) == []


def test_a_phase_that_had_ended_is_not_learned_again(
    tmp_path: Path,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    differing: Differing,
) -> None:
    """Killed after its last checkpoint: its best weights are put in, and nothing is computed."""
    made = phase(lr=1e-2)
    first = toy_learner()
    outcome = PhaseRun(first, made, toy_pictures(), around(**files(tmp_path))).run()
    about, again = around(**files(tmp_path)), toy_learner(seed=9)
    assert PhaseRun(again, made, toy_pictures(), about).run() == outcome
    assert differing(first.module.state_dict(), again.module.state_dict()) == []
    assert about.history.epochs == []


def test_a_phase_out_of_patience_stays_so(
    tmp_path: Path, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """The epochs since the best one count on."""
    pictures = toy_pictures()
    labels = pictures.labels.copy()
    labels[pictures.valid] = (labels[pictures.valid] + 1) % 3
    pictures = replace(pictures, labels=labels)
    made = phase(epochs=30, lr=1e-2, patience=3)
    outcome = PhaseRun(toy_learner(), made, pictures, around(**files(tmp_path))).run()
    assert outcome.epochs < 30
    about = around(**files(tmp_path))
    assert PhaseRun(toy_learner(seed=9), made, pictures, about).run() == outcome
    assert about.history.epochs == []


def test_the_checkpoint_of_another_phase_is_not_gone_on_from(
    tmp_path: Path,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    differing: Differing,
) -> None:
    """The second phase starts at its own beginning, whatever the first one left behind."""
    PhaseRun(toy_learner(), phase(lr=1e-2), toy_pictures(), around(**files(tmp_path))).run()
    found = []
    for given in (files(tmp_path), {}):
        learner = toy_learner(seed=3)
        about = around(number=2, **given)
        PhaseRun(learner, phase(lr=1e-2), toy_pictures(), about).run()
        found.append(learner.module.state_dict())
        assert [record.epoch for record in about.history.epochs] == [1, 2, 3, 4]
    assert differing(*found) == []


@pytest.mark.parametrize("left", ["nothing", "another phase's", "an earlier epoch's"])
def test_other_weights_are_never_taken_for_the_best(
    left: str, tmp_path: Path, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """As where the disk was full when the best were written: going on is refused, in words."""
    made, given = phase(lr=1e-2, best="last"), files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        about = around(number=2, history=Killed(4), checkpoint=given["checkpoint"])
        PhaseRun(toy_learner(), made, toy_pictures(), about).run()
    if left != "nothing":
        number = 2 if left == "an earlier epoch's" else 1
        short = made.model_copy(update={"epochs": 4 - number})
        about = around(number=number, best_file=given["best_file"])
        PhaseRun(toy_learner(), short, toy_pictures(), about).run()
    resumed = PhaseRun(toy_learner(), made, toy_pictures(), around(number=2, **given))
    with pytest.raises(CannotResume) as caught:
        resumed.run()
    assert str(caught.value) == (
        "The best weights of phase 2, of epoch 3, are missing beside its checkpoint: they could "
        "not be written. Nothing was trained. Train again without --resume."
    )


def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """With what does not fit, and the way out."""
    about = around(**files(tmp_path))
    PhaseRun(toy_learner(), phase(epochs=1), toy_pictures(), about).run()
    other = PhaseRun(toy_learner(4), phase(), toy_pictures(n_classes=4), around(**files(tmp_path)))
    with pytest.raises(
        CannotResume, match=r"of another network: .*\. Nothing was trained\. .* --resume"
    ):
        other.run()


# ---- a process that is really killed

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np, torch
    from lightning_fabric import Fabric
    from torch import nn
    from tellapart.backbones.activations import KeptSet
    from tellapart.progress import Progress
    from tellapart.training.checkpoint import CheckpointFile
    from tellapart.training.finetune import Circumstances, Learner, PhaseRun, Pictures
    from tellapart.training.history import History
    from tellapart.training.recipe import Phase
    from tellapart.training.sources import KeptSource

    folder, n = Path(sys.argv[1]), 96
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    digests = np.array([f"{row:032x}".encode() for row in range(n)], dtype="S32")
    labels = rng.integers(0, 3, n)
    kept = KeptSet({"made by": "a test that is killed"})
    if digests[0] not in kept:
        values = rng.normal(size=(n, 16)) + np.eye(3, 16)[labels]
        kept.add(digests.tolist(), list(values.astype(np.float16)))
    torch.manual_seed(0)
    head = nn.Linear(16, 3)
    learner = Learner(nn.Identity(), nn.Sequential(head), (), (), tuple(head.parameters()))
    source = KeptSource(digests, kept, (), 0)
    history = History(folder / "history.jsonl", Progress("quiet"))
    if (folder / "checkpoint.safetensors").exists():
        found = CheckpointFile(folder / "checkpoint.safetensors", Progress("quiet")).read()
        history.restore(1, found.facts["epoch"])
    around = Circumstances(
        Fabric(accelerator="cpu", devices=1), 1, 0, history,
        CheckpointFile(folder / "checkpoint.safetensors", Progress("quiet")),
        CheckpointFile(folder / "best.safetensors", Progress("quiet")),
    )
    phase = Phase(learns="head", views=0, epochs=int(sys.argv[2]), batch=8, ema=0.9, lr=1e-3)
    outcome = PhaseRun(
        learner, phase, Pictures(source, labels, np.arange(64), np.arange(64, n), 3), around
    ).run()
    print(outcome, [record.epoch for record in history.epochs])
    print(head.weight.tolist())
    """
)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start, or go on with, a phase in a process of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), "60"], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    """SIGKILL, twice, wherever it happens to be: in the end all is as if unbroken."""
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    for wait_s in (0.0, 0.1):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        with start(tmp_path / "killed") as process:
            deadline = time.monotonic() + 100
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    said = []
    for folder in ("killed", "whole"):
        with start(tmp_path / folder) as process:
            said.append(process.communicate(timeout=200)[0])
    assert said[0] == said[1]
    assert "epochs=60" in said[0]


# ---- the file itself


def optimizers(parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """One of each kind that a phase can have, in one pass over the numbers as on processors."""
    return [
        torch.optim.Adam(parameters, lr=0.1, fused=True),
        torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, fused=True),
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
        torch.optim.SGD(parameters, lr=0.1, fused=True),
        torch.optim.Adam(parameters, lr=0.1),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_an_optimiser_goes_on_where_it_was(kind: int, tmp_path: Path) -> None:
    """Through the file: the next steps are the same to the last bit, with steps and moments.

    Moments must lie in memory as their weights do: the fused optimisers take that for granted,
    and mix the numbers up without a word where it is not so.
    """
    shapes = [(8, 4, 3, 3), (8, 4, 1, 1), (6, 5), (4,)]

    def step(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, n: int) -> None:
        generator = torch.Generator().manual_seed(n)
        for _ in range(n):
            for parameter in parameters:
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()

    one = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in one[:2]:
        parameter.data = parameter.data.to(memory_format=torch.channels_last)
    first = optimizers(one)[kind]
    step(one, first, 3)
    file = CheckpointFile(tmp_path / "state.safetensors", QUIET)
    file.write({"optimizer": optimizer_tensors(first)}, {})
    other = [nn.Parameter(value.detach().clone()) for value in one]
    second = optimizers(other)[kind]
    found = file.read()
    assert found is not None
    restore_optimizer(second, found.part("optimizer"))
    step(one, first, 2)
    step(other, second, 2)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Tensors of any kind by part and name, facts as they are, whichever way they lay in memory."""
    file = CheckpointFile(tmp_path / "state.safetensors", QUIET)
    assert file.read() is None
    tensors = {
        "w": torch.randn(4, 3).t(),
        "maps": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "deep.er": torch.arange(3),
        "half": torch.randn(3).bfloat16(),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 2),
    }
    shared = {"one": tensors["w"], "two": tensors["w"]}
    facts = {"phase": 2, "best": None, "judged": {"log_loss": 0.1 + 0.2}, "name": "Blüte"}
    file.write({"model": tensors, "model2": shared, "none": {}}, facts)
    found = file.read()
    assert found is not None
    assert found.facts == facts
    assert found.part("none") == {}
    assert found.part("model").keys() == tensors.keys()
    for part, given in (("model", tensors), ("model2", shared)):
        for name, value in found.part(part).items():
            assert value.dtype == given[name].dtype
            assert torch.equal(value, given[name])


@pytest.mark.parametrize(
    "damage",
    {
        "cut off": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "altered": lambda data: b"\xff" * 16 + data[16:],
        "no checkpoint": lambda data: b"PK\x03\x04" + bytes(100),
    }.items(),
    ids=lambda damage: damage[0],
)
def test_a_damaged_checkpoint_is_refused(
    damage: tuple[str, Callable[[bytes], bytes]], tmp_path: Path
) -> None:
    """With its path, and what to do; it is not deleted."""
    file = CheckpointFile(tmp_path / "state.safetensors", QUIET)
    file.write({"model": {"w": torch.ones(50)}}, {"phase": 1})
    file.path.write_bytes(damage[1](file.path.read_bytes()))
    with pytest.raises(CannotResume) as caught:
        file.read()
    said = str(caught.value)
    assert said.startswith(f"The checkpoint {file.path} cannot be read (")
    assert said.endswith(
        "Expected was what an interrupted training wrote. Nothing was trained. Train again "
        "without --resume; what was computed from the pictures is still kept."
    )
    assert file.path.exists()


@pytest.mark.parametrize("facts", [None, {}, {"facts": "{"}])
def test_a_file_of_weights_is_no_checkpoint(facts: dict[str, str] | None, tmp_path: Path) -> None:
    """Safetensors that somebody else wrote: without facts, or with others."""
    from safetensors.torch import save_file

    file = CheckpointFile(tmp_path / "state.safetensors", QUIET)
    save_file({"w": torch.ones(2)}, file.path, facts)
    with pytest.raises(CannotResume, match="cannot be read"):
        file.read()


def test_a_phase_goes_on_without_checkpoints_where_none_can_be_written(
    tmp_path: Path,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    unbroken: Callable[..., Any],
    differing: Differing,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Said once for each file, with the cure; the weights are those of any other run."""
    nowhere = tmp_path / "taken away"
    loud = Progress("normal")
    about = around(
        checkpoint=CheckpointFile(nowhere / "checkpoint.safetensors", loud),
        best_file=CheckpointFile(nowhere / "best.safetensors", loud),
    )
    learner = toy_learner(dropout=0.2)
    outcome = PhaseRun(learner, phase(lr=1e-2), toy_pictures(), about).run()
    said = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert len(said) == 2
    for line in said:
        assert line.startswith(f"Going on without checkpoints: {nowhere}")
        assert "set TELLAPART_RUNS to another folder" in line
    expected, whole, _ = unbroken(phase(lr=1e-2))
    assert outcome == expected
    assert differing(learner.module.state_dict(), whole.module.state_dict()) == []


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, limited_file_size: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Written whole or not at all."""
    file = CheckpointFile(tmp_path / "state.safetensors", QUIET)
    file.write({"model": {"w": torch.ones(10)}}, {"epoch": 1})
    with limited_file_size(1000):
        file.write({"model": {"w": torch.ones(10_000)}}, {"epoch": 2})
    found = file.read()
    assert found is not None
    assert found.facts == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_module_takes_its_own_state_only() -> None:
    """Another's, or one that lacks a tensor, is refused."""
    module = nn.Linear(2, 3)
    load_module(module, {name: torch.zeros_like(v) for name, v in module.state_dict().items()})
    assert not module.weight.any()
    for wrong in ({}, nn.Linear(3, 3).state_dict()):
        with pytest.raises(CannotResume):
            load_module(module, wrong)
