"""Scan and hash many small files: how many a second, again, and in how much memory.

A folder of --n files of 16 kB (about a JPEG of 150 px) in ten classes is scanned in a process of
its own, once with nothing kept and once more with the hashes of the first time; the disk cache is
warm both times, so the first scan pays for reading from memory and hashing alone, not for a disk.
The same for a tenth and a hundredth of the files, which shows whether a file costs more among many.
Times are of `scan` alone, without starting Python. Memory is the peak of the whole process, beside
that of a process that scans 10 files. No picture is decoded.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

from _machine import describe
from _measuring import Figure, options, report, timed, warm

BYTES = 16_000
# What has just been written is not kept: it could change again within a tick of the clock.
SETTLES_S = 2.5
SCAN = """
import json, sys, time
from tellapart.data.catalog import scan
scan(sys.argv[2])
start = time.perf_counter()
catalog = scan(sys.argv[1])
taken = time.perf_counter() - start
print(json.dumps({"n": len(catalog), "seconds": taken}))
"""


def write_files(root: Path, n: int) -> None:
    """Write n different files that are named like pictures, a thousand a folder."""
    chance = random.Random(n)
    for number in range(n):
        folder = root / f"class-{number % 10}" / f"{number // 10_000:03d}"
        if number % 10_000 < 10:
            folder.mkdir(parents=True)
        (folder / f"IMG_{number:06d}.jpg").write_bytes(chance.randbytes(BYTES))


def scanned(folder: Path, tiny: Path, cache: Path) -> tuple[float, float]:
    """Scan in a process of its own; return seconds, and the peak of its memory in MB."""
    ended = timed([sys.executable, "-c", SCAN, str(folder), str(tiny)], TELLAPART_CACHE=str(cache))
    found = json.loads(ended.output)
    return float(found["seconds"]), ended.peak_mb


def main() -> None:
    given = options(
        __doc__, n=100_000, n_means="files of the largest folder", quick_n=1000, repeats=3
    )
    machine = describe()
    sizes = [given.n // 100, given.n // 10, given.n]
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_files(root / "tiny", 10)
        for n in sizes:
            write_files(root / str(n), n)
        time.sleep(SETTLES_S)
        warm(root)
        for repeat in range(given.repeats):
            cache = root / f"cache-{repeat}"
            _, base_mb = scanned(root / "tiny", root / "tiny", cache)
            per_file = {}
            for n in sizes:
                first_s, first_mb = scanned(root / str(n), root / "tiny", cache)
                again_s, again_mb = scanned(root / str(n), root / "tiny", cache)
                per_file[n] = first_s / n, again_s / n
                for what, value in {
                    "files/s": n / first_s,
                    "files/s again": n / again_s,
                    "first / again": first_s / again_s,
                    "us a file": 1e6 * first_s / n,
                    "us a file again": 1e6 * again_s / n,
                    "peak, MB": first_mb,
                    "peak again, MB": again_mb,
                    "peak beyond that of 10 files, kB a file": 1e3 * (first_mb - base_mb) / n,
                }.items():
                    values.setdefault(f"{n} files: {what}", []).append(value)
            few, many = per_file[sizes[0]], per_file[sizes[-1]]
            grows = f"{sizes[-1]} / {sizes[0]} files: cost of one"
            values.setdefault(grows, []).append(many[0] / few[0])
            values.setdefault(f"{grows}, again", []).append(many[1] / few[1])
    targets = {f"{given.n} files: first / again": 5.0}
    figures = [
        Figure(
            name,
            found,
            at_least=targets.get(name),
            at_most=1.25 if "cost of one" in name else None,
        )
        for name, found in values.items()
    ]
    report("scan", machine, given, figures)


if __name__ == "__main__":
    main()
