"""docs/bad-input.md says what happens with bad input: written here from what is really printed."""

from __future__ import annotations

import inspect
import io
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tellapart
from tellapart.data.catalog import scan
from tellapart.data.inspection import inspect_files
from tellapart.errors import TellapartError
from tellapart.progress import Progress

Command = Callable[..., Any]
Files = dict[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"
REWRITE = "TELLAPART_WRITE_DOCS=1 .venv/bin/pytest tests/test_bad_input_page.py"
FAST = "--recipe fast"


def png(colour: int, mode: str = "RGB") -> bytes:
    """A small picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 255 - colour, 99)).convert(mode).save(file, "PNG")
    return file.getvalue()


def jpeg(colour: int) -> bytes:
    """A small picture of one colour, as a JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (colour, 255 - colour, 99)).save(file, "JPEG")
    return file.getvalue()


def bomb() -> bytes:
    """The head of a PNG that says it is enormous."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def classes(**counts: int) -> Files:
    """Folders of classes below photos/ with so many different pictures each."""
    return {
        f"photos/{name}/{number}.png": png(40 * place + number)
        for place, (name, count) in enumerate(counts.items())
        for number in range(count)
    }


def splits(**counts: int) -> Files:
    """Folders of splits below photos/, each with two classes of so many pictures."""
    return {
        f"photos/{split}/{name}/{number}.png": png(100 * which + 30 * place + number)
        for place, (split, count) in enumerate(counts.items())
        for which, name in enumerate(("cats", "dogs"))
        for number in range(count)
    }


def tar(**files: bytes) -> bytes:
    """A tar of files, whose names have _ for the dot."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        for name, data in files.items():
            about = tarfile.TarInfo(name.replace("_", "."))
            about.size = len(data)
            file.addfile(about, io.BytesIO(data))
    return made.getvalue()


@dataclass(frozen=True)
class Case:
    """A bad input: in words, the files that it is made of, and the command that meets it."""

    what: str
    command: str
    files: Files = field(default_factory=dict)


PETS = classes(cats=4, dogs=4)
TABLE = "path,label\n" + "".join(f"{path},{path.split('/')[1]}\n" for path in PETS)

FOLDERS = [
    Case("nothing at the path", "train photos"),
    Case("a folder without pictures", "train photos", {"photos/cats/notes.txt": b"meow"}),
    Case("one class only", "train photos", classes(cats=3)),
    Case("a class with one picture", "train photos", classes(cats=3, dogs=1)),
    Case(
        "a class of copies of one picture",
        "train photos",
        classes(cats=3) | {f"photos/dogs/{n}.png": png(200) for n in range(3)},
    ),
    Case(
        "not one readable picture",
        f"train photos {FAST}",
        {
            f"photos/{name}/{n}.jpg": b"version https://git-lfs.github.com/spec/v1\n%d" % n
            for name in ("cats", "dogs")
            for n in range(2)
        },
    ),
    Case("classes that differ only in case", "train photos", classes(cats=2, Cats=2, dogs=2)),
    Case("two folders for one split", "train photos", splits(train=3, val=2, valid=2)),
    Case("splits with nothing to learn from", "train photos", splits(valid=2, test=2)),
    Case("splits, and a split by lot", "train photos --split exact", splits(train=4, test=2)),
    Case("a test folder to halve, and none there", "train photos --split halve-test", PETS),
    Case("splits, and folds", f"train photos --folds 3 {FAST}", splits(train=4, test=2)),
    Case("too few pictures for folds", f"train photos --folds 5 {FAST}", classes(cats=9, dogs=4)),
]

