"""Converts pictures and sentences to the model's tensors, and mask logits back to the picture's size."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trajseg.data.sentences import CAPTION_REQUEST, REQUEST, SEG_TOKEN
from trajseg.errors import CheckpointError
from trajseg.model.config import SPECIAL_TOKENS
from trajseg.model.dialogue import Turns, segment_request

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROCESSOR_FILE = "processor.json"

Colour = tuple[float, float, float]
"""For red, green and blue, in units of full brightness."""


class TrajSegProcessor:
    """Tokenizer and picture geometry of a checkpoint.

    Pictures are letterboxed: the longest side becomes `llm_size` (language side) or `mask_size` (SAM 2) pixels
    and the right and bottom are padded, so nothing is cropped.

    Args:
        llm_mean, llm_std: normalisation of the vision tower's pictures.
        centre_crop: crop the vision tower's pictures to their central square, as in the paper's released code, instead
            of letterboxing.
        turns: the text around the user's and the assistant's turn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        llm_size: int,
        mask_size: int,
        llm_mean: Sequence[float] = IMAGENET_MEAN,
        llm_std: Sequence[float] = IMAGENET_STD,
        centre_crop: bool = False,
        turns: Turns | dict[str, str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.llm_size = llm_size
        self.mask_size = mask_size
        self.llm_mean = _colour(llm_mean)
        self.llm_std = _colour(llm_std)
        self.centre_crop = centre_crop
        self.turns = turns if isinstance(turns, Turns) else Turns(**turns or {})
        self.seg_id = int(tokenizer.convert_tokens_to_ids(SEG_TOKEN))  # type: ignore[arg-type]
        self.end_id = int(tokenizer.eos_token_id)
        self._marker_ids: list[int] = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))  # type: ignore[assignment]
        self._first_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._whole_words = isinstance(getattr(backend, "model", None), WordLevel)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TrajSegProcessor:
        """Loads a checkpoint folder; CheckpointError if files are missing."""
        try:
            sizes = json.loads((Path(folder) / PROCESSOR_FILE).read_text())
            return cls(AutoTokenizer.from_pretrained(str(folder)), **sizes)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder} has no usable tokenizer or {PROCESSOR_FILE}: {error}",
                "Copy the whole checkpoint folder.",
            ) from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer and the sizes beside the model's files."""
        self.tokenizer.save_pretrained(str(folder))
        sizes = {
            "llm_size": self.llm_size,
            "mask_size": self.mask_size,
            "llm_mean": self.llm_mean,
            "llm_std": self.llm_std,
            "centre_crop": self.centre_crop,
            "turns": asdict(self.turns),
        }
        (Path(folder) / PROCESSOR_FILE).write_text(json.dumps(sizes, indent=2) + "\n")

    def llm_pixels(self, frames: Iterable[np.ndarray]) -> Tensor:
        """RGB uint8 pictures [H, W, 3] -> (N, 3, llm_size, llm_size)."""
        frames = (middle(frame) for frame in frames) if self.centre_crop else frames
        return torch.stack([letterbox(frame, self.llm_size, self.llm_mean, self.llm_std) for frame in frames])

    def mask_pixels(self, frames: Iterable[np.ndarray]) -> Tensor:
        """RGB uint8 pictures [H, W, 3] -> (n, 3, mask_size, mask_size)."""
        return torch.stack([letterbox(frame, self.mask_size) for frame in frames])

    def seen_boxes(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes (n, 4), xyxy in units of the letterboxed side -> in units of the vision tower's picture.

        Unchanged, unless the pictures are cropped: then the boxes are cropped as well, and a box outside the crop is
        all zero.
        """
        if not self.centre_crop:
            return boxes
        side = min(height, width)
        cut = torch.tensor([(width - side) // 2, (height - side) // 2], dtype=boxes.dtype).repeat(2)
        boxes = ((boxes * max(height, width) - cut) / side).clamp(0.0, 1.0)
        return boxes * (boxes[:, 2:] > boxes[:, :2]).all(1, keepdim=True)

    def mask_targets(self, masks: Tensor) -> Tensor:
        """Masks of a picture (S, H, W) bool -> 0 and 1 (S, mask_size, mask_size) float32, letterboxed."""
        height, width = inner_size(masks.shape[-2], masks.shape[-1], self.mask_size)
        inner = F.interpolate(masks[:, None].float(), (height, width), mode="bilinear", align_corners=False)
        full = F.pad(inner[:, 0], (0, self.mask_size - width, 0, self.mask_size - height))
        return (full >= 0.5).float()

    def to_picture(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Mask logits (S, h, w) of a letterboxed picture -> logits (S, height, width), float32."""
        size = (self.mask_size, self.mask_size)
        full = F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)
        inner_height, inner_width = inner_size(height, width, self.mask_size)
        inner = full[:, :, :inner_height, :inner_width]
        return F.interpolate(inner, (height, width), mode="bilinear", align_corners=False)[:, 0]

    def ids(self, text: str) -> list[int]:
        """Token ids of a sentence, without start or end."""
        if not self._whole_words:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [number for word in text.split() for number in _word_ids(self.tokenizer, word)]

    def prompt_ids(self, instruction: str, frames: int, template: str = REQUEST) -> tuple[list[list[int]], list[int]]:
        """Token ids around the visual tokens of an instruction about `frames` frames.

        Returns the ids before each frame's tokens (one list per frame), and those after the last frame.
        """
        start, end, clip_start, clip_end = self._marker_ids[:4]
        opening = f"{self.turns.system} {self.turns.user}".strip()
        before = [[*self._first_ids, *self.ids(opening), clip_start, start]] + [[end, start] for _ in range(frames - 1)]
        request = self.turns.after_clip + segment_request(instruction, template)
        after = [end, clip_end, *self.ids(request), *self.ids(self.turns.assistant)]
        return before, after

    def caption_ids(self, request: str = CAPTION_REQUEST) -> tuple[list[int], list[int]]:
        """Token ids around the trajectory tokens of a request for a caption, which follow the clip's last frame.

        Returns the ids between the last frame's tokens and the trajectory's, and those after the trajectory.
        """
        _, end, _, clip_end, start, stop = self._marker_ids
        after = [stop, *self.ids(self.turns.after_clip + request), *self.ids(self.turns.assistant)]
        return [end, clip_end, start], after

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, including [SEG]."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)  # type: ignore[return-value]


