"""GET /openapi.json: the HTTP API as OpenAPI 3.1. A test compares it with the routes, and fuzzes them by it.

The pages under /page are for people and not described. Bodies come from the pydantic models that read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from flask import Blueprint, Response, jsonify

from backend.http.exports import SKIPPED
from backend.http.jobs import MOST_JOBS
from backend.label_studio.incoming.payloads import MAX_ID, SetupRequest
from backend.store.models import JOB_STATES, Rejection
from trajseg import __version__
from trajseg.tracks.formats import format_names

blueprint = Blueprint("openapi", __name__)
Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
OBJECT: Schema = {"type": "object"}
ID: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
PROJECT: Schema = {
    "oneOf": [{"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{0,40})?$"}, ID],
    "description": 'Label Studio\'s id of the project, and the time of its creation: "6.1795422572".',
}
EVERYWHERE = {
    400: "The request is invalid, or names another host.",
    401: "The password or token is missing or wrong.",
    403: "Without a password only this machine has access; changing a job requires the token.",
    429: "Too many wrong passwords came from this address; see Retry-After.",
    503: "The store does not answer.",
}
BODY = {413: "The body is larger than TRAJSEG_MAX_REQUEST_BYTES.", 415: "The body is not JSON."}
MISSING = {404: "Not found."}


def description() -> Schema:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trajseg",
            "version": __version__,
            "summary": "Label video by instruction: Label Studio's ML backend, and jobs for programs.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer", "description": "`trajseg token` prints it."},
            },
        },
    }


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The description of the routes."""
    return jsonify(description())


def documentation() -> str:
    """The page docs/api.md; `python scripts/write_docs.py` writes it."""
    lines = [
        "# The HTTP API",
        "",
        "Generated from `backend.http.openapi` by `python scripts/write_docs.py`. A running backend gives the same and",
        "its schemas at `/openapi.json`. Access rules are in [backend.md](backend.md#who-gets-an-answer). Errors are",
        '`{"error": what is wrong, "remedy": what to do}`. Every route may answer '
        + ", ".join(f"{status} ({words[0].lower()}{words[1:-1]})" for status, words in EVERYWHERE.items())
        + ".",
        "",
        "| route | what it does | parameters | answers |",
        "|---|---|---|---|",
    ]
    for path, methods in _paths().items():
        for method, operation in methods.items():
            names = ", ".join(f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] == "query")
            answers = ", ".join(status for status in operation["responses"] if int(status) not in EVERYWHERE)
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {names} | {answers} |")
    return "\n".join(lines) + "\n"


def _paths() -> Schema:
    job, job_id = _ref("Job"), _in_path("job_id", TEXT)
    state = {"type": "string", "enum": list(JOB_STATES)}
    project = _query("project", ID, "Label Studio's id of a project.")
    fmt = {"type": "string", "enum": format_names()}
    flag = {"type": "string", "enum": ["0", "1"]}
    health: dict[int, tuple[str, Schema | str]] = {200: ("The state of the backend.", _ref("Health"))}
    down: dict[int, tuple[str, Schema | str]] = {503: ("The state of the backend.", _ref("Health"))}
    return {
        "/": {
            "get": _operation(
                "Like /health; a browser is redirected to the jobs page.", health | down, {302: "To /page/"}
            )
        },
        "/health": {"get": _operation("Whether the backend is alive.", health | down)},
        "/ready": {"get": _operation("Whether jobs are being processed.", health | down)},
        "/versions": {"get": _operation("Model versions.", {200: ("The versions.", _ref("Versions"))})},
        "/openapi.json": {"get": _operation("This description.", {200: ("The OpenAPI document.", OBJECT)})},
        "/metrics": {"get": _operation("Metrics for Prometheus.", {200: ("Metrics.", "text/plain")})},
        "/setup": {
            "post": _operation(
                "Label Studio connects a project.",
                {200: ("The model version.", _ref("Setup"))},
                BODY,
                body="SetupRequest",
            )
        },
        "/predict": {
            "post": _operation(
                "Request predictions for tasks.",
                {200: ("Results, or none while they are computed.", _ref("Predictions"))},
                BODY | MISSING,
                body="PredictRequest",
            )
        },
        "/webhook": {
            "post": _operation(
                "Report an event in a project.",
                {201: ("Noted.", OBJECT), 200: ("The event is unknown and ignored.", OBJECT)},
                BODY,
                body="WebhookRequest",
            )
        },
        "/jobs": {
            "get": _operation(
                "The newest jobs.",
                {200: ("Jobs, and their number by state.", _ref("Jobs"))},
                MISSING,
                [
                    _query("state", state, "Only jobs in this state."),
                    project,
                    _query("task", ID, "Label Studio's id of a task."),
                    _query("limit", ID, f"Number of jobs, at most {MOST_JOBS}."),
                ],
            )
        },
        "/jobs/{job_id}": {"get": _operation("One job.", {200: ("The job.", job)}, MISSING, [job_id])},
        "/jobs/{job_id}/result": {
            "get": _operation("The tracks of a done job.", {200: ("The tracks.", OBJECT)}, MISSING, [job_id])
        },
        "/jobs/{job_id}/cancel": {"post": _operation("Cancel a job.", {200: ("The job.", job)}, MISSING, [job_id])},
        "/jobs/{job_id}/retry": {
            "post": _operation("Run or deliver a job again.", {200: ("The job.", job)}, MISSING, [job_id])
        },
        "/failures": {
            "get": _operation(
                "Failures and postponed jobs by reason.", {200: ("The groups.", _ref("Failures"))}, MISSING, [project]
            )
        },
        "/failures/{key}/retry": {
            "post": _operation(
                "Retry everything that failed for one reason.",
                {200: ("The number of jobs.", OBJECT)},
                MISSING,
                [_in_path("key", TEXT), project],
            )
        },
        "/failures/{key}/cancel": {
            "post": _operation(
                "Cancel all queued jobs with one reason for waiting.",
                {200: ("The number of jobs.", OBJECT)},
                MISSING,
                [_in_path("key", TEXT), project],
            )
        },
        "/projects/{project}/export": {
            "get": _operation(
                "A project's tracks as a zip.",
                {200: (f"The zip; {SKIPPED} in it names what was left out.", "application/zip")},
                MISSING,
                [
                    _in_path("project", ID),
                    _query("format", fmt, "Format of the data set.", required=True),
                    _query("pictures", flag, "Include the frames."),
                    _query("annotated", flag, "Only annotated tasks."),
                ],
            )
        },
        "/media/{token}/{name}": {
            "get": _operation(
                "A shown frame, by signed link.",
                {200: ("The picture.", "image/jpeg")},
                MISSING
                | {
                    410: "The link has expired.",
                    206: "A part of the picture.",
                    304: "Unchanged.",
                    416: "No such part.",
                },
                [_in_path("token", TEXT), _in_path("name", TEXT)],
            )
        },
    }


