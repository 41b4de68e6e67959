"""Soak test: real processes under random faults for minutes; in the end nothing may be lost, duplicated or stuck.

    python scripts/soak.py --minutes 15 --seed 1 [--database postgresql://...]

A backend, two workers, a Valkey and a store run as they do for a user. Label Studio is the tests' fake, served over
real HTTP, and the engine recognises colours only. Predictions are requested continuously, while faults are injected:
workers and backend are killed and stopped; Valkey is killed, emptied and paused; Label Studio is down, returns errors
or hangs; the database is locked; clocks are wrong (where libfaketime is installed); tasks are deleted. A seed gives the
same faults in the same order. The last line is JSON: {"jobs", "faults", "lost", "duplicated", "stuck"}; the exit code
is 1 if any of the last three is not 0.

`lost`: tasks that /predict accepted and that have neither a prediction nor a job that explains why not.
`duplicated`: tasks with two predictions of one model version. `stuck`: unfinished jobs and deliveries.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import httpx
import numpy as np
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parents[1]))

from backend.store.models import Delivery, Job
from label_config import fill
from scripts.soak_world import World
from trajseg.video import write_video

ASK_SECONDS = 0.8
"""Mean time between requests."""
FAULT_SECONDS = 4.0
SETTLE_SECONDS = 240.0
"""Time for the remaining jobs after the last fault, or after the last one that was completed: slow is not stuck."""
REPEATED = 0.2
"""Share of requests for a task that was requested before, as when a person reopens it."""
COLOURS = ("red", "green", "blue", "red and blue")


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--minutes", default=5.0)
@click.option("--seed", default=1)
@click.option("--database", default="", help="A PostgreSQL database that is emptied; SQLite by default.")
def main(minutes: float, seed: int, database: str) -> None:
    # The fake would log a line for each request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="trajseg-soak-"))
    with World(folder, database) as world:
        soak = Soak(world, random.Random(seed))
        soak.run(60 * minutes)
        figures = soak.settle()
    print(json.dumps(figures))
    if figures["lost"] or figures["duplicated"] or figures["stuck"]:
        sys.exit(f"the logs are in {folder}")
    shutil.rmtree(folder)


class Soak:
    """Requests predictions and injects faults."""

    def __init__(self, world: World, choose: random.Random) -> None:
        self.world = world
        self.choose = choose
        self.project = world.studio.add_project()
        self.videos = [self._upload(number) for number in range(4)]
        self.taken: set[int] = set()
        """Tasks that /predict has accepted."""
        self.deleted: set[int] = set()
        self.faults: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(8)
        self._config = fill("mask")
        self._kinds: list[tuple[str, Callable[[], None]]] = [
            ("a worker is killed", lambda: world.kill_worker(choose)),
            ("a worker is stopped", lambda: world.stop_worker(choose)),
            ("a worker is stopped, then killed", lambda: world.stop_worker(choose, kill_after=choose.uniform(0, 2))),
            ("a worker hangs", lambda: world.hang_worker(choose, choose.uniform(2, 25))),
            ("the backend is killed", world.kill_backend),
            ("the backend is stopped", world.stop_backend),
            ("Valkey is killed", world.kill_valkey),
            ("Valkey is emptied", world.empty_valkey),
            ("Valkey hangs", lambda: world.hang_valkey(choose.uniform(1, 12))),
            ("Label Studio is away", lambda: world.label_studio("away", choose.uniform(2, 15))),
            ("Label Studio answers 500", lambda: world.label_studio("500", choose.uniform(2, 15))),
            ("Label Studio answers 401", lambda: world.label_studio("401", choose.uniform(2, 15))),
            ("Label Studio answers 429", lambda: world.label_studio("429", choose.uniform(2, 15))),
            ("Label Studio hangs", lambda: world.label_studio("hangs", choose.uniform(2, 15))),
            ("Label Studio loses its answers", lambda: world.label_studio("loses answers", choose.uniform(2, 10))),
            ("the database is locked", lambda: world.lock_database(choose.uniform(1, 12))),
            ("a task is deleted", self._delete_task),
        ]
        if world.is_postgresql:
            self._kinds.append(("the database drops its connections", world.drop_connections))

    def run(self, seconds: float) -> None:
        """Send requests and inject faults until the time is up."""
        began = time.monotonic()
        ask_at = break_at = began
        rounds: list[tuple[str, Callable[[], None]]] = []
        while (now := time.monotonic()) < began + seconds:
            if now >= ask_at:
                ask_at = now + self.choose.expovariate(1 / ASK_SECONDS)
                self._pool.submit(self._ask, self._some_task())
            if now >= break_at:
                break_at = now + self.choose.uniform(0.2, 2) * FAULT_SECONDS
                # Every kind once per round, so that no seed omits one for long.
                if not rounds:
                    rounds = self.choose.sample(self._kinds, len(self._kinds))
                name, fault = rounds.pop()
                print(f"{now - began:7.1f} s  {name}", flush=True)
                fault()
                self.faults[name] += 1
            self.world.look_after(self.choose)
            time.sleep(0.05)

    def settle(self) -> dict[str, int]:
        """Let all work finish, then count what is wrong."""
        self.world.heal()
        self._pool.shutdown()
        deadline, least = time.monotonic() + SETTLE_SECONDS, math.inf
        while True:
            figures = self._count()
            left = figures["lost"] + figures["stuck"]
            if left < least:
                deadline, least = time.monotonic() + SETTLE_SECONDS, left
            if not left or time.monotonic() > deadline:
                break
            self.world.look_after(self.choose)
            time.sleep(1.0)
        # Any duplicate has arrived by then.
        time.sleep(5.0)
        figures = self._count(say=True)
        print(f"load average {os.getloadavg()[0]:.1f}; faults: {dict(self.faults)}")
        print(f"in the logs: {self.world.complaints() or 'no traceback'}")
        return figures

    def _upload(self, number: int) -> str:
        pictures = np.full((16, 64, 96, 3), 90, np.uint8)
        for index, picture in enumerate(pictures):
            picture[8:24, 4 + 4 * index : 20 + 4 * index] = (230, 20, 20)
            picture[36:56, 60 - 3 * index : 80 - 3 * index] = (20, 20, 230)
        path = write_video(self.world.folder / f"{number}.mp4", pictures, 12.0)
        self.world.studio.uploads[number] = (f"upload/1/{number}-clip.mp4", path.read_bytes())
        return f"/data/upload/1/{number}-clip.mp4"

    def _some_task(self) -> int:
        known = sorted(self.world.studio.tasks)
        if known and self.choose.random() < REPEATED:
            return self.choose.choice(known)
        data = {"video": self.choose.choice(self.videos), "instruction": self.choose.choice(COLOURS)}
        task: int = self.world.studio.add_task(self.project, **data)
        return task

    def _delete_task(self) -> None:
        known = sorted(self.world.studio.tasks)[-10:]
        if known:
            task = self.choose.choice(known)
            self.deleted.add(task)
            self.world.studio.tasks.pop(task, None)

    def _ask(self, task: int) -> None:
        """Sends the request as Label Studio does, which does not retry if it gets no answer."""
        held = self.world.studio.tasks.get(task)
        if held is None:
            return
        body = {
            "tasks": [{"id": task, "data": held["data"], "predictions": self.world.studio.of_task(task)}],
            "project": f"{self.project}.1795422572",
            "label_config": self._config,
            "params": {"login": None, "password": None, "context": None},
        }
        try:
            answer = httpx.post(f"{self.world.url}/predict", json=body, timeout=100, trust_env=False, verify=False)
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            self.taken.add(task)

    def _count(self, say: bool = False) -> dict[str, int]:
        with self.world.store.database.read() as session:
            jobs = list(session.execute(select(Job.id, Job.task_id, Job.kind, Job.state, Job.error, Job.model_version)))
            waiting = set(session.scalars(select(Delivery.job_id).where(Delivery.state.in_(("pending", "failed")))))
        unfinished = {job.id for job in jobs if job.state in ("queued", "running")}
        versions: dict[int, Counter[str]] = {}
        for prediction in list(self.world.studio.predictions.values()):
            versions.setdefault(prediction["task"], Counter())[prediction["model_version"]] += 1
        by_task: dict[int, list[str]] = {}
        for job in jobs:
            served = job.state == "done" and versions.get(job.task_id, Counter())[job.model_version] > 0
            explained = job.state in ("failed", "rejected", "cancelled") and (job.error or job.state == "cancelled")
            by_task.setdefault(job.task_id, []).append("served" if served else "explained" if explained else "open")
        lost = [task for task in self.taken - self.deleted if "open" in by_task.get(task, ["open"])]
        doubled = [task for task, held in versions.items() if max(held.values()) > 1]
        if say:
            print(f"states: {dict(Counter(job.state for job in jobs))}")
            print(f"why not: {dict(Counter(job.error[:100] for job in jobs if job.error))}")
            for name, found in (("lost", lost), ("duplicated", doubled), ("stuck", sorted(unfinished | waiting))):
                if found:
                    print(f"{name}: {found[:10]}")
        return {
            "jobs": len(jobs),
            "faults": sum(self.faults.values()),
            "lost": len(lost),
            "duplicated": len(doubled),
            "stuck": len(unfinished | waiting),
        }


if __name__ == "__main__":
    main()
