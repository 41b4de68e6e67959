"""Boxes and clicks have the format of SAM's ONNX decoder, and MobileSAM's weights are checked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajseg.checkpoints.places import marks_folder
from trajseg.correction.mobile_sam import DECODER_INPUTS, FRAMES_KEPT, MobileSam, encoder_input
from trajseg.errors import CheckpointError, InputError
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip

ROOT = Path(__file__).parents[3]


class FakeSession:
    """A substitute for an ONNX session: returns one array and records its inputs."""

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer
        self.feeds: list[dict[str, np.ndarray]] = []

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.feeds.append(input_feed)
        return [self.answer]


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


@pytest.fixture
def encoder() -> FakeSession:
    return FakeSession(np.ones((1, 256, 64, 64), np.float32))


@pytest.fixture
def decoder(tiny_clip: Any) -> FakeSession:
    return FakeSession(np.where(tiny_clip.red[3], 2.0, -2.0).astype(np.float32)[None, None])


def test_a_box_is_two_corners_in_the_encoder_s_pixels(
    clip: Clip, tiny_clip: Any, encoder: FakeSession, decoder: FakeSession
) -> None:
    mask = MobileSam(encoder, decoder).mark(clip, Mark(3, (12.0, 6.0, 24.0, 18.0)), "the red square", {})
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, tiny_clip.red[3])
    (feed,) = decoder.feeds
    assert list(feed) == list(DECODER_INPUTS)
    assert feed["point_labels"].tolist() == [[2, 3]]
    assert np.allclose(feed["point_coords"], np.array([[[12, 6], [36, 24]]]) * 1024 / 96)
    assert feed["orig_im_size"].tolist() == [64, 96]
    assert (feed["has_mask_input"].tolist(), feed["mask_input"].shape) == ([0], (1, 1, 256, 256))


def test_a_click_comes_with_a_padding_point(clip: Clip, encoder: FakeSession, decoder: FakeSession) -> None:
    MobileSam(encoder, decoder).mark(clip, Mark(3, (29.0, 15.0, 1.0, 1.0), point=True))
    (feed,) = decoder.feeds
    assert feed["point_labels"].tolist() == [[1, -1]]
    assert np.allclose(feed["point_coords"][0], np.array([[29.5 * 1024 / 96, 15.5 * 1024 / 96], [0, 0]]))


def test_the_picture_is_normalised_and_padded_at_the_right_or_below() -> None:
    square = encoder_input(np.full((50, 100, 3), (255, 0, 104), np.uint8))
    assert (square.shape, square.dtype) == ((1, 3, 1024, 1024), np.float32)
    assert np.allclose(square[0, :, 0, 0], [(255 - 123.675) / 58.395, -116.28 / 57.12, (104 - 103.53) / 57.375])
    assert np.allclose(square[0, :, 511, 1023], square[0, :, 0, 0])
    assert not square[:, :, 512:].any()
    assert not encoder_input(np.full((100, 50, 3), 9, np.uint8))[..., 512:].any()


def test_a_frame_is_encoded_once_while_it_is_kept(clip: Clip, encoder: FakeSession, decoder: FakeSession) -> None:
    model, box = MobileSam(encoder, decoder), (12.0, 6.0, 24.0, 18.0)
    for index in (0, 0, 1, 0):
        model.mark(clip, Mark(index, box))
    assert len(encoder.feeds) == 2
    for index in range(2, FRAMES_KEPT + 1):
        model.mark(clip, Mark(index, box))
    assert len(encoder.feeds) == FRAMES_KEPT + 1
    model.mark(clip, Mark(0, box))
    assert len(encoder.feeds) == FRAMES_KEPT + 1
    model.mark(clip, Mark(1, box))
    assert len(encoder.feeds) == FRAMES_KEPT + 2


@pytest.mark.parametrize("mark", [Mark(12, (1, 1, 5, 5)), Mark(0, (200, 1, 5, 5)), Mark(0, (-9, 1, 2, 2), True)])
def test_a_mark_beside_the_clip_is_refused(mark: Mark, clip: Clip, encoder: FakeSession, decoder: FakeSession) -> None:
    with pytest.raises(InputError, match="mark"):
        MobileSam(encoder, decoder).mark(clip, mark)
    assert not decoder.feeds


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAJSEG_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "mobile-sam").mkdir()
    (tmp_path / "mobile-sam" / "encoder.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"lacks sam\.onnx\. .*trajseg weights get mobile-sam"):
        MobileSam.from_folder(marks_folder("mobile-sam"))


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra `marks`")
def test_a_file_that_is_not_a_model_is_named(tmp_path: Path) -> None:
    for name in ("encoder.onnx", "sam.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx cannot be loaded"):
        MobileSam.from_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra `marks`")
def test_real_weights_draw_real_objects_from_one_mark() -> None:
    """The hand-checked masks of both real clips; GrabCut scores lower on each."""
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "proof_marks.py", "--marks", "3"], capture_output=True, text=True
    )
    if run.returncode == 3:
        pytest.skip(run.stdout.strip())
    assert run.returncode == 0, run.stderr
    j = json.loads(run.stdout.splitlines()[-1])
    for clip in ("yellow_box", "rabbit"):
        assert j[f"{clip}_box"] >= 0.85
        assert j[f"{clip}_click"] >= 0.75
        assert j[f"{clip}_box"] > j[f"{clip}_box_grabcut"]
        assert j[f"{clip}_click"] > j[f"{clip}_click_grabcut"]
