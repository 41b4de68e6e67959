"""Load test: /predict at the rate of a busy Label Studio, against a real backend, queue, store and worker.

    python scripts/load.py [--rate 200] [--seconds 60] [--database postgresql://...]

Requests go out at fixed times, each on its own connection, and latency is measured from the time a request was due, so
a backend that falls behind shows up. Three out of four requests are about a new task; the fourth repeats an old one.
The worker is busy throughout. The last line is JSON: {"requests", "errors", "p50_ms", "p99_ms", "rss_growth_mb"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import psutil

from backend.store import Store
from label_config import fill
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene
from worker.valkey import EmbeddedValkey, free_port

WARM_SECONDS = 10.0
"""Warm-up, after which memory growth is measured."""
ANSWER_SECONDS = 30.0
STARTING_SECONDS = 120.0


@dataclass
class Outcome:
    """Outcome of the requests: seconds of each answer, of the client's own delay before each, and errors by kind."""

    seconds: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--rate", default=200.0, help="Requests per second.")
@click.option("--seconds", default=60.0)
@click.option("--database", default="", help="A database that may be filled; an SQLite file by default.")
@click.option("--model", default="trajseg-tiny", help="The worker's model.")
def main(rate: float, seconds: float, database: str, model: str) -> None:
    with tempfile.TemporaryDirectory(prefix="trajseg-load-") as name:
        figures = _measure(Path(name), rate, seconds, database, model)
    print(json.dumps(figures))


def _measure(folder: Path, rate: float, seconds: float, database: str, model: str) -> dict[str, float]:
    valkey = EmbeddedValkey(folder / "valkey")
    valkey.start()
    port = free_port()
    environment = {
        **os.environ,
        "REDIS_URL": valkey.url,
        "DATABASE_URL": database or f"sqlite:///{folder / 'trajseg.db'}",
        "TRAJSEG_DATA_DIR": str(folder / "data"),
        "TRAJSEG_MEDIA_DIRS": str(folder),
        "TRAJSEG_MODEL": model,
        "TRAJSEG_PORT": str(port),
    }
    write_clip(sample_scene(0, "val"), folder / "clip.mp4", height=128)
    try:
        with _running("backend", environment, folder) as backend, _running("worker", environment, folder):
            _wait_until_ready(f"http://127.0.0.1:{port}/ready", folder)
            watched = psutil.Process(backend.pid)
            before = watched.cpu_times()
            outcome, growth = asyncio.run(_ask(port, rate, seconds, watched, str(folder / "clip.mp4")))
            busy = watched.cpu_times().user + watched.cpu_times().system - before.user - before.system
            store = Store(environment["DATABASE_URL"])
            done = sum(count for (_, state), count in store.jobs.count().items() if state == "done")
            store.close()
    finally:
        valkey.stop()
    each = 1000 * busy / len(outcome.seconds)
    print(f"the worker finished {done} jobs meanwhile; the backend took {each:.1f} ms of CPU per request")
    print(f"load average {os.getloadavg()[0]:.1f}; errors: {dict(outcome.errors) or 'none'}")
    late = sorted(outcome.late)
    print(f"the client's own delay, part of the latencies: p99 {_ms(late, 0.99)} ms, at most {_ms(late, 1.0)} ms")
    times = sorted(outcome.seconds)
    return {
        "requests": round(rate * seconds),
        "errors": sum(outcome.errors.values()),
        "p50_ms": _ms(times, 0.5),
        "p99_ms": _ms(times, 0.99),
        "rss_growth_mb": round(growth / 2**20, 1),
    }


def _ms(ordered: Sequence[float], share: float) -> float:
    """Milliseconds that this share of the ordered seconds does not exceed."""
    return round(1000 * ordered[int(share * (len(ordered) - 1))], 1)


async def _ask(port: int, rate: float, seconds: float, backend: psutil.Process, video: str) -> tuple[Outcome, float]:
    """Sends all requests; also returns by how many bytes the backend's memory has grown since the warm-up."""
    outcome = Outcome()
    began = time.monotonic()
    warm = 0
    tasks = []
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if not warm and number >= rate * min(WARM_SECONDS, seconds / 2):
            warm = backend.memory_info().rss
        task = number // 2 if number % 4 == 3 else number
        tasks.append(asyncio.create_task(_request(port, _body(task, video), due, outcome)))
    await asyncio.gather(*tasks)
    return outcome, backend.memory_info().rss - warm


async def _request(port: int, request: bytes, due: float, outcome: Outcome) -> None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            outcome.late.append(time.monotonic() - due)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError) as error:
        outcome.errors[type(error).__name__] += 1
        return
    outcome.seconds.append(time.monotonic() - due)
    status = answer[9:12].decode(errors="replace")
    if status != "200":
        outcome.errors[status or "no answer"] += 1


def _body(task: int, video: str) -> bytes:
    """A /predict request as the Data Manager sends it, including headers."""
    data = {"video": video, "instruction": "the object that moves fastest"}
    form = {
        "tasks": [{"id": task + 1, "data": data, "predictions": []}],
        "project": "7.1795422572",
        "label_config": LABEL_CONFIG,
        "params": {"login": None, "password": None, "context": None},
    }
    body = json.dumps(form).encode()
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


LABEL_CONFIG = fill("mask")


@contextmanager
def _running(command: str, environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{command}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from trajseg.cli import main; main()", command],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(url: str, folder: Path) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            if httpx.get(url, trust_env=False, verify=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
            sys.exit(f"{url} does not say that jobs get done:\n{logs}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
