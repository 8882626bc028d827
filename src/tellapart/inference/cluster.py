"""Answering on a Ray cluster: paths go out in blocks to workers that each hold the classifier.

Only this file imports Ray, and only when a cluster is opened. What a worker does is the stream of
`Classifier`, so the numbers are those of one machine. Whoever reads the answers sets the pace: Ray
Data lets no more blocks be under way than its store of objects has room for.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

from tellapart.backbones.openvino_runtime import BATCH, Precision, best_precision
from tellapart.data.addresses import is_url
from tellapart.data.pixels import Loaded, available_cores
from tellapart.errors import ClusterNotReached, ClusterUnlike, MissingExtra, WorkersLost, listed
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
# How long others may use all cores of a cluster before we give up.
WAIT_S = 60.0

_MB = 1 << 20
# What Ray takes at the least, and enough for paths and answers of some hundred blocks.
_STORE_MB = 256
# Sockets lie below Ray's folder, and the name of one has at most 107 bytes.
_LONGEST_TEMPORARY = 40

# Has to be set before Ray is imported, which would report its use over the network, and would
# write of workers that died to standard output, among the answers.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
# How each side of a connection begins to speak HTTP/2 (RFC 9113, 3.4), on which Ray's calls go.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4


@dataclass(frozen=True)
class _Setup:
    """What makes a worker. model: a bundle's bytes, or its URL; folder: where paths start."""

    model: bytes | str
    precision: Precision | Literal["int8"]
    accept: float | None
    n_workers: int
    n_threads: int
    folder: str


class _Worker:
    """One process of the pool. The parameters come from `Cluster`; Ray makes it and calls it."""

    def __init__(self, setup: list[Any], top: int, ordered: bool, few: bool) -> None:
        import ray

        given: _Setup = ray.get(setup[0])
        # Where there is no such folder there are no such pictures: each is answered so.
        with suppress(OSError):
            os.chdir(given.folder)
        self._top, self._ordered, self._few = top, ordered, few
        # Below Ray's folder, which goes with the cluster, also where this process is killed.
        with tempfile.TemporaryDirectory(dir=ray.get_runtime_context().get_temp_dir()) as folder:
            file = Path(folder, "model")
            if isinstance(given.model, bytes):
                file.write_bytes(given.model)
            opened = file if isinstance(given.model, bytes) else given.model
            self._classifier = Classifier.load(
                opened, given.precision, given.accept, given.n_threads
            )
            self._classifier.prepare([(1, True) if few else (BATCH, False)])

    def __call__(self, block: Any) -> Any:
        """Answer a block of paths; both are one pickled row.

        Beside the answers are the paths that this machine cannot read, and its name.
        """
        import pyarrow

        (given,) = block["paths"]
        asked = pickle.loads(given.as_py())
        paths = [Loaded(path, b"", why) if why else path for path, why in asked]
        answers = list(self._classifier.stream(paths, self._top, self._ordered, self._few))
        absent = {one.path for one in answers if one.error and not _is_readable(one.path)}
        row = pickle.dumps((answers, absent, socket.gethostname()))
        return pyarrow.table({"answers": [row]})


