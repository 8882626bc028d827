"""Minutes to the same accuracy on valid: tellapart, and the plain loop that computes all again.

One process, the same backbone, weights, pictures, optimiser, rates, batch and epochs; a head
phase, then a tail phase. The plain loop is fp32 torch: it decodes every picture and runs the
frozen part in every epoch. Each way's clock starts with the picture files and nothing kept. Both
are timed to the accuracy that both reach: the lower one of their two best.
Writes the curves to results/time_to_accuracy.png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _machine import describe
from _measuring import RESULTS, Figure, data_folder, options, report

if TYPE_CHECKING:
    from tellapart.training.history import EpochRecord
    from tellapart.training.phases import Material
    from tellapart.training.recipe import Phase

EPOCHS = {"head": 10, "tail": 8}
TARGETS = {"head": 30.0, "tail": 8.0}


@dataclass
class Curve:
    """Accuracy on valid over seconds since the start."""

    seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def time_to(self, accuracy: float) -> float:
        """Seconds at which an accuracy was first reached."""
        pairs = zip(self.seconds, self.accuracy, strict=True)
        return next(second for second, value in pairs if value >= accuracy)


def phases() -> dict[str, Phase]:
    from tellapart.training.recipe import Phase

    head = {"optimizer": "adam", "lr": 1e-2, "best": "last", "keep": "always"}
    tail = {"optimizer": "adamw", "lr": 4e-4, "head_lr_factor": 2.5, "schedule": "one-cycle"}
    return {
        "head": Phase(learns="head", views=4, epochs=EPOCHS["head"], **head),
        "tail": Phase(
            learns="tail",
            cut="blocks.6",
            views=4,
            epochs=EPOCHS["tail"],
            best="last",
            keep="always",
            **tail,
        ),
    }


def material(folder: Path, per_class: int, deadline: float | None = None) -> Material:
    """Scan and prepare, with nothing computed yet."""
    import numpy as np

    from tellapart.backbones.extractor import open_extractor
    from tellapart.backbones.frozen import freeze
    from tellapart.backbones.registry import find_backbone
    from tellapart.backbones.weights import find_weights
    from tellapart.data.catalog import scan
    from tellapart.progress import Progress
    from tellapart.training.history import History
    from tellapart.training.phases import Material
    from tellapart.training.recipe import load_recipe

    quiet = Progress("quiet")
    catalog = scan(folder, quiet)
    rank = np.zeros(len(catalog), dtype=int)
    for split in ("train", "valid"):
        for label in range(len(catalog.classes)):
            rows = np.flatnonzero((catalog.splits == split) & (catalog.labels == label))
            rank[rows] = np.arange(len(rows))
    catalog = catalog.select(rank < per_class)
    recipe = load_recipe("auto")
    backbone = find_backbone(recipe.backbone)
    weights = find_weights(backbone)
    extractor = open_extractor(freeze(backbone, weights), weights, backbone.preprocessing, "cpu")
    return Material(
        catalog=catalog,
        features=np.zeros((len(catalog), 0), dtype=np.float16),
        recipe=recipe,
        extractor=extractor,
        weights=weights,
        device="cpu",
        progress=quiet,
        history=History(None, quiet),
    )


def run_ours(stuff: Material, phase: Phase) -> Curve:
    """One phase as `train` runs it, from an empty cache."""
    from tellapart.training.tuning import Tuner

    curve = Curve()
    start = time.perf_counter()

    def note(record: EpochRecord) -> None:
        curve.seconds.append(time.perf_counter() - start)
        curve.accuracy.append(record.valid_accuracy or 0.0)

    tuner = Tuner(stuff)
    stuff.history.epoch = note  # type: ignore[method-assign]
    tuner.begin(1, phase, None, None, False)
    tuner.run(1, phase, None)
    return curve


def run_plain(stuff: Material, phase: Phase) -> Curve:
    """The tutorial's loop: DataLoader, torchvision transforms, fp32, everything in each epoch."""
    import torch
    from _plain_loop import BATCH, WORKERS, tutorial_transform
    from PIL import Image
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from tellapart.backbones.network import build_network
    from tellapart.backbones.registry import find_backbone

    catalog, backbone = stuff.catalog, find_backbone(stuff.extractor.name)
    network = build_network(backbone, stuff.weights)
    torch.manual_seed(0)
    network.new_head(len(catalog.classes))
    first = network.cut_index(phase.cut) if phase.cut else len(network.children)
    frozen, learning = network.part(0, first).eval(), network.part(first).eval()
    for parameter in frozen.parameters():
        parameter.requires_grad = False
    side, mean, std = (
        backbone.preprocessing.size_px,
        backbone.preprocessing.mean,
        backbone.preprocessing.std,
    )
    drawn = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    plain = tutorial_transform(backbone)

    class Pictures(Dataset[tuple[torch.Tensor, int]]):
        def __init__(self, split: str) -> None:
            self.rows = [int(row) for row in (catalog.splits == split).nonzero()[0]]
            self.transform = drawn if split == "train" else plain

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
            row = self.rows[item]
            with Image.open(catalog.paths[row]) as image:
                return self.transform(image.convert("RGB")), int(catalog.labels[row])

    curve = Curve()
    start = time.perf_counter()
    groups = [
        {"params": list(learning.parameters()), "lr": phase.lr},
        {"params": list(network.head.parameters()), "lr": phase.lr * phase.head_lr_factor},
    ]
    groups = [group for group in groups if group["params"]]
    kind = torch.optim.Adam if phase.optimizer == "adam" else torch.optim.AdamW
    optimizer = kind(groups, weight_decay=phase.weight_decay)
    train = DataLoader(Pictures("train"), phase.batch, shuffle=True, num_workers=WORKERS)
    valid = DataLoader(Pictures("valid"), BATCH, num_workers=WORKERS)
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [g["lr"] for g in groups], phase.epochs * len(train)
        )
        if phase.schedule == "one-cycle"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    )
    whole = nn.Sequential(frozen, learning, network.head)
    for _ in range(phase.epochs):
        for pixels, labels in train:
            loss = cross_entropy(whole(pixels), labels, label_smoothing=phase.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            right = sum(int((whole(x).argmax(1) == y).sum()) for x, y in valid)
        curve.seconds.append(time.perf_counter() - start)
        curve.accuracy.append(right / len(valid.dataset))  # type: ignore[arg-type]
    return curve


def measure(given: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, Curve]]:
    import os

    found: dict[str, list[float]] = {}
    curves: dict[str, Curve] = {}
    folder = data_folder("intel_scenes")
    for name, phase in phases().items():
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TELLAPART_CACHE"] = cache
            ours = run_ours(material(folder, given.n), phase)
            live = run_ours(material(folder, given.n), phase.model_copy(update={"views": "live"}))
            plain = run_plain(material(folder, given.n), phase)
        same = min(max(ours.accuracy), max(plain.accuracy))
        both = min(same, max(live.accuracy))
        curves |= {f"{name}: tellapart": ours, f"{name}: live views": live, f"{name}: plain": plain}
        found[f"{name}: accuracy that both reach"] = [same]
        found[f"{name}: best, tellapart"] = [max(ours.accuracy)]
        found[f"{name}: best, plain loop"] = [max(plain.accuracy)]
        found[f"{name}: tellapart, s to it"] = [ours.time_to(same)]
        found[f"{name}: plain loop, s to it"] = [plain.time_to(same)]
        found[f"{name}: plain loop / tellapart"] = [plain.time_to(same) / ours.time_to(same)]
        found[f"{name}: our live path / tellapart"] = [live.time_to(both) / ours.time_to(both)]
        found[f"{name}: all epochs, plain loop / tellapart"] = [
            plain.seconds[-1] / ours.seconds[-1]
        ]
    return found, curves


