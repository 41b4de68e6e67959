"""Two results for one clip side by side: their agreement, which tracks are the same object, what to review first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result
from trajseg.tracks.region_similarity import region_similarity

SAME = 0.1
"""Mean IoU from which two tracks count as the same object."""
APART = 0.02
"""Minimum distance between two shown frames, as a share of the clip: neighbours look alike."""


@dataclass(frozen=True)
class TrackPair:
    """A track of either result, None if the other result lacks the object, and their mean IoU."""

    first: str | None
    second: str | None
    iou: float


@dataclass(frozen=True)
class Comparison:
    """The agreement of two results.

    Args:
        names: model versions of both.
        agreement: by frame, IoU of everything that is masked; 1 where both mask nothing.
        pairs: every track of both, most similar first.
    """

    names: tuple[str, str]
    agreement: tuple[float, ...]
    pairs: tuple[TrackPair, ...]

    @property
    def mean(self) -> float:
        """Mean agreement over all frames."""
        return sum(self.agreement) / len(self.agreement)

    def frames_to_look_at(self, most: int) -> list[int]:
        """At most `most` 0-based frames, lowest agreement first, without full agreement and not adjacent."""
        gap = max(1, round(APART * len(self.agreement)))
        chosen: list[int] = []
        for index in np.argsort(self.agreement, kind="stable").tolist():
            if len(chosen) == most or self.agreement[index] >= 1.0:
                break
            if all(abs(index - other) > gap for other in chosen):
                chosen.append(index)
        return chosen

    def to_json(self) -> dict[str, Any]:
        """The form written to files: frames are 0-based."""
        return {
            "engines": list(self.names),
            "mean_agreement": round(self.mean, 4),
            "agreement": [round(value, 4) for value in self.agreement],
            "disagreement_first": self.frames_to_look_at(len(self.agreement)),
            "tracks": [{"first": p.first, "second": p.second, "iou": round(p.iou, 4)} for p in self.pairs],
        }


def compare(first: Result, second: Result) -> Comparison:
    """Compare two results of the same clip.

    Raises:
        InputError: they belong to clips of different sizes or lengths.
    """
    sizes = [(r.frame_count, r.width, r.height) for r in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(
            "The results are of different clips: {} frames of {}x{} and {} of {}x{}.".format(*sizes[0], *sizes[1]),
            "Compare two results for the same video.",
        )
    size = (first.height, first.width)
    agreement = []
    alike = np.zeros((len(first.tracks), len(second.tracks)))
    shown = np.zeros_like(alike)
    for index in range(first.frame_count):
        ours, theirs = (_masks(result.tracks, index, size) for result in (first, second))
        agreement.append(region_similarity(_union(ours, size), _union(theirs, size)))
        for row, one in enumerate(ours):
            for column, other in enumerate(theirs):
                if one.any() or other.any():
                    alike[row, column] += region_similarity(one, other)
                    shown[row, column] += 1
    return Comparison(
        (first.model_version, second.model_version),
        tuple(agreement),
        _pairs(first.tracks, second.tracks, alike / np.maximum(shown, 1)),
    )


def _pairs(first: Sequence[MaskTrack], second: Sequence[MaskTrack], iou: np.ndarray) -> tuple[TrackPair, ...]:
    rows, columns = linear_sum_assignment(-iou)
    matched = [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if iou[r, c] >= SAME]
    pairs = [TrackPair(first[r].label, second[c].label, float(iou[r, c])) for r, c in matched]
    pairs.sort(key=lambda pair: -pair.iou)
    taken_rows, taken_columns = {r for r, _ in matched}, {c for _, c in matched}
    pairs += [TrackPair(track.label, None, 0.0) for r, track in enumerate(first) if r not in taken_rows]
    pairs += [TrackPair(None, track.label, 0.0) for c, track in enumerate(second) if c not in taken_columns]
    return tuple(pairs)


def _masks(tracks: Sequence[MaskTrack], index: int, size: tuple[int, int]) -> list[np.ndarray]:
    return [track.mask(index, size) for track in tracks]


def _union(masks: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, bool)
    for mask in masks:
        whole |= mask
    return whole
