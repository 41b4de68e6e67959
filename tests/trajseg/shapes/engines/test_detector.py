"""Training the tiny detector: phrases and the objects they refer to, and a few steps on one batch."""

from __future__ import annotations

import random

import numpy as np
import torch

from trajseg.shapes.engines import detector
from trajseg.shapes.engines.pictures import Picture, PictureStream
from trajseg.shapes.world.scenes import COLOURS, SHAPES, SIZES


def picture() -> Picture:
    looks = [(COLOURS.index("red"), SHAPES.index("star"), 0), (COLOURS.index("blue"), SHAPES.index("ring"), 1)]
    boxes = np.array([[10, 10, 40, 40], [60, 20, 120, 80]], np.float32)
    return Picture(np.zeros((96, 128, 3), np.uint8), boxes, np.array(looks))


def test_phrase_refers_to_the_objects_that_match_it() -> None:
    rng = random.Random(0)
    met: dict[str, list[int]] = {}
    for _ in range(300):
        met |= dict(detector.phrases_for(picture(), rng))
    assert met["object"] == [0, 1]
    assert met["star"] == [0]
    assert met["blue ring"] == [1]
    assert met.get("red ring", []) == []
    assert met["circle"] == []
    assert met[f"{SIZES[1]} blue ring"] == [1]


def test_tokens_belong_to_the_phrase_between_the_full_stops() -> None:
    ids = detector.tokenizer()("red star. ring.")["input_ids"]
    assert detector.token_owners(ids) == [-1, 0, 0, -1, 1, -1, -1]


def test_boxes_are_fractions_of_the_picture_without_padding() -> None:
    wide = Picture(np.zeros((64, 128, 3), np.uint8), np.array([[0, 0, 64, 32]], np.float32), np.zeros((1, 3), np.int64))
    _, targets, _, scales = next(detector.batches(iter([wide] * 2), 2, detector.processor(), random.Random(0)))
    assert torch.allclose(targets[0]["boxes"], torch.tensor([[0.25, 0.25, 0.5, 0.5]]))
    assert scales == [detector.LONGEST / 128] * 2


def test_a_few_steps_on_one_batch_lower_the_loss() -> None:
    torch.manual_seed(0)
    model, rng = detector.fresh(), random.Random(1)
    inputs, targets, _, _ = next(detector.batches(iter(PictureStream(2, 160)), 2, detector.processor(), rng))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-4)
    losses = []
    for _ in range(6):
        loss, figures = detector.detection_loss(model, inputs, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert {"dense", "match"} <= set(figures)
