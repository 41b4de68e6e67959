"""The search for candidates: everything in a clip that phrases may mean, as mask tracks over the whole of it.

A detector looks at every k-th frame. SAM 2 draws what it sees there and carries it on to the frames between; what is
seen again is the same object, what is new starts a track. At the end, tracks that started late are carried back
towards the beginning. What is kept of a frame is masks as RLE: memory does not grow with pictures or features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from trajseg.correction.windows import Windows
from trajseg.engines.grounded.association import Motion, assigned, likeness, meetings
from trajseg.engines.grounded.blobs import without_blobs
from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.detector import Detection, Detector
from trajseg.engines.grounded.identity import merged
from trajseg.engines.grounded.losing import LostObject
from trajseg.engines.grounded.suppression import box_suppressed, suppressed
from trajseg.model.marks import Marks
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.tracks.rle import Rle
from trajseg.video import Clip

ENCODED_AT_ONCE = 4
"""Frames that go through SAM 2's image encoder together."""
KEYS_KEPT = 3
"""Painted frames that a track remembers: the first and the latest."""
WINDOW = 8
"""Frames whose features are made together when going back in time."""
GIVEN_UP = 2
"""Gaps between detections after which a track that shows nothing is no longer carried back."""
SAME = 0.5
"""IoU of the masks of two tracks on one frame from which on they are on the same object."""
COVERED = 0.6
"""A new sighting of which so much lies on tracks that were seen on the same frame is no object of its own."""


@dataclass(frozen=True)
class SearchSettings:
    """How candidates are searched.

    Args:
        every: seconds between the frames that the detector looks at.
        looks: of which there are at least so many in a clip.
        threshold: detections below this score are not looked at.
        certain: a track is kept if its mean detection score is at least this, or it was seen on two frames or more.
        most: candidates, the best ones.
    """

    every: float = 0.5
    looks: int = 8
    threshold: float = 0.25
    certain: float = 0.4
    most: int = 20


@dataclass(frozen=True)
class Sighting:
    """What a detector saw on a frame and SAM 2 drew there."""

    detection: Detection
    mask: Rle
    score: float
    presence: float


@dataclass
class _Group:
    """Tracks that started on the same frame, followed together, a row each."""

    start: int
    tracker: Tracker
    tracks: list[Candidate]
    lost: list[LostObject] = field(default_factory=list)
    motion: list[Motion] = field(default_factory=list)
    met: list[bool] = field(default_factory=list)


