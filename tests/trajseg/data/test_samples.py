"""What joint training learns from: true samples, in the paper's proportions, the same ones each time."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from trajseg.data.pseudo_videos import pseudo_video
from trajseg.data.samples import Direction, Mixture, Sample, Samples, boxes_of
from trajseg.errors import InputError
from trajseg.shapes.samples import ShapesSamples, near_and_far
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene

SMALL = ShapesSamples(size=64)


def blank(direction: Direction, frames: int) -> Sample:
    masks = np.ones((1, frames, 4, 4), bool)
    return Sample(direction, np.zeros((frames, 4, 4, 3), np.uint8), "it", "it [SEG] .", masks, boxes_of(masks[0]))


class Blank:
    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        return blank(direction, frames)

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        return blank(direction, 1)


def test_kinds_are_mixed_as_in_the_papers_second_stage():
    drawn = Samples(Blank(), Mixture(pseudo_videos=0.0), frames=3, batch=4000)(0)
    count = Counter("image" if len(sample.frames) == 1 else sample.direction for sample in drawn)
    shares = {kind: number / len(drawn) for kind, number in count.items()}
    expected = {"image": 0.2, "propagation": 0.16, "grounding": 0.32, "captioning": 0.32}
    assert shares == pytest.approx(expected, abs=0.03)


def test_a_sample_depends_on_its_number_alone():
    samples = Samples(SMALL, Mixture(), frames=3, batch=2, seed=5)
    later, again = samples(3), Samples(SMALL, Mixture(), frames=3, batch=2, seed=5)(3)
    for one, other in zip(later, again, strict=True):
        assert one.instruction == other.instruction
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.masks, other.masks)
    assert any(a.instruction != b.instruction for a, b in zip(later, samples(4), strict=True))


@pytest.mark.parametrize("direction", ["grounding", "captioning", "propagation"])
def test_clips_of_the_shapes_world_come_with_true_masks_and_boxes(direction):
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
        for box, mask in zip(sample.boxes * 64, sample.masks[0], strict=True):
            x1, y1, x2, y2 = box.round().astype(int)
            assert mask.any() == (x2 > x1)
            assert not np.delete(mask, np.s_[y1:y2], axis=0).any()
            assert not np.delete(mask, np.s_[x1:x2], axis=1).any()


def test_still_images_are_not_described_by_their_motion():
    rng = random.Random(1)
    for _ in range(8):
        sample = SMALL.image(rng, "grounding")
        assert sample.frames.shape[0] == 1
        assert sample.masks.any((1, 2, 3)).all()
        assert "moving" not in sample.answer
        assert "moving" not in sample.instruction


def test_pseudo_videos_move_picture_and_mask_alike():
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


def test_frames_for_masks_alone_are_near_and_far_and_in_order():
    rng = random.Random(0)
    for count in (8, 12, 64):
        for _ in range(30):
            times = near_and_far(count, 8, rng)
            assert len(times) == 8
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] < count
            assert min(b - a for a, b in pairwise(times)) <= 3


def test_written_clips_give_the_pictures_of_the_file_with_the_renderers_masks(tmp_path):
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


def test_a_sample_whose_parts_do_not_fit_is_refused():
    frames, masks = np.zeros((2, 4, 6, 3), np.uint8), np.zeros((1, 2, 4, 6), bool)
    with pytest.raises(InputError, match=r"not one \[SEG\] for each of 1 masks"):
        Sample("grounding", frames, "it", "there is no such object .", masks)
    with pytest.raises(InputError, match="must be bool"):
        Sample("grounding", frames, "it", "it [SEG] .", masks[:, :1])
    with pytest.raises(InputError, match="as many boxes"):
        Sample("captioning", frames, "it", "it [SEG] .", masks)
    with pytest.raises(InputError, match="no frame shows"):
        Sample("propagation", frames, "it", "it [SEG] .", masks)
