"""Locations of external weights on this machine, and whether downloads are allowed. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

MOBILE_SAM = "mobile-sam"
MOBILE_SAM_FILES = ("encoder.onnx", "sam.onnx")


def weights_home() -> Path:
    """The folder of weights outside Hugging Face's cache: TRAJSEG_WEIGHTS_DIR, else in the user's cache."""
    if given := os.environ.get("TRAJSEG_WEIGHTS_DIR", ""):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
    return Path(cache) / "trajseg" / "weights"


def marks_folder(name: str) -> Path:
    """The folder of a marks model: for the name `mobile-sam`, or the given folder itself."""
    return weights_home() / MOBILE_SAM if name == MOBILE_SAM else Path(name).expanduser()


def offline() -> bool:
    """Whether downloads are forbidden: TRAJSEG_OFFLINE or HF_HUB_OFFLINE is set to anything but 0, false or no."""
    values = (os.environ.get(name, "").strip().lower() for name in ("TRAJSEG_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value not in ("", "0", "false", "no", "off") for value in values)
