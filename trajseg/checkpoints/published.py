"""Published checkpoints: their sizes, and the mapping of their tensor names to ours.

- LLaVA in Hugging Face's form, as published: language_model.model.layers.0.…, language_model.lm_head.…,
  vision_tower.vision_model.…, multi_modal_projector.…
- the same, written by transformers since 4.52: model.language_model.layers.0.…, lm_head.…, model.vision_tower.…
- LLaVA in its authors' form: model.layers.0.…, lm_head.…, model.mm_projector.…; the vision tower in a folder of its own
- CLIP: vision_model.…, plus a text model that is not needed
- TrajSeg in its authors' form, merged: as LLaVA's authors, and
  model.{text_hidden_fcs,fusion_layers,spi_module,visual_model}.…
- the same while training with LoRA: with the prefix base_model.model., and lora_A and lora_B beside adapted weights
- SAM 2 and 2.1, Meta's .pt: image_encoder.…, memory_attention.…, sam_mask_decoder.…
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from trajseg.errors import CheckpointError
from trajseg.model.config import Sam2Config, TrajSegConfig
from trajseg.model.weights import Shape

TRAINING_PREFIX = "base_model.model."
NOT_NEEDED = re.compile(
    r"rotary_emb\.inv_freq$|position_ids$"  # constants that older releases of transformers saved
    r"|^text_model\.|^text_projection\.|^visual_projection\.|^logit_scale$"  # the other half of CLIP
)
RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^(?:language_model\.)?lm_head\.", "llava.lm_head."),
        (r"^language_model\.model\.", "llava.model.language_model."),
        (r"^model\.language_model\.", "llava.model.language_model."),
        (r"^model\.(?=(?:embed_tokens|layers|norm)\.)", "llava.model.language_model."),
        (r"^(?:model\.)?multi_modal_projector\.", "llava.model.multi_modal_projector."),
        (r"^model\.mm_projector\.0\.", "llava.model.multi_modal_projector.linear_1."),
        (r"^model\.mm_projector\.2\.", "llava.model.multi_modal_projector.linear_2."),
        (r"^model\.mm_projector\.", "llava.model.multi_modal_projector."),
        (r"^model\.vision_tower\.vision_tower\.vision_model\.", "llava.model.vision_tower."),
        (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "llava.model.vision_tower."),
        (r"^vision_model\.", "llava.model.vision_tower."),
        (r"^model\.fusion_layers\.", "fusion_layers.layers."),
        (r"^model\.(?=(?:text_hidden_fcs|spi_module|visual_model)\.)", ""),
    )
)

HIERA: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": [1, 2, 7, 2],
        "global_att_blocks": [5, 7, 9],
        "window_pos_embed_bkg_spatial_size": [7, 7],
    },
    "small": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": [1, 2, 11, 2],
        "global_att_blocks": [7, 10, 13],
        "window_pos_embed_bkg_spatial_size": [7, 7],
    },
    "base_plus": {"embed_dim": 112, "num_heads": 2, "stages": [2, 3, 16, 3]},
    "large": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": [2, 6, 36, 4],
        "global_att_blocks": [23, 33, 43],
        "window_pos_embed_bkg_spatial_size": [7, 7],
        "window_spec": [8, 4, 16, 8],
    },
}
"""Trunks of Meta's four sizes, as in its YAML files; missing values are Hiera's defaults."""


LLAMA_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""The language model in the authors' config.json."""


def our_name(name: str) -> str | None:
    """The name in TrajSegModel of a tensor in any layout but SAM 2's; None if it is not needed.

    An unknown name is returned unchanged, so that strict loading reports it.
    """
    if NOT_NEEDED.search(name):
        return None
    for pattern, ours in RULES:
        if pattern.match(name):
            return pattern.sub(ours, name, count=1)
    return name


def our_sam2_name(name: str) -> str:
    """The name in TrajSegModel of a tensor in Meta's SAM 2 file."""
    return f"visual_model.{name}"


