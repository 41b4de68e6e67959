"""Facts about the sampled frames of a scene, which decide whether an instruction is true."""

from __future__ import annotations

import numpy as np

from trajseg.shapes.world.render import boxes
from trajseg.shapes.world.scenes import Scene, bin_centres

SEEN = 0.25
"""Visible fraction from which an object counts as seen in a frame."""


class Facts:
    """Facts about a scene from 8 frames. An uncertain fact is None, and no instruction depends on it.

    Attributes:
        visible: float32 [K, 8], visible fraction in the sampled frames.
        at: float32 [K, 8, 2], the centre of the part inside the picture (of the whole object if no part is).
        seen_count: for each object, in how many of the 8 frames it is seen.
        first_seen, last_seen: bins 0..7; 8 and -1 if never.
        first_inside, last_inside: likewise, bins in which any part of it is inside the picture, hidden or not.
        enters, leaves: True, False or None for each object.
        behind: [K][K], whether the first passes behind the second.
        path: path length of each object over the whole clip, in frame heights.
        moves_visibly: whether the object's motion is visible in the sampled frames.
    """

    def __init__(self, scene: Scene) -> None:
        index = bin_centres(scene.frame_count)
        self.scene = scene
        self.xyxy, self.visible = boxes(scene, index)
        centres = scene.positions()[:, index]
        inside = (self.xyxy[..., 2] > self.xyxy[..., 0]) & (self.xyxy[..., 3] > self.xyxy[..., 1])
        self.at = np.where(inside[..., None], (self.xyxy[..., :2] + self.xyxy[..., 2:]) / 2, centres)
        seen = self.visible >= SEEN
        self.seen_count: list[int] = seen.sum(axis=1).tolist()
        self.first_seen, self.last_seen = _ends(seen)
        self.first_inside, self.last_inside = _ends(inside)
        absent = ~inside
        self.enters = [self._absent_at_edge(k, self.visible, absent) for k in range(len(scene.objects))]
        self.leaves = [
            self._absent_at_edge(k, self.visible[:, ::-1], absent[:, ::-1]) for k in range(len(scene.objects))
        ]
        steps = np.linalg.norm(np.diff(np.stack([o.centres for o in scene.objects]), axis=1), axis=-1)
        self.path: list[float] = steps.sum(axis=1).tolist()
        self.behind = self._passings(centres)
        self.moves_visibly = [self._motion_shows(k) for k in range(len(scene.objects))]

    def _absent_at_edge(self, k: int, visible: np.ndarray, absent: np.ndarray) -> bool | None:
        """Whether object k is absent from (at least) the first two sampled frames."""
        if visible[k, 0] >= 0.4 and visible[k, 1] >= SEEN:
            return False
        if absent[k, 0] and absent[k, 1] and self.seen_count[k] >= 3:
            return True
        return None

    def _passings(self, sampled: np.ndarray) -> list[list[bool | None]]:
        objects = self.scene.objects
        radii = np.array([o.radius for o in objects])
        gap = np.linalg.norm(sampled[:, None] - sampled[None], axis=-1)
        near = gap < 1.05 * (radii[:, None] + radii[None])[..., None]
        centres = np.stack([o.centres for o in objects])
        whole_gap = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        ever_near = (whole_gap < 1.1 * (radii[:, None] + radii[None])[..., None]).any(axis=-1)
        result: list[list[bool | None]] = [[False] * len(objects) for _ in objects]
        for k, o in enumerate(objects):
            in_front = [j for j, other in enumerate(objects) if j != k and other.depth > o.depth]
            for j in in_front:
                if not ever_near[k, j]:
                    continue
                hidden = near[k, j] & (self.visible[k] < 0.6)
                clear = self.visible[k] >= 0.75
                alone = not any(near[k, i].any() for i in in_front if i != j)
                moving = o.motion != "still"
                both_sides = clear[: hidden.argmax()].any() and clear[7 - hidden[::-1].argmax() :].any()
                shown = hidden.sum() >= 2 and clear.sum() >= 2 and both_sides
                result[k][j] = True if shown and alone and moving else None
        return result

    def _motion_shows(self, k: int) -> bool:
        o = self.scene.objects[k]
        if self.seen_count[k] < 3:
            return False
        if o.motion in ("circling", "bouncing"):
            return self.seen_count[k] >= 6
        if o.motion == "still":
            return True
        moved = self.at[k, self.last_seen[k]] - self.at[k, self.first_seen[k]]
        return bool(np.abs(moved).max() >= 0.13)


def _ends(true: np.ndarray) -> tuple[list[int], list[int]]:
    """First and last True of each row of bool [K, 8]; 8 and -1 for rows without any."""
    ever = true.any(axis=1)
    first = np.where(ever, true.argmax(axis=1), 8)
    last = np.where(ever, 7 - true[:, ::-1].argmax(axis=1), -1)
    return first.tolist(), last.tolist()
