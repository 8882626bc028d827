"""Prediction on Ray: the numbers of one machine, and nothing lost when a worker dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tellapart.errors import ClusterNotReached, ClusterUnlike, MissingExtra, WorkersLost
from tellapart.inference import cluster as cluster_module
from tellapart.inference.batch import predict_into
from tellapart.inference.classifier import Classifier, Prediction
from tellapart.inference.cluster import Cluster, open_cluster
from tellapart.inference.inputs import Inputs
from tellapart.inference.outputs import open_output

pytest.importorskip("ray")

FORMAT_1 = Path(__file__).parents[1] / "bundle" / "formats" / "format_1.tellapart"


@pytest.fixture(scope="session")
def started() -> Iterator[Cluster]:
    """Two workers in a cluster of this machine's own, started once: other tests connect to it."""
    with open_cluster(FORMAT_1, n_workers=2) as opened:
        yield opened


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, with blocks so small that these few pictures are several of them."""
    monkeypatch.setattr(cluster_module, "BLOCK", 10)
    return started


@pytest.fixture
def paths(colours: Path, tmp_path: Path) -> list[str]:
    """Names of pictures with line ends, quotes and bytes that are no UTF-8, and a bad picture."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(40):
        name = os.fsdecode(f'{n:02d} "x",\ny'.encode() + b"\xff.png")
        (folder / name).symlink_to(colours / ("red.png", "blue.png", "green.png")[n % 3])
    (folder / "33bad.png").write_bytes(b"no picture")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def unconnected() -> None:
    """Skip where this process has a cluster, which it would take whatever the address."""
    if pytest.importorskip("ray").is_initialized():
        pytest.skip("this process is connected already, and would take that cluster")


def refused(address: str) -> str:
    """Return what is said of an address."""
    with pytest.raises(ClusterNotReached) as error, open_cluster(FORMAT_1, address=address):
        pass
    return str(error.value)


NOT_THERE = (
    "Expected HOST:PORT as `ray start --head` prints it, or auto, and a machine that belongs to "
    "the cluster. Nothing was predicted. Check --address, and run this on one of the cluster's "
    "machines; or leave --address away to use this machine alone."
)


def test_nobody_at_an_address_is_told_in_seconds(unconnected: None) -> None:
    """Ray itself would go on trying for many minutes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, but nobody listens.
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(address) == (
            f"No Ray cluster answered at {address} ([Errno 111] Connection refused). {NOT_THERE}"
        )


def test_another_server_at_an_address_is_told_in_seconds(unconnected: None, web: Any) -> None:
    """Ray would go on trying there, too; and of its client addresses Ray Data knows nothing."""
    address = web.url.removeprefix("http://")
    assert refused(address) == (
        f"No Ray cluster answered at {address} (something else listens there). {NOT_THERE}"
    )
    assert refused("ray://there:10001") == (
        f"No Ray cluster answered at ray://there:10001 (Ray Data does not work through Ray's "
        f"client). {NOT_THERE}"
    )


def test_other_versions_and_tokens_are_named() -> None:
    """In our words; Ray's own are several lines, or a trace."""
    from ray._private.utils import check_version_info, compute_version_info
    from ray.exceptions import AuthenticationError

    with pytest.raises(RuntimeError) as unlike:
        check_version_info({"ray_version": "2.1.0", "python_version": "3.9.2"}, "node there")
    ray, python, *_ = compute_version_info()
    assert str(cluster_module._not_reached("there:6379", unlike.value)) == (
        f"The Ray cluster at there:6379 runs Ray 2.1.0 on Python 3.9.2, and here is Ray {ray} on "
        f"Python {python}. Expected the same versions of both on all machines. Nothing was "
        f"predicted. Install them here or there: pip install 'ray[data]==2.1.0' in a Python 3.9.2."
    )
    assert str(cluster_module._not_reached("there:6379", AuthenticationError("no"))) == (
        "The Ray cluster at there:6379 wants a token, and was given none or another. Expected that "
        "of the cluster, from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Nothing "
        "was predicted. Copy it from a machine of the cluster."
    )


