"""Labelled pictures, however they are kept, become a Catalog: folders, tables, lists, file names.

Labels are never guessed silently: what was understood is said before anything is computed, and
where there are two ways to understand something, that is an error that names the option.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urljoin

from tellapart import stores
from tellapart.data.addresses import is_url
from tellapart.data.catalog import (
    SPLIT_FOLDERS,
    Catalog,
    SetAside,
    common_folder,
    from_hashed,
    from_lists,
    scan,
    walk,
)
from tellapart.data.fetching import fetch_all, in_words
from tellapart.data.shards.finding import find_shards
from tellapart.data.shards.index import Index, index_of
from tellapart.data.shards.names import Columns, split_member, split_of
from tellapart.data.shards.reading import choose_columns
from tellapart.data.tables import ABOUT, TABLE_SUFFIXES, Table, open_table, read_lines, split_line
from tellapart.errors import (
    AmbiguousData,
    BadLabels,
    BadShards,
    BadTable,
    DataNotFound,
    NothingFetched,
)
from tellapart.files import is_file
from tellapart.progress import Progress
from tellapart.stores import is_address, place, shown

KINDS = ("path", "label", "split", "group")
MAX_SHOWN = 3


@dataclass(frozen=True)
class DataSource:
    """Labelled pictures and how they are to be understood, before anything is read.

    path: a folder; a table (.csv, .tsv, .parquet); shards (a .tar, .tar.gz, .parquet or .arrow
        with the pictures in it, a range of them in braces, or a folder of them); or any other text,
        with "path label" in each line, or a path alone where `pattern` says how its name holds the
        class. All of these may be the address of a store, such as s3://bucket/photos.
    root: where relative paths in a table start, a folder or a URL; None: at the table's folder if
        its first one does, otherwise at the current one.
    columns: "path", "label", "split", "group" -> name of the column, "" for none at all; those
        not given are found by their names. In a table without a header they are called 1, 2, …
    pattern: how the class lies in the name of a file: "{label}_{number}.jpg" ({number}: digits;
        * and ?: anything else; {split} and {group}, too), or a regular expression with a group
        (?P<label>…). With slashes it is held against as many of the folders above as well.
    names: a JSON file of what the classes are called: {"1": "rose"}, or a list for 0, 1, 2, ….
    """

    path: Path
    root: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    names: Path | None = None

    def __str__(self) -> str:
        return str(self.path)


AnyData = str | Path | DataSource | Catalog


def read_catalog(data: AnyData, progress: Progress | None = None, min_classes: int = 2) -> Catalog:
    """Read labelled pictures of any kind; a Catalog stays what it is.

    min_classes: fewer than these are refused.

    Raises:
        BadTable: a table that cannot be read, lacks a column, or has rows that cannot be used.
        BadLabels: a pattern or a file of names that does not fit.
        BadShards: some are cut off, or do not say what is on their pictures.
        StoreError, DataNotFound, AmbiguousData, NotEnoughClasses, NoReadablePicture, MissingExtra.
    """
    if isinstance(data, Catalog):
        return data
    progress = progress or Progress("quiet")
    source = data if isinstance(data, DataSource) else DataSource(Path(data))
    path = place(source.path)
    source = replace(source, path=path)
    is_folder, is_file = _kind(path)
    match = None if source.pattern is None else _matcher(source.pattern)
    names = None if source.names is None else _read_names(source.names)
    columns = Columns(source.columns.get("path"), source.columns.get("label"))
    shards = find_shards(path, columns)
    if shards:
        choose_columns(shards, columns)
        catalog = _from_shards(source, shards, match, progress, min_classes)
    elif is_file:
        catalog = _from_rows(source, *_rows_of_file(source, match), progress, min_classes)
    elif is_folder and match is not None:
        catalog = _from_rows(source, *_rows_of_folder(source, match), progress, min_classes)
    else:
        _refuse_idle(source)
        catalog = scan(path, progress, min_classes)
    return catalog if names is None else _with_names(catalog, names, source, progress)


def data_name(data: AnyData) -> str:
    """Say what data is called: its folder, or its file without the suffix."""
    if isinstance(data, Catalog):
        return data.name
    path = place(data.path if isinstance(data, DataSource) else data)
    if isinstance(path, stores.Address) or "{" in path.name:
        # Such as photos-{000..099}.tar, which is called photos.
        name = path.name.partition("?")[0] if isinstance(path, stores.Address) else path.name
        named = re.sub(r"\.(tar|tar\.gz|tgz|parquet|csv|tsv|arrow)$", "", name)
        return re.sub(r"[-_.]*\{.*", "", named) or "pictures"
    return path.stem if os.path.isfile(path) else path.resolve().name  # noqa: PTH113


def _kind(path: Path) -> tuple[bool, bool]:
    """Say whether a path is a folder and whether it is a file, at an address as well."""
    if not isinstance(path, stores.Address):
        # pathlib raises for a name that is too long.
        return os.path.isdir(path), os.path.isfile(path)  # noqa: PTH112, PTH113
    if "{" in path.name:
        return False, False
    there = stores.info(path)
    # To ask a server of pages for a folder is to be given a page.
    page = str(path).startswith("http") and path.suffix.lower() not in {*TABLE_SUFFIXES, ".txt"}
    if there is None:
        return False, False
    return there.folder or page, not (there.folder or page)


@dataclass(frozen=True)
class _Row:
    """What a row, or the name of a file, says; where: to find it again."""

    where: str
    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class NamedUrl:
    """A picture that a table names by its URL. split: "" for none; about: as `ABOUT` names it."""

    url: str
    label: str
    split: str = ""
    group: str = ""
    about: Mapping[str, str] = field(default_factory=dict)


Match = Callable[[str], Mapping[str, str] | None]


def _rows_of_file(
    source: DataSource, match: Match | None, also: Sequence[str] = ()
) -> tuple[list[_Row], str, list[SetAside]]:
    """Read the rows of a table or list; return them, what was understood, and what is left out.

    also: columns that the caller reads.
    """
    if source.path.suffix.lower() in TABLE_SUFFIXES:
        return _rows_of_table(source, open_table(str(source.path)), match, also)
    given = {kind: name for kind, name in source.columns.items() if name}
    if given:
        raise BadLabels(
            f"{source.path} is read as lines of a path and a label, which have no columns: "
            f"--data {_settings(given)} means nothing there. Expected a table ending in "
            f"{', '.join(sorted(TABLE_SUFFIXES))}. Nothing was read. Leave it out, or name the "
            f"table so."
        )
    lines = read_lines(str(source.path))
    if match is not None:
        rows, aside = _matched(((f"line {n}", line) for n, line in lines), match, source)
        return rows, f"{len(lines)} lines of paths, {_pattern_in_words(source, rows)}", aside
    rows, bad = [], []
    for number, line in lines:
        parts = split_line(line)
        if parts:
            rows.append(_Row(f"line {number}", parts[0], parts[1].strip()))
        else:
            bad.append(f"line {number}: {line[:60]!r}")
    if bad:
        raise BadTable(
            f"{source.path} has {len(bad)} lines that are not one path and one label: "
            f"{_few(bad)}. Expected the path of a picture, white space and its label, or a tab "
            f"between them. Nothing was read. Correct them; where the class lies in the path, say "
            f"how with --data pattern=…."
        )
    return rows, f"{len(lines)} lines of path and label", []


def _rows_of_table(
    source: DataSource, table: Table, match: Match | None, also: Sequence[str] = ()
) -> tuple[list[_Row], str, list[SetAside]]:
    """Read the rows of a table; return them, what was understood, and what is left out."""
    columns = _columns(source, table, match is not None)
    names = list(columns.values())
    found = [dict(zip(columns, cells, strict=True)) for cells in table.cells(names)]
    unused = [name for name in table.columns if name not in (*names, *also)]
    first = 2 if table.headed else 1
    rows: list[_Row] = []
    aside: list[SetAside] = []
    for number, cells in enumerate(found, start=first):
        stripped = {kind: cell.strip() for kind, cell in cells.items() if kind != "path"}
        rows.append(_Row(f"row {number}", cells["path"], stripped.pop("label", ""), **stripped))
    words = ", ".join(f"{kind} from {name!r}" for kind, name in columns.items())
    if match is not None:
        with_paths = ((row.where, row.path) for row in rows)
        matched, aside = _matched(with_paths, match, source)
        by_place = {row.where: row for row in rows}
        rows = [
            replace(
                by_place[one.where],
                label=one.label,
                split=one.split or by_place[one.where].split,
                group=one.group or by_place[one.where].group,
            )
            for one in matched
        ]
        words += f", {_pattern_in_words(source, rows)}"
    if unused:
        words += f" (not used: {', '.join(map(repr, unused))})"
    return rows, f"{len(found)} rows, {words}", aside


def _columns(source: DataSource, table: Table, has_pattern: bool) -> dict[str, str]:
    """Decide which column says what.

    Raises:
        BadTable: one that is needed, or was asked for, is not there, or there are several.
    """
    given = source.columns
    path = table.find_path(given.get("path"))
    if path is None:
        raise _no_column(table, "path", given.get("path"))
    columns = {"path": path}
    for kind in ("label", "split", "group"):
        wanted = given.get(kind)
        if wanted == "" or (kind == "label" and has_pattern and wanted is None):
            continue
        name = table.find(kind, wanted)
        if name is None and kind == "label" and wanted is None and not table.headed:
            others = [other for other in table.columns if other != path]
            name = others[0] if len(others) == 1 else None
        needed = wanted is not None or kind == "label" or len(table.named(kind)) > 1
        if name is None and needed:
            raise _no_column(table, kind, wanted)
        if name is not None:
            columns[kind] = name
    twice = [kind for kind, name in columns.items() if list(columns.values()).count(name) > 1]
    if twice:
        raise BadTable(
            f"In the table {table.path}, {' and '.join(twice)} would come from one column, "
            f"{columns[twice[0]]!r}. Expected one for each. Nothing was read. Name them with "
            f"--data {twice[-1]}=COLUMN."
        )
    return columns


def _no_column(table: Table, kind: str, wanted: str | None) -> BadTable:
    shown = ", ".join(map(repr, table.columns)) or "none"
    header = "" if table.headed or not table.columns else " (numbered: it has no header)"
    kinds = {"path": "path, file or image", "label": "label, class or category"}
    such = f" (such as {kinds[kind]})" if kind in kinds else f" (called {kind})"
    what = {"path": "paths", "label": "labels", "split": "splits", "group": "groups"}[kind]
    expected = f"a column {wanted!r}" if wanted else f"one column of {what}{such}"
    more = "" if kind in ("path", "label") else f"; --data {kind}= takes none"
    if kind == "label":
        more = "; if the class lies in the path, say how with --data pattern=…"
    return BadTable(
        f"The table {table.path} has the columns: {shown}{header}. Expected {expected}. Nothing "
        f"was read. Name the column with --data {kind}=COLUMN{more}."
    )


def _rows_of_folder(source: DataSource, match: Match) -> tuple[list[_Row], str, list[SetAside]]:
    """Take the class of each picture below a folder from its name."""
    idle = {kind: name for kind, name in source.columns.items() if name}
    if idle or source.root:
        raise BadLabels(_idle(source, idle))
    aside: list[SetAside] = []
    paths = []
    for path in walk(source.path, aside.append):
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode(errors="replace")
            aside.append(SetAside(shown, "its name is not valid UTF-8; rename it"))
        else:
            paths.append(str(place(path).absolute()))
    if not paths:
        raise DataNotFound(
            f"There are no pictures below {source.path}. Expected files with the class in their "
            f"name. Nothing was read. Check the path."
        )
    rows, unmatched = _matched(((path, path) for path in paths), match, source)
    words = f"{len(paths)} pictures, {_pattern_in_words(source, rows)}"
    return rows, words, [*aside, *unmatched]


def _matched(
    paths: Iterator[tuple[str, str]], match: Match, source: DataSource
) -> tuple[list[_Row], list[SetAside]]:
    """Take the class of each path from its name.

    Raises:
        BadLabels: not one name fits. AmbiguousData: one fits in two ways.
    """
    rows, aside, n = [], [], 0
    for where, path in paths:
        n += 1
        said = match(path)
        if said is None:
            aside.append(SetAside(path, "its name does not fit the pattern"))
        else:
            rows.append(_Row(where, path, **said))
    if not rows:
        first = aside[0].path if aside else "none"
        raise BadLabels(
            f"Not one of {n} names in {source.path} fits the pattern {source.pattern}: the first "
            f"is {first}. Expected names such as {source.pattern} makes them. Nothing was read. "
            f"Correct --data pattern=…."
        )
    return rows, aside


def _pattern_in_words(source: DataSource, rows: Sequence[_Row]) -> str:
    one = rows[0]
    return (
        f"the class from the name by {source.pattern}, which {len(rows)} fit "
        f"({Path(one.path).name} is {one.label})"
    )


_PLACES = {
    "{label}": "(?P<label>[^/]+{})",
    "{split}": "(?P<split>[^/]+{})",
    "{group}": "(?P<group>[^/]+{})",
    "{number}": "[0-9]+{}",
    "*": "[^/]*{}",
    "?": "[^/]",
}


def _matcher(pattern: str) -> Match:
    """Make a function of a path that returns what its name says, None where it does not fit.

    Raises:
        BadLabels: it is no pattern. The function raises AmbiguousData.
    """
    depth = pattern.replace("[^/]", "").count("/") + 1
    plain = "{label}" in pattern
    try:
        if plain:
            # Taking as little and as much as possible: where both agree, there is one way only.
            least, most = (_compiled(pattern, greed) for greed in ("?", ""))
        else:
            least = most = re.compile(pattern)
    except re.error as error:
        raise BadLabels(
            f"The pattern {pattern} cannot be used: {error}. Expected something such as "
            f"{{label}}_{{number}}.jpg, or a regular expression. Nothing was read."
        ) from error
    if "label" not in least.groupindex:
        raise BadLabels(
            f"The pattern {pattern} does not say where the class is. Expected {{label}} in it, "
            f"such as {{label}}_{{number}}.jpg, or a regular expression with (?P<label>…). Nothing "
            f"was read."
        )
    kinds = [kind for kind in KINDS[1:] if kind in least.groupindex]

    def match(path: str) -> Mapping[str, str] | None:
        name = "/".join(Path(path).parts[-depth:])
        one, other = least.fullmatch(name), most.fullmatch(name)
        if one is None or other is None:
            return None
        if any(one.span(kind) != other.span(kind) for kind in kinds):
            ways = " or ".join(repr(found["label"]) for found in (one, other))
            raise AmbiguousData(
                f"By the pattern {pattern} the class of {path} can be {ways}. Nothing was read. "
                f"Say more, with {{number}} for digits, or give a regular expression, such as "
                f"--data 'pattern=(?P<label>.+)_[^_]*'"
            )
        return {kind: one[kind] or "" for kind in kinds}

    return match


def _compiled(pattern: str, greed: str) -> re.Pattern[str]:
    parts = re.split(r"(\{label\}|\{split\}|\{group\}|\{number\}|\*|\?)", pattern)
    made = [_PLACES[one].format(greed) if one in _PLACES else re.escape(one) for one in parts]
    # Without case, so that .jpg also fits .JPG.
    return re.compile("".join(made), re.IGNORECASE)


def _from_rows(
    source: DataSource,
    rows: Sequence[_Row],
    words: str,
    aside: list[SetAside],
    progress: Progress,
    min_classes: int,
) -> Catalog:
    """Check the rows, say what was understood, and make a Catalog of them."""
    if not rows:
        raise BadTable(
            f"{source.path} names no pictures. Expected a row for each. Nothing was read."
        )
    base = _base(source, rows)
    is_list = _kind(source.path)[1]
    starts = f"; paths start at {base}" if is_list else ""
    progress.say(f"{source.path}: {words}{starts}.")
    _refuse_bad(source, rows)
    rows = [replace(row, path=_located(base, row.path)) for row in rows]
    _refuse_twice(source, rows)
    rows, lost_urls = _fetched(source, rows, progress)
    aside += lost_urls
    there = [row for row in rows if _may_be_there(row.path)]
    if not there:
        raise DataNotFound(
            f"Not one of the {len(rows)} files that {source.path} names is there: the first is "
            f"{rows[0].path}. Relative paths start at {base}. Nothing was read. Say "
            f"where they start with --root FOLDER."
        )
    known = {row.path for row in there}
    lost = dict.fromkeys(row.path for row in rows if row.path not in known)
    aside += [SetAside(path, f"is named in {source.path.name} and not there") for path in lost]
    return from_lists(
        [row.path for row in there],
        [row.label for row in there],
        progress,
        splits=[SPLIT_FOLDERS[row.split.lower()] if row.split else "" for row in there],
        groups=[row.group for row in there] if any(row.group for row in there) else None,
        set_aside=aside,
        source=str(source.path),
        min_classes=min_classes,
    )


def _may_be_there(path: str) -> bool:
    """Whether a file is there; those of stores and in shards are only found when they are read."""
    return os.path.isfile(path) or is_address(path) or split_member(path) is not None  # noqa: PTH113


def _from_shards(
    source: DataSource,
    shards: Sequence[str],
    match: Match | None,
    progress: Progress,
    min_classes: int,
) -> Catalog:
    """Read shards as streams, and make a Catalog of what is in them.

    Raises:
        BadShards: all that cannot be used. AmbiguousData: some say their split, some do not.
    """
    idle = {kind: name for kind, name in source.columns.items() if kind in ("split", "group")}
    if idle or source.root:
        raise BadLabels(
            f"{shown(source.path)} holds the pictures themselves: --root and --data split or group "
            f"mean nothing there. Expected splits in the names of the files, such as "
            f"train-000.tar. Nothing was read. Leave them out."
        )
    indexes = _read_shards(source, shards, progress)
    splits = {shard: split_of(shard) for shard in shards}
    some = [shard for shard in shards if not splits[shard]]
    if 0 < len(some) < len(shards):
        raise AmbiguousData(
            f"Of {len(shards)} shards of {shown(source.path)}, {len(some)} do not say a split, and "
            f"the others do: {_few(some)}. Expected train, valid or test in the name of each, or "
            f"of none. Nothing was read. Rename them, or give only some."
        )
    files, digests, aside = _files_of(source, indexes, splits, match)
    n, kinds = (
        len(files),
        sorted({kind for one in indexes.values() for kind in one.said_by if kind}),
    )
    by = "their names" if match else " and ".join(kinds)
    progress.say(f"{shown(source.path)}: {n} pictures in {len(shards)} shards, labels from {by}.")
    root = common_folder(list(shards))
    return from_hashed(
        files,
        digests,
        root,
        progress,
        set_aside=aside,
        source=str(source.path),
        min_classes=min_classes,
    )


def _read_shards(source: DataSource, shards: Sequence[str], progress: Progress) -> dict[str, Index]:
    """Read what shards hold, each of which is read once as long as it stays as it is.

    Raises:
        BadShards: names all that cannot be read.
    """
    columns = Columns(source.columns.get("path"), source.columns.get("label"))
    indexes: dict[str, Index] = {}
    bad: list[str] = []
    with progress.bar("Reading shards", None, "pictures") as advance:
        for shard in shards:
            try:
                indexes[shard] = index_of(shard, columns, advance)
            except FileNotFoundError:
                bad.append(f"{shown(shard)} is not there")
            except BadShards as error:
                bad.append(str(error))
    if bad:
        raise BadShards(
            f"{len(bad)} of {len(shards)} shards of {shown(source.path)} cannot be used: "
            f"{_few(bad)}. Nothing was trained or scored. Copy them again, or leave them out."
        )
    return indexes


def _files_of(
    source: DataSource,
    indexes: Mapping[str, Index],
    splits: Mapping[str, str],
    match: Match | None,
) -> tuple[list[tuple[str, str, str]], dict[str, bytes], list[SetAside]]:
    """Return (class, path, split) of each picture, the hashes by path, and what is left out.

    Raises:
        BadShards: pictures without a label, or with labels of several kinds.
    """
    files: list[tuple[str, str, str]] = []
    digests: dict[str, bytes] = {}
    aside: list[SetAside] = []
    bad: list[str] = []
    for shard, index in indexes.items():
        hashes = index.digests.tobytes().hex().encode()
        none = []
        for row, name in enumerate(index.names):
            path = f"{shard}#{name}"
            said = match(f"{shard}/{name}") if match else None
            label = said["label"] if said else "" if match else index.labels[row]
            if row in index.troubles:
                aside.append(SetAside(path, index.troubles[row]))
            elif path in digests:
                aside.append(SetAside(path, "is in its shard twice"))
            elif not label:
                none.append(name)
            else:
                files.append((label, path, splits[shard]))
                digests[path] = hashes[32 * row : 32 * row + 32]
        if none and len(none) == len(index) and len(indexes) > 1:
            aside.append(SetAside(shard, f"says no label of its {len(none)} pictures"))
        elif none:
            bad.append(f"{shown(shard)}: {len(none)} of {len(index)} pictures ({_few(none)})")
    if bad or not files:
        raise BadShards(
            f"{shown(source.path)} has pictures without a label: {_few(bad) or 'all of them'}. "
            f"Expected with each KEY.jpg a KEY.cls, KEY.json or KEY.txt that says it, or class "
            f"folders in the tar; in tables a column such as label. Nothing was trained or scored. "
            f"Add them; name a column or key with --data label=NAME, or say how the class lies in "
            f"the names with --data pattern=…."
        )
    if match is None:
        _refuse_mixed(source, indexes)
    return files, digests, aside


def _refuse_mixed(source: DataSource, indexes: Mapping[str, Index]) -> None:
    """Name what says the labels where several things do.

    Raises:
        BadShards.
    """
    kinds: dict[str, str] = {}
    for shard, index in indexes.items():
        for kind in dict.fromkeys(index.said_by):
            if kind:
                kinds.setdefault(kind, shard)
    if len(kinds) > 1:
        seen = [f"{kind} in {shown(shard)}" for kind, shard in kinds.items()]
        raise BadShards(
            f"In {shown(source.path)} labels are said in {len(kinds)} ways: {_few(seen)}. Expected "
            f"one way for all shards. Nothing was trained or scored. Write them alike, or give "
            f"only some of the shards."
        )


def _base(source: DataSource, rows: Sequence[_Row]) -> Path | str:
    """Say where relative paths start: an absolute folder, or a URL."""
    if source.root is not None:
        if is_url(str(source.root)):
            return f"{str(source.root).rstrip('/')}/"
        if is_address(source.root):
            return place(source.root)
        root = Path(source.root).expanduser()
        if not os.path.isdir(root):  # noqa: PTH112
            raise DataNotFound(
                f"--root {root} is no folder. Expected the one that the paths in {source.path} "
                f"start from. Nothing was read."
            )
        return root.absolute()
    paths = (row.path for row in rows if not is_address(row.path))
    relative = next((path for path in paths if not Path(path).is_absolute()), None)
    beside = source.path.parent
    if relative is not None and (is_address(beside) or os.path.lexists(beside / relative)):
        return f"{beside}/" if is_url(str(beside)) else beside.absolute()
    return Path().absolute()


def _located(base: Path | str, path: str) -> str:
    """Say where a row's picture is: an absolute path, or a URL."""
    if is_address(path):
        return path
    # Escaped, since what is a mark in a URL may be a letter in a name.
    return str(base / path) if isinstance(base, Path) else urljoin(base, quote(path))


