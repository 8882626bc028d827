"""Recipes: read, written, replaced in part, and refused with words that help."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tellapart.backbones.registry import BACKBONES, find_backbone
from tellapart.data.augmentation import (
    CentreCrop,
    ColourJitter,
    Flip,
    Greyscale,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotate,
)
from tellapart.errors import BadRecipe, NotWritable, TellapartError, UnknownBackbone
from tellapart.training.recipe import (
    DEFAULT_RECIPE,
    Data,
    Phase,
    Pixels,
    Recipe,
    builtin_recipes,
    load_recipe,
    make_recipe,
)

SOLVED = {"learns": "head", "optimizer": "lbfgs"}
REFERENCES = ("audit-uploads", "facade", "flowers-102", "intel-scenes", "phone-gallery")

positive = st.floats(1e-9, 1e6)
shares = st.floats(0, 0.99)
steps = st.one_of(
    st.builds(Resize, size_px=st.integers(8, 512)),
    st.builds(CentreCrop, size_px=st.integers(8, 512)),
    st.builds(RandomCrop, size_px=st.integers(8, 512)),
    st.builds(RandomResizedCrop, size_px=st.none() | st.integers(8, 512)),
    st.builds(RandomResizedCrop, area=st.just((0.2, 0.9)), aspect=st.just((0.5, 2.0))),
    st.builds(Rotate, degrees=st.floats(0, 180)),
    st.builds(Flip, horizontal=st.floats(0, 1), vertical=st.floats(0, 1)),
    st.builds(ColourJitter, brightness=st.floats(0, 10), hue=st.floats(0, 0.5)),
    st.builds(Greyscale, share=st.floats(0, 1)),
)


@st.composite
def phases(draw: st.DrawFn) -> Phase:
    """Any phase whose settings agree; about half of them are given at all."""
    if draw(st.integers(0, 4)) == 0:
        return Phase(**SOLVED, keep=draw(st.sampled_from(["if_better", "always"])))
    learns = draw(st.sampled_from(["head", "tail", "all"]))
    optimizer = draw(st.sampled_from(["adam", "adamw", "sgd"]))
    epochs = draw(st.integers(1, 10_000))
    best = draw(st.sampled_from(["log_loss", "accuracy", "last"]))
    frozen_bn = draw(st.sampled_from(["eval", "train"]))
    draws = draw(st.sampled_from(["shuffled", "balanced", "in-order"]))
    weights = ["none", "auto"] if draws == "balanced" else ["none", "balanced", "auto"]
    may_keep = learns != "all" and frozen_bn == "eval"
    given_settings: dict[str, st.SearchStrategy[Any]] = {
        "batch": st.integers(1, 4096),
        "accumulate": st.integers(1, 64),
        "lr": st.just("auto") | st.floats(1e-9, 10),
        "head_lr_factor": positive,
        "weight_decay": positive,
        "warm_up_epochs": st.floats(0, epochs),
        "label_smoothing": shares,
        "class_weights": st.sampled_from(weights),
        "augment": st.lists(steps, max_size=4).map(tuple),
        "views": st.sampled_from([None, "live"]) | (st.integers(0, 64) if may_keep else st.none()),
        "mixup": positive,
        "cutmix": positive,
        "ema": shares,
        "keep": st.sampled_from(["if_better", "always"]),
        "bn": st.sampled_from(["eval", "train"]),
        "start": st.sampled_from(["kept", "xavier", "new"]),
    }
    if optimizer == "sgd":
        given_settings["momentum"] = shares
    if best != "last":
        given_settings["patience"] = st.integers(1, 100)
    facts = {name: draw(values) for name, values in given_settings.items() if draw(st.booleans())}
    if draw(st.booleans()):
        facts |= {"schedule": "step", "step_epochs": draw(st.integers(1, 100))}
        facts |= {"step_factor": draw(st.floats(0.01, 0.99))} if draw(st.booleans()) else {}
    else:
        facts["schedule"] = draw(st.sampled_from(["constant", "cosine", "one-cycle"]))
    if learns == "tail":
        facts["cut"] = draw(st.sampled_from(["auto", "layer4", "blocks.6"]))
    return Phase(
        learns=learns,
        optimizer=optimizer,
        epochs=epochs,
        best=best,
        frozen_bn=frozen_bn,
        draw=draws,
        **facts,
    )


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe whose settings agree."""
    chosen = tuple(draw(st.lists(phases(), min_size=1, max_size=3)))
    optional = all(phase.keep == "if_better" for phase in chosen)
    return Recipe(
        name=draw(words),
        about=draw(words),
        backbone=draw(st.sampled_from([backbone.name for backbone in BACKBONES])),
        weights=draw(st.sampled_from(["pretrained", "none", "C:\\my weights\\å.pth"])),
        seed=draw(st.integers(0, 2**32 - 1)),
        flip_at_test=draw(st.booleans()),
        kept_gb=draw(positive),
        budget_s=draw(st.none() | positive) if optional else None,
        log=draw(st.sampled_from([(), ("mlflow",), ("tensorboard", "mlflow")])),
        data=Data(
            split=draw(st.sampled_from(["auto", "none", "exact", "halve-test"])),
            valid=draw(st.floats(0, 0.49)),
            test=draw(st.floats(0, 0.49)),
            seed=draw(st.integers(0, 2**32 - 1)),
            keep_features=draw(st.booleans()),
        ),
        pixels=Pixels(
            size_px=draw(st.none() | st.integers(16, 2048)),
            fit=draw(st.sampled_from([None, "crop", "squash"])),
            normalisation=draw(st.sampled_from(["backbone", "imagenet", "half", "measured"])),
        ),
        phases=chosen,
    )