TABLES = [
    Case("an empty table", "train list.csv", {"list.csv": b""}),
    Case("no column of labels", "train list.csv", {"list.csv": b"path,age\na.png,3\n"}),
    Case(
        "two columns of labels",
        "train list.csv",
        {"list.csv": b"path,label,class\na.png,cat,dog\n"},
    ),
    Case(
        "a column that is not there",
        "train list.csv --data label=breed",
        PETS | {"list.csv": TABLE.encode()},
    ),
    Case(
        "rows without a label or a path",
        "train list.csv",
        {"list.csv": b"path,label\na.png,\n,dog\nb.png,cat\n"},
    ),
    Case(
        "a split of an unknown name",
        "train list.csv",
        {"list.csv": b"path,label,split\na.png,cat,train\nb.png,dog,tset\n"},
    ),
    Case(
        "a file under two labels",
        "train list.csv",
        PETS | {"list.csv": TABLE.encode() + b"photos/cats/0.png,dogs\n"},
    ),
    Case(
        "files that are not there",
        "train list.csv",
        {"list.csv": b"path,label\na.png,cat\nb.png,dog\n"},
    ),
    Case(
        "a table in another encoding",
        "train list.csv",
        {"list.csv": "path,label\ncafé.png,é\n".encode("latin-1")},
    ),
    Case("lines that are not path and label", "train list.txt", {"list.txt": b"a.png cat\nb\n"}),
    Case(
        "groups on both sides of a given split",
        "train list.csv",
        PETS
        | {
            "list.csv": (
                b"path,label,split,group\n"
                b"photos/cats/0.png,cats,train,tom\nphotos/cats/1.png,cats,test,tom\n"
                b"photos/dogs/0.png,dogs,train,\nphotos/dogs/1.png,dogs,test,\n"
            )
        },
    ),
    Case(
        "a pattern that no name fits",
        "train photos --data pattern={label}_{number}.jpg",
        {"photos/a.png": png(1)},
    ),
    Case(
        "a name that fits a pattern in two ways",
        "train photos --data pattern={label}_*.png",
        {"photos/red_fox_1.png": png(1)},
    ),
    Case(
        "names for none of the classes",
        "train photos --data names=names.json",
        PETS | {"names.json": b'{"1": "rose"}'},
    ),
    Case(
        "names that are no JSON",
        "train photos --data names=names.json",
        PETS | {"names.json": b"1: rose"},
    ),
]

SHARD = tar(a_png=png(1), a_cls=b"cat", b_png=png(2), b_cls=b"dog")
SHARDS = [
    Case("an address of an unknown kind", "train ftp://host/photos"),
    Case("a password in an address", "train s3://me:secret@bucket/photos"),
    Case(
        "tar files that are cut off",
        "train shards",
        {"shards/a.tar": SHARD, "shards/b.tar": SHARD[:700], "shards/c.tar.gz": b"\x1f\x8b"},
    ),
    Case(
        "a tar with a label missing",
        "train a.tar",
        {"a.tar": tar(a_png=png(1), a_cls=b"cat", b_png=png(2))},
    ),
    Case(
        "labels said in two ways",
        "train a.tar",
        {"a.tar": tar(a_png=png(1), a_cls=b"cat", b_png=png(2), b_txt=b"dog")},
    ),
    Case(
        "a range with a shard missing", "train s-{0..2}.tar", {"s-0.tar": SHARD, "s-1.tar": SHARD}
    ),
]

BUNDLES = [
    Case("no classifier there", "predict pets.tellapart photos", PETS),
    Case("a classifier cut off", "predict cut.tellapart photos", PETS),
    Case("a classifier that was altered", "predict altered.tellapart photos", PETS),
    Case("a classifier of a later version", "predict later.tellapart photos", PETS),
    Case("nothing to predict", "predict whole.tellapart photos", {"photos/notes.txt": b"meow"}),
    Case(
        "pictures none of which can be read",
        "predict whole.tellapart photos",
        {"photos/a.jpg": b"<!doctype html><title>404</title>"},
    ),
    Case("labelled pictures of other classes", "evaluate whole.tellapart photos", PETS),
]

