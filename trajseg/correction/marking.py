"""From a mark to a mask: by the engine where it can and its mask fits the mark, else by colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trajseg.correction.grabcut import cut_out
from trajseg.correction.propagator import Painted
from trajseg.tracks import MaskTrack
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.video import Clip

Draw = Callable[[Clip, Mark, Painted], np.ndarray]
"""An engine's way from a mark to a mask, bool [H, W], given masks that are known of the object in other frames."""


def mask_of(mark: Mark, clip: Clip, track: MaskTrack, painted: Painted, draw: Draw | None) -> np.ndarray:
    """The mask of what is marked, bool [H, W].

    Known of the object is what persons painted, and where they painted nothing, the track as it was on either side.

    Args:
        track: the track that is marked, as it was; it may be empty.
        painted: frames that a person painted.
        draw: None where the engine cannot.

    Raises:
        InputError: the mark is outside the clip.
        VideoError: the video can no longer be read.
    """
    if draw is not None:
        known = {index: mask for index, mask in painted.items() if mask.any()}
        if not known:
            before = [index for index in track.present if index < mark.index][-1:]
            after = [index for index in track.present if index > mark.index][:1]
            known = {index: track.mask(index) for index in (*before, *after)}
        mask = draw(clip, mark, known)
        if fit(mask, mark) >= FITS:
            return mask
    return cut_out(clip, mark)
