"""The routes that Label Studio 1.23 calls: health, setup, versions, predict and webhook."""

from __future__ import annotations

from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import BadRequest

from backend.label_studio.incoming.payloads import Payload, PredictRequest, SetupRequest, WebhookRequest
from backend.service.service import Service
from trajseg.errors import InputError, ServiceError

blueprint = Blueprint("service", __name__)
MODEL_CLASS = "TrajSeg"
MAX_CONTAINERS = 2_000_000
"""Most lists and objects in a body; the largest allowed body, full of small masks, has half as many."""
MAX_VALUES = 20_000_000
AnyPayload = TypeVar("AnyPayload", bound=Payload)


@blueprint.get("/health")
@blueprint.get("/", endpoint="root")
def health() -> tuple[Response, int]:
    """Whether the backend is alive: it can be without the queue, but not without the store.

    `ready` says whether jobs are also being processed; see `ready`.
    """
    form = _health()
    return jsonify(form), 200 if form["status"] == "UP" else 503


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Like /health, but 503 unless jobs are processed: store and queue answer, a live worker has its engine loaded."""
    form = _health()
    return jsonify(form), 200 if form["ready"] else 503


def _health() -> dict[str, Any]:
    service = _service()
    form: dict[str, Any] = {
        "status": "UP",
        "model_class": MODEL_CLASS,
        "model_version": service.model_version,
        "store": "reachable",
        "queue": "reachable",
    }
    try:
        form["workers"] = service.queue.workers()
    except ServiceError as error:
        form["queue"] = f"unreachable: {error}"
    try:
        form["jobs_queued"] = sum(n for (_, state), n in service.store.jobs.count().items() if state == "queued")
    except ServiceError as error:
        form.update(status="DOWN", store=f"unreachable: {error}")
    form["ready"] = form["status"] == "UP" and bool(form.get("workers"))
    return form


@blueprint.post("/setup")
def setup() -> Response:
    """Label Studio connects, or checks whether the backend is still the same."""
    return jsonify(_service().setup(read(SetupRequest, _body())))


@blueprint.get("/versions")
def versions() -> Response:
    """The model versions of all offered engines, the default one first."""
    return jsonify(versions=list(_service().engines.versions.values()))


@blueprint.post("/predict")
def predict() -> Response:
    """Label Studio requests predictions, or a person typed an instruction."""
    return jsonify(results=_service().predict(read(PredictRequest, _body())))


@blueprint.post("/webhook")
def webhook() -> tuple[Response, int]:
    """Something happened in a project."""
    answer = _service().webhooks.receive(read(WebhookRequest, _body()))
    if answer is None:
        return jsonify(status="Unknown event"), 200
    return jsonify(status="ok", result=answer), 201


def read(form: type[AnyPayload], body: object) -> AnyPayload:
    """A request's body, validated. Raises InputError naming what is invalid, without the values."""
    if not isinstance(body, dict):
        raise InputError("The body is not a JSON object.", "Send what Label Studio 1.23 sends.")
    try:
        return form.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        wrong = "; ".join(f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}" for one in found[:5])
        raise InputError(f"The body is not what Label Studio sends: {wrong}.", "Check the keys named.") from error


def _body() -> object:
    # A megabyte of brackets takes fifty in memory, and longer to parse than Label Studio waits.
    raw = request.get_data()
    if raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS or raw.count(b",") > MAX_VALUES:
        raise InputError("The body has too many values.", "Send fewer tasks at once: select fewer in the Data Manager.")
    try:
        return request.get_json()
    except BadRequest as error:
        raise InputError("The body is not JSON.", "Send what Label Studio 1.23 sends.") from error
    except RecursionError as error:
        raise InputError("The body is nested too deeply.", "Send what Label Studio 1.23 sends.") from error


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
