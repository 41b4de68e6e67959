"""What can be said of a candidate's track in numbers: where it is at some moments, how large it is, how it moves.

Lengths are in percent of the picture's height, in both directions, so that a way is as long across as down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trajseg.tracks.rle import Box

MOMENTS = 8
"""Times at which a candidate's place is told, at the middles of equal parts of the clip."""
STEP = 5
"""Places are rounded to so many percent: finer ones say more than a track knows."""


@dataclass(frozen=True)
class TrackFacts:
    """Words for one candidate, each ready to stand in a prompt.

    Args:
        size: width and height where it is largest, "15 x 20".
        path: its middle at each moment as x/y, "-" where it is absent: "10/40 15/40 - 25/40".
        moved: from where it is first seen to where it is last seen, "35 right 5 up".
        way: length of its way between the moments.
        reach: how far its middle spreads across and down, "35/5".
    """

    size: str
    path: str
    moved: str
    way: str
    reach: str


def track_facts(boxes: Sequence[Box | None], height: float) -> TrackFacts:
    """The facts of a track from its boxes (x, y, width, height in pixels) at MOMENTS moments.

    Args:
        boxes: one a moment, None where the object is absent.
        height: of the picture, in the boxes' unit.
    """
    scale = 100 / height
    shown = [box for box in boxes if box is not None]
    places = [None if box is None else _middle(box, scale) for box in boxes]
    seen = [place for place in places if place is not None]
    if not shown:
        return TrackFacts("0 x 0", " ".join("-" for _ in boxes), "0 right 0 down", "0", "0/0")
    _, _, across, down = max(shown, key=lambda box: box[2] * box[3])
    right, below = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    way = sum(((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** 0.5 for a, b in pairwise(seen))
    spread = [max(place[axis] for place in seen) - min(place[axis] for place in seen) for axis in (0, 1)]
    return TrackFacts(
        size=f"{round(across * scale)} x {round(down * scale)}",
        path=" ".join("-" if place is None else f"{_rounded(place[0])}/{_rounded(place[1])}" for place in places),
        moved=(
            f"{_rounded(abs(right))} {'right' if right >= 0 else 'left'} "
            f"{_rounded(abs(below))} {'down' if below >= 0 else 'up'}"
        ),
        way=str(_rounded(way)),
        reach=f"{_rounded(spread[0])}/{_rounded(spread[1])}",
    )


def _middle(box: Box, scale: float) -> tuple[float, float]:
    x, y, width, height = box
    return (x + width / 2) * scale, (y + height / 2) * scale


def _rounded(value: float) -> int:
    return STEP * round(value / STEP)
