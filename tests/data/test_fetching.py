"""Files from the network, against a real server on loopback that is slow, broken and lies."""

from __future__ import annotations

import email.utils
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tellapart.data.addresses import checked_addresses, is_url, place_of
from tellapart.data.fetching import (
    Fetcher,
    Limits,
    check_picture,
    fetch_all,
    fetched,
    kept,
)
from tellapart.errors import NotFetched, UnreadablePicture
from tellapart.progress import Progress
from tellapart.stores.addresses import is_public

# Short enough that a test of what is slow takes half a second.
QUICK = Limits(
    connect_s=2, read_s=0.4, total_s=1.2, size_mb=0.3, retry_s=0.02, longest_wait_s=2, pause_s=0
)
ONCE = Limits(
    connect_s=2, read_s=0.4, total_s=0.8, size_mb=0.3, tries=1, longest_wait_s=2, pause_s=0
)


def refused(web: Any, path: str, limits: Limits = ONCE) -> tuple[str, str]:
    """Why a path is not fetched: the kind, and the words."""
    with pytest.raises(NotFetched) as error:
        Fetcher(limits, allow_private=True).get(web.url + path)
    return error.value.kind, str(error.value)


def raw(*blocks: bytes, pause_s: float = 0.0) -> Callable[[Any], None]:
    """A page that writes these bytes as they are, head included, and hangs up."""

    def page(handler: Any) -> None:
        handler.close_connection = True
        try:
            for block in blocks:
                handler.wfile.write(block)
                handler.wfile.flush()
                time.sleep(pause_s)
        except OSError:
            return

    return page


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
        ("not an address", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Loopback, private, link-local and multicast ones are not, however they are wrapped."""
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_private_addresses_are_refused(host: str, web: Any) -> None:
    """However this machine is written, it is not asked: the server hears nothing."""
    port = web.url.rpartition(":")[2]
    with pytest.raises(NotFetched) as error:
        Fetcher(ONCE, allow_private=False).get(f"http://{host}:{port}/a.jpg")
    assert error.value.kind == "address"
    assert "belongs to this machine or to a private network" in str(error.value)
    assert web.asked == []


def test_the_checked_address_is_the_one_that_is_asked(
    web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address a moment later changes nothing: it is looked up once."""
    web.pages["/a"] = b"here"
    lookups = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebinding.example":
            lookups.append(host)
            # The second answer leads to a port of this machine where nobody listens.
            return real("127.0.0.1" if len(lookups) == 1 else "127.0.0.2", *args, **kwargs)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = web.url.rpartition(":")[2]
    url = f"http://rebinding.example:{port}/a"
    assert Fetcher(ONCE, allow_private=True).get(url) == b"here"
    assert lookups == ["rebinding.example"]
    assert web.headers[0]["Host"] == f"rebinding.example:{port}"


def test_one_private_address_among_several_refuses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with a public and a private address is not asked at all."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        for address in ("93.184.215.14", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(NotFetched, match=r"leads to 10\.0\.0\.1, which belongs to"):
        checked_addresses(place_of("http://both.example/"), private_too=False)


def test_private_addresses_by_the_environment(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TELLAPART_ALLOW_PRIVATE=1 allows them to what has no option for it."""
    web.pages["/a"] = b"here"
    for value, allowed in (("0", False), ("", False), ("1", True)):
        monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", value)
        if allowed:
            assert Fetcher(ONCE).get(f"{web.url}/a") == b"here"
        else:
            with pytest.raises(NotFetched, match="belongs to this machine"):
                Fetcher(ONCE).get(f"{web.url}/a")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://h/a.jpg", "leads to ftp://h/a.jpg, which is neither http nor https"),
        ("file:///etc/passwd", "leads to file:///etc/passwd, which is neither http nor https"),
        ("http://", "is no URL that can be understood"),
        ("http://[::1/a", "is no URL that can be understood (Invalid IPv6 URL)"),
        ("http://h:99999/", "is no URL that can be understood (Port out of range 0-65535)"),
        ("http://h/a\r\nX: y", "is no URL that can be understood"),
        ("http://me:secret@h/a.jpg", "names a user, and no passwords are sent"),
    ],
)
def test_urls_that_are_none(url: str, said: str) -> None:
    """They are refused before anything is looked up, with the reason."""
    with pytest.raises(NotFetched) as error:
        place_of(url)
    assert (error.value.kind, str(error.value)) == ("address", said)


def test_urls_are_escaped() -> None:
    """What is not ASCII is escaped; what is escaped already, and the query, stay."""
    place = place_of("https://bücher.example/Größe b%20c.jpg?q=ä&x=1#part")
    assert (place.host, place.port, place.secure) == ("xn--bcher-kva.example", 443, True)
    assert place.target == "/Gr%C3%B6%C3%9Fe%20b%20c.jpg?q=%C3%A4&x=1"
    assert place_of("http://h:8080").named == "h:8080"
    assert place_of("http://[2606:2800::1]/a").named == "[2606:2800::1]"
    assert [is_url(text) for text in ("HTTP://h", "https:/h", "a/http://h", "")] == [
        True, False, False, False,
    ]  # fmt: skip


def test_a_file_and_who_asks_for_it(web: Any) -> None:
    """The bytes come as they are; the server is told truthfully who asks, and whom to write to."""
    web.pages["/ä b.jpg".encode().decode("latin-1")] = b""
    web.pages["/%C3%A4%20b.jpg"] = bytes(range(256)) * 300
    found = Fetcher(ONCE, True, "me@example.org\r\nX: y").get(f"{web.url}/ä b.jpg")
    assert found == bytes(range(256)) * 300
    agent = web.headers[0]["User-Agent"]
    assert agent.startswith("tellapart/")
    assert agent.endswith("(fetches labelled pictures for one person; me@example.org X: y)")
    assert "Cookie" not in web.headers[0]
    assert web.headers[0]["Accept-Encoding"] == "identity"


# Packed beforehand: on a busy machine the packing alone takes longer than a server may be silent.
BOMB = gzip.compress(bytes(50_000_000))

LIES = {
    "/404": (lambda h: h.send(b"", 404), "gone", "answers 404 Not Found"),
    "/403": (lambda h: h.send(b"", 403), "refused", "answers 403 Forbidden"),
    "/204": (lambda h: h.send(b"", 204), "refused", "answers 204 No Content"),
    "/500": (lambda h: h.send(b"", 500), "server error", "answers 500 Internal Server Error"),
    "/moved": (
        lambda h: h.send(b"", 301),
        "refused",
        "answers 301 Moved Permanently",
    ),
    "/short": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"half"),
        "cut off",
        "is cut off: 4 bytes arrived, 96 were missing",
    ),
    "/chunks": (
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nab"),
        "cut off",
        "is cut off: 2 bytes arrived, 3 were missing",
    ),
    "/nothing": (raw(b""), "cut off", "is cut off (Remote end closed connection without response)"),
    "/nonsense": (raw(b"SSH-2.0-x\r\n\r\n"), "cut off", "is cut off (SSH-2.0-x)"),
    "/declared": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99000000000\r\n\r\n"),
        "too large",
        "is larger than 0.3 MB",
    ),
    "/endless": (
        raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 40),
        "too large",
        "is larger than 0.3 MB",
    ),
    "/bomb": (
        lambda h: h.send(BOMB, Content_Encoding="gzip"),
        "too large",
        "is larger than 0.3 MB",
    ),
    "/badly-packed": (
        lambda h: h.send(b"not packed", Content_Encoding="gzip"),
        "cut off",
        "arrived packed in a way that is damaged",
    ),
    "/brotli": (
        lambda h: h.send(b"x", Content_Encoding="br"),
        "not a picture",
        "is packed as br, which was not asked for",
    ),
    "/silent": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", pause_s=0.7),
        "too slow",
        "sent nothing for 0.4 s",
    ),
    "/dripping": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 40, pause_s=0.1),
        "too slow",
        "took longer than 0.8 s",
    ),
    "/dripping-without-length": (
        raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 40, pause_s=0.1),
        "too slow",
        "took longer than 0.8 s",
    ),
    "/dripping-head": (
        raw(b"HTTP/1.1 200 OK\r\n", *[b"X"] * 40, pause_s=0.1),
        "too slow",
        "took longer than 0.8 s",
    ),
    "/to-file": (
        lambda h: h.send(b"", 302, Location="file:///etc/passwd"),
        "address",
        "leads to file:///etc/passwd, which is neither http nor https",
    ),
    "/to-ftp": (
        lambda h: h.send(b"", 302, Location="ftp://h/a"),
        "address",
        "leads to ftp://h/a, which is neither http nor https",
    ),
    "/loop": (
        lambda h: h.send(b"", 302, Location="/loop"),
        "redirects",
        "redirects more than 5 times",
    ),
    "/to-nowhere": (
        lambda h: h.send(b"", 302, Location="http://nowhere.invalid/"),
        "unreachable",
        "has a host that is not known",
    ),
    "/wait-long": (
        lambda h: h.send(b"", 429, Retry_After="3600"),
        "busy",
        "answers 429 Too Many Requests, come back in 3600 s",
    ),
}


@pytest.mark.parametrize("path", list(LIES))
def test_what_servers_do_wrong(path: str, web: Any) -> None:
    """Each is refused in bounded time and memory, under a kind and with words of its own."""
    web.pages[path], kind, said = LIES[path]
    start = time.monotonic()
    found = refused(web, path)
    assert found == (kind, said + found[1][len(said) :])
    assert time.monotonic() - start < 3


def test_a_redirect_to_a_private_address(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hop is looked up and checked anew, not the first alone."""
    web.pages["/out"] = lambda h: h.send(b"", 302, Location="http://inside.example/secret")
    real = socket.getaddrinfo

    def known(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real("10.0.0.7" if host == "inside.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    # As if loopback were a public address: only what the redirect leads to is private.
    monkeypatch.setattr(
        "tellapart.data.addresses.is_public", lambda one: one == "127.0.0.1" or is_public(one)
    )
    with pytest.raises(NotFetched, match=r"leads to 10\.0\.0\.7, which belongs to"):
        Fetcher(ONCE, allow_private=False).get(f"{web.url}/out")


def test_good_redirects(web: Any) -> None:
    """Relative and absolute ones are followed, also those that do not escape their letters."""
    web.pages |= {
        "/1": lambda h: h.send(b"", 301, Location="2?x=1"),
        "/2": lambda h: h.send(b"", 307, Location=f"{web.url}/ä".encode().decode("latin-1")),
        "/%C3%A4": b"there",
    }
    assert Fetcher(ONCE, True).get(f"{web.url}/1") == b"there"


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_packed_without_being_asked(packed: str, web: Any) -> None:
    """What a server packs nevertheless is unpacked."""
    pack = gzip.compress if packed == "gzip" else zlib.compress
    web.pages["/a"] = lambda h: h.send(pack(b"b" * 100_000), Content_Encoding=packed)
    assert Fetcher(ONCE, True).get(f"{web.url}/a") == b"b" * 100_000


def failing(times: int, then: bytes, status: int = 500, **headers: str) -> Callable[[Any], None]:
    """A page that fails so often first."""
    left = [times]

    def page(handler: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            handler.send(b"", status, **headers)
        else:
            handler.send(then)

    return page


def test_what_passes_is_tried_again(web: Any) -> None:
    """Errors of a server and cut off answers are, three times in all; what is gone is not."""
    web.pages["/a"] = failing(2, b"good")
    assert Fetcher(QUICK, True).get(f"{web.url}/a") == b"good"
    web.pages["/b"] = failing(3, b"good")
    assert refused(web, "/b", QUICK) == ("server error", "answers 500 Internal Server Error")
    refused(web, "/c", QUICK)
    assert [web.asked.count(path) for path in ("/a", "/b", "/c")] == [3, 3, 1]


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_server_that_asks_to_wait(kind: str, web: Any) -> None:
    """It is left alone for as long as it says, in seconds or as a date, for all of its files."""
    after = "1" if kind == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    web.pages["/a"] = failing(1, b"good", 429, Retry_After=after)
    times: list[float] = []
    web.pages["/b"] = lambda h: (times.append(time.monotonic()), h.send(b"other"))
    fetcher = Fetcher(QUICK, True)
    start = time.monotonic()
    first = threading.Thread(target=fetcher.get, args=(f"{web.url}/a",))
    first.start()
    time.sleep(0.3)
    assert fetcher.get(f"{web.url}/b") == b"other"
    first.join()
    assert times[0] - start > 0.8
    assert web.asked.count("/a") == 2


def test_no_more_at_once_than_allowed(web: Any) -> None:
    """One host is asked for two files at a time, with a pause between the starts."""

    now, most = [0], [0]

    def slow(handler: Any) -> None:
        with web.lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        with web.lock:
            now[0] -= 1
        handler.send(b"x")

    urls = [f"{web.url}/{number}" for number in range(8)]
    web.pages |= {f"/{number}": slow for number in range(8)}
    limits = Limits(pause_s=0.05, per_host=2)
    start = time.monotonic()
    found = dict(Fetcher(limits, True).get_many(urls, lambda _, data: data))
    assert found == dict.fromkeys(urls, b"x")
    assert most == [2]
    assert time.monotonic() - start >= 0.4


def test_a_slow_host_keeps_no_other_waiting(web: Any) -> None:
    """Many pictures of one host that is slow do not hold up those of another."""
    over = threading.Event()
    web.pages |= {f"/{n}": lambda h: (over.wait(5), h.send(b"x")) for n in range(30)}
    web.pages["/quick"] = b"quick"
    port = web.url.rpartition(":")[2]
    urls = [*(f"{web.url}/{n}" for n in range(30)), f"http://localhost:{port}/quick"]
    found = Fetcher(Limits(pause_s=0, at_once=4), True).get_many(urls, lambda _, data: data)
    assert next(found)[1] == b"quick"
    over.set()
    assert len(list(found)) == 30


def test_a_dead_host_is_given_up() -> None:
    """After six misses in a row it is not waited for again."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/{number}" for number in range(10)]
    found = dict(Fetcher(QUICK, True).get_many(urls, lambda _, data: data))
    said = [str(error) for error in found.values()]
    assert sum(one.startswith("has a host that could not be reached") for one in said) >= 7
    assert "cannot be reached (Connection refused)" in said


def test_leaving_hangs_up(web: Any) -> None:
    """Who stops listening, as Ctrl-C does, waits for no server, and nothing more is asked for."""
    web.pages |= {f"/{n}": lambda h: (time.sleep(1.5), h.send(b"x")) for n in range(6)}
    web.pages["/quick"] = b"quick"
    urls = [f"{web.url}/quick", *(f"{web.url}/{n}" for n in range(6))]
    found = Fetcher(Limits(pause_s=0), True).get_many(urls, lambda _, data: data)
    assert next(found)[1] == b"quick"
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 1
    assert len(web.asked) < len(urls)


def test_an_error_of_the_reader_comes_through(web: Any) -> None:
    """What is wrong on this side, such as a full disk, ends the run and is not called a refusal."""
    web.pages["/a"] = b"x"

    def full(url: str, data: bytes) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        list(Fetcher(ONCE, True).get_many([f"{web.url}/a"], full))


def test_the_certificate_is_held_to_the_name(web: Any) -> None:
    """A server that speaks no TLS, or not for this name, is not read from."""
    kind, said = "unreachable", "cannot be reached ("
    with pytest.raises(NotFetched) as error:
        Fetcher(ONCE, True).get(web.url.replace("http:", "https:") + "/a")
    assert error.value.kind == kind
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("fmt", "suffix"),
    [
        ("JPEG", ".jpg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp"), ("BMP", ".bmp"),
        ("TIFF", ".tif"), ("AVIF", ".avif"),
    ],
)  # fmt: skip
def test_suffixes_by_content(fmt: str, suffix: str, scene: Any, encode: Any) -> None:
    """A picture's suffix is what its bytes are, whatever its URL ends in."""
    assert check_picture(encode(scene(), fmt)) == suffix


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_kept_by_url(
    web: Any, own_cache: Path, scene: Any, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is fetched once, under a name that says where it is from and leads nowhere."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    data = encode(scene(), "PNG")
    web.pages["/..%2f..%2fetc/%2e%2e%2fpass%20wd.jpg"] = data
    url = f"{web.url}/..%2f..%2fetc/%2e%2e%2fpass%20wd.jpg"
    assert kept(url) is None
    path = fetched(url)
    assert path.parent == own_cache / "fetched" / "127.0.0.1"
    assert path.name.startswith("pass_wd-")
    assert path.suffix == ".png"
    assert path.read_bytes() == data
    assert fetched(url) == kept(url) == path
    assert len(web.asked) == 1
    web.pages["/b"] = b"<html>"
    with pytest.raises(UnreadablePicture, match="is a web page, not a picture"):
        fetched(f"{web.url}/b")


def test_many_at_once_and_once_each(
    web: Any, own_cache: Path, scene: Any, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is asked for again the next time, what came is not."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    web.pages["/a"] = encode(scene(), "JPEG")
    urls = [f"{web.url}/a", f"{web.url}/b", f"{web.url}/a"]
    files, failed = fetch_all(urls, Progress("quiet"))
    assert list(files) == [f"{web.url}/a"]
    assert {url: error.kind for url, error in failed.items()} == {f"{web.url}/b": "gone"}
    web.pages["/b"] = encode(scene(seed=1), "JPEG")
    files, failed = fetch_all(urls, Progress("quiet"))
    assert (len(files), failed) == (2, {})
    assert sorted(web.asked) == ["/a", "/b", "/b"]
