"""Joint training's input: samples, their sources, and the proportions in which kinds are mixed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from trajseg.data.extent import area_of
from trajseg.data.pseudo_videos import pseudo_video
from trajseg.data.sentences import REQUEST, SEG_TOKEN
from trajseg.errors import InputError

LOCAL_STEP = 3
"""Largest distance, in frames, between a sampled clip's anchor and its neighbours before and after."""

Direction = Literal["grounding", "captioning", "propagation"]
"""Text to trajectory; trajectory to text; and masks only, propagated from the first frame through memory."""


@dataclass(frozen=True)
class Sample:
    """T frames (1 for a still image), an instruction about them, and the model's answer.

    Args:
        frames: uint8 [T, H, W, 3] RGB, in time order; all of them are prompted frames.
        instruction: the user's sentence: an expression, a question, or (captioning) a request for a caption.
        answer: with one [SEG] for each target; see `dialogue.grounding_answer`.
        masks: bool [S, T, H, W], of each target in the order of the answer; all False where it is not visible.
        boxes: float32 [T, 4], the trajectory for captioning: xyxy in units of the picture's longer side, zero where
            the object is absent; see `boxes_of`.
        template: the request wrapped around an expression.
        weight: of the answer's words in the loss, 0 to 1.
        mask_weights: float32 [S, T], of each target's mask and presence in each frame; None: 1 everywhere.
        objects: uint8 [T, H, W], all known objects, targets or not: k + 1 where the k-th is visible, 0 on the
            background; None: only the targets are known.

    Raises:
        InputError: the parts do not fit together.
    """

    direction: Direction
    frames: np.ndarray
    instruction: str
    answer: str
    masks: np.ndarray
    boxes: np.ndarray | None = None
    template: str = REQUEST
    weight: float = 1.0
    mask_weights: np.ndarray | None = None
    objects: np.ndarray | None = None

    def __post_init__(self) -> None:
        count, size = len(self.frames), self.frames.shape[:3]
        if self.answer.count(SEG_TOKEN) != len(self.masks):
            raise InputError(
                f"The answer {self.answer!r} does not have one {SEG_TOKEN} for each of {len(self.masks)} masks.",
                "Give as many masks as the answer names objects.",
            )
        if self.masks.ndim != 4 or self.masks.shape[1:] != size or self.masks.dtype != bool:
            raise InputError(
                f"Masks of frames {size} must be bool [S, T, H, W], not {self.masks.shape}.",
                "Stack the masks by object, then by frame.",
            )
        if self.mask_weights is not None and self.mask_weights.shape != self.masks.shape[:2]:
            raise InputError(
                f"Weights of masks {self.masks.shape[:2]} must be [S, T], not {self.mask_weights.shape}.",
                "Give one weight for each object and frame.",
            )
        if self.objects is not None and self.objects.shape != size:
            raise InputError(
                f"The objects of frames {size} must be [T, H, W], not {self.objects.shape}.",
                "Give one plane per frame.",
            )
        if self.direction == "captioning" and (self.boxes is None or self.boxes.shape != (count, 4)):
            raise InputError(
                f"A trajectory of {count} frames needs as many boxes.",
                "Use zeros for frames that do not show the object.",
            )
        if self.direction == "propagation" and not self.masks.any():
            raise InputError(
                "Nothing can be propagated: no frame shows the object.", "Give a mask on at least one frame."
            )


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Masks bool [T, H, W] -> boxes float32 [T, 4], xyxy in units of the longer side, zero where a mask is empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            rows, columns = area_of(mask)
            box[:] = columns.start, rows.start, columns.stop, rows.stop
    return boxes / max(masks.shape[1:])


def near_and_far(frame_count: int, frames: int, rng: random.Random) -> list[int]:
    """An anchor, a neighbour 1 to 3 frames before and one after, and others from the whole clip, in time order.

    A frame may occur twice, as in the paper's sampling, at a clip's ends.
    """
    anchor = rng.randrange(frame_count)
    before, after = rng.randint(1, LOCAL_STEP), rng.randint(1, LOCAL_STEP)
    local = [anchor, max(0, anchor - before), min(frame_count - 1, anchor + after)][:frames]
    others = [t for t in range(frame_count) if t not in local]
    far = rng.sample(others, min(len(others), frames - len(local)))
    return sorted(local + far)


