"""Standing track: one track of a task as it stands, with the trust of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.store.corrections import EXTENDED
from backend.store.models import Correction
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack, Result, TrackFrame, rle
from trajseg.tracks.labelled import Expression
from trajseg.tracks.trust import Trust

if TYPE_CHECKING:
    from backend.store.corrections import PaintedTrack


@dataclass(frozen=True)
class StandingTrack:
    """The current state of one track of a task.

    Args:
        track: its uid is unique in the task; people see its label.
        trust: one per frame.
        rejected: a person removed everything shown of it.
        caption_trust: painted if a person wrote the caption, accepted if someone submitted it unchanged.
        job_id, track_uid: of the prediction it came from; `job_id` is None for a track drawn by a person.
    """

    track: MaskTrack
    trust: tuple[Trust, ...]
    rejected: bool = False
    caption_trust: Trust = Trust.PREDICTED
    job_id: str | None = None
    track_uid: str = ""

    @property
    def verdict(self) -> str:
        """A person's verdict: rejected, drawn, corrected, accepted, or predicted if nobody has seen it."""
        if self.rejected:
            return "rejected"
        if any(trust >= Trust.PROPAGATED for trust in self.trust):
            return "corrected" if self.job_id else "drawn"
        return "accepted" if Trust.ACCEPTED in self.trust else "predicted"


@dataclass(frozen=True)
class SeenFrames:
    """What a person saw: pairs of label and frame submitted unchanged, and frames whose whole picture was shown."""

    unchanged: frozenset[tuple[str, int]]
    pictures: frozenset[int]

    @classmethod
    def of(cls, corrections: Sequence[Correction]) -> SeenFrames:
        corrections = [row for row in corrections if row.kind != EXTENDED]
        unchanged = frozenset((row.label, row.frame_index) for row in corrections if row.kind == "unchanged")
        # In the box view a frame is a key frame of one track only.
        pictures = frozenset(row.frame_index for row in corrections if row.box is None)
        return cls(unchanged, pictures if all(row.box is None for row in corrections) else frozenset())


def standing_track(
    track: MaskTrack,
    before: MaskTrack | None,
    painted: PaintedTrack | None,
    seen: SeenFrames,
    rejected: bool,
    size: tuple[int, int],
) -> StandingTrack:
    """A track of an annotated task with the painted masks applied."""
    frames, trust = list(track.frames), []
    masks = painted.masks if painted else {}
    boxes = painted.boxes if painted else {}
    outside = [index for index in (*masks, *boxes) if not 0 <= index < len(frames)]
    if outside:
        raise InputError(
            f"track {track.label} is painted on frame {outside[0]}, but its video has {len(frames)} frames.",
            "The task's video has changed: request a new prediction.",
        )
    for index, frame in enumerate(track.frames):
        # A rejected track is one decision for all frames.
        level = max(provenance_trust(frame), Trust.PROPAGATED if rejected else Trust.UNKNOWN)
        if index in masks:
            code = masks[index]
            checked = rle.checked(code, *size) if code is not None else None
            frames[index], level = replace(frame, rle=checked, score=1.0, provenance="person"), Trust.PAINTED
        elif rejected:
            frames[index] = replace(frame, rle=None)
        elif before is not None and frame.rle != before.frames[index].rle:
            # Changed since a person saw it.
            level = max(level, Trust.PROPAGATED)
        elif index in boxes and level < Trust.PROPAGATED:
            # The box was moved, and the mask has not been recomputed yet.
            level = Trust.UNKNOWN
        elif (track.label, index) in seen.unchanged or (frame.rle is None and index in seen.pictures):
            level = Trust.CONFIRMED if level >= Trust.PROPAGATED else max(level, Trust.ACCEPTED)
        elif before is None and painted is not None and level < Trust.PROPAGATED and not track.present:
            level = Trust.UNKNOWN
        trust.append(level)
    job_id = painted.job_id if painted else None
    uid = painted.track_uid if painted else track.uid
    shown = [frame.score for frame in frames if frame.rle is not None]
    score = sum(shown) / len(shown) if shown else 0.0
    return StandingTrack(
        replace(track, frames=frames, score=score), tuple(trust), rejected, job_id=job_id, track_uid=uid
    )


def captioned(standing: StandingTrack, before: MaskTrack | None, written: str | None) -> StandingTrack:
    """The same track with the caption that a person wrote, if any ("" removed it)."""
    if written is not None:
        return replace(standing, track=replace(standing.track, caption=written), caption_trust=Trust.PAINTED)
    seen = before is not None and before.caption and before.caption == standing.track.caption
    return replace(standing, caption_trust=Trust.ACCEPTED) if seen else standing


def expressions_of(tracks: Sequence[StandingTrack], instruction: str) -> tuple[Expression, ...]:
    """Instructions with the tracks they refer to; a person has seen them all."""
    meant: dict[str, list[StandingTrack]] = {instruction: []} if instruction else {}
    for held in tracks:
        if held.track.instruction:
            meant.setdefault(held.track.instruction, []).append(held)
    expressions = []
    for text, group in meant.items():
        uids = tuple(held.track.uid for held in group if not held.rejected and held.track.present)
        corrected = any(held.verdict in ("rejected", "corrected", "drawn") for held in group)
        expressions.append(Expression(text, uids, Trust.PAINTED if corrected else Trust.ACCEPTED))
    return tuple(expressions)


def provenance_trust(frame: TrackFrame) -> Trust:
    if frame.provenance in ("", "model"):
        return Trust.PREDICTED
    return Trust.PAINTED if frame.provenance == "person" else Trust.PROPAGATED


def empty_track(result: Result, uid: str, label: str, instruction: str) -> MaskTrack:
    times = [frame.time for frame in result.tracks[0].frames] if result.tracks else None
    times = times or [index / result.fps for index in range(result.frame_count)]
    absent: list[None] = [None] * result.frame_count
    return MaskTrack.from_masks(
        uid, absent, times, [0.0] * len(times), label=label, instruction=instruction, provenance="person"
    )


def unused_uid(uid: str, taken: Sequence[str]) -> str:
    number, fresh = 2, uid
    while fresh in taken:
        fresh, number = f"{uid}-{number}", number + 1
    return fresh