def _fetched(
    source: DataSource, rows: list[_Row], progress: Progress
) -> tuple[list[_Row], list[SetAside]]:
    """Fetch the rows that are URLs into the cache; return rows of files, and what did not come.

    Raises:
        NothingFetched: not one of them came. DiskFull, NotWritable.
    """
    urls = list(dict.fromkeys(row.path for row in rows if is_url(row.path)))
    if not urls:
        return rows, []
    files, failed = fetch_all(urls, progress)
    progress.say(f"{source.path}: {len(files)} of {len(urls)} URLs are kept in the cache.")
    if failed:
        said = (
            f"{len(failed)} of {len(urls)} URLs in {source.path} did not give a picture: "
            f"{in_words(failed)}. "
        )
        again = (
            "Repeat the command to ask for them again; what came is kept. Addresses of this "
            "machine and of private networks are asked only with TELLAPART_ALLOW_PRIVATE=1."
        )
        if not files:
            raise NothingFetched(f"{said}Nothing was read. Check the URLs and the network. {again}")
        progress.say(f"{said}They are set aside. {again}")
    kept = [replace(row, path=str(files.get(row.path, row.path))) for row in rows]
    aside = [SetAside(url, str(error)) for url, error in failed.items()]
    return [row for row in kept if row.path not in failed], aside


