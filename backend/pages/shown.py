"""A job in the words of the page: what it is called, how far it is, what went wrong and what a person can do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from flask import current_app
from markupsafe import Markup, escape

from backend.addresses import shown_address, video_name
from backend.label_studio.outgoing.adoption import annotation_of
from backend.settings import Settings
from backend.store import Delivery, Job, Project
from backend.store.kinds import title_of
from backend.store.models import Adoption, now
from backend.store.notes import TrackRefinement, TrackWarning, frames_in_words
from backend.store.rows import UNFINISHED
from trajseg.tracks import plain

STATES = {
    "queued": "Queued",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "rejected": "Rejected",
    "cancelled": "Cancelled",
}
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Action:
    """A button: where it posts to, what it says, and how much it stands out."""

    name: str
    text: str
    style: str = ""


PLOT_WIDTH, PLOT_HEIGHT = 600, 80
"""Of the line of agreement over time, in its own units."""


@dataclass(frozen=True)
class ComparisonView:
    """How two engines agree over a clip; `form` is what trajseg.evaluation.comparison.Comparison.to_json wrote."""

    form: dict[str, Any]

    @property
    def sentence(self) -> str:
        first, second = self.form["engines"]
        return f"{first} and {second} agree with an IoU of {self.form['mean_agreement']:.2f} on average."

    @property
    def points(self) -> str:
        """Agreement by frame as points of an SVG line, 1 at the top."""
        values = self.form["agreement"]
        step = PLOT_WIDTH / max(len(values) - 1, 1)
        return " ".join(f"{index * step:.1f},{(1 - value) * PLOT_HEIGHT:.1f}" for index, value in enumerate(values))

    @property
    def worst(self) -> list[tuple[int, float]]:
        """1-based frames of least agreement, and the agreement."""
        return [(index + 1, self.form["agreement"][index]) for index in self.form["disagreement_first"][:5]]


@dataclass(frozen=True)
class JobView:
    """One job with what belongs to it, for the templates."""

    job: Job
    settings: Settings
    delivery: Delivery | None = None
    project: Project | None = None
    adoption: Adoption | None = None

    @property
    def title(self) -> str:
        """The instruction, or what stands for it."""
        return self.job.instruction.strip() or ("" if self.job.kind == "prelabel" else title_of(self.job.kind))

    @property
    def kind(self) -> str:
        return title_of(self.job.kind)

    @property
    def state(self) -> str:
        return STATES.get(self.job.state, self.job.state)

    @property
    def video_name(self) -> str:
        return video_name(self.job.video) if self.job.video else ""

    @property
    def video_address(self) -> str:
        return shown_address(self.job.video)

    @property
    def percent(self) -> int | None:
        """How much of the frames is done; None before they are counted."""
        job = self.job
        return min(100 * job.frames_done // job.frames_total, 100) if job.frames_total else None

    @property
    def remaining(self) -> str:
        """How long it still takes, roughly; empty where that is not known."""
        seconds = self.job.eta_seconds
        if self.job.state != "running" or seconds is None or self.lost:
            return ""
        return f"about {rough(seconds)} left"

    @property
    def lost(self) -> bool:
        """Whether its worker has said nothing for too long."""
        beat = self.job.heartbeat_at
        stale = timedelta(seconds=self.settings.stale_after_seconds)
        return self.job.state == "running" and beat is not None and now() - beat > stale

    @property
    def took(self) -> str:
        """How long the last run took."""
        if self.job.started_at is None or self.job.finished_at is None:
            return ""
        return duration((self.job.finished_at - self.job.started_at).total_seconds())

    @property
    def moment(self) -> datetime:
        """When it last got into its state, as far as the store tells."""
        if self.job.state == "running":
            return self.job.started_at or self.job.created_at
        return self.job.finished_at or self.job.created_at

    @property
    def track_count(self) -> int | None:
        return len(self.job.result.get("tracks", ())) if self.job.result and self.has_tracks else None

    @property
    def has_tracks(self) -> bool:
        """Whether it is done and of a kind that makes tracks, if only an empty list of them."""
        return self.job.state == "done" and "frame_count" in (self.job.result or {})

    @property
    def answer(self) -> str:
        """What the model said."""
        return plain(str(self.job.result.get("answer", ""))) if self.job.result else ""

    @property
    def timings(self) -> list[tuple[str, str]]:
        """Stage and duration, in order."""
        timings = self.job.result.get("timings") or {} if self.job.result else {}
        return [(str(name), duration(seconds)) for name, seconds in timings.items()]

    @property
    def warnings(self) -> tuple[TrackWarning, ...]:
        """What the result warns of."""
        return self.job.notes.warnings

    @property
    def report(self) -> list[tuple[str, str]]:
        """What a kind of job without tracks leaves behind, by name; a training's decision is shown by itself."""
        if self.preview:
            return []
        shown = {name: value for name, value in self._report.items() if name not in ("decision", "comparison")}
        return [(str(name), str(value)) for name, value in shown.items()]

    @property
    def comparison(self) -> ComparisonView | None:
        """How two engines agree; None where only one did the job."""
        form = self._report.get("comparison")
        return ComparisonView(form) if isinstance(form, dict) else None

    @property
    def preview(self) -> dict[str, object]:
        """What a preview found; empty for other kinds and where it is not done."""
        return self._report if self.job.kind == "preview" and self.job.state == "done" else {}

    @property
    def decision(self) -> str:
        """What the gate said of a training's version; empty for other jobs."""
        decision = self._report.get("decision")
        return str(decision.get("reason", "")) if isinstance(decision, dict) else ""

    @property
    def _report(self) -> dict[str, object]:
        return (self.job.result or {}).get("report") or {}

    @property
    def refined(self) -> dict[str, str]:
        """By uid of a refined track, in words, how it was carried on."""
        return {note.track: _refined(note) for note in self.job.notes.refinement}

    @property
    def earlier(self) -> str:
        """The job whose tracks this one carries on or describes; empty where there is none."""
        return self.job.asked.earlier_job_id or ""

    @property
    def doubt(self) -> float | None:
        """How doubtful the result is, 0 to 1; None where that is not known."""
        return self.job.notes.doubt

    @property
    def delivery_problem(self) -> str:
        """Why the result has not reached Label Studio, where that was tried."""
        if self.delivery is None or self.delivery.state == "sent":
            return ""
        return self.settings.redact(self.delivery.last_error)

    @property
    def waiting_for(self) -> str:
        """What a queued job waits for beside its turn; empty where it only waits for a worker."""
        return self.settings.redact(self.job.waiting_for) if self.job.state == "queued" else ""

    @property
    def actions(self) -> list[Action]:
        """What a person can do, the most likely first."""
        if self.job.state in UNFINISHED:
            return [Action("cancel", "Cancel")]
        if self.job.state in ("failed", "cancelled"):
            return [Action("retry", "Retry", "strong")]
        if self.delivery is not None and self.delivery.state in ("failed", "dropped"):
            return [Action("retry", "Deliver again", "strong")]
        return []

    @property
    def annotation_id(self) -> int | None:
        """The annotation that its tracks can be adopted into; None where there is none."""
        return annotation_of(self.job)

    @property
    def adopted(self) -> bool:
        """Whether its tracks stand in the annotation, as far as trajseg has written them there."""
        return self.adoption is not None and self.adoption.undone_at is None

    @property
    def adopted_frames(self) -> str:
        """What the adoption changed, such as "12 masks" or "1 box"; empty where there is none."""
        return in_frames(self.adoption) if self.adoption is not None else ""

    @property
    def task_url(self) -> str:
        """The task's page in Label Studio; empty where that is not known."""
        if self.project is None or self.job.task_id is None:
            return ""
        return f"{self.label_studio}/projects/{self.project.label_studio_id}/data?task={self.job.task_id}"

    @property
    def label_studio(self) -> str:
        """Where a browser reaches Label Studio: what it calls itself, else where this backend reaches it."""
        named = self.project.hostname.rstrip("/") if self.project else ""
        return named if _is_link(named) else self.settings.label_studio_url