def sam2_config(size: str = "large", version: str = "2.1") -> Sam2Config:
    """SAM 2 of a published size ("tiny", "small", "base_plus", "large") and version ("2.0", "2.1")."""
    width = HIERA[size]["embed_dim"]
    newer = version == "2.1"
    return Sam2Config(
        trunk_kwargs=HIERA[size],
        channel_list=(8 * width, 4 * width, 2 * width, width),
        no_obj_embed_spatial=newer,
        pointer_times=newer,
    )


def trajseg_7b(sam2_version: str = "2.1") -> TrajSegConfig:
    """The full-size model: LLaVA-Lightning-7B-v1-1 and SAM 2 Hiera-large (the paper's is version "2.0")."""
    return TrajSegConfig(sam2_config=sam2_config("large", sam2_version), trajectory_encoder={}, prompted_by_boxes=True)


def recognise_sam2(shapes: dict[str, Shape]) -> Sam2Config:
    """Which of Meta's SAM 2 models a file contains, from its shapes.

    Raises:
        CheckpointError: it is none of them.
    """
    patches = shapes.get("image_encoder.trunk.patch_embed.proj.weight", (0,))
    blocks = len({match[1] for name in shapes if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))})
    version = "2.1" if "no_obj_embed_spatial" in shapes else "2.0"
    for size, trunk in HIERA.items():
        if (patches[0], blocks) == (trunk["embed_dim"], sum(trunk["stages"])):
            return sam2_config(size, version)
    raise CheckpointError(
        f"This is not one of Meta's SAM 2 models: its trunk has {blocks} blocks and starts with {patches[0]} channels.",
        f"Use the .pt file of SAM 2 or 2.1 ({', '.join(HIERA)}).",
    )


def llava_config(config: dict[str, Any], vision: dict[str, Any] | None = None) -> LlavaConfig:
    """A LLaVA's configuration from its config.json, in Hugging Face's form or in the authors'.

    Args:
        config: the content of config.json.
        vision: that of the CLIP belonging to it, if the authors' form only names it.

    Raises:
        CheckpointError: it is not a LLaVA's, or its vision tower's configuration is missing.
    """
    if "vision_config" in config and "text_config" in config:
        return LlavaConfig.from_dict(config)
    if "mm_vision_tower" not in config:
        raise CheckpointError(
            "This config.json is not a LLaVA's: it has neither vision_config and text_config nor mm_vision_tower.",
            "Name the folder of a LLaVA, in Hugging Face's form or in that of its authors.",
        )
    if vision is None:
        raise CheckpointError(
            f"This LLaVA's vision tower is a separate checkpoint: {config['mm_vision_tower']}.",
            "Pass its folder with --clip.",
        )
    layer = config.get("mm_vision_select_layer", -2)
    return LlavaConfig(  # type: ignore[call-arg]
        vision_config=CLIPVisionConfig(**vision.get("vision_config", vision)),
        text_config=LlamaConfig(**{key: config[key] for key in LLAMA_KEYS if key in config}),
        # TrajSeg's authors list the levels read by their trajectory encoder; the last is the language model's.
        vision_feature_layer=layer[-1] if isinstance(layer, list) else layer,
        mm_projector_type=config.get("mm_projector_type", "linear"),
    )


def without_training_prefix(name: str) -> str:
    """A tensor's name without the prefix that peft adds during training."""
    return name.removeprefix(TRAINING_PREFIX).replace(".base_layer.", ".")


def adapted_weights(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Adapted weights of a training checkpoint: published name -> names of W0, A and B in the file.

    Merged, W = W0 + (alpha / r) B A; the factor is not in the file (the authors': alpha 16, r 8).
    """
    known = set(names)
    adapted = {}
    for name in sorted(known):
        if ".lora_A." not in name:
            continue
        stem, _, rest = name.partition(".lora_A.")
        plain = f"{stem}.base_layer.weight" if f"{stem}.base_layer.weight" in known else f"{stem}.weight"
        up = f"{stem}.lora_B.{rest}"
        if gone := {plain, up} - known:
            raise CheckpointError(f"{name} is present without {', '.join(sorted(gone))}.", "Copy the whole checkpoint.")
        adapted[f"{without_training_prefix(stem)}.weight"] = (plain, name, up)
    return adapted
