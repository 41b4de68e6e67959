"""A job as shown on pages: its title, its progress, what went wrong and which actions are possible."""

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
from trajseg.words import counted

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
    """A button: the route it posts to, its text and its style."""

    name: str
    text: str
    style: str = ""


PLOT_WIDTH, PLOT_HEIGHT = 600, 80
"""Size of the plot of agreement over time, in its own units."""


@dataclass(frozen=True)
class ComparisonView:
    """The agreement of two engines over a clip; `form` comes from trajseg.evaluation.comparison.Comparison.to_json."""

    form: dict[str, Any]

    @property
    def sentence(self) -> str:
        first, second = self.form["engines"]
        return f"{first} and {second} agree with a mean IoU of {self.form['mean_agreement']:.2f}."

    @property
    def points(self) -> str:
        """Agreement by frame as points of an SVG line, 1 at the top."""
        values = self.form["agreement"]
        step = PLOT_WIDTH / max(len(values) - 1, 1)
        return " ".join(f"{index * step:.1f},{(1 - value) * PLOT_HEIGHT:.1f}" for index, value in enumerate(values))

    @property
    def worst(self) -> list[tuple[int, float]]:
        """The 1-based frames with the lowest agreement, and their values."""
        return [(index + 1, self.form["agreement"][index]) for index in self.form["disagreement_first"][:5]]


