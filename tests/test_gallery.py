"""The report's pictures: chosen within bounds, explained where they are wrong, never in the way."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tellapart.data.pixels import Preprocessing
from tellapart.evaluation.decision import Rules, decide
from tellapart.pipeline import gallery
from tellapart.pipeline.gallery import Judged, Maps, answered, gather_pictures, gather_suspects

NO_MAPS = Maps(None, Preprocessing(32, (0.5,) * 3, (0.5,) * 3))


def judged(paths: list[str], k: int, seed: int = 0) -> Judged:
    """Pictures of k classes, about half of them predicted wrongly."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, len(paths))
    probs = rng.dirichlet(np.ones(k), len(paths)).astype(np.float32)
    half = np.arange(len(paths)) % 2 == 0
    probs[half] = 0.1 / k
    probs[half, labels[half]] += 0.9
    classes = [f"class {i}" for i in range(k)]
    return Judged(paths, labels, probs, classes, decide(probs, None, Rules()), Path("/data"))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture that hardly can be compressed."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@given(n=st.integers(1, 60), k=st.integers(2, 7), seed=st.integers(0, 99))
def test_wrong_ones_come_first_and_classes_take_turns(n: int, k: int, seed: int) -> None:
    """Every row has its place: wrong ones, surest first, then right ones of all classes alike."""
    found = judged([""] * n, k, seed)
    order = gallery._by_importance(found)
    assert sorted(order) == list(range(n))
    wrong = (found.predicted != found.labels)[order]
    assert (np.diff(wrong.astype(int)) <= 0).all()
    confidence = found.probs.max(axis=1)[order[wrong]]
    assert (np.diff(confidence) <= 0).all()
    right = found.labels[order[~wrong]]
    every = np.unique(right)
    assert set(right[: len(every)]) == set(every)


def test_thumbnails_keep_to_their_room(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many and large pictures are, the page gets no more bytes than it has room for."""
    monkeypatch.setattr(gallery, "MOST_BYTES", 40_000)
    shown = gather_pictures(judged([noise] * 60, 3), NO_MAPS)
    assert 2 < len(shown) < 60
    assert sum(len(one.thumbnail) for one in shown) <= 40_000
    assert not any(one.right for one in shown)


def test_pictures_that_vanished_are_left_out(noise: str, tmp_path: Path) -> None:
    """A file that is gone leaves its place empty; nothing is raised."""
    found = judged([noise, str(tmp_path / "gone.png"), noise], 2)
    assert len(gather_pictures(found, NO_MAPS)) == 2
    gone = [str(tmp_path / "gone.png")] * 20
    probs = np.tile(np.array([[0.02, 0.98]], np.float32), (20, 1))
    labels = np.array([1] * 19 + [0])
    assert gather_suspects(gone, ["train"] * 20, labels, probs, "ab", tmp_path) == ((), 1)


def test_answered_counts_what_the_rules_do() -> None:
    """Shares of answered, right and covered are those of the decisions, the trade falls open."""
    found = judged([""] * 200, 4)
    told = answered(found, Rules(threshold=0.8))
    confident = found.probs.max(axis=1) >= Rules().threshold
    assert told.answered.n == 200
    assert told.answered.value == pytest.approx(confident.mean())
    counts = [point.answered for point in told.trade]
    assert counts == sorted(counts)
    assert counts[-1] == 200
    assert {0.8, 0.0} <= {point.threshold for point in told.trade}


def test_thumbnails_are_webp(noise: str) -> None:
    """Small pictures are WebP, not larger than they are shown."""
    (one,) = gather_pictures(judged([noise], 2), NO_MAPS)
    image = Image.open(io.BytesIO(one.thumbnail))
    assert (image.format, image.size) == ("WEBP", (112, 112))


def test_trained_report_explains_its_mistakes(
    digits: Path, warm_cache: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A report of a hard task holds a map beside each mistake, and names labels to check."""
    data = tmp_path / "spoilt"
    for name in "1789":
        (data / name).mkdir(parents=True)
        for path in sorted((digits / name).iterdir())[:40]:
            shutil.copy(path, data / name)
    # Three sevens among the ones.
    for path in sorted((digits / "7").iterdir())[40:43]:
        shutil.copy(path, data / "1" / f"seven-{path.name}")
    trained = command("train", data, "-o", tmp_path / "m.tellapart", "--recipe", "fast", "-q")
    assert trained.code == 0, trained.err
    page = (tmp_path / "m-report.html").read_text(encoding="utf-8")
    suspects = json.loads(re.search(r'id="figures">(.*?)</script>', page).group(1))["suspects"]
    found = {(row[0].split("/")[-1], row[2], row[3]) for row in suspects["rows"]}
    assert sum(name.startswith("seven-") for name, *_ in found) >= 2
    assert {said for name, label, said in found if name.startswith("seven-")} == {"7"}
    assert "labels are probably wrong: look at them" in page
    mistakes = page.count("the same under the map of what spoke for")
    assert mistakes == page.count("<dt>said</dt>") > 0


def test_evaluate_writes_a_report(
    command: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """The page shows what is printed; pictures of unknown classes are said, and scores equal."""
    data = tmp_path / "data"
    shutil.copytree(trained.data, data)
    shutil.copytree(data / "0", data / "new")
    page = tmp_path / "page.html"
    plain = command("evaluate", trained.bundle, data, "--json", "-q")
    told = command("evaluate", trained.bundle, data, "--json", "-q", "--report", page)
    assert told.code == 0, told.err
    assert json.loads(told.out) == json.loads(plain.out)
    text = page.read_text(encoding="utf-8")
    assert "Not scored: 20 pictures of classes it does not know: new." in text
    assert f"of {json.loads(told.out)['n']} pictures (" in text
    assert "Whether it can be believed" in text


def test_a_place_that_cannot_be_written_is_said_first(
    command: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """Before any picture is looked at, the report's place is tried."""
    refused = command("evaluate", trained.bundle, trained.data, "--report", tmp_path)
    assert (refused.code, refused.out) == (31, "")
    assert "is a folder; expected the name of a file to write" in refused.err
    assert "Give a file name, or choose another place with --report." in refused.err


def test_a_classifier_without_maps_has_a_report(
    command: Callable[..., Any], format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """Where there can be no maps the page is whole without them."""
    for name in ("red", "green", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(colours / f"{name}.png", tmp_path / "data" / name)
    shutil.copy(colours / "grey.png", tmp_path / "data/red")
    page = tmp_path / "page.html"
    assert command("evaluate", format_1, tmp_path / "data", "--report", page, "-q").code == 0
    text = page.read_text(encoding="utf-8")
    assert "The worst mistakes" in text
    assert "the same under the map" not in text
