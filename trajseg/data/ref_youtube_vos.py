"""Ref-YouTube-VOS, and data sets in its layout, such as converted Ref-DAVIS 2017.

    ROOT/SPLIT/JPEGImages/VIDEO/FRAME.jpg
    ROOT/SPLIT/Annotations/VIDEO/FRAME.png             palette pictures: 0 background, n object n
    ROOT/meta_expressions/SPLIT/meta_expressions.json  frames and expressions of each video
    ROOT/SPLIT/meta.json                               categories of objects; optional

Frames are every fifth at 30 a second, so 6 a second. Frames without a PNG are not scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset, Expression
from trajseg.data.registry import DatasetOptions
from trajseg.errors import InputError
from trajseg.tracks import Rle, rle
from trajseg.video import open_frames_folder

FPS = 6.0


def open_ref_youtube_vos(argument: str, options: DatasetOptions) -> RefYoutubeVos:
    """The data set of "ref-youtube-vos:ROOT/SPLIT"."""
    data = f"ref-youtube-vos:{argument}"
    options.refuse(data, "seed", "height", "per_kind")
    if not argument:
        raise InputError("ref-youtube-vos needs the folder of a split.", "Give ref-youtube-vos:ROOT/valid.")
    return RefYoutubeVos(Path(argument), options.count)


class RefYoutubeVos(Dataset):
    """One split, videos in the order of their names.

    Args:
        folder: ROOT/SPLIT.
        count: maximum number of videos; None: all.

    Raises:
        InputError: the list of expressions is missing or malformed.
    """

    def __init__(self, folder: Path, count: int | None = None) -> None:
        self.folder = folder
        self._listed = folder.parent / "meta_expressions" / folder.name / "meta_expressions.json"
        videos = _videos(self._listed)
        self._videos = dict(sorted(videos.items())[:count])
        self._names = list(self._videos)

    @property
    def name(self) -> str:
        return f"ref-youtube-vos:{self.folder}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> AnnotatedClip:
        if not 0 <= number < len(self):
            raise IndexError(f"clip {number} of a data set of {len(self)}")
        video = self._names[number]
        entry = self._videos[video]
        try:
            frames = [str(frame) for frame in entry["frames"]]
            said = [(str(each["exp"]), str(each["obj_id"])) for _, each in sorted(entry["expressions"].items())]
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"The video {video} of {self._listed} lacks {error}.",
                'Each needs "frames", and "expressions" with "exp" and "obj_id". Test splits are published without '
                "object ids and cannot be scored here.",
            ) from error
        clip = open_frames_folder(self._inside("JPEGImages", video), FPS, frames)
        files = {
            index: file
            for index, frame in enumerate(frames)
            if (file := self._inside("Annotations", video) / f"{Path(frame).name}.png").is_file()
        }
        if not files:
            raise InputError(
                f"{self.folder / 'Annotations' / video} holds no masks of the video's frames.",
                "Unpack the annotations of this split; those of test splits are not published.",
            )
        uids = sorted({uid for _, uid in said}, key=lambda uid: (len(uid), uid))
        categories = self._categories.get(video, {})
        first_said = {uid: text for text, uid in reversed(said)}
        objects = tuple(
            AnnotatedObject(uid, PaletteMasks(files, _number(uid, video)), first_said[uid], categories.get(uid, ""))
            for uid in uids
        )
        expressions = tuple(Expression(text, (uid,)) for text, uid in said)
        annotated = None if len(files) == len(frames) else tuple(files)
        return AnnotatedClip(video, clip, objects, expressions, annotated)

    def _inside(self, part: str, video: str) -> Path:
        """The folder of a video; a name in the list must not point outside the data set."""
        base = self.folder / part
        if not (base / video).resolve().is_relative_to(base.resolve()):
            raise InputError(f"{self._listed} names the video {video!r}, outside of {base}.", "Fix the list.")
        return base / video

    @cached_property
    def _categories(self) -> dict[str, dict[str, str]]:
        meta = self.folder / "meta.json"
        if not meta.is_file():
            return {}
        return {
            video: {uid: str(thing.get("category", "")) for uid, thing in entry.get("objects", {}).items()}
            for video, entry in _videos(meta).items()
        }


class PaletteMasks(Mapping[int, Rle]):
    """Masks of one object, read from palette pictures on first use.

    Args:
        files: by 0-based frame.
        number: of the object in the pictures, 1 or more.
    """

    def __init__(self, files: Mapping[int, Path], number: int) -> None:
        self.files, self.number = files, number

    def __getitem__(self, frame: int) -> Rle:
        mask = _indices(self.files[frame]) == self.number
        if not mask.any():
            raise KeyError(frame)
        return rle.encode(mask)

    def __iter__(self) -> Iterator[int]:
        return (frame for frame in self.files if (_indices(self.files[frame]) == self.number).any())

    def __len__(self) -> int:
        return sum(1 for _ in self)


@lru_cache(maxsize=64)
def _indices(file: Path) -> np.ndarray:
    """Palette indices of a PNG, uint8 [H, W]; cached, so that the objects of a frame share one read."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L"):
                raise InputError(f"{file} is a picture of mode {image.mode}.", "Annotations are palette PNGs.")
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"The annotation {file} cannot be read ({error}).", "Unpack it again.") from error


def _videos(path: Path) -> dict[str, Any]:
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}).",
            "Give ref-youtube-vos:ROOT/SPLIT, where ROOT holds meta_expressions/SPLIT/meta_expressions.json.",
        ) from error
    if not isinstance(videos, dict):
        raise InputError(f'"videos" of {path} is not an object.', "Unpack the file again.")
    return videos


def _number(uid: str, video: str) -> int:
    if not uid.isdigit() or int(uid) < 1:
        raise InputError(f"The video {video} has the object id {uid!r}.", "Object ids are numbers from 1.")
    return int(uid)
