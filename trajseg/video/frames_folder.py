"""A clip from a folder of pictures, one file per frame, the format of many video data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trajseg.errors import VideoError
from trajseg.video.clip import Clip
from trajseg.video.decoding import refuse_large_picture
from trajseg.video.frame_map import FALLBACK_FPS, FrameMap

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)
"""The EXIF orientation tag, and its values that swap width and height."""


@dataclass(frozen=True)
class FramesFolderClip(Clip):
    """A clip whose frames are picture files; `path` is their folder.

    Args:
        files: one per frame, in order.
    """

    files: tuple[Path, ...] = ()

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            yield index, self._picture(self.files[index])

    def _picture(self, file: Path) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""
        with _opened(file) as image:
            try:
                picture = np.array(ImageOps.exif_transpose(image).convert("RGB"))
            except (OSError, SyntaxError) as error:
                raise VideoError(
                    f"The frame {file} cannot be decoded ({error}).", "It is damaged or cut off: copy it again."
                ) from error
        if picture.shape[:2] != (self.height, self.width):
            raise _other_size(file, (picture.shape[1], picture.shape[0]), (self.width, self.height))
        return picture


def open_frames_folder(
    folder: str | Path, fps: float = FALLBACK_FPS, names: Sequence[str] | None = None
) -> FramesFolderClip:
    """The clip of a folder of JPEG, PNG or WebP files.

    Reads only the files' headers. Frames are in natural order ("frame-9" before "frame-10").

    Args:
        fps: frames per second.
        names: file names without suffix, in order; default: every picture in the folder.

    Raises:
        VideoError: the folder is missing or has no picture, a named picture is missing, one cannot be read, sizes
            differ, or the rate is not positive.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VideoError(f"There is no folder of frames {folder}.", "Give the folder with the pictures.")
    files = sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")),
        key=lambda file: natural_order(file.name),
    )
    if names is not None:
        by_name = {file.stem: file for file in files}
        if missing := [name for name in names if name not in by_name]:
            raise VideoError(
                f"{folder} lacks {len(missing)} of {len(names)} frames, first {missing[0]!r}.", "Copy the folder again."
            )
        files = [by_name[name] for name in names]
    if not files:
        raise VideoError(f"{folder} has no frames.", f"Put pictures there: {', '.join(SUFFIXES)}.")
    if not fps > 0:
        raise VideoError(f"The frame rate of {folder} is {fps}, which is not above 0.", "Give a rate above 0.")
    size = _size(files[0])
    for file in files[1:]:
        if (other := _size(file)) != size:
            raise _other_size(file, other, size)
    return FramesFolderClip(
        path=folder,
        width=size[0],
        height=size[1],
        frame_map=FrameMap(tuple(index / fps for index in range(len(files))), fps),
        codec="",
        pixel_format="",
        duration=len(files) / fps,
        files=tuple(files),
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key that compares numbers in names by value: "frame-9" before "frame-10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name) if part]


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VideoError(f"The frame {file} cannot be read as a picture ({error}).", "Copy it again.") from error


def _size(file: Path) -> tuple[int, int]:
    """Width and height after EXIF rotation."""
    with _opened(file) as image:
        width, height = image.size
        refuse_large_picture(width, height, f"The frame {file}")
        return (height, width) if image.getexif().get(_ORIENTATION) in _LYING else (width, height)


def _other_size(file: Path, size: tuple[int, int], wanted: tuple[int, int]) -> VideoError:
    return VideoError(
        f"The frame {file} has {size[0]} x {size[1]} pixels, the first one {wanted[0]} x {wanted[1]}.",
        "All frames of a clip must have the same size.",
    )
