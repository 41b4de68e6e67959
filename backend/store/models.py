"""The store's tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import (
    JSON,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates
from sqlalchemy.types import TypeDecorator

from backend.store.kinds import params_of
from backend.store.notes import JobNotes
from backend.store.params import JobParams
from backend.store.reasons import REASON_LENGTH, bounded, reason_key

JOB_STATES = ("queued", "running", "done", "failed", "rejected", "cancelled")
Rejection = Literal["task", "instruction"]
"""Why a job is rejected: its task lacks something, or the engine does not understand its instruction."""
CORRECTION_KINDS = ("unchanged", "edited", "added", "removed", "extended")
"""What a person did to a track on one frame, relative to the prediction that the annotation came from."""


def now() -> datetime:
    """The current time, timezone-aware, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A fresh identifier that cannot be guessed."""
    return str(uuid4())


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time; SQLite drops the zone, so it is restored on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base class of the tables."""


def _reasons(name: str, *columns: str) -> Index:
    """An index of the rows that have a reason: few, so that the others cost nothing."""
    return Index(name, *columns, sqlite_where=text("reason != ''"), postgresql_where=text("reason != ''"))


class Project(Base):
    """A Label Studio project that trajseg knows.

    `stamp` is the creation time that Label Studio appends to a project's id ("6.1795422572"). It distinguishes projects
    that got the same id because Label Studio was reinstalled.
    """

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("label_studio_id", "stamp", name="one_project"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    label_studio_id: Mapped[int] = mapped_column(Integer)
    stamp: Mapped[str] = mapped_column(String(40), default="")
    hostname: Mapped[str] = mapped_column(String(400), default="")
    title: Mapped[str] = mapped_column(String(400), default="")
    label_config: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    swept_to: Mapped[str] = mapped_column(String(40), default="")
    """Label Studio's time of the newest change seen by a sweep, as it writes it."""
    engine: Mapped[str] = mapped_column(String(400), default="", server_default="")
    """The engine for its jobs; empty: TRAJSEG_MODEL."""
    second_engine: Mapped[str] = mapped_column(String(400), default="", server_default="")
    """A second engine that also pre-labels its tasks, for comparison; empty: none."""


class Job(Base):
    """One piece of work for a worker: queued -> running -> done | failed | rejected | cancelled.

    A failed job may succeed on retry. A rejected one cannot, until its task or instruction changes;
    `rejection` says which, as Rejection, and is empty in all other states.
    `request_key` is shared by equal requests, so they become one job. `runs` counts how often a worker started it.
    `frames_done` and `frames_total` count the progress in the kind's own unit: frames, or training steps.
    `result` is the JSON form of the result without the tracks' frames, which are in `tracks`.
    `reason` is the key of what `error` or `waiting_for` says; setting either sets it.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_by_state", "state", "heartbeat_at"),
        _reasons("jobs_by_reason", "state", "reason", "finished_at", "waiting_since", "project_id"),
        Index("jobs_by_project", "project_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    request_key: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), default="queued")
    queue: Mapped[str] = mapped_column(String(20))
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int | None] = mapped_column(Integer)
    video: Mapped[str] = mapped_column(Text, default="")
    instruction: Mapped[str] = mapped_column(Text, default="")
    params: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    frames_done: Mapped[int] = mapped_column(Integer, default=0)
    frames_total: Mapped[int] = mapped_column(Integer, default=0)
    eta_seconds: Mapped[float | None] = mapped_column(Float)
    error: Mapped[str] = mapped_column(Text, default="")
    remedy: Mapped[str] = mapped_column(Text, default="")
    rejection: Mapped[str] = mapped_column(String(20), default="", server_default="")
    runs: Mapped[int] = mapped_column(Integer, default=0)
    run_token: Mapped[str | None] = mapped_column(String(36))
    model_version: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    waiting_for: Mapped[str] = mapped_column(Text, default="", server_default="")
    """What a queued job waits for besides a worker, such as Label Studio's answer; empty: nothing."""
    waiting_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """A queued job is not started before this time."""
    reason: Mapped[str] = mapped_column(String(REASON_LENGTH), default="", server_default="")

    @validates("error", "waiting_for")
    def _set_reason(self, name: str, text: str) -> str:
        text = bounded(text)
        self.reason = reason_key(text)
        return text

    @property
    def asked(self) -> JobParams:
        """`params` parsed as its kind declares them. Raises InputError if the row does not fit."""
        return params_of(self.kind, self.params)

    @property
    def notes(self) -> JobNotes:
        """What `result` says besides the tracks; empty notes if the job is not done."""
        return JobNotes.of(self.result)

    def reset(self) -> None:
        """Queues the job as new; the caller deletes its tracks and deliveries."""
        self.state, self.created_at = "queued", now()
        self.error = self.remedy = self.rejection = ""
        self.runs = self.frames_done = self.frames_total = 0
        self.run_token = self.eta_seconds = self.result = None
        self.started_at = self.finished_at = self.heartbeat_at = None
        self.waiting_for, self.waiting_since, self.not_before = "", None, None


class Track(Base):
    """A mask track of a done job.

    `frames` is the list of the JSON form: {"index" 0-based, "time" seconds, "score", "rle" COCO or null}.
    """

    __tablename__ = "tracks"
    __table_args__ = (UniqueConstraint("job_id", "uid", name="one_track"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    position: Mapped[int] = mapped_column(Integer)
    uid: Mapped[str] = mapped_column(String(100))
    label: Mapped[str] = mapped_column(String(400), default="")
    caption: Mapped[str] = mapped_column(Text, default="")
    instruction: Mapped[str] = mapped_column(Text, default="")
    provenance: Mapped[str] = mapped_column(String(40), default="model")
    score: Mapped[float] = mapped_column(Float, default=0.0)
    frames: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class PartialFrames(Base):
    """Frames of an unfinished job, one chunk per row: JSON, compressed with zlib. See backend.store.partial."""

    __tablename__ = "partial_frames"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64))
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Delivery(Base):
    """A prediction that has to reach Label Studio: pending until it is sent or has failed permanently."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("deliveries_due", "state", "next_attempt_at"),
        _reasons("deliveries_by_reason", "state", "reason", "next_attempt_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    state: Mapped[str] = mapped_column(String(20), default="pending")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_error: Mapped[str] = mapped_column(Text, default="")
    reason: Mapped[str] = mapped_column(String(REASON_LENGTH), default="", server_default="")
    prediction_id: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @validates("last_error")
    def _set_reason(self, name: str, text: str) -> str:
        text = bounded(text)
        self.reason = reason_key(text)
        return text


class SupersededPrediction(Base):
    """A prediction in Label Studio that a newer one has replaced, and that someone may still have open.

    Label Studio rejects an annotation whose parent prediction is gone, so it is deleted only at `delete_at`, and
    only if nothing refers to it. `prediction_id` and `task_id` are Label Studio's.
    """

    __tablename__ = "superseded_predictions"
    __table_args__ = (UniqueConstraint("project_id", "prediction_id", name="one_superseded"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(Integer)
    prediction_id: Mapped[int] = mapped_column(Integer)
    delete_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class KnownTask(Base):
    """What is known about a Label Studio task besides its jobs. `task_id` is Label Studio's.

    `opened_at`: when someone last had it open, as far as that can be seen. `settled`: its state while no job is active:
    "prelabelled", "refined", "found nothing". `shown`: the full state as Label Studio has it.
    """

    __tablename__ = "tasks"
    __table_args__ = (UniqueConstraint("project_id", "task_id", name="one_task"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(Integer)
    opened_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    settled: Mapped[str] = mapped_column(Text, default="", server_default="")
    settled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    shown: Mapped[str] = mapped_column(Text, default="", server_default="")
    shown_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TaskPictures(Base):
    """A Label Studio task whose data holds links to shown frames; `task_id` is Label Studio's.

    At `due_at` the links are re-signed before they expire. `missing_since`: Label Studio has no such task.
    """

    __tablename__ = "task_pictures"
    __table_args__ = (UniqueConstraint("project_id", "task_id", name="one_task_pictures"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(Integer)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    missing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)


class UnreadTask(Base):
    """A task whose annotations have to be read because something may have changed in them."""

    __tablename__ = "annotation_hints"
    __table_args__ = (UniqueConstraint("project_id", "task_id", name="one_hint"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(Integer)
    noted_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    last_error: Mapped[str] = mapped_column(Text, default="")


class Annotation(Base):
    """A Label Studio annotation as trajseg last read it.

    `version` distinguishes one state of it from the next; `when` is the time Label Studio gives for it.
    `job_id` is the job whose prediction it came from, `refine_job_id` the job that propagates its corrections.
    `captions` holds the captions that a person changed, by label; an empty one was removed. `error` says why the
    annotation could not be read.
    """

    __tablename__ = "annotations"
    __table_args__ = (UniqueConstraint("project_id", "annotation_id", name="one_annotation"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    annotation_id: Mapped[int] = mapped_column(Integer)
    task_id: Mapped[int] = mapped_column(Integer, index=True)
    version: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(36))
    refine_job_id: Mapped[str | None] = mapped_column(String(36))
    who: Mapped[str] = mapped_column(String(200), default="")
    when: Mapped[datetime] = mapped_column(UtcDateTime)
    lead_seconds: Mapped[float | None] = mapped_column(Float)
    captions: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    read_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str] = mapped_column(Text, default="")


class Adoption(Base):
    """Refined tracks written into a person's annotation; see backend.store.adoptions.

    `job_id` is the job that refined them. `before` and `written` are the annotation's results, JSON compressed with
    zlib; their digests distinguish trajseg's own writes from a person's. `frame_index` holds the 0-based frames of the
    task's pictures, `changes` the differences, as FrameChange.
    """

    __tablename__ = "adoptions"
    __table_args__ = (Index("adoptions_by_annotation", "project_id", "annotation_id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(Integer)
    annotation_id: Mapped[int] = mapped_column(Integer)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    before: Mapped[bytes] = mapped_column(LargeBinary)
    before_digest: Mapped[str] = mapped_column(String(64))
    written: Mapped[bytes] = mapped_column(LargeBinary)
    written_digest: Mapped[str] = mapped_column(String(64))
    frame_index: Mapped[list[int]] = mapped_column(JSON, default=list)
    changes: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    made_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    undone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Correction(Base):
    """What a person did to one track on one frame.

    `annotation_id` and `task_id` are Label Studio's ids, `project_id` is the store's own. `job_id` and
    `model_version` name what predicted the track (none for a track that a person drew). `rle` is the mask that
    the person left there (COCO), `box` the box (x, y, width, height in pixels); both are none where it was
    removed, or where an extended range on the timeline only states that it is there ("extended"). A row is
    withdrawn when the annotation is deleted, or changed again.
    """

    __tablename__ = "corrections"
    __table_args__ = (
        Index("corrections_by_annotation", "project_id", "annotation_id"),
        Index("corrections_by_task", "project_id", "task_id"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    annotation_id: Mapped[int] = mapped_column(Integer)
    task_id: Mapped[int] = mapped_column(Integer)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str | None] = mapped_column(String(36), index=True)
    track_uid: Mapped[str] = mapped_column(String(100))
    label: Mapped[str] = mapped_column(String(400))
    frame_index: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(20))
    rle: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    box: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    who: Mapped[str] = mapped_column(String(200), default="")
    when: Mapped[datetime] = mapped_column(UtcDateTime)
    model_version: Mapped[str] = mapped_column(String(200), default="")
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class VideoSide(Base):
    """The side of a project's video, "train" or "held-out", which it keeps for good; see trajseg.data.sides."""

    __tablename__ = "video_sides"
    __table_args__ = (UniqueConstraint("project_id", "identity", name="one_side"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    identity: Mapped[str] = mapped_column(String(100))
    side: Mapped[str] = mapped_column(String(20))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class ModelVersion(Base):
    """A version of a project's model: a base with an adapter trained on the project's corrections.

    `number` counts from 1 in each project; `name` is carried by predictions ("trajseg-tiny/project-12@3", with Label
    Studio's project id). `state` is candidate (in training), promoted, refused (by the gate) or rolled back. `folder`
    is the adapter's, relative to TRAJSEG_DATA_DIR; empty during training. `manifest` is the one in that folder.
    """

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("project_id", "number", name="one_number"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    number: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(200))
    base: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20))
    folder: Mapped[str] = mapped_column(String(400), default="")
    job_id: Mapped[str] = mapped_column(String(36), unique=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
