"""Files that cannot have changed are not read again; whatever may have changed is."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.backbones.cache import kept_items
from tellapart.data import hashing
from tellapart.data.hashing import hash_files
from tellapart.progress import Progress

pytestmark = pytest.mark.skipif(not hashing.KEEPS, reason="nothing is kept on this system")

QUIET = Progress("quiet")

_opened: list[str] = []
sys.addaudithook(
    lambda event, args: _opened.append(str(args[0])) if event == "open" and args else None
)


def opened(paths: list[str], root: Path) -> tuple[list[bytes], set[str]]:
    """The hashes of files, and the names of those that were opened for them."""
    _opened.clear()
    digests, unreadable = hash_files(paths, root, QUIET)
    assert not unreadable
    return digests.tolist(), {Path(name).name for name in _opened} & {Path(p).name for p in paths}


def plain(paths: list[str]) -> list[bytes]:
    """The hashes of files, read whole."""
    found = [hashlib.blake2b(Path(path).read_bytes(), digest_size=16) for path in paths]
    return [one.hexdigest().encode() for one in found]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test alone."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick_tick(monkeypatch: pytest.MonkeyPatch) -> float:
    """Clocks of file systems that tick faster than is assumed, so that tests need not wait."""
    monkeypatch.setattr(hashing, "TICK_NS", 30_000_000)
    return 0.04


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Four files of the same size."""
    (tmp_path / "data").mkdir()
    names = ["a", "b", "ü €.jpg", "d"]
    for name in names:
        (tmp_path / "data" / name).write_bytes(name.encode().ljust(20))
    return [str(tmp_path / "data" / name) for name in names]


def test_what_has_settled_is_not_read_again(
    paths: list[str], tmp_path: Path, quick_tick: float
) -> None:
    """The same hashes without opening a file, in another order too, and only new ones are read."""
    time.sleep(quick_tick)
    first, read = opened(paths, tmp_path)
    assert first == plain(paths)
    assert len(read) == 4
    assert opened(paths, tmp_path) == (first, set())
    assert opened(paths[::-1], tmp_path) == (first[::-1], set())
    new = tmp_path / "data" / "new"
    new.write_bytes(b"new")
    some = [paths[3], str(new), paths[0]]
    assert opened(some, tmp_path) == (plain(some), {"new"})


def test_what_has_just_changed_is_not_kept(paths: list[str], tmp_path: Path) -> None:
    """Within a tick of the clock it could change again and look the same."""
    assert opened(paths, tmp_path) == opened(paths, tmp_path)
    assert len(opened(paths, tmp_path)[1]) == 4


def _put_back_the_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other".ljust(20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"other".ljust(20))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def _write_through_a_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    _put_back_the_time(link)
    link.unlink()


def _retarget(path: Path) -> None:
    before = path.stat()
    other = path.with_name("target")
    other.write_bytes(b"other".ljust(20))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [_put_back_the_time, _replace, _write_through_a_link, _retarget])
