"""Jobs over HTTP: what they do, their progress, why they failed, and how to cancel or retry them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from backend.addresses import shown_address
from backend.http import auth
from backend.label_studio.incoming.payloads import MAX_ID
from backend.service.service import Service
from backend.store import Delivery, Job
from backend.store.models import JOB_STATES, now
from trajseg.errors import InputError

blueprint = Blueprint("jobs", __name__)
blueprint.before_request(auth.refuse_without_token)
MOST_JOBS = 1000


@blueprint.get("/jobs")
def jobs() -> Response:
    """The newest jobs; `?state=`, `?project=` (Label Studio's id), `?task=` and `?limit=` filter."""
    service = _service()
    state = request.args.get("state")
    if state is not None and state not in JOB_STATES:
        raise InputError(f"There is no state {state!r}.", f"Use one of {', '.join(JOB_STATES)}.")
    project = number_argument("project")
    found = service.store.jobs.newest(
        state=state,
        project_id=service.store.projects.of_label_studio(project).id if project is not None else None,
        task_id=number_argument("task"),
        limit=min(number_argument("limit") or 100, MOST_JOBS),
    )
    return jsonify(jobs=[job_form(service, job) for job in found], queue=_queue_form(service))


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    """One job and its delivery."""
    service = _service()
    return jsonify(job_form(service, service.store.jobs.get(job_id), service.store.deliveries.of_job(job_id)))


@blueprint.get("/jobs/<job_id>/result")
def result(job_id: str) -> Response:
    """The result of a done job in the JSON form of `trajseg segment`."""
    tracks = _service().store.jobs.result(job_id)
    tracks.video = shown_address(tracks.video)
    return jsonify(tracks.to_json())


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Cancels a job that is not finished; a finished one is returned as it is."""
    service = _service()
    return jsonify(job_form(service, service.jobs.cancel(job_id)))


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> Response:
    """Retries a finished job, or its failed delivery."""
    service = _service()
    return jsonify(job_form(service, service.jobs.retry(job_id), service.store.deliveries.of_job(job_id)))


def job_form(service: Service, job: Job, delivery: Delivery | None = None) -> dict[str, Any]:
    """A job for people and programs; times in ISO 8601, durations in seconds."""
    redact = service.settings.redact
    # One row written by another version, or edited by hand, must not hide all the others.
    params = job.params if isinstance(job.params, dict) else {}
    result = job.result if isinstance(job.result, dict) else {}
    tracks, timings = result.get("tracks", []), result.get("timings", {})
    stale = timedelta(seconds=service.settings.stale_after_seconds)
    form = {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "queue": job.queue,
        "task": job.task_id,
        "video": shown_address(job.video),
        "instruction": job.instruction,
        "model_version": job.model_version,
        "engine": params.get("engine") or service.engines.default,
        "progress": {
            "frames_done": job.frames_done,
            "frames_total": job.frames_total,
            "percent": round(100 * job.frames_done / job.frames_total, 1) if job.frames_total else 0.0,
        },
        "eta_seconds": job.eta_seconds,
        "error": redact(job.error),
        "remedy": redact(job.remedy),
        "rejection": job.rejection,
        "runs": job.runs,
        # A killed worker reports nothing more: only its last heartbeat shows.
        "lost": job.state == "running" and job.heartbeat_at is not None and now() - job.heartbeat_at > stale,
        "tracks": len(tracks) if result and isinstance(tracks, list) else None,
        "timings": timings if isinstance(timings, dict) else {},
    }
    for name in ("created_at", "started_at", "finished_at", "heartbeat_at"):
        moment = getattr(job, name)
        form[name] = moment.isoformat() if moment else None
    if delivery is not None:
        form["delivery"] = {
            "state": delivery.state,
            "attempts": delivery.attempts,
            "last_error": redact(delivery.last_error),
            "prediction": delivery.prediction_id,
            "next_attempt_at": delivery.next_attempt_at.isoformat() if delivery.state == "pending" else None,
        }
    return form


def _queue_form(service: Service) -> dict[str, Any]:
    counts = service.store.jobs.count()
    return {state: sum(n for (_, held), n in counts.items() if held == state) for state in JOB_STATES}


def number_argument(name: str) -> int | None:
    """A number from the query string; None if absent. Raises InputError."""
    text = request.args.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) > MAX_ID:
        raise InputError(f"`{name}` is {text[:40]!r}, not a number.", f"Give a whole number, such as {name}=12.")
    return int(text)


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
