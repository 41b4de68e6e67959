"""Model versions: which were trained for each project, which one serves, and the history of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from backend.store.database import Database
from backend.store.models import Job, ModelVersion, Project, now
from backend.store.rows import running_job
from trajseg.errors import InputError

CANDIDATE, PROMOTED, REFUSED, ROLLED_BACK = "candidate", "promoted", "refused", "rolled back"

OF_PROJECT = "/project-"
"""Separates base and project in a version's name."""


def base_of(model_version: str) -> str:
    """The base of a version, from its name; a base is its own base."""
    return model_version.partition(OF_PROJECT)[0]


class UnknownVersionError(InputError):
    """A model version that is not in the store."""


class Versions:
    """Versions of projects' models. Each method is one transaction.

    Of a project's promoted versions of one base, the one promoted last serves. Rolling back takes it out of service,
    and the one before it serves again; if there is none, the base does.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def of_job(self, project_id: int, base: str, job_id: str) -> ModelVersion:
        """The version that a job trains: created on the first call, the same one after that."""
        with self.database.write() as session:
            known = session.scalar(select(ModelVersion).where(ModelVersion.job_id == job_id))
            if known is not None:
                return known
            project = session.get(Project, project_id)
            if project is None:
                raise InputError(f"There is no project {project_id} in the store.", "Connect the project first.")
            last = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.project_id == project_id))
            number = (last or 0) + 1
            version = ModelVersion(
                project_id=project_id,
                number=number,
                name=f"{base}{OF_PROJECT}{project.label_studio_id}@{number}",
                base=base,
                state=CANDIDATE,
                job_id=job_id,
            )
            session.add(version)
            return version

    def decide(
        self,
        version_id: int,
        promoted: bool,
        reason: str,
        folder: str,
        manifest: Mapping[str, Any],
        run_token: str | None = None,
    ) -> ModelVersion:
        """Records the gate's decision on a candidate; a promoted one serves from now on.

        Args:
            folder: of the adapter, relative to TRAJSEG_DATA_DIR.
            manifest: of the adapter, including the decision.
            run_token: of the run of its job that decides; None if it was not trained by a run.

        Raises:
            CancelledError: a person cancelled the training.
            StaleRunError: another run has started.
        """
        with self.database.write() as session:
            version = session.get_one(ModelVersion, version_id)
            if run_token is not None:
                running_job(session, version.job_id, run_token)
            version.folder, version.manifest, version.reason = folder, dict(manifest), reason
            _set(version, PROMOTED if promoted else REFUSED)
            return version

    def served(self, project_id: int | None, base: str) -> ModelVersion | None:
        """The version that serves a project on this base; None if the base itself does."""
        if project_id is None:
            return None
        with self.database.read() as session:
            return _served(session, project_id, base)

    def served_name(self, project_id: int | None, base: str) -> str:
        """The name that /setup answers and predictions carry."""
        version = self.served(project_id, base)
        return base if version is None else version.name

    def list(self, project_id: int | None = None) -> list[ModelVersion]:
        """Newest first; of all projects by default."""
        query = select(ModelVersion).order_by(ModelVersion.project_id, ModelVersion.number.desc())
        if project_id is not None:
            query = query.where(ModelVersion.project_id == project_id)
        with self.database.read() as session:
            return list(session.scalars(query))

    def version(self, project_id: int, number: int) -> ModelVersion:
        """Raises UnknownVersionError."""
        with self.database.read() as session:
            return _version(session, project_id, number)

    def training_states(self, versions: Sequence[ModelVersion]) -> dict[int, str]:
        """The job state of the training of each version, by the version's id."""
        query = select(Job.id, Job.state).where(Job.id.in_({version.job_id for version in versions}))
        with self.database.read() as session:
            states: dict[str, str] = {row.id: row.state for row in session.execute(query)}
        return {version.id: states[version.job_id] for version in versions if version.job_id in states}

    def training_errors(self, versions: Sequence[ModelVersion]) -> dict[int, str]:
        """Why the training of each version failed and what to do about it, by the version's id, where one did."""
        query = select(Job.id, Job.error, Job.remedy).where(
            Job.id.in_({version.job_id for version in versions}), Job.state == "failed"
        )
        with self.database.read() as session:
            errors = {row.id: f"{row.error} {row.remedy}".strip() for row in session.execute(query)}
        return {version.id: errors[version.job_id] for version in versions if errors.get(version.job_id)}

    def promote(self, project_id: int, number: int, reason: str = "") -> ModelVersion:
        """Makes a version serve from the next job on, whatever the gate decided.

        Raises:
            UnknownVersionError: there is no version with that number.
            InputError: it has no adapter: its training has not finished, or never began for want of held-out videos.
        """
        with self.database.write() as session:
            version = _version(session, project_id, number)
            if not version.folder and version.state == CANDIDATE:
                raise InputError(
                    f"{version.name} has no adapter yet.",
                    f"Wait for its training, or see on the jobs page why that ended (job {version.job_id}).",
                )
            if not version.folder:
                raise InputError(f"{version.name} has no adapter: {version.reason}", "Train again after that.")
            version.reason = reason or version.reason
            _set(version, PROMOTED)
            return version

    def weakest_first(self, project_id: int, jobs: Iterable[Job]) -> Sequence[Job]:
        """Predictions of a task in the order in which each replaces those before it, from oldest to newest.

        What a version predicted that was rolled back counts only where there is nothing else: it comes first.
        """
        query = select(ModelVersion.name).where(
            ModelVersion.project_id == project_id, ModelVersion.state == ROLLED_BACK
        )
        with self.database.read() as session:
            out = set(session.scalars(query))
        return sorted(jobs, key=lambda job: job.model_version not in out)

    def rollback(self, project_id: int, base: str) -> tuple[ModelVersion, ModelVersion | None]:
        """Takes the serving version out of service, from the next job on. Returns it and the new one (None: the base).

        Raises:
            InputError: the base already serves.
        """
        with self.database.write() as session:
            version = _served(session, project_id, base)
            if version is None:
                name = _project_name(session, project_id)
                raise InputError(f"{name} is already served by the base {base}.", "There is nothing to roll back.")
            _set(version, ROLLED_BACK)
            session.flush()
            return version, _served(session, project_id, base)


def _served(session: Session, project_id: int, base: str) -> ModelVersion | None:
    return session.scalars(_SERVED, {"project": project_id, "base": base}).first()


# Built once, since each /predict runs it.
_SERVED = (
    select(ModelVersion)
    .where(
        ModelVersion.project_id == bindparam("project"),
        ModelVersion.base == bindparam("base"),
        ModelVersion.state == PROMOTED,
    )
    .order_by(ModelVersion.decided_at.desc(), ModelVersion.number.desc())
    .limit(1)
)


def _version(session: Session, project_id: int, number: int) -> ModelVersion:
    query = select(ModelVersion).where(ModelVersion.project_id == project_id, ModelVersion.number == number)
    version = session.scalar(query)
    if version is None:
        name = _project_name(session, project_id)
        raise UnknownVersionError(f"{name} has no model version {number}.", "`trajseg models list` lists them.")
    return version


def _project_name(session: Session, project_id: int) -> str:
    project = session.get(Project, project_id)
    return f"Project {project.label_studio_id if project else project_id}"


def _set(version: ModelVersion, state: str) -> None:
    version.state, version.decided_at = state, now()
