"""Decoding: the pictures of the video track that a browser shows, in order, continuing after damage."""

from __future__ import annotations

import errno
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np

from trajseg.errors import VideoError
from trajseg.video.playback import BROWSER_CODECS, container_family, is_cover_picture, is_enabled

VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,"
    "h264,hevc,m4v,av1,obu,ivf,yuv4mpegpipe,mxf,nut,mp3,wav,flac,aac,ac3,amr"
)
"""FFmpeg formats that may be opened; sound formats only for a better error. Others would read a text file as ANSI art,
or follow a playlist to other files and hosts."""
OPEN_OPTIONS = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}

MAX_FRAME_PIXELS = 8192 * 4320
"""Default limit on the pixels of a picture (8K), see TRAJSEG_MAX_FRAME_PIXELS: a file of a few kilobytes can declare a
picture that needs gigabytes."""

LONGEST_SIDE = 32767
"""Longest side to which Chromium stretches a picture; beyond that it refuses the file."""

STILL_PICTURE_CODECS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}
"""Codecs of cover pictures; few videos use them."""

SEGMENT = bytes.fromhex("18538067")
"""The Matroska element that contains all others."""


@dataclass
class Damage:
    """Counts and damage of one decoding pass; filled in by `decoded_frames`.

    Attributes:
        packets: picture packets passed to the decoder, without those marked to be skipped.
        all_packets: packets read from the file.
        frames: decoded pictures.
        refused_packets: packets that the browser's decoder rejects, see `BrowserDecoder`.
        first_delay: ticks of the stream's clock from decoding the first packet to showing it, if known.
        decoding_times: decoding time of each picture packet in ticks of the stream's clock, if known.
        leading_pictures: packets decoded after a key frame and shown before it, as in an open group of pictures.
        key_frames: pictures at which the decoder can start.
    """

    packets: int = 0
    all_packets: int = 0
    frames: int = 0
    unreadable_packets: int = 0
    refused_packets: int = 0
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    cut_off: str = field(default="")
    first_delay: int = 0
    decoding_times: list[int] = field(default_factory=list)
    leading_pictures: int = 0
    key_frames: int = 0
    _key_time: int | None = None

    def count(self, packet: Any) -> None:
        """Counts a packet read from the file."""
        self.all_packets += 1
        self.corrupt_packets += packet.is_corrupt
        if self.all_packets == 1 and packet.pts is not None and packet.dts is not None:
            self.first_delay = packet.pts - packet.dts
        if packet.size and not packet.is_discard:
            self.packets += 1
            if packet.dts is not None:
                self.decoding_times.append(packet.dts)
        if packet.is_keyframe:
            # Decoding starts at the first key frame.
            self._key_time = packet.pts if self.all_packets > 1 else None
        elif packet.pts is not None and self._key_time is not None and packet.pts < self._key_time:
            self.leading_pictures += 1

    @property
    def found(self) -> bool:
        """Whether the decoder found damage."""
        return bool(
            self.unreadable_packets
            or self.refused_packets
            or self.corrupt_packets
            or self.corrupt_frames
            or self.cut_off
        )

    @property
    def certain(self) -> bool:
        """Whether every packet became a picture, so that any number of threads gives the same frames."""
        return not self.found and self.packets == self.frames


def frame_pixel_limit() -> int:
    """Limit on the pixels of a picture: TRAJSEG_MAX_FRAME_PIXELS, or MAX_FRAME_PIXELS."""
    given = os.environ.get("TRAJSEG_MAX_FRAME_PIXELS", "").strip()
    return int(given) if given.isdecimal() and int(given) else MAX_FRAME_PIXELS


def refuse_large_picture(width: int, height: int, name: str) -> None:
    """Raises VideoError if a picture exceeds `frame_pixel_limit`."""
    if width * height > (limit := frame_pixel_limit()):
        raise VideoError(
            f"{name} has pictures of {width} x {height} pixels; {limit / 1e6:.1f} million pixels are allowed.",
            "Scale it down, or raise TRAJSEG_MAX_FRAME_PIXELS if there is enough memory.",
        )


