"""Phases in their order: what each starts from, which are kept, and how a killed run goes on."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load

from tellapart.data.catalog import Catalog, scan
from tellapart.errors import TellapartError, TrainingDiverged, UnknownCut
from tellapart.evaluation.calibration import softmax
from tellapart.progress import Progress
from tellapart.training.checkpoint import CheckpointFile
from tellapart.training.history import EpochRecord, History, PhaseRecord, read_history
from tellapart.training.judging import Judged, judge
from tellapart.training.phases import Learned, Material, learn
from tellapart.training.probe import fit_probe
from tellapart.training.recipe import Phase, Recipe
from tellapart.training.runs import Run, find_unfinished, start_run

pytestmark = pytest.mark.usefixtures("one_thread")

MakeMaterial = Callable[..., Material]

QUIET = Progress("quiet")
SOLVED = Phase(learns="head", optimizer="lbfgs")
# What it starts from is ruined by the first steps.
RUINOUS = Phase(learns="tail", cut="features.9", epochs=2, batch=12, views=0, lr=0.5)


def tail(cut: str = "features.9", **more: Any) -> Phase:
    """A short tail of squeezenet that has to be kept."""
    usual = {"epochs": 3, "batch": 12, "lr": 1e-3, "views": 1, "keep": "always"}
    return Phase(learns="tail", cut=cut, **(usual | more))


def recipe(*phases: Phase, **more: Any) -> Recipe:
    """A recipe for a small network with random weights."""
    usual = {"backbone": "squeezenet1_1", "weights": "none"}
    return Recipe(phases=phases, **(usual | more))


@pytest.fixture(scope="module")
def catalog(shapes: Path) -> Catalog:
    """The drawn shapes: train, valid and test."""
    return scan(shapes)


def split(catalog: Catalog, **becomes: str) -> Catalog:
    """The catalog with its splits renamed."""
    splits = [becomes.get(one, one) for one in catalog.splits.tolist()]
    return replace(catalog, splits=np.array(splits))


def records(material: Material) -> list[PhaseRecord]:
    """How the phases ended, without how long they took."""
    return [replace(one, seconds=0.0) for one in material.history.phases]


def solved(material: Material, *splits: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The head that is solved for on these splits."""
    rows = np.isin(material.catalog.splits, splits)
    catalog = material.catalog.select(rows)
    probe = fit_probe(material.features[rows], catalog.labels, catalog.digests, 3)
    return probe.weight, probe.bias


def same_head(learned: Learned, head: tuple[NDArray[np.float32], NDArray[np.float32]]) -> bool:
    """Whether this head stands, to the last bit."""
    return np.array_equal(learned.weight, head[0]) and np.array_equal(learned.bias, head[1])


def judged_again(material: Material, learned: Learned) -> Judged:
    """How the head and the features that are handed on do on valid."""
    features = material.features if learned.tuned is None else learned.tuned.features
    valid = material.rows("valid")
    return judge(learned.logits(features[valid]), material.catalog.labels[valid])


# ---- the head alone


def test_while_only_the_head_is_solved_for_valid_teaches_too(material: MakeMaterial) -> None:
    """Everything but what scores; where nothing scores, everything."""
    about = material(recipe(SOLVED))
    learned = learn(about)
    assert same_head(learned, solved(about, "train", "valid"))
    assert learned.taught.tolist() == (about.catalog.splits != "test").tolist()
    assert learned.tuned is None
    assert learned.probe is not None
    assert len(learned.probe.out_of_fold_logits) == learned.taught.sum()


def test_without_test_valid_scores_and_does_not_teach(
    material: MakeMaterial, catalog: Catalog
) -> None:
    """It is the split that is left to score on."""
    about = material(recipe(SOLVED), catalog=catalog.select(catalog.splits != "test"))
    learned = learn(about)
    assert about.scored_split == "valid"
    assert same_head(learned, solved(about, "train"))
    assert learned.judged == judged_again(about, learned)


