"""The reference recipes do what their texts do: each text stands here again, in plain torch.

What a text leaves to chance (weights, orders, views) is drawn once and given to both sides, so
that weights and figures can be held against each other. Transforms, splits, rates and batches are
compared at the size that the texts have; networks learn on smaller pictures.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import timm
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader, SubsetRandomSampler, random_split
from torchvision import models
from torchvision import transforms as T  # noqa: N812
from torchvision.datasets import ImageFolder

import tellapart
from tellapart.backbones.network import Normalise, build_network
from tellapart.backbones.registry import find_backbone
from tellapart.backbones.structure import parameters
from tellapart.data import augmentation
from tellapart.data.augmentation import Augmentation
from tellapart.data.catalog import scan
from tellapart.data.pixels import Preprocessing, read_pixels
from tellapart.pipeline.inputs import preprocessing_of, split
from tellapart.pipeline.training import open_source, prepare
from tellapart.progress import Progress
from tellapart.training.checkpoint import CheckpointFile
from tellapart.training.finetune import build_learner, epoch_order
from tellapart.training.history import EpochRecord, History
from tellapart.training.judging import Judged, judge
from tellapart.training.phases import Material, learn
from tellapart.training.recipe import Phase, Recipe, load_recipe
from tellapart.training.runs import start_run
from tellapart.training.schedule import rate_factor
from tellapart.training.tuning import Tuner

QUIET = Progress("quiet")
Channels = Sequence[float]
Transform = Callable[[Image.Image], Tensor]
State = dict[str, Tensor]

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])

# Small enough for seconds; no number of pictures below leaves a single one for the last batch.
BATCH = 18
CLASSES = ("barn", "mill", "tower")


# ---- the texts


@dataclass(frozen=True)
class Stage:
    """A stretch of training as a text writes it; best: which epoch's weights it goes on with."""

    epochs: int
    batch: int
    freeze: Callable[[nn.Module], None]
    optimizer: Callable[[nn.Module], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    best: str = "last"
    shuffle: bool = True


@dataclass(frozen=True)
class Text:
    """A text: its network, its transforms, its stages, and how its recipe is made small here.

    train, valid: transforms, of valid by the side in pixels, mean and deviation. own: the mean
    and deviation that it states; None: it measures them. scale: of all sizes, for networks that
    learn here. saves: whether it writes more than bare weights while it trains.
    """

    recipe: str
    network: Callable[[], nn.Module]
    head: str
    train: T.Compose
    valid: Callable[[int, Channels, Channels], Transform]
    size_px: int
    own: tuple[Channels, Channels] | None
    stages: tuple[Stage, ...]
    scale: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    saves: bool = False


def nothing(model: nn.Module) -> None:
    """Leave every parameter to learn, as a network comes."""
    for parameter in model.parameters():
        parameter.requires_grad = True


def all_but(*kept: str) -> Callable[[nn.Module], None]:
    """Freeze what has none of these words in its name."""

    def freeze(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = any(word in name for word in kept)

    return freeze


def adam(rate: float) -> Callable[[nn.Module], Optimizer]:
    """Adam on what is not frozen, with all else as it comes."""
    return lambda model: Adam([p for p in model.parameters() if p.requires_grad], lr=rate)


def head_at_ten_times(model: nn.Module) -> Optimizer:
    """The optimiser of system 004."""
    initial_learning_rate = 5e-5
    params = [
        param for name, param in model.named_parameters() if name not in ["fc.weight", "fc.bias"]
    ]
    return SGD(
        [{"params": params}, {"params": model.fc.parameters(), "lr": initial_learning_rate * 10}],
        lr=initial_learning_rate,
        momentum=0.9,
        weight_decay=1e-3,
    )


def squashed(px: int, mean: Channels, std: Channels) -> Transform:
    """Resize([px, px]), as systems 000 to 003 treat what does not teach."""
    return T.Compose([T.Resize([px, px]), T.ToTensor(), T.Normalize(mean, std)])


def centre_of_squashed(image_size: int, mean: Channels, std: Channels) -> Transform:
    """The transform of system 004, for training too."""
    image_resize = int(image_size * (256 / 224)), int(image_size * (256 / 224))
    return T.Compose(
        [T.Resize(image_resize), T.CenterCrop(image_size), T.ToTensor(), T.Normalize(mean, std)]
    )


AUDIT = Text(
    recipe="audit-uploads",
    network=models.resnet50,
    head="fc",
    train=T.Compose([T.Resize([224, 224]), T.RandomHorizontalFlip(), T.RandomCrop(128)]),
    valid=squashed,
    size_px=224,
    own=HALF,
    stages=(Stage(epochs=20, batch=10, freeze=nothing, optimizer=adam(1e-4)),),
    scale=1 / 4,
)
SCENES = Text(
    recipe="intel-scenes",
    network=lambda: timm.create_model("efficientnet_b0"),
    head="classifier",
    train=T.Compose(
        [
            T.Resize((150, 150)),
            T.RandomResizedCrop(size=315, scale=(0.95, 1.0)),
            T.RandomRotation(degrees=10),
            T.RandomHorizontalFlip(),
            T.CenterCrop(size=299),
        ]
    ),
    valid=squashed,
    size_px=150,
    own=None,
    stages=(Stage(epochs=50, batch=32, freeze=nothing, optimizer=adam(1e-4), best="loss"),),
    scale=1 / 5,
    # The text reads its rate off a range test, which runs in the last test below.
    settings={"phases.1.lr": 1e-4},
)
GALLERY = Text(
    recipe="phone-gallery",
    network=models.resnet34,
    head="fc",
    train=T.Compose([T.Resize((224, 224)), T.RandomHorizontalFlip()]),
    valid=squashed,
    size_px=224,
    own=IMAGENET,
    stages=(
        Stage(epochs=5, batch=64, freeze=all_but("layer4", "fc"), optimizer=adam(1e-5)),
        Stage(epochs=3, batch=64, freeze=all_but("fc"), optimizer=adam(3e-4)),
    ),
    scale=1 / 7,
)
FLOWERS = Text(
    recipe="flowers-102",
    network=models.resnet18,
    head="fc",
    train=T.Compose(
        [
            T.Resize([96, 96]),
            T.RandomRotation(45),
            T.CenterCrop(64),
            T.RandomHorizontalFlip(p=0.5),
            T.RandomVerticalFlip(p=0.5),
            T.ColorJitter(brightness=0.2, contrast=0.1, saturation=0.1, hue=0.1),
            T.RandomGrayscale(p=0.025),
        ]
    ),
    valid=squashed,
    size_px=64,
    own=IMAGENET,
    stages=(
        Stage(
            epochs=20,
            batch=128,
            freeze=all_but("fc"),
            optimizer=adam(1e-2),
            scheduler=lambda optimizer: StepLR(optimizer, step_size=10, gamma=0.1),
            best="accuracy",
        ),
        Stage(
            epochs=10,
            batch=128,
            freeze=nothing,
            optimizer=adam(1e-3),
            scheduler=lambda optimizer: StepLR(optimizer, step_size=7, gamma=0.1),
            best="accuracy",
        ),
    ),
    scale=1 / 2,
    saves=True,
)
FACADE = Text(
    recipe="facade",
    network=models.resnext101_32x8d,
    head="fc",
    train=T.Compose([]),
    valid=centre_of_squashed,
    size_px=224,
    own=IMAGENET,
    stages=(
        Stage(
            epochs=30,
            batch=16,
            freeze=nothing,
            optimizer=head_at_ten_times,
            scheduler=lambda optimizer: StepLR(optimizer, step_size=30, gamma=0.1),
            shuffle=False,
        ),
    ),
    scale=1 / 8,
    saves=True,
)
TEXTS = (AUDIT, SCENES, GALLERY, FLOWERS, FACADE)


def with_less(text: Text) -> Text:
    """The same on a smaller network of the same make: large ones take minutes."""
    return replace(text, network=models.resnet18, settings={"backbone": "resnet18"})


each_text = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.recipe)


def stages_of(text: Text) -> list[tuple[int, Phase, Stage]]:
    """Pair each phase of a text's recipe, counted from 1, with what the text writes."""
    phases = load_recipe(text.recipe).phases
    return [
        (number, phase, stage)
        for number, (phase, stage) in enumerate(zip(phases, text.stages, strict=True), start=1)
    ]


# ---- pictures


def photograph(kind: int, number: int, width: int = 60, height: int = 44) -> np.ndarray:
    """A noisy (height, width, 3) picture; kinds differ little, so that some are taken wrongly."""
    rng = np.random.default_rng([kind, number])
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / (4 + kind) + number) + np.cos(y / (7 - kind) - number)
    colours = rng.integers(60, 200, 3) + np.array([12, 0, -12]) * (kind - 1)
    picture = colours + 30 * waves[..., None] + rng.normal(0, 25, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path, counts: Mapping[str, int]) -> Path:
    """Write JPEGs of each class: counts maps a split folder ("": none) to pictures a class."""
    for number, (part, count) in enumerate(counts.items()):
        for kind, name in enumerate(CLASSES):
            place = folder / part / name
            place.mkdir(parents=True)
            for one in range(count):
                data = simplejpeg.encode_jpeg(photograph(kind, 1000 * number + one), quality=90)
                (place / f"{one:03d}.jpg").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The same 63 or 66 pictures in the layout of each text."""
    root = tmp_path_factory.mktemp("pictures")
    given = write_pictures(root / "given", {"train": 16, "valid": 6})
    scenes = write_pictures(root / "scenes", {"seg_train": 14, "seg_test": 8})
    one = write_pictures(root / "one", {"": 21})
    return {
        "audit-uploads": given,
        "intel-scenes": scenes,
        "phone-gallery": one,
        "flowers-102": given,
        "facade": one,
    }


@pytest.fixture(scope="module", autouse=True)
def own_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of runs for these tests alone, and one thread: two wait for each other."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLAPART_RUNS", str(folder))
        yield folder
    torch.set_num_threads(threads)


def small_settings(text: Text, epochs: int = 2) -> dict[str, Any]:
    """Settings that keep a recipe as it is, but for its length and its sizes in pixels."""
    recipe = load_recipe(text.recipe)
    settings: dict[str, Any] = {
        "weights": "none",
        "pixels.size_px": round(text.size_px * text.scale),
    }
    for number, phase in enumerate(recipe.phases, start=1):
        settings |= {f"phases.{number}.epochs": epochs, f"phases.{number}.batch": BATCH}
        for place, step in enumerate(phase.augment, start=1):
            if hasattr(step, "size_px"):
                key = f"phases.{number}.augment.{place}.size_px"
                settings[key] = round(step.size_px * text.scale)
    return settings | dict(text.settings)


# ---- transforms


def as_steps(compose: T.Compose) -> Augmentation:
    """Read torchvision's transforms as our steps; two flips in a row are one step."""
    steps: list[Any] = []
    for one in compose.transforms:
        match one:
            case T.Resize():
                assert one.size[0] == one.size[1] and one.interpolation.value == "bilinear"
                steps.append(augmentation.Resize(size_px=one.size[0]))
            case T.CenterCrop():
                steps.append(augmentation.CentreCrop(size_px=one.size[0]))
            case T.RandomCrop():
                steps.append(augmentation.RandomCrop(size_px=one.size[0]))
            case T.RandomResizedCrop():
                assert one.interpolation.value == "bilinear"
                steps.append(
                    augmentation.RandomResizedCrop(
                        size_px=one.size[0], area=one.scale, aspect=one.ratio
                    )
                )
            case T.RandomRotation():
                assert one.interpolation.value == "nearest" and not one.expand
                steps.append(augmentation.Rotate(degrees=one.degrees[1]))
            case T.RandomHorizontalFlip():
                steps.append(augmentation.Flip(horizontal=one.p))
            case T.RandomVerticalFlip():
                steps.append(steps.pop().model_copy(update={"vertical": one.p}))
            case T.ColorJitter():
                ranges = {
                    "brightness": one.brightness[1] - 1,
                    "contrast": one.contrast[1] - 1,
                    "saturation": one.saturation[1] - 1,
                    "hue": one.hue[1],
                }
                steps.append(
                    augmentation.ColourJitter(**{k: round(v, 9) for k, v in ranges.items()})
                )
            case T.RandomGrayscale():
                steps.append(augmentation.Greyscale(share=one.p))
            case _:
                raise AssertionError(f"no step of ours for {one}")
    return tuple(steps)


