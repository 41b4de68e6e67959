"""Molmo2's answers when asked to point: their grammar, and a parser for anything it may write.

    <tracks coords="0.0 1 452 310 2 120 733;0.5 1 460 312">the two dogs</tracks>

For each moment, in seconds, the visible objects are listed: number, and x and y in thousandths of the picture's
width and height. "There are none." is the answer if nothing matches. The text comes from a model, so it is not trusted:
values that are out of range or unreadable are left out and noted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trajseg.engines.grounded.grammar import Grammar
from trajseg.errors import TrajSegError
from trajseg.video.frame_map import FrameMap

NONE = "There are none."
MOST_TIME = 10.0**6
"""Seconds; later times are not considered times in a video."""
ROUNDING = 0.051
"""Largest difference, in seconds, between a moment and the shown time it refers to: Molmo2 uses tenths."""

_MOMENT = r"\d{1,6}\.\d( \d{1,3} \d{1,4} \d{1,4})+"
_LABEL = r"[^\p{C}<>\"]{0,200}"
_TAG = re.compile(
    r"<(?P<kind>points?|tracks?)\b(?P<before>[^<>]*?)\bcoords\s*=\s*(?P<quote>[\"'])(?P<coords>[^\"'<>]*)"
    r"(?P<end>(?P=quote)[^<>]*>(?P<label>[^<>]*))?",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"\b(there (are|is) (none|no|nothing)|none of|not (visible|present)|no such)\b", re.IGNORECASE)
_AT = re.compile(r"\s*([^\s:]+)\s*:?\s+(.*)", re.DOTALL)


@dataclass(frozen=True)
class Point:
    """One object at one moment: seconds, and x, y as fractions of the picture's width and height, 0 to 1."""

    time: float
    x: float
    y: float


@dataclass(frozen=True)
class PointAnswer:
    """A parsed answer.

    Args:
        tracks: points of each object by its number in the answer, in time order, one per moment.
        label: the answer's name for them; may be empty.
        faults: what was left out, in words.
    """

    tracks: dict[int, tuple[Point, ...]]
    label: str = ""
    faults: tuple[str, ...] = ()


def track_grammar() -> Grammar:
    """The answers to "Track ...": tracks, or that there are none."""
    tracks = rf'<tracks coords="{_MOMENT}([;\t]{_MOMENT})*">{_LABEL}</tracks>'
    schema: dict[str, Any] = {"type": "string", "pattern": rf"^({re.escape(NONE)}|{tracks})$"}
    return Grammar("tracks", rf"{re.escape(NONE)}|{tracks}", schema)


def read_points(answer: str) -> PointAnswer:
    """The points in an answer; empty if it says that there are none.

    If the answer was cut off, its complete moments are kept.

    Raises:
        TrajSegError: it neither points nor says that there is nothing.
    """
    tags = list(_TAG.finditer(answer))
    if not tags:
        if _NOTHING.search(answer):
            return PointAnswer({})
        raise TrajSegError(
            f"Molmo2 answered without points: {answer[:200]!r}.",
            "Name what should be tracked, such as 'the red car'; the checkpoint must be a general Molmo2, such as "
            "allenai/Molmo2-4B.",
        )
    points: dict[int, dict[float, Point]] = {}
    faults: list[str] = []
    labels = []
    for tag in tags:
        moments = [part for part in re.split(r"[;,\t\n]", tag["coords"]) if part.strip()]
        if tag["end"] is None:
            faults.append("the answer was cut off")
            # The last moment may lack numbers, or end in half of one.
            moments = moments[:-1]
        labels.append((tag["label"] or "").strip())
        for moment in moments:
            _read_moment(moment, points, faults)
    tracks = {number: tuple(at[time] for time in sorted(at)) for number, at in sorted(points.items())}
    return PointAnswer(tracks, next(filter(None, labels), ""), tuple(dict.fromkeys(faults)))


def _read_moment(moment: str, points: dict[int, dict[float, Point]], faults: list[str]) -> None:
    """Adds the points of one moment, "0.5 1 452 310 2 120 733"."""
    read = _AT.fullmatch(moment)
    time = _number(read[1]) if read else None
    if read is None or time is None or not 0 <= time <= MOST_TIME:
        faults.append(f"the moment {moment.strip()[:40]!r} cannot be read")
        return
    words = read[2].split()
    if len(words) % 3:
        faults.append(f"{len(words) % 3} numbers too many at {time:g} s")
    for start in range(0, len(words) - 2, 3):
        number, x, y = (_number(word) for word in words[start : start + 3])
        if number is None or x is None or y is None or number != int(number) or number < 0:
            faults.append(f"the point {' '.join(words[start : start + 3])[:40]!r} cannot be read")
        elif not (0 <= x <= 1000 and 0 <= y <= 1000):
            faults.append(f"a point outside the picture at {time:g} s")
        elif time in points.setdefault(int(number), {}):
            faults.append(f"object {int(number)} twice at {time:g} s")
        else:
            points[int(number)][time] = Point(time, x / 1000, y / 1000)


def _number(word: str) -> float | None:
    """A plain decimal number; None for anything else, such as nan, 1e9 or 1_0."""
    if not re.fullmatch(r"\d{1,9}(\.\d{0,6})?", word, re.ASCII):
        return None
    value = float(word)
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class PointTrack:
    """One object: x, y in pixels by 0-based frame."""

    number: int
    points: dict[int, tuple[float, float]]


def frame_points(
    answer: PointAnswer, frame_map: FrameMap, shown: Sequence[int], width: int, height: int
) -> list[PointTrack]:
    """The tracks of an answer on the frames of a clip, those with the most points first.

    A moment refers to the shown frame with the same time, else to the frame visible at that time. Moments after the
    clip are dropped. Of two moments on one frame, the later one counts.

    Args:
        shown: 0-based frames that Molmo2 saw.
        width, height: of the clip's pictures, in pixels.
    """
    times = frame_map.times
    last = times[-1] + 1 / frame_map.fps + ROUNDING
    tracks = []
    for number, points in answer.tracks.items():
        by_frame: dict[int, tuple[float, float]] = {}
        for point in points:
            if point.time > last:
                continue
            nearest = min(shown, key=lambda index, time=point.time: abs(times[index] - time))  # type: ignore[misc]
            index = nearest if abs(times[nearest] - point.time) <= ROUNDING else frame_map.index_at(point.time)
            by_frame[index] = min(point.x * width, width - 1), min(point.y * height, height - 1)
        if by_frame:
            tracks.append(PointTrack(number, by_frame))
    return sorted(tracks, key=lambda track: (-len(track.points), track.number))
