"""Where weights from outside lie on this machine, and whether they may be fetched. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

MOBILE_SAM = "mobile-sam"
MOBILE_SAM_FILES = ("encoder.onnx", "sam.onnx")


def weights_home() -> Path:
    """The folder of weights that are not in Hugging Face's cache: TRAJSEG_WEIGHTS_DIR, else in the user's cache."""
    if given := os.environ.get("TRAJSEG_WEIGHTS_DIR", ""):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
    return Path(cache) / "trajseg" / "weights"


def marks_folder(name: str) -> Path:
    """The folder of a marks model: of the name `mobile-sam`, or the folder itself."""
    return weights_home() / MOBILE_SAM if name == MOBILE_SAM else Path(name).expanduser()


def offline() -> bool:
    """Whether nothing may be downloaded: TRAJSEG_OFFLINE or HF_HUB_OFFLINE is set to anything but 0, false or no."""
    values = (os.environ.get(name, "").strip().lower() for name in ("TRAJSEG_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value not in ("", "0", "false", "no", "off") for value in values)
