"""Addresses of stores: read in parts, written whole, tried again, and refused in words."""

from __future__ import annotations

import os
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tellapart import stores
from tellapart.errors import BadAddress, MissingExtra, NotWritable, StoreNotReached, StoreRefused
from tellapart.files import check_writable, local_copy, replacing, write_atomically
from tellapart.stores import Address, asking, is_address, place, shown


def test_an_address_stays_itself_through_pathlib() -> None:
    """Taken apart and put together it keeps its slashes, also where a Path had taken one."""
    address = place(Path("s3://bucket/photos/cat"))
    assert isinstance(address, Address)
    assert str(address / "1.jpg") == "s3://bucket/photos/cat/1.jpg"
    assert str(address.parent.with_name("x.tellapart")) == "s3://bucket/x.tellapart"
    assert os.fspath(address.absolute()) == "s3://bucket/photos/cat"
    assert [is_address(one) for one in ("s3:/a/b", "/a/s3:/b", "c:/a", "a/b.jpg")] == [
        True,
        False,
        False,
        False,
    ]
    assert place("file:///tmp/x") == Path("/tmp/x")


def test_secrets_of_an_address_are_not_shown() -> None:
    """A signature in a query is left out, other queries are not."""
    signed = "https://host/a.tar?X-Amz-Signature=abc&X-Amz-Date=1"
    assert shown(signed) == "https://host/a.tar?…"
    assert shown("https://host/a.tar?version=2") == "https://host/a.tar?version=2"


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        (
            "ftp://host/x",
            BadAddress,
            "ftp://host/x begins with ftp://, which is not known. Expected a path on this machine, "
            "or s3://, s3a://, gs://, gcs://, az://, abfs://, abfss://, hdfs://, http://, "
            "https://. Nothing was read or written. Copy it to one of these first.",
        ),
        (
            "s3://key:hidden@bucket/x",
            BadAddress,
            "An address of s3:// has a password in it, where it would be seen in lists of commands "
            "and in logs. Expected credentials in the environment, where the store's own tools "
            "look for them. Nothing was read or written. Take it out; docs/storage.md names the "
            "variables.",
        ),
    ],
)
def test_what_is_no_address_to_use(address: str, error: type[Exception], words: str) -> None:
    """An unknown scheme and a password are refused, and the password is not repeated."""
    with pytest.raises(error) as raised:
        stores.info(address)
    assert str(raised.value) == words


def test_a_file_is_written_whole_and_read_in_parts(store: object, tmp_path: Path) -> None:
    """Several parts go up and come back, from any place; no upload is left over."""
    data = os.urandom(12_000_000)
    address = place(f"{store.address}/deep/data.bin")
    check_writable(address)
    assert store.names() == []
    write_atomically(address, data)
    assert stores.read(address) == store.get("deep/data.bin") == data
    with stores.open_read(address) as file:
        file.seek(9_000_000)
        assert file.read(100) == data[9_000_000:9_000_100]
        file.seek(0)
        assert file.read() == data
    assert [(one.name, one.folder) for one in stores.listed(store.address)] == [("deep", True)]
    assert stores.info(f"{store.address}/none") is None
    assert store.uploads() == []


def test_a_failing_write_leaves_what_was_there(store: object) -> None:
    """An upload whose parts do not arrive is taken back, and the old file stays."""
    store.put("data.bin", b"old")
    address = place(f"{store.address}/data.bin")
    with pytest.raises(RuntimeError), replacing(address) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    # Begun, its part dropped, three times; taking back is let through.
    store.line.always["PUT"] = "drop"
    with pytest.raises(StoreNotReached):
        write_atomically(address, os.urandom(6_000_000))
    assert store.get("data.bin") == b"old"
    assert store.uploads() == []


@pytest.mark.parametrize("fault", ["drop", "cut", "hang"])
def test_a_broken_connection_is_made_again(store: object, fault: str) -> None:
    """Twice dropped, cut off or left hanging: the third try brings the whole file."""
    data = os.urandom(100_000)
    address = store.put("data.bin", data)
    store.line.faults.extend([fault, fault])
    assert stores.read(address) == data


