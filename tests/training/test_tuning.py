"""A network on its way through phases: what is kept belongs to its weights, and is taken back."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from tellapart.backbones.network import Normalise
from tellapart.backbones.openvino_runtime import OpenVinoRuntime
from tellapart.data.pixels import read_pixels
from tellapart.errors import TrainingDiverged, UnknownCut
from tellapart.progress import Progress
from tellapart.training.finetune import Stepper, logits_of
from tellapart.training.judging import Judged, judge
from tellapart.training.phases import Material
from tellapart.training.recipe import Phase, Recipe
from tellapart.training.runs import start_run
from tellapart.training.sources import KeptSource, LiveSource
from tellapart.training.tuning import Tuner

pytestmark = pytest.mark.usefixtures("one_thread")

MakeMaterial = Callable[..., Material]
Snapshot = Callable[[nn.Module], dict[str, Tensor]]
Differing = Callable[..., list[str]]

# Nothing is better than the one, and everything better than the other.
PERFECT, HOPELESS = Judged(0.0, 0.0, 1.0), Judged(99.0, 99.0, 0.0)
PLAIN = Phase(learns="head", optimizer="lbfgs")


def tail(cut: str = "features.9", **more: Any) -> Phase:
    """A short tail of squeezenet, at a rate that moves its weights far."""
    usual = {"epochs": 2, "batch": 12, "lr": 5e-3, "views": 1, "keep": "always", "best": "last"}
    return Phase(learns="tail", cut=cut, **(usual | more))


def live(**more: Any) -> Phase:
    """One epoch on pictures drawn live."""
    usual = {"learns": "all", "epochs": 1, "batch": 12, "lr": 1e-3, "keep": "always"}
    return Phase(**(usual | more))


def recipe(*phases: Phase, **more: Any) -> Recipe:
    """A recipe for a small network with random weights."""
    usual = {"backbone": "squeezenet1_1", "weights": "none"}
    return Recipe(phases=phases or (PLAIN,), **(usual | more))


@pytest.fixture
def tuner(material: MakeMaterial) -> Tuner:
    """Squeezenet with random weights and a random head for the three classes."""
    return begun(material(recipe()))


def begun(material: Material) -> Tuner:
    """A tuner whose network has a random head."""
    made = Tuner(material)
    made.begin(1, tail(), None, None, False)
    return made


def by_torch(material: Material, tuner: Tuner, stop: str | None = None) -> NDArray[np.float32]:
    """What the network as it is now computes from the files, by torch: features, or at a cut."""
    preprocessing = material.extractor.preprocessing
    pixels = np.stack([read_pixels(path, preprocessing) for path in material.catalog.paths])
    network = tuner.network
    count = None if stop is None else network.cut_index(stop)
    network.model.eval()
    with torch.no_grad():
        x = Normalise(preprocessing)(torch.from_numpy(pixels))
        answers: NDArray[np.float32] = network.part(0, count)(x).numpy()
    return answers


def far(one: NDArray[Any], two: NDArray[Any]) -> float:
    """The largest difference beside the largest value."""
    return float(np.abs(one.astype(np.float32) - two).max() / np.abs(two).max())


# ---- what is kept, and taken back


@pytest.mark.parametrize(
    "phase",
    [
        tail(keep="if_better"),
        tail("features.3", keep="if_better", optimizer="sgd", lr=10),
        live(keep="if_better"),
        live(learns="head", keep="if_better", start="new"),
        tail(keep="if_better", start="xavier"),
    ],
    ids=["tail", "a rate that ruins", "all", "head", "new head"],
)
def test_a_phase_that_makes_things_worse_is_taken_back_exactly(
    phase: Phase, tuner: Tuner, snapshot: Snapshot, differing: Differing
) -> None:
    """Every weight is as it was when the phase began, to the last bit."""
    before = snapshot(tuner.network.model)
    result = tuner.run(1, phase, PERFECT)
    assert not result.kept
    assert "not better than log loss 0.000, accuracy 100.0%" in result.reason or (
        result.reason.startswith("it gave nothing to judge; it stopped early, as the loss became")
    )
    assert differing(before, tuner.network.state_dict()) == []


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param(live(keep="if_better", bn="train"), marks=pytest.mark.slow),
        live(learns="head", keep="if_better", frozen_bn="train"),
        pytest.param(
            Phase(learns="tail", cut="layer4", epochs=1, batch=12, views=0, bn="train"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["all", "frozen statistics", "kept"],
)
def test_statistics_are_taken_back_too(
    phase: Phase, material: MakeMaterial, snapshot: Snapshot, differing: Differing
) -> None:
    """Those of batch-norm that moved while it learned, frozen or not."""
    tuner = begun(material(recipe(backbone="resnet18")))
    before = snapshot(tuner.network.model)
    assert not tuner.run(1, phase, PERFECT).kept
    assert differing(before, tuner.network.state_dict()) == []


def test_a_phase_that_helps_is_kept(tuner: Tuner, snapshot: Snapshot, differing: Differing) -> None:
    """From the cut on everything has moved, before it nothing; the reason says against what."""
    before = snapshot(tuner.network.model)
    result = tuner.run(1, tail(keep="if_better", best="log_loss"), HOPELESS)
    assert result.kept
    assert result.reason == (
        f"{result.judged} on valid, better than log loss 99.000, accuracy 0.0%"
    )
    moved = differing(before, tuner.network.state_dict())
    names = [name for name, _ in tuner.network.model.named_parameters()]
    first = next(number for number, name in enumerate(names) if name.startswith("features.9"))
    assert moved == names[first:]


def test_a_phase_may_have_to_be_kept(tuner: Tuner) -> None:
    """Also where valid says that it did harm."""
    result = tuner.run(1, tail(keep="always"), PERFECT)
    assert result.kept
    assert result.reason == f"{result.judged} on valid"


def test_without_anything_to_compare_with_a_phase_stands(tuner: Tuner) -> None:
    """The first phase of a recipe, where no head was solved for."""
    assert tuner.run(1, tail(keep="if_better"), None).kept


@pytest.mark.parametrize(
    ("standing", "kept"), [(Judged(0.0, 0.0, 0.0), True), (Judged(99.0, 99.0, 1.0), False)]
)
def test_where_accuracy_decides_log_loss_does_not(
    standing: Judged, kept: bool, tuner: Tuner
) -> None:
    """As in the fourth reference system: the best validation accuracy is saved."""
    phase = tail(best="accuracy", keep="if_better", epochs=4)
    result = tuner.run(1, phase, standing)
    assert result.judged is not None
    assert result.judged.accuracy > 0
    assert result.kept is kept


def test_what_is_judged_is_what_stands(material: MakeMaterial) -> None:
    """The network that is left, run over the files by torch, has the scores that were told."""
    about = material(recipe())
    tuner = begun(about)
    result = tuner.run(1, tail(), None)
    valid = about.rows("valid")
    logits = tuner.network.head(torch.from_numpy(by_torch(about, tuner)[valid])).detach().numpy()
    again = judge(logits, about.catalog.labels[valid])
    assert result.judged is not None
    assert again.accuracy == result.judged.accuracy
    assert again.log_loss == pytest.approx(result.judged.log_loss, rel=1e-2)


def test_a_phase_that_has_to_be_kept_and_diverges_ends_the_training(tuner: Tuner) -> None:
    """With the loss, the rate, and how to find a better one."""
    phase = live(optimizer="sgd", lr=10, momentum=0.9, epochs=3)
    with pytest.raises(TrainingDiverged) as caught:
        tuner.run(1, phase, PERFECT)
    said = str(caught.value)
    assert said.startswith("A phase that has to be kept gave no usable weights: the loss became ")
    assert said.endswith(
        " in epoch 1: most likely the rate 1.0e+01 is too high. Expected was a loss that falls. "
        'Nothing was written. Lower lr, or find one with `tellapart find-lr` or lr = "auto".'
    )


def test_a_cut_that_is_not_there_is_refused_before_anything_is_computed(tuner: Tuner) -> None:
    """With the network's own error."""
    with pytest.raises(UnknownCut, match=r"features\.99"):
        tuner.run(1, tail("features.99"), None)


