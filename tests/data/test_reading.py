"""Tables, lists, file names and names for classes: all ways in give the same Catalog."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tellapart.data.catalog import Catalog, scan
from tellapart.data.reading import DataSource, data_name, read_catalog
from tellapart.errors import (
    AmbiguousData,
    BadLabels,
    BadTable,
    DataNotFound,
    NoReadablePicture,
    NotEnoughClasses,
    TellapartError,
)
from tellapart.progress import Progress

Tree = Callable[..., Path]


def facts(catalog: Catalog) -> list[tuple[str, str, str, bytes]]:
    """Every picture by its path: class, split and content."""
    labels = np.array(catalog.classes)[catalog.labels].tolist()
    rows = zip(
        catalog.paths.tolist(), labels, catalog.splits.tolist(), catalog.digests, strict=True
    )
    return sorted((path, label, split, bytes(digest)) for path, label, split, digest in rows)


@pytest.fixture
def photos(tree: Tree) -> Path:
    """Two classes in two splits, with names that tables trip over."""
    root = tree(
        {
            "train/red cat": ["a b.jpg", "ÄÖ.JPG"],
            "train/Hund": ["1.jpg", "x;y, z.jpg"],
            "valid/red cat": ["q.png"],
            "valid/Hund": ["r.jpeg"],
        }
    )
    return root / "photos" if (root / "photos").is_dir() else root


def rows_of(root: Path) -> list[tuple[str, str, str]]:
    """Path below the root, label and split of each picture, as `scan` finds them."""
    return [
        (Path(path).relative_to(root).as_posix(), label, split)
        for path, label, split, _ in facts(scan(root))
    ]


def write_csv(path: Path, header: str, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    lines = [header] if header else []
    lines += [delimiter.join(f'"{cell}"' for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_csv(root: Path, into: Path) -> DataSource:
    """A table elsewhere, and where its paths start."""
    return DataSource(write_csv(into / "list.csv", "file,class,split", rows_of(root)), root)


def as_semicolons(root: Path, into: Path) -> DataSource:
    """As a spreadsheet exports it where a comma is the decimal point, with a byte order mark."""
    table = write_csv(into / "list.csv", "\ufeffPath;Label;Subset", rows_of(root), ";")
    return DataSource(table, root)


def as_tsv(root: Path, into: Path) -> DataSource:
    """Columns that are called otherwise are named."""
    rows = [("7", *row) for row in rows_of(root)]
    table = write_csv(into / "list.tsv", "n\twhere\twhat\tfold", rows, "\t")
    return DataSource(table, root, {"path": "where", "label": "what", "split": "fold"})


def as_csv_without_header(root: Path, into: Path) -> DataSource:
    """Columns without names have numbers."""
    table = write_csv(into / "list.csv", "", [(b, a, c) for a, b, c in rows_of(root)])
    return DataSource(table, root, {"label": "1", "split": "3"})


def as_parquet(root: Path, into: Path) -> DataSource:
    """Absolute paths need no root."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [(label, str(root / path), split) for path, label, split in rows_of(root)]
    columns = dict(zip(("category", "image_path", "split"), zip(*rows, strict=True), strict=True))
    parquet.write_table(pyarrow.table(columns), into / "list.parquet")
    return DataSource(into / "list.parquet")


def as_pattern(root: Path, _: Path) -> DataSource:
    """The folders, but told by a pattern."""
    return DataSource(root, pattern="{split}/{label}/*")


def as_regular_expression(root: Path, _: Path) -> DataSource:
    """The same as a regular expression."""
    return DataSource(root, pattern=r"(?P<split>train|valid)/(?P<label>[^/]+)/[^/]+")


def as_list_with_pattern(root: Path, into: Path) -> DataSource:
    """A list of paths alone, the class in each."""
    lines = [path for path, _, _ in rows_of(root)]
    (into / "list.txt").write_text("\r\n".join(lines), encoding="utf-8")
    return DataSource(into / "list.txt", root, pattern="{split}/{label}/*")


