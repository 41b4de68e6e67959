"""The frame rate used by Label Studio's editor: `frameRate` of a <Video>, parsed as the editor does."""

from __future__ import annotations

import math
import re

DEFAULT_RATE = 24.0
"""Frames per second if the attribute is absent, empty, 0 or not a number."""

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WITH_PREFIX = re.compile(r"0(x[0-9a-f]+|o[0-7]+|b[01]+)", re.ASCII | re.IGNORECASE)
_BLANKS = " \t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
"""Characters that JavaScript strips before parsing a number."""


def editor_rate(value: object) -> float:
    """Frames per second that the editor uses for a value of the attribute or of the task's data.

    The editor uses JavaScript's `Number`: a number may be a string (`" 25 "`, `"0x19"`), a list of one counts as its
    item, and true as 1. Anything but a number above 0 (`"30000/1001"`, `"25,0"`) counts as 24. A number below 1 is the
    length of a frame in seconds: 0.04 means 25 frames a second.
    """
    rate = _number(value)
    if not math.isfinite(rate) or rate <= 0:
        return DEFAULT_RATE
    return 1 / rate if rate < 1 else rate


def _number(value: object) -> float:
    """JavaScript's `Number`; NaN if it is not a number."""
    while isinstance(value, list) and len(value) == 1 and not isinstance(value[0], bool):
        value = value[0]
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        if _DECIMAL.fullmatch(text):
            return float(text)
        return float(int(text, 0)) if _WITH_PREFIX.fullmatch(text) else math.nan
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.nan
