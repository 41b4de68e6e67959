"""The learning curve of a project: how good its versions became with how many corrections, and what more would bring.

J&F on the held-out videos is taken to grow with the logarithm of the number of corrected videos: a line is fitted
through what the base reached without any and what each training reached. A training is worth it when the gain that
the line promises is larger than what chance can make of it: the confidence interval that was measured last, which
narrows with the square root of the number of held-out videos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from backend.store.models import ModelVersion
from trajseg.data.corrections import HELD_OUT_SHARE

MIN_HELD_OUT = 3
"""Held-out videos without which the gate gives no answer, as trajseg.training.gate has it."""
FARTHEST = 10
"""So many times the corrected videos of the last training a line is trusted to reach."""


@dataclass(frozen=True)
class CurvePoint:
    """One training that the gate has measured.

    Args:
        videos: corrected videos that it had, held-out ones among them.
        held_out: of these.
        served, candidate: mean J&F on them, 0 to 1, of the version that served and of the new one.
        from_base: the base served.
        gain: candidate - served.
        reach: how far the lower end of the gain's confidence interval lies below it.
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
        videos: 0: train now; None: nothing that has been measured says so.
        words: for people.
    """

    videos: int | None
    words: str


def curve(versions: Sequence[ModelVersion]) -> list[CurvePoint]:
    """The trainings of one project that were measured, the oldest first."""
    points = []
    for version in sorted(versions, key=lambda version: version.number):
        decision: Mapping[str, Any] = version.manifest.get("decision") or {}
        clips = (version.manifest.get("data") or {}).get("clips") or ()
        pairs, gain = decision.get("project") or (), decision.get("gain")
        if not pairs or not gain or not clips:
            continue
        # Several tasks may be about one video.
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


def advice(points: Sequence[CurvePoint], corrected: int) -> Advice:
    """How many more videos of a project should be corrected before it is worth training.

    Args:
        points: of its curve.
        corrected: videos that people have corrected up to now.
    """
    if not points:
        missing = max(0, math.ceil(MIN_HELD_OUT / HELD_OUT_SHARE) - corrected)
        if missing:
            return Advice(
                missing,
                f"about {missing} more corrected {_videos(missing)}: {corrected} of about {missing + corrected} that "
                "a first comparison needs.",
            )
        return Advice(0, f"worth a first training: {corrected} videos are corrected.")
    last = points[-1]
    slope, start = _line(points)
    now = max(corrected, 1)
    shown = f"the last training, on {last.videos} videos, brought {last.gain:+.3f} J&F"
    if slope <= 0:
        return Advice(None, f"the curve so far gives no number: {shown}, and it does not rise with more corrections.")
    standing = last.candidate if last.promoted else last.served
    for videos in range(now, FARTHEST * max(last.videos, now) + 1):
        gain = start + slope * math.log1p(videos) - standing
        if gain > last.reach * math.sqrt(last.videos / videos):
            more = videos - corrected
            if more <= 0:
                return Advice(
                    0, f"worth training now: {shown}, and the curve promises {gain:+.3f} with {corrected} videos."
                )
            return Advice(
                more, f"about {more} more corrected {_videos(more)}: {shown}; with {videos} it promises {gain:+.3f}."
            )
    return Advice(
        None, f"not with {FARTHEST} times as many corrections, as far as the curve tells: {shown}. Try another base."
    )


def _line(points: Sequence[CurvePoint]) -> tuple[float, float]:
    """Slope and start of J&F over log(1 + videos)."""
    base = [(0, point.served) for point in points if point.from_base][:1]
    known = [*base, *((point.videos, point.candidate) for point in points)]
    places = np.log1p([videos for videos, _ in known])
    if np.ptp(places) == 0:
        return 0.0, known[-1][1]
    slope, start = np.polyfit(places, [score for _, score in known], 1)
    return float(slope), float(start)


def _videos(count: int) -> str:
    return "video" if count == 1 else "videos"