@pytest.mark.parametrize(
    "way",
    [
        as_csv,
        as_semicolons,
        as_tsv,
        as_csv_without_header,
        as_parquet,
        as_pattern,
        as_regular_expression,
        as_list_with_pattern,
    ],
)
def test_every_way_in_gives_the_same_catalog(
    way: Callable[[Path, Path], DataSource], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Same files, classes, class order, splits and contents as the folders."""
    expected = scan(photos)
    catalog = read_catalog(way(photos, tmp_path_factory.mktemp("elsewhere")))
    assert facts(catalog) == facts(expected)
    assert catalog.classes == expected.classes == ("Hund", "red cat")
    assert catalog.set_aside == ()


@pytest.mark.parametrize("separator", [" ", "\t", "    "])
def test_plain_lines(separator: str, photos: Path, tmp_path: Path) -> None:
    """Path and label in a line, also with spaces in both: the suffix says where the path ends."""
    lines = [f"{path}{separator}{label}" for path, label, _ in rows_of(photos)]
    (photos / "list.txt").write_text("\n\n".join(lines), encoding="utf-8")
    catalog = read_catalog(photos / "list.txt")
    assert [row[:2] for row in facts(catalog)] == [row[:2] for row in facts(scan(photos))]
    assert not catalog.has_splits
    assert (catalog.name, data_name(photos / "list.txt")) == ("list", "list")


def test_what_was_understood_is_said_first(
    photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Columns taken, columns left, and where paths start; before any file is read."""
    rows = [("7", *row, "p1") for row in rows_of(photos)]
    table = write_csv(photos / "list.csv", "id,file,class,split,group", rows)
    catalog = read_catalog(table, Progress())
    assert capsys.readouterr().err.splitlines()[0] == (
        f"{table}: 6 rows, path from 'file', label from 'class', split from 'split', group from "
        f"'group' (not used: 'id'); paths start at {photos}."
    )
    assert catalog.groups is not None
    assert set(catalog.groups.tolist()) == {"p1"}
    read_catalog(DataSource(photos, pattern="{label}/*.jpg"), Progress())
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        f"{photos}: 6 pictures, the class from the name by {{label}}/*.jpg, which 4 fit (1.jpg is "
        f"Hund)."
    )


def test_a_column_that_is_not_wanted(photos: Path) -> None:
    """An empty name takes none, though there is one that is called so."""
    rows = [(*row, "p1") for row in rows_of(photos)]
    table = write_csv(photos / "list.csv", "file,class,split,group", rows)
    catalog = read_catalog(DataSource(table, columns={"split": "", "group": ""}))
    assert (catalog.has_splits, catalog.groups) == (False, None)


