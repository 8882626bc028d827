"""Answering on a Ray cluster: paths go out in blocks to workers that each hold the classifier.

Only this file imports Ray, and only when a cluster is opened. What a worker does is the stream of
`Classifier`, so the numbers are those of one machine. Whoever reads the answers sets the pace: Ray
Data lets no more blocks be under way than its store of objects has room for.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tellapart.backbones.openvino_runtime import BATCH, Precision, best_precision
from tellapart.data.addresses import is_url
from tellapart.data.pixels import available_cores
from tellapart.errors import ClusterNotReached, MissingExtra, WorkersLost
from tellapart.inference.classifier import FEW, Classifier, Prediction

# Pictures that a worker takes at once: some seconds of work, which is what a killed worker does
# again. Between two blocks its network waits for the first pictures to be decoded.
BLOCK = 512
# Blocks that are with Ray at once, for each worker: their paths take about 26 MB. Then the workers
# start anew, once in some minutes.
BLOCKS_A_WORKER = 512
# Python itself keeps a worker from using many more.
MAX_CORES = 4
# A block whose worker died is given to another so often: a picture that kills each must end.
RETRIES = 4
# Longer than any network of one cluster takes to answer.
KNOCK_S = 10.0

_MB = 1 << 20
# What Ray takes at the least, and enough for paths and answers of some hundred blocks.
_STORE_MB = 256
# Sockets lie below Ray's folder, and the name of one has at most 107 bytes.
_LONGEST_TEMPORARY = 40

# Has to be set before Ray is imported, which would report its use over the network.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class _Setup:
    """What makes a worker. model: a bundle's bytes, or its URL; folder: where paths start."""

    model: bytes | str
    precision: Precision | Literal["int8"]
    accept: float | None
    n_workers: int
    n_threads: int
    folder: str
    version: str


class _Worker:
    """One process of the pool. The parameters come from `Cluster`; Ray makes it and calls it."""

    def __init__(self, setup: list[Any], top: int, ordered: bool, few: bool) -> None:
        import ray

        given: _Setup = ray.get(setup[0])
        here = version("tellapart")
        if here != given.version:
            raise RuntimeError(f"tellapart {here} is installed there, {given.version} here")
        # Where there is no such folder there are no such pictures: each is answered so.
        with suppress(OSError):
            os.chdir(given.folder)
        self._top, self._ordered, self._few = top, ordered, few
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model")
            if isinstance(given.model, bytes):
                file.write_bytes(given.model)
            opened = file if isinstance(given.model, bytes) else given.model
            self._classifier = Classifier.load(
                opened, given.precision, given.accept, given.n_threads
            )
            self._classifier.prepare([(1, True) if few else (BATCH, False)])

    def __call__(self, block: Any) -> Any:
        """Answer a block of paths, (n,) binary; its answers are one row."""
        import pyarrow

        paths = [path.as_py().decode("utf-8", "surrogatepass") for path in block["path"]]
        answers = list(self._classifier.stream(paths, self._top, self._ordered, self._few))
        return pyarrow.table({"answers": [pickle.dumps(answers)]})


class Cluster:
    """A classifier that each of a pool of workers holds; made by `open_cluster`.

    classes: in the order of every array of size K.
    """

    def __init__(self, there: Any, setup: _Setup, classes: tuple[str, ...]) -> None:
        self._there, self.classes = there, classes
        self.n_workers, self._cores = setup.n_workers, setup.n_threads

    def stream(
        self, pictures: Iterable[str], top: int = 5, ordered: bool = True
    ) -> Iterator[Prediction]:
        """Answer for each path, in bounded memory, with the numbers of `Classifier.stream`.

        The paths are read where the workers run. A worker that dies is replaced, and what it had
        not answered is given to another.
        ordered: False answers in the order in which blocks are done.

        Raises:
            WorkersLost.
        """
        from ray.exceptions import RayError

        rest = iter(pictures)
        first = list(islice(rest, FEW))
        blocks = _blocks(chain(first, rest))
        try:
            while window := list(islice(blocks, BLOCKS_A_WORKER * self.n_workers)):
                yield from self._answers(window, top, ordered, len(first) < FEW)
        except RayError as error:
            raise _lost(error) from error

    def _answers(
        self, window: list[Any], top: int, ordered: bool, few: bool
    ) -> Iterator[Prediction]:
        import ray.data

        n_blocks = len(window)
        with _without_warnings():
            context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = ordered
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with ray.data.DataContext.current(context):
            blocks = ray.data.from_arrow(window)
        del window  # They are in Ray's store now.
        with _without_warnings():  # max_task_retries has no other way in before Ray 2.64.
            answered = blocks.map_batches(
                _Worker,
                fn_constructor_args=([self._there], top, ordered, few),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(self.n_workers, n_blocks)),
                num_cpus=self._cores,
                max_task_retries=RETRIES,
            )
        for batch in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
            for answers in batch["answers"]:
                # Made by our own workers, in a cluster that only its owner can use.
                yield from pickle.loads(answers.as_py())


