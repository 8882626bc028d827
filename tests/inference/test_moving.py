"""Sorting and undoing: nothing lost, nothing overwritten, and everything as it was afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tellapart.errors import DiskFull, NothingToUndo, SortRefused
from tellapart.inference.moving import apply, undo
from tellapart.inference.sorting import JOURNALS, How, Plan, Verdict, plan_sort

HOWS = ("move", "copy", "hardlink", "symlink")
SUFFIXES = ("jpg", "JPG", "png", "xmp", "jpg.xmp", "aae", "mov", "txt")
NAMES = st.sampled_from(["a", "A", "b", "IMG", "é", "e\u0301", "x (2)", "caf\udce9", "a.b", "-n"])
PATHS = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, f"{stem}.{suffix}"]),
    st.lists(st.sampled_from(["one", "two", "One", "ü"]), max_size=2),
    NAMES,
    st.sampled_from(SUFFIXES),
)
LABELS = st.sampled_from(["cat", "Cat", "../cat", "_unsure", "con", "é", None])


def tree(root: Path) -> dict[str, Any]:
    """Describe everything below a folder, itself included: mode, bytes or link, time in ns."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files) if folder != str(root) else (".", *folders, *files):
            path = Path(folder) / name
            facts = path.lstat()
            what: Any = path.readlink() if path.is_symlink() else None
            if path.is_file() and not path.is_symlink():
                what = path.read_bytes()
            # The folder of journals is ours: earlier ones in it outlast an undo, its time does not.
            when_ns = 0 if name == JOURNALS else facts.st_mtime_ns
            found[os.path.relpath(path, root)] = (facts.st_mode, what, when_ns)
    return found


def contents(one: dict[str, Any]) -> list[bytes]:
    """Return the bytes of every file of a tree."""
    return sorted(what for _, what, _ in one.values() if isinstance(what, bytes))


def write(root: Path, files: dict[str, bytes], when: int = 0) -> None:
    """Write files with odd times, then give their folders odd times, too."""
    for number, (name, data) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(10**18 + 7, 10**18 + when + number * 1_000_003))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        os.utime(folder, ns=(10**18 + 1, 10**18 + 123_456_789 + len(str(folder))))


def plan_of(gallery: Path, labels: list[str | None], into: Path, how: How = "move") -> Plan:
    """Plan to sort all pictures below a gallery; labels are dealt out in turn."""
    pictures = sorted(
        str(path)
        for path in gallery.rglob("*")
        if path.suffix.lower() in (".jpg", ".png") and not path.is_relative_to(into)
    )
    verdicts = [
        Verdict(path, label := labels[n % len(labels)], 0.5, label is None)
        for n, path in enumerate(pictures)
    ]
    return plan_sort(verdicts, gallery, into, how)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Sixty pictures in three folders, of the same names, with sidecars."""
    root = tmp_path / "root" / "gallery"
    names = [
        f"{folder}/{n:03d}.{suffix}"
        for folder in "abc"
        for n in range(20)
        for suffix in ("jpg", "xmp")
    ]
    write(root, {name: name.encode() * 50 for name in names})
    return root


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the temporary one."""
    for folder in map(Path, ("/dev/shm", "/tmp", "/var/tmp")):
        if os.access(folder, os.W_OK) and folder.stat().st_dev != tmp_path.stat().st_dev:
            own = folder / f"tellapart-test-{os.getpid()}"
            own.mkdir()
            yield own
            shutil.rmtree(own)
            return
    pytest.skip("there is no second file system to write to")


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: hundreds of syncs take minutes on a busy disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    own = memory / f"tellapart-quick-{os.getpid()}"
    own.mkdir()
    yield own
    shutil.rmtree(own)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("inside", [False, True])
