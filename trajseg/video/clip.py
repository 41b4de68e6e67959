"""A clip: a video file with its frame map, read frame by frame and never held in memory whole."""

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
from trajseg.video.decoding import (
    BrowserDecoder,
    Damage,
    Orientation,
    cut_matroska,
    decoded_frames,
    false_key_frames,
    missing_packets,
    opened,
    pixel_aspect,
    short_matroska,
    square_size,
)
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
    """A video whose every frame was decoded once.

    Args:
        path: the file.
        width, height: pixels of a frame as a browser shows it: square ones, the file's rotation applied.
        frame_map: when each frame is shown.
        codec: FFmpeg's name of the codec, such as "h264", "mpeg4", "hevc".
        pixel_format: FFmpeg's name, such as "yuv420p".
        duration: seconds from 0 to the end of the last frame.
        notes: sentences on what is odd about the file and how it was taken.
        container: FFmpeg's name of the file format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        clock_start: seconds at which the file's own clock starts, below 0 where its first picture comes before 0; the
            frame map's times are without it.
        damaged: whether something is missing or cannot be decoded.
        repaired_times: whether some frames had no usable time of their own.
        threads: whether frames may be decoded side by side; otherwise one thread reads them all, so that every
            machine finds the same ones.
        playback_fault: what browsers do that makes what they show differ from the file, such as "refuse pixels of this
            shape"; empty where there is nothing.
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
        """Whether every frame lasts equally long, as far as the editor's counting can tell."""
        return self.frame_map.constant_rate

    @property
    def browser_playable(self) -> bool:
        """Whether browsers play the whole file and show its frames at their times; else `playable_copy` makes one."""
        return not self.playback_problem

    @property
    def playback_problem(self) -> str:
        """Why browsers do not play the file as it is, to follow "browsers"; empty when they do.

        Of a file whose clock starts late, Chromium shows its duration, but cannot get to its end. Of a damaged one it
        stops at the damage. Where times go back, what it shows depends on where it started to decode.
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
            return "show frames whose times do not increase in no fixed order"
        if self.clock_start > SEEK_OFFSET:
            return "do not get to the end of a file whose clock starts late"
        if self.clock_start < 0:
            return "do not show the pictures before the start of a file's clock"
        return ""

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
            "Do not change the file while it is worked on.",
        )

    def _rgb(self, frame: Any, orientation: Orientation) -> np.ndarray:
        # Here pixels become square. A file may change its picture size on the way; every frame comes in the size of
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
    """Decode the video once, without keeping its pictures, and say what it really holds.

    A folder is opened as a clip of the pictures in it; see trajseg.video.frames_folder for its frame rate.

    Args:
        name: what errors call the video; by default its path.
        max_frames: a video of more frames is refused as soon as that many were decoded.
        progress: called with the number of frames after each one.

    Raises:
        VideoError: missing, unreadable, without pictures, cut off so that nothing can be decoded, or too long.
    """
    if isinstance(path, Clip):
        return path

    def count(frames: int) -> None:
        if max_frames is not None and frames > max_frames:
            raise VideoError(
                f"The video {name or file} has more than {max_frames} frames, which is what is allowed.",
                "Cut it into shorter clips, or allow more (TRAJSEG_MAX_FRAMES).",
            )
        progress(frames)

    file = Path(path)
    if os.path.isdir(file):  # Path.is_dir raises for a name that is too long.
        # A clip of pictures is itself a Clip, so it can only be imported once Clip is there.
        from trajseg.video.frames_folder import open_frames_folder

        clip: Clip = open_frames_folder(file)
        count(len(clip))
        return clip
    strict = _scan(file, name, True, count)
    # Where any packet gave no picture, what came out may depend on the number of threads.
    scan = strict if strict.damage.certain else _scan(file, name, False, count)
    if scan.first is None:
        raise VideoError(
            f"No frame of {name or file} can be decoded.", "It is damaged or cut off: copy or export it again."
        )
    concealed = len(scan.stamps) != len(strict.stamps)
    return scan.clip(file, damaged=concealed or strict.damaged or scan.damaged, threads=scan is strict)


def _scan(file: Path, name: str, threads: bool, count: Callable[[int], None]) -> _Scan:
    """Decode a file once; with threads, strictly: what is damaged then shows, and is decoded again without."""
    with opened(file, name, threads, strict=threads) as (container, stream):
        # A clock that starts below 0 is one whose first sound is thrown away; browsers count from 0 then.
        scan = _Scan(max(0.0, (container.start_time or 0) / av.time_base))
        for frame in decoded_frames(container, stream, scan.damage, BrowserDecoder(stream) if threads else None):
            scan.add(frame, stream)
            count(len(scan.stamps))
        if scan.first is not None:
            scan.finish(file, container, stream)
        return scan


@dataclass
class _Scan:
    """What a pass over a file gathers; `first` is None where nothing can be decoded."""

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
        # A first frame whose time is too late would else take the times of those after it.
        first = min((stamp for stamp in self.stamps if stamp is not None), default=0.0)
        self.clock_start = min(self.clock_start, first)
        # The microsecond to which the container's start is rounded must not shift a frame below 0.
        self.stamps = [None if stamp is None else max(0.0, stamp - self.clock_start) for stamp in self.stamps]

    def _take_decoding_times(self, tick: float) -> None:
        """AVI has no presentation times, and FFmpeg makes them up, later by what the decoder holds back.

        Frames are shown in the order of the times at which packets are decoded. Where a packet gave no picture only
        the delay can be taken off.
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
            return "show nothing of a track that is switched off"
        if len(self.sizes) > 1:
            return "change the size of the picture on the way"
        if not Orientation.of(self.first).exact:
            return "turn pictures by exact quarter turns alone"
        if self.damage.leading_pictures:
            return "fail to seek where groups of pictures are open"
        if self.false_key_frames and not self.damaged:
            return "seek to frames that the file falsely calls key frames"
        if frames_overlap(self.stamps, self.durations):
            return "go on showing a frame that is said to last longer than until the next one"
        return ""

    def notes(self, taken: FrameTimes, damaged: bool, oversized: bool) -> Iterator[str]:
        if self.claimed and self.claimed != len(self.stamps):
            yield f"the header claims {self.claimed} frames, {len(self.stamps)} can be decoded"
        if self.damage.cut_off or self.cut_off or self.missing:
            yield f"the file ends too early ({self.damage.cut_off or 'some of its pictures are missing'})"
        if self.damage.unreadable_packets:
            yield f"{self.damage.unreadable_packets} packets cannot be decoded and were passed over"
        if self.damage.corrupt_frames:
            yield f"{self.damage.corrupt_frames} frames are damaged"
        elif damaged and not (self.damage.found or self.missing or self.cut_off):
            yield "some frames are damaged"
        if taken.replaced:
            yield f"{taken.replaced} frames carry no usable time; they were put between their neighbours"
        if taken.restarts:
            yield f"the file's time does not increase in {taken.restarts} places; frames go on evenly there"
        if taken.jumps:
            yield f"the file's clock jumps ahead in {taken.jumps} places; frames go on evenly there"
        if self.clock_start > SEEK_OFFSET or self.clock_start < 0:
            yield f"the file's clock starts at {self.clock_start:.2f} s; times count from there"
        if taken.times[0] > SEEK_OFFSET:
            yield f"the first picture comes {taken.times[0]:.3f} s after the start"
        if oversized:
            yield f"pixels {float(self.aspect):g} times as wide as high are taken for square ones"
        if len(self.sizes) > 1:
            yield "the picture size changes on the way; every frame is given in the size of the first"
