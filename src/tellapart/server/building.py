"""Classifiers built from a page: classes and their pictures, a training, a file to fetch and try.

Each lies in a folder of its own below the one that the operator gave: build.json, pictures/ and
built.tellapart. Names that clients give are never paths.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Query, Request
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from tellapart.data.fetching import check_picture
from tellapart.data.hashing import picture_hash
from tellapart.data.thumbnails import jpeg, shrunk
from tellapart.errors import OutputError, TellapartError, UnreadablePicture
from tellapart.files import write_atomically
from tellapart.inference.sorting import key, safe_name
from tellapart.server.asking import Upload, read_form
from tellapart.server.batching import bounded_pixels
from tellapart.server.learning import told
from tellapart.server.refusing import Refused
from tellapart.server.schemas import (
    Added,
    Build,
    BuildClass,
    LeftOut,
    NewBuild,
    TrainBuild,
    Tried,
)
from tellapart.server.service import (
    BINARY,
    FILES,
    Parts,
    Service,
    may,
    new_router,
    takes_form,
)
from tellapart.server.settings import Builds

BuildId = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]
PictureHash = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]
Label = Annotated[str, Query(min_length=1, max_length=200, description="The class.")]
FILE = "built.tellapart"
# Built classifiers that are tried at once: each takes memory.
MOST_TRIED = 4
MOST_CLASSES = 100
# What every file system takes as the name of a folder, with room to spare.
MOST_LABEL_BYTES = 200
SMALL_PX = 160
CURE = "give another folder with --builds"

log = logging.getLogger("tellapart.server")
router = new_router()
admin = [may("admin")]


@dataclass(frozen=True)
class _Folder:
    """One build on disk."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.path / "build.json").read_text("utf-8"))
        return facts

    @property
    def file(self) -> Path:
        return self.path / FILE

    def of_class(self, label: str) -> Path:
        return self.path / "pictures" / safe_name(label)

    def classes(self) -> dict[str, list[Path]]:
        folder = self.path / "pictures"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {
            one.name: sorted(file for file in one.iterdir() if file.suffix != ".part")
            for one in found
        }

    def touch(self) -> None:
        write_atomically(self.path / "touched", datetime.now(UTC).isoformat(), CURE)


def _settings(service: Service) -> Builds:
    if service.settings.builds is None:
        raise Refused(409, "no_builds", "Nothing is built here: the server has no --builds folder.")
    return service.settings.builds


def _find(service: Service, id_: str) -> _Folder:
    folder = _Folder(_settings(service).folder / id_)
    if not (folder.path / "build.json").is_file():
        raise Refused(404, "unknown_build", f"There is no build {id_}.")
    return folder


def _all(settings: Builds) -> list[_Folder]:
    found = (one.parent for one in settings.folder.glob("*/build.json"))
    return [_Folder(path) for path in sorted(found)]


def _told(service: Service, folder: _Folder) -> Build:
    facts, classes = folder.facts, folder.classes()
    return Build(
        id=folder.id,
        name=facts["name"],
        made=datetime.fromisoformat(facts["made"]),
        classes=[
            BuildClass(label=label, pictures=[file.stem for file in files])
            for label, files in classes.items()
        ],
        mb=round(_bytes(classes) / 1e6, 3),
        has_file=folder.file.is_file(),
        work=told(service.jobs.of(f"build {folder.id}")),
    )


def _bytes(classes: dict[str, list[Path]]) -> int:
    return sum(file.stat().st_size for files in classes.values() for file in files)


@router.get("/v1/builds", dependencies=admin)
def list_builds(service: Parts) -> list[Build]:
    """List the classifiers that are being built, or were."""
    settings = _settings(service)
    _delete_old(service, settings)
    return [_told(service, folder) for folder in _all(settings)]


@router.post("/v1/builds", status_code=201, dependencies=admin)
def make_build(given: NewBuild, service: Parts) -> Build:
    """Begin a classifier: it gets its classes by the pictures that are added to them."""
    settings = _settings(service)
    _delete_old(service, settings)
    if not given.name.isprintable():
        raise Refused(422, "bad_request", "name: expected a name in one line.")
    if len(_all(settings)) >= settings.most:
        what = f"There are {settings.most} builds already. Delete one of them first."
        raise Refused(409, "too_many", what)
    folder = _Folder(settings.folder / uuid.uuid4().hex)
    with _writing(folder.path):
        folder.path.mkdir(mode=0o700)
        facts = {"name": given.name, "made": datetime.now(UTC).isoformat()}
        folder.touch()
        write_atomically(folder.path / "build.json", json.dumps(facts), CURE)
    return _told(service, folder)


