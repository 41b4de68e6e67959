"""The frame rate that Label Studio's editor counts by: `frameRate` of a <Video>, read as the editor reads it."""

from __future__ import annotations

import math
import re

DEFAULT_RATE = 24.0
"""Frames per second where the attribute is absent, empty, 0 or not a number."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


def editor_rate(value: object) -> float:
    """Frames per second that the editor counts for a value of the attribute or of the task's data.

    As in the editor, a number may be written as text, what is no number above 0 counts as 24, and a number below 1
    is the length of a frame in seconds: 0.04 is 25 frames a second.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DEFAULT_RATE
    rate = float(value)
    if not math.isfinite(rate) or rate <= 0:
        return DEFAULT_RATE
    return 1 / rate if rate < 1 else rate