@each_text
def test_training_pictures_go_through_the_transforms_of_the_text(text: Text) -> None:
    """Each phase draws the text's transforms, in their order and with their parameters."""
    for _, phase, _ in stages_of(text):
        assert phase.augment == as_steps(text.train)


@each_text
@pytest.mark.parametrize(
    ("suffix", "width", "height", "mean_levels", "most_levels"),
    [
        # Lossless, or not larger than twice the input: the same pixels.
        (".png", 700, 520, 0.0, 0.0),
        (".jpg", 120, 90, 0.0, 0.0),
        # Decoded at a reduced scale: its last row and column reach over the picture's edge.
        (".jpg", 1700, 1300, 2.5, 16.0),
    ],
)
def test_other_pictures_are_torchvisions(
    text: Text,
    suffix: str,
    width: int,
    height: int,
    mean_levels: float,
    most_levels: float,
    folders: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    """What chooses, scores or is predicted has the text's pixels, up to the decoder."""
    file = tmp_path / f"picture{suffix}"
    Image.fromarray(smooth(width, height)).save(file, quality=90)
    preprocessing = preprocessing_of(load_recipe(text.recipe), folder_split(text, folders))[0]
    pixels = torch.from_numpy(np.stack([read_pixels(file, preprocessing)]))
    mean, std = text.own or (preprocessing.mean, preprocessing.std)
    ours = Normalise(preprocessing)(pixels)[0]
    theirs = text.valid(text.size_px, mean, std)(Image.open(file).convert("RGB"))
    assert ours.shape == theirs.shape == (3, text.size_px, text.size_px)
    levels = (ours - theirs).abs() * torch.tensor(std)[:, None, None] * 255
    assert levels.mean() <= mean_levels + 1e-3
    assert levels.max() <= most_levels + 1e-2


def smooth(width: int, height: int) -> np.ndarray:
    """A (height, width, 3) picture as smooth as a photograph, with some edges."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = 90 * np.sin(25 * x + 9 * y)[..., None] * np.array([1, 0.7, -0.5])
    edges = 60 * ((8 * x).astype(int) % 2)[..., None]
    return (110 + waves + edges).clip(0, 255).astype(np.uint8)


def test_scenes_are_normalised_as_the_text_measures(folders: Mapping[str, Path]) -> None:
    """The mean is that of all values, the deviation the mean of each picture's own."""
    catalog = folder_split(SCENES, folders)
    preprocessing, notes = preprocessing_of(load_recipe("intel-scenes"), catalog)
    mean, std = measured(folders["intel-scenes"] / "seg_train", 150)
    assert preprocessing.mean == pytest.approx(mean, abs=1e-6)
    assert preprocessing.std == pytest.approx(std, abs=1e-6)
    assert "Mean and deviation" in notes[-1]


def measured(folder: Path, px: int) -> tuple[list[float], list[float]]:
    """The text's own formula for the mean and deviation of a data set."""
    loader = DataLoader(ImageFolder(folder, T.Compose([T.Resize((px, px)), T.ToTensor()])), 8)
    mean, std = torch.zeros(3), torch.zeros(3)
    for data, _ in loader:
        flat = data.view(data.size(0), data.size(1), -1)
        mean += flat.mean(2).sum(0)
        std += flat.std(2).sum(0)
    n = len(loader.dataset)
    return (mean / n).tolist(), (std / n).tolist()


def test_an_input_too_small_for_the_network_is_raised_and_said(
    folders: Mapping[str, Path],
) -> None:
    """Another backbone than the text's gets the smallest input that it takes."""
    recipe = load_recipe("flowers-102", {"backbone": "inception_v3"})
    preprocessing, notes = preprocessing_of(recipe, folder_split(FLOWERS, folders))
    assert preprocessing.size_px == 75
    assert notes == (
        "inception_v3 needs an input of 75 px or more: it gets that instead of 64 px.",
    )


# ---- splits and order


def folder_split(text: Text, folders: Mapping[str, Path]) -> Any:
    """The catalog of a text's pictures, split as its recipe has it."""
    return split(scan(folders[text.recipe]), load_recipe(text.recipe), {})


def files_of(catalog: Any, part: str) -> set[str]:
    return set(catalog.paths[catalog.splits == part].tolist())


def test_facades_are_split_as_torch_does_it(folders: Mapping[str, Path]) -> None:
    """Seven tenths, two and the rest, by torch's random_split with seed 330."""
    dataset = ImageFolder(folders["facade"])
    train_size, valid_size = int(len(dataset) * 0.7), int(len(dataset) * 0.2)
    sizes = [train_size, valid_size, len(dataset) - train_size - valid_size]
    parts = random_split(dataset, sizes, generator=torch.Generator().manual_seed(330))
    catalog = folder_split(FACADE, folders)
    for part, name in zip(parts, ("train", "valid", "test"), strict=True):
        assert files_of(catalog, name) == {dataset.samples[i][0] for i in part.indices}


def test_the_gallery_is_split_in_two_as_torch_does_it(folders: Mapping[str, Path]) -> None:
    """Four fifths teach and the rest is valid, by torch's random_split; nothing is left over."""
    dataset = ImageFolder(folders["phone-gallery"])
    train_size = int(len(dataset) * 0.8)
    sizes = [train_size, len(dataset) - train_size]
    parts = random_split(dataset, sizes, generator=torch.Generator().manual_seed(0))
    catalog = folder_split(GALLERY, folders)
    for part, name in zip(parts, ("train", "valid"), strict=True):
        assert files_of(catalog, name) == {dataset.samples[i][0] for i in part.indices}
    assert not files_of(catalog, "test")


def test_the_scenes_given_for_testing_are_cut_as_in_the_text(folders: Mapping[str, Path]) -> None:
    """A fifth of the test folder chooses, the rest scores, and all of the other folder teaches."""
    train_data, test_data = (
        ImageFolder(folders["intel-scenes"] / name) for name in ("seg_train", "seg_test")
    )
    indices = list(range(len(test_data)))
    np.random.seed(0)
    np.random.shuffle(indices)
    split1 = int(np.floor(0.2 * len(test_data)))
    samplers = {
        "valid": SubsetRandomSampler(indices[:split1]),
        "test": SubsetRandomSampler(indices[split1:]),
    }
    catalog = folder_split(SCENES, folders)
    assert files_of(catalog, "train") == {path for path, _ in train_data.samples}
    for name, sampler in samplers.items():
        assert files_of(catalog, name) == {test_data.samples[i][0] for i in sampler}


@pytest.mark.parametrize("text", [AUDIT, FLOWERS], ids=lambda text: text.recipe)
def test_folders_named_train_and_valid_are_kept(text: Text, folders: Mapping[str, Path]) -> None:
    """Where the text has its own folders, nothing is moved between them."""
    catalog = folder_split(text, folders)
    for name in ("train", "valid"):
        dataset = ImageFolder(folders[text.recipe] / name)
        assert files_of(catalog, name) == {path for path, _ in dataset.samples}


@each_text
def test_epochs_batches_and_order_are_the_texts(text: Text) -> None:
    """Each phase has the text's length and batch, and shuffles where its loader does."""
    for _, phase, stage in stages_of(text):
        assert (phase.epochs, phase.batch, phase.accumulate) == (stage.epochs, stage.batch, 1)
        assert phase.draw == ("shuffled" if stage.shuffle else "in-order")
        assert phase.views == "live" or phase.kept_views is None


@each_text
def test_optimiser_and_rates_over_the_whole_training_are_torchs(text: Text) -> None:
    """In every epoch body and head learn as the text's optimiser and scheduler have it."""
    for _, phase, stage in stages_of(text):
        if phase.lr == "auto":
            phase = phase.model_copy(update={"lr": text.settings["phases.1.lr"]})  # noqa: PLW2901
        model = models.resnet18()
        stage.freeze(model)
        optimizer = stage.optimizer(model)
        scheduler = stage.scheduler(optimizer) if stage.scheduler else None
        assert phase.optimizer == type(optimizer).__name__.lower()
        assert phase.momentum == optimizer.defaults.get("momentum", 0)
        assert phase.weight_decay == optimizer.defaults["weight_decay"]
        for epoch in range(stage.epochs):
            for step in (0, 6):  # the first and the last of seven
                factor = rate_factor(phase, 7 * epoch + step, 7, 7 * stage.epochs)
                ours = phase.lr * factor, phase.lr * phase.head_lr_factor * factor
                theirs = optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]
                assert ours == pytest.approx(theirs, rel=1e-12)
            optimizer.step()
            if scheduler:
                scheduler.step()


