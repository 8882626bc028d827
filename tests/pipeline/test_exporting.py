"""A classifier for other programs answers as the bundle does, and says how nearly."""

from __future__ import annotations

import functools
import http.server
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load, save

from tellapart import Classifier
from tellapart.bundle.bundle import Bundle, open_bundle, write_bundle
from tellapart.bundle.export import TARGETS, WEB_FILES, WEB_RUNTIME, copy_web_runtime
from tellapart.errors import (
    CannotExport,
    ExportDisagrees,
    MissingExtra,
    NothingToCheckOn,
    NotQuantised,
    WebRuntimeNotFound,
)
from tellapart.pipeline.exporting import export, quantize, spread
from tellapart.progress import Progress

QUIET = Progress("quiet")
WITH_EXAMPLE = ("onnx", "openvino", "torch", "state-dict")
ROOT = Path(__file__).parents[2]


def real_photos(n: int) -> list[Path]:
    """Photographs from where TELLAPART_DATA points; the test is skipped where there are none."""
    given = os.environ.get("TELLAPART_DATA")
    folder = (Path(given) if given else ROOT.parent / "shared" / "data") / "hymenoptera" / "val"
    if not folder.is_dir():
        pytest.skip("there are no hymenoptera pictures; name their folder in TELLAPART_DATA")
    return spread(sorted(folder.glob("*/*.jpg")), n)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs that the classifier never saw, of many sizes; one lies on its side."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for path in real_photos(8):
        shutil.copy(path, folder)
    first = sorted(folder.iterdir())[0]
    with Image.open(first) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(folder / "turned.jpg", exif=exif, quality=95)
    return folder


def answers_of_example(folder: Path, paths: list[Path], capsys: Any) -> list[tuple[str, float]]:
    """Run an export's example as a program; its label and confidence for each picture."""
    before = sys.argv
    sys.argv = ["example.py", *map(str, paths)]
    try:
        capsys.readouterr()
        runpy.run_path(str(folder / "example.py"), run_name="__main__")
    finally:
        sys.argv = before
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(map(str, paths))
    return [(label, float(confidence)) for _, label, confidence in lines]


@pytest.mark.parametrize("target", WITH_EXAMPLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_example_answers_as_the_bundle_does(
    target: Any, trained: Any, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    """Photographs of any size and turn go through the example beside the export, in 32 bits."""
    done = export(trained.bundle, target, tmp_path / "out", check=photos, progress=QUIET)
    paths = sorted(photos.iterdir())
    assert done.agreement.n == len(paths)
    ours = Classifier.load(trained.bundle, "f32").predict(paths)
    theirs = answers_of_example(done.folder, paths, capsys)
    assert [label for label, _ in theirs] == [one.label for one in ours]
    apart = [abs(one.confidence - value) for one, (_, value) in zip(ours, theirs, strict=True)]
    assert max(apart) <= done.agreement.from_files.largest + 1e-5
    assert done.agreement.same_pixels.largest < 0.002
    assert done.agreement.same_pixels.same_label == done.agreement.from_files.same_label == 1.0


@pytest.mark.parametrize("target", WITH_EXAMPLE)
def test_an_example_is_short_and_stands_alone(target: Any) -> None:
    """Few lines, and none of them needs tellapart."""
    text = (ROOT / f"src/tellapart/bundle/exports/{target}.py.jinja").read_text()
    pixels = (ROOT / "src/tellapart/bundle/exports/pixels.py.jinja").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("{%")]
    code = [line for line in lines if not line.startswith(("import ", "from "))]
    assert len(code) + 5 <= 20
    assert "tellapart" not in text + pixels


def test_what_was_seen_is_written_into_the_export(trained: Any, tmp_path: Path) -> None:
    """Facts, agreement and limits lie beside the graph, and name no folder of this machine."""
    done = export(trained.bundle, "onnx", tmp_path / "out", progress=QUIET)
    assert done.files == ("agreement.json", "classifier.json", "example.py", "model.onnx")
    written = json.loads((done.folder / "agreement.json").read_text())
    assert written == done.as_dict()["agreement"] | {"folder": trained.data.name}
    # Without --check, the folder it was trained on.
    assert done.agreement.folder == str(trained.data)
    assert written["n"] == 60
    facts = json.loads((done.folder / "classifier.json").read_text())
    manifest = open_bundle(trained.bundle).manifest
    assert facts["classes"] == list(manifest.classes)
    assert facts["temperature"] == manifest.calibration.temperature
    assert facts["unsure"]["below_confidence"] == manifest.calibration.rules.threshold
    model = onnx.load(done.folder / "model.onnx")
    metadata = {one.key: one.value for one in model.metadata_props}
    assert json.loads(metadata["classes"]) == list(manifest.classes)
    assert json.loads(metadata["tellapart"]) == facts
    assert [one.name for one in model.graph.output] == ["probabilities"]


def test_any_batch_goes_through_a_graph(trained: Any, photos: Path, tmp_path: Path) -> None:
    """Three at once are answered as each alone."""
    import onnxruntime

    done = export(trained.bundle, "onnx", tmp_path / "out", check=photos, progress=QUIET)
    session = onnxruntime.InferenceSession(str(done.folder / "model.onnx"))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), np.uint8)
    (together,) = session.run(None, {"pixels": pixels})
    alone = [session.run(None, {"pixels": one[None]})[0][0] for one in pixels]
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together.sum(1), 1, atol=1e-5)


