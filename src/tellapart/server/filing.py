"""Pictures that a person has decided about, filed by class: what `learn --from-reviews` reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tellapart.data.fetching import check_picture
from tellapart.errors import UnreadablePicture
from tellapart.files import check_writable, output_error, write_atomically
from tellapart.inference.sorting import safe_name
from tellapart.server.records import Records
from tellapart.server.settings import Reviews

CURE = "choose another folder with --reviews"


class Filing:
    """The folder of reviewed pictures, and the files that wait in the records to get there."""

    def __init__(self, settings: Reviews, records: Records) -> None:
        self._settings, self._records = settings, records
        # Two reviewers of one picture: it lies in one place after both.
        self.lock = threading.Lock()
        # Of one picture sent twice at once.
        self._keeping = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the pictures lie, a folder a class."""
        return self._settings.folder

    def wants(self, verdict: str) -> bool:
        """Whether the file of a picture with this verdict is kept until it is decided."""
        return self._settings.of == "all" or verdict != "match"

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep files with the records, within what is allowed of them in bytes and days."""
        settings = self._settings
        with self._keeping:
            self._records.keep(files)
        before = datetime.now(UTC) - timedelta(days=settings.days)
        self._records.let_go(before=before, most=int(settings.mb * 1e6))

    def put(self, picture: str, label: str | None) -> bool:
        """File a picture, by its hash, under a class, from wherever it is; None: under none.

        Returns whether it could be found: it may have been too old, or too large, to be kept.

        Raises:
            OutputError: it cannot be written; it is where it was.
        """
        there = list(self._filed(picture))
        data = there[0].read_bytes() if there else self._records.original(picture)
        if data is None:
            return False
        target = None
        if label is not None:
            target = self.folder / safe_name(label) / f"{picture}{_suffix(data)}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise output_error(target, error, CURE) from error
            if target not in there:
                write_atomically(target, data, CURE)
        for path in there:
            if path != target:
                path.unlink(missing_ok=True)
        self._records.let_go(picture)
        return True

    def take_back(self, picture: str) -> None:
        """Let a filed picture wait for a decision again."""
        for path in self._filed(picture):
            self.keep({picture: path.read_bytes()})
            path.unlink(missing_ok=True)

    def counts(self) -> dict[str, int]:
        """Count the pictures of each class."""
        return {
            folder.name: n
            for folder in self._folders()
            if (n := sum(path.suffix != ".part" for path in folder.iterdir()))
        }

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(one for one in self.folder.iterdir() if one.is_dir())

    def _filed(self, picture: str) -> Iterator[Path]:
        return filed(self.folder, picture)


def filed(folder: Path, picture: str) -> Iterator[Path]:
    """Yield where a picture lies in a folder of reviews, by its hash."""
    if folder.is_dir():
        yield from (one for one in sorted(folder.glob(f"*/{picture}.*")) if one.is_file())


def _suffix(data: bytes) -> str:
    try:
        return check_picture(data)
    except UnreadablePicture:
        # It was read when it was audited; whatever it is, the next to read it will say so.
        return ".img"


def check_folder(folder: Path) -> None:
    """Make the folder of reviews, before the server starts.

    Raises:
        OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise output_error(folder, error, CURE) from error
    check_writable(folder / "probe", CURE)
