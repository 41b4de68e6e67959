"""Rehearsal: a source that mixes a project's corrections with the base's own data, and augments both.

The base's own skills stay because they are rehearsed; a new look is learned because clips are varied.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from trajseg.data.appearance import Appearance
from trajseg.data.borrowed_look import BorrowedLook
from trajseg.data.dataset import Dataset
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.jitter import Jitter
from trajseg.data.samples import Direction, Sample, Source, together
from trajseg.errors import InputError

LOOK_FRAMES = 4
"""Frames per corrected clip from which its look is taken."""


@dataclass(frozen=True)
class Variety:
    """Shares of clips that are augmented, each 0 to 1. Descriptions of background, material or light may then be wrong;
    those of shape, colour, place and motion stay right.

    Args:
        jittered: share of clips that are rotated, scaled and shifted a little; see Jitter.
        restyled: share of corrected clips with a random appearance; see Appearance.
        borrowed: share of replayed clips in the look of a corrected clip; see BorrowedLook.
        replay_restyled: share of replayed clips with a random appearance. The remaining replayed clips are unchanged,
            not even jittered, so that the base's own look is not forgotten.
    """

    jittered: float = 0.85
    restyled: float = 0.4
    borrowed: float = 0.5
    replay_restyled: float = 0.15


UNVARIED = Variety(0.0, 0.0, 0.0, 0.0)


class Rehearsal:
    """A ClipSource (see trajseg.data.samples) that mixes corrections with the base's own data.

    A kind of sample missing from the corrections, such as captioning without captions, comes from the base's data.

    Args:
        corrections: the corrected videos.
        base: the base's own data.
        share: share of samples from `base`, 0 to 1.
        variety: shares of augmented clips, of both sources.

    Raises:
        InputError: the corrections contain nothing to train on.
    """

    def __init__(self, corrections: Dataset, base: Source, share: float, variety: Variety = UNVARIED) -> None:
        if not 0 <= share < 1:
            raise InputError(f"The share of replay is {share}.", "Choose at least 0 and less than 1.")
        self.base, self.share = base, share
        self.variety = variety
        self.corrections = DatasetSamples(corrections)
        self.directions = trainable_directions(corrections)
        if "grounding" not in self.directions:
            raise InputError(
                f"The data set {corrections.name} has no instruction to train on.",
                "Correct or accept predictions of some videos first.",
            )

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """Frames of a corrected clip, or of one of the base's."""
        source = self._source(rng, direction)
        return self._varied([source.video(rng, frames, direction)], rng, source is self.base)[0]

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """One frame of a corrected clip, or of one of the base's."""
        source = self._source(rng, direction)
        return self._varied([source.image(rng, direction)], rng, source is self.base)[0]

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Frames of a corrected clip, or of one from the base's data, with several statements about them."""
        if rng.random() < self.share:
            return self._varied(together(self.base, rng, frames, directions), rng, replayed=True)
        known: list[Direction] = [each if each in self.directions else "grounding" for each in directions]
        return self._varied(self.corrections.together(rng, frames, known), rng, replayed=False)

    def _source(self, rng: random.Random, direction: Direction) -> Source:
        replayed = rng.random() < self.share
        return self.base if replayed or direction not in self.directions else self.corrections

    def _varied(self, samples: list[Sample], rng: random.Random, replayed: bool) -> list[Sample]:
        """Samples of one clip, varied alike."""
        if any(sample.frames is not samples[0].frames for sample in samples):
            return [each for sample in samples for each in self._changed([sample], rng, replayed)]
        return self._changed(samples, rng, replayed)

    def _changed(self, samples: list[Sample], rng: random.Random, replayed: bool) -> list[Sample]:
        """Samples over the same frames, changed alike."""
        jittered, lot = rng.random() < self.variety.jittered, rng.random()
        if replayed and lot >= self.variety.borrowed + self.variety.replay_restyled:
            # Unchanged, so that the base's own look is not forgotten.
            return samples
        if jittered:
            samples = Jitter().apply(samples, rng)
        if not replayed:
            # Objects without a mask may be in the background, so it is not replaced.
            return Appearance().apply(samples, rng) if lot < self.variety.restyled else samples
        if lot < self.variety.borrowed:
            look = self._look(rng)
            return samples if look is None else look.apply(samples, rng)
        return Appearance(swap=True).apply(samples, rng)

    def _look(self, rng: random.Random) -> BorrowedLook | None:
        """The look of a corrected clip; None where it shows no object well enough."""
        sample = self.corrections.together(rng, LOOK_FRAMES, ["grounding"])[0]
        return None if sample.objects is None else BorrowedLook.of(sample.frames, sample.objects, rng)


def trainable_directions(dataset: Dataset) -> set[Direction]:
    """The training directions for which a data set has samples; see trajseg.training.joint."""
    directions: set[Direction] = set()
    for number in range(len(dataset)):
        annotated = dataset[number]
        things = {thing.uid: thing for thing in annotated.objects}
        if any(all(things[uid].masks for uid in asked.targets) for asked in annotated.expressions):
            directions.add("grounding")
        tracked = [thing for thing in annotated.objects if len(thing.masks) > 1]
        if tracked:
            directions.add("propagation")
        if any(thing.caption for thing in tracked):
            directions.add("captioning")
    return directions
