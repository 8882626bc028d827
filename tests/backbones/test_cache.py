"""The cache folder: where it lies, what is in it, and what goes first when it is too big."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.backbones.cache import describe, kept_items, mark_used, prune
from tellapart.errors import NotWritable
from tellapart.files import cache_folder

COME_AND_GO = """
import pathlib, sys
parts = [pathlib.Path(sys.argv[1], f".{number}.part") for number in range(20)]
print("started", flush=True)
while True:
    for part in parts:
        part.touch()
    for part in parts:
        part.unlink()
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(folder: Path, name: str, n_bytes: int, used_s: float) -> Path:
    """Make an entry of this size that was used at that time."""
    path = folder / "activations" / name
    path.mkdir(parents=True)
    (path / "shard.npy").write_bytes(b"\0" * n_bytes)
    os.utime(path, (used_s, used_s))
    return path


def test_the_folder_is_the_users_own_or_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """$TELLAPART_CACHE wins; without it the cache lies where the system keeps such things."""
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TELLAPART_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().name == "tellapart"
    assert cache_folder().is_relative_to(tmp_path)


def test_an_empty_cache_is_no_error(own_cache: Path) -> None:
    """Looking at it and pruning it neither fails nor makes a folder."""
    assert kept_items() == []
    assert prune(0) == []
    mark_used(own_cache / "nothing")
    assert not own_cache.exists()


def test_entries_say_what_they_are(own_cache: Path) -> None:
    """Kind, facts in words, and size; a folder without facts is called incomplete."""
    path = own_cache / "activations" / "a"
    describe(path, {"backbone": "lite0", "output": "features", "runtime": "openvino", "graph": "9"})
    (path / "shard.npy").write_bytes(b"\0" * 2_000_000)
    entry(own_cache, "b", 1, used_s=1)
    first, second = kept_items()
    assert (first.kind, first.about) == ("activations", "lite0, features, openvino")
    assert first.size_mb == pytest.approx(2.0, abs=0.001)
    assert (second.path.name, second.about) == ("b", "incomplete")


def test_facts_are_corrected_when_they_changed(own_cache: Path) -> None:
    """Describing again replaces other facts and leaves equal ones untouched."""
    folder = own_cache / "backbones" / "a"
    about = folder / "about.json"
    describe(folder, {"graph_sha256": "old"})
    describe(folder, {"graph_sha256": "new"})
    assert json.loads(about.read_text(encoding="utf-8")) == {"graph_sha256": "new"}
    before = about.stat().st_ino
    describe(folder, {"graph_sha256": "new"})
    assert about.stat().st_ino == before


def test_a_place_that_cannot_be_written_names_the_cure(tmp_path: Path) -> None:
    """The message names TELLAPART_CACHE, not an option for the output."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "entry"
    with pytest.raises(NotWritable) as refused:
        describe(folder, {})
    assert str(refused.value) == (
        f"{folder} could not be written: Not a directory. Nothing was changed. Get the right to "
        f"write there, or set TELLAPART_CACHE to another folder."
    )


@given(
    st.lists(st.integers(1, 400), max_size=6, unique=True),
    st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_least_recently_used_go_first(
    tmp_path_factory: pytest.TempPathFactory, sizes_kb: list[int], limit_kb: int
) -> None:
    """What stays fits, is the most recently used, and nothing that would fit has gone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TELLAPART_CACHE", str(folder))
        for age, size_kb in enumerate(sizes_kb):
            entry(folder, str(age), size_kb * 1000, used_s=1_000_000 - age)
        deleted = {item.path.name for item in prune(limit_kb / 1e6)}
        kept = [item.path.name for item in kept_items()]
    assert kept == [str(age) for age in range(len(kept))]
    assert deleted == {str(age) for age in range(len(kept), len(sizes_kb))}
    assert sum(sizes_kb[: len(kept)]) <= limit_kb
    if deleted:
        assert sum(sizes_kb[: len(kept) + 1]) > limit_kb


def test_use_moves_an_entry_to_the_front(own_cache: Path) -> None:
    """An old entry that was used now outlives a younger one that was not."""
    old = entry(own_cache, "old", 900_000, used_s=1000)
    entry(own_cache, "young", 900_000, used_s=2000)
    mark_used(old)
    assert [item.path.name for item in prune(0.001)] == ["young"]


def test_files_that_come_and_go_do_not_disturb(own_cache: Path) -> None:
    """Another run renames and deletes while this one lists: neither fails."""
    path = entry(own_cache, "busy", 10, used_s=1000)
    other = subprocess.Popen([sys.executable, "-c", COME_AND_GO, path], stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"started\n"
        for _ in range(500):
            assert len(kept_items()) == 1
    finally:
        other.kill()
        other.communicate()