SERVE = "serve whole.tellapart"
SERVING = [
    Case(
        "an address of another machine",
        f"{SERVE} --host 203.0.113.9 --tokens tokens",
        {"tokens": b"anna admin 0123456789abcdefghijklmn"},
    ),
    Case("others could ask, and there are no tokens", f"{SERVE} --host 0.0.0.0"),
    Case("a token that is short", f"{SERVE} --tokens tokens", {"tokens": b"anna admin secret"}),
    Case("a database of another kind", f"{SERVE} --database mysql://localhost/records"),
    Case("two classifiers of one name", f"{SERVE} again/whole.tellapart"),
    Case("an address where a host was expected", f"{SERVE} --allow-urls https://a.org/pictures"),
    Case("callbacks without a secret", f"{SERVE} --callbacks orders.example.org"),
    Case(
        "a new class of one picture",
        "learn taught.tellapart --from-reviews photos",
        {"photos/cats/a.png": png(7)},
    ),
    Case(
        "corrections that contradict each other",
        "learn taught.tellapart --from-reviews photos",
        {"photos/cats/a.png": png(7), "photos/dogs/b.png": png(7)},
    ),
    Case("nothing to go back to", "learn taught.tellapart --undo"),
]

SETTINGS = [
    Case("an unknown backbone", "train photos --backbone resnet81", PETS),
    Case("an unknown recipe", "train photos --recipe fats", PETS),
    Case("an unknown setting", "train photos --set sed=3", PETS),
    Case("a setting out of its range", "train photos --set data.valid=1.5", PETS),
    Case("an unknown device", "train photos --device tpu", PETS),
    Case("weights that are not there", "train photos --weights mine.pth", PETS),
    Case("nothing to go on from", "train photos --from old.tellapart", PETS),
    Case("no interrupted run", f"train photos --resume {FAST}", PETS),
    Case("no folder for the result", "train photos -o none/pets.tellapart", PETS),
]

