"""Which parameters joint training updates: LoRA in the language model, and some modules in full.

    W x  ->  W x + (alpha / r) B A x        W is frozen; A (r, in) and B (out, r) are trained, B from zero

The paper adapts q and v in every layer of the language model, and trains in full: the word embeddings, the head, the
head of the trajectory tokens, content integration, the mask decoder and the trajectory encoder. All else is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.config import TrajectoryEncoderShape
from trajseg.model.trajectory_encoder import TrajectoryEncoder

LANGUAGE = "llava.model.language_model"
ADAPTED = rf"{LANGUAGE.replace('.', '[.]')}[.].*[.](q_proj|v_proj)"
"""Names of the adapted layers, as peft matches them; CLIP and SAM 2 also have a q_proj and a v_proj."""
WHOLE = {
    "words": (f"{LANGUAGE}.embed_tokens", "llava.lm_head"),
    "head of the trajectory tokens": ("text_hidden_fcs.0",),
    "content integration": ("fusion_layers",),
    "mask decoder": ("visual_model.sam_mask_decoder",),
    "trajectory encoder": ("spi_module",),
}
"""Modules that are trained in full, by the name of their part."""
HEADS = tuple(part for part in WHOLE if part != "words")
"""Parts trained in full when fine-tuning on corrections. The words are half of a large model, and are good enough."""
SIGHT = {
    "vision tower": ("llava.model.vision_tower", "llava.model.multi_modal_projector", "objectness"),
    "mask encoder": ("visual_model.image_encoder",),
}
"""The vision side, by the name of its part. The paper freezes it; small models learn a new look with it."""
ADAPTERS = "adapters of the language model"
"""Name of the LoRA part."""
PARTS = {**WHOLE, **SIGHT}
"""All modules that can be trained in full."""


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale (alpha / r) and dropout of the adapters; the defaults are the paper's."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05


def prepare(
    model: TrajSegModel, lora: LoraSettings | None, whole: Sequence[str] = tuple(WHOLE)
) -> dict[str, list[nn.Parameter]]:
    """Freezes everything that joint training does not update; the rest is put into training mode and float32.

    Args:
        lora: adapters of the language model; None: train the language model in full.
        whole: parts of PARTS that are trained in full.

    Returns:
        the trained parameters by the name of their part.
    """
    model.requires_grad_(False).eval()
    language: nn.Module = model.language_model
    if lora is not None:
        inject_adapter_in_model(peft_config(lora), model)
        adapters = [p for name, p in language.named_parameters() if "lora_" in name]
        for parameter in adapters:
            parameter.requires_grad_(True)
        parts = {ADAPTERS: adapters}
    else:
        language.requires_grad_(True)
        words = set(language.embed_tokens.parameters())  # type: ignore[union-attr]
        parts = {"language model": [p for p in language.parameters() if p not in words]}
    language.train()
    for part in whole:
        modules = [model.get_submodule(name) for name in module_names(model, [part])]
        for module in modules:
            module.requires_grad_(True).train()
        if modules:
            parts[part] = [p for module in modules for p in module.parameters()]
    for parameter in (p for parameters in parts.values() for p in parameters):
        # An optimiser step is too small for half precision.
        parameter.data = parameter.data.float()
    return parts


def add_trajectory_encoder(model: TrajSegModel) -> None:
    """Adds a new trajectory encoder to a model without one: the paper's size, or tiny's for a small vision tower."""
    if model.config.trajectory_encoder is not None:
        return
    vision = model.config.llava_config.vision_config
    small = vision.num_hidden_layers < max(-level for level in TrajectoryEncoderShape().levels)
    shape = TrajSegConfig.tiny(vocab_size=8, seg_token_id=4).trajectory_encoder if small else {}
    model.config = type(model.config).from_dict({**model.config.to_dict(), "trajectory_encoder": shape})
    width = model.config.llava_config.text_config.hidden_size
    shaped = TrajectoryEncoderShape(**model.config.trajectory_encoder)
    model.spi_module = TrajectoryEncoder(shaped, vision.hidden_size, width).to(model.device, model.dtype)


def recompute_layers(model: TrajSegModel) -> None:
    """Recomputes the language model's layers and the trajectory encoder's rounds in the backward pass."""
    if model.config.trajectory_encoder is not None:
        model.spi_module.mlvl_fuse.recompute = True
    model.language_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def peft_config(lora: LoraSettings, **more: Any) -> LoraConfig:
    """The adapters as PEFT describes them; `more` are further fields of its configuration."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=ADAPTED,
        **more,
    )


def module_names(model: nn.Module, parts: Sequence[str]) -> list[str]:
    """Names of the modules of these PARTS that the model has."""
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    return [name for part in parts for name in PARTS[part] if name in names]
