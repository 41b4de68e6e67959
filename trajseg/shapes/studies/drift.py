"""Drift: mask quality by position in a long clip, with prompts throughout and from memory alone."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trajseg.engines.trajseg import VideoSegmenter
from trajseg.evaluation.answers import masks_of
from trajseg.evaluation.metrics import mean
from trajseg.model.dialogue import captions_of
from trajseg.model.sampling import Sampling
from trajseg.shapes.dataset import write_scene
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.frames import ALL_KEYS
from trajseg.shapes.studies.plan import SEEDS_APART, Plan
from trajseg.shapes.studies.table import Table
from trajseg.shapes.world.language import instructions, parse_caption
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import Result
from trajseg.tracks.region_similarity import region_similarity

FRAMES = 600
CLIPS = 2
"""Default number per group."""
ASKED = 3
"""Instructions per clip, at most."""
PARTS = 10
WAYS = {
    "every": (Sampling(), "every frame prompted"),
    "all": (Sampling(key_frames=ALL_KEYS), "all key frames, memory between"),
    "first": (Sampling(key_frames=1), "frame 0 alone, then memory"),
}
"""Ways to decode a clip, with headings; "every" only for checkpoints trained for it."""
AGES = ((0, 0), (1, 9), (10, 24), (25, 49), (50, FRAMES))
"""Intervals of frames since the last key frame, inclusive."""
SPLIT: Split = "test"


def drift(plan: Plan, segmenter: VideoSegmenter, cells: Cells) -> list[Table]:
    """J by position in clips of 600 frames, for objects that the model identified correctly."""
    ways = _ways(segmenter)
    groups = [_group(plan, segmenter, cells, seed) for seed in plan.seeds]
    asked = sum(len(group) for group in groups)
    identified = [[one for one in group if one["identified"]] for group in groups]
    notes = (
        f"{sum(map(len, identified))} of {asked} instructions: those whose answer names size, colour and shape of the "
        "target, and of no other object. Each has one target, which is visible in frame 0.",
        "Frames in which neither the truth nor the prediction has a mask do not count.",
    )
    place = Table(
        "drift",
        f"J by position in a clip of {FRAMES} frames",
        "tenth",
        {way: WAYS[way][1] for way in ways},
        drawn=ways,
        unit="J",
        notes=notes,
    )
    size = FRAMES // PARTS
    for part in range(PARTS):
        within = range(part * size, (part + 1) * size)
        place.add(f"{part + 1}", [{way: _mean_j(group, way, within) for way in ways} for group in identified])
    age = Table(
        "drift_age",
        "J by frames since the last key frame, with all key frames and memory between them",
        "frames since",
        {"all": "J"},
        drawn=("all",),
        unit="J",
    )
    for low, high in AGES:
        label = f"{low}" if low == high else f"{low} and more" if high == FRAMES else f"{low} to {high}"
        keys = segmenter.sampling.keys(segmenter.sampling.seen(FRAMES, segmenter.model.config.llm_frames))
        frames = [t for t in range(FRAMES) if low <= t - max(key for key in keys if key <= t) <= high]
        age.add(label, [{"all": _mean_j(group, "all", frames)} for group in identified])
    return [place, age]


def _group(plan: Plan, segmenter: VideoSegmenter, cells: Cells, seed: int) -> list[dict[str, Any]]:
    """Results for the clips of a seed's group; each clip is a cell."""
    found = []
    for number in range(plan.clips or CLIPS):
        scene_seed = SEEDS_APART * seed + number
        settings = plan.settings(split=SPLIT, scene=scene_seed, frames=FRAMES, asked=ASKED)

        def measure(scene_seed: int = scene_seed) -> dict[str, Any]:
            scene = sample_scene(scene_seed, SPLIT, frame_count=FRAMES)
            return {"asked": long_clip(segmenter, scene, plan.height)}

        found += cells.measured(f"drift-clip-{scene_seed}", settings, measure)["asked"]
    return found


def long_clip(segmenter: VideoSegmenter, scene: Scene, height: int) -> list[dict[str, Any]]:
    """Results of a clip's instructions; for identified objects with the J of every frame, in each way.

    J is None if neither the truth nor the prediction has a mask.
    """
    rng = random.Random(scene.seed)
    found = []
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        clip, ids = write_scene(scene, Path(folder) / "long.mp4", height)
        able = [
            one for one in instructions(scene, rng) if len(one.targets) == 1 and (ids[0] == one.targets[0] + 1).any()
        ]
        for asked in rng.sample(able, min(ASKED, len(able))):
            target = asked.targets[0]
            answer = segmenter.answer(clip, asked.text).text
            one = {
                "seed": scene.seed,
                "kind": asked.kind,
                "text": asked.text,
                "answer": answer,
                "identified": identifies(scene, target, answer),
            }
            if one["identified"]:
                for way in _ways(segmenter):
                    drawing = segmenter.sampled(WAYS[way][0])
                    one[way] = _similarities(drawing.segment(clip, asked.text).result(), ids == target + 1)
            found.append(one)
    return found


def _ways(segmenter: VideoSegmenter) -> tuple[str, ...]:
    return tuple(way for way in WAYS if way != "every" or segmenter.model.config.prompt_every_frame)


def identifies(scene: Scene, target: int, answer: str) -> bool:
    """Whether an answer describes the target and no other object (no two objects of a scene look the same)."""
    named = [parse_caption(caption) for caption in captions_of(answer)]
    o = scene.objects[target]
    return [(name["size"], name["colour"], name["shape"]) for name in named] == [(o.size, o.colour, o.shape)]


def _similarities(result: Result, truth: np.ndarray) -> list[float | None]:
    """J of the union of the tracks, by frame."""
    masks = np.any([masks_of(track, truth.shape) for track in result.tracks], axis=0)
    return [
        round(region_similarity(mask, true), 4) if mask.any() or true.any() else None
        for mask, true in zip(masks, truth, strict=True)
    ]


def _mean_j(asked: Sequence[dict[str, Any]], way: str, frames: Sequence[int]) -> float | None:
    """Mean over instructions of their mean J over some frames."""
    return mean(mean(one[way][t] for t in frames) for one in asked)