def test_a_change_that_hides_is_seen(
    change: object, paths: list[str], tmp_path: Path, quick_tick: float
) -> None:
    """Another content of the same size and time: the time of status and the inode tell."""
    time.sleep(quick_tick)
    before, _ = opened(paths, tmp_path)
    assert callable(change)
    change(Path(paths[1]))
    time.sleep(quick_tick)
    after, read = opened(paths, tmp_path)
    assert after == plain(paths) != before
    assert read == {"b"}


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["write", "hide", "swap", "wait", "scan"])),
    min_size=3,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_hashes_are_those_of_the_bytes(
    steps: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files written, changed behind one's back and swapped, with and without a pause."""
    root = tmp_path_factory.mktemp("files")
    names = [str(root / f"{number}") for number in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "TICK_NS", 30_000_000)
        for number, name in enumerate(names):
            Path(name).write_bytes(bytes([number]) * 9)
        for number, (row, step) in enumerate(steps):
            path = Path(names[row])
            before = path.stat()
            if step == "wait":
                time.sleep(0.04)
            elif step == "swap":
                path.rename(root / "x")
                Path(names[row - 1]).rename(path)
                (root / "x").rename(names[row - 1])
            elif step != "scan":
                path.write_bytes(bytes([100 + number]) * 9)
            if step == "hide":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert hash_files(names, root, QUIET)[0].tolist() == plain(names)


@pytest.mark.parametrize("damage", ["cut", "junk", "flipped", "gone"])
def test_what_is_kept_and_damaged_is_as_good_as_nothing(
    damage: str, paths: list[str], tmp_path: Path, quick_tick: float, own_cache: Path
) -> None:
    """The files are read, and what is kept is whole again."""
    time.sleep(quick_tick)
    opened(paths, tmp_path)
    (file,) = own_cache.rglob("hashes.sqlite")
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "junk":
        file.write_bytes(b"junk")
    elif damage == "flipped":
        changed = bytearray(whole)
        for digest in plain(paths):
            changed[whole.index(bytes.fromhex(digest.decode()))] ^= 1
        file.write_bytes(changed)
    else:
        file.unlink()
    assert opened(paths, tmp_path) == (plain(paths), {Path(path).name for path in paths})
    assert opened(paths, tmp_path) == (plain(paths), set())


def test_where_nothing_can_be_kept_files_are_read(
    paths: list[str], tmp_path: Path, quick_tick: float, own_cache: Path
) -> None:
    """A cache folder that cannot be made costs only the second reading."""
    own_cache.write_bytes(b"a file")
    time.sleep(quick_tick)
    assert opened(paths, tmp_path)[0] == plain(paths)
    assert len(opened(paths, tmp_path)[1]) == 4


def test_what_another_run_writes_just_now_is_not_waited_for_long(
    paths: list[str],
    tmp_path: Path,
    quick_tick: float,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Then hashes are right all the same, and only not kept, which is told to who asks for more."""
    time.sleep(quick_tick)
    opened(paths[:2], tmp_path)
    (file,) = own_cache.rglob("hashes.sqlite")
    monkeypatch.setattr(hashing, "WAIT_S", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        digests, unreadable = hash_files(paths, tmp_path, Progress("verbose"))
    assert (digests.tolist(), unreadable) == (plain(paths), {})
    assert "The files will be read again next time." in capsys.readouterr().err
    assert opened(paths, tmp_path) == (plain(paths), {Path(path).name for path in paths[2:]})


def test_files_of_many_folders_are_found_again(
    tmp_path: Path, quick_tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches that end within a folder, in any order, and in another choice of them."""
    monkeypatch.setattr(hashing, "BATCH", 4)
    paths = []
    for number in range(17):
        path = tmp_path / "data" / f"{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
        paths.append(str(path))
    time.sleep(quick_tick)
    assert len(opened(paths[:15], tmp_path)[1]) == 15
    assert opened(paths[::-1], tmp_path) == (plain(paths[::-1]), {"15.jpg", "16.jpg"})
    assert opened(paths[3:9], tmp_path) == (plain(paths[3:9]), set())


def test_files_that_cannot_be_opened_are_named(
    paths: list[str], tmp_path: Path, quick_tick: float
) -> None:
    """Each has its reason, also when the others were kept."""
    time.sleep(quick_tick)
    gone = str(tmp_path / "data" / "gone")
    for _ in range(2):
        digests, unreadable = hash_files([paths[0], gone, paths[1]], tmp_path, QUIET)
        assert unreadable == {1: "cannot be opened (No such file or directory)"}
        assert digests[[0, 2]].tolist() == plain(paths[:2])


def test_what_is_kept_of_files_is_shown(
    paths: list[str], tmp_path: Path, quick_tick: float
) -> None:
    """`tellapart cache` lists it, and --prune and --clear may delete it."""
    time.sleep(quick_tick)
    opened(paths, tmp_path)
    (item,) = kept_items()
    assert (item.kind, item.about) == ("scans", f"hashes of 4 files below {tmp_path}")
