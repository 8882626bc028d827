"""What arrives at the classifiers, told to those who look after them."""

from __future__ import annotations

from tellapart.server.schemas import WatchedModel
from tellapart.server.service import Parts, may, new_router

router = new_router()


@router.get("/v1/watch", dependencies=[may("review")])
async def watch(service: Parts) -> list[WatchedModel]:
    """Say for each classifier what arrived in the last day, and whether it is as it was.

    Different pictures are counted, of predictions and audits; none is kept for that.
    """
    return [model.watch.told(model.version) for model in service.models.offered()]
