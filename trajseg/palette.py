"""Colours of tracks in pictures, pages and labelling configurations: distinct, and visible over photographs."""

from __future__ import annotations

PALETTE = (
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
"""Hex colours in the order of tracks."""


def colour(position: int) -> str:
    """The hex colour of the track at `position` (0-based), cyclic."""
    return PALETTE[position % len(PALETTE)]


def palette(count: int) -> list[str]:
    """Hex colours of the first `count` tracks."""
    return [colour(position) for position in range(count)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
