"""The page, in a real browser against the real server, and the files it is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import tellapart.server
from tellapart.bundle.bundle import open_bundle, rewrite_bundle
from tellapart.server.settings import Builds, Limits, Reviews
from tellapart.server.tokens import parse_tokens

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FILES = Path(tellapart.server.__file__).parent / "page"
# The views, and what is there once they are drawn.
VIEWS = {
    "try": ".bars",
    "review": ".review",
    "history": "tbody tr",
    "watch": ".charts",
    "learn": ".check",
    "build": ".card",
    "build?id={id}": ".thumb img[src]",
}
TOKENS = {role: f"{role}-0123456789abcdefghijkl" for role in ("predict", "review", "admin")}
# Texts for what the server says in English, and for plurals that Chinese has not.
NOT_IN_BOTH = re.compile(r"error\.|reason\.|.*\.one$")

Open = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Open the page of a server; whatever the browser complains of, or asks elsewhere, fails."""
    contexts, wrong = [], []

    def start(client: httpx.Client, path: str = "", **options: Any) -> Page:
        given: dict[str, Any] = {"viewport": {"width": 1100, "height": 800}, "locale": "en-GB"}
        context = browser.new_context(**given | options)
        contexts.append(context)
        page = context.new_page()
        ours = str(client.base_url)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((ours, "blob:")) else wrong.append(asked.url)
            ),
        )
        page.set_default_timeout(15_000)
        page.goto(f"{ours.rstrip('/')}/{path}")
        return page

    yield start
    for context in contexts:
        context.close()
    # A browser logs answers that say no; that they were expected, the tests see themselves.
    assert [one for one in wrong if "Failed to load resource" not in one] == []


def picture(name: str, path: Path) -> dict[str, Any]:
    """A file as a visitor chooses it, called as they like."""
    return {"name": name, "mimeType": "image/png", "buffer": path.read_bytes()}


def drop(page: Page, kind: str, path: Path) -> None:
    """Let a file be dropped on the page, or pasted into it."""
    page.evaluate(
        """([kind, bytes]) => {
            const file = new File([new Uint8Array(bytes)], "red.png", { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            const how = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(kind === "drop"
                ? new DragEvent("drop", { ...how, dataTransfer: data })
                : new ClipboardEvent("paste", { ...how, clipboardData: data }));
        }""",
        [kind, list(path.read_bytes())],
    )


def audited(client: httpx.Client, colours: Path, declared: dict[str, str]) -> list[str]:
    """Audit pictures one after the other; return the ids of their records."""
    found = []
    for name, label in declared.items():
        form = {"file": (f"{name}.png", (colours / f"{name}.png").read_bytes())}
        answer = client.post("/v1/audit", files=form, data={"declared": label}).json()
        found.append(answer["pictures"][0]["id"])
    return found


def test_the_files_are_sent_under_a_strict_policy_and_only_once(serving: Any) -> None:
    """No inline code, nothing from elsewhere, right types; unchanged files are not sent again."""
    with serving(tokens=parse_tokens(f"a admin {TOKENS['admin']}", "here")) as client:
        for path in ("", *(f"page/{one.name}" for one in FILES.iterdir())):
            answer = client.get(f"/{path}")
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            again = client.get(f"/{path}", headers={"If-None-Match": answer.headers["ETag"]})
            assert (answer.status_code, again.status_code, again.content) == (200, 304, b"")
        assert client.head("/").status_code == 200
        for lost in ("page/app.py", "page/../app.py", "page/%2e%2e%2fapp.py", "page/"):
            assert client.get(f"/{lost}").status_code == 404