def test_a_connection_that_stays_broken_is_an_error(store: object) -> None:
    """After the last try it says so; after many such files the store is asked no more."""
    address = store.put("data.bin", b"x" * 1000)
    store.line.always["GET"] = "cut"
    with pytest.raises(StoreNotReached) as raised:
        stores.read(address)
    assert str(raised.value).startswith(f"{address} could not be reached: ")
    assert str(raised.value).endswith(
        ". Expected an answer within 1 s; it was tried 3 times. What was done before that is kept. "
        "Check the network and the address, then repeat the command."
    )
    assert not raised.value.given_up
    for _ in range(asking.LIMITS.misses - 1):
        with pytest.raises(StoreNotReached):
            stores.read(address)
    n_asked = len(store.line.asked)
    with pytest.raises(StoreNotReached) as raised:
        stores.read(address)
    assert raised.value.given_up
    assert len(store.line.asked) == n_asked


def test_no_bucket_to_write_into(store: object) -> None:
    """It is said before any work is done."""
    with pytest.raises(NotWritable) as raised:
        check_writable(place("s3://no-such-bucket/x.csv"))
    assert str(raised.value) == (
        "s3://no-such-bucket/x.csv could not be written: there is no such bucket or container (The "
        "specified bucket does not exist). Nothing was written. Make it, or choose another place "
        "with -o."
    )


def test_without_credentials(store: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where they are looked for, and prints none."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    asking._talker.cache_clear()
    with pytest.raises(StoreRefused) as raised:
        stores.read(f"{store.address}/x")
    asking._talker.cache_clear()
    assert str(raised.value) == (
        f"{store.address}/x may not be used: Unable to locate credentials. Expected credentials "
        f"that allow it, where the store's own tools look for them: AWS_ACCESS_KEY_ID and "
        f"AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (of an open bucket: FSSPEC_S3_ANON=true). Nothing "
        f"was read or written. Set them, or check the address."
    )


def test_without_what_talks_to_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the install that brings it is named."""
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    asking._talker.cache_clear()
    with pytest.raises(MissingExtra) as raised:
        stores.info("gs://bucket/x")
    assert str(raised.value).endswith("Install it with: pip install 'tellapart[gs]'")


def test_a_copy_is_made_anew_only_when_the_file_changed(store: object) -> None:
    """What the store says of a file decides; the second time its bytes are not asked for."""
    address = place(store.put("a.tellapart", b"first"))
    assert local_copy(address).read_bytes() == b"first"
    store.line.asked.clear()
    assert local_copy(address).read_bytes() == b"first"
    assert not any(one.startswith("GET") and "a.tellapart" in one for one in store.line.asked)
    store.put("a.tellapart", b"second")
    assert local_copy(address).read_bytes() == b"second"


def _page(data: bytes, ranges: bool) -> object:
    def answer(handler: SimpleHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range") if ranges else None
        if wanted is None:
            handler.send(data, ETag="one")
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last or len(data)) + 1]
        about = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        handler.send(part, 206, Content_Range=about, ETag="one")

    return answer


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_of_pages(web: object, monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    """Files are read in any order, also where the server knows no parts of files."""
    monkeypatch.setenv("TELLAPART_ALLOW_PRIVATE", "1")
    asking._talker.cache_clear()
    data = os.urandom(300_000)
    web.pages["/a.tar"] = _page(data, ranges)
    address = f"{web.url}/a.tar"
    assert stores.has_ranges(address) is ranges
    with stores.open_read(address) as file:
        assert file.read(10) == data[:10]
        file.seek(250_000)
        assert file.read(10) == data[250_000:250_010]
        file.seek(5)
        assert file.read() == data[5:]
    with pytest.raises(BadAddress, match="servers of pages take no files"):
        stores.check_writable(address)


def test_private_addresses_are_not_asked(web: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for pictures of the web: only where the user allows it."""
    monkeypatch.delenv("TELLAPART_ALLOW_PRIVATE", raising=False)
    asking._talker.cache_clear()
    asking._misses.clear()
    with pytest.raises(BadAddress) as raised:
        stores.info(f"{web.url}/a.tar")
    assert str(raised.value) == (
        "An address leads to 127.0.0.1, which belongs to this machine or to a private network. "
        "Expected one of the internet. Nothing was read. Set TELLAPART_ALLOW_PRIVATE=1 to allow it."
    )
    assert web.asked == []
    asking._misses.clear()
