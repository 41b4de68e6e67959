"""The colours of tracks: one a label, distinct beside each other and on both light and dark pictures."""

from __future__ import annotations

PALETTE: tuple[str, ...] = (
    "#ff3366",
    "#33aaff",
    "#2ecc71",
    "#ffb300",
    "#9b59ff",
    "#00c8c8",
    "#ff7f27",
    "#e056fd",
    "#a3e635",
    "#3f51ff",
    "#ff8fa3",
    "#8d6e63",
    "#00e676",
    "#c2185b",
    "#7dd3fc",
    "#fff176",
)
"""Hex colours in the order in which tracks get them; the seventeenth track starts again at the first."""


def colour(number: int) -> str:
    """The hex colour of the track at position `number` (0-based)."""
    return PALETTE[number % len(PALETTE)]
