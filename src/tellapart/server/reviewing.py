"""What was audited, and what people say of it: the history, and the queue of reviewers."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated

from fastapi import Path, Query, Response
from sqlalchemy import RowMapping

from tellapart.server.refusing import Refused
from tellapart.server.schemas import Counts, Decision, Listing, Record
from tellapart.server.service import BINARY, Parts, Service, may, new_router
from tellapart.server.tokens import Token

AuditId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Reviewer = Annotated[Token | None, may("review")]

router = new_router()


@router.get("/v1/audits")
def list_audits(
    service: Parts, token: Reviewer, which: Annotated[Listing, Query()]
) -> list[Record]:
    """List audits, the newest first unless the oldest are asked for."""
    before = which.before
    if before is not None:
        # A date at the edge of the calendar has no place in other time zones.
        try:
            before = before.astimezone(UTC) if before.tzinfo else before.replace(tzinfo=UTC)
        except OverflowError as error:
            raise Refused(422, "bad_request", "before: there is no such time in UTC.") from error
    if which.after is not None:
        _found(service, which.after)
    asked = which.model_dump() | {"before": before}
    return [_record(row) for row in service.records.found(**asked)]


@router.get("/v1/audits/counts")
def count_audits(service: Parts, token: Reviewer) -> Counts:
    """Count the audits by verdict, and those that wait for a person."""
    return Counts(**service.records.counts())


@router.get("/v1/audits/{id}")
def get_audit(id: AuditId, service: Parts, token: Reviewer) -> Record:
    """Return one audited picture."""
    return _record(_found(service, id))


@router.get(
    "/v1/audits/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": BINARY}}}},
)
def get_thumbnail(id: AuditId, service: Parts, token: Reviewer) -> Response:
    """Return the small picture that was kept of an audit."""
    found = service.records.thumbnail(id)
    if found is None:
        what = "None was kept: see --thumbnails."
        raise Refused(404, "no_thumbnail", f"There is no small picture of audit {id}. {what}")
    return Response(found, media_type="image/jpeg")


@router.post("/v1/audits/{id}/decision")
def decide(id: AuditId, given: Decision, service: Parts, token: Reviewer) -> Record:
    """Write down which class a person says that a picture shows; it may be a new one.

    `null` says that it shows none. A later decision takes the place of an earlier one, unless
    `first` is set: then the second of two reviewers is told.
    """
    if given.decision is not None and not given.decision.isprintable():
        raise Refused(422, "bad_request", "decision: expected the name of a class, in one line.")
    by = token.name if token else "local"
    decided = service.records.decide(id, given.decision, by, first=given.first)
    record = get_audit(id, service, token)
    if not decided:
        what = f"{record.decided_by} has decided already: {record.decision or 'none of them'}."
        raise Refused(409, "decided_already", f"{what} Nothing was changed.")
    return record


@router.delete("/v1/audits/{id}/decision")
def undecide(id: AuditId, service: Parts, token: Reviewer) -> Record:
    """Take a decision back: the picture waits for a person again."""
    service.records.undecide(id)
    return get_audit(id, service, token)


def _found(service: Service, id_: str) -> RowMapping:
    row = service.records.get(id_)
    if row is None:
        raise Refused(404, "unknown_audit", f"There is no audit {id_}.")
    return row


def _record(row: RowMapping) -> Record:
    values = dict(row)
    for name in ("at", "decided_at"):
        # SQLite gives times back without their zone.
        if values[name] is not None and values[name].tzinfo is None:
            values[name] = values[name].replace(tzinfo=UTC)
    return Record(**values)
