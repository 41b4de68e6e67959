"""The shapes world as a source of samples for joint training, rendered on the fly or read from mp4 files."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from trajseg.data.samples import Direction, Sample, boxes_of, near_and_far
from trajseg.data.sentences import REQUEST, grounding_answer
from trajseg.errors import InputError
from trajseg.shapes.dataset import SPLITS
from trajseg.shapes.world.facts import SEEN, Facts
from trajseg.shapes.world.language import (
    REQUEST_SEGMENT_TEMPLATES,
    Instruction,
    caption_requests,
    instructions,
    short_caption,
)
from trajseg.shapes.world.render import boxes, render
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.video import even_size, open_clip
from trajseg.video.spacing import sampled_frames

TURNED = 0.6
"""Fraction of the scenes of "shapes:turned" with rotated objects."""


@dataclass(frozen=True)
class ShapesSamples:
    """Clips of the shapes world with true instructions and captions.

    Args:
        split: of the scenes and of the wording.
        size: longer side of rendered frames, in pixels.
        folder: clips written by `trajseg data shapes --write`; frames are read from these files, including codec
            artefacts. None renders endless scenes.
        turned: fraction of rendered scenes with objects rotated by any angle; the others are upright, or nearly so.
    """

    split: Split = "train"
    size: int = 256
    folder: Path | None = None
    turned: float = 0.0

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """A sample with frames at the centres of equal bins, as at inference; its sentences are true for these.

        Mask propagation uses frames near to and far from each other (paper, frame sampling).
        """
        while True:
            scene, path = self._scene(rng)
            facts = Facts(scene)
            if direction == "grounding":
                found = instructions(scene, rng, limit_per_kind=3, facts=facts)
                if found:
                    times = sampled_frames(scene.frame_count, frames)
                    return self._grounding(scene, self._draw(scene, path, times), rng.choice(found), rng)
                continue
            if direction == "captioning":
                times = sampled_frames(scene.frame_count, frames)
                able = [k for k, count in enumerate(facts.seen_count) if count >= 2 and facts.moves_visibly[k]]
            else:
                times = near_and_far(scene.frame_count, frames, rng)
                shown = boxes(scene, times)[1] >= SEEN
                able = np.flatnonzero(shown.sum(axis=1) >= 2).tolist()
            if able:
                return self._of_one(
                    scene, self._draw(scene, path, times), rng.choice(able), direction, rng, still=False
                )

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Samples of one scene over the same frames; see trajseg.data.samples.ClipSource."""
        while True:
            scene, path = self._scene(rng)
            facts = Facts(scene)
            found = instructions(scene, rng, limit_per_kind=3, facts=facts)
            able = [k for k, count in enumerate(facts.seen_count) if count >= 2 and facts.moves_visibly[k]]
            if not found or not able:
                continue
            drawn = self._draw(scene, path, sampled_frames(scene.frame_count, frames))
            return [
                self._grounding(scene, drawn, rng.choice(found), rng)
                if direction == "grounding"
                else self._of_one(scene, drawn, rng.choice(able), direction, rng, still=False)
                for direction in directions
            ]

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """One frame of a scene, with sentences about appearance, not motion."""
        while True:
            scene, path = self._scene(rng)
            times = [rng.randrange(scene.frame_count)]
            shown = boxes(scene, times)[1][:, 0] >= SEEN
            if direction != "grounding":
                if shown.any():
                    k = rng.choice(np.flatnonzero(shown).tolist())
                    return self._of_one(scene, self._draw(scene, path, times), k, direction, rng, still=True)
                continue
            found = [asked for asked in instructions(scene, rng, limit_per_kind=3) if asked.kind == "attribute"]
            found = [asked for asked in found if all(shown[k] for k in asked.targets)]
            if found:
                return self._grounding(scene, self._draw(scene, path, times), rng.choice(found), rng, still=True)

    def _grounding(
        self,
        scene: Scene,
        drawn: tuple[np.ndarray, np.ndarray],
        asked: Instruction,
        rng: random.Random,
        still: bool = False,
    ) -> Sample:
        frames, ids = drawn
        masks = np.array([ids == k + 1 for k in asked.targets], bool).reshape(-1, *ids.shape)
        answer = grounding_answer([_caption(scene, k, still) for k in asked.targets])
        template = REQUEST if rng.random() < 0.5 else rng.choice(REQUEST_SEGMENT_TEMPLATES)
        return Sample("grounding", frames, asked.text, answer, masks, template=template, objects=ids)

    def _of_one(
        self,
        scene: Scene,
        drawn: tuple[np.ndarray, np.ndarray],
        k: int,
        direction: Direction,
        rng: random.Random,
        still: bool,
    ) -> Sample:
        frames, ids = drawn
        masks = (ids == k + 1)[None]
        answer = grounding_answer([_caption(scene, k, still)])
        request = rng.choice(caption_requests(self.split))
        return Sample(direction, frames, request, answer, masks, boxes_of(masks[0]), objects=ids)

    def _scene(self, rng: random.Random) -> tuple[Scene, Path | None]:
        if self.folder is None:
            scene = sample_scene(rng.getrandbits(40), self.split)
            return _turned(scene, rng) if rng.random() < self.turned else scene, None
        path = rng.choice(self._clips)
        split, seed = path.stem.rsplit("-", 1)
        return sample_scene(int(seed), split), path  # type: ignore[arg-type]

    def _draw(self, scene: Scene, path: Path | None, times: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 [T, H, W, 3] and ids uint8 [T, H, W]."""
        if path is None:
            return render(scene, round(self.size / max(1.0, scene.aspect)), times)
        clip = open_clip(path)
        _, ids = render(scene, clip.height, times)
        frames = dict(clip.frames(sorted(set(times))))
        # H.264 needs even sides: odd ones are padded by one pixel.
        return np.stack([frames[t] for t in times]), np.stack([even_size(plane[..., None])[..., 0] for plane in ids])

    @cached_property
    def _clips(self) -> list[Path]:
        assert self.folder is not None
        listed = self.folder / "clips.jsonl"
        if not listed.is_file():
            raise InputError(f"{listed} is missing.", "Write clips with `trajseg data shapes --split train --write`.")
        paths = [self.folder / json.loads(line)["video"] for line in listed.read_text().splitlines()]
        return [path for path in paths if path.stem.startswith(f"{self.split}-")]


def open_source(argument: str) -> ShapesSamples:
    """Endless rendered samples for "shapes" or "shapes:SPLIT", or the written clips of "shapes:FOLDER".

    "shapes:turned" is "shapes:train", but most scenes have rotated objects.
    """
    if argument == "turned":
        return ShapesSamples(turned=TURNED)
    if argument in SPLITS:
        return ShapesSamples(split=argument)
    return ShapesSamples(folder=Path(argument) if argument else None)


def _turned(scene: Scene, rng: random.Random) -> Scene:
    objects = [replace(thing, angle=rng.uniform(0, 2 * math.pi)) for thing in scene.objects]
    return replace(scene, objects=objects)


def _caption(scene: Scene, k: int, still: bool) -> str:
    """The answer's caption of object k; without motion for still images."""
    o = scene.objects[k]
    return f"a {o.size} {o.colour} {o.shape}" if still else short_caption(o)
