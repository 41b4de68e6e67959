"""The colours of tracks, the same as in overlay videos: one a label, far apart, bright over photographs."""

from __future__ import annotations

PALETTE: tuple[str, ...] = (
    "#ff3366",
    "#33aaff",
    "#ffcc00",
    "#22cc88",
    "#b266ff",
    "#ff8833",
    "#00d5e0",
    "#ff77cc",
    "#a0d911",
    "#c0876a",
)
"""Hex colours in the order in which tracks get them; the eleventh track starts again at the first."""


def colour(number: int) -> str:
    """The hex colour of the track at position `number` (0-based)."""
    return PALETTE[number % len(PALETTE)]
