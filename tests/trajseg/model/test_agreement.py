"""Agreement of captions with instructions: likelihoods against loops, and equal captions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.scripted import ScriptedEngine
from tests.tiny_clip import TinyClip
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import InstructionError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.agreement import CONTRADICTION
from trajseg.model.modeling import LIKELIHOODS_AT_ONCE, Answer
from trajseg.shapes.recipe.texts import shapes_processor

RED, BLUE = "a small red square moving right", "a small blue square moving left"


@pytest.fixture(scope="module")
def segmenter() -> VideoSegmenter:
    torch.manual_seed(0)
    processor = shapes_processor(256)
    model = TrajSegModel(TrajSegConfig.tiny(len(processor.tokenizer), processor.seg_id)).eval()
    torch.nn.init.normal_(model.llava.lm_head.weight, std=0.3)  # words must differ in likelihood
    return VideoSegmenter(model, processor, "random")


@torch.inference_mode()
def test_a_likelihood_is_the_product_of_word_after_word(segmenter: VideoSegmenter) -> None:
    model = segmenter.model
    prompt = torch.randn(7, 128, generator=torch.Generator().manual_seed(1))
    texts = [[5, 9, 4, 30], [17], [8, 8]] * LIKELIHOODS_AT_ONCE
    for text, found in zip(texts[:5], model.log_likelihoods(prompt, texts)[:5], strict=True):
        inputs = prompt
        for number, token in enumerate(text):
            hidden = model.language_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0, -1]
            chance = model.llava.lm_head(hidden).softmax(-1)[token]
            assert float(found[number]) == pytest.approx(float(chance.log()), abs=1e-4)
            inputs = torch.cat([inputs, model.embed_words(torch.tensor([token]))])


def says(segmenter: VideoSegmenter, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = segmenter.processor.ids(text)
    monkeypatch.setattr(segmenter.model, "answer", lambda prompt, end_id: Answer(ids, torch.zeros(0, 128)))


def test_what_the_model_says_itself_agrees_wholly(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(segmenter, f"{RED} [SEG] ; {BLUE} [SEG] .", monkeypatch)
    values = segmenter.agreement(tiny_clip.path, "everything that moves", [BLUE, RED, ""])
    assert values[0] >= -1e-4
    assert values[1] >= -1e-4
    assert values[2] == 0.0


def test_agreement_is_the_likelihood_ratio_with_the_answer(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = segmenter.model, segmenter.processor
    prompts: list[torch.Tensor] = []
    likelihoods = model.log_likelihoods

    def noted(prompt: torch.Tensor, texts: list[list[int]]) -> Any:
        prompts.append(prompt)
        return likelihoods(prompt, texts)

    monkeypatch.setattr(model, "log_likelihoods", noted)
    for answer, own in ((f"{RED} [SEG] .", f"{RED} [SEG]"), ("there is no such object .", "there is no such object .")):
        says(segmenter, answer, monkeypatch)
        [found] = segmenter.agreement(tiny_clip.path, "the red square", [BLUE])
        first, second = likelihoods(prompts[-1], [processor.ids(f"{BLUE} [SEG]"), processor.ids(own)])
        assert found == pytest.approx(float(first.sum() - second.sum()), abs=1e-3)


def test_a_contradiction_is_an_agreement_below_the_threshold(
    segmenter: VideoSegmenter, tiny_clip: TinyClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "agreement", lambda *_: [CONTRADICTION - 0.1, CONTRADICTION + 0.1])
    assert segmenter.contradictions(tiny_clip.path, "the red square", [BLUE, RED]) == [True, False]


def test_the_segmenter_compares_and_refuses_an_empty_instruction(
    segmenter: VideoSegmenter, scripted_engine: ScriptedEngine, tiny_clip: TinyClip
) -> None:
    assert segmenter.spec.compares
    assert not scripted_engine.spec.compares
    with pytest.raises(InstructionError):
        segmenter.agreement(tiny_clip.path, " ", [RED])
