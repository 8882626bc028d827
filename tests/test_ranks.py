"""Several processes that train together: the same result as one, and one word where that fails."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.backbones.ranks import ALONE, Ranks, open_ranks
from tellapart.bundle.bundle import open_bundle
from tellapart.data.catalog import scan
from tellapart.data.pixels import available_cores, usable_cores
from tellapart.errors import NotForRanks
from tellapart.pipeline import training
from tellapart.progress import Progress
from tellapart.training.history import Records, read_history
from tellapart.training.recipe import load_recipe

Command = Callable[..., Any]

WORK = Path(__file__).with_name("two_ranks.py")
EPOCHS = 12

digests = st.lists(
    st.binary(min_size=16, max_size=16).map(lambda data: data.hex().encode()), unique=True
)


@settings(deadline=None)
@given(digests, st.integers(1, 9))
def test_one_more_rank_takes_from_the_others_and_moves_nothing_else(
    pictures: list[bytes], size: int
) -> None:
    """Each picture stays with the rank that has it, or goes to the new one."""
    before = Ranks(0, size, (0,) * size).owners(pictures)
    after = Ranks(0, size + 1, (0,) * (size + 1)).owners(pictures)
    assert ((after == before) | (after == size)).all()
    assert set(before.tolist()) <= set(range(size))


def test_shares_are_even() -> None:
    """Of 6000 pictures no rank of four gets more than a tenth too many, or too few."""
    rng = np.random.default_rng(0)
    pictures = [bytes(one).hex().encode() for one in rng.integers(0, 256, (6000, 16), np.uint8)]
    counts = np.bincount(Ranks(0, 4, (0,) * 4).owners(pictures), minlength=4)
    assert abs(counts - 1500).max() < 150


@settings(deadline=None)
@given(digests, st.sampled_from([(0, 0, 0), (0, 1, 2), (0, 0, 2), (0, 1, 0)]))
def test_every_picture_of_a_batch_is_learned_from_once(
    pictures: list[bytes], homes: tuple[int, ...]
) -> None:
    """The ranks' parts of a batch share its places out, each where the picture lies."""
    rows = np.random.default_rng(0).permutation(len(pictures))
    each = [Ranks(number, 3, homes) for number in range(3)]
    owners = each[0].owners(pictures)
    parts = [ranks.kept_part(pictures)(rows) for ranks in each]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    for ranks, part in zip(each, parts, strict=True):
        assert all(homes[owners[row]] == homes[ranks.number] for row in rows[part])
    live = [ranks.live_part(rows) for ranks in each]
    assert sorted(np.concatenate(live).tolist()) == list(range(len(rows)))


@dataclass(frozen=True)
class Together:
    """What two ranks wrote, and what they said while a training was refused."""

    found: tuple[Mapping[str, Any], ...]
    code: int
    err: str


