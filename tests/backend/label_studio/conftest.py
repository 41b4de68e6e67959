"""FakeLabelStudio: a server on loopback with the answers recorded from Label Studio 1.23.2."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import jwt
import label_studio_sdk.client  # noqa: F401 (here, so that no test that takes the time imports it first)
import pytest
from flask import Flask, Response, jsonify, request
from pydantic import SecretStr
from werkzeug.serving import make_server

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing.delivery import deliver
from backend.settings import Settings
from backend.store import Delivery, Job, Store
from label_config import fill
from trajseg.tracks import Result

LEGACY = "0123456789abcdef0123456789abcdef01234567"
CREATED = datetime(2026, 11, 23, 12, tzinfo=UTC)
PERSONAL = jwt.encode({"token_type": "refresh", "exp": 4102444800}, "k" * 32)
PRIVATE = "URL resolves to a reserved network address (block: 127.0.0.0/8)"


class FakeLabelStudio:
    """The part of Label Studio's API that trajseg uses, with state and injectable failures.

    Attributes:
        failures: how many of the next requests are answered with `failing`, a status and headers.
        legacy_tokens: whether legacy tokens are accepted.
        block_local_ip, ssrf_protection: Label Studio's two settings of that name.
        slow_posts: a barrier for two POSTs of predictions, so that they happen at the same moment.
        lose_answer: process POSTs of predictions, but close the connection instead of answering.
    """

    def __init__(self) -> None:
        self.projects: dict[int, dict[str, Any]] = {}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.predictions: dict[int, dict[str, Any]] = {}
        self.uploads: dict[int, tuple[str, bytes]] = {}
        self.backends: dict[int, dict[str, Any]] = {}
        self.webhooks: dict[int, dict[str, Any]] = {}
        self.views: dict[int, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures = 0
        self.failing: tuple[int, dict[str, str]] = (503, {})
        self.legacy_tokens = True
        self.block_local_ip = False
        self.ssrf_protection = False
        self.slow_posts: threading.Barrier | None = None
        self.lose_answer = False
        self._lock = threading.Lock()
        self._number = 0
        self._server = make_server("127.0.0.1", 0, self._app(), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Goes down; connections are refused from then on."""
        self._server.shutdown()
        self._server.server_close()

    def add_project(self, view: str = "mask", labels: list[str] | None = None) -> int:
        """A project with one of trajseg's configurations."""
        number = self._next()
        xml = fill(view, labels)  # type: ignore[arg-type]
        self.projects[number] = {
            "id": number,
            "title": "p",
            "label_config": xml,
            "show_collab_predictions": True,
        }
        return number

    def add_task(self, project: int, **data: Any) -> int:
        """A task with this data."""
        number = self._next()
        self.tasks[number] = {
            "id": number,
            "project": project,
            "data": data,
            "annotations": [],
            "drafts": [],
            "draft_exists": False,
            "updated_at": self.time(),
        }
        return number

    def time(self) -> str:
        """A timestamp in Label Studio's format, later than all before."""
        return f"2026-11-23T12:00:00.{self._next():06d}Z"

    def annotate(self, task: int, result: list[dict[str, Any]], parent: int | None = None, **more: Any) -> int:
        """A person submits an annotation."""
        number, moment = self._next(), self.time()
        self.tasks[task]["annotations"].append(
            {
                "id": number,
                "result": result,
                "parent_prediction": parent,
                "created_username": "Ada ada@example.com, 1",
                "completed_by": 1,
                "was_cancelled": False,
                "lead_time": 12.5,
                "updated_at": moment,
                **more,
            }
        )
        self.tasks[task]["updated_at"] = self.time()
        return number

    def reannotate(self, task: int, annotation: int, result: list[dict[str, Any]] | None) -> None:
        """A person updates an annotation, or deletes it (no result)."""
        held = self.tasks[task]["annotations"]
        (one,) = [one for one in held if one["id"] == annotation]
        if result is None:
            held.remove(one)
        else:
            one.update(result=result, updated_at=self.time())
        self.tasks[task]["updated_at"] = self.time()

    def of_task(self, task: int) -> list[dict[str, Any]]:
        """The predictions of a task."""
        return [one for one in self.predictions.values() if one["task"] == task]

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def _app(self) -> Flask:
        app = Flask("fake label studio")
        app.url_map.strict_slashes = False
        app.before_request(self._guard)
        for rule, methods, handler in (
            ("/api/version", ["GET"], self._version),
            ("/api/token/refresh", ["POST"], self._refresh),
            ("/api/current-user/whoami", ["GET"], lambda: {"id": 1, "email": "admin@example.com"}),
            ("/api/projects", ["POST"], self._create_project),
            ("/api/projects/<int:number>", ["GET", "PATCH", "DELETE"], self._project),
            ("/api/projects/<int:number>/import", ["POST"], self._import),
            ("/api/import/file-upload/<int:number>", ["GET"], self._file_upload),
            ("/data/upload/<int:number>/<name>", ["GET"], self._file),
            ("/api/tasks", ["GET"], self._list_tasks),
            ("/api/tasks/<int:number>", ["PATCH"], self._patch_task),
            ("/api/tasks/<int:number>/drafts", ["GET"], self._drafts),
            ("/api/annotations/<int:number>", ["GET", "PATCH"], self._one_annotation),
            ("/api/predictions", ["GET", "POST"], self._all_predictions),
            ("/api/predictions/<int:number>", ["PATCH", "DELETE"], self._one_prediction),
            ("/api/webhooks", ["GET"], self._list_webhooks),
            ("/api/webhooks/<int:number>", ["PATCH"], self._patch_webhook),
            ("/api/dm/views", ["GET", "POST"], self._views),
            ("/api/dm/actions", ["POST"], self._action),
            ("/api/ml", ["GET", "POST"], self._ml),
            ("/api/ml/<int:number>", ["PATCH", "DELETE"], self._one_ml),
        ):
            app.add_url_rule(rule, rule, handler, methods=methods)
        return app

    def _guard(self) -> Response | None:
        self.requests.append((request.method, request.path.rstrip("/")))
        with self._lock:
            if self.failures > 0:
                self.failures -= 1
                answer = _refusal(self.failing[0], "busy")
                answer.headers.update(self.failing[1])
                return answer
        if request.path.startswith(("/api/version", "/api/token")):
            return None
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind == "Token" and given == LEGACY:
            if self.legacy_tokens:
                return None
            return _refusal(
                401,
                "Authentication token no longer valid: "
                "legacy token authentication has been disabled for this organization",
            )
        if kind == "Bearer" and _token_type(given) == "access":
            return None
        return _refusal(401, "Invalid token.")

    def _version(self) -> Any:
        return {"release": "1.23.2", "edition": "Community"}

    def _refresh(self) -> Any:
        if (request.get_json() or {}).get("refresh") != PERSONAL:
            return _refusal(401, "Token is invalid or expired")
        return {"access": jwt.encode({"token_type": "access", "exp": int(time.time()) + 300}, "k" * 32)}

    def _create_project(self) -> Any:
        form = request.get_json()
        if len(form["title"]) < 3:
            return _invalid(title=["Ensure this field has at least 3 characters."])
        number = self._next()
        self.projects[number] = {"id": number, **form}
        return jsonify(self.projects[number]), 201

    def _project(self, number: int) -> Any:
        if number not in self.projects:
            return _refusal(404, "No Project matches the given query.")
        if request.method == "DELETE":
            del self.projects[number]
            return "", 204
        if request.method == "PATCH":
            self.projects[number].update(request.get_json())
        return jsonify(self.projects[number])

    def _import(self, number: int) -> Any:
        if request.files:
            upload = self._next()
            file = next(iter(request.files.values()))
            if Path(file.filename or "").suffix.lower() not in (".mp4", ".webm", ".jpg"):
                return _refusal(400, f"{Path(file.filename or '').suffix} extension is not supported")
            self.uploads[upload] = (f"upload/{number}/{upload}-{file.filename}", file.read())
            assert request.args["commit_to_project"] == "false"
            return jsonify(task_count=1, file_upload_ids=[upload]), 201
        ids = [self.add_task(number, **form["data"]) for form in request.get_json()]
        return jsonify(task_count=len(ids), file_upload_ids=[], task_ids=ids), 201

    def _file_upload(self, number: int) -> Any:
        return jsonify(id=number, file=self.uploads[number][0], size=len(self.uploads[number][1]))

    def _file(self, number: int, name: str) -> Any:
        held = [data for file, data in self.uploads.values() if file == f"upload/{number}/{name}"]
        return Response(held[0]) if held else _refusal(404, "not found")

    def _list_tasks(self) -> Any:
        assert request.args["resolve_uri"] == "false"
        query = json.loads(request.args["query"])
        if "filters" in query:
            return self._changed_tasks(query)
        selected = query["selectedItems"]
        found = [
            one
            for one in list(self.tasks.values())
            if one["project"] == int(request.args["project"]) and (selected["all"] or one["id"] in selected["included"])
        ]
        if int(request.args.get("page", 1)) > 1:
            return _refusal(404, "Invalid page.")
        return jsonify(tasks=found, total=len(found), total_annotations=0, total_predictions=0)

    def _changed_tasks(self, query: dict[str, Any]) -> Any:
        assert request.args["fields"] == "task_only"
        assert query["ordering"] == ["tasks:updated_at"]
        (wanted,) = query["filters"]["items"]
        found = [one for one in list(self.tasks.values()) if one["project"] == int(request.args["project"])]
        if wanted["filter"] == "filter:tasks:updated_at":
            found = [one for one in found if one["updated_at"] > wanted["value"]]
        else:
            found = [one for one in found if one["annotations"]]
        found.sort(key=lambda one: str(one["updated_at"]))
        rows = [
            {"id": one["id"], "updated_at": one["updated_at"], "total_annotations": len(one["annotations"])}
            for one in found
        ]
        size, page = int(request.args["page_size"]), int(request.args["page"])
        return jsonify(tasks=rows[size * (page - 1) : size * page], total=len(rows))

    def _list_webhooks(self) -> Any:
        return jsonify([one for one in self.webhooks.values() if one["project"] == int(request.args["project"])])

    def _patch_webhook(self, number: int) -> Any:
        self.webhooks[number].update(request.get_json())
        return jsonify(self.webhooks[number])

    def _views(self) -> Any:
        if request.method == "GET":
            return jsonify([one for one in self.views.values() if one["project"] == int(request.args["project"])])
        number = self._next()
        self.views[number] = {"id": number, **request.get_json()}
        return jsonify(self.views[number]), 201

    def _action(self) -> Any:
        """The Data Manager's "Add Or Modify Data Field", the one action that trajseg uses."""
        if request.args["id"] != "add_data_field" or int(request.args["project"]) not in self.projects:
            return _refusal(404, "Not found.")
        form = request.get_json()
        changed = [number for number in form["selectedItems"]["included"] if number in self.tasks]
        for number in changed:
            data = self.tasks[number]["data"]
            self.tasks[number]["data"] = {**data, form["value_name"]: str(form["value"])}
        return jsonify(response_code=200, detail=f"Updated {len(changed)} tasks")

    def _patch_task(self, number: int) -> Any:
        if number not in self.tasks:
            return _refusal(404, "No Task matches the given query.")
        self.tasks[number].update(request.get_json())
        return jsonify(self.tasks[number])

    def _drafts(self, number: int) -> Any:
        return jsonify(self.tasks[number]["drafts"])

    def _one_annotation(self, number: int) -> Any:
        held = [(task, one) for task in self.tasks.values() for one in task["annotations"] if one["id"] == number]
        if not held:
            return _refusal(404, "No Annotation matches the given query.")
        [(task, one)] = held
        if request.method == "PATCH":
            self.reannotate(task["id"], number, request.get_json()["result"])
        return jsonify(one)

    def _all_predictions(self) -> Any:
        if request.method == "GET":
            return jsonify(self.of_task(int(request.args["task"])))
        form = request.get_json()
        if form["task"] not in self.tasks:
            return _invalid(task=[f'Invalid pk "{form["task"]}" - object does not exist.'])
        if self.slow_posts is not None:
            self.slow_posts.wait(timeout=10)
        number = self._next()
        self.predictions[number] = {"id": number, **form}
        if self.lose_answer:
            # Closed without an answer, as if the server had died.
            request.environ["werkzeug.socket"].shutdown(2)
        return jsonify(self.predictions[number]), 201

    def _one_prediction(self, number: int) -> Any:
        if request.method == "PATCH" and number in self.predictions:
            self.predictions[number].update(request.get_json())
            return jsonify(self.predictions[number])
        if self.predictions.pop(number, None) is None:
            return _refusal(404, "No Prediction matches the given query.")
        return "", 204

    def _ml(self) -> Any:
        if request.method == "GET":
            project = int(request.args["project"])
            return jsonify([one for one in self.backends.values() if one["project"] == project])
        form = request.get_json()
        if self.block_local_ip:
            return _refusal(403, PRIVATE)
        try:
            # Label Studio itself waits 1 s; a machine busy with tests may need longer.
            httpx.get(f"{form['url']}/health", timeout=10)
        except httpx.HTTPError as error:
            reason = f"Can't connect to ML backend {form['url']}, health check failed. Additional info: {error}"
            return _invalid(non_field_errors=[reason])
        number = self._next()
        self.backends[number] = {"id": number, "state": "CO", **form}
        if self.ssrf_protection:
            return _refusal(403, PRIVATE)
        # Like its own signal: without the backend's user and password.
        hook = self._next()
        self.webhooks[hook] = {
            "id": hook,
            "project": form["project"],
            "url": form["url"].rstrip("/") + "/webhook",
            "is_active": True,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": {},
        }
        return jsonify(self.backends[number]), 201

    def _one_ml(self, number: int) -> Any:
        if request.method == "PATCH":
            # Label Studio validates only the request: url and project must be in it.
            form = request.get_json()
            project = self.projects[form["project"]]
            body = {"project": f"{project['id']}.1", "schema": project["label_config"], "hostname": self.url}
            answer = httpx.post(
                f"{form['url']}/setup", json=body | {"extra_params": form.get("extra_params")}, timeout=5
            )
            if answer.status_code != 200:
                return _invalid(non_field_errors=[f"Reason: {answer.status_code}"])
            self.backends[number].update(form)
            return jsonify(self.backends[number])
        self.backends.pop(number, None)
        return "", 204


