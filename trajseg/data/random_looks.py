"""Random looks: a source of samples whose clips get a random appearance, for training that must hold in any look."""

from __future__ import annotations

import random
from collections.abc import Sequence

from trajseg.data.appearance import Appearance
from trajseg.data.jitter import Jitter
from trajseg.data.samples import Direction, Sample, Source, together


class RandomLooks:
    """A ClipSource (see trajseg.data.samples) over another source all of whose objects are known.

    Args:
        base: returns samples with `objects`.
        plain: share of clips that are unchanged, 0 to 1.
        jittered: share of the others that are rotated, scaled and shifted a little, too.
    """

    def __init__(self, base: Source, plain: float = 0.3, jittered: float = 0.85) -> None:
        self.base, self.plain, self.jittered = base, plain, jittered
        self.appearance = Appearance(objects=0.9, background=0.9, swap=True)

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """Frames of a clip."""
        return self._changed([self.base.video(rng, frames, direction)], rng)[0]

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """A still image."""
        return self._changed([self.base.image(rng, direction)], rng)[0]

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Samples over the same frames, changed alike."""
        return self._changed(together(self.base, rng, frames, directions), rng)

    def _changed(self, samples: list[Sample], rng: random.Random) -> list[Sample]:
        if rng.random() < self.plain:
            return samples
        if rng.random() < self.jittered:
            samples = Jitter().apply(samples, rng)
        return self.appearance.apply(samples, rng)
