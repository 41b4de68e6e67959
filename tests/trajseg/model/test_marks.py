"""Boxes and clicks on a frame: compared with Meta's sam2 package, and combined with instruction and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from trajseg.engines.marked import MarkedObject
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import CheckpointError, InputError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.marks import Marks, draw_marked
from trajseg.model.mask_decoder import Tracker
from trajseg.shapes.recipe.texts import shapes_processor
from trajseg.tracks.mark import Mark, fit
from trajseg.video import Clip, open_clip, write_video


@pytest.fixture(scope="module")
def untrained() -> VideoSegmenter:
    """The tiny model as if it had SAM 2's pre-training, with embeddings of visible weight."""
    torch.manual_seed(0)
    processor = shapes_processor(256)
    config = TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)
    config.prompted_by_boxes = True
    model = TrajSegModel(config).eval()
    with torch.no_grad():
        model.visual_model.no_mem_embed.normal_()
    return VideoSegmenter(model, processor, "untrained")


@pytest.fixture(scope="module")
def shipped() -> VideoSegmenter:
    return VideoSegmenter.from_pretrained("trajseg-tiny", device="cpu")


@pytest.fixture
def clip(tiny_clip: Any) -> Clip:
    return open_clip(tiny_clip.path)


@pytest.mark.parametrize("click", [False, True])
@torch.no_grad()
def test_a_mark_is_drawn_as_sam2_draws_it(untrained: VideoSegmenter, click: bool) -> None:
    """One mask for a box, the best of three for a single click."""
    torch.manual_seed(1)
    sam2 = untrained.model.visual_model
    frame = untrained.model.encode_frames(torch.randn(3, 3, 256, 256))
    corners = torch.tensor([[20.0, 30.0, 90.0, 70.0], [0.0, 0.0, 255.0, 255.0], [200.5, 3.25, 201.5, 250.0]])
    points = corners[:, None, :2] if click else corners.view(3, 2, 2)
    labels = torch.tensor([[1]] if click else [[2, 3]], dtype=torch.int32).expand(3, -1)
    expected = sam2._forward_sam_heads(
        backbone_features=frame.top + sam2.no_mem_embed.view(1, -1, 1, 1),
        point_inputs={"point_coords": points, "point_labels": labels},
        high_res_features=[frame.s0, frame.s1],
        multimask_output=sam2._use_multimask(True, {"point_labels": labels}),
    )
    marks = Marks.clicks(corners[:, :2]) if click else Marks.boxes(corners)
    drawn = draw_marked(Tracker(sam2, 1), 0, frame, marks)
    torch.testing.assert_close(drawn.gated(), expected[3][:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn.pointer, expected[5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn.score, expected[6][:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("point", [False, True])
def test_a_hint_is_counted_in_the_pixels_that_sam2_counts(
    untrained: VideoSegmenter, tmp_path: Path, point: bool
) -> None:
    """From a person's rectangle on a video to the mask, compared with the sam2 package's image predictor."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(32, 0).repeat(32, 1) for _ in range(2)]
    clip = open_clip(write_video(tmp_path / "square.mp4", pictures, 12.0))
    prompt = Mark(1, (60.0, 40.0, 1.0, 1.0) if point else (60.0, 40.0, 100.0, 90.0), point)
    predictor = SAM2ImagePredictor(untrained.model.visual_model)
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it is written for pictures of 1024 pixels
    predictor.set_image(next(clip.frames([1]))[1])
    if point:
        masks, scores, _ = predictor.predict(point_coords=np.array([[60, 40]]), point_labels=np.array([1]))
        expected = masks[scores.argmax()]
    else:
        (expected,), _, _ = predictor.predict(box=np.array([60, 40, 159, 129]), multimask_output=False)
    with torch.inference_mode():
        hinted = MarkedObject(untrained.promptable(), clip, prompt, {})
        mask = (hinted.logits(torch.zeros(0, 128)) > 0).numpy()
    assert 0 < expected.sum() < expected.size
    assert (mask == (expected > 0)).mean() > 0.9999


def test_marks_move_with_the_letterboxed_picture() -> None:
    marks = Marks.boxes(torch.tensor([[0.0, 10.0, 199.0, 99.0]])).letterboxed(100, 200, 256)
    torch.testing.assert_close(marks.coordinates, torch.tensor([[[0.0, 12.8], [254.72, 126.72]]]))
    assert marks.labels.tolist() == [[2, 3]]


def test_a_mark_beside_the_clip_is_refused(untrained: VideoSegmenter, clip: Clip) -> None:
    for prompt in (Mark(12, (1, 1, 5, 5)), Mark(0, (200, 1, 5, 5)), Mark(0, (-9, 1, 2, 2), point=True)):
        with pytest.raises(InputError, match="mark"):
            untrained.mark(clip, prompt, "")


def test_weights_that_never_saw_boxes_say_so(untrained: VideoSegmenter, clip: Clip) -> None:
    untrained.model.config.prompted_by_boxes = False
    try:
        assert not untrained.spec.marks
        with pytest.raises(CheckpointError, match="not trained with boxes"):
            untrained.mark(clip, Mark(0, (1, 1, 5, 5)), "")
    finally:
        untrained.model.config.prompted_by_boxes = True


def test_memory_is_heard_only_of_the_object_that_is_marked(shipped: VideoSegmenter, clip: Clip, tiny_clip: Any) -> None:
    """A mark corrects an error: knowledge about another object must not move the mask there."""
    known = {2: tiny_clip.red[2], 6: tiny_clip.red[6]}
    red, blue = Mark(4, (27.0, 7.0, 18.0, 18.0)), Mark(4, (39.0, 35.0, 22.0, 22.0))
    with torch.inference_mode():
        assert MarkedObject(shipped.promptable(), clip, red, known).remembered()
        assert not MarkedObject(shipped.promptable(), clip, blue, known).remembered()
        assert not MarkedObject(shipped.promptable(), clip, red, {}).remembered()


@pytest.mark.parametrize(("fits", "heard"), [([0.2, 0.8, 0.6], 1), ([0.2, 0.4, 0.3], None)])
@torch.inference_mode()
def test_of_several_objects_that_an_instruction_means_the_marked_one_is_heard(
    untrained: VideoSegmenter, clip: Clip, monkeypatch: pytest.MonkeyPatch, fits: list[float], heard: int | None
) -> None:
    hinted = MarkedObject(untrained.promptable(), clip, Mark(0, (4.0, 8.0, 16.0, 16.0)), {})
    monkeypatch.setattr(hinted, "_fits", lambda alone: fits)
    tokens = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    prompts = untrained.model.prompts(tokens, hinted.frame)[:, 0]
    meant = hinted.meant(prompts)
    if heard is None:
        assert meant is None
    else:
        assert meant is not None
        torch.testing.assert_close(meant, prompts[heard : heard + 1])
        assert not torch.equal(hinted.logits(prompts), hinted.logits(prompts[:0]))


def test_an_uncertain_mask_is_empty(untrained: VideoSegmenter, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 or 66 of 100 pixels are certain."""
    hinted = MarkedObject(untrained.promptable(), clip, Mark(0, (4.0, 8.0, 16.0, 16.0)), {})
    for sure, area in ((64, 0), (66, 100)):
        logits = torch.full((64, 96), -9.0)
        logits[0, :sure], logits[1, : 100 - sure] = 9.0, 0.5
        monkeypatch.setattr(hinted, "logits", lambda trajectories, logits=logits: logits)
        mask = hinted.mask(torch.zeros(0, 128))
        assert (mask.dtype, int(mask.sum())) == (np.bool_, area)


def test_how_a_mask_fits_a_mark() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    assert fit(mask, Mark(0, (10, 5, 10, 10))) == 1.0
    assert fit(mask, Mark(0, (10, 5, 20, 10))) == 0.5
    assert (fit(mask, Mark(0, (12, 7, 1, 1), True)), fit(mask, Mark(0, (2, 7, 1, 1), True))) == (1.0, 0.0)
    assert fit(mask & False, Mark(0, (10, 5, 10, 10))) == 0.0
