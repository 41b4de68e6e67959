"""TrajSeg: a sentence about a video in, one mask track for each object meant out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajseg.engines.registry import load_engine
    from trajseg.engines.trajseg import VideoSegmenter
    from trajseg.tracks import MaskTrack, Result
    from trajseg.video import Clip

__all__ = ["Clip", "MaskTrack", "Result", "VideoSegmenter", "__version__", "load_engine"]
__version__ = "0.2.0"

_HOMES = {
    "Clip": "trajseg.video",
    "MaskTrack": "trajseg.tracks",
    "Result": "trajseg.tracks",
    "VideoSegmenter": "trajseg.engines.trajseg",
    "load_engine": "trajseg.engines.registry",
}


def __getattr__(name: str) -> object:
    # Loaded on first use: `import trajseg` and its torch-free parts must stay light.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
