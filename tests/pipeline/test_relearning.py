"""Learning again from corrections: what teaches, what is refused, and when there is a switch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tellapart.bundle.bundle import open_bundle, rewrite_bundle
from tellapart.errors import BadCorrections, NothingToLearnOn
from tellapart.evaluation.comparison import paired_loss
from tellapart.inference.classifier import Classifier
from tellapart.pipeline import learn_again, undo_learning
from tellapart.training.probe import move_head

Command = Callable[..., Any]


@pytest.fixture
def model(trained: Any, tmp_path: Path) -> Path:
    """A copy of the classifier of the digits 0, 1 and 2, to be learned further."""
    return Path(shutil.copy(trained.bundle, tmp_path / "m.tellapart"))


def reviews(digits: Path, into: Path, **counts: int) -> Path:
    """A folder of corrections: pictures that no classifier of `small` has seen."""
    for name, n in counts.items():
        folder = into / name.removeprefix("d")
        folder.mkdir(parents=True)
        for path in sorted((digits / name.removeprefix("d")).iterdir())[100 : 100 + n]:
            shutil.copy(path, folder)
    return into


def test_a_new_class_is_learned_and_taken_back(digits: Path, model: Path, tmp_path: Path) -> None:
    """Corrections that name a new class: it is answered, the rest is as good, --undo goes back."""
    before = model.read_bytes()
    result = learn_again(model, reviews(digits, tmp_path / "r", d0=2, d7=6))
    assert result.written and result.new_classes == ("7",) and result.n_corrections == 8
    assert result.held_out is not None and result.held_out.worse is None
    assert (result.corrections.n_new, result.corrections.n) == (6, 8)
    unseen = sorted((digits / "7").iterdir())[120:130]
    answers = [one.label for one in Classifier.load(model).predict(unseen)]
    assert answers.count("7") >= 7
    bundle = open_bundle(model)
    assert bundle.manifest.classes == ("0", "1", "2", "7")
    assert bundle.manifest.data["corrections"][0]["pictures"] == 8
    assert "Learned again from m.tellapart with 8 corrections." in bundle.report
    assert model.with_name("m.tellapart.previous").read_bytes() == before
    undo_learning(model)
    assert model.read_bytes() == before
    undo_learning(model)
    assert open_bundle(model).manifest.n_classes == 4


def test_what_is_known_already_changes_nothing(
    trained: Any, model: Path, command: Command, tmp_path: Path
) -> None:
    """Pictures that taught with the same label are nothing new: no error, nothing written."""
    before = model.read_bytes()
    told = command("learn", model, "--from-reviews", trained.data, "--json", "-q")
    assert told.code == 0
    result = json.loads(told.out)
    assert (result["n_corrections"], result["n_known"], result["written"]) == (0, 60, False)
    assert model.read_bytes() == before


def test_all_that_is_wrong_is_said_at_once(
    trained: Any, digits: Path, model: Path, tmp_path: Path
) -> None:
    """Two labels, another label than was learned, too few and unreadable: one message."""
    folder = reviews(digits, tmp_path / "r", d7=1, d1=1)
    (both,) = (folder / "1").iterdir()
    (folder / "2").mkdir()
    shutil.copy(both, folder / "2" / "both.png")
    shutil.copy(sorted((trained.data / "0").iterdir())[0], folder / "1" / "known.png")
    (folder / "1" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadCorrections) as raised:
        learn_again(model, folder)
    said = str(raised.value)
    assert "1 picture is under two labels: " in said
    assert "1 picture is known to the classifier under another label: 1/known.png" in said
    assert "--relabel takes the word of the corrections" in said
    assert "fewer than 2 different readable pictures to learn from: '7' (1, new)" in said
    assert "Not readable, and left out: 1/broken.png " in said
    assert raised.value.exit_code == 118


def test_relabel_believes_the_correction(trained: Any, model: Path, tmp_path: Path) -> None:
    """With --relabel a picture that taught under another label teaches under the new one."""
    kept = open_bundle(model).features
    digest = kept.digests[(kept.splits == "train") & (kept.labels == 0)][0]
    from tellapart.data.hashing import picture_hash

    (path,) = (
        one
        for one in (trained.data / "0").iterdir()
        if picture_hash(one.read_bytes()).encode() == digest
    )
    (tmp_path / "r" / "1").mkdir(parents=True)
    shutil.copy(path, tmp_path / "r" / "1")
    result = learn_again(model, tmp_path / "r", relabel=True, even_if_worse=True)
    assert (result.n_corrections, result.n_relabelled) == (1, 1)
    now = open_bundle(model).features
    assert now.labels[now.digests == digest].tolist() == [1]
    assert len(now.labels) == len(kept.labels)


def test_worse_is_not_taken(digits: Path, model: Path, command: Command, tmp_path: Path) -> None:
    """Corrections that are all wrong make it worse: exit 117, and the file stays; unless wanted."""
    folder = tmp_path / "r"
    for shown, called in (("0", "1"), ("1", "2"), ("2", "0")):
        (folder / called).mkdir(parents=True)
        for path in sorted((digits / shown).iterdir())[60:140]:
            shutil.copy(path, folder / called)
    before = model.read_bytes()
    told = command("learn", model, "--from-reviews", folder, "-q")
    assert told.code == 117
    assert told.err.startswith("tellapart: Not taken: on ")
    assert "Look at the corrections, add more of them, or take it all the same" in told.err
    assert model.read_bytes() == before
    other = tmp_path / "other.tellapart"
    told = command("learn", model, "--from-reviews", folder, "-q", "-o", other, "--even-if-worse")
    assert told.code == 0 and "Taken all the same: " in told.out
    assert other.is_file() and model.read_bytes() == before


def test_dry_run_writes_nothing(
    digits: Path, model: Path, command: Command, tmp_path: Path
) -> None:
    """--dry-run compares, and leaves every file as it is."""
    folder = reviews(digits, tmp_path / "r", d7=4)
    there = {path.name for path in tmp_path.iterdir()}
    told = command("learn", model, "--from-reviews", folder, "--dry-run", "-q")
    assert told.code == 0 and "Nothing was written." in told.out
    assert {path.name for path in tmp_path.iterdir()} == there


def test_without_features_it_says_what_is_needed(model: Path, tmp_path: Path) -> None:
    """A bundle without features, and nothing to go back to: exit 119 and the command that helps."""
    bundle = open_bundle(model)
    bare = tmp_path / "bare.tellapart"
    manifest = bundle.manifest
    rewrite_bundle(
        bundle.__class__(
            bundle.path,
            manifest.model_copy(
                update={
                    "sha256": {
                        name: one
                        for name, one in manifest.sha256.items()
                        if name != "features.safetensors"
                    }
                }
            ),
        ),
        manifest,
        bare,
    )
    with pytest.raises(NothingToLearnOn, match=r"tellapart train FOLDER --from bare\.tellapart"):
        learn_again(bare, tmp_path)
    with pytest.raises(NothingToLearnOn, match="so there is nothing to go back to"):
        undo_learning(bare)


def test_a_tuned_network_keeps_its_head(tuned: Any, digits: Path, tmp_path: Path) -> None:
    """Where the network learned, the old head is moved; calibration stays one of held-out ones."""
    model = Path(shutil.copy(tuned.bundle, tmp_path / "t.tellapart"))
    folder = reviews(digits, tmp_path / "r", d7=4, d1=2)
    result = learn_again(model, folder, even_if_worse=True)
    assert result.written
    before, after = open_bundle(tuned.bundle), open_bundle(model)
    assert after.manifest.calibration.fitted_on == before.manifest.calibration.fitted_on
    assert after.manifest.recipe == before.manifest.recipe
    answers = [
        one.label for one in Classifier.load(model).predict(sorted((folder / "7").iterdir()))
    ]
    assert answers == ["7"] * 4


def test_a_moved_head_that_needs_not_move_stays() -> None:
    """Where the old head has every picture surely right, it hardly moves."""
    features = np.eye(4, dtype=np.float16).repeat(5, axis=0)
    labels = np.arange(4).repeat(5)
    head = (20 * np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    weight, bias = move_head(features, labels, head)
    assert np.abs(weight - head[0]).max() < 0.1 and np.abs(bias).max() < 0.1


@settings(deadline=None)
@given(
    arrays(np.float32, (12, 3), elements=st.floats(0.0625, 1, width=32)),
    arrays(np.float32, (12, 3), elements=st.floats(0.0625, 1, width=32)),
)
def test_loss_intervals_turn_with_the_order(first: Any, second: Any) -> None:
    """Comparing the other way round gives the opposite interval, and it holds its own value."""
    labels = np.arange(12) % 3
    there, back = paired_loss(first, second, labels), paired_loss(second, first, labels)
    assert there.low <= there.value <= there.high
    assert np.allclose([there.value, there.low], [-back.value, -back.high])