def refusal(facts: Mapping[str, Any]) -> str:
    """What is said of settings that cannot be used; the frame around it is checked here."""
    with pytest.raises(BadRecipe) as caught:
        make_recipe(facts, "mine.toml")
    whole = str(caught.value)
    found = re.fullmatch(
        r"The recipe mine\.toml cannot be used: (.*)\. Nothing was trained\. Correct these "
        r"settings; `tellapart recipes show auto` prints a whole one\.",
        whole,
    )
    assert found, whole
    assert caught.value.exit_code == 60
    return found[1]


def step(**more: Any) -> dict[str, Any]:
    """A phase that learns everything, twice: what one phase lacks must not hide the other."""
    return {"phases": [{"learns": "all"} | more, {"learns": "all"}]}


# ---- the recipes that come with it


def test_the_default_comes_first() -> None:
    """The one that is used when none is named, then the others by name, each name once."""
    names = [recipe.name for recipe in builtin_recipes()]
    assert names == [DEFAULT_RECIPE, *sorted(set(names) - {DEFAULT_RECIPE})]
    assert {*REFERENCES, "fast", "best"} <= set(names)


@pytest.mark.parametrize("recipe", builtin_recipes(), ids=lambda recipe: recipe.name)
def test_a_built_in_recipe_survives_toml(recipe: Recipe, tmp_path: Path) -> None:
    """Written, read, and read by name: the same recipe; its words for people are there."""
    file = tmp_path / "copy.toml"
    recipe.save(file)
    assert load_recipe(file) == recipe == load_recipe(recipe.name)
    assert tomllib.loads(recipe.to_toml())["name"] == recipe.name
    assert recipe.about.endswith(".")


@pytest.mark.parametrize("recipe", builtin_recipes(), ids=lambda recipe: recipe.name)
def test_a_built_in_recipe_names_parts_that_exist(recipe: Recipe) -> None:
    """The cuts are among those of its backbone."""
    cuts = find_backbone(recipe.backbone).cuts
    assert all(phase.cut in (None, "auto", *cuts) for phase in recipe.phases)


