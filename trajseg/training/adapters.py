"""Which parameters joint training moves: LoRA in the language model, some parts whole; and their PEFT folder.

    W x  ->  W x + (alpha / r) B A x        W stays as it is; A (r, in) and B (out, r) learn, B from zero

The paper adapts q and v of every layer of the language model and trains the word embeddings, the head, the head of the
trajectory tokens, content integration, the mask decoder and the trajectory encoder whole; all else is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trajseg.errors import CheckpointError
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.config import TrajectoryEncoderShape
from trajseg.model.trajectory_encoder import TrajectoryEncoder

LANGUAGE = "llava.model.language_model"
ADAPTED = rf"{LANGUAGE.replace('.', '[.]')}[.].*[.](q_proj|v_proj)"
"""Names of the adapted layers, as peft matches them; CLIP and SAM 2 have a q_proj and a v_proj too."""
WHOLE = {
    "words": (f"{LANGUAGE}.embed_tokens", "llava.lm_head"),
    "head of the trajectory tokens": ("text_hidden_fcs.0",),
    "content integration": ("fusion_layers",),
    "mask decoder": ("visual_model.sam_mask_decoder",),
    "trajectory encoder": ("spi_module",),
}
"""Modules that are trained whole, by the name of their part."""
HEADS = tuple(part for part in WHOLE if part != "words")
"""The parts that fine-tuning on corrections trains whole. The words are half of a large model, and know enough."""
SIGHT = {
    "vision tower": ("llava.model.vision_tower", "llava.model.multi_modal_projector", "objectness"),
    "mask encoder": ("visual_model.image_encoder",),
}
"""What sees pictures, by the name of its part. The paper leaves it as it is; small models learn a new look by it."""
ADAPTERS = "adapters of the language model"
"""Name of the part that LoRA is."""
PARTS = {**WHOLE, **SIGHT}
"""All modules that can be trained whole."""


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale (alpha / r) and dropout of the adapters; the defaults are the paper's."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05


def prepare(
    model: TrajSegModel, lora: LoraSettings | None, whole: Sequence[str] = tuple(WHOLE)
) -> dict[str, list[nn.Parameter]]:
    """Freezes all but what joint training moves; that goes into training mode, and into float32 where it is not.

    Args:
        lora: adapters of the language model; None trains the language model whole.
        whole: parts that are trained whole, of PARTS.

    Returns:
        the trained parameters by the name of their part.
    """
    model.requires_grad_(False).eval()
    language: nn.Module = model.language_model
    if lora is not None:
        inject_adapter_in_model(_peft_config(lora), model)
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
        modules = [model.get_submodule(name) for name in PARTS[part] if _has(model, name)]
        for module in modules:
            module.requires_grad_(True).train()
        if modules:
            parts[part] = [p for module in modules for p in module.parameters()]
    for parameter in (p for parameters in parts.values() for p in parameters):
        # A step of the optimiser is too small for half precision.
        parameter.data = parameter.data.float()
    return parts


def add_trajectory_encoder(model: TrajSegModel) -> None:
    """Gives a model that has none a new trajectory encoder: of the paper's sizes, or of tiny's beside a small tower."""
    if model.config.trajectory_encoder is not None:
        return
    vision = model.config.llava_config.vision_config
    small = vision.num_hidden_layers < max(-level for level in TrajectoryEncoderShape().levels)
    shape = TrajSegConfig.tiny(vocab_size=8, seg_token_id=4).trajectory_encoder if small else {}
    model.config = type(model.config).from_dict({**model.config.to_dict(), "trajectory_encoder": shape})
    width = model.config.llava_config.text_config.hidden_size
    shaped = TrajectoryEncoderShape(**model.config.trajectory_encoder)
    model.spi_module = TrajectoryEncoder(shaped, vision.hidden_size, width).to(model.device)


def save_adapter(
    model: TrajSegModel, lora: LoraSettings, base: str, folder: Path, whole: Sequence[str] = tuple(WHOLE)
) -> None:
    """Writes a PEFT folder: the adapters, and the parts that were trained whole as its `modules_to_save`.

    Args:
        base: name or folder of the checkpoint that was adapted.
        whole: as given to `prepare`.
        folder: receives adapter_config.json, adapter_model.safetensors, and config.json of the adapted model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for part in whole for name in PARTS[part] if _has(model, name)]
    weights = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    for name in names:
        weights |= {f"{name}.{key}": tensor for key, tensor in model.get_submodule(name).state_dict().items()}
    prefixed = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(prefixed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _peft_config(lora, base_model_name_or_path=base, modules_to_save=names, inference_mode=True)
    config.save_pretrained(str(folder))
    model.config.save_pretrained(folder)


def blend_adapter(folder: Path, base: Mapping[str, Tensor], share: float) -> None:
    """Moves an adapter in its PEFT folder back towards the base: base + share x (trained - base), tensor by tensor.

    Between a model and its fine-tuned self lie models that lose less of the one and keep most of what the other
    learned (Wortsman et al. 2022, robust fine-tuning of zero-shot models).

    Args:
        base: the base's tensors by name, as its state_dict gives them.
        share: 1 leaves the adapter as it is.
    """
    path, prefix = folder / "adapter_model.safetensors", "base_model.model."
    weights = load_file(path)
    for key, tensor in weights.items():
        if ".lora_B" in key:
            weights[key] = tensor * share
        elif ".lora_A" not in key and tensor.is_floating_point():
            before = base[key.removeprefix(prefix)].to("cpu", tensor.dtype)
            weights[key] = torch.lerp(before, tensor, share)
    save_file(weights, path, metadata={"format": "pt"})


def merge_adapter(model: TrajSegModel, folder: Path) -> TrajSegModel:
    """The model with a PEFT folder's adapters added into its weights and the whole parts put in place.

    Raises:
        CheckpointError: the folder is no adapter of this model.
    """
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is not an adapter: adapter_config.json is missing.",
            "Name the folder `adapter` that `trajseg train joint --lora` wrote.",
        )
    if TrajSegConfig.from_pretrained(folder).trajectory_encoder is not None:
        add_trajectory_encoder(model)
    try:
        merged: TrajSegModel = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"The adapter in {folder} does not fit this checkpoint: {error}", "Merge it into the one it was trained on."
        ) from error
    return merged.eval()


def recompute_layers(model: TrajSegModel) -> None:
    """The language model's layers and the trajectory encoder's rounds are recomputed in the backward pass, not kept."""
    if model.config.trajectory_encoder is not None:
        model.spi_module.mlvl_fuse.recompute = True
    model.language_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _peft_config(lora: LoraSettings, **more: Any) -> LoraConfig:
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=ADAPTED,
        **more,
    )


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