def named_urls(source: DataSource, progress: Progress) -> list[NamedUrl]:
    """Read a table or list whose pictures are URLs; say what was understood, fetch nothing.

    A table that has a column of URLs beside one of paths is read by its URLs.

    Raises:
        BadTable: also where a row names no URL. BadLabels, DataNotFound, AmbiguousData,
        MissingExtra.
    """
    source = replace(source, path=place(source.path))
    if not is_file(source.path):
        raise DataNotFound(
            f"{shown(source.path)} is not a file. Expected a table (.csv, .tsv, .parquet) or a "
            f"text of URLs and labels. Nothing was fetched. Check the path."
        )
    about: dict[str, dict[str, str]] = {}
    also: dict[str, str] = {}
    if source.path.suffix.lower() in TABLE_SUFFIXES:
        table = open_table(str(source.path))
        url = table.find("url")
        if url is not None and "path" not in source.columns:
            source = replace(source, columns={**source.columns, "path": url})
        also = {kind: name for kind in ABOUT if (name := table.find(kind)) is not None}
        cells = table.cells(list(also.values())) if also else ()
        for number, row in enumerate(cells, start=2 if table.headed else 1):
            about[f"row {number}"] = dict(zip(also, row, strict=True))
    match = None if source.pattern is None else _matcher(source.pattern)
    rows, words, aside = _rows_of_file(source, match, list(also.values()))
    if not rows:
        raise BadTable(
            f"{source.path} names no pictures. Expected a row for each. Nothing was fetched."
        )
    kept = f"; with each picture: {', '.join(also)}" if also else ""
    starts = f"; URLs start at {source.root}" if source.root else ""
    progress.say(f"{source.path}: {words}{kept}{starts}.")
    for one in aside:
        progress.say(f"Not fetched: {one.path} {one.reason}.")
    return [
        NamedUrl(
            row.path,
            row.label,
            SPLIT_FOLDERS.get(row.split.lower(), ""),
            row.group,
            about.get(row.where, {}),
        )
        for row in _only_urls(source, rows)
    ]