class Cluster:
    """A classifier that each of a pool of workers holds; made by `open_cluster`.

    classes: in the order of every array of size K. n_cores: of each worker.
    """

    def __init__(
        self, there: Any, setup: _Setup, classes: tuple[str, ...], shared: bool = True
    ) -> None:
        self._there, self.classes, self._shared = there, classes, shared
        self.n_workers, self.n_cores = setup.n_workers, setup.n_threads

    def stream(
        self, pictures: Iterable[str], top: int = 5, ordered: bool = True
    ) -> Iterator[Prediction]:
        """Answer for each path, in bounded memory, with the numbers of `Classifier.stream`.

        The paths are read where the workers run. A worker that dies is replaced, and what it had
        not answered is given to another.
        ordered: False answers in the order in which blocks are done.

        Raises:
            WorkersLost. ClusterNotReached: all its cores stayed taken. ClusterUnlike: a picture
            that can be read here is not there.
        """
        from ray.exceptions import RayError

        rest = iter(pictures)
        first = list(islice(rest, FEW))
        blocks = _blocks(chain(first, rest))
        try:
            while window := list(islice(blocks, BLOCKS_A_WORKER * self.n_workers)):
                if self._shared:
                    _wait_for_cores(self.n_cores)
                yield from self._answers(window, top, ordered, len(first) < FEW)
        except RayError as error:
            raise _lost(error) from error

    def _answers(
        self, window: list[dict[str, bytes]], top: int, ordered: bool, few: bool
    ) -> Iterator[Prediction]:
        import ray.data

        n_blocks = len(window)
        with _without_warnings():
            context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = ordered
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with ray.data.DataContext.current(context):
            # Not as tables: Ray would look at each in a task, which waits for a core.
            blocks = ray.data.from_items(window, override_num_blocks=n_blocks)
        del window  # They are in Ray's store now.
        with _without_warnings():  # max_task_retries has no other way in before Ray 2.64.
            answered = blocks.map_batches(
                _Worker,
                fn_constructor_args=([self._there], top, ordered, few),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(self.n_workers, n_blocks)),
                num_cpus=self.n_cores,
                max_task_retries=RETRIES,
            )
        for batch in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch["answers"]:
                # Made by our own workers, in a cluster that only its owner can use.
                answers, absent, machine = pickle.loads(row.as_py())
                if here := sorted(filter(_is_readable, absent)):
                    raise _out_of_sight(here, machine)
                yield from answers


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
        ClusterUnlike: it has machines without this version of tellapart.
        BundleNotFound, BundleDamaged, BundleFromFuture, NotQuantised.
    """
    classifier = Classifier.load(model, precision, accept)
    content = str(model) if is_url(str(model)) else Path(model).expanduser().read_bytes()
    with _connected(address, len(content)) as (ray, is_own):
        if not is_own:
            _check_machines(ray.nodes())
        setup = _Setup(
            content,
            precision or best_precision(),
            accept,
            *_share_out(ray.nodes(), n_workers),
            str(Path.cwd()),
        )
        yield Cluster(ray.put(setup), setup, classifier.classes, not is_own)


def _blocks(paths: Iterable[str]) -> Iterator[dict[str, bytes]]:
    """Pack BLOCK paths at a time into a row; pickled, so that names that are no UTF-8 survive.

    Pictures in shards go by name, without the bytes that came along: workers read them there.
    """
    rest = ((str(path), path.trouble if isinstance(path, Loaded) else "") for path in paths)
    while some := list(islice(rest, BLOCK)):
        yield {"paths": pickle.dumps(some)}


def _is_readable(path: str) -> bool:
    """Whether this machine has a file, or the shard of a picture, and may read it."""
    with suppress(ValueError):  # A zero byte.
        return any(os.access(one, os.R_OK) for one in (path, path.rpartition("#")[0]))
    return False


def _check_machines(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that all machines with cores have this version of tellapart.

    Raises:
        ClusterUnlike.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

    def look() -> tuple[str, str]:
        """Made to run where nothing of tellapart may be: Ray sends nested functions whole."""
        import importlib
        import importlib.metadata
        import socket

        try:
            for name in ("pyarrow", "tellapart.inference.cluster"):
                importlib.import_module(name)
            return socket.gethostname(), f"tellapart {importlib.metadata.version('tellapart')}"
        except ImportError as error:
            return socket.gethostname(), str(error)

    # Without a core, so that it does not wait for one.
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    able = [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    looks = [task.options(scheduling_strategy=At(node, soft=False)).remote() for node in able]
    found = list(_answered(looks))
    here = f"tellapart {version('tellapart')}"
    unlike = [f"{machine}: {what}" for machine, what in sorted(found) if what != here]
    if unlike:
        raise ClusterUnlike(
            f"{len(unlike)} of {len(found)} machines of the Ray cluster cannot do this work "
            f"({listed(unlike)}). Expected {here} with the extra ray on each, as here. Nothing was "
            f"predicted. Install it there for the Python that runs Ray: "
            f"pip install 'tellapart[ray]=={version('tellapart')}'."
        )


def _answered(looks: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield what came back; a machine that is gone meanwhile, or says nothing, is Ray's matter."""
    import ray

    done, _ = ray.wait(looks, num_returns=len(looks), timeout=WAIT_S)
    for one in done:
        with suppress(ray.exceptions.RayError):
            yield ray.get(one)


