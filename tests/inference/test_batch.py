"""Prediction at scale: whole rows at any moment, gone on with where it stopped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import DiskFull, NotWritable, OutputExists
from tellapart.inference import classifier as classifier_module
from tellapart.inference.batch import Tally, predict_into
from tellapart.inference.classifier import Classifier
from tellapart.inference.outputs import CSV_COLUMNS, Held, open_output

FORMAT_1 = Path(__file__).parents[1] / "bundle" / "formats" / "format_1.tellapart"
KINDS = ("results.csv", "results.jsonl", "results.parquet")


def rows(out: Path) -> list[dict[str, Any]]:
    """Read an output back as path, label and error."""
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            read = [dict(row) for row in csv.DictReader(file, strict=True)]
    elif out.suffix == ".jsonl":
        read = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parts = sorted(out.glob("part-*.parquet"))
        read = [row for part in parts for row in parquet.read_table(part).to_pylist()]
    return [{name: row[name] or None for name in ("path", "label", "error")} for row in read]


def answers(out: Path, paths: list[str], resume: bool = False, **options: Any) -> Tally:
    """Predict paths into an output."""
    classifier = Classifier.load(FORMAT_1)
    return predict_into(classifier, paths, open_output(out, classifier.classes, resume), **options)


@pytest.fixture
def paths(colours: Path, tmp_path: Path) -> list[str]:
    """A few hundred names of pictures, with line ends and quotes, and some unreadable ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(60):
        name = folder / f'{n} "x",\ny.png'
        name.symlink_to(colours / ("red.png", "blue.png", "green.png")[n % 3])
    (folder / "3bad.png").write_bytes(b"no picture")
    return sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_gets_a_row(kind: str, paths: list[str], tmp_path: Path) -> None:
    """In order, with its label, or with the error that kept it from one."""
    out = tmp_path / kind
    tally = answers(out, paths)
    found = rows(out)
    assert [row["path"] for row in found] == paths
    bad = [row for row in found if row["error"]]
    assert [(Path(row["path"]).name, row["label"]) for row in bad] == [("3bad.png", None)]
    assert (tally.n, tally.n_unreadable, tally.n_held) == (61, 1, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_done", [0, 1, 30, 61])
def test_resuming_adds_what_is_missing(
    kind: str, n_done: int, paths: list[str], tmp_path: Path
) -> None:
    """After a stop anywhere the output becomes that of an unbroken run; nothing is done twice."""
    whole, out = tmp_path / f"whole-{kind}", tmp_path / kind
    answers(whole, paths)
    answers(out, paths[:n_done])
    tally = answers(out, paths, resume=True)
    assert (tally.n_held, tally.n) == (n_done, 61 - n_done)
    assert rows(out) == rows(whole)
    if kind != "results.parquet":
        assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_half_a_row_left_by_a_kill_is_cut_off(kind: str, paths: list[str], tmp_path: Path) -> None:
    """A file cut at any byte goes on to the same bytes as an unbroken one."""
    whole = tmp_path / f"whole-{kind}"
    answers(whole, paths[:8])
    data = whole.read_bytes()
    for cut in range(0, len(data), 7):
        out = tmp_path / f"{cut}-{kind}"
        out.write_bytes(data[:cut])
        answers(out, paths[:8], resume=True)
        assert out.read_bytes() == data


def test_leftover_parts_are_not_taken_for_results(paths: list[str], tmp_path: Path) -> None:
    """A part that a kill kept from its name is removed, and its pictures are answered again."""
    out = tmp_path / "results.parquet"
    answers(out, paths[:5])
    torn = out / ".part-00001.parquet.00ff00ff.part"
    torn.write_bytes(b"PAR1 half")
    answers(out, paths, resume=True)
    assert not torn.exists()
    assert sorted(part.name for part in out.iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert [row["path"] for row in rows(out)] == paths


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_never_overwritten(kind: str, paths: list[str], tmp_path: Path) -> None:
    """Without --resume an output that holds something is refused and stays as it is."""
    out = tmp_path / kind
    answers(out, paths[:3])
    before = rows(out)
    with pytest.raises(OutputExists) as refused:
        answers(out, paths)
    assert str(refused.value) == (
        f"{out} holds something already. Expected a new name: results are never overwritten. "
        f"Nothing was predicted. Add --resume to go on with it, or choose another --out."
    )
    assert rows(out) == before


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_another_classifier_are_not_mixed(
    kind: str, paths: list[str], tmp_path: Path
) -> None:
    """Labels it does not know, or rows of another kind, end a resumed run before it begins."""
    out = tmp_path / kind
    answers(out, paths[:3])
    with pytest.raises(OutputExists, match=r"of this classifier|another classifier"):
        open_output(out, ["cat", "dog"], resume=True)
    if out.is_file():
        out.write_text("something,else\n1,2\n")
        with pytest.raises(OutputExists, match="row 1 is no answer of this classifier"):
            open_output(out, ["red", "blue", "green"], resume=True)
        assert out.read_text() == "something,else\n1,2\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("notes.csv", "my only notes", "it does not begin as one"),
        ("facts.jsonl", '{"facts": 1}', "it does not begin as one"),
        ("x.csv", 'HEADER"a.png"x,red,1,,false\nb.png,red,1,,false\n', "row 2 is no answer of"),
    ],
)
def test_what_is_no_output_is_not_cut_off(name: str, text: str, said: str, tmp_path: Path) -> None:
    """Only half a row at the end is; a file of other things, or one damaged before, stays."""
    out = tmp_path / name
    out.write_text(text.replace("HEADER", ",".join(CSV_COLUMNS) + "\n"))
    before = out.read_bytes()
    with pytest.raises(OutputExists, match=said):
        open_output(out, ("red",), resume=True)
    assert out.read_bytes() == before


