"""Colours of tracks, the same ones in the same order as labelling configurations give their labels."""

from __future__ import annotations

PALETTE = (
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
"""Hex colours in the order in which tracks get them."""


def palette(count: int) -> list[str]:
    """Hex colours of `count` tracks; they come round again after sixteen."""
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green, blue, 0 to 255, of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
