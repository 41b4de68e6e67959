"""The command `trajseg active`: runs rounds of active learning, with a report on each, until the budget is spent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from backend.active.rounds import ActiveLearning, Round
    from backend.settings import Settings
    from backend.store import Project

ROUND_KEY, RANK_KEY = "trajseg_round", "trajseg_rank"
"""Columns of the Data Manager: the round in which a task was chosen, and its rank there (1: most useful)."""
POLL_SECONDS, LOOK_SECONDS = 5.0, 60.0
"""Poll intervals, seconds: for the store; for asking Label Studio whether the chosen tasks still exist."""


@click.command()
@click.option("--project", type=click.IntRange(1), required=True, help="Label Studio's id of the project.")
@click.option("--budget", type=click.IntRange(1), required=True, help="Tasks for people to correct, over all rounds.")
@click.option("--batch", type=click.IntRange(1), help="Tasks per round [a quarter of the budget].")
@click.option("--strategy", default="doubt-and-difference", show_default=True, help="How tasks are chosen.")
@click.option("--steps", type=click.IntRange(1), help="Steps per training [by the base's size].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
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
    from backend.composition import compose

    plan = Plan(budget, batch or math.ceil(budget / 4), strategy, steps, seed)
    backend = compose()
    try:
        stored = backend.store.projects.of_label_studio(project)
        show = _shown_in_label_studio(backend.settings, stored)
        learning = ActiveLearning(backend.store, backend.settings, backend.service.jobs, stored, plan, show)
        _run(learning, once, poll)
    finally:
        backend.close()


def _run(learning: ActiveLearning, once: bool, poll: float) -> None:
    reported, looked = "", time.monotonic()
    while not learning.finished:
        lines = learning.step()
        for line in lines:
            click.echo(line)
        if lines:
            continue
        waiting = learning.waiting_for()
        if waiting and waiting != reported:
            click.echo(f"Waiting for {waiting}.", err=True)
            reported = waiting
        if once:
            break
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            learning.look_again()
        time.sleep(poll)
    if learning.finished and learning.left > 0:
        click.echo(f"No task is left to correct; {learning.left} of the budget remain.")
    click.echo(json.dumps({"rounds": [asdict(each) for each in learning.rounds], "left": max(learning.left, 0)}))


def _shown_in_label_studio(settings: Settings, project: Project) -> Callable[[Round], Sequence[int]]:
    """Writes round and rank of the chosen tasks into the Data Manager's columns; returns tasks that were deleted."""
    from backend.label_studio.outgoing.delivery import connected
    from backend.label_studio.refusals import MissingError

    def show(chosen: Round) -> Sequence[int]:
        if not settings.label_studio_api_key.get_secret_value():
            click.echo("LABEL_STUDIO_API_KEY is not set: the tasks are not marked in the Data Manager.", err=True)
            return []
        gone = []
        client = connected(settings)
        try:
            for rank, task in enumerate(chosen.tasks, 1):
                try:
                    columns = {ROUND_KEY: chosen.number, RANK_KEY: rank}
                    client.update_task_data(client.id_of(project), task, columns)
                except MissingError:
                    gone.append(task)
        finally:
            client.close()
        return gone

    return show
