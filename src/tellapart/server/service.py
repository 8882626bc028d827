"""The parts of a running server, and what every group of routes needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPBearer

from tellapart.server.batching import Workers
from tellapart.server.fetching import Fetching
from tellapart.server.filing import Filing
from tellapart.server.gate import unauthorised
from tellapart.server.jobs import Jobs
from tellapart.server.metrics import Metrics
from tellapart.server.models import Models
from tellapart.server.records import Records
from tellapart.server.refusing import Refused
from tellapart.server.schemas import Error
from tellapart.server.settings import Settings
from tellapart.server.telling import Telling
from tellapart.server.tokens import Role, Token
from tellapart.server.writing import Writer

BINARY = {"type": "string", "format": "binary"}
FILES = {"type": "array", "items": BINARY, "minItems": 1}

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": why}
    for status, why in {
        400: "The request cannot be understood.",
        401: "A token is needed.",
        403: "The token's role does not include this.",
        404: "There is nothing of that name.",
        408: "It was sent too slowly.",
        409: "It is not as the request takes it to be; the message says how it is.",
        413: "Too large, or too many pictures.",
        415: "Neither a form nor a picture.",
        422: "Something in it is not as expected; the message says what.",
        429: "Too many wait, or asked too often: see Retry-After.",
        503: "Cannot be done now: see the message.",
    }.items()
}


@dataclass(frozen=True)
class Service:
    """The parts of a running server. Made whole before it listens, so that errors come first."""

    settings: Settings
    metrics: Metrics
    workers: Workers
    models: Models
    records: Records
    writer: Writer
    fetching: Fetching
    telling: Telling
    jobs: Jobs
    filing: Filing | None = None


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


def new_router() -> APIRouter:
    """Return a router for routes of the API: their refusals and tokens stand in OpenAPI."""
    # The gate has read the header already.
    return APIRouter(responses=_REFUSALS, dependencies=[Depends(HTTPBearer(auto_error=False))])


def takes_form(
    fields: dict[str, Any], required: Sequence[str] = (), or_picture: bool = False
) -> dict[str, Any]:
    """Describe a form that a route reads by itself, as `openapi_extra`.

    or_picture: one picture as the whole body will do, too.
    """
    schema: dict[str, Any] = {
        "type": "object",
        "properties": fields,
        "additionalProperties": False,
    }
    if required:
        schema["required"] = list(required)
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if or_picture:
        content |= {kind: {"schema": BINARY} for kind in ("image/*", "application/octet-stream")}
    return {"requestBody": {"required": True, "content": content}}
