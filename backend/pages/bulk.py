"""Bulk buttons of the jobs page: cancel or retry all selected jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Blueprint, current_app, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue

from backend.pages import guard
from backend.service.service import Service
from backend.store.models import now
from backend.store.reports import Wanted
from backend.store.rows import UNFINISHED
from trajseg.errors import InputError
from trajseg.words import counted

blueprint = Blueprint("bulk", __name__, url_prefix="/chosen")


@dataclass(frozen=True)
class BulkAction:
    """A button that acts on all selected jobs.

    Attributes:
        name: of the route.
        verb: the button's text.
        count: number of jobs affected.
    """

    name: str
    verb: str
    count: int


def actions(wanted: Wanted, counts: dict[str, int]) -> list[BulkAction]:
    """The actions available for the selected jobs. Failed jobs are retried by reason, or as a search finds them.

    Args:
        counts: how many there are in each state.
    """
    unfinished = sum(counts.get(state, 0) for state in UNFINISHED if wanted.state in ("", state))
    over = counts.get("cancelled", 0) if wanted.state == "cancelled" else 0
    if wanted.state == "failed" and wanted.text:
        over = counts.get("failed", 0)
    found = [BulkAction("cancel", "Cancel", unfinished), BulkAction("retry", "Retry", over)]
    return [action for action in found if action.count]


@blueprint.post("/cancel")
def cancel() -> ResponseReturnValue:
    """Cancels all selected unfinished jobs that existed when the page was loaded."""
    service = _service()
    wanted, until = _asked(service)
    return _told(wanted, len(service.jobs.cancel_all(wanted, until)), "cancelled")


@blueprint.post("/retry")
def retry() -> ResponseReturnValue:
    """Retries all selected jobs that failed or were cancelled."""
    service = _service()
    wanted, until = _asked(service)
    return _told(wanted, len(service.jobs.retry_all(wanted, until)), "queued")


def _asked(service: Service) -> tuple[Wanted, datetime]:
    guard.check_token(service.settings, request.form.get(guard.TOKEN_FIELD, ""))
    project = request.args.get("project", "")
    if project and (not project.isdecimal() or len(project) > 9):
        raise InputError(f"`project` is {project[:40]!r}, not a number.", "Load the page again.")
    moment = request.args.get("until", "")
    try:
        until = datetime.fromisoformat(moment)
    except ValueError as error:
        raise InputError(f"`until` is {moment[:40]!r}, not a time.", "Reload the page.") from error
    wanted = Wanted(
        request.args.get("state", ""),
        request.args.get("kind", ""),
        int(project) if project else None,
        request.args.get("q", "").strip(),
    )
    return wanted, min(until if until.tzinfo else until.replace(tzinfo=UTC), now())


def _told(wanted: Wanted, count: int, done: str) -> ResponseReturnValue:
    if request.accept_mimetypes.best == "application/json":
        return jsonify(said=f"{counted(count, 'job')} {done}")
    kind, text = wanted.kind or None, wanted.text or None
    address = url_for("pages.jobs", state=wanted.state or None, kind=kind, project=wanted.project_id, q=text)
    return redirect(address, 303)


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
