"""How format_2.tellapart was made; kept for the record, and to be run again only by mistake.

The stored file is what counts: it must open in every later version. It is the stored bundle of
format 1 with rules for its decisions, and with what tells pictures that belong to no class.

    python tests/bundle/formats/make_format_2.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tellapart.bundle.bundle import open_bundle, write_bundle
from tellapart.evaluation.decision import GRID, Rules, TradePoint, with_accept
from tellapart.evaluation.familiarity import Familiar

# As if of 400 pictures: the looser the threshold, the more answers, and the more are wrong.
TRADE = tuple(
    TradePoint(threshold, 160 + 8 * row, 160 + 8 * row - row**2 // 24)
    for row, threshold in enumerate(GRID)
)
RULES = with_accept(
    Rules(masses=(0.6, 0.0), sets_promised=True, strange_above=12.0, n=400, trade=TRADE), 0.9
)
# Classes at blue, green and red; usual: a confidence of 95 %, a cosine of 0.9.
FAMILIAR = Familiar(
    centre=np.full(3, 1 / 3, dtype=np.float32),
    directions=np.array([[1], [0], [0]], dtype=np.float16),
    stretch=np.zeros(1, dtype=np.float32),
    prototypes=(np.array([[-1, -1, 2], [-1, 2, -1], [2, -1, -1]]) / 6**0.5).astype(np.float16),
    usual=np.array([3.0, 1.0, 0.9, 0.1], dtype=np.float32),
)


def make(path: Path) -> None:
    """Write the bundle."""
    old = open_bundle(Path(__file__).with_name("format_1.tellapart"))
    calibration = old.manifest.calibration.model_copy(update={"rules": RULES})
    manifest = old.manifest.model_copy(update={"calibration": calibration})
    page = old.report.replace("format 1", "format 2")
    write_bundle(path, manifest, old.graph, old.weights, old.features, page, FAMILIAR)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
