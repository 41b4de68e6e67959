"""Candidate search: everything in a clip that the phrases may refer to, as mask tracks over the whole clip.

A detector runs on every k-th frame. SAM 2 segments its detections and tracks them through the frames between.
Redetected objects continue their tracks; new ones start a track. Finally, tracks that started late are followed
backwards. Only RLE masks are kept per frame: memory does not grow with pictures or features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trajseg.engines.grounded.association import assigned, likeness, meetings
from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.detector import Detector
from trajseg.engines.grounded.following import ClipFollower, DrawnObject, FollowedGroup
from trajseg.engines.grounded.identity import merged
from trajseg.engines.grounded.suppression import box_suppressed, suppressed
from trajseg.model.marks import Marks
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.tracks.rle import Rle
from trajseg.video import Clip

SAME = 0.5
"""Two tracks show the same object on a frame if the IoU of their masks is at least this."""
COVERED = 0.6
"""A new detection is dropped if at least this share of it is covered by tracks detected on the same frame."""


@dataclass(frozen=True)
class SearchSettings:
    """How candidates are searched.

    Args:
        every: seconds between the frames on which the detector runs.
        looks: minimum number of such frames in a clip.
        threshold: detections below this score are ignored.
        certain: a track is kept if its mean detection score is at least this, or it was detected on two or more frames.
        most: maximum number of candidates; the best are kept.
    """

    every: float = 0.5
    looks: int = 8
    threshold: float = 0.25
    certain: float = 0.4
    most: int = 20


class CandidateSearch:
    """Finds candidates with one detector and one SAM 2; keeps nothing of a clip between calls."""

    def __init__(self, detector: Detector, sam2: PromptableSam2, settings: SearchSettings | None = None) -> None:
        self.detector, self.sam2 = detector, sam2
        self.settings = settings or SearchSettings()
        self.follower = ClipFollower(sam2)

    def detection_step(self, clip: Clip) -> int:
        """Number of frames between two detections."""
        by_time = round(clip.fps * self.settings.every)
        return max(1, min(by_time, len(clip) // self.settings.looks))

    @torch.inference_mode()
    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        """The candidates, ordered by first frame and then from left to right.

        `progress` is called after every frame. Raises VideoError, InstructionError, or anything that `progress` raises.
        """
        step, count = self.detection_step(clip), len(clip)
        groups: list[FollowedGroup] = []
        for index, picture, features in self.follower.frames(clip):
            drawn = [(group, self.follower.advance(group, index, features, picture.shape[:2])) for group in groups]
            _note_meetings(drawn)
            if index % step == 0:
                self._look(index, picture, features, phrases, drawn, groups, count)
            if progress:
                progress(index, count)
        self.follower.carry_back(clip, groups, step, progress)
        return self._chosen([track for group in groups for track in group.tracks])

    def sightings(self, picture: np.ndarray, features: FrameFeatures, phrases: Sequence[str]) -> list[DrawnObject]:
        """The detections in one picture, segmented and without duplicates."""
        [found] = self.detector.detect([picture], phrases, self.settings.threshold)
        if not found:
            return []
        boxes = np.array([one.box for one in found])
        found = [found[index] for index in box_suppressed(boxes, [one.score for one in found])]
        found = found[: 2 * self.settings.most]
        size = picture.shape[0], picture.shape[1]
        # A mark includes its first and its last pixel.
        corners = torch.tensor([one.box for one in found]) - torch.tensor([0.0, 0.0, 1.0, 1.0])
        named = [(one.phrase, one.score) for one in found]
        drawn = self.follower.draw(features, Marks.boxes(corners), named, size)
        sightings = [one for one in drawn if one is not None]
        kept = suppressed([one.mask for one in sightings], [one.certainty for one in sightings])
        return [sightings[index] for index in kept]

    def _look(
        self,
        index: int,
        picture: np.ndarray,
        features: FrameFeatures,
        phrases: Sequence[str],
        drawn: list[tuple[FollowedGroup, list[CandidateFrame]]],
        groups: list[FollowedGroup],
        count: int,
    ) -> None:
        """Runs the detector on a frame: tracked objects are redetected, new ones start a track."""
        sightings = self.sightings(picture, features, phrases)
        followed = [(group, row, frame) for group, frames in drawn for row, frame in enumerate(frames)]
        going = [group.motion[row].box(index) for group, row, _ in followed]
        met = [group.met[row] for group, row, _ in followed]
        masks = [one.mask for one in sightings]
        pairs = assigned(likeness([frame.rle for _, _, frame in followed], going, masks, met))
        area = picture.shape[0] * picture.shape[1]
        for place, column in pairs.items():
            group, row, frame = followed[place]
            sighting, track = sightings[column], group.tracks[row]
            if frame.rle is not None and rle.iou(frame.rle, sighting.mask) < SAME:
                # The tracker had switched to something else, which must not enter its memory.
                group.tracker.forget(1)
                group.tracker.other_memories.clear()
            track.sight(sighting.certainty)
            track.frames[index] = sighting.frame
            group.lost[row].anchor(rle.area(sighting.mask) / area)
            if _by_itself(column, place, masks, [frame.rle for _, _, frame in followed]):
                group.motion[row].see(index, sighting.mask)
                group.met[row] = False
        taken = [masks[column] for column in pairs.values()]
        for place, (group, row, frame) in enumerate(followed):
            # Two tracks show one object: the undetected one is occluded, or has switched to the other's object.
            if place not in pairs and any(rle.iou(frame.rle, mask) >= SAME for mask in taken if frame.rle):
                group.tracks[row].frames[index] = CandidateFrame()
        for group, _ in drawn:
            if any(track.frames[index].seen for track in group.tracks):
                self.follower.paint(group, index, features, (picture.shape[0], picture.shape[1]))
        known = [mask for group, row, _ in followed if (mask := group.tracks[row].frames[index].rle) is not None]
        fresh = [
            one
            for column, one in enumerate(sightings)
            if column not in pairs.values() and _covered(one.mask, known) < COVERED
        ]
        if fresh:
            groups.append(self.follower.started(index, features, fresh, count, (picture.shape[0], picture.shape[1])))

    def _chosen(self, tracks: list[Candidate]) -> list[Candidate]:
        """Removes duplicates and doubtful ones; at most `most`, ordered from early to late and left to right."""
        kept = [track for track in merged(tracks) if track.score >= self.settings.certain or track.sightings > 1]
        best = sorted(kept, key=lambda track: -track.score * len(track.shown) ** 0.5)[: self.settings.most]
        return sorted(best, key=lambda track: (track.shown[0], (track.box(track.shown[0]) or (0.0,))[0]))


def _by_itself(column: int, place: int, sightings: Sequence[Rle], followed: Sequence[Rle | None]) -> bool:
    """Whether detection `column`, matched to the tracked object at `place`, has no other object nearby."""
    others = [mask for other, mask in enumerate(sightings) if other != column]
    others += [mask for other, mask in enumerate(followed) if other != place and mask is not None]
    return not any(meetings([sightings[column], other]) for other in others)


def _note_meetings(drawn: list[tuple[FollowedGroup, list[CandidateFrame]]]) -> None:
    rows = [(group, row) for group, frames in drawn for row in range(len(frames))]
    for place in meetings([frame.rle for _, frames in drawn for frame in frames]):
        group, row = rows[place]
        group.met[row] = True


def _covered(mask: Rle, others: Sequence[Rle]) -> float:
    """Share of a mask covered by the union of others."""
    if not others:
        return 0.0
    whole = rle.union(others)
    shared, area = rle.iou(mask, whole), rle.area(mask)
    return shared * (area + rle.area(whole)) / (1 + shared) / area if area else 1.0