def _only_urls(source: DataSource, rows: list[_Row]) -> list[_Row]:
    """Return the rows with whole URLs, each URL once.

    Raises:
        BadTable, AmbiguousData.
    """
    _refuse_bad(source, rows)
    base = _base(source, rows)
    rows = [replace(row, path=_located(base, row.path)) for row in rows]
    files = [f"{row.where} ({row.path})" for row in rows if not is_url(row.path)]
    if files:
        raise BadTable(
            f"{source.path} has {len(files)} rows that name no URL: {_few(files)}. Expected http "
            f"or https. Nothing was fetched. Say where they start with --root https://…, or choose "
            f"the column with --data path=COLUMN."
        )
    _refuse_twice(source, rows)
    first: dict[str, _Row] = {}
    for row in rows:
        first.setdefault(row.path, row)
    return list(first.values())


def _refuse_bad(source: DataSource, rows: Sequence[_Row]) -> None:
    """Name all rows that cannot be used.

    Raises:
        BadTable.
    """
    some_split = any(row.split for row in rows)
    bad = [f"{row.where} {why}" for row in rows if (why := _trouble(row, some_split))]
    if bad:
        raise BadTable(
            f"{source.path} has {len(bad)} rows that cannot be used: {_few(bad)}. Nothing was "
            f"read. Correct them, or choose other columns with --data label=COLUMN or --data "
            f"split=COLUMN (--data split= takes none)."
        )


