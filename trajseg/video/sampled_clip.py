"""A clip of a few frames of another clip, kept in memory, for trying out an engine within seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trajseg.video.clip import Clip
from trajseg.video.frame_map import FrameMap


@dataclass(frozen=True)
class SampledClip(Clip):
    """Some frames of another clip, with their times there.

    Args:
        indices: 0-based frames of the other clip, increasing; the first becomes frame 0.
        pictures: RGB uint8 [H, W, 3], one per index.
    """

    indices: tuple[int, ...] = ()
    pictures: tuple[np.ndarray, ...] = ()

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            yield index, self.pictures[index].copy()


def sampled_clip(clip: Clip, indices: Sequence[int]) -> SampledClip:
    """The frames `indices` (0-based, in any order) of a clip.

    Raises:
        IndexError: the clip has no such frame.
        VideoError: `indices` is empty, or the video can no longer be read.
    """
    frames = list(clip.frames(indices))
    times = tuple(clip.frame_map.times[index] for index, _ in frames)
    return SampledClip(
        path=clip.path,
        width=clip.width,
        height=clip.height,
        frame_map=FrameMap.from_times(times, clip.fps),
        codec=clip.codec,
        pixel_format=clip.pixel_format,
        duration=clip.duration,
        notes=clip.notes,
        container=clip.container,
        clock_start=clip.clock_start,
        indices=tuple(index for index, _ in frames),
        pictures=tuple(picture for _, picture in frames),
    )