def _schemas() -> Schema:
    setup = SetupRequest.model_json_schema(by_alias=True)
    setup["properties"]["project"] = PROJECT
    nullable_number = {"type": ["number", "null"]}
    nullable_whole = {"type": ["integer", "null"]}
    progress = _object(frames_done=WHOLE, frames_total=WHOLE, percent=NUMBER)
    delivery = _object(state=TEXT, attempts=WHOLE, last_error=TEXT, prediction=nullable_whole, next_attempt_at=MOMENT)
    job = _object(
        id=TEXT,
        kind=TEXT,
        state={"type": "string", "enum": list(JOB_STATES)},
        queue=TEXT,
        task=nullable_whole,
        video=TEXT,
        instruction=TEXT,
        model_version=TEXT,
        progress=progress,
        eta_seconds=nullable_number,
        error=TEXT,
        remedy=TEXT,
        rejection={"type": "string", "enum": ["", *get_args(Rejection)]},
        runs=WHOLE,
        lost={"type": "boolean"},
        tracks=nullable_whole,
        timings=OBJECT,
        created_at=MOMENT,
        started_at=MOMENT,
        finished_at=MOMENT,
        heartbeat_at=MOMENT,
    )
    job["properties"]["delivery"] = delivery
    task = {
        "type": "object",
        "required": ["id", "data"],
        "properties": {
            "id": {"oneOf": [ID, {"type": "null"}]},
            "data": {"type": "object", "properties": {"video": TEXT, "instruction": TEXT}},
            **{key: {"type": "array", "items": OBJECT} for key in ("annotations", "drafts", "predictions")},
        },
    }
    return {
        "Error": _object(error=TEXT, remedy=TEXT),
        "Health": _object(
            status=TEXT, model_class=TEXT, model_version=TEXT, store=TEXT, queue=TEXT, ready={"type": "boolean"}
        ),
        "Versions": _object(versions={"type": "array", "items": TEXT}),
        "Setup": _object(model_version=TEXT),
        "Predictions": _object(results={"type": "array", "items": OBJECT}),
        "Job": job,
        "Jobs": _object(jobs={"type": "array", "items": _ref("Job")}, queue=OBJECT),
        "Failures": _object(failures={"type": "array", "items": OBJECT}, waiting={"type": "array", "items": OBJECT}),
        "SetupRequest": setup,
        "PredictRequest": {
            "type": "object",
            "required": ["tasks", "project"],
            "properties": {
                "tasks": {"type": "array", "items": task},
                "project": PROJECT,
                "label_config": TEXT,
                "params": {"type": "object", "properties": {"context": {"type": ["object", "null"]}}},
            },
        },
        "WebhookRequest": {
            "type": "object",
            "required": ["action"],
            "properties": {"action": TEXT, "project": {"type": "object", "properties": {"id": ID}, "required": ["id"]}},
        },
    }


def _operation(
    summary: str,
    answers: Mapping[int, tuple[str, Schema | str]],
    others: Mapping[int, str] | None = None,
    parameters: list[Schema] | None = None,
    body: str = "",
) -> Schema:
    responses: Schema = {}
    for status, (words, form) in answers.items():
        content = {form: {}} if isinstance(form, str) else {"application/json": {"schema": form}}
        responses[str(status)] = {"description": words, "content": content}
    for status, words in {**EVERYWHERE, **(others or {})}.items():
        if str(status) not in responses:
            content = {"application/json": {"schema": _ref("Error")}}
            responses[str(status)] = {"description": words, **({"content": content} if status >= 400 else {})}
    operation: Schema = {"summary": summary, "responses": dict(sorted(responses.items()))}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _in_path(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, schema: Schema, words: str, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": words}