def test_no_text_becomes_markup() -> None:
    """The scripts make elements only, the document holds no inline code."""
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in FILES.glob("*.js"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in scripts
    html = (FILES / "index.html").read_text(encoding="utf-8")
    assert re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|https?:", html) is None


def test_every_text_is_there_in_both_languages() -> None:
    """Both tables have the same keys and the same gaps, and every key that a script names."""
    english, chinese = (
        json.loads((FILES / f"{name}.json").read_text(encoding="utf-8")) for name in ("en", "zh")
    )
    assert {key for key in english.keys() ^ chinese.keys() if not NOT_IN_BOTH.match(key)} == set()
    for key in english.keys() & chinese.keys():
        gaps = [sorted(re.findall(r"\{\w+\}", texts[key])) for texts in (english, chinese)]
        assert gaps[0] == gaps[1], key
    named = set()
    for path in FILES.glob("*.js"):
        code = re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        named |= set(
            re.findall(
                r'"((?:page|class|look|try|review|history|watch|token|learn|build)\.[\w.]+)"',
                code,
            )
        )
    assert {key for key in named if key not in english and f"{key}.other" not in english} == set()


def test_every_refusal_is_told_in_chinese() -> None:
    """Each code that the server refuses with has a text of its own: its sentence is English."""
    chinese = json.loads((FILES / "zh.json").read_text(encoding="utf-8"))
    code = "".join(path.read_text(encoding="utf-8") for path in FILES.parent.glob("*.py"))
    codes = set(re.findall(r'Refused\(\s*\d+,\s*"(\w+)"', code))
    assert len(codes) > 30
    assert {one for one in codes if f"error.{one}" not in chinese} == set()


def test_a_dropped_picture_is_answered_and_audited(
    serving: Any, colours: Path, opened: Open
) -> None:
    """Drop, or paste: bars. A class is declared by typing: a verdict, its reason, and a record."""
    with serving() as client:
        page = opened(client)
        page.locator(".zone").wait_for()
        drop(page, "drop", colours / "red.png")
        bars = page.get_by_role("list", name="Most probable classes").get_by_role("listitem")
        assert bars.first.inner_text().split() == ["red", "90.0%"]
        field = page.get_by_role("combobox", name="What is it declared to be?")
        field.fill("gre")
        offered = page.get_by_role("listbox").get_by_role("option")
        assert offered.all_inner_texts() == ["green"]
        field.press("Enter")
        field.press("Enter")
        page.locator("main").get_by_text("declared as green").wait_for()
        record = client.get("/v1/audits").json()[0]
        shown = page.locator("p.answer").inner_text()
        assert record["verdict"] in shown
        assert record["reason"] in shown
        page.get_by_role("combobox", name="Declared as").fill("red")
        page.keyboard.press("Tab")
        drop(page, "paste", colours / "red.png")
        page.locator("main").get_by_text("it shows red with 90.0%, as declared").wait_for()
        page.reload()
        page.locator("main").get_by_text("it shows red with 90.0%, as declared").wait_for()
        assert page.locator("main").get_by_text("the picture was not").is_visible()


def test_why_is_laid_over_the_picture(serving: Any, trained: Any, opened: Open) -> None:
    """The switch shows a map over the part that the network saw, and takes it away again."""
    file = next((trained.data / "1").iterdir())
    with serving(models=(trained.bundle,)) as client:
        page = opened(client)
        page.set_input_files("#files", picture("one.png", file))
        page.get_by_role("switch", name="Show why").check()
        overlay = page.get_by_role("img", name="Map of what speaks for 1 and against it")
        overlay.wait_for()
        inner, outer = overlay.bounding_box(), page.locator(".frame img").bounding_box()
        assert inner is not None
        assert outer is not None
        middle = [box["x"] + box["width"] / 2 for box in (inner, outer)]
        assert middle[0] == pytest.approx(middle[1], abs=1)
        page.keyboard.press("Escape")
        page.locator("h1").click()
        page.keyboard.press("w")
        overlay.wait_for(state="detached")


def test_hundreds_are_asked_about_with_patience(
    serving: Any, colours: Path, opened: Open, format_1: Path, tmp_path: Path
) -> None:
    """A batch gets through a full queue; odd names stay text; it is filtered, sorted, saved."""
    bundle = open_bundle(format_1)
    odd = "<img src=x onerror=alert(1)>"
    names = {"red": odd, "blue": "蓝色"}
    hostile = tmp_path / "odd.tellapart"
    rewrite_bundle(bundle, bundle.manifest.model_copy(update={"display_names": names}), hostile)
    some = [picture(f"{odd}.png", colours / "red.png"), picture("=cmd()", colours / "blue.png")]
    files = [picture(f"{n:03}.png", colours / "red.png") for n in range(120)]
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"<html>"}
    with serving(models=(hostile,), limits=Limits(waiting=9, pictures=3)) as client:
        page = opened(client)
        page.set_input_files("#files", [*some, *files, broken])
        page.locator("main").get_by_text("123 of 123 done").wait_for(timeout=40_000)
        page.get_by_role("button", name="failed 1").click()
        assert "is a web page" in page.locator("tbody tr").inner_text()
        page.get_by_role("button", name="all 123").click()
        page.get_by_role("searchbox").fill("蓝")
        page.locator("tbody tr").nth(1).wait_for(state="detached")
        page.get_by_role("button", name="=cmd()").click()
        assert page.get_by_role("heading", name="=cmd()").is_visible()
        page.get_by_role("searchbox").fill("")
        page.get_by_role("button", name="Confidence").click()
        assert page.get_by_role("columnheader", name="Confidence").get_attribute("aria-sort")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download CSV").click()
        rows = Path(saved.value.path()).read_text(encoding="utf-8-sig").splitlines()
        assert rows[1].startswith(f"{odd}.png,,,red,{odd},")
        assert rows[2].startswith("'=cmd(),,,blue,蓝色,")
        assert len(rows) == 124
        assert client.get("/v1/audits").json() == []


