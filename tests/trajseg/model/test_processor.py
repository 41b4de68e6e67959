"""Conversion of text and pictures for the model, and of its masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trajseg.data.sentences import NO_OBJECT, grounding_answer
from trajseg.errors import CheckpointError
from trajseg.model.dialogue import captions_of, segment_request
from trajseg.model.processor import IMAGENET_MEAN, IMAGENET_STD, TrajSegProcessor, inner_size, letterbox, word_tokenizer
from trajseg.video.spacing import sampled_frames


@pytest.fixture(scope="module")
def processor() -> TrajSegProcessor:
    words = [
        "user",
        ":",
        "assistant",
        "segment",
        "in",
        "the",
        "video",
        ".",
        ";",
        "red",
        "blue",
        "circle",
        "which",
        "one",
        "?",
        "there",
        "is",
        "no",
        "such",
        "object",
    ]
    return TrajSegProcessor(word_tokenizer(words), llm_size=64, mask_size=64)


def test_special_tokens_stand_in_the_order_of_the_paper_after_the_basic_ones(processor: TrajSegProcessor) -> None:
    ids = processor.tokenizer.convert_tokens_to_ids(
        ["[SEG]", "<im_start>", "<im_end>", "<vd_start>", "<vd_end>", "<traj_start>", "<traj_end>"]
    )
    assert ids == list(range(4, 11))


def test_a_prompt_wraps_every_frame_and_ends_where_the_assistant_begins(processor: TrajSegProcessor) -> None:
    before, after = processor.prompt_ids("The RED circle.", frames=3)
    assert processor.text(before[0]) == "<s> user : <vd_start> <im_start>"
    assert [processor.text(ids) for ids in before[1:]] == ["<im_end> <im_start>"] * 2
    assert processor.text(after) == "<im_end> <vd_end> segment the red circle in the video . assistant :"


def test_questions_are_asked_as_they_are() -> None:
    assert segment_request("Which one?") == "which one?"
    assert segment_request("  The  red\ncircle. ") == "segment the red circle in the video ."


def test_unknown_words_do_not_break_a_sentence(processor: TrajSegProcessor) -> None:
    assert processor.text(processor.ids("the zebra, red!")) == "the <unk> <unk> red <unk>"


@pytest.mark.parametrize("captions", [[], ["a red circle"], ["a red circle", "a blue circle"]])
def test_captions_survive_the_way_through_an_answer(processor: TrajSegProcessor, captions: list[str]) -> None:
    answer = processor.text(processor.ids(grounding_answer(captions)))
    assert captions_of(answer) == [" ".join(processor.text(processor.ids(c)).split()) for c in captions]
    assert (answer == NO_OBJECT) == (not captions)


@pytest.mark.parametrize(("frame_count", "expected"), [(3, [0, 1, 2]), (8, [*range(8)]), (16, [*range(1, 16, 2)])])
def test_the_language_model_sees_the_centres_of_equal_bins(frame_count: int, expected: list[int]) -> None:
    assert sampled_frames(frame_count, 8) == expected


@pytest.mark.parametrize("frame_count", [9, 12, 37, 64, 1259])
def test_sampled_frames_agree_with_those_on_which_the_data_is_judged(frame_count: int) -> None:
    from trajseg.shapes.world.scenes import bin_centres

    assert sampled_frames(frame_count, 8) == bin_centres(frame_count).tolist()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (37, 101), (64, 64), (720, 1280)])
def test_a_mask_drawn_in_the_letterbox_comes_back_to_its_place(
    processor: TrajSegProcessor, height: int, width: int
) -> None:
    inner_height, inner_width = inner_size(height, width, 64)
    logits = torch.full((1, 64, 64), -5.0)
    logits[:, : inner_height // 2, : inner_width // 2] = 5.0
    mask = processor.to_picture(logits, height, width)[0] > 0
    truth = torch.zeros(height, width, dtype=torch.bool)
    truth[
        : round(height * (inner_height // 2) / inner_height),
        : round(width * (inner_width // 2) / inner_width),
    ] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_letterboxing_normalises_the_picture_and_pads_right_and_below() -> None:
    frame = np.full((30, 60, 3), 255, np.uint8)
    picture = letterbox(frame, 64)
    white = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(picture[:, 10, 10], white, atol=1e-5, rtol=1e-5)
    assert (picture[:, 32:] == 0).all()
    assert (picture[:, :32] != 0).all()


def test_a_processor_comes_back_as_it_was_saved(processor: TrajSegProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = TrajSegProcessor.from_pretrained(tmp_path)
    sentence = "segment the red circle [SEG] ; <vd_start>"
    assert loaded.ids(sentence) == processor.ids(sentence)
    assert (loaded.seg_id, loaded.end_id, loaded.mask_size) == (processor.seg_id, processor.end_id, 64)
    (tmp_path / "processor.json").unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        TrajSegProcessor.from_pretrained(tmp_path)
