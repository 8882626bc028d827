"""What the tests of learning share: a small network, what it learns from, and real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from tellapart.backbones import openvino_runtime
from tellapart.backbones.activations import KeptSet
from tellapart.backbones.extractor import open_extractor
from tellapart.backbones.frozen import freeze
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.weights import random_weights
from tellapart.data.catalog import scan
from tellapart.progress import Progress
from tellapart.training import finetune
from tellapart.training.finetune import Circumstances, Learner, Pictures
from tellapart.training.history import History
from tellapart.training.phases import Material
from tellapart.training.recipe import Recipe
from tellapart.training.sources import KeptSource

QUIET = Progress("quiet")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other make these tests much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "available_cores", lambda: 1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    """The processor in 32 bits, so that figures can be compared with plain formulas."""
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def digests_of(n: int, seed: int = 0) -> np.ndarray:
    """N different digests, as files would have."""
    rng = np.random.default_rng(seed)
    return np.array([rng.bytes(16).hex().encode() for _ in range(n)], dtype="S32")


@pytest.fixture(scope="session")
def keep() -> Callable[..., KeptSet]:
    """Keep arrays under digests, in a set of their own on disk."""
    numbers = iter(range(10**6))

    def keep_all(digests: np.ndarray, values: np.ndarray) -> KeptSet:
        kept = KeptSet({"made by": f"a test, {next(numbers)}"})
        kept.add(digests.tolist(), list(values.astype(np.float16)))
        return kept

    return keep_all


@pytest.fixture(scope="session")
def toy_pictures(keep: Callable[..., KeptSet]) -> Callable[..., Pictures]:
    """Make rows of kept maps (4, 6, 6), or of features (16,), whose classes can be told apart."""

    def make(
        n_train: int = 48,
        n_valid: int = 24,
        n_classes: int = 3,
        *,
        shape: tuple[int, ...] = (4, 6, 6),
        views: int = 2,
        apart: float = 1.0,
        seed: int = 0,
    ) -> Pictures:
        rng = np.random.default_rng(seed)
        n = n_train + n_valid
        labels = rng.integers(0, n_classes, n)
        centres = rng.normal(size=(n_classes, *shape)) * apart
        sets = [
            keep(digests_of(n, seed), centres[labels] + rng.normal(size=(n, *shape)))
            for _ in range(1 + views)
        ]
        return Pictures(
            source=KeptSource(digests_of(n, seed), sets[0], sets[1:], seed=7),
            labels=labels,
            train=np.arange(n_train),
            valid=np.arange(n_train, n),
            n_classes=n_classes,
        )

    return make


@pytest.fixture(scope="session")
def toy_learner() -> Callable[..., Learner]:
    """Make a small convolutional network with random weights, all of which learn."""

    def make(
        n_classes: int = 3, seed: int = 0, *, norm: bool = True, dropout: float = 0.0
    ) -> Learner:
        torch.manual_seed(seed)
        body = [nn.Conv2d(4, 8, 3), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
        end = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout)]
        head = nn.Linear(32, n_classes)
        module = nn.Sequential(*body, *end, head)
        return Learner(
            prepare=nn.Identity(),
            module=module,
            frozen=(),
            body=tuple(parameter for part in body for parameter in part.parameters()),
            head=tuple(head.parameters()),
        )

    return make


@pytest.fixture
def around(fabric: Fabric) -> Callable[..., Circumstances]:
    """Make the circumstances of a phase: number 1, seed 0, and a history in memory."""

    def make(**given: object) -> Circumstances:
        usual = {"fabric": fabric, "number": 1, "seed": 0, "history": History(None, QUIET)}
        return Circumstances(**(usual | given))

    return make


@pytest.fixture(scope="session")
def snapshot() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    """Copy all weights and statistics of a module."""
    return lambda module: {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="session")
def differing() -> Callable[..., list[str]]:
    """Name the tensors that are not the same to the last bit."""

    def names(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> list[str]:
        assert one.keys() == two.keys()
        return [name for name in one if not torch.equal(one[name], two[name])]

    return names


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs in three classes: stripes across, stripes down, squares; noisy, in any colour.

    In train, valid and test there are 12, 6 and 4 of each class.
    """
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:40, :48]
    for split, count in {"train": 12, "valid": 6, "test": 4}.items():
        for name in ("across", "down", "squares"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                lines = {"across": y // 5 % 2, "down": x // 5 % 2}
                mask = lines.get(name, (y // 10 + x // 10) % 2)[..., None]
                colours = rng.integers(0, 256, (2, 3))
                picture = np.where(mask, colours[0], colours[1]) + rng.normal(0, 25, (40, 48, 3))
                image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
                image.save(folder / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def exactly() -> Iterator[None]:
    """Compute in 32 bits, as on processors that have no others: figures can be compared closely.

    Not for longer than a module: what others compare with another process would differ from it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_runtime, "best_precision", lambda: "f32")
        patch.setattr(finetune, "best_precision", lambda: "f32")
        yield


@pytest.fixture(scope="module")
def material(shapes: Path, exactly: None) -> Callable[..., Material]:
    """Make what phases work on: the drawn shapes at 32 px, a network with random weights."""

    def make(recipe: Recipe, data: Path = shapes, **given: Any) -> Material:
        progress = given.setdefault("progress", QUIET)
        given.setdefault("history", History(None, progress))
        backbone = find_backbone(recipe.backbone)
        preprocessing = replace(backbone.preprocessing, size_px=32)
        weights = random_weights(backbone, recipe.seed)
        frozen = freeze(backbone, weights, preprocessing, recipe.flip_at_test)
        extractor = open_extractor(frozen, weights, preprocessing, "cpu")
        catalog = given.pop("catalog", None) or scan(data)
        found = extractor.features(catalog.paths.tolist(), catalog.digests.tolist(), progress)
        return Material(
            catalog=catalog,
            features=found.values,
            recipe=recipe,
            extractor=extractor,
            weights=weights,
            device="cpu",
            **given,
        )

    return make
