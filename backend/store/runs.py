"""Runs: a worker's attempts at a job. Only the holder of the newest run token may write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from backend.store.clock import DatabaseNow, database_now
from backend.store.database import Database
from backend.store.kinds import job_kind
from backend.store.models import Delivery, Job, Track, new_id, now
from backend.store.notes import JobNotes
from backend.store.partial import drop_partial_frames
from backend.store.rows import UNFINISHED, running_job

if TYPE_CHECKING:
    from trajseg.tracks import Result

LONGEST_ANSWER = timedelta(seconds=100)
"""Label Studio waits no longer for the answer to a person in front of the page."""
LOCKED_SECONDS = 1.0
"""Who waits longer than this for the database assumes that others had to wait, too."""


class RunStore:
    """Writes the progress and the end of runs, and finds lost ones; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def start(self, job_id: str) -> str | None:
        """Begin a job and return its run token; None when it has ended or is unknown.

        An older run of the same job, if one is still alive, gets StaleRunError at its next call.
        """
        token = new_id()
        begin = (
            update(Job)
            .where(Job.id == job_id, Job.state.in_(UNFINISHED))
            .values(
                state="running",
                run_token=token,
                runs=Job.runs + 1,
                started_at=DatabaseNow(),
                heartbeat_at=DatabaseNow(),
                frames_done=0,
                frames_total=0,
                eta_seconds=None,
                waiting_for="",
                not_before=None,
            )
        )
        with self.database.write() as session:
            begun: Any = session.execute(begin)
            return token if begun.rowcount else None

    def progress(self, job_id: str, run_token: str, done: int, total: int) -> None:
        """Note how far a run is, and that it lives. Call it once a frame.

        Raises CancelledError when a person cancelled, StaleRunError when another run has begun.
        """
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            job.heartbeat_at = database_now(session)
            job.frames_done, job.frames_total = done, total
            if done and job.started_at:
                elapsed = (job.heartbeat_at - job.started_at).total_seconds()
                job.eta_seconds = round(elapsed / done * max(total - done, 0), 1)

    def heartbeat(self, job_id: str, run_token: str) -> None:
        """Note that a run lives while there are no frames to count. Raises as `progress`."""
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            job.heartbeat_at = database_now(session)

    def finish(
        self,
        job_id: str,
        run_token: str,
        result: Result | None,
        notes: JobNotes | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> Delivery | None:
        """Write the result, and the delivery that it needs, in one transaction.

        Args:
            result: the tracks; None for a kind of job that makes none.
            notes: what the result says beside the tracks.
            report: what else the kind of job leaves behind, as JSON.

        Returns:
            The delivery; None when the job is not from a Label Studio task, or its kind delivers nothing. It
            is not due before `answer_until` of the job's params: until then the page may still get the answer.

        Raises as `progress`.
        """
        form = result.to_json() if result is not None else {}
        tracks = form.pop("tracks", [])
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            job.state, job.finished_at, job.eta_seconds = "done", now(), 0.0
            job.heartbeat_at = job.finished_at
            job.frames_total = result.frame_count if result is not None else job.frames_total
            job.frames_done = job.frames_total
            job.result = {
                **(notes or JobNotes()).to_json(),
                **form,
                "tracks": [{name: track[name] for name in track if name != "frames"} for track in tracks],
                "timings": dict(result.timings) if result is not None else {},
            }
            if report:
                job.result["report"] = dict(report)
            if result is None:
                return None
            job.model_version = result.model_version or job.model_version
            session.execute(delete(Track).where(Track.job_id == job_id))
            session.execute(delete(Delivery).where(Delivery.job_id == job_id))
            session.add_all(
                Track(
                    job_id=job_id,
                    position=position,
                    uid=track.uid,
                    label=track.label,
                    caption=track.caption,
                    instruction=track.instruction,
                    provenance=track.provenance,
                    score=track.score,
                    frames=written["frames"],
                )
                for position, (track, written) in enumerate(zip(result.tracks, tracks, strict=True))
            )
            if job.task_id is None or not job_kind(job.kind).delivers:
                return None
            present = database_now(session)
            # Written by the clock of the backend that answered the page.
            answer_until = min(job.asked.answer_until or present, present + LONGEST_ANSWER)
            due = max(present, answer_until)
            delivery = Delivery(id=new_id(), job_id=job_id, next_attempt_at=due)
            session.add(delivery)
        return delivery

    def fail(self, job_id: str, run_token: str, error: str, remedy: str = "") -> None:
        """End a run that cannot succeed, with the reason and what to do. Raises as `progress`."""
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            job.state, job.error, job.remedy = "failed", error, remedy
            job.finished_at, job.eta_seconds = now(), None

    def reject(self, job_id: str, run_token: str, error: str, remedy: str = "") -> None:
        """End a run whose instruction the engine does not understand. Raises as `progress`."""
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            job.state, job.rejection, job.error, job.remedy = "rejected", "instruction", error, remedy
            job.finished_at, job.eta_seconds = now(), None

    def put_off(self, job_id: str, run_token: str, waiting_for: str, until: datetime) -> Job:
        """Give a run back that cannot go on now, through no fault of its own: it is not counted as a run.

        Args:
            waiting_for: what it waits for, for a person to read.
            until: it is not started before.

        Returns:
            The job, queued; `waiting_since` says since when it has been put off. Raises as `progress`.
        """
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            job.state, job.waiting_for, job.not_before = "queued", waiting_for, until
            job.waiting_since = job.waiting_since or database_now(session)
            job.runs = max(job.runs - 1, 0)
            job.run_token = job.eta_seconds = job.started_at = job.heartbeat_at = None
            return job

    def make_way(self, job_id: str, run_token: str) -> bool:
        """Put a running job back into its queue, because it makes way for others; such a run counts as none.

        True when this run was still the newest. The reconciler queues the job again.
        """
        back = (
            update(Job)
            .where(Job.id == job_id, Job.state == "running", Job.run_token == run_token)
            .values(state="queued", eta_seconds=None, runs=Job.runs - 1)
        )
        with self.database.write() as session:
            changed: Any = session.execute(back)
            return bool(changed.rowcount)

    def excuse(self, job_id: str, run_token: str) -> bool:
        """Do not count a run that was asked to stop, should its worker die now; True when it was still the newest."""
        newest = (Job.id == job_id) & (Job.state == "running") & (Job.run_token == run_token)
        with self.database.write() as session:
            changed: Any = session.execute(update(Job).where(newest).values(runs=Job.runs - 1))
            return bool(changed.rowcount)

    def requeue_lost(self, job_id: str, run_token: str | None) -> bool:
        """Put a running job back to queued when this run is still its newest; True when that was so.

        The run, should it wake up after all, gets StaleRunError.
        """
        lost = (
            update(Job)
            .where(Job.id == job_id, Job.state == "running", Job.run_token == run_token)
            .values(state="queued", eta_seconds=None)
        )
        with self.database.write() as session:
            changed: Any = session.execute(lost)
            return bool(changed.rowcount)

    def is_lost(self, job_id: str, run_token: str | None, stale_after_seconds: float) -> bool:
        """Whether this run is the newest and has still no heartbeat for so long.

        False also when another process held the database: runs could send no heartbeat meanwhile.
        """
        asked = time.monotonic()
        with self.database.write() as session:
            session.connection()
            if time.monotonic() - asked > LOCKED_SECONDS:
                return False
            newest = (Job.id == job_id) & (Job.state == "running") & (Job.run_token == run_token)
            stale = database_now(session) - timedelta(seconds=stale_after_seconds)
            return session.scalar(select(Job.id).where(newest, Job.heartbeat_at < stale)) is not None

    def renew_future_leases(self) -> int:
        """Give heartbeats that lie ahead of the database's clock its present time; returns how many there were.

        They are there after that clock was set back. A lost run would be hidden for as long; a live one beats again.
        """

        def ahead(present: datetime) -> Any:
            return (Job.state == "running") & (Job.heartbeat_at > present + timedelta(seconds=1))

        with self.database.read() as session:
            if session.scalar(select(Job.id).where(ahead(database_now(session))).limit(1)) is None:
                return 0
        with self.database.write() as session:
            present = database_now(session)
            changed: Any = session.execute(update(Job).where(ahead(present)).values(heartbeat_at=present))
            return int(changed.rowcount)
