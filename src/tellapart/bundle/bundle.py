"""One file that holds a classifier: written whole or not at all, checked before it is used.

It is a zip without compression, so that a member is read as fast as a file. It holds no pickle;
nothing in it is executed. See `manifest` for the format number and how to change it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.bundle.manifest import FORMAT, Manifest, upgrade_1_to_2
from tellapart.data.catalog import SPLITS
from tellapart.errors import (
    BundleDamaged,
    BundleFromFuture,
    BundleNotFound,
    DataNotFound,
    NotQuantised,
)
from tellapart.evaluation.familiarity import Familiar
from tellapart.files import local_copy, replacing
from tellapart.hiding import without_secrets
from tellapart.stores import Address, place, shown

SUFFIX = ".tellapart"
MEMBERS = frozenset(
    {
        "manifest.json",
        "graph.onnx",
        "weights.safetensors",
        "features.safetensors",
        "familiar.safetensors",
        "report.html",
        "graph-int8.onnx",
    }
)
OPTIONAL = frozenset({"features.safetensors", "familiar.safetensors", "graph-int8.onnx"})
# Turns the manifest of each earlier format into one of the next.
UPGRADES = {1: upgrade_1_to_2}
# A manifest of a thousand long class names is under 1 MB.
_MAX_MANIFEST_BYTES = 64_000_000
# What reading a damaged zip, or the JSON in it, was seen to raise. RuntimeError is for parts that
# claim to be encrypted or of a later zip version, and for JSON nested too deep.
_UNREADABLE = (OSError, EOFError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """The plain-view features of the pictures a classifier has seen, in the final network.

    features: (N, D) float16. labels: (N,) int64 in the bundle's class order.
    digests: (N,) 'S32', hexadecimal BLAKE2b of each file. splits: (N,) 'U5'.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.int64]
    digests: NDArray[np.bytes_]
    splits: NDArray[np.str_]

    def sides(self) -> dict[bytes, str]:
        """Return which split each picture was on, so that it stays there next time."""
        return {
            bytes(digest): str(split)
            for digest, split in zip(self.digests, self.splits, strict=True)
        }


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle; members are read and checked when asked for.

    path: where it was opened, which may be at an address; it is read from a copy of then.

    Raises (on reading a member):
        BundleDamaged: its bytes are not those that were written.
    """

    path: Path
    manifest: Manifest

    @cached_property
    def local(self) -> Path:
        """The file on this machine that is read."""
        return local_copy(self.path) if isinstance(self.path, Address) else self.path

    @cached_property
    def graph(self) -> bytes:
        """ONNX bytes: `pixels` in; `features`, `logits` and, where one exists, `maps` out."""
        return self.member("graph.onnx")

    @property
    def int8_graph(self) -> bytes:
        """The graph in 8 bits, with the head and the softmax in 32.

        Raises:
            NotQuantised: the bundle carries none.
        """
        if "graph-int8.onnx" not in self.manifest.sha256:
            raise NotQuantised(
                f"{self.path} carries no 8-bit graph; expected was one, as int8 was asked for. "
                f"Nothing was computed. Put one in with: tellapart quantize {self.path.name} "
                f"FOLDER, where FOLDER holds the pictures it was trained on; or leave int8 out."
            )
        return self.member("graph-int8.onnx")

    @property
    def weights(self) -> bytes:
        """The network's weights as safetensors bytes, under the architecture's own names."""
        return self.member("weights.safetensors")

    @property
    def report(self) -> str:
        """The report as one HTML page."""
        return self.member("report.html").decode()

    @property
    def has_features(self) -> bool:
        """Whether the bundle carries the features of the pictures it has seen."""
        return "features.safetensors" in self.manifest.sha256

    @cached_property
    def features(self) -> KeptFeatures:
        """The kept features; check `has_features` first."""
        from safetensors.numpy import load

        arrays = load(self.member("features.safetensors"))
        return KeptFeatures(
            features=arrays["features"],
            labels=arrays["labels"],
            digests=np.array([row.tobytes().hex().encode() for row in arrays["digests"]], "S32"),
            splits=np.array(("", *SPLITS))[arrays["splits"]],
        )

    @cached_property
    def familiar(self) -> Familiar | None:
        """What tells pictures that belong to no class; None where the bundle has none."""
        from safetensors.numpy import load

        if "familiar.safetensors" not in self.manifest.sha256:
            return None
        try:
            return Familiar(**load(self.member("familiar.safetensors")))
        except TypeError as error:
            raise damaged(self.path, "familiar.safetensors holds other arrays") from error

    def member(self, name: str) -> bytes:
        """Return the bytes of a member that the manifest lists."""
        try:
            with zipfile.ZipFile(self.local) as file:
                data = file.read(name)
        except _UNREADABLE as error:
            raise damaged(self.path, f"{name} cannot be read ({error})") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.sha256[name]:
            raise damaged(self.path, f"{name} is not what was written")
        return data


def open_bundle(path: str | Path) -> Bundle:
    """Open a .tellapart file and check what it is before anything is built from it.

    Raises:
        BundleNotFound, BundleDamaged, BundleFromFuture. StoreError: of one at an address.
    """
    path = place(path)
    if isinstance(path, Address):
        return _open_far(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BundleNotFound(
            f"{path} {what}; expected a classifier file ending in {SUFFIX}. "
            f"Make one with: tellapart train FOLDER -o {path.with_suffix(SUFFIX).name}"
        )
    return Bundle(path, _manifest_of(path, path))


def _open_far(path: Address) -> Bundle:
    """Open a bundle at an address by a copy of it, which is kept while the one there is the same.

    Raises:
        BundleNotFound, BundleDamaged, BundleFromFuture, StoreError.
    """
    try:
        copy = local_copy(path)
    except (DataNotFound, FileNotFoundError) as error:
        raise BundleNotFound(
            f"{shown(path)} does not exist; expected a classifier file ending in {SUFFIX}. Check "
            f"the address, or put one there with: tellapart train FOLDER -o ADDRESS"
        ) from error
    bundle = Bundle(path, _manifest_of(path, copy))
    bundle.__dict__["local"] = copy
    return bundle


def _manifest_of(path: Path, file_at: Path) -> Manifest:
    """Check a file, and return its manifest. path: what it is called in messages."""
    try:
        with zipfile.ZipFile(file_at) as file:
            facts = json.loads(_audited_manifest(path, file))
    except _UNREADABLE as error:
        raise damaged(path, f"it cannot be read as a bundle ({error})") from error
    _check_format(path, facts)
    for number in range(facts["format"], FORMAT):
        facts = UPGRADES[number](facts)
    try:
        manifest = Manifest.model_validate(facts)
    except ValueError as error:
        first = str(error).splitlines()[:3]
        raise damaged(path, f"its manifest is wrong ({' '.join(first)})") from error
    if not MEMBERS - OPTIONAL <= manifest.sha256.keys() | {"manifest.json"} <= MEMBERS:
        raise damaged(path, "its manifest does not list what a bundle holds")
    return manifest


def write_bundle(
    path: Path,
    manifest: Manifest,
    graph: bytes,
    weights: bytes,
    features: KeptFeatures | None,
    report: str,
    familiar: Familiar | None = None,
) -> Bundle:
    """Write a bundle in one step: a reader finds the old file or the new one, never a part.

    Raises:
        DiskFull, NotWritable.
    """
    # The bytes of a file name that is no UTF-8 are written as \\udcXX.
    page = report.encode(errors="backslashreplace")
    members = {"graph.onnx": graph, "weights.safetensors": weights, "report.html": page}
    if features is not None:
        members["features.safetensors"] = _features_bytes(features)
    if familiar is not None:
        members["familiar.safetensors"] = _familiar_bytes(familiar)
    return _write(path, manifest, members)


def rewrite_bundle(
    bundle: Bundle, manifest: Manifest, path: Path, members: Mapping[str, bytes] | None = None
) -> Bundle:
    """Write a bundle again with other facts, in one step, to any path, its own included.

    members: new ones, and those in place of old ones. All others stay as they are, to the byte.

    Raises:
        BundleDamaged, DiskFull, NotWritable.
    """
    kept = {name: bundle.member(name) for name in bundle.manifest.sha256}
    return _write(path, manifest, kept | dict(members or {}))


def _write(path: Path, manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    manifest = manifest.model_copy(update={"sha256": sha256})
    with replacing(path) as temporary:
        _write_zip(temporary, {"manifest.json": _manifest_bytes(manifest), **members})
    return Bundle(path, manifest)


def with_head(graph: bytes, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> bytes:
    """Return a backbone's graph with a linear head: one more output, `logits` (batch, K).

    The head is the two initialisers `head.weight` (K, D) and `head.bias` (K,); a graph that has
    a head already gets the new one in its place.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    parts = model.graph
    names = ("head.weight", "head.bias")
    for kept in [item for item in parts.initializer if item.name in names]:
        parts.initializer.remove(kept)
    for array, name in zip((weight, bias), names, strict=True):
        parts.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    for kept in [node for node in parts.node if node.name == "head"]:
        parts.node.remove(kept)
    for kept in [output for output in parts.output if output.name == "logits"]:
        parts.output.remove(kept)
    parts.node.append(
        onnx.helper.make_node("Gemm", ["features", *names], ["logits"], name="head", transB=1)
    )
    parts.output.append(
        onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", len(bias)])
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_head_weights(
    weights: bytes, head: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> bytes:
    """Return a backbone's safetensors bytes with its head (named `head`) replaced."""
    from safetensors.numpy import load, save

    tensors = load(weights)
    # Some architectures write their head as a 1x1 convolution.
    extra = (1,) * (tensors[f"{head}.weight"].ndim - 2)
    tensors[f"{head}.weight"] = np.ascontiguousarray(weight).reshape(*weight.shape, *extra)
    tensors[f"{head}.bias"] = bias
    return bytes(save(tensors))


def _audited_manifest(path: Path, file: zipfile.ZipFile) -> bytes:
    """Check the member list, and return the manifest's bytes."""
    entries = file.infolist()
    unknown = sorted({entry.filename for entry in entries} - MEMBERS)
    if unknown:
        raise damaged(path, f"it holds things no bundle holds: {', '.join(unknown[:3])}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise damaged(path, "its parts are compressed, which no bundle's are")
    if len({entry.filename for entry in entries}) != len(entries):
        raise damaged(path, "it holds a part twice")
    if "manifest.json" not in file.namelist():
        raise damaged(path, "it has no manifest.json")
    if file.getinfo("manifest.json").file_size > _MAX_MANIFEST_BYTES:
        raise damaged(path, "its manifest is larger than any can be")
    return file.read("manifest.json")


def _check_format(path: Path, facts: object) -> None:
    number = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(number, int) or number < 1:
        raise damaged(path, f"its format number is {number!r}")
    if number > FORMAT:
        raise BundleFromFuture(
            f"{path} has bundle format {number}; this version of tellapart reads formats up to "
            f"{FORMAT}. Nothing was read. Upgrade with: pip install --upgrade tellapart"
        )


def damaged(path: Path, what: str) -> BundleDamaged:
    """Say what is wrong with a bundle, and how to get a whole one."""
    return BundleDamaged(
        f"{path} is not a whole tellapart classifier: {what}. It was expected to be as "
        f"`tellapart train` wrote it; it was cut off or changed since, so it is not used. "
        f"Copy it again from where it came from, or train again."
    )


def _manifest_bytes(manifest: Manifest) -> bytes:
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    return without_secrets(text).encode()


def _features_bytes(kept: KeptFeatures) -> bytes:
    from safetensors.numpy import save

    codes = {name: code for code, name in enumerate(("", *SPLITS))}
    digests = b"".join(bytes.fromhex(digest.decode()) for digest in kept.digests)
    return bytes(
        save(
            {
                "features": np.ascontiguousarray(kept.features),
                "labels": kept.labels.astype(np.int64),
                "digests": np.frombuffer(digests, np.uint8).reshape(len(kept.labels), -1).copy(),
                "splits": np.array([codes[str(name)] for name in kept.splits], dtype=np.uint8),
            }
        )
    )


def _familiar_bytes(familiar: Familiar) -> bytes:
    from safetensors.numpy import save

    arrays = familiar.arrays()
    return bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            # A fixed date: the same classifier gives the same bytes.
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
