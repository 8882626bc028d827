"""The API: routes, and what each needs. The work is done next door."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from sqlalchemy import RowMapping
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tellapart.data.hashing import picture_hash
from tellapart.data.pixels import decoded, seen_box
from tellapart.data.thumbnails import jpeg, shrunk
from tellapart.errors import BadDatabase
from tellapart.evaluation.report import percent
from tellapart.inference.classifier import Prediction
from tellapart.inference.drawing import explanation_png
from tellapart.server.asking import Form, Upload, ask, read_form
from tellapart.server.auditing import Judgement, judge, of_all
from tellapart.server.batching import Workers
from tellapart.server.gate import refusal, unauthorised
from tellapart.server.metrics import Metrics
from tellapart.server.models import Model, Models, explaining
from tellapart.server.records import Records
from tellapart.server.refusing import Refused
from tellapart.server.schemas import (
    Answer,
    Audit,
    Audited,
    Decision,
    Error,
    Health,
    ModelFacts,
    Predicted,
    Ranked,
    Record,
)
from tellapart.server.settings import Settings, Thumbnails
from tellapart.server.tokens import Role, Token
from tellapart.server.writing import Writer

THUMBNAIL_PX = 320

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": why}
    for status, why in {
        400: "The request cannot be understood.",
        401: "A token is needed.",
        403: "The token's role does not include this.",
        404: "There is nothing of that name.",
        408: "It was sent too slowly.",
        413: "Too large, or too many pictures.",
        415: "Neither a form nor a picture.",
        422: "Something in it is not as expected; the message says what.",
        429: "Too many wait, or asked too often: see Retry-After.",
        503: "Cannot be done now: see the message.",
    }.items()
}

_BINARY = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _BINARY, "minItems": 1}


@dataclass(frozen=True)
class Service:
    """The parts of a running server. Made whole before it listens, so that errors come first."""

    settings: Settings
    metrics: Metrics
    workers: Workers
    models: Models
    records: Records
    writer: Writer


def may(role: Role) -> Any:
    """Return a dependency that lets only tokens of a role pass, and says whose it was.

    Without any tokens, which only loopback allows, everybody here may do everything.
    """

    async def allowed(request: Request) -> Token | None:
        service: Service = request.app.state.service
        if not service.settings.tokens:
            return None
        token: Token | None = request.scope["state"].get("token")
        if token is None:
            raise unauthorised("none came")
        if not token.may(role):
            what = f"This needs the role {role}; the token of {token.name} has {token.role}."
            raise Refused(403, "forbidden", what)
        return token

    return Depends(allowed)


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Parts = Annotated[Service, Depends(_service)]
ModelName = Annotated[
    str | None, Query(description="Which classifier; the first, if left out.", max_length=255)
]
AuditId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
# For OpenAPI; the gate has read the header already.
router = APIRouter(responses=_REFUSALS, dependencies=[Depends(HTTPBearer(auto_error=False))])


@router.post(
    "/v1/predict",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"file": _FILES},
                        "required": ["file"],
                        "additionalProperties": False,
                    }
                },
                "image/*": {"schema": _BINARY},
                "application/octet-stream": {"schema": _BINARY},
            },
        }
    },
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
    form = await read_form(request, service.settings.limits)
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
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "file": _FILES,
                            "declared": {
                                "type": "array",
                                "items": {"type": "string", "maxLength": 1000},
                                "minItems": 1,
                                "description": "The class of each file, in the same order; or "
                                "once, for all of them.",
                                "example": ["rose"],
                            },
                        },
                        "required": ["file", "declared"],
                        "additionalProperties": False,
                    }
                }
            },
        }
    },
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
    form = await read_form(request, service.settings.limits)
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
    for upload, label, answer in zip(form.pictures, declared, answers, strict=True):
        judged = judge(answer, label)
        row = common | _row(upload, label, answer, judged)
        row["thumbnail"] = await _thumbnail(service, upload, answer, judged)
        told = {name: row[name] for name in ("id", "declared", "verdict")}
        png = await _explanation(service.workers, chosen, upload, answer) if explain else None
        pictures.append(
            Audited(**_answer(upload, answer), **told, why=judged.reason, explanation=png)
        )
        rows.append(row)
    await service.writer.add(rows)
    for row in rows:
        service.metrics.verdicts.labels(chosen.name, row["verdict"]).inc()
    return Audit(
        id=str(common["form"]),
        model=chosen.name,
        model_version=chosen.version,
        verdict=of_all([picture.verdict for picture in pictures]),
        pictures=pictures,
    )


@router.get("/v1/audits")
def list_audits(
    service: Parts,
    token: Annotated[Token | None, may("review")],
    verdict: Annotated[str | None, Query(pattern="^(match|mismatch|unsure)$")] = None,
    before: Annotated[datetime | None, Query(description="Only those from before it.")] = None,
    n: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[Record]:
    """List the newest audits."""
    if before is not None:
        # A date at the edge of the calendar has no place in other time zones.
        try:
            before = before.astimezone(UTC) if before.tzinfo else before.replace(tzinfo=UTC)
        except OverflowError as error:
            raise Refused(422, "bad_request", "before: there is no such time in UTC.") from error
    return [_record(row) for row in service.records.found(n=n, before=before, verdict=verdict)]


@router.get("/v1/audits/{id}")
def get_audit(id: AuditId, service: Parts, token: Annotated[Token | None, may("review")]) -> Record:
    """Return one audited picture."""
    row = service.records.get(id)
    if row is None:
        raise Refused(404, "unknown_audit", f"There is no audit {id}.")
    return _record(row)


@router.post("/v1/audits/{id}/decision")
def decide(
    id: AuditId,
    given: Decision,
    service: Parts,
    token: Annotated[Token | None, may("review")],
) -> Record:
    """Write down which class a person says that a picture shows; it may be a new one."""
    if not given.decision.isprintable():
        raise Refused(422, "bad_request", "decision: expected the name of a class, in one line.")
    if not service.records.decide(id, given.decision, token.name if token else "local"):
        raise Refused(404, "unknown_audit", f"There is no audit {id}.")
    return get_audit(id, service, token)


@router.get("/v1/models", dependencies=[may("predict")])
async def list_models(service: Parts) -> list[ModelFacts]:
    """List the classifiers that are served."""
    told = []
    for number, model in enumerate(service.models):
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
    app.include_router(router)
    app.add_exception_handler(Refused, _tell_refused)
    app.add_exception_handler(BadDatabase, _tell_no_database)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    watching = asyncio.create_task(service.models.watch())
    try:
        yield
    finally:
        # All requests are answered by now.
        watching.cancel()
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
        "file": _said(upload.name),
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
        "file_name": _said(upload.name),
        "declared": declared,
        "verdict": judged.verdict,
        "reason": judged.reason[:1000],
        "label": answer.label,
        "confidence": answer.confidence,
        "candidates": list(answer.candidates),
    }


def _said(name: str) -> str:
    """Keep of a sender's file name what every database and every terminal can take."""
    return "".join(sign if sign.isprintable() else "?" for sign in name)[:255]


def _record(row: RowMapping) -> Record:
    values = dict(row)
    for name in ("at", "decided_at"):
        # SQLite gives times back without their zone.
        if values[name] is not None and values[name].tzinfo is None:
            values[name] = values[name].replace(tzinfo=UTC)
    return Record(**values)


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


async def _explanation(
    workers: Workers, model: Model, upload: Upload, answer: Prediction
) -> str | None:
    """Draw what speaks for an answer, on the threads that all pictures share."""
    if answer.error:
        return None
    loop = asyncio.get_running_loop()
    classifier = model.classifier
    with explaining():
        found = await loop.run_in_executor(
            workers.network, partial(classifier.explain, upload.data, answer.label)
        )

    def draw() -> bytes:
        picture = decoded(upload.data)
        height_px, width_px = picture.shape[:2]
        box = seen_box(height_px, width_px, classifier.manifest.preprocessing)
        said = f"{answer.shown(found.label)} {percent(found.confidence)}"
        return explanation_png(picture, box, found.heat, _said(upload.name), said)

    return base64.b64encode(await loop.run_in_executor(workers.decoders, draw)).decode()


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