@contextmanager
def open_cluster(
    model: str | Path,
    precision: Precision | Literal["int8"] | None = None,
    accept: float | None = None,
    *,
    address: str | None = None,
    n_workers: int | None = None,
) -> Iterator[Cluster]:
    """Let the workers of a Ray cluster hold a classifier until the block ends.

    model: a .tellapart file, of which each worker gets the bytes, or a URL that each opens.
    precision: None takes what is fastest on this machine, for all workers, so that they agree.
    address: HOST:PORT of a cluster, or "auto" for the one of this machine. None: what RAY_ADDRESS
        says, else processes on this machine alone, which end with the block. Where this process
        is connected to a cluster already, that one is taken.
    n_workers: None: as many as the cluster has cores for, with up to MAX_CORES each.

    Raises:
        MissingExtra: Ray is not installed. ClusterNotReached: no cluster, or none with a core.
        BundleNotFound, BundleDamaged, BundleFromFuture, NotQuantised.
    """
    classifier = Classifier.load(model, precision, accept)
    content = str(model) if is_url(str(model)) else Path(model).expanduser().read_bytes()
    with _connected(address, len(content)) as ray:
        setup = _Setup(
            content,
            precision or best_precision(),
            accept,
            *_share_out(ray.nodes(), n_workers),
            str(Path.cwd()),
            version("tellapart"),
        )
        yield Cluster(ray.put(setup), setup, classifier.classes)


def _blocks(paths: Iterable[str]) -> Iterator[Any]:
    """Pack paths into tables of BLOCK rows; names that are no UTF-8 survive as bytes."""
    import pyarrow

    rest = (path.encode("utf-8", "surrogatepass") for path in paths)
    while some := list(islice(rest, BLOCK)):
        yield pyarrow.table({"path": pyarrow.array(some, pyarrow.binary())})


def _share_out(nodes: Sequence[Mapping[str, Any]], n_workers: int | None) -> tuple[int, int]:
    """Say how many workers there shall be, and how many cores each has to itself.

    Raises:
        ClusterNotReached: there are no cores.
    """
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    able = [n for n in cores if n]
    if not able:
        raise ClusterNotReached(
            f"The Ray cluster of {len(cores)} machines has no processor cores to give. Expected "
            f"machines that were started with some. Nothing was predicted. Look at `ray status`."
        )
    wanted = MAX_CORES if n_workers is None else max(1, sum(able) // n_workers)
    each = min(wanted, *able)
    return n_workers or sum(n // each for n in able), each


@contextmanager
def _connected(address: str | None, n_bytes: int) -> Iterator[ModuleType]:
    """Connect to a cluster, or start one of this machine's own; yields the module of Ray."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with _own_folder() as folder, _hushed():
        try:
            if address is not None:
                _knock(address)
            with _without_stderr():
                ray.init(**_how(address, folder, n_bytes))
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            ray.shutdown()
            raise _not_reached(address, error) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Find out in seconds whether anything listens there: Ray would try for many minutes.

    Raises:
        OSError, ValueError.
    """
    host, colon, port = address.rpartition(":")
    if colon and "//" not in address:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


def _import_ray() -> ModuleType:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with _without_warnings():
            import ray
            import ray.data
    except ImportError as error:
        raise MissingExtra(
            "Predicting on Ray needs Ray, which is not installed. Nothing was predicted. "
            "Install it with: pip install 'tellapart[ray]', or leave --engine away."
        ) from error
    return ray


def _how(address: str | None, folder: str, n_bytes: int) -> dict[str, Any]:
    """Say how to connect. What is started here listens to nobody but who has its token."""
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        return common | {"address": address}
    # Ray asks for a token by itself, and would keep one in the home directory. It is made once for
    # a process, as Ray remembers the first.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return common | {
        "address": "local",
        "num_cpus": available_cores(),
        "include_dashboard": False,
        # Each machine's store holds the classifier once, however many workers read it.
        "object_store_memory": _STORE_MB * _MB + 2 * n_bytes,
        "_temp_dir": folder,
        "_node_ip_address": "127.0.0.1",
    }


@contextmanager
def _own_folder() -> Iterator[str]:
    """Make a folder for what Ray writes, which is removed at the end."""
    usual = tempfile.gettempdir()
    parent = usual if len(usual) <= _LONGEST_TEMPORARY else "/tmp"
    folder = tempfile.mkdtemp(prefix="tellapart-ray-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep to itself what Ray tells of its own work; its errors are told as ours."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data", "ray.util")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Let Ray use what Ray itself says is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep a line from the terminal that Ray writes past Python, of how little it will write."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _not_reached(address: str | None, error: Exception) -> ClusterNotReached:
    why = str(error).strip().splitlines()
    said = f" ({why[0]})" if why else ""
    if address is None:
        return ClusterNotReached(
            f"Ray did not start on this machine{said}. Expected a machine with some hundred MB of "
            f"memory and of temporary disk left. Nothing was predicted. Leave --engine away to "
            f"predict without it."
        )
    return ClusterNotReached(
        f"No Ray cluster answered at {address}{said}. Expected HOST:PORT of one that was started "
        f"with the same versions of Ray and Python, such as `ray start --head` prints, and its "
        f"token where it wants one. Nothing was predicted. Check --address, or leave it away to "
        f"use this machine alone."
    )


def _lost(error: Exception) -> WorkersLost:
    why = str(error.__cause__ or error).strip().splitlines()
    return WorkersLost(
        f"The workers of the Ray cluster could not go on: {why[-1] if why else error}. Expected "
        f"workers that start, and that do not die {RETRIES + 1} times over the same {BLOCK} "
        f"pictures. What was answered before stays. Look into the cluster's logs, and go on with "
        f"--resume; without --engine the pictures are read on this machine."
    )
