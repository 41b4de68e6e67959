"""The objectness loss: visible centres are trained, and all other cells keep their objectness."""

from __future__ import annotations

import pytest
import torch

from trajseg import VideoSegmenter
from trajseg.model import TrajSegModel
from trajseg.training.objectness import ObjectnessLoss, centres, known_objects_loss


@pytest.fixture(scope="module")
def model() -> TrajSegModel:
    return VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu").model


def test_cell_of_a_box_centre_is_trained_if_enough_of_the_target_is_visible() -> None:
    masks = torch.zeros(2, 3, 90, 160, dtype=torch.bool)
    masks[0, 0, 40:50, 80:90] = True  # centre (85, 45) of 160: cell (8, 4) of 16
    masks[0, 1, 0:4, 0:4] = True  # too little
    masks[1, 2, 80:90, 150:160] = True
    cells = centres(masks, 16)
    assert cells.nonzero().tolist() == [[0, 4 * 16 + 8], [2, 8 * 16 + 15]]


def test_loss_is_zero_without_a_visible_target_or_a_change_of_the_tower(model: TrajSegModel) -> None:
    pixels = torch.randn(2, 3, 256, 256)
    none = torch.zeros(0, 2, 96, 128, dtype=torch.bool)
    loss = ObjectnessLoss(model)
    with torch.no_grad():
        features, before = model.features(model.vision_states(pixels)), loss.before(pixels)
        assert float(loss(before, features, none)) == pytest.approx(0.0, abs=1e-9)
        assert float(loss(before, features + 0.5, none)) > 0


def test_a_shown_centre_becomes_an_object_and_the_other_cells_stay(model: TrajSegModel) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 256, 256)
    masks = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    masks[0, 0, 56:72, 56:72] = True
    loss, cell = ObjectnessLoss(model), centres(masks, 16)[0]
    with torch.no_grad():
        features = model.features(model.vision_states(pixels))
        before = model.objectness(features)[0, :, 0].sigmoid()
    learned = features.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([learned], 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss(before[None], learned, masks).backward()
        optimiser.step()
    after = model.objectness(learned.detach())[0, :, 0].sigmoid()
    assert before[cell].item() < 0.3 < 0.8 < after[cell].item()
    torch.testing.assert_close(after[~cell], before[~cell], atol=0.02, rtol=0)


def test_where_all_objects_are_known_only_their_centres_are_chosen() -> None:
    objects = torch.zeros(1, 64, 64, dtype=torch.uint8)
    objects[0, 8:16, 8:16] = 1  # centre (12, 12) of 64: cell (3, 3) of 16
    objects[0, 40:52, 40:52] = 2  # cell (11, 11)
    logits = torch.zeros(1, 256, requires_grad=True)
    optimiser = torch.optim.Adam([logits], 0.2)
    for _ in range(80):
        optimiser.zero_grad()
        known_objects_loss(logits, objects).backward()
        optimiser.step()
    chosen = (logits.detach().sigmoid() > 0.5)[0].nonzero()[:, 0].tolist()
    assert chosen == [3 * 16 + 3, 11 * 16 + 11]
    assert float(known_objects_loss(torch.full((1, 256), -9.0), torch.zeros_like(objects))) < 1e-3