@contextmanager
def opened(path: Path, name: str = "", threads: bool = True, strict: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yields PyAV's container and video stream of the file at `path`.

    Args:
        name: the file's name in errors; default: its path.
        threads: decode frames in parallel. The frames of a damaged file then depend on the number of cores.
        strict: make the decoder reject damaged H.264 pictures, which it otherwise conceals silently.

    Raises:
        VideoError: the file is missing, a folder, empty, unreadable, not a video, or without pictures.
        MemoryError: there is not enough memory to open it.
    """
    name = name or str(path)
    _refuse_what_is_no_file(path, name)
    try:
        # "file:" so that a name with a colon is not treated as a URL.
        container = av.open(f"file:{os.fspath(path)}", options={**OPEN_OPTIONS, "max_pixels": str(frame_pixel_limit())})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _raise_if_memory(error)
        if format_name := _unsupported_format(path):
            raise VideoError(
                f"{name} cannot be read as a video: trajseg does not read the format {format_name}.",
                "If it is a video, convert it to MP4 with H.264.",
            ) from error
        raise VideoError(
            f"{name} cannot be read as a video ({_reason(error)}).",
            "If it should be one, it is damaged or cut off: copy or export it again.",
        ) from error
    with container:
        stream = _shown_stream(container, name)
        context = stream.codec_context
        refuse_large_picture(context.width or 0, context.height or 0, name)
        # The container's size may be wrong: this makes the decoder reject larger pictures before allocating memory.
        options = {"max_pixels": str(frame_pixel_limit())}
        if threads:
            stream.thread_type = "AUTO"
        else:
            context.thread_count = 1
        if strict and context.codec.canonical_name == "h264":
            options["err_detect"] = "explode"
        context.options = options
        yield container, stream


class BrowserDecoder:
    """Chromium's decoder for VP9, which detects damage that FFmpeg's own decoder ignores silently."""

    def __init__(self, stream: Any) -> None:
        self._context: Any = None
        if stream.codec_context.codec.canonical_name == "vp9":
            # Some builds of FFmpeg lack it.
            with suppress(av.codec.codec.UnknownCodecError):
                self._context = av.CodecContext.create("libvpx-vp9", "r")
                self._context.thread_count = 0

    def refuses(self, packet: Any) -> bool:
        """Whether it cannot decode the next packet; after the first rejection no further packet is tried."""
        if self._context is None or not packet.size:
            return False
        try:
            self._context.decode(packet)
        except av.error.FFmpegError as error:
            _raise_if_memory(error)
            self._context = None
            return True
        return False


def decoded_frames(container: Any, stream: Any, damage: Damage, browser: BrowserDecoder | None = None) -> Iterator[Any]:
    """Yields PyAV's frames in presentation order, continuing after an unreadable packet.

    `browser` also gets every packet.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            damage.cut_off = _reason(error)
            # Flush the decoder's buffer.
            packet = None
        if packet is not None and (packet.size or packet.dts is not None):
            damage.count(packet)
            damage.refused_packets += browser is not None and browser.refuses(packet)
        if packet is not None and packet.size == 0 and packet.dts is not None:
            # AVI's mark for a repeated frame; the decoder would treat it as the end.
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            _raise_if_memory(error)
            damage.unreadable_packets += 1
            frames = []
        for frame in frames:
            if frame.is_corrupt:
                damage.corrupt_frames += 1
            damage.frames += 1
            damage.key_frames += frame.key_frame
            yield frame
        if packet is None or packet.size == 0:
            return


def pixel_aspect(path: Path, container: Any, stream: Any) -> Fraction:
    """Pixel aspect ratio (width / height) as browsers use it; 1 if the file has none or an invalid one.

    In MP4 and Matroska, browsers use only the container's value. FFmpeg falls back to the stream's, so these files are
    opened once more without decoders.
    """
    aspect = stream.sample_aspect_ratio
    if not aspect or aspect <= 0 or aspect == 1:
        return Fraction(1)
    if container_family(container.format.name) in BROWSER_CODECS:
        options = {**OPEN_OPTIONS, "codec_whitelist": "none"}
        with av.open(f"file:{os.fspath(path)}", options=options) as bare:
            aspect = bare.streams[stream.index].sample_aspect_ratio
    return Fraction(aspect) if aspect and aspect > 0 else Fraction(1)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int] | None:
    """Width and height in square pixels; as in browsers, a picture is only stretched, never shrunk.

    None if a side would be longer than LONGEST_SIDE.
    """
    if aspect > 1:
        width = math.floor(width * aspect + Fraction(1, 2))
    elif aspect < 1:
        height = math.floor(height / aspect + Fraction(1, 2))
    return (width, height) if max(width, height) <= LONGEST_SIDE else None


def missing_packets(path: Path, container: Any, stream: Any, damage: Damage) -> int:
    """Number of packets that the index of an MP4 lists but the file lacks; 0 for other formats.

    Packets, not pictures: because of an edit list some packets may have no picture.
    """
    if container_family(container.format.name) != "mov":
        return 0
    size = path.stat().st_size
    beyond = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    return max(beyond, len(stream.index_entries) - damage.all_packets, 0)


def false_key_frames(container: Any, stream: Any, damage: Damage) -> int:
    """Number of pictures that the index of an MP4 wrongly lists as key frames; 0 for other formats."""
    if container_family(container.format.name) != "mov":
        return 0
    claimed = sum(entry.is_keyframe and not entry.is_discard for entry in stream.index_entries)
    return max(claimed - damage.key_frames, 0)