def test_an_unclear_suffix_is_refused(tmp_path: Path) -> None:
    """What to write is said by the suffix alone."""
    with pytest.raises(NotWritable) as refused:
        open_output(tmp_path / "x.xlsx", [])
    assert str(refused.value) == (
        f"What to write into {tmp_path}/x.xlsx is not clear from its suffix. Expected .csv, .jsonl "
        f"or .ndjson, or a folder (no suffix, or .parquet) for Parquet parts. Nothing was "
        f"predicted. Name --out accordingly."
    )


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_full_disk_leaves_whole_rows(
    kind: str, paths: list[str], tmp_path: Path, limited_file_size: Any
) -> None:
    """The run ends with a message; what lies there are whole rows, and it can be gone on with."""
    out, whole = tmp_path / kind, tmp_path / f"whole-{kind}"
    answers(whole, paths * 20)
    with limited_file_size(30_000), pytest.raises(DiskFull):
        answers(out, paths * 20)
    assert out.stat().st_size <= 30_000
    rows(out)
    answers(out, paths * 20, resume=True)
    assert out.read_bytes() == whole.read_bytes()


def test_unordered_answers_do_not_wait_for_a_slow_file(colours: Path, tmp_path: Path) -> None:
    """A pipe that nobody fills yet holds up the ordered run, not the unordered one."""
    slow = tmp_path / "slow.png"
    os.mkfifo(slow)
    many = [str(colours / "red.png")] * 200
    stream = Classifier.load(FORMAT_1).stream([str(slow), *many], ordered=False)
    first = [next(stream) for _ in range(100)]
    assert {one.label for one in first} == {"red"}
    slow.write_bytes((colours / "blue.png").read_bytes())
    rest = list(stream)
    assert sorted(one.label for one in rest) == ["blue"] + ["red"] * 100


