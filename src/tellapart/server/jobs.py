"""Work that takes seconds to minutes, in processes of its own: one at a time, bounded in time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from tellapart.server.refusing import Refused

State = Literal["running", "done", "failed", "stopped"]
# Of one that is kept to be told: lines of progress, characters of a line.
LINES, LINE = 40, 2000
# Jobs whose end is remembered.
REMEMBERED = 100


@dataclass
class Job:
    """One run of a tellapart command. result: what it printed as JSON; error: why it failed."""

    name: str
    process: subprocess.Popen[str]
    limit_s: float
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    state: State = "running"
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    result: dict[str, Any] | None = None
    error: str | None = None
    exit_code: int | None = None


class Jobs:
    """Runs tellapart commands, one after the other; two at once would only slow the answers."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._closed = False

    def of(self, name: str) -> Job | None:
        """Return the last job of that name."""
        return self._jobs.get(name)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        limit_s: float,
        ended: Callable[[Job], None] | None = None,
    ) -> Job:
        """Start a command, with --json; ended is told when it has.

        Raises:
            Refused: 409 another one runs, 503 the server ends.
        """
        with self._lock:
            running = next((job for job in self._jobs.values() if job.state == "running"), None)
            if running is not None:
                what = "Something is being learned already; one at a time. Wait until it has ended."
                raise Refused(409, "busy_learning", what, {"Retry-After": "5"})
            if self._closed:
                raise Refused(503, "ending", "The server is about to end.")
            # Behind the answers to requests. -P: nothing in the current folder is imported.
            gentle = ["nice", "-n", "5"] if shutil.which("nice") else []
            process = subprocess.Popen(
                [*gentle, sys.executable, "-P", "-m", "tellapart", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # A group of its own, so that what it starts ends with it.
                start_new_session=True,
            )
            job = Job(name, process, limit_s)
            self._jobs.pop(name, None)
            self._jobs[name] = job
            while len(self._jobs) > REMEMBERED:
                del self._jobs[next(iter(self._jobs))]
        threading.Thread(target=_follow, args=(job, ended), name="job", daemon=True).start()
        return job

    def stop(self, name: str) -> None:
        """End a job of that name, if one runs."""
        job = self._jobs.get(name)
        if job is not None and job.state == "running":
            _kill(job)

    def forget(self, name: str) -> None:
        """End a job, and remember nothing of it."""
        self.stop(name)
        self._jobs.pop(name, None)

    def close(self) -> None:
        """End what runs, and start nothing any more."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs.values())
        for job in jobs:
            if job.state == "running":
                _kill(job)
                with suppress(subprocess.TimeoutExpired):
                    job.process.wait(10)


def _follow(job: Job, ended: Callable[[Job], None] | None) -> None:
    """Read what a process says, until it ends or its time is over."""
    process = job.process
    told = threading.Thread(target=_read_lines, args=(job,), daemon=True)
    told.start()
    out: list[str] = []
    reader = threading.Thread(target=lambda: out.append(process.stdout.read()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    until = time.monotonic() + job.limit_s
    late = False
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        late = True
        _kill(job)
        process.wait()
    told.join(5)
    reader.join(5)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    job.exit_code = process.returncode
    with suppress(ValueError):
        job.result = json.loads(out[0]) if out else None
    job.ended = datetime.now(UTC)
    if late:
        job.error = f"It took more than {job.limit_s:g} s, and was ended."
    elif process.returncode:
        job.error = _last_words(job)
    job.state = "stopped" if process.returncode < 0 else "failed" if process.returncode else "done"
    if ended is not None:
        ended(job)


def _read_lines(job: Job) -> None:
    for line in job.process.stderr or ():
        if line.strip():
            job.lines.append(line.rstrip()[:LINE])


def _last_words(job: Job) -> str:
    """Return the paragraph that a failed command ends with."""
    if job.exit_code is not None and job.exit_code < 0:
        return "It was ended before it was done."
    last = job.lines[-1] if job.lines else ""
    return last.removeprefix("tellapart: ") or f"It ended with exit code {job.exit_code}."


def _kill(job: Job) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, signal.SIGKILL)
