"""What a bundle is, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tellapart.bundle.bundle import open_bundle, write_bundle
from tellapart.bundle.card import card, screen


def test_info_fits_on_a_screen(command: Callable[..., Any], trained: Any) -> None:
    """24 lines of 80 columns, with what people ask first."""
    ended = command("info", trained.bundle)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = ended.out
    for wanted in ("3: 0, 1, 2", "tf_efficientnet_lite0", "Apache-2.0", "fast", "temperature"):
        assert wanted in text


def test_info_of_an_old_bundle(command: Callable[..., Any], format_1: Path) -> None:
    """What it does not know is said."""
    out = command("info", format_1).out
    assert "Accuracy      not scored\n" in out
    assert "8 bits        none\n" in out


def test_info_as_json(command: Callable[..., Any], trained: Any) -> None:
    """The whole manifest, size and members."""
    facts = json.loads(command("info", trained.bundle, "--json").out)
    assert facts["manifest"] == open_bundle(trained.bundle).manifest.model_dump(mode="json")
    assert "graph.onnx" in facts["carries"]
    assert facts["size_mb"] > 0
    assert command("info", trained.bundle, "--json", "--card").code == 2


def test_the_card_says_what_the_manifest_knows(command: Callable[..., Any], trained: Any) -> None:
    """Sections, a row a class, the accuracy with its interval."""
    text = command("info", trained.bundle, "--card").out
    assert text == card(open_bundle(trained.bundle))
    reached = trained.facts["accuracy"]
    assert f"Accuracy {reached['value']:.3f} on {reached['n']} " in text
    assert text.count("\n## ") == 6
    for name in "012":
        assert text.count(f"\n| {name} | ") == 2


def test_names_do_not_break_card_or_screen(trained: Any, tmp_path: Path) -> None:
    """Bars, line ends and a thousand classes."""
    bundle = open_bundle(trained.bundle)
    names = ("a|b", "c\nd", *(f"class {number}" for number in range(1000)))
    manifest = bundle.manifest.model_copy(update={"classes": names, "scores": None})
    path = tmp_path / "odd.tellapart"
    odd = write_bundle(path, manifest, bundle.graph, bundle.weights, None, bundle.report)
    assert "| a\\|b | " in card(odd)
    assert "| c d | " in card(odd)
    assert len(screen(odd).splitlines()) <= 24