# ---- what is kept belongs to the weights


def prepared_source(tuner: Tuner, phase: Phase) -> KeptSource:
    """What a phase would learn from."""
    prepared = tuner.prepare(phase)
    assert prepared is not None
    source = prepared.pictures.source
    assert isinstance(source, KeptSource)
    return source


@pytest.mark.parametrize("cut", ["features.6", "features.12", None], ids=str)
def test_a_phase_after_a_tail_starts_from_the_network_as_it_is(
    cut: str | None, material: MakeMaterial
) -> None:
    """With an earlier cut, a later one, and the head alone: what is kept is what torch computes."""
    about = material(recipe())
    tuner = begun(about)
    untouched = by_torch(about, tuner, cut)
    tuner.run(1, tail("features.9"), None)
    phase = tail(cut) if cut else Phase(learns="head", views=0)
    source = prepared_source(tuner, phase)
    rows = np.concatenate([about.rows("train"), about.rows("valid")])
    kept = torch.cat(list(source.plain([rows]))).float().numpy()
    expected = by_torch(about, tuner, cut)[rows]
    assert far(kept, expected) < 2e-3
    # What was kept before the tail learned would be something else, where it lies behind the cut.
    assert (far(untouched[rows], expected) > 0.05) is (cut != "features.6")


FOLLOWING = {
    "an earlier cut": ((tail("features.9"), tail("features.6")), ()),
    "a later cut": ((tail("features.6"), tail("features.9")), ()),
    "the head": (
        (
            tail("features.9"),
            Phase(learns="head", views=1, epochs=2, lr=0.1, keep="always", best="last"),
        ),
        (),
    ),
    "one that is taken back": ((tail("features.9"), tail("features.6", keep="if_better")), ()),
    "a tail after all": ((live(), tail("features.9")), pytest.mark.slow),
    "all": ((tail("features.9"), live()), pytest.mark.slow),
    "the head live": ((tail("features.6"), live(learns="head")), pytest.mark.slow),
}


