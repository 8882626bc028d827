"""The loop that learns: what moves and what does not, the loss, the steps, the best weights."""

from __future__ import annotations

import copy
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

from tellapart.backbones.network import Network, build_network
from tellapart.backbones.registry import find_backbone
from tellapart.data.pixels import Preprocessing
from tellapart.errors import UnknownCut
from tellapart.training import finetune
from tellapart.training.finetune import (
    RUINED,
    Circumstances,
    Learner,
    Outcome,
    PhaseRun,
    Pictures,
    Stepper,
    build_learner,
    class_weights,
    epoch_order,
    first_that_learns,
    logits_of,
    open_fabric,
    set_mode,
)
from tellapart.training.judging import judge
from tellapart.training.recipe import Phase
from tellapart.training.schedule import rate_factor

pytestmark = pytest.mark.usefixtures("one_thread")

Around = Callable[..., Circumstances]
MakeLearner = Callable[..., Learner]
MakePictures = Callable[..., Pictures]
Snapshot = Callable[[nn.Module], dict[str, Tensor]]
Differing = Callable[..., list[str]]

SMALL = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
PIXELS = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 2, 1])


def phase(**more: Any) -> Phase:
    """A short phase in which all of a toy learns by plain gradient descent."""
    usual = {"learns": "tail", "cut": "auto", "optimizer": "sgd", "lr": 0.1, "batch": 16}
    return Phase(**(usual | {"epochs": 3, "best": "last", "bn": "train"} | more))


def close(
    one: dict[str, Tensor], two: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """All tensors of two states are the same to within rounding."""
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=rtol, atol=atol, msg=name)


# ---- what learns


@pytest.fixture(scope="module")
def resnet() -> Network:
    """A network with batch-norm, random weights, and a head for three classes."""
    torch.manual_seed(0)
    network = build_network(find_backbone("resnet18"), None)
    for part in network.model.modules():
        if isinstance(part, nn.BatchNorm2d):
            # timm starts the last one of each block at zero, so that nothing before it moves.
            nn.init.ones_(part.weight)
    network.new_head(3)
    return network


def live(**more: Any) -> Phase:
    """A phase on pictures drawn live, by plain gradient descent."""
    usual = {"learns": "all", "optimizer": "sgd", "lr": 0.01, "views": "live"}
    return Phase(**(usual | more))


LEARNS = {
    "head": ({"learns": "head"}, ("fc.",)),
    "tail": ({"learns": "tail", "cut": "layer4"}, ("layer4.", "fc.")),
    "all": ({"learns": "all"}, ("",)),
}


@pytest.mark.parametrize("learns", LEARNS)
@pytest.mark.parametrize(("bn", "frozen_bn"), list(itertools.product(("eval", "train"), repeat=2)))
def test_one_step_moves_what_the_phase_says_and_nothing_else(
    resnet: Network, fabric: Fabric, snapshot: Snapshot, learns: str, bn: str, frozen_bn: str
) -> None:
    """Weights of the part that learns; statistics of batch-norm where the phase lets them."""
    network = copy.deepcopy(resnet)
    more, learning = LEARNS[learns]
    made = live(bn=bn, frozen_bn=frozen_bn, **more)
    learner = build_learner(network, made, SMALL)
    before = snapshot(network.model)
    stepper = Stepper(learner, made, None, fabric)
    set_mode(learner, made)
    stepper.learn(PIXELS, LABELS, np.random.default_rng(0))
    stepper.step()
    after = network.model.state_dict()

    weights = {name for name, _ in network.model.named_parameters()}
    for name in before:
        in_tail = name.startswith(learning)
        moving = (bn if in_tail else frozen_bn) == "train"
        expected = in_tail if name in weights else moving
        assert torch.equal(before[name], after[name]) is not expected, name


def test_what_does_not_learn_has_no_gradient(resnet: Network, fabric: Fabric) -> None:
    """It is not computed either: the frozen part of a live phase costs no backward pass."""
    network = copy.deepcopy(resnet)
    made = live(learns="tail", cut="layer4")
    learner = build_learner(network, made, SMALL)
    Stepper(learner, made, None, fabric).learn(PIXELS, LABELS, np.random.default_rng(0))
    parameters = dict(network.model.named_parameters())
    has_gradient = {name for name, value in parameters.items() if value.grad is not None}
    assert has_gradient == {name for name in parameters if name.startswith(("layer4.", "fc."))}


def test_what_learned_in_a_phase_may_be_frozen_in_the_next(resnet: Network) -> None:
    """As in the second reference system: layer4 and head, then the head alone."""
    network = copy.deepcopy(resnet)
    build_learner(network, live(), SMALL)
    build_learner(network, live(learns="tail", cut="layer4"), SMALL)
    build_learner(network, live(learns="head"), SMALL)
    learning = [name for name, p in network.model.named_parameters() if p.requires_grad]
    assert learning == ["fc.weight", "fc.bias"]


