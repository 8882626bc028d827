"""Bad input: one paragraph and an exit code for each, and no half-written file. All are pinned."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tellapart import errors
from tellapart.training.recipe import builtin_recipes, load_recipe
from tellapart.training.runs import list_runs

Command = Callable[..., Any]

FAST = ("--recipe", "fast")

SUFFIXES = (
    ".avif, .bmp, .gif, .heic, .heif, .hif, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff, .webp"
)


def write_picture(path: Path, colour: int = 0) -> None:
    """Write a small picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (colour, 255 - colour, 99)).save(path)


def write_classes(folder: Path, **counts: int) -> Path:
    """Write a folder of classes with so many different pictures each."""
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write_picture(folder / name / f"{number}.png", 40 * place + number)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results, empty."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def refused(command: Command, out: Path) -> Callable[..., str]:
    """Run a command that must fail with a code; return its message. Nothing may be left in out."""

    def call(code: int, *args: str | Path) -> str:
        before = sorted(out.iterdir())
        ended = command(*args)
        assert ended.code == code, ended.err
        assert ended.out == ""
        assert sorted(out.iterdir()) == before
        said = [line for line in ended.err.splitlines() if line.startswith("tellapart: ")]
        assert len(said) == 1
        assert ended.err.endswith(f"{said[0]}\n")
        assert "Traceback" not in ended.err
        return said[0].removeprefix("tellapart: ")

    return call


@contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of this size, where that is allowed."""
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system needs more rights")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def every_error() -> list[type[errors.TellapartError]]:
    """All classes of errors, from the module itself."""
    found = [one for one in vars(errors).values() if isinstance(one, type)]
    return [one for one in found if issubclass(one, errors.TellapartError)]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    """The table in the module's docstring is what the classes say; no code stands twice."""
    assert errors.__doc__ is not None
    table = {
        name: int(code)
        for name, code in re.findall(r"[├└]── (\w+)\s+(\d+)(?:\s|$)", errors.__doc__)
    }
    own = {one.__name__: one.exit_code for one in every_error() if "exit_code" in vars(one)}
    assert own.pop("TellapartError") == 1
    assert table == own
    assert len(set(table.values())) == len(table)
    assert not {0, 1, 2, 130} & set(table.values())


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """Every class stands in the docstring, below the one that it belongs to."""
    assert errors.__doc__ is not None
    parents = ["TellapartError"]
    for indent, name in re.findall(r"\n( {4}[│ ]{0,5} *)[├└]── (\w+)", errors.__doc__):
        depth = len(indent) // 4
        del parents[depth:]
        assert getattr(errors, name).__base__.__name__ == parents[-1]
        parents.append(name)
    drawn = set(re.findall(r"── (\w+)", errors.__doc__)) | {"TellapartError"}
    assert drawn == {one.__name__ for one in every_error()}


def test_a_missing_folder(refused: Command, out: Path, tmp_path: Path) -> None:
    """Nothing there: what was expected is drawn with the path's own name. A file is a table."""
    photos = tmp_path / "photos"
    expected = (
        "Expected a folder that holds one folder of pictures a class, such as photos/cats and "
        "photos/dogs. Check the path."
    )
    assert refused(3, "train", photos, "-o", out / "x") == f"{photos} does not exist. {expected}"
    photos.touch()
    message = f"{photos} names no pictures. Expected a row for each. Nothing was read."
    assert refused(75, "train", photos, "-o", out / "x") == message
    assert refused(75, "show", photos, "-o", out / "x") == message


def test_one_class_only(refused: Command, out: Path, tmp_path: Path) -> None:
    """A single class cannot be told apart from anything."""
    data = write_classes(tmp_path / "data", cats=3)
    assert refused(4, "train", data, "-o", out / "x") == (
        f"{data} holds pictures of one class only ('cats', 3 pictures). Telling apart needs at "
        f"least two. Nothing was read. Put each class into a folder of its own below {data}; "
        f"pictures of anything else can serve as a second class."
    )


