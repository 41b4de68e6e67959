"""Job params: the input of each kind of job besides its video and instruction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from backend.limits import LARGEST_SEED, MOST_STEPS
from trajseg.errors import InputError
from trajseg.tracks.mark import Mark


class JobParams(BaseModel):
    """Params that every job kind takes. A kind that needs more declares a subclass; see backend.store.kinds.

    Unknown keys are ignored, so rows written by another version can still be read.

    Attributes:
        answer_until: the page waits for the answer until then; the result is not delivered earlier.
        engine: one of the names the worker offers (TRAJSEG_ENGINES); empty: TRAJSEG_MODEL.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    answer_until: datetime | None = None
    engine: str = Field(default="", max_length=400)

    @property
    def earlier_job_id(self) -> str | None:
        """The job whose tracks this one starts from; None if there is none."""
        return None

    @classmethod
    def read(cls, form: Mapping[str, Any]) -> Self:
        """Parses the params of a database row or a caller. Raises InputError, which names every invalid field."""
        try:
            return cls.model_validate(dict(form))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()[:5])
            raise InputError(f"Invalid {cls.__name__}: {wrong}.", "Fix the params passed for this job.") from error

    def to_json(self) -> dict[str, Any]:
        """The form stored in the database: only what differs from the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


class PrelabelParams(JobParams):
    """Segment what the instruction refers to, in the whole clip.

    Attributes:
        second: the name of a second engine to run for comparison; empty: none.
        typed: a person typed the instruction on the task's page; it is not the task's own.
        instructions: label and instruction, in order, if each label of a project has its own. The job's instruction
            then joins them for display, and there is no comparison.
    """

    second: str = Field(default="", max_length=400)
    typed: bool = False
    instructions: tuple[tuple[str, str], ...] = ()


class TrackMark(BaseModel):
    """A box or a point that a person marked on one frame, and the track it refers to.

    Attributes:
        label: of the track.
        index: 0-based frame.
        box: x, y, width, height in pixels.
        point: the box is a click: only its centre counts.
        negative: the object is not there: remove what the track shows inside the box, or the piece under the click.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    label: str
    index: int = Field(ge=0)
    box: tuple[float, float, float, float]
    point: bool
    negative: bool = False

    @property
    def mark(self) -> Mark:
        """The mark in the form that engines take."""
        return Mark(self.index, self.box, self.point)


class RefineParams(JobParams):
    """Propagate what a person painted or marked to the other frames of a job's tracks.

    Attributes:
        annotation_id: Label Studio's id of the annotation that was painted; None for marks alone.
        base_job_id: the job whose tracks are refined; None if the person started from nothing.
        marks: earlier versions stored them as "hints".
    """

    annotation_id: int | None = None
    base_job_id: str | None = None
    marks: tuple[TrackMark, ...] = Field((), validation_alias=AliasChoices("marks", "hints"))

    @property
    def earlier_job_id(self) -> str | None:
        return self.base_job_id


class FinetuneParams(JobParams):
    """Train an adapter on a project's corrections.

    Attributes:
        steps: of the training; None: the recipe's.
        seed: of the training.
    """

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class PreviewParams(JobParams):
    """Try an instruction on a few frames of a video.

    Attributes:
        frames: how many, evenly spaced over the video.
        videos: number of similar videos for which the time is estimated.
    """

    frames: int = Field(default=5, ge=2, le=30)
    videos: int = Field(default=1, ge=1, le=1_000_000)


class CaptionParams(JobParams):
    """Caption the tracks of another job, `job_id`, that have no caption."""

    job_id: str

    @property
    def earlier_job_id(self) -> str | None:
        return self.job_id
