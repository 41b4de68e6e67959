"""The command `trajseg active`: runs rounds of active learning, with a report on each, until the budget is spent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from backend.model_commands import SEED, STEPS
from trajseg.errors import LabelStudioError, QueueError, StoreError

if TYPE_CHECKING:
    from backend.active.rounds import ActiveLearning, Round
    from backend.label_studio.client import LabelStudioClient
    from backend.queue import JobQueue
    from backend.settings import Settings
    from backend.store import Project

ROUND_KEY, RANK_KEY = "trajseg_round", "trajseg_rank"
"""Columns of the Data Manager: the round in which a task was chosen, and its rank there (1: most useful)."""
POLL_SECONDS, LOOK_SECONDS = 5.0, 60.0
"""Poll intervals, seconds: for the store; for asking Label Studio whether the chosen tasks still exist."""
REPORT_SECONDS = 60.0
"""Shortest interval between two lines about the progress of the same wait."""


@click.command()
@click.option("--project", type=click.IntRange(1), required=True, help="Label Studio's id of the project.")
@click.option("--budget", type=click.IntRange(1), required=True, help="Tasks for people to correct, over all rounds.")
@click.option("--batch", type=click.IntRange(1), help="Tasks per round [a quarter of the budget].")
@click.option("--strategy", default="doubt-and-difference", show_default=True, help="How tasks are chosen.")
@STEPS
@SEED
@click.option("--once", is_flag=True, help="Do what can be done now, print what comes next, and exit.")
@click.option("--poll", type=click.FloatRange(0.05), default=POLL_SECONDS, show_default=True, hidden=True)
def active(
    project: int,
    budget: int,
    batch: int | None,
    strategy: str,
    steps: int | None,
    seed: int,
    once: bool,
    poll: float,
) -> None:
    """Run rounds of active learning: choose tasks, wait for corrections, train, label the rest again.

    Needs a running backend and worker. The Data Manager's columns trajseg_round and trajseg_rank show which tasks to
    correct. After Ctrl-C, run the same command to continue. The last line printed is one JSON object with all rounds.
    """
    from backend.active.rounds import ActiveLearning, Plan
    from backend.composition import compose_beside_serve
    from backend.locks import held_alone

    plan = Plan(budget, batch or -(-budget // 4), strategy, steps, seed)
    backend = compose_beside_serve()
    try:
        stored = backend.store.projects.of_label_studio(project)
        busy = f"Another `trajseg active` (process {{process}}) runs the rounds of project {project}."
        lock = backend.settings.data_dir / "active" / f"project-{stored.id}.lock"
        with held_alone(lock, busy, "Let it continue, or stop it first."):
            show = _shown_in_label_studio(backend.settings, stored)
            learning = ActiveLearning(backend.store, backend.settings, backend.service.jobs, stored, plan, show)
            _say_if_nothing_works(backend.queue)
            _run(learning, once, poll)
    except KeyboardInterrupt:
        click.echo("Interrupted. Run the same command to continue.", err=True)
        raise
    finally:
        backend.close()


def _say_if_nothing_works(queue: JobQueue) -> None:
    """Warns if no worker is running; then a backend, which reads the corrections, is unlikely to run either."""
    try:
        idle = "" if queue.workers() else "No worker is running."
    except QueueError as error:
        idle = f"No worker can be found: {error.message}"
    if idle:
        click.echo(
            f"{idle} Corrections are read, and trainings run, only while a backend and a worker are running, such as "
            "`trajseg serve`.",
            err=True,
        )


class _Watch:
    """Steps through the rounds, and reports on them and on what they wait for."""

    def __init__(self, learning: ActiveLearning) -> None:
        self.learning = learning
        self.finished = False
        self._reported = ""
        self._stage: tuple[int, str] | None = None
        self._looked: float | None = None
        self._said_at = time.monotonic()

    def advance(self) -> bool:
        """Does what can be done now; whether that was anything. Raises StoreError if the store does not answer."""
        learning, moment = self.learning, time.monotonic()
        if self._looked is None or moment - self._looked > LOOK_SECONDS:
            self._looked = moment
            learning.look_again()
        self.finished = learning.finished
        lines = [] if self.finished else learning.step()
        for line in lines:
            click.echo(line)
        if not lines and not self.finished:
            self._report(learning.waiting_for(), learning.stage)
        return bool(lines)

    def _report(self, waiting: str, stage: tuple[int, str]) -> None:
        before, self._stage = self._stage, stage
        moment = time.monotonic()
        if waiting and waiting != self._reported and (stage != before or moment - self._said_at > REPORT_SECONDS):
            click.echo(f"Waiting for {waiting.rstrip('.')}.", err=True)
            self._reported, self._said_at = waiting, moment


def _run(learning: ActiveLearning, once: bool, poll: float) -> None:
    watch, away = _Watch(learning), False
    while not watch.finished:
        try:
            more, away = watch.advance(), False
        except StoreError as error:
            if once:
                raise
            if not away:
                click.echo(f"Waiting for the store: {error}", err=True)
            more, away = False, True
        if more or watch.finished:
            continue
        if once:
            break
        time.sleep(poll)
    if watch.finished and learning.left > 0:
        click.echo(
            f"No predicted task is left to correct; {learning.left} of the budget remain. To go on, predict more tasks "
            "(Retrieve Predictions in the Data Manager)."
        )
    click.echo(json.dumps({"rounds": [asdict(each) for each in learning.rounds], "left": max(learning.left, 0)}))


def _shown_in_label_studio(settings: Settings, project: Project) -> Callable[[Round], Sequence[int]]:
    """Writes round and rank of the chosen tasks into the Data Manager's columns; returns tasks deleted or skipped.

    While Label Studio does not answer, it says so once and returns none. Raises MissingError or OtherProjectError if
    the project was deleted.
    """
    from backend.label_studio.outgoing.delivery import connected
    from backend.label_studio.refusals import MissingError, OtherProjectError

    said = ""

    def say(words: str) -> None:
        nonlocal said
        if words != said:
            click.echo(words, err=True)
        said = words

    def marked(client: LabelStudioClient, chosen: Round) -> list[int]:
        number, gone = client.id_of(project), []
        for rank, task in enumerate(chosen.tasks, 1):
            try:
                columns = {ROUND_KEY: chosen.number, RANK_KEY: rank}
                if client.update_task_data(number, task, columns).skipped:
                    gone.append(task)
            except MissingError:
                gone.append(task)
        return gone

    def show(chosen: Round) -> Sequence[int]:
        nonlocal said
        if not settings.label_studio_api_key.get_secret_value():
            say("LABEL_STUDIO_API_KEY is not set: the tasks are not marked in the Data Manager.")
            return []
        client = connected(settings)
        try:
            gone = marked(client, chosen)
            said = ""
            return gone
        except (MissingError, OtherProjectError):
            raise
        except LabelStudioError as error:
            say(f"The tasks are not marked in the Data Manager yet: {error}")
            return []
        finally:
            client.close()

    return show
