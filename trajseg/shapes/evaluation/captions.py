"""Evaluation of captions: an engine captions true tracks, and is scored by word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import parse_caption
from trajseg.shapes.world.scenes import Scene, SceneObject
from trajseg.tracks import MaskTrack

if TYPE_CHECKING:
    from trajseg.engines.base import Captioner
    from trajseg.video import Clip

PARTS = ("size", "colour", "shape", "motion")


@dataclass(frozen=True)
class ObjectCaption:
    """An engine's caption of one object, given its true track.

    Args:
        seed: of the scene.
        target: index into Scene.objects.
        truth: its size, colour, shape and motion.
        said: the engine's sentence.
        seconds: time for this caption: the clip's time divided by its number of objects.
    """

    seed: int
    target: int
    truth: dict[str, str]
    said: str
    seconds: float

    @property
    def right(self) -> dict[str, bool]:
        """Whether the sentence is right, by part."""
        named = parse_caption(self.said)
        return {part: named[part] == self.truth[part] for part in PARTS}

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "target": self.target,
            "truth": self.truth,
            "said": self.said,
            "right": self.right,
            "seconds": self.seconds,
        }


def describe(engine: Captioner, scene: Scene, clip: Clip, ids: np.ndarray) -> list[ObjectCaption]:
    """Captions of the scene's objects, given their true tracks, `ids` uint8 [N, H, W].

    Objects whose motion is not visible in the 8 frames at the centres of equal bins are left out, because their true
    caption is uncertain.
    """
    facts = Facts(scene)
    targets = [k for k, shows in enumerate(facts.moves_visibly) if shows]
    tracks = [
        MaskTrack.from_masks(f"t{k}", list(ids == k + 1), clip.frame_map.times, [1.0] * len(clip)) for k in targets
    ]
    start = time.perf_counter()
    captions = engine.caption(clip, tracks)
    seconds = (time.perf_counter() - start) / max(1, len(targets))
    return [
        ObjectCaption(scene.seed, k, words_of(scene.objects[k]), said, seconds)
        for k, said in zip(targets, captions, strict=True)
    ]


def words_of(thing: SceneObject) -> dict[str, str]:
    """Facts that a caption must name, by part."""
    return {part: getattr(thing, part) for part in PARTS}


def caption_figures(described: Sequence[ObjectCaption]) -> dict[str, float] | None:
    """Number of objects, and the fractions with all parts right and with each part right; None without objects."""
    if not described:
        return None
    count = len(described)
    return {
        "objects": count,
        "right": sum(all(one.right.values()) for one in described) / count,
        **{part: sum(one.right[part] for one in described) / count for part in PARTS},
        "seconds": sum(one.seconds for one in described) / count,
    }
