"""`trajseg train warm-start`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import click


@click.command("warm-start")
@click.option("--checkpoint", default="trajseg-tiny", show_default=True, help="A built-in checkpoint or a folder.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--data", help="The base's own data, with all objects known [the checkpoint's replay data].")
@click.option("--trainings", type=click.IntRange(1), default=2, show_default=True, help="Averaged, each with its seed.")
@click.option("--steps", type=click.IntRange(1), help="Number of steps of each [the recipe's].")
@click.option("--minutes", type=float, help="Interrupt a training after this long; the same command resumes it.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch [all cores].")
@click.option("--workers", type=click.IntRange(0, 1), default=1, show_default=True, help="Prefetching processes.")
def warm_start(
    checkpoint: str,
    out: Path,
    data: str | None,
    trainings: int,
    steps: int | None,
    minutes: float | None,
    threads: int | None,
    workers: int,
) -> None:
    """Train the vision side of a small checkpoint in random looks, as the start of fine-tuning.

    The result, OUT/warm_start.safetensors, belongs beside the checkpoint's weights.
    """
    import torch

    from trajseg.checkpoints.own_data import replay_data
    from trajseg.data.registry import open_source
    from trajseg.training.run import signals_stop
    from trajseg.training.warm_start import SCHEDULE, WARM_START, save_warm_start, train_warm_start

    if threads:
        torch.set_num_threads(threads)
    data = data or replay_data(checkpoint)
    source = open_source(data)
    schedule = dataclasses.replace(
        SCHEDULE, steps=steps or SCHEDULE.steps, minutes=math.inf if minutes is None else minutes
    )
    finished = []
    with signals_stop() as stop:
        for seed in range(trainings):
            weights = train_warm_start(checkpoint, out / f"seed-{seed}", source, schedule, seed, workers, data, stop)
            if weights is None:
                click.echo(f"Training {seed + 1} of {trainings} is not finished; the same command resumes it.")
                return
            finished.append(weights)
    click.echo(f"Warm start: {save_warm_start(finished, out / WARM_START)}")
