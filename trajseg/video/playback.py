"""Playback: which files browsers play, and which properties of a file make them show the wrong pictures."""

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
"""Seconds by which a frame may overlap the next one: containers round, and the editor seeks 0.002 s later."""

REORDERED = 8
"""Distance in frames at which a frame's duration may be stored, because frames are reordered for decoding."""


def container_family(container_name: str) -> str:
    """ "mov" for MP4 and related formats, otherwise FFmpeg's name of the format."""
    return "mov" if container_name.startswith("mov") else container_name


def is_playable_codec(codec: str, container_name: str) -> bool:
    """Whether browsers play this codec in this container; both are FFmpeg's names."""
    return codec in BROWSER_CODECS.get(container_family(container_name), ())


def is_cover_picture(stream: Any) -> bool:
    """Whether the file marks this video stream as a cover picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def is_enabled(stream: Any) -> bool:
    """Whether a track of an MP4 is enabled; FFmpeg exposes this as the default flag."""
    return bool(stream.disposition & av.stream.Disposition.default)


def is_switched_off(container: Any, stream: Any) -> bool:
    """Whether this track is disabled and another enabled: browsers show nothing if they cannot play that one."""
    if container_family(container.format.name) != "mov" or is_enabled(stream):
        return False
    return any(is_enabled(other) and not is_cover_picture(other) for other in container.streams.video)


def frames_overlap(stamps: Sequence[float | None], durations: Sequence[float]) -> bool:
    """Whether a frame's declared end is after the start of the next one.

    At a seek Chromium shows the first frame with a later end, so it would show the previous frame.

    Args:
        stamps: seconds, in presentation order.
        durations: the file's values in seconds; 0 if it has none.
    """
    for index in range(len(stamps) - 1):
        start, following = stamps[index], stamps[index + 1]
        if start is None or following is None or following <= start:
            continue
        shortest = min(durations[max(0, index - REORDERED) : index + REORDERED + 1])
        if following + OVERLAP < start + shortest:
            return True
    return False
