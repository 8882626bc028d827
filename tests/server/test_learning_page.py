"""Learning and building in the page: a real browser, a real server, real processes."""

from __future__ import annotations

import shutil
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tellapart.server.settings import Builds, Reviews

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


def test_correct_learn_and_be_answered_otherwise(
    serving: Any, browser: Browser, trained: Any, digits: Path, tmp_path: Path
) -> None:
    """What reviewers decided is learned by a button, and the page then gets another answer."""
    model = Path(shutil.copy(trained.bundle, tmp_path / "m.tellapart"))
    given = {"models": (model,), "reviews": Reviews(tmp_path / "r", "all"), "watch_s": 0.1}
    sevens = sorted((digits / "7").iterdir())
    with serving(**given, accept=None) as client:
        for path in sevens[:6]:
            sent = {"file": (path.name, path.read_bytes())}
            told = client.post("/v1/audit", files=sent, data={"declared": "1"}).json()
            place = f"/v1/audits/{told['pictures'][0]['id']}/decision"
            assert client.post(place, json={"decision": "7"}).status_code == 200
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(f"{client.base_url}/#learn")
        page.get_by_text("6 reviewed pictures").wait_for()
        page.get_by_role("button", name="Let m learn").click()
        page.get_by_text("New classes: 7").wait_for(timeout=240_000)
        page.get_by_role("button", name="Put the one before back").wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "learn.png", full_page=True)
        # The service takes the new file up as soon as it has read it, on a busy machine later.
        began = time.monotonic()
        while "7" not in client.get("/v1/models").json()[0]["classes"]:
            assert time.monotonic() - began < 60
            time.sleep(0.1)
        page.goto(f"{client.base_url}/#try")
        # It was learned from: what is asked is whether the page gets the new answer.
        page.set_input_files("#files", sevens[0])
        page.locator(".bars > *").first.get_by_text("7", exact=True).wait_for()
        page.close()
    assert wrong == []


def test_a_classifier_is_built_and_fetched(
    serving: Any, browser: Browser, small: Path, tmp_path: Path
) -> None:
    """Two classes are named, get pictures, are trained and tried, and the file is downloaded."""
    with serving(builds=Builds(tmp_path / "builds")) as client:
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{client.base_url}/#build")
        page.get_by_label("Name of a new classifier").fill("digits")
        page.get_by_role("button", name="Begin").click()
        for label in ("0", "1"):
            page.get_by_label("Name of a class", exact=True).fill(label)
            page.get_by_role("button", name="Add the class").click()
            page.locator(f'[data-label="{label}"]').wait_for()
        for label in ("0", "1"):
            pictures = sorted((small / label).iterdir())
            page.set_input_files(f'[data-files="{label}"]', pictures)
            page.locator(f'[data-label="{label}"]').get_by_text("20 pictures").wait_for()
        broken = {"name": "page.jpg", "mimeType": "image/jpeg", "buffer": b"<html>"}
        page.set_input_files('[data-files="1"]', broken)
        page.get_by_text("page.jpg: is a web page, not a picture").wait_for()
        page.reload()
        picture = page.get_by_role("button", name="1 1:")
        picture.click()
        picture.click()
        page.locator('[data-label="1"]').get_by_text("19 pictures").wait_for()
        page.get_by_role("button", name="Train", exact=True).click()
        page.get_by_role("button", name="Download").wait_for(timeout=240_000)
        page.set_input_files("#build-try", sorted((small / "1").iterdir())[0])
        page.locator(".tried .bars .first").get_by_text("1", exact=True).wait_for()
        page.screenshot(path=tmp_path / "build.png", full_page=True)
        with page.expect_download() as started:
            page.get_by_role("button", name="Download").click()
        assert started.value.suggested_filename == "digits.tellapart"
        assert "features.safetensors" in zipfile.ZipFile(started.value.path()).namelist()
        page.get_by_role("link", name="All classifiers").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        page.get_by_role("button", name="Delete for good").click()
        page.get_by_role("link", name="Open: digits").wait_for(state="detached")
        page.close()
    assert wrong == []
    assert list((tmp_path / "builds").iterdir()) == []
