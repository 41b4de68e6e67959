"""What a run has made: the tracks, their captions, and what is to be said of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trajseg.correction.review import doubts_of, suggest
from trajseg.engines.base import Captioner, Comparer, Engine, Progress
from trajseg.errors import CheckpointError, InputError
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip
from worker.kinds.refining import Known

NO_TRACK_DOUBT = 0.5
log = logging.getLogger("trajseg.worker")


def describes(engine: Engine, clip: Clip) -> bool:
    """Whether the engine can put tracks into words, with the weights that it has."""
    if not isinstance(engine, Captioner):
        return False
    try:
        engine.caption(clip, [])
    except CheckpointError as error:
        log.info("no captions: %s", error)
        return False
    return True


@dataclass
class Made:
    """A result and its notes.

    Attributes:
        result: the tracks.
        refinement: on each refined track, how it was refined; see worker.kinds.refining.
        known: by a track's uid, what tells where it is doubtful.
        warnings: sentences that a person should read.
    """

    result: Result
    refinement: list[dict[str, Any]] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def caption(self, engine: Engine, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress) -> None:
        """Put tracks into words where the engine can; a track of which nothing can be said keeps its sentence."""
        if not tracks or not isinstance(engine, Captioner) or not describes(engine, clip):
            return
        try:
            captions = engine.caption(clip, tracks, progress)
        except InputError as error:
            # Masks without words are worth more than nothing.
            log.warning("no captions: %s", error)
            return
        for track, caption in zip(tracks, captions, strict=True):
            track.caption = caption or track.caption
        self._compare(engine, clip, [track for track, caption in zip(tracks, captions, strict=True) if caption])

    def _compare(self, engine: Engine, clip: Clip, tracks: Sequence[MaskTrack]) -> None:
        """Warn of tracks whose captions, by the engine's own judgement, are not what was asked for."""
        asked = self.result.instruction
        if not tracks or not asked or not isinstance(engine, Comparer):
            return
        told = engine.contradictions(clip, asked, [track.caption for track in tracks])
        self.warnings += [
            f'{track.label}: you asked for "{asked}"; this track reads: {track.caption}.'
            for track, contradicts in zip(tracks, told, strict=True)
            if contradicts
        ]

    def keep_warnings(self, earlier: Mapping[str, Any]) -> None:
        """Warnings of the job that the tracks came from, as far as the tracks are still there as they were."""
        kept = {(track.label, track.caption) for track in self.result.tracks}
        for warning in map(str, earlier.get("warnings") or []):
            if any(warning.startswith(f"{label}: ") and caption in warning for label, caption in kept if caption):
                self.warnings.append(warning)

    def notes(self) -> dict[str, Any]:
        """What the job's result says beside the tracks; see docs/backend.md."""
        review, doubts = [], []
        for track in self.result.tracks:
            known = self.known.get(track.uid, Known())
            doubt, _ = doubts_of(track, painted=known.painted, agreement=known.agreement)
            doubts.append(float(doubt.mean()))
            suggested = suggest(track, painted=known.painted, agreement=known.agreement)
            frames = [{"index": one.index, "reason": one.reason, "doubt": round(one.doubt, 4)} for one in suggested]
            review.append({"track": track.uid, "label": track.label, "frames": frames})
        return {
            # The least sure track tells; of no track nobody knows whether that is right.
            "doubt": round(max(doubts, default=NO_TRACK_DOUBT), 4),
            "review": review,
            "refinement": self.refinement,
            "warnings": self.warnings,
        }
