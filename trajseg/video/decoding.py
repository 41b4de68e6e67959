"""Decoding: the pictures of a video file, one after the other, over damage where there is some."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np

from trajseg.errors import VideoError

VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,"
    "h264,hevc,m4v,av1,obu,ivf,yuv4mpegpipe,mxf,nut,mp3,wav,flac,aac,ac3,amr"
)
"""FFmpeg formats that are opened; sound ones only to say so. Others would read a text file as ANSI art,
or follow a playlist to other files and hosts."""
OPEN_OPTIONS = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}


@dataclass
class Damage:
    """What went wrong while a file was decoded; filled in while `decoded_frames` runs."""

    unreadable_packets: int = 0
    corrupt_frames: int = 0
    cut_off: str = field(default="")


@contextmanager
def opened(path: Path, name: str = "") -> Iterator[tuple[Any, Any]]:
    """Yield PyAV's container and video stream of the file at `path`.

    Args:
        name: what errors call the file; by default its path.

    Raises:
        VideoError: missing, a folder, empty, not readable, not a video, or without pictures.
    """
    name = name or str(path)
    _refuse_what_is_no_file(path, name)
    try:
        # "file:" so that a name with a colon is never taken for a URL.
        container = av.open(f"file:{os.fspath(path)}", options=OPEN_OPTIONS)
    except (av.error.FFmpegError, OSError, ValueError) as error:
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
        streams = [s for s in container.streams.video if not _is_cover_picture(s)]
        if not streams:
            raise VideoError(f"{name} has no pictures, only sound or data.", "Give a file with a video track.")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(
                f"{name} holds video in a codec that cannot be decoded here.", "Convert it to H.264 first."
            )
        stream.thread_type = "AUTO"
        yield container, stream


def decoded_frames(container: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    """Yield PyAV's frames in the order in which they are shown, going on after an unreadable packet."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            damage.cut_off = _reason(error)
            # What the decoder still holds back.
            packet = None
        if packet is not None and packet.size == 0 and packet.dts is not None:
            # A frame that AVI says is as the one before; to the decoder it would mean the end.
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            damage.unreadable_packets += 1
            frames = []
        for frame in frames:
            if frame.is_corrupt:
                damage.corrupt_frames += 1
            yield frame
        if packet is None or packet.size == 0:
            return


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture is turned for showing, from the file's display matrix."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """The orientation that the frame's display matrix asks for, to the nearest quarter turn."""
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls()
        # FFmpeg's libavutil/display.h: x' = a x + c y, y' = b x + d y.
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), np.int32)[:5])
        if abs(a) < abs(b):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

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


def _is_cover_picture(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
