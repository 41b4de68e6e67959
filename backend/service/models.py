"""Operations on model versions: promote one, roll back."""

from __future__ import annotations

from pathlib import Path

from backend.engines import OfferedEngines
from backend.service.jobs import JobControl
from backend.service.training import relabelling
from backend.store import Job, Store
from backend.store.models import ModelVersion
from backend.store.versions import base_of
from trajseg.checkpoints.manifest import checked_files, other_version


class ModelControl:
    """Chooses which version serves a project, from the next job on.

    Args:
        relabel: whether a version that begins to serve pre-labels the unannotated tasks again.
        data_dir: where the adapters are.
    """

    def __init__(self, store: Store, jobs: JobControl, engines: OfferedEngines, relabel: bool, data_dir: Path) -> None:
        self.store, self.jobs, self.engines = store, jobs, engines
        self.relabel, self.data_dir = relabel, data_dir

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
        return version, self._labelled_again(project_id, version.name)

    def rollback(self, project_id: int) -> tuple[ModelVersion, ModelVersion | None, list[Job]]:
        """Takes the serving version out of service.

        Returns it, the one that serves now (None: the base), and the jobs by which that labels tasks.

        Its predictions are kept, but those of the version that serves again lead their tasks. Where that has none, it
        pre-labels.

        Raises:
            InputError: the base already serves.
        """
        project = self.store.projects.get(project_id)
        base = self.engines.versions.get(project.engine or self.engines.default, self.engines.base(""))
        out, serving = self.store.versions.rollback(project_id, base)
        return out, serving, self._labelled_again(project_id, serving.name if serving else base)

    def _labelled_again(self, project_id: int, version: str) -> list[Job]:
        """The new jobs by which a version relabels the unannotated tasks; results that it already has are sent again.

        None if relabelling is off, or the version belongs to an engine that does not serve the project now.
        """
        project = self.store.projects.get(project_id)
        served = self.engines.versions.get(project.engine or self.engines.default)
        if not self.relabel or served != base_of(version):
            return []
        added = self.jobs.add(relabelling(self.store, project_id, version, project.engine))
        for job, created in added:
            if not created and job.state == "done":
                self.store.deliveries.send_again(job.id)
        return [job for job, created in added if created]
