"""Kept features put to other uses: written into a file, and searched for alike pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tellapart.backbones.activations import KeptSet
from tellapart.backbones.extractor import Extractor
from tellapart.bundle.bundle import open_bundle
from tellapart.data.catalog import SetAside, walk
from tellapart.data.hashing import hash_files
from tellapart.data.reading import DataSource, read_catalog
from tellapart.data.tables import load_pyarrow
from tellapart.errors import DataNotFound, NoReadablePicture, NotWritable
from tellapart.evaluation.grouping import most_similar
from tellapart.evaluation.sheet import ContactGroup, render_contact_sheet
from tellapart.files import check_writable, replacing, write_atomically
from tellapart.pipeline.unlabelled import (
    BATCH,
    Gallery,
    batches,
    contacts,
    find_pictures,
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


@dataclass(frozen=True, eq=False)
class _Pictures:
    """What becomes rows: (N,) each; label and split are None where there is none."""

    paths: list[str]
    digests: list[bytes]
    labels: list[str | None]
    splits: list[str | None]
    left: list[SetAside]

    def without(self, unreadable: Mapping[int, str]) -> _Pictures:
        keep = [row for row in range(len(self.paths)) if row not in unreadable]
        aside = [SetAside(self.paths[row], why) for row, why in unreadable.items()]
        return _Pictures(
            [self.paths[row] for row in keep],
            [self.digests[row] for row in keep],
            [self.labels[row] for row in keep],
            [self.splits[row] for row in keep],
            self.left + aside,
        )


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
    found = _pictures(data, progress)
    eyes = open_eyes(backbone, open_bundle(model) if model else None, device, progress)
    kept, filled = look(eyes, found.paths, found.digests, progress)
    found = found.without(filled.unreadable)
    if not found.paths:
        first = found.left[-1]
        raise NoReadablePicture(
            f"None of the pictures of {data.path} could be read. The first, {first.path}, "
            f"{first.reason}. Nothing was written. Check the files."
        )
    write = _write_parquet if target.suffix.lower() == ".parquet" else _write_npz
    n_features = len(kept.get(found.digests[0]))
    with replacing(target, ELSEWHERE) as temporary:
        write(temporary, found, kept, np.dtype(kind), eyes)
    return Written(
        out=target,
        n=len(found.paths),
        n_features=n_features,
        n_labelled=sum(label is not None for label in found.labels),
        backbone=eyes.name,
        n_computed=filled.n_computed,
        left=tuple(found.left),
    )


def _pictures(data: DataSource, progress: Progress) -> _Pictures:
    """Read labelled pictures, or a folder with nothing but pictures straight in it."""
    root = Path(data.path).expanduser().absolute()
    # The first one below it tells: a large tree need not be walked twice.
    straight = (Path(path).parent == root for path in walk(root, lambda _: None))
    if root.is_dir() and not data.pattern and all(straight):
        paths, left = find_pictures(root, progress)
        progress.say(f"{len(paths)} pictures straight in {root}: they have no labels.")
        digests, unopened = hash_files(paths, root, progress)
        none: list[str | None] = [None] * len(paths)
        return _Pictures(paths, digests.tolist(), none, list(none), left).without(unopened)
    catalog = read_catalog(data, progress, min_classes=1)
    return _Pictures(
        catalog.paths.tolist(),
        catalog.digests.tolist(),
        [catalog.classes[label] for label in catalog.labels],
        [split or None for split in catalog.splits.tolist()],
        list(catalog.set_aside),
    )


def _write_parquet(
    path: Path, found: _Pictures, kept: KeptSet, kind: np.dtype[Any], eyes: Extractor
) -> None:
    arrow = load_pyarrow()
    n_features = len(kept.get(found.digests[0]))
    text, value = arrow.string(), arrow.from_numpy_dtype(kind)
    schema = arrow.schema(
        [
            ("path", text),
            ("label", text),
            ("split", text),
            ("hash", text),
            ("features", arrow.list_(value, n_features)),
        ],
        metadata={"backbone": eyes.name, "hash": "BLAKE2b, 16 bytes, of the file"},
    )
    start = 0
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(kept, found.digests):
            rows = slice(start, start + len(batch))
            start += len(batch)
            flat = arrow.array(batch.astype(kind).ravel(), value)
            columns = [
                arrow.array(found.paths[rows], text),
                arrow.array(found.labels[rows], text),
                arrow.array(found.splits[rows], text),
                arrow.array([digest.decode() for digest in found.digests[rows]], text),
                arrow.FixedSizeListArray.from_arrays(flat, n_features),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _write_npz(
    path: Path, found: _Pictures, kept: KeptSet, kind: np.dtype[Any], eyes: Extractor
) -> None:
    """Write the columns as arrays of the same names; no label and no split are ""."""
    shape = (len(found.paths), len(kept.get(found.digests[0])))
    columns = {
        "path": found.paths,
        "label": [label or "" for label in found.labels],
        "split": [split or "" for split in found.splits],
        "hash": [digest.decode() for digest in found.digests],
        "backbone": [eyes.name],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in columns.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.array(values, dtype=np.str_))
        with archive.open("features.npy", "w", force_zip64=True) as file:
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches(kept, found.digests):
                file.write(batch.astype(kind).tobytes())


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
    for start in range(0, len(able), BATCH):
        some = able[start : start + BATCH]
        asked = np.stack([kept.get(digests[row]) for row in some])
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
