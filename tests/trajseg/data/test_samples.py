"""Joint training's samples: correct, in the paper's proportions, and reproducible."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset, Expression
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.pseudo_videos import pseudo_video
from trajseg.data.samples import ClipSamples, Direction, Mixture, Sample, Samples, boxes_of, near_and_far
from trajseg.errors import InputError
from trajseg.shapes.samples import ShapesSamples
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks import rle
from trajseg.video import open_clip, write_video
from trajseg.video.spacing import jittered_frames

SMALL = ShapesSamples(size=64)


def blank(direction: Direction, frames: int) -> Sample:
    masks = np.ones((1, frames, 4, 4), bool)
    return Sample(direction, np.zeros((frames, 4, 4, 3), np.uint8), "it", "it [SEG] .", masks, boxes_of(masks[0]))


class Blank:
    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        return blank(direction, frames)

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        return blank(direction, 1)


def test_kinds_are_mixed_as_in_the_paper_s_second_stage() -> None:
    drawn = Samples(Blank(), Mixture(pseudo_videos=0.0), frames=3, batch=4000)(0)
    count = Counter("image" if len(sample.frames) == 1 else sample.direction for sample in drawn)
    shares = {kind: number / len(drawn) for kind, number in count.items()}
    expected = {"image": 0.2, "propagation": 0.16, "grounding": 0.32, "captioning": 0.32}
    assert shares == pytest.approx(expected, abs=0.03)


def test_sample_depends_only_on_its_number() -> None:
    samples = Samples(SMALL, Mixture(), frames=3, batch=2, seed=5)
    later, again = samples(3), Samples(SMALL, Mixture(), frames=3, batch=2, seed=5)(3)
    for one, other in zip(later, again, strict=True):
        assert one.instruction == other.instruction
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.masks, other.masks)
    assert any(a.instruction != b.instruction for a, b in zip(later, samples(4), strict=True))


@pytest.mark.parametrize("direction", ["grounding", "captioning", "propagation"])
def test_clips_of_the_shapes_world_have_correct_masks_and_boxes(direction: Direction) -> None:
    rng = random.Random(0)
    for _ in range(6):
        sample = SMALL.video(rng, 4, direction)
        assert sample.direction == direction
        assert len(sample.frames) == 4
        assert max(sample.frames.shape[1:3]) == 64
        if direction == "grounding":
            assert not len(sample.masks) or (sample.masks.any((2, 3)).sum(1) >= 1).all()
            continue
        assert sample.masks.shape[0] == 1
        assert sample.boxes is not None
        for box, mask in zip(sample.boxes * 64, sample.masks[0], strict=True):
            x1, y1, x2, y2 = box.round().astype(int)
            assert mask.any() == (x2 > x1)
            assert not np.delete(mask, np.s_[y1:y2], axis=0).any()
            assert not np.delete(mask, np.s_[x1:x2], axis=1).any()


def test_still_images_are_not_described_by_their_motion() -> None:
    rng = random.Random(1)
    for _ in range(8):
        sample = SMALL.image(rng, "grounding")
        assert sample.frames.shape[0] == 1
        assert sample.masks.any((1, 2, 3)).all()
        assert "moving" not in sample.answer
        assert "moving" not in sample.instruction


def test_pseudo_videos_move_picture_and_mask_alike() -> None:
    picture = np.full((60, 90, 3), 40, np.uint8)
    masks = np.zeros((2, 60, 90), bool)
    masks[0, 20:40, 15:40] = masks[1, 10:30, 60:75] = True
    picture[masks[0]], picture[masks[1]] = (220, 30, 30), (30, 30, 220)
    for seed in range(4):
        frames, moved = pseudo_video(picture, masks, 6, seed)
        assert frames.shape == (6, 60, 90, 3)
        assert moved.shape == (2, 6, 60, 90)
        assert any(np.array_equal(frame, picture) for frame in frames), "one frame is the picture itself"
        for channel, planes in ((0, moved[0]), (2, moved[1])):
            for frame, mask in zip(frames.astype(int), planes, strict=True):
                strong = frame[..., channel] - frame[..., 2 - channel]
                assert mask.sum() < 40 or strong[mask].mean() > 60 > abs(strong[~moved.any(0).any(0)]).mean()
    again, _ = pseudo_video(picture, masks, 6, 3)
    assert np.array_equal(again, frames)


def test_frames_for_propagation_are_near_and_far_and_in_order() -> None:
    rng = random.Random(0)
    for count in (8, 12, 64):
        for _ in range(30):
            times = near_and_far(count, 8, rng)
            assert len(times) == 8
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] < count
            assert min(b - a for a, b in pairwise(times)) <= 3


def test_written_clips_have_the_file_s_pictures_and_the_renderer_s_masks(tmp_path: Path) -> None:
    for seed in (3, 4):
        write_clip(sample_scene(seed, "train"), tmp_path / f"train-{seed:06d}.mp4", 96)
    (tmp_path / "clips.jsonl").write_text("".join(f'{{"video": "train-{s:06d}.mp4"}}\n' for s in (3, 4)))
    source, rng = ShapesSamples(folder=tmp_path), random.Random(0)
    for direction in ("grounding", "captioning", "propagation"):
        sample = source.video(rng, 4, direction)
        assert sample.frames.shape[1] == 96
        assert sample.masks.shape[1:] == sample.frames.shape[:3]
    with pytest.raises(InputError, match=r"clips\.jsonl is missing"):
        ShapesSamples(folder=tmp_path / "nowhere").image(rng, "grounding")


class Corrected(Dataset):
    """One clip with one object whose frames have weight 1, 0.5 and 0, and an instruction with weight 0.25."""

    name = "corrected"

    def __init__(self, folder: Path) -> None:
        path = write_video(folder / "clip.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10.0)
        mask = rle.encode(np.ones((16, 16), bool))
        thing = AnnotatedObject("1", dict.fromkeys(range(3), mask), "a square", weights={1: 0.5, 2: 0.0})
        self.only = AnnotatedClip("one", open_clip(path), (thing,), (Expression("it", ("1",), weight=0.25),))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> AnnotatedClip:
        return (self.only,)[number]


def test_weights_of_the_data_set_reach_the_samples(tmp_path: Path) -> None:
    source = DatasetSamples(Corrected(tmp_path))
    grounding = source.video(random.Random(0), 3, "grounding")
    assert grounding.weight == 0.25
    assert grounding.mask_weights is not None
    assert grounding.mask_weights.tolist() == [[1.0, 0.5, 0.0]]
    captioning = source.video(random.Random(0), 3, "captioning")
    assert captioning.mask_weights is not None
    assert captioning.mask_weights.tolist() == [[1.0, 0.5, 0.0]]
    rng = random.Random(0)
    pseudo = Mixture(images=0.0, pseudo_videos=1.0, propagation=0.0, captioning=0.0).draw(source, 4, rng)
    assert pseudo.mask_weights is not None
    assert pseudo.mask_weights.shape == (1, 4)
    assert len(set(pseudo.mask_weights[0].tolist())) == 1, "all are copies of one picture"
    assert pseudo.weight == 0.25


def test_sample_with_inconsistent_parts_is_rejected() -> None:
    frames, masks = np.zeros((2, 4, 6, 3), np.uint8), np.zeros((1, 2, 4, 6), bool)
    with pytest.raises(InputError, match=r"not have one \[SEG\] for each of 1 masks"):
        Sample("grounding", frames, "it", "there is no such object .", masks)
    with pytest.raises(InputError, match="must be bool"):
        Sample("grounding", frames, "it", "it [SEG] .", masks[:, :1])
    with pytest.raises(InputError, match="as many boxes"):
        Sample("captioning", frames, "it", "it [SEG] .", masks)
    with pytest.raises(InputError, match="Weights of masks"):
        Sample("grounding", frames, "it", "it [SEG] .", masks, mask_weights=np.ones((2, 1), np.float32))
    with pytest.raises(InputError, match="objects of frames"):
        Sample("grounding", frames, "it", "it [SEG] .", masks, objects=np.zeros((4, 6), np.uint8))
    with pytest.raises(InputError, match="no frame shows"):
        Sample("propagation", frames, "it", "it [SEG] .", masks)


def test_part_of_clip_samples_is_several_samples_of_the_same_frames() -> None:
    mixture = Mixture(images=0.0, pseudo_videos=0.0, propagation=0.0, captioning=0.5)
    samples = ClipSamples(ShapesSamples(size=64), mixture, 3, 5, seed=1)
    part, again = samples(7), samples(7)
    assert len(part) == 5
    assert {sample.direction for sample in part} <= {"grounding", "captioning"}
    assert all(sample.frames is part[0].frames for sample in part)
    assert len({(sample.direction, sample.instruction, sample.answer) for sample in part}) > 1
    assert [sample.answer for sample in part] == [sample.answer for sample in again]
    assert np.array_equal(part[0].frames, again[0].frames)
    [alone] = dataclasses.replace(samples, mixture=dataclasses.replace(mixture, propagation=1.0))(7)
    assert alone.direction == "propagation"
    apart = dataclasses.replace(samples, source=Blank())(7)
    assert len(apart) == 5, "other sources give one sample per clip"
    assert apart[0].frames is not apart[1].frames


def test_jittered_frames_come_from_every_bin() -> None:
    rng = random.Random(0)
    drawn = [jittered_frames(40, 4, rng) for _ in range(200)]
    assert all(10 * place <= frame < 10 * (place + 1) for row in drawn for place, frame in enumerate(row))
    assert {frame for row in drawn for frame in row} == set(range(40))
    assert jittered_frames(3, 4, rng) == [0, 1, 2]