def cut_matroska(path: Path, container: Any) -> bool:
    """Whether a Matroska or WebM file ends before its segment does."""
    if "matroska" not in container.format.name:
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    place = start.find(SEGMENT)
    if place < 0 or place + len(SEGMENT) >= len(start):
        return False
    # The size of the length field is the number of leading zero bits plus one; all ones mean unknown.
    first = start[place + len(SEGMENT)]
    octets = 9 - first.bit_length()
    begin = place + len(SEGMENT)
    length = int.from_bytes(start[begin : begin + octets], "big") & ((1 << 7 * octets) - 1)
    unknown = length == (1 << 7 * octets) - 1
    return not unknown and begin + octets + length > path.stat().st_size


def short_matroska(container: Any, stream: Any, end: float, gap: float) -> bool:
    """Whether a Matroska or WebM file declares its track longer than it is.

    Args:
        end: seconds at which the last frame ends, by the file's clock.
        gap: the longest gap between frames, in seconds.
    """
    if "matroska" not in container.format.name:
        return False
    claimed = 0.0
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        claimed = 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    elif len(container.streams) == 1:
        claimed = (container.duration or 0) / av.time_base
    return end + max(3 * gap, 0.1) < claimed


ONE = 1 << 16
"""The number 1 in a display matrix's fixed-point format."""


@dataclass(frozen=True)
class Orientation:
    """Rotation of decoded pictures for display, from the file's display matrix.

    `quarter`: whether the matrix is an exact quarter turn, mirrored or not; otherwise this is the nearest one.
    """

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    quarter: bool = True

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """The orientation in the frame's display matrix, rounded to the nearest quarter turn."""
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls()
        # FFmpeg's libavutil/display.h: x' = a x + c y, y' = b x + d y.
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), np.int32)[:5])
        quarter = sorted(map(abs, (a, b, c, d))) == [0, 0, ONE, ONE]
        if abs(a) < abs(b):
            return cls(True, c < 0, b < 0, quarter)
        return cls(False, a < 0, d < 0, quarter)

    @property
    def exact(self) -> bool:
        """Whether browsers rotate the picture in the same way: they only apply exact quarter turns."""
        return self.quarter or not (self.transpose or self.flip_columns or self.flip_rows)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels after rotation."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """The rotated picture [H, W, 3]; contiguous."""
        if self.transpose:
            rgb = rgb.transpose(1, 0, 2)
        if self.flip_columns:
            rgb = rgb[:, ::-1]
        if self.flip_rows:
            rgb = rgb[::-1]
        return np.ascontiguousarray(rgb)


_logging = threading.Lock()
"""PyAV's log level is global to the process."""


def _unsupported_format(path: Path) -> str:
    """FFmpeg's name of a file's format if it is not in VIDEO_FORMATS; otherwise empty.

    Taken from the log: opening the file without the list would let a playlist open other files.
    """
    with _logging:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            av.open(f"file:{os.fspath(path)}", options=OPEN_OPTIONS).close()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            _, name, message = getattr(error, "log", None) or (0, "", "")
            return str(name).removesuffix("_pipe") if "not on whitelist" in str(message) else ""
        finally:
            av.logging.set_level(level)
    return ""


def _refuse_what_is_no_file(path: Path, name: str) -> None:
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        # A name of more than 255 bytes, a NUL, or half a character.
        raise VideoError(f"There is no file {name}: {_reason(error)}.", "Check the path.") from error
    if folder:
        raise VideoError(f"{name} is a folder, not a video.", "Give the path of one video file.")
    if not there:
        raise VideoError(f"There is no file {name}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{name} cannot be read: permission denied.", "Check the file's permissions.")
    if path.stat().st_size == 0 and path.is_file():
        raise VideoError(f"{name} is empty.", "Copy or download it again.")


def _shown_stream(container: Any, name: str) -> Any:
    """The video track that Chromium shows: the first that it can play; in MP4, the first enabled one.

    Matroska's default flag makes no difference. Cover pictures do not count, and a track of still pictures may be a
    cover without the flag.
    """
    streams = [stream for stream in container.streams.video if not is_cover_picture(stream)]
    if not streams:
        raise VideoError(f"{name} has no pictures, only sound or data.", "Give a file with a video track.")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name} uses a codec that cannot be decoded here.", "Convert it to H.264 first.")
    playable = set().union(*BROWSER_CODECS.values())
    flags = container_family(container.format.name) == "mov"

    def rank(stream: Any) -> tuple[bool, bool, bool]:
        codec = stream.codec_context.codec.canonical_name
        return codec not in playable, codec in STILL_PICTURE_CODECS, flags and not is_enabled(stream)

    return min(decodable, key=rank)


def _raise_if_memory(error: Exception) -> None:
    """Raises MemoryError if FFmpeg got no memory: the file is valid, and another machine could decode it."""
    if getattr(error, "errno", None) == errno.ENOMEM:
        raise MemoryError("there is not enough memory to decode it") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
