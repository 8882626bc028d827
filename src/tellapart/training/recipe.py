"""A recipe: how a classifier is made from labelled pictures, as data. Needs no torch.

It says what the pictures are split into, how they become pixels, which backbone looks at them,
and in which phases the network learns. It is checked when it is made, read from and written to
TOML, and kept in the bundle.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tellapart.backbones.registry import DEFAULT_BACKBONE, find_backbone
from tellapart.data.augmentation import DEFAULT_AUGMENTATION, Augmentation
from tellapart.errors import BadRecipe
from tellapart.files import write_atomically

DEFAULT_RECIPE = "auto"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Settings):
    """Which pictures teach, choose and score.

    Attributes:
        split: "auto": what the folders say, else by content. "none": all teach, none score.
            "exact": a random permutation drawn with `seed`, as `torch.utils.data.random_split`
            does it. "halve-test": the folder given for scoring is cut in two by a random
            permutation, `valid` of it to choose and the rest to score.
        valid, test: shares of the pictures; the rest teaches.
        seed: of the permutation.
        folds: score by so many folds instead of a split: each picture by a classifier that learned
            from the other folds alone, through all phases; the classifier that is written learns
            from all. "auto" refuses pictures that come with splits; "none" puts them together.
        keep_features: whether the bundle carries its pictures' features, for learning again.
    """

    split: Literal["auto", "none", "exact", "halve-test"] = "auto"
    valid: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.15, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    folds: int | None = Field(default=None, ge=2, le=50)
    keep_features: bool = True


class Pixels(_Settings):
    """How a picture becomes the network's input; what is not given is the backbone's own.

    Attributes:
        size_px: side of the input. fit, crop_fraction, interpolation: as in `Preprocessing`.
        normalisation: mean and standard deviation of the channels: "backbone": what it was
            trained with; "imagenet"; "half": 0.5 and 0.5; "measured": of the pictures that
            teach, the deviation as the mean of each picture's own.
    """

    size_px: int | None = Field(default=None, ge=16, le=2048)
    fit: Literal["crop", "squash"] | None = None
    crop_fraction: float | None = Field(default=None, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] | None = None
    normalisation: Literal["backbone", "imagenet", "half", "measured"] = "backbone"


class Phase(_Settings):
    """One stretch of learning: what learns, how, and what is kept of it.

    Attributes:
        learns: "head": the last linear layer. "tail": the network from `cut` on. "all".
        cut: the first part that learns, by its name: `tellapart backbones show NAME` lists
            them. "auto": chosen by the number of pictures.
        optimizer: "lbfgs" solves for the head exactly, its strength chosen out-of-fold; the
            settings below do not apply to it.
        epochs: passes over the pictures. batch: pictures a step.
        accumulate: batches whose gradients are added up before one step.
        lr: rate of the body; "auto": from a range test before the phase starts.
        head_lr_factor: the head learns at this many times `lr`.
        momentum: of "sgd". weight_decay: L2 for "adam" and "sgd", decoupled for "adamw".
        schedule: the rate over the steps. "constant"; "step": times `step_factor` after every
            `step_epochs` epochs; "cosine" down to zero; "one-cycle": up for three tenths, then
            down to nearly zero (Smith and Topin 2018, arXiv:1708.07120).
        warm_up_epochs: first epochs (or part of one) over which the rate rises from zero.
        label_smoothing: share of the target given to all classes alike (Szegedy et al. 2015,
            arXiv:1512.00567).
        class_weights: weigh the loss. "balanced": n / (K * n of the class). "auto": balanced
            where the largest class is over ten times the smallest.
        draw: "shuffled"; "balanced": each class as often as any other; "in-order".
        augment: what random views change, step by step; see `tellapart.data.augmentation`.
        views: how many random views of each picture are kept, besides the plain one. "live":
            a new view every epoch, through the whole network. None: 4 for a tail, else "live".
        mixup, cutmix: alpha of the Beta distribution they mix with, 0 for none (Zhang et al.
            2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899); with both, each batch
            tosses a coin.
        ema: decay a step of the running average of weights that is judged and kept, 0: none.
        patience: stop after so many epochs without a better `best`; None: never.
        best: what is judged on valid: "log_loss" at the temperature that suits it best, "loss"
            as it is, "accuracy"; or "last": the last epoch.
        keep: "if_better": only if, on valid, log loss fell and accuracy did not; with
            best = "accuracy", only if that rose. "always".
        frozen_bn: "eval": frozen batch-norm keeps its statistics. "train": they move with each
            batch, which rules out keeping anything: the phase runs live.
        bn: batch-norm in the part that learns: "eval": keeps its statistics, which suits small
            batches and kept views. "train": takes and updates them with each batch.
        start: what the head starts from: "kept": as it is. "xavier": new, Glorot-uniform.
            "new": new, as a linear layer comes.
    """

    learns: Literal["head", "tail", "all"]
    cut: str | None = None
    optimizer: Literal["lbfgs", "adam", "adamw", "sgd"] = "adamw"
    epochs: int = Field(default=12, ge=1, le=10_000)
    batch: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: Annotated[float, Field(gt=0, le=10)] | Literal["auto"] = 4e-4
    head_lr_factor: float = Field(default=1.0, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    step_epochs: int | None = Field(default=None, ge=1)
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    warm_up_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced", "auto"] = "none"
    draw: Literal["shuffled", "balanced", "in-order"] = "shuffled"
    augment: Augmentation = DEFAULT_AUGMENTATION
    views: Annotated[int, Field(ge=0, le=64)] | Literal["live"] | None = None
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    best: Literal["log_loss", "loss", "accuracy", "last"] = "log_loss"
    keep: Literal["if_better", "always"] = "if_better"
    frozen_bn: Literal["eval", "train"] = "eval"
    bn: Literal["eval", "train"] = "eval"
    start: Literal["kept", "xavier", "new"] = "kept"

    @property
    def solved(self) -> bool:
        """Whether the head is solved for exactly instead of stepping towards it."""
        return self.optimizer == "lbfgs"

    @property
    def moves_body(self) -> bool:
        """Whether anything but the head changes, be it statistics of frozen layers alone."""
        return self.learns != "head" or self.frozen_bn == "train"

    @property
    def kept_views(self) -> int | None:
        """Random views of each picture that are kept; None where the phase runs live."""
        if self.solved:
            return 0
        if self.views == "live" or self.learns == "all" or self.frozen_bn == "train":
            return None
        return 4 if self.views is None else self.views

    @model_validator(mode="after")
    def _agrees(self) -> Phase:
        wrong = list(_contradictions(self))
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def _contradictions(phase: Phase) -> Iterator[str]:
    """Name the settings of a phase that cannot all be meant."""
    fields = type(phase).model_fields.items()
    given = {name for name, field in fields if getattr(phase, name) != field.default}
    yield from _contradicts_what_learns(phase, given)
    if phase.schedule == "step" and phase.step_epochs is None:
        yield 'schedule = "step" needs step_epochs'
    if phase.schedule != "step" and {"step_epochs", "step_factor"} & given:
        yield 'step_epochs and step_factor are only for schedule = "step"'
    if "momentum" in given and phase.optimizer != "sgd":
        yield 'momentum is only for optimizer = "sgd"'
    if phase.patience is not None and phase.best == "last":
        yield 'patience needs best = "log_loss" or "accuracy"'
    if phase.warm_up_epochs > phase.epochs:
        yield "warm_up_epochs is longer than epochs"
    if phase.draw == "balanced" and phase.class_weights == "balanced":
        yield 'draw = "balanced" and class_weights = "balanced" would balance twice'


def _contradicts_what_learns(phase: Phase, given: set[str]) -> Iterator[str]:
    """Name the settings that cannot be meant for the part of the network that learns."""
    if phase.learns == "tail" and phase.cut is None:
        yield 'learns = "tail" needs a cut: where the tail starts, or "auto"'
    if phase.learns != "tail" and phase.cut is not None:
        yield f'cut = "{phase.cut}" is only for learns = "tail"'
    if phase.solved:
        if phase.learns != "head":
            yield 'optimizer = "lbfgs" solves for the head only: set learns = "head"'
        idle = sorted(given - {"learns", "cut", "optimizer", "keep"})
        if idle:
            yield f'{", ".join(idle)} would have no effect with optimizer = "lbfgs"'
    if isinstance(phase.views, int) and phase.learns == "all":
        yield 'views cannot be kept where learns = "all": nothing is frozen'
    if isinstance(phase.views, int) and phase.frozen_bn == "train":
        yield 'views cannot be kept with frozen_bn = "train": set views = "live"'


def _contradicts_folds(data: Data, cut_short: bool) -> Iterator[str]:
    """Name what cannot be meant together with folds. cut_short: phases may lack time."""
    if data.folds is None:
        return
    if data.split in ("exact", "halve-test"):
        yield (
            f'data.folds and data.split = "{data.split}" exclude each other: set data.split = '
            f'"auto", or leave folds out'
        )
    if cut_short:
        yield (
            "data.folds and budget_s exclude each other where phases learn by steps: folds with "
            "less time than others cannot be compared. Leave one of them out, or let the head "
            "alone learn (--recipe fast)"
        )


class Recipe(_Settings):
    """How a classifier is made: data, pixels, backbone, and phases in their order.

    Attributes:
        name, about: for people.
        backbone: see `tellapart backbones`.
        weights: "pretrained", "none" (random: to learn from nothing, or to try things out), or
            the path of a file.
        seed: of everything random but the split. Same seed, machine and versions: same result.
        flip_at_test: average the features of each picture and its mirror, inside the graph.
        kept_gb: how much disk kept views may take; beyond it there are fewer views, or a later
            cut.
        budget_s: seconds that the whole training may take; None: as long as the phases say.
        log: where else the history goes: "tensorboard", "mlflow".
        accept: accuracy wanted among the pictures that get an answer; others are called unsure.
        level: share of the pictures whose candidates hold their class.
    """

    name: str = "custom"
    about: str = ""
    backbone: str = DEFAULT_BACKBONE
    weights: str = "pretrained"
    seed: int = Field(default=0, ge=0, lt=2**63)
    flip_at_test: bool = False
    kept_gb: float = Field(default=8.0, gt=0)
    budget_s: float | None = Field(default=None, gt=0)
    log: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    accept: float = Field(default=0.95, gt=0, lt=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    data: Data = Data()
    pixels: Pixels = Pixels()
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        wrong = []
        if self.data.valid + self.data.test >= 1:
            wrong.append("data.valid and data.test leave nothing to learn from")
        wrong += _contradicts_folds(self.data, self.budget_s is not None and not self.probe_only)
        if self.budget_s is not None and any(phase.keep == "always" for phase in self.phases):
            wrong.append(
                'budget_s needs phases with keep = "if_better": only these may be left out'
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def probe_only(self) -> bool:
        """Whether no phase but the exact solution for the head is asked for."""
        return all(phase.solved for phase in self.phases)

    @property
    def looked_through(self) -> Phase | None:
        """The tail phase on the way to which features are computed; None where there is none.

        It learns on the network as it came. Features of mirrored pictures are of two views, and
        what it keeps is of one.
        """
        first = next((phase for phase in self.phases if not phase.solved), None)
        return first if first and first.learns == "tail" and not self.flip_at_test else None

    def facts(self) -> dict[str, Any]:
        """Return the settings as plain types; those left at None are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Write the recipe as TOML that `load_recipe` reads back; defaults are left out."""
        facts = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return tomli_w.dumps({"name": self.name} | facts)

    def save(self, path: Path) -> None:
        """Write the recipe to a TOML file.

        Raises:
            DiskFull, NotWritable.
        """
        write_atomically(path, self.to_toml())


def builtin_recipes() -> tuple[Recipe, ...]:
    """Return the recipes that come with tellapart, the default first."""
    found = [
        make_recipe(tomllib.loads(file.read_text("utf-8")), file.name)
        for file in files("tellapart.training").joinpath("recipes").iterdir()
        if file.name.endswith(".toml")
    ]
    return tuple(sorted(found, key=lambda recipe: (recipe.name != DEFAULT_RECIPE, recipe.name)))


def load_recipe(name: str | Path, settings: Mapping[str, Any] | None = None) -> Recipe:
    """Return a built-in recipe, or read one from a TOML file, with single settings replaced.

    settings: dotted name -> value, such as {"backbone": "resnet18", "phases.2.epochs": 5};
        phases are counted from 1. A value that is text is read as TOML where it can be.

    Raises:
        BadRecipe: no such recipe, or settings that are unknown, wrong or contradict each other.
    """
    facts = _read(str(name))
    for key, value in (settings or {}).items():
        _replace(facts, key, value)
    return make_recipe(facts, str(name))


def make_recipe(facts: Mapping[str, Any], source: str) -> Recipe:
    """Check the settings of a recipe, all of them at once.

    Raises:
        BadRecipe: with every setting that is unknown or wrong.
    """
    try:
        recipe = Recipe.model_validate(facts)
    except ValidationError as error:
        problems = "; ".join(_problems(error))
        raise BadRecipe(
            f"The recipe {source} cannot be used: {problems}. Nothing was trained. "
            f"Correct these settings; `tellapart recipes show {DEFAULT_RECIPE}` prints a whole one."
        ) from error
    find_backbone(recipe.backbone)
    return recipe


def _read(name: str) -> dict[str, Any]:
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        builtin = {recipe.name: recipe for recipe in builtin_recipes()}
        if name in builtin:
            return builtin[name].model_dump(mode="json", exclude_unset=True)
        near = difflib.get_close_matches(name, builtin, n=1)
        raise BadRecipe(
            f'There is no recipe "{name}".{f" Did you mean {near[0]!r}?" if near else ""} Expected '
            f"was the path of a .toml file or one of: {', '.join(builtin)}. Nothing was trained."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRecipe(
            f"The recipe {path} cannot be opened: {error.strerror}. Nothing was trained. Check the "
            f"path, or choose one of those that `tellapart recipes` lists."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(
            f"The recipe {path} is no TOML: {error}. Nothing was trained. "
            f"`tellapart recipes show {DEFAULT_RECIPE}` prints one that is."
        ) from error


def _replace(facts: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted setting in nested tables and lists."""
    *path, last = key.split(".")
    place: Any = facts
    for part in path:
        if isinstance(place, list):
            place = place[_index(place, part, key)]
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, list | dict):
            raise BadRecipe(f"The setting {key} is no setting: {part} holds a single value.")
    value = _value(value) if isinstance(value, str) else value
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    if part.isdecimal() and 1 <= int(part) <= len(items):
        return int(part) - 1
    raise BadRecipe(
        f"The setting {key} names no entry: this recipe has {len(items)}, counted from 1, and "
        f"{part!r} is not one of them. Nothing was trained."
    )


