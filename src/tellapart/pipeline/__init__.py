"""The stages joined: the only place that sees them all. Each file is one command's story."""

from tellapart.pipeline.comparing import Comparison, compare
from tellapart.pipeline.inspecting import Inspection, check_findings, check_kinds, inspect
from tellapart.pipeline.looking import FoundRate, ShownStructure, find_rate, show_structure
from tellapart.pipeline.minimums import check_minimums
from tellapart.pipeline.outcome import TrainResult
from tellapart.pipeline.rehearsal import Rehearsal, rehearse
from tellapart.pipeline.scoring import Evaluation, evaluate
from tellapart.pipeline.showing import Sheet, show
from tellapart.pipeline.sorting import plan_sorting, write_contact_sheet
from tellapart.pipeline.training import train

__all__ = [
    "Comparison",
    "Evaluation",
    "FoundRate",
    "Inspection",
    "Rehearsal",
    "Sheet",
    "ShownStructure",
    "TrainResult",
    "check_findings",
    "check_kinds",
    "check_minimums",
    "compare",
    "evaluate",
    "find_rate",
    "inspect",
    "plan_sorting",
    "rehearse",
    "show",
    "show_structure",
    "train",
    "write_contact_sheet",
]
