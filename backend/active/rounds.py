"""Rounds of active learning: choose tasks, wait until people have corrected them, train, and relabel.

A round has one of these states, stored in a file in the data folder so that a stopped command can continue:

* correcting: people are correcting the chosen tasks, or their corrections are being propagated;
* training: the training is queued or running; the gate decides at its end;
* labelling: a promoted version is relabelling the unannotated tasks;
* done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select

from backend.active.pool import TaskPool
from backend.effort import EffortReader, total
from backend.service.jobs import JobControl
from backend.settings import Settings
from backend.store import Job, Project, Store
from backend.store.params import FinetuneParams
from backend.store.rows import UNFINISHED, UnknownJobError
from backend.store.standing import Standing
from trajseg.correction.task_strategy import TaskFacts, load_task_strategy
from trajseg.errors import InputError, ServiceError, TrajSegError
from trajseg.files import write_json
from trajseg.words import counted

State = Literal["correcting", "training", "labelling", "done"]


@dataclass
class Round:
    """One round.

    Attributes:
        number: 1-based.
        tasks: Label Studio's ids, most useful first.
        gone: those of them that were deleted or skipped in Label Studio.
        trainings: number of the project's trainings before that of the round; None until the round needs one.
        job_id: of the training.
        version, decision, promoted, gain: from the gate; `gain` in J&F, None if it was not measured.
        changed_per_track, minutes_per_track: what people did with the tasks' tracks; see backend.effort.
    """

    number: int
    tasks: list[int]
    state: State = "correcting"
    began: str = ""
    ended: str = ""
    gone: list[int] = field(default_factory=list)
    trainings: int | None = None
    job_id: str = ""
    version: str = ""
    decision: str = ""
    promoted: bool = False
    gain: float | None = None
    changed_per_track: float = 0.0
    minutes_per_track: float = 0.0


@dataclass(frozen=True)
class _Record:
    """The content of the file of the rounds; `project` is Label Studio's id of the project."""

    rounds: list[Round]
    project: int = 0


@dataclass(frozen=True)
class Plan:
    """The plan for all rounds.

    Args:
        budget: tasks for people to correct, over all rounds.
        batch: tasks per round.
        strategy: chooses the tasks; see trajseg.correction.task_strategy.
        steps: per training; None: the recipe's.
        seed: for the strategy and the trainings.
    """

    budget: int
    batch: int
    strategy: str = "doubt-and-difference"
    steps: int | None = None
    seed: int = 0


