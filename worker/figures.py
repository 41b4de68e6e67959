"""A worker's figures for /metrics: seconds per stage of its jobs, and its GPU's memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping


class StageTally:
    """Seconds and runs by (kind, stage) since the last `take`. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[str, float] = {}

    def add(self, kind: str, timings: Mapping[str, float]) -> None:
        """Adds the stages of one finished job; values other than seconds are ignored."""
        with self._lock:
            for stage, seconds in timings.items():
                if isinstance(seconds, int | float):
                    self._count(f"{kind} seconds {stage}", float(seconds))
                    self._count(f"{kind} runs {stage}", 1)

    def take(self) -> dict[str, float]:
        """The figures since the last call, by "KIND seconds STAGE" and "KIND runs STAGE"."""
        with self._lock:
            taken, self._figures = self._figures, {}
        return taken

    def put_back(self, taken: Mapping[str, float]) -> None:
        """Restores figures that could not be written to Redis."""
        with self._lock:
            for name, figure in taken.items():
                self._count(name, figure)

    def _count(self, name: str, figure: float) -> None:
        self._figures[name] = self._figures.get(name, 0.0) + figure


def gpu_memory() -> tuple[int, int] | None:
    """Bytes of the current GPU's memory in use (by any process) and in total; None without a GPU."""
    # A process that has not loaded torch uses no GPU.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free, total
