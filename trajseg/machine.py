"""This machine's memory for engines. Loads no torch."""

from __future__ import annotations

import os
import subprocess

GB = 1e9
SECONDS = 5.0


def memory_gb(device: str = "") -> tuple[float, str]:
    """Memory in GB of the GPU that engines run on, or of the machine, and which of the two; 0 if unknown.

    Args:
        device: torch's name, such as "cpu" or "cuda:1"; empty: the largest GPU, if any.
    """
    if not device.startswith("cpu") and (sizes := _gpus()):
        number = device.partition(":")[2]
        chosen = sizes[int(number)] if number.isdigit() and int(number) < len(sizes) else max(sizes)
        return chosen, "the GPU"
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB, "this machine"
    except (OSError, ValueError):
        return 0.0, "this machine"


def _gpus() -> list[float]:
    """Memory of each GPU in GB."""
    try:
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        return [float(line) * 2**20 / GB for line in answer.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