def test_a_kept_phase_runs_the_suffix_alone(resnet: Network) -> None:
    """From activations at the cut to the logits that the whole network gives for the pictures."""
    network = copy.deepcopy(resnet)
    made = Phase(learns="tail", cut="layer4", views=2)
    kept = build_learner(network, made, SMALL)
    whole = build_learner(network, live(learns="tail", cut="layer4"), SMALL)
    with torch.no_grad():
        x = whole.prepare(PIXELS)
        activations = network.part(0, network.cut_index("layer4"))(x)
        assert torch.equal(kept.module(kept.prepare(activations)), whole.module(x))
    assert len(kept.module) < len(whole.module)
    assert kept.frozen == ()
    assert isinstance(kept.prepare, nn.Identity)
    assert [len(kept.body), len(kept.head)] == [len(whole.body), len(whole.head)]


def test_a_head_on_kept_features_is_a_linear_layer(resnet: Network) -> None:
    """Nothing but the head runs, and nothing but it learns."""
    learner = build_learner(copy.deepcopy(resnet), Phase(learns="head", views=1), SMALL)
    assert [type(part) for part in learner.module] == [nn.Linear]
    assert learner.body == ()


@pytest.mark.parametrize(
    ("more", "first"),
    [({"learns": "all"}, "conv1"), ({"learns": "tail", "cut": "layer4.1"}, "layer4.1")],
)
def test_the_first_part_that_learns(resnet: Network, more: dict[str, Any], first: str) -> None:
    """The whole network from its first child on, or from the cut."""
    assert resnet.children[first_that_learns(resnet, Phase(**more))][0] == first


def test_a_cut_that_is_not_there_is_refused(resnet: Network) -> None:
    """With the network's own error; for the head alone there is no cut to be wrong."""
    with pytest.raises(UnknownCut, match="layer5"):
        first_that_learns(resnet, Phase(learns="tail", cut="layer5"))
    assert first_that_learns(resnet, Phase(learns="head")) == len(resnet.children)