@router.get("/v1/builds/{id}", dependencies=admin)
def get_build(id: BuildId, service: Parts) -> Build:
    """Return a classifier that is being built, and how its training stands."""
    return _told(service, _find(service, id))


@router.delete("/v1/builds/{id}", status_code=204, dependencies=admin)
async def delete_build(id: BuildId, service: Parts) -> None:
    """Delete a build for good: its pictures, and what was trained from them."""
    folder = _find(service, id)
    await run_in_threadpool(_delete, service, folder)


@router.post("/v1/builds/{id}/classes", status_code=201, dependencies=admin)
def add_class(id: BuildId, label: Label, service: Parts) -> Build:
    """Add a class without pictures; one that is there already stays as it is."""
    folder = _find(service, id)
    _check_label(folder, label)
    with _writing(folder.path):
        folder.of_class(label).mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.touch()
    return _told(service, folder)


@router.post(
    "/v1/builds/{id}/pictures",
    dependencies=admin,
    openapi_extra=takes_form({"file": FILES}, required=["file"]),
)
async def add_pictures(id: BuildId, label: Label, request: Request, service: Parts) -> Added:
    """Add pictures to a class, which is made by its first one."""
    folder, limits = _find(service, id), service.settings.limits
    form = await read_form(request, limits)
    _check_label(folder, label)
    added, left_out = [], []
    for upload in form.pictures:
        try:
            added.append(await run_in_threadpool(_add, service, folder, label, upload))
        except UnreadablePicture as error:
            left_out.append(LeftOut(file=upload.shown, reason=str(error)))
    await run_in_threadpool(folder.touch)
    built = await run_in_threadpool(_told, service, folder)
    return Added(added=added, left_out=left_out, build=built)


def _check_label(folder: _Folder, label: str) -> None:
    """Refuse names that cannot be folders, and those that some systems take for another's."""
    if not label.isprintable() or safe_name(label) != label:
        raise Refused(
            422,
            "bad_label",
            f"{label[:100]!r} cannot be the name of a class here: expected one line of at most "
            f"{MOST_LABEL_BYTES} bytes ({MOST_LABEL_BYTES // 3} Chinese characters), without "
            f'/ \\ : * ? " < > |, and no dot or space at either end.',
        )
    there = list(folder.classes())
    alike = [name for name in there if name != label and key(name) == key(label)]
    if alike:
        what = f"{label!r} differs from {alike[0]!r} only in case or accents: write them alike."
        raise Refused(422, "bad_label", what)
    if label not in there and len(there) >= MOST_CLASSES:
        raise Refused(413, "too_many", f"A build may have {MOST_CLASSES} classes.")


def _add(service: Service, folder: _Folder, label: str, upload: Upload) -> str:
    """Check a picture and write it; one that another class has moves to this one."""
    settings, classes = _settings(service), folder.classes()
    if sum(map(len, classes.values())) >= settings.pictures:
        raise Refused(413, "too_many", f"A build may have {settings.pictures} pictures.")
    if _bytes(classes) + len(upload.data) > settings.mb * 1e6:
        raise Refused(413, "too_large", f"A build may have {settings.mb:g} MB of pictures.")
    preprocessing = service.models.get(None).classifier.manifest.preprocessing
    bounded_pixels(upload.data, service.settings.limits.megapixels, preprocessing)
    digest = picture_hash(upload.data)
    target = folder.of_class(label) / f"{digest}{check_picture(upload.data)}"
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in _of_hash(folder, digest):
            path.unlink(missing_ok=True)
        write_atomically(target, upload.data, CURE)
    return digest


def _of_hash(folder: _Folder, digest: str) -> list[Path]:
    return list((folder.path / "pictures").glob(f"*/{digest}.*"))


def _picture(folder: _Folder, digest: str) -> list[Path]:
    found = _of_hash(folder, digest)
    if not found:
        raise Refused(404, "unknown_picture", f"The build has no picture {digest}.")
    return found


