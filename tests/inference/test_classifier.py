"""The classifier: the right answer at the right place, the same in every mode and process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tellapart
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.bundle.bundle import open_bundle
from tellapart.data.pixels import evaluation_pixels, read_file
from tellapart.errors import BundleDamaged, UnreadablePicture
from tellapart.inference.classifier import FEW, Classifier, expand

FORMAT_1 = Path(__file__).parents[1] / "bundle" / "formats" / "format_1.tellapart"
NAMES = ("blue", "green", "red", "grey", "mixed")
LABELS = {"blue": "blue", "green": "green", "red": "red", "grey": "blue", "mixed": "red"}


def probabilities(classifier: Classifier, paths: list[str]) -> np.ndarray:
    """(N, K) probabilities of readable pictures."""
    return classifier.probabilities(np.stack([*classifier.logits(paths)]))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pictures(trained: Any) -> list[str]:
    """The pictures that the classifier was trained on, more than are answered one by one."""
    paths = [str(path) for path in sorted(trained.data.rglob("*.png"))]
    assert len(paths) > FEW
    return paths


@pytest.fixture(scope="module")
def mixed(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colours, and beside them what cannot be read."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(colours, folder, dirs_exist_ok=True)
    (folder / "broken.png").write_bytes((colours / "red.png").read_bytes()[:40])
    (folder / "empty.png").write_bytes(b"")
    return folder


@given(st.lists(st.sampled_from([*NAMES, "missing", "broken", "empty"]), max_size=2 * FEW))
@settings(max_examples=40, deadline=None)
def test_every_answer_stands_at_its_place(mixed: Path, names: list[str]) -> None:
    """Whatever lies between readable pictures, few or many: one answer each, in order."""
    paths = [mixed / f"{name}.png" for name in names]
    answers = Classifier.load(FORMAT_1).predict(paths)
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert [answer.label for answer in answers] == [LABELS.get(name) for name in names]
    reasons = {"missing": "cannot be opened", "broken": "is cut off", "empty": "is empty"}
    for name, answer in zip(names, answers, strict=True):
        if name in reasons:
            assert answer.error is not None
            assert answer.error.startswith(reasons[name])
            assert (answer.confidence, answer.top) == (None, ())
        else:
            assert answer.error is None


def test_the_most_probable_classes_come_first(colours: Path) -> None:
    """`top` falls, holds at most K classes, begins with the label, and sums to one if whole."""
    classifier = Classifier.load(FORMAT_1)
    (whole,) = classifier.predict([colours / "mixed.png"], top=99)
    assert [label for label, _ in whole.top] == ["red", "green", "blue"]
    assert sum(value for _, value in whole.top) == pytest.approx(1, abs=1e-6)
    assert (whole.label, whole.confidence) == whole.top[0]
    (short,) = classifier.predict([colours / "mixed.png"], top=2)
    assert short.top == whole.top[:2]


def test_an_answer_is_plain_json(colours: Path) -> None:
    """`as_dict` has the documented keys, for an answer and for an error."""
    paths = [colours / "red.png", colours / "missing.png"]
    right, wrong = (one.as_dict() for one in Classifier.load(FORMAT_1).predict(paths, top=1))
    assert json.loads(json.dumps(right)) == {
        "path": str(colours / "red.png"),
        "label": "red",
        "confidence": pytest.approx(0.9004, abs=1e-3),
        "top": [{"label": "red", "confidence": right["confidence"]}],
        "error": None,
        "unsure": True,
        "candidates": ["red", "blue"],
        "reason": "confidence 90.0% is below 95.0%",
    }
    assert wrong == {
        "path": str(colours / "missing.png"),
        "label": None,
        "confidence": None,
        "top": [],
        "error": "cannot be opened (No such file or directory)",
        "unsure": False,
        "candidates": [],
        "reason": None,
    }


def test_a_reloaded_classifier_answers_bit_for_bit_the_same(
    trained: Any, pictures: list[str], tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Copied, loaded again, in this process or another: the same probabilities to the last bit."""
    copy = tmp_path / "copy.tellapart"
    shutil.copy(trained.bundle, copy)
    first = probabilities(Classifier.load(trained.bundle), pictures)
    assert (probabilities(Classifier.load(copy), pictures) == first).all()
    lines = run("predict", copy, *pictures, "--json").stdout.splitlines()
    elsewhere = [
        {top["label"]: top["confidence"] for top in json.loads(line)["top"]} for line in lines
    ]
    classes = Classifier.load(copy).classes
    assert [[one[name] for name in classes] for one in elsewhere] == first.tolist()


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-3), ("bf16", 2e-2)])
def test_one_by_one_and_in_batches_are_the_same(
    trained: Any, pictures: list[str], precision: Any, tolerance: float
) -> None:
    """Few pictures are answered by another compiled network than many; the answers agree."""
    classifier = Classifier.load(trained.bundle, precision)
    few = np.concatenate([probabilities(classifier, [path]) for path in pictures[:6]])
    many = probabilities(classifier, pictures)
    np.testing.assert_allclose(few, many[:6], atol=tolerance)


