"""`make proof-learning`: learning helps a project, keeps the base's skills and rejects harmful adapters.

A simulated annotator corrects simulated projects in a style that the base was not trained on: posters, or the data set
--style, such as a renderer of your own (docs/extending.md, "A data set"). The shipped recipe trains
on the corrections, the gate judges the adapters, and the promoted ones are measured on unseen clips (see
trajseg.shapes.evaluation.learning). Finished runs are kept in --out, so the same command resumes after an interruption.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from trajseg.bars import progress_bar
from trajseg.files import write_json
from trajseg.shapes.evaluation.learning import (
    LearningResult,
    LearningRun,
    LearningSettings,
    keep_settings,
    learn,
    mean_gain,
    measure_base,
    measure_warm_start,
    share_done,
    standard_error,
    summary,
)
from trajseg.training.round import PICTURE

VIDEOS = 10
"""Number of corrected videos in the project behind gain_project and loss_base."""
QUICK_STEPS, QUICK_FRESH = 120, 12
"""Steps per training and unseen clips without --full: fewer than with it, to save time."""
UNITS = 100
"""Progress bar units per run."""
Scores = Mapping[str, Mapping[str, float]]
"""J&F by set and clip."""


def main() -> None:
    """Do the unfinished runs, print a table, draw the figure, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="5, 10, 20 and 40 videos, three seeds, 10 harmful runs")
    parser.add_argument("--harmful", type=int, help="runs with the labels of other videos (2; 10 with --full)")
    parser.add_argument("--neutral", type=int, help="runs with nothing to gain (1; 3 with --full)")
    parser.add_argument("--seeds", type=int, help="projects of each size (1; 3 with --full)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first project (0)")
    parser.add_argument("--fresh", type=int, help=f"unseen clips of the style ({QUICK_FRESH}; 24 with --full)")
    parser.add_argument("--test", type=int, default=24, help="clips of the base's test set (24)")
    parser.add_argument("--steps", type=int, help=f"steps per training ({QUICK_STEPS}; the recipe's with --full)")
    parser.add_argument("--style", help="data set of the projects' videos (posters:train)")
    parser.add_argument("--unseen", help="data set of the unseen clips (posters:val; with --style: other clips of it)")
    parser.add_argument("--model", default="trajseg-tiny", help="the base (trajseg-tiny)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="parallel runs (2)")
    parser.add_argument("--out", type=Path, help="folder of the runs (runs/learning; runs/learning-full with --full)")
    given = parser.parse_args()
    given.out = given.out or Path("runs/learning-full" if given.full else "runs/learning")
    settings = settings_of(given)
    keep_settings(settings, given.out)
    runs = planned(given)
    served, warm, results = run_all(runs, settings, given.out, given.jobs)
    print_table(results, served, warm)
    line = summary(results, served, VIDEOS, warm)
    write_json(given.out / "proof.json", {**line, "runs_in_full": [to_json(one, served) for one in results]})
    draw_curve(results, served, warm, given.out / "curve.png")
    shown = next((one.run for one in results if one.run.kind == "gain" and one.run.videos == VIDEOS), None)
    if shown is not None and (given.out / shown.name / "adapter" / PICTURE).exists():
        shutil.copyfile(given.out / shown.name / "adapter" / PICTURE, given.out / PICTURE)
    print(json.dumps(line))


def settings_of(given: argparse.Namespace) -> LearningSettings:
    """What all runs share."""
    usual = LearningSettings()
    return LearningSettings(
        given.model,
        given.fresh or (usual.fresh if given.full else QUICK_FRESH),
        given.test,
        steps=given.steps or (None if given.full else QUICK_STEPS),
        style=given.style or usual.style,
        unseen=given.unseen or given.style or usual.unseen,
    )


def planned(given: argparse.Namespace) -> list[LearningRun]:
    """The runs, the most important first."""
    sizes = (VIDEOS, 5, 20, 40) if given.full else (VIDEOS,)
    seeds = range(given.first_seed, given.first_seed + (given.seeds or (3 if given.full else 1)))
    harmful, neutral = (
        usual if count is None else count
        for count, usual in ((given.harmful, 10 if given.full else 2), (given.neutral, 3 if given.full else 1))
    )
    first = given.first_seed
    return [
        *(LearningRun("gain", VIDEOS, seed) for seed in seeds),
        *(LearningRun("harmful", VIDEOS, seed) for seed in range(first, first + harmful)),
        *(LearningRun("neutral", VIDEOS, seed) for seed in range(first, first + neutral)),
        *(LearningRun("gain", size, seed) for size in sizes[1:] for seed in seeds),
    ]


def run_all(
    runs: Sequence[LearningRun], settings: LearningSettings, out: Path, jobs: int
) -> tuple[Scores, Scores | None, list[LearningResult]]:
    """Scores of the base and its warm start, and the results of all runs: `jobs` processes in parallel."""
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), initializer=one_thread) as pool,
        progress_bar(f"{len(runs)} rounds of learning") as progress,
    ):
        base = pool.submit(measure_base, settings, out)
        waiting: list[Future[LearningResult]] = [pool.submit(learn, run, settings, out) for run in runs]
        # Short, and needed by no run: last, so that no process has to wait long for the other one.
        warm = pool.submit(measure_warm_start, settings, out)
        while not (base.done() and warm.done() and all(one.done() for one in waiting)):
            progress(round(sum(UNITS * share_done(run, out) for run in runs)), UNITS * len(runs))
            failed = next((one for one in waiting if one.done() and one.exception()), None)
            if failed is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                break
            time.sleep(1.0)
        return base.result(), warm.result(), [one.result() for one in waiting]


