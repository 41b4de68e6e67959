"""Clips built for one case each, and a fake detector that knows their objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trajseg.engines.grounded.detector import Detection
from trajseg.shapes.world.render import frames_and_ids
from trajseg.shapes.world.scenes import RGB, Look, Scene, SceneObject
from trajseg.video import Clip, open_clip, write_video

HEIGHT, FRAMES = 120, 24
LOOK = Look("gradient", ((70, 70, 80), (100, 100, 110)), 0.3, 0.0, 0.0, None, 1)


def moving(
    colour: str,
    shape: str,
    start: tuple[float, float],
    end: tuple[float, float],
    depth: int = 0,
    first: int = 0,
    last: int = FRAMES - 1,
    radius: float = 0.15,
) -> SceneObject:
    """An object that moves linearly from `start` to `end`, in units of the frame's height."""
    share = np.linspace(0, 1, FRAMES)[:, None]
    centres = (np.array(start) * (1 - share) + np.array(end) * share).astype(np.float32)
    return SceneObject(
        colour, shape, "large", False, "right", "slow", radius, centres, 0.1, depth, first, last, RGB[colour], 0
    )


def write(path: Path, objects: Sequence[SceneObject]) -> tuple[Clip, np.ndarray]:
    """A clip of 24 frames, 160 x 120 pixels, 12 fps, and ids uint8 [N, H, W] of the visible objects."""
    drift = np.zeros((FRAMES, 2), np.float32)
    scene = Scene(0, "train", 4 / 3, 12.0, FRAMES, list(objects), LOOK, drift)
    pairs = list(frames_and_ids(scene, HEIGHT, range(FRAMES)))
    write_video(path, (frame for frame, _ in pairs), 12.0, crf=12)
    return open_clip(path), np.stack([ids for _, ids in pairs])


class FakeDetector:
    """A fake: detects the visible boxes of a clip's objects, whatever the phrase.

    Args:
        ids: as returned by `write`.
        step: frames between two detections.
        blind: 0-based numbers of detections at which it finds nothing.
    """

    def __init__(self, ids: np.ndarray, step: int, blind: Sequence[int] = ()) -> None:
        self.ids, self.step, self.blind, self.looks = ids, step, blind, 0

    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        plane = self.ids[self.looks * self.step]
        blind = self.looks in self.blind
        self.looks += 1
        return [[] if blind else [detection for k in range(1, 9) if (detection := _seen(plane == k, phrases[0]))]]


def _seen(mask: np.ndarray, phrase: str) -> Detection | None:
    if np.count_nonzero(mask) < 30:
        return None
    rows, columns = np.nonzero(mask)
    box = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
    return Detection(box, 0.8, phrase)
