"""A classifier as one graph for other programs: pixels in, calibrated probabilities out.

Normalisation, head and temperature lie inside the graph; decoding, cropping and resizing do not:
runtimes do not agree on how to resize, and none of them averages what it shrinks with a bicubic
filter in every version (docs/decisions/0009). The example beside each export does these in four
lines of Pillow, and the agreement with the bundle is measured through those very lines.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import run_file, save_ir
from tellapart.bundle.bundle import Bundle
from tellapart.data.pixels import Pixels, Preprocessing
from tellapart.errors import CannotExport, MissingExtra, WebRuntimeNotFound
from tellapart.evaluation.decision import in_words

Target = Literal["onnx", "openvino", "torch", "web", "state-dict"]
TARGETS: tuple[Target, ...] = ("onnx", "openvino", "torch", "web", "state-dict")
Precision = Literal["f32", "int8"]

# (N, S, S, 3) uint8 pixels to (N, K) probabilities, by the files that were written.
Answer: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

# The version whose files the tests run in a browser.
WEB_RUNTIME = "onnxruntime-web@1.30.0"
WEB_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def facts_of(bundle: Bundle, precision: Precision = "f32") -> dict[str, Any]:
    """Return what another program must know of a classifier, as plain JSON types."""
    manifest = bundle.manifest
    size = manifest.preprocessing.size_px
    return {
        "classes": list(manifest.classes),
        "display_names": manifest.display_names,
        "input": f"pixels: (batch, {size}, {size}, 3) uint8 RGB, upright, cropped and resized",
        "output": f"probabilities: (batch, {len(manifest.classes)}) float32, calibrated",
        "inside": ["normalisation", "network", "head", "temperature", "softmax"],
        "for_the_caller": ["decode", "turn upright (EXIF)", "RGB on white", "crop", "resize"],
        "preprocessing": {
            name: getattr(manifest.preprocessing, name)
            for name in ("size_px", "fit", "crop_fraction", "interpolation")
        },
        "temperature": manifest.calibration.temperature,
        # What looks like none of the classes is told by features, which an export does not give.
        "unsure": {
            "below_confidence": manifest.calibration.rules.threshold,
            "promised": manifest.calibration.rules.promised,
            "in_words": in_words(manifest.calibration.rules),
        },
        "precision": precision,
        "backbone": manifest.backbone,
        "licence_of_weights": manifest.backbone_licence,
        "made_on": manifest.made_on,
    }


def classifier_graph(bundle: Bundle, precision: Precision = "f32") -> bytes:
    """Return the whole classifier as ONNX: `pixels` in, `probabilities` out, facts as metadata.

    Raises:
        NotQuantised: 8 bits were asked for and the bundle has no such graph.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(bundle.int8_graph if precision == "int8" else bundle.graph)
    graph = model.graph
    temperature = np.float32(bundle.manifest.calibration.temperature)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature), "temperature"))
    graph.node.append(helper.make_node("Div", ["logits", "temperature"], ["calibrated"]))
    graph.node.append(helper.make_node("Softmax", ["calibrated"], ["probabilities"], axis=-1))
    del graph.output[:]
    shape: list[str | int | None] = ["batch", bundle.manifest.n_classes]
    graph.output.append(
        helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape)
    )
    helper.set_model_props(model, _metadata(bundle, precision))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_export(
    bundle: Bundle,
    target: Target,
    folder: Path,
    precision: Precision = "f32",
    web_runtime: Path | None = None,
) -> Answer:
    """Write a classifier and its example into an empty folder; return what its files compute.

    web_runtime: the unpacked npm package onnxruntime-web, or the .tgz of it; for "web" alone.

    Raises:
        CannotExport, MissingExtra, NotQuantised, WebRuntimeNotFound.
    """
    if precision == "int8" and target in ("torch", "state-dict"):
        raise CannotExport(
            f"There is no 8-bit export for {target}: int8 was asked for, and onnx, openvino or web "
            f"were expected with it. Nothing was written. Leave --precision out, or choose one "
            f"of these with --to."
        )
    if target == "openvino":
        path = folder / "model.xml"
        save_ir(classifier_graph(bundle, precision), path, _metadata(bundle, precision))
        answer: Answer = lambda pixels: run_file(path, pixels)  # noqa: E731
    elif target in ("torch", "state-dict"):
        answer = _write_for_torch(bundle, target, folder)
    else:
        answer = _write_onnx(classifier_graph(bundle, precision), folder / "model.onnx")
    facts = facts_of(bundle, precision)
    if target == "web":
        copy_web_runtime(web_runtime, folder / "ort")
        page = files("tellapart.bundle").joinpath("exports/index.html").read_text("utf-8")
        (folder / "index.html").write_text(page, encoding="utf-8")
    else:
        _write(folder / "example.py", f"{target}.py.jinja", facts, bundle)
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (folder / "classifier.json").write_text(text + "\n", encoding="utf-8")
    return answer


