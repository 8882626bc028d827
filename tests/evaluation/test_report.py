"""The report: one safe file that opens offline and can be read everywhere."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.inspection import Finding
from tellapart.evaluation.calibration import softmax
from tellapart.evaluation.charts import HEIGHT, WIDTH, line_chart
from tellapart.evaluation.report import (
    Calibration,
    Mistake,
    ProbePoint,
    Report,
    percent,
    render,
    worst_mistakes,
)
from tellapart.evaluation.scores import score

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SPACE = "\N{NO-BREAK SPACE}"
ODD_NAMES = ("<script>alert('x')</script>", "向日葵", "وردة", 'a "quoted" & ' + "very_long_" * 20)


def thumbnail(seed: int) -> bytes:
    """Return a JPEG of noise, the kind that compresses worst."""
    pixels = np.random.default_rng(seed).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=80)
    return target.getvalue()


def example(k: int, names: tuple[str, ...] = ()) -> Report:
    """Return a report with every section, on `k` classes of which the first have `names`."""
    rng = np.random.default_rng(k)
    classes = names + tuple(f"class {i}" for i in range(len(names), k))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, 20 * k)])
    logits = rng.normal(size=(len(labels), k)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 1.5
    probs = softmax(logits)
    rows = worst_mistakes(probs, labels)
    strengths = np.logspace(-3, 2, 6).tolist()
    return Report(
        title="Flowers <told> apart",
        made_on="2026-03-01T12:30:00+00:00",
        summary=("It was right about most of the pictures.",),
        classes=classes,
        counts={"train": tuple(range(k)), "test": tuple(np.bincount(labels).tolist())},
        scores=score(probs, labels, classes),
        scored_split="test",
        findings=(
            Finding(
                "set_aside", 2, "2 files are no pictures", ("a/b.jpg: <html>", "a/c.jpg: empty")
            ),
        ),
        mistakes=tuple(
            Mistake(
                path=f"test/{row}.jpg",
                actual=classes[labels[row]],
                predicted=classes[probs[row].argmax()],
                confidence=float(probs[row].max()),
                thumbnail_jpeg=thumbnail(row),
            )
            for row in rows
        ),
        probe_path=tuple(ProbePoint(l2, 0.3 + l2 / 100, 0.9, l2 == 1.0) for l2 in strengths),
        calibration=Calibration(1.25, 0.034, 0.011, "out-of-fold inside train"),
        speed_s={"features": 83.0, "head": 1.5},
        pictures_per_s=231.4,
        facts={"backbone": "efficientnet_lite0"},
    )


class Page(HTMLParser):
    """What a browser would do with the page: its elements, its addresses, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element and whatever in it could be fetched."""
        self.tags.append(tag)
        fetched = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
        self.addresses += [value or "" for name, value in attrs if name in fetched]

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data


@pytest.mark.parametrize("k", [2, 6, 21, 102])
def test_page_loads_nothing_from_outside(k: int) -> None:
    """Every address is inside the page, there is no script, and the page forbids requests."""
    html = render(example(k))
    page = Page(html)
    assert page.addresses
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == []
    assert not {"script", "iframe", "object", "form"} & set(page.tags)
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("k", [4, 30])
def test_names_are_text_never_html(k: int) -> None:
    """Names with HTML, quotes and other scripts appear as written and start no element."""
    html = render(example(k, ODD_NAMES))
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.tags.count("html") == 1
    for name in (*ODD_NAMES, "Flowers <told> apart", "a/b.jpg: <html>"):
        assert name in page.text


@settings(max_examples=10, deadline=None)  # a whole page each
@given(name=st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=20))
def test_any_name_leaves_the_structure_alone(name: str) -> None:
    """The elements of the page are the same whatever the first class is called."""
    plain = replace(example(2), mistakes=())
    renamed = (name, "class 1")
    assert plain.scores is not None
    other = replace(plain, classes=renamed, scores=replace(plain.scores, classes=renamed))
    assert Page(render(other)).tags == Page(render(plain)).tags


def test_accuracy_is_told_with_interval_and_counts() -> None:
    """The result reads as a percentage, its interval, and how many of how many were wrong."""
    report = example(6)
    assert report.scores is not None
    accuracy = report.scores.accuracy
    text = Page(render(report)).text
    wrong = report.scores.n - int(report.scores.confusion.trace())
    assert percent(accuracy.value) in text
    assert f"{wrong} wrong of {report.scores.n}; 95{SPACE}% interval " in text
    assert f"{100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}{SPACE}%" in text


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.9514, "95.1"), (1.0, "100.0"), (0.99999, "99.9"), (0.0, "0.0")],
)
def test_only_all_reads_as_all(share: float, shown: str) -> None:
    """A share just below one is not rounded to 100 %."""
    assert percent(share) == f"{shown}{SPACE}%"


def test_without_scores_the_page_says_so() -> None:
    """Where nothing was set aside there is no matrix, and a sentence says why."""
    page = Page(render(replace(example(3), scores=None, scored_split=None, mistakes=())))
    assert "Nothing was scored" in page.text
    assert "Confusion matrix" not in page.text


def test_least_facts_still_make_a_page() -> None:
    """Everything optional can be missing."""
    page = Page(render(Report("t", "2026-03-01", (), ("a", "b"), {"train": (3, 4)}, None)))
    assert "Learning" not in page.text
    assert page.tags.count("h2") == 2


@pytest.mark.parametrize(("k", "cells"), [(20, True), (21, False)])
def test_many_classes_get_a_heat_map_and_the_most_confused_pairs(k: int, cells: bool) -> None:
    """Up to 20 classes the counts are written out, above them the strongest are listed."""
    html = render(example(k))
    assert ('class="matrix' in html) is cells
    assert ("The most confused classes" in html) is not cells


def test_102_classes_stay_below_5_mb() -> None:
    """A page with 102 classes and 24 thumbnails can still be mailed."""
    html = render(example(102))
    assert html.count("data:image/jpeg") == 24
    assert len(html.encode()) < 5_000_000


def test_classes_of_another_order_are_refused() -> None:
    """Scores or counts of other classes than the report's would be shown under wrong names."""
    report = example(3)
    with pytest.raises(ValueError, match="classes of the scores are not the classes of the report"):
        replace(report, classes=report.classes[::-1])
    with pytest.raises(ValueError, match=r"counts are of \{'train': 2\} classes, not of 3"):
        replace(report, counts={"train": (1, 2)})


