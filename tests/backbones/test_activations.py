"""What is kept between runs: never stale, never half, and a killed run goes on from it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.backbones import frozen
from tellapart.backbones.activations import Filled, KeptSet, fill, gather, kept_set
from tellapart.backbones.extractor import Computed, Extractor
from tellapart.backbones.frozen import FrozenBackbone, freeze
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import find_weights
from tellapart.bundle.bundle import open_bundle
from tellapart.data import augmentation, pixels
from tellapart.data.augmentation import Flip, RandomResizedCrop
from tellapart.data.pixels import Pixels, Preprocessing, evaluation_pixels, read_file, read_pixels
from tellapart.errors import DiskFull, MissingExtra, NotWritable
from tellapart.progress import Progress

FORMAT_1 = Path(__file__).parents[1] / "bundle" / "formats" / "format_1.tellapart"
STORED = open_bundle(FORMAT_1)
RUNTIME = OpenVinoRuntime(STORED.graph, precision="f32")
TINY = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
FACTS = {"backbone": "tiny", "graph": "a", "view": "plain"}

FAST = ("--recipe", "fast", "--json")

# Small shards, so that there is something to go on from after a moment.
TRAIN_IN_SMALL_SHARDS = """
import tellapart.backbones.activations as activations
activations.SHARD_PICTURES = 16
from tellapart.cli.main import main
main()
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TELLAPART_CACHE", str(folder))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twenty pictures of one colour each."""
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [folder / f"{number:02d}.png" for number in range(20)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 2 * number, 3 * number)).save(path)
    return paths


def digest(path: Path) -> bytes:
    """What a picture is known by."""
    return blake2b(path.read_bytes(), digest_size=16).hexdigest().encode()


def read_plain(path: str, digest: bytes, wanted: tuple[int, ...]) -> list[Pixels]:
    """Read a picture as evaluation does, for the one set that lacks it."""
    return [read_pixels(path, TINY)]


def filled(
    paths: list[Path], sets: Sequence[KeptSet], read: Any = read_plain, level: Any = "quiet"
) -> Filled:
    """Fill sets with the mean colours of pictures."""
    names = [str(path) for path in paths]
    return fill(names, [digest(p) for p in paths], read, RUNTIME, sets, Progress(level))


def features(paths: list[Path], kept: KeptSet | None = None, level: Any = "quiet") -> Computed:
    """Compute, or find again, the mean colours of pictures."""
    kept = kept or kept_set("tiny", STORED.graph, TINY, RUNTIME, "features")
    done = filled(paths, [kept], level=level)
    return Computed(
        gather([digest(path) for path in paths], kept), done.unreadable, done.n_computed
    )


def shards(cache: Path) -> list[Path]:
    """All shards, oldest first."""
    return sorted(cache.glob("activations/*/*.npy"))


def test_nothing_is_computed_twice(files: list[Path], own_cache: Path) -> None:
    """The second time everything is found, and is the same to the last bit."""
    first, second = features(files), features(files)
    assert (first.n_computed, second.n_computed) == (20, 0)
    assert first.values.dtype == np.float16
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_allclose(first.values[:, 1], np.arange(20) * 2 / 255, atol=1e-3)
    assert len(shards(own_cache)) == 1


def test_only_what_is_new_is_computed(files: list[Path]) -> None:
    """Added pictures are computed, in any order; the others come from what is kept."""
    features(files[:15])
    again = features(files[::-1])
    assert again.n_computed == 5
    np.testing.assert_array_equal(again.values[::-1], features(files).values)


def test_identical_files_are_computed_once(files: list[Path]) -> None:
    """Copies share one activation, whatever their names."""
    copy = files[0].with_name("copy.png")
    shutil.copy(files[3], copy)
    found = features([*files, copy])
    assert found.n_computed == 20
    np.testing.assert_array_equal(found.values[20], found.values[3])