# File in a class folder -> what it is in words, and its bytes; None: not a file.
ASIDE: dict[str, tuple[str, Any]] = {
    "empty.jpg": ("an empty file", b""),
    "zeros.jpg": ("zero bytes, as after a full disk", bytes(300)),
    "cut.jpg": ("a JPEG cut off", jpeg(3)[:-40]),
    "cut.png": ("a PNG cut off", png(4)[:60]),
    "pointer.jpg": ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n"),
    "page.jpg": ("a web page", b"<!DOCTYPE html><html><body>404</body></html>"),
    "answer.jpg": ("an error as JSON", b'{"error": "not found"}'),
    "denied.jpg": ("an error as XML", b'<?xml version="1.0"?><Error/>'),
    "paper.jpg": ("a PDF", b"%PDF-1.7\n"),
    "packed.jpg": ("a ZIP archive", b"PK\x03\x04 and so on"),
    "drawing.png": ("an SVG drawing", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "film.jpg": ("a film", b"\0\0\0\x18ftypmp42" + bytes(20)),
    "notes.jpg": ("text", b"buy milk"),
    "bomb.png": ("a picture of 3600 megapixels in 69 bytes", bomb()),
    "nowhere.png": ("a link that leads nowhere", "link"),
    "loop": ("a folder that links to the one above it", "loop"),
    ".thumbs": ("a hidden folder", "folder"),
    "notes.txt": ("a file that is not named like a picture", b"buy milk"),
}

USED: dict[str, tuple[str, bytes]] = {
    "png.jpg": ("a PNG named .jpg", png(1)),
    "jpeg.png": ("a JPEG named .png", jpeg(1)),
    "LOUD.JPG": ("an upper-case suffix", jpeg(2)),
    "a b.png": ("a space in its name", png(2)),
    "ü 花.png": ("a name in another script", png(3)),
    "grey.png": ("grey", png(4, "L")),
    "palette.png": ("a palette", png(5, "P")),
    "clear.png": ("transparent: white behind it", png(6, "RGBA")),
}


def make(files: Files) -> None:
    """Write files below the current folder."""
    for name, data in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if data == "link":
            path.symlink_to("none.png")
        elif data == "loop":
            path.symlink_to("..")
        elif data == "folder":
            path.mkdir()
            (path / "x.png").write_bytes(png(9))
        else:
            path.write_bytes(data)


def write_bundles(whole: Path, taught: Path) -> None:
    """Write the stored classifier below the current folder: whole, cut off, altered, of later.

    Also taught, one that carries what it learned from.
    """
    shutil.copy(taught, "taught.tellapart")
    data = whole.read_bytes()
    Path("whole.tellapart").write_bytes(data)
    Path("cut.tellapart").write_bytes(data[:-500])
    Path("altered.tellapart").write_bytes(data.replace(b"float", b"flaot"))
    import zipfile

    with zipfile.ZipFile(whole) as held, zipfile.ZipFile("later.tellapart", "w") as later:
        for name in held.namelist():
            part = held.read(name)
            if name == "manifest.json":
                part = part.replace(b'"format": 1', b'"format": 99').replace(
                    b'"format":1', b'"format":99'
                )
            later.writestr(name, part)


def cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def refused(case: Case, command: Command) -> str:
    """Run a case that must fail; return its row."""
    here = Path.cwd()
    make(case.files)
    before = sorted(here.rglob("*.tellapart"))
    ended = command(*case.command.split(" "))
    assert ended.code not in (0, 1), f"{case.what}: {ended.err}"
    assert "Traceback" not in ended.err
    assert sorted(here.rglob("*.tellapart")) == before, "something was left behind"
    last = ended.err.splitlines()[-1]
    assert last.startswith("tellapart: "), f"{case.what}: {ended.err}"
    said = last.removeprefix("tellapart: ").replace(f"{here}/", "").replace(str(here), ".")
    return f"| {case.what} | `{cell(case.command)}` | {ended.code} | {cell(said)} |"


def rows_of_refusals(
    cases: list[Case], command: Command, root: Path, patch: pytest.MonkeyPatch, *bundles: Path
) -> list[str]:
    """Run each case in a folder of its own; bundles: as `write_bundles` takes them."""
    rows = ["| what is wrong | command | exit code | what is said |", "|---|---|---|---|"]
    for number, case in enumerate(cases):
        folder = root / str(number)
        folder.mkdir(parents=True)
        patch.chdir(folder)
        if cases in (BUNDLES, SERVING):
            write_bundles(*bundles)
        rows.append(refused(case, command))
    return rows


def rows_of_files(root: Path, patch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Train among all bad files at once; return what is said of each, and what is used."""
    root.mkdir()
    patch.chdir(root)
    make(classes(cats=6, dogs=6))
    make({f"photos/cats/{name}": data for name, (_, data) in ASIDE.items()})
    make({f"photos/dogs/{name}": data for name, (_, data) in USED.items()})
    result = tellapart.train(
        "photos", recipe="fast", settings={"data.split": "none"}, progress=Progress("quiet")
    )
    assert sum(result.counts.values()) == 12 + len(USED)
    (aside,) = [one for one in result.findings if one.kind == "set_aside"]
    rows = ["| file | what it is | what is said of it |", "|---|---|---|"]
    for name, (what, _) in ASIDE.items():
        starts = (f"{root}/photos/cats/{name}: ", f"{root}/photos: ")
        reason = next(
            line.removeprefix(s) for s in starts for line in aside.detail if line[: len(s)] == s
        )
        rows.append(f"| `{name}` | {what} | {cell(reason.replace(f'{root}/', ''))} |")
    used = ["| file | what it is |", "|---|---|"]
    used += [f"| `{name}` | {what} |" for name, (what, _) in USED.items()]
    return rows, used


def rows_of_repeats(root: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Read pictures that lie in more than one place; return what is found."""
    root.mkdir()
    patch.chdir(root)
    make(splits(train=4, test=3))
    for where in ("train/cats/again", "test/cats/leaked", "train/dogs/other"):
        picture = {"again": 1, "leaked": 2, "other": 3}[where.split("/")[-1]]
        shutil.copy(f"photos/train/cats/{picture}.png", f"photos/{where}.png")
    Path("photos/test/owls").mkdir()
    make({"photos/train/owls/1.png": png(250), "photos/train/owls/2.png": png(251)})
    found = {one.kind: one for one in inspect_files(scan("photos"))}
    what = {
        "duplicate": "a picture twice in one class",
        "conflict": "a picture under two labels",
        "leakage": "a picture in two given splits",
        "missing_class": "a class without pictures in a split",
    }
    rows = ["| what is met | what is said of it |", "|---|---|"]
    return rows + [f"| {words} | {cell(found[kind].headline)} |" for kind, words in what.items()]


def stopped(bundle: Path, pictures: Path) -> str:
    """Press Ctrl-C between two answers; return the row."""
    run = subprocess.Popen(
        [sys.executable, "-m", "tellapart", "predict", bundle, pictures, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    said = err.splitlines()[-1].removeprefix("tellapart: ")
    return f"| Ctrl-C | `predict pets.tellapart photos --json` | {run.returncode} | {cell(said)} |"


def rows_of_codes() -> list[str]:
    """Every exit code, and what the errors that end with it have in common."""
    found: dict[int, list[str]] = {
        0: ["All is well."],
        1: ["Something that nobody foresaw: please report it."],
        2: ["The command line is wrong: an option, a value, an argument."],
        130: ["Ctrl-C."],
    }
    kinds = [TellapartError]
    for kind in kinds:  # It grows meanwhile.
        kinds += kind.__subclasses__()
        if "exit_code" in vars(kind) and kind is not TellapartError:
            said = (inspect.getdoc(kind) or "").splitlines()[0]
            found.setdefault(kind.exit_code, []).append(said)
    assert [code for code, said in found.items() if len(said) > 1] == []
    rows = ["| exit code | what it means |", "|---|---|"]
    return rows + [f"| {code} | {cell(found[code][0])} |" for code in sorted(found)]


HEAD = """# What happens with bad input

Written by `tests/test_bad_input_page.py` from what the commands really print, and held against it
in every test run. Each command below ends with one paragraph on standard error, an exit code of its
own, and nothing half-written. `--debug` adds the traceback; a wrong command line is exit code 2.
"""


def page(parts: dict[str, list[str]]) -> str:
    """Put the page together."""
    return HEAD + "".join(
        f"\n## {name}\n\n" + "\n".join(rows) + "\n" for name, rows in parts.items()
    )


def test_the_page_says_what_happens(
    trained: Any,
    digits: Path,
    command: Command,
    format_1: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every bad input gives what docs/bad-input.md says it gives."""
    monkeypatch.setenv("TELLAPART_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TELLAPART_DATABASE", f"sqlite:///{tmp_path / 'records.sqlite'}")
    for name in ("tellapart.server", "uvicorn.error"):  # `serve` sends them elsewhere.
        for told in ("handlers", "propagate", "level"):
            monkeypatch.setattr(log := logging.getLogger(name), told, getattr(log, told))

    def rows(name: str, cases: list[Case]) -> list[str]:
        bundles = (format_1, trained.bundle)
        return rows_of_refusals(cases, command, tmp_path / name, monkeypatch, *bundles)

    aside, used = rows_of_files(tmp_path / "files", monkeypatch)
    with_stop = [*rows("settings", SETTINGS), stopped(trained.bundle, digits)]
    made = page(
        {
            "Folders": rows("folders", FOLDERS),
            "Tables, lists and names": rows("tables", TABLES),
            "Addresses and shards": rows("shards", SHARDS),
            "Classifiers and what is given to them": rows("bundles", BUNDLES),
            "Serving, and learning from corrections": rows("serving", SERVING),
            "Settings and places": with_stop,
            "Files that are set aside, and the training goes on": aside,
            "Files that look wrong and are used": used,
            "Pictures that meet again, and the training goes on": rows_of_repeats(
                tmp_path / "repeats", monkeypatch
            ),
            "All exit codes": rows_of_codes(),
        }
    )
    if os.environ.get("TELLAPART_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    changed = [line for line in made.splitlines() if line not in written.splitlines()]
    assert written == made, f"{PAGE} is stale. Rewrite it with: {REWRITE}\n" + "\n".join(changed)
