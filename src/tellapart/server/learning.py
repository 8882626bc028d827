"""Learning from reviews by a button: the command `learn` as a process, and how it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Body

from tellapart.server.jobs import Job
from tellapart.server.refusing import Refused
from tellapart.server.schemas import Learn, Learning, Work
from tellapart.server.service import Parts, Service, may, new_router

router = new_router()


@router.post("/v1/models/{name}/learn", status_code=202, dependencies=[may("admin")])
def start_learning(
    name: str, service: Parts, how: Annotated[Learn | None, Body()] = None
) -> Learning:
    """Learn from the reviewed pictures; when it is done and not worse, it answers by itself."""
    model, how = service.models.get(name), how or Learn()
    if service.filing is None or name not in _given(service):
        raise Refused(
            409,
            "no_reviews",
            "There are no reviews to learn from: the server was started without --reviews, or this "
            "classifier is being built here. Nothing was done.",
        )
    if service.settings.precision == "int8":
        raise Refused(
            409,
            "int8",
            "The server answers in 8 bits, which learning does not make. Nothing was done. Learn "
            "and quantize by command.",
        )
    path = str(service.models.path(name))
    arguments = ["learn", path, "--undo"]
    if not how.undo:
        arguments = ["learn", path, "--from-reviews", str(service.filing.folder)]
        arguments += ["--relabel"] if how.relabel else []
        arguments += ["--even-if-worse"] if how.even_if_worse else []
    service.jobs.start(f"learn {name}", arguments, service.settings.learn_s)
    return _told(service, model.name)


@router.get("/v1/models/{name}/learn", dependencies=[may("admin")])
def get_learning(name: str, service: Parts) -> Learning:
    """Say what there is to learn from, and how learning stands."""
    return _told(service, service.models.get(name).name)


@router.delete("/v1/models/{name}/learn", dependencies=[may("admin")])
def stop_learning(name: str, service: Parts) -> Learning:
    """End a learning that is going on; the classifier stays as it is."""
    service.models.get(name)
    service.jobs.stop(f"learn {name}")
    return _told(service, name)


def told(job: Job | None) -> Work | None:
    """Say how a job stands."""
    if job is None:
        return None
    return Work(
        state=job.state,
        began=job.began,
        ended=job.ended,
        lines=list(job.lines),
        error=job.error,
        result=job.result,
    )


def _told(service: Service, name: str) -> Learning:
    path = service.models.path(name)
    return Learning(
        model=name,
        version=service.models.get(name).version,
        can_go_back=name in _given(service) and Path(f"{path}.previous").is_file(),
        reviews=service.filing.counts() if service.filing else {},
        work=told(service.jobs.of(f"learn {name}")),
    )


def _given(service: Service) -> set[str]:
    """Return the names of the classifiers that the server was started with."""
    return set(service.models.given)
