"""The commands `trajseg finetune` and `trajseg models`: train a project's model, list its versions, choose one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from backend.limits import LARGEST_SEED, MOST_STEPS
from trajseg.words import counted

if TYPE_CHECKING:
    from backend.composition import Backend
    from backend.store.models import Project

STEPS = click.option("--steps", type=click.IntRange(1, MOST_STEPS), help="Steps per training [by the base's size].")
SEED = click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True)
PROJECT = click.option("--project", type=click.IntRange(1), required=True, help="Label Studio's id of the project.")


@click.command()
@PROJECT
@STEPS
@SEED
def finetune(project: int, steps: int | None, seed: int) -> None:
    """Train a project's model on its corrections, as Start Training in Label Studio does.

    A worker runs it when no other job is waiting. The version is promoted only if it is better on videos held out from
    the training.
    """
    from backend.store.params import FinetuneParams

    with _backend(project) as (backend, found):
        backend.service.engines.check_trainable(found.engine)
        wanted = FinetuneParams(steps=steps, seed=seed)
        job, created = backend.service.jobs.train(found, wanted)
        same = created or job.asked.model_copy(update={"engine": wanted.engine}) == wanted
        other = "" if same else ", with other --steps or --seed"
        click.echo(f"{'Queued' if created else 'Already ' + job.state}: job {job.id}{other}")


@click.group()
def models() -> None:
    """Versions of projects' models: list, show, promote, roll back."""


@models.command("list")
@click.option("--project", type=click.IntRange(1), help="Label Studio's id of a project [all].")
def list_(project: int | None) -> None:
    """List versions, newest first; `*` marks the one that serves."""
    from rich.console import Console
    from rich.table import Table

    from backend.store.versions import CANDIDATE

    with _backend(project) as (backend, found):
        table = Table("")
        # Its end is the number that the other commands take.
        table.add_column("version", no_wrap=True, overflow="fold")
        for heading in ("state", "trained", "decision"):
            table.add_column(heading)
        versions = backend.store.versions.list(found.id if found else None)
        trainings = backend.store.versions.training_states(versions)
        errors = backend.store.versions.training_errors(versions)
        for version in versions:
            served = backend.store.versions.served(version.project_id, version.base)
            mark = "*" if served is not None and served.id == version.id else ""
            training = f"training {trainings.get(version.id, '')}".strip()
            state = training if version.state == CANDIDATE else version.state
            decision = errors.get(version.id, "") if version.state == CANDIDATE else version.reason
            table.add_row(mark, version.name, state, f"{version.created_at:%Y-%m-%d %H:%M}", decision)
        if versions:
            Console(soft_wrap=True).print(table)
        else:
            click.echo(f"No version has been trained; {backend.service.model_version} serves.")


@models.command()
@PROJECT
@click.argument("number", type=click.IntRange(1))
def show(project: int, number: int) -> None:
    """Print everything known about version NUMBER as JSON: data, recipe, figures, decision."""
    with _backend(project) as (backend, found):
        version = backend.store.versions.version(found.id, number)
        form = {
            "version": version.name,
            "state": version.state,
            "reason": version.reason,
            "folder": version.folder,
            "job": version.job_id,
            "training": backend.store.versions.training_states([version]).get(version.id),
            "error": backend.store.versions.training_errors([version]).get(version.id, ""),
            **version.manifest,
        }
        click.echo(json.dumps(form, indent=2))


@models.command()
@PROJECT
@click.argument("number", type=click.IntRange(1))
def promote(project: int, number: int) -> None:
    """Make version NUMBER serve from the next job on, whatever the gate decided."""
    with _backend(project) as (backend, found):
        version, again = backend.service.models.promote(found.id, number)
        used = backend.service.base_of(found)
        if used == version.base:
            click.echo(f"{version.name} is {version.state} and serves from the next job on.")
        else:
            click.echo(
                f"{version.name} is {version.state}. Project {project} uses {used} now; the version serves once the "
                f"project uses {version.base} again."
            )
        if again:
            click.echo(f"It relabels {counted(len(again), 'unannotated task')}.")


@models.command()
@PROJECT
def rollback(project: int) -> None:
    """Take the serving version out of service; the one before it serves from the next job on."""
    with _backend(project) as (backend, found):
        out, serving, again = backend.service.models.rollback(found.id)
        click.echo(f"{out.name} is rolled back; {serving.name if serving else out.base} serves from the next job on.")
        if again:
            click.echo(f"It labels {counted(len(again), 'unannotated task')} for which it has no prediction yet.")


@contextmanager
def _backend(project: int | None) -> Iterator[tuple[Backend, Project]]:
    """The backend's parts and the project; without a number the second is None."""
    from backend.composition import compose_beside_serve

    backend = compose_beside_serve()
    try:
        yield backend, backend.store.projects.of_label_studio(project) if project else None  # type: ignore[misc]
    finally:
        backend.close()
