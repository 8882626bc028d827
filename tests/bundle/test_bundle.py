"""The bundle: whole or refused, the same bytes every time, and old formats stay readable."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import load, save
from safetensors.torch import load as load_tensors

import tellapart
from tellapart.backbones.network import build_network, export_graph
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import random_weights
from tellapart.bundle.bundle import (
    MEMBERS,
    Bundle,
    KeptFeatures,
    open_bundle,
    rewrite_manifest,
    with_head,
    with_head_weights,
    write_bundle,
)
from tellapart.bundle.manifest import FORMAT
from tellapart.data.catalog import SPLITS
from tellapart.data.pixels import evaluation_pixels, read_file
from tellapart.errors import (
    BundleDamaged,
    BundleError,
    BundleFromFuture,
    BundleNotFound,
    TellapartError,
)
from tellapart.evaluation.calibration import fit_temperature
from tellapart.evaluation.decision import Rules, with_accept
from tellapart.inference.classifier import Classifier
from tellapart.progress import Progress
from tellapart.training.recipe import load_recipe

Members = dict[str, bytes]

FORMATS = Path(__file__).parent / "formats"
STORED = FORMATS / "format_1.tellapart"
STORED_BYTES = STORED.read_bytes()
DAMAGED = (
    "{path} is not a whole tellapart classifier: {what}. It was expected to be as `tellapart "
    "train` wrote it; it was cut off or changed since, so it is not used. Copy it again from where "
    "it came from, or train again."
)


def members(path: Path) -> Members:
    """Every member's bytes, in the order of the file."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(parts: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip with these members."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return data.getvalue()


