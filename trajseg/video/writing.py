"""Writing: H.264 videos that browsers play, and frames as JPEG."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from trajseg.errors import InputError
from trajseg.files import whole_file
from trajseg.video.clip import Clip

BT709 = 1
"""BT.709 in H.264's colour tables; players guess it or BT.601 by size for untagged video."""


def even_size(rgb: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] with the last row or column repeated if a side is odd, as H.264 4:2:0 needs.

    Pixel (x, y) does not move, so boxes and masks in pixels stay valid.
    """
    height, width = rgb.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return rgb
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float,
    crf: int = 20,
    encoder: Literal["libx264", "libx265"] = "libx264",
) -> Path:
    """Writes an MP4 that browsers play: H.264, yuv420p, constant rate, index at the front.

    The same frames give the same file.

    Args:
        path: target file; its folder is created, and the file appears only when complete.
        frames: RGB uint8 [H, W, 3], all of one size; odd sides are padded by `even_size`.
        fps: frames per second.
        crf: encoder quality, 0 (best) to 51.
        encoder: libx265 writes H.265, which few browsers play.

    Raises:
        InputError: there are no frames, or they differ in size.
    """
    with (
        whole_file(path) as unfinished,
        av.open(str(unfinished), "w", options={"movflags": "faststart"}) as out,
    ):
        rate = Fraction(fps).limit_denominator(100_000)
        stream = None
        for index, rgb in enumerate(frames):
            rgb = even_size(rgb)
            if stream is None:
                height, width = rgb.shape[:2]
                # A key frame about once a second, because the editor seeks often.
                options = {"crf": str(crf), "preset": "veryfast", "g": str(max(1, min(48, round(fps))))}
                if encoder == "libx264":
                    # With weighted B-frames x264 reads uninitialised memory: the same frames would give
                    # another file every time.
                    options["bf"] = "0"
                else:
                    options["x265-params"] = "log-level=error"
                stream = out.add_stream(encoder, rate=rate, options=options)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                context = stream.codec_context
                context.time_base = 1 / rate
                context.colorspace = context.color_primaries = context.color_trc = BT709
                context.color_range = ColorRange.MPEG
            elif rgb.shape[:2] != (stream.height, stream.width):
                raise InputError(
                    f"Frame {index} is {rgb.shape[1]}x{rgb.shape[0]}, the first frame has another size.",
                    "Scale all frames to one size first.",
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = index, 1 / rate
            out.mux(stream.encode(frame))
        if stream is None:
            raise InputError(f"There are no frames to write to {path}.", "Give at least one frame.")
        out.mux(stream.encode(None))
    return Path(path)


def playable_copy(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Writes a copy that browsers play, with one frame per frame of the clip, at the clip's average rate.

    Indices stay the same, and frame i is the editor's frame i + 1, even if the clip's rate varies.
    The sound is left out; the rotation is applied to the pictures.
    """
    return write_video(path, (rgb for _, rgb in clip.frames()), clip.fps)


def save_frame(path: str | os.PathLike[str], rgb: np.ndarray, quality: int = 90) -> Path:
    """Writes RGB uint8 [H, W, 3] as a JPEG of `quality` 1 to 95, without chroma subsampling."""
    with whole_file(path, durable=False) as unfinished:
        Image.fromarray(rgb).save(unfinished, format="JPEG", quality=quality, subsampling=0)
    return Path(path)
