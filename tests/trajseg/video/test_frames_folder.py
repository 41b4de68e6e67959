"""A folder of pictures is a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trajseg.errors import VideoError
from trajseg.video import open_clip, open_frames_folder


def write(folder: Path, *names: str, size: tuple[int, int] = (32, 24)) -> None:
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        Image.new("RGB", size, (20 * level, 0, 0)).save(folder / name)


def test_frames_come_in_natural_order(tmp_path: Path) -> None:
    write(tmp_path / "clip", "f-9.png", "f-10.png", "f-100.png")
    (tmp_path / "clip" / "notes.txt").write_text("not a frame")
    clip = open_clip(tmp_path / "clip")
    assert (len(clip), clip.width, clip.height, clip.fps) == (3, 32, 24, 25.0)
    assert [(i, int(frame[0, 0, 0])) for i, frame in clip.frames()] == [(0, 0), (1, 20), (2, 40)]
    assert [i for i, _ in clip.frames([2, 0])] == [0, 2]
    assert not clip.browser_playable


def test_frames_can_be_named_and_timed(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    clip = open_frames_folder(tmp_path, fps=6.0, names=["c", "a"])
    assert clip.frame_map.times == (0.0, 1 / 6)
    assert [int(frame[0, 0, 0]) for _, frame in clip.frames()] == [40, 0]


def test_a_picture_is_turned_as_it_says(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((24, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    clip = open_clip(tmp_path)
    assert (clip.width, clip.height) == (24, 32)
    assert next(clip.frames())[1].shape == (32, 24, 3)


def test_errors_name_the_file(tmp_path: Path) -> None:
    write(tmp_path / "sizes", "a.png")
    Image.new("RGB", (30, 24)).save(tmp_path / "sizes" / "b.png")
    with pytest.raises(VideoError, match=r"b\.png has 30 x 24"):
        open_clip(tmp_path / "sizes")
    write(tmp_path / "cut", "a.jpg", size=(320, 240))
    whole = (tmp_path / "cut" / "a.jpg").read_bytes()
    (tmp_path / "cut" / "a.jpg").write_bytes(whole[: len(whole) - 300])
    with pytest.raises(VideoError, match=r"a\.jpg cannot be decoded"):
        list(open_clip(tmp_path / "cut").frames())
    with pytest.raises(VideoError, match="lacks 1 of 2 frames, first 'z'"):
        open_frames_folder(tmp_path / "sizes", names=["a", "z"])
    with pytest.raises(VideoError, match="There is no folder"):
        open_frames_folder(tmp_path / "nowhere")
