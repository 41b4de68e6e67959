"""Videos for a project: local files and links, made playable, with first pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backend.addresses import has_scheme, is_link, is_own_path, shown_address, split
from backend.fetch import FetchPolicy, fetched
from backend.label_studio.client import LabelStudioClient
from trajseg.files import printable
from trajseg.pictures.frame_number import numbered
from trajseg.video import Clip, open_clip, playable_copy, save_frame
from trajseg.video.spacing import end_to_end

FIRST_FRAMES = 12
"""Pictures that a task starts with, evenly spaced; the first prediction replaces them."""

UPLOADABLE = (".mp4", ".webm")
"""File suffixes of videos that Label Studio accepts."""

LONGEST_STEM_BYTES = 100
"""Longest file stem in bytes; file systems allow 255 bytes in all, Label Studio's database 100 characters."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Placed:
    """A video in a project.

    Attributes:
        address: what goes into task data as `video`.
        fps: frames per second for the editor; None if the video could not be opened.
        frames: addresses of the first pictures; none in the box view.
        frame_index: their 0-based frame indices.
    """

    address: str
    fps: float | None
    frames: tuple[str, ...] = ()
    frame_index: tuple[int, ...] = ()


def is_opaque(video: str, label_studio_url: str = "") -> bool:
    """Whether only Label Studio can read this: a cloud bucket, an upload, or one of its storages."""
    if has_scheme(video):
        return not is_link(video) and not _is_file_url(video)
    # A local file may lie in a folder of that name.
    return is_own_path(video, label_studio_url) and not Path(video).exists()


@contextmanager
def local_file(video: str, max_bytes: int) -> Iterator[Path]:
    """The operator's video as a local file while the context lasts; a link is downloaded.

    The link's own host is trusted, since no annotator wrote it; hosts that it redirects to are not.

    Raises VideoError if the file is missing or the link is not a video.
    """
    if not is_link(video):
        yield Path(unquote(urlsplit(video).path)) if _is_file_url(video) else Path(video)
        return
    policy = FetchPolicy(max_bytes=max_bytes).naming(video)
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder, fetched(video, Path(folder), policy) as path:
        # Uploads are named after the file.
        name = Path(unquote(split(video).path)).name
        named = Path(folder) / f"{file_stem(Path(name).stem) or 'video'}{Path(name).suffix[:8]}"
        named.symlink_to(path)
        yield named


def file_stem(name: str) -> str:
    """A name shortened enough to be part of another file's name and to fit Label Studio's limit."""
    return printable(name).replace("\0", "_").encode()[:LONGEST_STEM_BYTES].decode(errors="ignore")


def check(video: str, max_bytes: int, label_studio_url: str = "") -> None:
    """Raises VideoError if a video cannot be used, before anything is created in Label Studio."""
    if not is_opaque(video, label_studio_url) and not is_link(video):
        with local_file(video, max_bytes) as path:
            open_clip(path)


def place(
    client: LabelStudioClient, project_id: int, video: str, pictures: bool, max_bytes: int, say: Say, numbers: bool
) -> Placed:
    """Uploads or links one video, and uploads pictures of it where the view needs them.

    A link stays a link, a local file is uploaded. What browsers cannot play is uploaded as an H.264 copy;
    `say` gets a line.

    Args:
        numbers: whether the pictures say which frame they are, as key frames do.

    Raises VideoError or LabelStudioError.
    """
    shown = printable(shown_address(video))
    if is_opaque(video, client.url):
        say(f"{shown}: added as it is; frame rate and pictures come with the first prediction.")
        return Placed(video, None)
    with local_file(video, max_bytes) as path, tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        clip = open_clip(path)
        for note in clip.notes:
            say(f"{shown}: {note}")
        address = video if is_link(video) else ""
        if not clip.browser_playable or path.suffix.lower() not in UPLOADABLE:
            problem = clip.playback_problem or f"do not play {path.suffix or 'a file without a suffix'}"
            say(f"{shown}: browsers {problem}; uploading a copy.")
            path = playable_copy(clip, Path(folder) / f"{file_stem(path.stem)}.mp4")
            clip, address = open_clip(path), ""
        if not clip.constant_rate:
            say(f"{shown}: variable frame rate; frames are matched by their times.")
        address = address or client.upload(project_id, path)
        frames: list[str] = []
        indices: list[int] = []
        if pictures:
            frames, indices = _first_pictures(client, project_id, clip, Path(folder), numbers)
        return Placed(address, round(clip.frame_map.fps, 6), tuple(frames), tuple(indices))


def _first_pictures(
    client: LabelStudioClient, project_id: int, clip: Clip, folder: Path, numbers: bool
) -> tuple[list[str], list[int]]:
    indices = end_to_end(len(clip), FIRST_FRAMES)
    frames = []
    for index, rgb in clip.frames(indices):
        if numbers:
            rgb = numbered(rgb, clip.frame_map.editor_frame(index))
        picture = save_frame(folder / f"{file_stem(clip.path.stem)}-{index:06d}.jpg", rgb, 90)
        frames.append(client.upload(project_id, picture))
    return frames, indices


def _is_file_url(video: str) -> bool:
    return video.lower().startswith("file://")
