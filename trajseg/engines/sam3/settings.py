"""Settings of `sam3`: weights and score thresholds. Read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.grounded.settings import short_name
from trajseg.engines.settings import check_range, given_settings
from trajseg.errors import InputError

PREFIX = "TRAJSEG_SAM3_"
PUBLISHED = "facebook/sam3"


@dataclass(frozen=True)
class Sam3Settings:
    """All settings; each can also be set by the environment variable TRAJSEG_SAM3_ plus its name in capitals.

    Args:
        weights: folder or hub repository (`name@revision` pins it) of a SAM 3 in transformers' form.
        threshold: minimum score of a detection that continues a track, 0 to 1.
        certain: minimum score of a detection that starts a track, 0 to 1; at least `threshold`.
        objects: maximum number of tracks; the best ones stay.

    Raises:
        InputError: a value is out of range.
    """

    weights: str = PUBLISHED
    threshold: float = 0.5
    certain: float = 0.7
    objects: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= self.certain <= 1:
            raise InputError(
                f"{PREFIX}THRESHOLD is {self.threshold}, {PREFIX}CERTAIN is {self.certain}.",
                "Give two numbers from 0 to 1, the second not below the first.",
            )
        check_range(PREFIX, "objects", self.objects, 1, 200)

    @classmethod
    def read(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Sam3Settings:
        """Settings from the defaults, the environment and `options`; later ones win.

        Raises:
            InputError: an unknown option, or a value that is no number or out of range.
        """
        return cls(**given_settings(cls, "sam3", PREFIX, options, environ))

    @property
    def parts(self) -> Mapping[str, str]:
        """See EngineSettings."""
        return {"weights": self.weights}

    @property
    def spec(self) -> EngineSpec:
        """What the engine can do."""
        return EngineSpec(
            name="sam3",
            model_version="sam3" if self.weights == PUBLISHED else f"sam3/{short_name(self.weights)}"[:100],
            several=True,
            none=True,
            licence="SAM License",
            memory_gb=12.0,
            needs=("torch", "torchvision", "transformers"),
        )
