"""A server that speaks S3, on loopback, behind a line that can be made to fail."""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tellapart.stores import asking


class Line:
    """A real TCP relay to a server. faults: one is taken for each request, in order; always: what
    happens to every request of a verb, such as {"PUT": "drop"}.

    "pass": as it is. "drop": hung up before the request is passed on. "cut": the answer ends after
    300 bytes. "hang": the request is never answered. asked: the first line of each request.
    """

    def __init__(self, port: int) -> None:
        self.faults: deque[str] = deque()
        self.always: dict[str, str] = {}
        self.asked: list[str] = []
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._to))
        cut = threading.Event()
        threading.Thread(target=self._answers, args=(server, client, cut), daemon=True).start()
        with suppress(OSError), client, server:
            while data := client.recv(1 << 16):
                verb = data.split(b" ", 1)[0]
                if verb in (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE"):
                    self.asked.append(data.split(b"\r\n", 1)[0].decode())
                    fault = self.always.get(verb.decode(), "pass")
                    fault = self.faults.popleft() if self.faults else fault
                    if fault == "drop":
                        return
                    if fault == "hang":
                        while client.recv(1 << 16):
                            pass
                        return
                    if fault == "cut":
                        cut.set()
                server.sendall(data)

    @staticmethod
    def _answers(server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if cut.is_set():
                    client.sendall(data[:300])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Store:
    """A bucket, s3://BUCKET, and the line to it. client: boto3's, which does not use that line."""

    bucket: str
    line: Line
    client: Any

    @property
    def address(self) -> str:
        """The address of the bucket."""
        return f"s3://{self.bucket}"

    def put(self, name: str, data: bytes) -> str:
        """Put an object; return its address."""
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)
        return f"{self.address}/{name}"

    def put_folder(self, folder: Path, name: str) -> str:
        """Put all files below a folder; return the address of the folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.address}/{name}"

    def get(self, name: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read())

    def names(self, prefix: str = "") -> list[str]:
        """List the objects."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", ())]

    def uploads(self) -> list[Any]:
        """List uploads that were begun and neither ended nor taken back."""
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ()))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[Line, Any]]:
    """The server, and short limits, so that failing takes no time."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    line = Line(port)
    keys = {"AWS_ACCESS_KEY_ID": "AKIDOFTHETESTS", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
        patch.setattr(asking, "LIMITS", asking.Limits(2, 1, 5, tries=3, wait_s=0.02, misses=4))
        asking._talker.cache_clear()
        yield line, client
        asking._talker.cache_clear()
    client.close()
    line.close()
    server.stop()


@pytest.fixture
def store(s3_server: tuple[Line, Any], request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty bucket of this test's own; nothing is failing."""
    line, client = s3_server
    line.faults.clear()
    line.asked.clear()
    asking._misses.clear()
    name = f"test-{abs(hash(request.node.name)) % 10**10}"
    client.create_bucket(Bucket=name)
    yield Store(name, line, client)
    line.faults.clear()
    line.always.clear()
