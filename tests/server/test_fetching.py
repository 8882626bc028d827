"""Pictures by URL: only where the operator allows it, and nothing else of the network."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tellapart.errors import BadHosts
from tellapart.server.settings import Limits, Settings


def by_url(client: httpx.Client, *urls: str, path: str = "/v1/predict", **data: Any) -> Any:
    """Ask about pictures at URLs, in a form."""
    form = [("url", (None, url)) for url in urls]
    return client.post(path, files=form, data=data)


@pytest.fixture
def pictures(web: Any, colours: Path) -> Any:
    """The colours on a server of this machine."""
    for name in ("red", "green", "blue"):
        web.pages[f"/{name}.png"] = (colours / f"{name}.png").read_bytes()
    return web


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow addresses of this machine."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")


def host(web: Any) -> str:
    """The server as it is allowed: with its port."""
    return str(web.url.removeprefix("http://"))


def test_by_default_nothing_is_fetched(serving: Any, pictures: Any, private: None) -> None:
    """403, and the network is left alone."""
    with serving() as client:
        refused = by_url(client, f"{pictures.url}/red.png")
    assert (refused.status_code, refused.json()["error"]) == (403, "no_urls")
    assert pictures.asked == []


def test_urls_and_files_are_answered_in_the_order_of_the_form(
    serving: Any, pictures: Any, colours: Path, private: None
) -> None:
    """A picture by URL is one like any other; its name shows no query, which may be secret."""
    with serving(allow_urls=(host(pictures),)) as client:
        form = [
            ("url", (None, f"{pictures.url}/red.png?key=secret")),
            ("file", ("b.png", (colours / "blue.png").read_bytes())),
            ("url", (None, f"{pictures.url}/green.png")),
        ]
        answers = client.post("/v1/predict", files=form).json()["answers"]
        assert [one["label"] for one in answers] == ["red", "blue", "green"]
        assert [one["file"] for one in answers] == [
            f"{pictures.url}/red.png",
            "b.png",
            f"{pictures.url}/green.png",
        ]
        url = f"{pictures.url}/red.png"
        audit = by_url(client, url, path="/v1/audit", declared="red").json()
        assert audit["verdict"] == "match"
        assert client.get("/v1/audits").json()[0]["file_name"] == url


def test_hosts_that_were_not_allowed_are_not_asked(
    serving: Any, pictures: Any, private: None
) -> None:
    """Another host, another port, another scheme, and a redirect to one: refused alike."""
    pictures.pages["/out"] = lambda h: h.send(b"", 302, Location="http://127.0.0.1:9/red.png")
    port = host(pictures).partition(":")[2]
    with serving(allow_urls=(host(pictures), "images.example")) as client:
        for url in (
            f"http://localhost:{port}/red.png",
            "http://127.0.0.1/red.png",
            "http://images.example:8080/red.png",
            "ftp://images.example/red.png",
            "file:///etc/passwd",
            f"{pictures.url}/out",
        ):
            refused = by_url(client, url)
            assert (refused.status_code, refused.json()["error"]) == (422, "not_fetched"), url
            assert refused.json()["message"] == (
                f"1 of 1 pictures could not be fetched: {url} is not at an address that this "
                f"server may ask. Nothing was computed."
            )
    assert pictures.asked == ["/out"]


def test_private_addresses_are_refused_whatever_they_are_called(
    serving: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every host allowed, none of them may mean this machine; and no message says which."""
    real = socket.getaddrinfo

    def known(name: Any, *args: Any, **kwargs: Any) -> Any:
        return real("10.0.0.7" if name == "inside.example" else name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.delenv("TELLAPART_ALLOW_PRIVATE", raising=False)
    port = host(pictures).partition(":")[2]
    with serving(allow_urls=("*", f"*:{port}")) as client:
        for url in (
            f"{pictures.url}/red.png",
            f"http://localhost:{port}/red.png",
            f"http://[::ffff:127.0.0.1]:{port}/red.png",
            f"http://2130706433:{port}/red.png",
            "http://169.254.169.254/latest/meta-data",
            "http://inside.example/",
        ):
            message = by_url(client, url).json()["message"]
            assert "is not at an address that this server may ask" in message, url
            assert "10.0.0.7" not in message
    assert pictures.asked == []


def test_a_name_that_changes_its_meaning_is_looked_up_once(
    serving: Any, pictures: Any, private: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was checked is the one that is asked: rebinding leads nowhere."""
    real, lookups = socket.getaddrinfo, []

    def rebinding(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name != "rebinding.example":
            return real(name, *args, **kwargs)
        lookups.append(name)
        return real("127.0.0.1" if len(lookups) == 1 else "127.0.0.2", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = host(pictures).partition(":")[2]
    with serving(allow_urls=(f"rebinding.example:{port}",)) as client:
        answer = by_url(client, f"http://rebinding.example:{port}/red.png").json()
    assert answer["answers"][0]["label"] == "red"
    assert lookups == ["rebinding.example"]


def test_slow_and_huge_answers_are_given_up(
    serving: Any, pictures: Any, private: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that drips and one without an end take no more time and memory than is allowed."""

    def drip(handler: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            for _ in range(100):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return

    def endless(handler: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                handler.wfile.write(bytes(65536))
        except OSError:
            return

    pictures.pages |= {"/drip": drip, "/endless": endless}
    monkeypatch.setattr("tellapart.server.fetching.TOTAL_S", 0.5)
    urls = [f"{pictures.url}/{name}" for name in ("drip", "endless", "gone", "red.png")]
    with serving(allow_urls=(host(pictures),), limits=Limits(picture_mb=1)) as client:
        start = time.monotonic()
        refused = by_url(client, *urls, path="/v1/audit", declared="red")
        assert time.monotonic() - start < 4
        assert client.get("/v1/audits").json() == []
    assert refused.json()["message"] == (
        f"3 of 4 pictures could not be fetched: {urls[0]} took longer than 0.5 s; {urls[1]} is "
        f"larger than 1 MB; {urls[2]} answers 404 Not Found. Nothing was computed."
    )


def test_what_is_fetched_counts_towards_a_requests_size(
    serving: Any, pictures: Any, private: None
) -> None:
    """A short request must not make the server hold more than a long one may."""
    pictures.pages["/large"] = bytes(900_000)
    limits = Limits(picture_mb=1, request_mb=2)
    with serving(allow_urls=(host(pictures),), limits=limits) as client:
        refused = by_url(client, *[f"{pictures.url}/large"] * 4)
        assert (refused.status_code, refused.json()["error"]) == (413, "too_large")
        assert by_url(client, f"{pictures.url}/red.png").status_code == 200


def test_hosts_that_are_none_are_told_before_the_start(format_1: Path) -> None:
    """A URL, a path or nothing is no host."""
    with pytest.raises(BadHosts) as error:
        Settings((format_1,), "sqlite://", allow_urls=("https://a.org", "a.org/b", "", "b.org"))
    assert str(error.value) == (
        "https://a.org, a.org/b,  cannot be allowed; expected hosts such as images.example.org, "
        "images.example.org:8443, *.example.org (all below it), or * (all). Nothing was started. "
        "Correct --allow-urls or --callbacks."
    )