def test_the_reference_recipes_do_what_their_texts_do() -> None:
    """Every figure that the texts state, and what is kept, phase for phase."""
    by_name = {recipe.name: recipe for recipe in builtin_recipes()}
    audit, flowers = by_name["audit-uploads"], by_name["flowers-102"]
    gallery, intel, facade = (by_name[n] for n in ("phone-gallery", "intel-scenes", "facade"))

    assert [recipe.backbone for recipe in (audit, flowers, gallery, intel, facade)] == [
        "resnet50",
        "resnet18",
        "resnet34",
        "efficientnet_b0",
        "resnext101_32x8d",
    ]
    (one,) = audit.phases
    assert (one.optimizer, one.lr, one.batch, one.epochs) == ("adam", 1e-4, 10, 20)
    head, everything = flowers.phases
    assert (head.learns, head.lr, head.epochs, head.step_epochs) == ("head", 1e-2, 20, 10)
    assert (everything.learns, everything.lr, everything.epochs) == ("all", 1e-3, 10)
    assert (everything.step_epochs, everything.step_factor) == (7, 0.1)
    assert [(p.learns, p.cut, p.epochs) for p in gallery.phases[:1]] == [("tail", "layer4", 5)]
    assert gallery.phases[1].learns == "head"
    (one,) = intel.phases
    assert (intel.data.split, intel.data.valid, one.lr) == ("halve-test", 0.2, "auto")
    (one,) = facade.phases
    assert (facade.data.split, facade.data.seed) == ("exact", 330)
    assert (facade.data.valid, facade.data.test) == (0.2, 0.1)
    assert (one.optimizer, one.lr, one.head_lr_factor, one.momentum) == ("sgd", 5e-5, 10, 0.9)
    assert (one.weight_decay, one.batch, one.epochs, one.draw) == (1e-3, 16, 30, "in-order")
    # They train whole networks on live pictures, and frozen statistics move where theirs did.
    for recipe in (audit, flowers, gallery, intel, facade):
        assert all(phase.kept_views is None for phase in recipe.phases)
    assert all(phase.frozen_bn == "train" for phase in (head, *gallery.phases))


def test_only_solving_needs_no_steps() -> None:
    """`probe_only` is what lets valid teach as well: true of "fast", of no other."""
    assert [recipe.name for recipe in builtin_recipes() if recipe.probe_only] == ["fast"]


# ---- written and read


@given(recipes())
@settings(max_examples=50, deadline=None)
def test_any_recipe_survives_toml(recipe: Recipe) -> None:
    """Written with its defaults left out, and read back: equal, and so is what it says of itself.

    This holds for every field of a phase and every step of an augmentation.
    """
    again = make_recipe(tomllib.loads(recipe.to_toml()), "again")
    assert again == recipe
    assert again.facts() == recipe.facts()
    assert again.to_toml() == recipe.to_toml()


@given(phases())
@settings(max_examples=50, deadline=None)
def test_a_phase_can_be_replaced_by_its_own_settings(phase: Phase) -> None:
    """Plain types carry all of a phase: what a run remembers is what it was given."""
    facts = phase.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    assert make_recipe({"phases": [facts]}, "again").phases == (phase,)


