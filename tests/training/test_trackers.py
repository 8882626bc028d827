"""TensorBoard and MLflow can read what a training told them, and nothing leaves the machine."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tellapart.errors import NotWritable
from tellapart.progress import Progress
from tellapart.training.history import EpochRecord, History, StepRecord
from tellapart.training.trackers import open_trackers

# MLflow calls its database library in a way that this library means to end.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EPOCH = EpochRecord(1, 1, 3, 0.4, 0.93, 0.2, 0.95, 4e-4, 4e-3, 8.2, best=True)
STEP = StepRecord(1, 1, 5, 10, 0.9, 0.5)

# Notes every attempt to reach another machine, then does the work of a training's tracker.
WATCHED = """
import atexit, sys
from pathlib import Path
reached = []
atexit.register(lambda: print("reached:", reached))
sys.addaudithook(lambda name, args: reached.append((name, str(args)))
    if name in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") else None)
from tellapart.training.trackers import open_trackers
for tracker in open_trackers(["tensorboard", "mlflow"], "run-1", Path(sys.argv[1])):
    tracker.scalars({"train/loss": 0.5}, 1)
    tracker.close()
"""

WITHOUT = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name.partition(".")[0] == sys.argv[2]
        return None if gone else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from tellapart.errors import MissingExtra
from tellapart.training.trackers import open_trackers
try:
    open_trackers([sys.argv[3]], "run-1", Path(sys.argv[1]))
except MissingExtra as error:
    print(error)
"""


@pytest.fixture(scope="module")
def mlflow_client() -> Any:
    """Return MLflow's own client class, told to report to nobody."""
    for package in ("sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="tellapart[log] is not installed")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    module = pytest.importorskip("mlflow.tracking", reason="tellapart[log] is not installed")
    return module.MlflowClient


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Read TensorBoard's event files: each record is a length, its checksum, data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in folder.glob("events.out.tfevents.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(one.tag, event.step, one.simple_value) for one in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_finds_every_figure(tmp_path: Path) -> None:
    """The event file holds the figures of steps and epochs, and goes on after a resume."""
    pytest.importorskip("tensorboardX", reason="tellapart[log] is not installed")
    history = History(None, Progress("quiet"), open_trackers(["tensorboard"], "run-1", tmp_path))
    history.step(STEP)
    history.epoch(EPOCH)
    history.close()
    [again] = open_trackers(["tensorboard"], "run-1", tmp_path)
    again.scalars({"train/loss": 0.1}, 2)
    again.close()
    found = events(tmp_path / "tensorboard" / "run-1")
    assert {(tag, step): pytest.approx(value) for tag, step, value in found} == {
        ("step/loss", 5): 0.9,
        ("step/accuracy", 5): 0.5,
        ("train/loss", 1): 0.4,
        ("train/accuracy", 1): 0.93,
        ("valid/loss", 1): 0.2,
        ("valid/accuracy", 1): 0.95,
        ("rate/body", 1): 4e-4,
        ("rate/head", 1): 4e-3,
        ("train/loss", 2): 0.1,
    }


@pytest.mark.slow  # MLflow makes its tables
def test_mlflow_finds_every_figure(mlflow_client: Any, tmp_path: Path) -> None:
    """Its client reads the run from the file, and a run that is resumed stays one run."""
    name = """a "run" of '1'"""
    history = History(None, Progress("quiet"), open_trackers(["mlflow"], name, tmp_path))
    history.step(STEP)
    history.epoch(EPOCH)
    [again] = open_trackers(["mlflow"], name, tmp_path)
    again.scalars({"train/loss": 0.1}, 2)
    client = mlflow_client(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    number = client.get_experiment_by_name("tellapart").experiment_id
    [run] = client.search_runs([number])
    assert run.info.run_name == name
    assert run.info.status == "RUNNING"
    again.close()
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    told = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in told] == [(1, 0.4), (2, 0.1)]
    assert run.data.metrics["step/loss"] == 0.9
    assert run.data.metrics["valid/accuracy"] == 0.95
    open_trackers(["mlflow"], "run-2", tmp_path)[0].close()
    assert len(client.search_runs([number])) == 2


@pytest.mark.slow  # MLflow makes its tables
def test_nothing_leaves_the_machine(mlflow_client: Any, tmp_path: Path) -> None:
    """Outside of tests and continuous integration, too, no other machine is looked for."""
    pytest.importorskip("tensorboardX", reason="tellapart[log] is not installed")
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, tmp_path],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout == "reached: []\n", done.stderr
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("package", "name"),
    [("tensorboardX", "tensorboard"), ("mlflow", "mlflow"), ("alembic", "mlflow")],
)
def test_missing_package_is_named_with_its_cure(tmp_path: Path, package: str, name: str) -> None:
    """Without the extra the message says what to install, before anything was written."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path / "runs", package, name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"to {name}, but {package} cannot be found. Nothing was trained." in done.stdout
    assert 'pip install "tellapart[log]"' in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_any_name_stays_inside_the_folder(tmp_path: Path) -> None:
    """A run's name cannot lead TensorBoard's files elsewhere."""
    pytest.importorskip("tensorboardX", reason="tellapart[log] is not installed")
    for name in ("../../out", "a/b", ""):
        open_trackers(["tensorboard"], name, tmp_path / "runs")[0].close()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert len(list((tmp_path / "runs" / "tensorboard").iterdir())) == 3


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    """A recipe without `log` leaves no trace."""
    assert open_trackers([], "run-1", tmp_path / "runs") == []
    assert list(tmp_path.iterdir()) == []


def test_folder_says_how_to_look_at_it(tmp_path: Path) -> None:
    """Beside the records lies the command that shows them."""
    pytest.importorskip("tensorboardX", reason="tellapart[log] is not installed")
    open_trackers(["tensorboard"], "run-1", tmp_path)[0].close()
    text = (tmp_path / "trackers.txt").read_text("utf-8")
    assert f'tensorboard --logdir "{tmp_path / "tensorboard"}"' in text
    assert f'--backend-store-uri "sqlite:///{tmp_path / "mlflow.db"}"' in text


def test_unwritable_place_is_said_with_its_cure(tmp_path: Path) -> None:
    """Who asked for a tracker learns before the training that it cannot write."""
    pytest.importorskip("tensorboardX", reason="tellapart[log] is not installed")
    (tmp_path / "runs").write_text("a file stands where the folder should be")
    with pytest.raises(NotWritable, match="set TELLAPART_RUNS to another folder"):
        open_trackers(["tensorboard"], "run-1", tmp_path / "runs")


def test_file_that_is_no_store_is_left_alone(mlflow_client: Any, tmp_path: Path) -> None:
    """A file of that name that MLflow cannot read is named, not replaced."""
    file = tmp_path / "mlflow.db"
    file.write_text("my own notes")
    with pytest.raises(NotWritable, match=r"file is not a database.*leave mlflow out of"):
        open_trackers(["mlflow"], "run-1", tmp_path)
    assert file.read_text() == "my own notes"
