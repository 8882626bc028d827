"""Kept features put to other uses: written into a file, and searched for alike pictures."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.activations import KeptSet
from tellapart.bundle.bundle import open_bundle
from tellapart.data.catalog import Catalog, SetAside, no_folder, scan_unlabelled, walk
from tellapart.data.columns import blocks, forget
from tellapart.data.hashing import hash_files
from tellapart.data.reading import DataSource, read_catalog
from tellapart.data.shards.finding import find_shards
from tellapart.data.stored import kept_copies
from tellapart.data.tables import load_pyarrow
from tellapart.errors import DataNotFound, NoReadablePicture, NotWritable
from tellapart.evaluation.grouping import most_similar
from tellapart.evaluation.sheet import ContactGroup, render_contact_sheet
from tellapart.files import check_writable, replacing, write_atomically
from tellapart.pipeline.unlabelled import (
    BATCH,
    Gallery,
    contacts,
    look,
    open_eyes,
    open_gallery,
)
from tellapart.progress import Progress
from tellapart.stores import is_address, place, shown

ELSEWHERE = "choose another place with --out"
THUMBNAIL_PX = 160
# Thumbnails on a page, of about 5 KB each.
BUDGET = 1200

FloatType = Literal["float32", "float16"]


@dataclass(frozen=True)
class Written:
    """A file of features. n_labelled: rows that have a label. left: what was not used, and why."""

    out: Path
    n: int
    n_features: int
    n_labelled: int
    backbone: str
    n_computed: int
    left: tuple[SetAside, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return asdict(self) | {"out": str(self.out)}


@kept_copies()
def write_features(
    data: DataSource,
    out: str | Path,
    *,
    backbone: str | None = None,
    model: str | Path | None = None,
    kind: FloatType = "float32",
    device: str = "auto",
    progress: Progress | None = None,
) -> Written:
    """Write the features of pictures into a .parquet or .npz file, whole or not at all.

    Columns: path, label, split, hash, features. A folder whose pictures lie straight in it has no
    labels; all else is read as `train` reads it. Rows are streamed: memory stays bounded.

    Raises:
        NotWritable, DiskFull, MissingExtra; DataError; those of `open_eyes`.
    """
    progress = progress or Progress()
    target = Path(out).expanduser()
    if target.suffix.lower() not in (".parquet", ".npz"):
        raise NotWritable(
            f"What to write into {target} is not clear from its suffix. Expected .parquet or .npz. "
            f"Nothing was computed. Name --out accordingly."
        )
    if target.suffix.lower() == ".parquet":
        load_pyarrow()
    check_writable(target, ELSEWHERE)
    catalog = _pictures(data, progress)
    eyes = open_eyes(backbone, open_bundle(model) if model else None, device, progress)
    kept, filled = look(eyes, catalog.paths, catalog.digests, progress)
    left = [SetAside(str(catalog.paths[row]), why) for row, why in filled.unreadable.items()]
    if len(left) == len(catalog):
        raise NoReadablePicture(
            f"None of the pictures of {shown(data.path)} could be read. The first, "
            f"{left[0].path}, {left[0].reason}. Nothing was written. Check the files."
        )
    rows = _Rows(catalog, kept, frozenset(filled.unreadable), np.dtype(kind))
    write = _write_parquet if target.suffix.lower() == ".parquet" else _write_npz
    with replacing(target, ELSEWHERE) as temporary:
        write(temporary, rows, eyes.name)
    return Written(
        out=target,
        n=len(rows),
        n_features=rows.n_features,
        n_labelled=len(rows) if any(catalog.classes) else 0,
        backbone=eyes.name,
        n_computed=filled.n_computed,
        left=(*catalog.set_aside, *left),
    )


def _pictures(data: DataSource, progress: Progress) -> Catalog:
    """Read labelled pictures, or a folder with nothing but pictures straight in it."""
    root = place(data.path)
    if data.pattern or no_folder(root) or find_shards(root):
        return read_catalog(data, progress, min_classes=1)
    root = root.absolute()
    # The first one below it tells: a large tree need not be walked twice.
    straight = (os.path.dirname(path) == str(root) for path in walk(root, lambda _: None))  # noqa: PTH120
    if not all(straight):
        return read_catalog(data, progress, min_classes=1)
    catalog = scan_unlabelled(root, progress)
    progress.say(f"{len(catalog)} pictures straight in {root}: they have no labels.")
    return catalog


class _Rows:
    """What is written, a bounded number of rows at a time: those of pictures that can be read."""

    def __init__(
        self, catalog: Catalog, kept: KeptSet, unreadable: frozenset[int], kind: np.dtype[Any]
    ) -> None:
        self._catalog, self._kept, self._unreadable = catalog, kept, unreadable
        self.kind = kind
        first = next(row for row in range(len(catalog)) if row not in unreadable)
        self.n_features = len(kept.get(catalog.digests[first]))

    def __len__(self) -> int:
        return len(self._catalog) - len(self._unreadable)

    def texts(self) -> dict[str, tuple[np.dtype[Any], Iterator[NDArray[Any]]]]:
        """Return the columns of text, their type and their rows; no label and no split are ""."""
        catalog, classes = self._catalog, np.array(self._catalog.classes)
        hashes = np.dtype("U32")
        return {
            "path": (catalog.paths.dtype, self._parts(catalog.paths)),
            "label": (classes.dtype, (classes[part] for part in self._parts(catalog.labels))),
            "split": (catalog.splits.dtype, self._parts(catalog.splits)),
            "hash": (hashes, (part.astype(hashes) for part in self._parts(catalog.digests))),
        }

    def features(self) -> Iterator[NDArray[Any]]:
        """Yield features (n, D) for the same rows at a time."""
        for digests in self._parts(self._catalog.digests):
            yield self._kept.rows(digests).astype(self.kind)
            self._kept.forget()

    def _parts(self, column: NDArray[Any]) -> Iterator[NDArray[Any]]:
        for part in blocks(len(self._catalog), BATCH):
            rows = range(len(self._catalog))[part]
            able = [row for row in rows if row not in self._unreadable]
            if able:
                yield column[able]
            forget(column)


def _write_parquet(path: Path, rows: _Rows, backbone: str) -> None:
    arrow = load_pyarrow()
    text, value = arrow.string(), arrow.from_numpy_dtype(rows.kind)
    schema = arrow.schema(
        [
            ("path", text),
            ("label", text),
            ("split", text),
            ("hash", text),
            ("features", arrow.list_(value, rows.n_features)),
        ],
        metadata={"backbone": backbone, "hash": "BLAKE2b, 16 bytes, of the file"},
    )
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        texts = (parts for _, parts in rows.texts().values())
        for *some, features in zip(*texts, rows.features(), strict=True):
            paths, labels, splits, hashes = (part.tolist() for part in some)
            columns = [
                arrow.array(paths, text),
                arrow.array([label or None for label in labels], text),
                arrow.array([split or None for split in splits], text),
                arrow.array(hashes, text),
                arrow.FixedSizeListArray.from_arrays(
                    arrow.array(features.ravel(), value), rows.n_features
                ),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _write_npz(target: Path, rows: _Rows, backbone: str) -> None:
    """Write the columns as arrays of the same names; no label and no split are ""."""

    def write(
        name: str, kind: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any]]
    ) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(part.astype(kind).tobytes())

    with zipfile.ZipFile(target, "w") as archive:
        for name, (kind, parts) in rows.texts().items():
            write(name, kind, (len(rows),), parts)
        write("backbone", np.dtype(f"U{len(backbone)}"), (1,), [np.array([backbone])])
        write("features", rows.kind, (len(rows), rows.n_features), rows.features())


@dataclass(frozen=True)
class Similar:
    """A picture of the folder that is like the one asked about. same_file: byte for byte."""

    path: str
    similarity: float
    same_file: bool


@dataclass(frozen=True)
class Answer:
    """What is like one picture, the most alike first; error: why that one could not be read."""

    picture: str
    similar: tuple[Similar, ...]
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain JSON types."""
        return asdict(self)


