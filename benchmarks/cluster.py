"""`predict --engine ray` beside `predict` on one machine: pictures/s, memory, the same answers.

The same --n pictures, JPEGs of 64 px as those of `scale.py`, to CSV, each engine in a process of
its own with its whole start in the time. On one machine a cluster can only cost: the ratio says
what. Memory on Ray is that of all its processes together (proportional set size, each shared page
counted once), sampled twice a second, and so is that of one machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _machine import describe
from _measuring import Figure, options, report, tellapart
from scale import prepare


def memory_mb(token: str) -> float:
    """Sum up the memory of all processes that were started with a token in their environment."""
    total_kb = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (process / "environ").read_bytes():
                text = (process / "smaps_rollup").read_text(encoding="ascii")
                total_kb += next(int(x.split()[1]) for x in text.splitlines() if x[:4] == "Pss:")
        except (OSError, StopIteration):
            continue  # It has ended.
    return total_kb * 1.024e-3


def run(root: Path, n: int, engine: str) -> tuple[float, float, bytes]:
    """Predict; return seconds, the peak of memory in MB, and the CSV."""
    out, token = root / f"{engine}.csv", os.urandom(16).hex()
    out.unlink(missing_ok=True)
    command = tellapart("predict", root / "m.tellapart", root / str(n), "--out", out, torch=False)
    began, peak = time.perf_counter(), 0.0
    # In a file: nobody empties a pipe here.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*map(str, command), "--engine", engine],
            env=os.environ | {"RAY_AUTH_TOKEN": token},
            stdout=said,
            stderr=said,
        )
        while process.poll() is None:
            peak = max(peak, memory_mb(token))
            time.sleep(0.5)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command} ended with {process.returncode}: {said.read().decode()}")
    return time.perf_counter() - began, peak, out.read_bytes()


def main() -> None:
    given = options(__doc__, n=20_000, n_means="pictures", quick_n=100, repeats=3)
    machine = describe()
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare(root, [min(1000, given.n), given.n])
        for _ in range(given.repeats):
            here_s, here_mb, here = run(root, given.n, "local")
            there_s, there_mb, there = run(root, given.n, "ray")
            for what, value in {
                "local, pictures/s": given.n / here_s,
                "ray, pictures/s": given.n / there_s,
                "ray / local": here_s / there_s,
                "ray, s more": there_s - here_s,
                "local, MB": here_mb,
                "ray, MB in all its processes": there_mb,
                "the same bytes": float(here == there),
            }.items():
                values.setdefault(what, []).append(value)
    figures = [
        Figure(name, found, at_least=1.0 if name == "the same bytes" else None)
        for name, found in values.items()
    ]
    report("cluster", machine, given, figures)


if __name__ == "__main__":
    main()
