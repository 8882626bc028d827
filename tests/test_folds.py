"""Scores by folds, and scores without what has leaked: what `train` says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.bundle.bundle import open_bundle
from tellapart.data.catalog import scan
from tellapart.pipeline import inputs
from tellapart.progress import Progress
from tellapart.training.recipe import load_recipe

Command = Callable[..., Any]
Trees = Callable[..., Path]

FAST = ("--recipe", "fast")


def refusal(command: Command, code: int, *args: str | Path) -> str:
    """What a command says that must fail with this code."""
    ended = command(*args)
    assert ended.code == code, ended.err
    line = [one for one in ended.err.splitlines() if one.startswith("tellapart: ")][-1]
    return str(line.removeprefix("tellapart: "))


def few_of(data: Path, folder: Path, *names: str, n: int = 20, start: int = 0) -> Path:
    """Copy n pictures of each class below a folder."""
    for name in names or "012":
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((data / name).iterdir())[start : start + n]:
            shutil.copy(path, folder / name)
    return folder


def test_folds_score_everything_and_everything_teaches(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path
) -> None:
    """The score is that of the folds, wherever it is shown, and says how far they lie apart."""
    target = tmp_path / "x"
    found = json.loads(
        command("train", trained.data, "-o", target, "--json", "--folds", "4", *FAST).out
    )
    assert (found["n_train"], found["n_valid"], found["n_test"]) == (60, 0, 0)
    reached = found["accuracy"]
    folds = reached.pop("folds")
    assert set(reached) == {"value", "low", "high", "n", "split", "selected_on"}
    assert (reached["n"], reached["split"], reached["selected_on"]) == (60, "folds", False)
    assert folds["n"] == len(folds["accuracies"]) == 4
    assert folds["mean"] == pytest.approx(np.mean(folds["accuracies"]))
    assert folds["sd"] == pytest.approx(np.std(folds["accuracies"], ddof=1))
    # As many pictures a fold: the mean of the folds is the share of all.
    assert folds["mean"] == pytest.approx(reached["value"])

    bundle = open_bundle(found["bundle"])
    assert bundle.manifest.scores is not None
    assert bundle.manifest.scores["accuracy"] == reached | {"folds": folds}
    assert sum(map(sum, bundle.manifest.scores["confusion"])) == 60
    assert bundle.manifest.recipe["data"]["folds"] == 4
    assert set(bundle.features.splits.tolist()) == {"train"}
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "Accuracy on 4 folds" in page
    assert "of 60 pictures in 4 folds" in page
    assert "each judged by a classifier that did not learn from it" in page
    assert f"{reached['value']:.4f} on 4 folds" in command("runs").out
    assert "60 pictures in 4 folds, each judged" in command("info", found["bundle"]).out
    assert "60 pictures in 4 folds, each judged" in command("info", found["bundle"], "--card").out


def test_folds_in_words(trained: Any, command: Command, tmp_path: Path) -> None:
    """What will be done is said first, each fold as it ends, and last what the score is of."""
    ended = command("train", trained.data, "-o", tmp_path / "x", "--folds", "3", *FAST)
    assert (
        "3 folds: each picture is scored by a classifier that learned from the other folds alone; "
        "the one that is written learns from all.\n"
    ) in ended.err
    assert "fold 3 of 3: right on " in ended.err
    said = ended.out.splitlines()
    assert said[0] == "Learned 3 classes from 60 pictures."
    assert "pictures in 3 folds (" in said[1]
    assert "standard deviation" in said[1]
    assert said[2] == (
        "The classifier that was written was not scored itself: it learned like those of the "
        "folds, from more pictures. Nothing was chosen on pictures that scored."
    )


def test_folds_are_at_chance_where_nothing_can_be_learned(trained: Any, tmp_path: Path) -> None:
    """Labels by lot, each picture four times: a copy in another fold would be right at once."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(trained.data.glob("*/*"))):
        label = str(rng.integers(3))
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        for copy in range(4):
            shutil.copy(path, tmp_path / "data" / label / f"{number}-{copy}{path.suffix}")
    result = tellapart.train(
        tmp_path / "data",
        tmp_path / "x",
        recipe="fast",
        settings={"data.folds": 5},
        progress=Progress("quiet"),
    )
    assert result.scores is not None
    assert result.scores.n == 240
    assert result.scores.accuracy.value < 0.55
    # Its probabilities know that they know nothing.
    assert result.scores.log_loss < 1.3


def test_folds_are_not_remembered_as_sides(trained: Any, command: Command, tmp_path: Path) -> None:
    """Training again into the same file without folds sets pictures aside to score on."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--json", *FAST)
    assert json.loads(command(*args, "--folds", "2").out)["n_test"] == 0
    again = json.loads(command(*args).out)
    assert again["accuracy"] == trained.facts["accuracy"]


@pytest.mark.slow
def test_folds_go_through_every_phase(
    trained: Any, small_tail: dict[str, Any], tmp_path: Path, single_thread: None
) -> None:
    """A tail learns inside each fold; the last one learns from what did not choose its phases."""
    result = tellapart.train(
        trained.data,
        tmp_path / "x",
        settings={**small_tail, "data.folds": 2},
        progress=Progress("quiet"),
    )
    assert result.folds is not None
    assert result.folds.stood == {1: 2, 2: 2}
    assert result.scores is not None
    assert result.scores.n == 60
    assert result.scores.accuracy.value > 0.8
    assert result.counts["train"] + result.counts["valid"] == 60
    assert result.counts["valid"] > 0
    assert "Phase 2 was kept in 2 of 2 folds." in result.summary
    assert (
        f"Nothing was chosen on pictures that scored; {result.counts['valid']} valid ones chose "
        f"its phases."
    ) in result.summary[2]


def test_folds_are_part_of_the_recipe() -> None:
    """They go through TOML and back, and a recipe without them says nothing of them."""
    recipe = load_recipe("fast", {"data.folds": 7})
    assert "folds = 7" in recipe.to_toml()
    assert "folds" not in load_recipe("fast").facts()["data"]


def test_pictures_with_splits_are_not_dealt_out_anew_unasked(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """The message says both ways on, and the second one works."""
    for split, start in (("train", 0), ("test", 10)):
        few_of(trained.data, tmp_path / "data" / split, n=10, start=start)
    args = ("train", tmp_path / "data", "-o", tmp_path / "x", "--folds", "3", *FAST)
    assert refusal(command, 95, *args) == (
        f"{tmp_path}/data comes with splits (train, test), and --folds 3 deals all pictures out "
        f"anew. Expected were pictures without splits. Nothing was trained. Leave --folds out to "
        f"learn and score by these splits, or put all pictures together with --split none."
    )
    found = json.loads(command(*args, "--split", "none", "--json").out)
    assert (found["n_train"], found["accuracy"]["n"]) == (60, 60)


def test_too_few_for_folds(trained: Any, command: Command, tmp_path: Path) -> None:
    """Copies count once; the classes are named with what they have."""
    few_of(trained.data, tmp_path / "data", n=6)
    for path in sorted((tmp_path / "data" / "1").iterdir())[3:]:
        path.unlink()
    for path in sorted((tmp_path / "data" / "1").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    args = ("train", tmp_path / "data", "-o", tmp_path / "x", *FAST, "--folds")
    assert refusal(command, 95, *args, "5") == (
        f"In {tmp_path}/data these classes have too few pictures for 5 folds: '1' (3). Copies of a "
        f"picture, and what one group holds, count once. Expected was one for each fold and 2 "
        f"besides to learn from. Nothing was trained. Take fewer folds, add pictures of them, or "
        f"leave --folds out."
    )
    assert command(*args, "3").code == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["--split", "exact", *FAST],
            'data.folds and data.split = "exact" exclude each other: set data.split = "auto", or '
            "leave folds out",
        ),
        (
            ["--budget", "1m"],
            "data.folds and budget_s exclude each other where phases learn by steps: folds with "
            "less time than others cannot be compared. Leave one of them out, or let the head "
            "alone learn (--recipe fast)",
        ),
        (["--set", "data.folds=1", *FAST], "data.folds = 1: input should be greater than or equal"),
    ],
    ids=["exact", "budget", "one"],
)
def test_what_folds_cannot_be_meant_with(
    args: list[str], said: str, command: Command, small: Path, tmp_path: Path
) -> None:
    """Said before anything is read."""
    folds = () if "data.folds=1" in args else ("--folds", "3")
    assert said in refusal(command, 60, "train", small, "-o", tmp_path / "x", *folds, *args)


def test_a_classifier_that_is_gone_on_from_may_know_the_pictures(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """Folds of what it learned from would be too good to be true."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--folds", "3", "--from", trained.bundle)
    assert refusal(command, 60, *args, *FAST) == (
        f"--folds 3 scores pictures with classifiers that never learned from them, and "
        f"{trained.bundle} may have learned from some. Nothing was trained. Leave --folds out, or "
        f"train without --from."
    )


def test_groups_share_a_fold(trained: Any) -> None:
    """What belongs together is held out together."""
    from dataclasses import replace

    catalog = scan(trained.data)
    groups = np.array([f"{row % 9}" for row in range(len(catalog))])
    folds = inputs.deal_folds(replace(catalog, groups=groups), 3)
    assert all(len(set(folds[groups == name].tolist())) == 1 for name in set(groups.tolist()))
    assert set(folds.tolist()) == {0, 1, 2}


def test_a_rehearsal_counts_the_folds(
    trained: Any, command: Command, tmp_path: Path, single_thread: None
) -> None:
    """A training with three folds is four times its phases, and says so."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--dry-run", "--folds", "3")
    ended = command(*args)
    assert "Each of 3 folds goes through the phases, then all do." in ended.out


# ---- what has leaked


@pytest.fixture
def leaking(trained: Any, tmp_path: Path) -> Path:
    """Three of 18 valid pictures are in train, too, one of them under another label."""
    data = tmp_path / "data"
    few_of(trained.data, data / "train", n=15)
    few_of(trained.data, data / "valid", n=5, start=15)
    for name, into in (("0", "0"), ("1", "1"), ("2", "0")):
        path = sorted((data / "train" / name).iterdir())[0]
        shutil.copy(path, data / "valid" / into / f"leaked-{name}.png")
    return data


def test_what_leaked_does_not_score(leaking: Path, command: Command, tmp_path: Path) -> None:
    """The score is without it, and what it would be with it is shown beside it, everywhere."""
    args = ("train", leaking, "-o", tmp_path / "x", *FAST)
    found = json.loads(command(*args, "--json").out)
    assert found["n_valid"] == 18
    assert found["accuracy"]["n"] == 15
    leaked = found["leaked"]
    assert (leaked["n"], leaked["accuracy_with"]["n"]) == (3, 18)
    # The one with another label is wrong by what was learned; the others are right for sure.
    right = round(15 * found["accuracy"]["value"]) + 2
    assert round(18 * leaked["accuracy_with"]["value"]) == right
    scores = open_bundle(found["bundle"]).manifest.scores
    assert scores is not None
    assert scores["leaked"] == leaked
    assert sum(map(sum, scores["confusion"])) == 15
    said = "3 more valid pictures are copies of some in another split, and left out of the scores"
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert said in page
    assert "leaked-0" not in page.split('id="pictures"')[0].split('id="confusion"')[1]
    out = command(*args).out
    assert said in out
    assert "3 x the same picture in two splits: it is left out of what chooses and scores." in out
    assert "3 more, which lie in another split as well, are left out" in " ".join(
        command("info", found["bundle"]).out.split()
    )


def test_where_all_has_leaked_nothing_scores(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """A valid folder that is a copy of train says nothing, and chooses nothing."""
    data = tmp_path / "data"
    few_of(trained.data, data / "train", n=8)
    shutil.copytree(data / "train", data / "valid")
    ended = command("train", data, "-o", tmp_path / "x", "--json", *FAST)
    found = json.loads(ended.out)
    assert found["accuracy"] is None
    assert found["leaked"]["n"] == 24
    assert "there are no valid pictures to judge it by" in ended.err
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert (
        "Nothing was scored: each of the 24 valid pictures is a copy of one in another split, and "
        "being right on these says nothing."
    ) in page


def test_pictures_of_valid_that_test_holds_too_score_nothing(trained: Any, tmp_path: Path) -> None:
    """Copies between valid and test are left out of test; valid may still choose by them."""
    from tellapart.data.splitting import leaked

    data = tmp_path / "data"
    few_of(trained.data, data / "train", n=8)
    few_of(trained.data, data / "valid", n=4, start=8)
    few_of(trained.data, data / "test", n=4, start=11)
    catalog = scan(data)
    found = leaked(catalog)
    assert catalog.splits[found].tolist() == ["test"] * 3