def _value(text: str) -> Any:
    """Read a value given on the command line: TOML where it is some, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _problems(error: ValidationError) -> list[str]:
    """Say each of pydantic's findings in words; one setting's several are put together."""
    found = error.errors()
    if any(one["loc"][:2] == ("phases", 0) for one in found):
        # A phase that is wrong is also said to be missing.
        found = [one for one in found if one["type"] != "too_short"]
    by_place: dict[str, list[str]] = {}
    for one in found:
        start, text = _problem(one)
        by_place.setdefault(start, []).append(text)
    return [start + " or ".join(dict.fromkeys(texts)) for start, texts in by_place.items()]


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    """Say where and what is wrong, with the nearest name for an unknown setting."""
    place, known = _place(error["loc"], error["type"] == "extra_forbidden")
    where = ".".join(place)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else f" (known are {', '.join(known)})"
        return f"there is no setting {where}", hint
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in ("value_error", "missing"):
        return f"{where}: " if where else "", text
    hint = ""
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        choices = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(error["input"], choices, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{where} = {error['input']!r}: ", f"{text[:1].lower()}{text[1:]}{hint}"


def _place(location: tuple[Any, ...], unknown: bool) -> tuple[list[str], list[str]]:
    """Write a place in a recipe as people do, counted from 1; return the settings known there too.

    pydantic also names the branches of unions on the way; what is no setting is left out.
    unknown: the last part is a setting that there is none of.
    """
    place: list[str] = []
    models: list[type[BaseModel]] = [Recipe]
    for number, part in enumerate(location):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if unknown and number == len(location) - 1:
            place.append(str(part))
        elif isinstance(part, int):
            place.append(str(part + 1))
        elif fields:
            place.append(part)
            models = [inner for field in fields for inner in _models(field.annotation)]
        else:
            # The name of a step, where several kinds are possible.
            named = [
                m for m in models if "op" in m.model_fields and m.model_fields["op"].default == part
            ]
            models = named or models
    return place, [name for model in models for name in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Find the tables that a type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, list, Union, types.UnionType, Annotated):
        for inner in get_args(annotation):
            yield from _models(inner)
