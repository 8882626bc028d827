"""Commands that judge: minimums, comparisons, and how sure an answer must be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.bundle.accepting import set_accept, trade_off
from tellapart.bundle.bundle import open_bundle, with_head, write_bundle
from tellapart.evaluation.decision import with_accept
from tellapart.inference.classifier import Classifier
from tellapart.pipeline import compare

Command = Callable[..., Any]
FORMAT_2 = Path(__file__).parent / "bundle" / "formats" / "format_2.tellapart"


@pytest.fixture(scope="module")
def labelled(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours in class folders: grey is called green, mixed red; violet is known to nobody."""
    folder = tmp_path_factory.mktemp("judged") / "colours"
    for name, pictures in {
        "blue": ("blue",),
        "green": ("green", "grey"),
        "red": ("red", "mixed"),
        "violet": ("mixed",),
    }.items():
        (folder / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(colours / f"{picture}.png", folder / name)
    (folder / "red" / "broken.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another classifier of the same colours, in another order, that takes grey for green."""
    old = open_bundle(FORMAT_2)
    weight = np.array([[3, -1, -1], [-1, 3, -1], [-1, -1, 3]], dtype=np.float32)
    graph = with_head(old.graph, weight, np.array([-0.5, 0.5, -0.25], dtype=np.float32))
    path = tmp_path_factory.mktemp("other") / "other.tellapart"
    manifest = old.manifest.model_copy(update={"classes": ("red", "green", "blue")})
    write_bundle(path, manifest, graph, old.weights, None, old.report)
    return path


def test_minimums_that_are_reached_say_nothing(command: Command, labelled: Path) -> None:
    """Exit code 0 and the usual output, however many there are."""
    asked = ("--min", "accuracy=0.8", "--min", "recall[red]=1", "--min", "answered.accuracy=1")
    ended = command("evaluate", FORMAT_2, labelled, "--json", "--quiet", *asked)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["accuracy"]["value"] == 0.8


def test_every_minimum_that_is_missed_is_named(command: Command, labelled: Path) -> None:
    """Exit code 70, after the scores: each one with what it is and what was asked."""
    asked = ("--min", "accuracy=0.95", "--min", "recall[green]=0.9", "--min", "recall[red]=0.9")
    ended = command("evaluate", FORMAT_2, labelled, "--json", "--quiet", *asked)
    assert ended.code == 70
    assert json.loads(ended.out)["n"] == 5
    assert ended.err == (
        "tellapart: 2 of 3 minimums missed, on 5 pictures: accuracy is 0.8000, at least 0.95; "
        "recall[green] is 0.5000, at least 0.9 was expected.\n"
    )


def test_a_score_that_cannot_be_measured_is_missed(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    """A class without pictures, or too few classes for a top five, cannot pass a gate."""
    shutil.copytree(labelled / "red", tmp_path / "x" / "red")
    shutil.copytree(labelled / "blue", tmp_path / "x" / "blue")
    asked = ("--min", "recall[green]=0", "--min", "top5=0.5")
    ended = command("evaluate", FORMAT_2, tmp_path / "x", "--quiet", *asked)
    assert ended.code == 70
    assert "recall[green] cannot be measured on these pictures (at least 0)" in ended.err
    assert "top5 cannot be measured on these pictures (at least 0.5)" in ended.err


def test_an_unknown_score_is_answered_with_the_nearest(command: Command, labelled: Path) -> None:
    """Exit code 71; a score of which less is better has no minimum."""
    asked = ("--min", "recal[gren]=0.9", "--min", "log_loss=0.1", "--min", "zzz=0.1")
    ended = command("evaluate", FORMAT_2, labelled, "--quiet", *asked)
    assert ended.code == 71
    assert ended.err == (
        "tellapart: There is no score recal[gren]: did you mean recall[green]? log_loss is better "
        "the smaller it is: it has no minimum. There is no score zzz. Nothing was compared. "
        "Correct --min; the scores are accuracy, macro_precision, macro_recall, macro_f1, top5, "
        "balanced_accuracy, weighted_precision, weighted_recall, weighted_f1, auroc, "
        "answered.share, answered.accuracy, candidates.coverage, and recall[CLASS], "
        "precision[CLASS], f1[CLASS] and auroc[CLASS].\n"
    )


@pytest.mark.parametrize("text", ["accuracy", "accuracy=high", "accuracy=95", "=0.5", "f1[a]=nan"])
def test_a_minimum_that_is_none_is_refused(text: str, command: Command, labelled: Path) -> None:
    """Before anything is looked at: what was given, and how it should look."""
    ended = command("evaluate", FORMAT_2, labelled, "--min", text)
    assert ended.code == 2
    assert "expected NAME=VALUE" in ended.err


def test_evaluate_tells_answered_and_candidates_apart(command: Command, labelled: Path) -> None:
    """All pictures count in the accuracy; the answered and the candidates have their own."""
    found = json.loads(command("evaluate", FORMAT_2, labelled, "--json", "--quiet").out)
    assert found["n"] == 5
    answered = found["answered"]
    assert (answered["share"], answered["accuracy"], answered["n"]) == (0.6, 1, 3)
    assert (answered["accept"], answered["threshold"]) == (0.9, 0.800474)
    assert answered["promised"] is True
    assert found["candidates"]["coverage"] == 1
    assert found["candidates"]["mean_size"] == pytest.approx(1.2)
    assert set(found["ece"]) == {"value", "low", "high"}
    looser = command("evaluate", FORMAT_2, labelled, "--json", "--quiet", "--accept", "0.8")
    assert json.loads(looser.out)["answered"]["share"] == 0.8


def test_evaluate_in_words_fits_a_terminal(command: Command, labelled: Path) -> None:
    """Every score with its interval, then the answered and the candidates, at 80 columns."""
    lines = command("evaluate", FORMAT_2, labelled, "--quiet").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[:16].strip() for line in lines[2:]] == [
        "Pictures",
        "Accuracy",
        "Macro precision",
        "Macro recall",
        "Macro f1",
        "Log loss",
        "Weighted f1",
        "Brier score",
        "Calibration err.",
        "AUROC",
        "Answered",
        "… of them right",
        "In candidates",
        "Candidates each",
    ]


def test_nothing_answered_has_no_accuracy(command: Command, labelled: Path, tmp_path: Path) -> None:
    """Where every picture is unsure there is a share of zero, and no number is made up."""
    (tmp_path / "green").mkdir()
    shutil.copy(labelled / "green" / "grey.png", tmp_path / "green")
    found = json.loads(command("evaluate", FORMAT_2, tmp_path, "--json", "--quiet").out)
    assert (found["answered"]["share"], found["answered"]["accuracy"]) == (0, None)
    assert command("evaluate", FORMAT_2, tmp_path, "--quiet").code == 0


def test_compare_in_json(command: Command, labelled: Path, other: Path) -> None:
    """Difference, test, classes and flipped pictures; classes are matched by name."""
    ended = command("compare", FORMAT_2, other, labelled, "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["n"], found["n_unreadable"], found["n_left_out"]) == (5, 1, 1)
    assert found["left_out"] == ["violet"]
    assert (found["first"]["value"], found["second"]["value"]) == (0.8, 1)
    assert found["difference"]["value"] == pytest.approx(0.2)
    assert (found["difference"]["only_first"], found["difference"]["only_second"]) == (0, 1)
    assert found["difference"]["p_value"] == 1
    assert found["per_class"][0] == {"name": "green", "n": 2, "first": 0.5, "second": 1.0}
    (flip,) = found["flips"]
    assert flip["path"] == str(labelled / "green" / "grey.png")
    assert (flip["actual"], flip["first"], flip["second"]) == ("green", "blue", "green")
    assert flip["kind"] == "gained"


def test_compare_in_words(command: Command, labelled: Path, other: Path) -> None:
    """What was left out, both accuracies, what the difference is worth, and where it comes from."""
    out = command("compare", FORMAT_2, other, labelled, "--quiet").out
    assert "Not compared: 1 pictures of classes that not both know: violet." in out
    assert "Set aside: 1 files that are no readable pictures." in out
    assert "Difference  +0.2000" in out
    assert "Only the first has 0 right, only the second 1; p = 1." in out
    assert "The second has more right, but chance alone does that often: it proves nothing." in out
    assert "gained  green  blue   green" in out
    same = command("compare", FORMAT_2, FORMAT_2, labelled, "--quiet").out
    assert "Both have the same number of pictures right." in same
    assert "differently" not in same


def test_a_difference_that_is_no_chance_is_said(labelled: Path, other: Path) -> None:
    """Many pictures gained: the verdict names how rarely chance does that."""
    found = compare(Classifier.load(other), Classifier.load(FORMAT_2), labelled)
    assert found.flips[0].kind == "lost"
    assert "The first has more right" in found.verdict()


def test_nothing_in_common_cannot_be_compared(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    """Exit code 8, as where one classifier knows nothing of what lies there."""
    shutil.copytree(labelled / "violet", tmp_path / "x" / "violet")
    ended = command("compare", FORMAT_2, FORMAT_2, tmp_path / "x", "--quiet")
    assert ended.code == 8


def test_accept_shows_the_trade(command: Command) -> None:
    """What answers are worth now, and what other wishes would cost; nothing is changed."""
    before = FORMAT_2.read_bytes()
    lines = command("accept", FORMAT_2).out.splitlines()
    assert lines[0].startswith("Answers are given from a confidence of 80.0% on, to 86.0% of ")
    assert lines[1].split() == ["wanted", "promised", "from", "confidence", "answered"]
    assert lines[2].split() == ["0.8", "yes", "0.000", "100.0%"]
    assert lines[-1].split() == ["0.995", "no", "0.995", "54.0%"]
    found = json.loads(command("accept", FORMAT_2, "--json").out)
    assert (found["accept"], found["n"], len(found["choices"])) == (0.9, 400, 6)
    assert FORMAT_2.read_bytes() == before


def test_accept_moves_the_threshold_in_place(command: Command, tmp_path: Path) -> None:
    """Set in the file, or in a copy; the classifier then answers by it."""
    mine = tmp_path / "mine.tellapart"
    shutil.copy(FORMAT_2, mine)
    ended = command("accept", mine, "0.8")
    assert ended.code == 0
    assert ended.out.endswith(f"Set in {mine}.\n")
    assert open_bundle(mine).manifest.calibration.rules.accept == 0.8
    copy = tmp_path / "copy.tellapart"
    assert command("accept", mine, "0.9", "-o", copy).code == 0
    found, stored = open_bundle(copy), open_bundle(FORMAT_2)
    assert found.manifest == stored.manifest
    assert all(found.member(name) == stored.member(name) for name in stored.manifest.sha256)
    assert command("accept", mine, "1.5").code == 2
    assert command("accept", mine, "-o", copy).code == 2


def test_accept_works_for_old_bundles(format_1: Path, tmp_path: Path) -> None:
    """A bundle of format 1 becomes one of format 2, and promises nothing."""
    rules = set_accept(format_1, 0.8, tmp_path / "new.tellapart")
    assert (rules.accept, rules.threshold, rules.promised) == (0.8, 0.8, False)
    again, choices = trade_off(tmp_path / "new.tellapart")
    assert again == rules
    assert not any(one.promised for one in choices)


def test_predict_with_another_wish(command: Command, colours: Path) -> None:
    """--accept decides anew without touching the file; label and confidence stay."""
    args = ("predict", FORMAT_2, colours / "mixed.png", "--json")
    strict, loose = (json.loads(command(*args, "--accept", a).out) for a in ("0.9", "0.8"))
    assert (strict["unsure"], loose["unsure"]) == (True, False)
    assert strict["reason"].startswith("confidence 63.")
    assert loose["reason"] is None
    same = ("label", "confidence", "candidates", "top")
    assert [strict[name] for name in same] == [loose[name] for name in same]
    ended = command(*args, "--accept", "1")
    assert ended.code == 2
    assert "expected a share between 0 and 1" in ended.err


def test_unsure_in_words_fits_a_terminal(command: Command, colours: Path) -> None:
    """Why it is unsure, then what it may be; of what looks like no class nothing is guessed."""
    names = ("mixed", "grey", "blue")
    out = command("predict", FORMAT_2, *[colours / f"{name}.png" for name in names], "--top", "1")
    lines = [line for line in out.out.splitlines() if line.startswith(" ")]
    assert [line.split("%  ")[-1] for line in lines] == [
        "red",
        "    unsure: confidence 63.5% is below 80.0%, which keeps 90% of answers right",
        "    it may be: red",
        "blue",
        "    unsure: looks like none of the classes",
        "blue",
    ]
    assert max(map(len, lines)) <= 80


def test_a_trained_classifier_decides_the_same_when_reloaded(
    trained: Any, colours: Path, tmp_path: Path
) -> None:
    """Saved again and loaded: the same unsure, candidates and reason, to the last bit."""
    bundle = open_bundle(trained.bundle)
    copy = tmp_path / "copy.tellapart"
    parts = (bundle.graph, bundle.weights, bundle.features, bundle.report, bundle.familiar)
    write_bundle(copy, bundle.manifest, *parts)
    pictures = [*sorted(trained.data.rglob("*.png"))[::3], colours / "blue.png"]
    first = Classifier.load(trained.bundle).predict(pictures)
    assert Classifier.load(copy).predict(pictures) == first
    assert all(one.candidates[0] == one.label for one in first)
    assert first[-1].unsure
    rules = bundle.manifest.calibration.rules
    assert with_accept(rules, rules.accept) == rules


def test_strangers_are_told_without_kept_features(
    trained: Any, colours: Path, tmp_path: Path
) -> None:
    """A bundle without its pictures' features tells a plain colour from a handwritten digit."""
    bundle = open_bundle(trained.bundle)
    lean = tmp_path / "lean.tellapart"
    parts = (bundle.graph, bundle.weights, None, bundle.report, bundle.familiar)
    write_bundle(lean, bundle.manifest, *parts)
    (answer,) = tellapart.Classifier.load(lean).predict([colours / "blue.png"])
    assert (answer.unsure, answer.reason) == (True, "looks like none of the classes")


def test_a_wish_at_training_is_kept_in_the_bundle(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """`train --accept` is what the classifier answers by; fitted out-of-fold on all that taught."""
    path = tmp_path / "x.tellapart"
    args = ("train", trained.data, "-o", path, "--recipe", "fast", "--quiet", "--accept", "0.7")
    assert command(*args, "--set", "level=0.9").code == 0
    manifest = open_bundle(path).manifest
    rules = manifest.calibration.rules
    assert (rules.accept, rules.level, manifest.recipe["accept"]) == (0.7, 0.9, 0.7)
    assert rules.promised
    assert manifest.calibration.fitted_on == "out-of-fold"
    assert rules.n == 60 - trained.facts["n_test"]


def test_once_a_tail_has_learned_valid_decides(tuned: Any) -> None:
    """The rules then come from the pictures that chose, never from those that taught or score."""
    calibration = open_bundle(tuned.bundle).manifest.calibration
    assert calibration.fitted_on == "valid"
    assert calibration.rules.n == tuned.result.counts["valid"]
    assert not calibration.rules.promised
