"""Box tracks as VideoRectangle key frames, and back.

Frames are Label Studio's, 1-based; boxes are percent of the picture's width and height, from its top left.
Label Studio draws straight lines between key frames. A key frame with `enabled: false` is still drawn on its
own frame; after it the box is hidden until the next key frame that is enabled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.5
"""Largest error between key frames: how far an interpolated box may be off, in percent of the picture's side."""

FARTHEST = 10_000.0
"""Largest value of a box in an annotation, in percent of the picture's side."""

Box = tuple[float, float, float, float]
"""x, y, width, height."""


def to_sequence(
    boxes: Mapping[int, Box], last_frame: int, fps: float, fixed: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Key frames such that every box Label Studio interpolates is within TOLERANCE of the given one.

    Args:
        boxes: percent box by editor frame (1-based); frames without a box are absent.
        last_frame: the clip's last editor frame.
        fps: the frame rate that the editor uses.
        fixed: editor frames that must be key frames.
    """
    sequence: list[dict[str, Any]] = []
    for run in _runs(sorted(boxes)):
        values_FC = np.array([boxes[frame] for frame in run], np.float64)
        needed = [position for position, frame in enumerate(run) if frame in fixed]
        for position in _kept(np.array(run, np.float64), values_FC, needed):
            frame = run[position]
            ends = position == len(run) - 1 and frame < last_frame
            sequence.append(_key_frame(frame, values_FC[position], not ends, fps))
    return sequence


def from_sequence(sequence: Sequence[Mapping[str, Any]], last_frame: int) -> dict[int, Box]:
    """The box that Label Studio draws on each editor frame (1-based) from 1 to `last_frame`."""
    keys = sorted(sequence, key=lambda key: int(key["frame"]))
    # Also false for what is not a number.
    if not (np.abs([_values(key) for key in keys]) <= FARTHEST).all():
        raise ValueError("a box is far outside the picture")
    boxes: dict[int, Box] = {}
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        start, here = int(key["frame"]), _values(key)
        if following is None or not key.get("enabled", True):
            end = last_frame if following is None and key.get("enabled", True) else start
            # An annotation may name any frame; only frames of the clip are drawn.
            boxes |= dict.fromkeys(range(max(start, 1), min(end, last_frame) + 1), here)
            continue
        end, there = int(following["frame"]), _values(following)
        for frame in range(max(start, 1), min(end, last_frame + 1)):
            share = (frame - start) / (end - start)
            boxes[frame] = _box(np.asarray(here) * (1 - share) + np.asarray(there) * share)
    return boxes


def _key_frame(frame: int, values: NDArray[np.float64], enabled: bool, fps: float) -> dict[str, Any]:
    x, y, width, height = (round(float(value), 4) for value in values)
    return {
        "frame": frame,
        "time": round(frame / fps, 6),
        "enabled": enabled,
        "rotation": 0,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
    }


def _runs(frames: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _kept(frames_F: NDArray[np.float64], values_FC: NDArray[np.float64], needed: Collection[int] = ()) -> list[int]:
    """Positions to keep so that straight lines between them stay within TOLERANCE (Douglas and Peucker)."""
    kept = {0, len(frames_F) - 1, *needed}
    spans = list(pairwise(sorted(kept)))
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        inside = slice(start + 1, end)
        share_F1 = ((frames_F[inside] - frames_F[start]) / (frames_F[end] - frames_F[start]))[:, None]
        line_FC = values_FC[start] * (1 - share_F1) + values_FC[end] * share_F1
        errors_F = np.abs(values_FC[inside] - line_FC).max(axis=1)
        worst = int(errors_F.argmax())
        if errors_F[worst] > TOLERANCE:
            middle = start + 1 + worst
            kept.add(middle)
            spans += [(start, middle), (middle, end)]
    return sorted(kept)


def _values(key: Mapping[str, Any]) -> Box:
    return float(key["x"]), float(key["y"]), float(key["width"]), float(key["height"])


def _box(values: NDArray[np.float64]) -> Box:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height
