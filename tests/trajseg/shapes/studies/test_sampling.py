"""Other numbers of frames than the checkpoint's: frames seen, prompted frames, and likelihood of the answer."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_clip import TinyClip
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import InputError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.model.modeling import Answer
from trajseg.model.sampling import Sampling
from trajseg.shapes.recipe.texts import shapes_processor


@pytest.fixture(scope="module")
def segmenter() -> VideoSegmenter:
    torch.manual_seed(0)
    processor = shapes_processor(256)
    model = TrajSegModel(TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)).eval()
    return VideoSegmenter(model, processor, "random")


@pytest.fixture
def answering(segmenter: VideoSegmenter, monkeypatch: pytest.MonkeyPatch) -> VideoSegmenter:
    """The model always answers that there is one object."""
    token = torch.randn(1, 128, generator=torch.Generator().manual_seed(5))
    said = Answer(segmenter.processor.ids("a red square [SEG] ."), token)
    monkeypatch.setattr(segmenter.model, "answer", lambda prompt, end_id: said)
    return segmenter


def test_key_frames_begin_with_the_first_and_are_spread_over_those_that_are_seen() -> None:
    seen = Sampling().seen(64, own=8)
    assert seen == [4, 12, 20, 28, 36, 44, 52, 60]
    assert Sampling().keys(seen) == [0, *seen]
    assert Sampling(key_frames=1).keys(seen) == [0]
    assert Sampling(key_frames=2).keys(seen) == [0, 28]
    assert Sampling(key_frames=4).keys(seen) == [0, 12, 28, 44]
    assert Sampling(key_frames=20).keys(seen) == [0, *seen]
    assert Sampling(key_frames=8).keys([0, 1, 2]) == [0, 1, 2]


def test_fewer_frames_are_known_by_the_numbers_of_their_moments() -> None:
    assert Sampling().numbers(8, own=8) == Sampling(llm_frames=8).numbers(8, own=8) == list(range(8))
    assert Sampling().numbers(3, own=8) == [0, 1, 2], "a clip shorter than the model's frames stays as it was"
    assert Sampling(llm_frames=4).numbers(4, own=8) == [1, 3, 5, 7]
    assert Sampling(llm_frames=1).numbers(1, own=8) == [4]
    assert Sampling(llm_frames=12).numbers(12, own=8) == list(range(12))


def test_what_cannot_be_looked_at_is_refused(segmenter: VideoSegmenter) -> None:
    with pytest.raises(InputError, match="knows 8"):
        segmenter.sampled(Sampling(llm_frames=9))
    with pytest.raises(InputError, match="key_frames is 0"):
        Sampling(key_frames=0)


@pytest.mark.slow
def test_only_key_frames_get_a_prompt_while_the_language_model_sees_all_of_its_frames(
    answering: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompted: list[int] = []
    looked: list[int] = []
    step, see = Tracker.step, answering.model.vision_states

    def watched(self: Tracker, index: int, frame: FrameFeatures, prompt: torch.Tensor | None, key: bool) -> DecodedMask:
        prompted.extend([index] if prompt is not None else [])
        assert key == (index in keys)
        return step(self, index, frame, prompt, key=key)

    monkeypatch.setattr(Tracker, "step", watched)

    def seen(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        looked.append(len(pixels))
        return see(pixels)

    monkeypatch.setattr(answering.model, "vision_states", seen)
    for sampling, keys, count, everywhere in (
        (Sampling(), [0, 2, 3, 5, 6, 8, 9, 11], 8, True),
        (Sampling(llm_frames=2), [0, 3, 9], 2, True),
        (Sampling(key_frames=2), [0, 6], 8, False),
    ):
        for every_frame in (True, False):
            monkeypatch.setattr(answering.model.config, "prompt_every_frame", every_frame)
            prompted.clear()
            looked.clear()
            frames = list(answering.sampled(sampling).segment(tiny_clip.path, "the red square"))
            assert (prompted, looked) == (list(range(12)) if every_frame and everywhere else keys, [count])
            assert [frame.index for frame in frames] == list(range(12))


def test_the_checkpoints_own_frames_requested_by_number_change_nothing(
    answering: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering.model.config, "prompt_every_frame", False)
    own = list(answering.segment(tiny_clip.path, "the red square"))
    assert list(answering.sampled(Sampling(8, 9)).segment(tiny_clip.path, "the red square")) == own


@torch.inference_mode()
def test_how_sure_an_answer_is_comes_from_each_of_its_words_and_its_end(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = segmenter.model, segmenter.processor
    monkeypatch.setattr(model.config, "max_new_tokens", 3)
    prompts: list[torch.Tensor] = []
    answer = model.answer

    def noted(prompt: torch.Tensor, end_id: int) -> Answer:
        prompts.append(prompt)
        return answer(prompt, end_id)

    monkeypatch.setattr(model, "answer", noted)
    said = segmenter.answer(tiny_clip.path, "the red square")
    inputs = prompts[0]
    logs: list[float] = []
    words: list[int] = []
    for _ in range(4):
        hidden = model.language_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0, -1]
        spoken = model.llava.lm_head(hidden).log_softmax(-1)
        token = int(spoken.argmax()) if len(words) < 3 else processor.end_id
        logs.append(float(spoken[token]))
        words.append(token)
        inputs = torch.cat([inputs, model.embed_words(torch.tensor([token]))])
    assert said.text == processor.text(words[:3])
    assert said.log_likelihoods == pytest.approx(logs, abs=1e-4)


def test_a_run_of_frames_that_is_nowhere_sure_is_not_drawn(
    answering: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter((0.5, 0.9, -1, 0.5, 2, 0.5, -1, -1, 1.5, -1, 0.9, 0.5) * 2)

    def step(self: Tracker, index: int, frame: FrameFeatures, prompt: torch.Tensor | None, key: bool) -> DecodedMask:
        return DecodedMask(torch.ones(1, 64, 64), torch.tensor([float(next(scores))]), torch.zeros(1, 128))

    monkeypatch.setattr(Tracker, "step", step)
    drawn = []
    for start in (0.0, 1.0):
        monkeypatch.setattr(answering.model.config, "start_score", start)
        frames = answering.segment(tiny_clip.path, "the red square").result().tracks[0].frames
        drawn.append([frame.index for frame in frames if frame.rle])
        assert all(frame.score > 0 for frame in frames if frame.rle)
    assert drawn == [[0, 1, 3, 4, 5, 8, 10, 11], [3, 4, 5, 8]]