def test_a_class_with_one_picture(
    trained: Any, refused: Command, out: Path, tmp_path: Path
) -> None:
    """One picture, or copies of one, are too few to learn from."""
    data = write_classes(tmp_path / "data", cats=3, dogs=1, owls=1)
    shutil.copy(data / "owls" / "0.png", data / "owls" / "copy.png")
    assert refused(5, "train", data, "-o", out / "x") == (
        f"In {data} these classes have fewer than 2 different readable pictures to learn from: "
        f"'dogs' (1), 'owls' (1). Nothing was trained. Add pictures of them, or take their "
        f"folders away."
    )


def test_no_pictures_at_all(refused: Command, out: Path, tmp_path: Path) -> None:
    """An empty folder, or one with other files."""
    data = tmp_path / "data"
    data.mkdir()
    message = (
        f"No pictures were found in the folders below {data}. Expected one folder of pictures a "
        f"class, with files ending in {SUFFIXES}. Nothing was read."
    )
    assert refused(6, "train", data, "-o", out / "x") == message
    (data / "cats").mkdir()
    (data / "cats" / "notes.txt").touch()
    said = refused(6, "train", data, "-o", out / "x")
    assert said.startswith(f"{message} Set aside: ")
    assert "no pictures of class 'cats' in it" in said


def test_no_readable_picture(trained: Any, refused: Command, out: Path, tmp_path: Path) -> None:
    """Files named like pictures, none of which is one: how many, and why the first was not."""
    data = tmp_path / "data"
    for name in ("cats", "dogs"):
        (data / name).mkdir(parents=True)
        for number in range(2):
            pointer = f"version https://git-lfs.github.com/spec/v1\nsize {number}\n"
            (data / name / f"{number}.jpg").write_text(pointer)
    assert refused(6, "train", data, "-o", out / "x") == (
        f"Of 4 pictures in {data}, none could be read. The first, {data}/cats/0.jpg, is a Git "
        f"LFS pointer, not the picture itself (run: git lfs pull). Nothing was trained."
    )


def test_classes_that_differ_only_in_case(refused: Command, out: Path, tmp_path: Path) -> None:
    """Cats and cats may be one class or two: guessing would be silent."""
    data = write_classes(tmp_path / "data", cats=2, Cats=2, dogs=2)
    if len(list(data.iterdir())) < 3:
        pytest.skip("this file system does not tell case apart")
    assert refused(7, "train", data, "-o", out / "x") == (
        f"In {data} some class names differ only in case or in how accents are written: 'Cats' "
        f"and 'cats'. They may be one class or two; nothing was trained. Rename or merge the "
        f"folders."
    )


def test_labelled_pictures_of_other_classes(
    refused: Command, format_1: Path, tmp_path: Path
) -> None:
    """Evaluation matches classes by name; where none match, both sides are named."""
    data = write_classes(tmp_path / "data", cats=1, dogs=1)
    assert refused(8, "evaluate", format_1, data) == (
        f"{data} holds the classes cats, dogs, the classifier knows blue, green, red: none in "
        f"common. Classes are matched by the names of the folders; rename these to match, or "
        f"train on this data."
    )


def test_nothing_left_to_score(refused: Command, format_1: Path, tmp_path: Path) -> None:
    """Pictures of known classes, none of them readable."""
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "red" / "a.png").touch()
    assert refused(6, "evaluate", format_1, tmp_path / "data") == (
        f"Of 1 pictures in {tmp_path}/data, none could be read: the first is empty (0 bytes). "
        f"Nothing was scored. Check the files."
    )


def test_an_unknown_backbone(refused: Command, out: Path, small: Path) -> None:
    """The nearest name is suggested, and the command that lists all."""
    assert refused(10, "train", small, "-o", out / "x", "--backbone", "resnet81") == (
        'There is no backbone "resnet81". Did you mean "resnet18"? Nothing was loaded; '
        "`tellapart backbones` lists those that can be given to --backbone."
    )


