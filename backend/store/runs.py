"""Runs: a worker's attempts at a job. Only the holder of the newest run token may write."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from backend.store.clock import DatabaseNow, database_now
from backend.store.database import Database
from backend.store.kinds import job_kind
from backend.store.models import Delivery, Job, Track, new_id, now
from backend.store.notes import JobNotes
from backend.store.partial import drop_partial_frames
from backend.store.rows import UNFINISHED, insert_jobs, running_job

if TYPE_CHECKING:
    from trajseg.tracks import Result

LONGEST_ANSWER = timedelta(seconds=100)
"""Label Studio no longer waits for the answer after this time."""
LOCKED_SECONDS = 1.0
"""A caller that waits longer than this for the database assumes that others had to wait too."""


class RunStore:
    """Writes the progress and the end of runs, and finds lost runs; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def start(self, job_id: str) -> str | None:
        """Starts a job and returns its run token; None if it is finished or unknown.

        An older run of the same job that is still alive gets StaleRunError at its next call.
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
                reason="",
                not_before=None,
            )
        )
        with self.database.write() as session:
            begun: Any = session.execute(begin)
            return token if begun.rowcount else None

    def progress(self, job_id: str, run_token: str, done: int, total: int) -> None:
        """Records a run's progress and heartbeat. Call it once per frame.

        Raises CancelledError if a person cancelled the job, StaleRunError if another run has started.
        """
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            job.heartbeat_at = database_now(session)
            job.frames_done, job.frames_total = done, total
            if done and job.started_at:
                elapsed = (job.heartbeat_at - job.started_at).total_seconds()
                job.eta_seconds = round(elapsed / done * max(total - done, 0), 1)

    def heartbeat(self, job_id: str, run_token: str) -> None:
        """Records a heartbeat while there are no frames to count. Raises as `progress` does."""
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
        follow_up: Sequence[Mapping[str, Any]] = (),
    ) -> Delivery | None:
        """Writes the result, and the delivery and further jobs it needs, in one transaction.

        Args:
            result: the tracks; None for a kind of job without tracks.
            notes: what the result says besides the tracks.
            report: further output of this kind of job, as JSON.
            follow_up: rows of jobs that follow (JobRequest.row); known requests are left out.

        Returns:
            The delivery; None if the job does not come from a Label Studio task or its kind delivers nothing. It is not
            due before `answer_until` of the job's params: until then the page may still get the answer.

        Raises as `progress` does.
        """
        form = result.to_json() if result is not None else {}
        tracks = form.pop("tracks", [])
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            insert_jobs(session, follow_up)
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
        """Ends a run that cannot succeed, with the reason and the remedy. Raises as `progress` does."""
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            job.state, job.error, job.remedy = "failed", error, remedy
            job.finished_at, job.eta_seconds = now(), None

    def reject(self, job_id: str, run_token: str, error: str, remedy: str = "") -> None:
        """Ends a run whose instruction the engine does not understand. Raises as `progress` does."""
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            drop_partial_frames(session, job_id)
            job.state, job.rejection, job.error, job.remedy = "rejected", "instruction", error, remedy
            job.finished_at, job.eta_seconds = now(), None

    def put_off(self, job_id: str, run_token: str, waiting_for: str, until: datetime, excused: bool = False) -> Job:
        """Postpones a run that cannot continue now through no fault of its own; it does not count as a run.

        Args:
            waiting_for: what it is waiting for, in words.
            until: it is not started before.
            excused: the run does not count already; see `excuse`.

        Returns:
            The job, queued; `waiting_since` says since when it has been postponed. Raises as `progress` does.
        """
        with self.database.write() as session:
            job = running_job(session, job_id, run_token)
            job.state, job.waiting_for, job.not_before = "queued", waiting_for, until
            job.waiting_since = job.waiting_since or database_now(session)
            job.runs = job.runs if excused else max(job.runs - 1, 0)
            job.run_token = job.eta_seconds = job.started_at = job.heartbeat_at = None
            return job

    def make_way(self, job_id: str, run_token: str) -> bool:
        """Puts a running job back into its queue to yield to others; such a run does not count.

        True if this run was still the newest. The reconciler queues the job again.
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
        """Does not count a run that was asked to stop, in case its worker dies now; True if it was still the newest."""
        newest = (Job.id == job_id) & (Job.state == "running") & (Job.run_token == run_token)
        with self.database.write() as session:
            changed: Any = session.execute(update(Job).where(newest).values(runs=Job.runs - 1))
            return bool(changed.rowcount)

    def requeue_lost(self, job_id: str, run_token: str | None) -> bool:
        """Queues a running job again if this run is still its newest; True if so.

        The run gets StaleRunError if it wakes up after all.
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
        """Whether this run is the newest and still has had no heartbeat for this long.

        Also False if another process locked the database, since runs could not send heartbeats meanwhile.
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
        """Resets heartbeats that lie in the future of the database's clock to its current time; returns how many.

        They occur after that clock was set back and would hide a lost run; a live run sends its next heartbeat anyway.
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
