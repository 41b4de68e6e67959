"""Tracks objects through a clip with SAM 2, in groups that started on the same frame, forwards and backwards.

Only RLE masks are kept per frame: memory does not grow with pictures or features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from trajseg.correction.windows import Windows
from trajseg.engines.grounded.association import Motion
from trajseg.engines.grounded.blobs import without_blobs
from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.losing import LostObject
from trajseg.model.marks import Marks
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.tracks.rle import Rle
from trajseg.video import Clip

ENCODED_AT_ONCE = 4
"""Batch size of SAM 2's image encoder."""
KEYS_KEPT = 3
"""Number of painted frames in a track's memory: the first and the latest ones."""
WINDOW = 8
"""Number of frames whose features are computed together when going back in time."""
GIVEN_UP = 2
"""Detection intervals after which a track without masks is no longer followed backwards."""


@dataclass(frozen=True)
class DrawnObject:
    """SAM 2's mask of an object on the frame where it was detected, and the detector's confidence, 0 to 1."""

    phrase: str
    certainty: float
    mask: Rle
    score: float
    presence: float = 4.0

    @property
    def frame(self) -> CandidateFrame:
        """The object as a candidate's frame."""
        return CandidateFrame(self.mask, self.score, self.presence, seen=True)


@dataclass
class FollowedGroup:
    """Tracks that started on the same frame, followed together, one row each."""

    start: int
    tracker: Tracker
    tracks: list[Candidate]
    lost: list[LostObject] = field(default_factory=list)
    motion: list[Motion] = field(default_factory=list)
    met: list[bool] = field(default_factory=list)


