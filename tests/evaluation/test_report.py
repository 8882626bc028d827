"""The report: one safe file that opens offline and can be read everywhere."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.inspection import Finding
from tellapart.data.thumbnails import webp
from tellapart.evaluation.calibration import reliability, softmax
from tellapart.evaluation.curves import CurvePoint
from tellapart.evaluation.decision import Rules, TradePoint
from tellapart.evaluation.figures import as_json, tables
from tellapart.evaluation.report import (
    Answered,
    Calibration,
    Mistake,
    PhaseRow,
    ProbePoint,
    Report,
    Shown,
    Suspect,
    percent,
    render,
    worst_mistakes,
)
from tellapart.evaluation.scores import interval, score

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as BrowserPage

SPACE = "\N{NO-BREAK SPACE}"
CURVES = tuple(
    CurvePoint(phase, epoch, 0.5, 0.8, valid, accuracy, lr)
    for phase, epoch, valid, accuracy, lr in (
        (1, 1, 0.7, 0.7, 1e-3),
        (1, 2, 0.6, 0.75, 1e-3),
        (1, 3, 0.65, 0.75, 1e-3),
        (2, 1, 0.6, 0.8, 4e-4),
        (2, 2, None, None, 4e-4),
    )
)
PHASES = (
    PhaseRow("head", True, "log loss fell by <0.4>", 2, 31.2),
    PhaseRow("tail", False, "accuracy fell", None, 183.0),
)
ODD_NAMES = ("<script>alert('x')</script>", "向日葵", "وردة", 'a "quoted" & ' + "very_long_" * 20)


def thumbnail(seed: int) -> bytes:
    """Return a JPEG of noise, the kind that compresses worst."""
    pixels = np.random.default_rng(seed).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=80)
    return target.getvalue()


SMALL = webp(np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8))


def example(k: int, names: tuple[str, ...] = ()) -> Report:
    """Return a report with every section, on `k` classes of which the first have `names`."""
    rng = np.random.default_rng(k)
    classes = names + tuple(f"class {i}" for i in range(len(names), k))
    labels = np.concatenate([np.arange(k), rng.integers(0, k, 20 * k)])
    logits = rng.normal(size=(len(labels), k)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 1.5
    probs = softmax(logits)
    rows = worst_mistakes(probs, labels)
    decisions = probs.max(axis=1) >= 0.6
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
                thumbnail=thumbnail(row),
                why=SMALL,
            )
            for row in rows
        ),
        probe_path=tuple(ProbePoint(l2, 0.3 + l2 / 100, 0.9, l2 == 1.0) for l2 in strengths),
        calibration=Calibration(1.25, 0.034, 0.011, "out-of-fold inside train"),
        speed_s={"features": 83.0, "head": 1.5},
        pictures_per_s=231.4,
        facts={"backbone": "efficientnet_lite0"},
        curves=CURVES,
        phases=PHASES,
        pictures=tuple(
            Shown(
                f"test/{row}.jpg",
                int(labels[row]),
                int(probs[row].argmax()),
                float(probs[row].max()),
                not decisions[row],
                SMALL,
                SMALL if probs[row].argmax() != labels[row] else None,
            )
            for row in range(min(len(labels), 130))
        ),
        suspects=(Suspect("a/<i>.jpg", "train", classes[0], classes[1], 0.02, 0.9, SMALL),),
        n_suspects=31,
        reliability=(reliability(softmax(2 * logits), labels), reliability(probs, labels)),
        answered=Answered(
            rules=Rules(threshold=0.6),
            answered=interval(int(decisions.sum()), len(labels)),
            right=interval(int((decisions & (probs.argmax(1) == labels)).sum()), decisions.sum())
            if decisions.any()
            else None,
            covered=interval(len(labels) - 1, len(labels)),
            candidates=1.75,
            trade=tuple(
                TradePoint(
                    threshold,
                    int((probs.max(axis=1) >= threshold).sum()),
                    int(((probs.max(axis=1) >= threshold) & (probs.argmax(1) == labels)).sum()),
                )
                for threshold in (1.0, 0.9, 0.6, 0.3, 0.0)
            ),
        ),
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
    """Every address is inside the page, no script but our own may run, and no request be made."""
    html = render(example(k))
    page = Page(html)
    assert page.addresses
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == []
    assert not {"iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("script") == 2
    # Besides the name of SVG itself, which is no address.
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("k", [4, 30])
def test_names_are_text_never_html(k: int) -> None:
    """Names with HTML, quotes and other scripts appear as written and start no element."""
    html = render(example(k, ODD_NAMES))
    page = Page(html)
    assert page.tags.count("script") == html.count("<script") == 2
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
    bare = replace(example(3), scores=None, scored_split=None, mistakes=(), pictures=())
    page = Page(render(bare))
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
    assert html.count("data:image/webp") > 130
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


def words(html: str) -> str:
    """Return the text of a page with single spaces."""
    return " ".join(Page(html).text.split())


def test_phases_are_told_in_words() -> None:
    """Each phase says what learned, whether it was kept and why, its best epoch, and its time."""
    text = words(render(example(3)))
    assert "1. the last layer kept: log loss fell by <0.4> 2 of 3 31.2 s" in text
    assert "2. the last blocks not kept: accuracy fell – 3 min 03 s" in text
    assert "The phases of learning; each began with what those before it had kept" in text


def test_one_phase_has_no_others() -> None:
    """With a single phase nothing is said about earlier ones."""
    text = Page(render(replace(example(3), phases=PHASES[:1], curves=CURVES[:3]))).text
    assert "Learning had one phase" in text
    assert "those before it" not in text


def marks(html: str, style: str) -> int:
    """Count the elements of the charts over the epochs that have this class."""
    section = html[html.index('<section id="phases"') : html.index('<section id="learning"')]
    return section.count(f'class="{style}"')


def test_curves_of_both_splits_are_drawn() -> None:
    """Loss and accuracy have a line for train and one for valid; the kept epoch is marked once."""
    html = render(example(3))
    assert marks(html, "curve train") == marks(html, "curve valid") == 2
    assert marks(html, "pick") == 2  # not the best epoch of the phase that was not kept
    assert marks(html, "curve rate") == 1
    assert marks(html, "divider") == 3
    assert marks(html, "dot train") == 2 * len(CURVES)


def test_rate_that_stays_is_not_drawn() -> None:
    """A chart of a level line would say nothing."""
    same = tuple(replace(point, lr=0.1) for point in CURVES)
    assert marks(render(replace(example(3), curves=same)), "curve rate") == 0


def test_without_valid_the_curves_are_those_of_train() -> None:
    """Where nothing was set aside neither line nor legend speaks of valid."""
    curves = tuple(replace(point, valid_loss=None, valid_accuracy=None) for point in CURVES)
    report = replace(example(3), curves=curves, phases=())
    html = render(report)
    assert marks(html, "curve train") == 2
    assert marks(html, "curve valid") == 0
    assert (
        "valid" not in html[html.index('<section id="phases"') : html.index("The numbers of each")]
    )


def test_epochs_are_listed_as_numbers() -> None:
    """The table has a row for each epoch, named by phase where there are several."""
    text = words(render(example(3)))
    assert "2 phase 1, epoch 2 0.5000 80.0 % 0.6000 75.0 % 1.0e-03" in text
    assert "5 phase 2, epoch 2 0.5000 80.0 % – – 4.0e-04" in text


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e30, 0.0])
def test_a_diverged_training_still_has_a_page(loss: float) -> None:
    """Losses that are no numbers, huge or zero neither break the page nor reach its drawings."""
    curves = tuple(replace(point, train_loss=loss, valid_loss=loss) for point in CURVES)
    html = render(replace(example(3), curves=curves))
    assert not [line for line in html.splitlines() if "<svg" in line and "nan" in line]
    assert 'points="nan' not in html
    assert ",nan" not in html


def test_a_reason_is_text_never_html() -> None:
    """What a phase says of itself starts no element."""
    page = Page(render(replace(example(3), phases=(replace(PHASES[0], reason="<script>x"),))))
    assert page.tags.count("script") == 2
    assert "kept: <script>x" in page.text


def test_nothing_learned_in_phases_leaves_no_section() -> None:
    """A page without phases and curves has neither their section nor a link to it."""
    html = render(replace(example(3), curves=(), phases=()))
    assert "How it learned" not in html
    solved = render(replace(example(3), curves=()))
    assert "<figcaption>Loss" not in solved
    assert "How it learned" in solved


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


def opened(browser: Browser, tmp_path: Path, report: Report, **options: Any) -> BrowserPage:
    """Open a report in the browser."""
    file = tmp_path / "report.html"
    file.write_text(render(report), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 800}, **options)
    page.goto(file.as_uri())
    return page


@pytest.mark.parametrize("k", [6, 30])
def test_a_cell_shows_its_pictures(browser: Browser, tmp_path: Path, k: int) -> None:
    """A click shows exactly the pictures of the cell in the page; Escape closes and goes back."""
    report = example(k, ODD_NAMES)
    page = opened(browser, tmp_path, report)
    one = next(one for one in report.pictures if not one.right)
    same = [p for p in report.pictures if (p.actual, p.predicted) == (one.actual, one.predicted)]
    selector = f'[data-cell="{one.actual}-{one.predicted}"]'
    page.locator(f"{selector} button" if k <= 20 else selector).click()
    panel = page.locator("#cell")
    assert panel.is_visible()
    assert panel.locator("li").count() == len(same)
    assert panel.locator("li strong").first.inner_text() == f"✗ {report.classes[one.predicted]}"
    files = panel.locator("li small:last-child").all_inner_texts()
    assert sorted(files) == sorted(p.path for p in same)
    assert panel.get_by_role("heading").inner_text().startswith(report.classes[one.actual])
    assert panel.locator("img.why").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    assert page.evaluate("document.activeElement.closest('[data-cell]')?.dataset.cell") == (
        f"{one.actual}-{one.predicted}"
    )
    page.close()


@pytest.mark.parametrize("k", [6, 30])
def test_cells_are_used_by_keyboard(browser: Browser, tmp_path: Path, k: int) -> None:
    """All cells are one stop of the tab key; arrows move between them and Enter opens."""
    report = example(k)
    page = opened(browser, tmp_path, report)
    stops = '[data-cell] button[tabindex="0"], svg [data-cell][tabindex="0"]'
    assert page.locator(stops).count() == 1
    page.locator("[data-cell] button, svg [data-cell]").first.focus()
    where = "document.activeElement.closest('[data-cell]').dataset.cell"
    assert page.evaluate(where) == "0-0"
    page.keyboard.press("ArrowDown")
    row, _ = map(int, page.evaluate(where).split("-"))
    assert row == 1
    before = page.evaluate(where)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(where) != before
    words = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.locator("#cell h3").inner_text() == words
    page.close()


def test_confused_pairs_open_their_pictures(browser: Browser, tmp_path: Path) -> None:
    """With many classes the table of confused pairs leads to the same pictures."""
    page = opened(browser, tmp_path, example(30))
    button = page.locator("button[data-open]").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#cell").is_visible()
    page.get_by_role("button", name="Close").click()
    assert page.locator("#cell").is_hidden()
    page.close()


def test_more_pictures_than_the_page_holds(browser: Browser, tmp_path: Path) -> None:
    """Where a cell has more pictures than the page, how many are shown is said."""
    report = example(3)
    page = opened(browser, tmp_path, replace(report, pictures=report.pictures[:1]))
    shown = report.pictures[0]
    page.locator(f'[data-cell="{shown.actual}-{shown.predicted}"] button').click()
    assert "1 of them are shown here." in page.locator("#cell").inner_text()
    page.close()


def test_figures_are_saved_as_files(browser: Browser, tmp_path: Path) -> None:
    """Each figure comes as CSV and JSON with the numbers shown, and as a PNG that is not blank."""
    report = example(6, ODD_NAMES)
    page = opened(browser, tmp_path, report, accept_downloads=True)
    numbers = tables(report)
    figures = page.locator("[data-figure]")
    names = [figures.nth(i).get_attribute("data-figure") for i in range(figures.count())]
    assert set(names) == set(numbers)
    for name in ("confusion", "reliability", "predictions"):
        bar = page.locator(f'[data-figure="{name}"] > .files')
        saved = {}
        for kind in ("CSV", "JSON", "PNG"):
            with page.expect_download() as download:
                bar.get_by_role("button", name=kind).click()
            assert download.value.suggested_filename == f"Flowers-told-apart-{name}.{kind.lower()}"
            saved[kind] = Path(download.value.path()).read_bytes()
        rows = list(csv.DictReader(io.StringIO(saved["CSV"].decode(), newline="")))
        told = json.loads(saved["JSON"])
        assert len(rows) == len(told) == len(numbers[name].rows)
        assert list(rows[0]) == list(told[0]) == list(numbers[name].columns)
        assert next(iter(rows[-1].values())) == str(numbers[name].rows[-1][0])
        drawn = Image.open(io.BytesIO(saved["PNG"]))
        assert drawn.format == "PNG"
        assert len(drawn.convert("RGB").getcolors(1 << 24) or ()) > 20
    page.close()


def test_grid_can_show_the_wrong_alone(browser: Browser, tmp_path: Path) -> None:
    """Wrong ones bear words and a mark, not colour alone, and can be shown by themselves."""
    report = example(3)
    page = opened(browser, tmp_path, report)
    in_view = report.pictures[:48]
    cards = page.locator("#grid > .grid .card")
    assert cards.count() == len(in_view)
    wrong = [i for i, one in enumerate(in_view) if not one.right]
    assert cards.nth(wrong[0]).inner_text().startswith("✗ ")
    assert "labelled" in cards.nth(wrong[0]).inner_text()
    page.locator("#only-wrong").check()
    assert [cards.nth(i).is_visible() for i in range(len(in_view))] == [
        not one.right for one in in_view
    ]
    page.close()


def test_without_scripts_everything_is_there(browser: Browser, tmp_path: Path) -> None:
    """Where scripts are switched off, matrix, pictures and numbers are still read."""
    page = opened(browser, tmp_path, example(6), java_script_enabled=False)
    assert page.locator(".card").count() == 126
    assert page.locator("td[data-cell]").first.inner_text().strip()
    assert page.locator(".hint").is_hidden()
    page.close()


def test_print_leaves_out_what_can_only_be_clicked(browser: Browser, tmp_path: Path) -> None:
    """On paper there are no buttons, no folded pictures and no links to sections."""
    page = opened(browser, tmp_path, example(6))
    page.emulate_media(media="print")
    for selector in (".files", ".choice", ".more", ".hint", "nav"):
        assert page.locator(selector).first.is_hidden()
    assert page.locator("#confusion table").is_visible()
    assert page.locator("details.numbers table").first.is_visible()
    page.close()


def test_figures_hold_every_number() -> None:
    """The tables name the classes; what is no number becomes nothing, no name ends the block."""
    report = example(4, ODD_NAMES)
    found = json.loads(as_json(report))
    assert set(found) == set(tables(report))
    assert report.scores is not None
    cells = {(row[0], row[1]): row[2] for row in found["confusion"]["rows"]}
    for i, actual in enumerate(report.classes):
        for j, predicted in enumerate(report.classes):
            assert cells[actual, predicted] == report.scores.confusion[i, j]
    assert "<" not in as_json(report)
    diverged = replace(CURVES[0], train_loss=float("nan"))
    epochs = json.loads(as_json(replace(report, curves=(diverged,))))["epochs"]
    assert epochs["rows"][0][epochs["columns"].index("train_loss")] is None


def test_labels_to_check_are_told() -> None:
    """Both names with their probabilities, and how many there are beside those shown."""
    text = words(render(example(3)))
    assert "31 labels are probably wrong; the 1 likeliest are shown" in text
    assert "class 0 2.0 %" in text
    assert "class 1 90.0 % a/<i>.jpg, in train" in text


def test_the_trade_is_told() -> None:
    """How many are answered, how many of these rightly, and what the candidates cover."""
    report = example(3)
    assert report.answered is not None and report.answered.right is not None
    text = words(render(report))
    share = percent(report.answered.answered.value).replace(SPACE, " ")
    assert f"{share} were answered, " in text
    assert "The candidates, 1.75 a picture, held the right class for" in text