def test_without_valid_and_test_everything_teaches(
    material: MakeMaterial, catalog: Catalog
) -> None:
    """Nothing is judged, and the record says so."""
    about = material(recipe(SOLVED), catalog=split(catalog, valid="train", test="train"))
    learned = learn(about)
    assert about.scored_split is None
    assert learned.taught.all()
    assert learned.judged is None
    assert records(about) == [
        PhaseRecord(1, "head", True, "there are no valid pictures to judge it by", None, 0.0)
    ]


# ---- more than the head


def test_what_is_handed_on_belongs_together(material: MakeMaterial) -> None:
    """Head, features and judgement are of one network, which is not the one it came with."""
    about = material(recipe(SOLVED, tail()))
    learned = learn(about)
    assert learned.tuned is not None
    assert learned.probe is None
    assert learned.taught.tolist() == (about.catalog.splits == "train").tolist()
    again = judged_again(about, learned)
    assert learned.judged is not None
    assert again.accuracy == learned.judged.accuracy
    assert again.log_loss == pytest.approx(learned.judged.log_loss, rel=1e-2)
    assert np.abs(learned.tuned.features - about.features).max() > 1e-2
    assert [(one.phase, one.learns, one.kept) for one in records(about)] == [
        (1, "head", True),
        (2, "tail", True),
    ]
    weights = load(learned.tuned.weights)
    assert np.array_equal(weights["classifier.1.weight"].numpy(), learned.weight)


def test_a_tail_starts_from_the_head_that_was_solved_for(material: MakeMaterial) -> None:
    """At a rate of nearly nothing it stays where it was: judged as the probe, to two digits."""
    slow = tail(lr=1e-9, best="last", epochs=1)
    about = material(recipe(SOLVED, slow))
    learned = learn(about)
    weight, bias = solved(about, "train")
    assert np.abs(learned.weight - weight).max() < 1e-5
    assert np.abs(learned.bias - bias).max() < 1e-5
    valid = about.rows("valid")
    before = judge(about.features[valid] @ weight.T + bias, about.catalog.labels[valid])
    assert learned.judged is not None
    assert learned.judged.log_loss == pytest.approx(before.log_loss, rel=2e-2)


def test_a_phase_that_makes_things_worse_leaves_what_was(material: MakeMaterial) -> None:
    """The head is the one of "fast", valid teaches again, and out-of-fold logits are there."""
    about = material(recipe(SOLVED, RUINOUS))
    learned = learn(about)
    plain = learn(material(recipe(SOLVED)))
    assert [one.kept for one in records(about)] == [True, False]
    assert learned.tuned is None
    assert same_head(learned, (plain.weight, plain.bias))
    assert learned.taught.tolist() == plain.taught.tolist()
    assert learned.probe is not None
    assert plain.probe is not None
    assert np.array_equal(learned.probe.out_of_fold_logits, plain.probe.out_of_fold_logits)
    reason = records(about)[1].reason
    assert f"not better than {about_head(about)}" in reason or "gave nothing to judge" in reason


def about_head(material: Material) -> Judged:
    """How the head that the pictures of train teach does on valid."""
    weight, bias = solved(material, "train")
    valid = material.rows("valid")
    logits = material.features[valid].astype(np.float32) @ weight.T + bias
    return judge(logits, material.catalog.labels[valid])


@pytest.mark.slow
def test_a_phase_that_made_things_worse_leaves_no_trace_in_the_next(
    material: MakeMaterial,
) -> None:
    """The phase after it ends as if there had been none, but for what its number draws."""
    found = []
    for phases in ((SOLVED, RUINOUS, tail()), (SOLVED, SOLVED, tail())):
        about = material(recipe(*phases))
        learned = learn(about)
        assert [one.kept for one in records(about)] == [True, False, True]
        found.append(learned)
    assert same_head(found[0], (found[1].weight, found[1].bias))
    assert found[0].judged == found[1].judged


def test_a_head_can_be_solved_for_again_after_a_tail(material: MakeMaterial) -> None:
    """On the features of the network as it is then."""
    always = SOLVED.model_copy(update={"keep": "always"})
    about = material(recipe(SOLVED, tail(), always))
    learned = learn(about)
    assert learned.tuned is not None
    on_tuned = replace(about, features=learned.tuned.features)
    assert same_head(learned, solved(on_tuned, "train"))
    assert learned.judged == judged_again(about, learned)
    assert [one.kept for one in records(about)] == [True, True, True]
    assert np.array_equal(load(learned.tuned.weights)["classifier.1.weight"], learned.weight)