def draw(curves: dict[str, Curve]) -> None:
    """Draw accuracy over minutes, one panel a phase."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(9, 3.6), layout="constrained")
    for panel, name in zip(drawing.subplots(1, 2), EPOCHS, strict=True):
        for title, curve in curves.items():
            if title.startswith(name):
                minutes = [second / 60 for second in curve.seconds]
                label = title.partition(": ")[2]
                panel.plot(minutes, curve.accuracy, marker="o", markersize=3, label=label)
        panel.set_xscale("log")
        panel.set_xlabel("minutes from files, log scale")
        panel.set_ylabel("accuracy on valid")
        panel.set_title(f"{name} phase")
        panel.legend()
    RESULTS.mkdir(exist_ok=True)
    drawing.savefig(RESULTS / "time_to_accuracy.png", dpi=110)


def main() -> None:
    given = options(__doc__, n=60, n_means="Intel pictures a class and split", quick_n=6)
    machine = describe()
    found, curves = measure(given)
    if not given.quick:
        draw(curves)
    targets = {f"{name}: plain loop / tellapart": least for name, least in TARGETS.items()}
    figures = [Figure(name, values, at_least=targets.get(name)) for name, values in found.items()]
    report("time_to_accuracy", machine, given, figures)


if __name__ == "__main__":
    main()
