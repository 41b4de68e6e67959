"""Decoding: the pictures of the video track that a browser shows, in order, past damage where there is some."""

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
"""FFmpeg formats that are opened; sound ones only to say so. Others would read a text file as ANSI art,
or follow a playlist to other files and hosts."""
OPEN_OPTIONS = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}

MAX_FRAME_PIXELS = 8192 * 4320
"""Pixels of the largest picture that is decoded (8K), unless TRAJSEG_MAX_FRAME_PIXELS says otherwise: a few kilobytes
can claim a picture that takes gigabytes."""

LONGEST_SIDE = 32767
"""Pixels to which Chromium stretches a picture; beyond that it refuses the file."""

STILL_PICTURE_CODECS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}
"""Codecs of cover pictures; all but a few videos have another."""

SEGMENT = bytes.fromhex("18538067")
"""The element of a Matroska file that holds all the rest."""


@dataclass
class Damage:
    """What went wrong while a file was decoded; filled in while `decoded_frames` runs.

    Attributes:
        packets: packets of pictures that the decoder was given, without those that are only there to be skipped.
        all_packets: packets that the file gave.
        frames: pictures that came out.
        refused_packets: packets that the decoder of browsers refuses, see `BrowserDecoder`.
        first_delay: ticks of the stream's clock from decoding the first packet to showing it, where known.
        decoding_times: when each packet of a picture is decoded, in ticks of the stream's clock, where known.
        leading_pictures: packets decoded after a key frame and shown before it, as an open group of pictures has them.
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
        """Note a packet that the file gave."""
        self.all_packets += 1
        self.corrupt_packets += packet.is_corrupt
        if self.all_packets == 1 and packet.pts is not None and packet.dts is not None:
            self.first_delay = packet.pts - packet.dts
        if packet.size and not packet.is_discard:
            self.packets += 1
            if packet.dts is not None:
                self.decoding_times.append(packet.dts)
        if packet.is_keyframe:
            # Nothing is decoded before the first one.
            self._key_time = packet.pts if self.all_packets > 1 else None
        elif packet.pts is not None and self._key_time is not None and packet.pts < self._key_time:
            self.leading_pictures += 1

    @property
    def found(self) -> bool:
        """Whether anything is damaged, as far as the decoder says."""
        return bool(
            self.unreadable_packets
            or self.refused_packets
            or self.corrupt_packets
            or self.corrupt_frames
            or self.cut_off
        )

    @property
    def certain(self) -> bool:
        """Whether every packet became a picture, so that any number of threads decodes the same frames."""
        return not self.found and self.packets == self.frames


def frame_pixel_limit() -> int:
    """Pixels of the largest picture that may be decoded: TRAJSEG_MAX_FRAME_PIXELS, else MAX_FRAME_PIXELS."""
    given = os.environ.get("TRAJSEG_MAX_FRAME_PIXELS", "").strip()
    return int(given) if given.isdecimal() and int(given) else MAX_FRAME_PIXELS


def refuse_large_picture(width: int, height: int, name: str) -> None:
    """Raises VideoError for a picture of more pixels than may be decoded; see `frame_pixel_limit`."""
    if width * height > (limit := frame_pixel_limit()):
        raise VideoError(
            f"{name} has pictures of {width} x {height} pixels; {limit / 1e6:.1f} million pixels are allowed.",
            "Scale it down, or raise TRAJSEG_MAX_FRAME_PIXELS where there is the memory for it.",
        )


@contextmanager
def opened(path: Path, name: str = "", threads: bool = True, strict: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yield PyAV's container and video stream of the file at `path`.

    Args:
        name: what errors call the file; by default its path.
        threads: decode frames side by side. What a damaged file gives then depends on the number of cores.
        strict: have the decoder refuse a damaged H.264 picture, which it would else patch up without a word.

    Raises:
        VideoError: missing, a folder, empty, not readable, not a video, or without pictures.
        MemoryError: there is not enough memory to open it.
    """
    name = name or str(path)
    _refuse_what_is_no_file(path, name)
    try:
        # "file:" so that a name with a colon is never taken for a URL.
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
        # What the container says may be a lie: the decoder refuses larger pictures before it takes memory for them.
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
    """The decoder that Chromium has for a codec whose own one here passes over damage without a word: VP9."""

    def __init__(self, stream: Any) -> None:
        self._context: Any = None
        if stream.codec_context.codec.canonical_name == "vp9":
            # A build of FFmpeg may lack it.
            with suppress(av.codec.codec.UnknownCodecError):
                self._context = av.CodecContext.create("libvpx-vp9", "r")
                self._context.thread_count = 0

    def refuses(self, packet: Any) -> bool:
        """Whether it cannot decode the next packet; after a refusal no later packet is tried."""
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
    """Yield PyAV's frames in the order in which they are shown, going on after an unreadable packet.

    `browser` is shown every packet, too.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            damage.cut_off = _reason(error)
            # What the decoder still holds back.
            packet = None
        if packet is not None and (packet.size or packet.dts is not None):
            damage.count(packet)
            damage.refused_packets += browser is not None and browser.refuses(packet)
        if packet is not None and packet.size == 0 and packet.dts is not None:
            # A frame that AVI says is as the one before; to the decoder it would mean the end.
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
    """Width of a pixel over its height, as browsers take it; 1 where the file says nothing, or nonsense.

    In MP4 and Matroska browsers go by the container alone. FFmpeg takes what the stream says where the container is
    silent, so these are opened once more without decoders.
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
    """Width and height in square pixels: like browsers, the picture is only ever stretched, never shrunk.

    None where a side would be longer than LONGEST_SIDE.
    """
    if aspect > 1:
        width = math.floor(width * aspect + Fraction(1, 2))
    elif aspect < 1:
        height = math.floor(height / aspect + Fraction(1, 2))
    return (width, height) if max(width, height) <= LONGEST_SIDE else None


