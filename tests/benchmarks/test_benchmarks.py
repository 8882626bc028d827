"""The benchmarks start, tell how to be used, and name no machine. Their figures are not tested."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("[!_]*.py"))


def run(script: Path, *arguments: str) -> str:
    """Run a benchmark in a process of its own and return what it prints."""
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_tells_what_is_measured_and_how_to_make_it_short(script: Path) -> None:
    """Each benchmark starts without its heavy libraries and explains itself."""
    text = run(script, "--help")
    assert "--quick" in text
    assert "--n N" in text


def test_install_size_counts_torch_only_for_training() -> None:
    """A quick run prints its figures as a table, and the base install is without torch."""
    rows = [line.split("|") for line in run(BENCHMARKS / "install_size.py", "--quick").splitlines()]
    sizes_mb = {row[1].strip(): float(row[2]) for row in rows if len(row) == 8 and "MB" in row[1]}
    torch_mb = sizes_mb["of which torch itself, MB"]
    assert 0 < sizes_mb["tellapart, MB"] < sizes_mb["tellapart[train], MB"] - torch_mb


def test_machine_is_described_without_its_name() -> None:
    """What goes into the results tells processor and versions, no host and no folder."""
    machine = runpy.run_path(str(BENCHMARKS / "_machine.py"))["describe"]()
    text = json.dumps(machine)
    assert machine["versions"]["openvino"]
    assert socket.gethostname() not in text
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({"at_least": 2.0}, ">= 2 reached"),
        ({"at_least": 2.5}, ">= 2.5 not reached"),
        ({"at_most": 2.0}, "<= 2 reached"),
        ({"at_most": 1.5}, "<= 1.5 not reached"),
        ({}, ""),
    ],
)
def test_the_median_is_held_against_the_target(
    limits: dict[str, float], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A figure's median, not its best repeat, says whether the target is reached."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    figure = runpy.run_path(str(BENCHMARKS / "_measuring.py"))["Figure"]
    row = figure("x", [9.0, 2.0, 1.0], **limits).row()
    assert " ".join(row[4:]).strip() == verdict
    assert row[1:4] == ["2", "1 – 9", "3"]


@pytest.mark.parametrize("module", ["torch", "timm"])
def test_torch_can_be_hidden(module: str) -> None:
    """The process of the second training neither finds nor imports torch."""
    hide = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r});"
        "import _without_torch as w; from importlib.util import find_spec;"
        "sys.meta_path[:] = [w._Without(finder) for finder in sys.meta_path];"
    )
    code = f"{hide} assert find_spec('numpy') and not find_spec('{module}'); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"No module named '{module}'" in done.stderr
