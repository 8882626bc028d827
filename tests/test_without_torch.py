"""What must work where torch is not installed, each in a process that cannot import it."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tellapart.bundle.bundle import open_bundle

EXTRA = ("ray", "torch", "torchvision", "timm", "lightning_fabric", "huggingface_hub", "matplotlib")

# Python runs this at start. The extra is then as if it had never been installed: nothing finds
# it, so that `find_spec` answers None and an import fails as it does on a bare machine.
SITE = f"""
import sys
from importlib.machinery import PathFinder

class WithoutExtra(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA!r}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [WithoutExtra if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run Python with these arguments in an environment without the extra."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)

    def call(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, args)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(site)} | env,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture
def tellapart(bare: Callable[..., Any]) -> Callable[..., Any]:
    """Run `tellapart` in an environment without the extra."""

    def call(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return bare("-m", "tellapart", *args, **env)

    return call


def test_torch_really_cannot_be_imported(bare: Callable[..., Any]) -> None:
    """The environment of these tests is what it says: looked for, the extra is not there."""
    looked = "from importlib.util import find_spec; print([find_spec(n) for n in {}])"
    assert bare("-c", looked.format(list(EXTRA))).stdout == f"{[None] * len(EXTRA)}\n"
    for name in EXTRA:
        failed = bare("-c", f"import {name}")
        assert f"ModuleNotFoundError: No module named '{name}'" in failed.stderr


def test_help_needs_nothing(tellapart: Callable[..., Any]) -> None:
    """`--help` answers."""
    ended = tellapart("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Tell pictures apart" in ended.stdout


def test_help_does_not_wait_for_numerical_libraries(bare: Callable[..., Any]) -> None:
    """Neither the package nor its command line imports what takes long."""
    heavy = ("numpy", "openvino", "sklearn", "scipy", "pydantic", "PIL", "onnx", *EXTRA)
    ended = bare(
        "-c",
        "import sys, tellapart, tellapart.cli.main, tellapart.errors\n"
        f"print([name for name in {heavy} if name in sys.modules])",
    )
    assert ended.stdout == "[]\n"


def test_prediction_needs_no_torch(tellapart: Callable[..., Any], trained: Any) -> None:
    """Pictures are answered from the bundle alone: no cache, no backbone, no torch."""
    ended = tellapart(
        "predict", trained.bundle, trained.data / "1", "--json", TELLAPART_CACHE="/nowhere"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == ["1"] * 20


def test_sorting_needs_no_torch(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """A plan with its sheet, the sort itself, and the way back."""
    gallery, into = tmp_path / "gallery", tmp_path / "sorted"
    shutil.copytree(trained.data, gallery)
    for extra in (["--sheet", tmp_path / "plan.html"], ["--apply"]):
        ended = tellapart("sort", trained.bundle, gallery, "--into", into, "--json", *extra)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout)["n_pictures"] == 60
    assert (tellapart("undo", into).returncode, into.exists()) == (0, False)


def test_pictures_without_labels_need_no_torch(
    tellapart: Callable[..., Any], warm_cache: Path, small: Path, tmp_path: Path
) -> None:
    """With the network kept: groups, features and similar pictures, first and second run."""
    picture = sorted((small / "1").iterdir())[0]
    for command in (
        ("group", small, "--groups", "3", "--out", tmp_path / "tables"),
        ("features", small, "--out", tmp_path / "f.npz"),
        ("similar", picture, small),
    ):
        ended = tellapart(*command, "--json", "-q")
        assert (ended.returncode, ended.stderr) == (0, "")
        facts = json.loads(ended.stdout)
        assert facts.get("n_computed", 0) == (60 if command[0] == "group" else 0)


def test_what_torch_trained_needs_no_torch(tellapart: Callable[..., Any], tuned: Any) -> None:
    """A classifier whose network learned predicts and is scored like any other."""
    nowhere = {"TELLAPART_CACHE": "/nowhere", "TELLAPART_RUNS": "/nowhere"}
    ended = tellapart("predict", tuned.bundle, tuned.data / "1", "--json", **nowhere)
    assert (ended.returncode, ended.stderr) == (0, "")
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == ["1"] * 20
    ended = tellapart("evaluate", tuned.bundle, tuned.data, "--json", **nowhere)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["accuracy"]["value"] > 0.9


def test_evaluation_needs_no_torch(tellapart: Callable[..., Any], trained: Any) -> None:
    """Labelled pictures are scored from the bundle alone."""
    ended = tellapart(
        "evaluate", trained.bundle, trained.data, "--json", TELLAPART_CACHE="/nowhere"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["n"] == 60


def test_drawings_and_reports_need_no_torch(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """Maps of what spoke for an answer, cards and the report of an evaluation are drawn, too."""
    nowhere = {"TELLAPART_CACHE": "/nowhere"}
    picture = sorted((trained.data / "1").iterdir())[0]
    drawn = ("--explain", tmp_path / "why", "--show", tmp_path / "shown")
    ended = tellapart("predict", trained.bundle, picture, *drawn, **nowhere)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "why" / f"{picture.name}.why.png").exists()
    assert (tmp_path / "shown" / f"{picture.name}.answer.png").exists()
    page = tmp_path / "page.html"
    ended = tellapart("evaluate", trained.bundle, trained.data, "--report", page, **nowhere)
    assert ended.returncode == 0, ended.stderr
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_other_commands_need_no_torch(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """backbones, recipes, runs, cache and show."""
    listed = json.loads(tellapart("backbones", "--json").stdout)["backbones"]
    assert {row["name"]: row["offline"] for row in listed}["tf_efficientnet_lite0"]
    assert json.loads(tellapart("cache", "--json").stdout)["items"]
    assert "auto" in {one["name"] for one in json.loads(tellapart("recipes", "--json").stdout)}
    assert tellapart("recipes", "show", "auto").stdout.startswith('name = "auto"\n')
    assert json.loads(tellapart("runs", "--json").stdout)[0]["state"] == "done"
    sheet = tmp_path / "sheet.html"
    ended = tellapart("show", trained.data, "-o", sheet, "--count", "2", "--views", "1", "--json")
    assert json.loads(ended.stdout) == {"sheet": str(sheet), "n_pictures": 2, "n_views": 1}
    assert sheet.stat().st_size > 1000


def test_a_second_training_needs_no_torch(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """On kept features nothing is computed; the scores are those of the first training."""
    again = tmp_path / "again.tellapart"
    ended = tellapart("train", trained.data, "-o", again, "--recipe", "fast", "--json")
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["n_computed"] == 0
    assert facts["accuracy"] == trained.facts["accuracy"]


def test_the_default_recipe_stops_after_the_head(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """Without torch the second phase is left out and that is said: what comes out is whole.

    It is the classifier of the recipe that asks for the head alone.
    """
    bundle = tmp_path / "again.tellapart"
    ended = tellapart("train", trained.data, "-o", bundle, "--json")
    assert ended.returncode == 0, ended.stderr
    why = "it needs PyTorch: pip install 'tellapart[train]'"
    assert ended.stderr.splitlines()[-1] == f"phase 2 (tail) not kept: {why}"
    facts = json.loads(ended.stdout)
    assert facts["n_computed"] == 0
    assert [(one["learns"], one["kept"]) for one in facts["phases"]] == [
        ("head", True),
        ("tail", False),
    ]
    assert facts["phases"][1]["reason"] == why
    assert facts["accuracy"] == trained.facts["accuracy"]
    ours, fast = open_bundle(bundle), open_bundle(trained.bundle)
    assert ours.graph == fast.graph
    assert ours.manifest.calibration == fast.manifest.calibration
    assert why in html.unescape(ours.report)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["--recipe", "auto", "--set", "phases.2.keep=always"],
            "The recipe auto has a phase that needs PyTorch, which is not installed. Nothing was "
            "trained. Install it with: pip install 'tellapart[train]', or solve for the head alone "
            "with --recipe fast.",
        ),
        (
            ["--dry-run"],
            "Trying a training out needs PyTorch, which is not installed. Nothing was done. "
            "Install it with: pip install 'tellapart[train]'",
        ),
    ],
)
def test_what_needs_torch_says_so(
    settings: list[str],
    message: str,
    tellapart: Callable[..., Any],
    trained: Any,
    tmp_path: Path,
) -> None:
    """A phase that must be kept, and a rehearsal: one paragraph, exit code 40, and no file."""
    bundle = tmp_path / "out" / "small.tellapart"
    bundle.parent.mkdir()
    ended = tellapart("train", trained.data, "-o", bundle, *settings)
    assert (ended.returncode, ended.stdout) == (40, "")
    assert ended.stderr.splitlines()[-1] == f"tellapart: {message}"
    assert list(bundle.parent.iterdir()) == []


def test_looking_into_a_network_needs_torch(tellapart: Callable[..., Any]) -> None:
    """backbones show: what to install."""
    ended = tellapart("backbones", "show", "tf_efficientnet_lite0")
    assert (ended.returncode, ended.stdout) == (40, "")
    assert ended.stderr == (
        "tellapart: Looking into a network needs PyTorch, which is not installed. Install it with: "
        "pip install 'tellapart[train]'\n"
    )


def test_a_training_on_new_pictures_needs_no_torch(
    tellapart: Callable[..., Any], warm_cache: Path, small: Path, tmp_path: Path
) -> None:
    """With the network kept from before, pictures it never saw can be learned from."""
    for name in ("0", "1"):
        shutil.copytree(small / name, tmp_path / "new" / f"digit {name}")
    options = ("-o", tmp_path / "new.tellapart", "--recipe", "fast", "--json")
    ended = tellapart("train", tmp_path / "new", *options)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["n_computed"] == 40


def test_a_first_training_without_torch_says_what_to_install(
    tellapart: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    """Nothing kept and no torch: one paragraph, exit code 40, and no file."""
    bundle = tmp_path / "out" / "small.tellapart"
    bundle.parent.mkdir()
    ended = tellapart("train", small, "-o", bundle, TELLAPART_CACHE=str(tmp_path / "cache"))
    assert (ended.returncode, ended.stdout) == (40, "")
    assert ended.stderr == (
        "tellapart: Preparing tf_efficientnet_lite0 for the first time needs PyTorch, and torch "
        "is not installed. Predicting and learning again from kept pictures do not. Install it "
        "with: pip install 'tellapart[train]'\n"
    )
    assert list(bundle.parent.iterdir()) == []


def test_an_accelerator_without_torch_is_not_available(
    tellapart: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    """--device cuda where there is no torch: said at once, exit code 41."""
    ended = tellapart("train", small, "-o", tmp_path / "x.tellapart", "--device", "cuda")
    assert (ended.returncode, ended.stdout) == (41, "")
    assert ended.stderr == (
        "tellapart: --device cuda was asked for, but torch finds no such device here. Usable: "
        "cpu. Nothing was done. Use --device auto to take the best there is.\n"
    )


def test_exports_of_graphs_and_cards_need_no_torch(
    tellapart: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """A classifier is described, and exported for OpenVINO, from the bundle alone."""
    ended = tellapart("info", trained.bundle, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    where = ["--check", trained.data / "1", "-o", tmp_path / "out"]
    ended = tellapart("export", trained.bundle, "--to", "openvino", *where, "-q", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["agreement"]["n"] == 20
    ended = tellapart("export", trained.bundle, "--to", "torch", *where[:2], "-q")
    assert ended.returncode == 40
    assert "tellapart: Exporting to torch needs PyTorch, and " in ended.stderr
    assert ended.stderr.endswith("Install it with: pip install 'tellapart[train]'\n")


def test_inspect_says_what_it_cannot_look_for(
    tellapart: Callable[..., Any], small: Path, tmp_path: Path
) -> None:
    """Where the network was never prepared, files and pixels are looked at, and that is said."""
    ended = tellapart("inspect", small, "--json", "-q", TELLAPART_CACHE=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (0, "")
    (note,) = json.loads(ended.stdout)["notes"]
    assert note.startswith("Outliers and wrong labels were not looked for. Preparing ")
    assert note.endswith("Install it with: pip install 'tellapart[train]'")


@pytest.mark.slow
def test_quantising_needs_no_torch_and_tells_nobody(
    bare: Callable[..., Any], trained: Any, tmp_path: Path
) -> None:
    """NNCF works on the graph; what it would report through is not even imported."""
    pytest.importorskip("nncf")
    ended = bare(
        "-c",
        "import sys, tellapart\n"
        "from tellapart.progress import Progress\n"
        f"facts = tellapart.quantize({str(trained.bundle)!r}, {str(trained.data)!r}, "
        f"{str(tmp_path / 'small.tellapart')!r}, Progress('quiet'))\n"
        "told = [name for name in ('openvino_telemetry', 'openvino.tools.ovc', 'torch') "
        "if name in sys.modules]\n"
        "print(facts.n_calibration > 0, told)",
    )
    assert (ended.returncode, ended.stdout) == (0, "True []\n"), ended.stderr


def test_serving_needs_no_torch(bare: Callable[..., Any], trained: Any, tmp_path: Path) -> None:
    """A server is made ready, with its records, where torch cannot be imported."""
    ended = bare(
        "-c",
        "import sys; from pathlib import Path\n"
        "from tellapart.server.running import prepare\n"
        "from tellapart.server.settings import Settings\n"
        f"made = prepare(Settings((Path({str(trained.bundle)!r}),), 'sqlite://', port=0))\n"
        "print([model.name for model in made.service.models], 'torch' in sys.modules)\n"
        "made.listening.close(); made.service.records.close()",
    )
    assert ended.stdout == "['small'] False\n", ended.stderr
