"""Facts about a candidate's track for the chooser's prompt: its positions, its size, how it moves.

Lengths are in percent of the picture's height, both horizontally and vertically. Motion and order are also given in
words: a language model is far better at reading words than at comparing rows of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import atan2, hypot, pi

from trajseg.tracks.rle import Box

MOMENTS = 8
"""Number of times at which a candidate's position is given: the middles of equal parts of the clip."""
STEP = 5
"""Positions are rounded to this many percent; a track is not more precise."""
STILL = 8.0
"""An object counts as still if its centre stays within this many percent, or within a quarter of its size."""
STRAIGHT = 0.7
"""A path is straight if the distance between its ends is at least this fraction of its length."""
ROUND = 1.25 * pi
"""A path that turns at least this far around its own centre, in radians, is a circle; a line turns by pi."""
_ENDS = {"left": (0, 0), "right": (0, -1), "top": (1, 0), "bottom": (1, -1)}

Place = tuple[float, float]
"""x, y in percent of the picture's height."""


@dataclass(frozen=True)
class TrackFacts:
    """The facts about one candidate, each formatted for a prompt.

    Args:
        size: width and height where it is largest, "15 x 20".
        path: its centre at each moment as x/y, "-" where it is absent: "10/40 15/40 - 25/40".
        moved: from where it is first visible to where it is last visible, "35 right 5 up".
        way: length of its path between the moments.
        reach: horizontal and vertical range of its centre, "35/5".
        course: how it moves: "moving left and up", "not moving", "moving in a circle", "moving up and down".
        seen: when it is visible: "there from start to end", "not there at the start", "gone at the end".
        left, right, top, bottom: its 1-based rank from each side among the candidates visible at the first moment;
            "-" if it is not visible then.
        outermost: the sides on which it is the outermost of the candidates visible at one of the first two moments:
            "leftmost topmost"; "-" if there is no such side, or it is alone or not visible.
    """

    size: str
    path: str
    moved: str
    way: str
    reach: str
    course: str
    seen: str
    left: str = "-"
    right: str = "-"
    top: str = "-"
    bottom: str = "-"
    outermost: str = "-"


def scene_facts(tracks: Sequence[Sequence[Box | None]], height: float) -> list[TrackFacts]:
    """The facts of all tracks of a scene, in order; see `track_facts`."""
    there = {number: boxes[0] for number, boxes in enumerate(tracks, 1) if boxes and boxes[0] is not None}
    early = {number: box for number, boxes in enumerate(tracks, 1) if (box := _early(boxes)) is not None}
    facts = []
    for number, boxes in enumerate(tracks, 1):
        places = {"outermost": _outermost(number, early)}
        for axis, (near, far) in enumerate((("left", "right"), ("top", "bottom"))):
            if number in there:
                rank = _order(there, axis).index(number)
                places |= {near: str(rank + 1), far: str(len(there) - rank)}
        facts.append(replace(track_facts(boxes, height), **places))
    return facts


def _early(boxes: Sequence[Box | None]) -> Box | None:
    """The first box of a track that is visible at one of the first two moments (a detector may miss it once)."""
    return next((box for box in boxes[:2] if box is not None), None)


def _order(boxes: Mapping[int, Box], axis: int) -> list[int]:
    """The keys of boxes from left to right (axis 0) or from top to bottom (1)."""
    return sorted(boxes, key=lambda number: _middle(boxes[number], 1.0)[axis])


def _outermost(number: int, boxes: Mapping[int, Box]) -> str:
    """The sides on which one of these boxes is the outermost."""
    if number not in boxes or len(boxes) == 1:
        return "-"
    ends = {side: _order(boxes, axis)[end] for side, (axis, end) in _ENDS.items()}
    return " ".join(f"{side}most" for side, first in ends.items() if first == number) or "-"


def track_facts(boxes: Sequence[Box | None], height: float) -> TrackFacts:
    """The facts of a track from its boxes (x, y, width, height in pixels) at MOMENTS moments.

    Args:
        boxes: one per moment, None where the object is absent.
        height: of the picture, in the boxes' unit.
    """
    scale = 100 / height
    shown = [box for box in boxes if box is not None]
    places = [None if box is None else _middle(box, scale) for box in boxes]
    seen = [place for place in places if place is not None]
    if not shown:
        return TrackFacts("0 x 0", " ".join("-" for _ in boxes), "0 right 0 down", "0", "0/0", "not moving", "not seen")
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
        course=_course(seen, max(STILL, max(across, down) * scale / 4)),
        seen=_seen([box is not None for box in boxes]),
    )


def _course(places: Sequence[Place], still: float) -> str:
    """How a centre with these positions moves, in words."""
    spread = [max(place[axis] for place in places) - min(place[axis] for place in places) for axis in (0, 1)]
    if max(spread) < still:
        return "not moving"
    net = places[-1][0] - places[0][0], places[-1][1] - places[0][1]
    way = sum(hypot(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places))
    if hypot(*net) >= STRAIGHT * way:
        words = [("right" if net[0] > 0 else "left", abs(net[0])), ("down" if net[1] > 0 else "up", abs(net[1]))]
        words.sort(key=lambda word: -word[1])
        return "moving " + " and ".join(word for word, length in words if length >= words[0][1] / 2)
    if min(spread) >= max(spread) / 2 and abs(_turned(places)) >= ROUND:
        return "moving in a circle"
    across, down = (sum(abs(b[axis] - a[axis]) for a, b in pairwise(places)) for axis in (0, 1))
    return "moving left and right" if across > down else "moving up and down"


def _turned(places: Sequence[Place]) -> float:
    """How far the path turns around the mean of its positions, in radians, signed."""
    x, y = (sum(place[axis] for place in places) / len(places) for axis in (0, 1))
    angles = [atan2(place[1] - y, place[0] - x) for place in places]
    return sum((b - a + pi) % (2 * pi) - pi for a, b in pairwise(angles))


def _seen(shown: Sequence[bool]) -> str:
    """When an object is visible, in words; an object missed at one moment still counts as visible."""
    absent = []
    if not any(shown[:2]):
        absent.append("not there at the start")
    if not any(shown[-2:]):
        absent.append("gone at the end")
    return ", ".join(absent) or "there from start to end"


def _middle(box: Box, scale: float) -> Place:
    x, y, width, height = box
    return (x + width / 2) * scale, (y + height / 2) * scale


def _rounded(value: float) -> int:
    return STEP * round(value / STEP)
