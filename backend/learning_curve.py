"""A project's learning curve: how J&F grew with the number of corrections, and what more of them would bring.

J&F on the held-out videos is modelled as linear in the logarithm of the number of corrected videos, fitted to the
base's score and that of each training. A training is worthwhile if the predicted gain exceeds the noise: the most
recent confidence interval, which narrows with the square root of the number of held-out videos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from backend.store.models import ModelVersion
from trajseg.data.sides import MIN_HELD_OUT, expected_held_out, videos_to_hold_out

FARTHEST = 10
"""How far the line is extrapolated, as a multiple of the last training's number of corrected videos."""


@dataclass(frozen=True)
class CurvePoint:
    """One training measured by the gate.

    Args:
        videos: corrected videos that it used, held-out ones included.
        held_out: those of them that were held out.
        served, candidate: mean J&F on them, 0 to 1, of the version that served and of the new one.
        from_base: the base served.
        gain: candidate - served.
        reach: distance from the gain to the lower end of its confidence interval.
        promoted: by the gate.
    """

    version: str
    videos: int
    held_out: int
    served: float
    candidate: float
    from_base: bool
    gain: float
    reach: float
    promoted: bool


@dataclass(frozen=True)
class Advice:
    """How many more videos to correct before the next training.

    Args:
        videos: 0: train now; None: no estimate is possible from the measurements.
        words: for people.
    """

    videos: int | None
    words: str


def curve(versions: Sequence[ModelVersion]) -> list[CurvePoint]:
    """The measured trainings of one project, oldest first."""
    points = []
    for version in sorted(versions, key=lambda version: version.number):
        decision: Mapping[str, Any] = version.manifest.get("decision") or {}
        clips = (version.manifest.get("data") or {}).get("clips") or ()
        pairs, gain = decision.get("project") or (), decision.get("gain")
        if not pairs or not gain or not clips:
            continue
        # Several tasks may be about the same video.
        videos = {clip.get("identity") or clip.get("name") for clip in clips}
        points.append(
            CurvePoint(
                version.name,
                len(videos),
                len(pairs),
                fmean(pair["served"] for pair in pairs),
                fmean(pair["candidate"] for pair in pairs),
                decision.get("served") in ("", version.base, None),
                gain["mean"],
                gain["mean"] - gain["low"],
                bool(decision.get("promoted")),
            )
        )
    return points


def identities(versions: Sequence[ModelVersion]) -> dict[int, str]:
    """The identity of each task's video in the newest training that had it; copies of a video share one."""
    newest: dict[int, str] = {}
    for version in sorted(versions, key=lambda version: version.number):
        for clip in (version.manifest.get("data") or {}).get("clips") or ():
            word, _, task = str(clip.get("name")).partition("-")
            if word == "task" and task.isdecimal() and clip.get("identity"):
                newest[int(task)] = str(clip["identity"])
    return newest


def advice(points: Sequence[CurvePoint], corrected: int) -> Advice:
    """How many more videos of a project should be corrected before the next training is worthwhile.

    Args:
        points: of the project's curve.
        corrected: videos that people have corrected so far.
    """
    if not points:
        missing = max(0, videos_to_hold_out(MIN_HELD_OUT, 0) - corrected)
        if missing:
            return Advice(
                missing,
                f"about {missing} more corrected {_videos(missing)}: {corrected} of about {missing + corrected} needed "
                "for a first comparison.",
            )
        return Advice(0, f"worth a first training: {corrected} videos are corrected.")
    last = points[-1]
    slope, start = _line(points)
    # The last training has shown already what its videos bring.
    now = max(corrected, last.videos + 1)
    shown = f"the last training, on {last.videos} videos, brought {last.gain:+.3f} J&F"
    if len(points) == 1 and not last.from_base:
        return Advice(None, f"no estimate is possible from one training: {shown}.")
    if slope <= 0:
        return Advice(None, f"no estimate is possible: {shown}, and the curve does not rise with more corrections.")
    standing = last.candidate if last.promoted else last.served
    for videos in range(now, FARTHEST * max(last.videos, now) + 1):
        gain = start + slope * math.log1p(videos) - standing
        if gain > last.reach * math.sqrt(expected_held_out(last.videos) / expected_held_out(videos)):
            more = videos - corrected
            if more <= 0:
                return Advice(
                    0, f"worth training now: {shown}, and the curve predicts {gain:+.3f} more with {corrected} videos."
                )
            return Advice(
                more,
                f"about {more} more corrected {_videos(more)}: {shown}; "
                f"with {videos} the curve predicts {gain:+.3f} more.",
            )
    return Advice(
        None, f"not even with {FARTHEST} times as many corrections, according to the curve: {shown}. Try another base."
    )


def _line(points: Sequence[CurvePoint]) -> tuple[float, float]:
    """Slope and intercept of J&F over log(1 + videos)."""
    base = [(0, point.served) for point in points if point.from_base][:1]
    known = [*base, *((point.videos, point.candidate) for point in points)]
    places = np.log1p([videos for videos, _ in known])
    if np.ptp(places) == 0:
        return 0.0, known[-1][1]
    slope, start = np.polyfit(places, [score for _, score in known], 1)
    return float(slope), float(start)


def _videos(count: int) -> str:
    return "video" if count == 1 else "videos"
