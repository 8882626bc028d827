"""The stages joined: the only place that sees them all. Each file is one command's story."""

from tellapart.pipeline.comparing import Comparison, compare
from tellapart.pipeline.features import Answer, Written, find_similar, write_features
from tellapart.pipeline.grouping import Grouped, group
from tellapart.pipeline.inspecting import Inspection, check_findings, check_kinds, inspect
from tellapart.pipeline.launching import start_processes
from tellapart.pipeline.looking import FoundRate, ShownStructure, find_rate, show_structure
from tellapart.pipeline.minimums import check_minimums
from tellapart.pipeline.naming import plan_named
from tellapart.pipeline.outcome import TrainResult
from tellapart.pipeline.rehearsal import Rehearsal, rehearse
from tellapart.pipeline.relearning import Relearned, learn_again, learning_in_words, undo_learning
from tellapart.pipeline.scoring import Evaluation, evaluate
from tellapart.pipeline.showing import Sheet, show
from tellapart.pipeline.sorting import plan_sorting, write_contact_sheet
from tellapart.pipeline.training import train

__all__ = [
    "Answer",
    "Comparison",
    "Evaluation",
    "FoundRate",
    "Grouped",
    "Inspection",
    "Rehearsal",
    "Relearned",
    "Sheet",
    "ShownStructure",
    "TrainResult",
    "Written",
    "check_findings",
    "check_kinds",
    "check_minimums",
    "compare",
    "evaluate",
    "find_rate",
    "find_similar",
    "group",
    "inspect",
    "learn_again",
    "learning_in_words",
    "plan_named",
    "plan_sorting",
    "rehearse",
    "show",
    "show_structure",
    "start_processes",
    "train",
    "undo_learning",
    "write_contact_sheet",
    "write_features",
]