def in_frames(adoption: Adoption) -> str:
    """How much an adoption changed, such as "12 masks" or "1 box"."""
    count = len(adoption.changes)
    one, several = ("mask", "masks") if adoption.frame_index else ("box", "boxes")
    return f"{count} {one if count == 1 else several}"


def _is_link(address: str) -> bool:
    """Whether a browser can follow it. /setup's host name is whatever its sender wrote."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def with_code(text: str) -> Markup:
    """A sentence of ours for HTML, without secrets: what stands between backticks becomes code."""
    settings: Settings = current_app.extensions["trajseg"].settings
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(settings.redact(str(text))))))


def _refined(note: TrackRefinement) -> str:
    figures = list(note.left_out.get(note.chosen, {}).values())
    painted, words = len(note.painted), ""
    if painted or note.hinted or not note.extended + note.missing:
        words = f"Carried on by {note.chosen} from {painted} painted frame{'s' if painted != 1 else ''}"
        words += f"; painted frames that were withheld came out with J {fmean(figures):.2f}. " if figures else ". "
    if note.extended:
        words += f"A longer range was filled in on {frames_in_words(note.extended)}. "
    if note.missing:
        words += f"The object was not found on {frames_in_words(note.missing)} of that range."
    return words.strip()


def duration(seconds: float) -> str:
    """A measured time, such as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def rough(seconds: float) -> str:
    """A time to come, no finer than it can be known: "5 s", "40 s", "3 min", "2 h"."""
    if seconds < 10:
        return f"{max(round(seconds), 1)} s"
    if seconds < 55:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 3570:
        return f"{max(round(seconds / 60), 1)} min"
    return f"{max(round(seconds / 3600), 1)} h"