def test_weights_load_into_the_architecture(trained: Any, photos: Path, tmp_path: Path) -> None:
    """timm's own model takes every one of them, and has a head for the classes."""
    import timm
    from safetensors.torch import load_file

    done = export(trained.bundle, "state-dict", tmp_path / "out", check=photos, progress=QUIET)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    model.load_state_dict(load_file(done.folder / "weights.safetensors"), strict=True)


def altered(bundle: Bundle, path: Path) -> Path:
    """A bundle whose weights are not those of its graph."""
    weights = load(bundle.weights)
    weights["conv_stem.weight"] = weights["conv_stem.weight"] * 0.5
    write_bundle(path, bundle.manifest, bundle.graph, save(weights), None, bundle.report)
    return path


def test_an_export_that_answers_otherwise_is_refused(
    trained: Any, photos: Path, tmp_path: Path
) -> None:
    """With the numbers, and nothing is left behind."""
    model = altered(open_bundle(trained.bundle), tmp_path / "altered.tellapart")
    with pytest.raises(ExportDisagrees) as error:
        export(model, "state-dict", tmp_path / "out", check=photos, progress=QUIET)
    text = str(error.value)
    assert text.startswith(
        f"{model} as state-dict answers otherwise than the bundle, on 9 pictures run by torch "
    )
    assert "(at most 0.005 was expected)" in text
    assert text.endswith(
        "Nothing was written. Choose another --to: onnx, openvino, torch, web, state-dict; "
        "and report this."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["altered.tellapart"]


def test_a_folder_that_exists_is_not_touched(trained: Any, tmp_path: Path) -> None:
    """Neither emptied nor added to."""
    with pytest.raises(CannotExport) as error:
        export(trained.bundle, "onnx", tmp_path, progress=QUIET)
    assert str(error.value) == (
        f"{tmp_path} exists already; expected was a name for a new folder. Nothing was written "
        f"and nothing there was touched. Remove it, or choose another name with -o."
    )


def test_nothing_is_exported_unchecked(format_1: Path, tmp_path: Path) -> None:
    """Where no pictures are named and the folder of the training is not known."""
    with pytest.raises(NothingToCheckOn) as error:
        export(format_1, "onnx", tmp_path / "out", progress=QUIET)
    assert str(error.value) == (
        f"{format_1} cannot be checked on real pictures: no pictures were named, and where it was "
        f"trained is not known here or no longer there. Expected was a folder with some; a few "
        f"dozen do. Nothing was written. Name one, for an export with --check FOLDER."
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NothingToCheckOn) as error:
        export(format_1, "onnx", tmp_path / "out", check=tmp_path, progress=QUIET)
    assert str(error.value).startswith(
        f"{format_1} cannot be checked on real pictures: {tmp_path} holds no picture that can be "
        f"read. Expected was a folder with some"
    )


@pytest.mark.parametrize("target", ["torch", "state-dict"])
def test_weights_without_an_architecture(
    target: Any, format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """A backbone that this version does not know exports as a graph alone."""
    with pytest.raises(CannotExport) as error:
        export(format_1, target, tmp_path / "out", check=colours, progress=QUIET)
    assert str(error.value) == (
        f"{format_1} was trained on 'mean_colour', which is no backbone of this version: its "
        f"weights have no torch architecture to go into. Nothing was written. Its graph can be "
        f"exported: --to onnx, openvino or web."
    )
    done = export(format_1, "openvino", tmp_path / "out", check=colours, progress=QUIET)
    assert done.agreement.n == 5


def test_8_bits_are_not_for_torch(trained: Any, tmp_path: Path) -> None:
    """They are said to be for other targets."""
    with pytest.raises(CannotExport, match="There is no 8-bit export for torch"):
        export(trained.bundle, "torch", tmp_path / "out", precision="int8", progress=QUIET)


def test_8_bits_have_to_be_made_first(trained: Any, tmp_path: Path) -> None:
    """The message names the command."""
    name = trained.bundle.name
    message = (
        f"{trained.bundle} carries no 8-bit graph; expected was one, as int8 was asked for. "
        f"Nothing was computed. Put one in with: tellapart quantize {name} FOLDER, where FOLDER "
        f"holds the pictures it was trained on; or leave int8 out."
    )
    with pytest.raises(NotQuantised) as error:
        export(trained.bundle, "onnx", tmp_path / "out", precision="int8", progress=QUIET)
    assert str(error.value) == message
    with pytest.raises(NotQuantised) as error:
        Classifier.load(trained.bundle, "int8")
    assert str(error.value) == message


def test_exporting_from_the_command_line(
    command: Callable[..., Any], format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """What was written and how nearly it agrees, at 80 columns, and as JSON."""
    where = ["--check", colours, "-o"]
    ended = command("export", format_1, "--to", "onnx", *where, tmp_path / "a", "-q")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].endswith("agreement.json, classifier.json, example.py, model.onnx")
    assert lines[2].startswith("  on the same pixels             100.0% same label, 0.00")
    assert all(len(line) <= 80 for line in lines[2:])
    ended = command("export", format_1, "--to", "onnx", *where, tmp_path / "b", "--json", "-q")
    assert json.loads(ended.out)["agreement"]["n"] == 5
    ended = command("export", format_1, "--to", "tflite")
    assert ended.code == 2
    assert "--to tflite: expected onnx, openvino, torch, web, state-dict." in ended.err


def test_a_page_needs_its_runtime(format_1: Path, colours: Path, tmp_path: Path) -> None:
    """Nothing is fetched: the message says with which command to."""
    with pytest.raises(WebRuntimeNotFound) as error:
        export(
            format_1,
            "web",
            tmp_path / "out",
            check=colours,
            web_runtime=tmp_path,
            progress=QUIET,
        )
    assert str(error.value) == (
        f"{tmp_path} does not hold ONNX Runtime Web (No such file or directory). A page that "
        f"classifies in the browser needs dist/{', dist/'.join(WEB_FILES)} of npm's package "
        f"onnxruntime-web. Nothing was written, and nothing is fetched unasked. Run: npm install "
        f"{WEB_RUNTIME} here, or name the folder or .tgz of that package with --ort-web."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_runtime_is_refused(tmp_path: Path) -> None:
    """A file that is no archive of that package."""
    wrong = tmp_path / "wrong.tgz"
    wrong.write_bytes(b"no archive")
    with pytest.raises(WebRuntimeNotFound, match="does not hold ONNX Runtime Web"):
        copy_web_runtime(wrong, tmp_path / "ort")


@pytest.fixture(scope="session")
def web_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """npm's onnxruntime-web: where TELLAPART_ORT_WEB says, or fetched by npm itself."""
    given = os.environ.get("TELLAPART_ORT_WEB")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("npm")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; name onnxruntime-web in TELLAPART_ORT_WEB")
    ended = subprocess.run(
        [npm, "pack", "--silent", WEB_RUNTIME], cwd=folder, capture_output=True, check=False
    )
    if ended.returncode:
        pytest.skip("npm cannot fetch onnxruntime-web; name it in TELLAPART_ORT_WEB")
    return next(folder.glob("*.tgz"))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder as a plain static host does."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    def start(folder: Path) -> str:
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_the_page_classifies_in_the_browser(
    trained: Any, photos: Path, web_runtime: Path, tmp_path: Path, serve: Any, browser: Any
) -> None:
    """Real files chosen in Chromium get the bundle's answers, and nothing else is asked for."""
    done = export(
        trained.bundle,
        "web",
        tmp_path / "out",
        check=photos,
        web_runtime=web_runtime,
        progress=QUIET,
    )
    paths = sorted(photos.iterdir())
    address = serve(done.folder)
    asked = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("html[data-ready=yes]").wait_for(timeout=60_000)
    page.set_input_files("#files", paths)
    page.locator("article").nth(len(paths) - 1).wait_for(timeout=60_000)
    found = page.locator("article").evaluate_all(
        "all => all.map(one => [one.dataset.name, JSON.parse(one.dataset.probabilities)])"
    )
    page.set_input_files("#files", Path(__file__))
    page.get_by_text("test_exporting.py could not be read as a picture").wait_for()
    page.close()
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)
    ours = Classifier.load(trained.bundle, "f32").predict(paths)
    theirs = dict(found)
    for answer in ours:
        probs = dict(answer.top)
        wanted = [probs[name] for name in open_bundle(trained.bundle).manifest.classes]
        assert np.abs(np.subtract(theirs[Path(answer.path).name], wanted)).max() < 0.02


@pytest.fixture(scope="module")
def quantised(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small classifier with an 8-bit graph."""
    pytest.importorskip("nncf")
    path = tmp_path_factory.mktemp("int8") / "small.tellapart"
    quantize(trained.bundle, trained.data, path, QUIET)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NNCF's own, of what it imports
def test_8_bits_are_measured_and_carried(trained: Any, quantised: Path) -> None:
    """Made from the pictures learned from, measured on those that scored; all else is as it was."""
    before, after = open_bundle(trained.bundle), open_bundle(quantised)
    facts = after.manifest.int8
    assert facts is not None
    n = {name: int((before.features.splits == name).sum()) for name in ("train", "test", "valid")}
    scored = "test" if n["test"] else "valid"
    assert (facts.n_calibration, facts.n, facts.split) == (n["train"], n[scored], scored)
    assert set(facts.accuracy or ()) == set(facts.pictures_per_s) >= {"f32", "int8"}
    assert facts.agreement >= 0.9
    assert len(after.int8_graph) < len(after.graph) / 3
    assert (after.graph, after.weights, after.report) == (
        before.graph,
        before.weights,
        before.report,
    )
    assert before.manifest.int8 is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_8_bits_are_used_when_asked_for(
    trained: Any, quantised: Path, command: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    """By prediction, by exports and by their examples; `info` says what they cost."""
    pictures = sorted(trained.data.rglob("*.png"))
    ours = Classifier.load(quantised, "int8").predict(pictures)
    right = [one.label == path.parent.name for one, path in zip(ours, pictures, strict=True)]
    assert np.mean(right) >= 0.9
    assert [one.top for one in ours] != [
        one.top for one in Classifier.load(quantised).predict(pictures)
    ]
    done = export(quantised, "onnx", tmp_path / "out", precision="int8", progress=QUIET)
    assert done.agreement.bits_8 is not None
    theirs = answers_of_example(done.folder, pictures[:3], capsys)
    assert [label for label, _ in theirs] == [one.label for one in ours[:3]]
    ended = command("predict", quantised, *pictures[:3], "--precision", "int8", "--json")
    assert [json.loads(line)["label"] for line in ended.out.splitlines()] == [
        one.label for one in ours[:3]
    ]
    assert "8 bits        yes: accuracy" in command("info", quantised).out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_8_bits_are_explained_by_their_own_graph(trained: Any, quantised: Path) -> None:
    """The map belongs to the answer that was given, not to what 16 or 32 bits would have said."""
    classifier = Classifier.load(quantised, "int8")
    for picture in sorted(trained.data.rglob("*.png"))[::20]:
        answer, found = classifier.predict(picture), classifier.explain(picture)
        assert found.label == answer.label
        assert found.confidence == pytest.approx(answer.confidence, abs=0.005)


def test_a_runtime_for_pages_is_not_ignored(command: Callable[..., Any], format_1: Path) -> None:
    """With another target it is a wrong command line."""
    ended = command("export", format_1, "--to", "onnx", "--ort-web", "x.tgz")
    assert ended.code == 2
    assert "--ort-web is for --to web; it was given with --to onnx." in ended.err


def test_precision_is_one_that_there_is(command: Callable[..., Any], format_1: Path) -> None:
    """Others are refused as a wrong command line."""
    ended = command("predict", format_1, "x.png", "--precision", "fp8")
    assert ended.code == 2
    assert "--precision fp8: expected auto, f32, bf16, int8." in ended.err


def test_spreading_is_even() -> None:
    """First and last are there; few are taken as they are."""
    assert spread([1, 2], 5) == [1, 2]
    assert spread(list(range(101)), 3) == [0, 50, 100]
    assert set(TARGETS) == {*WITH_EXAMPLE, "web"}
    assert MissingExtra.exit_code == 40