@pytest.mark.slow
def test_phases_go_on_from_each_other(material: MakeMaterial) -> None:
    """Tail, more of it, everything, and the head alone: the features are those of the last."""
    everything = Phase(learns="all", epochs=1, batch=12, lr=1e-4, keep="always")
    head = Phase(learns="head", epochs=2, lr=1e-2, views=0, keep="always")
    about = material(recipe(SOLVED, tail(), tail("features.6"), everything, head))
    learned = learn(about)
    assert [one.learns for one in records(about)] == ["head", "tail", "tail", "all", "head"]
    again = judged_again(about, learned)
    assert learned.judged is not None
    assert again.log_loss == pytest.approx(learned.judged.log_loss, rel=1e-2)
    assert {one.phase for one in about.history.epochs} == {2, 3, 4, 5}


def test_a_head_that_steps_is_no_change_of_the_network(material: MakeMaterial) -> None:
    """What it came with is what the bundle gets; there is no out-of-fold logit to calibrate by."""
    stepping = Phase(learns="head", epochs=3, lr=1e-2, views=0, keep="always")
    about = material(recipe(stepping))
    learned = learn(about)
    assert learned.tuned is None
    assert learned.probe is None
    assert learned.taught.tolist() == (about.catalog.splits == "train").tolist()
    again = judged_again(about, learned)
    assert learned.judged is not None
    assert again.log_loss == pytest.approx(learned.judged.log_loss, rel=1e-2)


def test_a_head_beside_statistics_that_move_is_a_change_of_the_network(
    material: MakeMaterial,
) -> None:
    """As in two reference systems: what was judged is what is handed on."""
    moving = Phase(
        learns="head", epochs=2, batch=12, lr=1e-2, views="live", frozen_bn="train", bn="train"
    )
    about = material(recipe(moving, backbone="resnet18"))
    learned = learn(about)
    again = judged_again(about, learned)
    assert learned.judged is not None
    assert again.raw_log_loss == pytest.approx(learned.judged.raw_log_loss, rel=1e-3)
    assert learned.tuned is not None


def test_a_head_that_is_gone_on_from_is_where_a_phase_starts(material: MakeMaterial) -> None:
    """An earlier classifier's, where no head was solved for before."""
    rng = np.random.default_rng(0)
    head = (rng.normal(size=(3, 512)).astype(np.float32), np.zeros(3, np.float32))
    learned = learn(material(recipe(tail(lr=1e-9, epochs=1)), head=head))
    assert np.abs(learned.weight - head[0]).max() < 1e-5


# ---- what is not run


def test_without_valid_nothing_that_may_be_left_out_is_run(
    material: MakeMaterial, catalog: Catalog
) -> None:
    """Nothing could say whether it helped; test does not choose."""
    about = material(recipe(SOLVED, tail(keep="if_better")), catalog=split(catalog, valid="train"))
    learned = learn(about)
    assert records(about)[1] == PhaseRecord(
        2, "tail", False, "there are no valid pictures to judge it by", None, 0.0
    )
    assert learned.tuned is None
    assert same_head(learned, solved(about, "train"))
    assert about.history.epochs == []


def test_without_valid_what_has_to_be_kept_is_run(material: MakeMaterial, catalog: Catalog) -> None:
    """The last epoch stands, unjudged."""
    about = material(recipe(SOLVED, tail()), catalog=split(catalog, valid="train"))
    learned = learn(about)
    assert learned.tuned is not None
    assert learned.judged is None
    assert records(about)[1].kept
    assert records(about)[1].best_epoch == 3


def test_without_time_a_phase_is_left_out(material: MakeMaterial) -> None:
    """The head stands, and the record says why."""
    limited = recipe(SOLVED, tail(keep="if_better"), budget_s=1.0)
    about = material(limited, deadline=time.monotonic() - 1)
    learned = learn(about)
    assert records(about)[1].reason == "there was no time left for it"
    assert learned.tuned is None
    assert same_head(learned, solved(about, "train", "valid"))


