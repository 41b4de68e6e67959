"""Boxes written by a vision language model, by family, and the pictures shown for them."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import Qwen2VLImageProcessor

from trajseg.engines.grounded.grammar import boxes_grammar
from trajseg.engines.grounded.pointing import FAMILIES, convention_of, tiled

FRAME, SHOWN = (720, 1280), (420, 756)


@pytest.mark.parametrize(
    ("family", "box"),
    [
        ("qwen2_5_vl", (189, 105, 378, 420)),
        ("qwen3_vl", (250, 250, 500, 1000)),
        ("qwen3_5", (250, 250, 500, 1000)),
        ("glm4v", (250, 250, 500, 1000)),
        ("molmo2", (250, 250, 500, 1000)),
    ],
)
def test_same_box_in_each_family_s_units(family: str, box: tuple[int, ...]) -> None:
    convention = convention_of(family)
    assert convention is not None
    assert convention.pixels(box, SHOWN, FRAME) == pytest.approx((320, 180, 640, 720))


def test_every_family_is_in_the_test_above() -> None:
    assert set(FAMILIES) == {"qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "molmo2"}


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        ("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl"),
        ("qwen3_vl_moe", "qwen3_vl"),
        ("Qwen/Qwen3.5-9B", "qwen3_5"),
        ("zai-org/GLM-4.5V", "glm4v"),
        ("glm4v_moe", "glm4v"),
        ("allenai/Molmo2-8B", "molmo2"),
    ],
)
def test_family_is_recognised_by_model_type_or_name(model: str, family: str) -> None:
    assert convention_of(model) is FAMILIES[family]


@pytest.mark.parametrize("model", ["", "served-vlm", "llava", "Qwen/Qwen2-VL-7B", "qwen3"])
def test_other_families_are_not_guessed(model: str) -> None:
    assert convention_of(model) is None


def test_boxes_are_clipped_to_the_picture_and_dropped_if_empty() -> None:
    convention = FAMILIES["qwen3_vl"]
    assert convention.pixels((900, 500, 1100, 700), SHOWN, FRAME) == pytest.approx((1152, 360, 1280, 504))
    assert convention.pixels((500, 1000, 250, 250), SHOWN, FRAME) == pytest.approx((320, 180, 640, 720))
    assert convention.pixels((1100, 0, 1200, 900), SHOWN, FRAME) is None
    assert convention.pixels((5, 5, 5, 9), SHOWN, FRAME) is None


@pytest.mark.parametrize("size", [(720, 1280), (1080, 608), (90, 160), (37, 500)])
def test_qwen_2_5_does_not_resize_the_shown_picture(size: tuple[int, int]) -> None:
    """Its boxes are in pixels of its processor's output, which must have the size of the shown picture."""
    picture = tiled(np.zeros((*size, 3), np.uint8), 768)
    processor = Qwen2VLImageProcessor(
        patch_size=14, merge_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    )
    [grid] = processor(images=[picture], return_tensors="pt")["image_grid_thw"].tolist()
    assert (grid[1] * 14, grid[2] * 14) == picture.shape[:2]


def test_an_answer_has_at_most_five_boxes_of_four_numbers() -> None:
    grammar = boxes_grammar()
    assert grammar.is_whole('{"boxes": []}')
    assert grammar.is_whole('{"boxes": [[1, 2, 300, 1000], [1, 2, 3, 4]]}')
    for wrong in (
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4, 5]]",
        "[[-1, 2, 3, 4]]",
        "[[1.5, 2, 3, 4]]",
        f"[{', '.join(['[1, 2, 3, 4]'] * 6)}]",
    ):
        assert not grammar.is_whole(f'{{"boxes": {wrong}}}'), wrong
    assert grammar.normalised('{"boxes":[[1,2,3,4]]}') == '{"boxes": [[1, 2, 3, 4]]}'