def test_a_batch_can_be_cancelled_and_gone_on_with(
    serving: Any, colours: Path, opened: Open
) -> None:
    """Cancelling leaves the rest waiting; going on asks about the rest alone."""
    with serving(limits=Limits(waiting=1, pictures=1)) as client:
        page = opened(client)
        page.get_by_role("combobox", name="Declared as").fill("red")
        page.keyboard.press("Tab")
        page.set_input_files("#files", [picture(f"{n}.png", colours / "red.png") for n in range(8)])
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Go on").click()
        page.locator("main").get_by_text("8 of 8 done").wait_for(timeout=40_000)
        # One whose answer was not awaited may have been recorded before.
        assert 8 <= client.get("/v1/audits/counts").json()["match"] <= 11


def test_reviewing_takes_only_the_keyboard(serving: Any, colours: Path, opened: Open) -> None:
    """Confirm, take the answer, another class, a new one, none; back, and undo; all is recorded."""
    declared = dict.fromkeys(("blue", "green", "grey", "mixed"), "red")
    with serving(accept=0.999999, thumbnails="doubtful") as client:
        ids = audited(client, colours, {"red": "green", **declared})
        page = opened(client, "#review")
        page.locator("main").get_by_text("5 audits wait.").wait_for()
        page.locator(".review img[src^=blob]").wait_for()

        def after(*keys: str) -> None:
            at = page.locator(".review h2, .center h2").inner_text()
            for key in keys:
                page.keyboard.press(key) if len(key) < 9 else page.keyboard.type(key)
            page.wait_for_function(
                "at => document.querySelector('.review h2, .center h2').innerText !== at", arg=at
            )

        after("y")
        after("a")
        after("o", "n", "e", "w", " ", "o", "n", "e", "Enter")
        after("n")
        after("k")
        after("k")
        assert page.locator("main").get_by_text("Decided: new one.").is_visible()
        after("j")
        after("j")
        after("o", "b", "l", "u", "Enter")
        page.locator("main").get_by_text("Nothing waits.").wait_for()
        kept = [client.get(f"/v1/audits/{id_}").json() for id_ in ids]
        assert [one["decision"] for one in kept] == ["green", "blue", "new one", None, "blue"]
        assert {one["decided_by"] for one in kept} == {"local"}
        after("u")
        after("u")
        page.locator("main").get_by_text("2 audits wait.").wait_for()
        undecided = client.get("/v1/audits", params={"decided": False}).json()
        assert {one["id"] for one in undecided} == set(ids[3:])
        client.post(f"/v1/audits/{ids[3]}/decision", json={"decision": "x"})
        page.keyboard.press("y")
        page.get_by_role("alert").get_by_text("local has decided already: x.").wait_for()


