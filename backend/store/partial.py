"""Partial frames: what an unfinished job has produced so far, so that the next run can resume from there."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import PartialFrames
from backend.store.rows import running_job

MAX_BYTES = 256 * 2**20
"""Per job, compressed. Frames beyond this are not kept; a run after a crash computes them again."""


class PartialFrameStore:
    """Frames of unfinished jobs, in the order in which they were produced. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, job_id: str, run_token: str, key: str, frames: Sequence[dict[str, Any]]) -> bool:
        """Stores the next frames of a run; False once the job has reached MAX_BYTES.

        Args:
            key: what the frames depend on: engine, clip and instruction. Frames under another key are dropped.
            frames: in JSON form, see FrameMasks.to_json.

        Raises CancelledError if a person cancelled the job, StaleRunError if another run has started.
        """
        data = zlib.compress(json.dumps(list(frames), separators=(",", ":")).encode(), 1)
        with self.database.write() as session:
            running_job(session, job_id, run_token)
            session.execute(delete(PartialFrames).where(PartialFrames.job_id == job_id, PartialFrames.key != key))
            size = func.coalesce(func.sum(func.length(PartialFrames.data)), 0)
            kept = session.scalar(select(size).where(PartialFrames.job_id == job_id)) or 0
            if kept + len(data) > MAX_BYTES:
                return False
            session.add(PartialFrames(job_id=job_id, key=key, data=data))
        return True

    def any(self, job_id: str) -> bool:
        """Whether an earlier run has left frames."""
        with self.database.read() as session:
            return session.scalar(select(PartialFrames.id).where(PartialFrames.job_id == job_id).limit(1)) is not None

    def read(self, job_id: str, key: str) -> list[dict[str, Any]]:
        """The frames under this key, in the order in which they were added; none if the stored key differs."""
        query = select(PartialFrames.data).where(PartialFrames.job_id == job_id, PartialFrames.key == key)
        with self.database.read() as session:
            chunks = session.scalars(query.order_by(PartialFrames.id)).all()
        return [frame for chunk in chunks for frame in json.loads(zlib.decompress(chunk))]

    def clear(self, job_id: str, run_token: str) -> None:
        """Drops the stored frames because this run starts over. Raises as `add` does."""
        with self.database.write() as session:
            running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)


def drop_partial_frames(session: Session, job_id: str) -> None:
    """A finished job no longer needs its partial frames."""
    session.execute(delete(PartialFrames).where(PartialFrames.job_id == job_id))
