"""The rules of trajseg.data.dataset as tests: subclass DatasetContract and give it a data set."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from trajseg.data.dataset import AnnotatedClip, Dataset
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.errors import InputError


class DatasetContract:
    """The rules for every data set. A subclass named Test... has a fixture `dataset` with at least two clips."""

    @pytest.fixture
    def dataset(self) -> Dataset:
        raise NotImplementedError("Give the data set to check.")

    def test_it_has_a_name_and_clips(self, dataset: Dataset) -> None:
        assert dataset.name
        assert len(dataset) >= 2
        names = [dataset[number].name for number in range(len(dataset))]
        assert len(set(names)) == len(names)

    def test_there_is_nothing_outside_of_its_numbers(self, dataset: Dataset) -> None:
        for number in (-1, len(dataset)):
            with pytest.raises(IndexError):
                dataset[number]

    def test_the_same_number_gives_the_same_clip(self, dataset: Dataset) -> None:
        first, again = dataset[0], dataset[0]
        assert first.name == again.name
        assert first.expressions == again.expressions
        assert [thing.uid for thing in first.objects] == [thing.uid for thing in again.objects]
        frame = first.scored[0]
        assert np.array_equal(_picture(first, frame), _picture(again, frame))
        uids = [thing.uid for thing in first.objects]
        assert np.array_equal(first.masks(uids, [frame]), again.masks(uids, [frame]))

    def test_a_clip_can_be_read_while_others_come_and_go(self, dataset: Dataset) -> None:
        kept = dataset[0]
        dataset[1]
        dataset[0]
        assert _picture(kept, kept.scored[-1]).shape == (kept.clip.height, kept.clip.width, 3)

    def test_masks_are_as_large_as_frames_and_every_object_is_seen(self, dataset: Dataset) -> None:
        for number in range(len(dataset)):
            annotated = dataset[number]
            uids = [thing.uid for thing in annotated.objects]
            masks = annotated.masks(uids, annotated.scored)
            assert masks.dtype == bool
            assert masks.shape == (len(uids), len(annotated.scored), annotated.clip.height, annotated.clip.width)
            for thing, of_one in zip(annotated.objects, masks, strict=True):
                assert of_one.any(), f"{thing.uid} of {annotated.name} is never seen"
                seen = [frame for frame, mask in zip(annotated.scored, of_one, strict=True) if mask.any()]
                assert seen == sorted(set(thing.masks) & set(annotated.scored))

    def test_expressions_have_words_and_a_category(self, dataset: Dataset) -> None:
        expressions = [each for number in range(len(dataset)) for each in dataset[number].expressions]
        assert expressions
        for expression in expressions:
            assert expression.text.strip()
            assert expression.category
            assert (expression.category == "none") == (not expression.targets)

    def test_an_expression_of_an_unknown_object_is_refused(self, dataset: Dataset) -> None:
        annotated = dataset[0]
        with pytest.raises(InputError, match="unknown object"):
            replace(annotated, expressions=(replace(annotated.expressions[0], targets=("nobody",)),))

    def test_training_can_take_samples_from_it(self, dataset: Dataset) -> None:
        samples = DatasetSamples(dataset)
        grounding, again = (samples.video(random.Random(1), 4, "grounding") for _ in range(2))
        assert np.array_equal(grounding.frames, again.frames)
        assert grounding.answer == again.answer
        assert len(samples.image(random.Random(2), "grounding").frames) == 1
        propagation = samples.video(random.Random(3), 4, "propagation")
        assert propagation.masks.shape[:2] == (1, len(propagation.frames))


def _picture(annotated: AnnotatedClip, frame: int) -> np.ndarray:
    [(_, picture)] = annotated.clip.frames([frame])
    return picture