def one_thread() -> None:
    """Two numerical libraries with one thread per core each would compete for the cores."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def to_json(one: LearningResult, served: Scores) -> dict[str, Any]:
    """Figures of one run."""
    gains = {what: round(one.gain(what, served), 4) for what in one.scores}
    return {"run": one.run.name, "decision": one.decision["reason"], "gain": gains, "minutes": round(one.minutes, 1)}


def print_table(results: Sequence[LearningResult], served: Scores, warm: Scores | None) -> None:
    """Table of all runs: the gate's decision and the candidate's scores on unseen clips."""
    means = ", ".join(f"{what} {fmean(scores.values()):.3f}" for what, scores in served.items())
    title = f"rounds of learning; J&F of the base: {means}; gains paired by clip, +/- one standard error"
    table = Table(title=title)
    for heading in ("run", "minutes", "unseen", "base's test set", "the gate"):
        table.add_column(heading, justify="left" if heading in ("run", "the gate") else "right")
    if warm is not None:
        table.add_row("warm start", "", *(with_error(warm, served, what) for what in served), "no corrections")
    for one in results:
        gains = (with_error(one.scores, served, what) if one.scores else "" for what in ("fresh", "test"))
        table.add_row(one.run.name, f"{one.minutes:.1f}", *gains, str(one.decision["reason"]))
    Console(width=170).print(table)


def with_error(scores: Scores, served: Scores, what: str) -> str:
    """Mean gain on a set and its standard error."""
    return f"{mean_gain(scores, served, what):+.3f} +/- {standard_error(scores, served, what):.3f}"


def draw_curve(results: Sequence[LearningResult], served: Scores, warm: Scores | None, path: Path) -> None:
    """The candidates' gain by the number of corrected videos, on unseen clips and on the base's test set."""
    from matplotlib.figure import Figure

    measured = [one for one in results if one.scores]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    for what, label, colour in (
        ("fresh", "unseen clips of the style", "#2a6fb0"),
        ("test", "the base's test set", "#b04a2a"),
    ):
        by_size: dict[int, list[float]] = {}
        for one in measured:
            gain = one.gain(what, served)
            by_size.setdefault(one.run.videos, []).append(gain)
            face = colour if one.promoted else "none"
            panel.plot(one.run.videos, gain, "o", ms=6, color=colour, markerfacecolor=face)
        sizes = sorted(by_size)
        panel.plot(sizes, [fmean(by_size[size]) for size in sizes], "-", color=colour, label=label)
    panel.axhline(0.0, color="#888888", lw=0.8)
    if warm is not None:
        gain = mean_gain(warm, served, "fresh")
        panel.axhline(gain, color="#2a6fb0", lw=1.0, ls="--", label="unseen clips, the warm start without corrections")
    ticks = sorted({one.run.videos for one in measured})
    panel.set(xticks=ticks, xlabel="corrected videos (hollow: refused by the gate)", ylabel="gain in J&F over the base")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
