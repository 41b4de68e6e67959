"""From a mark to a mask: by a model where one can and its mask fits the mark, else by colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from trajseg.correction.changes import SAME_BOX
from trajseg.correction.grabcut import cut_out
from trajseg.correction.propagator import Painted
from trajseg.tracks import MaskTrack
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

SAME_OBJECT = 0.5
"""IoU of a mask with the prediction inside a mark from which on both are of the same object."""

Draw = Callable[[Clip, Mark, Painted], np.ndarray]
"""An engine's way from a mark to a mask, bool [H, W], given masks that are known of the object in other frames."""


def mask_of(mark: Mark, clip: Clip, track: MaskTrack, painted: Painted, draws: Sequence[Draw]) -> np.ndarray:
    """The mask of what is marked, bool [H, W].

    Known of the object is what persons painted, and where they painted nothing, the track as it was on either side.

    A box that the prediction fits is of the same object: a mask that has little in common with the prediction is then
    of something else in the box, such as what hides the object, and the prediction within the box stands. So it does
    where the box is the prediction's own, and there are only colours to draw with: they cut an object of two in half.

    Args:
        track: the track that is marked, as it was; it may be empty.
        painted: frames that a person painted.
        draws: the preferred one first; empty where no model draws marks.

    Raises:
        InputError: the mark is outside the clip.
        VideoError: the video can no longer be read.
    """
    inside = _predicted_inside(mark, clip, track)
    if draws:
        known = {index: mask for index, mask in painted.items() if mask.any()}
        if not known:
            before = [index for index in track.present if index < mark.index][-1:]
            after = [index for index in track.present if index > mark.index][:1]
            known = {index: track.mask(index) for index in (*before, *after)}
        for draw in draws:
            mask = draw(clip, mark, known)
            if fit(mask, mark) >= FITS and _same_object(mask, inside):
                return mask
    if inside is not None and fit(inside, mark) >= SAME_BOX and inside.sum() >= SAME_BOX * track.mask(mark.index).sum():
        return inside
    mask = cut_out(clip, mark)
    return mask if inside is None or _same_object(mask, inside) else inside


def erased(mask: np.ndarray, mark: Mark) -> np.ndarray:
    """A mask, bool [H, W], without what a negative mark takes away: all inside a box, or the piece under a click.

    Raises InputError where the mark is outside the picture.
    """
    height, width = mask.shape
    left_over = mask.copy()
    if mark.point:
        x, y = mark.pixel(width, height)
        if mask[y, x]:
            _, pieces = cv2.connectedComponents(mask.astype(np.uint8))
            left_over[pieces == pieces[y, x]] = False
        return left_over
    left, top, right, bottom = mark.inside(width, height)
    left_over[top:bottom, left:right] = False
    return left_over


def _same_object(mask: np.ndarray, inside: np.ndarray | None) -> bool:
    """Whether the mask may be of the object that the prediction shows inside the mark, if it shows one."""
    return inside is None or region_similarity(mask, inside) >= SAME_OBJECT


def _predicted_inside(mark: Mark, clip: Clip, track: MaskTrack) -> np.ndarray | None:
    """The predicted mask within a box that it fits, but for specks; None where it does not, or the mark is a click."""
    predicted = track.mask(mark.index, (clip.height, clip.width))
    if mark.point:
        return None
    left, top, right, bottom = mark.inside(clip.width, clip.height)
    inside = np.zeros_like(predicted)
    inside[top:bottom, left:right] = predicted[top:bottom, left:right]
    mostly = inside.sum() >= SAME_OBJECT * predicted.sum()
    return inside if fit(predicted, mark) >= FITS or (mostly and fit(inside, mark) >= FITS) else None
