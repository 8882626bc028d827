"""What the API answers, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tellapart.server.auditing import Verdict
from tellapart.server.settings import Thumbnails
from tellapart.server.tokens import Role


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
    decision: str | None = Field(
        description="The class that a person says it is; of one that was decided, null says that "
        "it is none."
    )
    decided_by: str | None
    decided_at: datetime | None = Field(description="Null: nobody has decided yet.")
    thumbnail: bool = Field(description="Whether a small picture was kept.")


class Listing(BaseModel):
    """Which audits to list."""

    verdict: Literal["match", "mismatch", "unsure", "doubtful"] | None = Field(
        default=None, description="doubtful: mismatch or unsure."
    )
    decided: bool | None = Field(
        default=None, description="Only those that a person has decided, or has not."
    )
    model: str | None = Field(default=None, max_length=255)
    before: datetime | None = Field(default=None, description="Only those from before it.")
    after: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{32}$",
        description="The last audit of the page before: go on behind it.",
    )
    oldest: bool = Field(default=False, description="The oldest first.")
    n: int = Field(default=50, ge=1, le=500)


class Counts(_Answer):
    """How many audits there are."""

    match: int
    mismatch: int
    unsure: int
    waiting: int = Field(description="Mismatches and unsure ones that nobody has decided.")


class Decision(BaseModel):
    """What a reviewer says."""

    model_config = ConfigDict(extra="forbid")

    decision: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        examples=["rose"], description="A class, known or new; null: none of them."
    )
    first: bool = Field(
        default=False, description="Refuse (409) where somebody has decided already."
    )


class Allowed(_Answer):
    """Who asks, and what the server lets them do."""

    name: str | None = Field(description="Of the token; null where there are none.")
    role: Role
    version: str = Field(description="Of tellapart.")
    thumbnails: Thumbnails
    learns: bool = Field(description="Whether classifiers can learn from reviews here.")
    builds: bool = Field(description="Whether classifiers can be built here.")
    builds_days: float | None = Field(
        description="How long a build that nobody touches is kept; null: nothing is built here."
    )
    picture_mb: float
    request_mb: float
    pictures: int = Field(description="Most pictures in a request.")


class Explained(_Answer):
    """What in a picture speaks for a class, and what against it."""

    label: str
    confidence: float
    heat: list[list[float]] = Field(
        description="Rows of places, from the top; above zero speaks for the class."
    )
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right and bottom of where the places lie, in shares of the "
        "upright picture's width and height."
    )


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


class WatchWarning(_Answer):
    """Something about what arrives that is no longer as it was among what was learned."""

    kind: str = Field(description="unsure, strange, far or class.", examples=["unsure"])
    label: str | None = Field(description="The class, where it is the share of one.")
    share: float = Field(description="Among the last n different pictures.", examples=[0.61])
    n: int = Field(examples=[400])
    usual: float = Field(examples=[0.14])
    message: str


class WatchedStep(_Answer):
    """What arrived within ten minutes. Shares belong to n, that of `far` to n_placed."""

    at: datetime
    n: int = Field(description="Different pictures answered.")
    unsure: int
    strange: int = Field(description="They look like none of the classes.")
    far: int = Field(description="Less similar to their class than 84 % of held-out pictures.")
    n_placed: int = Field(description="Of how many the similarity is known.")
    unreadable: int
    labels: dict[str, int]
    verdicts: dict[str, int] = Field(description="Of audited pictures.")


class WatchedModel(_Answer):
    """What arrived at a classifier in the last day, and what is usual for it."""

    model: str = Field(examples=["flowers"])
    version: str
    held_out: int = Field(description="Pictures that say what is usual; 0: nothing is tested.")
    usual: dict[str, float | None] = Field(examples=[{"unsure": 0.14, "strange": 0.02}])
    learned: dict[str, float] = Field(description="Share of each class in what was learned from.")
    look_every: int = Field(description="Pictures between two tests.", examples=[100])
    counted: int = Field(description="Pictures that the next test has to go by.")
    warnings: list[WatchWarning]
    steps: list[WatchedStep]


class Error(_Answer):
    """Why there is no answer."""

    error: str = Field(examples=["too_large"])
    message: str
    request_id: str


class Health(_Answer):
    """How the server is."""

    status: str = Field(examples=["ok"])


class Work(_Answer):
    """Something that takes its time: learning or training, in a process of its own."""

    state: Literal["running", "done", "failed", "stopped"]
    began: datetime
    ended: datetime | None
    lines: list[str] = Field(description="The last that it said.")
    error: str | None = Field(description="Why it failed, in a paragraph.")
    result: dict[str, Any] | None = Field(
        description="What the command printed: see `learn --json` and `train --json`."
    )


class Learning(_Answer):
    """What a classifier can learn from, and how its learning stands."""

    model: str
    version: str = Field(description="Of the classifier that answers now.")
    can_go_back: bool = Field(description="Whether the one before the last learning is there.")
    reviews: dict[str, int] = Field(description="Reviewed pictures by class, all classifiers'.")
    work: Work | None = Field(description="The last learning; null: none since the start.")


class Learn(BaseModel):
    """How to learn."""

    model_config = ConfigDict(extra="forbid")

    relabel: bool = Field(
        default=False, description="Believe reviews of pictures that taught under another label."
    )
    even_if_worse: bool = Field(default=False, description="Switch in any case.")
    undo: bool = Field(
        default=False, description="Learn nothing: put the one before the last learning back."
    )


class NewBuild(BaseModel):
    """A classifier to be built."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["shells"])]


class TrainBuild(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid")

    quality: Literal["fast", "balanced", "best"] = "fast"


class BuildClass(_Answer):
    """A class of a classifier that is being built."""

    label: str
    pictures: list[str] = Field(description="BLAKE2b-128 of each.")


class Build(_Answer):
    """A classifier that is being built."""

    id: str
    name: str
    made: datetime
    classes: list[BuildClass]
    mb: float = Field(description="Of its pictures.")
    has_file: bool = Field(description="Whether a trained classifier can be fetched and tried.")
    work: Work | None = Field(description="The last training; null: none since the start.")


class LeftOut(_Answer):
    """A picture that was not taken."""

    file: str
    reason: str


class Added(_Answer):
    """What became of pictures that were sent to be learned from."""

    added: list[str] = Field(description="BLAKE2b-128 of each.")
    left_out: list[LeftOut]
    build: Build


class Tried(_Answer):
    """The name under which a built classifier answers."""

    model: str