def with_manifest(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The stored bundle with something else in its manifest."""
    parts = members(STORED)
    facts = json.loads(parts["manifest.json"])
    change(facts)
    return zipped(parts | {"manifest.json": json.dumps(facts).encode()})


def refusal(path: Path, data: bytes) -> BundleError:
    """How a file of these bytes is refused, before or when its parts are read."""
    path.write_bytes(data)
    with pytest.raises(BundleError) as refused:
        read_whole(open_bundle(path))
    return refused.value


def read_whole(bundle: Bundle) -> tuple[object, ...]:
    """Read every part; return what they say."""
    kept = [array.tolist() for array in asdict(bundle.features).values()]
    return bundle.manifest, bundle.graph, bundle.weights, bundle.report, kept


def test_the_stored_bundle_of_format_1_still_says_the_same(colours: Path) -> None:
    """Classes, head, report and kept features of format 1 are read, and predictions are pinned."""
    bundle = open_bundle(STORED)
    assert bundle.manifest.format == FORMAT
    assert bundle.manifest.calibration.rules == Rules()
    assert bundle.familiar is None
    assert bundle.report == "<!doctype html><title>format 1</title>"
    assert sorted(load(bundle.weights)) == ["fc.bias", "fc.weight"]
    assert bundle.features.features.tolist()[0] == [0, 0, 1]
    assert bundle.features.labels.tolist() == [0, 1, 2, 2]
    assert bundle.features.sides() == {
        b"00000000000000000000000000000001": "train",
        b"00000000000000000000000000000002": "valid",
        b"00000000000000000000000000000003": "test",
        b"00000000000000000000000000000004": "",
    }

    classifier = Classifier(bundle, "f32")
    assert classifier.classes == ("blue", "green", "red")
    pictures = [str(colours / f"{name}.png") for name in ("blue", "green", "red", "grey", "mixed")]
    probs = classifier.probabilities(np.stack([*classifier.logits(pictures)]))  # type: ignore[arg-type]
    pinned = [
        [0.94278, 0.03146, 0.02576],
        [0.04596, 0.92322, 0.03081],
        [0.05475, 0.04483, 0.90042],
        [0.40176, 0.32893, 0.26931],
        [0.14419, 0.22108, 0.63473],
    ]
    np.testing.assert_allclose(probs, pinned, atol=1e-4)


def test_the_stored_bundle_of_format_2_still_decides_the_same(colours: Path) -> None:
    """Rules and what tells strangers are read, and decisions are pinned."""
    bundle = open_bundle(FORMATS / "format_2.tellapart")
    rules = bundle.manifest.calibration.rules
    assert (rules.accept, rules.threshold, rules.promised) == (0.9, 0.800474, True)
    assert (rules.masses, rules.strange_above, rules.n) == ((0.6, 0.0), 12.0, 400)
    assert len(rules.trade) == 31
    pictures = [colours / f"{name}.png" for name in ("blue", "green", "red", "grey", "mixed")]
    answers = Classifier(bundle, "f32").predict(pictures)
    assert [answer.label for answer in answers] == ["blue", "green", "red", "blue", "red"]
    assert [(answer.candidates, answer.reason) for answer in answers] == [
        (("blue",), None),
        (("green",), None),
        (("red",), None),
        (("blue", "green"), "looks like none of the classes"),
        (("red",), "confidence 63.5% is below 80.0%, which keeps 90% of answers right"),
    ]


def test_rules_move_without_touching_anything_else(colours: Path, tmp_path: Path) -> None:
    """A bundle rewritten with another threshold has the same parts, and decides by the new one."""
    old = open_bundle(FORMATS / "format_2.tellapart")
    calibration = old.manifest.calibration
    moved = with_accept(calibration.rules, 0.8)
    manifest = old.manifest.model_copy(
        update={"calibration": calibration.model_copy(update={"rules": moved})}
    )
    rewrite_manifest(old, manifest, tmp_path / "x.tellapart")
    parts, before = members(tmp_path / "x.tellapart"), members(old.path)
    assert parts.pop("manifest.json") != before.pop("manifest.json")
    assert parts == before
    again = open_bundle(tmp_path / "x.tellapart")
    assert again.manifest.calibration.rules == moved
    (answer,) = Classifier(again, "f32").predict([colours / "mixed.png"])
    assert (moved.threshold, answer.unsure) == (0.0, False)


def test_familiar_arrays_survive_the_file(trained: Any) -> None:
    """What tells strangers comes back in the same types; other arrays in its place are refused."""
    familiar = open_bundle(trained.bundle).familiar
    assert familiar is not None
    kinds = {name: array.dtype.name for name, array in familiar.arrays().items()}
    assert kinds == {
        "centre": "float32",
        "directions": "float16",
        "stretch": "float32",
        "prototypes": "float16",
        "usual": "float32",
    }
    assert familiar.prototypes.shape == (3, 1280)


def test_every_format_so_far_has_a_stored_bundle() -> None:
    """tests/bundle/formats holds one bundle for each format number up to the present one."""
    stored = {path.name for path in STORED.parent.glob("*.tellapart")}
    assert stored == {f"format_{number}.tellapart" for number in range(1, FORMAT + 1)}


def test_a_trained_bundle_holds_what_is_promised(trained: Any) -> None:
    """All members there can be, uncompressed; features in 16 bits with labels and splits."""
    with zipfile.ZipFile(trained.bundle) as file:
        assert {entry.filename for entry in file.infolist()} == MEMBERS
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
    bundle = open_bundle(trained.bundle)
    assert bundle.manifest.format == FORMAT
    assert bundle.manifest.classes == ("0", "1", "2")
    assert bundle.manifest.backbone == "tf_efficientnet_lite0"
    assert bundle.manifest.backbone_licence == "Apache-2.0"
    assert bundle.features.features.shape == (60, 1280)
    assert bundle.features.features.dtype == np.float16
    assert np.bincount(bundle.features.labels).tolist() == [20, 20, 20]
    counts = {name: int((bundle.features.splits == name).sum()) for name in ("train", "test")}
    assert counts == {"train": trained.facts["n_train"], "test": trained.facts["n_test"]}
    assert bundle.report == Path(trained.facts["report"]).read_text(encoding="utf-8")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Every part comes back as it was given, and the bytes depend on nothing else."""
    old = open_bundle(STORED)
    for name in ("one.tellapart", "two.tellapart"):
        write_bundle(
            tmp_path / name, old.manifest, old.graph, old.weights, old.features, old.report
        )
    assert read_whole(open_bundle(tmp_path / "one.tellapart")) == read_whole(old)
    assert (tmp_path / "one.tellapart").read_bytes() == (tmp_path / "two.tellapart").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tellapart", "two.tellapart"]


def test_a_bundle_can_go_without_features(tmp_path: Path) -> None:
    """Left out, they are neither in the file nor claimed by it."""
    old = open_bundle(STORED)
    path = tmp_path / "lean.tellapart"
    write_bundle(path, old.manifest, old.graph, old.weights, None, old.report)
    assert set(members(path)) == MEMBERS - {"features.safetensors", "familiar.safetensors"}
    assert not open_bundle(path).has_features


def test_a_report_may_name_files_that_are_no_utf8(tmp_path: Path) -> None:
    """Bytes of a file name that no encoding explains are spelt out instead of ending the run."""
    old = open_bundle(STORED)
    path = tmp_path / "odd.tellapart"
    write_bundle(path, old.manifest, old.graph, old.weights, None, "caf\udce9.jpg")
    assert open_bundle(path).report == "caf\\udce9.jpg"


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
            st.lists(st.binary(min_size=16, max_size=16), min_size=n, max_size=n),
            st.lists(st.sampled_from(["", "train", "valid", "test"]), min_size=n, max_size=n),
            st.lists(st.floats(width=16, allow_nan=False), min_size=n, max_size=n),
        )
    )
)
@settings(max_examples=25, deadline=None)
def test_kept_features_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    rows: tuple[list[int], list[bytes], list[str], list[float]],
) -> None:
    """Any features, labels, digests and splits are read as they were written."""
    labels, digests, splits, values = rows
    kept = KeptFeatures(
        features=np.array(values, dtype=np.float16)[:, None],
        labels=np.array(labels, dtype=np.int64),
        digests=np.array([digest.hex().encode() for digest in digests], dtype="S32"),
        splits=np.array(splits, dtype="U5"),
    )
    old = open_bundle(STORED)
    path = tmp_path_factory.mktemp("kept") / "kept.tellapart"
    write_bundle(path, old.manifest, old.graph, old.weights, kept, "")
    again = open_bundle(path).features
    for name, array in asdict(kept).items():
        assert getattr(again, name).dtype == array.dtype
        assert getattr(again, name).tolist() == array.tolist()