# ---- the same weights


@dataclass(frozen=True)
class Figures:
    """What a text records of an epoch: losses, accuracies, and the rates of body and head."""

    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    rates: tuple[float, float]


@dataclass(frozen=True)
class Ran:
    """One phase by both: weights before and after, figures, and what learned.

    batches: loss and size of each of the text's batches, epoch by epoch. silent: parameters whose
    gradient is nothing but rounding, such as a shift that the next batch-norm takes away.
    """

    before: State
    ours: State
    theirs: State
    figures: list[Figures]
    records: list[EpochRecord]
    our_flags: dict[str, bool]
    their_flags: dict[str, bool]
    batches: list[list[tuple[float, int]]]
    silent: set[str]


@dataclass(frozen=True)
class Whole:
    """A small training by a recipe and by its text; saved: the last checkpoint and the best."""

    text: Text
    recipe: Recipe
    material: Material
    runs: list[Ran]
    told: str
    saved: list[Any]


class Ours:
    """A recipe on its way through its phases, in 32 bits, as `learn` takes it."""

    def __init__(
        self, text: Text, data: Path, target: Path, fabric: Fabric, settings: Mapping[str, Any]
    ) -> None:
        source = open_source(data, target, text.recipe, settings, None, QUIET)
        stand = prepare(source, "cpu", QUIET)
        facts = source.recipe.facts()
        run = start_run("test", data, "", facts, target, QUIET) if text.saves else None
        self.recipe = source.recipe
        self.run = run
        self.material = Material(
            catalog=source.catalog,
            features=np.zeros((len(source.catalog), 0), np.float16),
            recipe=source.recipe,
            extractor=stand.extractor,
            weights=stand.weights,
            device="cpu",
            progress=QUIET,
            history=History(None, Progress("verbose")),
            run=run,
        )
        self.tuner = Tuner(self.material)
        self.tuner.fabric = fabric
        self.judged: Judged | None = None
        self.head: Any = None

    @property
    def preprocessing(self) -> Preprocessing:
        return self.material.extractor.preprocessing

    def state(self) -> State:
        """Copy the weights and statistics of the network, under the architecture's names."""
        return {name: value.clone() for name, value in self.tuner.network.state_dict().items()}

    def begin(self, number: int, phase: Phase) -> None:
        self.tuner.begin(number, phase, self.head, self.judged, number > 1)

    def learn(self, number: int, phase: Phase) -> None:
        result = self.tuner.run(number, phase, self.judged)
        if result.kept:
            self.judged, self.head = result.judged, self.tuner.head()

    def drawn(self, number: int, phase: Phase, epoch: int) -> tuple[Tensor, Tensor]:
        """The pixels and labels of an epoch, in its order."""
        prepared = self.tuner.prepare(phase)
        assert prepared is not None
        pictures = prepared.pictures
        order = epoch_order(phase, pictures, (self.recipe.seed, number, epoch))
        pixels = next(iter(pictures.source.views([order], epoch)))
        return pixels, torch.from_numpy(pictures.labels[order])