def test_a_changed_file_is_never_answered_from_before(files: list[Path]) -> None:
    """Same path, size and date, other bytes: it is computed again."""
    before = features(files)
    facts = files[0].stat()
    Image.new("RGB", (8, 8), (9, 0, 0)).save(files[0])
    os.utime(files[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = features(files)
    assert after.n_computed == 1
    assert after.values[0].tolist() != before.values[0].tolist()


def test_unreadable_pictures_are_told_and_not_kept(files: list[Path]) -> None:
    """Their rows are zero with a reason each; they are tried again the next time."""
    files[4].write_bytes(b"")
    files[5].write_bytes(b"<html>")
    for _ in range(2):
        found = features(files)
        assert found.unreadable == {
            4: "is empty (0 bytes)",
            5: "is a web page, not a picture (the download went wrong)",
        }
        assert not found.values[4:6].any()
    assert found.n_computed == 0
    assert features(files[4:6]).values.shape == (2, 0)
    assert features([]).values.shape == (0, 0)


def test_everything_that_can_change_the_numbers_is_in_the_key(files: list[Path]) -> None:
    """Another graph, preprocessing, precision, output, view or backbone: nothing is found."""
    features(files)
    other_graph = STORED.graph + b"\x72\x00"
    for changed in (
        kept_set("other", STORED.graph, TINY, RUNTIME, "features"),
        kept_set("tiny", other_graph, TINY, RUNTIME, "features"),
        kept_set("tiny", STORED.graph, replace(TINY, fit="squash"), RUNTIME, "features"),
        kept_set("tiny", STORED.graph, TINY, RUNTIME, "logits"),
        kept_set("tiny", STORED.graph, TINY, RUNTIME, "features", "0"),
        kept_set(
            "tiny", STORED.graph, TINY, OpenVinoRuntime(STORED.graph, precision="bf16"), "features"
        ),
    ):
        assert features(files, changed).n_computed == 20
    assert features(files).n_computed == 0


def test_the_key_names_the_code_that_decodes(files: list[Path], own_cache: Path) -> None:
    """The hash of our own code, and the versions of the libraries it stands on."""
    features(files)
    (about,) = own_cache.glob("activations/*/about.json")
    facts = json.loads(about.read_text(encoding="utf-8"))
    sources = (Path(module.__file__).read_bytes() for module in (pixels, augmentation))
    code = sha256(b"".join(sources)).hexdigest()[:16]
    names = ("simplejpeg", "kornia_rs", "pillow", "pillow-heif")
    assert facts["decoder"] == ", ".join([code, *(f"{name} {version(name)}" for name in names)])
    assert facts["graph"] == sha256(STORED.graph).hexdigest()


def test_a_file_is_read_once_for_all_sets(files: list[Path]) -> None:
    """The reader is asked for a picture once, for exactly the sets that lack it."""
    sets = [kept_set("tiny", STORED.graph, TINY, RUNTIME, "features", view) for view in "abc"]
    asked: list[tuple[str, tuple[int, ...]]] = []

    def read(path: str, digest: bytes, wanted: tuple[int, ...]) -> list[Pixels]:
        asked.append((Path(path).name, wanted))
        return [read_pixels(path, TINY) + np.uint8(100 * number) for number in wanted]

    assert filled(files[:5], sets[1:2]).n_computed == 5
    assert filled(files[5:8], sets[:1]).n_computed == 3
    assert filled(files[:10], sets, read).n_computed == 10
    wanted = [(0, 2)] * 5 + [(1, 2)] * 3 + [(0, 1, 2)] * 2
    assert sorted(asked) == [(path.name, one) for path, one in zip(files, wanted, strict=False)]
    assert filled(files[:10], sets, read).n_computed == 0
    assert len(asked) == 10
    digests = [digest(path) for path in files[:10]]
    reds = [gather(digests, kept)[:, 0] * 255 for kept in sets]
    np.testing.assert_allclose(reds[0], np.arange(10), atol=0.1)
    np.testing.assert_allclose(reds[1], [*range(5), *range(105, 110)], atol=0.1)
    np.testing.assert_allclose(reds[2], np.arange(200, 210), atol=0.1)


def test_an_unreadable_file_is_told_once_for_all_sets(files: list[Path]) -> None:
    """What was computed is counted in pictures, not views; no set holds what cannot be read."""
    files[4].write_bytes(b"")
    sets = [kept_set("tiny", STORED.graph, TINY, RUNTIME, "features", view) for view in "ab"]
    done = filled(files[:6], sets, lambda path, *_: read_plain(path, b"", (0,)) * 2)
    assert (done.n_computed, done.unreadable) == (5, {4: "is empty (0 bytes)"})
    assert [digest(files[4]) in kept for kept in sets] == [False, False]
    assert not gather([digest(files[4]), digest(files[5])], sets[0])[0].any()


@pytest.fixture
def drawn(tmp_path: Path) -> list[Path]:
    """Pictures of which every part differs."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, noise, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def test_views_are_kept_one_set_each(drawn: list[Path], own_cache: Path) -> None:
    """Numbers and augmentation name a view: the same is found again, another is computed."""
    tiny = Extractor("tf_efficientnet_lite0", STORED.graph, TINY, RUNTIME)
    files = [str(path) for path in drawn], [digest(path) for path in drawn]
    quiet = Progress("quiet")
    crops = (RandomResizedCrop(), Flip())
    sets = tiny.views(*files, crops, [(0, 0), (0, 1), (7, 0)], quiet)
    views = np.stack([gather(files[1], kept) for kept in sets])
    assert views.shape == (3, 3, 3)
    assert len(np.unique(views.reshape(9, 3), axis=0)) == 9
    before = shards(own_cache)
    assert len(before) == 3
    again = tiny.views(*files, crops, [(7, 0), (0, 0)], quiet)
    np.testing.assert_array_equal(gather(files[1], again[0]), views[2])
    np.testing.assert_array_equal(gather(files[1], again[1]), views[0])
    assert shards(own_cache) == before
    (other,) = tiny.views(*files, crops[:1], [(0, 0)], quiet)
    assert other.folder not in {kept.folder for kept in sets}
    plain = tiny.features(*files, quiet)
    assert plain.n_computed == 3
    alone = (evaluation_pixels(read_file(path), TINY) for path in drawn)
    np.testing.assert_array_equal(plain.values, np.stack(list(RUNTIME.run(alone))))
    kept, _ = tiny.plain(*files, quiet)
    np.testing.assert_array_equal(gather(files[1], kept), plain.values)


def test_activations_keep_their_shape() -> None:
    """Maps (C, H, W) come back as they were, also after memory was given back."""
    maps = np.random.default_rng(0).normal(size=(4, 6, 3, 2)).astype(np.float16)
    digests = [f"{number:032x}".encode() for number in range(4)]
    assert KeptSet(FACTS).add(digests, list(maps)) is None
    kept = KeptSet(FACTS)
    kept.forget()
    np.testing.assert_array_equal(gather(digests[::-1], kept), maps[::-1])
    kept.forget()
    assert kept.get(digests[2]).shape == (6, 3, 2)
    np.testing.assert_array_equal(gather([*digests, b"f" * 32], kept)[:4], maps)
    assert not gather([b"f" * 32, digests[0]], kept)[0].any()


@given(
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)
@settings(max_examples=50)
def test_sets_share_a_folder_only_if_all_facts_are_equal(
    one: dict[str, str], other: dict[str, str]
) -> None:
    """Different facts never meet in one folder; equal ones always do, in any order."""
    reordered = dict(reversed(one.items()))
    assert KeptSet(one).folder == KeptSet(reordered).folder
    assert (KeptSet(one).folder == KeptSet(other).folder) == (one == other)


@given(position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_damaged_shard_is_computed_again(
    tmp_path_factory: pytest.TempPathFactory, position: float, change: int, cut: bool
) -> None:
    """Cut off or altered at any byte: it is not used, and the right numbers come back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLAPART_CACHE", str(tmp_path_factory.mktemp("damaged")))
        kept = KeptSet(FACTS)
        values = [np.arange(3, dtype=np.float16), np.ones(3, dtype=np.float16)]
        assert kept.add([b"1" * 32, b"2" * 32], values) is None
        (path,) = kept.folder.glob("*.npy")
        data = bytearray(path.read_bytes())
        at = int(position * len(data))
        if cut:
            del data[at:]
        else:
            data[at] ^= change
        path.write_bytes(data)
        again = KeptSet(FACTS)
        assert b"1" * 32 not in again
        assert b"2" * 32 not in again
        assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"]
)
def test_a_foreign_file_among_the_shards_is_no_shard(
    files: list[Path], own_cache: Path, content: bytes
) -> None:
    """Whatever lies there under a shard's suffix, the run goes on."""
    features(files[:10])
    shards(own_cache)[0].with_name("0-0.npy").write_bytes(content)
    assert features(files).n_computed == 10


def test_a_part_left_by_a_killed_run_is_no_shard(files: list[Path], own_cache: Path) -> None:
    """A temporary file beside the shards is neither read nor in the way."""
    features(files[:10])
    (shard,) = shards(own_cache)
    shard.with_name(f".{shard.name}.0011aabb.part").write_bytes(shard.read_bytes()[:100])
    assert features(files).n_computed == 10


def test_two_runs_may_write_at_once(files: list[Path]) -> None:
    """Each keeps what it computed; a later run finds the work of both."""
    one = kept_set("tiny", STORED.graph, TINY, RUNTIME, "features")
    two = kept_set("tiny", STORED.graph, TINY, RUNTIME, "features")
    assert features(files[:12], one).n_computed == 12
    assert features(files[8:], two).n_computed == 12
    assert features(files).n_computed == 0


def test_a_set_that_is_deleted_meanwhile_is_made_anew(files: list[Path]) -> None:
    """Pruned by another run between two shards: what is in memory stays, new shards are kept."""
    kept = kept_set("tiny", STORED.graph, TINY, RUNTIME, "features")
    features(files[:10], kept)
    shutil.rmtree(kept.folder)
    found = features(files, kept)
    assert found.n_computed == 10
    np.testing.assert_allclose(found.values[:, 0], np.arange(20) / 255, atol=1e-3)
    assert features(files).n_computed == 10


def test_a_full_disk_costs_only_the_keeping(
    files: list[Path],
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
    limited_file_size: Any,
) -> None:
    """The run goes on, says so once, and leaves nothing half-written; the next one computes."""
    with limited_file_size(600):
        found = features(files, level="normal")
    np.testing.assert_allclose(found.values[:, 0], np.arange(20) / 255, atol=1e-3)
    said = capsys.readouterr().err
    (folder,) = own_cache.glob("activations/*")
    assert re.sub(r"\d{20}-[0-9a-f]{8}", "SHARD", said) == (
        f"Going on without keeping what is computed: {folder}/SHARD.npy could not be written: "
        f"File too large. Nothing half-written was left behind. Make room, or set "
        f"TELLAPART_CACHE to another folder; `tellapart cache --prune` frees what is kept from "
        f"earlier runs.\n"
    )
    assert [path.name for path in folder.iterdir()] == ["about.json"]
    assert features(files).n_computed == 20


def test_an_error_of_a_full_disk_names_the_reason(tmp_path: Path, own_cache: Path) -> None:
    """On a file system that is really full, the error is DiskFull and says so."""
    own_cache.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", own_cache],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system needs more rights")
    try:
        kept = KeptSet(FACTS)
        large = [np.zeros(1000, dtype=np.float16)] * 100
        error = kept.add([f"{number:032x}".encode() for number in range(100)], large)
        assert isinstance(error, DiskFull)
        assert f"could not be written: {os.strerror(errno.ENOSPC)}." in str(error)
        assert f"{7:032x}".encode() in kept
        assert kept.add([b"a" * 32], large[:1]) is None
    finally:
        subprocess.run(["umount", "-l", own_cache], check=True)


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No folder can be made there: the run goes on and names the variable that cures it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "file" / "cache"))
    assert features(files, level="normal").n_computed == 20
    said = capsys.readouterr().err
    assert said.startswith("Going on without keeping what is computed: ")
    assert said.endswith(
        "could not be written: Not a directory. Nothing was changed. Get the right to write "
        "there, or set TELLAPART_CACHE to another folder.\n"
    )
    assert isinstance(KeptSet(FACTS).add([b"a" * 32], [np.zeros(1, np.float16)]), NotWritable)


