"""Loads the parts of `grounded`, from folders or from the hub's cache on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from trajseg.engines.grounded.candidates import CandidateMaker
from trajseg.engines.grounded.chooser import Chooser, LocalChooser
from trajseg.engines.grounded.detector import Detector, GroundingDetector
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.served import ServedChooser
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.engines.parts import weights_path
from trajseg.model.device import chosen

SAM3 = "sam3_video"
"""What a SAM 3's config.json calls it."""


def load(settings: GroundedSettings, device: str = "") -> GroundedEngine:
    """The engine for these settings, on a device; see SettingsFactory."""
    place = chosen(device or None)
    half = torch.bfloat16 if torch.device(place).type == "cuda" else torch.float32
    detector = _detector(settings, place)
    sam2 = load_sam2(weights_path(settings.tracker, "tracker"), place, half)
    return GroundedEngine(detector, sam2, _chooser(settings, place, half), settings)


def _detector(settings: GroundedSettings, device: torch.device | str) -> Detector | CandidateMaker:
    """A detector for single frames; or SAM 3, if the weights are SAM 3's, which tracks what it finds itself."""
    folder = weights_path(settings.detector, "detector")
    if _model_type(folder / "config.json") == SAM3:
        from trajseg.engines.sam3.search import Sam3Search
        from trajseg.engines.sam3.settings import Sam3Settings

        own = Sam3Settings.read({"objects": settings.candidates})
        return Sam3Search.from_pretrained(folder, device, own)
    return GroundingDetector.from_pretrained(folder, device)


def _model_type(config: Path) -> str:
    """What a config.json says that it is of; empty if it is missing or no JSON object, which loading then reports."""
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _chooser(settings: GroundedSettings, device: torch.device | str, dtype: torch.dtype) -> Chooser | None:
    if not settings.has_chooser:
        return None
    if settings.address:
        return ServedChooser(settings.address, settings.chooser, settings.key)
    return LocalChooser.from_pretrained(weights_path(settings.chooser, "chooser"), device, dtype)
