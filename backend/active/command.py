"""The command `trajseg active`: rounds of active learning, each reported, until the budget is used up."""

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
"""Columns of the Data Manager: in which round a task was chosen, and its place in it (1: the most useful)."""
POLL_SECONDS, LOOK_SECONDS = 5.0, 60.0
"""How often the store is looked at; how often Label Studio is asked whether the chosen tasks are still there."""


@click.command()
@click.option("--project", type=click.IntRange(1), required=True, help="Label Studio's id of the project.")
@click.option("--budget", type=click.IntRange(1), required=True, help="Tasks that people correct, in all rounds.")
@click.option("--batch", type=click.IntRange(1), help="Of these in a round [a quarter of the budget].")
@click.option("--strategy", default="doubt-and-difference", show_default=True, help="What chooses the tasks.")
@click.option("--steps", type=click.IntRange(1), help="Of each training [by the base's size].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--once", is_flag=True, help="Take the steps that are possible now, name the next one, and exit.")
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
    """Run rounds of active learning: choose tasks, wait for their corrections, train, label the rest again.

    Backend and worker run beside it. The Data Manager's columns trajseg_round and trajseg_rank name the tasks to
    correct. Stopped with Ctrl-C and started again, it goes on where it was. The last line printed is one JSON object
    with all rounds.
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
        click.echo(f"No task is left to correct; {learning.left} of the budget are not used.")
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
                    client.update_task_data(project.label_studio_id, task, columns)
                except MissingError:
                    gone.append(task)
        finally:
            client.close()
        return gone

    return show
