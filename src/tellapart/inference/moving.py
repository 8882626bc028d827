"""Carry a plan out, and take it back: every step is in a journal on disk before it is done.

The journal is a file of JSON lines in the sorted folder: a head (how, from where, when), the times
and contents of every folder that will change, the folders to be made, and the files in groups.
Each group is written and synced, then done. So whatever the moment of a kill, the journal names
everything that may have happened; what did happen is seen from the files themselves.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import json
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeAlias

from tellapart.data.catalog import SetAside
from tellapart.errors import DiskFull, NothingToUndo, NotWritable, SortRefused
from tellapart.files import output_error
from tellapart.inference.sorting import JOURNALS, Plan, Step
from tellapart.progress import Progress
from tellapart.stores import place

# The format of journals. A later version reads this one; what it changes gets the next number.
FORMAT = 1

# Files a group: one sync each. A kill leaves at most so many steps written and not done.
GROUP = 64

# File systems of cameras keep times to two seconds; copies on them differ by that much.
_COARSE_NS = 2_000_000_000

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Line: TypeAlias = dict[str, Any]


@dataclass
class Outcome:
    """What was done. left: what stayed where it was, and why; nothing there was changed."""

    n_done: int = 0
    left: list[SetAside] = field(default_factory=list)
    n_earlier: int = 0  # sorts into the same folder that are still to be undone

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "n_done": self.n_done,
            "left": [asdict(one) for one in self.left],
            "n_earlier": self.n_earlier,
        }


def apply(plan: Plan, progress: Progress | None = None, outcome: Outcome | None = None) -> Outcome:
    """Carry out a plan. `undo` of its folder takes everything back, at any time from now on.

    A file that cannot be moved stays where it is and is told in `left`. Nothing is overwritten or
    deleted. Files keep their times and permissions, on another file system too.

    outcome: counted in as it goes on, for who wants to know after an interruption.

    Raises:
        DiskFull, NotWritable: what was done until then stays done, and is in the journal.
        SortRefused: hard links into another file system.
    """
    outcome = outcome if outcome is not None else Outcome()
    progress = progress or Progress("quiet")
    if not plan.steps:
        return outcome
    with _Journal(plan) as journal, progress.bar("Sorting", len(plan.steps), "files") as advance:
        steps = iter(plan.steps)
        while group := list(islice(steps, GROUP)):
            jobs = []
            for step in group:
                try:
                    jobs.append(_job(plan, step))
                except OSError as error:
                    outcome.left.append(SetAside(step.source, _reason(error)))
            journal.write(jobs)
            for number, job in enumerate(jobs, start=outcome.n_done + len(outcome.left)):
                try:
                    _do(plan, job, journal.temporary(number))
                    outcome.n_done += 1
                except OSError as error:
                    _stop_if_hopeless(plan, job, error)
                    outcome.left.append(SetAside(_source(plan.gallery, job), _reason(error)))
            advance(len(group))
        journal.write([{"end": True}])
    return outcome


def undo(into: str | Path, progress: Progress | None = None) -> Outcome:
    """Take back the last sort into a folder: files, folders and their times are as before.

    What was changed, moved or put in the way since then is left as it is and told in `left`; the
    journal then stays, and `undo` can be repeated. It may itself be stopped at any moment; only a
    kill while the emptied folder vanishes, its very last act, costs the time of the folder above.

    Raises:
        NothingToUndo: there is no journal, or it cannot be read.
    """
    progress = progress or Progress("quiet")
    into = place(into).absolute()
    journals = _journals(into)
    if not journals and not (into / JOURNALS).is_dir():
        raise NothingToUndo(
            f"There is no journal of a sort in {into}. Expected the folder that was given to "
            f"`tellapart sort … --into`. Nothing was changed. Check the path."
        )
    last = journals[-1] if journals else into / JOURNALS / "none"
    outcome = Outcome(n_earlier=max(0, len(journals) - 1))
    if lines := _read(last) if journals else []:
        _Undoing(into, lines, outcome, progress).run(last)
    else:
        # Killed before the first line was whole, or when the last undo was about to end.
        _forget(last, into, made=True)
    return outcome


def folder_times(path: Path) -> Line:
    """Return a folder's times, and a hash of the names in it: whether it changed since."""
    facts = path.stat()
    return {
        "atime_ns": facts.st_atime_ns,
        "mtime_ns": facts.st_mtime_ns,
        "names": _hash_of_names(path),
    }


