"""Loads the parts of `grounded`, from folders or from the hub's cache on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from trajseg.checkpoints.places import offline
from trajseg.engines.grounded.candidates import CandidateMaker
from trajseg.engines.grounded.chooser import Chooser, LocalChooser
from trajseg.engines.grounded.detector import Detector, GroundingDetector
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.served import ServedChooser
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.errors import CheckpointError
from trajseg.model.device import chosen

SAM3 = "sam3_video"
"""What a SAM 3's config.json calls it."""
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""The owner and the name of a repository on the hub."""
SAM2_FILES = ("*.pt", "*.md")
"""The file used from a SAM 2 repository: Meta's own; the same weights in transformers' form are not needed."""


def load(settings: GroundedSettings, device: str = "") -> GroundedEngine:
    """The engine for these settings, on a device; see SettingsFactory."""
    place = chosen(device or None)
    half = torch.bfloat16 if torch.device(place).type == "cuda" else torch.float32
    detector = _detector(settings, place)
    sam2 = load_sam2(sam2_folder(settings.tracker), place, half)
    return GroundedEngine(detector, sam2, _chooser(settings, place, half), settings)


def _detector(settings: GroundedSettings, device: torch.device | str) -> Detector | CandidateMaker:
    """A detector for single frames; or SAM 3, if the weights are SAM 3's, which tracks what it finds itself."""
    folder = Path(weights_folder(settings.detector))
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == SAM3:
        from trajseg.engines.sam3.search import Sam3Search
        from trajseg.engines.sam3.settings import Sam3Settings

        own = Sam3Settings.read({"objects": settings.candidates})
        return Sam3Search.from_pretrained(folder, device, own)
    return GroundingDetector.from_pretrained(folder, device)


def weights_folder(name: str, files: Sequence[str] | None = None, engine: str = "grounded") -> str:
    """The folder (or file) of weights: a path, or a repository "owner/name@revision" in the hub's cache.

    Downloads nothing: a model may have 20 GB, so only `trajseg weights get`, which shows the size, may download it.

    Args:
        engine: that needs them, as named by `trajseg weights get`.

    Raises:
        CheckpointError: they are not on this machine.
    """
    if (path := Path(name).expanduser()).exists():
        return str(path)
    repository, _, revision = name.partition("@")
    if not REPOSITORY.fullmatch(repository):
        raise CheckpointError(
            f"There is no file or folder of weights {name}.",
            f"Correct the setting of {engine}: a folder that is here, or a repository as owner/name.",
        )
    from huggingface_hub import snapshot_download

    patterns = list(files) if files else None
    try:
        return snapshot_download(repository, revision=revision or None, allow_patterns=patterns, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The weights {name} are not on this machine.",
            "Offline mode is on: copy them here and name their folder; docs/engines.md has the settings."
            if offline()
            else f"Run `trajseg weights get {engine}`: it shows the size and asks first. "
            "Or name a folder: docs/engines.md has the settings.",
        ) from error


def sam2_folder(name: str, engine: str = "grounded") -> Path:
    """The folder or file of a SAM 2: a path, a built-in checkpoint, or a repository in the hub's cache.

    Args:
        engine: see `weights_folder`.

    Raises:
        CheckpointError: it is not on this machine.
    """
    if (path := Path(name).expanduser()).exists():
        return path
    shipped = Path(__file__).parents[2] / "checkpoints" / name
    if (shipped / "config.json").is_file():
        return shipped
    return Path(weights_folder(name, SAM2_FILES, engine))


def _chooser(settings: GroundedSettings, device: torch.device | str, dtype: torch.dtype) -> Chooser | None:
    if not settings.has_chooser:
        return None
    if settings.address:
        return ServedChooser(settings.address, settings.chooser, settings.key)
    return LocalChooser.from_pretrained(weights_folder(settings.chooser), device, dtype)
