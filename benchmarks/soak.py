"""An hour of a small office in minutes: nothing lost, nothing wrong, memory flat; then kill -9.

Eight clients send different photographs to `tellapart serve` over loopback, half of them as audits;
one request in ten is bad: cut off, no picture, an unknown class, a wrong kind, another path. Every
answer has to be the expected one, and every acknowledged audit has to be in the database: after the
run, after SIGTERM, and after a kill -9 in the middle of a second run. All with SQLite, then a tenth
of it with PostgreSQL, if its programs are there. Timings do not count here.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed
from serving import BOUNDARY, free_port

REQUESTS = 50_000
CLIENTS = 8
SAMPLE_S = 2.0
# Pages of the database, caches and pools fill at first; from then on nothing may grow.
WARM = 0.2
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass
class Sent:
    """What came of the requests so far."""

    n: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    broken_off: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Request:
    """A request, and the status that it has to be answered with."""

    path: str
    body: bytes
    headers: dict[str, str]
    status: int


def form(picture: bytes, declared: str | None = None) -> bytes:
    """One picture, and what it is declared to be, as the body of a form."""
    parts = [('name="file"; filename="a.jpg"', picture)]
    if declared is not None:
        parts.append(('name="declared"', declared.encode()))
    lines = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in parts
    ]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def request(pictures: list[tuple[str, bytes]], chance: random.Random) -> Request:
    """Draw one request of the mix."""
    label, picture = chance.choice(pictures)
    kind = chance.random()
    if kind < 0.45:
        return Request("/v1/audit", form(picture, label), FORM, 200)
    if kind < 0.9:
        return Request("/v1/predict", form(picture), FORM, 200)
    bad = [
        # A broken picture is an audit as well: unsure, and recorded.
        Request("/v1/audit", form(picture[: len(picture) // 2], label), FORM, 200),
        Request("/v1/predict", form(picture[: len(picture) // 2]), FORM, 422),
        Request("/v1/predict", form(b"%PDF-1.7 no picture"), FORM, 422),
        Request("/v1/audit", form(picture, "no such class"), FORM, 422),
        Request("/v1/predict", picture, {"Content-Type": "text/plain"}, 415),
        Request("/v1/elsewhere", b"", {}, 404),
    ]
    return chance.choice(bad)


def client(port: int, n: int, pictures: list[tuple[str, bytes]], sent: Sent, seed: int) -> None:
    """Send until n were sent by all clients together, or the server is gone."""
    chance = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        with sent.lock:
            if sent.n >= n:
                return
            sent.n += 1
        asked = request(pictures, chance)
        try:
            connection.request("POST", asked.path, asked.body, asked.headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            with sent.lock:
                sent.broken_off += 1
            return
        with sent.lock:
            sent.statuses[answer.status] += 1
            if answer.status != asked.status:
                sent.unexpected.append(f"{asked.path}: {answer.status} {body[:200]!r}")
            elif asked.path == "/v1/audit" and answer.status == 200:
                sent.acknowledged.update(one["id"] for one in json.loads(body)["pictures"])


@contextmanager
def server(
    model: Path, database: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a server that records there, and wait until it is ready."""
    port = free_port()
    command = tellapart("serve", model, "--rate", "0", "--port", str(port), torch=False)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"TELLAPART_DATABASE": database}
        )
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                        break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        sys.exit((folder / "log").read_text(errors="replace")[-2000:])
                    time.sleep(0.1)
            yield process, port
        finally:
            process.terminate()
            process.wait(60)