def test_a_recipe_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A folder that is not there: the error of every file that is written."""
    with pytest.raises(NotWritable, match=r"the folder .* does not exist"):
        load_recipe("fast").save(tmp_path / "nowhere" / "mine.toml")


@pytest.mark.parametrize(
    ("given_settings", "kept"),
    [
        ({"learns": "head", "optimizer": "lbfgs"}, 0),
        ({"learns": "tail", "cut": "auto"}, 4),
        ({"learns": "tail", "cut": "auto", "views": 0}, 0),
        ({"learns": "head", "views": 7}, 7),
        ({"learns": "head"}, 4),
        ({"learns": "tail", "cut": "auto", "views": "live"}, None),
        ({"learns": "tail", "cut": "auto", "frozen_bn": "train"}, None),
        ({"learns": "all"}, None),
    ],
)
def test_what_is_kept_follows_from_what_is_frozen(
    given_settings: dict[str, Any], kept: int | None
) -> None:
    """Nothing where nothing is frozen, or where what is frozen still moves."""
    assert Phase(**given_settings).kept_views == kept


# ---- refused


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"phasse": [SOLVED]}, "there is no setting phasse (did you mean phases?)"),
        (
            {"phases": [SOLVED], "zzz": 1},
            "there is no setting zzz (known are name, about, backbone, weights, seed, "
            "flip_at_test, kept_gb, budget_s, log, accept, level, data, pixels, phases)",
        ),
        (
            {"phases": [SOLVED], "data": {"splitt": 1}},
            "there is no setting data.splitt (did you mean split?)",
        ),
        (step(batsh=3), "there is no setting phases.1.batsh (did you mean batch?)"),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest(facts: dict[str, Any], said: str) -> None:
    """Where it stands, counted from 1, and what was most likely meant."""
    assert said in refusal(facts)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (step(epochs=0), "phases.1.epochs = 0: input should be greater than or equal to 1"),
        (
            step(learns="tial"),
            "phases.1.learns = 'tial': input should be 'head', 'tail' or 'all' (did you mean "
            "tail?)",
        ),
        (
            {"phases": [SOLVED], "log": ["tensorbord"]},
            "log.1 = 'tensorbord': input should be 'tensorboard' or 'mlflow' (did you mean "
            "tensorboard?)",
        ),
        ({"phases": [SOLVED], "data": {"valid": 2}}, "data.valid = 2: input should be less than 1"),
        (
            {"phases": [SOLVED], "pixels": {"size_px": 8}},
            "pixels.size_px = 8: input should be greater than or equal to 16",
        ),
        (step(mixup=math.nan), "phases.1.mixup = nan: input should be"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(facts: dict[str, Any], said: str) -> None:
    """Where, which value, what would do."""
    assert said in refusal(facts)


CONTRADICTIONS = [
    ({"learns": "tail"}, 'learns = "tail" needs a cut: where the tail starts, or "auto"'),
    ({"learns": "all", "cut": "layer4"}, 'cut = "layer4" is only for learns = "tail"'),
    (
        {"learns": "all", "optimizer": "lbfgs"},
        'optimizer = "lbfgs" solves for the head only: set learns = "head"',
    ),
    (
        SOLVED | {"epochs": 5, "batch": 2},
        'batch, epochs would have no effect with optimizer = "lbfgs"',
    ),
    ({"learns": "all", "views": 4}, 'views cannot be kept where learns = "all": nothing is frozen'),
    (
        {"learns": "head", "views": 4, "frozen_bn": "train"},
        'views cannot be kept with frozen_bn = "train": set views = "live"',
    ),
    ({"learns": "all", "schedule": "step"}, 'schedule = "step" needs step_epochs'),
    (
        {"learns": "all", "step_factor": 0.5},
        'step_epochs and step_factor are only for schedule = "step"',
    ),
    ({"learns": "all", "momentum": 0.9}, 'momentum is only for optimizer = "sgd"'),
    (
        {"learns": "all", "patience": 3, "best": "last"},
        'patience needs best = "log_loss" or "accuracy"',
    ),
    ({"learns": "all", "epochs": 3, "warm_up_epochs": 4}, "warm_up_epochs is longer than epochs"),
    (
        {"learns": "all", "draw": "balanced", "class_weights": "balanced"},
        'draw = "balanced" and class_weights = "balanced" would balance twice',
    ),
]


@pytest.mark.parametrize(("phase", "said"), CONTRADICTIONS)
def test_settings_that_cannot_all_be_meant_are_refused(phase: dict[str, Any], said: str) -> None:
    """In a recipe, where the phase is counted from 1, and from Python alike."""
    assert f"phases.2: {said}" in refusal({"phases": [SOLVED, phase]})
    with pytest.raises(ValidationError, match=re.escape(said)):
        Phase(**phase)


def test_several_contradictions_are_named_together() -> None:
    """In one phase, and in the recipe itself."""
    both = refusal({"phases": [SOLVED, {"learns": "tail", "momentum": 0.5}]})
    assert 'needs a cut: where the tail starts, or "auto"; momentum is only for' in both
    facts = {
        "phases": [SOLVED | {"keep": "always"}],
        "budget_s": 60,
        "data": {"valid": 0.5, "test": 0.5},
    }
    assert refusal(facts) == (
        "data.valid and data.test leave nothing to learn from; budget_s needs phases with keep = "
        '"if_better": only these may be left out'
    )


def test_every_problem_is_named_at_once() -> None:
    """Nobody wants to correct a file five times; the order is that of the file's tables."""
    said = refusal(
        {
            "sed": 3,
            "data": {"valid": 2},
            "phases": [{"learns": "tial", "epochs": 0, "batsh": 3}, {"learns": "tail"}],
        }
    )
    expected = (
        "data.valid = 2",
        "phases.1.learns = 'tial'",
        "phases.1.epochs = 0",
        "no setting phases.1.batsh",
        'phases.2: learns = "tail" needs a cut',
        "no setting sed (did you mean seed?)",
    )
    assert all(words in said for words in expected), said


