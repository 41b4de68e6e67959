"""Loads the SAM 2 of `grounded`: Meta's own files, or the one inside a TrajSeg checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from sam2.modeling.sam2_base import SAM2Base
from transformers import PretrainedConfig

from trajseg.checkpoints.published import recognise_sam2
from trajseg.checkpoints.reading import readable
from trajseg.errors import CheckpointError
from trajseg.model.config import Sam2Config, TrajSegConfig
from trajseg.model.marks import MarkReader
from trajseg.model.promptable import PromptableSam2
from trajseg.model.sam2 import build_sam2
from trajseg.model.weights import Weights, empty_weights, fill

CONFIG = "config.json"


def load_sam2(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PromptableSam2:
    """Loads Meta's weights or a TrajSeg checkpoint's SAM 2.

    Args:
        path: Meta's .pt file; a folder with one, as in Meta's hub repositories, or with safetensors and a
            config.json of a Sam2Config; or a TrajSeg checkpoint's folder.

    Raises:
        CheckpointError: it is none of these, or the weights do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no SAM 2 at {path}.", "Name Meta's .pt file, or a folder that holds it.")
    if path.is_dir() and (path / CONFIG).is_file():
        with readable(str(path / CONFIG), "Name Meta's .pt file of SAM 2.1, or a folder that holds it."):
            kind = PretrainedConfig.get_config_dict(path)[0].get("model_type")
        if kind == TrajSegConfig.model_type:
            return _of_trajseg(path, device, dtype)
        if kind == Sam2Config.model_type:
            return PromptableSam2(_filled(Sam2Config.from_pretrained(path), Weights(path), device, dtype), several=True)
    weights = Weights(_weights_file(path))
    return PromptableSam2(_filled(recognise_sam2(weights.shapes()), weights, device, dtype), several=True)


def _of_trajseg(folder: Path, device: torch.device | str, dtype: torch.dtype) -> PromptableSam2:
    config, weights = TrajSegConfig.from_pretrained(folder), Weights(folder)
    if not config.prompted_by_boxes:
        raise CheckpointError(
            f"The SAM 2 of {folder} was not trained with boxes.",
            "Use Meta's SAM 2.1, or a checkpoint whose config.json has `prompted_by_boxes`.",
        )
    sam2 = _filled(config.sam2_config, weights.under("visual_model."), device, dtype)
    reader = None
    if config.mark_reader:
        with empty_weights():
            reader = MarkReader(config.sam2_config.d_model)
        fill(reader, weights.under("mark_reader."), dtype, device)
        reader.eval()
    return PromptableSam2(sam2, letterboxed=True, reader=reader, start_score=config.start_score)


def _filled(config: Sam2Config, weights: Weights, device: torch.device | str, dtype: torch.dtype) -> SAM2Base:
    with empty_weights():
        sam2 = build_sam2(config)
    fill(sam2, weights, dtype, device)
    return sam2.eval()


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.pt"))
    if len(found) != 1:
        raise CheckpointError(
            f"{path} holds {len(found)} .pt files.",
            "Set TRAJSEG_GROUNDED_TRACKER or TRAJSEG_MOLMO2_TRACKER to the file of one SAM 2, such as "
            "sam2.1_hiera_large.pt, or to a folder that holds it.",
        )
    return found[0]