@given(
    files=st.dictionaries(PATHS, st.binary(max_size=20), max_size=12),
    there=st.dictionaries(PATHS, st.binary(max_size=20), max_size=3),
    labels=st.lists(LABELS, min_size=1, max_size=4),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sort_then_undo_restores_the_tree(
    how: How,
    inside: bool,
    files: dict[str, bytes],
    there: dict[str, bytes],
    labels: list[str | None],
    quick_disk: Path,
) -> None:
    """Byte for byte, times of folders included; twice into the same folder, undone twice."""
    root = quick_disk / "root"
    gallery = root / "gallery"
    into = gallery / "sorted" if inside else root / "sorted"
    try:
        write(
            root, {f"gallery/{name}": data for name, data in files.items()} | {"gallery/z.txt": b""}
        )
        if there:
            write(into, {f"cat/{name}": data for name, data in there.items()})
        trees = [tree(root)]
        outcome = apply(plan_of(gallery, labels, into, how))
        assert not outcome.left
        trees.append(tree(root))
        journals = [path.read_bytes() for path in into.glob(f"{JOURNALS}/*")]
        if how == "move":
            assert contents(trees[1]) == sorted(contents(trees[0]) + journals)
        write(gallery / "later", {"IMG.jpg": b"later", "IMG.xmp": b"edits"})
        trees.append(tree(root))
        again = apply(plan_of(gallery, labels, into, how))
        assert again.n_done >= 2
        undone = undo(into)
        assert (undone.left, undone.n_earlier) == ([], int(outcome.n_done > 0))
        assert tree(root) == trees[2]
        if outcome.n_done:
            shutil.rmtree(gallery / "later")
            os.utime(gallery, ns=(0, trees[1]["gallery"][2]))
            assert undo(into).left == []
            assert tree(root) == trees[0]
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("how", ["move", "copy"])
def test_sorting_onto_another_disk_keeps_everything(
    gallery: Path, elsewhere: Path, how: How
) -> None:
    """Times, permissions and bytes go along, and come back."""
    (gallery / "a" / "000.jpg").chmod(0o440)
    before, beside = tree(gallery), tree(elsewhere)
    apply(plan_of(gallery, ["cat", "dog"], elsewhere / "sorted", how))
    there = tree(elsewhere / "sorted")
    moved = before["a/000.jpg"]
    assert there["cat/000.jpg"] == moved
    assert ("a/000.jpg" in tree(gallery)) == (how == "copy")
    assert undo(elsewhere / "sorted").left == []
    assert tree(gallery) == before
    assert tree(elsewhere) == beside


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_what_a_link_leads_to_is_sorted_not_the_link(how: How, tmp_path: Path) -> None:
    """A link that is relative would lead nowhere from its new folder, and could not be undone."""
    write(tmp_path, {"far/a.jpg": b"a picture"})
    gallery, into = tmp_path / "gallery", tmp_path / "sorted"
    gallery.mkdir()
    (gallery / "a.jpg").symlink_to("../far/a.jpg")
    before = tree(tmp_path)
    apply(plan_sort([Verdict(str(gallery / "a.jpg"), "cat", 0.9)], gallery, into, how))
    assert (into / "cat" / "a.jpg").read_bytes() == b"a picture"
    assert undo(into).left == []
    assert tree(tmp_path) == before


def test_half_a_copy_that_a_kill_left_is_in_nobodys_way(gallery: Path, elsewhere: Path) -> None:
    """An undo killed while copying back is repeated, whatever it left under its own name."""
    before = tree(gallery)
    into = elsewhere / "sorted"
    apply(plan_of(gallery, ["cat"], into))
    (journal,) = (into / JOURNALS).iterdir()
    run = json.loads(journal.read_text().splitlines()[0])["run"]
    for folder in (gallery / "a", into / "cat"):
        for number in range(40):
            (folder / f".tellapart-{run}-{number}.part").write_bytes(b"half")
    assert undo(into).left == []
    assert tree(gallery) == before


def test_hard_links_into_another_disk_are_refused(gallery: Path, elsewhere: Path) -> None:
    """The first one says it for all; nothing is left to clean up by hand."""
    before = tree(gallery)
    with pytest.raises(SortRefused, match="they are on different file systems"):
        apply(plan_of(gallery, ["cat"], elsewhere / "sorted", "hardlink"))
    undo(elsewhere / "sorted")
    assert tree(gallery) == before
    assert list(elsewhere.iterdir()) == []


def test_a_full_disk_ends_the_sort_without_half_a_file(gallery: Path) -> None:
    """What was copied stays, the rest was not begun, and undo takes it back."""
    into = gallery.parent / "sorted"
    into.mkdir()
    write(gallery, {"d/big.jpg": b"x" * 400_000})
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", into], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        before = tree(gallery)
        with pytest.raises(DiskFull) as stopped:
            apply(plan_of(gallery, ["cat"], into))
        assert str(stopped.value) == (
            f"Sorting into {into} stopped: No space left on device. No file is half moved; the "
            f"others are where they were. Make room and give the same command again, or take back "
            f"what was done: tellapart undo {into}"
        )
        assert (gallery / "d" / "big.jpg").stat().st_size == 400_000
        assert not list(into.rglob("*.part"))
        assert undo(into).left == []
        assert tree(gallery) == before
        assert list(into.iterdir()) == []
    finally:
        subprocess.run(["umount", into], check=True)


def test_a_disk_that_may_only_be_read_leaves_files_where_they_are(
    gallery: Path, elsewhere: Path
) -> None:
    """Each with its reason; no copy is left of what could not be moved."""
    mounted = subprocess.run(
        ["mount", "--bind", gallery, gallery], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", gallery], check=True)
        before = tree(gallery)
        outcome = apply(plan_of(gallery, ["cat"], elsewhere / "sorted"))
        assert outcome.n_done == 0
        assert {one.reason for one in outcome.left} == {"stays: Read-only file system"}
        assert tree(gallery) == before
    finally:
        subprocess.run(["umount", gallery], check=True)


def test_read_only_files_are_sorted_and_come_back(gallery: Path) -> None:
    """A file that may not be written can be moved and copied, and its copy removed."""
    for path in (gallery / "a").iterdir():
        path.chmod(0o400)
    os.utime(gallery / "a", ns=(5, 5))
    before = tree(gallery.parent)
    for how in HOWS:
        assert not apply(plan_of(gallery, ["cat"], gallery.parent / "sorted", how)).left
        assert not undo(gallery.parent / "sorted").left
        assert tree(gallery.parent) == before


def test_what_was_changed_since_is_left_and_told(gallery: Path) -> None:
    """An edited, a removed, a replaced file, a place taken: the others come back."""
    into = gallery.parent / "sorted"
    before = tree(gallery)
    apply(plan_of(gallery, ["cat"], into))
    (into / "cat" / "000.jpg").write_bytes(b"edited")
    (into / "cat" / "001.jpg").unlink()
    (into / "cat" / "002.jpg").rename(into / "cat" / "elsewhere.jpg")
    (into / "cat" / "002.jpg").write_bytes(b"another")
    (gallery / "a" / "003.jpg").write_bytes(b"new in its place")
    (into / "cat" / "added.jpg").write_bytes(b"added")
    outcome = undo(into)
    assert {os.path.relpath(one.path, into): one.reason for one in outcome.left} == {
        "cat/000.jpg": "was changed since it was sorted",
        "cat/001.jpg": "is no longer there",
        "cat/002.jpg": "was changed since it was sorted",
        "cat/003.jpg": f"cannot go back: {gallery}/a/003.jpg is another file",
    }
    assert (into / "cat" / "000.jpg").read_bytes() == b"edited"
    assert (into / "cat" / "added.jpg").read_bytes() == b"added"
    assert (gallery / "a" / "003.jpg").read_bytes() == b"new in its place"
    after = tree(gallery)
    changed = {f"a/00{n}.jpg" for n in range(4)} | {"a"}
    assert {name for name in before if after.get(name) != before[name]} == changed
    # Where the way is free again, the same command goes on.
    (gallery / "a" / "003.jpg").unlink()
    assert len(undo(into).left) == 3
    assert tree(gallery)["a/003.jpg"] == before["a/003.jpg"]


def test_copies_are_removed_only_while_the_original_is_there(gallery: Path) -> None:
    """A copy that is the last one, or differs, is a user's file and stays."""
    into = gallery.parent / "sorted"
    apply(plan_of(gallery, ["cat"], into, "copy"))
    (gallery / "a" / "000.jpg").unlink()
    (gallery / "a" / "001.jpg").write_bytes(b"edited")
    (into / "cat" / "002.jpg").write_bytes(b"edited")
    left = {Path(one.path).name for one in undo(into).left}
    assert left == {"000.jpg", "001.jpg", "002.jpg"}
    assert {path.name for path in (into / "cat").iterdir()} == left


def test_a_folder_removed_since_is_made_again(gallery: Path) -> None:
    """Empty folders that a user tidied away come back with the files."""
    before = tree(gallery)
    apply(plan_of(gallery, ["cat"], gallery.parent / "sorted"))
    for name in "abc":
        (gallery / name).rmdir()
    assert not undo(gallery.parent / "sorted").left
    after = tree(gallery)
    assert {name: after[name] for name in after if name != "."} == {
        name: before[name] for name in before if name != "."
    }


def test_without_a_journal_there_is_nothing_to_undo(tmp_path: Path) -> None:
    """No sorted folder, another format, or a damaged journal: said, and nothing is touched."""
    with pytest.raises(NothingToUndo) as refused:
        undo(tmp_path)
    assert str(refused.value) == (
        f"There is no journal of a sort in {tmp_path}. Expected the folder that was given to "
        f"`tellapart sort … --into`. Nothing was changed. Check the path."
    )
    journal = tmp_path / JOURNALS / "sort-0001.jsonl"
    journal.parent.mkdir()
    journal.write_text('{"format": 9}\n')
    with pytest.raises(NothingToUndo, match="has format 9; this version reads 1"):
        undo(tmp_path)
    journal.write_text("no json\n{}\n")
    with pytest.raises(NothingToUndo, match="cannot be read"):
        undo(tmp_path)


def test_every_step_is_on_disk_before_it_is_done(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a file is moved, its line stands in the journal, synced."""
    into = gallery.parent / "sorted"
    synced: dict[int, int] = {}
    fsync, rename = os.fsync, os.rename

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def checked_rename(source: str, target: str) -> None:
        (journal,) = (into / JOURNALS).iterdir()
        size = synced[journal.stat().st_ino]
        lines = [json.loads(line) for line in journal.read_bytes()[:size].splitlines()]
        assert os.path.relpath(target, into) in {line.get("to") for line in lines}
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", checked_rename)
    assert apply(plan_of(gallery, ["cat", "dog"], into)).n_done == 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("far", [False, True])
def test_a_kill_at_any_moment_loses_nothing(
    gallery: Path, elsewhere: Path, how: How, far: bool
) -> None:
    """Killed while sorting, then while undoing: one more undo, and the tree is as it was."""
    if far and how in ("hardlink", "symlink"):
        pytest.skip("links are made in no time, or not at all")
    into = elsewhere / "sorted" if far else gallery.parent / "sorted"
    before = tree(gallery)
    plan = plan_of(gallery, ["cat", "dog", None], into, how)
    began = time.monotonic()
    apply(plan)
    lasted = time.monotonic() - began
    undo(into)
    chance = random.Random(0)
    for _ in range(12):
        killed(lambda: apply(plan), chance.uniform(0, lasted))
        if into.exists():
            if chance.random() < 0.5:
                killed(lambda: undo(into), chance.uniform(0, lasted))
            if (into / JOURNALS).exists():
                assert undo(into).left == []
            elif into.exists():
                into.rmdir()  # Killed within the first microseconds: an empty folder.
        assert tree(gallery) == before
        assert not into.exists()


def killed(work: Any, after_s: float) -> None:
    """Run something in a process of its own, and kill it then."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