def load(
    process: subprocess.Popen[bytes],
    port: int,
    n: int,
    pictures: list[tuple[str, bytes]],
    kill_at: int | None = None,
) -> tuple[Sent, list[float]]:
    """Send n requests; return what came of them, and the server's memory in MB over time."""
    sent, memory_mb = Sent(), []
    threads = [
        threading.Thread(target=client, args=(port, n, pictures, sent, seed))
        for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    looked = 0.0
    while any(thread.is_alive() for thread in threads):
        if kill_at is not None and sent.n >= kill_at:
            process.send_signal(signal.SIGKILL)
            kill_at = None
        elif process.poll() is None and time.monotonic() - looked >= SAMPLE_S:
            looked = time.monotonic()
            memory_mb.append(resident_mb(process.pid))
            if len(memory_mb) % 15 == 1:
                print(f"{sent.n} sent, {memory_mb[-1]:.0f} MB", file=sys.stderr)
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    return sent, memory_mb


def resident_mb(pid: int) -> float:
    """The memory that a process has of its own and of shared files, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def recorded(database: str) -> set[str]:
    """The ids of all audits in a database, read without tellapart."""
    if database.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(database.removeprefix("sqlite:///"))
        rows = connection.execute("SELECT id FROM audits").fetchall()
        connection.close()
    else:
        import psycopg

        with psycopg.connect(database) as session:
            rows = session.execute("SELECT id FROM audits").fetchall()
    return {str(name) for (name,) in rows}


@contextmanager
def postgresql() -> Iterator[str | None]:
    """Start a PostgreSQL of this run's own, as another user: it refuses root. None: not there."""
    if not POSTGRES:
        print("Left out: PostgreSQL's programs are not in /usr/lib/postgresql.", file=sys.stderr)
        yield None
        return
    programs, folder = POSTGRES[-1].parent, Path(tempfile.mkdtemp(prefix="tellapart-soak-"))
    user: dict[str, int] = {}
    if os.getuid() == 0:
        other = pwd.getpwnam("postgres")
        user = {"user": other.pw_uid, "group": other.pw_gid}
        os.chown(folder, other.pw_uid, other.pw_gid)
    data, port = folder / "data", free_port()

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)

    run(programs / "initdb", "-D", data, "-U", "tellapart", "-A", "trust")
    settings = f"-p {port} -k {folder} -h 127.0.0.1"
    run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", settings, "-w", "start")
    try:
        yield f"postgresql://tellapart:none@127.0.0.1:{port}/postgres"
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def soak(
    name: str, model: Path, database: str, folder: Path, n: int, pictures: list[tuple[str, bytes]]
) -> list[Figure]:
    """Run all of it with one database."""
    with server(model, database, folder) as (process, port):
        start = time.perf_counter()
        sent, memory_mb = load(process, port, n, pictures)
        seconds = time.perf_counter() - start
        while_up = recorded(database)
        process.terminate()
        status = process.wait(60)
    stopped = recorded(database)
    with server(model, database, folder) as (process, port):
        killed, _ = load(process, port, n, pictures, kill_at=max(n // 20, 100))
    with server(model, database, folder) as (_, port):
        after_kill = recorded(database)
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            pass
    for line in [*sent.unexpected, *killed.unexpected][:5]:
        print(line, file=sys.stderr)
    lost = len(sent.acknowledged - while_up) + len(sent.acknowledged - stopped)
    warm = memory_mb[int(len(memory_mb) * WARM) :]
    third = max(1, len(warm) // 3)
    early, late = sum(warm[:third]) / third, sum(warm[-third:]) / third
    shown = memory_mb[:: max(1, len(memory_mb) // 50)]
    facts = {
        "requests answered": (sum(sent.statuses.values()), None, None),
        "requests/s (not a benchmark)": (sum(sent.statuses.values()) / seconds, None, None),
        "answers other than expected": (len(sent.unexpected) + len(killed.unexpected), None, 0),
        "requests that broke off": (sent.broken_off, None, 0),
        "audits acknowledged": (len(sent.acknowledged), None, None),
        "of these not in the database": (lost, None, 0),
        "in the database, never acknowledged": (len(stopped - sent.acknowledged), None, 0),
        "exit status after SIGTERM": (min(abs(status), abs(status + 15)), None, 0),
        "memory late / early, after warming up": (late / early, None, 1.05),
        "kill -9: audits acknowledged": (len(killed.acknowledged), 1, None),
        "kill -9: of these not in the database": (
            len(killed.acknowledged - after_kill),
            None,
            0,
        ),
    }
    return [
        *(
            Figure(f"{name}: {what}", [float(value)], at_least=least, at_most=most)
            for what, (value, least, most) in facts.items()
        ),
        Figure(f"{name}: memory MB over time", shown),
    ]


def photographs() -> list[tuple[str, bytes]]:
    """Different photographs with the class that they are declared as, right for ants and bees."""
    folder = data_folder("hymenoptera")
    found = [(path.parent.name, path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))]
    scenes = folder.parent / "intel_scenes" / "valid"
    found += [("ants", path.read_bytes()) for path in sorted(scenes.glob("*/*.jpg"))]
    return found


def main() -> None:
    given = options(__doc__, n=REQUESTS, n_means="requests", quick_n=1000)
    photos, pictures, machine = data_folder("hymenoptera"), photographs(), describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.tellapart"
        train = tellapart("train", photos, "-o", model, "--recipe", "fast", "--quiet")
        timed(train, TELLAPART_CACHE=name, TELLAPART_RUNS=f"{name}/runs")
        url = f"sqlite:///{folder / 'records.sqlite'}"
        figures = soak("SQLite", model, url, folder, given.n, pictures)
        with postgresql() as database:
            if database:
                figures += soak("PostgreSQL", model, database, folder, given.n // 10, pictures)
    report("soak", machine, given, figures)


if __name__ == "__main__":
    main()
