"""What the API answers, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tellapart.server.auditing import Verdict


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Ranked(_Answer):
    """A class and its calibrated probability."""

    label: str = Field(examples=["rose"])
    confidence: float = Field(examples=[0.981], ge=0, le=1)


class Answer(_Answer):
    """The answer for one picture; of one that cannot be read, `error` says why."""

    file: str = Field(examples=["a.jpg"])
    label: str | None = Field(examples=["rose"])
    name: str | None = Field(description="What people call the class.", examples=["Rose"])
    confidence: float | None = Field(examples=[0.981])
    top: list[Ranked]
    unsure: bool
    candidates: list[str] = Field(description="Classes that stay possible.", examples=[["rose"]])
    reason: str | None = Field(description="Why it is unsure.", examples=[None])
    error: str | None = Field(examples=[None])


class Predicted(_Answer):
    """The answers for all pictures of a request, in order."""

    model: str = Field(examples=["flowers"])
    model_version: str = Field(examples=["5f1d0c9be2a41f77"])
    answers: list[Answer]


class Audited(Answer):
    """One audited picture."""

    id: str = Field(examples=["9f1c2d4e8a7b4c55b0a1d2e3f4a5b6c7"])
    declared: str = Field(examples=["rose"])
    verdict: Verdict
    why: str = Field(examples=["it shows Rose with 98.1%, as declared"])
    explanation: str | None = Field(
        default=None, description="PNG in base64: what speaks for the answer. On request."
    )


class Audit(_Answer):
    """The verdict on a form, and on each of its pictures. All of it is recorded."""

    id: str = Field(examples=["0d9c2d4e8a7b4c55b0a1d2e3f4a5b6c7"])
    model: str = Field(examples=["flowers"])
    model_version: str = Field(examples=["5f1d0c9be2a41f77"])
    verdict: Verdict = Field(description="The worst of its pictures: mismatch, unsure, match.")
    pictures: list[Audited]


class Record(_Answer):
    """An audit as it was recorded."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    form: str
    request_id: str
    at: datetime
    asked_by: str | None
    picture: str = Field(description="BLAKE2b-128 of the file.")
    file_name: str | None
    model: str
    model_version: str
    declared: str
    verdict: Verdict
    reason: str
    label: str | None
    confidence: float | None
    candidates: list[str]
    decision: str | None = Field(description="The class that a person says it is.")
    decided_by: str | None
    decided_at: datetime | None


class Decision(BaseModel):
    """What a reviewer says."""

    model_config = ConfigDict(extra="forbid")

    decision: Annotated[str, Field(min_length=1, max_length=255, examples=["rose"])]


class ModelFacts(_Answer):
    """A classifier that is served."""

    name: str = Field(examples=["flowers"])
    version: str = Field(examples=["5f1d0c9be2a41f77"])
    default: bool
    classes: list[str]
    names: dict[str, str] = Field(description="What people call those classes.")
    backbone: str
    made_on: str
    accept: float = Field(description="Accuracy wanted among the pictures not called unsure.")
    promised: bool


class Error(_Answer):
    """Why there is no answer."""

    error: str = Field(examples=["too_large"])
    message: str
    request_id: str


class Health(_Answer):
    """How the server is."""

    status: str = Field(examples=["ok"])