class Source(Protocol):
    """A source of samples. Both methods depend only on `rng`, so a resumed training sees the same samples."""

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """Frames of a clip."""

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """A still image, T = 1."""


@runtime_checkable
class ClipSource(Source, Protocol):
    """A source that can return several samples about the same frames."""

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Samples from one clip that share one array `frames`, in this order; fewer if the clip has fewer.

        `directions` contains only grounding and captioning, and is not empty; neither is the result.
        """


def together(source: Source, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
    """Samples from one clip over the same frames; from one clip each if the source cannot do that."""
    if isinstance(source, ClipSource):
        return source.together(rng, frames, directions)
    return [source.video(rng, frames, direction) for direction in directions]


@dataclass(frozen=True)
class Mixture:
    """Shares of kinds of samples; the defaults are those of the paper's second stage.

    Args:
        images: share of still images among all samples (always grounding).
        pseudo_videos: share of warped copies of an image among the others.
        propagation: share of masks only among the others.
        captioning: share of trajectory to text among the remaining ones.
    """

    images: float = 0.2
    pseudo_videos: float = 0.25
    propagation: float = 0.2
    captioning: float = 0.5

    def draw(self, source: Source, frames: int, rng: random.Random) -> Sample:
        """One sample."""
        if rng.random() < self.images:
            return source.image(rng, "grounding")
        pseudo = rng.random() < self.pseudo_videos
        direction: Direction = "captioning" if rng.random() < self.captioning else "grounding"
        if rng.random() < self.propagation:
            direction = "propagation"
        if pseudo:
            return self._pseudo_video(source, frames, direction, rng)
        return source.video(rng, frames, direction)

    def _pseudo_video(self, source: Source, frames: int, direction: Direction, rng: random.Random) -> Sample:
        while True:
            image = source.image(rng, direction)
            pictures, masks = pseudo_video(image.frames[0], image.masks[:, 0], frames, rng.getrandbits(32))
            boxes = boxes_of(masks[0]) if direction == "captioning" else None
            # A warp may move a target out of the picture.
            if direction == "grounding" or masks.any():
                weights = None if image.mask_weights is None else np.repeat(image.mask_weights, frames, axis=1)
                return replace(
                    image,
                    direction=direction,
                    frames=pictures,
                    masks=masks,
                    boxes=boxes,
                    mask_weights=weights,
                    objects=None,
                )


@dataclass(frozen=True)
class Samples:
    """Endless samples by number, `batch` of them per part of a step."""

    source: Source
    mixture: Mixture
    frames: int
    batch: int
    seed: int = 0

    def __call__(self, part: int) -> list[Sample]:
        """The samples of the part with this number, counted over all steps."""
        return [self.sample(number) for number in range(part * self.batch, (part + 1) * self.batch)]

    def sample(self, number: int) -> Sample:
        """The sample with this number."""
        rng = random.Random(f"joint/{self.seed}/{number}")
        return self.mixture.draw(self.source, self.frames, rng)


@dataclass(frozen=True)
class ClipSamples:
    """Endless samples by number, one clip per part: `asks` samples about the same frames.

    Encoding pictures is the main cost, so several samples share it. Of `mixture`, captioning and propagation are used;
    a part with propagation is one sample.
    """

    source: Source
    mixture: Mixture
    frames: int
    asks: int
    seed: int = 0

    def __call__(self, part: int) -> list[Sample]:
        """The samples of the part with this number, counted over all steps."""
        rng = random.Random(f"clips/{self.seed}/{part}")
        if rng.random() < self.mixture.propagation:
            return [self.source.video(rng, self.frames, "propagation")]
        share = self.mixture.captioning
        directions: list[Direction] = ["captioning" if rng.random() < share else "grounding" for _ in range(self.asks)]
        return together(self.source, rng, self.frames, directions)