class _Journal:
    """The journal of one sort, open for writing: every line is on disk before `write` returns."""

    def __init__(self, plan: Plan) -> None:
        into = plan.into
        head, lines = _before(plan)
        try:
            # Until the journal knows their times, a kill must not lose them.
            if head["made"]:
                with _same_times(into.parent):
                    into.mkdir()
            with _same_times(into):
                (into / JOURNALS).mkdir(exist_ok=True)
            last = _journals(into)
            number = int(last[-1].stem.partition("-")[2]) + 1 if last else 1
            path = into / JOURNALS / f"sort-{number:04d}.jsonl"
            self._file: BinaryIO = path.open("xb", buffering=0)
            self._path, self._run = path, head["run"]
            self.write([head])
            os.utime(into.parent if head["made"] else into)
            _sync_folder(path.parent)
            _sync_folder(into)
            self.write(lines)
            for line in lines:
                if "make" in line:
                    (into / line["make"]).mkdir(exist_ok=True)
        except OSError as error:
            raise output_error(into, error, "choose another --into") from error

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def temporary(self, number: int) -> str:
        """Return the name of a file being copied: known to belong to this sort."""
        return f".tellapart-{self._run}-{number}.part"

    def write(self, lines: Iterable[Line]) -> None:
        """Append lines and wait until they are on disk."""
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Half a line at the end counts for nothing, and its steps were not begun.
            raise _stopped(self._path.parents[1], error) from error


def _before(plan: Plan) -> tuple[Line, list[Line]]:
    """Describe, before anything is touched, every folder that the plan will change."""
    into, gallery = plan.into, plan.gallery
    head = {
        "format": FORMAT,
        "run": secrets.token_hex(4),
        "how": plan.how,
        "gallery": str(gallery),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "made": not into.exists(),
        "parent": folder_times(into.parent),
        "folder": folder_times(into) if into.exists() else None,
    }
    lines: list[Line] = []
    if plan.how == "move":
        folders = {str(Path(step.source).parent) for step in plan.steps}
        lines += [
            {"times": os.path.relpath(one, gallery), "at": "gallery"} | folder_times(Path(one))
            for one in sorted(folders)
            if Path(one) != into.parent
        ]
    needed = {
        str(one)
        for step in plan.steps
        for one in PurePosixPath(step.target).parents
        if str(one) != "."
    }
    for one in sorted(needed):
        if (into / one).is_dir():
            lines.append({"times": one, "at": "into"} | folder_times(into / one))
        else:
            lines.append({"make": one})
    return head, lines


def _job(plan: Plan, step: Step) -> Line:
    """Describe one step, with what its file is now, so that it is known again."""
    facts = os.stat(step.source, follow_symlinks=plan.how != "move")
    if os.path.lexists(plan.into / step.target):
        raise FileExistsError(errno.EEXIST, "its place was taken since the plan was made")
    line = {
        "from": os.path.relpath(step.source, plan.gallery),
        "to": step.target,
        "size": facts.st_size,
        "atime_ns": facts.st_atime_ns,
        "mtime_ns": facts.st_mtime_ns,
        "inode": [facts.st_dev, facts.st_ino],
    }
    if plan.how == "symlink":
        line["link"] = os.path.realpath(step.source)
    return line


def _do(plan: Plan, job: Line, temporary: str) -> None:
    source = _source(plan.gallery, job)
    target = str(plan.into / job["to"])
    if plan.how == "move":
        move_file(source, target, temporary)
    elif plan.how == "copy":
        copy_file(source, target, temporary)
    elif plan.how == "hardlink":
        # Not to the link that it may be reached through: beside another folder that leads nowhere.
        os.link(os.path.realpath(source), target)
    else:
        os.symlink(job["link"], target)


