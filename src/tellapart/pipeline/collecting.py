"""Collecting pictures from the network into class folders, each with where it is from."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from tellapart.data.catalog import SPLIT_FOLDERS, walk
from tellapart.data.fetching import Fetcher, Limits, check_picture, in_words
from tellapart.data.hashing import picture_hash
from tellapart.data.openverse import search
from tellapart.data.reading import DataSource, NamedUrl, named_urls
from tellapart.data.tables import ABOUT
from tellapart.errors import BadCollection, BadLabels, NotFetched, NothingFetched
from tellapart.files import on_this_machine, output_error, replacing, write_atomically
from tellapart.inference.sorting import key, safe_name
from tellapart.progress import Progress

TABLE = "collected.csv"
# One line for each URL that is settled, written as soon as it is: what a killed run goes on from.
MEMORY = ".collected.jsonl"
COLUMNS = ("path", "label", "split", "group", "url", *ABOUT, "search", "digest")
CURE = "collect into another folder"

# What a killed write leaves, see `files.replacing`.
_LEFT = re.compile(r"\.[0-9a-f]{20}\.[a-z]{3,4}\.[0-9a-f]{8}\.part")

# An interface that is asked once a second at most, by one at a time.
SEARCHING = Limits(pause_s=1.0, per_host=1)


@dataclass
class Collected:
    """What became of the pictures that were asked for.

    new: class -> how many were added. n_there: URLs that an earlier run settled. n_removed: of
    these, the user took the picture away, and it stays away. repeats: URLs of pictures that lie
    there already, with where; other_class: of these, in the folder of another class.
    """

    into: Path
    n_asked: int = 0
    new: Counter[str] = field(default_factory=Counter)
    n_there: int = 0
    n_removed: int = 0
    repeats: dict[str, str] = field(default_factory=dict)
    other_class: dict[str, str] = field(default_factory=dict)
    refused: dict[str, NotFetched] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def n_new(self) -> int:
        """Pictures that were added."""
        return sum(self.new.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "into": str(self.into),
            "table": str(self.into / TABLE),
            "n_asked": self.n_asked,
            "n_new": self.n_new,
            "new": dict(self.new),
            "n_there": self.n_there,
            "n_removed": self.n_removed,
            "n_repeats": len(self.repeats),
            "other_class": self.other_class,
            "n_refused": len(self.refused),
            "refused": [
                {"url": url, "kind": error.kind, "reason": str(error)}
                for url, error in self.refused.items()
            ],
            "notes": self.notes,
        }


def collect(
    source: DataSource,
    into: str | Path,
    *,
    fetcher: Fetcher | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Fetch the pictures that a table names by URL into class folders; goes on where it was killed.

    Raises:
        BadCollection: the folder, or a class name, will not do.
        BadTable, BadLabels, AmbiguousData, DataNotFound, MissingExtra, DiskFull, NotWritable.
    """
    progress = progress or Progress("quiet")
    if source.names is not None:
        raise BadLabels(
            f"--data names={source.names} has no effect on what is collected: folders are named "
            f"as the labels are. Nothing was fetched. Give it to `train`."
        )
    wanted = named_urls(source, progress)
    into = on_this_machine(into, "pictures are collected", CURE)
    _check_classes(into, {one.label for one in wanted})
    with _open(into, progress) as collection:
        done = collection.done
        fresh = collection.fresh(wanted)
        with progress.bar("Collecting", len(fresh), "pictures") as advance:
            for _ in collection.add(fresh, fetcher or Fetcher(), ""):
                advance(1)
    return done


