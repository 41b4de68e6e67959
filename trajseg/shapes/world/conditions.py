"""Conditions: the same scenes and instructions, rendered and filmed differently than in training."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction
from trajseg.shapes.world.painter import painted
from trajseg.shapes.world.posters import posters
from trajseg.shapes.world.questions import SOURCES
from trajseg.shapes.world.render import frames_and_ids
from trajseg.shapes.world.scenes import SAMPLED_FRAMES, Scene, SceneObject

_DRAWS = 400
_HAZE = 170.0
_GRAIN = 1.8
"""Size of a grain in pixels."""


@dataclass(frozen=True)
class Condition:
    """Differences from a scene's plain clip. Omitted fields change nothing.

    Args:
        name: short, without blanks; also a folder's name.
        shows: a short description.
        rows: height of the picture in pixels; None: the evaluation's.
        aspect: width / height; paths are stretched from edge to edge, shapes are not.
        frames: number of frames; the duration does not change.
        speed: factor on all motion; the frame rate does not change, so the clip gets shorter or longer.
        painter: "render" is training's renderer; "painter" is trajseg.shapes.world.painter; "turning" is the same with
            objects that also sway while they move; "posters" is trajseg.shapes.world.posters.
        blur: standard deviation of the lens blur, in units of the height.
        light: factor on all grey levels.
        contrast: factor on the distance from a light grey.
        noise: standard deviation at middle grey, in grey levels, independent in each pixel and channel; it
            grows with the square root of the light, like a sensor's.
        grain: standard deviation of coarser noise in grey levels, the same in all channels.
        crf, encoder: see trajseg.video.write_video.
    """

    name: str
    shows: str
    rows: int | None = None
    aspect: float | None = None
    frames: int | None = None
    speed: float = 1.0
    painter: Literal["render", "painter", "turning", "posters"] = "render"
    blur: float = 0.0
    light: float = 1.0
    contrast: float = 1.0
    noise: float = 0.0
    grain: float = 0.0
    crf: int = 20
    encoder: Literal["libx264", "libx265"] = "libx264"

    def changed(self, scene: Scene) -> Scene:
        """The scene with this condition's aspect, frames and speed; the scene itself if none is set."""
        if self.aspect is not None:
            scene = stretched(scene, self.aspect)
        if self.frames is not None:
            rate = scene.fps * self.frames / scene.frame_count
            scene = replace(retimed(scene, self.frames), fps=rate)
        if self.speed != 1.0:
            scene = retimed(scene, max(SAMPLED_FRAMES, round(scene.frame_count / self.speed)))
        return scene

    def frames_and_ids(self, scene: Scene, height: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draws a scene that is already `changed`, frame by frame.

        Args:
            height: rows, unless the condition sets them.

        Yields:
            frame uint8 [H, W, 3] RGB, and ids uint8 [H, W] as from trajseg.shapes.world.render.
        """
        rows = self.rows or height
        rng = np.random.default_rng([scene.seed % 2**32, zlib.crc32(self.name.encode())])
        if self.painter == "render":
            drawn = frames_and_ids(scene, rows, range(scene.frame_count))
        elif self.painter == "posters":
            drawn = posters(scene, rows)
        else:
            drawn = painted(scene, rows, turning=self.painter == "turning")
        for frame, ids in drawn:
            yield self._filmed(frame, rng), ids

    def _filmed(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not (self.blur or self.noise or self.grain or self.light != 1 or self.contrast != 1):
            return frame
        height, width = frame.shape[:2]
        if self.blur:
            frame = cv2.GaussianBlur(frame, (0, 0), self.blur * height)
        levels = frame.astype(np.float32)
        levels = _HAZE + self.contrast * (self.light * levels - _HAZE)
        if self.noise:
            strength = self.noise * np.sqrt(np.maximum(levels, 4) / 128)
            levels += strength * rng.standard_normal(levels.shape, np.float32)
        if self.grain:
            # Resizing weakens the noise.
            coarse = rng.standard_normal((round(height / _GRAIN), round(width / _GRAIN)), np.float32)
            grains = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            levels += (self.grain / grains.std() * grains)[..., None]
        return np.clip(levels, 0, 255).round().astype(np.uint8)


PLAIN = Condition("plain", "as in training: H.264 at crf 20")
POSTERS = Condition("posters", "turned shapes over saturated, blurred backgrounds", painter="posters")
"""The style of `--data posters:...`; not in CONDITIONS, so that their results stay comparable with earlier ones."""

CONDITIONS = (
    PLAIN,
    Condition("portrait", "240 x 320 pixels, upright", rows=320, aspect=3 / 4),
    Condition("480-rows", "640 x 480 pixels, 4:3", rows=480, aspect=4 / 3),
    Condition("720-rows", "1280 x 720 pixels, 16:9", rows=720, aspect=16 / 9),
    Condition("noise", "strong sensor noise", noise=28.0),
    Condition("blur", "out of focus", blur=0.012),
    Condition("dark", "a third of the light, and its noise", light=0.33, noise=12.0),
    Condition("haze", "a third of the contrast", contrast=0.35),
    Condition("compressed", "H.264 at crf 42", crf=42),
    Condition("grain", "film grain, H.264 at crf 34", grain=16.0, crf=34),
    Condition("h265", "H.265 at crf 32", crf=32, encoder="libx265"),
    Condition("12-frames", "12 frames in the same time", frames=12),
    Condition("120-frames", "120 frames in the same time", frames=120),
    Condition("half-speed", "twice as many frames", speed=0.5),
    Condition("double-speed", "half as many frames", speed=2.0),
    Condition("painter", "another painter", painter="painter"),
    Condition("turning", "another painter, objects sway", painter="turning"),
)
"""Conditions of trajseg evaluate --conditions; the first is the baseline for the others."""


def retimed(scene: Scene, frame_count: int) -> Scene:
    """The scene with its paths resampled to another number of frames, by linear interpolation.

    The frame rate does not change. An object exists in the frames nearest to those in which it existed before.
    """
    times = np.linspace(0, scene.frame_count - 1, frame_count)
    before = np.minimum(np.floor(times).astype(int), max(0, scene.frame_count - 2))
    after = np.minimum(before + 1, scene.frame_count - 1)
    share = (times - before)[:, None].astype(np.float32)

    def at_times(course: np.ndarray) -> np.ndarray:
        return (1 - share) * course[before] + share * course[after]

    def moved(o: SceneObject) -> SceneObject:
        there = np.flatnonzero((times >= o.first - 0.5) & (times < o.last + 0.5))
        return replace(o, centres=at_times(o.centres), first=int(there[0]), last=int(there[-1]))

    objects = [moved(o) for o in scene.objects]
    return replace(scene, frame_count=frame_count, objects=objects, drift=at_times(scene.drift))


def stretched(scene: Scene, aspect: float) -> Scene:
    """The scene with another aspect ratio; paths from edge to edge stay so.

    Paths are scaled in x. Those of circling and bouncing objects are only moved, so that circles stay circles.
    """
    factor = aspect / scene.aspect
    objects = []
    for o in scene.objects:
        centres = o.centres.copy()
        if o.motion in ("circling", "bouncing"):
            centres[:, 0] += (factor - 1) * centres[:, 0].mean()
        else:
            centres[:, 0] *= factor
        objects.append(replace(o, centres=centres))
    return replace(scene, aspect=aspect, objects=objects)


def still_true(asked: Instruction, facts: Facts) -> bool:
    """Whether an instruction has exactly the same targets in another version of its scene.

    That is, whether the same sentence with the same targets could be generated for that version. Generation is random,
    so this tries many times; a true instruction that is never generated counts as false, and is left out.
    """
    if any(facts.seen_count[k] < 2 for k in asked.targets):
        return False
    rng = random.Random(asked.text)
    for _ in range(_DRAWS):
        for possible in SOURCES[asked.kind](facts, rng, facts.scene.split):
            if set(possible.targets) == set(asked.targets) and any(
                phrase.format(**possible.slots) == asked.text for phrase in possible.phrases.of(facts.scene.split)
            ):
                return True
    return False
