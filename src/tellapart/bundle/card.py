"""What a bundle is, in words: on one screen, and as a model card."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from tellapart.bundle.bundle import Bundle
from tellapart.bundle.manifest import Manifest
from tellapart.evaluation.decision import in_words

WIDTH = 80
INDENT = 14


def facts(bundle: Bundle) -> dict[str, Any]:
    """Return what `info --json` prints: the manifest, the file's size and what it carries."""
    return {
        "path": str(bundle.path),
        "size_mb": _size_mb(bundle),
        "carries": sorted(bundle.manifest.sha256),
        "manifest": bundle.manifest.model_dump(mode="json"),
    }


def screen(bundle: Bundle) -> str:
    """Say what a bundle is on one screen, 80 columns wide."""
    manifest = bundle.manifest
    shape = manifest.preprocessing
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    rows = [
        ("Classifier", f"{bundle.path.name}, {_size_mb(bundle)} MB, format {manifest.format}"),
        ("Classes", f"{manifest.n_classes}: {', '.join(manifest.shown)}"),
        ("Accuracy", _accuracy(manifest.scores)),
        ("Learned from", _pictures(manifest.data)),
        ("Backbone", f"{manifest.backbone}, {manifest.weights_origin}"),
        ("Licence", f"{manifest.backbone_licence} (of the backbone's weights)"),
        ("Recipe", str(manifest.recipe.get("name", "not stated"))),
        ("Input", f"{shape.size_px} px, {shape.fit}, {shape.interpolation}"),
        ("Calibration", _calibration(manifest)),
        ("Unsure", in_words(manifest.calibration.rules)),
        ("8 bits", _int8(bundle)),
        ("Carries", ", ".join(sorted(manifest.sha256))),
        ("Made", f"{manifest.made_on[:16].replace('T', ' ')} UTC, {versions}"),
    ]
    return "\n".join(_wrapped(name, text) for name, text in rows)


def card(bundle: Bundle) -> str:
    """Write a model card in Markdown, from the manifest alone.

    The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting; what a
    manifest cannot know is left to be filled in, and says so.
    """
    manifest = bundle.manifest
    fingerprint = manifest.data.get("fingerprint", "not stated")
    parts = [
        f"# {bundle.path.stem}",
        f"A classifier of pictures into {manifest.n_classes} classes, made with tellapart "
        f"{manifest.versions.get('tellapart', '')} on {manifest.made_on[:10]}.",
        "## What it is",
        _table(_properties(bundle), ("", "")),
        "## What it is for",
        "*To be filled in by whoever publishes it: what it is meant for, and what not.* It knows "
        "the classes below and nothing else.",
        "## What it learned from",
        f"{_pictures(manifest.data)} *Where they come from, who is on them and under which "
        f"licence they are: to be filled in.* Fingerprint of pictures, labels and splits: "
        f"`{fingerprint}`.",
        _class_table(bundle),
        "## How good it is",
        f"Accuracy {_accuracy(manifest.scores)}.",
        _score_table(manifest.scores, manifest.display_names),
        "## When it is unsure",
        in_words(manifest.calibration.rules),
        "## What to be careful about",
        "- It was scored on pictures like those it learned from; others may fare worse.\n"
        "- Differences between groups of people or places were not measured.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _properties(bundle: Bundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    shape = manifest.preprocessing
    side = shape.size_px
    return [
        ("Backbone", f"{manifest.backbone} ({manifest.weights_origin})"),
        ("Licence of the backbone's weights", manifest.backbone_licence),
        ("Recipe", str(manifest.recipe.get("name", "not stated"))),
        ("Input", f"{side} x {side} px RGB, {shape.fit}, {shape.interpolation}"),
        ("Calibration", _calibration(manifest)),
        ("8-bit graph", _int8(bundle)),
    ]


def _size_mb(bundle: Bundle) -> float:
    return round(bundle.local.stat().st_size / 1e6, 1)


def _accuracy(scores: dict[str, Any] | None) -> str:
    reached = (scores or {}).get("accuracy")
    if not reached:
        return "not scored"
    folds = reached.get("folds")
    if folds:
        return (
            f"{reached['value']:.3f} on {reached['n']} pictures in {folds['n']} folds, each judged "
            f"by a classifier that did not learn from it ({reached['low']:.3f} to "
            f"{reached['high']:.3f}); mean of the folds {folds['mean']:.3f}, standard deviation "
            f"{folds['sd']:.3f}"
        )
    leaked = (scores or {}).get("leaked")
    hopeful = (
        "; valid is there to choose by, which makes it hopeful"
        if reached.get("selected_on")
        else ""
    )
    return (
        f"{reached['value']:.3f} on {reached['n']} {reached.get('split') or ''} pictures "
        f"({reached['low']:.3f} to {reached['high']:.3f}){hopeful}"
        + (_leaked(leaked) if leaked else "")
    )


def _leaked(found: dict[str, Any]) -> str:
    return (
        f"; {found['n']} more, which lie in another split as well, are left out: "
        f"{found['accuracy_with']['value']:.3f} with them"
    )


def _pictures(data: dict[str, Any]) -> str:
    counts = {split: sum(numbers.values()) for split, numbers in _counts(data).items()}
    listed = ", ".join(f"{n} {split}".rstrip() for split, n in counts.items())
    return f"{listed} pictures." if listed else "not stated."


def _counts(data: dict[str, Any]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = data.get("pictures", {})
    return counts


def _calibration(manifest: Manifest) -> str:
    found = manifest.calibration
    return f"temperature {found.temperature:.3f}, fitted on: {found.fitted_on}"


def _int8(bundle: Bundle) -> str:
    int8 = bundle.manifest.int8
    if int8 is None:
        return "none"
    lost = ""
    if int8.accuracy:
        lost = f"accuracy {int8.accuracy['int8']:.3f} against {int8.accuracy['f32']:.3f}, "
    faster = int8.pictures_per_s["int8"] / int8.pictures_per_s["f32"]
    return f"yes: {lost}{faster:.1f} x the speed of 32 bits"


def _class_table(bundle: Bundle) -> str:
    counts = _counts(bundle.manifest.data)
    rows = [
        (shown, *(str(numbers.get(name, 0)) for numbers in counts.values()))
        for name, shown in zip(bundle.manifest.classes, bundle.manifest.shown, strict=True)
    ]
    return _table(rows, ("Class", *(split or "all" for split in counts)))


def _score_table(scores: dict[str, Any] | None, names: Mapping[str, str]) -> str:
    rows = [
        (
            names.get(row["name"], row["name"]),
            str(row["n"]),
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")),
        )
        for row in (scores or {}).get("per_class", ())
    ]
    return _table(rows, ("Class", "Pictures", "Precision", "Recall", "F1")) if rows else ""


def _table(rows: list[Any], header: tuple[str, ...]) -> str:
    # A class may be called anything: neither a bar nor a line end may break the table.
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    lines = [header, tuple("---" for _ in header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(name: str, text: str) -> str:
    """Lay out a fact beside its name, on three lines at most: so a thousand classes fit, too."""
    lines = textwrap.wrap(text, WIDTH - INDENT, max_lines=3, placeholder=" …") or [""]
    return f"{name:{INDENT}}" + f"\n{' ' * INDENT}".join(lines)