def test_with_time_phases_keep_their_deadline(material: MakeMaterial) -> None:
    """Six seconds are left for what comes after; the history is shorter than the recipe."""
    limited = recipe(SOLVED, tail(keep="if_better", epochs=10_000, views=0), budget_s=60.0)
    about = material(limited, deadline=time.monotonic() + 10.0)
    start = time.monotonic()
    learned = learn(about)
    assert time.monotonic() - start < 10.0
    assert 3 <= len(about.history.epochs) < 10_000
    assert any("s are left for it" in note for note in learned.notes)


def test_a_recipe_of_which_nothing_is_left_is_refused(material: MakeMaterial) -> None:
    """Not one phase gave a head: that is neither a missing package nor a wrong command."""
    about = material(recipe(tail(keep="if_better"), budget_s=1.0), deadline=time.monotonic() - 1)
    with pytest.raises(TellapartError, match="Not one phase of the recipe gave a head") as caught:
        learn(about)
    assert caught.value.exit_code in (60, 61)


def test_a_cut_that_is_not_there_ends_the_training(material: MakeMaterial) -> None:
    """It is never taken for a phase that did not help."""
    with pytest.raises(UnknownCut, match=r"features\.99"):
        learn(material(recipe(SOLVED, tail("features.99", keep="if_better"))))


def test_a_phase_that_diverges_and_has_to_be_kept_ends_the_training(
    material: MakeMaterial,
) -> None:
    """Nothing is written that nobody could use."""
    everything = Phase(
        learns="all", optimizer="sgd", lr=10, momentum=0.9, epochs=3, batch=12, keep="always"
    )
    with pytest.raises(TrainingDiverged, match="has to be kept gave no usable weights"):
        learn(material(recipe(SOLVED, everything)))


def test_uneven_classes_are_said_where_they_are_weighed(
    material: MakeMaterial, catalog: Catalog
) -> None:
    """12 of two classes, one of the third: each counts the same in choosing."""
    rows = np.ones(len(catalog), dtype=bool)
    rare = np.flatnonzero((catalog.labels == 2) & (catalog.splits == "train"))
    rows[rare[1:]] = False
    weighed = recipe(SOLVED, tail(class_weights="auto"))
    about = material(weighed, catalog=catalog.select(rows))
    assert about.balanced
    learned = learn(about)
    assert "12 times the pictures of the smallest" in learned.notes[0]
    features = learned.tuned.features if learned.tuned else about.features
    valid = about.rows("valid")
    labels = about.catalog.labels[valid]
    again = judge(learned.logits(features[valid]), labels, balanced=True)
    assert learned.judged is not None
    assert again.accuracy == pytest.approx(learned.judged.accuracy)
    assert not material(weighed).balanced
    assert learn(material(recipe(SOLVED))).notes == ()


# ---- killed and gone on with


class Killed(History):
    """A history during whose epoch of a phase the process is killed."""

    def __init__(self, file: Path | None, phase: int, epoch: int) -> None:
        super().__init__(file, QUIET)
        self._last = (phase, epoch)

    def epoch(self, record: EpochRecord) -> None:
        """Take the epoch, or die of it."""
        if (record.phase, record.epoch) == self._last:
            raise KeyboardInterrupt
        super().epoch(record)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Run]]:
    """Start a run in a folder of this test."""
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    started: list[Run] = []

    def start() -> Run:
        output = tmp_path / "x.tellapart"
        run = find_unfinished(output, QUIET) if started else None
        if run is None:
            run = start_run("x", tmp_path, "", {}, output, QUIET)
        else:
            run.resume()
        started.append(run)
        return run

    yield start
    for run in started:
        run.finish("failed", None, 0.0)