def _refuse_twice(source: DataSource, rows: Sequence[_Row]) -> None:
    """Name all files that are given twice in different ways.

    Raises:
        AmbiguousData.
    """
    seen: dict[str, _Row] = {}
    twice = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if replace(first, where="") != replace(row, where=""):
            twice[row.path] = f"{first.where} and {row.where} ({row.path})"
    if twice:
        raise AmbiguousData(
            f"{source.path} names {len(twice)} files twice, with another label, split or group: "
            f"{_few(list(twice.values()))}. A picture has one class here. Nothing was read. Leave "
            f"one row for each, or choose the column with --data label=COLUMN."
        )


def _trouble(row: _Row, some_split: bool) -> str | None:
    if not row.path.strip() or row.path.endswith("/"):
        return "has no path"
    if "://" in row.path and row.path.partition(":")[0].lower() not in stores.SCHEMES:
        return "names a URL of a kind that is not known: download it first"
    if not row.label:
        return "has no label"
    if some_split and row.split.lower() not in SPLIT_FOLDERS:
        known = ", ".join(dict.fromkeys(SPLIT_FOLDERS.values()))
        said = f"the split {row.split!r}" if row.split else "no split"
        return f"has {said}, where {known} or a usual word for one was expected"
    return None


def _read_names(path: Path) -> Mapping[str, str]:
    """Read what classes are called from JSON.

    Raises:
        BadLabels.
    """
    path = path.expanduser()
    why = 'it holds neither {"class": "name", …} nor ["name", …]'
    try:
        held = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        held, why = None, f"it cannot be opened ({error.strerror or error})"
    except ValueError as error:
        held, why = None, f"it is no JSON in UTF-8 ({error})"
    if isinstance(held, list):
        held = {str(number): name for number, name in enumerate(held)}
    if (
        isinstance(held, dict)
        and held
        and all(isinstance(name, str) and name.strip() for name in held.values())
    ):
        return {label: name.strip() for label, name in held.items()}
    raise BadLabels(
        f"The file of names {path} cannot be used: {why}. Expected JSON such as "
        f'{{"1": "rose", "2": "lily"}}. Nothing was read. Correct it, or leave --data names= out.'
    )