def test_what_was_learned_from_is_what_is_seen_again(trained: Any, pictures: list[str]) -> None:
    """Features computed for a prediction are those that were kept when it was trained."""
    bundle = open_bundle(trained.bundle)
    runtime = OpenVinoRuntime(bundle.graph)
    assert runtime.identity == bundle.manifest.runtime
    seen = (evaluation_pixels(read_file(path), bundle.manifest.preprocessing) for path in pictures)
    again = np.stack(list(runtime.run(seen)))
    # Both are in order of class, then path.
    np.testing.assert_array_equal(again, bundle.features.features)


def test_what_a_tail_made_is_what_is_seen_again(tuned: Any, pictures: list[str]) -> None:
    """Features of a network that learned are those of its graph, whichever way they were computed.

    Pictures that choose or score went through the finished graph, so they are equal. Those that
    taught went on from activations that were kept in 16 bits.
    """
    bundle = open_bundle(tuned.bundle)
    runtime = OpenVinoRuntime(bundle.graph)
    seen = (evaluation_pixels(read_file(path), bundle.manifest.preprocessing) for path in pictures)
    again = np.stack(list(runtime.run(seen))).astype(np.float32)
    kept = bundle.features.features.astype(np.float32)
    taught = bundle.features.splits == "train"
    np.testing.assert_array_equal(again[~taught], kept[~taught])
    assert np.abs(again - kept).max() < 0.06 * kept.max()
    assert np.abs(again - kept).mean() < 0.002 * kept.max()


def test_a_tuned_classifier_answers_right(tuned: Any, pictures: list[str]) -> None:
    """It tells apart what it learned, with the confidence that was scored."""
    answers = Classifier.load(tuned.bundle).predict(pictures)
    right = [one.label == Path(one.path).parent.name for one in answers]
    assert sum(right) >= 58
    splits = open_bundle(tuned.bundle).features.splits
    scored = np.flatnonzero(splits == "test")
    scores = open_bundle(tuned.bundle).manifest.scores
    assert scores is not None
    assert np.mean([right[row] for row in scored]) == scores["accuracy"]["value"]
    loss = [-np.log(dict(answers[row].top)[Path(answers[row].path).parent.name]) for row in scored]
    assert np.mean(loss) == pytest.approx(scores["log_loss"], abs=1e-4)


@pytest.mark.parametrize("kind", ["trained", "tuned"])
def test_the_graph_gives_the_same_logits_as_the_classifier(
    kind: str, request: pytest.FixtureRequest, pictures: list[str]
) -> None:
    """Another program that runs graph.onnx to its end gets our logits: 32 bits against 32."""
    bundle = open_bundle(request.getfixturevalue(kind).bundle)
    classifier = Classifier(bundle, "f32")
    ours = np.stack([*classifier.logits(pictures)])  # type: ignore[arg-type]
    seen = (evaluation_pixels(read_file(path), bundle.manifest.preprocessing) for path in pictures)
    theirs = np.stack(list(OpenVinoRuntime(bundle.graph, "logits", "f32").run(seen)))
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(ours).max()


def test_sixteen_bits_do_not_change_the_answer(trained: Any, pictures: list[str]) -> None:
    """On the fastest precision the labels are those of 32 bits, confidences within 0.05."""
    exact, fast = (
        Classifier.load(trained.bundle, precision).predict(pictures)
        for precision in ("f32", "bf16")
    )
    assert [one.label for one in fast] == [one.label for one in exact]
    for one, other in zip(exact, fast, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=0.05)


