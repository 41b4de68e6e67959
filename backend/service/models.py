"""Operations on model versions: promote one, roll back."""

from __future__ import annotations

from pathlib import Path

from backend.engines import OfferedEngines
from backend.service.jobs import JobControl
from backend.service.training import relabelling
from backend.store import Job, Store
from backend.store.models import ModelVersion
from trajseg.checkpoints.manifest import checked_files, other_version


class ModelControl:
    """Chooses which version serves a project, from the next job on.

    Args:
        relabel: whether a promoted version pre-labels the unannotated tasks again.
        data_dir: where the adapters are.
    """

    def __init__(self, store: Store, jobs: JobControl, engines: OfferedEngines, relabel: bool, data_dir: Path) -> None:
        self.store, self.jobs, self.engines, self.relabel, self.data_dir = store, jobs, engines, relabel, data_dir

    def promote(self, project_id: int, number: int) -> tuple[ModelVersion, list[Job]]:
        """Makes a version serve, whatever the gate decided; also returns the jobs that relabel tasks.

        Args:
            project_id: the store's own.

        Raises:
            UnknownVersionError: there is no version with that number.
            InputError: it has no adapter.
            CheckpointError: a file of its adapter is missing or has changed, or belongs to another version.
        """
        wanted = self.store.versions.version(project_id, number)
        if wanted.folder:
            folder = self.data_dir / wanted.folder
            published = checked_files(folder)[0].model_version
            if published != wanted.name:
                raise other_version(folder, published, wanted.name)
        version = self.store.versions.promote(project_id, number, "Promoted by hand.")
        project = self.store.projects.get(project_id)
        if not self.relabel or self.engines.versions.get(project.engine or self.engines.default) != version.base:
            # It belongs to an engine that does not serve the project now.
            return version, []
        added = self.jobs.add(relabelling(self.store, project_id, version.name, project.engine))
        return version, [job for job, created in added if created]

    def rollback(self, project_id: int) -> tuple[ModelVersion, ModelVersion | None]:
        """Takes the serving version out of service. Returns it and the one that serves now (None: the base).

        Predictions are kept: those of the version that serves again are still there.

        Raises:
            InputError: the base already serves.
        """
        project = self.store.projects.get(project_id)
        base = self.engines.versions.get(project.engine or self.engines.default, self.engines.base(""))
        return self.store.versions.rollback(project_id, base)