def test_a_backbone_that_is_not_there_is_said_before_anything_is_done() -> None:
    """With its own error, which suggests the nearest."""
    with pytest.raises(UnknownBackbone, match='no backbone "resnet81"'):
        make_recipe({"phases": [SOLVED], "backbone": "resnet81"}, "mine.toml")


def test_an_empty_list_of_phases_is_refused() -> None:
    """Nothing would be learned."""
    assert refusal({"phases": []}).startswith("phases")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["op", "learns", "augment", "epochs", "cut"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
names = st.sampled_from(["phases", "data", "pixels", "log", "name", "seed", "str", "a[0]", "f(x)"])


@given(st.dictionaries(names | st.text(max_size=4), json_like, max_size=4))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_is_in_a_file_is_understood_or_refused(facts: dict[str, Any]) -> None:
    """Never a traceback, whatever the settings are called and hold."""
    try:
        assert make_recipe(facts, "mine.toml").phases
    except TellapartError as error:
        assert "mine.toml" in str(error) or "backbone" in str(error)


def test_one_wrong_phase_is_said_once() -> None:
    """Nothing is said about how many phases are left."""
    assert refusal({"phases": [{"learns": "all", "epochs": 0}]}) == (
        "phases.1.epochs = 0: input should be greater than or equal to 1"
    )


def test_a_step_of_an_augmentation_is_counted_from_one() -> None:
    """Its settings are known, and a wrong one is placed as people write it."""
    said = refusal(step(augment=[{"op": "resize", "size_px": 64}, {"op": "flip", "horizontl": 1}]))
    assert said == "there is no setting phases.1.augment.2.horizontl (did you mean horizontal?)"


def test_what_can_be_a_word_or_a_number_is_said_once() -> None:
    """Either would do; place and value are named once."""
    assert refusal(step(lr=20)).count("phases.1.lr = 20") == 1


@pytest.mark.parametrize(
    "facts",
    [
        {"phases": [SOLVED], "seed": -1},
        {"phases": [SOLVED], "data": {"seed": -1}},
        step(mixup=math.inf),
        step(cutmix=math.inf),
        step(weight_decay=math.inf),
        step(head_lr_factor=math.inf),
        {"phases": [SOLVED], "budget_s": math.inf},
    ],
)
def test_what_no_generator_or_optimiser_takes_is_refused(facts: dict[str, Any]) -> None:
    """Seeds below zero, and settings without end: before anything is computed."""
    assert "should be" in refusal(facts)


# ---- found


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """All names are listed."""
    with pytest.raises(BadRecipe) as caught:
        load_recipe("atuo")
    everything = ", ".join(recipe.name for recipe in builtin_recipes())
    assert str(caught.value) == (
        "There is no recipe \"atuo\". Did you mean 'auto'? Expected was the path of a .toml file "
        f"or one of: {everything}. Nothing was trained."
    )
    with pytest.raises(BadRecipe, match=r'There is no recipe "zzz"\. Expected was'):
        load_recipe("zzz")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Its path, why, and where others are listed; a folder of that name is no file either."""
    with pytest.raises(BadRecipe) as caught:
        load_recipe(tmp_path / "none.toml")
    assert str(caught.value) == (
        f"The recipe {tmp_path}/none.toml cannot be opened: No such file or directory. Nothing "
        "was trained. Check the path, or choose one of those that `tellapart recipes` lists."
    )
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BadRecipe, match="cannot be opened: Is a directory"):
        load_recipe(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"phases = = 1", r"Invalid value \(at line 1, column 10\)"),
        (b"name = '\xff'", "'utf-8' codec can't decode"),
        (b"seed = 1\nseed = 2", "Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_no_toml_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    """Where in the file it ends to make sense, and how to see one that does."""
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(BadRecipe, match=rf"mine\.toml is no TOML: {why}.*Nothing was trained"):
        load_recipe(file)


def test_a_path_may_start_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every path that people type."""
    load_recipe("fast").save(tmp_path / "mine.toml")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe("~/mine.toml") == load_recipe("fast")


# ---- single settings over a recipe


def test_single_settings_are_replaced() -> None:
    """Dotted, phases and steps counted from 1; the rest of the recipe is as it was."""
    changed = load_recipe(
        "flowers-102",
        {
            "backbone": "resnet34",
            "data.split": "exact",
            "pixels.size_px": 96,
            "phases.2.epochs": 5,
            "phases.1.augment.2.degrees": 10,
        },
    )
    before = load_recipe("flowers-102")
    assert (changed.backbone, changed.data.split) == ("resnet34", "exact")
    assert changed.pixels == before.pixels.model_copy(update={"size_px": 96})
    assert [phase.epochs for phase in changed.phases] == [20, 5]
    assert changed.phases[0].augment[1] == Rotate(degrees=10)
    assert changed.phases[0].augment[2:] == before.phases[0].augment[2:]
    # The recipe that comes with it was not touched.
    assert load_recipe("flowers-102") == before


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("0.5", 0.5), ("auto", "auto"), ('"auto"', "auto")],
)
def test_words_from_the_command_line_become_values(text: str, value: object) -> None:
    """Numbers, and words with or without quotes."""
    assert load_recipe("auto", {"phases.2.lr": text}).phases[1].lr == value


