"""The contract of export formats: a class that writes labelled clips, one after the other, into a folder.

A format is one file with one subclass of TrackFormat. It sets `name` and `summary`, implements `write` and, for files
that cover all clips, `begin` and `finish`. It is listed in `registry.FORMATS`, or is an entry point in the group
"trajseg.formats" of another package. Rules:

* `write` is called once per clip. Data for `finish` goes into a JsonFile, which spools to disk, so that memory does not
  grow with the number of clips.
* Files are below `self.out`. Clip names are safe as folder names; the rest of a path is up to the format.
* Only the masks of `clip.shown` are written: tracks that no person rejected and that have a mask.
* Pictures are written only if `self.pictures` is set; then every clip has an open video.
* Frame indices are 0-based in all records; a format that counts from 1 converts.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from PIL import Image

from trajseg.errors import InputError
from trajseg.files import whole_file
from trajseg.tracks.labelled import LabelledClip

JPEG_QUALITY = 95
Progress = Callable[[str, int, int], None]
"""Called with (clip name, frames written, frames in total)."""


class TrackFormat(ABC):
    """Writes clips in one format; a context manager that completes the files covering all clips at its end.

    Args:
        out: folder to write to; created if missing.
        pictures: whether to write frames as pictures, too.
        progress: see Progress.

    Raises:
        InputError: the folder is not empty.
    """

    name: ClassVar[str]
    """The value of `--format`."""
    summary: ClassVar[str]
    """Description for `trajseg export --help`, at most 60 characters."""

    def __init__(self, out: str | os.PathLike[str], pictures: bool = True, progress: Progress | None = None) -> None:
        self.out = Path(out)
        self.pictures = pictures
        self._progress = progress
        self._names: set[str] = set()
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} exists and is not an empty folder.", "Give --out another folder.")
        self.out.mkdir(parents=True, exist_ok=True)
        self.begin()

    def begin(self) -> None:  # noqa: B027
        """Prepares the files that cover all clips. Called once, before the first clip."""

    @abstractmethod
    def write(self, clip: LabelledClip) -> None:
        """Writes one clip."""

    def finish(self) -> None:  # noqa: B027
        """Writes the files that cover all clips. Called once, after the last clip, unless there was an error."""

    def add(self, clip: LabelledClip) -> None:
        """Writes one clip, after the checks that all formats share.

        Raises:
            InputError: a clip with this name was already written, or pictures are requested and its video is not open.
        """
        # Some file systems ignore case.
        if clip.name.casefold() in self._names:
            raise InputError(f"Two clips are named {clip.name}.", "Give each clip its own name.")
        if self.pictures and clip.clip is None:
            raise InputError(f"The video of clip {clip.name} is not open.", "Open it, or export without pictures.")
        self._names.add(clip.name.casefold())
        self.write(clip)
        self.advance(clip, clip.frame_count)

    def advance(self, clip: LabelledClip, done: int) -> None:
        """Reports how many frames of a clip have been written."""
        if self._progress is not None:
            self._progress(clip.name, done, clip.frame_count)

    def write_pictures(self, clip: LabelledClip, folder: str, first: int = 0, digits: int = 5) -> list[str]:
        """Writes the frames as JPEG if pictures are requested; returns their paths below `out` in any case.

        Args:
            folder: below `out`, with forward slashes.
            first: number of the first frame in file names.
            digits: number of digits.
        """
        names = [f"{folder}/{first + index:0{digits}d}.jpg" for index in range(clip.frame_count)]
        if self.pictures and clip.clip is not None:
            (self.out / folder).mkdir(parents=True, exist_ok=True)
            for index, rgb in clip.clip.frames():
                Image.fromarray(rgb).save(self.out / names[index], quality=JPEG_QUALITY, subsampling=0)
                self.advance(clip, index)
        return names

    def write_json(self, path: str, data: Any) -> None:
        """Writes a JSON file below `out` atomically."""
        with whole_file(self.out / path) as unfinished:
            unfinished.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")

    def __enter__(self) -> TrackFormat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()


def export(
    clips: Iterable[LabelledClip],
    kind: type[TrackFormat],
    out: str | os.PathLike[str],
    pictures: bool = True,
    progress: Progress | None = None,
) -> int:
    """Writes clips in a format; returns their number.

    Raises:
        InputError: the folder is not empty, or a clip cannot be written.
    """
    count = 0
    with kind(out, pictures, progress) as writer:
        for clip in clips:
            writer.add(clip)
            count += 1
    return count
