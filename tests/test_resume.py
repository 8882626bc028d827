"""A training that is killed or stopped goes on where it was, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tellapart
from tellapart.bundle.bundle import open_bundle
from tellapart.progress import Progress
from tellapart.training.history import Records, read_history
from tellapart.training.recipe import load_recipe

Command = Callable[..., Any]

# Long enough to be met in the middle.
EPOCHS = 12
# Stopped when so many are done.
DONE = 3


@dataclass(frozen=True)
class Interrupted:
    """A training that did not reach its end. No test may change it.

    args: its command line, without `train`. runs: its folder of runs. err: what it said.
    """

    args: tuple[str, ...]
    runs: Path
    code: int
    err: str

    @property
    def bundle(self) -> Path:
        return Path(self.args[2])

    @property
    def folder(self) -> Path:
        (folder,) = (path for path in self.runs.iterdir() if path.is_dir())
        return folder

    def copied_to(self, runs: Path) -> Path:
        """Copy what is remembered of it, so that it can be gone on with; return its folder."""
        shutil.copytree(self.runs, runs)
        return runs / self.folder.name


def interrupt(data: Path, folder: Path, settings: Mapping[str, Any], how: int) -> Interrupted:
    """Train in a process of its own, and send it a signal in the middle of the tail."""
    recipe = folder / "recipe.toml"
    load_recipe("auto", {**settings, "phases.2.epochs": EPOCHS}).save(recipe)
    args = (str(data), "-o", str(folder / "x.tellapart"), "--recipe", str(recipe))
    runs = folder / "runs"
    # With one thread, as the trainings that it is compared with.
    environment = os.environ | {"TELLAPART_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "tellapart", "train", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    until = time.monotonic() + 280
    while n_epochs(runs) < DONE and time.monotonic() < until and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(how)
    _, err = run.communicate(timeout=60)
    assert DONE <= n_epochs(runs) < EPOCHS, err
    return Interrupted(args, runs, run.returncode, err)


def n_epochs(runs: Path) -> int:
    """How many epochs are on record, in all runs together."""
    return sum(len(read_history(file).epochs) for file in runs.glob("*/history.jsonl"))


@pytest.fixture(scope="module")
def killed(
    trained: Any, small_tail: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Interrupted:
    """A training killed in the middle of a tail that has to be kept, with its last weights.

    The best ones are those of its first epoch, which lie in a file already: they would hide what
    going on does.
    """
    settings = {**small_tail, "phases.2.best": "last"}
    return interrupt(trained.data, tmp_path_factory.mktemp("killed"), settings, signal.SIGKILL)


def unbroken(interrupted: Interrupted, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train as the interrupted run was asked to, without interruption; return bundle and records.

    Its runs lie in the folder, too.
    """
    data, recipe = interrupted.args[0], interrupted.args[4]
    folder.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setenv("TELLAPART_RUNS", str(folder / "runs"))
        result = tellapart.train(data, folder / "x", recipe=recipe, progress=Progress("quiet"))
    (file,) = (folder / "runs").glob("*/history.jsonl")
    return open_bundle(result.bundle), read_history(file)


def resume(
    interrupted: Interrupted, folder: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> Any:
    """Go on with it, with its runs copied into the folder; return bundle and records."""
    runs = folder / "resumed"
    ours = interrupted.copied_to(runs)
    with monkeypatch.context() as patch:
        patch.setenv("TELLAPART_RUNS", str(runs))
        ended = command("train", *interrupted.args, "--resume", "--json")
        assert ended.code == 0, ended.err
        (run,) = json.loads(command("runs", "--json").out)
    assert (run["id"], run["state"]) == (ours.name, "done")
    assert run["accuracy"] == json.loads(ended.out)["accuracy"]
    assert not list(ours.glob("*.safetensors"))
    made = folder / "resumed.tellapart"
    # Others go on with the same run, and look whether there is a bundle already.
    interrupted.bundle.replace(made)
    return open_bundle(made), read_history(ours / "history.jsonl")


def without_times(records: Records) -> list[dict[str, Any]]:
    """All records in order, without what the clock says."""
    facts = [vars(one) for kind in vars(records).values() for one in kind]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in facts]


