"""What strangers send: bombs, halves, impostors, floods, and nothing at all for a long time."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tellapart.server import protocol
from tellapart.server.settings import Limits


def png_bomb(side_px: int) -> bytes:
    """A PNG of a few kilobytes that claims a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg(side_px: int = 64, **how: Any) -> bytes:
    """A small JPEG."""
    target = io.BytesIO()
    Image.new("RGB", (side_px, side_px), "red").save(target, "JPEG", **how)
    return target.getvalue()


def scan_bomb() -> bytes:
    """A progressive JPEG whose last scan is repeated thousands of times."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 5000 + data[-2:]


HOSTILE = {
    "png bomb": (png_bomb(30_000), "is 30000 x 30000 px, larger than 50 megapixels"),
    "jpeg of more pixels than allowed": (
        jpeg(64)[:-2].replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 60000, 60000)),
        "is 60000 x 60000 px, larger than 50 megapixels",
    ),
    "scan bomb": (scan_bomb(), "has more than 200 scans, which no camera writes"),
    "truncated": (jpeg()[:300], "is cut off or damaged"),
    "empty": (b"", "is empty (0 bytes)"),
    "polyglot of page and picture": (b"<html><script>x</script>" + jpeg(), "is a web page"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    "archive": (b"PK\x03\x04" + bytes(100), "is a ZIP archive"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a picture in any format"),
    "noise": (bytes(range(1, 256)) * 20, "is not a picture in any format"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_picture_is_told_apart_quickly(serving: Any, name: str) -> None:
    """Each is answered with what it is, before much of it is decoded."""
    data, reason = HOSTILE[name]
    with serving() as client:
        began = time.monotonic()
        answer = client.post("/v1/predict", files=[("file", ("../../etc/passwd", data))])
        assert time.monotonic() - began < 5
        assert (answer.status_code, answer.json()["error"]) == (422, "unreadable")
        assert reason in answer.json()["message"]


def test_too_much_is_refused(serving: Any) -> None:
    """Too large a picture, too large a request, too many pictures, each with its own word."""
    limits = Limits(picture_mb=0.01, request_mb=0.05, pictures=3)
    kind = {"Content-Type": "image/jpeg"}
    with serving(limits=limits) as client:
        large = client.post("/v1/predict", content=bytes(20_000), headers=kind)
        assert large.json()["message"] == "A picture may have 0.01 MB, and one is larger."
        whole = client.post("/v1/predict", content=bytes(60_000), headers=kind)
        assert whole.status_code == 413

        def unannounced() -> Any:
            for _ in range(60):
                yield bytes(1000)

        chunked = client.post("/v1/predict", content=unannounced(), headers=kind)
        assert (chunked.status_code, chunked.json()["error"]) == (413, "too_large")
        many = client.post("/v1/predict", files=[("file", ("a", jpeg()))] * 4)
        assert (many.status_code, many.json()["error"]) == (413, "too_many")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"hello", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n", 400),
        ("multipart/form-data; boundary=b", b"", 422),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="path"\r\n\r\n/etc/passwd\r\n--b--\r\n',
            422,
        ),
    ],
)
def test_odd_bodies_are_refused(serving: Any, kind: str, body: bytes, status: int) -> None:
    """Wrong types, broken forms and unknown fields are the client's mistakes, not the server's."""
    with serving() as client:
        answer = client.post("/v1/predict", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error", "message", "request_id"}


def talk(url: Any, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes over a bare socket and read until the server has had enough."""
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            connection.settimeout(20)
            return connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b"closed"


def test_headers_are_bounded_in_size_and_time(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Huge headers and headers that never end close the connection; others are not disturbed."""
    monkeypatch.setattr(protocol, "HEADERS_S", 0.5)
    with serving() as client:
        huge = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000
        assert talk(client.base_url, huge)[:12] in (b"HTTP/1.1 431", b"closed")
        began = time.monotonic()
        slow = talk(client.base_url, b"GET /healthz HT")
        assert (slow[:12], time.monotonic() - began < 10) == (b"HTTP/1.1 408", True)
        assert talk(client.base_url, b"\x16\x03\x01nonsense\r\n\r\n")[:12] == b"HTTP/1.1 400"
        assert client.get("/healthz").status_code == 200


def test_a_body_that_comes_too_slowly_is_given_up(serving: Any) -> None:
    """A sender who stops in the middle gets 408, and holds nothing."""
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Content-Length: 1000\r\n\r\n"
    )
    with serving(limits=Limits(upload_s=0.5)) as client:
        assert talk(client.base_url, head, b"abc")[:12] == b"HTTP/1.1 408"
        assert client.get("/healthz").status_code == 200


def test_a_name_of_a_file_is_never_a_path(serving: Any, colours: Path) -> None:
    """Signs that a terminal or a database could stumble over are replaced in names."""
    form = [("file", ("../\u202ex\x1b[31m.png", (colours / "red.png").read_bytes()))]
    with serving() as client:
        client.post("/v1/audit", files=form, data={"declared": "red"})
        (record,) = client.get("/v1/audits").json()
    assert record["file_name"].isprintable()
