"""What several test files share: a cache of their own, small data, a trained classifier."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FORMATS = Path(__file__).parent / "bundle" / "formats"


@dataclass(frozen=True)
class Outcome:
    """How a command ended that ran inside the test process."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Trained:
    """A classifier that was trained once for all tests: none of them may change its files."""

    data: Path
    bundle: Path
    facts: Mapping[str, Any]
    finished: subprocess.CompletedProcess[str]


def _run(*args: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tellapart", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | env,
        timeout=300,
        check=False,
    )


@pytest.fixture
def limited_file_size() -> Callable[[int], AbstractContextManager[None]]:
    """Let no file of this process grow beyond: as with a full disk, the write fails half-way."""

    @contextmanager
    def limited(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this session, so that the user's own is neither used nor filled."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLAPART_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("COLUMNS", "80")
        yield folder


@pytest.fixture(scope="session")
def run() -> Run:
    """Run `tellapart` in a process of its own; keyword arguments are environment variables."""
    return _run


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `tellapart` inside the test process, which saves the seconds of a new one."""
    from tellapart.cli import main

    def call(*args: str | Path) -> Outcome:
        # What --debug sets must not outlive the test.
        monkeypatch.setenv("TELLAPART_DEBUG", "")
        monkeypatch.setattr(sys, "argv", ["tellapart", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Outcome(int(stop.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1797 handwritten digits as class folders."""
    from tellapart.data.demo import write_digits

    folder = tmp_path_factory.mktemp("demo") / "digits"
    write_digits(folder)
    return folder


@pytest.fixture(scope="session")
def small(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures each of the digits 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("data") / "small"
    for name in "012":
        (folder / name).mkdir(parents=True)
        for path in sorted((digits / name).iterdir())[:20]:
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="session")
def trained(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of the small digits. The network is exported here, once for all tests."""
    bundle = tmp_path_factory.mktemp("trained") / "small.tellapart"
    finished = _run("train", small, "-o", bundle, "--json")
    assert finished.returncode == 0, finished.stderr
    return Trained(small, bundle, json.loads(finished.stdout), finished)


@pytest.fixture
def warm_cache(
    trained: Trained, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache that holds the exported network and nothing else, for this test alone."""
    folder = tmp_path / "warm"
    shutil.copytree(cache / "backbones", folder / "backbones")
    monkeypatch.setenv("TELLAPART_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def format_1() -> Path:
    """The stored bundle of format 1: three colours, told apart by their mean."""
    return FORMATS / "format_1.tellapart"


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of each class of the stored bundle, and two mixed ones."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("colours")
    for name, colour in {
        "blue": (0, 0, 255),
        "green": (0, 255, 0),
        "red": (255, 0, 0),
        "grey": (128, 128, 128),
        "mixed": (200, 100, 50),
    }.items():
        Image.new("RGB", (20, 10), colour).save(folder / f"{name}.png")
    return folder
