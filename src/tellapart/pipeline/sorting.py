"""A gallery sorted by what is on its pictures: looked at, planned, and shown before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tellapart.data.catalog import tell_not_entered
from tellapart.data.thumbnails import jpeg, shrunk
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.sheet import Contact, ContactGroup, render_contact_sheet
from tellapart.files import write_atomically
from tellapart.inference.classifier import Classifier
from tellapart.inference.sorting import (
    UNSURE,
    How,
    Plan,
    Step,
    Verdict,
    check_layout,
    find_gallery,
    plan_sort,
)
from tellapart.progress import Progress
from tellapart.stores import place

# Pictures a class on the contact sheet, and their longer side.
SHOWN = 12
SHOWN_PX = 160

DONE = {"move": "moved", "copy": "copied", "hardlink": "hard-linked", "symlink": "linked"}


def plan_sorting(
    classifier: Classifier,
    gallery: str | Path,
    into: str | Path,
    *,
    how: How = "move",
    layout: str = "class",
    min_confidence: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Look at every picture of a gallery and decide where it goes. Nothing is touched.

    Unsure is what the classifier calls so, and what lies below min_confidence.

    Raises:
        SortRefused: the folders do not go together, or the layout is none.
    """
    progress = progress or Progress("quiet")
    gallery, into = place(gallery), place(into)
    check_layout(layout)
    paths, aside = find_gallery(gallery.absolute(), into.absolute())

    def verdicts() -> Iterator[Verdict]:
        with progress.bar("Looking", len(paths), "pictures") as advance:
            for one in classifier.stream(paths, top=1):
                low = min_confidence is not None and (one.confidence or 0.0) < min_confidence
                yield Verdict(one.path, one.label, one.confidence, one.unsure or low, one.error)
                advance(1)

    plan = plan_sort(verdicts(), gallery, into, how, layout)
    tell_not_entered(aside, progress)
    return plan


def write_contact_sheet(plan: Plan, path: Path) -> None:
    """Write a page with some pictures of each class, those it is least sure of first.

    Raises:
        DiskFull, NotWritable.
    """
    groups = []
    for name, steps in plan.groups().items():
        pictures = [step for step in steps if step.verdict is not None]
        doubtful = sorted(pictures, key=_confidence)
        about = f"{len(pictures)} pictures"
        if len(pictures) > SHOWN:
            about += f"; the {SHOWN} least sure ones" if plan.judged else f"; {SHOWN} of them"
        groups.append(ContactGroup(name, about, name == UNSURE, _contacts(doubtful)))
    unsure = sum(step.group == UNSURE and step.verdict is not None for step in plan.steps)
    about = (
        f"{plan.n_pictures} pictures of {plan.gallery} would be {DONE[plan.how]} into {plan.into}"
    )
    if plan.judged:
        about += f", {unsure} of them into {UNSURE}"
    about += f". {len(plan.left)} stay where they are." if plan.judged or plan.left else "."
    page = render_contact_sheet(plan.into.name, about, groups, plan.notes)
    write_atomically(path, page, "choose another place with --sheet")


def _contacts(steps: Sequence[Step]) -> list[Contact]:
    found = []
    for step in steps:
        try:
            small = jpeg(shrunk(step.source, SHOWN_PX))
        except UnreadablePicture:  # Gone meanwhile; the sort itself will say so.
            continue
        verdict = step.verdict
        sure = f"{verdict.confidence:.0%}" if verdict and verdict.confidence is not None else ""
        label = f"{verdict.label}, {sure}" if verdict and step.group == UNSURE else sure
        found.append(Contact(small, Path(step.source).name, label))
        if len(found) == SHOWN:
            break
    return found


def _confidence(step: Step) -> float:
    return step.verdict.confidence or 0.0 if step.verdict else 0.0
