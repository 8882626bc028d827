"""The pages of `inspect`: of a set of pictures with what is wrong, and of one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tellapart.evaluation.pages import page_template


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: a WebP or JPEG file, what it is called, its class and split."""

    picture: bytes
    name: str
    label: str = ""
    split: str = ""


@dataclass(frozen=True)
class Example:
    """Pictures that a finding is about together, and a word on them."""

    pictures: Sequence[Thumbnail]
    note: str = ""
    n_more: int = 0


@dataclass(frozen=True)
class Section:
    """A finding: what, what to do, examples as pictures or as lines, and how many more."""

    kind: str
    headline: str
    advice: str
    examples: Sequence[Example]
    lines: Sequence[str]
    n_more: int


@dataclass(frozen=True)
class ClassSheet:
    """Some pictures of a class, and how many there are, by split."""

    name: str
    counts: Mapping[str, int]
    pictures: Sequence[Thumbnail]

    @property
    def n(self) -> int:
        """Pictures in all splits."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Diagnosis:
    """All that the page of a set shows. light: how many pictures are how bright, dark first."""

    title: str
    understood: str
    notes: Sequence[str]
    facts: Mapping[str, str]
    colour: tuple[int, int, int]
    light: Sequence[int]
    sections: Sequence[Section]
    sheets: Sequence[ClassSheet]
    splits: Sequence[str]
    cleaned: Sequence[str] = ()


@dataclass(frozen=True)
class Channel:
    """One picture, or one channel of it as grey, and its name."""

    name: str
    picture: bytes


def render_diagnosis(shown: Diagnosis) -> str:
    """Return the page of a set of pictures; it opens offline."""
    most = max([*(sheet.n for sheet in shown.sheets), 1])
    tallest = max([*shown.light, 1])
    bars = [round(100 * n / tallest, 1) for n in shown.light]
    return page_template("inspect.html.jinja").render(shown=shown, most=most, bars=bars)


def render_picture(
    title: str,
    channels: Sequence[Channel],
    facts: Mapping[str, str],
    exif: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """Return the page of one picture with its channels; it opens offline."""
    return page_template("picture.html.jinja").render(
        title=title, channels=channels, facts=facts, exif=exif, notes=notes
    )
