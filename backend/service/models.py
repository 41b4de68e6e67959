"""What a person may do with model versions: promote one, roll back."""

from __future__ import annotations

from backend.engines import OfferedEngines
from backend.service.jobs import JobControl
from backend.service.training import relabelling
from backend.store import Job, Store
from backend.store.models import ModelVersion


class ModelControl:
    """Chooses which version serves a project, from the next job on.

    Args:
        relabel: whether a promoted version labels the tasks again that nobody has annotated.
    """

    def __init__(self, store: Store, jobs: JobControl, engines: OfferedEngines, relabel: bool) -> None:
        self.store, self.jobs, self.engines, self.relabel = store, jobs, engines, relabel

    def promote(self, project_id: int, number: int) -> tuple[ModelVersion, list[Job]]:
        """Have a version serve, whatever the gate said of it; with the jobs that label tasks again.

        Args:
            project_id: the store's own.

        Raises:
            UnknownVersionError: there is none of that number.
            InputError: it has not been trained to the end.
        """
        version = self.store.versions.promote(project_id, number, "Promoted by hand.")
        project = self.store.projects.get(project_id)
        if not self.relabel or self.engines.versions.get(project.engine or self.engines.default) != version.base:
            # Of an engine that does not serve the project now.
            return version, []
        added = self.jobs.add(relabelling(self.store, project_id, version.name, project.engine))
        return version, [job for job, created in added if created]

    def rollback(self, project_id: int) -> tuple[ModelVersion, ModelVersion | None]:
        """Take the version that serves out. Returns it, and the one that serves now (None: the base).

        Predictions stay as they are: those of the version that serves again are there already.

        Raises:
            InputError: the base serves already.
        """
        project = self.store.projects.get(project_id)
        base = self.engines.versions.get(project.engine or self.engines.default, self.engines.base(""))
        return self.store.versions.rollback(project_id, base)