@router.get(
    "/v1/builds/{id}/pictures/{picture}",
    dependencies=admin,
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": BINARY}}}},
)
def get_picture(id: BuildId, picture: PictureHash, service: Parts) -> Response:
    """Return a picture of a build, small, as JPEG."""
    path = _picture(_find(service, id), picture)[0]
    try:
        small = jpeg(shrunk(path.read_bytes(), SMALL_PX))
    except (UnreadablePicture, OSError) as error:
        what = f"The build has no readable picture {picture}."
        raise Refused(404, "unknown_picture", what) from error
    return Response(small, media_type="image/jpeg")


@router.delete("/v1/builds/{id}/pictures/{picture}", dependencies=admin)
def delete_picture(id: BuildId, picture: PictureHash, service: Parts) -> Build:
    """Take a picture out of a build; its class stays, if need be without pictures."""
    folder = _find(service, id)
    for path in _picture(folder, picture):
        path.unlink(missing_ok=True)
    return _told(service, folder)


@router.delete("/v1/builds/{id}/classes", dependencies=admin)
def delete_class(id: BuildId, label: Label, service: Parts) -> Build:
    """Take a class with all of its pictures out of a build."""
    folder = _find(service, id)
    if label not in folder.classes():
        raise Refused(404, "unknown_class", f"The build has no class {label[:100]!r}.")
    shutil.rmtree(folder.of_class(label), ignore_errors=True)
    return _told(service, folder)


@router.post("/v1/builds/{id}/train", status_code=202, dependencies=admin)
def train_build(
    id: BuildId, service: Parts, how: Annotated[TrainBuild | None, Body()] = None
) -> Build:
    """Train the classifier; GET of the build says how it stands."""
    folder, settings = _find(service, id), _settings(service)
    if sum(1 for files in folder.classes().values() if files) < 2:
        what = "Telling apart needs two classes or more, each with pictures. Nothing was trained."
        raise Refused(422, "too_few_classes", what)
    quality = (how or TrainBuild()).quality
    arguments = ["train", str(folder.path / "pictures"), "-o", str(folder.file)]
    service.jobs.start(f"build {id}", [*arguments, "--quality", quality], settings.train_s)
    return _told(service, folder)


@router.delete("/v1/builds/{id}/train", dependencies=admin)
def stop_training(id: BuildId, service: Parts) -> Build:
    """End a training that is going on; what was trained before stays."""
    folder = _find(service, id)
    service.jobs.stop(f"build {id}")
    return _told(service, folder)


@router.get(
    "/v1/builds/{id}/file",
    dependencies=admin,
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {"schema": BINARY}}}},
)
def get_file(id: BuildId, service: Parts) -> FileResponse:
    """Return the trained classifier: a .tellapart file."""
    folder = _find(service, id)
    _check_file(folder)
    name = f"{safe_name(folder.facts['name'])}.tellapart"
    return FileResponse(folder.file, media_type="application/octet-stream", filename=name)


@router.post("/v1/builds/{id}/try", dependencies=admin)
async def try_build(id: BuildId, service: Parts) -> Tried:
    """Let the trained classifier answer: its name is for `?model=` of predict."""
    folder, models = _find(service, id), service.models
    _check_file(folder)
    name = f"build-{id}"
    tried = [one for one in (model.name for model in models) if one not in models.given]
    if name not in tried:
        for one in tried[: len(tried) + 1 - MOST_TRIED]:
            models.remove(one)
    try:
        await models.add(name, folder.file)
    except (TellapartError, OSError) as error:
        raise Refused(
            409, "not_usable", f"The trained classifier cannot be used: {error}"
        ) from error
    return Tried(model=name)


def _check_file(folder: _Folder) -> None:
    if not folder.file.is_file():
        raise Refused(404, "not_trained", "This build has not been trained yet.")


def _delete(service: Service, folder: _Folder) -> None:
    service.jobs.forget(f"build {folder.id}")
    service.models.remove(f"build-{folder.id}")
    shutil.rmtree(folder.path, ignore_errors=True)


def _delete_old(service: Service, settings: Builds) -> None:
    """Delete builds that nobody has touched for long."""
    oldest = time.time() - settings.days * 86400
    for folder in _all(settings):
        with suppress(OSError):
            last = max(one.stat().st_mtime for one in folder.path.iterdir())
            job = service.jobs.of(f"build {folder.id}")
            if last < oldest and (job is None or job.state != "running"):
                _delete(service, folder)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an answer; the place itself is the operator's to know."""
    try:
        yield
    except (OutputError, OSError) as error:
        log.error("a build cannot be written: %s: %s", path, error)
        raise Refused(503, "not_kept", "It cannot be written on the server.") from error
