"""The range test: it changes nothing, and finds the rate at which the loss falls fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor, nn

from tellapart.errors import TrainingDiverged
from tellapart.training.finetune import Circumstances, Learner, PhaseRun, Pictures
from tellapart.training.lr_finder import RateTest, _suggest, find_rate, replace_rate
from tellapart.training.recipe import Phase
from tellapart.training.sources import KeptSource, Rows

pytestmark = pytest.mark.usefixtures("one_thread")

MakeLearner = Callable[..., Learner]
MakePictures = Callable[..., Pictures]
Snapshot = Callable[[nn.Module], dict[str, Tensor]]
Differing = Callable[..., list[str]]


def phase(**more: Any) -> Phase:
    """A phase whose rate is to be found."""
    usual = {"learns": "tail", "cut": "auto", "lr": "auto", "batch": 16, "bn": "train"}
    return Phase(**(usual | more))


class Failing(KeptSource):
    """A source whose disk fails at the fourth batch."""

    def views(self, batches: Iterable[Rows], epoch: int) -> Iterator[Tensor]:
        """Three batches, and no more."""
        for number, batch in enumerate(super().views(batches, epoch)):
            if number == 3:
                raise OSError("the disk is gone")
            yield batch


def linear(n_features: int = 16) -> Learner:
    """A head alone, on features: a convex problem."""
    torch.manual_seed(0)
    head = nn.Linear(n_features, 3)
    return Learner(nn.Identity(), nn.Sequential(head), (), (), tuple(head.parameters()))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weights_and_statistics_are_as_before(
    optimizer: str,
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    fabric: Fabric,
    snapshot: Snapshot,
    differing: Differing,
) -> None:
    """To the last bit, although the last steps blew them up."""
    learner = toy_learner()
    before = snapshot(learner.module)
    found = find_rate(learner, phase(optimizer=optimizer), toy_pictures(), fabric, end=10.0)
    assert differing(before, learner.module.state_dict()) == []
    assert len(found.rates) > 20


def test_weights_are_as_before_when_it_fails(
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    fabric: Fabric,
    snapshot: Snapshot,
    differing: Differing,
) -> None:
    """Whatever ends it; no half-done step is left behind either."""
    learner, pictures = toy_learner(), toy_pictures()
    source = pictures.source
    assert isinstance(source, KeptSource)
    failing = Failing(source.digests, source.plain_set, source.view_sets, 0)
    before = snapshot(learner.module)
    with pytest.raises(OSError, match="the disk is gone"):
        find_rate(learner, phase(), replace(pictures, source=failing), fabric, start=1e-2)
    assert differing(before, learner.module.state_dict()) == []
    assert all(parameter.grad is None for parameter in learner.module.parameters())


def test_a_phase_is_not_touched_by_a_test_before_it(
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    around: Callable[..., Circumstances],
    fabric: Fabric,
    differing: Differing,
) -> None:
    """The same weights in the end, to the last bit, with the test and without."""
    found = []
    for tested in (False, True):
        learner = toy_learner(dropout=0.2)
        if tested:
            find_rate(learner, phase(), toy_pictures(), fabric)
        made = phase(lr=1e-2, epochs=2)
        PhaseRun(learner, made, toy_pictures(), around()).run()
        found.append(learner.module.state_dict())
    assert differing(*found) == []


def test_the_same_test_gives_the_same_answer(
    toy_learner: MakeLearner, toy_pictures: MakePictures, fabric: Fabric
) -> None:
    """Order, views and dropout are drawn anew, but alike."""
    one, two = (
        find_rate(toy_learner(dropout=0.3), phase(mixup=0.2), toy_pictures(), fabric)
        for _ in range(2)
    )
    assert one == two


def test_rates_rise_by_the_same_factor_from_start_to_end(
    toy_learner: MakeLearner, toy_pictures: MakePictures, fabric: Fabric
) -> None:
    """As many as asked for, where none is so high that it ends early."""
    found = find_rate(
        toy_learner(), phase(), toy_pictures(), fabric, start=1e-6, end=1e-3, steps=31
    )
    assert np.allclose(found.rates, np.geomspace(1e-6, 1e-3, 31))
    assert len(found.losses) == 31
    assert (
        found.suggested in found.rates
        or found.suggested == min(zip(found.losses, found.rates, strict=True))[1] / 10
    )


def test_the_first_losses_are_smoothed_without_a_bias(
    toy_pictures: MakePictures, fabric: Fabric
) -> None:
    """The first is that of the untouched network; from then on 0.9 of the mean is kept."""
    pictures, learner = toy_pictures(shape=(16,)), linear()
    found = find_rate(learner, phase(learns="head", cut=None), pictures, fabric)
    order = np.random.default_rng(0).permutation(pictures.train)[:16]
    (inputs,) = pictures.source.views([order], 0)
    logits = learner.module(inputs.float()).detach()
    labels = torch.from_numpy(pictures.labels[order])
    expected = float(nn.functional.cross_entropy(logits, labels))
    assert found.losses[0] == pytest.approx(expected, rel=1e-4)


def test_the_rate_that_is_suggested_learns_a_convex_problem(
    toy_pictures: MakePictures, fabric: Fabric, around: Callable[..., Circumstances]
) -> None:
    """By plain gradient descent: stable, and much faster than at a hundredth of it.

    The steepest rate lies below the one at which descent breaks down, 2 / the largest curvature.
    """
    pictures = toy_pictures(shape=(16,), n_train=96)
    made = phase(learns="head", cut=None, optimizer="sgd", epochs=3, best="last")
    found = find_rate(linear(), made, pictures, fabric, start=1e-5, end=100.0)
    (inputs,) = pictures.source.plain([pictures.train])
    # The curvature of the softmax is at most a half that of the inputs (Boehning 1992).
    curvature = float(torch.linalg.eigvalsh(inputs.float().T @ inputs.float() / 96)[-1]) / 2
    assert 1e-3 < found.suggested < 10 * 2 / curvature

    final = {}
    for rate in (found.suggested, found.suggested / 100):
        about = around()
        PhaseRun(linear(), replace_rate(made, rate), pictures, about).run()
        final[rate] = about.history.epochs[-1].train_loss
    assert final[found.suggested] < 0.6 * final[found.suggested / 100]


def test_it_ends_when_the_loss_explodes(toy_pictures: MakePictures, fabric: Fabric) -> None:
    """At four times its lowest, or at no number: the plot is of what can be looked at."""
    made = phase(learns="head", cut=None, optimizer="sgd")
    # Nothing can be learned from these, not even by heart.
    pictures = toy_pictures(shape=(16,), apart=0.0, n_train=200)
    found = find_rate(linear(), made, pictures, fabric, end=1e4)
    assert found.rates[-1] < 1e4
    assert all(math.isfinite(loss) for loss in found.losses)
    assert max(found.losses[1:]) <= 4 * min(found.losses)
    assert found.suggested < found.rates[int(np.argmin(found.losses))]


def test_the_settings_of_the_phase_are_those_that_are_tried(
    toy_pictures: MakePictures, toy_learner: MakeLearner, fabric: Fabric
) -> None:
    """A head at a thousand times the rate explodes at a rate that much lower."""
    pictures = toy_pictures()
    ends = []
    for factor in (1.0, 1000.0):
        made = phase(optimizer="sgd", head_lr_factor=factor)
        found = find_rate(toy_learner(norm=False), made, pictures, fabric, end=1e4, steps=150)
        ends.append(found.rates[-1])
    assert ends[1] < ends[0] / 30


def test_a_loss_that_is_no_number_from_the_start_is_said(
    toy_learner: MakeLearner,
    toy_pictures: MakePictures,
    fabric: Fabric,
    snapshot: Snapshot,
    differing: Differing,
) -> None:
    """With the rate it was tried at, and how to lower it; the weights are as before."""
    learner = toy_learner(norm=False)
    before = snapshot(learner.module)
    made = phase(optimizer="sgd", momentum=0.9)
    with pytest.raises(TrainingDiverged) as caught:
        find_rate(learner, made, toy_pictures(apart=40), fabric, start=1e10, end=1e12)
    assert str(caught.value) == (
        "The loss was no number at the smallest rate, 1.0e+10. Expected was one that falls before "
        "it rises. The weights are as before. Lower the first rate with --start."
    )
    assert differing(before, learner.module.state_dict()) == []


# ---- the suggestion, for curves of any form


def curve(n: int, bottom: float, steep: float) -> tuple[list[float], list[float]]:
    """A loss that falls around log10 rate = steep, and rises from log10 rate = bottom on."""
    rates = np.geomspace(1e-7, 1.0, n)
    logs = np.log10(rates)
    losses = 2 - 1.5 / (1 + np.exp(-4 * (logs - steep))) + np.exp(6 * (logs - bottom - 0.5))
    return rates.tolist(), losses.tolist()


@pytest.mark.parametrize("steep", [-5.0, -4.0, -3.0])
def test_the_suggestion_is_where_the_loss_falls_fastest(steep: float) -> None:
    """Within a fifth of a decade of where the curve was made to."""
    rates, losses = curve(100, bottom=-1.0, steep=steep)
    assert abs(math.log10(_suggest(rates, losses)) - steep) < 0.2


def test_the_suggestion_keeps_away_from_the_lowest_loss() -> None:
    """Where it falls fastest just before it rises, a tenth of the rate of the lowest is taken."""
    rates, losses = curve(100, bottom=-2.3, steep=-2.5)
    lowest = rates[int(np.argmin(losses))]
    assert _suggest(rates, losses) == pytest.approx(lowest / 10)


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=120),
    st.floats(1e-9, 1e-3),
    st.floats(1.001, 3),
)
@settings(deadline=None)
def test_the_suggestion_is_a_rate_for_any_curve(
    losses: list[float], first: float, factor: float
) -> None:
    """Finite, above zero, and never above the rate at which the loss was lowest.

    Unless that is one of the first, whose losses are noise.
    """
    rates = [first * factor**number for number in range(len(losses))]
    found = _suggest(rates, losses)
    lowest = int(np.argmin(losses))
    assert rates[0] / 10 <= found <= rates[max(lowest, min(6, len(rates) - 1))]


def test_a_test_is_plain_data() -> None:
    """It can be compared and drawn."""
    assert RateTest((1e-3, 1e-2), (2.0, 1.0), 1e-3) == RateTest((1e-3, 1e-2), (2.0, 1.0), 1e-3)