def as_written(
    stage: Stage,
    model: nn.Module,
    epochs: Sequence[Sequence[tuple[Tensor, Tensor]]],
    valid: DataLoader,
    mark: float,
) -> tuple[State, list[Figures], list[list[tuple[float, int]]], set[str]]:
    """Train as the texts do; mark: the accuracy to beat where the best epoch is kept.

    Returns what `Ran` holds of it.
    """
    criterion = nn.CrossEntropyLoss()
    stage.freeze(model)
    optimizer = stage.optimizer(model)
    scheduler = stage.scheduler(optimizer) if stage.scheduler else None
    best, best_loss = copy.deepcopy(model.state_dict()), math.inf
    figures, batches = [], []
    largest: dict[str, float] = {}
    for loader in epochs:
        model.train()
        seen = []
        right = 0
        for images, targets in loader:
            output = model(images)
            loss = criterion(output, targets)
            optimizer.zero_grad()
            loss.backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    slope = float(parameter.grad.abs().max())
                    largest[name] = max(slope, largest.get(name, 0.0))
            optimizer.step()
            seen.append((loss.item(), len(targets)))
            right += int((output.argmax(1) == targets).sum())
        n = sum(size for _, size in seen)
        batches.append(seen)
        valid_loss, accuracy = evaluated(model, valid, criterion)
        rates = optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]
        train_loss = sum(loss * size for loss, size in seen) / n
        figures.append(Figures(train_loss, right / n, valid_loss, accuracy, rates))
        if scheduler:
            scheduler.step()
        better = {"last": True, "accuracy": accuracy > mark, "loss": valid_loss < best_loss}
        if better[stage.best]:
            mark, best_loss = accuracy, valid_loss
            best = copy.deepcopy(model.state_dict())
    # The smallest others are a thousand times as large. SGD leaves them where they are.
    limit = 1e-6 if isinstance(optimizer, Adam) else 0.0
    return best, figures, batches, {name for name, slope in largest.items() if slope < limit}


