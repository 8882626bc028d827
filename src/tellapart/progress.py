"""What is told while work goes on: lines and progress bars, on standard error only.

Standard output belongs to results, so that `--json` can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tellapart.hiding import without_secrets

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# Shorter work needs no bar: it would only flicker.
BAR_AFTER_S = 2.0


@dataclass
class Progress:
    """Tells the user how far things are; quiet where nobody looks.

    `level`: "quiet" says nothing; "normal" says one line a stage and shows bars on a terminal;
    "verbose" adds details. `seconds` collects how long each named stage took.
    """

    level: Literal["quiet", "normal", "verbose"] = "normal"
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def shows_bars(self) -> bool:
        """Whether anybody looks at bars, so that counting for their sake is worth it."""
        return self.level != "quiet" and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Tell one line, unless quiet."""
        if self.level != "quiet":
            print(without_secrets(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Tell one line when asked to be verbose."""
        if self.level == "verbose":
            print(without_secrets(text), file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage: its wall-clock time is added to `seconds[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            self.detail(f"  {name}: {taken:.1f} s")

    @contextmanager
    def bar(self, what: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Show a bar with rate and time left once the work has lasted BAR_AFTER_S seconds.

        Yields a function to call with the number of units just done.
        """
        if not self.shows_bars:
            yield lambda _: None
            return
        bar = _LateBar(what, total, unit)
        try:
            yield bar.advance
        finally:
            bar.close()


class _LateBar:
    """A progress bar that stays invisible until the work proves to be long."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = time.perf_counter()
        self._done = 0
        self._bar: RichProgress | None = None

    def advance(self, n: int) -> None:
        self._done += n
        passed = time.perf_counter() - self._start
        if self._bar is None and passed >= BAR_AFTER_S:
            self._bar = self._open()
        if self._bar is not None:
            rate = f"{self._done / passed:,.0f} {self._unit}/s"
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=rate)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _open(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            # Results printed meanwhile go above the bar, but only where they are looked at: rich
            # would send those meant for a file or a pipe to the terminal, too.
            redirect_stdout=sys.stdout.isatty(),
        )
        bar.add_task(self._what, total=self._total, rate="")
        bar.start()
        return bar