def test_a_queue_without_pictures_says_how_to_keep_them(
    serving: Any, colours: Path, opened: Open
) -> None:
    """Where the policy keeps none, the option that does is named."""
    with serving() as client:
        audited(client, colours, {"blue": "red"})
        page = opened(client, "#review")
        page.locator("main").get_by_text("Start the server with --reviews DIR or").wait_for()


def test_the_page_speaks_chinese_on_a_phone_and_is_accessible(
    serving: Any, colours: Path, opened: Open, tmp_path: Path
) -> None:
    """Every view: no sideways scrolling, no English reason, nothing that axe finds, also dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    folders = {"reviews": Reviews(tmp_path / "r", "all"), "builds": Builds(tmp_path / "b")}
    with serving(thumbnails="all", **folders) as client:
        ids = audited(client, colours, {"blue": "red", "mixed": "red", "grey": "blue"})
        client.post(f"/v1/audits/{ids[0]}/decision", json={"decision": "向日葵 " * 20 + "x"})
        build = client.post("/v1/builds", json={"name": "向日葵" * 30}).json()["id"]
        sent = {"file": (colours / "red.png").read_bytes()}
        label = {"label": "very-long-name-of-a-class" * 4}
        client.post(f"/v1/builds/{build}/pictures", params=label, files=sent)
        for scheme, locale in (("light", "zh-CN"), ("dark", "en-GB")):
            page = opened(client, color_scheme=scheme, locale=locale, **phone)
            page.set_input_files("#files", [picture("向日葵 " * 20, colours / "red.png")])
            page.locator(".bars").wait_for()
            for view, drawn in VIEWS.items():
                place = view.format(id=build)
                page.goto(f"{str(client.base_url).rstrip('/')}/#{place}")
                page.locator(f"#view-{view.partition('?')[0]} {drawn}").first.wait_for()
                assert page.evaluate("document.documentElement.scrollWidth") == 360
                found = axe.run(page, options={"resultTypes": ["violations", "passes"]})
                assert found.violations_count == 0, found.generate_report()
                assert len(found.response["passes"]) > 10
                if locale == "zh-CN":
                    assert "it shows" not in page.locator("main").inner_text()
        page.goto(f"{str(client.base_url).rstrip('/')}/#history")
        page.locator("summary").click()
        page.get_by_role("combobox", name="Language").select_option("zh")
        page.get_by_role("heading", name="审核记录").wait_for()
        page.reload()
        page.get_by_role("heading", name="审核记录").wait_for()
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"


def test_a_token_opens_what_its_role_allows(serving: Any, opened: Open) -> None:
    """A wrong token is refused in words; the right one outlives a reload, never in the address."""
    lines = "\n".join(f"{role}er {role} {token}" for role, token in TOKENS.items())
    with serving(tokens=parse_tokens(lines, "here")) as client:
        page = opened(client, "#review")
        field = page.get_by_label("Token", exact=True)
        field.fill("wrong")
        field.press("Enter")
        page.locator("main").get_by_text("This token is not known here.").wait_for()
        page.get_by_label("Token", exact=True).fill(TOKENS["predict"])
        page.keyboard.press("Enter")
        page.locator("main").get_by_text(
            "This needs the role “review”; yours is “predict”."
        ).wait_for()
        tabs = page.get_by_role("navigation", name="Views").get_by_role("link")
        assert tabs.all_inner_texts() == ["Try"]
        page.reload()
        page.locator("main").get_by_text("This needs the role").wait_for()
        assert TOKENS["predict"] not in page.url
        page.locator("summary").click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token", exact=True).fill(TOKENS["review"])
        page.keyboard.press("Enter")
        page.locator("main").get_by_text("Nothing waits.").wait_for()
        assert tabs.all_inner_texts() == ["Try", "Review", "History", "Watch"]