@pytest.mark.parametrize(
    "phases", [pytest.param(p, marks=marks, id=name) for name, (p, marks) in FOLLOWING.items()]
)
def test_the_features_are_those_of_the_network_that_stands(
    phases: tuple[Phase, ...], material: MakeMaterial
) -> None:
    """Of every picture, taught or not, within 0.2 % of what torch computes from the files."""
    about = material(recipe())
    tuner = begun(about)
    untouched = by_torch(about, tuner)
    for number, phase in enumerate(phases, start=1):
        result = tuner.run(number, phase, PERFECT)
        assert result.kept is (phase.keep == "always")
    expected = by_torch(about, tuner)
    tuned = tuner.finish(about)
    assert far(tuned.features, expected) < 2e-3
    assert far(untouched, expected) > 0.05
    assert tuned.unreadable == {}


def test_the_graph_and_the_weights_are_those_of_the_network_that_stands(
    material: MakeMaterial,
) -> None:
    """The graph computes the features; the weights go by the architecture's own names."""
    about = material(recipe())
    tuner = begun(about)
    tuner.run(1, tail(), None)
    tuned = tuner.finish(about)
    preprocessing = about.extractor.preprocessing
    pixels = (read_pixels(path, preprocessing) for path in about.catalog.paths)
    found = np.stack(list(OpenVinoRuntime(tuned.graph).run(pixels)))
    assert far(found, by_torch(about, tuner)) < 2e-3
    weights = load(tuned.weights)
    assert weights.keys() == tuner.network.state_dict().keys()
    assert all(torch.equal(value, weights[n]) for n, value in tuner.network.state_dict().items())


