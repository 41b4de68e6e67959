"""The full-size model has the tensors of the published checkpoints: every name, every shape, nothing else.

The tables in tests/trajseg/checkpoints/layouts were derived without our code (see scripts/write_layouts.py).
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from trajseg.checkpoints.published import (
    HIERA,
    our_name,
    our_sam2_name,
    recognise_sam2,
    sam2_config,
    trajseg_7b,
    without_training_prefix,
)
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.weights import shapes_of

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""

ROOT = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(ROOT / "scripts/write_layouts.py"))


def layout(name: str) -> Shapes:
    return SCRIPT["read"]((ROOT / f"tests/trajseg/checkpoints/layouts/{name}.txt").read_text())


def renamed(table: Shapes, rename: Callable[[str], str | None] = our_name) -> Shapes:
    return {ours: shape for name, shape in table.items() if (ours := rename(name)) is not None}


@pytest.fixture(scope="module")
def full_size() -> Shapes:
    """Names and shapes of trajseg-7b with SAM 2.0, as in the paper."""
    model = TrajSegModel.skeleton(trajseg_7b("2.0"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    return shapes_of(model)


def part(shapes: Shapes, *prefixes: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


QUICK = {"sam2_hiera_large", "llava-lightning-7b-v1-1"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in sorted(SCRIPT["LAYOUTS"])]
)
def test_the_committed_table_is_what_its_source_gives(name: str) -> None:
    assert layout(name) == SCRIPT["LAYOUTS"][name]()


def test_trajseg_7b_is_the_authors_merged_checkpoint_and_a_clip(full_size: Shapes) -> None:
    expected = renamed(layout("trajseg-7b-merged")) | renamed(layout("clip-vit-large-patch14"))
    assert full_size == expected


def test_the_llava_in_it_is_lightning_7b_v1_1_but_for_five_new_tokens(full_size: Shapes) -> None:
    expected = renamed(layout("llava-lightning-7b-v1-1")) | renamed(layout("clip-vit-large-patch14"))
    ours = part(full_size, "llava.")
    words = {"llava.lm_head.weight", "llava.model.language_model.embed_tokens.weight"}
    assert {name for name in expected if ours[name] != expected[name]} == words
    assert ours.keys() == expected.keys()
    assert {ours[name][0] - expected[name][0] for name in words} == {5}


def test_a_llava_in_hugging_face_s_form_fits_as_published() -> None:
    llava = LlavaConfig(
        vision_config=CLIPVisionConfig(**SCRIPT["VISION_LARGE"], image_size=336),
        text_config=LlamaConfig(vocab_size=32064),
    )
    model = TrajSegModel.skeleton(TrajSegConfig(llava_config=llava))
    assert part(shapes_of(model), "llava.") == renamed(layout("llava-1.5-7b-hf"))


@pytest.mark.parametrize(
    "size", ["large", "tiny", *(pytest.param(size, marks=pytest.mark.slow) for size in ("small", "base_plus"))]
)
def test_sam_2_1_fits_in_each_of_meta_s_sizes(size: str) -> None:
    table = layout(f"sam2.1_hiera_{size}")
    config = recognise_sam2(table)
    assert config.trunk_kwargs == HIERA[size]
    llava = TrajSegConfig.tiny(60, 4).llava_config
    model = TrajSegModel.skeleton(TrajSegConfig(llava_config=llava, sam2_config=config))
    assert part(shapes_of(model), "visual_model.") == renamed(table, our_sam2_name)


def test_sam_2_0_fits_and_2_1_has_three_tensors_more(full_size: Shapes) -> None:
    older, newer = layout("sam2_hiera_large"), layout("sam2.1_hiera_large")
    assert part(full_size, "visual_model.") == renamed(older, our_sam2_name)
    assert newer.keys() - older.keys() == {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}
    assert recognise_sam2(older).to_dict() == sam2_config("large", "2.0").to_dict()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sam2.1_hiera_tiny", 38.9),
        ("sam2.1_hiera_small", 46.0),
        ("sam2.1_hiera_base_plus", 80.8),
        ("sam2.1_hiera_large", 224.4),
        ("llava-1.5-7b-hf", 7063.4),
    ],
)
def test_tables_hold_as_many_parameters_as_their_publishers_say(name: str, millions: float) -> None:
    # Meta's README says so of SAM 2.1 (and counts no buffers), the model card of LLaVA 7.06 B.
    assert sum(map(prod, layout(name).values())) / 1e6 == pytest.approx(millions, abs=0.1)


def test_names_of_a_training_checkpoint_and_of_old_constants() -> None:
    name = "base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight"
    assert our_name(without_training_prefix(name)) == "llava.model.language_model.layers.3.self_attn.q_proj.weight"
    assert our_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    assert our_name("text_model.embeddings.token_embedding.weight") is None
    assert our_name("vision_tower.vision_model.embeddings.position_ids") is None
    assert our_name("model.language_model.norm.weight") == "llava.model.language_model.norm.weight"
    assert our_name("model.mm_projector.2.bias") == "llava.model.multi_modal_projector.linear_2.bias"
    assert our_name("something.else") == "something.else", "to be reported as unexpected"


def test_our_sam2_has_meta_s_settings() -> None:
    """What a table of shapes cannot show: all plain settings of Meta's own model except dropout and multimask."""
    from importlib.resources import files

    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from trajseg.model.sam2 import build_sam2
    from trajseg.model.weights import empty_weights

    for version, name, size in (("2.0", "sam2_hiera_t", "tiny"), ("2.1", "sam2.1_hiera_l", "large")):
        yaml = files("sam2") / f"configs/{name.partition('_')[0]}/{name}.yaml"
        with empty_weights():
            theirs = instantiate(OmegaConf.create(yaml.read_text()).model, _convert_="all")
            ours = build_sam2(sam2_config(size, version))
        for (path, one), (_, other) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
            assert _settings(one) == _settings(other), path


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = (int, float, str, bool, tuple, list, type(None))
    left_out = {"dropout_p", "p", "training"}
    settings = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items() if key not in left_out}
