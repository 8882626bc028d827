"""Size of what `pip install tellapart` and `pip install 'tellapart[train]'` bring, in MB.

Walks the requirements of what is installed here and adds up its files; no network. On Linux with
an x86-64 processor PyPI's torch brings NVIDIA's libraries; they are counted as they lie here, and
told apart. Nothing varies between runs, so there is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from _machine import describe
from _measuring import Figure, number, options, report, table
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Installed = dict[str, Distribution]
FOR_GPUS = ("nvidia-", "cuda-", "triton")


def with_requirements(name: str, extras: Iterable[str] = ()) -> Installed:
    """Find a package and all that it needs, by canonical name; what is missing is told."""
    found: Installed = {}
    seen: set[tuple[str, str]] = set()
    wanted = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while wanted:
        package, extra = wanted.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        try:
            found[package] = distribution(package)
        except PackageNotFoundError:
            print(f"{package} is needed and not installed here: not counted.", file=sys.stderr)
            continue
        for line in found[package].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                names = ("", *needed.extras)
                wanted += [(canonicalize_name(needed.name), other) for other in names]
    return found


@cache
def file_sizes(package: str) -> dict[str, int]:
    """List a package's files with their sizes in bytes."""
    each = distribution(package)
    # Path.resolve took four fifths of the time, and all differences here are dots.
    paths = {os.path.normpath(str(file.locate())) for file in each.files or ()}
    if package == "tellapart":
        # Installed for development, its files are not listed.
        paths |= {str(path) for path in Path(str(files("tellapart"))).rglob("*.*")}
    return {path: Path(path).stat().st_size for path in paths if Path(path).is_file()}


def size_mb(packages: Iterable[str]) -> float:
    """Add up the files of packages; one that several share counts once."""
    sizes: dict[str, int] = {}
    for package in packages:
        sizes |= file_sizes(package)
    return sum(sizes.values()) / 1e6


def largest(base: Installed, train: Installed, n: int) -> str:
    sizes = {name: size_mb([name]) for name in train}
    rows = [
        [f"{name} {train[name].version}", number(sizes[name]), "base" if name in base else "train"]
        for name in sorted(sizes, key=lambda name: -sizes[name])[:n]
    ]
    return table(["package", "MB", "part of"], rows)


def main() -> None:
    given = options(__doc__, n=12, n_means="packages to list", quick_n=3)
    machine = describe()
    base, train = with_requirements("tellapart"), with_requirements("tellapart", ["train"])
    for_gpus = [name for name in train if name.startswith(FOR_GPUS)]
    print(largest(base, train, given.n))
    figures = [
        Figure("tellapart, MB", [size_mb(base)]),
        Figure("tellapart[train], MB", [size_mb(train)]),
        Figure("of which for GPUs (NVIDIA's libraries, triton), MB", [size_mb(for_gpus)]),
        Figure("of which torch itself, MB", [size_mb(train.keys() & {"torch"})]),
        Figure("tellapart, packages", [len(base)]),
        Figure("tellapart[train], packages", [len(train)]),
    ]
    report("install_size", machine, given, figures)


if __name__ == "__main__":
    main()