def test_statistics_are_those_of_the_batches_that_teach(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Of each batch once: nothing is tried out on a batch-norm that takes them."""
    learner = toy_learner()
    PhaseRun(learner, phase(epochs=2, batch=16), toy_pictures(n_train=48), around()).run()
    assert int(learner.module.state_dict()["1.num_batches_tracked"]) == 6


def test_dropout_works_while_learning_and_not_while_judging(
    toy_learner: MakeLearner, toy_pictures: MakePictures, fabric: Fabric
) -> None:
    """Also where batch-norm is told to keep its statistics."""
    learner, pictures = toy_learner(dropout=0.5), toy_pictures()
    made = phase(bn="eval")
    stepper = Stepper(learner, made, None, fabric)
    set_mode(learner, made)
    modes = {type(part).__name__: part.training for part in learner.module}
    assert modes["Dropout"]
    assert not modes["BatchNorm2d"]
    one, two = (logits_of(learner.module, stepper, pictures) for _ in range(2))
    assert np.array_equal(one, two)


def test_pixels_are_normalised_as_in_the_frozen_graph(resnet: Network, fabric: Fabric) -> None:
    """By the mean and deviation of the preprocessing, in 32 bits, colours first."""
    other = Preprocessing(32, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    made = live()
    stepper = Stepper(build_learner(copy.deepcopy(resnet), made, other), made, None, fabric)
    expected = (PIXELS.permute(0, 3, 1, 2) / 255 - torch.tensor(other.mean)[:, None, None]) / (
        torch.tensor(other.std)[:, None, None]
    )
    torch.testing.assert_close(stepper.prepared(PIXELS), expected, rtol=1e-5, atol=1e-5)


# ---- the steps


def records(around: Circumstances) -> list[tuple[float, float]]:
    """The rates of body and head in the last step of each epoch."""
    return [(record.lr, record.head_lr) for record in around.history.epochs]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step"])
def test_body_and_head_learn_at_their_rates(
    schedule: str, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """One step an epoch: both follow the schedule, the head at its multiple of the body's."""
    made = phase(
        epochs=6,
        batch=64,
        lr=0.03,
        head_lr_factor=10,
        warm_up_epochs=2,
        schedule=schedule,
        **({"step_epochs": 4} if schedule == "step" else {}),
    )
    about = around()
    PhaseRun(toy_learner(), made, toy_pictures(), about).run()
    expected = [0.03 * rate_factor(made, step, 1, 6) for step in range(6)]
    assert [body for body, _ in records(about)] == pytest.approx(expected)
    assert [head for _, head in records(about)] == pytest.approx([10 * rate for rate in expected])


def test_the_rates_are_those_that_the_weights_move_by(
    toy_learner: MakeLearner, fabric: Fabric
) -> None:
    """Plain gradient descent: each group moves by its rate times its gradient."""
    learner = toy_learner(norm=False)
    made = phase(lr=0.01, head_lr_factor=7)
    stepper = Stepper(learner, made, None, fabric)
    stepper.set_rate(0.5)
    x, labels = torch.randn(8, 4, 6, 6), torch.arange(8) % 3
    before = [p.detach().clone() for p in (*learner.body, *learner.head)]
    stepper.learn(x, labels, np.random.default_rng(0))
    gradients = [p.grad.clone() for p in (*learner.body, *learner.head)]
    stepper.step()
    rates = [0.005] * len(learner.body) + [0.035] * len(learner.head)
    parts = zip((*learner.body, *learner.head), before, gradients, rates, strict=True)
    for now, then, gradient, rate in parts:
        torch.testing.assert_close(now.detach(), then - rate * gradient)
        assert now.grad is None


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_optimiser_is_torchs_with_the_settings_of_the_phase(
    optimizer: str, toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Three epochs in order give the weights of a loop written down plainly."""
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    made = phase(optimizer=optimizer, lr=1e-2, weight_decay=0.1, draw="in-order", batch=16, **more)
    pictures = replace(toy_pictures(n_train=48), valid=np.arange(0))
    # Without batch-norm: a bias before it has no gradient but noise, which Adam makes large.
    learner, plain = toy_learner(norm=False), toy_learner(norm=False).module
    PhaseRun(learner, made, pictures, around()).run()

    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    reference = kinds[optimizer](plain.parameters(), lr=1e-2, weight_decay=0.1, **more)
    labels = torch.from_numpy(pictures.labels)
    for epoch in (1, 2, 3):
        (everything,) = pictures.source.views([pictures.train], epoch)
        for rows in pictures.train.reshape(3, 16):
            reference.zero_grad()
            functional.cross_entropy(plain(everything[rows].float()), labels[rows]).backward()
            reference.step()
    close(learner.module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("n_train", [48, 42, 33])
def test_two_small_batches_are_one_large(
    n_train: int,
    class_weights: str,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
) -> None:
    """Gradients that are added up over two batches of 8 make the step of a batch of 16.

    Also where the last group is short, and where the pictures of a rare class weigh more.
    """
    pictures = replace(toy_pictures(n_train=n_train), valid=np.arange(0))
    pictures.labels[: n_train // 2] = 0
    found = []
    for batch, accumulate in ((8, 2), (16, 1)):
        learner = toy_learner(norm=False)
        made = phase(
            batch=batch,
            accumulate=accumulate,
            momentum=0.9,
            label_smoothing=0.1,
            class_weights=class_weights,
        )
        PhaseRun(learner, made, pictures, around()).run()
        found.append(learner.module.state_dict())
    close(*found)


def test_the_running_means_are_told_three_times_an_epoch(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Over the pictures seen so far; the last is that of the epoch, which counts every picture."""
    about = around()
    pictures = toy_pictures(n_train=50)
    PhaseRun(toy_learner(), phase(batch=8, epochs=2), pictures, about).run()
    steps = [record for record in about.history.steps if record.epoch == 2]
    assert [(record.step, record.n_steps) for record in steps] == [(2, 7), (4, 7), (6, 7), (7, 7)]
    last = about.history.epochs[1]
    assert (last.train_loss, last.train_accuracy) == (steps[-1].loss, steps[-1].accuracy)
    assert (last.train_accuracy * 50) % 1 == pytest.approx(0, abs=1e-9)


# ---- parts of a batch, side by side


def one_batch(
    made: Phase, learner: Learner, fabric: Fabric, n: int, weights: Tensor | None = None
) -> tuple[float, int, dict[str, Tensor]]:
    """Loss, right answers and gradients of one batch."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 4, 6, 6, generator=generator)
    stepper = Stepper(learner, made, weights, fabric)
    set_mode(learner, made)
    loss, right = stepper.learn(x, torch.arange(n) ** 2 % 3, np.random.default_rng(0))
    gradients = {
        name: value.grad
        for name, value in learner.module.named_parameters()
        if value.grad is not None
    }
    return float(loss), int(right), gradients


@pytest.mark.parametrize(
    ("more", "weighted"),
    [
        ({}, False),
        ({"label_smoothing": 0.1}, True),
        ({"mixup": 0.4, "cutmix": 1.0}, False),
        ({"mixup": 0.4, "label_smoothing": 0.1}, True),
    ],
)
@pytest.mark.parametrize(("cores", "n"), [(2, 32), (2, 37), (3, 64), (8, 64)])
def test_parts_of_a_batch_add_up_to_it(
    more: dict[str, float],
    weighted: bool,
    cores: int,
    n: int,
    toy_learner: MakeLearner,
    fabric: Fabric,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Learned from side by side, on any number of cores: loss and gradients of the whole batch.

    Each gradient lies in memory as its weight does, which the fused optimisers take for granted.
    """
    weights = torch.tensor([1.0, 2.0, 4.0]) if weighted else None
    found = []
    for number in (1, cores):
        monkeypatch.setattr(finetune, "available_cores", lambda number=number: number)
        learner = toy_learner(norm=False)
        found.append(one_batch(phase(**more), learner, fabric, n, weights))
        for name, value in learner.module.named_parameters():
            assert value.grad is not None, name
            assert value.grad.stride() == value.stride(), name
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1] == found[1][1]
    close(found[0][2], found[1][2])


def test_a_thread_of_its_own_uses_no_others() -> None:
    """Whatever the threads beside it set between its start and its first operation."""
    sides = finetune._SideBySide(1, 64)
    sides.run(str, [0])
    torch.set_num_threads(2)
    try:
        used = sides.run(lambda n: (torch.ones(n) + 1, torch.get_num_threads())[1], [400_000])
    finally:
        torch.set_num_threads(1)
    assert used == [1]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_phase_in_parts_is_the_phase(
    optimizer: str,
    resnet: Network,
    toy_pictures: MakePictures,
    around: Around,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tail of resnet18, whose batch-norm keeps its statistics, learned on one core and on two.

    Its 1 x 1 and 3 x 3 convolutions lie in memory with their channels last.
    """
    pictures = toy_pictures(n_train=64, n_valid=8, shape=(256, 2, 2), views=0)
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    made = Phase(
        learns="tail",
        cut="layer4",
        optimizer=optimizer,
        epochs=1,
        batch=32,
        lr=1e-4,
        best="last",
        **more,
    )
    found = []
    for cores in (1, 2, 2):
        monkeypatch.setattr(finetune, "available_cores", lambda cores=cores: cores)
        network = copy.deepcopy(resnet)
        PhaseRun(build_learner(network, made, SMALL), made, pictures, around()).run()
        found.append(network.state_dict())
    moved = {n: float((v - found[0][n]).abs().max()) for n, v in resnet.state_dict().items()}
    assert moved["layer4.0.conv1.weight"] > 1e-6
    # Adam makes as large a step where a gradient is nothing but rounding: some may differ by that.
    for name, value in found[0].items():
        away = (value - found[1][name]).abs().float()
        assert away.mean() <= 0.02 * moved[name] + 1e-9, name
    assert all(torch.equal(value, found[2][name]) for name, value in found[1].items())


@pytest.mark.parametrize("what", ["batch-norm", "dropout"])
def test_a_batch_whose_pictures_depend_on_each_other_stays_whole(
    what: str, toy_learner: MakeLearner, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of the batch and the order of chance are the same on any number of cores."""
    found = []
    for cores in (1, 4):
        monkeypatch.setattr(finetune, "available_cores", lambda cores=cores: cores)
        learner = toy_learner(norm=what == "batch-norm", dropout=0.5 * (what == "dropout"))
        torch.manual_seed(0)
        _, _, gradients = one_batch(phase(), learner, fabric, 64)
        found.append(gradients | dict(learner.module.named_buffers()))
    close(*found)


def test_judging_holds_few_batches_at_once(
    toy_learner: MakeLearner, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pictures there are to judge by: two cores need a few batches, not all."""
    monkeypatch.setattr(finetune, "available_cores", lambda: 2)
    learner = toy_learner()
    stepper = Stepper(learner, phase(), None, fabric)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def batches() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(40):
            batch = torch.randn(8, 4, 6, 6)
            alive.append(weakref.ref(batch))
            most = max(most, sum(one() is not None for one in alive))
            yield batch

    assert stepper.logits(learner.module, batches()).shape == (320, 3)
    assert most <= 8


# ---- the loss


def learned_loss(
    made: Phase, learner: Learner, fabric: Fabric, weights: Tensor | None = None
) -> tuple[float, Tensor, Tensor]:
    """The loss that one batch gives, the logits it comes from, and its labels."""
    x, labels = torch.randn(12, 4, 6, 6), torch.arange(12) % 3
    stepper = Stepper(learner, made, weights, fabric)
    loss, right = stepper.learn(x, labels, np.random.default_rng(0))
    logits = learner.module(x).detach()
    assert int(right) == int((logits.argmax(1) == labels).sum())
    return float(loss), logits, labels


def test_label_smoothing_shares_the_target(toy_learner: MakeLearner, fabric: Fabric) -> None:
    """0.9 of it and a third of 0.1 for the right one of three classes, a third for each other."""
    loss, logits, labels = learned_loss(phase(label_smoothing=0.1), toy_learner(norm=False), fabric)
    target = 0.9 * functional.one_hot(labels, 3) + 0.1 / 3
    assert loss == pytest.approx(float(-(target * logits.log_softmax(1)).sum(1).mean()), rel=1e-5)


def test_class_weights_weigh_the_loss(toy_learner: MakeLearner, fabric: Fabric) -> None:
    """The mean is over the weights, as torch's cross-entropy has it."""
    weights = torch.tensor([1.0, 2.0, 4.0])
    loss, logits, labels = learned_loss(phase(), toy_learner(norm=False), fabric, weights)
    each = -logits.log_softmax(1)[torch.arange(12), labels] * weights[labels]
    assert loss == pytest.approx(float(each.sum() / weights[labels].sum()), rel=1e-5)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=200))
@settings(deadline=None)
def test_balanced_class_weights_are_scikit_learns(drawn: list[int]) -> None:
    """n / (K * n of the class), for any counts of classes that are there."""
    labels = np.unique(drawn, return_inverse=True)[1].astype(np.int64)
    n_classes = int(labels.max()) + 1
    found = class_weights(phase(class_weights="balanced"), labels, n_classes)
    assert found is not None
    expected = compute_class_weight("balanced", classes=np.arange(n_classes), y=labels)
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(("counts", "weighted"), [((50, 5), False), ((51, 5), True)])
def test_auto_weighs_where_classes_are_very_uneven(counts: tuple[int, int], weighted: bool) -> None:
    """Over ten times the smallest, by the formula of "balanced"; else not at all."""
    labels = np.repeat([0, 1], counts)
    assert class_weights(phase(), labels, 2) is None
    found = class_weights(phase(class_weights="auto"), labels, 2)
    assert (found is not None) is weighted
    if found is not None:
        balanced = class_weights(phase(class_weights="balanced"), labels, 2)
        assert balanced is not None
        assert torch.equal(found, balanced)


# ---- the order


def ordered(made: Phase, pictures: Pictures, epoch: int) -> np.ndarray:
    """The rows of an epoch."""
    return epoch_order(made, pictures, (0, 1, epoch))


def test_shuffled_is_every_picture_once(toy_pictures: MakePictures) -> None:
    """In an order that follows from seed, phase and epoch."""
    pictures = toy_pictures()
    one, two = (ordered(phase(), pictures, epoch) for epoch in (1, 2))
    assert sorted(one) == sorted(two) == pictures.train.tolist()
    assert one.tolist() != two.tolist()
    assert one.tolist() == ordered(phase(), pictures, 1).tolist()
    for other in ((1, 1, 1), (0, 2, 1)):
        assert one.tolist() != epoch_order(phase(), pictures, other).tolist()


def test_in_order_is_the_order_of_the_catalog(toy_pictures: MakePictures) -> None:
    """In every epoch."""
    pictures = toy_pictures()
    for epoch in (1, 2):
        rows = ordered(phase(draw="in-order"), pictures, epoch)
        assert rows.tolist() == pictures.train.tolist()


def test_balanced_draws_each_class_as_often(toy_pictures: MakePictures) -> None:
    """90 of one, 9 of another, 1 of the third: a third each, and as many draws as pictures."""
    pictures = replace(toy_pictures(n_train=100), labels=np.repeat([0, 1, 2, 0], [90, 9, 1, 24]))
    drawn = np.concatenate(
        [ordered(phase(draw="balanced"), pictures, epoch) for epoch in range(60)]
    )
    assert len(drawn) == 60 * 100
    counts = np.bincount(pictures.labels[drawn])
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(2000)
    assert set(drawn.tolist()) == set(range(100))


# ---- mixing


class Seen(nn.Module):
    """Lets an input through and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """Remember."""
        self.last = x.detach().clone()
        return x


def mixed(
    fabric: Fabric, shape: Sequence[int], seed: int, **mixing: float
) -> tuple[Tensor, float, Tensor]:
    """Learn one batch whose picture i has the value i everywhere.

    Returns what went in, the loss, and the logits. The labels are 0, 1, 2, ...
    """
    n = shape[0]
    x = torch.arange(n, dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1)).expand(*shape)
    torch.manual_seed(0)
    seen, linear = Seen(), nn.Linear(math.prod(shape[1:]), n)
    module = nn.Sequential(seen, nn.Flatten(), linear)
    learner = Learner(nn.Identity(), module, (), (), tuple(linear.parameters()))
    stepper = Stepper(learner, phase(**mixing), None, fabric)
    loss, _ = stepper.learn(x, torch.arange(n), np.random.default_rng(seed))
    inputs = seen.last
    return inputs, float(loss), module(inputs).detach()


def target_loss(logits: Tensor, partners: Tensor, shares: Tensor) -> float:
    """Cross-entropy with the target shared between each picture's label and its partner's."""
    n = len(logits)
    target = shares * torch.eye(n) + (1 - shares) * torch.eye(n)[partners]
    return float(-(target * logits.log_softmax(1)).sum(1).mean())


@given(
    st.integers(2, 9),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0.1, 5),
    st.integers(0, 10**6),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cutmix_shares_the_target_by_the_area_that_was_pasted(
    fabric: Fabric, n: int, height: int, width: int, alpha: float, seed: int
) -> None:
    """In every picture the same box, whole, from one other picture; the target is in proportion."""
    found, loss, logits = mixed(fabric, (n, 2, height, width), seed, cutmix=alpha)
    own = found == torch.arange(n)[:, None, None, None]
    assert torch.equal(own[:, 0], own[:, 1])
    changed = ~own[:, 0].all(dim=0)
    rows, columns = changed.any(dim=1), changed.any(dim=0)
    assert torch.equal(changed, rows[:, None] & columns[None])
    for side in (rows, columns):
        places = side.nonzero()[:, 0]
        assert len(places) == 0 or len(places) == places[-1] - places[0] + 1
    # A picture whose partner is itself shows no box; the others tell the area.
    pasted = float(changed.float().mean())
    partners = torch.arange(n)
    if pasted:
        corner = changed.nonzero()[0]
        partners = found[:, 0, corner[0], corner[1]].long()
        assert sorted(partners.tolist()) == list(range(n))
        box = found[:, :, changed]
        assert torch.equal(box, partners[:, None, None].float().expand_as(box))
    shares = torch.full((n, 1), 1 - pasted)
    assert loss == pytest.approx(target_loss(logits, partners, shares), rel=1e-4, abs=1e-4)


@given(st.integers(2, 9), st.floats(0.1, 5), st.integers(0, 10**6), st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mixup_blends_pictures_as_it_blends_targets(
    fabric: Fabric, n: int, alpha: float, seed: int, flat: bool
) -> None:
    """One share for the whole batch; maps and features alike."""
    shape = (n, 5) if flat else (n, 2, 3, 3)
    found, loss, logits = mixed(fabric, shape, seed, mixup=alpha)
    values = found.reshape(n, -1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    generator = np.random.default_rng(seed)
    share = generator.beta(alpha, alpha)
    partners = torch.from_numpy(generator.permutation(n))
    own = torch.arange(n)
    torch.testing.assert_close(values[:, 0], share * own + (1 - share) * partners.float())
    shares = torch.full((n, 1), share)
    assert loss == pytest.approx(target_loss(logits, partners, shares), rel=1e-4, abs=1e-4)


def test_with_both_each_batch_tosses_a_coin(fabric: Fabric) -> None:
    """About half the batches hold blends, the others boxes."""
    blends = 0
    for seed in range(60):
        found, _, _ = mixed(fabric, (6, 1, 8, 8), seed, mixup=1.0, cutmix=1.0)
        blends += bool((found != found.round()).any())
    assert 15 <= blends <= 45


def test_features_have_no_area_to_paste(fabric: Fabric) -> None:
    """Where the head alone learns on kept features, cutmix blends as mixup does."""
    found, _, _ = mixed(fabric, (6, 5), 1, cutmix=1.0)
    assert (found != found.round()).any()


def test_mixing_follows_from_the_seed(
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    differing: Differing,
) -> None:
    """The inputs that are kept are not changed by it."""
    pictures = toy_pictures(shape=(4, 6, 6))
    (before,) = pictures.source.plain([pictures.train])
    found = []
    for _ in range(2):
        learner = toy_learner()
        PhaseRun(learner, phase(mixup=0.4, cutmix=1.0), pictures, around()).run()
        found.append(learner.module.state_dict())
    assert differing(*found) == []
    (after,) = pictures.source.plain([pictures.train])
    assert torch.equal(before, after)


# ---- the average


def test_the_average_is_that_of_the_weights_after_each_step(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Computed again from the weights after 1, 2, ... 12 steps; statistics are averaged, too.

    The decay of step t, counted from 0, is at most (t + 1) / (t + 10).
    """
    pictures = toy_pictures()
    plain = phase(batch=16, epochs=4)
    averaged = toy_learner()
    PhaseRun(averaged, plain.model_copy(update={"ema": 0.5}), pictures, around()).run()

    expected = {name: value.clone() for name, value in toy_learner().module.state_dict().items()}
    for t, weights in enumerate(after_each_step(toy_learner(), plain, pictures)):
        decay = min(0.5, (t + 1) / (t + 10))
        for name, value in weights.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
    close(averaged.module.state_dict(), expected)


def after_each_step(learner: Learner, made: Phase, pictures: Pictures) -> list[dict[str, Tensor]]:
    """The weights after each step, by a plain loop over the same batches."""
    optimizer = torch.optim.SGD(learner.module.parameters(), lr=float(made.lr))
    found = []
    for epoch in range(1, made.epochs + 1):
        rows = epoch_order(made, pictures, (0, 1, epoch)).reshape(-1, made.batch)
        for batch, inputs in zip(rows, pictures.source.views(rows, epoch), strict=True):
            optimizer.zero_grad()
            logits = learner.module(inputs.float())
            functional.cross_entropy(logits, torch.from_numpy(pictures.labels[batch])).backward()
            optimizer.step()
            found.append({n: v.clone() for n, v in learner.module.state_dict().items()})
    return found


def test_the_average_is_what_is_judged_and_kept(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around, fabric: Fabric
) -> None:
    """Its figures stand in the history; the weights that took the steps are gone."""
    pictures, learner, about = toy_pictures(), toy_learner(), around()
    made = phase(ema=0.9, best="log_loss")
    outcome = PhaseRun(learner, made, pictures, about).run()
    assert judged_again(learner, made, pictures, fabric) == outcome.judged
    other = toy_learner()
    PhaseRun(other, phase(), pictures, around()).run()
    assert judged_again(other, made, pictures, fabric) != outcome.judged


# ---- judging, the best, and when to stop


def judged_again(learner: Learner, made: Phase, pictures: Pictures, fabric: Fabric) -> Any:
    """Judge the weights that a learner holds now."""
    logits = logits_of(learner.module, Stepper(learner, made, None, fabric), pictures)
    return judge(logits, pictures.labels[pictures.valid])


def test_the_logits_are_those_of_the_plain_views(
    toy_learner: MakeLearner, toy_pictures: MakePictures, fabric: Fabric
) -> None:
    """In the order of valid, for more pictures than are judged at once."""
    pictures, learner = toy_pictures(n_train=8, n_valid=300), toy_learner()
    (inputs,) = pictures.source.plain([pictures.valid])
    stepper = Stepper(learner, phase(), None, fabric)
    found = logits_of(learner.module, stepper, pictures)
    with torch.no_grad():
        expected = learner.module.eval()(inputs.float()).numpy()
    assert found.shape == (300, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def worsening(toy_pictures: MakePictures) -> Pictures:
    """Pictures whose valid labels are shifted: what is learned makes valid worse."""
    pictures = toy_pictures()
    labels = pictures.labels.copy()
    labels[pictures.valid] = (labels[pictures.valid] + 1) % 3
    return replace(pictures, labels=labels)


def test_a_phase_learns(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Classes that can be told apart are, on pictures that did not teach."""
    about = around()
    outcome = PhaseRun(
        toy_learner(), phase(epochs=10, best="log_loss"), toy_pictures(), about
    ).run()
    assert outcome.judged is not None
    assert outcome.judged.accuracy > 0.9
    assert (outcome.epochs, outcome.trouble) == (10, None)
    losses = [record.train_loss for record in about.history.epochs]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("best", ["log_loss", "accuracy"])
def test_the_best_weights_are_put_back(
    best: str,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Around,
    fabric: Fabric,
) -> None:
    """Where valid gets worse, the weights are those of the epoch that was best, and so judged."""
    pictures, learner, about = worsening(toy_pictures), toy_learner(), around()
    made = phase(epochs=6, lr=0.03, best=best)
    outcome = PhaseRun(learner, made, pictures, about).run()
    assert outcome.best_epoch is not None
    assert outcome.best_epoch < 6
    assert judged_again(learner, made, pictures, fabric) == outcome.judged
    marked = [record.epoch for record in about.history.epochs if record.best]
    assert marked[-1] == outcome.best_epoch
    if best == "accuracy":
        figures = [record.valid_accuracy for record in about.history.epochs]
        assert outcome.best_epoch == 1 + figures.index(max(figures))
    # As after so many epochs and no more.
    short = toy_learner()
    PhaseRun(short, phase(epochs=outcome.best_epoch, lr=0.03), pictures, around()).run()
    close(short.module.state_dict(), learner.module.state_dict(), rtol=0, atol=0)


def test_the_last_is_kept_where_the_recipe_says_so(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """However much worse valid has become."""
    about = around()
    outcome = PhaseRun(toy_learner(), phase(epochs=4), worsening(toy_pictures), about).run()
    assert outcome.best_epoch == 4
    losses = [record.valid_loss for record in about.history.epochs]
    assert losses[-1] > losses[0]


def test_patience_ends_a_phase_that_gets_worse(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """After so many epochs without a better one; without patience all are run."""
    made = phase(epochs=30, lr=0.03, best="log_loss", patience=3)
    pictures = worsening(toy_pictures)
    outcome = PhaseRun(toy_learner(), made, pictures, around()).run()
    assert outcome.best_epoch is not None
    assert outcome.epochs == outcome.best_epoch + 3 < 30
    assert outcome.trouble is None
    stubborn = made.model_copy(update={"patience": None, "epochs": 12})
    assert PhaseRun(toy_learner(), stubborn, pictures, around()).run().epochs == 12


def test_without_valid_the_last_epoch_stands(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Nothing is judged, nothing is made up, and patience has nothing to wait for."""
    about = around()
    pictures = replace(toy_pictures(), valid=np.arange(0))
    made = phase(epochs=3, best="log_loss", patience=1)
    outcome = PhaseRun(toy_learner(), made, pictures, about).run()
    assert outcome == Outcome(None, 3, 3, None)
    assert {record.valid_loss for record in about.history.epochs} == {None}


def diverging(**more: Any) -> Phase:
    """A phase whose rate rises over ten epochs to where no network can follow."""
    return phase(lr=10, warm_up_epochs=10, epochs=10, best="log_loss", momentum=0.9, **more)


def test_a_phase_that_diverges_ends_with_words_and_its_best_weights(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around, fabric: Fabric
) -> None:
    """The epoch in which the loss was lost counts for nothing."""
    learner, pictures, about = toy_learner(norm=False), toy_pictures(apart=3), around()
    outcome = PhaseRun(learner, diverging(), pictures, about).run()
    assert outcome.trouble is not None
    assert outcome.trouble.startswith("the loss became ")
    assert outcome.trouble.endswith(
        f" in epoch {outcome.epochs + 1}: most likely the rate 1.0e+01 is too high"
    )
    assert 1 <= outcome.epochs < 10
    assert len(about.history.epochs) == outcome.epochs
    assert judged_again(learner, diverging(), pictures, fabric) == outcome.judged
    assert all(value.isfinite().all() for value in learner.module.state_dict().values())


def test_a_phase_that_diverges_at_once_has_nothing_to_show(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """No epoch, no judgement, and the trouble in words."""
    pictures = toy_pictures(apart=40)
    made = phase(lr=10, momentum=0.9, best="log_loss")
    outcome = PhaseRun(toy_learner(norm=False), made, pictures, around()).run()
    assert (outcome.judged, outcome.best_epoch, outcome.epochs) == (None, None, 0)
    assert outcome.trouble is not None
    assert "in epoch 1" in outcome.trouble


def test_a_loss_far_above_guessing_is_ruin_before_it_is_no_number(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Ten times the loss of guessing and of the first step: finite, and no epoch of it."""
    learner = toy_learner(norm=False)
    ruinous = phase(optimizer="sgd", lr=10.0)
    outcome = PhaseRun(learner, ruinous, toy_pictures(apart=9), around()).run()
    assert outcome.trouble is not None
    became = float(outcome.trouble.split()[3])
    assert RUINED * math.log(3) < became < math.inf


def test_numbers_that_are_none_on_valid_are_never_the_best(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """A network that computes no number for a picture to judge by is in trouble, not good."""
    pictures = toy_pictures()
    learner = toy_learner()
    # The statistics are not used while learning, only while judging.
    learner.module[1].running_var.fill_(math.nan)
    outcome = PhaseRun(learner, phase(best="log_loss"), pictures, around()).run()
    assert outcome.trouble is not None
    assert "valid" in outcome.trouble
    assert outcome.judged is None


# ---- time


def test_a_phase_ends_by_its_deadline_and_its_schedule_with_it(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Epochs are left out; the rate still falls to nearly nothing."""
    about = around(deadline=time.monotonic() + 1.0)
    made = phase(epochs=10_000, schedule="cosine", batch=64)
    start = time.monotonic()
    outcome = PhaseRun(toy_learner(), made, toy_pictures(), about).run()
    assert time.monotonic() - start < 3
    assert 1 < outcome.epochs < 10_000
    assert outcome.trouble is None
    last = about.history.epochs[-1]
    assert last.lr < 0.2 * made.lr
    assert last.n_epochs < 10_000


def test_a_deadline_that_has_passed_leaves_one_epoch(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around
) -> None:
    """Nobody knows how long an epoch takes before the first."""
    about = around(deadline=time.monotonic() - 100)
    assert PhaseRun(toy_learner(), phase(epochs=50), toy_pictures(), about).run().epochs == 1


def test_a_deadline_far_away_changes_nothing(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around, differing: Differing
) -> None:
    """The same weights, to the last bit, as without one."""
    found = []
    for deadline in (None, time.monotonic() + 1000):
        learner = toy_learner()
        made = phase(epochs=4, schedule="one-cycle")
        PhaseRun(learner, made, toy_pictures(), around(deadline=deadline)).run()
        found.append(learner.module.state_dict())
    assert differing(*found) == []


# ---- the same again


EVERYTHING = {
    "optimizer": "adamw",
    "lr": 1e-2,
    "schedule": "one-cycle",
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "draw": "balanced",
    "best": "log_loss",
}


def test_the_same_seed_gives_the_same_weights(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around, differing: Differing
) -> None:
    """To the last bit, with everything random at once, whatever was drawn before."""
    found = []
    for seed in (0, 0, 1):
        learner = toy_learner(dropout=0.3)
        torch.rand(int(torch.randint(1, 50, (1,))))
        about = around(seed=seed)
        PhaseRun(learner, phase(**EVERYTHING), toy_pictures(), about).run()
        found.append((learner.module.state_dict(), about.history.epochs))
    assert differing(found[0][0], found[1][0]) == []
    assert differing(found[0][0], found[2][0]) != []
    one, two = ([replace(r, seconds=0) for r in epochs] for _, epochs in found[:2])
    assert one == two


def test_the_number_of_the_phase_is_part_of_the_seed(
    toy_learner: MakeLearner, toy_pictures: MakePictures, around: Around, differing: Differing
) -> None:
    """A second phase does not repeat the orders of the first."""
    found = []
    for number in (1, 2):
        learner = toy_learner()
        PhaseRun(learner, phase(), toy_pictures(), around(number=number)).run()
        found.append(learner.module.state_dict())
    assert differing(*found) != []


def test_a_real_network_learns_the_same_twice(
    resnet: Network, toy_pictures: MakePictures, around: Around, differing: Differing
) -> None:
    """A tail of resnet18 on kept maps, in the precision of this machine."""
    pictures = toy_pictures(n_train=16, n_valid=8, shape=(256, 2, 2))
    made = Phase(learns="tail", cut="layer4", epochs=1, batch=8, ema=0.9)
    found = []
    for _ in range(2):
        network = copy.deepcopy(resnet)
        learner = build_learner(network, made, SMALL)
        outcome = PhaseRun(learner, made, pictures, around(fabric=open_fabric("cpu"))).run()
        assert outcome.judged is not None
        found.append(network.state_dict())
    assert differing(*found) == []
