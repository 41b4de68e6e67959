"""The shapes world fulfils the contract of data sets, rendered and read from written clips."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from tests.contracts.dataset import DatasetContract
from trajseg.data.dataset import Dataset
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.shapes.dataset import ShapesDataset
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene


class TestDrawn(DatasetContract):
    @pytest.fixture
    def dataset(self) -> Dataset:
        return open_dataset("shapes:val", DatasetOptions(count=2, seed=3, height=64))


class TestWritten(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Dataset:
        for seed in (1, 2):
            write_clip(sample_scene(seed, "test"), tmp_path / f"test-{seed:06d}.mp4", 64)
        lines = [f'{{"video": "test-{seed:06d}.mp4"}}' for seed in (1, 2)]
        (tmp_path / "clips.jsonl").write_text("\n".join(lines))
        return open_dataset(f"shapes:{tmp_path}")


def test_the_file_of_a_drawn_clip_lives_as_long_as_the_clip() -> None:
    annotated = ShapesDataset("test", count=1, height=64)[0]
    path = annotated.clip.path
    assert path.is_file()
    del annotated
    gc.collect()
    assert not path.parent.exists()


def test_object_k_is_where_the_ids_say() -> None:
    annotated = ShapesDataset("test", count=1, height=64)[0]
    scene, ids = annotated.drawn_from()
    masks = annotated.masks([str(k) for k in range(len(scene.objects))], range(len(ids)))
    assert np.array_equal(masks, np.stack([ids == k + 1 for k in range(len(scene.objects))]))
