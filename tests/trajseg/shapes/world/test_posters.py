"""The style of posters: the scenes of the shapes world in other pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.errors import InputError
from trajseg.shapes.world.posters import posters
from trajseg.shapes.world.render import frames_and_ids
from trajseg.shapes.world.scenes import SHAPES, sample_scene


def test_objects_are_where_the_renderer_draws_them_and_backgrounds_are_not() -> None:
    compared = set()
    for seed in range(12):
        scene = sample_scene(seed, "train")
        middle = scene.frame_count // 2
        for thing in scene.objects:
            alone = replace(scene, objects=[thing])
            [(frame, ids)] = posters(alone, 120, [middle])
            [(other, truth)] = frames_and_ids(alone, 120, [middle])
            assert frame.shape == (*ids.shape, 3)
            background = (ids == 0) & (truth == 0)
            ours, theirs = (np.ptp(picture[background].astype(int), axis=1).mean() for picture in (frame, other))
            assert ours > 2 * theirs, "saturated"
            x, y = thing.centres[middle] + scene.drift[middle]
            reach = 1.4 * thing.radius
            if truth.any() and reach < x < scene.aspect - reach and reach < y < 1 - reach:
                compared.add(thing.shape)
                at, there = (np.argwhere(picture).mean(axis=0) for picture in (ids, truth))
                assert np.abs(at - there).max() < 3, (seed, thing.shape)
                assert 0.7 < ids.sum() / truth.sum() < 1.4, (seed, thing.shape)
    assert compared == set(SHAPES)


def test_the_data_set_is_read_by_split_and_is_the_same_each_time() -> None:
    dataset = open_dataset("posters:val", DatasetOptions(count=2, height=64))
    assert dataset.name == "posters:val"
    one, again = dataset[1], dataset[1]
    assert [asked.text for asked in one.expressions] == [asked.text for asked in again.expressions]
    assert one.objects == again.objects
    with pytest.raises(InputError, match="no data set 'posters:nowhere'"):
        open_dataset("posters:nowhere")