RECIPES = ", ".join(recipe.name for recipe in builtin_recipes())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--recipe", "fats"],
            "There is no recipe \"fats\". Did you mean 'fast'? Expected was the path of a .toml "
            f"file or one of: {RECIPES}. Nothing was trained.",
        ),
        (
            ["--recipe", "zzz.toml"],
            "The recipe zzz.toml cannot be opened: No such file or directory. Nothing was trained. "
            "Check the path, or choose one of those that `tellapart recipes` lists.",
        ),
        (
            ["--split", "half"],
            "The recipe auto cannot be used: data.split = 'half': input should be 'auto', 'none', "
            "'exact' or 'halve-test'. Nothing was trained. Correct these settings; `tellapart "
            "recipes show auto` prints a whole one.",
        ),
        (
            ["--set", "sed=3"],
            "The recipe auto cannot be used: there is no setting sed (did you mean seed?). "
            "Nothing was trained. Correct these settings; `tellapart recipes show auto` prints a "
            "whole one.",
        ),
        (
            ["--set", "phases.9.epochs=3"],
            "The setting phases.9.epochs names no entry: this recipe has 2, counted from 1, and "
            "'9' is not one of them. Nothing was trained.",
        ),
        (
            ["--budget", "1m", "--set", "phases.2.keep=always"],
            'The recipe auto cannot be used: budget_s needs phases with keep = "if_better": only '
            "these may be left out. Nothing was trained. Correct these settings; `tellapart "
            "recipes show auto` prints a whole one.",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_recipes_that_cannot_be_used(
    args: list[str], message: str, refused: Command, out: Path, small: Path
) -> None:
    """Names and settings that are unknown, wrong, or contradict each other: what helps is named."""
    for command in (["train", "-o", out / "x"], ["train", "--dry-run", "-o", out / "x"]):
        assert refused(60, *command, small, *args) == message


def test_a_recipe_file_that_is_none(
    refused: Command, out: Path, small: Path, tmp_path: Path
) -> None:
    """A file that is no TOML: where it breaks off, and what a whole one looks like."""
    file = tmp_path / "x.toml"
    file.write_text("name = [", encoding="utf-8")
    assert refused(60, "train", small, "-o", out / "x", "--recipe", file) == (
        f"The recipe {file} is no TOML: Invalid value (at end of document). Nothing was trained. "
        f"`tellapart recipes show auto` prints one that is."
    )


@pytest.mark.parametrize(("recipe", "others"), [("fast", "it has none"), ("auto", "2")])
def test_a_phase_without_a_rate(
    recipe: str, others: str, refused: Command, out: Path, small: Path
) -> None:
    """The head that is solved for has none to find; which phases have is said."""
    args = ("--recipe", recipe, "--phase", "1", "-o", out / "x.png")
    assert refused(60, "find-lr", small, *args) == (
        f"Phase 1 of the recipe {recipe} has no rate to find: expected one that learns by steps "
        f"({others}). Nothing was done. Choose one with --phase, or another recipe with --recipe."
    )


def test_a_cut_that_is_nowhere(
    trained: Any, refused: Command, out: Path, own_runs: Path, single_thread: None
) -> None:
    """Names come from the network at hand; all its stages are listed."""
    stages = "conv_stem, blocks.0, blocks.1, blocks.2, blocks.3, blocks.4, blocks.5, blocks.6"
    message = (
        f"tf_efficientnet_lite0 has no part \"blocks.9\" to cut at. Did you mean 'blocks.6'? Its "
        f"stages start at {stages}, conv_head; the cut is the first part that learns. Nothing was "
        f"trained. `tellapart backbones show tf_efficientnet_lite0` lists all parts that can be "
        f"named."
    )
    cut = ("--set", "phases.2.cut=blocks.9")
    assert refused(13, "train", trained.data, "-o", out / "x", *cut) == message
    assert refused(13, "backbones", "show", "lite0", "--cut", "blocks.9") == message


def test_a_rate_that_ruins_the_network(
    trained: Any,
    small_tail: dict[str, Any],
    refused: Command,
    out: Path,
    own_runs: Path,
    single_thread: None,
) -> None:
    """A phase that must be kept and diverges: nothing is written, and the run says it failed."""
    settings = {**small_tail, "phases.2.lr": 10.0, "phases.2.weight_decay": 0.0}
    recipe = out.parent / "wild.toml"
    load_recipe("auto", settings).save(recipe)
    message = refused(61, "train", trained.data, "-o", out / "x", "--recipe", recipe)
    assert re.fullmatch(
        r"A phase that has to be kept gave no usable weights: the loss became \S+ in epoch [12]: "
        r"most likely the rate 1\.0e\+01 is too high\. Expected was a loss that falls\. Nothing "
        r'was written\. Lower lr, or find one with `tellapart find-lr` or lr = "auto"\.',
        message,
    )
    (run,) = list_runs()
    assert (run.state, run.accuracy) == ("failed", None)


def test_going_on_from_what_is_no_classifier(
    refused: Command, out: Path, small: Path, format_1: Path, tmp_path: Path
) -> None:
    """--from a file that is not there, is no bundle, or is of a network that is not known."""
    args = ("train", small, "-o", out / "x", *FAST, "--from")
    missing = tmp_path / "none.tellapart"
    assert refused(20, *args, missing) == (
        f"{missing} does not exist; expected a classifier file ending in .tellapart. Make one "
        f"with: tellapart train FOLDER -o none.tellapart"
    )
    missing.write_bytes(b"junk")
    assert refused(21, *args, missing).startswith(f"{missing} is not a whole tellapart classifier")
    assert refused(10, *args, format_1).startswith('There is no backbone "mean_colour". ')


def test_weights_that_are_nowhere(
    refused: Command, out: Path, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is not there, or a backbone whose weights are not on this machine."""
    missing = tmp_path / "mine.pth"
    assert refused(11, "train", small, "-o", out / "x", "--weights", missing) == (
        f"There is no file {missing}, which was named as the weights of tf_efficientnet_lite0. "
        f"Expected was a state dict (.pth, .pt, .bin or .safetensors). Nothing was loaded; "
        f"correct --weights, or leave it out to use the pretrained weights."
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    message = refused(11, "train", small, "-o", out / "x", "--backbone", "alexnet")
    assert message == (
        f"The weights of alexnet are not on this machine: looked for alexnet-owt-7be5be79.pth in "
        f"{tmp_path}/torch/hub/checkpoints; the hub does not have them. Backbones that work here "
        f"offline: tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2, "
        f"tf_efficientnet_lite0+lite2. Nothing was loaded. Choose one of those with --backbone, "
        f"name a file with --weights, or run this where there is a network: python -c "
        f"\"import torchvision.models as m; m.alexnet(weights='DEFAULT')\""
    )


def test_bundles_that_are_not_there_or_not_whole(
    refused: Command, format_1: Path, colours: Path, tmp_path: Path
) -> None:
    """Missing, cut off, altered, from the future: predict and evaluate say the same."""
    path = tmp_path / "pets.tellapart"
    picture = colours / "red.png"
    assert refused(20, "predict", path, picture) == (
        f"{path} does not exist; expected a classifier file ending in .tellapart. Make one with: "
        f"tellapart train FOLDER -o pets.tellapart"
    )
    whole = format_1.read_bytes()
    cure = (
        "It was expected to be as `tellapart train` wrote it; it was cut off or changed since, so "
        "it is not used. Copy it again from where it came from, or train again."
    )
    path.write_bytes(whole[:-500])
    message = (
        f"{path} is not a whole tellapart classifier: it cannot be read as a bundle (File is not "
        f"a zip file). {cure}"
    )
    assert refused(21, "predict", path, picture) == message
    assert refused(21, "evaluate", path, colours) == message

    path.write_bytes(whole.replace(b"float", b"flaot"))
    assert refused(21, "predict", path, picture) == (
        f"{path} is not a whole tellapart classifier: graph.onnx cannot be read (Bad CRC-32 for "
        f"file 'graph.onnx'). {cure}"
    )


def test_devices_that_are_not_there(refused: Command, out: Path, small: Path) -> None:
    """An unknown name, and one that is known but not on this machine."""
    assert refused(41, "train", small, "-o", out / "x", "--device", "tpu") == (
        "--device 'tpu' is not known. Use one of auto, cpu, cuda, mps."
    )
    if sys.platform != "darwin":
        assert refused(41, "train", small, "-o", out / "x", "--device", "mps").startswith(
            "--device mps was asked for, but torch finds no such device here. Usable: "
        )


def test_nothing_to_predict(command: Command, format_1: Path, tmp_path: Path) -> None:
    """A folder without pictures, or pictures none of which can be read."""
    folder = tmp_path / "empty"
    folder.mkdir()
    ended = command("predict", format_1, folder)
    assert (ended.code, ended.out) == (6, "")
    assert ended.err == (
        f"tellapart: There are no pictures below {folder}. Expected files, folders that hold "
        f"pictures, or patterns that match some. Nothing was predicted. Check the path.\n"
    )
    ended = command("predict", format_1, tmp_path / "a.png", tmp_path / "*.gif", "--json")
    assert ended.code == 6
    assert [json.loads(line)["error"] for line in ended.out.splitlines()] == [
        "cannot be opened (No such file or directory)"
    ] * 2
    assert ended.err == (
        "tellapart: None of the 2 pictures could be read. Expected picture files, folders or "
        "patterns; the reason for each stands beside it. Check the paths and the files.\n"
    )


def test_an_output_that_cannot_be_written(
    refused: Command, out: Path, small: Path, tmp_path: Path
) -> None:
    """A folder that is missing or a folder itself: said before any work, naming -o."""
    target = out / "none" / "x.tellapart"
    message = (
        f"{target} could not be written: the folder {out}/none does not exist. Nothing was "
        f"written. Make the folder, or choose another place with -o."
    )
    start = time.monotonic()
    assert refused(31, "train", small, "-o", target) == message
    assert refused(31, "show", small, "-o", target) == message
    (out / "y.tellapart").mkdir()
    assert refused(31, "train", small, "-o", out / "y") == (
        f"{out}/y.tellapart is a folder; expected the name of a file to write. Nothing was done. "
        f"Give a file name, or choose another place with -o."
    )
    assert time.monotonic() - start < 5


def test_no_permission_to_write(small: Path, out: Path, tmp_path: Path) -> None:
    """A folder that may be read but not written: said before any work."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        # Even root obeys the permissions of its own folders without these two rights.
        if not shutil.which("setpriv"):
            pytest.skip("as root, permissions can be tested with setpriv only")
        rights = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    out.chmod(0o555)
    target = out / "x.tellapart"
    call = [*prefix, sys.executable, "-m", "tellapart", "train", str(small), "-o", str(target)]
    ended = subprocess.run(call, capture_output=True, text=True, check=False)
    out.chmod(0o755)
    assert (ended.returncode, ended.stdout) == (31, "")
    assert ended.stderr == (
        f"tellapart: {target} could not be written: Permission denied. Nothing was changed. Get "
        f"the right to write there, or choose another place with -o.\n"
    )
    assert list(out.iterdir()) == []


def full_message(target: Path, error: int) -> str:
    """What a full disk is told with."""
    return (
        f"{target} could not be written: {os.strerror(error)}. Nothing half-written was left "
        f"behind. Make room, or choose another place with -o; `tellapart cache --prune` frees "
        f"what is kept from earlier runs."
    )


def test_a_disk_without_room_for_the_bundle(trained: Any, refused: Command, out: Path) -> None:
    """The file system fills up while the bundle is written: no part of it stays."""
    target = out / "x.tellapart"
    with tiny_disk(out, "1m"):
        message = refused(30, "train", trained.data, "-o", target, *FAST)
        assert message == full_message(target, errno.ENOSPC)


def test_a_file_that_may_not_grow_leaves_the_old_one(
    trained: Any, refused: Command, out: Path, limited_file_size: Any
) -> None:
    """An earlier bundle of the same name stays as it was."""
    target = out / "x.tellapart"
    target.write_bytes(b"an earlier one")
    with limited_file_size(1_000_000):
        message = refused(30, "train", trained.data, "-o", target, *FAST)
    assert message == full_message(target, errno.EFBIG)
    assert target.read_bytes() == b"an earlier one"


def test_a_disk_without_room_for_the_demo(refused: Command, out: Path) -> None:
    """The demo, too, says what happened and where."""
    folder = out / "digits"
    folder.mkdir()
    with tiny_disk(folder, "300k"):
        assert refused(30, "demo", folder) == full_message(folder, errno.ENOSPC)


def test_the_demo_does_not_mix_with_other_things(refused: Command, out: Path) -> None:
    """A folder that holds something else is left alone."""
    (out / "mine.txt").touch()
    assert refused(7, "demo", out) == (
        f"{out} holds other things (mine.txt); the digits would mix with them. Nothing was "
        f"written. Name a new folder: tellapart demo FOLDER"
    )


def test_ctrl_c_while_predicting(trained: Any, digits: Path) -> None:
    """Stopped between two answers: what was printed is whole lines, and the code is 130."""
    run = subprocess.Popen(
        [sys.executable, "-m", "tellapart", "predict", trained.bundle, digits, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    first = run.stdout.readline()
    run.send_signal(signal.SIGINT)
    rest, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err == "tellapart: Stopped. Nothing half-written was left behind.\n"
    answers = [json.loads(line) for line in (first + rest).splitlines()]
    assert 0 < len(answers) < 1797


def test_debug_shows_the_traceback(command: Command, tmp_path: Path) -> None:
    """With --debug the traceback comes before the same paragraph and the same code."""
    plain = command("train", tmp_path / "none", "-o", tmp_path / "x")
    debug = command("train", tmp_path / "none", "-o", tmp_path / "x", "--debug")
    assert debug.code == plain.code == 3
    assert debug.err.startswith("Traceback (most recent call last):\n")
    assert debug.err.endswith(plain.err)


def test_an_error_nobody_foresaw(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours: one paragraph, exit code 1, and how to report it; --debug shows all."""
    monkeypatch.setattr("tellapart.data.demo.write_digits", None)
    ended = command("demo", tmp_path / "digits")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        "tellapart: Something went wrong that nobody foresaw: TypeError: 'NoneType' object is not "
        "callable. Run the same command with --debug and report what it prints.\n"
    )
    monkeypatch.setattr(sys, "argv", ["tellapart", "demo", str(tmp_path), "--debug"])
    from tellapart.cli.main import main

    with pytest.raises(TypeError):
        main()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "Missing argument"),
        (["train", "x", "--quality", "top"], "'top' is not one of 'fast', 'balanced', 'best'."),
        (["train", "x", "--set", "epochs"], "--set epochs: expected NAME=VALUE, such as seed=1."),
        (["train", "x", "--set", "=3"], "--set =3: expected NAME=VALUE, such as seed=1."),
        (["train", "x", "--budget", "soon"], "--budget soon: expected a time such as 90s, 2m or "),
        (["train", "x", "--budget", "-3s"], "--budget -3s: expected a time such as 90s, 2m or 1h."),
        (
            ["find-lr", "x", "--start", "1", "--end", "1"],
            "--start must be above 0 and below --end.",
        ),
        (["find-lr", "x", "--steps", "3"], "Invalid value for '--steps'"),
        (["backbones", "show"], "Missing argument"),
        (["recipes", "show"], "Missing argument"),
        (["predict", "x"], "Missing argument"),
        (["predict", "x", "y", "--top", "0"], "Invalid value for '--top'"),
        (["predict", "x", "y", "--json", "--csv"], "--json and --csv exclude each other."),
        (["predict", "x", "y", "--top", "3", "--csv"], "CSV has one class a picture"),
        (["predict", "x", "y", "--top", "3", "--out", "z.csv"], "CSV has one class a picture"),
        (["show", "x", "--count", "0"], "Invalid value for '--count'"),
        (["cache", "--max-gb", "-1"], "Invalid value for '--max-gb'"),
        (["trian", "x"], "No such command 'trian'"),
        (["train", "x", "--backbones", "y"], "No such option"),
    ],
)
def test_a_wrong_command_line(command: Command, args: list[str], said: str) -> None:
    """Exit code 2, the usage, and what is wrong with it."""
    ended = command(*args)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: tellapart ")
    assert said in ended.err
    assert "Traceback" not in ended.err