def collect_search(
    words: str,
    label: str,
    count: int,
    into: str | Path,
    *,
    licences: str = "",
    fetcher: Fetcher | None = None,
    searcher: Fetcher | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Fetch what Openverse finds into the folder of a class, until it holds `count` of this search.

    licences: only these, such as "cc0,by". searcher: what asks Openverse.

    Raises:
        SearchFailed, BadCollection, DiskFull, NotWritable.
    """
    progress = progress or Progress("quiet")
    into = on_this_machine(into, "pictures are collected", CURE)
    fetcher = fetcher or Fetcher()
    _check_classes(into, {label})
    with _open(into, progress) as collection:
        done = collection.done
        missing = count - collection.found_by(words, label)
        if missing <= 0:
            done.notes.append(f"{count} pictures of this search were there already.")
            return done
        progress.say(f"Searching Openverse for {words!r}: {missing} pictures for {label}.")
        with progress.bar("Collecting", missing, "pictures") as advance:
            for works in search(words, label, searcher or Fetcher(SEARCHING), licences):
                fresh = collection.fresh(works)
                # No more at once than are missing, so that none is fetched for nothing.
                while fresh and missing > 0:
                    batch, fresh = fresh[:missing], fresh[missing:]
                    n_new = sum(collection.add(batch, fetcher, words))
                    missing -= n_new
                    advance(n_new)
                if missing <= 0:
                    break
        if missing > 0:
            done.notes.append(f"The search found no more: {missing} of {count} are missing.")
    return done


def summary(done: Collected) -> str:
    """Lay out what became of the pictures, for a terminal."""
    by_class = ", ".join(f"{name} {n}" for name, n in sorted(done.new.items()))
    lines = [f"New            {done.n_new}" + (f"  ({by_class})" if by_class else "")]
    if done.n_there:
        lines.append(f"There already  {done.n_there}")
    if done.n_removed:
        lines.append(f"Taken away     {done.n_removed}  (by you, since an earlier run)")
    lines.append(f"Repeats        {len(done.repeats)}  (the same bytes as another picture)")
    for url, path in list(done.other_class.items())[:3]:
        lines.append(f"    in another class: {url} is {path}")
    kinds = Counter(error.kind for error in done.refused.values())
    lines.append(f"Refused        {len(done.refused)}")
    for kind, n in kinds.most_common():
        url, error = next(item for item in done.refused.items() if item[1].kind == kind)
        lines += [f"    {n} x {kind}, such as", f"        {url} {error}"]
    return "\n".join([*lines, *done.notes, f"Sources and licences: {done.into / TABLE}"])


def check_collected(done: Collected) -> None:
    """Refuse to call it a success where nothing came.

    Raises:
        NothingFetched.
    """
    if done.refused and not (done.n_new or done.n_there or done.n_removed or done.repeats):
        raise NothingFetched(
            f"Not one of {len(done.refused)} pictures came: {in_words(done.refused)}. Nothing was "
            f"added to {done.into}. Check the URLs and the network; addresses of this machine and "
            f"of private networks are asked only with --allow-private."
        )


class _Collection:
    """A folder of class folders, and what is known about the pictures in it."""

    def __init__(self, into: Path, progress: Progress) -> None:
        self.into = into
        self.done = Collected(into)
        self._lock = threading.Lock()
        self._records = _remembered(into)
        self._lying = _lying(into, progress)
        self._own = {record["path"] for record in self._records.values()}

    def fresh(self, wanted: Sequence[NamedUrl]) -> list[NamedUrl]:
        """Return those that no earlier run settled, and count the others."""
        self.done.n_asked += len(wanted)
        fresh = [one for one in wanted if one.url not in self._records]
        known = [self._records[one.url] for one in wanted if one.url in self._records]
        n_there = sum(record["digest"] in self._lying for record in known)
        self.done.n_there += n_there
        self.done.n_removed += len(known) - n_there
        return fresh

    def found_by(self, words: str, label: str) -> int:
        """Count the pictures lying there that a search found for a class."""
        paths = {
            record["path"]
            for record in self._records.values()
            if (record["search"], record["label"]) == (words, label)
            and record["digest"] in self._lying
        }
        return len(paths)

    def add(self, wanted: Sequence[NamedUrl], fetcher: Fetcher, words: str) -> Iterator[bool]:
        """Fetch pictures and yield for each, as it is settled, whether it was added."""
        by_url = {one.url: one for one in wanted}
        for url, found in fetcher.get_many(
            list(by_url), lambda url, data: self._take(by_url[url], data, words)
        ):
            if isinstance(found, NotFetched):
                self.done.refused[url] = found
            yield found is True

    def write_table(self) -> None:
        """Write where each picture is from, as it lies now."""
        rows: dict[str, dict[str, str]] = {}
        for record in self._records.values():
            path = self._lying.get(record["digest"])
            if path is not None:
                moved = {} if path == record["path"] else _labels_of(path)
                rows.setdefault(path, {**record, "path": path, **moved})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[path] for path in sorted(rows))
        write_atomically(self.into / TABLE, text.getvalue(), CURE)

    def _take(self, one: NamedUrl, data: bytes, words: str) -> bool:
        """Add a picture, unless its bytes lie there already; return whether it was added.

        Raises:
            UnreadablePicture, DiskFull, NotWritable.
        """
        suffix = check_picture(data)
        digest = picture_hash(data)
        folder = PurePosixPath(one.split, one.label)
        with self._lock:
            path = self._lying.get(digest)
            # A file that nothing is known of was written just before a run was killed.
            added = path is None or path not in self._own
            if path is None:
                path = str(folder / f"{digest[:20]}{suffix}")
                self._write(self.into / path, data)
                self._lying[digest] = path
            if added:
                self.done.new[one.label] += 1
                self._own.add(path)
            else:
                self.done.repeats[one.url] = path
                if PurePosixPath(path).parent != folder:
                    self.done.other_class[one.url] = path
            self._remember(one, path, digest, words)
        return added

    def _write(self, target: Path, data: bytes) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(target.parent, error, CURE) from error
        with replacing(target, CURE) as temporary:
            temporary.write_bytes(data)

    def _remember(self, one: NamedUrl, path: str, digest: str, words: str) -> None:
        record = dict.fromkeys(COLUMNS, "") | {
            **one.about,
            "path": path,
            "label": one.label,
            "split": one.split,
            "group": one.group,
            "url": one.url,
            "search": words,
            "digest": digest,
        }
        self._records[one.url] = record
        memory = self.into / MEMORY
        try:
            with memory.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise output_error(memory, error, CURE) from error


@contextmanager
def _open(into: Path, progress: Progress) -> Iterator[_Collection]:
    """Open a folder to collect into, for this run alone; its table is written at the end."""
    lock = FileLock(into / ".collected.lock")
    try:
        into.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadCollection(
            f"Another run is collecting into {into}. Expected one at a time. Nothing was fetched. "
            f"Wait for it, or {CURE}."
        ) from error
    except FileExistsError as error:
        raise BadCollection(
            f"{into} is a file. Expected a folder to collect into, which may be new. Nothing was "
            f"fetched. Name another."
        ) from error
    except OSError as error:
        raise output_error(into, error, CURE) from error
    try:
        collection = _Collection(into, progress)
        try:
            yield collection
        finally:
            collection.write_table()
    finally:
        lock.release()


def _remembered(into: Path) -> dict[str, dict[str, str]]:
    """Read what earlier runs settled: URL -> its record, from the memory and from the table.

    Raises:
        BadCollection.
    """
    records: dict[str, dict[str, str]] = {}
    table, memory = into / TABLE, into / MEMORY
    try:
        for line in memory.read_bytes().splitlines() if memory.exists() else ():
            try:
                _add_record(records, json.loads(line))
            except ValueError:  # Half a line: the run was killed while it wrote.
                continue
        # The table has the last word: people correct it.
        if table.exists():
            with table.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    _add_record(records, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCollection(
            f"{table} or {memory.name} beside it cannot be read: {error}. Expected what an earlier "
            f"run wrote. Nothing was fetched. Correct it, or {CURE}."
        ) from error
    return records


def _add_record(records: dict[str, dict[str, str]], row: Mapping[str | Any, Any]) -> None:
    record = {name: str(row.get(name) or "") for name in COLUMNS}
    if record["url"] and record["digest"]:
        records[record["url"]] = record


def _lying(into: Path, progress: Progress) -> dict[str, str]:
    """Find the pictures that lie there, digest -> path below `into`; sweep up half-written ones."""
    for left in into.rglob(".*.part"):
        if _LEFT.fullmatch(left.name):
            left.unlink(missing_ok=True)
    lying: dict[str, str] = {}
    with progress.bar("Reading files", None, "files") as advance:
        for path in walk(into, lambda aside: progress.detail(f"{aside.path} {aside.reason}")):
            try:
                digest = picture_hash(Path(path).read_bytes())
            except OSError:  # It is not read by `train` either.
                continue
            lying.setdefault(digest, Path(path).relative_to(into).as_posix())
            advance(1)
    return lying


def _labels_of(path: str) -> dict[str, str]:
    """Say what class and split the folders of a picture are, which the user moved."""
    parts = PurePosixPath(path).parts
    split = SPLIT_FOLDERS.get(parts[0].lower(), "") if len(parts) > 2 else ""
    return {"label": parts[1] if split else parts[0], "split": split}


def _check_classes(into: Path, labels: set[str]) -> None:
    """Refuse class names that cannot be folders, or that some systems take for one.

    Raises:
        BadCollection.
    """
    unsafe = [repr(label) for label in sorted(labels) if safe_name(label) != _composed(label)]
    if unsafe:
        raise BadCollection(
            f"{len(unsafe)} classes cannot be names of folders: {', '.join(unsafe[:5])}. Expected "
            f'names that every system takes: without / \\ : * ? " < > |, no dot at either end. '
            f"Nothing was fetched. Rename them."
        )
    there = {one.name for one in into.iterdir() if one.is_dir()} if into.is_dir() else set()
    alike: dict[str, list[str]] = {}
    for name in sorted(labels | there):
        alike.setdefault(key(name), []).append(name)
    clashes = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if clashes:
        raise BadCollection(
            f"Some class names differ only in case or in how accents are written: "
            f"{'; '.join(clashes)} (among the folders of {into} as well). They may be one class or "
            f"two. Nothing was fetched. Write them alike."
        )


def _composed(label: str) -> str:
    return unicodedata.normalize("NFC", label)