@torch.no_grad()
def evaluated(model: nn.Module, valid: DataLoader, criterion: nn.Module) -> tuple[float, float]:
    """Loss and accuracy over the pictures of a loader."""
    model.eval()
    loss_sum, right, n = 0.0, 0, 0
    for images, targets in valid:
        output = model(images)
        loss_sum += criterion(output, targets).item() * len(targets)
        right += int((output.argmax(1) == targets).sum())
        n += len(targets)
    return loss_sum / n, right / n


def valid_loader(text: Text, ours: Ours, mean: Channels, std: Channels) -> DataLoader:
    """The valid pictures of a catalog, by torchvision."""
    catalog = ours.material.catalog
    transform = text.valid(ours.preprocessing.size_px, mean, std)
    rows = ours.material.rows("valid")
    pictures = [
        (transform(Image.open(catalog.paths[row]).convert("RGB")), int(catalog.labels[row]))
        for row in rows
    ]
    return DataLoader(pictures, batch_size=2 * BATCH)


def train_both(text: Text, data: Path, target: Path, fabric: Fabric) -> Whole:
    """Run a small recipe beside its text, phase by phase, from the same weights."""
    ours = Ours(text, data, target, fabric, small_settings(text))
    size_px = ours.preprocessing.size_px
    mean, std = text.own or measured(data / "seg_train", size_px)
    normalise = T.Normalize(mean, std)
    valid = valid_loader(text, ours, mean, std)
    model = text.network()
    model.set_submodule(text.head, nn.Linear(ours.tuner.network.n_features, len(CLASSES)))
    # As ours has it: another layout in memory rounds otherwise.
    model.to(memory_format=torch.channels_last)
    runs, told, mark = [], io.StringIO(), 0.0
    for number, (phase, stage) in enumerate(zip(ours.recipe.phases, text.stages, strict=True), 1):
        ours.begin(number, phase)
        before = ours.state()
        model.load_state_dict(before)
        drawn = [ours.drawn(number, phase, epoch) for epoch in range(1, phase.epochs + 1)]
        with contextlib.redirect_stderr(told):
            ours.learn(number, phase)
        loaders = [
            [
                (as_input(normalise, pixels[i : i + BATCH]), labels[i : i + BATCH])
                for i in range(0, len(labels), BATCH)
            ]
            for pixels, labels in drawn
        ]
        theirs, figures, batches, silent = as_written(stage, model, loaders, valid, mark)
        mark = max(mark, *(one.valid_accuracy for one in figures))
        runs.append(
            Ran(
                before=before,
                ours=ours.state(),
                theirs=theirs,
                figures=figures,
                records=[one for one in ours.material.history.epochs if one.phase == number],
                our_flags={name: flag for name, _, flag in parameters(ours.tuner.network)},
                their_flags={name: p.requires_grad for name, p in model.named_parameters()},
                batches=batches,
                silent=silent,
            )
        )
    files = (ours.run.checkpoint, ours.run.best) if ours.run else ()
    saved = [CheckpointFile(path, QUIET).read() for path in files if path]
    return Whole(text, ours.recipe, ours.material, runs, told.getvalue(), saved)