def killed_and_resumed(
    made: Recipe, material: MakeMaterial, runs: Callable[[], Run], phase: int, epoch: int
) -> tuple[Learned, Material]:
    """Kill a training in an epoch of a phase, and go on with it."""
    run = runs()
    with pytest.raises(KeyboardInterrupt):
        learn(material(made, run=run, history=Killed(run.history, phase, epoch)))
    run.finish("stopped", None, 0.0)
    run = runs()
    history = History(run.history, QUIET)
    about = material(made, run=run, history=history, resume=True)
    return learn(about), about


def same(one: Learned, two: Learned) -> None:
    """Two results are one, to the last bit."""
    assert same_head(one, (two.weight, two.bias))
    assert one.judged == two.judged
    assert one.taught.tolist() == two.taught.tolist()
    assert one.notes == two.notes
    assert (one.probe is None) is (two.probe is None)
    if one.probe and two.probe:
        assert np.array_equal(one.probe.out_of_fold_logits, two.probe.out_of_fold_logits)
    assert (one.tuned is None) is (two.tuned is None)
    if one.tuned and two.tuned:
        assert one.tuned.graph == two.tuned.graph
        assert one.tuned.weights == two.tuned.weights
        assert np.array_equal(one.tuned.features, two.tuned.features)


WORSE = RUINOUS.model_copy(update={"lr": 1.5e-3})
NEW = WORSE.model_copy(update={"start": "xavier"})
RESUMED = {
    "in its tail": ((SOLVED, tail(ema=0.9, schedule="one-cycle")), (2, 3), ()),
    "before its first checkpoint": ((SOLVED, tail()), (2, 1), pytest.mark.slow),
    "in its second tail": ((SOLVED, tail(), tail("features.6")), (3, 2), ()),
    "at the start of its second tail": (
        (SOLVED, tail(), tail("features.6")),
        (3, 1),
        pytest.mark.slow,
    ),
    "without a head before": (
        (tail(start="xavier"), tail("features.12")),
        (2, 2),
        pytest.mark.slow,
    ),
    "after one that was taken back": ((SOLVED, RUINOUS, tail()), (3, 2), pytest.mark.slow),
    "in a tail that is taken back": ((SOLVED, WORSE), (2, 2), ()),
    "with a new head that is taken back": ((SOLVED, NEW), (2, 2), pytest.mark.slow),
}


@pytest.mark.parametrize(
    ("phases", "place"),
    [pytest.param(p, at, marks=marks, id=name) for name, (p, at, marks) in RESUMED.items()],
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    phases: tuple[Phase, ...],
    place: tuple[int, int],
    material: MakeMaterial,
    runs: Callable[[], Run],
) -> None:
    """Head, network, judgement and what is said are those of an unbroken training."""
    made = recipe(*phases)
    whole = material(made)
    unbroken = learn(whole)
    resumed, about = killed_and_resumed(made, material, runs, *place)
    kept = [one.kept for one in records(whole)]
    assert kept == [phase.solved or phase.keep == "always" for phase in phases]
    same(resumed, unbroken)
    assert [one.kept for one in records(about)][-1] is kept[-1]


@pytest.mark.parametrize(
    "place",
    [
        pytest.param((2, 1), marks=pytest.mark.slow),
        pytest.param((2, 3), marks=pytest.mark.slow),
        (3, 2),
    ],
)
def test_the_history_of_a_killed_training_is_whole(
    place: tuple[int, int], material: MakeMaterial, runs: Callable[[], Run]
) -> None:
    """Every epoch and every phase once, in memory and in the file."""
    made = recipe(SOLVED, tail(), tail("features.6"))
    whole = material(made)
    learn(whole)
    _, about = killed_and_resumed(made, material, runs, *place)
    assert records(about) == records(whole)
    assert about.run is not None
    assert about.run.history is not None
    in_file = read_history(about.run.history)
    assert [one.phase for one in in_file.phases] == [1, 2, 3]
    expected = [replace(one, seconds=0.0) for one in whole.history.epochs]
    for epochs in (about.history.epochs, in_file.epochs):
        assert [replace(one, seconds=0.0) for one in epochs] == expected


