"""`trajseg train`: runs the recipe of trajseg-tiny, stage by stage, resuming where it was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

STAGES = ("vision", "language", "masks", "memory", "pixels")


@click.command("train")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/tiny"), show_default=True)
@click.option("--stage", type=click.Choice([*STAGES, "all", "export"]), default="all", show_default=True)
@click.option("--minutes", type=float, help="Of each stage; by default the recipe's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and clips.")
@click.option("--threads", type=int, help="Of torch; by default all cores.")
@click.option("--workers", type=click.IntRange(0, 1), default=1, show_default=True, help="Rendering processes.")
@click.option("--export", type=click.Path(path_type=Path), help="Where the checkpoint goes [OUT/checkpoint].")
def command(
    out: Path,
    stage: str,
    minutes: float | None,
    seed: int,
    threads: int | None,
    workers: int,
    export: Path | None,
) -> None:
    """Train trajseg-tiny on the shapes world, on a CPU, in stages that resume."""
    import torch

    from trajseg.training.recipe import TINY
    from trajseg.training.stages import TinyTraining

    if threads:
        torch.set_num_threads(threads)
    training = TinyTraining(out, seed, workers)
    for step in TINY:
        if stage in (step.name, "all"):
            schedule = step.schedule if minutes is None else dataclasses.replace(step.schedule, minutes=minutes)
            click.echo(f"{step.name}: {step.learns}, {schedule.minutes:g} minutes")
            training.run(step, schedule)
    if stage in ("all", "export"):
        target = export or out / "checkpoint"
        training.export(target)
        click.echo(f"Checkpoint: {target}")
