"""A clip: a video file with its frame map, read frame by frame, never as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from trajseg.errors import VideoError
from trajseg.video.damage import Damage, cut_matroska, false_key_frames, missing_packets, short_matroska
from trajseg.video.decoding import BrowserDecoder, Orientation, decoded_frames, opened, pixel_aspect, square_size
from trajseg.video.frame_map import FALLBACK_FPS, SEEK_OFFSET, FrameMap
from trajseg.video.frame_times import FrameTimes, repaired
from trajseg.video.playback import (
    BROWSER_PIXEL_FORMATS,
    container_family,
    frames_overlap,
    is_playable_codec,
    is_switched_off,
)


@dataclass(frozen=True)
class Clip:
    """A video; every frame has been decoded once.

    Args:
        path: the file.
        width, height: of a frame as a browser shows it, in square pixels and with the file's rotation applied.
        frame_map: when each frame is shown.
        codec: FFmpeg's name of the codec, such as "h264", "mpeg4", "hevc".
        pixel_format: FFmpeg's name, such as "yuv420p".
        duration: seconds from 0 to the end of the last frame.
        notes: sentences about anomalies of the file and how they were handled.
        container: FFmpeg's name of the file format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        clock_start: start of the file's own clock in seconds, below 0 if its first picture comes before 0; already
            subtracted from the frame map's times.
        damaged: whether something is missing or cannot be decoded.
        repaired_times: whether some frames had no usable timestamp.
        threads: whether frames may be decoded in parallel; otherwise a single thread decodes, so that every machine
            gets the same frames.
        playback_fault: why browsers show something else than the file has, such as "refuse pixels of this shape"; empty
            if they do not.
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
    damaged: bool = False
    repaired_times: bool = False
    threads: bool = True
    playback_fault: str = ""

    def __len__(self) -> int:
        return len(self.frame_map)

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return self.frame_map.fps

    @property
    def constant_rate(self) -> bool:
        """Whether all frames last equally long, within the precision of the editor's frame numbers."""
        return self.frame_map.constant_rate

    @property
    def browser_playable(self) -> bool:
        """Whether browsers play the whole file with all frames at their times; if not, use `playable_copy`."""
        return not self.playback_problem

    @property
    def playback_problem(self) -> str:
        """Why browsers do not play the file, to follow the word "browsers"; empty if they do.

        If a file's clock starts late, Chromium shows its duration but cannot reach its end. It stops at damage. If
        times go back, the frames it shows depend on where it started to decode.
        """
        if not is_playable_codec(self.codec, self.container):
            return f"cannot play {self.codec} in {container_family(self.container)}"
        if self.pixel_format not in BROWSER_PIXEL_FORMATS:
            return f"cannot play {self.codec} with pixels of {self.pixel_format}"
        if self.playback_fault:
            return self.playback_fault
        if self.damaged:
            return "stop at the damage"
        if self.repaired_times:
            return "show frames in an unpredictable order if their times do not increase"
        if self.clock_start > SEEK_OFFSET:
            return "do not reach the end of a file whose clock starts late"
        if self.clock_start < 0:
            return "do not show the pictures before the start of a file's clock"
        return ""

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, picture) in increasing order; the picture is RGB uint8 [height, width, 3].

        Args:
            indices: 0-based frames, in any order; None: all.

        Raises:
            IndexError: the clip has no such frame.
            VideoError: the file can no longer be read, or has changed since it was opened.
        """
        wanted = range(len(self)) if indices is None else sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} of a clip of {len(self)} frames")
        return self._decode(wanted)

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        position = 0
        if not wanted:
            return
        with opened(self.path, threads=self.threads) as (container, stream):
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
            "Do not change the file while it is being processed.",
        )

    def _rgb(self, frame: Any, orientation: Orientation) -> np.ndarray:
        # Makes pixels square. A file may change its picture size midway; every frame is resized to the size of
        # the first.
        width, height = orientation.size(self.width, self.height)
        pixels: np.ndarray = frame.to_ndarray(format="rgb24", width=width, height=height)
        return pixels


def open_clip(
    path: str | os.PathLike[str] | Clip,
    name: str = "",
    max_frames: int | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> Clip:
    """Decodes the video once, without keeping its pictures, to find its exact frames and times.

    A folder is opened as a clip of its pictures; see trajseg.video.frames_folder for the frame rate.

    Args:
        name: the video's name in errors; default: its path.
        max_frames: longer videos are rejected as soon as this many frames have been decoded.
        progress: called with the number of decoded frames, after each.

    Raises:
        VideoError: the file is missing, unreadable, without pictures, truncated so that nothing can be decoded, or too
        long.
    """
    if isinstance(path, Clip):
        return path

    def count(frames: int) -> None:
        if max_frames is not None and frames > max_frames:
            raise VideoError(
                f"The video {name or file} has more than {max_frames} frames, which is the limit.",
                "Cut it into shorter clips, or allow more (TRAJSEG_MAX_FRAMES).",
            )
        progress(frames)

    file = Path(path)
    if os.path.isdir(file):  # Path.is_dir raises if the name is too long.
        # frames_folder imports Clip from this module.
        from trajseg.video.frames_folder import open_frames_folder

        clip: Clip = open_frames_folder(file)
        count(len(clip))
        return clip
    strict = _scan(file, name, True, count)
    # If a packet gave no picture, the decoded frames may depend on the number of threads.
    scan = strict if strict.damage.certain else _scan(file, name, False, count)
    if scan.first is None:
        raise VideoError(
            f"No frame of {name or file} can be decoded.", "It is damaged or cut off: copy or export it again."
        )
    concealed = len(scan.stamps) != len(strict.stamps)
    return scan.clip(file, damaged=concealed or strict.damaged or scan.damaged, threads=scan is strict)


def _scan(file: Path, name: str, threads: bool, count: Callable[[int], None]) -> _Scan:
    """Decodes a file once; with threads strictly, so that damage is detected and decoded again by a single thread."""
    with opened(file, name, threads, strict=threads) as (container, stream):
        # A clock that starts below 0 means that the first sound is discarded; browsers then count from 0.
        scan = _Scan(max(0.0, (container.start_time or 0) / av.time_base))
        for frame in decoded_frames(container, stream, scan.damage, BrowserDecoder(stream) if threads else None):
            scan.add(frame, stream)
            count(len(scan.stamps))
        if scan.first is not None:
            scan.finish(file, container, stream)
        return scan


@dataclass
class _Scan:
    """Data from one pass over a file; `first` is None if nothing can be decoded."""

    clock_start: float
    stamps: list[float | None] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    damage: Damage = field(default_factory=Damage)
    first: Any = None
    sizes: set[tuple[int, int]] = field(default_factory=set)
    missing: int = 0
    cut_off: bool = False
    switched_off: bool = False
    false_key_frames: int = 0
    aspect: Fraction = Fraction(1)
    container: str = ""
    codec: str = ""
    nominal: float | None = None
    step: float = 1 / FALLBACK_FPS
    claimed: int = 0

    @property
    def damaged(self) -> bool:
        return bool(self.damage.found or self.missing or self.cut_off)

    def add(self, frame: Any, stream: Any) -> None:
        self.first = self.first or frame
        self.sizes.add((frame.width, frame.height))
        time_base = frame.time_base or stream.time_base
        self.stamps.append(None if frame.pts is None else float(frame.pts * time_base))
        self.durations.append(float(frame.duration * time_base) if frame.duration and time_base else 0.0)

    def finish(self, file: Path, container: Any, stream: Any) -> None:
        self.missing = missing_packets(file, container, stream, self.damage)
        known = [stamp for stamp in self.stamps if stamp is not None]
        gap = max((after - before for before, after in pairwise(known)), default=0.0)
        end = max(known, default=0.0) + self.durations[-1]
        self.cut_off = cut_matroska(file, container) or short_matroska(container, stream, end, gap)
        self.aspect = pixel_aspect(file, container, stream)
        self.container, self.codec = container.format.name, stream.codec_context.codec.canonical_name
        self.nominal = float(stream.average_rate or stream.guessed_rate or 0) or None
        self.step = 1 / float(stream.guessed_rate or stream.average_rate or FALLBACK_FPS)
        self.claimed = stream.frames
        self.false_key_frames = false_key_frames(container, stream, self.damage)
        self.switched_off = is_switched_off(container, stream)
        if container.format.name == "avi":
            self._take_decoding_times(float(stream.time_base))
        # Otherwise a first frame with a late timestamp would take the times of those after it.
        first = min((stamp for stamp in self.stamps if stamp is not None), default=0.0)
        self.clock_start = min(self.clock_start, first)
        # The container's start is rounded to microseconds; this must not shift a frame below 0.
        self.stamps = [None if stamp is None else max(0.0, stamp - self.clock_start) for stamp in self.stamps]

    def _take_decoding_times(self, tick: float) -> None:
        """AVI has no presentation times; FFmpeg invents them, delayed by the decoder's buffer.

        Frames are shown in decoding order. If a packet gave no picture, only the delay can be subtracted.
        """
        if len(self.damage.decoding_times) == len(self.stamps):
            self.stamps = [dts * tick for dts in sorted(self.damage.decoding_times)]
        else:
            delay = self.damage.first_delay * tick
            self.stamps = [None if stamp is None else stamp - delay for stamp in self.stamps]

    def clip(self, file: Path, damaged: bool, threads: bool) -> Clip:
        taken = repaired(self.stamps, self.step, close_jumps=not is_playable_codec(self.codec, self.container))
        frame_map = FrameMap.from_times(taken.times, self.nominal)
        stored = self.first.width, self.first.height
        square = square_size(*stored, self.aspect)
        width, height = Orientation.of(self.first).size(*(square or stored))
        return Clip(
            path=file,
            width=width,
            height=height,
            frame_map=frame_map,
            codec=self.codec,
            pixel_format=self.first.format.name,
            duration=frame_map.times[-1] + (self.durations[-1] or self.step),
            notes=tuple(self.notes(taken, damaged, square is None)),
            container=self.container,
            clock_start=self.clock_start,
            damaged=damaged,
            repaired_times=bool(taken.replaced or taken.restarts),
            threads=threads,
            playback_fault=self._playback_fault(square is None),
        )

    def _playback_fault(self, oversized: bool) -> str:
        if oversized:
            return "refuse pixels of this shape"
        if self.switched_off:
            return "show nothing if the video track is disabled"
        if len(self.sizes) > 1:
            return "change the size of the picture midway"
        if not Orientation.of(self.first).exact:
            return "rotate pictures only by exact quarter turns"
        if self.damage.leading_pictures:
            return "fail to seek into open groups of pictures"
        if self.false_key_frames and not self.damaged:
            return "seek to frames that the file wrongly marks as key frames"
        if frames_overlap(self.stamps, self.durations):
            return "keep showing a frame whose declared end is after the start of the next one"
        return ""

    def notes(self, taken: FrameTimes, damaged: bool, oversized: bool) -> Iterator[str]:
        if self.claimed and self.claimed != len(self.stamps):
            yield f"the header claims {self.claimed} frames, {len(self.stamps)} can be decoded"
        if self.damage.cut_off or self.cut_off or self.missing:
            yield f"the file ends too early ({self.damage.cut_off or 'some of its pictures are missing'})"
        if self.damage.unreadable_packets:
            yield f"{self.damage.unreadable_packets} packets cannot be decoded and were skipped"
        if self.damage.corrupt_frames:
            yield f"{self.damage.corrupt_frames} frames are damaged"
        elif damaged and not (self.damage.found or self.missing or self.cut_off):
            yield "some frames are damaged"
        if taken.replaced:
            yield f"{taken.replaced} frames have no usable timestamp; they were placed between their neighbours"
        if taken.restarts:
            yield f"the file's clock restarts in {taken.restarts} places; frames continue at even intervals there"
        if taken.jumps:
            yield f"the file's clock jumps ahead in {taken.jumps} places; the jumps were closed"
        if self.clock_start > SEEK_OFFSET or self.clock_start < 0:
            yield f"the file's clock starts at {self.clock_start:.2f} s; times count from then"
        if taken.times[0] > SEEK_OFFSET:
            yield f"the first picture comes {taken.times[0]:.3f} s after the start"
        if oversized:
            yield f"the pixel aspect ratio {float(self.aspect):g} is ignored, because the picture would be too large"
        if len(self.sizes) > 1:
            yield "the picture size changes midway; every frame is resized to the first one"
