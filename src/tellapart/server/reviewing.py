"""What was audited, and what people say of it: the history, and the queue of reviewers."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import UTC
from typing import Annotated

from fastapi import Path, Query, Response
from sqlalchemy import RowMapping

from tellapart.data.thumbnails import jpeg, shrunk
from tellapart.errors import OutputError
from tellapart.server.filing import Filing
from tellapart.server.refusing import Refused
from tellapart.server.schemas import Counts, Decision, Listing, Record
from tellapart.server.service import BINARY, Parts, Service, may, new_router
from tellapart.server.tokens import Token

log = logging.getLogger("tellapart.server")

THUMBNAIL_PX = 320
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
        original = service.records.original(_found(service, id)["picture"])
        found = None if original is None else jpeg(shrunk(original, THUMBNAIL_PX))
    if found is None:
        what = "None was kept: see --thumbnails and --reviews."
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
    before = _found(service, id)
    with service.filing.lock if service.filing else nullcontext():
        decided = service.records.decide(id, given.decision, by, first=given.first)
        record = get_audit(id, service, token)
        if not decided:
            what = f"{record.decided_by} has decided already: {record.decision or 'none of them'}."
            raise Refused(409, "decided_already", f"{what} Nothing was changed.")
        if service.filing:
            _file(service, service.filing, before, given.decision)
    return record


def _file(service: Service, filing: Filing, before: RowMapping, label: str | None) -> None:
    """File a picture under the class that it was decided to be, or take the decision back."""
    try:
        filing.put(before["picture"], label)
    except (OutputError, OSError) as error:
        log.error("a reviewed picture cannot be filed: %s", error)
        service.records.restore(before["id"], dict(before))
        what = "The picture cannot be put into the folder of reviews, so nothing was decided."
        raise Refused(503, "not_filed", what) from error


@router.delete("/v1/audits/{id}/decision")
def undecide(id: AuditId, service: Parts, token: Reviewer) -> Record:
    """Take a decision back: the picture waits for a person again."""
    found = _found(service, id)
    service.records.undecide(id)
    if service.filing:
        with service.filing.lock:
            service.filing.take_back(found["picture"])
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
