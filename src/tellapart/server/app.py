"""The API: routes, and what each needs. The work is done next door."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tellapart.data.hashing import picture_hash
from tellapart.data.thumbnails import jpeg, shrunk
from tellapart.errors import BadDatabase
from tellapart.inference.classifier import Prediction
from tellapart.server import building, explaining, learning, reporting, reviewing, showing
from tellapart.server.asking import Form, Upload, ask, read_form
from tellapart.server.auditing import Judgement, judge, of_all
from tellapart.server.explaining import drawn
from tellapart.server.gate import refusal
from tellapart.server.models import Model
from tellapart.server.refusing import Refused
from tellapart.server.reviewing import THUMBNAIL_PX
from tellapart.server.schemas import (
    Allowed,
    Answer,
    Audit,
    Audited,
    Health,
    ModelFacts,
    Predicted,
    Ranked,
)
from tellapart.server.service import (
    FILES,
    ModelName,
    Parts,
    Service,
    may,
    new_router,
    takes_form,
)
from tellapart.server.settings import Thumbnails
from tellapart.server.tokens import Token

_URLS = {
    "type": "array",
    "items": {"type": "string", "format": "uri"},
    "description": "Where pictures are fetched from, if the operator allows those hosts; in order "
    "with those that are sent.",
}
_AUDITED = {
    "file": FILES,
    "url": _URLS,
    "callback": {
        "type": "string",
        "format": "uri",
        "maxLength": 2000,
        "description": "Also post the answer there, signed, where the operator allows its host.",
    },
    "declared": {
        "type": "array",
        "items": {"type": "string", "maxLength": 1000},
        "minItems": 1,
        "description": "The class of each file, in the same order; or once, for all of them.",
        "example": ["rose"],
    },
}

log = logging.getLogger("tellapart.server")
router = new_router()


@router.post(
    "/v1/predict",
    openapi_extra=takes_form({"file": FILES, "url": _URLS}, or_picture=True),
    dependencies=[may("predict")],
)
async def predict(
    request: Request,
    service: Parts,
    model: ModelName = None,
    top: Annotated[int, Query(ge=1, le=1000, description="How many classes to name.")] = 5,
) -> Predicted:
    """Say what is on pictures: a form with fields `file`, or one picture as the body."""
    chosen = service.models.get(model)
    form = await read_form(request, service.settings.limits, service.fetching)
    answers = await ask(chosen, form.pictures, service.workers, top)
    if all(answer.error for answer in answers):
        first = answers[0].error
        what = f"None of the pictures could be read; the first {first}."
        raise Refused(422, "unreadable", what)
    return Predicted(
        model=chosen.name,
        model_version=chosen.version,
        answers=[
            Answer(**_answer(upload, answer))
            for upload, answer in zip(form.pictures, answers, strict=True)
        ],
    )


@router.post(
    "/v1/audit",
    openapi_extra=takes_form(_AUDITED, required=["declared"]),
)
async def audit(
    request: Request,
    service: Parts,
    token: Annotated[Token | None, may("predict")],
    model: ModelName = None,
    explain: Annotated[
        bool, Query(description="Also draw what in each picture speaks for its answer.")
    ] = False,
) -> Audit:
    """Compare pictures with what their sender declares them to be, and record it.

    `match` and `mismatch` are given only where the classifier is not unsure. Once this has
    answered, the audit is in the database.
    """
    chosen = service.models.get(model)
    form = await read_form(request, service.settings.limits, service.fetching)
    service.telling.check(form.callback)
    declared = _declared(chosen, form)
    answers = await ask(chosen, form.pictures, service.workers)
    common = {
        "form": uuid.uuid4().hex,
        "request_id": request.scope["state"]["request_id"],
        "at": datetime.now(UTC),
        "asked_by": token.name if token else None,
        "model": chosen.name,
        "model_version": chosen.version,
    }
    rows, pictures = [], []
    kept: dict[str, bytes] = {}
    for upload, label, answer in zip(form.pictures, declared, answers, strict=True):
        judged = judge(answer, label)
        row = common | _row(upload, label, answer, judged)
        row["thumbnail"] = await _thumbnail(service, upload, answer, judged)
        facts = {name: row[name] for name in ("id", "declared", "verdict")}
        png = await drawn(service.workers, chosen, upload, answer) if explain else None
        pictures.append(
            Audited(**_answer(upload, answer), **facts, why=judged.reason, explanation=png)
        )
        rows.append(row)
        if service.filing and not answer.error and service.filing.wants(judged.verdict):
            kept[row["picture"]] = upload.data
    told = Audit(
        id=str(common["form"]),
        model=chosen.name,
        model_version=chosen.version,
        verdict=of_all([picture.verdict for picture in pictures]),
        pictures=pictures,
    )
    messages = []
    if form.callback:
        body = told.model_dump_json(exclude={"pictures": {"__all__": {"explanation"}}})
        messages.append(service.telling.message(form.callback, told.id, body))
    await service.writer.add(rows, messages)
    service.telling.wake()
    await _keep(service, kept)
    for row in rows:
        service.metrics.verdicts.labels(chosen.name, row["verdict"]).inc()
        chosen.watch.note_verdict(row["verdict"])
    return told


async def _keep(service: Service, kept: dict[str, bytes]) -> None:
    """Keep the files of pictures for a reviewer, by their hashes."""
    if service.filing and kept:
        try:
            await run_in_threadpool(service.filing.keep, kept)
        except BadDatabase as error:
            # The audit is recorded; only what a reviewer would have filed is missing.
            log.error("audited pictures are not kept for review: %s", error)


@router.get("/v1/me")
async def tell_who(service: Parts, token: Annotated[Token | None, may("predict")]) -> Allowed:
    """Say who asks, what they may do, and within which limits."""
    limits = service.settings.limits
    return Allowed(
        name=token.name if token else None,
        role=token.role if token else "admin",
        version=version("tellapart"),
        thumbnails=service.settings.thumbnails,
        learns=service.filing is not None,
        builds=service.settings.builds is not None,
        builds_days=service.settings.builds.days if service.settings.builds else None,
        picture_mb=limits.picture_mb,
        request_mb=limits.request_mb,
        pictures=limits.pictures,
    )


@router.get("/v1/models", dependencies=[may("predict")])
async def list_models(service: Parts) -> list[ModelFacts]:
    """List the classifiers that are served."""
    told = []
    for number, model in enumerate(service.models.offered()):
        manifest, rules = model.classifier.manifest, model.classifier.rules
        told.append(
            ModelFacts(
                name=model.name,
                version=model.version,
                default=number == 0,
                classes=list(manifest.classes),
                names=manifest.display_names,
                backbone=manifest.backbone,
                made_on=manifest.made_on,
                accept=rules.accept,
                promised=rules.promised,
            )
        )
    return told


@router.get("/healthz")
async def healthz() -> Health:
    """Say that the process answers."""
    return Health(status="ok")


@router.get("/readyz")
def readyz(service: Parts) -> Health:
    """Say that classifiers are loaded and that the database answers."""
    service.records.check()
    return Health(status="ok")


@router.get(
    "/metrics",
    dependencies=[may("admin")],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: Parts) -> Response:
    """Return the counters as Prometheus reads them."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def create_app(service: Service) -> FastAPI:
    """Put the routes over the parts of a server; `Gate` belongs around it."""
    app = FastAPI(
        title="tellapart",
        version=version("tellapart"),
        summary="What is on a picture, and is it what its sender says?",
        # Its page loads scripts from elsewhere, which nothing of ours does.
        docs_url=None,
        redoc_url=None,
        lifespan=_life,
    )
    app.state.service = service
    extra = (explaining, reviewing, reporting, learning, building, showing)
    for some in (router, *(one.router for one in extra)):
        app.include_router(some)
    app.add_exception_handler(Refused, _tell_refused)
    app.add_exception_handler(BadDatabase, _tell_no_database)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    running = [
        asyncio.create_task(service.models.watch()),
        asyncio.create_task(service.telling.run()),
    ]
    try:
        yield
    finally:
        # All requests are answered by now.
        for task in running:
            task.cancel()
        service.jobs.close()
        service.fetching.close()
        service.telling.close()
        service.writer.close()
        service.workers.close()
        service.records.close()


