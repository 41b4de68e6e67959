"""`make ablation`: the paper's questions, answered on the shapes world (docs/lab/ablation.md).

Each measured cell is saved in --out at once, so a run that was stopped resumes, and a run with other options reuses the
cells that still apply. Runs with different --only or --seeds may share one folder in parallel; a final run without
either combines them. Prints a line for each cell, the tables, and where the files are.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import torch

from trajseg.errors import TrajSegError
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.report import draw, print_tables
from trajseg.shapes.studies.studies import STUDIES, run


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--only", default=",".join(STUDIES), help="Studies, separated by commas.")
@click.option("--model", default="trajseg-tiny", help="A shipped checkpoint or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/ablation")
@click.option("--seeds", default="0,1,2", help="Integers, separated by commas.")
@click.option("--clips", type=int, help="Clips per seed; by default each study's own number.")
@click.option("--steps", type=int, help="Steps per training; by default the recipe's.")
@click.option("--height", default=240, help="Rows of the clips.")
@click.option("--device", help="torch's name; by default the first GPU, else the CPU.")
@click.option("--threads", default=1, help="torch's threads.")
def main(
    only: str,
    model: str,
    out: Path,
    seeds: str,
    clips: int | None,
    steps: int | None,
    height: int,
    device: str | None,
    threads: int,
) -> None:
    studies = only.split(",")
    if unknown := sorted(set(studies) - set(STUDIES)):
        raise click.BadParameter(f"there is no study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError as error:
        raise click.BadParameter(f"--seeds is {seeds!r}; give integers, separated by commas") from error
    # Two numerical libraries with one thread per core each would compete for the cores.
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    plan = Plan(model, numbers, clips, height, steps, device)
    try:
        tables = run(studies, plan, out, lambda line: print(line, flush=True))
    except TrajSegError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Stopped; run the same command to continue.") from None
    print_tables(tables, len(numbers))
    picture = draw(tables, out / "results.png")
    print(f"{out / 'results.json'}, {picture}")


if __name__ == "__main__":
    main()
