"""Evenly spaced frames of a clip."""

from __future__ import annotations

import itertools
import random

import numpy as np


def bin_centres(frame_count: int, count: int) -> list[int]:
    """0-based frames at the centres of `count` equal bins of the clip; with duplicates if the clip has fewer frames."""
    return ((np.arange(count) + 0.5) * frame_count / count).astype(np.int64).tolist()


def end_to_end(frame_count: int, count: int) -> list[int]:
    """At most `count` distinct 0-based frames from the first to the last, increasing; only the first one for 1."""
    return sorted({round(float(index)) for index in np.linspace(0, frame_count - 1, min(count, frame_count))})


def sampled_frames(frame_count: int, most: int) -> list[int]:
    """The frames that a language model sees: centres of `most` equal bins, or all frames of a shorter clip."""
    return list(range(frame_count)) if frame_count <= most else bin_centres(frame_count, most)


def jittered_frames(frame_count: int, most: int, rng: random.Random) -> list[int]:
    """Like `sampled_frames`, with a random frame from each bin, so that training sees more of a clip."""
    if frame_count <= most:
        return list(range(frame_count))
    edges = [round(index * frame_count / most) for index in range(most + 1)]
    return [rng.randrange(start, end) for start, end in itertools.pairwise(edges)]