@kept_copies()
def find_similar(
    pictures: Sequence[str | Path],
    folder: str | Path,
    *,
    top: int = 10,
    page: str | Path | None = None,
    backbone: str | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Answer]:
    """Find the pictures below a folder that are most like each of the given ones.

    Similarity is the cosine of features, -1 to 1. A picture is never its own answer; copies of it
    are answers. page: an HTML file to write, where one is wanted.

    Raises:
        DataNotFound: a picture is not there. NoReadablePicture, and those of `open_eyes`.
    """
    progress = progress or Progress()
    wanted = [str(place(picture).absolute()) for picture in pictures]
    missing = [path for path in wanted if not (is_address(path) or Path(path).is_file())]
    if missing:
        raise DataNotFound(
            f"{', '.join(missing[:6])}: there is no such file. Expected picture files, and last a "
            f"folder to look through. Nothing was looked at. Check the paths."
        )
    if page is not None:
        check_writable(place(page), ELSEWHERE)
    eyes = open_eyes(backbone, open_bundle(model) if model else None, device, progress)
    seen = open_gallery(folder, eyes, progress)
    hashed, errors = hash_files(wanted, None, progress)
    digests: list[bytes] = hashed.tolist()
    kept, filled = look(eyes, wanted, digests, progress)
    errors = {**filled.unreadable, **errors}
    answers = _answers(wanted, digests, errors, kept, seen, top)
    if len(errors) == len(wanted):
        raise NoReadablePicture(
            f"{shown(wanted[0])} {errors[0]}. Expected a picture to compare with. Nothing was "
            f"compared. Check the file."
        )
    if page is not None:
        write_atomically(place(page), _page(answers, seen), ELSEWHERE)
    return answers