def _with_names(
    catalog: Catalog, names: Mapping[str, str], source: DataSource, progress: Progress
) -> Catalog:
    """Give the classes the names that people know; one that two share stays told apart."""
    held = {label: names[label] for label in catalog.classes if label in names}
    if not held:
        raise BadLabels(
            f"{source.names} names none of the classes of {source.path}: these are "
            f"{_few(list(catalog.classes))}, the file has {_few(list(names))}. Expected the same "
            f"labels. Nothing was trained. Correct it, or leave --data names= out."
        )
    shared = [name for name in held.values() if list(held.values()).count(name) > 1]
    shown = {label: f"{name} ({label})" if name in shared else name for label, name in held.items()}
    label, name = next(iter(shown.items()))
    progress.say(
        f"{source.names}: names for {len(held)} of {len(catalog.classes)} classes, such as {name} "
        f"for {label}."
    )
    return replace(catalog, display_names=shown)


def _refuse_idle(source: DataSource) -> None:
    idle = dict(source.columns)
    if source.path.is_dir() and (idle or source.root):
        raise BadLabels(_idle(source, idle))


def _idle(source: DataSource, idle: Mapping[str, str]) -> str:
    given = [f"--root {source.root}"] if source.root else []
    given += [f"--data {_settings(idle)}"] if idle else []
    return (
        f"{source.path} is a folder, and {' and '.join(given)} is about tables: it would have no "
        f"effect. Expected a table as the data. Nothing was read. Leave it out, or name the table."
    )


def _settings(columns: Mapping[str, str]) -> str:
    return " --data ".join(f"{kind}={name}" for kind, name in columns.items())


def _few(items: Sequence[str]) -> str:
    more = len(items) - MAX_SHOWN
    return "; ".join(items[:MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
