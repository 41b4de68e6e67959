"""The two sides of a project's corrected videos: `train`, and `held-out`, on which versions are compared.

A hash of the video's identity decides, once: of a project's first videos half are held out, because the first
comparisons have few (docs/lab/0120-half-of-the-videos-are-held-out.md), of later ones a fifth. So the side depends on
how many videos came before, and it is kept: in the store, and in the manifest of each export. A video that is held out
as a later one would also be as one of the first, so whoever takes an unknown side for that of a first video trains on
nothing that is held out.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

Side = Literal["train", "held-out"]
SIDES: tuple[Side, ...] = ("train", "held-out")
FIRST_VIDEOS = 20
"""So many videos of a project are held out with HELD_OUT_SHARE, those after them with LATER_HELD_OUT_SHARE."""
HELD_OUT_SHARE = 0.5
"""Expected share of held-out videos among the first; with few videos the actual share may be none, or most."""
LATER_HELD_OUT_SHARE = 0.2
MIN_HELD_OUT = 3
"""Fewest held-out videos on which two versions are compared."""
SPLIT = b"trajseg corrections 1\0"
"""Salt of every hash: another value would move videos to the other side."""
TINY = 1e-9


def side_of(identity: str, earlier: int = 0) -> Side:
    """The side of a video that is new to a project.

    Args:
        identity: a hash of its bytes, or its address if the bytes are unknown.
        earlier: videos of the project that came before it.
    """
    share = HELD_OUT_SHARE if earlier < FIRST_VIDEOS else LATER_HELD_OUT_SHARE
    number = int.from_bytes(hashlib.sha256(SPLIT + identity.encode()).digest()[:8])
    return "held-out" if number < share * 2**64 else "train"


def expected_held_out(videos: int) -> float:
    """How many of a project's first `videos` videos are held out, on average."""
    first = min(videos, FIRST_VIDEOS)
    return HELD_OUT_SHARE * first + LATER_HELD_OUT_SHARE * (videos - first)


def videos_to_hold_out(more: int, videos: int) -> int:
    """How many videos, after `videos` others, hold out `more` of them, on average."""
    first = max(0, FIRST_VIDEOS - videos)
    beyond = more - HELD_OUT_SHARE * first
    if beyond <= 0:
        return math.ceil(more / HELD_OUT_SHARE - TINY)
    return first + math.ceil(beyond / LATER_HELD_OUT_SHARE - TINY)
