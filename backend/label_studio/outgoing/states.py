"""Task states: keeps the Data Manager's column `trajseg_state` up to date, at low priority.

A state is what the task has (`prelabelled`, `refined`, `found nothing`), followed by what is running or went wrong.
Tasks that share a state are written in one request. Progress is written rarely, and a job requested a moment ago is not
mentioned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing.words import ended_badly
from backend.label_studio.refusals import RefusedError
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.kinds import KINDS
from backend.store.models import KnownTask, now
from backend.store.params import PrelabelParams
from backend.store.tasks import WAITING, JobSummary, TaskKey
from trajseg.errors import UnknownProjectError
from trajseg.tracks import Result

log = logging.getLogger("trajseg.delivery")

STATE_KEY = "trajseg_state"
"""Key of task data that holds the state."""
FOUND_NOTHING = "found nothing"
SETTLED = frozenset({FOUND_NOTHING, *(kind.task_state for kind in KINDS.values() if kind.task_state)})
"""States of a task that has a prediction; the current activity may follow after a semicolon."""
PATIENCE_SECONDS = 3.0
"""A job that has waited for less than this is not mentioned."""
PROGRESS_SECONDS = 20.0
"""Shortest interval between two progress updates of a task."""
PROGRESS_STEP = 10
"""Step of the progress, percent; finer steps would only cause more requests."""
REQUESTS_A_ROUND = 8
TASKS_A_REQUEST = 200
MOST_WAITING = REQUESTS_A_ROUND * TASKS_A_REQUEST
"""Most waiting jobs whose tasks are looked at in a round."""
LOOK_BACK_SECONDS = 600.0
"""Jobs that ended earlier were handled in earlier rounds, or when the process started."""
LONGEST_REASON = 160
"""Longest error in the column, characters."""


def state_of(jobs: Sequence[JobSummary], known: KnownTask | None, moment: datetime) -> str:
    """The column's text for a task with these jobs.

    Args:
        jobs: oldest first.
        known: the store's record of the task; None if there is none.
    """
    parts = [known.settled if known else "", _activity(jobs, known, moment)]
    return "; ".join(part for part in parts if part)


def _activity(jobs: Sequence[JobSummary], known: KnownTask | None, moment: datetime) -> str:
    """What is running, or what went wrong last; empty if every request has its result."""
    mine = [job for job in jobs if job.kind != "caption"]
    for job in reversed(mine):
        if job.state == "running":
            return _words(job, f"running{_percent(job)}")
    waiting = [job for job in mine if job.state == "queued"]
    if waiting:
        waited = (moment - waiting[-1].created_at).total_seconds()
        return _words(waiting[-1], WAITING) if waited >= PATIENCE_SECONDS else ""
    settled_at = known.settled_at if known else None
    ended = [job for job in mine if job.finished_at and not (settled_at and job.finished_at < settled_at)]
    ended.sort(key=lambda job: job.finished_at or moment)
    return _ending(ended[-1], known) if ended else ""


def _ending(job: JobSummary, known: KnownTask | None) -> str:
    if job.state in ("failed", "rejected"):
        return _words(job, f"{ended_badly(job.rejection)}: {_reason(job.error)}")
    if job.state == "cancelled":
        return _words(job, "cancelled")
    if job.delivery_state == "failed":
        return _words(job, f"not delivered: {_reason(job.delivery_error or '')}")
    if not job.typed:
        return ""
    if job.visible == 0:
        return _words(job, FOUND_NOTHING)
    opened_at = known.opened_at if known else None
    if job.sent_at and not (opened_at and opened_at > job.sent_at):
        return _words(job, "ready, open the task again")
    return ""


def settled_state(job: Job, result: Result | None = None) -> str:
    """The state of a task once this job's result is there; empty if the result changes nothing.

    Args:
        result: of the job, if at hand; otherwise the job's notes are used.
    """
    state = KINDS[job.kind].task_state if job.kind in KINDS else ""
    visible = job.notes.visible if result is None else sum(bool(track.present) for track in result.tracks)
    return FOUND_NOTHING if state and visible == 0 else state


def is_typed(job: Job) -> bool:
    """Whether a person typed the instruction on the page."""
    asked = job.asked
    return isinstance(asked, PrelabelParams) and asked.typed


def _words(job: JobSummary, state: str) -> str:
    if job.kind == "refine":
        return state.replace("running", "refining", 1) if state.startswith("running") else f"refine {state}"
    return f"typed: {state}" if job.typed else state


def _percent(job: JobSummary) -> str:
    if not job.frames_total:
        return ""
    percent = min(100 * job.frames_done // job.frames_total, 100) // PROGRESS_STEP * PROGRESS_STEP
    return f" {percent} %" if percent else ""


def _reason(error: str) -> str:
    text = " ".join(error.split())
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


class StateWriter:
    """Writes task states to Label Studio, a few requests a round.

    Safe to run in several processes: they write the same values.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self._since: datetime | None = None

    def due(self) -> dict[tuple[int, str], list[int]]:
        """Tasks (Label Studio's ids) whose state is out of date there, by project (the store's id) and new state.

        The largest group first. Tasks whose result is being delivered are left out: the delivery writes their state.
        """
        moment = now()
        since = self._since or moment - timedelta(days=7)
        # Tasks that wait and say so are passed over: a long queue must not cost anything in each round.
        active = self.store.tasks.active(since)
        waiting = self.store.tasks.waiting(moment - timedelta(seconds=PATIENCE_SECONDS), MOST_WAITING)
        keys = list(dict.fromkeys([*active, *waiting]))
        known, jobs = self.store.tasks.known(keys), self.store.tasks.jobs(keys)
        groups: dict[tuple[int, str], list[int]] = {}
        repeated: dict[str, list[TaskKey]] = {}
        for key in keys:
            row = known.get(key)
            if any(job.delivery_state == "pending" and job.state == "done" for job in jobs[key]):
                continue
            state = self.settings.redact(state_of(jobs[key], row, moment))
            if state != (row.shown if row else ""):
                if not _too_soon(state, row, moment):
                    groups.setdefault((key[0], state), []).append(key[1])
            elif state.endswith(WAITING):
                repeated.setdefault(state, []).append(key)
        for state, waiting in repeated.items():
            # Another job waits now, and the column says so already.
            self.store.tasks.shown(waiting, state)
        self._since = moment - timedelta(seconds=LOOK_BACK_SECONDS)
        return dict(sorted(groups.items(), key=lambda item: -len(item[1])))

    def write(self, client: LabelStudioClient, due: Mapping[tuple[int, str], Sequence[int]], deadline: float) -> int:
        """Writes what is due; returns how many tasks have a new state.

        Args:
            due: see `due`.
            deadline: on the clock of time.monotonic(); what is not written by then is due in the next round.

        Raises LabelStudioError if Label Studio does not answer.
        """
        written = requests = 0
        for (project_id, state), task_ids in due.items():
            for start in range(0, len(task_ids), TASKS_A_REQUEST):
                if requests >= REQUESTS_A_ROUND or time.monotonic() > deadline:
                    return written
                some = list(task_ids[start : start + TASKS_A_REQUEST])
                requests += 1
                try:
                    client.set_task_key(client.id_of(self.store.projects.get(project_id)), some, STATE_KEY, state)
                except (RefusedError, UnknownProjectError) as error:
                    # The project was deleted, or this token has no access to it: retrying would change nothing.
                    log.info("the state of %d tasks is not shown: %s", len(some), error)
                self.store.tasks.shown([(project_id, task_id) for task_id in some], state)
                written += len(some)
        return written


def _too_soon(state: str, row: KnownTask | None, moment: datetime) -> bool:
    """Whether only the progress differs and it was written a moment ago."""
    if row is None or row.shown_at is None:
        return False
    moving = _without_percent(state) == _without_percent(row.shown)
    return moving and (moment - row.shown_at).total_seconds() < PROGRESS_SECONDS


def _without_percent(state: str) -> str:
    return " ".join(word for word in state.split() if word != "%" and not word.isdecimal())
