"""PointSearch: points on frames become mask tracks over the whole clip, by SAM 2.1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.following import ClipFollower, DrawnObject, FollowedGroup
from trajseg.engines.grounded.identity import merged
from trajseg.engines.molmo2.answers import PointTrack
from trajseg.model.marks import Marks
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.video import Clip

CERTAINTY = 0.5
"""Confidence of a pointed object, since a vision language model gives no score."""


class PointSearch:
    """Segments and tracks the objects at given points; keeps nothing of a clip between calls.

    An object is segmented at its first point and tracked from there, both ways. A later point inside its mask confirms
    it; one outside makes SAM 2 segment it again there, and remember that.
    """

    def __init__(self, sam2: PromptableSam2) -> None:
        self.sam2, self.follower = sam2, ClipFollower(sam2)

    @torch.inference_mode()
    def find(
        self, clip: Clip, tracks: Sequence[PointTrack], phrase: str, progress: Progress | None = None
    ) -> list[Candidate]:
        """The objects at the points, in the order of `tracks`; two that turn out to be one are merged.

        Args:
            phrase: the objects' name.
            progress: called after every frame.

        Raises VideoError, or anything that `progress` raises.
        """
        groups: list[FollowedGroup] = []
        places: dict[int, tuple[FollowedGroup, int]] = {}
        size = clip.height, clip.width
        for index, _, features in self.follower.frames(clip):
            for group in groups:
                self.follower.advance(group, index, features, size)
            drawn = self._draw(index, features, tracks, places, phrase, size)
            changed: list[FollowedGroup] = []
            for number in drawn.keys() & places.keys():
                group, row = places[number]
                group.tracks[row].frames[index] = drawn[number].frame
                group.lost[row].anchor(rle.area(drawn[number].mask) / (size[0] * size[1]))
                if not any(group is other for other in changed):
                    changed.append(group)
                    # SAM 2 had switched to something else: it must not remember that.
                    group.tracker.forget(1)
                    group.tracker.other_memories.clear()
            for group in changed:
                self.follower.paint(group, index, features, size)
            if fresh := [number for number in drawn if number not in places]:
                group = self.follower.started(index, features, [drawn[number] for number in fresh], len(clip), size)
                groups.append(group)
                places |= {number: (group, row) for row, number in enumerate(fresh)}
            if progress:
                progress(index, len(clip))
        self.follower.carry_back(clip, groups, _step(tracks), progress)
        found = [places[track.number] for track in tracks if track.number in places]
        order = [group.tracks[row] for group, row in found]
        kept = merged(order)
        return [track for track in order if any(track is one for one in kept)]

    def _draw(
        self,
        index: int,
        features: FrameFeatures,
        tracks: Sequence[PointTrack],
        places: dict[int, tuple[FollowedGroup, int]],
        phrase: str,
        size: tuple[int, int],
    ) -> dict[int, DrawnObject]:
        """The objects to segment on a frame, by number: new ones, and those whose track went wrong."""
        pointed = {}
        for track in tracks:
            if (point := track.points.get(index)) is None:
                continue
            if place := places.get(track.number):
                candidate = place[0].tracks[place[1]]
                if _inside(candidate, index, point):
                    candidate.sight(CERTAINTY)
                    continue
            pointed[track.number] = point
        if not pointed:
            return {}
        marks = Marks.clicks(torch.tensor(list(pointed.values()), dtype=torch.float32))
        objects = self.follower.draw(features, marks, [(phrase, CERTAINTY)] * len(pointed), size)
        return {number: one for number, one in zip(pointed, objects, strict=True) if one is not None}


def _inside(candidate: Candidate, index: int, point: tuple[float, float]) -> bool:
    """Whether a point lies inside a candidate's mask on a frame."""
    code = candidate.frames[index].rle
    return code is not None and bool(rle.decode(code)[int(point[1]), int(point[0])])


def _step(tracks: Sequence[PointTrack]) -> int:
    """The usual number of frames between two moments of the answer."""
    moments = sorted({index for track in tracks for index in track.points})
    gaps = sorted(after - before for before, after in pairwise(moments))
    return gaps[len(gaps) // 2] if gaps else 1
