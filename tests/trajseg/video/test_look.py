"""Copies of a video are recognised by their pictures, and other videos of the same camera are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import sample_scene
from trajseg.video import open_clip, write_video
from trajseg.video.look import CELLS, MOST_FRAMES, Look

WIDTH, HEIGHT = 160, 96


def scene(seed: int, frames: int = 40, camera: int = 0, size: int = 30) -> list[np.ndarray]:
    """A square of this size moves before the background of a camera."""
    rng = np.random.default_rng(camera)
    blocks = Image.fromarray(rng.integers(30, 220, (6, 10, 3), dtype=np.uint8))
    background = np.asarray(blocks.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    rng = np.random.default_rng(100 + seed)
    (x0, y0), (x1, y1) = rng.integers(0, (WIDTH - size, HEIGHT - size), (2, 2))
    pictures = []
    for time in np.linspace(0, 1, frames):
        picture = background.copy()
        x, y = round(x0 + time * (x1 - x0)), round(y0 + time * (y1 - y0))
        picture[y : y + size, x : x + size] = rng.integers(0, 255, 3) if time == 0 else picture[y, x] ^ 128
        pictures.append(picture)
    return pictures


def look(path: Path, frames: list[np.ndarray], crf: int = 20) -> Look:
    return Look.of(open_clip(write_video(path / "clip.mp4", frames, 25.0, crf=crf)))


def scaled(frames: list[np.ndarray], times: float) -> list[np.ndarray]:
    size = round(WIDTH * times), round(HEIGHT * times)
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames]


class DrawnClip:
    """A clip of these frames, uint8 [T, H, W, 3]."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def frames(self, _indices: None) -> Iterator[tuple[int, np.ndarray]]:
        return enumerate(self.pictures)


@pytest.fixture
def original(tmp_path: Path) -> Look:
    return look(tmp_path, scene(1))


@pytest.mark.parametrize(
    "copied",
    [
        lambda frames: frames,
        lambda frames: scaled(frames, 0.5),
        lambda frames: scaled(frames, 1.5),
        lambda frames: frames[9:],
        lambda frames: frames[:20],
        lambda frames: frames[::2],
        lambda frames: [*scene(5, 30, camera=1), *frames[10:30]],
        lambda frames: [frame[:, ::-1] for frame in frames[5:]],
    ],
    ids=[
        "encoded again",
        "smaller",
        "larger",
        "start cut off",
        "first half",
        "half the rate",
        "in another video",
        "mirrored",
    ],
)
def test_a_copy_is_recognised(original: Look, tmp_path: Path, copied: Any) -> None:
    copy = look(tmp_path, copied(scene(1)), crf=26)
    assert original.shares_frames_with(copy)
    assert copy.shares_frames_with(original)


def test_another_video_of_the_same_camera_is_no_copy(original: Look, tmp_path: Path) -> None:
    for seed in (2, 3):
        assert not original.shares_frames_with(look(tmp_path, scene(seed)))
    assert not original.shares_frames_with(look(tmp_path, scene(1, camera=1)))


def test_clips_of_the_shapes_world_are_no_copies_of_each_other_not_even_mirrored() -> None:
    """Their backgrounds are plain and alike, so this is the hard case."""
    scenes = [sample_scene(seed, "val") for seed in range(16)]
    looks = [Look.of(DrawnClip(render(each, 48, list(range(0, each.frame_count, 4)))[0])) for each in scenes]  # type: ignore[arg-type]
    assert not any(one.shares_frames_with(other) for one, other in combinations(looks, 2))


def test_videos_in_which_hardly_anything_moves_are_not_called_copies(tmp_path: Path) -> None:
    """Otherwise no video of a camera that sees tiny objects could be held out."""
    one, other = (look(tmp_path, scene(seed, size=1)) for seed in (1, 2))
    assert not one.shares_frames_with(other)
    assert not one.shares_frames_with(one)


def test_a_look_has_at_most_so_many_frames(tmp_path: Path) -> None:
    assert look(tmp_path, scene(1, 2)).pictures.shape == (2, CELLS, CELLS)

    class LongClip:
        """A clip of ten thousand frames, of which no more are decoded than are needed."""

        def __len__(self) -> int:
            return 10_000

        def frames(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
            return ((index, np.zeros((8, 8, 3), np.uint8)) for index in indices)

    assert len(Look.of(LongClip()).pictures) == MOST_FRAMES  # type: ignore[arg-type]
