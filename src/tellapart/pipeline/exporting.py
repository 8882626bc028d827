"""A classifier for other programs, checked on real pictures; and its graph in 8 bits."""

from __future__ import annotations

import json
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import OpenVinoRuntime, best_precision
from tellapart.bundle.bundle import Bundle, open_bundle, rewrite_bundle
from tellapart.bundle.export import TARGETS, Precision, Target, example_pixels, write_export
from tellapart.bundle.manifest import Int8
from tellapart.bundle.quantization import MAX_CALIBRATION, quantised
from tellapart.data.catalog import Catalog
from tellapart.data.pixels import Pixels, decode_many, read_file, read_pixels
from tellapart.data.reading import AnyData, read_catalog
from tellapart.data.shards.names import split_member
from tellapart.data.splitting import scored_split
from tellapart.data.stored import kept_copies
from tellapart.errors import (
    CannotExport,
    ExportDisagrees,
    NothingToCheckOn,
    UnreadablePicture,
)
from tellapart.evaluation.calibration import softmax
from tellapart.files import check_writable, on_this_machine, output_error
from tellapart.hiding import without_secrets
from tellapart.inference.inputs import expand
from tellapart.progress import Progress
from tellapart.stores import is_address, place, shown
from tellapart.training.runs import list_runs

Floats = NDArray[np.float32]

N_CHECKED = 64
# Largest difference of any probability on the same pixels. In 32 bits what is left is the rounding
# of features to 16 bits, which the bundle does and an export does not; in 8 bits runtimes round
# ranges in ways of their own.
LIMIT = {"f32": 0.005, "int8": 0.1}
# … and when the example has read the file in its own way, with another JPEG decoder.
LIMIT_FROM_FILES = {"f32": 0.1, "int8": 0.2}
# What 8 bits are measured on: more pictures say little more, and take longer.
MAX_MEASURED = 1000
N_TIMED = 64


@dataclass(frozen=True)
class Difference:
    """How two ways of answering the same pictures differ.

    same_label: share of the pictures that get the same class. largest: of any probability.
    """

    same_label: float
    largest: float


@dataclass(frozen=True)
class Agreement:
    """What was seen when an export was held against its bundle on `n` real pictures.

    same_pixels: the exported files against the bundle's own graph, in the same precision.
    from_files: the same, each file read as the example does it; the bundle reads it its own way.
    bits_16: the bundle in 16 bits against 32, None where this processor does not compute in 16.
    bits_8: the bundle in 8 bits against 32, None unless 8 bits were exported.
    runtime: which ran the exported files.
    """

    n: int
    folder: str
    runtime: str
    same_pixels: Difference
    from_files: Difference
    limits: dict[str, float]
    bits_16: Difference | None
    bits_8: Difference | None


@dataclass(frozen=True)
class Exported:
    """A classifier that was exported. `as_dict` is what `export --json` prints."""

    folder: Path
    target: Target
    precision: Precision
    files: tuple[str, ...]
    size_mb: float
    agreement: Agreement

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "folder": str(self.folder),
            "target": self.target,
            "precision": self.precision,
            "files": list(self.files),
            "size_mb": self.size_mb,
            "agreement": asdict(self.agreement),
        }