class ClipFollower:
    """Tracks objects with one SAM 2; keeps nothing of a clip between calls."""

    def __init__(self, sam2: PromptableSam2) -> None:
        self.sam2 = sam2

    def draw(
        self, features: FrameFeatures, marks: Marks, found: Sequence[tuple[str, float]], size: tuple[int, int]
    ) -> list[DrawnObject | None]:
        """The object at each mark on a picture of `size` (height, width); None if nothing is segmented.

        Args:
            features: of the picture, one row.
            marks: in pixels of the picture.
            found: the phrase and the confidence for each mark.
        """
        decoded = self.sam2.draw(self.sam2.tracker(1), 0, features, marks, size)
        objects: list[DrawnObject | None] = []
        for (phrase, certainty), logits in zip(found, self.sam2.logits(decoded.logits, size), strict=True):
            mask = without_blobs((logits > 0).cpu().numpy())
            if mask.any():
                sure = float(logits[torch.from_numpy(mask).to(logits.device)].sigmoid().mean())
                objects.append(DrawnObject(phrase, certainty, rle.encode(mask), sure))
            else:
                objects.append(None)
        return objects

    def frames(self, clip: Clip) -> Iterator[tuple[int, np.ndarray, FrameFeatures]]:
        """Each frame's index, picture and features, in order."""
        pictures = clip.frames()
        while chunk := list(islice(pictures, ENCODED_AT_ONCE)):
            features = self.sam2.encode([picture for _, picture in chunk])
            for row, (index, picture) in enumerate(chunk):
                yield index, picture, features[row : row + 1]

    def advance(
        self, group: FollowedGroup, index: int, features: FrameFeatures, size: tuple[int, int]
    ) -> list[CandidateFrame]:
        """Advances a group by one frame. The masks are returned and added to the tracks."""
        rows = torch.zeros(len(group.tracks), dtype=torch.long, device=self.sam2.device)
        decoded = group.tracker.step(index, features[rows], None)
        frames = self._drawn(decoded, size)
        for row, frame in enumerate(frames):
            share = rle.area(frame.rle) / (size[0] * size[1]) if frame.rle else 0.0
            if group.lost[row].lost(share):
                frames[row] = CandidateFrame(presence=-abs(frame.presence))
                group.tracker.forget(KEYS_KEPT, index)
            group.tracks[row].frames[index] = frames[row]
        return frames

    def _drawn(self, decoded: DecodedMask, size: tuple[int, int]) -> list[CandidateFrame]:
        logits = self.sam2.logits(decoded.gated(), size)
        frames = []
        for plane, presence in zip(logits, decoded.score.tolist(), strict=True):
            mask = without_blobs((plane > 0).cpu().numpy())
            there = float(torch.tensor(presence).sigmoid())
            if not mask.any():
                frames.append(CandidateFrame(None, 1 - there if there < 0.5 else 0.0, min(presence, 0.0)))
                continue
            sure = float(plane[torch.from_numpy(mask).to(plane.device)].sigmoid().mean())
            frames.append(CandidateFrame(rle.encode(mask), there * sure, presence))
        return frames

    def started(
        self, index: int, features: FrameFeatures, fresh: Sequence[DrawnObject], count: int, size: tuple[int, int]
    ) -> FollowedGroup:
        """Objects to follow from frame `index` of `count` on; the pictures have `size` (height, width)."""
        tracks = []
        for one in fresh:
            track = Candidate(one.phrase, one.certainty, index, [CandidateFrame() for _ in range(count)])
            track.frames[index] = one.frame
            tracks.append(track)
        group = FollowedGroup(index, self.sam2.tracker(count), tracks)
        for one in fresh:
            lost, motion = LostObject(), Motion()
            lost.anchor(rle.area(one.mask) / (size[0] * size[1]))
            motion.see(index, one.mask)
            group.lost.append(lost)
            group.motion.append(motion)
            group.met.append(False)
        self.paint(group, index, features, size)
        return group

    def paint(self, group: FollowedGroup, index: int, features: FrameFeatures, size: tuple[int, int]) -> None:
        """Adds a group's current masks on a frame to its memory."""
        masks = [_mask(track.frames[index].rle, size) for track in group.tracks]
        rows = torch.zeros(len(masks), dtype=torch.long, device=self.sam2.device)
        group.tracker.paint(index, features[rows], self.sam2.painted(masks))
        group.tracker.other_memories.pop(index, None)
        group.tracker.forget(KEYS_KEPT)

    def carry_back(self, clip: Clip, groups: list[FollowedGroup], step: int, progress: Progress | None) -> None:
        """Follows tracks that started late backwards, until they disappear or the clip begins.

        Args:
            step: frames between two detections.
        """
        late = sorted((group for group in groups if group.start > 0), key=lambda group: -group.start)
        if not late:
            return
        size = clip.height, clip.width
        windows: Windows[FrameFeatures] = Windows(self._window, WINDOW, 2)
        back: list[tuple[FollowedGroup, int]] = []
        for index in range(late[0].start, -1, -1):
            features = windows.get(clip, index)
            for going, _ in back:
                self.advance(going, index, features, size)
            back = [(group, limit) for group, limit in back if self._still(group, index, limit)]
            for group in late:
                if group.start == index:
                    going = FollowedGroup(index, self.sam2.tracker(len(clip), backwards=True), group.tracks)
                    going.lost = [LostObject() for _ in group.tracks]
                    self.paint(going, index, features, size)
                    back.append((going, GIVEN_UP * step))
            if not back and all(group.start > index or group.start == 0 for group in late):
                break
            if progress:
                progress(len(clip), len(clip))
        windows.rest()

    def _still(self, group: FollowedGroup, index: int, limit: int) -> bool:
        """Whether any track of a group going back was visible in the last `limit` frames."""
        recent = range(index, min(group.start, index + limit) + 1)
        return any(track.frames[at].rle is not None for track in group.tracks for at in recent)

    def _window(self, pictures: Iterator[tuple[int, np.ndarray]]) -> list[FrameFeatures]:
        frames = [picture for _, picture in pictures]
        features = [
            self.sam2.encode(frames[at : at + ENCODED_AT_ONCE]) for at in range(0, len(frames), ENCODED_AT_ONCE)
        ]
        return [chunk[row : row + 1] for chunk in features for row in range(len(chunk.top))]


def _mask(code: Rle | None, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size, bool) if code is None else rle.decode(code)
