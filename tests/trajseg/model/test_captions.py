"""Captions of tracks: the model's input, independence of tracks, and rejected input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.scripted import ScriptedEngine
from tests.tiny_clip import TinyClip
from trajseg.data.sentences import CAPTION_REQUEST
from trajseg.engines.trajseg import VideoSegmenter, trajectory
from trajseg.errors import CancelledError, CheckpointError, InputError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.dialogue import caption_of
from trajseg.shapes.recipe.texts import shapes_processor
from trajseg.tracks import MaskTrack
from trajseg.video import Clip, open_clip
from trajseg.video.spacing import sampled_frames


@pytest.fixture(scope="module")
def segmenter() -> VideoSegmenter:
    torch.manual_seed(0)
    processor = shapes_processor(256)
    config = TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)
    config.max_new_tokens = 12
    return VideoSegmenter(TrajSegModel(config).eval(), processor, "random")


@pytest.fixture(scope="module")
def clip(tiny_clip: TinyClip) -> Clip:
    return open_clip(tiny_clip.path)


def track(masks: list[np.ndarray], uid: str = "t1") -> MaskTrack:
    return MaskTrack.from_masks(uid, masks, [index / 12 for index in range(len(masks))], [1.0] * len(masks))


def test_a_trajectory_is_the_boxes_in_units_of_the_longer_side(tiny_clip: TinyClip, clip: Clip) -> None:
    boxes = trajectory(track(tiny_clip.blue), clip, [0, 3, 8])
    # The blue square starts at x = 64, y = 36, 20 pixels per side, of 96 x 64, and is absent from frame 8 on.
    expected = torch.tensor([[64, 36, 84, 56], [46, 36, 66, 56], [0, 0, 0, 0]]) / 96
    torch.testing.assert_close(boxes, expected)


def test_every_track_is_described_as_if_it_were_alone(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, clip: Clip
) -> None:
    nothing = [np.zeros((64, 96), bool)] * 12
    tracks = [track(tiny_clip.red, "a"), track(nothing, "b"), track(tiny_clip.blue, "c")]
    steps: list[tuple[int, int]] = []
    captions = segmenter.caption(clip, tracks, lambda done, total: steps.append((done, total)))
    assert captions == [segmenter.caption(clip.path, [one])[0] for one in tracks]
    assert captions[1] == ""
    assert captions[0]
    assert steps == [(2, 3), (3, 3)]
    assert segmenter.caption(clip, []) == []


@pytest.mark.parametrize(("free", "together"), [(1 << 40, [3]), (0, [1, 1, 1])])
def test_as_many_tracks_are_described_at_once_as_memory_allows(
    segmenter: VideoSegmenter,
    tiny_clip: TinyClip,
    clip: Clip,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    together: list[int],
) -> None:
    model, tracks = segmenter.model, [track(tiny_clip.red, uid) for uid in "abc"]
    alone = segmenter.caption(clip, tracks[:1])
    answers, sizes = model.answers, []

    def counted(prompts: torch.Tensor, end_id: int) -> object:
        sizes.append(len(prompts))
        return answers(prompts, end_id)

    monkeypatch.setattr(model, "answers", counted)
    monkeypatch.setattr("trajseg.engines.trajseg.free_bytes", lambda _device: free)
    assert segmenter.caption(clip, tracks) == alone * 3
    assert sizes == together


@pytest.mark.parametrize(("fit", "tried"), [(3, [3]), (2, [3, 2, 1]), (1, [3, 2, 1, 1, 1])])
def test_batches_are_halved_when_memory_runs_out_after_all_with_the_same_captions(
    segmenter: VideoSegmenter,
    tiny_clip: TinyClip,
    clip: Clip,
    monkeypatch: pytest.MonkeyPatch,
    fit: int,
    tried: list[int],
) -> None:
    """The free memory is only an estimate: other processes use the card, too."""
    model, masks = segmenter.model, (tiny_clip.red, tiny_clip.blue, tiny_clip.red[::-1])
    tracks = [track(list(each), uid) for each, uid in zip(masks, "abc", strict=True)]
    alone = [segmenter.caption(clip, [one])[0] for one in tracks]
    answers, sizes = model.answers, []

    def short(prompts: torch.Tensor, end_id: int) -> object:
        sizes.append(len(prompts))
        if len(prompts) > fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.39 GiB.")
        return answers(prompts, end_id)

    monkeypatch.setattr(model, "answers", short)
    assert segmenter.caption(clip, tracks) == alone
    assert sizes == tried


@torch.inference_mode()
def test_the_prompt_is_the_clip_then_the_trajectory_then_the_request(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written out token by token."""
    model, processor = segmenter.model, segmenter.processor
    answers = model.answers
    prompts: list[Any] = []

    def noted(given: Any, end_id: int) -> Any:
        prompts.append(given)
        return answers(given, end_id)

    monkeypatch.setattr(model, "answers", noted)
    segmenter.caption(clip, [track(tiny_clip.red)])
    monkeypatch.undo()
    sampled = sampled_frames(12, 8)
    pixels = processor.llm_pixels([frame for _, frame in clip.frames(sampled)])
    states = model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    visual = model.visual_tokens(states[-1][:, 1:])
    boxes = model.trajectory_embeddings(states, trajectory(track(tiny_clip.red), clip, sampled))

    def words(text: str) -> torch.Tensor:
        return model.embed_words(torch.tensor(processor.ids(text)))

    parts = [words("<s> user : <vd_start>")]
    for n in range(8):
        own = visual.embeddings[visual.frame == n] + model.frame_embedding.weight[n]
        parts += [words("<im_start>"), own, words("<im_end>")]
    parts += [words("<vd_end> <traj_start>"), boxes + model.frame_embedding.weight, words("<traj_end>")]
    parts.append(words(f"{CAPTION_REQUEST} assistant :"))
    torch.testing.assert_close(prompts[0][0], torch.cat(parts), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_prompts_answered_together_get_the_answers_that_they_get_alone(segmenter: VideoSegmenter) -> None:
    model, ends = segmenter.model, set()
    prompts = torch.randn(4, 9, 128, generator=torch.Generator().manual_seed(1))
    loud = model.answers(prompts, end_id=-1)
    # A token in some of the answers ends them early, at different positions.
    end_id = loud[0].ids[3]
    for together, prompt in zip(model.answers(prompts, end_id), prompts, strict=True):
        alone = model.answer(prompt, end_id)
        assert together.ids == alone.ids
        torch.testing.assert_close(together.trajectories, alone.trajectories, atol=1e-4, rtol=1e-3)
        ends.add(len(alone.ids))
    assert len(ends) > 1


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("a small red circle moving left [SEG] .", "a small red circle moving left"),
        ("a ring , it leaves the picture [SEG] .", "a ring , it leaves the picture"),
        ("there is no such object .", "there is no such object"),
        ("", ""),
    ],
)
def test_a_caption_is_what_stands_before_seg(answer: str, caption: str) -> None:
    assert caption_of(answer) == caption


def test_what_cannot_be_described_is_refused_before_anything_is_read(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, clip: Clip
) -> None:
    with pytest.raises(InputError, match="t1 has 5 frames"):
        segmenter.caption(clip, [track(tiny_clip.red[:5])])
    config = TrajSegConfig.tiny(60, 4)
    config.trajectory_encoder = None
    plain = VideoSegmenter(TrajSegModel(config).eval(), segmenter.processor, "plain")
    with pytest.raises(CheckpointError, match="without a trajectory encoder"):
        plain.caption(clip, [track(tiny_clip.red)])


def test_a_cancelled_caption_stops(segmenter: VideoSegmenter, tiny_clip: TinyClip, clip: Clip) -> None:
    def cancel(done: int, total: int) -> None:
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        segmenter.caption(clip, [track(tiny_clip.red)], cancel)


def test_the_segmenter_is_a_captioner_and_an_engine_without_captions_is_not(
    segmenter: VideoSegmenter, scripted_engine: ScriptedEngine
) -> None:
    assert segmenter.spec.captions
    assert not scripted_engine.spec.captions
