"""Figures of a worker for /metrics: seconds by stage of its jobs, and the memory of its GPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping


class StageTally:
    """Seconds and runs by (kind, stage) since they were last taken. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[str, float] = {}

    def add(self, kind: str, timings: Mapping[str, float]) -> None:
        """Count the stages of one job that is done; what jobs say of themselves beyond seconds is left out."""
        with self._lock:
            for stage, seconds in timings.items():
                if isinstance(seconds, int | float):
                    self._count(f"{kind} seconds {stage}", float(seconds))
                    self._count(f"{kind} runs {stage}", 1)

    def take(self) -> dict[str, float]:
        """What came since the last time, by "KIND seconds STAGE" and "KIND runs STAGE"."""
        with self._lock:
            taken, self._figures = self._figures, {}
        return taken

    def put_back(self, taken: Mapping[str, float]) -> None:
        """The figures could not be written to Redis."""
        with self._lock:
            for name, figure in taken.items():
                self._count(name, figure)

    def _count(self, name: str, figure: float) -> None:
        self._figures[name] = self._figures.get(name, 0.0) + figure


def gpu_memory() -> tuple[int, int] | None:
    """Bytes of the present GPU that are used, by anybody, and that there are; None without a GPU."""
    # Whatever has not loaded torch uses no GPU.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free, total
