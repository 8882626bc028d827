"""What arrives is watched: in the API, in the metrics, in the log, and across a restart."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tellapart.evaluation.watching import LOOK_EVERY


def png(pixels: np.ndarray) -> bytes:
    """One picture as a file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def noise(n: int) -> list[bytes]:
    """N pictures such as nobody trained on, each another."""
    rng = np.random.default_rng(0)
    return [png(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)) for _ in range(n)]


def own(data: Path, n: int) -> list[bytes]:
    """N pictures like those that the classifier learned from, each another, of all classes."""
    folders = [folder for folder in sorted(data.iterdir()) if folder.is_dir()]
    files = [
        path
        for some in zip(*(sorted(one.iterdir()) for one in folders), strict=False)
        for path in some
    ]
    found = []
    for number in range(n):
        with Image.open(files[number % len(files)]) as image:
            pixels = np.array(image.convert("L"))
        pixels[0, 0] = number // len(files)  # A corner makes it another file.
        found.append(png(pixels))
    return found


def send(client: httpx.Client, pictures: list[bytes], path: str = "/v1/predict") -> None:
    """Ask about pictures, fifty at a time."""
    for first in range(0, len(pictures), 50):
        form = [("file", (f"{n}.png", one)) for n, one in enumerate(pictures[first : first + 50])]
        data = {"declared": "1"} if "audit" in path else {}
        assert client.post(path, files=form, data=data).status_code == 200


def test_pictures_of_another_kind_warn_and_a_restart_remembers_audits(
    serving: Any,
    trained: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The warning stands in the API, the metrics and the log; after a restart from audits too."""
    # As it is before a server of this process has sent it to standard error.
    monkeypatch.setattr(logging.getLogger("tellapart.server"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("tellapart.server"), "handlers", [])
    with serving(models=(trained.bundle,), accept=None) as client:
        send(client, own(trained.data, LOOK_EVERY))
        (before,) = client.get("/v1/watch").json()
        assert before["warnings"] == []
        assert (before["counted"], before["steps"][-1]["n"]) == (LOOK_EVERY, LOOK_EVERY)
        assert sum(before["learned"].values()) == pytest.approx(1)
        send(client, noise(LOOK_EVERY), "/v1/audit")
        (after,) = client.get("/v1/watch").json()
        text = client.get("/metrics").text
    kinds = {one["kind"] for one in after["warnings"]}
    assert {"far", "class"} <= kinds
    assert after["warnings"][0]["message"].startswith("What arrives no longer looks like what was")
    assert 'tellapart_watch_warning{model="small",what="far"} 1.0' in text
    assert 'tellapart_watched_pictures_total{model="small",what="seen"} 200.0' in text
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([one for one in told if one.startswith("small: What arrives no longer")]) == len(
        kinds
    )
    with serving(models=(trained.bundle,), accept=None) as client:
        (again,) = client.get("/v1/watch").json()
    assert again["counted"] == LOOK_EVERY
    # How far they lay is not recorded.
    assert "class" in {one["kind"] for one in again["warnings"]}
    assert sum(sum(step["verdicts"].values()) for step in again["steps"]) == LOOK_EVERY


def test_a_picture_sent_again_and_again_is_counted_once(serving: Any, trained: Any) -> None:
    """One client's retries are no change of what arrives; unreadable files are counted apart."""
    with serving(models=(trained.bundle,)) as client:
        send(client, own(trained.data, 1) * 120)
        send(client, [*own(trained.data, 1), b"no picture"])
        (told,) = client.get("/v1/watch").json()
    assert told["counted"] == 1
    assert [(step["n"], step["unreadable"]) for step in told["steps"]] == [(1, 1)]


def test_each_classifier_is_watched_by_itself(
    serving: Any, trained: Any, format_1: Path, colours: Path
) -> None:
    """What one was asked does not count for the other; without held-out ones it only counts."""
    with serving(models=(format_1, trained.bundle)) as client:
        send(client, [(colours / "red.png").read_bytes()])
        first, second = client.get("/v1/watch").json()
    assert (first["model"], first["counted"], first["held_out"]) == ("format_1", 1, 0)
    assert (second["model"], second["counted"]) == ("small", 0)
    assert second["held_out"] > 0


@pytest.mark.slow
def test_the_page_shows_what_arrived_and_warns(serving: Any, trained: Any, browser: Any) -> None:
    """Charts with their numbers in words, the warning on top; the browser complains of nothing."""
    with serving(models=(trained.bundle,), accept=None) as client:
        page = browser.new_page(locale="en-GB")
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{client.base_url}/#watch")
        page.get_by_text("Nothing has arrived in the last day.").wait_for()
        send(client, noise(LOOK_EVERY), "/v1/audit")
        page.reload()
        warning = page.get_by_role("alert")
        warning.wait_for()
        assert "What arrives no longer looks like what was learned." in warning.inner_text()
        assert "of the last 100 pictures lie far from what was learned" in warning.inner_text()
        assert page.get_by_role("img", name="Far from what was learned: 100.0% of 100").count() == 1
        assert page.get_by_role("img", name="Verdicts: ").count() == 1
        page.get_by_text("All numbers").click()
        assert "100" in page.get_by_role("region", name="All numbers").inner_text()
        page.close()
    assert wrong == []
