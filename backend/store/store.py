"""Store: projects, jobs, runs, results and deliveries, each method one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.store.backlog import Backlog
from backend.store.corrections import Corrections
from backend.store.database import Database
from backend.store.engines import ProjectEngines
from backend.store.failures import Failures
from backend.store.kinds import job_kind, params_of
from backend.store.models import Delivery, Job, Project, Track, new_id, now
from backend.store.notes import JobNotes
from backend.store.partial import PartialFrameStore, drop_partial_frames
from backend.store.preemption import Preemption
from backend.store.request import JobRequest
from backend.store.runs import DatabaseNow, database_now, get_job, running_job
from backend.store.superseded import Superseded
from backend.store.versions import Versions
from trajseg.errors import InputError, UnknownProjectError

if TYPE_CHECKING:
    from trajseg.tracks import Result

LOCKED_SECONDS = 1.0
"""Who waits longer for the database takes it that others had to wait, too."""
UNFINISHED = ("queued", "running")
ROWS_AT_ONCE = 500
"""Rows in one INSERT; SQLite takes 32,766 values in a statement."""


class Store:
    """All that trajseg must not lose. Safe to share between threads; objects it returns are copies.

    Args:
        database_url: `sqlite:///file` or `postgresql://...`; see Database.
    """

    def __init__(self, database_url: str) -> None:
        self.database = Database(database_url)
        self.backlog = Backlog(self.database)
        self.corrections = Corrections(self.database)
        self.versions = Versions(self.database)
        self.partial = PartialFrameStore(self.database)
        self.superseded = Superseded(self.database)
        self.failures = Failures(self.database)
        self.preemption = Preemption(self.database)
        self.engines = ProjectEngines(self.database)

    def migrate(self) -> None:
        """Make the tables, or bring them to this version's form. Safe to call at every start."""
        self.database.migrate()

    create = migrate

    def close(self) -> None:
        """Give back all connections."""
        self.database.close()

    # Projects

    def upsert_project(
        self, label_studio_id: int, hostname: str, label_config: str, title: str = "", stamp: str = ""
    ) -> Project:
        """Note a Label Studio project, or what has changed in it; empty values leave the old ones.

        Args:
            stamp: what Label Studio adds to the id ("6.1795422572" has "1795422572"). A project noted
                without one takes the first that is told; another one makes another project.
        """
        new = {"hostname": hostname, "label_config": label_config, "title": title, "stamp": stamp}
        changes = {name: value for name, value in new.items() if value}
        with self.database.read() as session:
            # Every /predict comes by here, and next to none brings a change: no writer waits for it.
            known = _find_project(session, label_studio_id, stamp)
            if known is not None and all(getattr(known, name) == value for name, value in changes.items()):
                return known
        for _ in range(2):
            try:
                with self.database.write() as session:
                    project = _find_project(session, label_studio_id, stamp)
                    if project is None:
                        project = Project(label_studio_id=label_studio_id)
                        session.add(project)
                    for name, value in changes.items():
                        if getattr(project, name) != value:
                            setattr(project, name, value)
                    return project
            except IntegrityError as error:
                # Another process noted it between our look and our write: look again.
                lost = error
        raise lost

    def project(self, project_id: int) -> Project:
        """The project with the store's own id, which is what jobs carry. Raises UnknownProjectError."""
        with self.database.read() as session:
            project = session.get(Project, project_id)
        if project is None:
            raise UnknownProjectError(f"There is no project {project_id} in the store.")
        return project

    def label_studio_project(self, label_studio_id: int, stamp: str = "") -> Project:
        """The project with Label Studio's id; the newest one where no stamp is given.

        Raises UnknownProjectError.
        """
        with self.database.read() as session:
            project = _find_project(session, label_studio_id, stamp)
        if project is None:
            raise UnknownProjectError(
                f"Label Studio project {label_studio_id} is not connected to trajseg.",
                "Connect the backend in the project's settings, or use `trajseg project create`.",
            )
        return project

    # Jobs

    def add_job(
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
        """Write down one request (see JobRequest), once; returns the job, and whether it is new.

        Equal requests give one job, whatever its state, also when two processes ask at the same moment.
        """
        request = JobRequest(
            kind, project_id, task_id, video, instruction, queue, params or {}, model_version, error, remedy, subject
        )
        return self.add_jobs([request])[0]

    def add_jobs(self, requests: Sequence[JobRequest]) -> list[tuple[Job, bool]]:
        """`add_job` for many in one transaction; one pair for each request, in order.

        Of equal requests in one batch the first is new, if any is.
        """
        rows = [request.row() for request in requests]
        jobs: dict[str, Job] = {}
        with self.database.write() as session:
            for chunk in _chunks(rows, ROWS_AT_ONCE):
                self._insert_unless_known(session, chunk)
                jobs |= _jobs_by_key(session, chunk)
        # A row keeps its own id only if it was inserted; where the key was known, the job has an older id.
        return [(jobs[row["request_key"]], jobs[row["request_key"]].id == row["id"]) for row in rows]

    def _insert_unless_known(self, session: Session, rows: list[dict[str, Any]]) -> None:
        insert = sqlite.insert if self.database.is_sqlite else postgresql.insert
        session.execute(insert(Job).on_conflict_do_nothing(index_elements=["request_key"]), rows)

    def job(self, job_id: str) -> Job:
        """Raises UnknownJobError."""
        with self.database.read() as session:
            return get_job(session, job_id)

    def jobs(
        self,
        state: str | None = None,
        project_id: int | None = None,
        limit: int = 100,
        task_id: int | None = None,
    ) -> list[Job]:
        """The newest jobs first."""
        query = select(Job).order_by(Job.created_at.desc(), Job.id).limit(limit)
        for column, value in ((Job.state, state), (Job.project_id, project_id), (Job.task_id, task_id)):
            if value is not None:
                query = query.where(column == value)
        with self.database.read() as session:
            return list(session.scalars(query))

    def count_jobs(self) -> dict[tuple[str, str], int]:
        """How many jobs there are by (kind, state)."""
        query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
        with self.database.read() as session:
            return {(kind, state): count for kind, state, count in session.execute(query)}

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job that is not finished; a finished one stays as it is.

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

    def postpone(self, job_id: str, run_token: str) -> bool:
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

    def retry_job(self, job_id: str, queue: str | None = None, params: Mapping[str, Any] | None = None) -> Job:
        """Queue a finished job anew (its old result is dropped); an unfinished one only changes its queue.

        Args:
            params: replaces those of the job's.
        """
        with self.database.write() as session:
            job = get_job(session, job_id, lock=True)
            if job.state not in UNFINISHED:
                session.execute(delete(Track).where(Track.job_id == job_id))
                session.execute(delete(Delivery).where(Delivery.job_id == job_id))
                drop_partial_frames(session, job_id)
                job.reset()
            job.queue = queue or job.queue
            job.params = params_of(job.kind, {**job.params, **(params or {})}).to_json()
            return job

    def unfinished(self, stale_after_seconds: float) -> list[Job]:
        """Queued jobs, and running ones without a heartbeat for so long; the oldest first.

        These belong in the queue; some may well be there.
        """
        with self.database.read() as session:
            stale = database_now(session) - timedelta(seconds=stale_after_seconds)
            lost = (Job.state == "running") & (Job.heartbeat_at < stale)
            return list(session.scalars(select(Job).where(or_(Job.state == "queued", lost)).order_by(Job.created_at)))

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

    # Runs: only the holder of the newest run token may write

    def start_run(self, job_id: str) -> str | None:
        """Begin a job and return its run token; None when it is cancelled, done, failed or unknown.

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
            due = max(now(), job.asked.answer_until or now())
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
            job.waiting_since = job.waiting_since or now()
            job.runs = max(job.runs - 1, 0)
            job.run_token = job.eta_seconds = job.started_at = job.heartbeat_at = None
            return job

    def go_on(self) -> int:
        """What jobs wait for is back: those that were put off may start now. Returns how many."""
        now_ = update(Job).where(Job.state == "queued", Job.not_before.is_not(None)).values(not_before=None)
        with self.database.write() as session:
            changed: Any = session.execute(now_)
            return int(changed.rowcount)

    def give_up(self, job_id: str, error: str, remedy: str = "") -> None:
        """Fail an unfinished job that no worker gets done, whoever runs it."""
        with self.database.write() as session:
            job = get_job(session, job_id, lock=True)
            if job.state in UNFINISHED:
                drop_partial_frames(session, job_id)
                job.state, job.error, job.remedy = "failed", error, remedy
                job.finished_at, job.eta_seconds = now(), None

    def tracks(self, job_id: str) -> Result:
        """The whole result of a done job. Raises UnknownJobError, and InputError where it is not done."""
        from trajseg.tracks import Result

        with self.database.read() as session:
            job = get_job(session, job_id)
            if job.state != "done" or job.result is None:
                raise InputError(f"Job {job_id} has no result: it is {job.state}.", job.remedy)
            if "frame_count" not in job.result:
                raise InputError(f"Job {job_id} has no tracks: it is of the kind {job.kind}.")
            rows = session.scalars(select(Track).where(Track.job_id == job_id).order_by(Track.position)).all()
        form = dict(job.result)
        timings = form.pop("timings", {})
        form["tracks"] = [{**written, "frames": row.frames} for written, row in zip(form["tracks"], rows, strict=True)]
        result = Result.from_json(form)
        result.timings = timings
        for track, row in zip(result.tracks, rows, strict=True):
            track.instruction, track.provenance = row.instruction, row.provenance
        return result

    # Deliveries

    def delivery(self, job_id: str) -> Delivery | None:
        """The delivery of a job, if it has one."""
        with self.database.read() as session:
            return session.scalars(select(Delivery).where(Delivery.job_id == job_id)).one_or_none()

    def due_deliveries(self, moment: datetime | None = None, limit: int = 100) -> list[Delivery]:
        """Pending deliveries whose time has come, the longest due first."""
        query = (
            select(Delivery)
            .where(Delivery.state == "pending", Delivery.next_attempt_at <= (moment or now()))
            .order_by(Delivery.next_attempt_at)
            .limit(limit)
        )
        with self.database.read() as session:
            return list(session.scalars(query))

    def claim_delivery(self, delivery_id: str, seconds: float = 120.0) -> bool:
        """Take a pending delivery that is due, so that nobody else makes it for so many seconds.

        False when somebody else was faster, or it is no longer due.
        """
        moment = now()
        claim = (
            update(Delivery)
            .where(
                Delivery.id == delivery_id,
                Delivery.state == "pending",
                Delivery.next_attempt_at <= moment,
            )
            .values(next_attempt_at=moment + timedelta(seconds=seconds))
        )
        with self.database.write() as session:
            claimed: Any = session.execute(claim)
            return bool(claimed.rowcount)

    def delivery_sent(self, delivery_id: str, prediction_id: int | None) -> None:
        """It has arrived; `prediction_id` is Label Studio's, or None when the page was answered directly."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.prediction_id, delivery.last_error = "sent", prediction_id, ""
            delivery.attempts += 1
            delivery.sent_at = now()

    def delivery_failed(self, delivery_id: str, error: str, retry_at: datetime | None) -> None:
        """It has not arrived; try again at `retry_at`, or never when that is None."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state = "pending" if retry_at else "failed"
            delivery.attempts += 1
            delivery.last_error = error
            if retry_at:
                delivery.next_attempt_at = retry_at

    def delivery_dropped(self, delivery_id: str, reason: str) -> None:
        """It is not needed any more: its task was deleted."""
        with self.database.write() as session:
            delivery = _get_delivery(session, delivery_id)
            delivery.state, delivery.last_error = "dropped", reason

    def deliver_all_waiting(self) -> None:
        """Label Studio is back: what waits for its next try is due now, and what was given up is tried again."""
        waiting = (
            update(Delivery)
            .where(Delivery.attempts > 0, Delivery.state.in_(("pending", "failed")))
            # In the past: these are not left to the worker that made the result.
            .values(state="pending", attempts=0, next_attempt_at=now() - timedelta(minutes=1))
        )
        with self.database.write() as session:
            session.execute(waiting)

    def deliver_again(self, job_id: str) -> None:
        """Make a job's delivery due now, also when it was sent or has failed before."""
        again = update(Delivery).where(Delivery.job_id == job_id)
        with self.database.write() as session:
            session.execute(again.values(state="pending", attempts=0, next_attempt_at=now()))

    def count_deliveries(self) -> dict[str, int]:
        """How many deliveries there are by state."""
        query = select(Delivery.state, func.count()).group_by(Delivery.state)
        with self.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}


