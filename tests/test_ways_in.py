"""Tables, patterns, names and groups through the commands that take labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tellapart.bundle.bundle import open_bundle

Command = Callable[..., Any]


@pytest.fixture
def table(small: Path, tmp_path: Path) -> Path:
    """The small digits as a table elsewhere, each with a writer, two pictures each."""
    lines = ["file,digit,writer"]
    for name in "012":
        for number, path in enumerate(sorted((small / name).iterdir())):
            lines.append(f"{name}/{path.name},{name},{name}-{number // 2}")
    (tmp_path / "digits.csv").write_text("\n".join(lines))
    return tmp_path / "digits.csv"


def test_a_table_from_training_to_scores(
    table: Path, small: Path, trained: Any, tmp_path: Path, command: Command
) -> None:
    """Trained on as folders are; what was understood is said first, and names are shown."""
    names = tmp_path / "names.json"
    names.write_text('{"0": "zero", "1": "one", "2": "<two>"}')
    how = ("--root", small, "--data", "label=digit", "--data", f"names={names}")
    bundle = tmp_path / "d.tellapart"
    run = command("train", table, "-o", bundle, "--recipe", "fast", *how)
    assert run.code == 0, run.err
    assert run.err.splitlines()[:2] == [
        f"{table}: 60 rows, path from 'file', label from 'digit' (not used: 'writer'); paths start "
        f"at {small}.",
        f"{names}: names for 3 of 3 classes, such as zero for 0.",
    ]
    said = " ".join(run.err.split())
    assert f"{table}: " in said
    assert "pictures in 3 classes (zero, one, <two>)." in said
    told = command("evaluate", bundle, table, "--json", *how)
    facts = json.loads(told.out)
    assert (facts["n"], facts["classes"]) == (60, ["0", "1", "2"])
    folders = json.loads(command("evaluate", bundle, small, "--json").out)
    assert folders["accuracy"] == facts["accuracy"]
    picture = next((small / "2").iterdir())
    shown = command("predict", bundle, picture)
    assert "<two>" in shown.out
    answer = json.loads(command("predict", bundle, picture, "--json").out)
    assert (answer["label"], answer["name"]) == ("2", "<two>")
    page = (tmp_path / "d-report.html").read_text("utf-8")
    assert "&lt;two&gt;" in page
    assert "zero, one, <two>" in command("info", bundle).out
    plain = json.loads(command("predict", trained.bundle, picture, "--json").out)
    assert "name" not in plain


def test_groups_stay_together_in_training(
    table: Path, small: Path, tmp_path: Path, command: Command
) -> None:
    """Pictures of one writer teach or score, never both; letting them apart is refused."""
    how = ("--root", small, "--data", "label=digit", "--data", "group=writer")
    bundle = tmp_path / "d.tellapart"
    run = command("train", table, "-o", bundle, "--recipe", "fast", *how)
    assert run.code == 0, run.err
    assert "30 groups that stay together." in run.err
    from tellapart.bundle.bundle import open_bundle
    from tellapart.data.reading import DataSource, read_catalog

    columns = {"label": "digit", "group": "writer"}
    catalog = read_catalog(DataSource(table, small, columns))
    assert catalog.groups is not None
    sides = open_bundle(bundle).features.sides()
    by_group: dict[str, set[str]] = {}
    for group, digest in zip(catalog.groups.tolist(), catalog.digests.tolist(), strict=True):
        by_group.setdefault(group, set()).add(sides[digest])
    assert all(len(found) == 1 for found in by_group.values())
    assert {"train", "test"} <= set().union(*by_group.values())
    refused = command("train", table, "-o", bundle, "--recipe", "fast", "--split", "exact", *how)
    assert refused.code == 7
    assert "groups that are to stay together" in refused.err


@pytest.mark.parametrize("wrong", ["label", "colour=red", "label=a --data label=b"])
def test_wrong_settings_of_the_data(wrong: str, table: Path, command: Command) -> None:
    """Unknown names, and one given twice, are a wrong command line."""
    run = command("train", table, "--data", *wrong.split())
    assert run.code == 2
    assert "expected NAME=VALUE" in " ".join(run.err.replace("│", " ").split())


def test_one_folder_by_fractions_and_seed(small: Path, tmp_path: Path, command: Command) -> None:
    """Shares and seed of the recipe's data settings decide how many teach, choose and score."""
    shares = ("--set", "data.valid=0.2", "--set", "data.test=0.1", "--split", "exact")
    counts = {}
    for seed in (1, 2):
        run = command(
            "train", small, "-o", tmp_path / f"{seed}.tellapart", "--recipe", "fast", "--json",
            *shares, "--set", f"data.seed={seed}",
        )  # fmt: skip
        facts = json.loads(run.out)
        counts[seed] = [facts[f"n_{split}"] for split in ("train", "valid", "test")]
    assert counts[1] == counts[2] == [42, 12, 6]


def test_a_sheet_of_a_pattern(small: Path, tmp_path: Path, command: Command) -> None:
    """`show` takes what `train` takes."""
    sheet = tmp_path / "sheet.html"
    run = command("show", small, "-o", sheet, "--count", "2", "--data", "pattern={label}/*")
    assert run.code == 0, run.err
    assert sheet.exists()


def test_names_go_on_with_the_classifier(
    small: Path, tmp_path: Path, command: Command, own_runs: Path
) -> None:
    """--from: what people call the classes is carried over, unless it is said anew."""
    names = tmp_path / "names.json"
    names.write_text('{"0": "zero", "1": "one"}', encoding="utf-8")
    how = ("--data", f"names={names}", "--recipe", "fast", "-q")
    first, then = tmp_path / "first.tellapart", tmp_path / "then.tellapart"
    assert command("train", small, "-o", first, *how).code == 0
    run = command("train", small, "-o", then, "--from", first, "--recipe", "fast", "-q")
    assert run.code == 0, run.err
    assert open_bundle(then).manifest.display_names == {"0": "zero", "1": "one"}
