"""The pages' routes: the list of jobs, a job with its track viewer, the report, and the data for their scripts."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any, NoReturn

from flask import Blueprint, Response, current_app, jsonify, redirect, render_template, request, url_for
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.exceptions import HTTPException, NotFound

from backend import effort
from backend.label_studio.outgoing.adoption import annotation_of
from backend.pages import adoption, bulk, failures, guard, models, previews, report, tracks, videos
from backend.pages.shown import STATES, JobView, with_code
from backend.service.service import Service
from backend.store import Job, UnknownJobError
from backend.store.kinds import KINDS
from backend.store.reports import Reports, Wanted
from trajseg.errors import InputError, ServiceError, TrajSegError
from trajseg.palette import palette
from trajseg.tracks.formats import format_names

log = logging.getLogger("trajseg.backend")

blueprint = Blueprint(
    "pages",
    __name__,
    url_prefix="/page",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)
blueprint.add_app_template_filter(with_code, "code")
blueprint.register_blueprint(failures.blueprint)
blueprint.register_blueprint(adoption.blueprint)
blueprint.register_blueprint(bulk.blueprint)
blueprint.register_blueprint(models.blueprint)
blueprint.register_blueprint(previews.blueprint)

JOBS_A_PAGE = 25
LONGEST_SEARCH = 200
MARK_LENGTH = 10
"""Length of the marks that identify the versions of a page's parts."""


EFFORT = "trajseg.effort"


@blueprint.record
def prepare(state: BlueprintSetupState) -> None:
    """Caches the report's comparisons with the application."""
    state.app.extensions[EFFORT] = effort.EffortReader()


@blueprint.before_app_request
def lead_in() -> ResponseReturnValue | None:
    """Opened in a browser, the backend's address leads to the jobs page; clients that accept JSON get its health."""
    guard.refuse_strangers(request.method, request.headers.get("Sec-Fetch-Site"))
    wants_page = "text/html" in request.accept_mimetypes.values()
    if request.endpoint == "service.root" and request.method == "GET" and wants_page:
        return redirect(url_for("pages.jobs"))
    return None


@blueprint.after_request
def sealed(answer: Response) -> Response:
    """Adds the pages' headers to every answer."""
    return guard.seal(answer)


@blueprint.get("/")
def root() -> ResponseReturnValue:
    """The jobs."""
    return redirect(url_for("pages.jobs"))


@blueprint.get("/jobs")
def jobs() -> ResponseReturnValue:
    """The list of jobs; `?state=`, `?kind=`, `?project=` (the store's id), `?q=` and `?page=` filter."""
    return render_template("pages/jobs.html", **_list(), token=guard.new_token(_service().settings))


@blueprint.get("/jobs.json")
def jobs_news() -> ResponseReturnValue:
    """The parts of the list that differ from those with the marks in `?have=`; 304 if none do."""
    shown = _list()
    parts = {
        name: render_template(f"pages/parts/{name}.html", **shown)
        for name in ("tabs", "bulk", "notices", "failures", "pager")
    }
    return _news(parts, shown["rows"])


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> ResponseReturnValue:
    """One job: its state, its tracks, and the viewer."""
    service, view = _service(), _view(job_id)
    source = videos.source(view.job, service.settings, view.label_studio)
    held = _reports().tracks(job_id)
    page = _rendered(
        view,
        "pages/job.html",
        source=source,
        ahead=_ahead(view.job),
        tracks=held,
        colours=palette(len(held)),
        token=guard.new_token(service.settings),
    )
    return guard.seal(Response(page), source.origin)


@blueprint.get("/jobs/<job_id>/news.json")
def job_news(job_id: str) -> ResponseReturnValue:
    """Like `jobs_news`, for the parts of a job's page that change."""
    view = _view(job_id)
    parts = {
        name: render_template(f"pages/parts/{name}.html", view=view, ahead=_ahead(view.job))
        for name in ("head", "details")
    }
    return _news(parts, {}, state=view.job.state)


