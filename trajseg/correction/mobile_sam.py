"""MobileSAM: turns a box or a click on one frame into a mask, with a small promptable SAM that needs no GPU.

The weights are two ONNX files: an image encoder (TinyViT), and SAM's prompt encoder with its mask decoder. onnxruntime
runs them. Users have to fetch them themselves: see `trajseg weights get mobile-sam`.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from trajseg.checkpoints.places import MOBILE_SAM, MOBILE_SAM_FILES, marks_folder
from trajseg.errors import CheckpointError
from trajseg.tracks.mark import Mark
from trajseg.video import Clip

SIDE = 1024
"""Side of the encoder's square input, pixels."""
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
MASK_INPUT = (1, 1, 256, 256)
CLICK, PADDING, TOP_LEFT, BOTTOM_RIGHT = 1, -1, 2, 3
"""SAM's point labels. A click needs an additional padding point; the corners of a box do not."""
FRAMES_KEPT = 8
"""Frames whose features are cached, 4 MiB each: people often correct a mark on the same frame."""
ENCODER_INPUT = ("input",)
DECODER_INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
REMEDY = (
    "`trajseg weights get mobile-sam --from FILE` puts them in place; or set TRAJSEG_MARKS_MODEL to their folder, "
    "or unset it (marks are then drawn by the engine, or by colour)."
)


class Session(Protocol):
    """The part of onnxruntime.InferenceSession in use."""

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs, in order."""


class MobileSam:
    """Segments marked objects; a Marker (trajseg.engines.base) that ignores instruction and known masks.

    Args:
        encoder: picture (1, 3, 1024, 1024) -> features (1, 256, 64, 64).
        decoder: SAM's ONNX decoder, with inputs DECODER_INPUTS -> masks (1, 1, H, W) as logits, and more.
    """

    name = MOBILE_SAM

    def __init__(self, encoder: Session, decoder: Session) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._features: OrderedDict[bytes, np.ndarray] = OrderedDict()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> MobileSam:
        """The model from a folder with the files encoder.onnx and sam.onnx.

        Raises:
            CheckpointError: a file or the package onnxruntime is missing, or a file is something else.
        """
        missing = [name for name in MOBILE_SAM_FILES if not (Path(folder) / name).is_file()]
        if missing:
            raise CheckpointError(f"The marks model in {folder} lacks {' and '.join(missing)}.", REMEDY)
        encoder, decoder = (Path(folder) / name for name in MOBILE_SAM_FILES)
        return cls(_session(encoder, ENCODER_INPUT), _session(decoder, DECODER_INPUTS))

    def mark(
        self, clip: Clip, mark: Mark, instruction: str = "", known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of the object at a box or click, bool [H, W].

        Raises:
            InputError: the mark lies outside the picture, or the clip has no such frame.
            VideoError: the video can no longer be read.
        """
        rgb = mark.picture(clip)
        if mark.point:
            mark.pixel(clip.width, clip.height)
            points, labels = [mark.middle, (0.0, 0.0)], [CLICK, PADDING]
        else:
            left, top, right, bottom = mark.inside(clip.width, clip.height)
            points, labels = [(left, top), (right, bottom)], [TOP_LEFT, BOTTOM_RIGHT]
        inputs = (
            self.features(rgb),
            np.array([points], np.float32) * (SIDE / max(rgb.shape[:2])),
            np.array([labels], np.float32),
            np.zeros(MASK_INPUT, np.float32),
            np.zeros(1, np.float32),
            np.array(rgb.shape[:2], np.float32),
        )
        logits = self._decoder.run(None, dict(zip(DECODER_INPUTS, inputs, strict=True)))[0]
        mask: np.ndarray = logits[0, 0] > 0
        return mask

    def features(self, rgb: np.ndarray) -> np.ndarray:
        """Features (1, 256, 64, 64) of a picture, RGB uint8 [H, W, 3]; those of the latest frames are cached."""
        key = hashlib.blake2b(rgb.tobytes(), digest_size=16).digest() + str(rgb.shape).encode()
        if key in self._features:
            self._features.move_to_end(key)
        else:
            self._features[key] = self._encoder.run(None, {ENCODER_INPUT[0]: encoder_input(rgb)})[0]
            if len(self._features) > FRAMES_KEPT:
                self._features.popitem(last=False)
        return self._features[key]


def encoder_input(rgb: np.ndarray) -> np.ndarray:
    """A picture, RGB uint8 [H, W, 3], as the encoder's input: float32 (1, 3, 1024, 1024).

    Its longer side is resized to 1024, colours are normalised, and the rest at the right or bottom is zero.
    """
    height, width = rgb.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_LINEAR)
    square = np.zeros((SIDE, SIDE, 3), np.float32)
    square[: size[1], : size[0]] = (resized.astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None])


@lru_cache(maxsize=1)
def load_marks_model(name: str) -> MobileSam:
    """The marks model with this name (`mobile-sam`) or folder, loaded once per process; raises like `from_folder`."""
    return MobileSam.from_folder(marks_folder(name))


def _session(path: Path, inputs: Sequence[str]) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            "A marks model needs the package onnxruntime, which is not installed.", 'pip install "trajseg[marks]"'
        ) from error
    options = onnxruntime.SessionOptions()
    # onnxruntime does not read OMP_NUM_THREADS itself; 0 is its own choice.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors have no base class of their own.
        raise CheckpointError(f"{path} cannot be loaded: {str(error)[:200]}", REMEDY) from error
    names = [part.name for part in session.get_inputs()]
    if lacking := set(inputs) - set(names):
        raise CheckpointError(
            f"{path} is a different model: it takes {', '.join(names)}, but not {', '.join(sorted(lacking))}.", REMEDY
        )
    return session