@pytest.mark.slow
def test_a_kill_leaves_a_run_to_go_on_with(
    killed: Interrupted, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bundle, no report; `runs` says that it was interrupted, and the checkpoint is there."""
    monkeypatch.setenv("TELLAPART_RUNS", str(killed.runs))
    assert killed.code == -signal.SIGKILL
    assert not killed.bundle.exists()
    (run,) = json.loads(command("runs", "--json").out)
    assert (run["state"], run["accuracy"], run["seconds"]) == ("interrupted", None, None)
    assert run["output"] == str(killed.bundle)
    names = {path.name for path in killed.folder.iterdir()}
    assert {"checkpoint.safetensors", "best.safetensors", "before.safetensors"} <= names
    assert " interrupted " in command("runs").out


@pytest.mark.slow
def test_a_killed_training_ends_as_if_it_had_not_been(
    killed: Interrupted,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    single_thread: None,
) -> None:
    """--resume after a kill in a phase: the same weights, scores and history, to the last bit."""
    whole, expected = unbroken(killed, tmp_path, monkeypatch)
    again, found = resume(killed, tmp_path, monkeypatch, command)
    # First, as it says where they part, should they ever.
    assert without_times(found) == without_times(expected)
    assert again.weights == whole.weights
    assert again.graph == whole.graph
    assert again.manifest.scores == whole.manifest.scores
    assert again.manifest.calibration == whole.manifest.calibration


@pytest.mark.slow
def test_a_resumed_phase_may_be_taken_back_as_ever(
    trained: Any,
    small_tail: dict[str, Any],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    single_thread: None,
) -> None:
    """Where the interrupted phase does not help, what comes out is the head of the one before.

    With all that belongs to it: refitted on valid, its temperature from out-of-fold predictions.
    """
    settings = {**small_tail, "phases.2.keep": "if_better"}
    killed = interrupt(trained.data, tmp_path, settings, signal.SIGKILL)
    whole, expected = unbroken(killed, tmp_path / "whole", monkeypatch)
    assert [one.kept for one in expected.phases] == [True, False]
    again, found = resume(killed, tmp_path, monkeypatch, command)
    assert again.graph == whole.graph
    assert again.manifest.calibration == whole.manifest.calibration
    assert again.manifest.scores == whole.manifest.scores
    assert without_times(found) == without_times(expected)


@pytest.mark.slow
def test_ctrl_c_in_a_phase_leaves_a_run_to_go_on_with(
    trained: Any,
    small_tail: dict[str, Any],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    single_thread: None,
) -> None:
    """Code 130, no half-written file, a run that is listed as stopped, and then goes on."""
    stopped = interrupt(trained.data, tmp_path, small_tail, signal.SIGINT)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith("tellapart: Stopped. ")
    assert "Traceback" not in stopped.err
    assert not stopped.bundle.exists()
    assert not list(tmp_path.rglob("*.part"))
    with monkeypatch.context() as patch:
        patch.setenv("TELLAPART_RUNS", str(stopped.runs))
        (run,) = json.loads(command("runs", "--json").out)
    assert (run["state"], run["accuracy"]) == ("stopped", None)
    assert run["seconds"] > 0
    _, found = resume(stopped, tmp_path, monkeypatch, command)
    assert [one.epoch for one in found.epochs] == list(range(1, EPOCHS + 1))


OTHER = (
    "The interrupted training {run} had another {what}. Going on would mix two trainings. Nothing "
    "was trained, and the checkpoint is kept. Give the same data and recipe, or train without "
    "--resume."
)


@pytest.mark.slow
def test_another_training_is_not_gone_on_with(
    killed: Interrupted,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    digits: Path,
) -> None:
    """Another recipe, other pictures, or both: refused with code 62, and nothing is changed."""
    ours = killed.copied_to(tmp_path / "runs")
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    before = {path.name: path.read_bytes() for path in ours.iterdir()}
    data = tmp_path / "more"
    shutil.copytree(killed.args[0], data)
    shutil.copy(sorted((digits / "1").iterdir())[30], data / "1")
    other_seed = ("--set", "seed=1")
    for args, what in (
        ((*killed.args, *other_seed), "recipe"),
        ((str(data), *killed.args[1:]), "pictures, labels or splits"),
        (
            (str(data), *killed.args[1:], *other_seed),
            "recipe and other pictures, labels or splits",
        ),
    ):
        ended = command("train", *args, "--resume")
        assert (ended.code, ended.out) == (62, "")
        said = OTHER.format(run=killed.folder.name, what=what)
        assert ended.err.splitlines()[-1] == f"tellapart: {said}"
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == before
    assert not killed.bundle.exists()


def test_nothing_to_go_on_with(
    trained: Any, tmp_path: Path, command: Command, own_runs: Path
) -> None:
    """No run for this output, or one that is done: code 62, and what to do instead."""
    target = tmp_path / "x.tellapart"
    message = (
        f"tellapart: There is no interrupted training of {target}. Expected was one that was "
        f"stopped or killed; `tellapart runs` lists all. Nothing was trained. Train without "
        f"--resume."
    )
    args = ("train", trained.data, "-o", target, "--recipe", "fast")
    for _ in range(2):
        ended = command(*args, "--resume")
        assert (ended.code, ended.out) == (62, "")
        assert ended.err.splitlines()[-1] == message
        assert command(*args, "-q").code == 0


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused(
    killed: Interrupted, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is named; it is never gone on from as if it were whole."""
    ours = killed.copied_to(tmp_path / "runs")
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    for name in ("before", "checkpoint"):
        file = ours / f"{name}.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        ended = command("train", *killed.args, "--resume")
        assert ended.code == 62
        said = ended.err.splitlines()[-1]
        assert said.startswith(f"tellapart: The checkpoint {file} cannot be read (")
        assert said.endswith(
            "). Expected was what an interrupted training wrote. Nothing was trained. Train again "
            "without --resume; what was computed from the pictures is still kept."
        )
        file.write_bytes(whole)
    assert not killed.bundle.exists()


@pytest.mark.slow
def test_only_one_process_goes_on_with_a_run(
    killed: Interrupted, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process works on the run, going on with it is refused."""
    ours = killed.copied_to(tmp_path / "runs")
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    hold = (
        "import sys, filelock\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, ours / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        ended = command("train", *killed.args, "--resume")
    finally:
        other.communicate()
    assert ended.code == 62
    assert f"The run {ours.name} is being worked on by process " in ended.err
