"""What several test files share: a cache of their own, small data, trained classifiers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tellapart import TrainResult

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# What all workers may use together; empty where the system does not say.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

FORMATS = Path(__file__).parent / "bundle" / "formats"

# A tail phase that takes seconds. Its views change little: the head of so few and so clear
# pictures is so sure of itself that a wrong answer costs it a loss that ends the phase.
SMALL_TAIL: Mapping[str, Any] = {
    "phases.2.epochs": 2,
    "phases.2.views": 1,
    "phases.2.batch": 16,
    "phases.2.keep": "always",
    "phases.2.augment": [
        {"op": "random_resized_crop", "size_px": 224, "area": [0.9, 1.0], "aspect": [0.95, 1.05]}
    ],
}


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


@dataclass(frozen=True)
class Tuned:
    """A classifier with a tail that learned, made once for all tests, which may not change it.

    settings: over the default recipe. check: the last check that ran before it was written, as a
    function of the finished graph.
    """

    data: Path
    bundle: Path
    result: TrainResult
    settings: Mapping[str, Any]
    check: Callable[[bytes], None]


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


def pytest_configure() -> None:
    """Give each of several workers cores of its own.

    Else the threads of two wait for each other in every operation of theirs. It is early enough:
    libraries count the cores when they are loaded.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and CORES:
        number, count = int(worker[2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, CORES[number::count] or {CORES[number % len(CORES)]})


@pytest.fixture
def all_cores() -> Iterator[None]:
    """Let a test, and the processes that it starts, have every core, as users do."""
    if not CORES:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for cache and runs of this session: the user's own are neither used nor filled."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLAPART_CACHE", str(folder))
        patch.setenv("TELLAPART_RUNS", str(tmp_path_factory.mktemp("runs")))
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
    from tellapart.cli.main import main

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
    finished = _run("train", small, "-o", bundle, "--recipe", "fast", "--json")
    assert finished.returncode == 0, finished.stderr
    return Trained(small, bundle, json.loads(finished.stdout), finished)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def single_thread() -> Iterator[None]:
    """Let torch use one thread: on a busy machine two that wait for each other are slower."""
    with _one_thread():
        yield


@pytest.fixture(scope="session")
def small_tail() -> dict[str, Any]:
    """Settings over the default recipe for a tail phase that takes seconds."""
    return dict(SMALL_TAIL)


@pytest.fixture(scope="session")
def tuned(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A classifier of the small digits whose last blocks learned on kept views."""
    import tellapart
    from tellapart.pipeline import training
    from tellapart.progress import Progress

    bundle = tmp_path_factory.mktemp("tuned") / "small.tellapart"
    checks = []
    check = training._check_graph

    def remembered(graph: bytes, *facts: Any) -> None:
        checks.append(lambda other: check(other, *facts))
        check(graph, *facts)

    with pytest.MonkeyPatch.context() as patch, _one_thread():
        patch.setattr(training, "_check_graph", remembered)
        result = tellapart.train(
            trained.data, bundle, settings=SMALL_TAIL, progress=Progress("quiet")
        )
    (only,) = checks
    return Tuned(trained.data, bundle, result, SMALL_TAIL, only)


@pytest.fixture
def own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs for this test alone."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("TELLAPART_RUNS", str(folder))
    return folder


@pytest.fixture
def warm_cache(
    trained: Trained, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache that holds the exported network and nothing else, for this test alone."""
    from tellapart.backbones import frozen
    from tellapart.backbones.registry import DEFAULT_BACKBONE, find_backbone
    from tellapart.backbones.weights import find_weights

    folder = tmp_path / "warm"
    backbone = find_backbone(DEFAULT_BACKBONE)
    # Other tests may have kept others beside it.
    key = frozen._key(backbone, find_weights(backbone), backbone.preprocessing, flip=False)
    shutil.copytree(cache / "backbones" / key, folder / "backbones" / key)
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


class _Handler(BaseHTTPRequestHandler):
    """Answers from its server's pages, and writes down what was asked."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        web: Web = self.server.web
        with web.lock:
            web.asked.append(self.path)
            web.headers.append(dict(self.headers))
        page = web.pages.get(self.path.partition("?")[0], web.missing)
        page(self) if callable(page) else self.send(page)

    def do_POST(self) -> None:
        self.server.web.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send a whole answer; header names are given with _ for -."""
        self.send_response(status)
        named = {"Content_Length": str(len(body))} | headers
        for name, value in named.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Web:
    """A real server on loopback: path -> bytes, or a function that is given the handler.

    asked, headers: of every request, in order. bodies: of those that were posted.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer((host, 0), _Handler)
        self.server.daemon_threads = True
        self.server.web = self
        self.url = f"http://{host}:{self.server.server_port}"

    def missing(self, handler: _Handler) -> None:
        """Answer for what has no page."""
        handler.send(b"<html>no such page</html>", 404)


@pytest.fixture
def web() -> Iterator[Web]:
    """A server on loopback; who asks it must be allowed private addresses."""
    made = Web()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for all tests of this process, or a skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()
