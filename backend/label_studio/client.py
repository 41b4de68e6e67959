"""What trajseg does on a Label Studio server: projects, tasks, predictions, annotations, webhooks and ML backends."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backend.addresses import served_path
from backend.label_studio.api import NO_SDK_RETRIES, LabelStudioApi
from backend.label_studio.forms import ChangedTask, Prediction, Task
from backend.label_studio.refusals import MissingError, OtherProjectError, RefusedError
from backend.store import Project
from label_config.values import assigned, lookup
from trajseg.errors import LabelStudioError
from trajseg.files import printable

TESTED_VERSION = "1.23.2"
"""The Label Studio that trajseg is tested against; the editor behaves differently in others."""

TASKS_A_PAGE = 200


class LabelStudioClient:
    """One Label Studio server with one token.

    Reads and updates are retried on connection errors and 5xx answers. Creating something is retried only if the
    request cannot have arrived, since it would otherwise be created twice.

    The arguments are those of LabelStudioApi.

    Every method raises LabelStudioError, which says what went wrong and what to do.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        attempts: int = 4,
        wait: float = 8.0,
        timeout: float = 60.0,
        deadline: float | None = None,
    ) -> None:
        self._api = LabelStudioApi(url, api_key, attempts=attempts, wait=wait, timeout=timeout, deadline=deadline)
        self.url = self._api.url
        self.token_kind = self._api.token_kind
        self._checked: set[int] = set()

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    def version(self) -> str:
        """Label Studio's version, such as "1.23.2"."""
        answer = self._api.again(lambda: self._api.sdk.versions.get(request_options=NO_SDK_RETRIES))
        return str(answer.release or "unknown")

    def whoami(self) -> str:
        """The e-mail address of the token's owner."""
        return str(self._api.again(lambda: self._api.sdk.users.whoami(request_options=NO_SDK_RETRIES)).email)

    def project(self, project_id: int) -> dict[str, Any]:
        """A project's fields. Raises MissingError if there is no such project."""
        try:
            return self._api.again(
                lambda: self._api.sdk.projects.get(project_id, request_options=NO_SDK_RETRIES)
            ).dict()
        except MissingError as error:
            raise MissingError(
                f"Label Studio at {self.url} has no project {project_id}, or hides it from this token.",
                "If it was deleted, there is nothing left to do; what trajseg knows about it stays in the store.",
                error.status,
            ) from error

    def id_of(self, project: Project) -> int:
        """Label Studio's id of a project of the store.

        Another Label Studio, or one that was set up again, has other projects under the same ids. Only the time at
        which a project was created tells them apart; it is compared once.

        Raises OtherProjectError, or MissingError if there is no such project.
        """
        if project.id not in self._checked:
            created = self.project(project.label_studio_id).get("created_at")
            if project.stamp and isinstance(created, datetime) and int(created.timestamp()) != int(project.stamp):
                raise OtherProjectError(
                    f"Project {project.label_studio_id} of Label Studio at {self.url} is not the one that trajseg "
                    f"knows: it was created at another time ({created.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC).",
                    "Check LABEL_STUDIO_URL. What waits for the other project stays in the store.",
                )
            self._checked.add(project.id)
        return project.label_studio_id

    def create_project(self, title: str, label_config: str, **settings: Any) -> int:
        """Creates a project and returns its id."""
        project = self._api.once(
            lambda: self._api.sdk.projects.create(
                title=title, label_config=label_config, request_options=NO_SDK_RETRIES, **settings
            )
        )
        return int(project.id)  # type: ignore[arg-type]

    def update_project(self, project_id: int, **settings: Any) -> None:
        """Changes fields of a project."""
        self._api.again(lambda: self._api.sdk.projects.update(project_id, request_options=NO_SDK_RETRIES, **settings))

    def upload(self, project_id: int, path: Path, name: str | None = None) -> str:
        """Uploads a file without creating a task for it, and returns its address for task data."""
        # A name that is not UTF-8 cannot be sent.
        name = printable(name or path.name).replace("\\", "_")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"

        def send() -> Any:
            # The SDK has no call for an upload that creates no task.
            with path.open("rb") as file:
                return self._api.send(
                    "POST",
                    f"/api/projects/{project_id}/import",
                    params={"commit_to_project": "false"},
                    files={"file": (name, file, media_type)},
                    timeout=None,
                )

        upload_id = self._api.once(send)["file_upload_ids"][0]
        held = self._api.again(lambda: self._api.sdk.files.get(upload_id, request_options=NO_SDK_RETRIES))
        return served_path(f"/data/{held.file}", self.url)

    def add_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Creates one task per item of `data` and returns their ids in the same order."""
        answer = self._api.once(
            lambda: self._api.sdk.projects.import_tasks(
                project_id,
                request=[{"data": dict(one)} for one in data],  # type: ignore[misc]
                return_task_ids=True,
                request_options=NO_SDK_RETRIES,
            )
        )
        ids = [int(task_id) for task_id in getattr(answer, "task_ids", None) or []]
        if len(ids) != len(data):
            raise LabelStudioError(
                f"Label Studio created {len(ids)} of the {len(data)} tasks sent.",
                "Look at the project's tasks in Label Studio, delete the incomplete import, and import again.",
            )
        return ids

    def tasks(self, project_id: int) -> list[Task]:
        """All tasks of a project."""
        return self._list_tasks(project_id, None)

    def task(self, project_id: int, task_id: int) -> Task:
        """A task. Raises MissingError if it has been deleted.

        Read the way the Data Manager does: reading a single task without a prediction makes Label Studio ask its ML
        backend for one and wait for it.
        """
        found = self._list_tasks(project_id, task_id)
        if not found:
            raise MissingError(
                f"Label Studio project {project_id} has no task {task_id}.",
                "It has been deleted; there is nothing left to do.",
                404,
            )
        return found[0]

    def changed_tasks(self, project_id: int, since: str = "") -> list[ChangedTask]:
        """Tasks of a project that changed after `since`, oldest change first; without `since`, all annotated tasks.

        Creating, changing or deleting an annotation updates its task's time, and so do predictions and task data.
        """
        wanted = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since}
        if not since:
            wanted = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": "0"}
        query = {"ordering": ["tasks:updated_at"], "filters": {"conjunction": "and", "items": [wanted]}}

        def read() -> list[ChangedTask]:
            found: list[ChangedTask] = []
            for page in range(1, 10_000):
                form = self._api.send(
                    "GET",
                    "/api/tasks",
                    params={
                        "project": project_id,
                        "query": json.dumps(query),
                        "fields": "task_only",
                        "resolve_uri": "false",
                        "page": page,
                        "page_size": TASKS_A_PAGE,
                    },
                )
                found += [
                    ChangedTask(int(task["id"]), str(task["updated_at"]), bool(task.get("total_annotations")))
                    for task in form["tasks"]
                ]
                if len(form["tasks"]) < TASKS_A_PAGE or len(found) >= form["total"]:
                    break
            return found

        return self._api.again(read)

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The webhooks of a project; connecting an ML backend creates one for it."""
        held = self._api.again(lambda: self._api.sdk.webhooks.list(project=project_id, request_options=NO_SDK_RETRIES))
        return [one.dict() for one in held]

    def update_webhook(self, webhook_id: int, **changes: Any) -> None:
        """Changes fields of a webhook."""
        self._api.again(lambda: self._api.sdk.webhooks.update(webhook_id, request_options=NO_SDK_RETRIES, **changes))

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> int:
        """Adds a tab to a project's Data Manager and returns its id."""
        made = self._api.once(
            lambda: self._api.sdk.views.create(
                project=project_id,
                data=dict(data),
                request_options=NO_SDK_RETRIES,
            )
        )
        return int(made.id)

    def views(self, project_id: int) -> list[dict[str, Any]]:
        """The tabs of a project's Data Manager: `id` and `data` of each."""
        held = self._api.again(lambda: self._api.sdk.views.list(project=project_id, request_options=NO_SDK_RETRIES))
        return [one.dict() for one in held]

    def update_task_data(self, project_id: int, task_id: int, changes: Mapping[str, Any]) -> Task:
        """Sets some keys of task data and leaves the others; does nothing if they already have these values.

        A key may be a path such as `media.fps`, as in labelling configurations. Returns the task as it was before.
        """
        # Label Studio replaces task data as a whole, so it is read immediately before.
        task = self.task(project_id, task_id)
        data = task.data
        if any(lookup(data, key) != value for key, value in changes.items()):
            try:
                for key, value in changes.items():
                    data = assigned(data, key, value)
            except KeyError as error:
                raise RefusedError(
                    f"The data of task {task_id} lacks the key or list item {error}.",
                    "Import the task again with it.",
                ) from error
            self._api.again(lambda: self._api.sdk.tasks.update(str(task_id), data=data, request_options=NO_SDK_RETRIES))
        return task

    def set_task_key(self, project_id: int, task_ids: Sequence[int], key: str, text: str) -> None:
        """Sets one key in the data of many tasks to a text, in one request; deleted tasks are ignored.

        Uses the Data Manager's action "Add Or Modify Data Field", which writes this key alone: concurrent changes to
        other keys are kept.
        """
        self._api.again(
            lambda: self._api.send(
                "POST",
                "/api/dm/actions",
                params={"id": "add_data_field", "project": project_id},
                json={
                    "selectedItems": {"all": False, "included": list(task_ids)},
                    "value_name": key,
                    "value_type": "String",
                    "value": text,
                },
            )
        )

    def predictions(self, task_id: int) -> list[Prediction]:
        """A task's predictions, oldest first."""
        held = self._api.again(lambda: self._api.sdk.predictions.list(task=task_id, request_options=NO_SDK_RETRIES))
        found = [
            Prediction(int(one.id), str(one.model_version or ""), list(one.result or []), one.score) for one in held
        ]
        return sorted(found, key=lambda one: one.id)

    def create_prediction(
        self, task_id: int, result: list[dict[str, Any]], score: float | None, model_version: str
    ) -> int:
        """Adds a prediction to a task and returns its id."""
        made = self._api.once(
            lambda: self._api.sdk.predictions.create(
                task=task_id,
                result=result,
                score=score,
                model_version=model_version,
                request_options=NO_SDK_RETRIES,
            )
        )
        return int(made.id)

    def update_prediction(self, prediction_id: int, **changes: Any) -> None:
        """Changes fields of a prediction (`result`, `score`, `model_version`); its id is kept."""
        self._api.again(
            lambda: self._api.sdk.predictions.update(prediction_id, request_options=NO_SDK_RETRIES, **changes)
        )

    def delete_prediction(self, prediction_id: int) -> None:
        """Deletes a prediction; one that is already gone is not an error."""
        try:
            self._api.again(lambda: self._api.sdk.predictions.delete(prediction_id, request_options=NO_SDK_RETRIES))
        except MissingError:
            return

    def annotation(self, annotation_id: int) -> dict[str, Any]:
        """An annotation's fields, including `result`; raises MissingError if it has been deleted."""
        return dict(self._api.again(lambda: self._api.send("GET", f"/api/annotations/{annotation_id}/")))

    def update_annotation(self, annotation_id: int, result: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Replaces the results of an annotation and returns the updated annotation; its author is kept."""
        changes = {"result": [dict(item) for item in result]}
        return dict(
            self._api.again(lambda: self._api.send("PATCH", f"/api/annotations/{annotation_id}/", json=changes))
        )

    def drafts(self, task_id: int) -> list[dict[str, Any]]:
        """All drafts of a task, of all users; `annotation` is the annotation a draft changes, None for a new one."""
        return list(self._api.again(lambda: self._api.send("GET", f"/api/tasks/{task_id}/drafts")))

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """The ML backends connected to a project; Label Studio calls /health and /setup of each to answer this."""
        held = self._api.again(lambda: self._api.sdk.ml.list(project=project_id, request_options=NO_SDK_RETRIES))
        return [one.dict() for one in held]

    def connect_backend(
        self,
        project_id: int,
        url: str,
        *,
        title: str,
        user: str = "",
        password: str = "",
        extra_params: Mapping[str, Any] | None = None,
    ) -> int:
        """Connects an ML backend for batch and interactive predictions, and returns its id.

        Args:
            extra_params: what Label Studio sends to the backend's /setup and shows in its settings.
        """
        more: dict[str, Any] = {"extra_params": dict(extra_params)} if extra_params else {}
        made = self._api.once(
            lambda: self._api.sdk.ml.create(
                project=project_id,
                url=url,
                title=title,
                is_interactive=True,
                request_options=NO_SDK_RETRIES,
                **_authentication(user, password),
                **more,
            )
        )
        return int(made.id)

    def change_backend(
        self,
        backend_id: int,
        project_id: int,
        url: str,
        *,
        title: str,
        extra_params: Mapping[str, Any],
        user: str = "",
        password: str = "",
    ) -> None:
        """Changes a connected ML backend; Label Studio calls its /setup with the new `extra_params` first.

        The project uses the title as its model version.
        """
        self._api.again(
            lambda: self._api.sdk.ml.update(
                backend_id,
                project=project_id,
                url=url,
                title=title,
                extra_params=dict(extra_params),
                request_options=NO_SDK_RETRIES,
                **_authentication(user, password),
            )
        )

    def delete_backend(self, backend_id: int) -> None:
        """Disconnects an ML backend."""
        self._api.again(lambda: self._api.sdk.ml.delete(backend_id, request_options=NO_SDK_RETRIES))

    def delete_project(self, project_id: int) -> None:
        """Deletes a project with all its tasks."""
        self._api.again(lambda: self._api.sdk.projects.delete(project_id, request_options=NO_SDK_RETRIES))

    def _list_tasks(self, project_id: int, task_id: int | None) -> list[Task]:
        selected = {"all": task_id is None, ("excluded" if task_id is None else "included"): []}
        if task_id is not None:
            selected["included"] = [task_id]

        def read() -> list[Task]:
            pages: Any = self._api.sdk.tasks.list(
                project=project_id,
                fields="all",
                query=json.dumps({"selectedItems": selected}),
                resolve_uri=False,
                request_options=NO_SDK_RETRIES,
            )
            # Requesting a second page that does not exist costs a request and a warning in the log.
            forms = pages if task_id is None else pages.items or []
            return [Task.from_json(one.dict(), project_id) for one in forms]

        return self._api.again(read)


def _authentication(user: str, password: str) -> dict[str, Any]:
    """How Label Studio identifies itself to an ML backend."""
    if not user:
        return {"auth_method": "NONE"}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