def as_input(normalise: T.Normalize, pixels: Tensor) -> Tensor:
    """ToTensor and Normalize on pixels (B, S, S, 3) uint8."""
    images: Tensor = normalise(pixels.permute(0, 3, 1, 2).float() / 255)
    return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture(
    scope="module",
    params=[
        SCENES,
        FLOWERS,
        *(with_less(text) for text in (AUDIT, GALLERY, FACADE)),
        *(pytest.param(text, marks=pytest.mark.slow) for text in (AUDIT, GALLERY)),
    ],
    ids=lambda text: "-".join([text.recipe, *("less" for _ in ["backbone"] if _ in text.settings)]),
)
def whole(
    request: pytest.FixtureRequest,
    folders: Mapping[str, Path],
    fabric: Fabric,
    tmp_path_factory: pytest.TempPathFactory,
) -> Whole:
    """A small training by a recipe and by its text, two epochs a phase."""
    text = request.param
    target = tmp_path_factory.mktemp("made") / "x.tellapart"
    return train_both(text, folders[text.recipe], target, fabric)


def test_the_same_pictures_give_the_same_weights(whole: Whole) -> None:
    """After each phase all weights and statistics are those of the text's own loop."""
    for ran in whole.runs:
        assert ran.ours.keys() == ran.theirs.keys()
        assert len(ran.silent) < len(ran.our_flags) / 10
        # Adam's first steps are as long where the gradient is rounding.
        for name in ran.theirs.keys() - ran.silent:
            moved = (ran.theirs[name] - ran.before[name]).float().norm()
            apart = (ran.theirs[name] - ran.ours[name]).float().norm()
            # A mean takes up what a silent shift in front of it became.
            slack = 1e-4 * ran.ours[name].numel() ** 0.5 if name.endswith("running_mean") else 1e-7
            assert apart <= 2e-2 * moved + slack, name


