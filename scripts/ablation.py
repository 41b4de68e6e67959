"""`make ablation`: the paper's questions, answered on the shapes world (docs/lab/ablation.md).

Each measured cell is saved in --out at once, so a run that was stopped resumes, and a run with other options reuses the
cells that still apply. Runs with different --only or --seeds may share one folder in parallel; a final run without
either combines them. Prints a line for each cell, the tables, and where the files are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import torch

from trajseg.errors import TrajSegError
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.report import draw, print_tables
from trajseg.shapes.studies.studies import STUDIES, run


def names(text: str) -> list[str]:
    """Names of studies, separated by commas."""
    found = text.split(",")
    unknown = sorted(set(found) - set(STUDIES))
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    return found


def numbers(text: str) -> tuple[int, ...]:
    """Integers, separated by commas."""
    return tuple(int(one) for one in text.split(","))


def main() -> None:
    """Measure the missing cells, print the tables, write results.json and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=names, default=list(STUDIES), help=f"some of {','.join(STUDIES)} (all)")
    parser.add_argument("--model", default="trajseg-tiny", help="a shipped checkpoint or a folder (trajseg-tiny)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="(runs/ablation)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="(0,1,2)")
    parser.add_argument("--clips", type=int, help="clips per seed; by default each study's own number")
    parser.add_argument("--steps", type=int, help="steps per training; by default the recipe's")
    parser.add_argument("--height", type=int, default=240, help="rows of the clips (240)")
    parser.add_argument("--device", help="torch device; by default the first GPU, else the CPU")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    given = parser.parse_args()
    # Two numerical libraries with one thread per core each would compete for the cores.
    cv2.setNumThreads(1)
    torch.set_num_threads(given.threads)
    plan = Plan(given.model, given.seeds, given.clips, given.height, given.steps, given.device)
    try:
        tables = run(given.only, plan, given.out, lambda line: print(line, flush=True))
    except TrajSegError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("Stopped; run the same command to continue.") from None
    print_tables(tables, len(given.seeds))
    picture = draw(tables, given.out / "results.png")
    print(f"{given.out / 'results.json'}, {picture}")


if __name__ == "__main__":
    main()