@dataclass(frozen=True)
class JobView:
    """One job with everything that belongs to it, for the templates."""

    job: Job
    settings: Settings
    delivery: Delivery | None = None
    project: Project | None = None
    adoption: Adoption | None = None

    @property
    def title(self) -> str:
        """The instruction, or a substitute for it."""
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
        """Percentage of frames done; None before they are counted."""
        job = self.job
        return min(100 * job.frames_done // job.frames_total, 100) if job.frames_total else None

    @property
    def remaining(self) -> str:
        """Rough time left; empty if unknown."""
        seconds = self.job.eta_seconds
        if self.job.state != "running" or seconds is None or self.lost:
            return ""
        return f"about {rough(seconds)} left"

    @property
    def lost(self) -> bool:
        """Whether its worker has sent no heartbeat for too long."""
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
        """When it entered its current state, as far as the store knows."""
        if self.job.state == "running":
            return self.job.started_at or self.job.created_at
        return self.job.finished_at or self.job.created_at

    @property
    def track_count(self) -> int | None:
        return len(self.job.result.get("tracks", ())) if self.job.result and self.has_tracks else None

    @property
    def has_tracks(self) -> bool:
        """Whether it is done and of a kind that produces tracks, even if none were found."""
        return self.job.state == "done" and "frame_count" in (self.job.result or {})

    @property
    def answer(self) -> str:
        """The model's answer."""
        return plain(str(self.job.result.get("answer", ""))) if self.job.result else ""

    @property
    def timings(self) -> list[tuple[str, str]]:
        """Stage and duration, in order."""
        timings = self.job.result.get("timings") or {} if self.job.result else {}
        return [(str(name), duration(seconds)) for name, seconds in timings.items()]

    @property
    def warnings(self) -> tuple[TrackWarning, ...]:
        """The warnings in the result."""
        return self.job.notes.warnings

    @property
    def report(self) -> list[tuple[str, str]]:
        """The output of a job kind without tracks, by name; a training's decision is shown separately."""
        if self.preview:
            return []
        shown = {name: value for name, value in self._report.items() if name not in ("decision", "comparison")}
        return [(str(name), str(value)) for name, value in shown.items()]

    @property
    def comparison(self) -> ComparisonView | None:
        """The agreement of two engines; None if only one did the job."""
        form = self._report.get("comparison")
        return ComparisonView(form) if isinstance(form, dict) else None

    @property
    def preview(self) -> dict[str, object]:
        """The result of a preview; empty for other kinds and until it is done."""
        return self._report if self.job.kind == "preview" and self.job.state == "done" else {}

    @property
    def decision(self) -> str:
        """The gate's decision on a training's version; empty for other jobs."""
        decision = self._report.get("decision")
        return str(decision.get("reason", "")) if isinstance(decision, dict) else ""

    @property
    def _report(self) -> dict[str, object]:
        return (self.job.result or {}).get("report") or {}

    @property
    def refined(self) -> dict[str, str]:
        """By uid of a refined track, a sentence on how it was propagated."""
        return {note.track: _refined(note) for note in self.job.notes.refinement}

    @property
    def earlier(self) -> str:
        """The job whose tracks this one refines or captions; empty if there is none."""
        return self.job.asked.earlier_job_id or ""

    @property
    def doubt(self) -> float | None:
        """How doubtful the result is, 0 to 1; None if unknown."""
        return self.job.notes.doubt

    @property
    def delivery_problem(self) -> str:
        """Why the result has not reached Label Studio, if delivery was attempted."""
        if self.delivery is None or self.delivery.state == "sent":
            return ""
        return self.settings.redact(self.delivery.last_error)

    @property
    def waiting_for(self) -> str:
        """What a queued job is waiting for besides its turn; empty if it only waits for a worker."""
        return self.settings.redact(self.job.waiting_for) if self.job.state == "queued" else ""

    @property
    def actions(self) -> list[Action]:
        """The possible actions, most likely first."""
        if self.job.state in UNFINISHED:
            return [Action("cancel", "Cancel")]
        if self.job.state in ("failed", "cancelled"):
            return [Action("retry", "Retry", "strong")]
        if self.delivery is not None and self.delivery.state in ("failed", "dropped"):
            return [Action("retry", "Deliver again", "strong")]
        return []

    @property
    def annotation_id(self) -> int | None:
        """The annotation into which its tracks can be adopted; None if there is none."""
        return annotation_of(self.job)

    @property
    def adopted(self) -> bool:
        """Whether its tracks are in the annotation, as far as trajseg wrote them there."""
        return self.adoption is not None and self.adoption.undone_at is None

    @property
    def adopted_frames(self) -> str:
        """The size of the adoption, such as "12 masks" or "1 box"; empty if there is none."""
        return in_frames(self.adoption) if self.adoption is not None else ""

    @property
    def task_url(self) -> str:
        """The task's page in Label Studio; empty if unknown."""
        if self.project is None or self.job.task_id is None:
            return ""
        return f"{self.label_studio}/projects/{self.project.label_studio_id}/data?task={self.job.task_id}"

    @property
    def label_studio(self) -> str:
        """Label Studio's address for a browser: the one it reports, else the one this backend uses."""
        named = self.project.hostname.rstrip("/") if self.project else ""
        return named if _is_link(named) else self.settings.label_studio_url


def in_frames(adoption: Adoption) -> str:
    """The size of an adoption, such as "12 masks" or "1 box"."""
    count = len(adoption.changes)
    one, several = ("mask", "masks") if adoption.frame_index else ("box", "boxes")
    return f"{count} {one if count == 1 else several}"


def _is_link(address: str) -> bool:
    """Whether a browser can follow it. The host name from /setup is whatever its sender wrote."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def with_code(text: str) -> Markup:
    """One of our sentences as HTML, redacted; text between backticks becomes code."""
    settings: Settings = current_app.extensions["trajseg"].settings
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(settings.redact(str(text))))))


def _refined(note: TrackRefinement) -> str:
    figures = list(note.left_out.get(note.chosen, {}).values())
    painted, words = len(note.painted), ""
    if painted or note.hinted or not note.extended + note.missing:
        words = f"Carried on by {note.chosen} from {counted(painted, 'painted frame')}"
        words += f"; painted frames that were withheld came out with J {fmean(figures):.2f}. " if figures else ". "
    if note.extended:
        words += f"A longer range was filled in on {frames_in_words(note.extended)}. "
    if note.missing:
        words += f"The object was not found on {frames_in_words(note.missing)} of that range."
    return words.strip()


def duration(seconds: float) -> str:
    """A measured duration, such as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
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
    """An estimated duration, rounded to its precision: "5 s", "40 s", "3 min", "2 h"."""
    if seconds < 10:
        return f"{max(round(seconds), 1)} s"
    if seconds < 55:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 3570:
        return f"{max(round(seconds / 60), 1)} min"
    return f"{max(round(seconds / 3600), 1)} h"
