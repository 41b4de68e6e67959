"""Random looks: pictures change, what is true of them does not."""

from __future__ import annotations

import random

import numpy as np

from tests.trajseg.data.test_appearance import squares
from trajseg.data.random_looks import RandomLooks
from trajseg.data.samples import Direction, Sample


class Squares:
    """A source with one clip."""

    def together(self, _rng: random.Random, _frames: int, _directions: list[Direction]) -> list[Sample]:
        return squares()

    def video(self, _rng: random.Random, _frames: int, _direction: Direction) -> Sample:
        return squares()[0]

    def image(self, _rng: random.Random, _direction: Direction) -> Sample:
        return squares()[0]


def test_most_clips_change_and_a_share_stays_plain() -> None:
    looks, before = RandomLooks(Squares(), plain=0.5), squares()[0]
    changed = []
    for seed in range(40):
        samples = looks.together(random.Random(seed), 3, ["grounding"])
        assert all(sample.frames is samples[0].frames for sample in samples)
        changed.append(not np.array_equal(samples[0].frames, before.frames))
        sample = samples[0]
        assert sample.objects is not None
        assert np.array_equal(sample.masks[0], sample.objects == 1)
        assert (sample.instruction, sample.answer) == (before.instruction, before.answer)
    assert 10 <= sum(changed) <= 30


def test_the_same_random_numbers_give_the_same_picture() -> None:
    looks = RandomLooks(Squares(), plain=0.0)
    one, two = (looks.video(random.Random(3), 3, "grounding") for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