def _chunks(rows: list[dict[str, Any]], size: int) -> Iterable[list[dict[str, Any]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _jobs_by_key(session: Session, rows: list[dict[str, Any]]) -> dict[str, Job]:
    """The jobs that the store holds for these rows' requests. New ones are built from their rows, not read back."""
    keys = [row["request_key"] for row in rows]
    stored = select(Job.request_key, Job.id).where(Job.request_key.in_(keys))
    ids = {row.request_key: row.id for row in session.execute(stored)}
    new = {row["request_key"]: Job(**row) for row in rows if ids[row["request_key"]] == row["id"]}
    known = session.scalars(select(Job).where(Job.request_key.in_([key for key in keys if key not in new])))
    return new | {job.request_key: job for job in known}


def _find_project(session: Session, label_studio_id: int, stamp: str) -> Project | None:
    query = select(Project).where(Project.label_studio_id == label_studio_id).order_by(Project.id.desc())
    if stamp:
        # The one with this stamp before one that has none yet.
        query = query.where(Project.stamp.in_((stamp, ""))).order_by(None)
        query = query.order_by(Project.stamp.desc())
    return session.scalars(query.limit(1)).first()


def _get_delivery(session: Session, delivery_id: str) -> Delivery:
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise InputError(f"There is no delivery {delivery_id}.")
    return delivery
