"""Loads the parts of `grounded`: from folders, or from the hub where they are not at hand."""

from __future__ import annotations

from pathlib import Path

import torch

from trajseg.engines.grounded.chooser import Chooser, LocalChooser
from trajseg.engines.grounded.detector import GroundingDetector
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.served import ServedChooser
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.errors import CheckpointError
from trajseg.model.device import chosen

SAM2_FILES = ("*.pt", "*.md")
"""Of a repository of SAM 2: Meta's own file; the same weights in transformers' form are not needed."""


def load(settings: GroundedSettings, device: str = "") -> GroundedEngine:
    """The engine that settings describe, on a device; see GroundedFactory."""
    place = chosen(device or None)
    half = torch.bfloat16 if torch.device(place).type == "cuda" else torch.float32
    detector_path, detector_revision = located(settings.detector)
    detector = GroundingDetector.from_pretrained(detector_path, place, detector_revision)
    sam2 = load_sam2(sam2_folder(settings.tracker), place, half)
    return GroundedEngine(detector, sam2, _chooser(settings, place, half), settings)


def located(name: str) -> tuple[str, str]:
    """A folder, or a repository and its revision: "owner/name@revision"."""
    if Path(name).exists():
        return name, ""
    repository, _, revision = name.partition("@")
    return repository, revision


def sam2_folder(name: str) -> Path:
    """The folder or file of a SAM 2; a repository of the hub is fetched (or taken from the cache) first.

    Raises:
        CheckpointError: it cannot be had.
    """
    if Path(name).exists():
        return Path(name)
    shipped = Path(__file__).parents[2] / "checkpoints" / name
    if (shipped / "config.json").is_file():
        return shipped
    repository, revision = located(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(SAM2_FILES)))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The SAM 2 {name} cannot be had: {error}", "Name Meta's .pt file, or a repository that you may read."
        ) from error


def _chooser(settings: GroundedSettings, device: torch.device | str, dtype: torch.dtype) -> Chooser | None:
    if not settings.has_chooser:
        return None
    if settings.address:
        return ServedChooser(settings.address, settings.chooser, settings.key)
    path, revision = located(settings.chooser)
    return LocalChooser.from_pretrained(path, device, dtype, revision)