def _declared(model: Model, form: Form) -> list[str]:
    """Give each picture its declared class."""
    n, given = len(form.pictures), form.declared
    if len(given) not in (1, n) or not given:
        raise Refused(
            422,
            "not_declared",
            f"The form has {n} fields file and {len(given)} fields declared; expected one declared "
            f"class for each picture, or one for all of them. Nothing was recorded.",
        )
    return [model.declared(one) for one in given] * (n if len(given) == 1 else 1)


def _answer(upload: Upload, answer: Prediction) -> dict[str, Any]:
    return {
        "file": upload.shown,
        "label": answer.label,
        "name": answer.shown(answer.label) if answer.label else None,
        "confidence": answer.confidence,
        "top": [Ranked(label=label, confidence=value) for label, value in answer.top],
        "unsure": answer.unsure,
        "candidates": list(answer.candidates),
        "reason": answer.reason,
        "error": answer.error,
    }


def _row(upload: Upload, declared: str, answer: Prediction, judged: Judgement) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "picture": picture_hash(upload.data),
        "file_name": upload.shown,
        "declared": declared,
        "verdict": judged.verdict,
        "reason": judged.reason[:1000],
        "label": answer.label,
        "confidence": answer.confidence,
        "candidates": list(answer.candidates),
    }


async def _thumbnail(
    service: Service, upload: Upload, answer: Prediction, judged: Judgement
) -> bytes | None:
    policy: Thumbnails = service.settings.thumbnails
    if answer.error or policy == "none" or (policy == "doubtful" and judged.verdict == "match"):
        return None
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
        service.workers.decoders, lambda: jpeg(shrunk(upload.data, THUMBNAIL_PX))
    )


def _told(request: Request, refused: Refused) -> JSONResponse:
    return refusal(refused, request.scope["state"]["request_id"])


async def _tell_refused(request: Request, error: Exception) -> JSONResponse:
    return _told(request, cast("Refused", error))


async def _tell_no_database(request: Request, error: Exception) -> JSONResponse:
    # The message names the database, which is the operator's alone to know.
    what = "The records cannot be reached, so nothing was recorded, and nothing is answered."
    return _told(request, Refused(503, "no_records", what, {"Retry-After": "5"}))


async def _tell_http(request: Request, error: Exception) -> JSONResponse:
    found = cast("HTTPException", error)
    code = {404: "not_found", 405: "wrong_method"}.get(found.status_code, "bad_request")
    return _told(request, Refused(found.status_code, code, str(found.detail), found.headers))


async def _tell_invalid(request: Request, error: Exception) -> JSONResponse:
    found = cast("RequestValidationError", error).errors()
    problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found]
    return _told(request, Refused(422, "bad_request", "; ".join(problems)[:1000]))