def _token_type(token: str) -> str | None:
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("token_type"))
    except jwt.InvalidTokenError:
        return None


def _refusal(status: int, detail: str) -> Response:
    answer = jsonify(id="x", status_code=status, version="1.23.2", detail=detail, exc_info=None)
    answer.status_code = status
    return answer


def _invalid(**reasons: list[str]) -> Response:
    answer = jsonify(status_code=400, version="1.23.2", detail="Validation error", validation_errors=reasons)
    answer.status_code = 400
    return answer


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients try again after 50 ms instead of seconds."""
    monkeypatch.setitem(cast(Any, LabelStudioClient.__init__).__kwdefaults__, "wait", 0.05)


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    fake = FakeLabelStudio()
    yield fake
    fake.stop()


@pytest.fixture
def client(studio: FakeLabelStudio) -> Iterator[LabelStudioClient]:
    """A client with the legacy token that does not wait between retries."""
    client = LabelStudioClient(studio.url, LEGACY, wait=0.01)
    yield client
    client.close()


@pytest.fixture
def personal_token() -> str:
    return PERSONAL


@pytest.fixture
def settings(tmp_path: Path, studio: FakeLabelStudio) -> Settings:
    """Settings for the fake; the store is a SQLite file of the test."""
    return Settings(
        data_dir=tmp_path / "data",
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(LEGACY),
        max_key_frames=8,
        delivery_attempts=3,
    )


@dataclass(frozen=True)
class Bench:
    """One task in a fake Label Studio, and what connects it with a store. `task` is the test file's own fixture."""

    studio: FakeLabelStudio
    store: Store
    client: LabelStudioClient
    settings: Settings
    task: int

    def deliver(self, delivery: Delivery) -> bool:
        """Whether a delivery arrives."""
        return deliver(self.store, self.client, self.settings, delivery) is None

    def of_task(self) -> list[dict[str, Any]]:
        """The task's predictions in Label Studio."""
        return self.studio.of_task(self.task)

    def data(self) -> dict[str, Any]:
        """The task's data in Label Studio."""
        data: dict[str, Any] = self.studio.tasks[self.task]["data"]
        return data


@pytest.fixture
def bench(
    studio: FakeLabelStudio, store: Store, client: LabelStudioClient, settings: Settings, request: pytest.FixtureRequest
) -> Bench:
    return Bench(studio, store, client, settings, request.getfixturevalue("task"))


@pytest.fixture
def done(studio: FakeLabelStudio, store: Store, result: Result) -> Callable[[int], list[Job]]:
    """Makes tasks with a done job each, whose deliveries are due; returns the jobs."""
    number = studio.add_project("mask")
    studio.projects[number]["created_at"] = CREATED.isoformat()
    project = store.projects.upsert(
        number, studio.url, studio.projects[number]["label_config"], stamp=str(int(CREATED.timestamp()))
    )

    def make(count: int) -> list[Job]:
        jobs = []
        for _ in range(count):
            task = studio.add_task(number, video="v", instruction="i")
            job, _ = store.jobs.add("prelabel", project.id, task, "v", "i", "prelabel", model_version="trajseg-tiny")
            store.runs.finish(job.id, store.runs.start(job.id) or "", copy.deepcopy(result))
            jobs.append(job)
        return jobs

    return make