def test_many_unreadable_files_in_a_row_are_told_as_they_are_met(
    colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers do not pile up behind the network: an endless list of bad files still gives rows."""
    monkeypatch.setattr(classifier_module, "_FLUSH_ERRORS", 50)

    def endless() -> Any:
        yield from [str(colours / "red.png")] * 30
        while True:
            yield "none.png"

    stream = Classifier.load(FORMAT_1).stream(endless())
    first = [next(stream) for _ in range(300)]
    assert [one.label for one in first] == ["red"] * 30 + [None] * 270


@given(st.lists(st.sampled_from(["a", "b", "é\udce9", "", "c,\n"]), max_size=20), st.data())
@settings(deadline=None)
def test_a_path_is_held_as_often_as_it_was_written(names: list[str], data: st.DataObject) -> None:
    """A path listed twice and answered once is answered once more."""
    n = data.draw(st.integers(0, len(names)))
    held = Held(names[:n])
    assert len(held) == n
    left = [name for name in names if not held.take(name)]
    assert sorted(left) == sorted(names[n:])


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_a_valid_output_to_go_on_with(
    kind: str, trained: Any, digits: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A real SIGINT in the middle: exit code 130, whole rows, and --resume adds the others."""
    out = tmp_path / kind
    call = [sys.executable, "-m", "tellapart", "predict", trained.bundle, digits, "--out", out]
    # A part of Parquet is written when it is full or the run ends: nothing says how far it is.
    for wait_s in (1.5, 5, 15) if kind == "results.parquet" else (0,):
        run = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (out.is_dir() or (out.exists() and out.stat().st_size > 1000)):
            time.sleep(0.01)
        time.sleep(wait_s)
        run.send_signal(signal.SIGINT)
        said, err = run.communicate(timeout=60)
        assert (run.returncode, said) == (130, "")
        if rows(out):
            break
        shutil.rmtree(out)  # It had not begun.
    n = len(rows(out))
    assert 0 < n < 1797
    assert "the same command goes on" not in err
    assert err.startswith(f"{out} holds {n} whole answers; --resume adds the rest.\n")
    # On a slow machine the rest takes its time: a part of it shows the same.
    some = [str(path) for path in sorted((digits / "0").iterdir())]
    ended = command("predict", trained.bundle, *some, "--out", out, "--resume", "--json")
    told = json.loads(ended.out)
    assert told["out"] == str(out)
    assert told["n"] + told["n_held"] == len(some)
    assert len({row["path"] for row in rows(out)}) == len(rows(out)) == n + told["n"]


def test_a_kill_loses_seconds_not_the_run(trained: Any, digits: Path, tmp_path: Path) -> None:
    """SIGKILL: what lies there are rows, the last one perhaps torn, and --resume goes on."""
    out = tmp_path / "results.csv"
    call = [sys.executable, "-m", "tellapart", "predict", trained.bundle, digits, "--out", out]
    run = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (out.exists() and out.stat().st_size > 1000):
        time.sleep(0.01)
    run.kill()
    run.communicate()
    with open_output(out, Classifier.load(trained.bundle).classes, resume=True) as output:
        assert 0 < len(output.held) < 1797


def test_the_command_writes_files_and_tells_what_it_did(
    command: Callable[..., Any], colours: Path, tmp_path: Path
) -> None:
    """One line: where, how many, how many were unreadable or there before, how fast."""
    shutil.copytree(colours, tmp_path / "in")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    (tmp_path / "in" / "lost.png").symlink_to("nowhere")
    out = tmp_path / "x.csv"
    ended = command("predict", FORMAT_1, tmp_path / "in", "--out", out)
    assert (ended.code, ended.err) == (
        0,
        f"Not entered: {tmp_path}/in/lost.png is a link that leads nowhere, or not a file.\n",
    )
    assert ended.out.startswith(f"{out}: 6 answers, 1 of them not readable (")
    again = command("predict", FORMAT_1, tmp_path / "in", "--out", out, "--resume", "--quiet")
    assert again.out.startswith(f"{out}: 0 answers, 6 were there (")
    assert len(rows(out)) == 6
    assert out.read_text().splitlines()[0] == ",".join(CSV_COLUMNS)


def test_the_command_reads_a_list_and_tables(
    command: Callable[..., Any], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` and a table lead to the same answers as the files themselves."""
    import io

    text = f"{colours}/red.png\n{colours}/blue.png\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    listed = command("predict", FORMAT_1, "-", "--json").out
    table = tmp_path / "list.csv"
    table.write_text("n,photo\n" + "".join(f"1,{line}\n" for line in text.splitlines()))
    assert command("predict", FORMAT_1, table, "--json").code == 75
    tabled = command("predict", FORMAT_1, table, "--column", "photo", "--json").out
    assert listed == tabled
    assert [json.loads(line)["label"] for line in listed.splitlines()] == ["red", "blue"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--csv", "--out", "x.csv"], "--csv and --out exclude each other: name --out"),
        (["--resume"], "--resume goes on with an output: name it with --out."),
    ],
)
def test_options_that_contradict(command: Callable[..., Any], args: list[str], said: str) -> None:
    """Exit code 2, and what to write instead."""
    ended = command("predict", FORMAT_1, "x.png", *args)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