def test_what_learns_is_what_the_text_lets_learn(whole: Whole) -> None:
    """The same parameters are free in each phase, and no frozen one moves."""
    for ran in whole.runs:
        assert ran.our_flags == ran.their_flags
        frozen = [name for name, learns in ran.our_flags.items() if not learns]
        assert all(torch.equal(ran.ours[name], ran.before[name]) for name in frozen)
        assert any(not torch.equal(ran.theirs[name], ran.before[name]) for name in ran.our_flags)


@each_text
def test_the_texts_own_networks_learn_in_the_same_places(text: Text) -> None:
    """By name, also in the one that is too large to be trained twice here; it holds no numbers."""
    backbone = find_backbone(load_recipe(text.recipe).backbone)
    with torch.device("meta"):
        network, model = build_network(backbone, None), text.network()
        network.new_head(len(CLASSES))
        model.set_submodule(text.head, nn.Linear(network.n_features, len(CLASSES)))
    for _, phase, stage in stages_of(text):
        build_learner(network, phase, backbone.preprocessing)
        stage.freeze(model)
        assert {name: flag for name, _, flag in parameters(network)} == {
            name: parameter.requires_grad for name, parameter in model.named_parameters()
        }


def test_statistics_of_all_batch_norms_move(whole: Whole) -> None:
    """The texts put the whole network into training mode, frozen or not."""
    for ran in whole.runs:
        means = [name for name in ran.ours if name.endswith("running_mean")]
        same = all(torch.equal(ran.theirs[name], ran.before[name]) for name in ran.theirs)
        assert same or all(not torch.equal(ran.ours[name], ran.before[name]) for name in means)


