"""Detectors of the real class, saved and loaded like the hub's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from tests.trajseg.engines.grounded import checkpoints
from trajseg.engines.grounded.detector import GroundingDetector, spoken
from trajseg.errors import CheckpointError, InstructionError

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> GroundingDetector:
    return GroundingDetector.from_pretrained(checkpoints.save_detector(tmp_path_factory.mktemp("detector")))


def test_boxes_lie_in_the_picture_and_carry_a_phrase(detector: GroundingDetector) -> None:
    first, second = detector.detect([PICTURE, PICTURE[:, :90]], ["the Red circle.", "star"], 0.0)
    assert len(first) == len(second) == detector.model.config.num_queries
    for found, width in ((first, 160), (second, 90)):
        assert {one.phrase for one in found} <= {"the red circle", "star"}
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            left, top, right, bottom = one.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= 90


def test_detections_do_not_depend_on_the_other_pictures_of_a_batch(detector: GroundingDetector) -> None:
    [alone] = detector.detect([PICTURE], ["star"], 0.0)
    among, _ = detector.detect([PICTURE, PICTURE[::-1]], ["star"], 0.0)
    assert np.allclose([one.score for one in alone], [one.score for one in among], atol=1e-4)


def test_the_score_of_a_phrase_is_the_mean_over_its_tokens(detector: GroundingDetector) -> None:
    inputs = detector.processor(images=[PICTURE], text=[["red circle", "star"]], return_tensors="pt")
    with torch.inference_mode():
        logits = detector.model(**inputs).logits[0].sigmoid()
    red, circle, star = (
        (inputs["input_ids"][0] == token).nonzero()[0, 0]
        for token in detector.processor.tokenizer.convert_tokens_to_ids(["red", "circle", "star"])
    )
    expected = torch.stack([(logits[:, red] + logits[:, circle]) / 2, logits[:, star]], 1).max(1).values
    [found] = detector.detect([PICTURE], ["red circle", "star"], 0.0)
    assert np.allclose([one.score for one in found], expected.sort(descending=True).values, atol=1e-5)


def test_a_high_threshold_leaves_nothing(detector: GroundingDetector) -> None:
    assert detector.detect([PICTURE], ["star"], 1.01) == [[]]


def test_too_many_words_are_an_error(detector: GroundingDetector) -> None:
    with pytest.raises(InstructionError, match="at most 64 tokens"):
        detector.detect([PICTURE], ["the red circle " * 40], 0.3)


def test_unknown_word_still_counts_as_a_word(detector: GroundingDetector) -> None:
    [found] = detector.detect([PICTURE], ["zzz", "star"], 0.0)
    assert {one.phrase for one in found} <= {"zzz", "star"}


def test_full_stops_do_not_split_a_phrase() -> None:
    assert spoken(" The man, in No. 7! ") == "the man in no 7"


def published_like(backbone: dict[str, Any]) -> MMGroundingDinoConfig:
    """The architecture of the published checkpoints (Swin, BERT, four levels), narrower."""
    return MMGroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=4,
            **backbone | {"out_indices": [2, 3, 4]},
        ),
        text_config=BertConfig(
            vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        num_queries=12,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )


def test_swin_backbone_as_in_published_checkpoints(tmp_path: Path) -> None:
    checkpoints.save_detector(tmp_path)
    MMGroundingDinoForObjectDetection(published_like({})).save_pretrained(tmp_path)
    [found] = GroundingDetector.from_pretrained(tmp_path).detect([PICTURE], ["star"], 0.0)
    assert len(found) == 12


@pytest.mark.parametrize("save", [lambda folder: None, lambda folder: _save_clip(folder)])
def test_another_model_is_refused(save: Callable[[Path], None], tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(CheckpointError, match="detector"):
        GroundingDetector.from_pretrained(tmp_path)


def _save_clip(folder: Path) -> None:
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPModel(CLIPConfig(text_config=narrow, vision_config=narrow)).save_pretrained(folder)
