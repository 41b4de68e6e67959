"""Loading SAM 2 from its sources, and the geometry of its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.trajseg.engines.grounded import checkpoints
from trajseg.checkpoints.published import sam2_config
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.errors import CheckpointError
from trajseg.model.marks import Marks
from trajseg.model.promptable import PromptableSam2
from trajseg.model.sam2 import build_sam2
from trajseg.model.weights import empty_weights, shapes_of

PICTURE = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
SHIPPED = Path(__file__).parents[4] / "trajseg" / "checkpoints" / "trajseg-tiny"


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> PromptableSam2:
    return load_sam2(checkpoints.save_sam2(tmp_path_factory.mktemp("sam2")))


def test_a_folder_with_weights_and_config(sam2: PromptableSam2) -> None:
    assert (sam2.side, sam2.letterboxed, sam2.reader) == (64, False, None)


def test_sam2_of_a_trajseg_checkpoint_reads_marks() -> None:
    shipped = load_sam2(SHIPPED)
    assert shipped.letterboxed
    assert shipped.reader is not None
    assert shipped.start_score == 1.0


def test_metas_file_is_recognised_by_its_tensors(tmp_path: Path) -> None:
    with empty_weights():
        names = shapes_of(build_sam2(sam2_config("tiny")))
    # Names and shapes only, not 150 MB; an expanded single number would not survive saving.
    save_file({"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96, 3, 7, 7)}, tmp_path / "part.safetensors")
    assert names["image_encoder.trunk.patch_embed.proj.weight"] == (96, 3, 7, 7)
    with pytest.raises(CheckpointError, match="not one of Meta's SAM 2"):
        load_sam2(tmp_path / "part.safetensors")


def test_a_folder_with_two_files_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"2 \.pt files"):
        load_sam2(tmp_path)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no SAM 2"):
        load_sam2(tmp_path / "none")


@pytest.mark.parametrize("letterboxed", [False, True])
def test_masks_convert_to_the_model_s_picture_and_back(sam2: PromptableSam2, letterboxed: bool) -> None:
    there = PromptableSam2(sam2.sam2, letterboxed)
    mask = np.zeros((30, 60), bool)
    mask[10:20, 15:45] = True
    painted = there.painted([mask])
    assert painted.shape == (1, 64, 64)
    assert float(painted[0, 40:].sum() == 0) == float(letterboxed)
    small = torch.nn.functional.interpolate(painted[:, None] * 20 - 10, (16, 16), mode="area")[:, 0]
    back = (there.logits(small, (30, 60))[0] > 0).numpy()
    assert np.count_nonzero(back & mask) / np.count_nonzero(back | mask) > 0.7


def test_boxes_and_clicks_are_drawn_in_the_size_of_the_picture(sam2: PromptableSam2) -> None:
    features = sam2.encode([PICTURE])
    boxes = Marks.boxes(torch.tensor([[5.0, 5.0, 20.0, 20.0], [30.0, 5.0, 50.0, 25.0]]))
    for marks, count in ((boxes, 2), (Marks.clicks(torch.tensor([[12.0, 8.0]])), 1)):
        decoded = sam2.draw(sam2.tracker(1), 0, features, marks, (30, 60))
        assert sam2.logits(decoded.logits, (30, 60)).shape == (count, 30, 60)


def test_memory_has_the_first_and_the_latest_painted_frames(sam2: PromptableSam2) -> None:
    tracker, features = sam2.tracker(40), sam2.encode([PICTURE])
    for index in range(0, 40, 4):
        tracker.paint(index, features, sam2.painted([np.ones((30, 60), bool)]))
        tracker.forget(3)
        tracker.step(index + 1, features, None)
    assert list(tracker.key_memories) == [0, 32, 36]
    tracker.forget(1)
    assert list(tracker.key_memories) == [0]
    assert len(tracker.other_memories) <= 16
