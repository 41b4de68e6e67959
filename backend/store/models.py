"""The store's tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import JSON, DateTime, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

JOB_KINDS = ("prelabel", "refine", "caption", "finetune", "evaluate")
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
QUEUES = ("interactive", "prelabel", "finetune")
"""In the order in which a worker empties them."""


def now() -> datetime:
    """The present time, aware, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A fresh identifier that cannot be guessed."""
    return str(uuid4())


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps none of the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of the tables."""


class Project(Base):
    """A Label Studio project that trajseg was told of.

    `stamp` is the creation time that Label Studio adds to a project's id ("6.1795422572"): it tells a
    project apart from another one that got the same id in a Label Studio that was set up anew.
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


class Job(Base):
    """One thing that was asked for. See design: queued -> running -> done | failed | cancelled.

    `request_key` is what makes two equal requests one job. `runs` counts how often a worker began it.
    `result` is the JSON form of the result without the tracks' frames, which are in `tracks`.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_by_state", "state", "heartbeat_at"),
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
    runs: Mapped[int] = mapped_column(Integer, default=0)
    run_token: Mapped[str | None] = mapped_column(String(36))
    model_version: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)


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


class Delivery(Base):
    """A prediction that has to reach Label Studio: pending until it is sent, or failed for good."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("deliveries_due", "state", "next_attempt_at"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    state: Mapped[str] = mapped_column(String(20), default="pending")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_error: Mapped[str] = mapped_column(Text, default="")
    prediction_id: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
