"""From a mark to a mask: by a model if one is available and its mask fits the mark, else by colour."""

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
"""IoU of a mask with the prediction inside a mark from which both show the same object."""

Draw = Callable[[Clip, Mark, Painted], np.ndarray]
"""An engine's function from a mark to a mask, bool [H, W], given known masks of the object on other frames."""


def mask_of(mark: Mark, clip: Clip, track: MaskTrack, painted: Painted, draws: Sequence[Draw]) -> np.ndarray:
    """The mask of the marked object, bool [H, W].

    The known masks of the object are those that persons painted and, where nobody painted, the track on either side.

    If the prediction fits a box, the box shows the same object. A new mask that differs much from the prediction then
    shows something else in the box, such as what occludes the object, so the prediction inside the box is kept. It is
    also kept if the box is the prediction's own and only colours are available: they would cut a two-coloured object.

    Args:
        track: the marked track, as it was; it may be empty.
        painted: frames that a person painted.
        draws: in order of preference; empty if no model segments marks.

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
    """A mask, bool [H, W], without what a negative mark removes: everything inside a box, or the piece under a click.

    Raises InputError if the mark is outside the picture.
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
    """Whether the mask may show the object that the prediction shows inside the mark, if it shows one."""
    return inside is None or region_similarity(mask, inside) >= SAME_OBJECT


def _predicted_inside(mark: Mark, clip: Clip, track: MaskTrack) -> np.ndarray | None:
    """The predicted mask within a box that it fits, without specks; None if it does not fit, or for a click."""
    predicted = track.mask(mark.index, (clip.height, clip.width))
    if mark.point:
        return None
    left, top, right, bottom = mark.inside(clip.width, clip.height)
    inside = np.zeros_like(predicted)
    inside[top:bottom, left:right] = predicted[top:bottom, left:right]
    mostly = inside.sum() >= SAME_OBJECT * predicted.sum()
    return inside if fit(predicted, mark) >= FITS or (mostly and fit(inside, mark) >= FITS) else None
