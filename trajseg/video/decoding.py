"""Decoding: the pictures of the video track that a browser shows, in order, continuing after damage."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np

from trajseg.errors import VideoError
from trajseg.video.damage import Damage
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
