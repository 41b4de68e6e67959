"""`trajseg train`: runs the recipe of trajseg-tiny stage by stage, resuming after a stop; and its subcommands."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import click

from trajseg.commands.train_joint import joint
from trajseg.commands.train_warm_start import warm_start
from trajseg.errors import InputError
from trajseg.shapes.recipe.curves import curves

STAGES = ("vision", "tower", "language", "masks", "memory", "tracking", "pixels", "captions", "boxes")


@click.group("train", invoke_without_command=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/tiny"), show_default=True)
@click.option("--stage", type=click.Choice([*STAGES, "all", "export"]), default="all", show_default=True)
@click.option("--minutes", type=float, help="Interrupt a stage after this time; the same command resumes it.")
@click.option("--steps", type=click.IntRange(1), help="Length of each stage [the recipe's].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and clips.")
@click.option("--threads", type=int, help="Threads of torch [all cores].")
@click.option("--workers", type=click.IntRange(0), help="Rendering processes [1; for a GPU all cores but one].")
@click.option("--device", help="cpu, cuda, cuda:1 ... [a GPU where there is one].")
@click.option("--export", type=click.Path(path_type=Path), help="Where the checkpoint goes [OUT/checkpoint].")
@click.pass_context
def command(
    context: click.Context,
    out: Path,
    stage: str,
    minutes: float | None,
    steps: int | None,
    seed: int,
    threads: int | None,
    workers: int | None,
    device: str | None,
    export: Path | None,
) -> None:
    """Train trajseg-tiny on the shapes world, in stages that resume.

    A stage that was stopped (Ctrl-C, --minutes, a power cut) resumes with the same command. `trajseg train joint`
    trains any checkpoint as the paper does.
    """
    if context.invoked_subcommand is not None:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("The recipe of trajseg-tiny runs in one process.", "Use `trajseg train joint` instead.")
    import torch

    from trajseg.model.device import chosen
    from trajseg.shapes.recipe.recipe import TINY
    from trajseg.shapes.recipe.stages import TinyTraining
    from trajseg.training.run import signals_stop

    if threads:
        torch.set_num_threads(threads)
    device = chosen(device)
    if workers is None:
        workers = 1 if device == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    training = TinyTraining(out, seed, workers, device)
    for step in TINY:
        if stage in (step.name, "all"):
            schedule = dataclasses.replace(
                step.schedule,
                steps=steps or step.schedule.steps,
                minutes=math.inf if minutes is None else minutes,
            )
            click.echo(f"{step.name}: {step.learns}, {schedule.steps} steps")
            with signals_stop() as stop:
                finished = training.run(step, schedule, stop)
            if not finished:
                click.echo(f"{step.name} is not finished; the same command resumes it.")
                return
    if stage in ("all", "export"):
        target = export or out / "checkpoint"
        training.export(target)
        click.echo(f"Checkpoint: {target}")


command.add_command(joint)
command.add_command(warm_start)
command.add_command(curves)
