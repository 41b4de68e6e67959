"""`trajseg train joint`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import click


@click.command("joint")
@click.option("--checkpoint", default="trajseg-tiny", show_default=True, help="A built-in checkpoint or a folder.")
@click.option("--stage", type=click.IntRange(1, 2), required=True, help="1: still images; 2: clips, both directions.")
@click.option("--recipe", "name", type=click.Choice(["tiny", "paper"]), default="tiny", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--data", default="shapes", show_default=True, help="The data set: shapes, ref-youtube-vos:FOLDER ...")
@click.option("--lora/--no-lora", default=True, show_default=True, help="Train adapters, or the full language model.")
@click.option("--steps", type=click.IntRange(1), help="Number of steps [the recipe's].")
@click.option("--minutes", type=float, help="Stop after this long; the same command resumes.")
@click.option("--batch", type=click.IntRange(1), help="Samples per step, over all processes.")
@click.option("--micro", type=click.IntRange(1), help="Samples per process at a time.")
@click.option("--frames", type=click.IntRange(2), help="Of a clip.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--precision", type=click.Choice(["no", "bf16", "fp16"]), help="no: float32 [the recipe's].")
@click.option("--four-bit", is_flag=True, help="The language model's frozen weights in 4 bits (a 24 GB card).")
@click.option("--recompute/--no-recompute", default=None, help="Recompute layers in the backward pass: less memory.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads of torch [all cores].")
@click.option("--workers", type=click.IntRange(0, 1), default=1, show_default=True, help="Prefetching processes.")
def joint(
    checkpoint: str,
    stage: int,
    name: str,
    out: Path,
    data: str,
    lora: bool,
    steps: int | None,
    minutes: float | None,
    batch: int | None,
    micro: int | None,
    frames: int | None,
    lr: float | None,
    precision: str | None,
    four_bit: bool,
    recompute: bool | None,
    seed: int,
    threads: int | None,
    workers: int,
) -> None:
    """Train a checkpoint as in the paper: words and masks jointly, through the whole model.

    For several processes or GPUs: `torchrun --nproc-per-node 4 $(which trajseg) train joint ...`.
    """
    import torch

    from trajseg.data.registry import open_source
    from trajseg.training.recipes import RECIPES, train_jointly
    from trajseg.training.run import signals_stop

    if threads:
        torch.set_num_threads(threads)
    source = open_source(data)
    recipe = RECIPES[name][stage]
    schedule = dataclasses.replace(
        recipe.schedule,
        minutes=math.inf if minutes is None else minutes,
        steps=steps or recipe.schedule.steps,
        lr=lr or recipe.schedule.lr,
    )
    batch = batch or recipe.batch
    recipe = dataclasses.replace(
        recipe,
        schedule=schedule,
        batch=batch,
        micro=micro or min(recipe.micro, batch),
        frames=frames or recipe.frames,
        lora=recipe.lora if lora else None,
        precision=precision or recipe.precision,  # type: ignore[arg-type]
        recompute=recipe.recompute if recompute is None else recompute,
        four_bit=four_bit,
    )
    with signals_stop() as stop:
        result, _ = train_jointly(recipe, checkpoint, out, source, seed, workers, stop=stop, data=data)
    click.echo(f"{'Adapter' if lora else 'Checkpoint'}: {result}")
    if lora:
        click.echo(
            f"Merge it: trajseg model merge --checkpoint {checkpoint} --adapter {result} --out {out / 'checkpoint'}"
        )