def export(
    model: str | Path,
    target: Target,
    output: str | Path | None = None,
    *,
    check: str | Path | None = None,
    precision: Precision = "f32",
    web_runtime: str | Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a classifier for other programs into a new folder, and check it on real pictures.

    target: "onnx", "openvino", "torch" (a torch.export program), "web" (a page that classifies
        in the browser) or "state-dict" (weights under the architecture's own names).
    output: the folder; by default named as the bundle and the target, in the current folder.
    check: a folder of pictures; by default the one the classifier was trained on, if it is
        still where it was. Up to 64 of them are used, spread evenly.
    precision: "int8" takes the 8-bit graph that the bundle carries, see `quantize`.
    web_runtime: the npm package onnxruntime-web, unpacked or as .tgz; for "web" alone.

    Raises:
        BundleNotFound, BundleDamaged, NothingToCheckOn, CannotExport, NotQuantised, MissingExtra,
        WebRuntimeNotFound, ExportDisagrees, DiskFull, NotWritable.
    """
    progress = progress or Progress()
    bundle = open_bundle(model)
    folder = on_this_machine(
        output or f"{bundle.path.stem}-{target}", "exports are written", "write to a folder with -o"
    )
    _refuse_existing(folder)
    where = place(check) if check else _trained_on(bundle)
    paths = spread(expand([str(where)]) if where else [], N_CHECKED)
    runtime_from = None if web_runtime is None else Path(web_runtime)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.mkdir()
        progress.say(f"Writing {target} ...")
        answer = write_export(bundle, target, temporary, precision, runtime_from)
        with progress.bar("Checking", len(paths), "pictures") as advance:
            agreement = _agreement(bundle, target, precision, answer, paths, where)
            advance(len(paths))
        _refuse_difference(bundle, target, precision, agreement)
        text = json.dumps(asdict(agreement) | {"folder": Path(str(where)).name}, indent=1)
        (temporary / "agreement.json").write_text(without_secrets(text) + "\n", encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = tuple(path.relative_to(folder).as_posix() for path in found)
    size_mb = round(sum(path.stat().st_size for path in found) / 1e6, 1)
    return Exported(folder, target, precision, names, size_mb, agreement)


@kept_copies()
def quantize(
    model: str | Path,
    data: AnyData,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> Int8:
    """Put an 8-bit graph into a bundle, and measure what it costs and gains.

    data: what it was trained on. Pictures that the bundle learned from give the ranges (up
        to 300), those it was scored on say what accuracy is lost (up to 1000), known by their
        content. Where the bundle does not know them, the folder's own splits are taken, and all
        pictures for both where there are none.
    output: by default the bundle itself.

    Raises:
        MissingExtra, NothingToCheckOn, BundleNotFound, BundleDamaged, DiskFull, NotWritable.
    """
    progress = progress or Progress()
    bundle = open_bundle(model)
    target = place(output) if output else bundle.path
    check_writable(target)
    catalog = read_catalog(data, progress, min_classes=1)
    splits = _sides(bundle, catalog)
    taught = np.flatnonzero(splits == "train")
    split = scored_split(splits)
    scored = np.flatnonzero(splits == split) if split else np.arange(len(catalog))
    rows = spread((taught if len(taught) else np.arange(len(catalog))).tolist(), MAX_CALIBRATION)
    pictures, _ = _pixels(bundle, [str(catalog.paths[row]) for row in rows])
    if not pictures:
        raise _nothing(bundle, catalog.root)
    progress.say(f"Quantising with {len(pictures)} pictures ...")
    graph = quantised(bundle.graph, pictures)
    rows = spread(scored.tolist(), MAX_MEASURED)
    facts = _measured(bundle, graph, catalog, rows, split, len(pictures))
    manifest = bundle.manifest.model_copy(update={"int8": facts})
    rewrite_bundle(bundle, manifest, target, {"graph-int8.onnx": graph})
    return facts


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Pick at most n of the items, evenly from first to last."""
    if len(items) <= n:
        return list(items)
    return [items[row] for row in np.linspace(0, len(items) - 1, n).round().astype(int)]


def difference(one: Floats, other: Floats) -> Difference:
    """Compare two sets of probabilities (N, K)."""
    same = float((one.argmax(1) == other.argmax(1)).mean())
    return Difference(same, float(np.abs(one - other).max()))


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise CannotExport(
            f"{folder} exists already; expected was a name for a new folder. Nothing was written "
            f"and nothing there was touched. Remove it, or choose another name with -o."
        )


def _trained_on(bundle: Bundle) -> Path | None:
    """Find the folder that a bundle was trained on, by the fingerprint of its data."""
    fingerprint = bundle.manifest.data.get("fingerprint")
    for run in list_runs():
        folder = Path(run.data)
        if fingerprint and run.fingerprint.split(" ")[0] == fingerprint and folder.is_dir():
            return folder
    return None


def _nothing(bundle: Bundle, where: Path | None) -> NothingToCheckOn:
    looked = (
        f"{shown(where)} holds no picture that can be read"
        if where
        else "no pictures were named, and where it was trained is not known here or no longer there"
    )
    return NothingToCheckOn(
        f"{bundle.path} cannot be checked on real pictures: {looked}. Expected was a folder with "
        f"some; a few dozen do. Nothing was written. Name one, for an export with --check FOLDER."
    )


def _pixels(
    bundle: Bundle, paths: Sequence[str], read: Callable[[str], Pixels] | None = None
) -> tuple[list[Pixels], list[int]]:
    """Read pictures as the network sees them; those that can be read, and which these are."""
    read = read or partial(read_pixels, preprocessing=bundle.manifest.preprocessing)
    found = list(decode_many(paths, read))
    rows = [row for row, one in enumerate(found) if not isinstance(one, UnreadablePicture)]
    return [one for one in found if not isinstance(one, UnreadablePicture)], rows


def _agreement(
    bundle: Bundle,
    target: Target,
    precision: Precision,
    answer: Callable[[NDArray[np.uint8]], Floats],
    paths: Sequence[str],
    where: Path | None,
) -> Agreement:
    """Hold the written files against the bundle."""
    pictures, rows = _pixels(bundle, paths)
    if not pictures:
        raise _nothing(bundle, where)
    pixels = np.stack(pictures)
    example = example_pixels(bundle.manifest.preprocessing)
    with tempfile.TemporaryDirectory(prefix="tellapart-") as folder:
        theirs = np.stack([example(_file_of(paths[row], Path(folder))) for row in rows])
    in_32 = _answers(bundle, bundle.graph, "f32", pixels)
    in_8 = _answers(bundle, bundle.int8_graph, None, pixels) if precision == "int8" else None
    ours = in_32 if in_8 is None else in_8
    in_16 = _answers(bundle, bundle.graph, "bf16", pixels) if best_precision() == "bf16" else None
    return Agreement(
        n=len(pixels),
        folder=shown(where) if where else str(where),
        runtime=_runtime_of(target),
        same_pixels=difference(ours, answer(pixels)),
        from_files=difference(ours, answer(theirs)),
        limits={"same_pixels": LIMIT[precision], "from_files": LIMIT_FROM_FILES[precision]},
        bits_16=None if in_16 is None else difference(in_32, in_16),
        bits_8=None if in_8 is None else difference(in_32, in_8),
    )


def _file_of(path: str, folder: Path) -> str:
    """Return a file with a picture, as the example reads files: of others, a copy in a folder."""
    if not is_address(path) and split_member(path) is None:
        return path
    copy = folder / f"picture{Path(path.partition('?')[0]).suffix}"
    copy.write_bytes(read_file(path))
    return str(copy)


def _answers(bundle: Bundle, graph: bytes, precision: Any, pixels: NDArray[np.uint8]) -> Floats:
    """Answer as prediction does."""
    runtime = OpenVinoRuntime(graph, precision=precision)
    return _probabilities(bundle, runtime, pixels)


def _probabilities(bundle: Bundle, runtime: OpenVinoRuntime, pixels: NDArray[np.uint8]) -> Floats:
    features = np.stack(list(runtime.run(pixels))).astype(np.float32)
    logits = features @ runtime.constant("head.weight").T + runtime.constant("head.bias")
    return softmax(logits, bundle.manifest.calibration.temperature)


def _runtime_of(target: Target) -> str:
    from importlib.metadata import PackageNotFoundError, version

    known = {"openvino": "openvino", "torch": "torch", "state-dict": "torch"}
    name = known.get(target, "onnxruntime")
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"openvino {version('openvino')}"


def _refuse_difference(
    bundle: Bundle, target: Target, precision: Precision, agreement: Agreement
) -> None:
    """Let nothing out that answers otherwise than the bundle.

    Raises:
        ExportDisagrees.
    """
    seen = {"same_pixels": agreement.same_pixels, "from_files": agreement.from_files}
    if all(seen[name].largest <= agreement.limits[name] for name in seen):
        return
    same, files = agreement.same_pixels, agreement.from_files
    raise ExportDisagrees(
        f"{bundle.path} as {target} answers otherwise than the bundle, on {agreement.n} pictures "
        f"run by {agreement.runtime}: on the same pixels probabilities differ by up to "
        f"{same.largest:.4f} (at most {LIMIT[precision]} was expected) and {same.same_label:.1%} "
        f"of the labels agree; from the files, as the example reads them, by up to "
        f"{files.largest:.4f} (at most {LIMIT_FROM_FILES[precision]}) and {files.same_label:.1%}. "
        f"Nothing was written. Choose another --to: {', '.join(TARGETS)}; and report this."
    )


def _sides(bundle: Bundle, catalog: Catalog) -> NDArray[np.str_]:
    """Say on which side of the split each picture was when the bundle learned; "" if not known."""
    if not bundle.has_features:
        return catalog.splits
    sides = bundle.features.sides()
    known = np.array([sides.get(bytes(digest), "") for digest in catalog.digests], dtype="U5")
    return known if (known != "").any() else catalog.splits


def _measured(
    bundle: Bundle,
    graph: bytes,
    catalog: Catalog,
    rows: Sequence[int],
    split: str | None,
    n_calibration: int,
) -> Int8:
    """Measure accuracy, agreement and speed in 32, 16 and 8 bits on the same pictures."""
    pictures, readable = _pixels(bundle, [str(catalog.paths[row]) for row in rows])
    if not pictures:
        raise _nothing(bundle, catalog.root)
    pixels = np.stack(pictures)
    runtimes = {"f32": OpenVinoRuntime(bundle.graph, precision="f32")}
    if best_precision() == "bf16":
        runtimes["bf16"] = OpenVinoRuntime(bundle.graph, precision="bf16")
    runtimes["int8"] = OpenVinoRuntime(graph)
    probs = {name: _probabilities(bundle, one, pixels) for name, one in runtimes.items()}
    place = {name: label for label, name in enumerate(bundle.manifest.classes)}
    labels = np.array([place.get(name, -1) for name in catalog.classes])[catalog.labels]
    labels = labels[np.array(rows)[readable]]
    known = labels >= 0
    accuracy = None
    if known.any():
        accuracy = {
            name: round(float((one.argmax(1) == labels)[known].mean()), 6)
            for name, one in probs.items()
        }
    seen = difference(probs["f32"], probs["int8"])
    return Int8(
        n_calibration=n_calibration,
        n=len(pixels),
        split=split,
        accuracy=accuracy,
        agreement=round(seen.same_label, 6),
        largest_difference=round(seen.largest, 6),
        pictures_per_s=_speeds(runtimes, pixels[:N_TIMED]),
    )


def _speeds(runtimes: dict[str, OpenVinoRuntime], pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Time the networks in turns, so that what others compute disturbs all alike."""
    rates: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(3):
        for name, runtime in runtimes.items():
            began = time.perf_counter()
            for _ in runtime.run(pixels):
                pass
            rates[name].append(len(pixels) / (time.perf_counter() - began))
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}