@pytest.mark.slow
def test_mirrored_pictures_count_where_the_recipe_says_so(material: MakeMaterial) -> None:
    """Features are the mean over each picture and its mirror, of those that taught as well."""
    about = material(recipe(flip_at_test=True))
    tuner = begun(about)
    tuner.run(1, tail(), None)
    preprocessing = about.extractor.preprocessing
    pixels = np.stack([read_pixels(path, preprocessing) for path in about.catalog.paths])
    with torch.no_grad():
        x = Normalise(preprocessing)(torch.from_numpy(pixels))
        both = [tuner.network.features(one).numpy() for one in (x, x.flip(3))]
    assert far(tuner.finish(about).features, (both[0] + both[1]) / 2) < 2e-3


@pytest.mark.parametrize(
    "before",
    [
        (),
        pytest.param(
            (Phase(learns="tail", cut="layer4", epochs=1, views=0),), marks=pytest.mark.slow
        ),
    ],
    ids=["alone", "after a tail"],
)
def test_statistics_that_moved_in_frozen_layers_are_a_change_of_the_network(
    before: tuple[Phase, ...], material: MakeMaterial
) -> None:
    """A later phase and the features must not go on from what was kept before they moved."""
    about = material(recipe(backbone="resnet18"))
    tuner = begun(about)
    for number, phase in enumerate(before, start=1):
        tuner.run(number, phase.model_copy(update={"keep": "always"}), None)
    moving = live(learns="head", frozen_bn="train", bn="train")
    tuner.run(9, moving, None)
    source = prepared_source(tuner, Phase(learns="head", views=0))
    rows = about.rows("train")
    expected = by_torch(about, tuner)
    assert far(torch.cat(list(source.plain([rows]))).numpy(), expected[rows]) < 2e-3
    assert far(tuner.finish(about).features, expected) < 2e-3


def test_kept_views_are_drawn_as_the_recipe_seeds_them(material: MakeMaterial) -> None:
    """As many as the phase says, all different, the same in another training, others by seed."""
    about = material(recipe())
    source = prepared_source(begun(about), tail(views=3))
    assert len(source.view_sets) == 3
    one = about.catalog.digests[about.rows("train")[0]]
    maps = [kept.get(one) for kept in (source.plain_set, *source.view_sets)]
    assert len({values.tobytes() for values in maps}) == 4
    again = prepared_source(begun(material(recipe())), tail(views=3))
    assert all(
        np.array_equal(kept.get(one), values)
        for kept, values in zip((again.plain_set, *again.view_sets), maps, strict=True)
    )


def test_nothing_that_scores_is_looked_at_while_learning(material: MakeMaterial) -> None:
    """Neither kept, nor among the rows of the phase."""
    about = material(recipe())
    prepared = begun(about).prepare(tail())
    assert prepared is not None
    assert prepared.plain is not None
    tests = about.rows("test")
    assert not any(digest in prepared.plain for digest in about.catalog.digests[tests].tolist())
    assert not {*tests.tolist()} & {*prepared.pictures.train.tolist()}
    assert prepared.pictures.train.tolist() == about.rows("train").tolist()
    assert prepared.pictures.valid.tolist() == about.rows("valid").tolist()


def test_a_picture_taken_away_meanwhile_has_no_place_in_the_phase(
    shapes: Path, tmp_path: Path, material: MakeMaterial
) -> None:
    """It is left out of what teaches and judges; nothing shifts."""
    data = tmp_path / "shapes"
    shutil.copytree(shapes, data)
    for file in data.rglob("*.jpg"):
        # Other bytes than the other tests', of which everything is kept already.
        file.write_bytes(file.read_bytes() + b"\0")
    about = material(recipe(), data)
    gone = [about.rows("train")[5], about.rows("valid")[2]]
    for row in gone:
        Path(about.catalog.paths[row]).unlink()
    tuner = begun(about)
    prepared = tuner.prepare(tail())
    assert prepared is not None
    rows = {*prepared.pictures.train.tolist(), *prepared.pictures.valid.tolist()}
    assert rows == {*about.rows("train"), *about.rows("valid")} - {*gone}
    assert tuner.run(1, tail(), None).kept
    assert set(tuner.finish(about).unreadable) == set(gone)


