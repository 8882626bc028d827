"""What to predict is found one file after the other, wherever it is named."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tellapart.data.catalog import scan
from tellapart.errors import BadTable, MissingExtra
from tellapart.inference.inputs import Inputs, expand, table_paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Pictures of one class, some behind links and dots."""
    for name in ("a.jpg", "deep/b.jpg", ".hidden/c.jpg", ".d.jpg", "__MACOSX/e.jpg"):
        path = tmp_path / "photos" / "cats" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.jpg").touch()
    cats = tmp_path / "photos" / "cats"
    (cats / "linked").symlink_to(tmp_path / "elsewhere")
    (cats / "loop").symlink_to(cats)
    (cats / "nowhere.jpg").symlink_to(tmp_path / "none.jpg")
    return tmp_path


def test_a_folder_holds_what_training_finds_in_it(tree: Path) -> None:
    """Linked folders are entered once, hidden ones and loops are not: as `train` does."""
    inputs = Inputs([str(tree / "photos" / "cats")])
    found = list(inputs)
    catalog = scan(tree / "photos", min_classes=1)
    assert sorted(found) == sorted(catalog.paths.tolist())
    assert [Path(path).name for path in found] == ["a.jpg", "b.jpg", "f.jpg"]
    assert {(Path(one.path).name, one.reason) for one in inputs.set_aside} == {
        (".hidden", "hidden or left behind by a tool"),
        ("__MACOSX", "hidden or left behind by a tool"),
        ("loop", "links back to a folder above it"),
        ("nowhere.jpg", "is a link that leads nowhere, or not a file"),
    }
    assert inputs.count() == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a.jpg\nb c.jpg\r\n\nd.jpg", ["a.jpg", "b c.jpg", "d.jpg"]),
        (b"a.jpg\0b\nc.jpg\0", ["a.jpg", "b\nc.jpg"]),
        (b"caf\xe9.jpg\n", ["caf\udce9.jpg"]),
        (b"", []),
    ],
)
def test_a_list_on_standard_input(
    text: bytes, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line ends or zero bytes separate; names keep their bytes, empty lines are nothing."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    inputs = Inputs(["-"])
    assert list(inputs) == expected
    assert inputs.count() is None


def test_a_list_is_read_as_it_arrives(tmp_path: Path) -> None:
    """The first path of a list is there before the last one was written."""
    code = (
        "from tellapart.inference.inputs import Inputs\nfor p in Inputs(['-']): print(p, flush=1)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdin.write(b"one.jpg\ntw")
    assert run.stdout.readline() == b"one.jpg\n"
    run.stdin.write(b"o.jpg\n")
    assert run.stdout.readline() == b"two.jpg\n"
    run.communicate()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "id,Path\n1,x.jpg\n2,\n3,y.jpg\n", ["x.jpg", "y.jpg"]),
        ("a.csv", '\ufeffimage;label\n"a;b.jpg";cat\n', ["a;b.jpg"]),
        ("a.tsv", "n\tfile\n1\tx, y.jpg\n", ["x, y.jpg"]),
        ("a.csv", "picture of it\nx.jpg\n", ["x.jpg"]),
        ("a.csv", "x.jpg,cat\ny.jpg,dog\n", ["x.jpg", "y.jpg"]),
    ],
)
def test_tables_name_files(
    name: str, text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path column is known by its name, alone, or by holding pictures without a header."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text, encoding="utf-8")
    assert expand([name]) == expected


def test_relative_paths_of_a_table_start_where_its_first_file_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the table if that file is there, otherwise in the current folder."""
    (tmp_path / "data").mkdir()
    table = tmp_path / "data" / "list.csv"
    table.write_text("path\nx.jpg\n/abs/y.jpg\nz.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert expand(["data/list.csv"]) == ["x.jpg", "/abs/y.jpg", "z.jpg"]
    (tmp_path / "data" / "x.jpg").touch()
    assert expand(["data/list.csv"]) == ["data/x.jpg", "/abs/y.jpg", "data/z.jpg"]


def test_parquet_tables_are_read_in_pieces(tmp_path: Path) -> None:
    """A column of paths, also one that --column names."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "x.parquet"
    names = [f"/p/{n}.jpg" for n in range(10_000)]
    parquet.write_table(pyarrow.table({"id": range(10_000), "where": names}), table)
    assert list(table_paths(str(table), "where")) == names
    with pytest.raises(BadTable) as refused:
        expand([str(table)])
    assert str(refused.value) == (
        f"The table {table} has the columns: 'id', 'where'. Expected one column of paths (such as "
        f"path, file or image). Nothing of it was predicted. Name the column with --column."
    )
    table.write_bytes(b"PAR1 no more")
    with pytest.raises(BadTable, match="cannot be read"):
        expand([str(table)])


def test_tables_that_do_not_say_where_the_paths_are(tmp_path: Path) -> None:
    """Two candidates, a column that is not there, nothing at all, or another encoding."""
    table = tmp_path / "x.csv"
    table.write_text("path,file\na,b\n")
    with pytest.raises(BadTable, match=r"'path', 'file'\. Expected one column of paths"):
        expand([str(table)])
    with pytest.raises(BadTable, match="Expected a column 'photo'"):
        list(Inputs([str(table)], "photo"))
    assert list(Inputs([str(table)], "file")) == ["b"]
    table.write_text("")
    with pytest.raises(BadTable, match="has the columns: none"):
        expand([str(table)])
    table.write_bytes(b"path\ncaf\xe9.jpg\n")
    with pytest.raises(BadTable, match="Expected UTF-8 text"):
        expand([str(table)])


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One paragraph with the command that brings it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(MissingExtra) as refused:
        expand([str(tmp_path / "x.parquet")])
    assert str(refused.value) == (
        "Reading and writing Parquet needs pyarrow, which is not installed. CSV and JSON Lines "
        "need nothing. Install it with: pip install 'tellapart[parquet]'"
    )


def test_names_in_no_encoding_are_found(tmp_path: Path) -> None:
    """Only training refuses a name that is no UTF-8."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(path).touch()
    assert expand([str(tmp_path)]) == [path]
