"""Sort and undo: is anything lost? One run of many files, and many kills at random moments.

First --n files (pictures with sidecars, in folders, names that clash) are sorted and taken back;
then a gallery of a tenth of that is sorted 200 times and each time killed (SIGKILL) at a moment
drawn at random, and undone: every second time by moving, otherwise by copying, linking, or moving
to another file system where there is one. Every second undo is killed, too, and repeated. After
each, every byte, permission and time of the tree, those of folders included, is compared with what
was there. Nothing is predicted: the plan is ready.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from _machine import describe
from _measuring import Figure, options, report

if TYPE_CHECKING:
    from tellapart.inference.sorting import How, Plan

KILLS = 200
Tree = dict[str, tuple[int, int, str]]


def tree(root: Path) -> Tree:
    """Mode, time in ns, and hash of the bytes of everything below a folder, itself included."""
    found: Tree = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files, *([""] if Path(folder) == root else [])):
            path = Path(folder) / name
            facts = path.lstat()
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            found[os.path.relpath(path, root)] = (facts.st_mode, facts.st_mtime_ns, digest)
    return found


def differences(one: Tree, other: Tree) -> int:
    """Count what is missing, added or changed."""
    return sum(one.get(name) != other.get(name) for name in one.keys() | other.keys())


def write_gallery(gallery: Path, n: int) -> None:
    """Write n files: pictures of a few KB in twenty folders, a sidecar beside every fourth."""
    chance = random.Random(0)
    for number in range(n):
        of_sidecar = number % 5 == 4
        stem = f"IMG_{(number - of_sidecar) // 20:05d}"
        folder = gallery / f"{number % 20 if not of_sidecar else (number - 1) % 20:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem}.{'xmp' if of_sidecar else 'jpg'}"
        path.write_bytes(chance.randbytes(200 if of_sidecar else 3000))
        when = 10**18 + chance.randrange(10**17)
        os.utime(path, ns=(when, when))


def ready_plan(gallery: Path, into: Path, how: How) -> Plan:
    """Plan to sort as ten classes, every tenth picture unsure."""
    from tellapart.inference.sorting import Verdict, plan_sort

    paths = sorted(gallery.rglob("*.jpg"))
    verdicts = [
        Verdict(str(path), f"class {n % 10}", 0.9, unsure=n % 10 == 9)
        for n, path in enumerate(paths)
    ]
    return plan_sort(verdicts, gallery, into, how)


def killed(work: Callable[[], object], after_s: float) -> bool:
    """Run something in a process of its own and kill it then; say whether it was still at work."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def one_run(root: Path, n: int) -> dict[str, list[float]]:
    """Sort and undo n files once."""
    from tellapart.inference.moving import apply, undo

    gallery, into = root / "gallery", root / "sorted"
    write_gallery(gallery, n)
    before = tree(root)
    began = time.perf_counter()
    plan = ready_plan(gallery, into, "move")
    planned = time.perf_counter()
    done = apply(plan).n_done
    sorted_ = time.perf_counter()
    back = undo(into)
    undone = time.perf_counter()
    return {
        f"{n} files: sorted": [done],
        f"{n} files: plan, s": [planned - began],
        f"{n} files: sort, s": [sorted_ - planned],
        f"{n} files: undo, s": [undone - sorted_],
        f"{n} files: lost or changed": [differences(before, tree(root)) + len(back.left)],
    }


def kills(root: Path, far: Path | None, n: int, times: int) -> dict[str, list[float]]:
    """Kill a sort of n files again and again; count what undoing did not bring back."""
    from tellapart.inference.moving import apply, undo

    gallery = root / "gallery"
    write_gallery(gallery, n)
    before = tree(root)
    chance = random.Random(1)
    ways: list[tuple[How, Path]] = [("move", root / "sorted"), ("copy", root / "sorted")]
    ways += [("hardlink", root / "sorted"), ("symlink", root / "sorted")]
    ways += [("move", far / "sorted")] if far else []
    plans = [ready_plan(gallery, into, how) for how, into in ways]
    lasted = []
    for plan in plans:
        began = time.perf_counter()
        apply(plan)
        lasted.append(time.perf_counter() - began)
        undo(plan.into)
    wrong, in_the_middle, lost, above = 0, 0, 0, 0
    for number in range(times):
        # Moving is the default and the one that can lose something: every second time.
        way = 0 if number % 2 else chance.randrange(len(plans))
        plan = plans[way]
        in_the_middle += killed(lambda plan=plan: apply(plan), chance.uniform(0, lasted[way]))
        if plan.into.exists():
            if number % 4 >= 2:
                killed(lambda plan=plan: undo(plan.into), chance.uniform(0, lasted[way] / 2))
            if plan.into.exists() and any(plan.into.iterdir()):
                lost += len(undo(plan.into).left)
            elif plan.into.exists():
                # Killed within the first microseconds: an empty folder, and nothing to undo.
                when = root.stat().st_mtime_ns
                plan.into.rmdir()
                os.utime(root, ns=(when, when))
        now = tree(root)
        # Its time can be set only after the sorted folder is gone, when nobody remembers a kill.
        above += now["."] != before["."]
        now["."] = before["."]
        os.utime(root, ns=(before["."][1], before["."][1]))
        found = differences(before, now) + plan.into.exists()
        wrong += found > 0
        lost += found
        if found:
            print(f"kill {number} ({plan.how}): {found} differences", file=sys.stderr)
    return {
        f"{times} kills, {n} files: killed at work": [in_the_middle],
        f"{times} kills, {n} files: trees not restored": [wrong],
        f"{times} kills, {n} files: lost or changed": [lost],
        f"{times} kills, {n} files: time of the folder around gallery and sorted": [above],
    }


def main() -> None:
    given = options(__doc__, n=20_000, n_means="files of the one run", quick_n=200)
    machine = describe()
    times = 10 if given.quick else KILLS
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory() as name:
        is_far = os.access(memory, os.W_OK) and memory.stat().st_dev != Path(name).stat().st_dev
        far = Path(tempfile.mkdtemp(dir=memory)) if is_far else None
        try:
            (one := Path(name) / "one").mkdir()
            (many := Path(name) / "many").mkdir()
            found = one_run(one, given.n) | kills(many, far, given.n // 10, times)
        finally:
            if far:
                shutil.rmtree(far)
    figures = [
        Figure(name, values, at_most=0 if "lost" in name or "restored" in name else None)
        for name, values in found.items()
    ]
    report("sorting", machine, given, figures)


if __name__ == "__main__":
    main()