# ---- disk


def test_what_a_view_takes_is_known_before_it_is_computed(material: MakeMaterial) -> None:
    """To the byte, at a cut and for features."""
    about = material(recipe())
    tuner, row = begun(about), about.rows("train")[0]
    for phase in (tail("features.6"), tail("features.9"), Phase(learns="head", views=0)):
        source = prepared_source(tuner, phase)
        activation = source.plain_set.get(bytes(source.digests[row]))
        assert tuner.kept_kb(phase) == activation.nbytes / 1000


def test_pictures_that_teach_are_looked_at_once(
    material: MakeMaterial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their features come from what the tail keeps: those of the network, within 16 bits."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    about = material(recipe())
    tuner, rows = Tuner(about), about.rows("train")
    files = about.catalog.paths[rows].tolist(), about.catalog.digests[rows].tolist()
    found = tuner.look_through(tail())
    assert found is not None
    assert (found.n_computed, found.unreadable) == (len(rows), {})
    whole = about.extractor.features(*files, about.progress)
    assert far(found.values, whole.values.astype(np.float32)) < 2e-3
    # What the phase learns from lies there already.
    _, filled = tuner._prefix(tail()).plain(*files, about.progress)
    assert filled.n_computed == 0
    assert tuner.look_through(tail(views="live")) is None


@pytest.mark.parametrize(
    ("views_that_fit", "kept"),
    [pytest.param(4.5, 4, marks=pytest.mark.slow), (2.5, 2), (0.5, None)],
)
def test_a_small_disk_means_fewer_views_or_none(
    views_that_fit: float, kept: int | None, material: MakeMaterial, capsys: pytest.CaptureFixture
) -> None:
    """Said in words, in the result too; without room the phase runs live, and learns the same."""
    phase = tail("features.9", views=4, epochs=1)
    kb = begun(material(recipe())).kept_kb(phase)
    # 36 teach, 18 judge.
    room_kb = (36 + 18 + 36 * views_that_fit) * kb
    about = material(recipe(kept_gb=room_kb / 1e6), progress=Progress("normal"))
    tuner = begun(about)
    prepared = tuner.prepare(phase)
    assert prepared is not None
    said = capsys.readouterr().err
    assert prepared.phase.kept_views == kept
    if kept is None:
        assert isinstance(prepared.pictures.source, LiveSource)
        assert "nothing is kept, the phase runs live." in said
    else:
        assert isinstance(prepared.pictures.source, KeptSource)
        assert len(prepared.pictures.source.view_sets) == kept
        assert ("4 kept views need" in said) is (kept < 4)
    result = tuner.run(1, phase, None)
    assert result.kept
    assert bool(result.notes) is (kept != 4)
    assert far(tuner.finish(about).features, by_torch(about, tuner)) < 2e-3


def test_time_does_not_bring_more_views_than_the_disk_has_room_for(
    material: MakeMaterial,
) -> None:
    """A budget may stretch a phase to more views than the recipe says, but not beyond the disk."""
    phase = tail("features.9", views=4)
    kb = begun(material(recipe())).kept_kb(phase)
    about = material(recipe(kept_gb=(36 + 18 + 36 * 4.5) * kb / 1e6))
    assert begun(about).plan(phase).most_views == 4


# ---- time


def test_measuring_changes_nothing(tuner: Tuner, snapshot: Snapshot, differing: Differing) -> None:
    """Weights are as before; both speeds are figures."""
    before = snapshot(tuner.network.model)
    for phase in (tail(batch=64), live()):
        speed = tuner.measure(phase)
        assert 0 < speed.learned_per_s < math.inf
        assert 0 < speed.views_per_s < math.inf
    assert differing(before, tuner.network.state_dict()) == []


def test_measuring_leaves_nothing_behind(tuner: Tuner, cache: Path) -> None:
    """The views it computes are no phase's: they are not kept."""
    kept = set((cache / "activations").glob("*"))
    tuner.measure(tail(batch=64))
    assert set((cache / "activations").glob("*")) == kept


def test_without_time_a_phase_is_left_out(
    material: MakeMaterial, snapshot: Snapshot, differing: Differing
) -> None:
    """The network is as it was."""
    about = material(recipe(budget_s=1.0), deadline=0.0)
    tuner = begun(about)
    before = snapshot(tuner.network.model)
    result = tuner.run(1, tail(keep="if_better"), HOPELESS)
    assert (result.kept, result.reason) == (False, "there was no time left for it")
    assert differing(before, tuner.network.state_dict()) == []


def test_with_time_a_phase_is_fitted_to_it(material: MakeMaterial) -> None:
    """More epochs than the recipe says, at most twice as many; the note says how many."""
    about = material(recipe(budget_s=1000.0), deadline=time.monotonic() + 1000)
    tuner = begun(about)
    prepared = tuner.prepare(tail(epochs=4), time.monotonic() + 900)
    assert prepared is not None
    assert prepared.phase.epochs == 8
    assert "8 epochs" in prepared.plan.notes[-1]


def test_a_single_epoch_is_not_left_out_where_there_is_time(material: MakeMaterial) -> None:
    """It is what the recipe asks for, and 900 s are enough for it."""
    tuner = begun(material(recipe(budget_s=1000.0)))
    assert tuner.prepare(tail(epochs=1), time.monotonic() + 900) is not None


def test_a_single_epoch_is_left_out_where_there_is_no_time(material: MakeMaterial) -> None:
    """A moment is left, which has passed when the speed has been measured."""
    tuner = begun(material(recipe(budget_s=1000.0)))
    assert tuner.prepare(tail(epochs=1), time.monotonic() + 0.02) is None


def test_looking_ahead_changes_nothing(
    material: MakeMaterial, snapshot: Snapshot, differing: Differing
) -> None:
    """Neither weights nor statistics, whatever the order of the phases."""
    tuner = begun(material(recipe(backbone="resnet18")))
    before = snapshot(tuner.network.model)
    for phase in (PLAIN, live(bn="train"), tail("layer4", bn="train", batch=4)):
        plan = tuner.forecast(phase)
        assert plan.expected_s is not None
        assert plan.expected_s > 0
    assert differing(before, tuner.network.state_dict()) == []


# ---- the rate


def test_a_rate_is_found_where_the_recipe_asks_for_it(
    material: MakeMaterial,
    snapshot: Snapshot,
    differing: Differing,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is said, the phase learns with it, and the test before it leaves no trace."""
    tuner = begun(material(recipe(), progress=Progress("normal")))
    before = snapshot(tuner.network.model)
    prepared = tuner.prepare(tail("features.12", lr="auto", batch=8))
    assert prepared is not None
    said = capsys.readouterr().err
    assert f"The range test suggests a rate of {prepared.phase.lr:.1e}." in said
    assert 1e-8 < float(prepared.phase.lr) < 1
    assert differing(before, tuner.network.state_dict()) == []


@pytest.mark.parametrize("rate", ["auto", 0.5])
def test_a_range_test_can_be_asked_for(
    rate: float | str, tuner: Tuner, snapshot: Snapshot, differing: Differing
) -> None:
    """As `find-lr` does: from, to and how many; whatever the phase's own rate is."""
    before = snapshot(tuner.network.model)
    found = tuner.rate_test(tail(lr=rate), 1e-6, 1e-2, 20)
    assert found.rates[0] == pytest.approx(1e-6)
    assert len(found.rates) <= 20
    assert differing(before, tuner.network.state_dict()) == []


# ---- the head


def test_a_phase_starts_from_the_head_that_it_says(tuner: Tuner) -> None:
    """The one that stands; a new one; a new one by Glorot: the same for the same seed."""
    weight = np.arange(3 * 512, dtype=np.float32).reshape(3, 512)
    head = (weight, np.array([1, 2, 3], np.float32))
    tuner.begin(1, tail(), head, None, False)
    assert all(np.array_equal(a, b) for a, b in zip(tuner.head(), head, strict=True))
    for start in ("new", "xavier"):
        found = []
        for _ in range(2):
            tuner.begin(1, tail(start=start), head, None, False)
            found.append(tuner.head()[0])
        assert np.array_equal(*found)
        bound = math.sqrt(6 / (512 + 3)) if start == "xavier" else 1 / math.sqrt(512)
        assert 0.9 * bound < np.abs(found[0]).max() <= bound


def test_heads_are_copies(tuner: Tuner) -> None:
    """What is returned does not change when the network learns on."""
    weight, _ = tuner.head()
    before = weight.copy()
    with torch.no_grad():
        tuner.network.head.get_parameter("weight").add_(1)
    assert np.array_equal(weight, before)


# ---- going on


def test_the_state_before_a_phase_is_remembered(
    material: MakeMaterial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: Snapshot,
    differing: Differing,
) -> None:
    """Network, number, judgement, and whether more than the head had learned."""
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path))
    run = start_run("x", tmp_path, "", {}, tmp_path / "x.tellapart", Progress("quiet"))
    about = material(recipe(), run=run)
    tuner = begun(about)
    tuner.run(1, tail(), None)
    head = tuner.head()
    tuner.begin(2, tail("features.6"), head, Judged(0.5, 0.6, 0.7), True)
    before = snapshot(tuner.network.model)

    again = Tuner(about)
    found = again.go_back()
    assert found is not None
    assert (found.phase, found.tuned, found.judged) == (2, True, Judged(0.5, 0.6, 0.7))
    assert found.head is not None
    assert all(np.array_equal(a, b) for a, b in zip(found.head, head, strict=True))
    assert differing(before, again.network.state_dict()) == []
    # What the backbone came with is no prefix of it.
    source = prepared_source(again, Phase(learns="head", views=0))
    rows = about.rows("train")
    kept = torch.cat(list(source.plain([rows]))).numpy()
    assert far(kept, by_torch(about, again)[rows]) < 2e-3


