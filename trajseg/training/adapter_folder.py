"""A trained adapter as a PEFT folder: written, blended with its start, and merged into its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from trajseg.errors import CheckpointError
from trajseg.files import content_hash
from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.training.adapters import WHOLE, LoraSettings, add_trajectory_encoder, module_names, peft_config


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
    names = module_names(model, whole)
    weights = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    for name in names:
        weights |= {f"{name}.{key}": tensor for key, tensor in model.get_submodule(name).state_dict().items()}
    prefixed = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    _save_tensors(prefixed, folder / "adapter_model.safetensors")
    config = peft_config(lora, base_model_name_or_path=base, modules_to_save=names, inference_mode=True)
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
