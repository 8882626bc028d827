"""What is secret in an address: hidden in any text, and nothing else of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.errors import BadShards
from tellapart.evaluation.pages import page_template
from tellapart.hiding import without_secrets


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("See https://h/a.tar?X-Amz-Signature=ab&x=1.", "See https://h/a.tar?…."),
        ('{"data": "http://h/a.tar?token=ab", "n": 1}', '{"data": "http://h/a.tar?…", "n": 1}'),
        ("http://h/a.tar?sig=ab#cat/1.jpg is empty", "http://h/a.tar?…#cat/1.jpg is empty"),
        ("http:/h/a.tar?sv=1&amp;sig=ab</td>", "http:/h/a.tar?…</td>"),
        ("s3://key:hidden@bucket/x", "s3://…@bucket/x"),
        ("abfss://container@account.net/x", "abfss://container@account.net/x"),
        ("https://h/a.tar?version=2 or what?", "https://h/a.tar?version=2 or what?"),
        ("x.tar?sig=ab#1.jpg lies there", "x.tar?…#1.jpg lies there"),
        ("https://h/a?token=x and https://h/b?page=2", "https://h/a?… and https://h/b?page=2"),
    ],
)
def test_only_secrets_are_hidden(text: str, said: str) -> None:
    """Queries with signatures and passwords go; other queries, local files and words stay."""
    assert without_secrets(text) == said
    assert without_secrets(said) == said


@given(st.lists(st.sampled_from(["h?sig=hidden", "?sig=", '"', "\\", "é", "\n", " ", "#"])))
def test_json_stays_json(parts: list[str]) -> None:
    """What is hidden in a text that was written as JSON takes no quote or half an escape along."""
    text = "".join(parts)
    said = json.loads(without_secrets(json.dumps([text])))
    assert "hidden" not in said[0]
    assert without_secrets(json.dumps(['see "h?sig=ab", please'])) == json.dumps(
        ['see "h?…", please'], ensure_ascii=False
    )


def test_no_message_has_a_secret() -> None:
    """Whatever is raised says addresses without them."""
    assert str(BadShards("http://h/a.tar?sig=ab is cut off")) == "http://h/a.tar?… is cut off"


def test_no_page_has_a_secret() -> None:
    """Pages hide them in all that they show, and stay escaped."""
    page = page_template("sheet.html.jinja").render(
        title="<a>", about="of http://h/a.tar?x=1&sig=ab", rows=[]
    )
    assert "sig" not in page.partition("<body")[2]
    assert "http://h/a.tar?…" in page
    assert "&lt;a&gt;" in page