def test_links_in_a_table(tree: Tree) -> None:
    """A link to a picture is a picture; one that leads nowhere is set aside, as is what is gone."""
    root = tree({"x": ["a.jpg", "b.jpg"]})
    (root / "link.jpg").symlink_to(root / "x" / "b.jpg")
    (root / "dead.jpg").symlink_to(root / "nowhere.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    rows = [("x/a.jpg", "1"), ("link.jpg", "2"), ("dead.jpg", "2"), ("loop.jpg", "2")]
    catalog = read_catalog(write_csv(root / "t.csv", "path,label", [*rows, ("gone.jpg", "1")]))
    assert catalog.paths.tolist() == [str(root / "x" / "a.jpg"), str(root / "link.jpg")]
    assert [(Path(one.path).name, one.reason) for one in catalog.set_aside] == [
        (name, "is named in t.csv and not there") for name in ("dead.jpg", "loop.jpg", "gone.jpg")
    ]


def test_the_class_in_the_file_name(tree: Tree) -> None:
    """Digits end a label that has the separator in it; what does not fit is set aside."""
    root = tree(
        {".": ["american_bulldog_1.jpg", "american_bulldog_22.JPG", "Pug_3.jpg", "readme.png"]}
    )
    catalog = read_catalog(DataSource(root, pattern="{label}_{number}.jpg"))
    assert catalog.classes == ("Pug", "american_bulldog")
    assert [(Path(one.path).name, one.reason) for one in catalog.set_aside] == [
        ("readme.png", "its name does not fit the pattern")
    ]


def test_numbers_with_names(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """The order of the classes stays that of the folders' names; two that share one are told."""
    root = tree({"1": 2, "10": 1, "2": 1, "3": 1})
    names = root / "cat_to_name.json"
    held = {"1": "pink primrose", "10": "crane", "2": "crane", "77": "nothing"}
    names.write_text(json.dumps(held), encoding="utf-8")
    catalog = read_catalog(DataSource(root, names=names), Progress())
    assert catalog.classes == ("1", "10", "2", "3")
    assert catalog.shown == ("pink primrose", "crane (10)", "crane (2)", "3")
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{names}: names for 3 of 4 classes, such as pink primrose for 1."
    )
    names.write_text('["zero", "one", "two", "three"]')
    assert read_catalog(DataSource(root, names=names)).shown == ("one", "10", "two", "three")


def table_of(text: str, suffix: str = ".csv", **given: object) -> Callable[[Path], DataSource]:
    def make(root: Path) -> DataSource:
        (root / f"t{suffix}").write_text(text, encoding="utf-8")
        return DataSource(root / f"t{suffix}", **given)  # type: ignore[arg-type]

    return make


TWO = "a/000.jpg,x\nb/000.jpg,y\n"
REFUSED: Mapping[str, tuple[Callable[[Path], DataSource], type[TellapartError], str]] = {
    "no label column": (
        table_of("path,breed\n" + TWO),
        BadTable,
        "The table ROOT/t.csv has the columns: 'path', 'breed'. Expected one column of labels "
        "(such as label, class or category). Nothing was read. Name the column with --data "
        "label=COLUMN; if the class lies in the path, say how with --data pattern=….",
    ),
    "two label columns": (
        table_of("path,label,class\na/000.jpg,1,cat\n"),
        BadTable,
        "The table ROOT/t.csv has the columns: 'path', 'label', 'class'. Expected one column of "
        "labels (such as label, class or category). Nothing was read. Name the column with --data "
        "label=COLUMN; if the class lies in the path, say how with --data pattern=….",
    ),
    "no path column": (
        table_of("who,label\n" + TWO),
        BadTable,
        "The table ROOT/t.csv has the columns: 'who', 'label'. Expected one column of paths (such "
        "as path, file or image). Nothing was read. Name the column with --data path=COLUMN.",
    ),
    "no such column": (
        table_of("path,label\n" + TWO, columns={"group": "patient"}),
        BadTable,
        "The table ROOT/t.csv has the columns: 'path', 'label'. Expected a column 'patient'. "
        "Nothing was read. Name the column with --data group=COLUMN; --data group= takes none.",
    ),
    "one column twice": (
        table_of("path,label\n" + TWO, columns={"group": "label"}),
        BadTable,
        "In the table ROOT/t.csv, label and group would come from one column, 'label'. Expected "
        "one for each. Nothing was read. Name them with --data group=COLUMN.",
    ),
    "three columns without a header": (
        table_of("a/000.jpg,x,1\n"),
        BadTable,
        "The table ROOT/t.csv has the columns: '1', '2', '3' (numbered: it has no header). "
        "Expected one column of labels (such as label, class or category). Nothing was read. Name "
        "the column with --data label=COLUMN; if the class lies in the path, say how with --data "
        "pattern=….",
    ),
    "bad rows": (
        table_of(
            "path,label,split\na/000.jpg,x,train\n,y,train\nb/000.jpg,,train\n"
            "ftp://e.org/1.jpg,x,train\na/001.jpg,x,fold 1\na/001.jpg,x,\n"
        ),
        BadTable,
        "ROOT/t.csv has 5 rows that cannot be used: row 3 has no path; row 4 has no label; row 5 "
        "names a URL of a kind that is not known: download it first; and 2 more. Nothing was "
        "read. Correct them, or choose other columns with --data label=COLUMN or --data "
        "split=COLUMN (--data split= takes none).",
    ),
    "an unknown split": (
        table_of("path,label,split\na/000.jpg,x,train\nb/000.jpg,y,fold 1\n"),
        BadTable,
        "ROOT/t.csv has 1 rows that cannot be used: row 3 has the split 'fold 1', where train, "
        "valid, test or a usual word for one was expected. Nothing was read. Correct them, or "
        "choose other columns with --data label=COLUMN or --data split=COLUMN (--data split= "
        "takes none).",
    ),
    "two labels for one file": (
        table_of("path,label\na/000.jpg,x\nb/000.jpg,y\na/000.jpg,y\n"),
        AmbiguousData,
        "ROOT/t.csv names 1 files twice, with another label, split or group: row 2 and row 4 "
        "(ROOT/a/000.jpg). A picture has one class here. Nothing was read. Leave one row for each, "
        "or choose the column with --data label=COLUMN.",
    ),
    "no file is there": (
        table_of("path,label\nq/1.jpg,x\nq/2.jpg,y\n"),
        DataNotFound,
        "Not one of the 2 files that ROOT/t.csv names is there: the first is CWD/q/1.jpg. Relative "
        "paths start at CWD. Nothing was read. Say where they start with --root FOLDER.",
    ),
    "a root that is none": (
        table_of("path,label\n" + TWO, root=Path("/nowhere/at all")),
        DataNotFound,
        "--root /nowhere/at all is no folder. Expected the one that the paths in ROOT/t.csv start "
        "from. Nothing was read.",
    ),
    "an empty table": (
        table_of("path,label\n"),
        BadTable,
        "ROOT/t.csv names no pictures. Expected a row for each. Nothing was read.",
    ),
    "one class only": (
        table_of("path,label\na/000.jpg,x\n"),
        NotEnoughClasses,
        "ROOT/t.csv names pictures of one class only ('x', 1 pictures). Telling apart needs at "
        "least two. Nothing was read. Add pictures of anything else as a second class, or say "
        "where the labels are with --data label=COLUMN.",
    ),
    "labels that look alike": (
        table_of("path,label\na/000.jpg,Cat\nb/000.jpg,cat\n"),
        AmbiguousData,
        "In ROOT/t.csv some class names differ only in case or in how accents are written: 'Cat' "
        "and 'cat'. They may be one class or two; nothing was trained. Write them alike.",
    ),
    "lines that are two things": (
        table_of("a/000.jpg x\nb/000.jpg\na.jpg b.jpg c\n", ".txt"),
        BadTable,
        "ROOT/t.txt has 2 lines that are not one path and one label: line 2: 'b/000.jpg'; line 3: "
        "'a.jpg b.jpg c'. Expected the path of a picture, white space and its label, or a tab "
        "between them. Nothing was read. Correct them; where the class lies in the path, say how "
        "with --data pattern=….",
    ),
    "columns of lines": (
        table_of("a/000.jpg x\n", ".txt", columns={"label": "breed"}),
        BadLabels,
        "ROOT/t.txt is read as lines of a path and a label, which have no columns: --data "
        "label=breed means nothing there. Expected a table ending in .csv, .parquet, .tsv. Nothing "
        "was read. Leave it out, or name the table so.",
    ),
    "columns of a folder": (
        lambda root: DataSource(root, root, {"label": "breed"}),
        BadLabels,
        "ROOT is a folder, and --root ROOT and --data label=breed is about tables: it would have "
        "no effect. Expected a table as the data. Nothing was read. Leave it out, or name the "
        "table.",
    ),
    "a pattern that fits nothing": (
        lambda root: DataSource(root, pattern="{label}_{number}.jpg"),
        BadLabels,
        "Not one of 3 names in ROOT fits the pattern {label}_{number}.jpg: the first is "
        "ROOT/a/000.jpg. Expected names such as {label}_{number}.jpg makes them. Nothing was read. "
        "Correct --data pattern=….",
    ),
    "a pattern without a class": (
        lambda root: DataSource(root, pattern="*.jpg"),
        BadLabels,
        "The pattern *.jpg cannot be used: nothing to repeat at position 0. Expected something "
        "such as {label}_{number}.jpg, or a regular expression. Nothing was read.",
    ),
    "an expression without a class": (
        lambda root: DataSource(root, pattern=r".*\.jpg"),
        BadLabels,
        r"The pattern .*\.jpg does not say where the class is. Expected {label} in it, such as "
        "{label}_{number}.jpg, or a regular expression with (?P<label>…). Nothing was read.",
    ),
    "names of other classes": (
        lambda root: DataSource(root, names=_written(root, '{"9": "rose"}')),
        BadLabels,
        "ROOT/n.json names none of the classes of ROOT: these are a; b, the file has 9. Expected "
        "the same labels. Nothing was trained. Correct it, or leave --data names= out.",
    ),
    "names that are none": (
        lambda root: DataSource(root, names=_written(root, '{"a": 1}')),
        BadLabels,
        'The file of names ROOT/n.json cannot be used: it holds neither {"class": "name", …} nor '
        '["name", …]. Expected JSON such as {"1": "rose", "2": "lily"}. Nothing was read. Correct '
        "it, or leave --data names= out.",
    ),
    "names that are not there": (
        lambda root: DataSource(root, names=root / "n.json"),
        BadLabels,
        "The file of names ROOT/n.json cannot be used: it cannot be opened (No such file or "
        'directory). Expected JSON such as {"1": "rose", "2": "lily"}. Nothing was read. Correct '
        "it, or leave --data names= out.",
    ),
}


def _written(root: Path, text: str) -> Path:
    (root / "n.json").write_text(text)
    return root / "n.json"


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused(
    case: str, tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each message says what was found, what was expected, and the option that settles it."""
    make, kind, message = REFUSED[case]
    root = tree({"a": 2, "b": 1})
    elsewhere = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(kind) as refused:
        read_catalog(make(root))
    said = str(refused.value).replace(str(root), "ROOT").replace(str(elsewhere), "CWD")
    assert said == message


def test_a_name_that_can_be_read_in_two_ways(tree: Tree) -> None:
    """The shortest and the longest class are shown, and a pattern that settles it."""
    root = tree({".": ["american_bulldog_1.jpg", "pug_2.jpg"]})
    with pytest.raises(AmbiguousData) as refused:
        read_catalog(DataSource(root, pattern="{label}_*.jpg"))
    assert str(refused.value) == (
        f"By the pattern {{label}}_*.jpg the class of {root}/american_bulldog_1.jpg can be "
        f"'american' or 'american_bulldog'. Nothing was read. Say more, with {{number}} for "
        f"digits, or give a regular expression, such as --data 'pattern=(?P<label>.+)_[^_]*'"
    )
    settled = read_catalog(DataSource(root, pattern="(?P<label>.+)_[^_]*"))
    assert settled.classes == ("american_bulldog", "pug")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    """With a pattern or without: there is nothing to name."""
    with pytest.raises(DataNotFound, match="There are no pictures below"):
        read_catalog(DataSource(tmp_path, pattern="{label}_*"))
    with pytest.raises(NoReadablePicture):
        read_catalog(tmp_path)
    with pytest.raises(DataNotFound, match="does not exist"):
        read_catalog(tmp_path / "gone.csv")


def test_numbers_in_parquet_are_classes(tree: Tree) -> None:
    """A column of numbers gives classes called as they are written."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    root = tree({"a": 2, "b": 1})
    paths = ["a/000.jpg", "a/001.jpg", "b/000.jpg"]
    table = pyarrow.table({"label": [10, 2, 2], "path": paths, "group": [None, "g", "g"]})
    parquet.write_table(table, root / "t.parquet")
    catalog = read_catalog(root / "t.parquet")
    assert catalog.classes == ("10", "2")
    assert catalog.groups is not None
    assert catalog.groups.tolist() == ["", "g", "g"]


def test_rows_keep_their_groups(tree: Tree) -> None:
    """Choosing rows and setting some aside keeps groups with their pictures."""
    root = tree({"a": 2, "b": 1})
    rows = [("a/000.jpg", "x", "g1"), ("a/001.jpg", "y", "g2"), ("b/000.jpg", "y", "g3")]
    catalog = read_catalog(write_csv(root / "t.csv", "path,label,group", rows))
    less = catalog.without({0: "is empty"})
    assert less.groups is not None
    assert less.groups.tolist() == ["g2", "g3"]
    assert replace(less, groups=None).units.tolist() == less.digests.tolist()


def test_a_file_named_twice(tree: Tree) -> None:
    """A file that a table names twice in the same way counts once."""
    root = tree({"a": 1, "b": 1})
    rows = [("a/000.jpg", "x"), ("./a/000.jpg", "x"), ("b/000.jpg", "y"), ("b/000.jpg", "y")]
    shutil.copy(root / "a" / "000.jpg", root / "copy.jpg")
    catalog = read_catalog(write_csv(root / "t.csv", "path,label", [*rows, ("copy.jpg", "x")]))
    assert len(catalog) == 3
    assert len(set(catalog.digests.tolist())) == 2