@pytest.mark.slow
def test_machines_with_another_tellapart_are_named(
    started: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is predicted, and not by a worker that cannot start."""
    here = cluster_module.version("tellapart")
    monkeypatch.setattr(cluster_module, "version", lambda _: "9.9")
    with pytest.raises(ClusterUnlike) as unlike, open_cluster(FORMAT_1):
        pass
    assert str(unlike.value) == (
        f"1 of 1 machines of the Ray cluster cannot do this work ({socket.gethostname()}: "
        f"tellapart {here}). Expected tellapart 9.9 with the extra ray on each, as here. Nothing "
        f"was predicted. Install it there for the Python that runs Ray: pip install "
        f"'tellapart[ray]==9.9'."
    )


@pytest.mark.slow
def test_cores_that_others_use_are_not_waited_for_without_end(
    started: Cluster, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would wait for them for ever, and silently."""
    import ray

    monkeypatch.setattr(cluster_module, "WAIT_S", 0.5)
    with open_cluster(FORMAT_1, n_workers=1) as opened:
        n = int(ray.cluster_resources()["CPU"])
        others = ray.remote(num_cpus=n)(type("Others", (), {"there": lambda self: True})).remote()
        assert ray.get(others.there.remote())
        with pytest.raises(ClusterNotReached) as taken:
            list(opened.stream(paths[:1]))
        ray.kill(others)
    assert str(taken.value) == (
        f"Others used the processor cores of the Ray cluster: for 0.5 s none of its machines had "
        f"{opened.n_cores} free, which a worker takes. What was answered before stays. Look at "
        f"`ray status`, and start again, with --resume, once there is room; without --engine the "
        f"pictures are read on this machine."
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_pictures_that_workers_cannot_see_are_no_answers(
    cluster: Cluster, paths: list[str], colours: Path
) -> None:
    """What no machine can read has its row; what only this one can ends the run."""
    with (colours / "red.png").open("rb") as file:
        mine = f"/proc/self/fd/{file.fileno() + 900}"  # Of another process, another file, or none.
        os.dup2(file.fileno(), file.fileno() + 900)
        found = []
        with pytest.raises(ClusterUnlike) as unseen:
            for one in cluster.stream([*paths[:9], "nowhere.png", mine]):
                found.append(one)
        os.close(file.fileno() + 900)
    assert [one.path for one in found] == [*paths[:9], "nowhere.png"]
    assert found[9].error == "cannot be opened (No such file or directory)"
    assert str(unseen.value) == (
        f"{socket.gethostname()}, a machine of the Ray cluster, cannot read what can be read here: "
        f"{mine}. Expected every machine to have the pictures at the same paths: in a folder that "
        f"they share, or at addresses such as s3://…. What was answered before stays. Go on with "
        f"--resume once they are there; without --engine they are read on this machine."
    )


@pytest.mark.slow
def test_answers_are_those_of_one_machine(
    cluster: Cluster, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in order, bad pictures in their rows, also where workers start anew.

    And also from shards, of which one is cut off.
    """
    monkeypatch.setattr(cluster_module, "BLOCKS_A_WORKER", 2)  # The pictures are then two windows.
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for path in paths[:3]:
            tar.add(os.path.realpath(path), f"{len(tar.getnames())}.png")
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:2000])
    given = Inputs([*paths, *map(str, sorted(tmp_path.glob("*.tar")))])
    classifier = Classifier.load(FORMAT_1)
    for engine, name in ((classifier, "here.jsonl"), (cluster, "there.jsonl")):
        tally = predict_into(engine, given, open_output(tmp_path / name, classifier.classes))
        assert (tally.n, tally.n_unreadable) == (45, 2)
    assert (tmp_path / "here.jsonl").read_bytes() == (tmp_path / "there.jsonl").read_bytes()


@pytest.mark.slow
def test_unordered_answers_are_the_same(cluster: Cluster, paths: list[str]) -> None:
    """Only their order may differ; a few pictures are computed as a few are on one machine."""
    classifier = Classifier.load(FORMAT_1)
    some = paths[:5]
    found = sorted(cluster.stream(some, 2, ordered=False), key=lambda one: one.path)
    assert found == list(classifier.stream(some, 2))


@pytest.mark.slow
def test_ray_goes_on_with_what_one_machine_began(
    started: Cluster, paths: list[str], tmp_path: Path, command: Callable[..., Any]
) -> None:
    """The command on Ray resumes any output, and ends with the bytes of an unbroken local run."""
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    assert command("predict", FORMAT_1, *paths, "--out", whole).code == 0
    assert command("predict", FORMAT_1, *paths[:12], "--out", out).code == 0
    # Relative paths start where the command does, also in the workers.
    ended = command("predict", FORMAT_1, *paths, "--out", out, "--resume", "--engine", "ray")
    assert (ended.code, ended.err) == (0, "")
    assert "29 answers, 1 of them not readable, 12 were there" in ended.out
    assert out.read_bytes() == whole.read_bytes()


class Slow:
    """A picture that is a pipe: a worker waits in it, and can be killed while it does."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._content = path, content
        os.mkfifo(path)
        self.killed: list[int] = []

    def kill_its_readers(self, n: int) -> None:
        """Kill the first n processes that read it, each as it waits; give all others the picture.

        The pipe stays open all the while: without a writer the next reader would find it empty.
        """
        with self.path.open("wb", buffering=0) as pipe:  # Waits until somebody reads.
            for _ in range(n):
                pid = self._reader()
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)
                while self._reads(pid):
                    time.sleep(0.01)
            # Whoever comes, and comes again, finds a file; who waits already gets it here.
            whole = self.path.with_suffix(".whole")
            whole.write_bytes(self._content)
            whole.replace(self.path)
            with suppress(BrokenPipeError):
                pipe.write(self._content)

    def _reader(self) -> int:
        while True:
            pids = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal())
            found = [pid for pid in pids if pid != os.getpid() and self._reads(pid)]
            if found:
                return found[0]
            time.sleep(0.01)

    def _reads(self, pid: int) -> bool:
        try:
            return any(one.readlink() == self.path for one in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            return False


def answered_while_killing(
    cluster: Cluster, slow: Slow, paths: list[str], n_kills: int
) -> list[Prediction]:
    """Answer for paths, the slow one among them, while workers die over it."""
    killer = threading.Thread(target=slow.kill_its_readers, args=(n_kills,), daemon=True)
    killer.start()
    answers = list(cluster.stream(paths))
    killer.join(timeout=10)
    return answers


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_killed_worker_loses_nothing(
    cluster: Cluster, paths: list[str], colours: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle of a block: it is answered by another, and every row is there."""
    slow = Slow(tmp_path / "slow.png", (colours / "red.png").read_bytes())
    given = [*paths[:25], str(slow.path), *paths[25:]]
    found = answered_while_killing(cluster, slow, given, 1)
    assert len(slow.killed) == 1
    expected = list(Classifier.load(FORMAT_1).stream([*paths, str(colours / "red.png")]))
    expected.insert(25, replace(expected.pop(), path=str(slow.path)))
    assert found == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_picture_that_kills_every_worker_ends_the_run(
    cluster: Cluster,
    paths: list[str],
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not for ever: after some workers the run stops, and says so."""
    monkeypatch.setattr(cluster_module, "RETRIES", 1)
    slow = Slow(tmp_path / "slow.png", (colours / "red.png").read_bytes())
    with pytest.raises(WorkersLost) as lost:
        answered_while_killing(cluster, slow, [*paths[:30], str(slow.path)], 2)
    assert len(slow.killed) == 2
    assert str(lost.value).startswith("The workers of the Ray cluster could not go on: ")
    assert str(lost.value).endswith(
        "Expected workers that start, and that do not die 2 times over the same 10 pictures. What "
        "was answered before stays. Look into the cluster's logs, and go on with --resume; without "
        "--engine the pictures are read on this machine."
    )


@pytest.fixture
def traced() -> Iterator[dict[str, str]]:
    """Environment of a command whose files and processes can be found, and must be gone."""
    token, folder = os.urandom(16).hex(), Path("/tmp", f"t-{os.urandom(4).hex()}")
    folder.mkdir()
    yield {"TMPDIR": str(folder), "RAY_AUTH_TOKEN": token}
    try:
        assert list(folder.iterdir()) == []
        assert [pid for pid in Path("/proc").glob("[0-9]*") if of_cluster(pid, token)] == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_cluster_of_this_machine_leaves_nothing_behind(
    small: Path, trained: Any, traced: dict[str, str], run: Callable[..., Any]
) -> None:
    """No line on the terminal, no file, no process, no usage report; the numbers are the same."""
    ended = run("predict", trained.bundle, small, "--json", "--engine", "ray", **traced)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == run("predict", trained.bundle, small, "--json").stdout


@pytest.mark.slow
def test_a_stopped_run_leaves_whole_rows_and_nothing_behind(
    colours: Path, tmp_path: Path, traced: dict[str, str]
) -> None:
    """SIGTERM ends a run silently, as without Ray, but in order; --resume would go on."""
    out, waits = tmp_path / "out.csv", tmp_path / "waits.png"
    os.mkfifo(waits)
    # Ray gives a block out once the next is done: so two whole ones, and one that waits.
    names = "\n".join([str(colours / "red.png")] * 1100 + [str(waits)])
    command = [sys.executable, "-m", "tellapart", "predict", FORMAT_1, "-", "--out", out]
    with subprocess.Popen(
        [*command, "--engine", "ray"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | traced,
    ) as running:
        assert running.stdin
        running.stdin.write(names)
        running.stdin.close()
        while running.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 1):
            time.sleep(0.05)
        running.terminate()
        assert running.stdout
        assert running.stdout.read() == ""
    assert running.returncode == 128 + signal.SIGTERM
    assert out.read_bytes().count(b"\n") == 513
    assert out.read_bytes().endswith(b"\n")


def of_cluster(process: Path, token: str) -> bool:
    """Whether a process was started with the token of a cluster."""
    try:
        return token.encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was never installed."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra) as missing, open_cluster(FORMAT_1):
        pass
    assert str(missing.value) == (
        "Predicting on Ray needs Ray, which is not installed. Nothing was predicted. "
        "Install it with: pip install 'tellapart[ray]', or leave --engine away."
    )


def test_an_address_without_the_engine_is_refused(command: Callable[..., Any]) -> None:
    """It would be ignored; and so would an engine that does not exist."""
    ended = command("predict", FORMAT_1, "a.png", "--address", "there:6379")
    assert ended.code == 2
    assert "--address names a Ray cluster: add --engine ray." in " ".join(ended.err.split())
    assert command("predict", FORMAT_1, "a.png", "--engine", "spark").code == 2
