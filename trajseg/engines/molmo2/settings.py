"""Settings of `molmo2`: which weights, and how much of a clip Molmo2 sees. Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.grounded.settings import short_name
from trajseg.engines.settings import check_range, given_settings

PREFIX = "TRAJSEG_MOLMO2_"
PUBLISHED = "allenai/Molmo2-4B"
TRACKER = "facebook/sam2.1-hiera-large"


@dataclass(frozen=True)
class Molmo2Settings:
    """All settings; each can also be set by the environment variable TRAJSEG_MOLMO2_ plus its name in capitals.

    Args:
        weights: folder or hub repository (`name@revision` pins it) of a Molmo2 in transformers' form.
        tracker: folder or hub repository of SAM 2.1 in Meta's own form, or the folder of a TrajSeg checkpoint.
        fps: frames a second that Molmo2 sees; its published tracking data has 2.
        frames: maximum number of frames that it sees; a longer clip is sampled more sparsely.
        tokens: maximum length of its answer; about 8 per object and frame.
        objects: maximum number of tracks; those with the most points stay.

    Raises:
        InputError: a value is out of range.
    """

    weights: str = PUBLISHED
    tracker: str = TRACKER
    fps: float = 2.0
    frames: int = 128
    tokens: int = 2048
    objects: int = 20

    def __post_init__(self) -> None:
        for name, least, most in (("fps", 0.01, 30), ("frames", 1, 512), ("tokens", 32, 16384), ("objects", 1, 99)):
            check_range(PREFIX, name, getattr(self, name), least, most)

    @classmethod
    def read(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Molmo2Settings:
        """Settings from the defaults, the environment and `options`; later ones win.

        Raises:
            InputError: an unknown option, or a value that is no number or out of range.
        """
        return cls(**given_settings(cls, "molmo2", PREFIX, options, environ))

    @property
    def model_version(self) -> str:
        """Engine and weights, such as molmo2/Molmo2-4B+sam2.1-hiera-large."""
        return f"molmo2/{short_name(self.weights)}+{short_name(self.tracker)}"[:100]

    @property
    def parts(self) -> Mapping[str, str]:
        """See EngineSettings."""
        return {"weights": self.weights, "tracker": self.tracker}

    @property
    def spec(self) -> EngineSpec:
        """What the engine can do."""
        return EngineSpec(
            name="molmo2",
            model_version=self.model_version,
            sentences=True,
            several=True,
            none=True,
            captions=True,
            marks=True,
            propagates=True,
            licence="Apache-2.0",
            memory_gb=18.0,
            needs=("torch", "torchvision", "transformers", "sam2"),
        )
