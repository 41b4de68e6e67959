"""Reading annotations: changes in Label Studio become corrections and refine jobs.

Webhooks are unsigned, time out after one second and are never repeated. They only say which project to look at, and
when. Label Studio's API is the source of truth: a sweep lists the tasks that changed since the last sweep. A project
named by a notice is swept at once, all projects every `annotation_sweep_seconds`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from backend.engines import OfferedEngines
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.forms import Prediction, Task
from backend.label_studio.incoming import corrections
from backend.label_studio.incoming.comparison import AnnotationComparison
from backend.label_studio.incoming.payloads import MAX_ADDRESS_LENGTH, storable
from backend.label_studio.outgoing.delivery import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, connected
from backend.label_studio.outgoing.superseding import withdraw
from backend.label_studio.refusals import MissingError, OtherProjectError
from backend.settings import Settings
from backend.store import (
    Change,
    Job,
    JobRequest,
    Project,
    ReadAnnotation,
    Store,
    UnreadTask,
    adoptions,
)
from backend.store.models import now
from label_config import LabelConfig, parse
from trajseg.engines.base import MAX_INSTRUCTION_LENGTH
from trajseg.errors import InputError, LabelConfigError, LabelStudioError, TrajSegError

log = logging.getLogger("trajseg.annotations")

INSTRUCTION_KEY = "instruction"
NOTICE_SECONDS = 0.3
"""Shortest pause between two rounds triggered by notices."""


class AnnotationReader:
    """Sweeps changed tasks and reads their annotations.

    Safe to run in several processes: a task is claimed, and each state of an annotation is recorded once.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.comparison = AnnotationComparison(store)
        self.settings = settings
        self.engines = OfferedEngines.from_settings(settings)
        self._swept_at: float | None = None
        self._lock = threading.Lock()
        self._noticed: dict[int, bool] = {}
        self._answered_at = 0.0

    def notice(self, project_id: int, configuration: bool = False) -> None:
        """Records that something may have changed in a project: the next round looks at it once.

        Args:
            project_id: the store's id of a known project, which bounds the number of notices.
            configuration: whether the notice is about the labelling configuration.
        """
        with self._lock:
            self._noticed[project_id] = self._noticed.get(project_id, False) or configuration

    def __call__(self) -> list[Job]:
        """One round; returns the jobs to queue. Does nothing without a token.

        Does not raise if Label Studio cannot be reached: the tasks remain unread until a later round.
        """
        if not self.settings.label_studio_api_key.get_secret_value():
            return []
        jobs: list[Job] = []
        client: LabelStudioClient | None = None
        noticed = self._take_notices()
        try:
            if self._sweep_due():
                client = connected(self.settings)
                self._sweep(client)
            elif noticed:
                client = connected(self.settings)
                self._sweep(client, noticed)
            for project_id in [project_id for project_id, changed in noticed.items() if changed]:
                client = client or connected(self.settings)
                self._refresh(client, project_id)
            for unread in self.store.unread.due():
                if self.store.unread.claim(unread):
                    client = client or connected(self.settings)
                    jobs += self._read_unread(client, unread)
        except LabelStudioError as error:
            log.warning("annotations will be read later: %s", error)
            for project_id, configuration in noticed.items():
                self.notice(project_id, configuration)
        except Exception:
            # Whatever went wrong, the queue and the deliveries must not be held up.
            log.exception("annotations will be read later")
        finally:
            if client is not None:
                client.close()
        return jobs

    def _take_notices(self) -> dict[int, bool]:
        with self._lock:
            noticed, self._noticed = self._noticed, {}
        if noticed:
            # However many notices arrive, Label Studio is not asked more often than this.
            time.sleep(max(self._answered_at + NOTICE_SECONDS - time.monotonic(), 0.0))
            self._answered_at = time.monotonic()
        return noticed

    def _refresh(self, client: LabelStudioClient, project_id: int) -> None:
        """Reads a project's labelling configuration from Label Studio; one that cannot be used is ignored."""
        project = self.store.projects.get(project_id)
        try:
            xml = str(client.project(client.id_of(project))["label_config"])
            parse(xml)
        except (MissingError, OtherProjectError, LabelConfigError) as error:
            log.info("the new labelling configuration of project %d is ignored: %s", project.label_studio_id, error)
            return
        self.store.projects.upsert(project.label_studio_id, "", xml, stamp=project.stamp)

    def _sweep_due(self) -> bool:
        waited = self._swept_at is None or time.monotonic() - self._swept_at >= self.settings.annotation_sweep_seconds
        if waited:
            self._swept_at = time.monotonic()
        return waited

    def _sweep(self, client: LabelStudioClient, only: Container[int] | None = None) -> None:
        """Records tasks that changed in Label Studio and have, or had, annotations.

        Args:
            only: the store's ids of the projects to look at; None for all.
        """
        for project in self.store.projects.list():
            if only is not None and project.id not in only:
                continue
            try:
                changed = client.changed_tasks(client.id_of(project), project.swept_to)
            except MissingError:
                continue
            except OtherProjectError as error:
                log.warning("the annotations of project %d are not read: %s", project.label_studio_id, error)
                continue
            if not changed:
                continue
            known = self.store.corrections.annotated_tasks(project.id, [one.id for one in changed])
            self.store.unread.add(project.id, [one.id for one in changed if one.annotated or one.id in known])
            self.store.projects.swept(project.id, max(one.updated_at for one in changed))

    def _read_unread(self, client: LabelStudioClient, unread: UnreadTask) -> list[Job]:
        try:
            jobs = self.read_task(client, self.store.projects.get(unread.project_id), unread.task_id)
        except Exception as error:
            if not isinstance(error, TrajSegError):
                log.exception("the annotations of task %d cannot be read", unread.task_id)
            pause = min(FIRST_RETRY_SECONDS * 2 ** min(unread.attempts, 20), LONGEST_RETRY_SECONDS)
            log.warning("the annotations of task %d will be read later: %s", unread.task_id, error)
            self.store.unread.postpone(unread, str(error), now() + timedelta(seconds=pause))
            return []
        self.store.unread.drop(unread)
        return jobs

    def read_task(self, client: LabelStudioClient, project: Project, task_id: int) -> list[Job]:
        """Reads all annotations of a task; returns the jobs that follow from them.

        Raises LabelStudioError, or LabelConfigError if the project's configuration cannot be read.
        """
        try:
            task = client.task(client.id_of(project), task_id)
        except MissingError:
            self._withdraw_all_but(project, task_id, ())
            return []
        # A skipped annotation says nothing about the tracks.
        annotations = storable([one for one in task.annotations if not one.get("was_cancelled")])
        withdrawn = self._withdraw_all_but(project, task_id, [int(one["id"]) for one in annotations])
        if withdrawn:
            withdraw(self.store, client, self.settings, project, task, withdrawn)
        known = {row.annotation_id: row for row in self.store.corrections.annotations(project.id, task_id)}
        new = []
        for annotation in annotations:
            row = known.get(int(annotation["id"]))
            if row is not None and row.withdrawn_at is None and row.version == _version(annotation):
                continue
            if row is not None and self.store.adoptions.is_ours(
                project.id, row.annotation_id, annotation.get("result") or []
            ):
                # What trajseg itself wrote is not a correction.
                self.store.corrections.seen(project.id, row.annotation_id, _version(annotation))
                continue
            new.append(annotation)
        if not new:
            return []
        config = parse(str(client.project(project.label_studio_id)["label_config"]))
        predictions = client.predictions(task_id)
        jobs = [self._read(project, config, task, predictions, annotation) for annotation in new]
        return [job for job in jobs if job is not None]

    def _withdraw_all_but(self, project: Project, task_id: int, there: Sequence[int]) -> set[int]:
        """Withdraws the corrections of deleted annotations; returns the ids of these annotations."""
        gone = set()
        for row in self.store.corrections.annotations(project.id, task_id):
            if row.annotation_id not in there and row.withdrawn_at is None:
                cancelled = self.store.corrections.withdraw(project.id, row.annotation_id)
                log.info("annotation %d is gone; cancelled for it: %s", row.annotation_id, cancelled or "nothing")
                gone.add(row.annotation_id)
        return gone

    def _read(
        self,
        project: Project,
        config: LabelConfig,
        task: Task,
        predictions: Sequence[Prediction],
        annotation: Mapping[str, Any],
    ) -> Job | None:
        parent = next((one for one in predictions if one.id == annotation.get("parent_prediction")), None)
        base, refused = None, None
        made: list[Change] = []
        captions: dict[str, str] = {}
        adopted = self.store.adoptions.of_annotation(project.id, int(annotation["id"]))
        try:
            base = self.comparison.base_job(config, project.id, task, parent, annotation)
            made, captions = self.comparison.changes(config, project.id, task, parent, base, annotation, adopted)
        except InputError as wrong:
            refused = wrong
            log.warning("annotation %s cannot be read: %s", annotation["id"], wrong)
        read = ReadAnnotation(
            project_id=project.id,
            task_id=task.id,
            annotation_id=int(annotation["id"]),
            version=_version(annotation),
            when=_moment(annotation.get("updated_at")),
            who=_who(annotation),
            job_id=base.id if base else None,
            lead_seconds=_number(annotation.get("lead_time")),
            captions=captions,
            error=str(refused or ""),
        )
        # Corrections to adopted tracks are corrections to the refined tracks.
        standing = adoptions.newest(adopted)
        onto = (self.comparison.job(standing.job_id) if standing else None) or base
        request = self._request(config, task, onto, read, made, refused)
        return self.store.corrections.record(read, made, request)

    def _request(
        self,
        config: LabelConfig,
        task: Task,
        base: Job | None,
        read: ReadAnnotation,
        made: Sequence[Change],
        refused: InputError | None,
    ) -> JobRequest | None:
        """The job that propagates the changes to the other frames; None if nothing changed.

        For an annotation that cannot be read it is a rejected one, so that the task's state and the jobs page say why.
        """
        if refused is None and not any(change.is_carried for change in made):
            return None
        video = storable(config.video_of(task.data) or "")
        instruction = base.instruction if base else storable(task.data.get(INSTRUCTION_KEY))
        engine = self.engines.chosen(self.store, self.store.projects.get(read.project_id))
        return JobRequest(
            "refine",
            read.project_id,
            task.id,
            base.video if base else str(video)[:MAX_ADDRESS_LENGTH],
            str(instruction or "")[:MAX_INSTRUCTION_LENGTH],
            # A person is waiting for it, and it is short; behind a thousand prelabel jobs it would come too late.
            "interactive",
            {"annotation_id": read.annotation_id, "base_job_id": base.id if base else None, **engine.params},
            engine.model_version,
            refused.message if refused else "",
            refused.remedy if refused else "",
            subject=f"annotation {read.annotation_id} {read.version if refused else corrections.digest(made)}",
        )


def _version(annotation: Mapping[str, Any]) -> str:
    """Label Studio updates this time with every change."""
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")[:64]


def _moment(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return now()
    return moment if moment.tzinfo else now()


def _who(annotation: Mapping[str, Any]) -> str:
    """The e-mail address if Label Studio gives it ("Ada a@b.org, 7"), else the user's number."""
    for word in str(annotation.get("created_username") or "").replace(",", " ").split():
        if "@" in word:
            return word[:200]
    return str(annotation.get("completed_by") or "")[:200]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else None