def _wait_for_cores(n: int) -> None:
    """Wait until some machine has n cores that nobody uses, as a worker will.

    Raises:
        ClusterNotReached: others used them for WAIT_S.
    """
    import ray

    def start() -> None: ...

    task = ray.remote(num_cpus=n, max_retries=0)(start).remote()
    done, _ = ray.wait([task], timeout=WAIT_S)
    if not done:
        ray.cancel(task)
        raise ClusterNotReached(
            f"Others used the processor cores of the Ray cluster: for {WAIT_S:g} s none of its "
            f"machines had {n} free, which a worker takes. What was answered before stays. Look "
            f"at `ray status`, and start again, with --resume, once there is room; without "
            f"--engine the pictures are read on this machine."
        )


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
def _connected(address: str | None, n_bytes: int) -> Iterator[tuple[ModuleType, bool]]:
    """Connect to a cluster, or start one of this machine's own.

    Yields the module of Ray, and whether the cluster is its own.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    ray = _import_ray(address)
    if ray.is_initialized():
        yield ray, False
        return
    with _own_folder() as folder, _hushed(), _ending_in_order() as take_signals:
        try:
            try:
                if address is not None:
                    _knock(address)
                with _without_stderr():
                    ray.init(**_how(address, folder, n_bytes))
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _not_reached(address, error) from error
            take_signals()  # Ray has put handlers of its own in their place.
            yield ray, address is None
        finally:
            ray.shutdown()


@contextmanager
def _ending_in_order() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end this process, with the code it ends with anyway, but in order.

    Where somebody has a handler for it, that one stays. Yields what puts it there once more.
    """
    before = signal.getsignal(signal.SIGTERM)

    def take() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end if before is signal.SIG_DFL else before)

    take()
    try:
        yield take
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _knock(address: str) -> None:
    """Find out in seconds whether a cluster listens there: Ray would try for many minutes.

    Raises:
        OSError, ValueError.
    """
    if "://" in address:
        raise ValueError("Ray Data does not work through Ray's client")
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    with socket.create_connection((host.strip("[]"), int(port)), KNOCK_S) as door:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        door.sendall(_HELLO)
        said = door.recv(9)
    if len(said) < 4 or said[3] != _SETTINGS:
        raise OSError("something else listens there")


def _import_ray(address: str | None) -> ModuleType:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if address is not None and _has_token() and "ray" not in sys.modules:
        # Ray would use the token for what it starts, but not for what it connects to. Once it is
        # imported it reads this no more.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
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


def _has_token() -> bool:
    """Whether there is a token for clusters that want one, where Ray looks for it."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(named) or Path("~/.ray/auth_token").expanduser().exists()


def _how(address: str | None, folder: str, n_bytes: int) -> dict[str, Any]:
    """Say how to connect. What is started here listens to nobody but who has its token."""
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        return common | {"address": address}
    # Ray asks for a token by itself, and would keep one in the home directory. It is made once for
    # a process, as Ray remembers the first.
    if not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
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
    said = " ".join(str(error).split())
    if address is None:
        return ClusterNotReached(
            f"Ray did not start on this machine{f' ({said})' if said else ''}. Expected a machine "
            f"with some hundred MB of memory and of temporary disk left. Nothing was predicted. "
            f"Leave --engine away to predict without it."
        )
    versions = re.findall(r"Ray: (\S+) Python: (\S+)", said)
    if len(versions) == 2:
        (ray, python), (our_ray, our_python) = versions
        return ClusterNotReached(
            f"The Ray cluster at {address} runs Ray {ray} on Python {python}, and here is Ray "
            f"{our_ray} on Python {our_python}. Expected the same versions of both on all "
            f"machines. Nothing was predicted. Install them here or there: "
            f"pip install 'ray[data]=={ray}' in a Python {python}."
        )
    if "AuthenticationError" in f"{error!r} {error.__cause__}":
        return ClusterNotReached(
            f"The Ray cluster at {address} wants a token, and was given none or another. Expected "
            f"that of the cluster, from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. "
            f"Nothing was predicted. Copy it from a machine of the cluster."
        )
    return ClusterNotReached(
        f"No Ray cluster answered at {address}{f' ({said})' if said else ''}. Expected HOST:PORT "
        f"as `ray start --head` prints it, or auto, and a machine that belongs to the cluster. "
        f"Nothing was predicted. Check --address, and run this on one of the cluster's machines; "
        f"or leave --address away to use this machine alone."
    )


def _out_of_sight(paths: Sequence[str], machine: str) -> ClusterUnlike:
    return ClusterUnlike(
        f"{machine}, a machine of the Ray cluster, cannot read what can be read here: "
        f"{listed(paths, 2)}. Expected every machine to have the pictures at the same paths: in a "
        f"folder that they share, or at addresses such as s3://…. What was answered before stays. "
        f"Go on with --resume once they are there; without --engine they are read on this machine."
    )


def _lost(error: Exception) -> WorkersLost:
    why = str(error.__cause__ or error).strip().splitlines()
    return WorkersLost(
        f"The workers of the Ray cluster could not go on: {why[-1] if why else error}. Expected "
        f"workers that start, and that do not die {RETRIES + 1} times over the same {BLOCK} "
        f"pictures. What was answered before stays. Look into the cluster's logs, and go on with "
        f"--resume; without --engine the pictures are read on this machine."
    )