def test_a_resumed_phase_keeps_to_its_plan(material: MakeMaterial, runs: Callable[[], Run]) -> None:
    """Time allowed twice the epochs and views when it began; what there is now changes nothing."""
    made, run = recipe(SOLVED, tail(epochs=2)), runs()
    unbroken = learn(material(made, deadline=time.monotonic() + 900))
    with pytest.raises(KeyboardInterrupt):
        history = Killed(run.history, 2, 3)
        learn(material(made, run=run, history=history, deadline=time.monotonic() + 900))
    run.finish("stopped", None, 0.0)
    run = runs()
    about = material(made, run=run, history=History(run.history, QUIET), resume=True)
    resumed = learn(about)
    assert [one.epoch for one in about.history.epochs] == [1, 2, 3, 4]
    assert "4 epochs on 2 views" in resumed.notes[0]
    assert resumed.judged == unbroken.judged
    assert resumed.tuned is not None
    assert unbroken.tuned is not None
    assert resumed.tuned.weights == unbroken.tuned.weights


def test_going_on_with_a_solved_head_needs_no_torch(
    material: MakeMaterial, runs: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it was scored: the head is solved for again, and recorded once."""
    made, run = recipe(SOLVED), runs()
    whole = learn(material(made, run=run, history=History(run.history, QUIET)))
    run.finish("stopped", None, 0.0)
    run = runs()
    # As where torch is not installed.
    monkeypatch.setitem(sys.modules, "tellapart.training.tuning", None)
    history = History(run.history, QUIET)
    same(learn(material(made, run=run, history=history, resume=True)), whole)
    assert run.history is not None
    assert [one.phase for one in read_history(run.history).phases] == [1]


@pytest.mark.slow
def test_a_training_that_is_not_resumed_starts_anew(
    material: MakeMaterial, runs: Callable[[], Run]
) -> None:
    """In a run of its own, whatever another one left behind."""
    made = recipe(SOLVED, tail())
    run = runs()
    with pytest.raises(KeyboardInterrupt):
        learn(material(made, run=run, history=Killed(run.history, 2, 3)))
    run.finish("stopped", None, 0.0)
    other = start_run("y", Path(), "", {}, Path("y.tellapart"), QUIET)
    about = material(made, run=other)
    same(learn(about), learn(material(made)))
    assert len(about.history.epochs) == 3
    other.finish("done", None, 0.0)
    assert other.facts.folder is not None
    assert not list(other.facts.folder.glob("*.safetensors"))


@pytest.mark.slow
def test_a_run_that_cannot_be_written_learns_all_the_same(
    material: MakeMaterial, runs: Callable[[], Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Said, with the cure; the result is that of any other run."""
    made = recipe(SOLVED, tail())
    run = runs()
    assert run.facts.folder is not None
    lock = run.facts.folder
    shutil.rmtree(lock)
    about = material(made, run=run, progress=Progress("normal"), history=History(None, QUIET))
    same(learn(about), learn(material(made)))
    assert "Going on without checkpoints" in capsys.readouterr().err


def test_what_a_checkpoint_says_of_itself(material: MakeMaterial, runs: Callable[[], Run]) -> None:
    """As the text of the facade system has it: epoch, architecture, origin, and class count."""
    run = runs()
    learn(material(recipe(SOLVED, tail(), name="mine"), run=run))
    assert run.checkpoint is not None
    found = CheckpointFile(run.checkpoint, QUIET).read()
    assert found is not None
    assert found.facts["arch"] == "squeezenet1_1"
    assert found.facts["weights"].startswith("random weights")
    assert found.facts["n_classes"] == 3
    assert found.facts["recipe"] == "mine"
    assert (found.facts["phase"], found.facts["epoch"]) == (2, 3)


def test_probabilities_follow_from_what_is_handed_on(material: MakeMaterial) -> None:
    """Logits are features times weight plus bias, in 32 bits."""
    about = material(recipe(SOLVED))
    learned = learn(about)
    expected = about.features.astype(np.float64) @ learned.weight.T.astype(np.float64)
    logits = learned.logits(about.features)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected + learned.bias, rtol=1e-3, atol=1e-3)
    assert np.allclose(softmax(logits).sum(axis=1), 1)
