"""Stage `boxes`: marks are learned, and nothing else changes."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trajseg.checkpoints.folders import SHIPPED
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.mask_decoder import Tracker
from trajseg.shapes.recipe.clips import ClipStream, Pictures
from trajseg.shapes.recipe.marks import BoxTraining, drawn_marks
from trajseg.tracks.mark import Mark
from trajseg.video import open_clip


@pytest.fixture(scope="module")
def clips() -> list[Pictures]:
    return list(islice(ClipStream(3, 1, 256), 2))


@pytest.fixture(scope="module")
def model() -> TrajSegModel:
    """The shipped model, as before this stage."""
    torch.manual_seed(0)
    model = TrajSegModel.from_pretrained(SHIPPED / "trajseg-tiny")
    model.config.mark_reader = model.config.prompted_by_boxes = False
    for points in model.visual_model.sam_prompt_encoder.point_embeddings:
        points.reset_parameters()
    return model


def test_marks_are_where_a_person_would_draw_them(clips: list[Pictures]) -> None:
    seen = 0
    for seed in range(20):
        marks = drawn_marks(clips, random.Random(seed))
        for number, k, pixel in marks["click"]:
            x, y = pixel.int().tolist()
            assert clips[number].ids[0, y, x] == k + 1
        for number, k, box in marks["box"]:
            rows, columns = (clips[number].ids[0] == k + 1).nonzero(as_tuple=True)
            tight = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
            side = (tight[2:] - tight[:2] + 1).repeat(2)
            assert ((box - tight).abs() <= 0.2 * side + 1e-3).all()
            assert (box[2:] >= box[:2]).all()
        seen += len(marks["click"])
    assert 0 < seen < 20 * sum(len(marks) for marks in marks.values())


@torch.no_grad()
def drawn(model: TrajSegModel, clip: Pictures) -> list[torch.Tensor]:
    """Masks from a token, from the memory of that, and from a painted mask."""
    frame = model.encode_frames(clip.pixels)
    tracker = Tracker(model.visual_model, 3)
    token = torch.randn(1, frame.top.shape[1], generator=torch.Generator().manual_seed(0))
    decoded = [tracker.step(0, frame, token), tracker.step(1, frame, None)]
    tracker.paint(0, frame, (clip.ids == 1).float())
    return [part for one in (*decoded, tracker.step(2, frame, None)) for part in (one.logits, one.score, one.pointer)]


def test_a_few_steps_learn_marks_and_leave_all_other_masks_alone(
    model: TrajSegModel, clips: list[Pictures], tmp_path: Path, tiny_clip: Any
) -> None:
    before = drawn(model, clips[0])
    training = BoxTraining(model)
    learning = {name for name, parameter in training.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"points", "reader"}
    assert "points.0.weight" not in learning
    optimiser = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(8):
        loss, figures = training.loss(clips[:1], random.Random(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert figures.keys() <= {"iou_box", "iou_click"}
    assert losses[-1] < 0.8 * losses[0]
    for old, new in zip(before, drawn(model, clips[0]), strict=True):
        assert torch.equal(old, new)

    model.save_pretrained(tmp_path, dtype=torch.float16)
    TrajSegProcessor.from_pretrained(SHIPPED / "trajseg-tiny").save_pretrained(tmp_path)
    segmenter = VideoSegmenter.from_pretrained(tmp_path, device="cpu")
    assert segmenter.spec.marks
    mask = segmenter.mark(open_clip(tiny_clip.path), Mark(3, (21.0, 7.0, 18.0, 18.0)), "")
    assert (mask.shape, mask.dtype) == ((64, 96), np.bool_)