@blueprint.get("/jobs/<job_id>/tracks.json")
def job_tracks(job_id: str) -> ResponseReturnValue:
    """Scores, doubtful frames and pictures for the viewer: see `tracks.outline`."""
    service = _service()
    held = service.store.jobs.get(job_id)
    form = tracks.outline(held, _reports().tracks(job_id))
    form["stills"] = videos.stills(job_id, form["frame_count"], service.settings)
    return jsonify(form)


@blueprint.get("/jobs/<job_id>/masks.json")
def job_masks(job_id: str) -> ResponseReturnValue:
    """The masks of a range of frames from `?start=` (0-based): see `tracks.masks`."""
    return jsonify(tracks.masks(_reports().tracks(job_id), _number("start", 0)))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> ResponseReturnValue:
    """Cancels a job, like `POST /jobs/<id>/cancel` for programs."""
    _prove()
    return _acted(_service().jobs.cancel(job_id))


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> ResponseReturnValue:
    """Retries or redelivers a job, like `POST /jobs/<id>/retry` for programs."""
    _prove()
    return _acted(_service().jobs.retry(job_id))


@blueprint.get("/video/<token>/<name>")
def video(token: str, name: str) -> ResponseReturnValue:
    """The video of a job by signed link, so that a player without credentials can load it."""
    service = _service()
    return videos.send(service.store.jobs.get(videos.job_of(token, service.settings)), service.settings)


@blueprint.get("/report")
def lead_report() -> ResponseReturnValue:
    """For a team lead: tasks per day, corrections per track, minutes saved."""
    return render_template(
        "pages/report.html", report=report.read(_service().store, current_app.extensions[EFFORT]), figures=effort
    )


@blueprint.get("/<path:rest>")
def unknown(rest: str) -> NoReturn:
    """Anything else below /page."""
    raise NotFound("There is no such page.")


@blueprint.errorhandler(TrajSegError)
def error_page(error: TrajSegError) -> ResponseReturnValue:
    """One of our errors, as a page for people or as JSON for scripts."""
    status = 404 if isinstance(error, UnknownJobError) else 400 if isinstance(error, InputError) else 503
    return _failed(error.message, error.remedy, status)


@blueprint.errorhandler(HTTPException)
def refused(error: HTTPException) -> ResponseReturnValue:
    """HTTP errors."""
    return _failed(error.description or error.name, "", error.code or 500)


def _failed(message: str, remedy: str, status: int) -> ResponseReturnValue:
    if request.path.endswith(".json") or request.accept_mimetypes.best == "application/json":
        return jsonify(error=message, remedy=remedy), status
    if isinstance(remedy, str) and remedy.startswith("GET /jobs"):
        remedy = "The list has all jobs."
    return render_template("pages/error.html", message=message, remedy=remedy, status=status), status


