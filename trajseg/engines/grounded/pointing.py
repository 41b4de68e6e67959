"""Boxes from a vision language model itself, for when the detector finds nothing, and how to interpret them.

Model families write boxes in different units. The wrong unit gives boxes that look plausible but are elsewhere, so a
model of an unknown family is not asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from trajseg.engines.grounded.chooser import Chooser
from trajseg.engines.grounded.detector import Detection
from trajseg.engines.grounded.dialogue import boxes_question
from trajseg.engines.grounded.prompts import Prompts

STEP = 28
"""Sides of shown pictures are multiples of this, in pixels, so that no processor resizes them: merged 2 x 2 patches of
14 pixels are the coarsest of the families that use pixels. Models with patches of 16 may resize a picture, but write
boxes in thousandths."""
SURE = 0.5
"""The score of such a box, since a vision language model returns none."""


@dataclass(frozen=True)
class BoxConvention:
    """The meaning of a box of four numbers (left, top, right, bottom).

    Args:
        unit: of the numbers, in words for the prompt.
        scale: value of the picture's full width and height; None: pixels of the picture as shown.
    """

    unit: str
    scale: int | None

    def pixels(
        self, box: Sequence[float], shown: tuple[int, int], frame: tuple[int, int]
    ) -> tuple[float, float, float, float] | None:
        """A box in pixels of the frame, clipped to it; None if nothing is left.

        Args:
            shown, frame: height and width of the picture that the model saw, and of the frame.
        """
        height, width = frame
        across, down = (self.scale, self.scale) if self.scale else (shown[1], shown[0])
        x = sorted(min(max(value / across, 0.0), 1.0) * width for value in (box[0], box[2]))
        y = sorted(min(max(value / down, 0.0), 1.0) * height for value in (box[1], box[3]))
        return (x[0], y[0], x[1], y[1]) if x[1] - x[0] >= 1 and y[1] - y[0] >= 1 else None


THOUSANDTHS = BoxConvention("thousandths of the picture's width and height, from 0 to 1000", 1000)
SHOWN_PIXELS = BoxConvention("pixels of the picture", None)
FAMILIES: Mapping[str, BoxConvention] = {
    "qwen2_5_vl": SHOWN_PIXELS,
    "qwen3_vl": THOUSANDTHS,
    "qwen3_5": THOUSANDTHS,
    "glm4v": THOUSANDTHS,
    "molmo2": THOUSANDTHS,
}
"""Conventions by prefix of transformers' model_type, which also matches variants such as qwen3_vl_moe."""
_NAMES = {
    "qwen2_5_vl": r"qwen2\.5-?vl",
    "qwen3_vl": r"qwen3-?vl",
    "qwen3_5": r"qwen3\.5",
    "glm4v": r"glm-?4\.\d+v|glm-?4v",
    "molmo2": r"molmo-?2",
}


def convention_of(family: str) -> BoxConvention | None:
    """How a model writes boxes, from its model_type or a served model's name, such as Qwen/Qwen3-VL-8B-Instruct.

    None if unknown.
    """
    said = family.lower()
    return next(
        (FAMILIES[name] for name, spelt in _NAMES.items() if said.startswith(name) or re.search(spelt, said)), None
    )


class ChooserDetector:
    """A Detector whose boxes come from a chooser: its "phrases" are whole sentences.

    Args:
        longest: maximum length of a shown picture's longer side, pixels.
    """

    def __init__(self, chooser: Chooser, convention: BoxConvention, prompts: Prompts, longest: int) -> None:
        self.chooser, self.convention, self.prompts, self.longest = chooser, convention, prompts, longest
        self.said: list[str] = []

    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        """See Detector; `least` is ignored, since there are no scores."""
        return [[one for phrase in phrases for one in self._boxes(frame, phrase)] for frame in frames]

    def _boxes(self, frame: np.ndarray, sentence: str) -> list[Detection]:
        picture = tiled(frame, self.longest)
        answer = self.chooser.answer(boxes_question(self.prompts, picture, sentence, self.convention.unit))
        self.said.append(answer)
        size, shown = (frame.shape[0], frame.shape[1]), (picture.shape[0], picture.shape[1])
        boxes = [self.convention.pixels(box, shown, size) for box in json.loads(answer)["boxes"]]
        # The sentence as its phrase would already suggest that the candidate is chosen.
        return [Detection(box, SURE, "object") for box in boxes if box is not None]


def tiled(frame: np.ndarray, longest: int) -> np.ndarray:
    """The frame with sides that are multiples of STEP, the longer one at most `longest` (but at least 4 STEP)."""
    scale = min(1.0, longest / max(frame.shape[:2]))
    most = max(4, longest // STEP)
    height, width = (min(most, max(2, round(side * scale / STEP))) * STEP for side in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
