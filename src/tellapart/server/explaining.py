"""Why an answer is as it is: as a map for programs and the page, or as a drawing."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Annotated

from fastapi import Query, Request

from tellapart.data.pixels import decoded, seen_box
from tellapart.errors import NotExplainable
from tellapart.evaluation.report import percent
from tellapart.inference.classifier import Prediction
from tellapart.inference.drawing import explanation_png
from tellapart.inference.explaining import Explanation
from tellapart.server.asking import Upload, ask, read_form
from tellapart.server.batching import Workers
from tellapart.server.models import Model
from tellapart.server.refusing import Refused
from tellapart.server.schemas import Explained
from tellapart.server.service import BINARY, ModelName, Parts, may, new_router, takes_form

# Enough of a picture to tell its shape by.
SHAPE_PX = 256

Box = tuple[float, float, float, float]

router = new_router()


@router.post(
    "/v1/explain",
    openapi_extra=takes_form({"file": BINARY}, required=["file"], or_picture=True),
    dependencies=[may("predict")],
)
async def explain(
    request: Request,
    service: Parts,
    model: ModelName = None,
    label: Annotated[
        str | None, Query(max_length=1000, description="A class; its own answer, if left out.")
    ] = None,
) -> Explained:
    """Say where in one picture lies what speaks for a class; nothing is recorded."""
    chosen = service.models.get(model)
    if label is not None and label not in chosen.classifier.classes:
        what = f"{chosen.name} knows no class {label[:100]!r}; see /v1/models."
        raise Refused(422, "unknown_class", what)
    form = await read_form(request, service.settings.limits)
    upload, *others = form.pictures
    if others:
        raise Refused(413, "too_many", "One picture is explained at a time.")
    # It also sees to it that the picture is one that may be decoded.
    (answer,) = await ask(chosen, form.pictures, service.workers)
    if answer.error:
        raise Refused(422, "unreadable", f"The picture could not be read: it {answer.error}.")
    found = await _explained(service.workers, chosen, upload, label)
    loop = asyncio.get_running_loop()
    box = await loop.run_in_executor(service.workers.decoders, _box, chosen, upload)
    return Explained(
        label=found.label, confidence=found.confidence, heat=found.heat.tolist(), box=box
    )


async def drawn(workers: Workers, model: Model, upload: Upload, answer: Prediction) -> str | None:
    """Draw what speaks for an answer: PNG in base64; None where there is no answer.

    Raises:
        Refused: 422, this classifier's answers cannot be explained.
    """
    if answer.error:
        return None
    found = await _explained(workers, model, upload, answer.label)

    def draw() -> bytes:
        picture = decoded(upload.data)
        height_px, width_px = picture.shape[:2]
        box = seen_box(height_px, width_px, model.classifier.manifest.preprocessing)
        said = f"{answer.shown(found.label)} {percent(found.confidence)}"
        return explanation_png(picture, box, found.heat, upload.shown, said)

    loop = asyncio.get_running_loop()
    return base64.b64encode(await loop.run_in_executor(workers.decoders, draw)).decode()


async def _explained(
    workers: Workers, model: Model, upload: Upload, label: str | None
) -> Explanation:
    """Explain a picture that was read already, on the thread that all pictures share."""
    explain_it = partial(model.classifier.explain, upload.data, label)
    try:
        return await asyncio.get_running_loop().run_in_executor(workers.network, explain_it)
    except NotExplainable as error:
        raise Refused(422, "not_explainable", str(error)) from error


def _box(model: Model, upload: Upload) -> Box:
    """Say what the network sees of a picture, in shares of its width and height."""
    height_px, width_px = decoded(upload.data, SHAPE_PX).shape[:2]
    left, top, right, bottom = seen_box(
        height_px, width_px, model.classifier.manifest.preprocessing
    )
    return left / width_px, top / height_px, right / width_px, bottom / height_px
