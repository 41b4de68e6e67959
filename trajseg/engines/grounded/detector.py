"""Detectors: noun phrases and pictures -> boxes. GroundingDetector runs (MM-)Grounding-DINO, including LLMDet."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

from trajseg.checkpoints.reading import readable
from trajseg.checkpoints.silence import silent_loading
from trajseg.errors import CheckpointError, InstructionError

MODEL_TYPES = ("mm-grounding-dino", "grounding-dino")
REMEDY = (
    "Set TRAJSEG_GROUNDED_DETECTOR to the folder of a Grounding-DINO, MM-Grounding-DINO or LLMDet in transformers' "
    "form: config.json, model.safetensors, tokenizer and processor."
)
_NOT_SAID = re.compile(r"[^\w' -]+")


@dataclass(frozen=True)
class Detection:
    """One box: left, top, right, bottom in pixels; the detector's confidence, 0 to 1; the phrase that it matches."""

    box: tuple[float, float, float, float]
    score: float
    phrase: str


@runtime_checkable
class Detector(Protocol):
    """Finds objects of given kinds in single pictures."""

    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        """Everything that matches one of the phrases, for each picture RGB uint8 [H, W, 3].

        Args:
            phrases: nouns, with at most one attribute.
            least: minimum score.

        Raises:
            InstructionError: the phrases are too long.
        """


class GroundingDetector:
    """A detector of the Grounding-DINO family.

    A box's score for a phrase is the mean over the phrase's tokens, as in MM-Grounding-DINO, so that "red circle" needs
    both. (transformers' own post-processing returns spans of tokens, which need not be a phrase.)
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.separator = processor.tokenizer.convert_tokens_to_ids(".")
        words = processor.tokenizer
        self._special = {words.cls_token_id, words.sep_token_id, words.pad_token_id}

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: torch.device | str = "cpu", revision: str = ""
    ) -> GroundingDetector:
        """Loads a folder, or a hub repository at a revision.

        Raises:
            CheckpointError: it cannot be loaded, or is not such a detector.
        """
        pinned = {"revision": revision} if revision else {}
        with readable(f"The detector {path}", REMEDY):
            config = AutoConfig.from_pretrained(path, **pinned)
            if config.model_type not in MODEL_TYPES:
                raise CheckpointError(f"The detector {path} is a {config.model_type}.", REMEDY)
            with silent_loading():
                model = AutoModelForZeroShotObjectDetection.from_pretrained(path, dtype=torch.float32, **pinned)
            processor = AutoProcessor.from_pretrained(path, **pinned)
        detector = cls(model.to(device), processor)
        if detector.separator == processor.tokenizer.unk_token_id:
            # Without its file transformers makes a tokenizer that knows no words.
            raise CheckpointError(f"The detector {path} has no tokenizer.json or vocab.txt.", REMEDY)
        return detector

    @torch.inference_mode()
    def detect(self, frames: Sequence[np.ndarray], phrases: Sequence[str], least: float) -> list[list[Detection]]:
        """See Detector."""
        asked = list(dict.fromkeys(spoken(phrase) for phrase in phrases))
        if not frames or not all(asked):
            return [[] for _ in frames]
        images = [np.ascontiguousarray(frame) for frame in frames]
        inputs = self.processor(images=images, text=[asked] * len(frames), return_tensors="pt", padding=True)
        length, most = inputs["input_ids"].shape[1], self.model.config.max_text_len
        if length > most:
            raise InstructionError(
                f"The detector reads at most {most} tokens, {', '.join(asked)!r} has {length}.",
                "Use fewer words: a noun phrase such as 'the red car'.",
            )
        outputs = self.model(**inputs.to(self.model.device))
        owners = self._owners(inputs["input_ids"][0].tolist())
        found = []
        for frame, logits, boxes in zip(frames, outputs.logits, outputs.pred_boxes, strict=True):
            # (queries, phrases)
            said = torch.stack([logits[:, owners[n]].sigmoid().mean(1) for n in range(len(asked))], dim=1)
            found.append(_detections(frame, said, boxes, asked, least))
        return found

    def _owners(self, ids: list[int]) -> dict[int, list[int]]:
        """The columns of each phrase's tokens, by the phrase's number."""
        owners: dict[int, list[int]] = defaultdict(list)
        number = 0
        for column, token in enumerate(ids):
            if token == self.separator:
                number += 1
            elif token not in self._special:
                owners[number].append(column)
        return owners


def _detections(
    frame: np.ndarray, said: Tensor, boxes: Tensor, phrases: Sequence[str], least: float
) -> list[Detection]:
    height, width = frame.shape[:2]
    scores, best = said.max(1)
    middle, reach = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat([middle - reach, middle + reach], 1).clamp(0, 1).cpu()
    corners = corners * torch.tensor([width, height, width, height])
    found = []
    for score, number, box in zip(scores.tolist(), best.tolist(), corners.tolist(), strict=True):
        left, top, right, bottom = box
        if score >= least and right - left >= 1 and bottom - top >= 1:
            found.append(Detection((left, top, right, bottom), score, phrases[number]))
    return sorted(found, key=lambda one: -one.score)


def spoken(phrase: str) -> str:
    """A phrase in the form that a detector reads: lower case, without punctuation (a full stop would end it)."""
    return " ".join(_NOT_SAID.sub(" ", phrase.lower()).split())