def test_a_new_head_changes_the_logits_and_nothing_else(colours: Path, tmp_path: Path) -> None:
    """Replacing the head needs two arrays; the number of classes may change with it."""
    old = open_bundle(STORED)
    weight = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    bias = np.array([0, 0.5, 0, 0], dtype=np.float32)
    graph = with_head(old.graph, weight, bias)
    manifest = old.manifest.model_copy(update={"classes": ("r", "none", "g", "b")})
    write_bundle(tmp_path / "new.tellapart", manifest, graph, old.weights, None, "")
    classifier = Classifier.load(tmp_path / "new.tellapart", "f32")
    pictures = [str(colours / f"{name}.png") for name in ("red", "grey")]
    logits = np.stack([*classifier.logits(pictures)])  # type: ignore[arg-type]
    grey = 128 / 255
    np.testing.assert_allclose(logits, [[1, 0.5, 0, 0], [grey, 0.5, grey, grey]], atol=1e-3)
    assert with_head(graph, *head_of(old.graph)) == with_head(old.graph, *head_of(old.graph))


def head_of(graph: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of a graph's head."""
    found = {item.name: item for item in onnx.load_from_string(graph).graph.initializer}
    weight, bias = (numpy_helper.to_array(found[f"head.{name}"]) for name in ("weight", "bias"))
    return weight, bias


def test_weights_carry_the_head_in_the_shape_of_their_architecture() -> None:
    """A head that is written as a 1x1 convolution stays one."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 4)).astype(np.float32), np.ones(3, dtype=np.float32)
    for shape in ((9, 4), (9, 4, 1, 1)):
        old = save({"top.weight": np.zeros(shape, np.float32), "top.bias": np.zeros(9, np.float32)})
        new = load(with_head_weights(old, "top", weight, bias))
        assert new["top.weight"].shape == (3, *shape[1:])
        assert new["top.weight"].reshape(3, 4).tolist() == weight.tolist()
        assert new["top.bias"].tolist() == [1, 1, 1]


def test_training_again_gives_the_same_classifier(
    trained: Any, tmp_path: Path, command: Any
) -> None:
    """Trained again, all but date and timings, and what hangs on them, is the same bytes."""
    again = tmp_path / "small.tellapart"
    args = ("train", trained.data, "-o", again, "--recipe", "fast", "--quiet")
    assert command(*args).code == 0
    assert lasting(again) == lasting(trained.bundle)


@pytest.mark.slow
def test_tuning_again_gives_the_same_classifier(
    tuned: Any, tmp_path: Path, single_thread: None
) -> None:
    """Where the network learned by random steps, too: the seed decides, to the last bit."""
    again = tmp_path / "small.tellapart"
    tellapart.train(tuned.data, again, settings=tuned.settings, progress=Progress("quiet"))
    assert lasting(again) == lasting(tuned.bundle)


def lasting(path: Path) -> Members:
    """The members of a bundle without date and timings, and without what hangs on them."""
    parts = members(path)
    facts = json.loads(parts["manifest.json"])
    del facts["made_on"], facts["sha256"]["report.html"], parts["report.html"]
    for phase in facts["recipe"]["done"]:
        del phase["seconds"]
    return parts | {"manifest.json": json.dumps(facts).encode()}


def test_a_tuned_bundle_holds_the_same_parts(tuned: Any, tmp_path: Path) -> None:
    """A network that learned travels like one that did not; nothing is lost on the way."""
    assert set(members(tuned.bundle)) == MEMBERS
    bundle = open_bundle(tuned.bundle)
    assert bundle.manifest.format == FORMAT
    copy = tmp_path / "copy.tellapart"
    write_bundle(
        copy,
        bundle.manifest,
        bundle.graph,
        bundle.weights,
        bundle.features,
        bundle.report,
        bundle.familiar,
    )
    assert copy.read_bytes() == tuned.bundle.read_bytes()
    assert bundle.features.features.shape == (60, 1280)
    assert bundle.features.features.dtype == np.float16
    counts = {name: int((bundle.features.splits == name).sum()) for name in SPLITS}
    assert counts == tuned.result.counts


def test_the_manifest_says_how_it_was_made(tuned: Any) -> None:
    """Every setting of the recipe, and of each phase what learned, and why that stays."""
    facts = dict(open_bundle(tuned.bundle).manifest.recipe)
    head, tail = facts.pop("done")
    assert (head["learns"], head["kept"], head["best_epoch"]) == ("head", True, None)
    assert (tail["learns"], tail["kept"]) == ("tail", True)
    assert tail["best_epoch"] in (1, 2)
    assert re.fullmatch(r"log loss [\d.]+, accuracy [\d.]+% on valid", tail["reason"])
    assert facts == load_recipe("auto", tuned.settings).facts()


def test_the_tail_learned_and_nothing_else(tuned: Any, trained: Any) -> None:
    """Weights from the cut on differ from those it came with; before it not one bit does."""
    new, old = (load(open_bundle(one.bundle).weights) for one in (tuned, trained))
    assert new.keys() == old.keys()
    changed = {name for name in old if not np.array_equal(new[name], old[name])}
    # Few pictures: the tail starts at the last stage, the head convolution.
    assert changed == {
        "conv_head.weight",
        "bn2.weight",
        "bn2.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_the_weights_are_the_architectures_own(tuned: Any) -> None:
    """Loaded strictly into timm's own network, they give the logits of the bundle's graph."""
    bundle = open_bundle(tuned.bundle)
    model = timm.create_model(bundle.manifest.backbone, num_classes=3).eval()
    model.load_state_dict(load_tensors(bundle.weights), strict=True)
    pictures = [str(path) for path in sorted(tuned.data.rglob("*.png"))[::7]]
    preprocessing = bundle.manifest.preprocessing
    pixels = np.stack([evaluation_pixels(read_file(path), preprocessing) for path in pictures])
    mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        theirs = model(((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).numpy()
    ours = np.stack(list(OpenVinoRuntime(bundle.graph, "logits", "f32").run(iter(pixels))))
    np.testing.assert_allclose(theirs, ours, atol=2e-3 * np.abs(ours).max())


def test_a_tuned_temperature_comes_from_valid(tuned: Any) -> None:
    """Once more than the head learned there are no out-of-fold predictions: valid decides."""
    bundle = open_bundle(tuned.bundle)
    assert bundle.manifest.calibration.fitted_on == "valid"
    kept = bundle.features
    weight, bias = head_of(bundle.graph)
    valid = kept.splits == "valid"
    logits = kept.features[valid].astype(np.float32) @ weight.T + bias
    expected = fit_temperature(logits, kept.labels[valid])
    assert bundle.manifest.calibration.temperature == pytest.approx(expected, rel=1e-3)


def test_a_graph_that_says_something_else_is_not_written(tuned: Any) -> None:
    """The last check before writing: a graph that disagrees with what was scored is refused."""
    bundle = open_bundle(tuned.bundle)
    tuned.check(bundle.graph)
    backbone = find_backbone(bundle.manifest.backbone)
    other = build_network(backbone, random_weights(backbone, 0))
    with pytest.raises(TellapartError) as refused:
        body = export_graph(other, bundle.manifest.preprocessing)
        runtime = OpenVinoRuntime(bundle.graph)
        head = (runtime.constant(f"head.{name}") for name in ("weight", "bias"))
        tuned.check(with_head(body, *head))
    assert re.fullmatch(
        r"The finished classifier gives probabilities that differ by up to [01]\.\d\d from those "
        r"that were scored, on 10 pictures; at most 0\.1 was expected\. Nothing was written\. If "
        r"pictures changed during the run, train again; otherwise clear what is kept with "
        r"`tellapart cache --clear` and report it\.",
        str(refused.value),
    )


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    """No file, or a folder: the path, what was expected, and the command."""
    path = tmp_path / "pets.tellapart"
    cure = (
        "expected a classifier file ending in .tellapart. "
        "Make one with: tellapart train FOLDER -o pets.tellapart"
    )
    with pytest.raises(BundleNotFound) as missing:
        open_bundle(path)
    assert str(missing.value) == f"{path} does not exist; {cure}"
    path.mkdir()
    with pytest.raises(BundleNotFound) as folder:
        open_bundle(path)
    assert str(folder.value) == f"{path} is a folder; {cure}"


def test_a_bundle_from_the_future_asks_for_an_upgrade(tmp_path: Path) -> None:
    """A higher format number is told apart from damage, whatever else the manifest says."""
    path = tmp_path / "future.tellapart"
    number = FORMAT + 1
    refused = refusal(path, with_manifest(lambda facts: facts.update(format=number, new_fact="?")))
    assert isinstance(refused, BundleFromFuture)
    assert str(refused) == (
        f"{path} has bundle format {number}; this version of tellapart reads formats up to "
        f"{FORMAT}. "
        f"Nothing was read. Upgrade with: pip install --upgrade tellapart"
    )


PARTS = members(STORED)
PICKLE = pickle.dumps({"weights": [1.0]})
REFUSED = {
    "extra member": (
        zipped(PARTS | {"data.pkl": PICKLE, "a.py": b""}),
        "it holds things no bundle holds: a.py, data.pkl",
    ),
    "member outside": (
        zipped(PARTS | {"../evil.txt": b"x"}),
        "it holds things no bundle holds: ../evil.txt",
    ),
    "pickle in place of weights": (
        zipped(PARTS | {"weights.safetensors": PICKLE}),
        "weights.safetensors is not what was written",
    ),
    "compressed": (
        zipped(PARTS, zipfile.ZIP_DEFLATED),
        "its parts are compressed, which no bundle's are",
    ),
    "no manifest": (
        zipped({"graph.onnx": PARTS["graph.onnx"]}),
        "it has no manifest.json",
    ),
    "empty zip": (zipped({}), "it has no manifest.json"),
    "no zip": (
        b"version https://git-lfs",
        "it cannot be read as a bundle (File is not a zip file)",
    ),
    "empty file": (b"", "it cannot be read as a bundle (File is not a zip file)"),
    "a pickle": (PICKLE, "it cannot be read as a bundle (File is not a zip file)"),
    "manifest no JSON": (
        zipped(PARTS | {"manifest.json": b"{"}),
        "it cannot be read as a bundle (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
    ),
    "manifest a list": (zipped(PARTS | {"manifest.json": b"[]"}), "its format number is None"),
    "format 0": (with_manifest(lambda facts: facts.update(format=0)), "its format number is 0"),
    "format a word": (
        with_manifest(lambda facts: facts.update(format="1")),
        "its format number is '1'",
    ),
    "no format": (with_manifest(lambda facts: facts.pop("format")), "its format number is None"),
    "no classes": (
        with_manifest(lambda facts: facts.pop("classes")),
        "its manifest is wrong (1 validation error for Manifest classes   Field required "
        "[type=missing, ",
    ),
    "one class": (
        with_manifest(lambda facts: facts.update(classes=["red"])),
        "its manifest is wrong (1 validation error for Manifest classes   Tuple should have at "
        "least 2 items after validation, not 1 [type=too_short, ",
    ),
    "unknown fact": (
        with_manifest(lambda facts: facts.update(run="rm")),
        "its manifest is wrong (1 validation error for Manifest run   Extra inputs are not "
        "permitted [type=extra_forbidden, ",
    ),
    "temperature zero": (
        with_manifest(lambda facts: facts["calibration"].update(temperature=0)),
        "its manifest is wrong (1 validation error for Manifest calibration.temperature   Input "
        "should be greater than 0 [type=greater_than, ",
    ),
    "graph not listed": (
        with_manifest(lambda facts: facts["sha256"].pop("graph.onnx")),
        "its manifest does not list what a bundle holds",
    ),
    "report not listed": (
        with_manifest(lambda facts: facts["sha256"].pop("report.html")),
        "its manifest does not list what a bundle holds",
    ),
    "wrong hash": (
        with_manifest(lambda facts: facts["sha256"].update({"graph.onnx": "0" * 64})),
        "graph.onnx is not what was written",
    ),
    "member missing": (
        zipped({name: part for name, part in PARTS.items() if name != "report.html"}),
        "report.html cannot be read (\"There is no item named 'report.html' in the archive\")",
    ),
    "JSON nested without end": (
        zipped(PARTS | {"manifest.json": b"[" * 200_000}),
        "it cannot be read as a bundle (",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_whole_bundle_is_refused(kind: str, tmp_path: Path) -> None:
    """Each kind of damage is named in one paragraph with a cure; nothing of it is used."""
    data, what = REFUSED[kind]
    path = tmp_path / "x.tellapart"
    refused = refusal(path, data)
    assert isinstance(refused, BundleDamaged)
    start, end = DAMAGED.format(path=path, what="\0").split("\0")
    message = str(refused)
    assert message.startswith(start + what)
    assert message.endswith(end)
    assert "\n" not in message
    if not what.endswith((", ", "(")):
        assert message == start + what + end


def test_a_part_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Two parts of one name: which one counts would depend on the reader."""
    data = io.BytesIO(STORED_BYTES)
    with zipfile.ZipFile(data, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("graph.onnx", b"other")
    assert "it holds a part twice" in str(refusal(tmp_path / "x.tellapart", data.getvalue()))


def test_a_manifest_beyond_measure_is_not_read(tmp_path: Path) -> None:
    """A manifest of hundreds of megabytes is refused before it fills the memory."""
    data = zipped(members(STORED) | {"manifest.json": b" " * 65_000_000})
    assert "its manifest is larger than any can be" in str(refusal(tmp_path / "x", data))


@given(st.integers(0, len(STORED_BYTES) - 1))
@settings(max_examples=150, deadline=None)
def test_a_bundle_cut_off_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    """However much of the file is missing, it is damage and nothing else."""
    path = tmp_path_factory.getbasetemp() / "cut.tellapart"
    assert isinstance(refusal(path, STORED_BYTES[:length]), BundleDamaged)


@given(st.integers(0, len(STORED_BYTES) - 1), st.integers(1, 255))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_altered_byte_never_gives_other_answers(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    """An altered byte is refused, or lies where it means nothing: the parts are the same."""
    data = bytearray(STORED_BYTES)
    data[position] ^= change
    path = tmp_path_factory.getbasetemp() / "altered.tellapart"
    path.write_bytes(data)
    try:
        found = read_whole(open_bundle(path))
    except BundleError:
        return
    assert found == read_whole(open_bundle(STORED))


def test_every_altered_byte_of_the_zip_is_refused_or_means_nothing(tmp_path: Path) -> None:
    """The same for every single byte outside the parts, where the zip's own facts stand."""
    expected = read_whole(open_bundle(STORED))
    inside = set()
    for part in members(STORED).values():
        start = STORED_BYTES.index(part)
        inside |= set(range(start, start + len(part)))
    path = tmp_path / "altered.tellapart"
    for position in sorted(set(range(len(STORED_BYTES))) - inside):
        for value in {0, 255, STORED_BYTES[position] ^ 1}:
            data = bytearray(STORED_BYTES)
            data[position] = value
            path.write_bytes(data)
            try:
                assert read_whole(open_bundle(path)) == expected
            except BundleError as error:
                assert isinstance(error, BundleDamaged)


def test_a_bundle_that_changes_under_an_open_one_is_noticed(tmp_path: Path) -> None:
    """Parts are read when asked for: by then the file may be gone or another."""
    path = tmp_path / "x.tellapart"
    shutil.copy(STORED, path)
    bundle = open_bundle(path)
    path.write_bytes(zipped(members(STORED) | {"graph.onnx": b"another"}))
    with pytest.raises(BundleDamaged, match=r"graph\.onnx is not what was written"):
        _ = bundle.graph
    path.unlink()
    with pytest.raises(BundleDamaged, match=r"graph\.onnx cannot be read"):
        _ = bundle.graph
