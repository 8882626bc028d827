"""From a request's body to answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request

from tellapart.errors import UnreadablePicture
from tellapart.inference.classifier import Prediction
from tellapart.server.batching import Workers
from tellapart.server.models import Model
from tellapart.server.refusing import Refused
from tellapart.server.settings import Limits

MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """A picture as it was sent. name: what the sender calls it, never used as a path."""

    name: str
    data: bytes

    @property
    def shown(self) -> str:
        """Of the name, what every database and every terminal can take."""
        return "".join(sign if sign.isprintable() else "?" for sign in self.name)[:255]


@dataclass(frozen=True)
class Form:
    """The pictures of a request, and what was declared of them, in the order in which they came."""

    pictures: tuple[Upload, ...]
    declared: tuple[str, ...] = ()


async def read_form(request: Request, limits: Limits) -> Form:
    """Read pictures from a multipart form (fields `file` and `declared`), or one from the raw body.

    Raises:
        Refused: 413 too many or too large, 415 neither of both, 422 no picture.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        form = await _read_multipart(request, limits)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        form = Form((Upload("picture", await request.body()),))
    else:
        raise Refused(
            415,
            "unknown_type",
            f"The body is {kind[:100]!r}; expected {MULTIPART} with pictures in fields named file, "
            f"or one picture as image/… or application/octet-stream.",
        )
    if not form.pictures:
        raise Refused(422, "no_picture", "The form holds no picture in a field named file.")
    for upload in form.pictures:
        if len(upload.data) > limits.picture_mb * 1e6:
            what = f"A picture may have {limits.picture_mb:g} MB, and one is larger."
            raise Refused(413, "too_large", what)
    return form


async def _read_multipart(request: Request, limits: Limits) -> Form:
    # One more of each, so that it is here that too many are noticed.
    most = limits.pictures + 1
    pictures: list[Upload] = []
    declared: list[str] = []
    async with request.form(max_files=most, max_fields=most, max_part_size=4096) as form:
        for name, value in form.multi_items():
            if name == "file" and isinstance(value, UploadFile):
                pictures.append(Upload(value.filename or "picture", await value.read()))
            elif name == "declared" and isinstance(value, str):
                declared.append(value)
            else:
                what = (
                    f"The form has a field {name[:100]!r}; expected pictures in fields named file"
                )
                raise Refused(422, "unknown_field", f"{what}, and text in those named declared.")
    if len(pictures) > limits.pictures:
        what = f"A request may have {limits.pictures} pictures. Send the rest in another."
        raise Refused(413, "too_many", what)
    return Form(tuple(pictures), tuple(declared))


async def ask(
    model: Model, pictures: Sequence[Upload], workers: Workers, top: int = 5
) -> list[Prediction]:
    """Answer for each picture, in order; those that cannot be read have `error` set.

    Raises:
        Refused: 429, too many pictures wait already.
    """
    n = len(pictures)
    workers.take(n)
    try:
        found = await asyncio.gather(
            *(model.batcher.features(upload.data) for upload in pictures), return_exceptions=True
        )
    finally:
        workers.give_back(n)
    read = [one for one in found if isinstance(one, np.ndarray)]
    answers = iter(model.classifier.answers([""] * len(read), np.stack(read), top) if read else ())
    told = []
    for one in found:
        if isinstance(one, np.ndarray):
            told.append(next(answers))
        elif isinstance(one, UnreadablePicture):
            told.append(Prediction("", None, None, error=str(one)))
        else:
            raise one
    for answer in told:
        outcome = "unreadable" if answer.error else "unsure" if answer.unsure else "answered"
        workers.metrics.pictures.labels(model.name, outcome).inc()
    return told
