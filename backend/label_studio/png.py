"""Masks as the PNG data URLs of BitmaskLabels, and back, pixel for pixel."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trajseg.errors import TaskError
from trajseg.video.decoding import frame_pixel_limit

_PREFIX = "data:image/png;base64,"


def to_url(mask: NDArray[np.bool_], colour: str = "#000000") -> str:
    """A data URL of an RGBA PNG: opaque in `colour` inside the mask, transparent elsewhere.

    Args:
        mask: bool [H, W].
        colour: "#rrggbb"; the editor repaints it in the label's colour.
    """
    rgba_HWC = np.zeros((*mask.shape, 4), np.uint8)
    rgba_HWC[mask] = (*bytes.fromhex(colour.lstrip("#")), 255)
    buffer = io.BytesIO()
    Image.fromarray(rgba_HWC, "RGBA").save(buffer, "PNG", compress_level=6)
    return _PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def refuse_large(width: int, height: int) -> None:
    """Raises TaskError for a mask with more pixels than a video frame may have, before decoding anything."""
    if not 0 < width * height <= (limit := frame_pixel_limit()):
        raise TaskError(
            f"A mask in the annotation has {width} x {height} pixels; {limit / 1e6:.1f} million pixels are allowed.",
            "Paint that mask again, or raise TRAJSEG_MAX_FRAME_PIXELS.",
        )


def size(url: str) -> tuple[int, int]:
    """Width and height in pixels of a data URL made by `to_url`, without decoding the picture."""
    header = base64.b64decode(url[len(_PREFIX) : len(_PREFIX) + 32])
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def from_url(url: str) -> NDArray[np.bool_]:
    """The mask of a data URL: bool [H, W], true where the picture is more than half opaque.

    Raises TaskError if it is not a PNG data URL.
    """
    try:
        if not url.startswith(_PREFIX):
            raise ValueError("not a PNG data URL")
        with Image.open(io.BytesIO(base64.b64decode(url[len(_PREFIX) :], validate=True)), formats=["PNG"]) as image:
            refuse_large(*image.size)
            alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
            return np.asarray(alpha.getchannel("A")) > 127
    except (SyntaxError, struct.error, ValueError, OSError, binascii.Error, Image.DecompressionBombError) as error:
        raise TaskError(f"A mask in the annotation cannot be read: {error}.", "Paint that mask again.") from error