def test_the_head_that_stands_is_remembered_beside_a_new_one(
    material: MakeMaterial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase that starts from a new head and is not kept gives way to the old one."""
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path))
    run = start_run("x", tmp_path, "", {}, tmp_path / "x.tellapart", Progress("quiet"))
    about = material(recipe(), run=run)
    head = (np.ones((3, 512), np.float32), np.zeros(3, np.float32))
    Tuner(about).begin(2, tail(start="xavier"), head, HOPELESS, False)
    again = Tuner(about)
    found = again.go_back()
    assert found is not None
    assert found.head is not None
    assert np.array_equal(found.head[0], head[0])
    assert not np.array_equal(again.head()[0], head[0])


def test_without_a_run_there_is_nothing_to_go_back_to(tuner: Tuner) -> None:
    """Nothing is written, nothing is found."""
    assert tuner.go_back() is None


def test_the_logits_of_valid_are_those_of_the_whole_network(material: MakeMaterial) -> None:
    """Through what is kept, as a phase judges, and through all of it from the pixels."""
    about = material(recipe())
    tuner = begun(about)
    prepared = tuner.prepare(tail("features.6"))
    assert prepared is not None
    stepper = Stepper(prepared.learner, prepared.phase, None, tuner.fabric)
    found = logits_of(prepared.learner.module, stepper, prepared.pictures)
    valid = about.rows("valid")
    whole = tuner.network.head(torch.from_numpy(by_torch(about, tuner)[valid])).detach().numpy()
    assert far(found, whole) < 5e-3
