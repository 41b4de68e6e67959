"""Joint-training samples from any data set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset
from trajseg.data.samples import Direction, Sample, boxes_of, near_and_far
from trajseg.data.sentences import CAPTION_REQUEST, grounding_answer, plain_words
from trajseg.errors import InputError
from trajseg.video.spacing import jittered_frames, sampled_frames

MOST_OBJECTS = 255
"""Maximum number of objects of a clip that a sample distinguishes."""
TRIES = 100
"""Draws after which a data set is considered to have nothing of a kind."""


class DatasetSamples:
    """A Source (see trajseg.data.samples) over a data set: clips, expressions and objects are drawn uniformly.

    Frames are drawn from the annotated ones. An answer names an object by its caption, or by the expression if it has
    none.

    Args:
        dataset: any.

    Raises:
        InputError: the data set is empty.
    """

    def __init__(self, dataset: Dataset) -> None:
        if not len(dataset):
            raise InputError(f"The data set {dataset.name} has no clips.", "Give one that has some to train on.")
        self.dataset = dataset

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """Frames at the centres of equal bins, as at inference; for propagation, near and far ones.

        Raises:
            InputError: the data set has nothing to learn this direction from.
        """
        for _ in range(TRIES):
            annotated = self._clip(rng)
            known = annotated.scored
            count = len(known)
            places = near_and_far(count, frames, rng) if direction == "propagation" else sampled_frames(count, frames)
            sample = self._sample(annotated, [known[place] for place in places], direction, rng)
            if sample is not None:
                return sample
        raise self._nothing_for(direction)

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """One annotated frame, and its objects.

        Raises:
            InputError: the data set has nothing to learn this direction from.
        """
        for _ in range(TRIES):
            annotated = self._clip(rng)
            sample = self._sample(annotated, [rng.choice(annotated.scored)], direction, rng)
            if sample is not None:
                return sample
        raise self._nothing_for(direction)

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Samples from one clip over the same frames, one from each of equal bins; see ClipSource.

        Raises:
            InputError: the data set has nothing to learn these directions from.
        """
        for _ in range(TRIES):
            annotated = self._clip(rng)
            times = [annotated.scored[place] for place in jittered_frames(len(annotated.scored), frames, rng)]
            pictures = _pictures(annotated, times)
            drawn = (self._sample(annotated, times, direction, rng, pictures) for direction in directions)
            if samples := [sample for sample in drawn if sample is not None]:
                return samples
        raise self._nothing_for(directions[0])

    def _clip(self, rng: random.Random) -> AnnotatedClip:
        return self.dataset[rng.randrange(len(self.dataset))]

    def _sample(
        self,
        annotated: AnnotatedClip,
        times: Sequence[int],
        direction: Direction,
        rng: random.Random,
        pictures: _Pictures | None = None,
    ) -> Sample | None:
        """A sample with these frames; `pictures` are theirs, if already read. None if it would have no target."""
        if direction == "grounding":
            return self._grounding(annotated, times, rng, pictures)
        least = min(2, len(times))
        able = [
            thing
            for thing in annotated.objects
            if (thing.caption or direction == "propagation") and sum(t in thing.masks for t in set(times)) >= least
        ]
        if not able:
            return None
        thing = rng.choice(able)
        masks = annotated.masks([thing.uid], times)
        answer = grounding_answer([plain_words(thing.caption)])
        pictures = pictures or _pictures(annotated, times)
        return Sample(
            direction,
            pictures.frames,
            CAPTION_REQUEST,
            answer,
            masks,
            boxes_of(masks[0]),
            weight=thing.caption_weight,
            mask_weights=_weights([thing], times),
            objects=pictures.objects,
        )

    def _grounding(
        self, annotated: AnnotatedClip, times: Sequence[int], rng: random.Random, pictures: _Pictures | None = None
    ) -> Sample | None:
        things = {thing.uid: thing for thing in annotated.objects}
        able = [
            asked
            for asked in annotated.expressions
            if all(any(t in things[uid].masks for t in times) for uid in asked.targets)
        ]
        if not able:
            return None
        asked = rng.choice(able)
        names = [_name(things[uid], asked.text) for uid in asked.targets]
        masks = annotated.masks(asked.targets, times)
        pictures = pictures or _pictures(annotated, times)
        return Sample(
            "grounding",
            pictures.frames,
            asked.text,
            grounding_answer(names),
            masks,
            weight=asked.weight,
            mask_weights=_weights([things[uid] for uid in asked.targets], times),
            objects=pictures.objects,
        )

    def _nothing_for(self, direction: Direction) -> InputError:
        needs = {
            "grounding": "expressions whose objects are seen",
            "captioning": "objects with a caption that are seen in two frames",
            "propagation": "objects that are seen in two frames",
        }
        return InputError(
            f"{TRIES} clips of the data set {self.dataset.name} gave nothing for {direction}.",
            f"It needs {needs[direction]}.",
        )


def _name(thing: AnnotatedObject, expression: str) -> str:
    return plain_words(thing.caption or expression)


def _weights(things: Sequence[AnnotatedObject], times: Sequence[int]) -> np.ndarray | None:
    """float32 [S, T]; None where all are 1."""
    if not any(thing.weights for thing in things):
        return None
    return np.array([[thing.weights.get(t, 1.0) for t in times] for thing in things], np.float32)


class _Pictures(NamedTuple):
    """Frames uint8 [T, H, W, 3] and objects uint8 [T, H, W] of a clip; see Sample."""

    frames: np.ndarray
    objects: np.ndarray


def _pictures(annotated: AnnotatedClip, times: Sequence[int]) -> _Pictures:
    """Reads these frames; a frame may occur twice in `times`."""
    frames = dict(annotated.clip.frames(times))
    objects = np.zeros((len(times), annotated.clip.height, annotated.clip.width), np.uint8)
    for number, thing in enumerate(annotated.objects[:MOST_OBJECTS]):
        objects[annotated.masks([thing.uid], times)[0]] = number + 1
    return _Pictures(np.stack([frames[t] for t in times]), objects)
