"""The stages joined: the only place that sees them all. Each file is one command's story."""

from tellapart.pipeline.comparing import Comparison, compare
from tellapart.pipeline.looking import FoundRate, ShownStructure, find_rate, show_structure
from tellapart.pipeline.minimums import check_minimums
from tellapart.pipeline.outcome import TrainResult
from tellapart.pipeline.rehearsal import Rehearsal, rehearse
from tellapart.pipeline.scoring import Evaluation, evaluate
from tellapart.pipeline.showing import Sheet, show
from tellapart.pipeline.training import train

__all__ = [
    "Comparison",
    "Evaluation",
    "FoundRate",
    "Rehearsal",
    "Sheet",
    "ShownStructure",
    "TrainResult",
    "check_minimums",
    "compare",
    "evaluate",
    "find_rate",
    "rehearse",
    "show",
    "show_structure",
    "train",
]
