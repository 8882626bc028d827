"""Shards: tar, Parquet with bytes and Arrow of `datasets`, read as streams and here and there."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tellapart.data.hashing import picture_hash
from tellapart.data.pixels import Loaded, read_file
from tellapart.data.reading import DataSource, data_name, read_catalog
from tellapart.data.shards.index import kept_in
from tellapart.data.shards.names import Columns
from tellapart.data.shards.reading import in_reading_order
from tellapart.errors import AmbiguousData, BadLabels, BadShards, UnreadablePicture
from tellapart.inference.inputs import Inputs
from tellapart.progress import Progress

Members = Sequence[tuple[str, bytes]]


def picture(number: int) -> bytes:
    """A small picture that differs from those of other numbers."""
    file = io.BytesIO()
    colour = (number % 256, number * 37 % 256, number * 91 % 256)
    Image.new("RGB", (24, 24), colour).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """Write a tar; packed, where it is called so."""
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def with_cls(numbers: Sequence[int]) -> list[tuple[str, bytes]]:
    """Return pictures with their classes beside them, as WebDataset writes them."""
    return [
        one
        for n in numbers
        for one in ((f"{n:04d}.png", picture(n)), (f"{n:04d}.cls", str(n % 2).encode()))
    ]


def settle(*paths: Path) -> None:
    """Set the times of files back, as what has just been written is not kept."""
    import os

    past = time.time() - 60
    for path in paths:
        os.utime(path, (past, past))


FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
        }
    }
}


def table(numbers: Sequence[int], struct: bool = True) -> Any:
    """Return an Arrow table as `datasets` writes it."""
    data = [picture(n) for n in numbers]
    images = [{"bytes": one, "path": None} for one in data] if struct else data
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    made = pa.table({"image": pa.array(images, kind), "label": pa.array([n % 2 for n in numbers])})
    return made.replace_schema_metadata({b"huggingface": json.dumps(FEATURES).encode()})


def write_arrow(path: Path, numbers: Sequence[int]) -> Path:
    """Write a stream of batches of five rows, as save_to_disk does."""
    made = table(numbers)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
        stream.write_table(made, max_chunksize=5)
    return path


def counts(data: Any, **kwargs: Any) -> Mapping[str, list[int]]:
    """Read a catalog, check each picture's hash against its bytes, and count."""
    catalog = read_catalog(data, **kwargs)
    for path, digest in zip(catalog.paths.tolist(), catalog.digests.tolist(), strict=True):
        assert picture_hash(read_file(path)).encode() == digest
    return {"classes": list(catalog.classes)} | dict(catalog.counts())


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
def test_tar_with_classes_beside_the_pictures(tmp_path: Path, ending: str) -> None:
    """KEY.png and KEY.cls are one picture, which can be read by itself, in any order."""
    path = write_tar(tmp_path / f"all{ending}", with_cls(range(12)))
    assert counts(path) == {"classes": ["0", "1"], "": [6, 6]}
    name = f"{path}#0007.png"
    assert read_file(name) == picture(7)
    assert read_file(f"{path}#0002.png") == picture(2)
    with pytest.raises(UnreadablePicture, match="is not in its shard"):
        read_file(f"{path}#none.png")


@pytest.mark.parametrize(
    ("ending", "said"), [("json", b'{"label": "cat"}'), ("txt", b"cat\n"), ("cls", b"cat")]
)
def test_tar_says_labels_in_three_ways(tmp_path: Path, ending: str, said: bytes) -> None:
    """A .cls, a key of .json, or a .txt."""
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("a/1.jpg.png", picture(1)),
            (f"a/1.{ending}", said),
            ("b/1.png", picture(2)),
            (f"b/1.{ending}", said.replace(b"cat", b"dog")),
        ],
    )
    assert counts(path) == {"classes": ["cat", "dog"], "": [1, 1]}


def test_tar_of_class_folders(tmp_path: Path) -> None:
    """Where nothing lies beside the pictures, their folders are the classes."""
    path = write_tar(tmp_path / "a.tar", [("x/cat/1.png", picture(1)), ("x/dog/1.png", picture(2))])
    assert counts(path) == {"classes": ["cat", "dog"], "": [1, 1]}


