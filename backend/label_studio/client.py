"""Label Studio's API as trajseg uses it: a thin layer over label-studio-sdk with our errors and retries."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions
from pydantic import ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from backend.addresses import served_path
from backend.label_studio.refusals import (
    NEW_TOKEN,
    MissingError,
    RefusedError,
    UnavailableError,
    refusal,
    retry_after_seconds,
)
from backend.patience import DeadlineError, Patience, patient_transport
from backend.tls import certificate_trouble, ssl_context
from label_config.values import assigned, lookup
from trajseg.errors import LabelStudioError
from trajseg.files import printable

TESTED_VERSION = "1.23.2"
"""The Label Studio version that trajseg is tested against; the editor behaves differently in others."""

TASKS_A_PAGE = 200
LONGEST_WISH_SECONDS = 8.0
"""A longer Retry-After is left to the caller instead of being waited for here."""
TokenKind = Literal["none", "legacy", "personal access", "access"]
T = TypeVar("T")

_START_LABEL_STUDIO = "Start Label Studio, or set LABEL_STUDIO_URL to its address; `trajseg doctor` checks both."


@dataclass(frozen=True)
class Prediction:
    """A prediction as stored in Label Studio."""

    id: int
    model_version: str
    result: list[dict[str, Any]]
    score: float | None = None


@dataclass(frozen=True)
class Task:
    """A task as stored in Label Studio.

    Attributes:
        data: task data with storage addresses as written, not as resolved for a browser.
        annotations: with their results.
        has_draft: whether anyone has an unsubmitted draft on it.
        drafts: the drafts that Label Studio returns, with their results.
    """

    id: int
    project: int
    data: dict[str, Any]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    has_draft: bool = False
    drafts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ChangedTask:
    """A task in which something has changed.

    Attributes:
        updated_at: when, as Label Studio writes it (ISO 8601 in UTC, so text order is time order).
        annotated: whether it has an annotation, including a skipped one.
    """

    id: int
    updated_at: str
    annotated: bool


class LabelStudioClient:
    """One Label Studio server with one token.

    Reads and updates are retried on connection errors and 5xx answers. Creating something is retried only if the
    request cannot have arrived, since it would otherwise be created twice.

    Args:
        url: Label Studio's address.
        api_key: legacy token, or personal access token (exchanged and renewed by label-studio-sdk).
        attempts: how often a request is sent at most.
        wait: longest pause between two attempts, seconds.
        timeout: for one request, seconds.
        deadline: seconds for all requests together, however slowly answers arrive; None: no limit.

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
        self.url = url.rstrip("/")
        api_key = api_key.strip()
        self.token_kind = token_kind(api_key)
        self._attempts = attempts
        self._wait = wait
        self._options: RequestOptions = {"max_retries": 0}
        patience = Patience(deadline) if deadline is not None else None
        self._http = httpx.Client(
            timeout=timeout, follow_redirects=True, transport=patient_transport(ssl_context(), patience)
        )
        if self.token_kind == "none":
            raise LabelStudioError("There is no Label Studio token.", NEW_TOKEN)
        try:
            self._sdk = LabelStudio(base_url=self.url, api_key=api_key, httpx_client=self._http, max_retries=0)
        except ApiError as error:
            # The SDK checks the expiry date of a personal access token before it sends anything.
            raise refusal(error, self.url) from error
        # Without the slash the SDK drops the last part of the path, and token exchange fails below a path prefix.
        self._sdk._client_wrapper._tokens_client._base_url = f"{self.url}/"

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def version(self) -> str:
        """Label Studio's version, such as "1.23.2"."""
        answer = self._again(lambda: self._sdk.versions.get(request_options=self._options))
        return str(answer.release or "unknown")

    def whoami(self) -> str:
        """The e-mail address of the token's owner."""
        return str(self._again(lambda: self._sdk.users.whoami(request_options=self._options)).email)

    def project(self, project_id: int) -> dict[str, Any]:
        """A project's fields."""
        return self._again(lambda: self._sdk.projects.get(project_id, request_options=self._options)).dict()

    def create_project(self, title: str, label_config: str, **settings: Any) -> int:
        """Creates a project and returns its id."""
        project = self._once(
            lambda: self._sdk.projects.create(
                title=title, label_config=label_config, request_options=self._options, **settings
            )
        )
        return int(project.id)  # type: ignore[arg-type]

    def update_project(self, project_id: int, **settings: Any) -> None:
        """Changes fields of a project."""
        self._again(lambda: self._sdk.projects.update(project_id, request_options=self._options, **settings))

    def upload(self, project_id: int, path: Path, name: str | None = None) -> str:
        """Uploads a file without creating a task for it, and returns its address for task data."""
        # A name that is not UTF-8 cannot be sent.
        name = printable(name or path.name).replace("\\", "_")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"

        def send() -> dict[str, Any]:
            # The SDK has no call for an upload that creates no task.
            headers = self._sdk._client_wrapper.get_headers()
            with path.open("rb") as file:
                answer = self._http.post(
                    f"{self.url}/api/projects/{project_id}/import",
                    params={"commit_to_project": "false"},
                    files={"file": (name, file, media_type)},
                    headers={key: value for key, value in headers.items() if key.lower() != "content-type"},
                    timeout=None,
                )
            if answer.status_code >= 300:
                raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))
            return dict(answer.json())

        upload_id = self._once(send)["file_upload_ids"][0]
        held = self._again(lambda: self._sdk.files.get(upload_id, request_options=self._options))
        return served_path(f"/data/{held.file}", self.url)

    def add_tasks(self, project_id: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Creates one task per item of `data` and returns their ids in the same order."""
        answer = self._once(
            lambda: self._sdk.projects.import_tasks(
                project_id,
                request=[{"data": dict(one)} for one in data],  # type: ignore[misc]
                return_task_ids=True,
                request_options=self._options,
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
                answer = self._http.get(
                    f"{self.url}/api/tasks",
                    params={
                        "project": project_id,
                        "query": json.dumps(query),
                        "fields": "task_only",
                        "resolve_uri": "false",
                        "page": page,
                        "page_size": TASKS_A_PAGE,
                    },
                    headers=self._sdk._client_wrapper.get_headers(),
                )
                if answer.status_code >= 300:
                    raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))
                form = answer.json()
                found += [
                    ChangedTask(int(one["id"]), str(one["updated_at"]), bool(one.get("total_annotations")))
                    for one in form["tasks"]
                ]
                if len(form["tasks"]) < TASKS_A_PAGE or len(found) >= form["total"]:
                    break
            return found

        return self._again(read)

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The webhooks of a project; connecting an ML backend creates one for it."""
        held = self._again(lambda: self._sdk.webhooks.list(project=project_id, request_options=self._options))
        return [one.dict() for one in held]

    def update_webhook(self, webhook_id: int, **changes: Any) -> None:
        """Changes fields of a webhook."""
        self._again(lambda: self._sdk.webhooks.update(webhook_id, request_options=self._options, **changes))

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> int:
        """Adds a tab to a project's Data Manager and returns its id."""
        made = self._once(
            lambda: self._sdk.views.create(
                project=project_id,
                data=dict(data),
                request_options=self._options,
            )
        )
        return int(made.id)

    def views(self, project_id: int) -> list[dict[str, Any]]:
        """The tabs of a project's Data Manager: `id` and `data` of each."""
        held = self._again(lambda: self._sdk.views.list(project=project_id, request_options=self._options))
        return [one.dict() for one in held]

    def update_task_data(self, project_id: int, task_id: int, changes: Mapping[str, Any]) -> None:
        """Sets some keys of task data and leaves the others; does nothing if they already have these values.

        A key may be a path such as `media.fps`, as in labelling configurations.
        """
        # Label Studio replaces task data as a whole, so it is read immediately before.
        data = self.task(project_id, task_id).data
        if any(lookup(data, key) != value for key, value in changes.items()):
            try:
                for key, value in changes.items():
                    data = assigned(data, key, value)
            except KeyError as error:
                raise RefusedError(
                    f"The data of task {task_id} has no place for {error}.",
                    "Import the task again, with that place in it.",
                ) from error
            self._again(lambda: self._sdk.tasks.update(str(task_id), data=data, request_options=self._options))

    def set_task_key(self, project_id: int, task_ids: Sequence[int], key: str, text: str) -> None:
        """Sets one key in the data of many tasks to a text, in one request; deleted tasks are ignored.

        Uses the Data Manager's action "Add Or Modify Data Field", which writes this key alone: concurrent changes to
        other keys are kept.
        """

        def write() -> None:
            answer = self._http.post(
                f"{self.url}/api/dm/actions",
                params={"id": "add_data_field", "project": project_id},
                json={
                    "selectedItems": {"all": False, "included": list(task_ids)},
                    "value_name": key,
                    "value_type": "String",
                    "value": text,
                },
                headers=self._sdk._client_wrapper.get_headers(),
            )
            if answer.status_code >= 300:
                raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))

        self._again(write)

    def predictions(self, task_id: int) -> list[Prediction]:
        """A task's predictions, oldest first."""
        held = self._again(lambda: self._sdk.predictions.list(task=task_id, request_options=self._options))
        found = [
            Prediction(int(one.id), str(one.model_version or ""), list(one.result or []), one.score) for one in held
        ]
        return sorted(found, key=lambda one: one.id)

    def create_prediction(
        self, task_id: int, result: list[dict[str, Any]], score: float | None, model_version: str
    ) -> int:
        """Adds a prediction to a task and returns its id."""
        made = self._once(
            lambda: self._sdk.predictions.create(
                task=task_id,
                result=result,
                score=score,
                model_version=model_version,
                request_options=self._options,
            )
        )
        return int(made.id)

    def update_prediction(self, prediction_id: int, **changes: Any) -> None:
        """Changes fields of a prediction (`result`, `score`, `model_version`); its id is kept."""
        self._again(lambda: self._sdk.predictions.update(prediction_id, request_options=self._options, **changes))

    def delete_prediction(self, prediction_id: int) -> None:
        """Deletes a prediction; one that is already gone is not an error."""
        try:
            self._again(lambda: self._sdk.predictions.delete(prediction_id, request_options=self._options))
        except MissingError:
            return

    def annotation(self, annotation_id: int) -> dict[str, Any]:
        """An annotation's fields, including `result`; raises MissingError if it has been deleted."""
        return self._get(f"/api/annotations/{annotation_id}/")

    def update_annotation(self, annotation_id: int, result: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Replaces the results of an annotation and returns the updated annotation; its author is kept."""

        def write() -> dict[str, Any]:
            answer = self._http.patch(
                f"{self.url}/api/annotations/{annotation_id}/",
                json={"result": [dict(item) for item in result]},
                headers=self._sdk._client_wrapper.get_headers(),
            )
            if answer.status_code >= 300:
                raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))
            return dict(answer.json())

        return self._again(write)

    def drafts(self, task_id: int) -> list[dict[str, Any]]:
        """All drafts of a task, of all users; `annotation` is the annotation a draft changes, None for a new one."""
        return list(self._get(f"/api/tasks/{task_id}/drafts"))

    def _get(self, path: str) -> Any:
        def read() -> Any:
            answer = self._http.get(f"{self.url}{path}", headers=self._sdk._client_wrapper.get_headers())
            if answer.status_code >= 300:
                raise ApiError(status_code=answer.status_code, headers=dict(answer.headers), body=_body(answer))
            return answer.json()

        return self._again(read)

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """The ML backends connected to a project; Label Studio calls /health and /setup of each to answer this."""
        held = self._again(lambda: self._sdk.ml.list(project=project_id, request_options=self._options))
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
        made = self._once(
            lambda: self._sdk.ml.create(
                project=project_id,
                url=url,
                title=title,
                is_interactive=True,
                request_options=self._options,
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
        self._again(
            lambda: self._sdk.ml.update(
                backend_id,
                project=project_id,
                url=url,
                title=title,
                extra_params=dict(extra_params),
                request_options=self._options,
                **_authentication(user, password),
            )
        )

    def delete_backend(self, backend_id: int) -> None:
        """Disconnects an ML backend."""
        self._again(lambda: self._sdk.ml.delete(backend_id, request_options=self._options))

    def delete_project(self, project_id: int) -> None:
        """Deletes a project with all its tasks."""
        self._again(lambda: self._sdk.projects.delete(project_id, request_options=self._options))

    def _list_tasks(self, project_id: int, task_id: int | None) -> list[Task]:
        selected = {"all": task_id is None, ("excluded" if task_id is None else "included"): []}
        if task_id is not None:
            selected["included"] = [task_id]

        def read() -> list[Task]:
            pages: Any = self._sdk.tasks.list(
                project=project_id,
                fields="all",
                query=json.dumps({"selectedItems": selected}),
                resolve_uri=False,
                request_options=self._options,
            )
            # Requesting a second page that does not exist costs a request and a warning in the log.
            forms = pages if task_id is None else pages.items or []
            return [_task(one.dict(), project_id) for one in forms]

        return self._again(read)

    def _again(self, call: Callable[[], T]) -> T:
        return self._call(call, _worth_another_try)

    def _once(self, call: Callable[[], T]) -> T:
        return self._call(call, lambda error: isinstance(error, httpx.ConnectError | httpx.ConnectTimeout))

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: Retry-After if present, else exponential back-off."""
        error = state.outcome.exception() if state.outcome else None
        wanted = retry_after_seconds(error.headers) if isinstance(error, ApiError) else None
        if wanted is not None:
            return min(wanted, self._wait)
        return float(wait_exponential(multiplier=min(0.5, self._wait), max=self._wait)(state))

    def _call(self, call: Callable[[], T], worth: Callable[[BaseException], bool]) -> T:
        retrying = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause,
            retry=retry_if_exception(worth),
            reraise=True,
        )
        try:
            return retrying(call)
        except ApiError as error:
            raise refusal(error, self.url) from error
        except DeadlineError as error:
            raise UnavailableError(
                f"Label Studio at {self.url} did not answer in time.", "Look at Label Studio's log and its load."
            ) from error
        except httpx.LocalProtocolError as error:
            # The exception's text quotes the header, and with it the token.
            raise LabelStudioError(
                f"The request to Label Studio at {self.url} cannot be sent: a header is invalid.", NEW_TOKEN
            ) from error
        except httpx.TransportError as error:
            raise LabelStudioError(
                f"Label Studio does not answer at {self.url}: {error or type(error).__name__}.",
                certificate_trouble(error) or _START_LABEL_STUDIO,
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            # Pydantic's message spans several lines and quotes the answer.
            reason = "its answer has an unexpected form" if isinstance(error, ValidationError) else error
            raise LabelStudioError(
                f"The server at {self.url} is not Label Studio: {reason}.", _START_LABEL_STUDIO
            ) from error


def token_kind(api_key: str) -> TokenKind:
    """The kind of a token; whatever is not a JSON Web Token can only be a legacy one."""
    import jwt

    if not api_key.strip():
        return "none"
    try:
        claims = jwt.decode(api_key, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return "legacy"
    return "access" if claims.get("token_type") == "access" else "personal access"


def _authentication(user: str, password: str) -> dict[str, Any]:
    """How Label Studio identifies itself to an ML backend."""
    if not user:
        return {"auth_method": "NONE"}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}


def _task(form: Mapping[str, Any], project_id: int) -> Task:
    return Task(
        id=int(form["id"]),
        project=int(form.get("project") or project_id),
        data=dict(form.get("data") or {}),
        annotations=[dict(one) for one in form.get("annotations") or []],
        has_draft=bool(form.get("draft_exists") or form.get("drafts")),
        drafts=[dict(one) for one in form.get("drafts") or [] if isinstance(one, Mapping)],
    )


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        status = error.status_code or 0
        # A long Retry-After is for the caller to wait out.
        return (status >= 500 or status == 429) and (retry_after_seconds(error.headers) or 0.0) <= LONGEST_WISH_SECONDS
    return isinstance(error, httpx.TransportError)
