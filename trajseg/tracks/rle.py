"""Masks as compressed COCO run-length codes, through pycocotools.

A mask is bool [H, W]; its code is `{"size": [H, W], "counts": str}`, which goes into JSON as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

from trajseg.errors import InputError


class Rle(TypedDict):
    """A compressed COCO run-length code."""

    size: list[int]
    counts: str


REWRITE = "Write the result again with trajseg, or correct the program that wrote it."

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels, from the top left corner."""


def encode(mask: np.ndarray) -> Rle:
    """Encodes a mask, bool [H, W]."""
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(rle: Rle) -> np.ndarray:
    """Decodes a mask, bool [H, W]."""
    mask: np.ndarray = coco.decode(_bytes(rle)).astype(bool)
    return mask


def area(rle: Rle) -> int:
    """Pixels in the mask."""
    return int(coco.area(_bytes(rle)))


def box(rle: Rle) -> Box | None:
    """The bounding box of the mask: x, y, width, height in pixels; None if the mask is empty."""
    if area(rle) == 0:
        return None
    left, top, width, height = (float(side) for side in coco.toBbox(_bytes(rle)))
    return left, top, width, height


def iou(a: Rle | None, b: Rle | None) -> float:
    """Intersection over union, 0 to 1; None is an empty mask, and two empty masks have 1."""
    empty_a, empty_b = a is None or area(a) == 0, b is None or area(b) == 0
    if empty_a or empty_b:
        return 1.0 if empty_a and empty_b else 0.0
    assert a is not None
    assert b is not None
    return float(coco.iou([_bytes(a)], [_bytes(b)], [0])[0, 0])


def union(rles: Sequence[Rle]) -> Rle:
    """The union of the masks, which must have the same size.

    Raises:
        InputError: there are no masks, or their sizes differ.
    """
    if not rles:
        raise InputError("There are no masks to unite.", "Pass at least one.")
    if len({tuple(rle["size"]) for rle in rles}) > 1:
        raise InputError("The masks to unite differ in size.", "Scale them to one size first.")
    code = coco.merge([_bytes(rle) for rle in rles], intersect=False)
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def checked(value: Any, height: int, width: int) -> Rle:
    """Validates `value` as the code of a height x width mask.

    pycocotools does not validate its input, so codes from outside must pass through here.

    Raises:
        InputError: it is not a code, or its runs do not fill the picture exactly.
    """
    if not isinstance(value, dict) or not isinstance(value.get("counts"), str):
        raise InputError('A mask must be {"size": [height, width], "counts": "..."}.', REWRITE)
    if list(value.get("size") or ()) != [height, width]:
        raise InputError(f"A mask is of size {value.get('size')}, the video of [{height}, {width}].", REWRITE)
    if sum(_runs(value["counts"])) != height * width:
        raise InputError("The runs of a mask do not fill the picture.", REWRITE)
    return {"size": [height, width], "counts": value["counts"]}


def _bytes(rle: Rle) -> dict[str, Any]:
    return {"size": rle["size"], "counts": rle["counts"].encode("ascii")}


def _runs(counts: str) -> list[int]:
    """Run lengths of a compressed code: five bits per character; runs are differences to the one before last."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise InputError("A mask's counts contain invalid characters.", REWRITE)
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        # The first three runs are absolute.
        run = value + runs[-2] if len(runs) > 2 else value
        if run < 0:
            raise InputError("A mask's counts contain a negative run.", REWRITE)
        runs.append(run)
        value = shift = 0
    if shift:
        raise InputError("A mask's counts are truncated.", REWRITE)
    return runs
