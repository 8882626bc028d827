"""The manifest: every fact of a bundle that is not an array, checked when read.

FORMAT is the number of the bundle's layout. To change the layout:
1. raise FORMAT, and write below what changed;
2. teach `bundle.open_bundle` to read the previous number still, by turning an old manifest into
   a new one before it is checked (one function a step, `upgrade_1_to_2`, never edited later);
3. add one stored bundle of the previous format to tests/bundle/formats/.

Formats:
1  manifest.json, graph.onnx, weights.safetensors, features.safetensors (may be left out),
   report.html; zip without compression; SHA-256 of every member in the manifest.
2  calibration.rules: when a picture is answered, and its candidates; familiar.safetensors (may be
   left out): what tells pictures that belong to no class; graph-int8.onnx (may be left out) and
   `int8`: the graph in 8 bits, and what that costs and gains.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tellapart.data.pixels import Preprocessing
from tellapart.evaluation.decision import Rules

FORMAT = 2


class Calibration(BaseModel):
    """How logits become probabilities, softmax(logits / temperature), and these decisions.

    fitted_on: which pictures temperature and rules were fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    fitted_on: Literal["out-of-fold", "valid", "nothing"]
    rules: Rules = Rules()


class Int8(BaseModel):
    """How the 8-bit graph was made, and what it costs and gains, measured when it was made.

    Attributes:
        n_calibration: training pictures that its ranges were taken from.
        n: pictures that the others were measured on; split: whose they are, None if not known.
        accuracy: share that was right in 32, 16 and 8 bits ("f32", "bf16", "int8"); None where
            the pictures have no labels.
        agreement: share of pictures to which 8 bits give the same class as 32.
        largest_difference: of any probability between 8 and 32 bits.
        pictures_per_s: network alone, in 32, 16 and 8 bits, on the machine that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_calibration: int
    n: int
    split: str | None
    accuracy: dict[str, float] | None
    agreement: float
    largest_difference: float
    pictures_per_s: dict[str, float]


class Manifest(BaseModel):
    """Facts of a trained classifier. `classes` is the order of every array of size K."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    classes: tuple[str, ...] = Field(min_length=2)
    display_names: dict[str, str] = {}
    preprocessing: Preprocessing
    backbone: str
    backbone_licence: str
    weights_origin: str
    calibration: Calibration
    runtime: str
    recipe: dict[str, Any]
    scores: dict[str, Any] | None
    data: dict[str, Any]
    versions: dict[str, str]
    made_on: str
    sha256: dict[str, str] = {}
    int8: Int8 | None = None

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def shown(self) -> tuple[str, ...]:
        """What people call the classes, in class order."""
        return tuple(self.display_names.get(name, name) for name in self.classes)


def upgrade_1_to_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Turn a manifest of format 1 into one of format 2: nothing is promised about its answers."""
    rules = {
        "accept": 0.95,
        "threshold": 0.95,
        "promised": False,
        "level": 0.95,
        "masses": [0.95, 0.95],
        "sets_promised": False,
        "strange_above": None,
        "n": 0,
        "trade": [],
    }
    calibration = facts.get("calibration")
    if isinstance(calibration, dict):
        # Whatever else is wrong with it is said where the manifest is checked.
        facts = facts | {"calibration": calibration | {"rules": rules}}
    return facts | {"format": 2}
