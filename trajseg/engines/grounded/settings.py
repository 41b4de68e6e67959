"""Settings of `grounded`: weights, chooser, sampling. Read without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trajseg.engines.base import EngineSpec
from trajseg.engines.settings import check_range, converted, given_settings
from trajseg.errors import CheckpointError

PREFIX = "TRAJSEG_GROUNDED_"
FILE = "grounded.json"
"""File in a checkpoint's folder with settings that go with its weights."""
NO_CHOOSER = "none"
_NOT_IN_A_VERSION = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class GroundedSettings:
    """All settings; each can also be set by the environment variable TRAJSEG_GROUNDED_ plus its name in capitals.

    Args:
        checkpoint: a folder whose subfolders detector, tracker and chooser are the defaults of the next three.
        detector: folder or hub repository (`name@revision` pins it) of a Grounding-DINO or MM-Grounding-DINO.
        tracker: folder or hub repository of SAM 2.1 in Meta's own form, or the folder of a TrajSeg checkpoint.
        chooser: folder or hub repository of a vision language model; with `address`, the served model's name; "none"
            runs without one.
        address: of an OpenAI-compatible server, up to /v1; frames of the video are sent there.
        key: the server's API key.
        prompts: a folder with texts that replace the package's own.
        every: seconds between frames that the detector sees.
        looks: minimum number of frames that the detector sees in a clip.
        threshold: minimum score of a detection, 0 to 1.
        certain: minimum mean score of a candidate that was detected only once; without a chooser, of an object.
        candidates: maximum number of candidates.
        frames: shown to the chooser, each with and without outlines.
        longest: their longer side in pixels.
        portrait: side of a candidate's portrait in pixels.
        boxes: frames on which the chooser is asked for boxes if the detector finds nothing; 0: never.
        rounds: how often the chooser is asked, on different frames; the majority decides.

    Raises:
        InputError: a value is out of range.
    """

    checkpoint: str = ""
    detector: str = "iSEE-Laboratory/llmdet_base"
    tracker: str = "facebook/sam2.1-hiera-large"
    chooser: str = "Qwen/Qwen3-VL-4B-Instruct"
    address: str = ""
    key: str = ""
    prompts: str = ""
    every: float = 0.5
    looks: int = 8
    threshold: float = 0.25
    certain: float = 0.4
    candidates: int = 20
    frames: int = 8
    longest: int = 768
    portrait: int = 224
    boxes: int = 4
    rounds: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("every", 0.01, 60),
            ("looks", 1, 1000),
            ("threshold", 0, 1),
            ("certain", 0, 1),
            ("candidates", 1, 99),
            ("frames", 0, 32),
            ("longest", 32, 4096),
            ("portrait", 16, 2048),
            ("boxes", 0, 32),
            ("rounds", 1, 9),
        ):
            check_range(PREFIX, name, getattr(self, name), least, most)

    @classmethod
    def read(
        cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> GroundedSettings:
        """Settings from the defaults, the checkpoint's grounded.json, the environment and `options`; later ones win.

        Raises:
            InputError: an unknown option, or a value that is no number or out of range.
            CheckpointError: the checkpoint's folder or grounded.json cannot be read.
        """
        values = given_settings(cls, "grounded", PREFIX, options, environ)
        if checkpoint := values.get("checkpoint", ""):
            values = _of_checkpoint(Path(checkpoint)) | values
        return replace(cls(), **values)

    @property
    def has_chooser(self) -> bool:
        """Whether a vision language model chooses among the candidates."""
        return self.chooser != NO_CHOOSER

    @property
    def model_version(self) -> str:
        """Engine and weights, such as grounded/llmdet_base+sam2.1-hiera-large+Qwen3-VL-4B-Instruct."""
        if self.checkpoint:
            parts = [short_name(self.checkpoint)] + ([] if self.has_chooser else [NO_CHOOSER])
        else:
            parts = [short_name(part) for part in (self.detector, self.tracker, self.chooser)]
        return f"grounded/{'+'.join(parts)}"[:100]

    @property
    def parts(self) -> Mapping[str, str]:
        """See EngineSettings; a served chooser's weights lie elsewhere."""
        parts = {"detector": self.detector, "tracker": self.tracker}
        return parts | ({"chooser": self.chooser} if self.has_chooser and not self.address else {})

    @property
    def spec(self) -> EngineSpec:
        """What the engine can do with these settings."""
        return EngineSpec(
            name="grounded",
            model_version=self.model_version,
            sentences=self.has_chooser,
            several=True,
            none=True,
            captions=self.has_chooser,
            marks=True,
            propagates=True,
            licence="Apache-2.0",
            memory_gb=8.0 if not self.has_chooser or self.address else 16.0,
            needs=("torch", "transformers", "sam2"),
        )


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint's settings: its subfolders and its grounded.json."""
    if not folder.is_dir():
        raise CheckpointError(
            f"TRAJSEG_GROUNDED_CHECKPOINT: there is no folder {folder}.",
            "Name a folder with the subfolders detector, tracker and chooser.",
        )
    values: dict[str, Any] = {
        part: str(folder / part) for part in ("detector", "tracker", "chooser", "prompts") if (folder / part).is_dir()
    }
    if not values and not (folder / FILE).is_file():
        raise CheckpointError(
            f"TRAJSEG_GROUNDED_CHECKPOINT: {folder} has neither {FILE} nor the folders detector, tracker, chooser.",
            "Name the folder that holds them. For single parts set TRAJSEG_GROUNDED_DETECTOR, TRAJSEG_GROUNDED_TRACKER "
            "and TRAJSEG_GROUNDED_CHOOSER instead.",
        )
    if (folder / "chooser" / "prompts").is_dir():
        values["prompts"] = str(folder / "chooser" / "prompts")
    path = folder / FILE
    if not path.is_file():
        return values
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
        return values | {name: converted(GroundedSettings, PREFIX, name, value) for name, value in own.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__} {error}", "Fix or delete it.") from error


def short_name(name: str) -> str:
    """The last part of a path or repository, without a revision, limited to characters allowed in a model version."""
    last = name.split("@")[0].rstrip("/").rsplit("/", 1)[-1]
    return _NOT_IN_A_VERSION.sub("-", last).strip("-") or "unnamed"
