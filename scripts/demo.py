"""`make demo`: from a sentence to mask tracks, end to end, without Label Studio.

Starts `trajseg serve` on a free port with a temporary folder, and sends it the requests that Label Studio sends
(recorded from 1.23.2) for a clip of the shapes world and for a real one. Waits for the jobs, writes and scores the
results, and stops everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from label_config import fill
from trajseg.bars import bars
from trajseg.errors import ServiceError, TrajSegError
from trajseg.evaluation.metrics import Score, score
from trajseg.pictures import contact_sheet, overlay_video
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import instructions
from trajseg.shapes.world.render import frames_and_ids, write_clip
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks import Result
from trajseg.video import open_clip

ROOT = Path(__file__).parents[1]
PAYLOADS = ROOT / "tests" / "label_studio_payloads"
RABBIT = ROOT / "tests" / "clips" / "rabbit.mp4"
SEED, ROWS = 2, 240
"""A clip of the test split on which trajseg-tiny does well; docs/results.md has the mean over many."""
START_SECONDS = 240.0
JOB_SECONDS = 240.0

console = Console()


@dataclass(frozen=True)
class Case:
    """A clip, an instruction about it, and the ground truth where known: bool [frames, height, width]."""

    name: str
    video: Path
    instruction: str
    truth: np.ndarray | None = None


def shapes_case(folder: Path) -> Case:
    """A clip of the shapes world, and its first instruction that names one object by its appearance."""
    scene = sample_scene(SEED, "test")
    asked = instructions(scene, random.Random(SEED), facts=Facts(scene))[0]
    video = write_clip(scene, folder / "clip.mp4", ROWS)
    meant = [target + 1 for target in asked.targets]
    ids = np.stack([ids for _, ids in frames_and_ids(scene, ROWS, range(scene.frame_count))])
    return Case("shapes", video, asked.text, np.isin(ids, meant))


def rabbit_case(folder: Path) -> Case:
    folder.mkdir(parents=True, exist_ok=True)
    return Case("rabbit", Path(shutil.copy(RABBIT, folder / "clip.mp4")), "the rabbit")


@contextlib.contextmanager
def serving(media: Path, log: Path, model: str) -> Iterator[str]:
    """Runs `trajseg serve` within the context; yields its URL."""
    foreign = ("TRAJSEG_", "LABEL_STUDIO_", "REDIS_URL", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["TRAJSEG_MEDIA_DIRS"] = str(media)
    with tempfile.TemporaryDirectory(prefix="trajseg-demo-") as data_dir, log.open("wb") as output:
        program = [sys.executable, "-P", "-c", "from trajseg.cli import main; main()", "serve"]
        options = ["--port", "0", "--data-dir", data_dir, "--model", model]
        process = subprocess.Popen([*program, *options], env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            with console.status(f"starting trajseg serve with {model}"):
                url = _ready(process, log)
            console.print(f"trajseg serve answers at {url}")
            yield url
        finally:
            process.terminate()
            with console.status("stopping trajseg serve"):
                process.wait(60)


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"ready at (http://\S+)", log.read_text()):
            return found.group(1)
        if process.poll() is not None:
            raise ServiceError(f"trajseg serve ended at once:\n{log.read_text().strip()}", "Run `trajseg doctor`.")
        time.sleep(0.2)
    raise ServiceError(f"trajseg serve was not ready after {START_SECONDS:.0f} s.", f"See {log}.")


def ask(client: httpx.Client, cases: list[Case]) -> list[str]:
    """Connects as Label Studio does and requests all predictions at once; returns the job ids."""
    config = fill("mask")
    setup = _recorded("02_connect_POST_setup.json")
    _answer(client.post("/setup", json={**setup, "schema": config}))
    predict = _recorded("04_open_task_POST_predict_batch.json")
    recorded = predict["tasks"][0]
    tasks = []
    for number, case in enumerate(cases, 1):
        data = {"video": str(case.video), "instruction": case.instruction}
        tasks.append({**recorded, "id": number, "data": data})
    _answer(client.post("/predict", json={**predict, "label_config": config, "tasks": tasks}))
    return [_answer(client.get("/jobs", params={"task": task["id"]}))["jobs"][0]["id"] for task in tasks]


def wait(client: httpx.Client, cases: list[Case], jobs: list[str]) -> list[dict[str, Any]]:
    """Shows the jobs' progress until all are done, and returns their final state.

    Raises ServiceError when one fails.
    """
    deadline = time.monotonic() + JOB_SECONDS
    forms: list[dict[str, Any]] = []
    with bars(console, stay=True) as progress:
        for case, job_id in zip(cases, jobs, strict=True):
            bar = progress.add_task(f'{case.name}: "{case.instruction}"', total=None)
            while True:
                form = _answer(client.get(f"/jobs/{job_id}"))
                frames = form["progress"]
                progress.update(bar, completed=frames["frames_done"], total=frames["frames_total"] or None)
                if form["state"] == "done":
                    break
                if form["state"] not in ("queued", "running"):
                    raise ServiceError(f"The job {case.name} {form['state']}: {form['error']}", form["remedy"])
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"The job {case.name} is not done after {JOB_SECONDS:.0f} s.", "Read the worker's log in demo/."
                    )
                time.sleep(0.2)
            forms.append(form)
    return forms


def write(case: Case, result: Result, folder: Path) -> Score | None:
    """Writes tracks.json, overlay.mp4 and sheet.png; returns the score where the ground truth is known."""
    clip = open_clip(case.video)
    result.save(folder / "tracks.json")
    overlay_video(clip, result.tracks, folder / "overlay.mp4", caption=case.instruction)
    contact_sheet(clip, result.tracks, folder / "sheet.png", title=case.instruction)
    if case.truth is None:
        return None
    # Video sides are even: the ground truth of an odd-sized clip is one row or column short.
    height, width = case.truth.shape[1:]
    found = np.zeros_like(case.truth)
    for track in result.tracks:
        for index in range(len(found)):
            found[index] |= track.mask(index)[:height, :width]
    return score(found, case.truth)


def report(out: Path, cases: list[Case], results: list[Result], scores: list[Score | None]) -> None:
    table = Table()
    for column in ("clip", "instruction", "the model's words", "tracks", "J&F", "seconds"):
        table.add_column(column)
    for case, result, worth in zip(cases, results, scores, strict=True):
        table.add_row(
            case.name,
            escape(case.instruction),
            escape(result.answer),
            str(len(result.tracks)),
            f"{worth.jf:.2f}" if worth else "not known",
            f"{sum(result.timings.values()):.1f}",
        )
    console.print(table)
    for case in cases:
        console.print(f"{escape(str(out / case.name))}: overlay.mp4, sheet.png, tracks.json", soft_wrap=True)
    console.print(
        "\nJ&F runs from 0 to 1 and compares the masks with the truth, which the shapes clip has. "
        "trajseg-tiny was trained on the shapes world and knows no other: its tracks of the rabbit show that "
        "a real clip goes the whole way, not what the method can do with a trained 7B model.\n"
        "There was no Label Studio to deliver to, so the predictions stayed in the store. "
        "With one: `trajseg serve`, then `trajseg project create`."
    )


def run(out: Path, model: str) -> None:
    began = time.monotonic()
    for name in ("shapes", "rabbit"):
        shutil.rmtree(out / name, ignore_errors=True)
    cases = [shapes_case(out / "shapes"), rabbit_case(out / "rabbit")]
    with serving(out.resolve(), out / "serve.log", model) as url, httpx.Client(base_url=url) as client:
        jobs = ask(client, cases)
        forms = wait(client, cases, jobs)
        results = [Result.from_json(_answer(client.get(f"/jobs/{job_id}/result"))) for job_id in jobs]
    for result, form in zip(results, forms, strict=True):
        result.timings = form["timings"]
    with console.status("drawing"):
        scores = [write(case, result, out / case.name) for case, result in zip(cases, results, strict=True)]
    report(out, cases, results, scores)
    console.print(f"[dim]{time.monotonic() - began:.0f} s in all[/dim]")


def _recorded(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((PAYLOADS / name).read_text())["body"]
    return body


def _answer(answer: httpx.Response) -> dict[str, Any]:
    form: dict[str, Any] = answer.json()
    if answer.status_code >= 400:
        raise ServiceError(f"{answer.request.url} answered {answer.status_code}: {form}")
    return form


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "demo", help="Folder to write to.")
@click.option("--model", default="trajseg-tiny", help="As for trajseg serve.")
def main(out: Path, model: str) -> None:
    try:
        run(out.resolve(), model)
    except TrajSegError as error:
        console.print(f"[red]{escape(str(error))}[/red]")
        sys.exit(1)


if __name__ == "__main__":
    main()