def test_another_key_of_json_and_a_pattern(tmp_path: Path) -> None:
    """--data label=KEY and --data pattern=… say where labels are, as for other data."""
    members = [
        one
        for n, kind in enumerate(("cat", "dog"))
        for one in ((f"{kind}_{n}.png", picture(n)), (f"{kind}_{n}.json", b'{"kind": "%d"}' % n))
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert counts(DataSource(path, columns={"label": "kind"}))["classes"] == ["0", "1"]
    by_name = DataSource(path, pattern="{label}_{number}.png")
    assert counts(by_name)["classes"] == ["cat", "dog"]
    with pytest.raises(BadLabels, match="holds the pictures themselves"):
        read_catalog(DataSource(path, columns={"split": "kind"}))


def test_ranges_and_folders_of_shards_with_splits(tmp_path: Path) -> None:
    """Braces stand for all of their files; the names of files or folders say the splits."""
    for number in range(3):
        write_tar(tmp_path / f"train-{number:03d}.tar", with_cls(range(number * 4, number * 4 + 4)))
    write_tar(tmp_path / "val-000.tar", with_cls(range(12, 16)))
    both = {"classes": ["0", "1"], "train": [6, 6], "valid": [2, 2]}
    assert counts(tmp_path) == both
    assert counts(tmp_path / "train-{000..002}.tar")["train"] == [6, 6]
    assert data_name(tmp_path / "train-{000..002}.tar") == "train"
    with pytest.raises(BadShards) as raised:
        read_catalog(tmp_path / "train-{000..004}.tar")
    assert str(raised.value) == (
        f"2 of 5 shards are not there: {tmp_path}/train-003.tar, {tmp_path}/train-004.tar. "
        f"Expected every file that the range in braces stands for. Nothing was read. Copy them "
        f"there, or correct the range."
    )
    write_tar(tmp_path / "more.tar", with_cls(range(20, 24)))
    with pytest.raises(AmbiguousData, match="1 do not say a split, and the others do"):
        read_catalog(tmp_path)


def test_archives_beside_class_folders_are_no_shards(tmp_path: Path) -> None:
    """Who keeps the download beside the folders means the folders."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(picture(len(name)))
    write_tar(tmp_path / "download.tar", with_cls(range(4)))
    assert counts(tmp_path) == {"classes": ["cat", "dog"], "": [1, 1]}


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_bytes(tmp_path: Path, struct: bool) -> None:
    """Bytes or a struct with them; the names of classes are those that `datasets` wrote."""
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(table(range(50), struct), path, row_group_size=40)
    assert counts(tmp_path) == {"classes": ["cat", "dog"], "train": [25, 25]}
    assert [read_file(f"{path}#{n}") for n in (49, 3, 41, 2)] == [*map(picture, (49, 3, 41, 2))]


def test_folder_that_datasets_saved(tmp_path: Path) -> None:
    """dataset_dict.json names splits, state.json the files; what lies beside them is left."""
    for split, numbers in {"train": range(12), "test": range(12, 16)}.items():
        folder = tmp_path / split
        folder.mkdir()
        write_arrow(folder / "data-00000-of-00001.arrow", numbers)
        (folder / "cache-1.arrow").write_bytes(b"left over")
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert counts(tmp_path) == {"classes": ["cat", "dog"], "train": [6, 6], "test": [2, 2]}
    assert read_file(f"{tmp_path}/train/data-00000-of-00001.arrow#11") == picture(11)


def test_a_parquet_of_paths_is_still_a_table(tmp_path: Path) -> None:
    """Only a column of bytes makes a shard of it."""
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    paths = pa.table({"path": [f"{n}.png" for n in range(4)], "label": ["a", "b"] * 2})
    pq.write_table(paths, tmp_path / "table.parquet")
    assert counts(tmp_path / "table.parquet") == {"classes": ["a", "b"], "": [2, 2]}


def test_all_bad_shards_are_named_at_once(tmp_path: Path) -> None:
    """Cut off, damaged, and of other columns: each says what is wrong with it."""
    good = write_tar(tmp_path / "good.tar", with_cls(range(40)))
    data = good.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    (tmp_path / "ended.tar").write_bytes(data.rstrip(b"\0") + b"\0" * 200)
    packed = gzip.compress(data)
    (tmp_path / "packed.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadShards) as raised:
        read_catalog(tmp_path)
    words = str(raised.value)
    assert words.startswith(f"3 of 4 shards of {tmp_path} cannot be used: {tmp_path}/cut.tar is ")
    assert f"{tmp_path}/ended.tar is cut off or damaged (" in words
    assert f"{tmp_path}/packed.tar.gz is cut off or damaged" in words
    assert words.endswith(". Nothing was trained or scored. Copy them again, or leave them out.")


def test_parquet_without_pictures_says_its_columns(tmp_path: Path) -> None:
    """Also where --data names the wrong one."""
    pq.write_table(table(range(4)), tmp_path / "a.parquet")
    source = DataSource(tmp_path / "a.parquet", columns={"label": "kind"})
    with pytest.raises(BadShards) as raised:
        read_catalog(source)
    assert str(raised.value) == (
        f"1 of 1 shards of {tmp_path}/a.parquet cannot be used: {tmp_path}/a.parquet has the "
        f"columns: image (struct<bytes: binary, path: string>), label (int64). Expected a column "
        f"'kind' of labels. Nothing was trained or scored. Copy them again, or leave them out."
    )


def test_mixed_labels_are_refused(tmp_path: Path) -> None:
    """Some without, and some said in another way: neither is guessed."""
    write_tar(tmp_path / "a.tar", [*with_cls(range(4)), ("lost.png", picture(9))])
    with pytest.raises(BadShards) as raised:
        read_catalog(tmp_path / "a.tar")
    assert str(raised.value) == (
        f"{tmp_path}/a.tar has pictures without a label: {tmp_path}/a.tar: 1 of 5 pictures "
        f"(lost.png). Expected with each KEY.jpg a KEY.cls, KEY.json or KEY.txt that says it, or "
        f"class folders in the tar; in tables a column such as label. Nothing was trained or "
        f"scored. Add them; name a column or key with --data label=NAME, or say how the class lies "
        f"in the names with --data pattern=…."
    )
    write_tar(tmp_path / "b.tar", [*with_cls(range(4)), ("x.png", picture(9)), ("x.txt", b"1")])
    with pytest.raises(BadShards) as raised:
        read_catalog(tmp_path / "b.tar")
    assert str(raised.value) == (
        f"In {tmp_path}/b.tar labels are said in 2 ways: .cls in {tmp_path}/b.tar; .txt in "
        f"{tmp_path}/b.tar. Expected one way for all shards. Nothing was trained or scored. Write "
        f"them alike, or give only some of the shards."
    )


def test_a_shard_is_read_once(tmp_path: Path) -> None:
    """What it holds is kept while the file is as it was, and read anew when it changed."""
    path = write_tar(tmp_path / "a.tar", with_cls(range(6)))
    settle(path)
    time.sleep(0.01)
    first = read_catalog(path)
    kept = kept_in(str(path), Columns())
    if not kept.exists():  # Its time of status is that of now, and is believed two seconds later.
        time.sleep(2.1)
        first = read_catalog(path)
    with (kept / "shard.npz").open("rb") as file, np.load(file) as held:
        assert len(held["starts"]) == 6
    assert read_catalog(path).digests.tolist() == first.digests.tolist()
    write_tar(path, with_cls(range(8)))
    assert len(read_catalog(path)) == 8


def test_what_is_no_picture_does_not_cut_a_tar_off(tmp_path: Path) -> None:
    """Large files of other kinds are passed over, wherever they lie."""
    other = ("x.npy", bytes(3_000_000))
    members = [other, *with_cls(range(6)), other, *with_cls(range(6, 12)), other]
    path = write_tar(tmp_path / "a.tar", members)
    assert counts(path) == {"classes": ["0", "1"], "": [6, 6]}


def test_of_a_name_that_is_there_twice_the_first_counts(tmp_path: Path) -> None:
    """Its hash, and the picture that is read by the name, are of the same bytes."""
    members = [("cat/1.png", picture(1)), ("dog/2.png", picture(2)), ("cat/1.png", picture(3))]
    path = write_tar(tmp_path / "a.tar", members)
    assert counts(path) == {"classes": ["cat", "dog"], "": [1, 1]}
    assert read_file(f"{path}#cat/1.png") == picture(1)


def test_predicting_takes_the_bytes_along(tmp_path: Path) -> None:
    """The pictures come with their bytes, in order; a shard that breaks off says so at its end."""
    path = write_tar(tmp_path / "a.tar", with_cls(range(5)))
    found = list(Inputs([str(path)]))
    assert found == [f"{path}#{n:04d}.png" for n in range(5)]
    assert [one.data for one in found if isinstance(one, Loaded)] == [*map(picture, range(5))]
    path.write_bytes(path.read_bytes()[:4000])
    *whole, last = Inputs([str(path)])
    assert len(whole) == 1
    assert last == str(path)
    with pytest.raises(UnreadablePicture, match=r"is cut off or damaged \(.*\), behind 1 pictures"):
        read_file(last)


def test_a_packed_shard_is_entered_in_the_middle(tmp_path: Path) -> None:
    """Files packed one behind the other, and going back, from several threads."""
    chance = np.random.default_rng(0)
    members = [(f"{n:02d}.png", chance.bytes(700_000)) for n in range(20)]
    plain = write_tar(tmp_path / "plain.tar", members).read_bytes()
    middle = len(plain) // 3
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(plain[:middle], 1) + gzip.compress(plain[middle:], 1))
    wrong: list[str] = []

    def look(start: int) -> None:
        for n in range(19, -1, -3):
            name, data = members[(n + start) % 20]
            if read_file(f"{path}#{name}") != data:
                wrong.append(name)

    threads = [threading.Thread(target=look, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_reading_order_is_that_of_the_shards(tmp_path: Path) -> None:
    """Rows ordered by class are read from front to back; plain files stay in their order."""
    path = write_tar(tmp_path / "a.tar", with_cls(range(6)))
    catalog = read_catalog(path, Progress("quiet"))
    order = in_reading_order(catalog.paths.tolist())
    names = [catalog.paths[row].partition("#")[2] for row in order]
    assert names == [f"{n:04d}.png" for n in range(6)]
    assert in_reading_order(["b.jpg", "a.jpg"]) == [0, 1]
