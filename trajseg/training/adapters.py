"""Which parameters joint training updates: LoRA in the language model, some modules in full; and their PEFT folder.

    W x  ->  W x + (alpha / r) B A x        W is frozen; A (r, in) and B (out, r) are trained, B from zero

The paper adapts q and v in every layer of the language model, and trains in full: the word embeddings, the head, the
head of the trajectory tokens, content integration, the mask decoder and the trajectory encoder. All else is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from trajseg.errors import CheckpointError
from trajseg.files import content_hash
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


def save_adapter(
    model: TrajSegModel, lora: LoraSettings, base: str, folder: Path, whole: Sequence[str] = tuple(WHOLE)
) -> None:
    """Writes a PEFT folder: the adapters, and the parts trained in full as its `modules_to_save`.

    Args:
        base: name or folder of the adapted checkpoint.
        whole: as given to `prepare`.
        folder: receives adapter_config.json, adapter_model.safetensors, and config.json of the adapted model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for part in whole for name in PARTS[part] if _has(model, name)]
    weights = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    for name in names:
        weights |= {f"{name}.{key}": tensor for key, tensor in model.get_submodule(name).state_dict().items()}
    prefixed = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save_tensors(prefixed, folder / "adapter_model.safetensors")
    config = _peft_config(lora, base_model_name_or_path=base, modules_to_save=names, inference_mode=True)
    config.save_pretrained(str(folder))
    model.config.save_pretrained(folder)


def blend_adapter(folder: Path, start: Mapping[str, Tensor], share: float) -> None:
    """Moves an adapter in its PEFT folder back towards its start: start + share x (trained - start), tensor by tensor.

    Models between a start and its fine-tuned version lose less of the former and keep most of what the latter learned
    (Wortsman et al. 2022, robust fine-tuning of zero-shot models).

    Args:
        start: the tensors before training by name, as in a state_dict.
        share: 1 leaves the adapter unchanged.
    """
    path, prefix = folder / "adapter_model.safetensors", "base_model.model."
    weights = load_file(path)
    for key, tensor in weights.items():
        if ".lora_B" in key:
            weights[key] = tensor * share
        elif ".lora_A" not in key and tensor.is_floating_point():
            before = start[key.removeprefix(prefix)].to("cpu", tensor.dtype)
            weights[key] = torch.lerp(before, tensor, share)
    _save_tensors(weights, path)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file; its bytes are written here, since the library raises no OSError on a full disk."""
    path.write_bytes(tensor_bytes(dict(tensors), metadata={"format": "pt"}))


def merge_adapter(model: TrajSegModel, folder: Path) -> TrajSegModel:
    """The model with a PEFT folder's adapters merged into its weights and the fully trained parts replaced.

    Raises:
        CheckpointError: the folder is not an adapter of this model.
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


def name_after(model: TrajSegModel, changes: Path) -> None:
    """Gives changed weights a model version of their own: the base's, and the start of a file's hash.

    Predictions, adapters and kept scores of two models with the same configuration could not be told apart otherwise.

    Args:
        changes: the file that determines the changed weights.
    """
    model.config.model_name = f"{model.config.model_name}-{content_hash(changes)[:8]}"


def recompute_layers(model: TrajSegModel) -> None:
    """Recomputes the language model's layers and the trajectory encoder's rounds in the backward pass."""
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