def missing_packets(path: Path, container: Any, stream: Any, damage: Damage) -> int:
    """How many packets the index of an MP4 lists that the file did not give; 0 for other formats.

    Packets, not pictures: an edit list lets some packets give none.
    """
    if container_family(container.format.name) != "mov":
        return 0
    size = path.stat().st_size
    beyond = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    return max(beyond, len(stream.index_entries) - damage.all_packets, 0)


def false_key_frames(container: Any, stream: Any, damage: Damage) -> int:
    """How many pictures the index of an MP4 calls key frames that are none; 0 for other formats."""
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
    # The length of the length is the number of leading zero bits and one; all ones mean unknown.
    first = start[place + len(SEGMENT)]
    octets = 9 - first.bit_length()
    begin = place + len(SEGMENT)
    length = int.from_bytes(start[begin : begin + octets], "big") & ((1 << 7 * octets) - 1)
    unknown = length == (1 << 7 * octets) - 1
    return not unknown and begin + octets + length > path.stat().st_size


def short_matroska(container: Any, stream: Any, end: float, gap: float) -> bool:
    """Whether a Matroska or WebM file says that its track is longer than it is.

    Args:
        end: seconds at which the last frame ends, by the file's clock.
        gap: the longest one between frames, in seconds.
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
"""1 in the fixed-point numbers of a display matrix."""


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture is turned for showing, from the file's display matrix.

    `quarter`: whether the matrix is an exact quarter turn, mirrored or not; otherwise this is the nearest one.
    """

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False
    quarter: bool = True

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """The orientation that the frame's display matrix asks for, to the nearest quarter turn."""
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
        """Whether browsers turn the picture likewise: they leave it as it is but for exact quarter turns."""
        return self.quarter or not (self.transpose or self.flip_columns or self.flip_rows)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels after turning."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] turned; contiguous."""
        if self.transpose:
            rgb = rgb.transpose(1, 0, 2)
        if self.flip_columns:
            rgb = rgb[:, ::-1]
        if self.flip_rows:
            rgb = rgb[::-1]
        return np.ascontiguousarray(rgb)


_logging = threading.Lock()
"""PyAV's log level is one for the process."""


def _unsupported_format(path: Path) -> str:
    """FFmpeg's name of the format of a file that VIDEO_FORMATS leaves out; empty where that is not the trouble.

    Only the log tells: opening without the list would let a playlist open other files.
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
        # A name of more than 255 bytes, a NUL, half of a character.
        raise VideoError(f"There is no file {name}: {_reason(error)}.", "Check the path.") from error
    if folder:
        raise VideoError(f"{name} is a folder, not a video.", "Give the path of one video file.")
    if not there:
        raise VideoError(f"There is no file {name}.", "Check the path.")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{name} may not be read.", "Check the file's permissions.")
    if path.stat().st_size == 0 and path.is_file():
        raise VideoError(f"{name} is empty.", "Copy or download it again.")


def _shown_stream(container: Any, name: str) -> Any:
    """The video track that Chromium shows: one that it can play before others; in MP4, one that is enabled.

    In Matroska the flag that names a default track makes no difference. Cover pictures are no video, and a track of
    still pictures may be a cover without the flag.
    """
    streams = [stream for stream in container.streams.video if not is_cover_picture(stream)]
    if not streams:
        raise VideoError(f"{name} has no pictures, only sound or data.", "Give a file with a video track.")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name} holds video in a codec that cannot be decoded here.", "Convert it to H.264 first.")
    playable = set().union(*BROWSER_CODECS.values())
    flags = container_family(container.format.name) == "mov"

    def rank(stream: Any) -> tuple[bool, bool, bool]:
        codec = stream.codec_context.codec.canonical_name
        return codec not in playable, codec in STILL_PICTURE_CODECS, flags and not is_enabled(stream)

    return min(decodable, key=rank)


def _raise_if_memory(error: Exception) -> None:
    """Raises MemoryError where FFmpeg got no memory: that is not the file's fault, another machine could decode it."""
    if getattr(error, "errno", None) == errno.ENOMEM:
        raise MemoryError("there is not enough memory to decode it") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
