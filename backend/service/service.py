"""Handles Label Studio's requests; called by the routes and by the label-studio-ml adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.engines import ChosenEngine, OfferedEngines
from backend.label_studio.incoming.payloads import PredictRequest, ProjectReference, SetupRequest, Task
from backend.queue import JobQueue
from backend.service.batch import BatchLabelling
from backend.service.combining import asked_once
from backend.service.interactive import Answer, InteractiveLabelling
from backend.service.jobs import JobControl
from backend.service.models import ModelControl
from backend.service.openings import Openings
from backend.service.webhooks import OnNotice, Webhooks
from backend.settings import Settings
from backend.store import Project, Store
from label_config import parse
from trajseg.errors import InputError


class Service:
    """Requests in, jobs in the store, answers out. Safe to share between threads.

    Args:
        on_notice: see Webhooks.

    Attributes:
        engines: the offered engines; `version_of` a project is what /setup answers and predictions carry.
        jobs: queues, cancels and retries jobs, and starts trainings.
        models: promotes versions of projects' models and rolls them back.
        webhooks: receives Label Studio's events.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        engines: OfferedEngines,
        on_notice: OnNotice = lambda *_: None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.queue = queue
        self.engines = engines
        self.jobs = JobControl(store, queue, self.engines)
        relabel = settings.relabel_after_promotion
        self.models = ModelControl(store, self.jobs, self.engines, relabel, settings.data_dir)
        self.batch = BatchLabelling(store, self.jobs, settings.retry_failed_seconds)
        self.interactive = InteractiveLabelling(store, self.jobs, settings)
        self.webhooks = Webhooks(store, self.jobs, on_notice)
        self.openings = Openings(store)
        self._known = asked_once(self._look_up)

    def setup(self, request: SetupRequest) -> dict[str, Any]:
        """Records the project and the engine that its connection names.

        Raises:
            LabelConfigError: trajseg cannot use its configuration.
            InputError: the engine is not offered; the project keeps its current one.
        """
        reference = ProjectReference.read(request.project)
        project = self.store.projects.upsert(
            reference.label_studio_id, request.hostname, request.label_config, stamp=reference.stamp
        )
        parse(request.label_config)
        engine = self.engines.checked(request.engine)
        project = self.store.engines.choose(project.id, engine, self.engines.second(engine, request.compare))
        return {"model_version": self.version_of(project)}

    @property
    def model_version(self) -> str:
        """The default engine's, without a project's adapter."""
        return self.engines.base("")

    def base_of(self, project: Project) -> str:
        """The version of a project's engine without an adapter; of the default engine if it is no longer offered."""
        return self.engines.versions.get(project.engine, self.model_version)

    def version_of(self, project: Project) -> str:
        """The model version that serves a project now. Raises InputError if its engine is no longer offered."""
        return self.engines.chosen(self.store, project).model_version

    def predict(self, request: PredictRequest) -> Answer:
        """Stores and queues a job for each task, and returns what Label Studio takes as "not yet".

        Without a context this is a batch request: the answer is empty and the results are delivered later. With a
        context a person is waiting at the page: see InteractiveLabelling.

        Raises:
            InputError: the project cannot be identified, or its labelling configuration cannot be used; if there is a
            project, the tasks are still stored as rejected jobs.
        """
        reference = ProjectReference.read(request.project)
        asked = (reference.label_studio_id, reference.stamp, request.label_config, request.params.engine)
        project, engine = self._known(asked)
        context = request.params.context
        if context is not None and not context.result:
            # The page sends this after each submit; nothing is requested.
            return _nothing(request.tasks)
        try:
            if isinstance(engine, InputError):
                raise engine
            config = parse(project.label_config)
        except InputError as error:
            if context is None:
                chosen = engine if isinstance(engine, ChosenEngine) else None
                self.batch.reject(project, chosen, request.tasks, error)
            raise
        if context is not None:
            self.openings.note(project, request.tasks)
            return self.interactive.answer(project, engine, config, request.tasks, context)
        # Someone may have just opened it: Label Studio sends the same request in that case.
        alone = len(request.tasks) == 1 and not request.tasks[0].predictions
        opened = self.openings.due(project, request.tasks) if alone else []
        self.batch.label(project, engine, config, request.tasks, opened)
        self.openings.noted(*opened)
        return []

    def _look_up(self, asked: tuple[int, str, str, str]) -> tuple[Project, ChosenEngine | InputError]:
        """The project of a request, and the engine that serves it, or the reason why there is none."""
        number, stamp, label_config, engine = asked
        with self.store.database.reads():
            projects = self.store.projects
            if label_config:
                project = projects.known(number, label_config, stamp)
            else:
                project = projects.of_label_studio(number, stamp)
            if project is not None:
                return project, self._engine_of(project, engine)
        project = self.store.projects.upsert(number, "", label_config, stamp=stamp)
        return project, self._engine_of(project, engine)

    def _engine_of(self, project: Project, wanted: str) -> ChosenEngine | InputError:
        try:
            return self.engines.chosen(self.store, project, wanted)
        except InputError as error:
            return error


def _nothing(tasks: Sequence[Task]) -> Answer:
    # An empty list of results makes the page show an error to a waiting person.
    return [{"result": []} for _ in tasks]
