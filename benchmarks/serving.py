"""Requests/s and latency over HTTP: tellapart serve, a plain FastAPI + torch handler, LitServe.

wrk posts one JPEG as a form, over and over, from 1, 8 and 64 clients on loopback. The same network
answers behind each server: the plain handler decodes with Pillow and runs torch in 32 bits, as
tutorials do; LitServe gets the same handler with its batching on. The servers take turns, each a
process of its own, and ratios are taken within each turn. wrk shares the cores with the server.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed

CLIENTS = (1, 8, 64)
SECONDS = 8
BOUNDARY = "tellapart-benchmark"
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}

LUA = f"""
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*all")
wrk.headers["Content-Type"] = "multipart/form-data; boundary={BOUNDARY}"
"""


def form(picture: bytes, field: str) -> bytes:
    """One picture as the body of a form."""
    head = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
        f'name="{field}"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


@contextmanager
def running(command: list[str | Path], port: int, path: str, folder: Path) -> Iterator[None]:
    """Start a server, wait until it answers, and end it."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=os.environ | {"TELLAPART_DATABASE": "sqlite://"},
            start_new_session=True,
        )
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
                        break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        sys.exit((folder / "log").read_text(errors="replace")[-2000:])
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)
            # LitServe leaves its workers behind, which would slow down whoever is next.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def load(port: int, path: str, clients: int, seconds: int, script: Path, body: Path) -> list[float]:
    """Let wrk post from some clients; return requests/s, p50 and p99 in ms."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    done = subprocess.run(
        [*command, "-s", script, f"http://127.0.0.1:{port}{path}"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"BODY": str(body)},
    ).stdout
    found = [float(match) for match in re.findall(r"Requests/sec:\s+([\d.]+)", done)]
    for share in ("50%", "99%"):
        (match,) = re.findall(rf"{share}\s+([\d.]+)(us|ms|s|m)\b", done)
        found.append(float(match[0]) * UNITS[match[1]])
    if failed := re.findall(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", done):
        # A refusal is quick: its rate would say nothing.
        sys.exit(f"Port {port}, {clients} clients: {'; '.join(failed)}. Nothing was recorded.")
    return found


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def servers(model: Path) -> dict[str, tuple[list[str | Path], str, str]]:
    """Name each server: how it starts (a port is added), where it is posted to, its health."""
    serve: list[str | Path] = [sys.executable, "-m", "tellapart", "serve", model]
    here = Path(__file__)
    plain: list[str | Path] = [sys.executable, here.with_name("_plain_servers.py")]
    found = {
        "tellapart": ([*serve, "--rate", "0", "--port"], "/v1/predict", "/healthz"),
        "plain handler": (plain, "/predict", "/health"),
    }
    try:
        import litserve  # noqa: F401 (only whether it is there)
    except ImportError:
        print("Left out: litserve is not installed (pip install '.[bench]').", file=sys.stderr)
    else:
        lit: list[str | Path] = [sys.executable, here.with_name("_litserve_server.py")]
        found["LitServe"] = (lit, "/predict", "/health")
    return found


def measure(model: Path, picture: Path, repeats: int, seconds: int) -> dict[str, list[float]]:
    """Load each server from each number of clients, in turns."""
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "post.lua"
        script.write_text(LUA)
        for _ in range(repeats):
            turn: dict[tuple[str, int], list[float]] = {}
            for server, (command, path, health) in servers(model).items():
                body = folder / server
                body.write_bytes(form(picture.read_bytes(), "file"))
                port = free_port()
                with running([*command, str(port)], port, health, folder):
                    load(port, path, 8, 2, script, body)  # warms up
                    for clients in CLIENTS:
                        print(f"{server}, {clients} clients ...", file=sys.stderr)
                        turn[server, clients] = load(port, path, clients, seconds, script, body)
                        print(turn[server, clients], file=sys.stderr)
            for (server, clients), values in turn.items():
                if not values[0]:
                    print(f"{server} answered {clients} clients nothing in time.", file=sys.stderr)
                    continue
                where = f"{clients} clients: {server}"
                names = ("requests/s", "p50 ms", "p99 ms")
                for what, value in zip(names, values, strict=True):
                    found[f"{where}, {what}"].append(value)
                if server != "tellapart":
                    ours = turn["tellapart", clients]
                    found[f"{clients} clients: tellapart / {server}, requests/s"].append(
                        ours[0] / values[0]
                    )
                    found[f"{clients} clients: tellapart / {server}, p99"].append(
                        ours[2] / values[2]
                    )
    return found


def main() -> None:
    given = options(__doc__, n=SECONDS, n_means="seconds a load", quick_n=2, repeats=3)
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed (Debian: apt-get install wrk).")
    photos = data_folder("hymenoptera")
    machine = describe()
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.tellapart"
        train = tellapart("train", photos, "-o", model, "--recipe", "fast", "--quiet")
        timed(train, TELLAPART_CACHE=name, TELLAPART_RUNS=f"{name}/runs")
        pictures = sorted(photos.rglob("*.jpg"), key=lambda path: abs(path.stat().st_size - 29_000))
        found = measure(model, pictures[0], given.repeats, given.n)
    least = {f"{n} clients: tellapart / plain handler, requests/s": 6.0 for n in (8, 64)}
    most = {f"{n} clients: tellapart / plain handler, p99": 1.0 for n in (8, 64)}
    figures = [
        Figure(name, values, at_least=least.get(name), at_most=most.get(name))
        for name, values in found.items()
    ]
    report("serving", machine, given, figures)


if __name__ == "__main__":
    main()
