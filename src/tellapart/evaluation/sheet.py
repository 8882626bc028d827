"""A sheet of pictures as they enter the network: one HTML page that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One picture: its class, its file, and (S, S, 3) uint8 views of it, the plain one first."""

    name: str
    path: str
    views: Sequence[NDArray[np.uint8]]


def render_sheet(title: str, about: str, rows: Sequence[SheetRow]) -> str:
    """Return the page. Pixels are shown as they are before the graph normalises them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tellapart", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    pictures = [
        {"name": row.name, "path": row.path, "views": [_data_uri(view) for view in row.views]}
        for row in rows
    ]
    template = environment.get_template("sheet.html.jinja")
    return template.render(title=title, about=about, rows=pictures)


def _data_uri(view: NDArray[np.uint8]) -> str:
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(view), quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


@dataclass(frozen=True)
class Contact:
    """One picture of a contact sheet: a data URI, its file's name, and what is said about it."""

    uri: str
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
    title: str, about: str, groups: Sequence[ContactGroup], notes: Sequence[str]
) -> str:
    """Return a page that shows what would go where; it opens offline."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tellapart", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    template = environment.get_template("contact.html.jinja")
    return template.render(title=title, about=about, groups=groups, notes=notes)
