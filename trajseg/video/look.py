"""A video's look: small grey pictures of its frames, by which a copy of it is recognised.

A copy may have been encoded again, scaled, cut or mirrored (left and right): its bytes differ, but its frames look
alike. Other videos of the same camera differ wherever something moves. Cropped, rotated and recoloured copies are not
recognised, nor are copies that have a border, or that play backwards, nor single frames of a video. Neither are videos
in which hardly anything moves: they look like each other even if they are no copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from trajseg.video.clip import Clip
from trajseg.video.spacing import end_to_end

CELLS = 16
"""Height and width of a small picture."""
TOLERANCE = 10
"""Largest difference of a cell in two encodings of one frame, in grey levels of 256. With H.264 it is 5 to 11 at a CRF
of 35, and 3 or 4 at 28 (median over the frames of a clip, 12 clips)."""
PROBES = 12
"""Frames of one video that are searched for in the other."""
LEAST_FOUND = 3
"""Frames that a copy must share."""
MOST_FRAMES = 600
"""Of a longer video, as many frames are kept, evenly spaced."""


@dataclass(frozen=True, eq=False)
class Look:
    """The small pictures of a video's frames, grey uint8 [T, CELLS, CELLS]."""

    pictures: np.ndarray

    @classmethod
    def of(cls, clip: Clip) -> Look:
        """Raises VideoError if the video can no longer be read."""
        kept = None if len(clip) <= MOST_FRAMES else end_to_end(len(clip), MOST_FRAMES)
        pictures = [
            np.asarray(Image.fromarray(rgb).convert("L").resize((CELLS, CELLS), Image.Resampling.BOX))
            for _, rgb in clip.frames(kept)
        ]
        return cls(np.stack(pictures))

    def shares_frames_with(self, other: Look) -> bool:
        """Whether one of the two is a copy of the other, or of a quarter of it or more."""
        mirrored = Look(other.pictures[:, :, ::-1])
        return any(self._is_found_in(copy) or copy._is_found_in(self) for copy in (other, mirrored))

    def _is_found_in(self, other: Look) -> bool:
        """Whether frames that differ from each other are found in another video, in the same order."""
        probes = self.pictures[end_to_end(len(self.pictures), PROBES)].astype(np.int16)
        low, high = other.pictures.min(0).astype(np.int16), other.pictures.max(0).astype(np.int16)
        # Quick: a frame that leaves the range of the other video is not in it.
        possible = ((probes >= low - TOLERANCE) & (probes <= high + TOLERANCE)).all((1, 2))
        found, start = [], 0
        for probe in probes[possible]:
            places = np.flatnonzero(_alike(other.pictures[start:], probe))
            if len(places):
                found.append(probe)
                start += int(places[0])
        return len(found) >= LEAST_FOUND and not _alike(np.stack(found), found[0]).all()


def _alike(pictures: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Which pictures [T, CELLS, CELLS] show the same as `picture`, bool [T]."""
    return (np.abs(pictures.astype(np.int16) - picture) <= TOLERANCE).all((1, 2))
