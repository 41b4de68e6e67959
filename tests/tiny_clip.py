"""The content of the tiny clip of tests/conftest.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class TinyClip:
    """A clip of 12 frames, 96x64 pixels, 12 frames per second, H.264, with its ground truth.

    A red square moves right throughout; a blue one moves left and is absent from frame 8 on.
    """

    path: Path
    red: list[np.ndarray]
    blue: list[np.ndarray]