@given(seed=st.integers(0, 10_000), limit=st.integers(0, 30))
def test_worst_mistakes_are_wrong_and_surest_first(seed: int, limit: int) -> None:
    """Only wrong rows come back, the most confident first, none surer left out."""
    rng = np.random.default_rng(seed)
    probs, labels = softmax(rng.normal(size=(25, 3))), rng.integers(0, 3, 25)
    rows = worst_mistakes(probs, labels, limit)
    confidence = probs.max(axis=1)
    wrong = np.flatnonzero(probs.argmax(axis=1) != labels)
    assert set(rows) <= set(wrong)
    assert len(rows) == min(limit, len(wrong))
    expected = np.sort(confidence[wrong])[::-1][:limit]
    np.testing.assert_array_equal(confidence[rows], expected)


@given(points=st.lists(st.tuples(st.floats(1e-8, 1e8), st.floats(0, 100)), min_size=1, max_size=30))
def test_chart_stays_in_its_frame(points: list[tuple[float, float]]) -> None:
    """Points and ticks lie inside the frame, and the labels of an axis differ."""
    chart = line_chart([x for x, _ in points], [y for _, y in points])
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in chart.points)
    assert all(0 <= tick.at <= WIDTH for tick in chart.x_ticks)
    assert all(0 <= tick.at <= HEIGHT for tick in chart.y_ticks)
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert len({tick.label for tick in ticks}) == len(ticks) <= 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium, or a skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.mark.parametrize("k", [2, 12, 102])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_in_a_browser(browser: Browser, tmp_path: Path, k: int, scheme: str) -> None:
    """On a phone there is no error, no outside request, no sideways scroll, and every picture."""
    file = tmp_path / "report.html"
    file.write_text(render(example(k, ODD_NAMES[: min(k, 4)])), encoding="utf-8")
    page = browser.new_page(viewport={"width": 375, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url[:60]))
    page.goto(file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings[:3] == ["Result", "Confusion matrix", "The worst mistakes"]
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt)")
    page.close()
