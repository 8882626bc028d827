"""Where trainings are remembered: what was asked, how far it got, what came of it. Needs no torch.

Each run has a folder of its own, `<UTC time>-<name>-<4 hex digits>`, with `run.json`, the history,
and the checkpoint that an interrupted one goes on from.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tellapart.errors import CannotResume, OutputError
from tellapart.files import output_error, write_atomically
from tellapart.hiding import without_secrets
from tellapart.progress import Progress

if TYPE_CHECKING:
    from filelock import FileLock

KEPT_RUNS = 200
ELSEWHERE_RUNS = "set TELLAPART_RUNS to another folder"

State = Literal["running", "done", "failed", "stopped", "interrupted"]


@dataclass(frozen=True)
class RunFacts:
    """What is known of one run.

    Attributes:
        folder: None where the run could not be remembered.
        name: for people. data: root of the pictures. fingerprint: of the pictures and labels.
        recipe: the settings, as `Recipe.facts` gives them. output: the file it makes.
        started: ISO date and time, UTC. pid: of the process that works on it, or did last.
        state: "running"; "done"; "failed": ended by an error; "stopped": by the user;
            "interrupted": its process is gone and could not say so.
        accuracy: of the classifier that was made, None where nothing scored it.
        seconds: that it took; None until it has ended.
    """

    folder: Path | None
    name: str
    data: str
    fingerprint: str
    recipe: Mapping[str, Any]
    output: str
    started: str
    pid: int
    state: State
    accuracy: Mapping[str, Any] | None = None
    seconds: float | None = None

    @property
    def id(self) -> str:
        """Name of the run's folder, empty where it has none."""
        return self.folder.name if self.folder else ""


class Run:
    """A run and its files; None for each where it cannot be remembered.

    The lock, not the process's number, says whether a run is being worked on: the system lets go
    of it whatever way the process ends, while numbers come again, in containers at once.
    """

    def __init__(self, facts: RunFacts, progress: Progress) -> None:
        self.facts = facts
        self._progress = progress
        self._lock = _lock(facts.folder) if facts.folder else None

    @property
    def history(self) -> Path | None:
        """The file for `History`."""
        return self._file("history.jsonl")

    @property
    def checkpoint(self) -> Path | None:
        """The file for the state to go on from."""
        return self._file("checkpoint.safetensors")

    @property
    def best(self) -> Path | None:
        """The file for the best weights so far."""
        return self._file("best.safetensors")

    def resume(self) -> None:
        """Take up an earlier run: from here on it is this process that works on it.

        Raises:
            CannotResume: it is being worked on already.
            DiskFull, NotWritable: its folder may not be written.
        """
        self._hold()
        self._write(replace(self.facts, state="running", pid=os.getpid(), seconds=None))

    def finish(
        self,
        state: Literal["done", "failed", "stopped"],
        accuracy: Mapping[str, Any] | None,
        seconds: float,
    ) -> None:
        """Write how the run ended; one that is done needs its checkpoints no more."""
        self._write(replace(self.facts, state=state, accuracy=accuracy, seconds=seconds))
        if state == "done":
            for file in self.facts.folder.glob("*.safetensors") if self.facts.folder else ():
                _remove(file)
        if self._lock is not None:
            self._lock.release()

    def _file(self, name: str) -> Path | None:
        return self.facts.folder / name if self.facts.folder else None

    def _hold(self) -> None:
        """Take the lock, or say who has it."""
        if self._lock is None or self.facts.folder is None:
            return
        try:
            self._lock.acquire(blocking=False)
        except TimeoutError as error:
            raise CannotResume(
                f"The run {self.facts.id} is being worked on by process {self.facts.pid}, and only "
                f"one can. Nothing was changed. Wait until that one has ended, or stop it."
            ) from error
        except OSError as error:
            raise output_error(self.facts.folder, error, ELSEWHERE_RUNS) from error

    def _write(self, facts: RunFacts) -> None:
        self.facts = facts
        try:
            _write_facts(facts)
        except OutputError as error:
            self._progress.say(f"{error} What the run makes is not touched by this.")