def test_an_unreadable_picture_is_a_value_not_an_exception(colours: Path) -> None:
    """`logits` yields the reason in its place and goes on."""
    paths = [str(colours / "none.png"), str(colours / "red.png")]
    first, second = Classifier.load(FORMAT_1).logits(paths)
    assert isinstance(first, UnreadablePicture)
    assert isinstance(second, np.ndarray)


def test_the_library_predicts_in_three_lines(trained: Any, pictures: list[str]) -> None:
    """`tellapart.Classifier.load(file).predict(paths)`: any iterable of strings or paths."""
    answers = tellapart.Classifier.load(str(trained.bundle)).predict(map(Path, pictures[:3]))
    assert [answer.label for answer in answers] == ["0", "0", "0"]
    assert all(isinstance(answer, tellapart.Prediction) for answer in answers)
    assert tellapart.Classifier.load(trained.bundle).predict([]) == []


def test_files_folders_and_patterns_become_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order given; folders with all below them; only pictures from folders."""
    for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.webp", "deep/folder.png/d.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    in_folder = ["deep/er/c.webp", "deep/folder.png/d.gif"]
    assert expand(["notes.txt", "deep", "b.jpg"]) == ["notes.txt", *in_folder, "b.jpg"]
    assert expand(["*.jpg", f"{tmp_path}/**/*.webp"]) == ["b.jpg", f"{tmp_path}/deep/er/c.webp"]
    assert expand(["nothing.jpg", "no*thing"]) == ["nothing.jpg", "no*thing"]
    assert expand([]) == []


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cat[1].jpg` is a file first and a pattern only where there is none."""
    (tmp_path / "cat[1].jpg").touch()
    (tmp_path / "cat1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert expand(["cat[1].jpg"]) == ["cat[1].jpg"]
    assert expand(["cat[12].jpg"]) == ["cat1.jpg"]


def test_the_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quoted `~` is understood in files, folders and patterns."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").touch()
    for given_ in ("~/a.jpg", "~", "~/*.jpg"):
        assert expand([given_]) == [str(tmp_path / "a.jpg")]


def test_a_path_that_cannot_exist_is_answered_with_an_error() -> None:
    """A name that is too long is one unreadable picture, not the end of the run."""
    name = "x" * 300
    assert expand([name]) == [name]
    (answer,) = Classifier.load(FORMAT_1).predict([name])
    assert answer.error == "cannot be opened (File name too long)"


def test_names_in_no_encoding_are_answered(colours: Path, tmp_path: Path) -> None:
    """A file name of bytes that are no UTF-8 is read like any other."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(colours / "red.png", path)
    (answer,) = Classifier.load(FORMAT_1).predict(expand([str(tmp_path)]))
    assert (answer.path, answer.label) == (path, "red")


@pytest.mark.parametrize(
    ("name", "new", "what"),
    [
        ("graph.onnx", b"junk", "its graph cannot be run"),
        ("graph.onnx", None, "its graph cannot be run"),
        (
            "classes",
            ["blue", "red"],
            "its graph is for 3 classes at 8 px, its manifest for 2 classes at 8 px",
        ),
        (
            "preprocessing",
            {"size_px": 16, "mean": [0, 0, 0], "std": [1, 1, 1]},
            "its graph is for 3 classes at 8 px, its manifest for 3 classes at 16 px",
        ),
    ],
)
def test_a_bundle_changed_by_hand_is_refused(
    name: str, new: Any, what: str, colours: Path, tmp_path: Path
) -> None:
    """With every checksum right, graph and manifest must still fit together."""
    with zipfile.ZipFile(FORMAT_1) as file:
        parts = {part: file.read(part) for part in file.namelist()}
    facts = json.loads(parts["manifest.json"])
    if name == "graph.onnx":
        # Without a head, or no graph at all.
        parts[name] = new or parts[name].replace(b"head.bias", b"tail.bias")
        facts["sha256"][name] = hashlib.sha256(parts[name]).hexdigest()
    else:
        facts[name] = new
    parts["manifest.json"] = json.dumps(facts).encode()
    path = tmp_path / "x.tellapart"
    with zipfile.ZipFile(path, "w") as file:
        for part, data in parts.items():
            file.writestr(part, data)
    with pytest.raises(BundleDamaged) as refused:
        Classifier.load(path).predict([colours / "red.png"])
    assert str(refused.value).startswith(
        f"{path} is not a whole tellapart classifier: {what}. It was expected to be as "
    )
