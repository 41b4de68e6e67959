"""The command `trajseg stats`: what corrections cost, by model version, and whether another training is worthwhile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from trajseg.words import counted

if TYPE_CHECKING:
    from backend.stats import ProjectStats


@click.command()
@click.option("--project", type=click.IntRange(1), help="Label Studio's id of a project [all that have annotations].")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with one object per project, including weeks.")
def stats(project: int | None, as_json: bool) -> None:
    """Corrected frames and estimated minutes per track by model version, and how many more corrections until training.

    Only frames that a person vouched for count: those shown in the newest annotation of each task.
    """
    from backend.settings import load_settings
    from backend.stats import project_stats
    from backend.store import Store

    settings = load_settings()
    store = Store(settings.store_url)
    try:
        store.migrate()
        projects = [store.projects.of_label_studio(project)] if project else store.projects.list()
        found = [project_stats(store, each) for each in projects]
    finally:
        store.close()
    shown = [each for each in found if each.corrected or project]
    if as_json:
        click.echo(json.dumps([each.to_json() for each in shown], indent=2))
        return
    for each in shown:
        _print(each)
    if not shown:
        click.echo("No task has been annotated yet.")


def _print(found: ProjectStats) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        # When piped, rich would squeeze the table into 80 columns.
        console = Console(soft_wrap=True, highlight=False, width=112)
    console.print(f"Project {found.project.label_studio_id}: {counted(found.corrected, 'annotated task')}")
    table = Table()
    table.add_column("version", no_wrap=True, overflow="fold")
    for name in ("annotated", "tracks", "corrected frames a track", "minutes a track", "minutes saved"):
        table.add_column(name, overflow="fold")
    for version in found.versions:
        effort, days = version.effort, dict.fromkeys(f"{when:%Y-%m-%d}" for when in (version.first, version.last))
        table.add_row(
            version.model_version,
            " to ".join(days),
            str(effort.tracks),
            f"{effort.changed_per_track:.1f}",
            f"{effort.minutes_per_track:.2f}",
            f"{round(effort.saved_minutes):d}",
        )
    if found.versions:
        console.print(table)
    console.print(f"Until the next training: {found.advice.words}", markup=False)
