"""What a bundle is, in words: on one screen, and as a model card."""

from __future__ import annotations

from typing import Any

from tellapart.bundle.bundle import Bundle

WIDTH = 80


def facts(bundle: Bundle) -> dict[str, Any]:
    """Return what `info --json` prints: the manifest, the file's size and what it carries."""
    return {
        "path": str(bundle.path),
        "size_mb": round(bundle.path.stat().st_size / 1e6, 1),
        "carries": sorted(bundle.manifest.sha256),
        "manifest": bundle.manifest.model_dump(mode="json"),
    }


def screen(bundle: Bundle) -> str:
    """Say what a bundle is on one screen, 80 columns wide."""
    manifest = bundle.manifest
    shape = manifest.preprocessing
    rows = [
        (
            "Classifier",
            f"{bundle.path.name}, {facts(bundle)['size_mb']} MB, format {manifest.format}",
        ),
        ("Classes", f"{manifest.n_classes}: {', '.join(manifest.classes)}"),
        ("Accuracy", _accuracy(manifest.scores)),
        ("Learned from", _pictures(manifest.data)),
        ("Backbone", f"{manifest.backbone}, {manifest.weights_origin}"),
        ("Licence", f"{manifest.backbone_licence} (of the backbone's weights)"),
        ("Recipe", str(manifest.recipe.get("name", "not stated"))),
        ("Input", f"{shape.size_px} px, {shape.fit}, {shape.interpolation}"),
        ("Calibration", _calibration(manifest.calibration.model_dump(mode="json"))),
        ("8 bits", _int8(bundle)),
        ("Made", f"{manifest.made_on[:16].replace('T', ' ')} UTC, {_versions(manifest.versions)}"),
    ]
    return "\n".join(_cut(f"{name:14}{text}") for name, text in rows)


def card(bundle: Bundle) -> str:
    """Write a model card in Markdown, from the manifest alone.

    The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting; what a
    manifest cannot know is left to be filled in, and says so.
    """
    manifest = bundle.manifest
    shape = manifest.preprocessing
    parts = [
        f"# {bundle.path.stem}",
        f"A classifier of pictures into {manifest.n_classes} classes, made with tellapart "
        f"{manifest.versions.get('tellapart', '')} on {manifest.made_on[:10]}.",
        "## What it is",
        _table(
            [
                ("Backbone", f"{manifest.backbone} ({manifest.weights_origin})"),
                ("Licence of the backbone's weights", manifest.backbone_licence),
                ("Recipe", str(manifest.recipe.get("name", "not stated"))),
                (
                    "Input",
                    f"{shape.size_px} x {shape.size_px} px RGB, {shape.fit}, {shape.interpolation}",
                ),
                (
                    "Answers",
                    f"calibrated: {_calibration(manifest.calibration.model_dump(mode='json'))}",
                ),
                ("8-bit graph", _int8(bundle)),
            ],
            ("", ""),
        ),
        "## What it is for",
        "*To be filled in by whoever publishes it: what it is meant for, and what not. It knows "
        "the classes below and nothing else.*",
        "## What it learned from",
        f"{_pictures(manifest.data)} Fingerprint of pictures, labels and splits: "
        f"`{manifest.data.get('fingerprint', 'not stated')}`. *Where the pictures come from, who is "
        f"on them and under which licence they are: to be filled in.*",
        _class_table(bundle),
        "## How good it is",
        _accuracy(manifest.scores),
        _score_table(manifest.scores),
        "## What to be careful about",
        "- It was scored on pictures like those it learned from; others may fare worse.\n"
        "- A picture of something else is still put into one of its classes.\n"
        "- Differences between groups of people or places were not measured.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _accuracy(scores: dict[str, Any] | None) -> str:
    reached = (scores or {}).get("accuracy")
    if not reached:
        return "not scored"
    hopeful = "; a little too hopeful: chosen on it" if reached.get("selected_on") else ""
    return (
        f"{reached['value']:.3f} on {reached['n']} {reached.get('split') or ''} pictures "
        f"({reached['low']:.3f} to {reached['high']:.3f}){hopeful}"
    )


def _pictures(data: dict[str, Any]) -> str:
    counts = {split: sum(numbers.values()) for split, numbers in _counts(data).items()}
    listed = ", ".join(f"{n} {split}".rstrip() for split, n in counts.items())
    return f"{listed} pictures." if listed else "not stated."


def _counts(data: dict[str, Any]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = data.get("pictures", {})
    return counts


def _calibration(facts: dict[str, Any]) -> str:
    """Say all that calibration holds, with the temperature first."""
    rest = [
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
        if name not in ("temperature", "fitted_on") and isinstance(value, int | float | str)
    ]
    first = f"temperature {facts['temperature']:.3f} ({facts['fitted_on']})"
    return ", ".join([first, *rest])


def _int8(bundle: Bundle) -> str:
    int8 = bundle.manifest.int8
    if int8 is None:
        return "none"
    lost = ""
    if int8.accuracy:
        lost = f"accuracy {int8.accuracy['int8']:.3f} against {int8.accuracy['f32']:.3f}, "
    faster = int8.pictures_per_s["int8"] / int8.pictures_per_s["f32"]
    return f"yes: {lost}{faster:.1f} x the speed of 32 bits"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _class_table(bundle: Bundle) -> str:
    counts = _counts(bundle.manifest.data)
    rows = [
        (name, *(str(numbers.get(name, 0)) for numbers in counts.values()))
        for name in bundle.manifest.classes
    ]
    return _table(rows, ("Class", *(split or "all" for split in counts)))


def _score_table(scores: dict[str, Any] | None) -> str:
    rows = [
        (row["name"], str(row["n"]), *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")))
        for row in (scores or {}).get("per_class", ())
    ]
    return _table(rows, ("Class", "Pictures", "Precision", "Recall", "F1")) if rows else ""


def _table(rows: list[Any], header: tuple[str, ...]) -> str:
    # A class may be called anything: neither a bar nor a line end may break the table.
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    lines = [header, tuple("---" for _ in header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 2].rstrip()} …"