def example_pixels(preprocessing: Preprocessing) -> Callable[[str | Path], Pixels]:
    """Return the `pixels` function that stands in the example, made from the same lines."""
    space: dict[str, Any] = {}
    head = "import numpy as np\nfrom PIL import Image, ImageOps\n"
    exec(head + _pixels_source(preprocessing), space)
    function: Callable[[str | Path], Pixels] = space["pixels"]
    return function


def copy_web_runtime(given: Path | None, into: Path) -> None:
    """Copy what a page needs of ONNX Runtime Web: from a folder, a .tgz, or ./node_modules.

    Raises:
        WebRuntimeNotFound.
    """
    source = (given or Path("node_modules/onnxruntime-web")).expanduser()
    wanted = (*(f"dist/{name}" for name in WEB_FILES), "package.json")
    try:
        if source.is_file():
            with tarfile.open(source) as packed:
                contents = {name: _member(packed, f"package/{name}") for name in wanted}
        else:
            contents = {name: (source / name).read_bytes() for name in wanted}
    except (OSError, KeyError, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WebRuntimeNotFound(
            f"{source} does not hold ONNX Runtime Web ({reason}). A page that classifies in the "
            f"browser needs dist/{', dist/'.join(WEB_FILES)} of npm's package onnxruntime-web. "
            f"Nothing was written, and nothing is fetched unasked. Run: npm install {WEB_RUNTIME} "
            f"here, or name the folder or .tgz of that package with --ort-web."
        ) from error
    into.mkdir()
    for name, data in contents.items():
        (into / Path(name).name).write_bytes(data)


def _member(packed: tarfile.TarFile, name: str) -> bytes:
    file = packed.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()


def _metadata(bundle: Bundle, precision: Precision) -> dict[str, str]:
    facts = facts_of(bundle, precision)
    # `labels` is what OpenVINO's and Geti's tools look for, `classes` what people do.
    return {
        "classes": json.dumps(facts["classes"]),
        "labels": " ".join(name.replace(" ", "_") for name in facts["classes"]),
        "tellapart": json.dumps(facts),
    }


def _write_onnx(graph: bytes, path: Path) -> Answer:
    path.write_bytes(graph)
    try:
        import onnxruntime
    except ImportError:
        return lambda pixels: run_file(path, pixels)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    # One at a time: its arena for a large batch would stay.
    return lambda pixels: np.concatenate(
        [session.run(None, {"pixels": pixels[row : row + 1]})[0] for row in range(len(pixels))]
    )


def _write_for_torch(bundle: Bundle, target: Target, folder: Path) -> Answer:
    try:
        from tellapart.bundle import torch_export
    except ImportError as error:
        raise MissingExtra(
            f"Exporting to {target} needs PyTorch, and {error.name} is not installed. Nothing was "
            f"written. Install it with: pip install 'tellapart[train]'"
        ) from error
    if target == "torch":
        return torch_export.write_program(bundle, folder / "model.pt2", facts_of(bundle))
    return torch_export.write_state_dict(bundle, folder / "weights.safetensors", facts_of(bundle))


def _pixels_source(preprocessing: Preprocessing) -> str:
    return _render("pixels.py.jinja", p=preprocessing)


def _write(path: Path, template: str, facts: dict[str, Any], bundle: Bundle) -> None:
    from tellapart.backbones.registry import BACKBONES

    manifest = bundle.manifest
    known = {backbone.name: backbone for backbone in BACKBONES}.get(manifest.backbone)
    text = _render(
        template,
        facts=facts,
        p=manifest.preprocessing,
        pixels=_pixels_source(manifest.preprocessing),
        library=known.library if known else "timm",
        flip=bool(manifest.recipe.get("flip_at_test")),
    )
    path.write_text(text, encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tellapart.bundle", "exports"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
