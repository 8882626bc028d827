"""Looking closer before training: a network's parts, and the rate that suits a phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tellapart.backbones.registry import find_backbone
from tellapart.data.reading import AnyData, data_name, read_catalog
from tellapart.data.stored import kept_copies
from tellapart.errors import BadRecipe, MissingExtra
from tellapart.evaluation.curves import rate_test_png
from tellapart.files import check_writable, write_atomically
from tellapart.pipeline.training import open_source, open_tuner, prepare
from tellapart.progress import Progress
from tellapart.training.recipe import DEFAULT_RECIPE, Recipe

if TYPE_CHECKING:
    from tellapart.backbones.structure import Structure


@dataclass(frozen=True)
class FoundRate:
    """What a range test found. rates, losses: tried in rising order, the loss smoothed."""

    phase: int
    suggested: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    plot: Path

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return asdict(self) | {"plot": str(self.plot)}


@kept_copies()
def find_rate(
    data: AnyData,
    plot: str | Path | None = None,
    *,
    recipe: Recipe | str | Path = DEFAULT_RECIPE,
    settings: Mapping[str, Any] | None = None,
    phase: int | None = None,
    rates: tuple[float, float, int] = (1e-7, 1.0, 100),
    device: str = "auto",
    progress: Progress | None = None,
) -> FoundRate:
    """Find a rate for a phase as it would begin after the recipe's first solution for the head.

    plot: the PNG to draw. phase: its number, from 1; None: the first that has a rate.
    rates: the smallest, the largest, and how many are tried.

    Raises:
        TellapartError: as `train` would; BadRecipe: the phase has no rate to find.
    """
    progress = progress or Progress()
    target = Path(plot) if plot else Path.cwd() / f"{data_name(data)}-lr.png"
    check_writable(target)
    source = open_source(data, target, recipe, settings, None, progress)
    phases = source.recipe.phases
    numbers = [number for number, one in enumerate(phases, start=1) if not one.solved]
    number = phase or next(iter(numbers), 0)
    if number not in numbers:
        raise BadRecipe(
            f"Phase {number or 1} of the recipe {source.recipe.name} has no rate to find: expected "
            f"one that learns by steps ({', '.join(map(str, numbers)) or 'it has none'}). Nothing "
            f"was done. Choose one with --phase, or another recipe with --recipe."
        )
    stand = prepare(source, device, progress)
    tuner = open_tuner(source, stand, progress)
    tuner.begin_like(number, phases)
    found = tuner.rate_test(phases[number - 1], *rates)
    write_atomically(target, rate_test_png(found.rates, found.losses, found.suggested))
    return FoundRate(number, found.suggested, found.rates, found.losses, target)


@dataclass(frozen=True)
class ShownStructure:
    """A network as it comes and, with pictures, with a head for their classes."""

    before: Structure
    after: Structure | None

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after) if self.after else None,
        }

    def text(self) -> str:
        """Lay the structures out for a terminal."""
        from tellapart.backbones.structure import text

        shown = text(self.before)
        return shown if self.after is None else f"{shown}\n\nWith the new head:\n{text(self.after)}"


def show_structure(
    name: str, data: AnyData | None = None, *, cut: str | None = None, size_px: int | None = None
) -> ShownStructure:
    """Describe a network's parts and cuts; data: pictures whose classes the head is shown for.

    Raises:
        UnknownBackbone, UnknownCut, MissingExtra; DataError for the pictures.
    """
    backbone = find_backbone(name)
    try:
        from tellapart.backbones.network import build_network
        from tellapart.backbones.structure import describe
    except ImportError as error:
        raise MissingExtra(
            "Looking into a network needs PyTorch, which is not installed. "
            "Install it with: pip install 'tellapart[train]'"
        ) from error
    network = build_network(backbone, None)
    side = max(size_px or backbone.preprocessing.size_px, backbone.min_size_px)
    before = describe(network, side, cut, "tail")
    if data is None:
        return ShownStructure(before, None)
    network.new_head(len(read_catalog(data).classes))
    return ShownStructure(before, describe(network, side, cut, "tail"))
