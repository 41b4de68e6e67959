"""Videos on their way into a project: local files and links, made playable, with pictures to begin with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from backend.label_studio.client import LabelStudioClient, write_stream
from trajseg.errors import VideoError
from trajseg.video import Clip, open_clip, playable_copy, save_frame

FIRST_FRAMES = 12
"""Pictures that a task starts with, evenly spread; the first prediction brings the key frames."""

UPLOADABLE = (".mp4", ".webm")
"""Suffixes of videos that Label Studio takes."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Placed:
    """A video in a project.

    Attributes:
        address: what goes into task data as `video`.
        fps: frames per second to tell the editor; None where the video could not be looked at.
        frames: addresses of the first pictures; none in the box view.
        frame_index: their 0-based frame indices.
    """

    address: str
    fps: float | None
    frames: tuple[str, ...] = ()
    frame_index: tuple[int, ...] = ()


def is_link(video: str) -> bool:
    """Whether this is an http(s) address."""
    return urlsplit(video).scheme in ("http", "https")


def is_opaque(video: str) -> bool:
    """Whether only Label Studio knows how to read this: a cloud bucket, or one of its own storages."""
    return video.startswith("/data/") or (urlsplit(video).scheme not in ("", "http", "https", "file"))


@contextmanager
def local_file(video: str, max_bytes: int) -> Iterator[Path]:
    """The video as a local file for as long as the context lasts; a link is downloaded.

    Raises VideoError when it is not there, or a link does not lead to it.
    """
    if not is_link(video):
        yield Path(video)
        return
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        path = Path(folder) / (Path(urlsplit(video).path).name or "video")
        try:
            with httpx.stream("GET", video, follow_redirects=True, timeout=60) as answer:
                answer.raise_for_status()
                write_stream(answer, path, max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise VideoError(f"The video at {video} cannot be read: {error}.", "Check the link.") from error
        yield path


def check(video: str, max_bytes: int) -> None:
    """Raises VideoError when a video cannot be used, before anything is made in Label Studio."""
    if not is_opaque(video) and not is_link(video):
        with local_file(video, max_bytes) as path:
            open_clip(path)


def place(client: LabelStudioClient, project_id: int, video: str, pictures: bool, max_bytes: int, say: Say) -> Placed:
    """Uploads or links one video, and uploads pictures of it where the view needs them.

    A link stays a link, a local file is uploaded. What browsers cannot play is uploaded as an H.264 copy;
    `say` is told so. Raises VideoError or LabelStudioError.
    """
    if is_opaque(video):
        say(f"{video}: left as it is; frame rate and pictures come with the first prediction.")
        return Placed(video, None)
    with local_file(video, max_bytes) as path, tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        clip = open_clip(path)
        for note in clip.notes:
            say(f"{video}: {note}")
        address = video if is_link(video) else ""
        if not clip.browser_playable or path.suffix.lower() not in UPLOADABLE:
            say(f"{video}: browsers cannot play {clip.codec} in {path.suffix or 'this form'}; a copy is made.")
            path = playable_copy(clip, Path(folder) / f"{path.stem}.mp4")
            clip, address = open_clip(path), ""
        if not clip.constant_rate:
            say(f"{video}: its frame rate varies; frames are matched by their times.")
        address = address or client.upload(project_id, path)
        frames, indices = _first_pictures(client, project_id, clip, Path(folder)) if pictures else ([], [])
        return Placed(address, round(clip.frame_map.fps, 6), tuple(frames), tuple(indices))


def _first_pictures(
    client: LabelStudioClient, project_id: int, clip: Clip, folder: Path
) -> tuple[list[str], list[int]]:
    last = len(clip) - 1
    count = min(FIRST_FRAMES, len(clip))
    indices = sorted({round(number * last / max(count - 1, 1)) for number in range(count)})
    frames = []
    for index, rgb in clip.frames(indices):
        picture = save_frame(folder / f"{clip.path.stem}-{index:06d}.jpg", rgb, 90)
        frames.append(client.upload(project_id, picture))
    return frames, indices
