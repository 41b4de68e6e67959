"""Cost of how torch's threads wait for each other, on an idle and a busy machine: seconds per prediction, ratios.

`python benchmarks/waiting_threads.py`: the shipped checkpoint answers an instruction about a clip of the shapes world,
alternately in one process per waiting policy; then the same beside busy processes on all cores but one. "spinning" is
the default of GNU's OpenMP, "sleeping" is OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene

WAYS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {"OMP_WAIT_POLICY": "passive"}}
ROUNDS, PREDICTIONS = 2, 3
BUSY = "while True: pass"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        video = Path(folder) / "clip.mp4"
        write_clip(sample_scene(0, "val"), video, height=240)
        table = Table("", *WAYS, "ratio")
        for name, count in (("alone", 0), ("beside busy processes", max(1, (os.cpu_count() or 1) - 1))):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
            try:
                seconds: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(ROUNDS):
                    for way in WAYS:
                        seconds[way].append(_prediction(video, way))
            finally:
                for process in busy:
                    process.kill()
            median = {way: statistics.median(seconds[way]) for way in WAYS}
            table.add_row(
                name, *(f"{median[way]:.2f} s" for way in WAYS), f"{median['spinning'] / median['sleeping']:.2f}"
            )
    Console().print(table)


def _prediction(video: Path, way: str) -> float:
    """Median seconds of a prediction in its own process, without the first one."""
    answer = subprocess.run(
        [sys.executable, __file__, str(video)],
        env={**os.environ, **WAYS[way]},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(answer.stdout)


def _predict(video: str) -> None:
    from trajseg import VideoSegmenter

    segmenter = VideoSegmenter.from_pretrained("trajseg-tiny", "cpu")
    seconds = []
    for _ in range(1 + PREDICTIONS):
        started = time.perf_counter()
        segmenter.segment(video, "the object that moves fastest").result()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds[1:]))


if __name__ == "__main__":
    _predict(sys.argv[1]) if len(sys.argv) > 1 else main()
