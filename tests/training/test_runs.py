"""Runs are remembered, listed, found again and forgotten, and never stand in the training's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tellapart.errors import CannotResume
from tellapart.progress import Progress
from tellapart.training import runs
from tellapart.training.runs import Run, find_unfinished, forget, list_runs, runs_folder, start_run

ACCURACY = {"value": 0.95, "low": 0.93, "high": 0.97}

START = """
import sys
from pathlib import Path
from tellapart.progress import Progress
from tellapart.training.runs import start_run
run = start_run("killed", Path("data"), "f", {}, Path("out.tellapart"), Progress("quiet"))
run.checkpoint.write_bytes(b"weights")
print(run.facts.id, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a folder of runs of its own, and a working folder."""
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def start(name: str = "flowers", output: str = "out.tellapart") -> Run:
    """Start a run on nothing in particular."""
    recipe = {"name": "auto", "phases": [{"learns": "head"}]}
    return start_run(name, Path("data"), "abc123", recipe, Path(output), Progress())


def test_a_run_is_remembered_with_all_its_facts(tmp_path: Path) -> None:
    """What was started and what came of it can be listed afterwards."""
    run = start()
    [facts] = list_runs()
    assert facts == run.facts
    assert facts.state == "running"
    assert facts.pid == os.getpid()
    run.finish("done", ACCURACY, 12.5)
    [facts] = list_runs()
    assert facts.id == run.facts.id
    assert facts.data == str(tmp_path / "data")
    assert facts.output == str(tmp_path / "out.tellapart")
    assert (facts.name, facts.fingerprint) == ("flowers", "abc123")
    assert facts.recipe == {"name": "auto", "phases": [{"learns": "head"}]}
    assert (facts.state, facts.accuracy, facts.seconds) == ("done", ACCURACY, 12.5)


def test_only_a_run_that_is_done_loses_its_checkpoints(folder: Path) -> None:
    """What was stopped or failed can go on; what is done needs no checkpoint, but a history."""
    for state, left in (("stopped", True), ("failed", True), ("done", False)):
        run = start()
        assert run.checkpoint and run.best and run.history
        for file in (run.checkpoint, run.best, run.history):
            assert file.parent == folder / run.facts.id
            file.write_bytes(b"x")
        run.finish(state, None, 1.0)
        assert run.checkpoint.exists() is run.best.exists() is left
        assert run.history.exists()


def test_latest_run_comes_first() -> None:
    """Runs of the same second keep their order, too."""
    names = [f"run {i}" for i in range(5)]
    for name in names:
        start(name).finish("done", None, 1.0)
    assert [facts.name for facts in list_runs()] == names[::-1]


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b", "向日葵", "x" * 300, "", "NUL\0", "<told> apart"]
)
def test_any_name_makes_a_folder_inside_the_runs(folder: Path, name: str) -> None:
    """A name cannot lead elsewhere, and is remembered as it was given."""
    run = start(name)
    assert run.facts.folder is not None
    assert run.facts.folder.parent == folder
    assert run.facts.folder.is_dir()
    [facts] = list_runs()
    assert facts.name == name


def test_path_in_another_encoding_is_remembered() -> None:
    """A folder whose name is no UTF-8 does not keep a run from being written and found."""
    output = os.fsdecode(b"caf\xe9.tellapart")
    run = start(output=output)
    run.finish("stopped", None, 1.0)
    found = find_unfinished(Path(output), Progress())
    assert found is not None
    assert found.facts.id == run.facts.id


def test_killed_run_is_interrupted_and_can_go_on() -> None:
    """While its process lives a run cannot be taken up by another; once it is killed, it can."""
    process = subprocess.Popen(
        [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        [facts] = list_runs()
        assert (facts.id, facts.state, facts.pid) == (name, "running", process.pid)
        found = find_unfinished(Path("out.tellapart"), Progress())
        assert found is not None
        with pytest.raises(
            CannotResume, match=f"{name} is being worked on by process {process.pid}"
        ):
            found.resume()
        forget(facts)
        assert len(list_runs()) == 1
    finally:
        process.kill()
        process.communicate()
    [facts] = list_runs()
    assert facts.state == "interrupted"
    found = find_unfinished(Path("out.tellapart"), Progress())
    assert found is not None
    found.resume()
    assert found.checkpoint is not None
    assert found.checkpoint.read_bytes() == b"weights"
    [facts] = list_runs()
    assert (facts.state, facts.pid) == ("running", os.getpid())
    found.finish("done", ACCURACY, 3.0)
    assert find_unfinished(Path("out.tellapart"), Progress()) is None


def test_a_run_is_taken_up_once_inside_a_process() -> None:
    """Two parts of one process cannot go on with the same run either."""
    start().finish("stopped", None, 1.0)
    first = find_unfinished(Path("out.tellapart"), Progress())
    second = find_unfinished(Path("out.tellapart"), Progress())
    assert first and second
    first.resume()
    with pytest.raises(CannotResume):
        second.resume()
    first.finish("stopped", None, 1.0)
    second.resume()


def test_latest_unfinished_run_of_the_same_output_is_found() -> None:
    """Runs for other files and runs that are done are passed over."""
    start("old").finish("failed", None, 1.0)
    wanted = start("wanted")
    wanted.finish("stopped", None, 1.0)
    start("other", "other.tellapart").finish("stopped", None, 1.0)
    start("done").finish("done", ACCURACY, 1.0)
    found = find_unfinished(Path.cwd() / "sub" / ".." / "out.tellapart", Progress())
    assert found is not None
    assert found.facts == wanted.facts
    assert find_unfinished(Path("third.tellapart"), Progress()) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"name": "x"}', '{"state": "odd"}', "\udcff", "null"]
)
def test_broken_folders_are_left_out(folder: Path, text: str) -> None:
    """A listing shows the runs that can be read, whatever else lies there."""
    run = start()
    broken = folder / "20260101-000000-broken-0000"
    broken.mkdir()
    (broken / "run.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    (folder / "empty").mkdir()
    (folder / "file").touch()
    assert [facts.id for facts in list_runs()] == [run.facts.id]


@pytest.mark.parametrize(("key", "value"), [("state", "odd"), ("started", 3), ("name", None)])
def test_nonsense_in_a_run_is_left_out(key: str, value: object) -> None:
    """A run whose file was changed into nonsense is not listed."""
    run = start()
    assert run.facts.folder is not None
    file = run.facts.folder / "run.json"
    stored = json.loads(file.read_text("utf-8"))
    stored.pop(key)
    file.write_text(json.dumps(stored if value is None else stored | {key: value}))
    assert list_runs() == []


def test_facts_of_a_later_version_do_no_harm() -> None:
    """A run with facts that this version does not know is listed by those it knows."""
    run = start()
    assert run.facts.folder is not None
    file = run.facts.folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"later": 1}))
    assert list_runs() == [run.facts]


def test_unwritable_place_is_said_once_and_ends_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a folder for it the run has no files, and all its methods still work."""
    folder.write_text("a file stands where the folder should be")
    run = start()
    assert (run.facts.folder, run.history, run.checkpoint, run.best) == (None, None, None, None)
    run.finish("done", ACCURACY, 1.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "set TELLAPART_RUNS to another folder. The training goes on" in said
    assert run.facts.state == "done"
    assert list_runs() == []


def test_full_disk_leaves_no_half_of_a_run(
    folder: Path,
    limited_file_size: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where run.json cannot be written, its folder goes again."""
    with limited_file_size(100):
        run = start()
    assert run.facts.folder is None
    assert list(folder.iterdir()) == []
    assert "could not be resumed" in capsys.readouterr().err


def test_run_that_cannot_be_finished_on_disk_says_so(
    limited_file_size: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A disk that is full at the end loses the outcome, not the training."""
    run = start()
    with limited_file_size(100):
        run.finish("done", ACCURACY, 1.0)
    assert "run.json could not be written" in capsys.readouterr().err
    assert run.facts.state == "done"


def test_oldest_runs_that_are_done_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest go, but none that could still go on."""
    monkeypatch.setattr(runs, "KEPT_RUNS", 3)
    start("stopped").finish("stopped", None, 1.0)
    for i in range(5):
        start(f"{i}").finish("done", None, 1.0)
    assert [facts.name for facts in list_runs()] == ["4", "3", "2", "stopped"]


def test_forgotten_run_is_gone(folder: Path) -> None:
    """Forgetting a run deletes its folder with the checkpoint."""
    run = start()
    assert run.checkpoint is not None
    run.checkpoint.write_bytes(b"x")
    run.finish("stopped", None, 1.0)
    forget(run.facts)
    assert list(folder.iterdir()) == []


def test_runs_lie_in_the_usual_place_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable they lie with the user's data, not in the cache that may be emptied."""
    monkeypatch.delenv("TELLAPART_RUNS")
    assert runs_folder().parts[-2:] == ("tellapart", "runs")
    assert "cache" not in str(runs_folder()).lower()
