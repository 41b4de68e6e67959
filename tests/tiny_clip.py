"""What the tiny clip of tests/conftest.py holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class TinyClip:
    """A clip of 12 frames, 96x64 pixels, 12 frames a second, H.264, and what is drawn in it.

    A red square moves right all the time; a blue one moves left and is gone from frame 8 on.
    """

    path: Path
    red: list[np.ndarray]
    blue: list[np.ndarray]