def test_figures_of_each_epoch_are_the_texts(whole: Whole) -> None:
    """Losses, accuracies and rates of each epoch are what the text's own loop records."""
    for ran in whole.runs:
        assert len(ran.records) == len(ran.figures) == 2
        for ours, theirs in zip(ran.records, ran.figures, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
            assert ours.train_accuracy == pytest.approx(theirs.train_accuracy)
            assert ours.valid_loss == pytest.approx(theirs.valid_loss, rel=1e-3)
            assert ours.valid_accuracy == pytest.approx(theirs.valid_accuracy)
            assert (ours.lr, ours.head_lr) == pytest.approx(theirs.rates)


def test_each_epoch_is_told_in_one_line(whole: Whole) -> None:
    """Epoch, loss and accuracy of both sets, rate and seconds are printed after each epoch."""
    lines = [line for line in whole.told.splitlines() if " step " not in line]
    figures = [one for ran in whole.runs for one in ran.figures]
    pattern = (
        r"phase \d epoch \d/2  train +([\d.]+) +([\d.]+) %  valid +([\d.]+) +([\d.]+) %"
        r" [* ] rate ([\d.e-]+) +[\d.]+ s"
    )
    assert len(lines) == len(figures)
    for line, one in zip(lines, figures, strict=True):
        found = re.fullmatch(pattern, line)
        assert found, line
        told = [float(text) for text in found.groups()]
        percents = 100 * one.train_accuracy, 100 * one.valid_accuracy
        expected = one.train_loss, percents[0], one.valid_loss, percents[1], one.rates[0]
        assert told == pytest.approx(expected, rel=2e-2, abs=0.11)


def test_the_running_loss_is_told_three_times_an_epoch(whole: Whole) -> None:
    """As system 000 prints it: after every third of the batches, the mean so far."""
    first = [one for one in whole.material.history.steps if (one.phase, one.epoch) == (1, 1)]
    batches = whole.runs[0].batches[0]
    freq_print = int(len(batches) / 3)
    steps = [i for i in range(1, len(batches) + 1) if i % freq_print == 0]
    assert [one.step for one in first if one.step in steps] == steps
    assert {one.n_steps for one in first} == {len(batches)}
    for one in first:
        seen = batches[: one.step]
        mean = sum(loss * size for loss, size in seen) / sum(size for _, size in seen)
        assert one.loss == pytest.approx(mean, rel=1e-3)


def test_the_checkpoints_hold_what_the_texts_save(whole: Whole) -> None:
    """Weights, optimiser, best accuracy, epoch, architecture, origin and class count."""
    if not whole.saved:
        pytest.skip(f"the text of {whole.text.recipe} saves weights alone, when it has ended")
    (checkpoint, best), ran = whole.saved, whole.runs[-1]
    last = checkpoint.facts
    assert last["epoch"] == 2
    assert last["arch"] == whole.recipe.backbone
    assert last["weights"] == "random weights, nothing learned yet; seed 0"
    assert last["n_classes"] == len(CLASSES)
    assert last["best"]["accuracy"] == pytest.approx(
        max(one.valid_accuracy for one in ran.figures)
        if whole.text.stages[-1].best == "accuracy"
        else ran.records[(last["best_epoch"] or 0) - 1].valid_accuracy
    )
    learning = sum(ran.our_flags.values())
    slots = {key.split(".")[0] for key in checkpoint.part("optimizer")}
    assert len(slots) == learning
    assert best.facts["epoch"] == best.facts["best_epoch"] == last["best_epoch"]
    for found in (checkpoint, best):
        assert sorted(value.shape for value in found.part("model").values()) == sorted(
            value.shape for value in ran.ours.values()
        )


# ---- the end of a training


class EarlyStopping:
    """What system 001 stops with, by its published code: the loss has to fall."""

    def __init__(self, patience: int) -> None:
        self.patience, self.counter = patience, 0
        self.best_score: float | None = None
        self.early_stop = False

    def __call__(self, val_loss: float) -> None:
        score = -val_loss
        if self.best_score is None or score >= self.best_score:
            self.best_score, self.counter = score, 0
        else:
            self.counter += 1
            self.early_stop = self.counter >= self.patience


@pytest.mark.slow
def test_scenes_stop_when_the_valid_loss_no_longer_falls(
    folders: Mapping[str, Path], fabric: Fabric, tmp_path: Path
) -> None:
    """Training ends after the epoch at which the text's early stopping ends it."""
    settings = small_settings(SCENES, 12) | {"phases.1.patience": 2, "phases.1.lr": 1e-3}
    ours = Ours(SCENES, folders["intel-scenes"], tmp_path / "x.tellapart", fabric, settings)
    phase = ours.recipe.phases[0]
    ours.begin(1, phase)
    ours.learn(1, phase)
    losses = [one.valid_loss or 0.0 for one in ours.material.history.epochs]
    stopping = EarlyStopping(patience=2)
    for loss in losses:
        assert not stopping.early_stop
        stopping(loss)
    assert stopping.early_stop or len(losses) == 12
    best = [one.epoch for one in ours.material.history.epochs if one.best]
    assert best[-1] == 1 + int(np.argmin(losses))


def test_facades_are_learned_in_the_order_of_the_split(
    folders: Mapping[str, Path], fabric: Fabric, tmp_path: Path
) -> None:
    """Without shuffling, torch's loader hands out the pictures as random_split dealt them."""
    text = with_less(FACADE)
    settings = small_settings(text)
    ours = Ours(text, folders["facade"], tmp_path / "x.tellapart", fabric, settings)
    dataset = ImageFolder(folders["facade"])
    sizes = [int(len(dataset) * 0.7), int(len(dataset) * 0.2)]
    sizes.append(len(dataset) - sum(sizes))
    train = random_split(dataset, sizes, generator=torch.Generator().manual_seed(330))[0]
    labels = [dataset.samples[i][1] for i in train.indices]
    phase = ours.recipe.phases[0]
    for epoch in (1, 2):
        assert ours.drawn(1, phase, epoch)[1].tolist() == labels


def test_flowers_that_keep_the_first_phase_alone_keep_its_statistics(
    folders: Mapping[str, Path], fabric: Fabric, tmp_path: Path
) -> None:
    """Where the second phase does not help, the classifier is the network that was judged."""
    settings = small_settings(FLOWERS, 1) | {"phases.2.lr": 1e-12}
    ours = Ours(FLOWERS, folders["flowers-102"], tmp_path / "x.tellapart", fabric, settings)
    material = ours.material
    catalog, valid = material.catalog, material.rows("valid")
    learned = learn(material)
    assert [one.kept for one in material.history.phases] == [True, False]
    if learned.tuned is None:
        files = catalog.paths.tolist(), catalog.digests.tolist()
        features = material.extractor.features(*files, QUIET).values
    else:
        features = learned.tuned.features
    finished = judge(learned.logits(features[valid]), catalog.labels[valid])
    assert learned.judged is not None
    assert finished.raw_log_loss == pytest.approx(learned.judged.raw_log_loss, abs=2e-3)


def test_random_views_too_small_for_the_network_are_enlarged(
    folders: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backbone that the text names beside its own learns, whatever size the text's views have."""
    small = {name: 16 for name in small_settings(FLOWERS) if name.endswith("size_px")}
    settings = small_settings(FLOWERS, 1) | small | {"backbone": "squeezenet1_1"}
    target = tmp_path / "made.tellapart"
    tellapart.train(folders["flowers-102"], target, recipe="flowers-102", settings=settings)
    assert "needs an input of 25 px or more: it gets that instead" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [AUDIT, FLOWERS, SCENES, GALLERY, FACADE],
    ids=lambda text: text.recipe,
)
def test_each_recipe_makes_a_classifier(
    text: Text,
    folders: Mapping[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the folder to a prediction, in the text's own network, for one epoch a phase."""
    settings = small_settings(text, 1)
    if text is SCENES:
        # The range test takes a hundred steps.
        settings = small_settings(replace(text, scale=1 / 9), 1)
        settings |= {"phases.1.lr": "auto", "phases.1.batch": 4}
    target = tmp_path / "made.tellapart"
    result = tellapart.train(
        folders[text.recipe], target, recipe=text.recipe, settings=settings, device="cpu"
    )
    assert (result.recipe, result.classes) == (text.recipe, CLASSES)
    assert [one.phase for one in result.phases] == list(range(1, len(text.stages) + 1))
    told = capsys.readouterr().err
    assert ("The range test suggests a rate of" in told) == (text is SCENES)
    classifier = tellapart.Classifier.load(target)
    picture = next((folders[text.recipe]).rglob("*.jpg"))
    (answer,) = classifier.predict([picture])
    assert answer.error is None
    assert answer.label in CLASSES
    assert sum(share for _, share in answer.top) == pytest.approx(1, abs=1e-5)