class ActiveLearning:
    """A project's rounds. `step` does whatever is possible now and never waits.

    Args:
        jobs: requests trainings.
        show: called with a round once its tasks are chosen; returns those that were deleted or skipped there.

    Raises:
        InputError: the file of the rounds cannot be read, the strategy is unknown, or the project's engine cannot be
            fine-tuned.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        jobs: JobControl,
        project: Project,
        plan: Plan,
        show: Callable[[Round], Sequence[int]] = lambda _round: (),
    ) -> None:
        self.store, self.jobs, self.project, self.plan, self.show = store, jobs, project, plan, show
        jobs.engines.check_trainable(project.engine)
        self.path = settings.data_dir / "active" / f"project-{project.id}.json"
        self.rounds = _read(self.path, project.label_studio_id)
        self._pool, self._strategy = TaskPool(store, settings, project.id), load_task_strategy(plan.strategy)
        self._effort = EffortReader()

    @property
    def left(self) -> int:
        """What is left of the budget."""
        return self.plan.budget - sum(len(each.tasks) - len(each.gone) for each in self.rounds)

    @property
    def current(self) -> Round | None:
        """The round in progress."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].state != "done" else None

    def step(self) -> list[str]:
        """What was done, in words; empty if people or jobs have to finish something first.

        Raises:
            TrajSegError: the training failed. The next step requests another one.
        """
        current = self.current
        if current is None:
            message = self._begin()
        else:
            act = {"correcting": self._correct, "training": self._train, "labelling": self._label}[current.state]
            message = act(current)
        if message:
            self._save()
        return message

    def look_again(self) -> None:
        """Shows the tasks to correct again; tasks deleted or skipped meanwhile are no longer waited for."""
        current = self.current
        if current is not None and current.state == "correcting":
            gone = [task for task in self.show(current) if task not in current.gone]
            if gone:
                current.gone += gone
                self._save()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: the budget is spent, or no task can be corrected."""
        if self.current is not None:
            return False
        return self.left <= 0 or not (self._candidates()[0] or self._unfinished("prelabel"))

    @property
    def stage(self) -> tuple[int, str]:
        """Number and state of the round in progress; before the first and between two, the next number and ""."""
        current = self.current
        return (len(self.rounds) + 1, "") if current is None else (current.number, current.state)

    def waiting_for(self) -> str:
        """What has to happen before the next step, in words; empty if nothing."""
        current = self.current
        if current is None:
            predicting = self._unfinished("prelabel")
            return counted(predicting, "prediction") if predicting else ""
        if current.state == "correcting":
            if missing := self._missing(current):
                tasks = counted(len(current.tasks) - len(current.gone), "task")
                shown = ", ".join(f"{task}{self._unusable(task)}" for task in missing)
                return f"people to correct {len(missing)} of {tasks}: {shown}"
            jobs = counted(self._unfinished("refine", "caption", "finetune"), "job")
            return f"{jobs} to propagate corrections or train"
        if current.state == "training":
            job = self._training(current)
            if job is None:
                return ""
            done = f", {job.frames_done} of {job.frames_total} steps and clips" if job.frames_total else ""
            return f"the training ({job.state}{done})"
        return counted(self._unfinished("prelabel"), "prediction")

    def _begin(self) -> list[str]:
        # All predictions are compared, so that the most useful task is not missed because its prediction is queued.
        if self.left <= 0 or self._unfinished("prelabel"):
            return []
        candidates, corrected = self._candidates()
        number = len(self.rounds) + 1
        chosen = self._strategy.choose(candidates, corrected, min(self.plan.batch, self.left), self.plan.seed + number)
        if not chosen:
            return []
        made = Round(number, chosen, began=_now())
        self.rounds.append(made)
        self._save()
        made.gone = list(self.show(made))
        to_correct = [str(task) for task in chosen if task not in made.gone]
        if not to_correct:
            return self._correct(made)
        return [f"Round {number}: correct these tasks, the most useful first: {', '.join(to_correct)}"]

    def _correct(self, current: Round) -> list[str]:
        if len(current.gone) == len(current.tasks):
            current.state, current.ended, current.decision = "done", _now(), "Its tasks were deleted or skipped."
            return [f"Round {current.number}: all its tasks were deleted or skipped."]
        if self._missing(current):
            return []
        retried = self._training(current) if current.job_id else None
        if retried is not None and retried.state in (*UNFINISHED, "done"):
            current.state = "training"
            return [f"Round {current.number}: its training was retried (job {retried.id})."]
        if current.trainings is None:
            # A training that is already running has not seen these corrections.
            if self._unfinished("refine", "caption", "finetune"):
                return []
            current.trainings = len(self._trainings())
            self._save()
        # One that was requested after that, by a command that was interrupted before it could say so.
        requested = self._trainings()[current.trainings :]
        mine = [track for track in self._effort.tracks(self.store, self.project.id) if track.task_id in current.tasks]
        effort = total(mine)
        current.changed_per_track, current.minutes_per_track = effort.changed_per_track, effort.minutes_per_track
        if requested:
            job_id = requested[0]
        else:
            job_id = self.jobs.train(self.project, FinetuneParams(steps=self.plan.steps, seed=self.plan.seed))[0].id
        current.state, current.job_id = "training", job_id
        return [
            f"Round {current.number}: corrected, {effort.changed_per_track:.1f} frames and about "
            f"{effort.minutes_per_track:.1f} minutes per track; training is queued (job {job_id})."
        ]

    def _train(self, current: Round) -> list[str]:
        job = self._training(current)
        if job is not None and job.state in UNFINISHED:
            return []
        if job is None or job.state != "done":
            current.state, current.trainings = "correcting", None
            self._save()
            raise _training_error(current, job)
        report = (job.result or {}).get("report") or {}
        decision = report.get("decision") or {}
        current.version, current.decision = str(report.get("version", "")), str(decision.get("reason", ""))
        current.promoted = bool(decision.get("promoted"))
        current.gain = (decision.get("gain") or {}).get("mean")
        current.state = "labelling"
        return [f"Round {current.number}: {current.decision}"]

    def _label(self, current: Round) -> list[str]:
        if self._unfinished("prelabel"):
            return []
        current.state, current.ended = "done", _now()
        word = self._relabelled(current.version) if current.promoted else "the previous version keeps serving"
        return [f"Round {current.number} is done: {word}. {max(self.left, 0)} of {self.plan.budget} tasks are left."]

    def _relabelled(self, version: str) -> str:
        """What a promoted version has done since, in words."""
        query = (
            select(Job.state, func.count(Job.task_id.distinct()))
            .where(Job.project_id == self.project.id, Job.kind == "prelabel", Job.model_version == version)
            .group_by(Job.state)
        )
        with self.store.database.read() as session:
            tasks = {state: int(count) for state, count in session.execute(query)}
        done, bad = tasks.pop("done", 0), sum(tasks.values())
        words = (
            f"{version} has relabelled {counted(done, 'task')}" if done else f"{version} serves from the next job on"
        )
        return f"{words}, {counted(bad, 'prediction')} failed or cancelled" if bad else words

    def _candidates(self) -> tuple[list[TaskFacts], list[TaskFacts]]:
        """(tasks that can be chosen, annotated tasks)."""
        candidates, corrected = self._pool.tasks()
        gone = {task for each in self.rounds for task in each.gone}
        return [task for task in candidates if task.task_id not in gone], corrected

    def _trainings(self) -> list[str]:
        """The ids of the project's trainings, oldest first."""
        query = select(Job.id).where(Job.project_id == self.project.id, Job.kind == "finetune")
        with self.store.database.read() as session:
            return list(session.scalars(query.order_by(Job.created_at, Job.id)))

    def _training(self, current: Round) -> Job | None:
        """The round's training; None if it is no longer in the store, which keeps failed jobs for a limited time."""
        try:
            return self.store.jobs.get(current.job_id)
        except UnknownJobError:
            return None

    def _unusable(self, task: int) -> str:
        """Why the annotation of a task that still counts as unannotated cannot be used; empty if it has none."""
        rows = self.store.corrections.annotations(self.project.id, task)
        there = [row for row in rows if row.withdrawn_at is None]
        if not there:
            return ""
        return f" (annotated, but {there[-1].error or 'this says nothing about its tracks'})"

    def _missing(self, current: Round) -> list[int]:
        """Unannotated tasks of the round."""
        annotated = {task for _, task in Standing(self.store).annotations(self.project.id)}
        return [task for task in current.tasks if task not in annotated and task not in current.gone]

    def _unfinished(self, *kinds: str) -> int:
        query = select(func.count()).where(
            Job.project_id == self.project.id, Job.kind.in_(kinds), Job.state.in_(UNFINISHED)
        )
        with self.store.database.read() as session:
            return session.scalar(query) or 0

    def _save(self) -> None:
        record = _Record(self.rounds, self.project.label_studio_id)
        try:
            write_json(self.path, {**asdict(record), "plan": asdict(self.plan)})
        except OSError as error:
            raise ServiceError(
                f"The rounds cannot be stored in {self.path}: {error.strerror}.",
                "Free some disk, or make the folder writable. Run the same command to continue.",
            ) from error


def _training_error(current: Round, job: Job | None) -> TrajSegError:
    """What became of a training that did not end."""
    remedy = "Run the same command to continue this round with another training."
    if job is None:
        return TrajSegError(
            f"The training of round {current.number} (job {current.job_id}) is no longer in the store.", remedy
        )
    ended = "failed" if job.state == "failed" else f"was {job.state}"
    reason = f": {job.error}" if job.error else "."
    return TrajSegError(
        f"The training of round {current.number} (job {job.id}) {ended}{reason}", f"{job.remedy} {remedy}".strip()
    )


def _read(path: Path, project: int) -> list[Round]:
    try:
        record = TypeAdapter(_Record).validate_json(path.read_bytes())
        # The store numbers its projects; one that was made again may give this number to another project.
        if record.project in (0, project):
            return record.rounds
        reason = f"they are of project {record.project}, not {project}"
    except FileNotFoundError:
        return []
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    except OSError as error:
        reason = str(error)
    raise InputError(
        f"The rounds in {path} cannot be read ({reason}).",
        "Delete the file to start again with round 1; corrections and versions are kept.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
