"""TensorBoard and MLflow as further places that a training's history goes to. Needs no torch.

Both write to this machine only: nothing is sent anywhere, MLflow's report on its own use included.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tellapart.errors import MissingExtra, NotWritable
from tellapart.files import output_error, write_atomically
from tellapart.training.history import Tracker
from tellapart.training.runs import ELSEWHERE_RUNS

Name = Literal["tensorboard", "mlflow"]

# What each needs beyond its own imports; MLflow's own list leaves out what its SQLite store needs.
_PACKAGES: dict[Name, tuple[str, ...]] = {
    "tensorboard": ("tensorboardX",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
_EXPERIMENT = "tellapart"
# A run that was interrupted is looked for among so many of the latest.
RESUMABLE_RUNS = 200


def open_trackers(names: Sequence[Name], run_name: str, folder: Path) -> list[Tracker]:
    """Open the trackers of these names for one run.

    run_name: its own for each run, as `RunFacts.id`; a run that is opened again goes on.
    folder: shared by all runs, so that they can be compared. TensorBoard's events go to
        `folder/tensorboard/<run_name>`, MLflow's figures to `folder/mlflow.db`, and how to look at
        them is written to `folder/trackers.txt`.

    Raises:
        MissingExtra: the packages are not installed.
        DiskFull, NotWritable: the folder may not be written, or holds what the tracker refuses.
    """
    for name in names:
        _require(name)
    if names:
        _describe(folder)
    return [_open(name, run_name, folder) for name in dict.fromkeys(names)]


class TensorBoardTracker:
    """Writes TensorBoard's event files; they are seen within ten seconds."""

    def __init__(self, run_name: str, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        # It would warn of each loss that is no number; the training says so itself.
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        # Its file is named after the second; opened again within it, it would begin anew.
        self._writer = SummaryWriter(
            str(folder / "tensorboard" / _as_file_name(run_name)),
            flush_secs=10,
            filename_suffix=f".{secrets.token_hex(4)}",
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write figures by name, all of the same step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet written."""
        self._writer.close()


class MlflowTracker:
    """Writes to an SQLite file that MLflow reads, in an experiment called "tellapart".

    The file, not $MLFLOW_TRACKING_URI: what a training sees stays on its machine.
    """

    def __init__(self, run_name: str, folder: Path) -> None:
        # Read when mlflow is imported: it reports over the network on its use unless told not to.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        from mlflow.tracking import MlflowClient

        # It would tell of every table it makes.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=_store(folder))
        self._run_id = _run_id(self._client, run_name, folder)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write figures by name, all of the same step."""
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        figures = [Metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=figures)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run_id)


def _as_file_name(run_name: str) -> str:
    return re.sub(r"[^\w-]+", "-", run_name) or "run"


def _run_id(client: Any, run_name: str, folder: Path) -> str:
    """Return MLflow's id of the run of this name, which is made unless there is one."""
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    place = (folder / "mlflow").resolve().as_uri()
    number = (
        experiment.experiment_id if experiment else client.create_experiment(_EXPERIMENT, place)
    )
    # By hand: in a filter a quotation mark inside the name could not be written.
    for run in client.search_runs([number], max_results=RESUMABLE_RUNS):
        if run.info.run_name == run_name:
            client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
    return str(client.create_run(number, run_name=run_name).info.run_id)


def _open(name: Name, run_name: str, folder: Path) -> Tracker:
    try:
        if name == "tensorboard":
            return TensorBoardTracker(run_name, folder)
        return MlflowTracker(run_name, folder)
    except Exception as error:
        # Each library has errors of its own: a file that is no database, or of a later version.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotWritable(
            f"{name} cannot write its records to {folder}: {reason}. Nothing was trained. Move "
            f"what lies there away, {ELSEWHERE_RUNS}, or leave {name} out of the recipe's log."
        ) from error


def _describe(folder: Path) -> None:
    """Say in the folder how to look at it; this also finds out whether it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error, ELSEWHERE_RUNS) from error
    text = (
        f'pip install tensorboard; tensorboard --logdir "{folder / "tensorboard"}"\n'
        f'pip install mlflow; mlflow server --backend-store-uri "{_store(folder)}"\n'
    )
    write_atomically(folder / "trackers.txt", text, ELSEWHERE_RUNS)


def _store(folder: Path) -> str:
    return f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def _require(name: Name) -> None:
    missing = [package for package in _PACKAGES[name] if find_spec(package) is None]
    if missing:
        raise MissingExtra(
            f"The recipe sends its history to {name}, but {' and '.join(missing)} cannot be found. "
            f'Nothing was trained. Install it with: pip install "tellapart[log]"; or leave '
            f"{name} out of the recipe's log."
        )
