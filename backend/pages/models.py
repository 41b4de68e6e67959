"""The page of model versions: what was trained for each project, the gate's decision, and which version serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Blueprint, current_app, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from backend.pages import guard
from backend.service.service import Service
from backend.store import Project
from backend.store.models import ModelVersion
from trajseg.words import counted

PICTURE = "differences.png"
"""Stored beside an adapter: the clips whose answers changed most, drawn by the training."""
SHOWN_CLIPS = 12

blueprint = Blueprint("models", __name__, url_prefix="/models")


@dataclass(frozen=True)
class Figure:
    """A mean gain in J&F over some clips, with its confidence interval."""

    name: str
    clips: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class VersionView:
    """One version as shown on the page.

    Args:
        serves: whether it serves its project's next jobs.
        picture: whether PICTURE is on this machine.
        training: the state of its training job; empty if that is no longer stored.
        error: why its training failed, and what to do about it; empty if it did not fail.
    """

    version: ModelVersion
    serves: bool = False
    picture: bool = False
    training: str = ""
    error: str = ""

    @property
    def badge(self) -> str:
        """The badge's style, which is that of a job state."""
        if self.serves:
            return "done"
        if self.version.state == "candidate":
            return self.training or "failed"
        return {"refused": "cancelled"}.get(self.version.state, "queued")

    @property
    def state(self) -> str:
        """The state in words; a promoted version that has been replaced does not serve."""
        if self.version.state == "candidate":
            words = {"queued": "Training is queued", "running": "In training", "done": "In training"}
            return words.get(self.training, f"Training {self.training or 'lost'}")
        words = {"refused": "Not promoted", "rolled back": "Rolled back"}
        return "Serves" if self.serves else words.get(self.version.state, "Promoted earlier")

    @property
    def decision(self) -> Mapping[str, Any]:
        """The gate's."""
        return self.version.manifest.get("decision") or {}

    @property
    def verdict(self) -> str:
        """The gate's decision, or why there is none."""
        return str(self.decision.get("reason") or self.version.reason or self.error)

    @property
    def by_hand(self) -> str:
        """What a person decided after the gate; empty if nobody did."""
        return self.version.reason if self.version.reason != self.verdict else ""

    @property
    def figures(self) -> list[Figure]:
        """What the gate measured."""
        found = []
        for name, gain, clips in (("Held-out videos", "gain", "project"), ("Base set", "base_gain", "base")):
            if interval := self.decision.get(gain):
                clip_count = len(self.decision.get(clips) or ())
                found.append(Figure(name, clip_count, interval["mean"], interval["low"], interval["high"]))
        return found

    @property
    def clips(self) -> list[tuple[str, float, float]]:
        """(name, J&F of the served version, J&F of this one) of held-out videos, largest gain first."""
        pairs = self.decision.get("project") or ()
        return [(str(pair["clip"]), pair["served"], pair["candidate"]) for pair in pairs]

    @property
    def trained_on(self) -> str:
        """How much it was trained on, if known."""
        manifest = self.version.manifest
        clips = (manifest.get("data") or {}).get("clips", ())
        # Several tasks may be about the same video.
        sides = [*{clip.get("identity") or clip.get("name"): clip.get("side") for clip in clips}.values()]
        videos = (
            f"trained on {counted(sides.count('train'), 'video')}, {sides.count('held-out')} held out" if sides else ""
        )
        missing = manifest.get("left_out") or ()
        left_out = f"{counted(len(missing), 'task')} left out: {missing[0][1]}" if missing else ""
        return "; ".join(filter(None, (videos, left_out)))

    @property
    def can_be_promoted(self) -> bool:
        """Whether it has an adapter and does not serve already."""
        return bool(self.version.folder) and not self.serves


@dataclass(frozen=True)
class ProjectModels:
    """A project with its versions, newest first."""

    project: Project
    serving: str
    versions: list[VersionView]
    base_serves: bool

    @property
    def before(self) -> str:
        """What would serve after a rollback."""
        serving = next((view.version for view in self.versions if view.serves), None)
        others = [view.version for view in self.versions if not view.serves and view.version.state == "promoted"]
        promoted = [version for version in others if serving is not None and version.base == serving.base]
        promoted.sort(key=lambda version: (version.decided_at is not None, version.decided_at, version.number))
        return promoted[-1].name if promoted else "the base"


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """All projects with trainings."""
    service = _service()
    projects = {project.id: project for project in service.store.projects.list()}
    versions = service.store.versions.list()
    shown = [
        _project(service, projects[project_id], [version for version in versions if version.project_id == project_id])
        for project_id in dict.fromkeys(version.project_id for version in versions)
    ]
    return render_template(
        "pages/models.html",
        projects=shown,
        base=service.model_version,
        most_clips=SHOWN_CLIPS,
        token=guard.new_token(service.settings),
    )


@blueprint.get(f"/<int:project_id>/<int:number>/{PICTURE}")
def picture(project_id: int, number: int) -> ResponseReturnValue:
    """The clips whose answers changed most; `project_id` is the store's."""
    service = _service()
    path = _picture(service, service.store.versions.version(project_id, number))
    if path is None:
        raise NotFound("There is no picture of this version on this machine.")
    return send_file(path, mimetype="image/png", max_age=3600)


@blueprint.post("/<int:project_id>/<int:number>/promote")
def promote(project_id: int, number: int) -> ResponseReturnValue:
    """Makes a version serve from the next job on, whatever the gate decided."""
    service = _proved()
    service.models.promote(project_id, number)
    return redirect(url_for("pages.models.index"), 303)


@blueprint.post("/<int:project_id>/rollback")
def rollback(project_id: int) -> ResponseReturnValue:
    """Takes the serving version out of service; the one before it serves from the next job on."""
    service = _proved()
    service.models.rollback(project_id)
    return redirect(url_for("pages.models.index"), 303)


def _project(service: Service, project: Project, versions: list[ModelVersion]) -> ProjectModels:
    served = service.store.versions.served(project.id, service.base_of(project))
    trainings = service.store.versions.training_states(versions)
    errors = service.store.versions.training_errors(versions)
    views = [
        VersionView(
            version,
            served is not None and version.id == served.id,
            _picture(service, version) is not None,
            trainings.get(version.id, ""),
            errors.get(version.id, "") if version.state == "candidate" else "",
        )
        for version in versions
    ]
    serving = served.name if served else service.base_of(project)
    return ProjectModels(project, serving, views, served is None)


def _picture(service: Service, version: ModelVersion) -> Path | None:
    """The file, if it is in this machine's data folder."""
    root = service.settings.data_dir.resolve()
    path = (root / version.folder / PICTURE).resolve() if version.folder else root
    return path if path.is_relative_to(root) and path.is_file() else None


def _proved() -> Service:
    """The service, once the form's token has proved that one of our own pages posted it."""
    service = _service()
    guard.check_token(service.settings, request.form.get(guard.TOKEN_FIELD, ""))
    return service


def _service() -> Service:
    service: Service = current_app.extensions["trajseg"]
    return service
