"""TrajSeg: a sentence about a video in, one mask track for each object meant out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajseg.engines.trajseg import VideoSegmenter

__all__ = ["VideoSegmenter", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Loaded on first use: `import trajseg` and its torch-free parts must stay light.
    if name == "VideoSegmenter":
        from trajseg.engines.trajseg import VideoSegmenter

        return VideoSegmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
