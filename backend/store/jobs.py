"""Jobs: requests, states and results. What a run writes is in runs.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.kinds import params_of
from backend.store.models import Job, Track, now
from backend.store.partial import drop_partial_frames
from backend.store.request import JobRequest
from backend.store.rows import UNFINISHED, chunks, get_job, insert_jobs, restart
from backend.store.tasks import TaskKey, Tasks
from backend.store.versions import base_of
from trajseg.errors import InputError

if TYPE_CHECKING:
    from trajseg.tracks import Result


class JobStore:
    """Reads and writes the table `jobs` on behalf of those who request jobs; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._tasks = Tasks(database)

    def add(
        self,
        kind: str,
        project_id: int | None,
        task_id: int | None,
        video: str,
        instruction: str,
        queue: str,
        params: Mapping[str, Any] | None = None,
        *,
        model_version: str = "",
        error: str = "",
        remedy: str = "",
        subject: str = "",
    ) -> tuple[Job, bool]:
        """Records a request (see JobRequest) once; returns the job and whether it is new.

        Equal requests give one job, whatever its state, even if two processes ask at the same moment.
        """
        request = JobRequest(
            kind,
            project_id,
            task_id,
            video,
            instruction,
            queue,
            params or {},
            model_version,
            error,
            remedy,
            subject=subject,
        )
        return self.add_all([request])[0]

    def add_all(self, requests: Sequence[JobRequest], opened: Collection[TaskKey] = ()) -> list[tuple[Job, bool]]:
        """Like `add` for many requests in one transaction; one pair per request, in order.

        Of equal requests in one batch the first is new, if any is. If all are known, nothing is written. A prediction
        by another of a project's versions, promoted or rolled back while the job waited, is none by the wanted one.

        Args:
            opened: tasks that someone has open now; see Tasks.opened.
        """
        rows = [request.row() for request in requests]
        jobs = self._known([row["request_key"] for row in rows])
        wanted = list(requests)
        while others := [n for n, row in enumerate(rows) if _by_another(jobs.get(row["request_key"]), wanted[n])]:
            for n in others:
                other = jobs[rows[n]["request_key"]]
                wanted[n] = replace(wanted[n], subject=f"{wanted[n].subject} instead of {other.id}".lstrip())
                rows[n] = wanted[n].row()
            jobs |= self._known([rows[n]["request_key"] for n in others])
        unknown = {row["request_key"]: row for row in reversed(rows) if row["request_key"] not in jobs}
        if unknown or opened:
            with self.database.write() as session:
                self._tasks.note_opened(session, opened)
                jobs |= insert_jobs(session, list(unknown.values()))
                overtaken = [key for key in unknown if key not in jobs]
                jobs |= _jobs_by_key(session, overtaken)
        # A row keeps its own id only if it was inserted; if the key was known, the job has an older id.
        return [(jobs[row["request_key"]], jobs[row["request_key"]].id == row["id"]) for row in rows]

    def _known(self, keys: Sequence[str]) -> dict[str, Job]:
        with self.database.read() as session:
            return _jobs_by_key(session, keys)

    def get(self, job_id: str) -> Job:
        """Raises UnknownJobError."""
        with self.database.read() as session:
            return get_job(session, job_id)

    def newest(
        self,
        state: str | None = None,
        project_id: int | None = None,
        limit: int = 100,
        task_id: int | None = None,
    ) -> list[Job]:
        """Jobs, newest first."""
        query = select(Job).order_by(Job.created_at.desc(), Job.id).limit(limit)
        for column, value in ((Job.state, state), (Job.project_id, project_id), (Job.task_id, task_id)):
            if value is not None:
                query = query.where(column == value)
        with self.database.read() as session:
            return list(session.scalars(query))

    def count(self) -> dict[tuple[str, str], int]:
        """The number of jobs by (kind, state)."""
        query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
        with self.database.read() as session:
            return {(kind, state): count for kind, state, count in session.execute(query)}

    def cancel(self, job_id: str) -> Job:
        """Cancels a job that is not finished; a finished one is left as it is.

        A running one stops at its next frame.
        """
        with self.database.write() as session:
            job = get_job(session, job_id, lock=True)
            if job.state in UNFINISHED:
                drop_partial_frames(session, job_id)
                job.state = "cancelled"
                job.finished_at = now()
                job.eta_seconds = None
            return job

    def retry(self, job_id: str, queue: str | None = None, params: Mapping[str, Any] | None = None) -> Job:
        """Queues a finished job again (its old result is dropped); for an unfinished one, only the queue changes.

        Args:
            params: replaces the job's params.

        Raises:
            InputError: its kind allows one job per project at a time, and there is another one.
        """
        with self.database.write() as session:
            job = get_job(session, job_id, lock=True)
            if job.state not in UNFINISHED and not restart(session, [job]):
                raise InputError(
                    f"Job {job_id} cannot be retried now: its project has another {job.kind} job.",
                    "Wait until that one is done, or cancel it.",
                )
            job.queue = queue or job.queue
            job.params = params_of(job.kind, {**job.params, **(params or {})}).to_json()
            return job

    def give_up(self, job_id: str, error: str, remedy: str = "") -> None:
        """Fails an unfinished job that no worker can complete, whichever run holds it."""
        with self.database.write() as session:
            job = get_job(session, job_id, lock=True)
            if job.state in UNFINISHED:
                drop_partial_frames(session, job_id)
                job.state, job.error, job.remedy = "failed", error, remedy
                job.finished_at, job.eta_seconds = now(), None

    def release_put_off(self) -> int:
        """What postponed jobs were waiting for is available again: they may start now. Returns how many."""
        now_ = update(Job).where(Job.state == "queued", Job.not_before.is_not(None)).values(not_before=None)
        with self.database.write() as session:
            changed: Any = session.execute(now_)
            return int(changed.rowcount)

    def result(self, job_id: str) -> Result:
        """The full result of a done job. Raises UnknownJobError, or InputError if it is not done."""
        from trajseg.tracks import Result

        with self.database.read() as session:
            job = get_job(session, job_id)
            if job.state != "done" or job.result is None:
                raise InputError(f"Job {job_id} has no result: it is {job.state}.", job.remedy)
            if "frame_count" not in job.result:
                raise InputError(
                    f"Job {job_id} has no tracks: it is a {job.kind} job.", "GET /jobs/ID shows its report."
                )
            rows = session.scalars(select(Track).where(Track.job_id == job_id).order_by(Track.position)).all()
        form = dict(job.result)
        timings = form.pop("timings", {})
        form["tracks"] = [{**written, "frames": row.frames} for written, row in zip(form["tracks"], rows, strict=True)]
        result = Result.from_json(form)
        result.timings = timings
        for track, row in zip(result.tracks, rows, strict=True):
            track.instruction, track.provenance = row.instruction, row.provenance
        return result


def _by_another(job: Job | None, request: JobRequest) -> bool:
    """Whether a request's job predicted with another version of the same base."""
    if job is None or job.kind != "prelabel" or job.state != "done" or job.model_version == request.model_version:
        return False
    return base_of(job.model_version) == base_of(request.model_version)


def _jobs_by_key(session: Session, keys: Sequence[str]) -> dict[str, Job]:
    """The store's jobs for these requests."""
    return {job.request_key: job for chunk in chunks(keys) for job in session.scalars(_OF_KEYS, {"keys": list(chunk)})}


# Built once, since each /predict runs it.
_OF_KEYS = select(Job).where(Job.request_key.in_(bindparam("keys", expanding=True)))