def runs_folder() -> Path:
    """Return the folder of the runs: $TELLAPART_RUNS, or this system's usual place."""
    set_by_user = os.environ.get("TELLAPART_RUNS")
    if set_by_user:
        return Path(set_by_user)
    import platformdirs

    return platformdirs.user_data_path("tellapart", appauthor=False) / "runs"


def start_run(
    name: str,
    data: Path,
    fingerprint: str,
    recipe: Mapping[str, Any],
    output: Path,
    progress: Progress,
) -> Run:
    """Make the folder of a new run, and forget the oldest ones beyond `KEPT_RUNS`.

    Where nothing can be written this is said once, and the run has no folder: the training goes
    on, but cannot be listed, nor resumed after an interruption.
    """
    now = datetime.now(UTC)
    word = re.sub(r"\W+", "-", name).strip("-")[:40] or "run"
    folder = runs_folder() / f"{now:%Y%m%d-%H%M%S}-{word}-{secrets.token_hex(2)}"
    facts = RunFacts(
        folder=folder,
        name=name,
        data=str(data.resolve()),
        fingerprint=fingerprint,
        recipe=recipe,
        output=str(output.resolve()),
        started=now.isoformat(timespec="microseconds"),
        pid=os.getpid(),
        state="running",
    )
    run = Run(facts, progress)
    try:
        _make(folder)
        run._hold()
        _write_facts(facts)
    except OutputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        progress.say(f"{error} The training goes on, but could not be resumed.")
        return Run(replace(facts, folder=None), progress)
    _forget_oldest()
    return run


def list_runs() -> list[RunFacts]:
    """Return what is known of each run, the latest first; what cannot be read is left out."""
    try:
        folders = list(runs_folder().iterdir())
    except OSError:
        return []
    runs = [facts for folder in folders if (facts := _read_facts(folder))]
    return sorted(runs, key=lambda facts: facts.started, reverse=True)


def find_unfinished(output: Path, progress: Progress) -> Run | None:
    """Return the latest run for this output that is not done; None if there is none.

    One that is still being worked on is returned, too; its `resume` refuses.
    """
    wanted = str(output.resolve())
    for facts in list_runs():
        if facts.output == wanted and facts.state != "done":
            return Run(facts, progress)
    return None


def forget(facts: RunFacts) -> None:
    """Delete the folder of a run with all that is in it, unless it is being worked on."""
    if facts.folder is not None and not _is_held(facts.folder):
        shutil.rmtree(facts.folder, ignore_errors=True)


def _forget_oldest() -> None:
    for facts in list_runs()[KEPT_RUNS:]:
        if facts.state == "done":
            forget(facts)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise output_error(folder, error, ELSEWHERE_RUNS) from error


def _lock(folder: Path) -> FileLock:
    from filelock import FileLock

    # A run may be finished by another thread than the one that started it.
    return FileLock(folder / "lock", thread_local=False)


def _is_held(folder: Path) -> bool:
    """Tell whether a run is being worked on, as far as that can be seen."""
    lock = _lock(folder)
    if not (folder / "lock").exists():
        return False
    try:
        lock.acquire(blocking=False)
    except OSError:
        return True
    lock.release()
    return False


def _write_facts(facts: RunFacts) -> None:
    if facts.folder is None:
        return
    stored = {key: value for key, value in vars(facts).items() if key != "folder"}
    text = without_secrets(json.dumps(stored, indent=1))
    write_atomically(facts.folder / "run.json", text, ELSEWHERE_RUNS)


def _read_facts(folder: Path) -> RunFacts | None:
    """Read what a run's folder says of it; None if that makes no sense."""
    names = {field.name for field in fields(RunFacts)} - {"folder"}
    try:
        stored = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        facts = RunFacts(folder, **{key: stored[key] for key in names & stored.keys()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if facts.state not in get_args(State) or not isinstance(facts.started, str):
        return None
    if facts.state == "running" and not _is_held(folder):
        return replace(facts, state="interrupted")
    return facts


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        # It only takes room, and goes with the run's folder.
        return
