"""A clip: a video file with its frame map, read frame by frame and never held in memory whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from trajseg.errors import VideoError
from trajseg.video.decoding import Damage, Orientation, decoded_frames, opened
from trajseg.video.frame_map import FALLBACK_FPS, SEEK_OFFSET, FrameMap

BROWSER_CODECS = {
    "mov": {"h264", "av1", "vp9"},
    "matroska,webm": {"vp8", "vp9", "av1"},
}
"""Codecs that current Chromium, Firefox and Safari all play, by FFmpeg's container name."""

BROWSER_PIXEL_FORMATS = {"yuv420p", "yuvj420p"}


@dataclass(frozen=True)
class Clip:
    """A video whose every frame was decoded once.

    Args:
        path: the file.
        width, height: pixels of a frame as shown, the file's rotation applied.
        frame_map: when each frame is shown.
        codec: FFmpeg's name of the codec, such as "h264", "mpeg4", "hevc".
        pixel_format: FFmpeg's name, such as "yuv420p".
        duration: seconds from 0 to the end of the last frame.
        notes: sentences on what is odd about the file and how it was taken.
        container: FFmpeg's name of the file format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        clock_start: seconds at which the file's own clock starts; the frame map's times are without it.
    """

    path: Path
    width: int
    height: int
    frame_map: FrameMap
    codec: str
    pixel_format: str
    duration: float
    notes: tuple[str, ...] = ()
    container: str = ""
    clock_start: float = 0.0

    def __len__(self) -> int:
        return len(self.frame_map)

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return self.frame_map.fps

    @property
    def constant_rate(self) -> bool:
        """Whether every frame lasts equally long, as far as the editor's counting can tell."""
        return self.frame_map.constant_rate

    @property
    def browser_playable(self) -> bool:
        """Whether browsers play the file, and from the start; `playable_copy` makes one that they do.

        Of a file whose clock starts late, Chromium shows its duration, but cannot get to its end.
        """
        if self.pixel_format not in BROWSER_PIXEL_FORMATS or self.clock_start > SEEK_OFFSET:
            return False
        name = "mov" if self.container.startswith("mov") else self.container
        return self.codec in BROWSER_CODECS.get(name, ())

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, picture) in increasing order; the picture is RGB uint8 [height, width, 3].

        Args:
            indices: the 0-based frames wanted, in any order; all when None.

        Raises:
            IndexError: the clip has no such frame.
            VideoError: the file can no longer be read as it was when it was opened.
        """
        wanted = range(len(self)) if indices is None else sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} of a clip of {len(self)} frames")
        return self._decode(wanted)

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        position = 0
        if not wanted:
            return
        with opened(self.path) as (container, stream):
            orientation: Orientation | None = None
            for index, frame in enumerate(decoded_frames(container, stream, Damage())):
                if orientation is None:
                    orientation = Orientation.of(frame)
                if index == wanted[position]:
                    yield index, orientation.apply(self._rgb(frame, orientation))
                    position += 1
                    if position == len(wanted):
                        return
        raise VideoError(
            f"{self.path} had {len(self)} frames when it was opened and has fewer now.",
            "Do not change the file while it is worked on.",
        )

    def _rgb(self, frame: Any, orientation: Orientation) -> np.ndarray:
        # A file may change its picture size on the way; every frame comes in the size of the first.
        width, height = orientation.size(self.width, self.height)
        pixels: np.ndarray = frame.to_ndarray(format="rgb24", width=width, height=height)
        return pixels


def open_clip(path: str | os.PathLike[str] | Clip, name: str = "") -> Clip:
    """Decode the video once, without keeping its pictures, and say what it really holds.

    A folder is opened as a clip of the pictures in it; see trajseg.video.frames_folder for its frame rate.

    Args:
        name: what errors call the video; by default its path.

    Raises:
        VideoError: missing, unreadable, without pictures, or cut off so that nothing can be decoded.
    """
    if isinstance(path, Clip):
        return path
    file = Path(path)
    if os.path.isdir(file):  # Path.is_dir raises for a name that is too long.
        # A clip of pictures is itself a Clip, so it can only be imported once Clip is there.
        from trajseg.video.frames_folder import open_frames_folder

        return open_frames_folder(file)
    with opened(file, name) as (container, stream):
        # A clock that starts below 0 is one whose first sound is thrown away; browsers count from 0 then.
        clock_start = max(0.0, (container.start_time or 0) / av.time_base)
        scan = _Scan(clock_start)
        for frame in decoded_frames(container, stream, scan.damage):
            scan.add(frame, stream)
        if scan.first is None:
            raise VideoError(
                f"No frame of {name or file} can be decoded.", "It is damaged or cut off: copy or export it again."
            )
        nominal = float(stream.average_rate or stream.guessed_rate or 0) or None
        frame_map = FrameMap.from_times(tuple(scan.times), nominal)
        width, height = Orientation.of(scan.first).size(scan.first.width, scan.first.height)
        last = scan.last_duration or 1 / frame_map.fps
        return Clip(
            path=file,
            width=width,
            height=height,
            frame_map=frame_map,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=scan.first.format.name,
            duration=frame_map.times[-1] + last,
            notes=tuple(scan.notes(stream)),
            container=container.format.name,
            clock_start=clock_start,
        )


@dataclass
class _Scan:
    """What the first pass over a file gathers."""

    clock_start: float
    times: list[float] = field(default_factory=list)
    damage: Damage = field(default_factory=Damage)
    first: Any = None
    last_duration: float = 0.0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    odd_times: int = 0

    def add(self, frame: Any, stream: Any) -> None:
        self.first = self.first or frame
        self.sizes.add((frame.width, frame.height))
        step = 1 / float(stream.guessed_rate or stream.average_rate or FALLBACK_FPS)
        time_base = frame.time_base or stream.time_base
        if frame.pts is None:
            time = self.times[-1] + step if self.times else 0.0
        else:
            # The microsecond to which the container's start is rounded must not shift a frame below 0.
            time = max(0.0, float(frame.pts * time_base) - self.clock_start)
        if self.times and time <= self.times[-1]:
            self.odd_times += 1
            time = self.times[-1] + step
        self.times.append(time)
        self.last_duration = float(frame.duration * time_base) if frame.duration and time_base else step

    def notes(self, stream: Any) -> Iterator[str]:
        claimed = stream.frames
        if claimed and claimed != len(self.times):
            yield f"the header claims {claimed} frames, {len(self.times)} can be decoded"
        if self.damage.cut_off:
            yield f"the file ends too early ({self.damage.cut_off})"
        if self.damage.unreadable_packets:
            yield f"{self.damage.unreadable_packets} packets cannot be decoded and were passed over"
        if self.damage.corrupt_frames:
            yield f"{self.damage.corrupt_frames} frames are damaged"
        if self.odd_times:
            yield f"{self.odd_times} frames carry a time that does not increase; they were spaced evenly"
        if self.clock_start > SEEK_OFFSET:
            yield f"the file's clock starts at {self.clock_start:.2f} s; times count from there"
        if self.times[0] > SEEK_OFFSET:
            yield f"the first picture comes {self.times[0]:.3f} s after the start"
        if len(self.sizes) > 1:
            yield "the picture size changes on the way; every frame is given in the size of the first"