def test_lists_and_flags_from_the_command_line() -> None:
    """As TOML writes them."""
    changed = load_recipe("auto", {"log": '["mlflow"]', "flip_at_test": "true"})
    assert (changed.log, changed.flip_at_test) == (("mlflow",), True)
    assert load_recipe("auto", {"phases.2.augment": "[]"}).phases[1].augment == ()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "phases.3.epochs",
            "The setting phases.3.epochs names no entry: this recipe has 2, counted from 1, and "
            "'3' is not one of them. Nothing was trained.",
        ),
        (
            "phases.0.epochs",
            "The setting phases.0.epochs names no entry: this recipe has 2, counted from 1, and "
            "'0' is not one of them. Nothing was trained.",
        ),
        (
            "phases.epochs",
            "The setting phases.epochs names no entry: this recipe has 2, counted from 1, and "
            "'epochs' is not one of them. Nothing was trained.",
        ),
        ("name.x", "The setting name.x is no setting: name holds a single value."),
    ],
)
def test_a_setting_that_names_nothing_is_refused(key: str, said: str) -> None:
    """Which one, and how many there are."""
    with pytest.raises(BadRecipe) as caught:
        load_recipe("auto", {key: 1})
    assert str(caught.value).startswith(said)


def test_a_setting_over_a_recipe_is_checked_with_it() -> None:
    """What it contradicts there, too."""
    with pytest.raises(BadRecipe, match=r"phases\.2\.epoch \(did you mean epochs\?\)"):
        load_recipe("auto", {"phases.2.epoch": 5})
    with pytest.raises(BadRecipe, match='epochs would have no effect with optimizer = "lbfgs"'):
        load_recipe("auto", {"phases.1.epochs": 5})
    with pytest.raises(BadRecipe, match='budget_s needs phases with keep = "if_better"'):
        load_recipe("facade", {"budget_s": 60})
