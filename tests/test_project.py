"""What the project promises about itself: commands, sizes, docstrings, versions."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MAX_BODY_LINES = 45
TEST_COMMAND = "make test"

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions(folder: str) -> Iterator[tuple[str, FunctionNode]]:
    """Every function below a folder of the project, as ("path:line name", its node)."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FunctionNode):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def body_lines(function: FunctionNode) -> int:
    """Lines from the first statement after the docstring to the last, comments included."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def parameters(function: FunctionNode) -> list[str]:
    """The names of all parameters but `self` and `cls`."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]


def requirements() -> dict[str, Requirement]:
    """What pyproject.toml allows, base and extras together, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    parsed = [Requirement(line) for lines in lists for line in lines]
    return {canonicalize_name(one.name): one for one in parsed}


def constraints() -> dict[str, Requirement]:
    """What constraints.txt pins, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in parsed}


def pinned_version(constraint: Requirement) -> str:
    """The version of a constraint that allows exactly one."""
    (specifier,) = constraint.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, str(constraint)
    return specifier.version


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    """CI ends with the very command that the README tells people to test with."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
    commands = [line.partition("#")[0].strip() for line in "".join(blocks).splitlines()]
    assert TEST_COMMAND in commands

    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert ci.read_text(encoding="utf-8").splitlines()[-1] == TEST_COMMAND


def test_every_test_states_its_behaviour() -> None:
    """Each test function has a docstring."""
    tests = [(place, node) for place, node in functions("tests") if node.name.startswith("test_")]
    assert tests
    assert [place for place, node in tests if ast.get_docstring(node) is None] == []


def test_no_patch_of_code_outlives_its_module() -> None:
    """A fixture of a whole session would change what later tests run, in an order of chance."""
    fixtures = [
        (place, node)
        for place, node in functions("tests")
        if any("scope='session'" in ast.unparse(one) for one in node.decorator_list)
    ]
    assert fixtures

    def patches(node: FunctionNode) -> bool:
        parts = list(ast.walk(node))
        lasts = any(isinstance(part, ast.Yield) for part in parts)
        return lasts and any(getattr(part, "attr", "") == "setattr" for part in parts)

    # Waits of stores, which only their own tests go to; they need the one server all the time.
    known = {"s3_server"}
    assert {node.name for _, node in fixtures if patches(node)} <= known


def imported(module: ast.Module) -> set[str]:
    """Top-level names of the packages that a module imports when it is itself imported."""
    names = set()
    for node in module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


def test_files_that_import_torch_say_so() -> None:
    """The docstring of a file ends in (torch) exactly where importing the file needs torch."""
    needs_torch = {"torch", "torchvision", "timm", "lightning_fabric"}
    modules = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "src").rglob("*.py"))
    }
    say = {name for name, one in modules.items() if "(torch)" in (ast.get_docstring(one) or "")}
    assert say == {name for name, one in modules.items() if imported(one) & needs_torch}
    assert not any(name.endswith("__init__.py") for name in say)


def test_functions_are_short() -> None:
    """No function in src has a body longer than the limit."""
    found = [
        f"{place}: {body_lines(node)} lines"
        for place, node in functions("src")
        if body_lines(node) > MAX_BODY_LINES
    ]
    assert found == []


def test_no_file_names_a_place_on_one_machine() -> None:
    """No file that git keeps, or would keep, contains an absolute path of one machine."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    needles = [f"/{folder}/".encode() for folder in ("work", "root")]
    paths = [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    assert paths
    assert [
        str(path.relative_to(ROOT))
        for path in paths
        if any(needle in path.read_bytes() for needle in needles)
    ] == []


def test_what_is_installed_is_pinned_within_what_is_allowed() -> None:
    """constraints.txt pins every direct dependency, and nothing else, to an allowed version."""
    allowed, pinned = requirements(), constraints()
    assert sorted(pinned) == sorted(allowed)
    assert [
        str(pin)
        for name, pin in pinned.items()
        if not allowed[name].specifier.contains(pinned_version(pin))
    ] == []


def test_what_only_some_want_is_an_extra() -> None:
    """Trackers come with `log` alone, and what their tests need is what `make` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: {canonicalize_name(Requirement(line).name) for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }
    assert extras.keys() == {
        *("train", "log", "postgres", "parquet", "heic", "quantize", "bench", "dev"),
        *("s3", "gs", "az", "http", "ray"),
    }
    assert extras["log"] == {"tensorboardx", "mlflow-skinny"}
    assert extras["log"].isdisjoint(extras["train"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-e '.[train,log,postgres,parquet,s3,gs,az,http,ray,heic,quantize,dev]'" in makefile


def test_torch_is_bounded_and_only_for_training() -> None:
    """Torch 2.6 up to 3 is allowed, pinned on x86-64 alone, and the base install has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert base.isdisjoint({"torch", "torchvision", "timm", "lightning-fabric", "matplotlib"})

    assert str(requirements()["torch"].specifier) == "<3,>=2.6"
    pinned = constraints()
    for name in ("torch", "torchvision"):
        assert str(pinned[name].marker) == 'platform_machine == "x86_64"'