@pytest.fixture(scope="module")
def together(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Two processes with a cache each, started by torchrun: see two_ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    target = folder / "x.tellapart"
    ended = subprocess.run(
        [*start, WORK, folder, small, "-o", target, "--recipe", "fast", "--weights", "none"],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    files = [folder / f"rank-{number}.npz" for number in range(2)]
    assert all(file.exists() for file in files), ended.stderr
    assert not target.exists()
    found = []
    for file in files:
        with np.load(file) as held:
            found.append({name: held[name] for name in held.files})
    return Together(tuple(found), ended.returncode, ended.stderr)


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(together: Together, single_thread: None) -> None:
    """The same weights, statistics, losses, best epoch and rate test, to 1e-5 in 32 bits.

    With batch-norm over the whole batch, class weights, averages of weights, mixed pictures of
    both ranks, added-up batches, batches smaller than the ranks, and early stopping; each rank
    keeps other pictures.
    """
    expected = runpy.run_path(str(WORK))["learn_all"](ALONE)
    for found in together.found:
        assert found["homes"].tolist() == [0, 1]
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    for name in expected:
        assert (together.found[0][name] == together.found[1][name]).all(), name


@pytest.mark.slow
def test_arrays_are_put_together_exactly(together: Together) -> None:
    """To the last bit, on the first rank or on all, also where one rank has nothing."""
    first, second = together.found
    assert not first["whole"].any()
    assert not second["whole"].any()
    assert (first["only first"].tolist(), second["only first"].tolist()) == (
        [20_000, 2],
        [20_000, 0],
    )
    assert (first["empty"] == second["empty"]).all()
    assert first["empty"].any(axis=1).tolist() == [True, True, True, False]


@pytest.mark.slow
def test_an_error_of_one_is_an_error_of_all(together: Together) -> None:
    """One that all have is raised as it is; otherwise it says which rank had which."""
    for found in together.found:
        assert found["said"].tolist() == [
            "all: BadRecipe: the recipe is bad",
            "facts: RanksDisagree: The ranks of this training do not agree. Different are: seed: "
            "0 (rank 0), 1 (rank 1). Expected was the same on each. Nothing was trained. Start "
            "all with the same command, programs, pictures and weights.",
            "first: BadRecipe: the recipe is bad",
            "one: RanksDisagree: Not all ranks of this training could begin. rank 1: not here. "
            "Expected was that each finds the same pictures, weights and programs at the same "
            "paths.",
        ]
        assert re.sub(r"has [\d,]+ MB", "has n MB", str(found["short"])) == (
            "2 processes train together, and each needs about 1,000,000,000 MB of memory besides "
            "its pictures: rank 0 has n MB, rank 1 has n MB left. Nothing was trained. Start fewer "
            "processes on these machines."
        )


@pytest.mark.slow
def test_ranks_that_disagree_say_so_once(together: Together) -> None:
    """All differences of a training's start in one message, said by one rank."""
    said = [line for line in together.err.splitlines() if line.startswith("tellapart: ")]
    (only,) = said
    weights = r"weights: tf_efficientnet_lite0 \w{8} \(rank 0\), tf_\w+ \w{8} \(rank 1\)"
    network = r"network: \w{8} \(rank 0\), \w{8} \(rank 1\)"
    seed = r"the recipe's seed: 0 \(rank 0\), 1 \(rank 1\)"
    start = "tellapart: The ranks of this training do not agree. Different are: "
    assert re.match(re.escape(start) + f"{weights}; {network}; {seed}. Expected", only), only
    assert "exitcode  : 127" in together.err


def epochs(runs: Path) -> int:
    return sum(len(read_history(file).epochs) for file in runs.glob("*/history.jsonl"))


def rank_process(parent: int, rank: int) -> int:
    """Find the process of a rank among the children of one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no rank {rank}")


def records(runs: Path) -> Records:
    (file,) = runs.glob("*/history.jsonl")
    return read_history(file)


LOST = (
    "tellapart: Rank 1 of this training ended (by SIGKILL) before its work was done, so the others "
    "were stopped. Expected were all of them to the end; too little memory is the usual reason. "
    "What was computed is kept, and each whole epoch is. Start the same command again with "
    "--resume."
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_rank_ends_all_and_resuming_ends_as_one_process_does(
    small: Path,
    small_tail: dict[str, Any],
    warm_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_cores: None,
) -> None:
    """kill -9 of a rank: one message, code 128; --resume: what one process would have made.

    That one then finds everything computed that the two kept.
    """
    runs = tmp_path / "runs"
    monkeypatch.setenv("TELLAPART_RUNS", str(runs))
    recipe, target = tmp_path / "recipe.toml", tmp_path / "two.tellapart"
    changes = {"phases.2.epochs": EPOCHS, "phases.2.batch": 32}
    load_recipe("auto", {**small_tail, **changes}).save(recipe)
    command = [sys.executable, "-m", "tellapart", "train", small, "--recipe", recipe, "-o"]
    run = subprocess.Popen(
        [*command, target, "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while epochs(runs) < 3 and time.monotonic() < until and run.poll() is None:
        time.sleep(0.005)
    os.kill(rank_process(run.pid, 1), signal.SIGKILL)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, target.exists()) == (128, "", False)
    said = err.splitlines()
    assert f"2 processes share the work, each on {max(1, usable_cores() // 2)} core" in said[2]
    others = ("phase", str(small), "Recipe", "WARNING: 2 processes on a machine with 1 cores")
    assert [line for line in said if not line.startswith(others)] == [said[2], LOST]

    def finished(*more: str | Path) -> dict[str, Any]:
        ended = subprocess.run(
            [*command, *more, "--json", "--quiet"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return dict(json.loads(ended.stdout))

    facts = finished(target, "--processes", "2", "--resume")
    together = records(runs)
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "alone"))
    one = finished(tmp_path / "one.tellapart")
    alone = records(tmp_path / "alone")
    assert (facts["n_computed"], one["n_computed"]) == (0, 0)
    assert facts["accuracy"] == one["accuracy"]
    assert [record.epoch for record in together.epochs] == list(range(1, EPOCHS + 1))
    for ours, theirs in zip(together.epochs, alone.epochs, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.03)
    found, expected = (open_bundle(path).features for path in (target, tmp_path / "one.tellapart"))
    assert (found.digests == expected.digests).all()
    difference = np.abs(found.features.astype(np.float32) - expected.features)
    # Each on one core, two processes do what one does on two; with other cores, sums are rounded
    # otherwise, and many steps make much of it.
    same = usable_cores() == 2
    assert difference.max() <= (0 if same else 0.05 * np.abs(expected.features).max())


def in_ranks(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Let this process believe that torchrun started it."""
    given = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (given | environment).items():
        monkeypatch.setenv(name, value)


def test_what_cannot_work_is_refused_before_ranks_are_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unlike numbers of processes on machines; a Mac's GPU for several."""
    in_ranks(monkeypatch)
    with pytest.raises(NotForRanks) as refused:
        open_ranks("cpu")
    assert str(refused.value) == (
        "This machine started 2 of 3 processes, so others started another number. Expected was the "
        "same number on each. Nothing was trained. Give torchrun the same --nproc-per-node "
        "everywhere."
    )
    in_ranks(monkeypatch, WORLD_SIZE="2")
    with pytest.raises(NotForRanks) as refused:
        open_ranks("mps")
    assert str(refused.value) == (
        "2 processes cannot share the GPU of a Mac. Nothing was trained. Train with one process, "
        "or with --device cpu."
    )
    assert available_cores() == max(1, usable_cores() // 2)


def test_other_commands_are_not_started_n_times(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    """torchrun with any other command than train: code 129, said by the first to ask."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    in_ranks(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    ended = command("find-lr", tmp_path)
    another = command("find-lr", tmp_path)
    assert (another.code, another.out, another.err) == (129, "", "")
    assert (ended.code, ended.out) == (129, "")
    assert ended.err == (
        "tellapart: torchrun started 3 processes of `tellapart find-lr`, which works in one. "
        "Nothing was done. Start it without torchrun; `tellapart train` is what several processes "
        "can share.\n"
    )


def test_dry_runs_are_of_one_process(command: Command, small: Path) -> None:
    """--dry-run with --processes is a usage error, and starts nothing."""
    ended = command("train", small, "--processes", "2", "--dry-run")
    assert ended.code == 2
    assert "--dry-run tries things in one process" in ended.err


def test_more_ranks_than_pictures_are_refused(small: Path) -> None:
    """64 processes on 60 pictures: some would have none."""
    source = training.open_source(
        small, small.with_suffix(".tellapart"), "fast", None, None, Progress("quiet")
    )
    splits = np.full(60, "train")
    source = replace(source, catalog=replace(scan(small), splits=splits))
    with pytest.raises(NotForRanks) as refused:
        training._check_shares(source, Ranks(0, 64, (0,) * 64))
    assert str(refused.value) == (
        "64 processes train together on 60 different pictures that teach, and some would have none "
        "to learn from. Nothing was trained. Start fewer processes: one is fast enough for so few."
    )
    training._check_shares(source, Ranks(0, 60, (0,) * 60))
    with pytest.raises(NotForRanks):
        training._check_shares(source, Ranks(0, 60, tuple(range(60))))


@pytest.mark.parametrize(("n", "warned"), [(1, False), (64, True)])
def test_more_processes_than_cores_are_warned_of(
    n: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They work, and wait for each other."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n * usable_cores()))
    lines = training._ranks_in_words(Ranks(0, n * usable_cores() + 1, (0,)))
    assert any(line.startswith("WARNING: ") for line in lines) is warned