class CandidateSearch:
    """Finds candidates with one detector and one SAM 2; holds nothing of a clip between calls."""

    def __init__(self, detector: Detector, sam2: PromptableSam2, settings: SearchSettings | None = None) -> None:
        self.detector, self.sam2 = detector, sam2
        self.settings = settings or SearchSettings()

    def detection_step(self, clip: Clip) -> int:
        """Frames from one look of the detector to the next."""
        by_time = round(clip.fps * self.settings.every)
        return max(1, min(by_time, len(clip) // self.settings.looks))

    @torch.inference_mode()
    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        """The candidates, in the order of their first frame and from left to right.

        `progress` is called after every frame. Raises VideoError, InstructionError, or whatever `progress` raises.
        """
        step, count = self.detection_step(clip), len(clip)
        groups: list[_Group] = []
        for index, picture, features in self._frames(clip):
            drawn = [(group, self._advance(group, index, features, picture.shape[:2])) for group in groups]
            _note_meetings(drawn)
            if index % step == 0:
                self._look(index, picture, features, phrases, drawn, groups, count)
            if progress:
                progress(index, count)
        self._carry_back(clip, groups, step, progress)
        return self._chosen([track for group in groups for track in group.tracks])

    def sightings(self, picture: np.ndarray, features: FrameFeatures, phrases: Sequence[str]) -> list[Sighting]:
        """What the detector sees in one picture, drawn and without doubles."""
        [found] = self.detector.detect([picture], phrases, self.settings.threshold)
        if not found:
            return []
        boxes = np.array([one.box for one in found])
        found = [found[index] for index in box_suppressed(boxes, [one.score for one in found])]
        found = found[: 2 * self.settings.most]
        size = picture.shape[0], picture.shape[1]
        # A mark holds its first and its last pixel.
        corners = torch.tensor([one.box for one in found]) - torch.tensor([0.0, 0.0, 1.0, 1.0])
        decoded = self.sam2.draw(self.sam2.tracker(1), 0, features, Marks.boxes(corners), size)
        sightings = []
        for detection, logits in zip(found, self.sam2.logits(decoded.logits, size), strict=True):
            mask = without_blobs((logits > 0).cpu().numpy())
            if mask.any():
                sure = float(logits[torch.from_numpy(mask).to(logits.device)].sigmoid().mean())
                sightings.append(Sighting(detection, rle.encode(mask), sure, 4.0))
        kept = suppressed([one.mask for one in sightings], [one.detection.score for one in sightings])
        return [sightings[index] for index in kept]

    def _frames(self, clip: Clip) -> Iterator[tuple[int, np.ndarray, FrameFeatures]]:
        pictures = clip.frames()
        while chunk := list(islice(pictures, ENCODED_AT_ONCE)):
            features = self.sam2.encode([picture for _, picture in chunk])
            for row, (index, picture) in enumerate(chunk):
                yield index, picture, features[row : row + 1]

    def _advance(
        self, group: _Group, index: int, features: FrameFeatures, size: tuple[int, int]
    ) -> list[CandidateFrame]:
        """Carries a group on by one frame, whose masks it returns; they are also put into the tracks."""
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

    def _look(
        self,
        index: int,
        picture: np.ndarray,
        features: FrameFeatures,
        phrases: Sequence[str],
        drawn: list[tuple[_Group, list[CandidateFrame]]],
        groups: list[_Group],
        count: int,
    ) -> None:
        """The detector's look at a frame: followed objects are seen again, others start a track."""
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
                # The tracker had gone over to something else: it must not remember that.
                group.tracker.forget(1)
                group.tracker.other_memories.clear()
            track.sight(sighting.detection.score)
            track.frames[index] = CandidateFrame(sighting.mask, sighting.score, sighting.presence, seen=True)
            group.lost[row].anchor(rle.area(sighting.mask) / area)
            if _by_itself(column, place, masks, [frame.rle for _, _, frame in followed]):
                group.motion[row].see(index, sighting.mask)
                group.met[row] = False
        taken = [masks[column] for column in pairs.values()]
        for place, (group, row, frame) in enumerate(followed):
            # Two tracks on one object: the one that was not seen is hidden, or has gone over to the other's object.
            if place not in pairs and any(rle.iou(frame.rle, mask) >= SAME for mask in taken if frame.rle):
                group.tracks[row].frames[index] = CandidateFrame()
        for group, _ in drawn:
            if any(track.frames[index].seen for track in group.tracks):
                self._paint(group, index, features, (picture.shape[0], picture.shape[1]))
        known = [mask for group, row, _ in followed if (mask := group.tracks[row].frames[index].rle) is not None]
        fresh = [
            one
            for column, one in enumerate(sightings)
            if column not in pairs.values() and _covered(one.mask, known) < COVERED
        ]
        if fresh:
            groups.append(self._started(index, features, fresh, count, (picture.shape[0], picture.shape[1])))

    def _started(
        self, index: int, features: FrameFeatures, fresh: list[Sighting], count: int, size: tuple[int, int]
    ) -> _Group:
        tracks = []
        for one in fresh:
            track = Candidate(
                one.detection.phrase, one.detection.score, index, [CandidateFrame() for _ in range(count)]
            )
            track.frames[index] = CandidateFrame(one.mask, one.score, one.presence, seen=True)
            tracks.append(track)
        group = _Group(index, self.sam2.tracker(count), tracks)
        for one in fresh:
            lost, motion = LostObject(), Motion()
            lost.anchor(rle.area(one.mask) / (size[0] * size[1]))
            motion.see(index, one.mask)
            group.lost.append(lost)
            group.motion.append(motion)
            group.met.append(False)
        self._paint(group, index, features, size)
        return group

    def _paint(self, group: _Group, index: int, features: FrameFeatures, size: tuple[int, int]) -> None:
        """Remembers a group's masks on a frame as they stand."""
        masks = [_mask(track.frames[index].rle, size) for track in group.tracks]
        rows = torch.zeros(len(masks), dtype=torch.long, device=self.sam2.device)
        group.tracker.paint(index, features[rows], self._planes(masks))
        group.tracker.other_memories.pop(index, None)
        group.tracker.forget(KEYS_KEPT)

    def _planes(self, masks: list[np.ndarray]) -> Tensor:
        return self.sam2.painted(masks)

    def _carry_back(self, clip: Clip, groups: list[_Group], step: int, progress: Progress | None) -> None:
        """Follows tracks that started late against the time, until they are gone or the clip begins."""
        late = sorted((group for group in groups if group.start > 0), key=lambda group: -group.start)
        if not late:
            return
        size = clip.height, clip.width
        windows: Windows[FrameFeatures] = Windows(self._window, WINDOW, 2)
        back: list[tuple[_Group, int]] = []
        for index in range(late[0].start, -1, -1):
            features = windows.get(clip, index)
            for going, _ in back:
                self._advance(going, index, features, size)
            back = [(group, limit) for group, limit in back if self._still(group, index, limit)]
            for group in late:
                if group.start == index:
                    going = _Group(index, self.sam2.tracker(len(clip), backwards=True), group.tracks)
                    going.lost = [LostObject() for _ in group.tracks]
                    self._paint(going, index, features, size)
                    back.append((going, GIVEN_UP * step))
            if not back and all(group.start > index or group.start == 0 for group in late):
                break
            if progress:
                progress(len(clip), len(clip))
        windows.rest()

    def _still(self, group: _Group, index: int, limit: int) -> bool:
        """Whether any track of a group going back was there in the last `limit` frames."""
        recent = range(index, min(group.start, index + limit) + 1)
        return any(track.frames[at].rle is not None for track in group.tracks for at in recent)

    def _window(self, pictures: Iterator[tuple[int, np.ndarray]]) -> list[FrameFeatures]:
        frames = [picture for _, picture in pictures]
        features = [
            self.sam2.encode(frames[at : at + ENCODED_AT_ONCE]) for at in range(0, len(frames), ENCODED_AT_ONCE)
        ]
        return [chunk[row : row + 1] for chunk in features for row in range(len(chunk.top))]

    def _chosen(self, tracks: list[Candidate]) -> list[Candidate]:
        """Without doubles and doubtful ones, at most as many as are wanted, from early to late and left to right."""
        kept = [track for track in merged(tracks) if track.score >= self.settings.certain or track.sightings > 1]
        best = sorted(kept, key=lambda track: -track.score * len(track.shown) ** 0.5)[: self.settings.most]
        return sorted(best, key=lambda track: (track.shown[0], (track.box(track.shown[0]) or (0.0,))[0]))


def _by_itself(column: int, place: int, sightings: Sequence[Rle], followed: Sequence[Rle | None]) -> bool:
    """Whether sighting `column`, taken for the followed object at `place`, has no other object near."""
    others = [mask for other, mask in enumerate(sightings) if other != column]
    others += [mask for other, mask in enumerate(followed) if other != place and mask is not None]
    return not any(meetings([sightings[column], other]) for other in others)


def _note_meetings(drawn: list[tuple[_Group, list[CandidateFrame]]]) -> None:
    rows = [(group, row) for group, frames in drawn for row in range(len(frames))]
    for place in meetings([frame.rle for _, frames in drawn for frame in frames]):
        group, row = rows[place]
        group.met[row] = True


def _mask(code: Rle | None, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size, bool) if code is None else rle.decode(code)


def _covered(mask: Rle, others: Sequence[Rle]) -> float:
    """Share of a mask that lies in the union of others."""
    if not others:
        return 0.0
    whole = rle.union(others)
    shared, area = rle.iou(mask, whole), rle.area(mask)
    return shared * (area + rle.area(whole)) / (1 + shared) / area if area else 1.0