def _list() -> dict[str, Any]:
    """The list of jobs, as variables for its templates."""
    service, reports = _service(), _reports()
    text = request.args.get("q", "").strip()[:LONGEST_SEARCH]
    wanted = Wanted(_one_of("state", STATES), _one_of("kind", _kinds()), _number("project", None), text)
    counts = reports.count_by_state(wanted)
    total = counts.get(wanted.state, 0) if wanted.state else sum(counts.values())
    pages = max(-(-total // JOBS_A_PAGE), 1)
    page = min(max(_number("page", 1), 1), pages)
    found = reports.jobs(wanted, JOBS_A_PAGE, (page - 1) * JOBS_A_PAGE)
    deliveries = reports.deliveries([job.id for job in found])
    projects = {project.id: project for project in _service().store.projects.list()}
    chosen = {"kind": wanted.kind or None, "project": wanted.project_id, "q": wanted.text or None}
    newest = reports.newest(wanted)
    views = [JobView(job, service.settings, deliveries.get(job.id), projects.get(job.project_id or 0)) for job in found]
    return {
        "views": views,
        "rows": {view.job.id: _row(view) for view in views},
        "wanted": wanted,
        "chosen": chosen,
        "counts": counts,
        "total": total,
        "page": page,
        "pages": pages,
        "projects": list(projects.values()),
        "project": projects.get(wanted.project_id or 0),
        "formats": format_names(),
        "engines": list(service.engines.versions),
        "states": STATES,
        "bulk": bulk.actions(wanted, counts),
        "until": newest.isoformat() if newest else None,
        "kinds": _kinds(),
        "notices": _notices(service, counts),
        "failures": failures.shown(service, wanted),
    }


def _rendered(view: JobView, template: str, **more: Any) -> str:
    """A job's page. Raises InputError if its row in the store cannot be read."""
    try:
        return render_template(template, view=view, **more)
    except TrajSegError:
        raise
    except Exception as error:
        log.exception("job %s cannot be shown", view.job.id)
        raise InputError(
            f"Job {view.job.id} cannot be shown: its row in the store cannot be read.", "See the backend's log."
        ) from error


def _row(view: JobView) -> Markup:
    """A job in the list. A job that cannot be shown says so, without affecting the others."""
    try:
        return Markup(render_template("pages/parts/row.html", view=view))
    except Exception:
        log.exception("job %s cannot be shown", view.job.id)
        return Markup("<p>Job {} cannot be shown: its row in the store cannot be read.</p>").format(view.job.id)


def _kinds() -> dict[str, str]:
    return {kind.name: kind.title for kind in KINDS.values()}


def _notices(service: Service, counts: dict[str, int]) -> list[tuple[str, str]]:
    """What prevents jobs from being processed, each with a remedy."""
    try:
        workers = service.queue.workers()
    except ServiceError as error:
        return [(error.message, error.remedy)]
    if workers == 0 and counts.get("queued"):
        return [("No worker is running, so the queued jobs wait.", "Start `trajseg worker`, or use `trajseg serve`.")]
    return []


def _view(job_id: str) -> JobView:
    service = _service()
    held = service.store.jobs.get(job_id)
    project = service.store.projects.get(held.project_id) if held.project_id is not None else None
    adopted = service.store.adoptions.of_job(job_id) if annotation_of(held) is not None else None
    return JobView(held, service.settings, service.store.deliveries.of_job(job_id), project, adopted)


def _ahead(held: Job) -> int:
    return _reports().ahead(held) if held.state == "queued" else 0


def _news(parts: dict[str, str], rows: dict[str, str], **more: Any) -> ResponseReturnValue:
    # Marks include the name: two parts may be equal, such as empty, but a page has only one of them.
    marks = {name: _mark(f"{name} {html}") for name, html in {**parts, **rows}.items()}
    have = set(request.args.get("have", "").split("."))
    form = {
        **more,
        "parts": {name: _part(html, marks[name], have) for name, html in parts.items()},
        "rows": [{"id": name, **_part(html, marks[name], have)} for name, html in rows.items()],
    }
    answer = jsonify(form)
    answer.set_etag(_mark(json.dumps([marks, more])))
    answer.headers["Cache-Control"] = "no-store"
    return answer.make_conditional(request)


def _part(html: str, mark: str, have: set[str]) -> dict[str, str]:
    return {"mark": mark} if mark in have else {"mark": mark, "html": html}


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:MARK_LENGTH]


def _acted(held: Job) -> ResponseReturnValue:
    if request.accept_mimetypes.best == "application/json":
        return jsonify(id=held.id, state=held.state)
    return redirect(url_for("pages.job", job_id=held.id), 303)


def _prove() -> None:
    guard.check_token(_service().settings, request.form.get(guard.TOKEN_FIELD, ""))


def _one_of(name: str, known: dict[str, str]) -> str:
    value = request.args.get(name, "")
    if value and value not in known:
        raise InputError(f"There is no {name} {value[:40]!r}.", f"Choose one of {', '.join(known)}.")
    return value


def _number(name: str, otherwise: Any) -> Any:
    """A number from the query string, 0 or more; Label Studio's ids and ours are all below 10^9."""
    text = request.args.get(name, "")
    if not text:
        return otherwise
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"`{name}` is {text[:40]!r}, not a number.", f"Give a whole number, such as {name}=12.")
    return int(text)


def _reports() -> Reports:
    return Reports(_service().store.database)


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