def inner_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width in pixels of a picture letterboxed into size x size."""
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def middle(frame: np.ndarray) -> np.ndarray:
    """The largest central square of a picture [H, W, 3]."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]


def letterbox(frame: np.ndarray, size: int, mean: Colour = IMAGENET_MEAN, std: Colour = IMAGENET_STD) -> Tensor:
    """RGB uint8 [H, W, 3] -> normalised (3, size, size), zero-padded right and bottom."""
    height, width = inner_size(frame.shape[0], frame.shape[1], size)
    shrink = height < frame.shape[0]
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    picture = torch.zeros(3, size, size)
    for channel, plane, levels in zip(picture.numpy(), cv2.split(resized), _levels(mean, std), strict=True):
        channel[:height, :width] = cv2.LUT(plane, levels)
    return picture


@functools.lru_cache(maxsize=8)
def _levels(mean: Colour, std: Colour) -> np.ndarray:
    """The normalised value of each of the 256 levels of red, green and blue, float32 [3, 256]."""
    levels = np.arange(256, dtype=np.float32)[:, None] / 255.0
    return np.ascontiguousarray(((levels - mean) / std).T, np.float32)


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = values
    return float(red), float(green), float(blue)


@functools.lru_cache(maxsize=4096)
def _word_ids(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    """Token ids of one whitespace-separated word; with a whole-word tokenizer they are the same in any sentence."""
    return tuple(tokenizer(word, add_special_tokens=False)["input_ids"])


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A whole-word tokenizer for checkpoints trained on a closed vocabulary; unknown words become <unk>."""
    specials = ["<pad>", "<s>", "</s>", "<unk>", SEG_TOKEN, *SPECIAL_TOKENS]
    listed = list(dict.fromkeys([*specials, *words]))
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(listed)}, unk_token="<unk>"))
    pattern = "|".join([*(re.escape(token) for token in specials), "[a-z0-9']+", r"[^\sa-z0-9']"])
    backend.pre_tokenizer = Split(Regex(pattern), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[SEG_TOKEN, *SPECIAL_TOKENS],
    )
