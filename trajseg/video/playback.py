"""Playback: which files browsers play, and what in a file makes them show other pictures than it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import av

BROWSER_CODECS = {
    "mov": {"h264", "av1", "vp9"},
    "matroska,webm": {"vp8", "vp9", "av1"},
}
"""Codecs that current Chromium, Firefox and Safari all play, by `container_family`."""

BROWSER_PIXEL_FORMATS = {"yuv420p", "yuvj420p"}

OVERLAP = 0.0015
"""Seconds that a frame may last beyond the next one's start: containers round, and the editor seeks 0.002 s later."""

REORDERED = 8
"""Frames within which a frame's own duration may stand: it moves along with the order in which frames are decoded."""


def container_family(container_name: str) -> str:
    """ "mov" for MP4 and its relatives, else FFmpeg's name of the format as it is."""
    return "mov" if container_name.startswith("mov") else container_name


def is_playable_codec(codec: str, container_name: str) -> bool:
    """Whether browsers play this codec in this container; both are FFmpeg's names."""
    return codec in BROWSER_CODECS.get(container_family(container_name), ())


def is_cover_picture(stream: Any) -> bool:
    """Whether the file says that this video stream is a cover, and no video."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def is_enabled(stream: Any) -> bool:
    """Whether a track of an MP4 is switched on; FFmpeg says it as the default flag."""
    return bool(stream.disposition & av.stream.Disposition.default)


def is_switched_off(container: Any, stream: Any) -> bool:
    """Whether the track is off and another one on: browsers then show nothing where they cannot play the other."""
    if container_family(container.format.name) != "mov" or is_enabled(stream):
        return False
    return any(is_enabled(other) and not is_cover_picture(other) for other in container.streams.video)


def frames_overlap(stamps: Sequence[float | None], durations: Sequence[float]) -> bool:
    """Whether a frame is said to last beyond the start of the next one.

    At a seek Chromium shows the first frame whose end lies behind it, so the frame before the right one.

    Args:
        stamps: seconds, in the order in which frames are shown.
        durations: seconds, as the file says; 0 where it says nothing.
    """
    for index in range(len(stamps) - 1):
        start, following = stamps[index], stamps[index + 1]
        if start is None or following is None or following <= start:
            continue
        shortest = min(durations[max(0, index - REORDERED) : index + REORDERED + 1])
        if following + OVERLAP < start + shortest:
            return True
    return False