def kept_folder(cache: Path, whole: FrozenBackbone) -> Path:
    """Where a network lies among those that other tests kept."""
    graphs = (cache / "backbones").glob("*/graph.onnx")
    return next(path.parent for path in graphs if path.read_bytes() == whole.graph)


def test_a_kept_network_is_used_only_if_whole(
    trained: Any, cache: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph, weights or facts altered or cut off: it is prepared again, not used."""
    shutil.copytree(cache / "backbones", own_cache / "backbones")
    backbone = find_backbone("tf_efficientnet_lite0")
    weights = find_weights(backbone)
    # Where torch cannot be had, preparing again shows as an error.
    monkeypatch.setitem(sys.modules, "tellapart.backbones.network", None)
    folder = kept_folder(own_cache, freeze(backbone, weights))
    for name in ("graph.onnx", "weights.safetensors", "about.json"):
        data = (folder / name).read_bytes()
        for damaged in (data[:-9], data[:99] + bytes([data[99] ^ 1]) + data[100:], b"[]", b""):
            (folder / name).write_bytes(damaged)
            with pytest.raises(MissingExtra):
                freeze(backbone, weights)
        (folder / name).write_bytes(data)
    other_weights = replace(weights, sha256="0" * 64)
    with pytest.raises(MissingExtra):
        freeze(backbone, other_weights)
    other_facts = replace(backbone, preprocessing=replace(backbone.preprocessing, size_px=192))
    with pytest.raises(MissingExtra):
        freeze(other_facts, weights)
    assert freeze(backbone, weights).not_kept is None


def test_a_damaged_kept_network_is_replaced(trained: Any, cache: Path, own_cache: Path) -> None:
    """Facts of an earlier, damaged copy give way to those of the new one."""
    shutil.copytree(cache / "backbones", own_cache / "backbones")
    backbone = find_backbone("tf_efficientnet_lite0")
    weights = find_weights(backbone)
    whole = freeze(backbone, weights)
    folder = kept_folder(own_cache, whole)
    about = folder / "about.json"
    about.write_text(about.read_text(encoding="utf-8").replace('_sha256": "', '_sha256": "x'))
    assert frozen._keep(folder, whole, weights) is None
    assert freeze(backbone, weights) == whole


@pytest.fixture
def many(digits: Path, tmp_path: Path) -> Path:
    """Two hundred digits of two classes."""
    for name in ("3", "8"):
        (tmp_path / "many" / name).mkdir(parents=True)
        for path in sorted((digits / name).iterdir())[:100]:
            shutil.copy(path, tmp_path / "many" / name)
    return tmp_path / "many"


def start_training(*args: str | Path) -> subprocess.Popen[str]:
    """Start a training that keeps what it computes every 16 pictures."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN_IN_SMALL_SHARDS, "train", *map(str, args), *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_from_what_was_kept(
    how: signal.Signals, many: Path, warm_cache: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Ctrl-C or a kill in the middle: no output, and the next run computes only the rest."""
    bundle = tmp_path / "out" / "many.tellapart"
    bundle.parent.mkdir()
    run = start_training(many, "-o", bundle)
    deadline = time.monotonic() + 60
    while not shards(warm_cache) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(how)
    out, err = run.communicate(timeout=60)
    assert out == ""
    assert list(bundle.parent.iterdir()) == []
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert err.splitlines()[-1] == (
            "tellapart: Stopped. Nothing half-written was left behind, and what was computed is "
            "kept: the same command goes on from there."
        )
        assert "Traceback" not in err
        assert not list(warm_cache.rglob("*.part"))

    # Stopped between writing a shard and forgetting it, a run writes it once more: no harm.
    kept = {bytes(digest) for path in shards(warm_cache) for digest in np.load(path)["digest"]}
    assert 16 <= len(kept) < 200
    resumed = json.loads(command("train", many, "-o", bundle, *FAST).out)
    assert resumed["n_computed"] == 200 - len(kept)

    shutil.rmtree(warm_cache / "activations")
    fresh = tmp_path / "fresh.tellapart"
    assert json.loads(command("train", many, "-o", fresh, *FAST).out)["n_computed"] == 200
    assert open_bundle(bundle).graph == open_bundle(fresh).graph
    assert open_bundle(bundle).manifest.scores == open_bundle(fresh).manifest.scores


def test_two_trainings_at_once_do_not_disturb_each_other(
    many: Path, warm_cache: Path, tmp_path: Path
) -> None:
    """Same pictures, same cache, same output: both end well, and the file is whole."""
    bundle = tmp_path / "many.tellapart"
    runs = [start_training(many, "-o", bundle) for _ in range(2)]
    ended = [(*run.communicate(timeout=120), run.returncode) for run in runs]
    assert [code for _, _, code in ended] == [0, 0], ended
    one, two = (json.loads(out) for out, _, _ in ended)
    assert one["accuracy"] == two["accuracy"]
    assert open_bundle(bundle).graph
    assert open_bundle(bundle).report
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_without_a_cache_everything_still_works(
    small: Path, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Neither network nor features can be kept: both are said once, and the result is there."""
    (tmp_path / "file").touch()
    bundle = tmp_path / "small.tellapart"
    ended = run("train", small, "-o", bundle, *FAST, TELLAPART_CACHE=str(tmp_path / "file"))
    assert ended.returncode == 0
    assert ended.stderr.count("Going on without keeping the network: ") == 1
    assert ended.stderr.count("Going on without keeping what is computed: ") == 1
    assert open_bundle(bundle).graph
