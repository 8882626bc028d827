"""Sheets of pictures, as they enter the network or as they would be sorted: pages for offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.data.thumbnails import jpeg
from tellapart.evaluation.pages import page_template


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One picture: its class, its file, and (S, S, 3) uint8 views of it, the plain one first."""

    name: str
    path: str
    views: Sequence[NDArray[np.uint8]]


def render_sheet(title: str, about: str, rows: Sequence[SheetRow]) -> str:
    """Return the page. Pixels are shown as they are before the graph normalises them."""
    pictures = [
        {"name": row.name, "path": row.path, "views": [jpeg(view, 85) for view in row.views]}
        for row in rows
    ]
    return page_template("sheet.html.jinja").render(title=title, about=about, rows=pictures)


@dataclass(frozen=True)
class Contact:
    """One picture of a contact sheet: a small JPEG, its file's name, and what is said about it."""

    thumbnail: bytes
    name: str
    note: str


@dataclass(frozen=True)
class ContactGroup:
    """The pictures that go to one folder, and how many there are in all."""

    name: str
    about: str
    unsure: bool
    pictures: Sequence[Contact]


def render_contact_sheet(
    title: str,
    about: str,
    groups: Sequence[ContactGroup],
    notes: Sequence[str],
    what: str = "what would go where",
) -> str:
    """Return a page that shows what would go where, or what else there is; it opens offline."""
    return page_template("contact.html.jinja").render(
        title=title, about=about, groups=groups, notes=notes, what=what
    )