def move_file(source: str, target: str, temporary: str) -> None:
    """Move a file to a name that is free; to another file system by copying, then unlinking.

    temporary: the name, in the target's folder, under which a copy is made.

    Raises:
        OSError: the file is where it was, and whole.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "its place was taken since the plan was made")
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_file(source, target, temporary)
        _sync_folder(Path(target).parent)
        os.unlink(source)


def copy_file(source: str, target: str, temporary: str) -> None:
    """Copy a file with times, permissions and attributes, to a name that is free.

    It gets its name when it is whole, on disk, and was read back the same.

    Raises:
        OSError: there is no half a file.
    """
    part = str(Path(target).parent / temporary)
    try:
        with open(source, "rb") as original, open(part, "xb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        facts = os.stat(source)
        with contextlib.suppress(OSError):  # Only root may give a file away.
            os.chown(part, facts.st_uid, facts.st_gid)
        shutil.copystat(source, part)
        if not filecmp.cmp(source, part, shallow=False):
            raise OSError(errno.EIO, "the copy differs from it when read back")
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "its place was taken since the plan was made")
        os.rename(part, target)
    finally:
        if os.path.lexists(part):
            os.unlink(part)


class _Undoing:
    """The way back through one journal. Each step looks at what is there, so it can be repeated."""

    def __init__(self, into: Path, lines: list[Line], outcome: Outcome, progress: Progress) -> None:
        self._into, self._lines = into, lines[1:]
        self._head, self._outcome, self._progress = lines[0], outcome, progress
        self._gallery = Path(self._head["gallery"])

    def run(self, journal: Path) -> None:
        """Bring files back, remove what was made, restore times, and forget the journal."""
        jobs = [line for line in self._lines if "from" in line]
        self._sweep(jobs)
        back = self._bring_back if self._head["how"] == "move" else self._remove_copy
        with self._progress.bar("Undoing", len(jobs), "files") as advance:
            for number in reversed(range(len(jobs))):
                job = jobs[number]
                try:
                    reason = back(job, number)
                except OSError as error:
                    reason = _reason(error)
                if reason:
                    where = str(self._into / job["to"])
                    self._outcome.left.append(SetAside(where, reason))
                advance(1)
        for line in reversed(self._lines):
            if "make" in line:
                with contextlib.suppress(OSError):  # Not empty: someone else's things are in it.
                    (self._into / line["make"]).rmdir()
        for line in self._lines:
            if "times" in line:
                root = self._gallery if line["at"] == "gallery" else self._into
                _restore_times(root / line["times"], line)
        # Before the journal goes: a kill after that finds their times right, and keeps them.
        if self._head["folder"]:
            _restore_times(self._into, self._head["folder"])
        made = self._head["made"]
        _restore_times(self._into.parent, self._head["parent"], self._into.name if made else "")
        if not self._outcome.left:
            _forget(journal, self._into, made)

    def _bring_back(self, job: Line, number: int) -> str | None:
        """Move one file back; say why not, or None."""
        source, target = _source(self._gallery, job), str(self._into / job["to"])
        there, back = _state(target, job), _state(source, job)
        if there != "as it was":
            if back in ("as it was", "edited"):
                return None  # Never begun, or brought back already.
            return "was changed since it was sorted" if there != "missing" else "is no longer there"
        if back == "as it was" and filecmp.cmp(source, target, shallow=False):
            os.unlink(target)  # A copy that had not replaced it yet.
        elif back != "missing":
            return f"cannot go back: {source} is another file"
        else:
            os.makedirs(Path(source).parent, exist_ok=True)
            move_file(target, source, f".tellapart-{self._head['run']}-{number}.part")
            os.utime(source, ns=(job["atime_ns"], job["mtime_ns"]), follow_symlinks=False)
        self._outcome.n_done += 1
        return None

    def _remove_copy(self, job: Line, _: int) -> str | None:
        """Remove a copy or link that the sort made, if it still is one; say why not, or None."""
        source, target = _source(self._gallery, job), str(self._into / job["to"])
        if not os.path.lexists(target):
            return None
        if self._head["how"] == "symlink":
            ours = os.path.islink(target) and os.readlink(target) == job["link"]
        elif not os.path.exists(source):
            return "stays: the file it was made from is gone"
        elif self._head["how"] == "hardlink":
            ours = not os.path.islink(target) and os.path.samefile(source, target)
        else:
            same = _state(target, job) == "as it was"
            ours = same and filecmp.cmp(source, target, shallow=False)
        if not ours:
            return "was changed since it was sorted, or the file it was made from was"
        os.unlink(target)
        self._outcome.n_done += 1
        return None

    def _sweep(self, jobs: list[Line]) -> None:
        """Remove half copies that a kill left, of this way back too: their names are needed."""
        folders = {Path(_source(self._gallery, job)).parent for job in jobs}
        folders |= {(self._into / job["to"]).parent for job in jobs}
        for folder in folders:
            with contextlib.suppress(OSError):
                for part in folder.glob(f".tellapart-{self._head['run']}-*.part"):
                    part.unlink()


def _state(path: str, job: Line) -> Literal["missing", "as it was", "edited", "another"]:
    """Say what lies at a path: the file that the journal means, unchanged or not, or another one.

    A copy has another inode, and on some file systems coarser times.
    """
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return "missing"
    same = [facts.st_dev, facts.st_ino] == job["inode"]
    apart_ns = abs(facts.st_mtime_ns - job["mtime_ns"])
    if (
        stat.S_ISREG(facts.st_mode)
        and facts.st_size == job["size"]
        and apart_ns <= (0 if same else _COARSE_NS)
    ):
        return "as it was"
    return "edited" if same else "another"


def _journals(into: Path) -> list[Path]:
    return sorted((into / JOURNALS).glob("sort-*.jsonl"))


def _read(journal: Path) -> list[Line]:
    """Read the whole lines of a journal; half a line at its end was never acted on.

    Raises:
        NothingToUndo: it is damaged, or of a later format.
    """
    try:
        data = journal.read_bytes()
        lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
    except (OSError, ValueError) as error:
        raise NothingToUndo(
            f"The journal {journal} cannot be read: {error}. Expected the lines that `tellapart "
            f"sort` wrote. Nothing was changed. Restore it from a copy, or move the files by hand."
        ) from error
    if lines and lines[0].get("format") != FORMAT:
        raise NothingToUndo(
            f"The journal {journal} has format {lines[0].get('format')}; this version reads "
            f"{FORMAT}. Nothing was changed. Undo with the version that sorted."
        )
    return lines


def _forget(journal: Path, into: Path, made: bool) -> None:
    """Remove a journal that is done with, and the folders that held it where they are empty.

    The times of those around stay as they are.
    """
    journal.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Not empty: earlier journals, or somebody's files.
        with _same_times(into):
            journal.parent.rmdir()
        if made:
            with _same_times(into.parent):
                into.rmdir()


@contextlib.contextmanager
def _same_times(folder: Path) -> Iterator[None]:
    facts = folder.stat()
    yield
    os.utime(folder, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _restore_times(folder: Path, line: Line, without: str = "") -> None:
    """Give a folder its times back, if it holds what it held: else they tell something new."""
    with contextlib.suppress(OSError):
        if _hash_of_names(folder, without) == line["names"]:
            os.utime(folder, ns=(line["atime_ns"], line["mtime_ns"]))


def _hash_of_names(folder: Path, without: str = "") -> str:
    left_out = (JOURNALS, without)
    names = sorted(os.fsencode(name) for name in os.listdir(folder) if name not in left_out)
    return hashlib.blake2b(b"\0".join(names), digest_size=16).hexdigest()


def _source(gallery: Path, job: Line) -> str:
    return str(os.path.normpath(gallery / job["from"]))


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder outlast a power cut, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: OSError) -> str:
    return f"stays: {error.strerror or error}"


def _stop_if_hopeless(plan: Plan, job: Line, error: OSError) -> None:
    """End the run where the next file would fail for the same reason."""
    if error.errno in _FULL:
        raise _stopped(plan.into, error) from error
    if error.errno == errno.EXDEV and plan.how == "hardlink":
        raise SortRefused(
            f"{_source(plan.gallery, job)} cannot get a hard link in {plan.into}: they are on "
            f"different file systems. Expected both on one. It was left as it is; `tellapart undo` "
            f"takes back what was linked. Use --how copy or --how symlink."
        ) from error


def _stopped(into: Path, error: OSError) -> DiskFull | NotWritable:
    kind = DiskFull if error.errno in _FULL else NotWritable
    return kind(
        f"Sorting into {into} stopped: {error.strerror or error}. No file is half moved; the "
        f"others are where they were. Make room and give the same command again, or take back what "
        f"was done: tellapart undo {shlex.quote(str(into))}"
    )