def _answers(
    wanted: Sequence[str],
    digests: Sequence[bytes],
    errors: Mapping[int, str],
    kept: KeptSet,
    seen: Gallery,
    top: int,
) -> list[Answer]:
    able = [row for row in range(len(wanted)) if row not in errors]
    found: dict[int, list[Similar]] = {}
    files = _files_of(seen)
    for part in blocks(len(able), BATCH):
        some = able[part]
        asked = kept.rows([digests[row] for row in some])
        # One more, as a picture of the folder finds itself.
        rows, cosines = most_similar(asked, seen.batches(), top + 1)
        for number, row in enumerate(some):
            found[row] = [
                Similar(path, round(float(value), 6), seen.different[one] == digests[row])
                for one, value in zip(rows[number], cosines[number], strict=True)
                for path in files[one]
                if path != wanted[row]
            ][:top]
    return [
        Answer(path, tuple(found.get(row, ())), errors.get(row)) for row, path in enumerate(wanted)
    ]


def _files_of(seen: Gallery) -> list[list[str]]:
    files: list[list[str]] = [[] for _ in seen.different]
    for path, one in zip(seen.paths, seen.picture, strict=True):
        files[one].append(path)
    return files


def _page(answers: Sequence[Answer], seen: Gallery) -> str:
    sections = []
    # At least one, and as many as keep the page small.
    first = answers[: max(1, BUDGET // (1 + max(len(one.similar) for one in answers)))]
    for one in first:
        paths = [one.picture, *(other.path for other in one.similar)]
        notes = ["asked about", *(_note(other) for other in one.similar)]
        about = one.error or f"the {len(one.similar)} most similar"
        pictures = contacts(paths, notes, THUMBNAIL_PX)
        sections.append(
            ContactGroup(Path(one.picture).name, about, one.error is not None, pictures)
        )
    about = f"Looked for among {len(seen.paths)} pictures of {shown(seen.root)}."
    if len(first) < len(answers):
        about += f" The first {len(first)} of {len(answers)} that were asked about are shown."
    return render_contact_sheet(seen.root.name, about, sections, [], "similar pictures")


def _note(one: Similar) -> str:
    return "the same file" if one.same_file else f"{one.similarity:.2f}"
