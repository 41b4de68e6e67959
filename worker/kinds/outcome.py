"""The outcome of a job that produces tracks: captions, doubt, frames to review, and warnings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.store import JobRequest
from backend.store.notes import DoubtfulFrame, JobNotes, TrackRefinement, TrackReview, TrackWarning
from trajseg.correction.strategy import NOTHING_KNOWN, Evidence, load_strategy
from trajseg.engines.base import Engine
from trajseg.engines.capabilities import captioner, comparer
from trajseg.errors import InputError
from trajseg.evaluation.comparison import Comparison
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip
from worker.kinds.base import JobOutcome
from worker.kinds.side_by_side import disagreement

NO_TRACK_DOUBT = 0.5
"""Doubt of a result without tracks, and of a track without a mask."""
log = logging.getLogger("trajseg.worker")


@dataclass
class TracksOutcome:
    """Tracks and what accompanies them; `outcome` returns the job's outcome.

    Attributes:
        result: the tracks.
        refinement: how each refined track was refined.
        evidence: by a track's uid, what shows where it is doubtful.
        warnings: what a person should check.
        comparison: with a second engine's result; None if there is none.
    """

    result: Result
    refinement: list[TrackRefinement] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    warnings: list[TrackWarning] = field(default_factory=list)
    comparison: Comparison | None = None

    def caption(self, engine: Engine, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress) -> None:
        """Captions tracks if the engine can; a track for which it has nothing to say keeps its caption."""
        describing = captioner(engine)
        if not tracks or describing is None:
            return
        try:
            captions = describing.caption(clip, tracks, progress)
        except InputError as error:
            # Masks without captions are better than nothing.
            log.warning("no captions: %s", error)
            return
        for track, caption in zip(tracks, captions, strict=True):
            track.caption = caption or track.caption
        self._compare(engine, clip, [track for track, caption in zip(tracks, captions, strict=True) if caption])

    def _compare(self, engine: Engine, clip: Clip, tracks: Sequence[MaskTrack]) -> None:
        """Warns of tracks whose captions, in the engine's own judgement, contradict the instruction."""
        comparing = comparer(engine)
        asked: dict[str, list[MaskTrack]] = {}
        for track in tracks:
            # In a job with several labels each track has its own instruction.
            asked.setdefault(track.instruction or self.result.instruction, []).append(track)
        for instruction, mine in asked.items():
            if not instruction or comparing is None:
                continue
            verdicts = comparing.contradictions(clip, instruction, [track.caption for track in mine])
            self.warnings += [
                TrackWarning(track=track.uid, text=f'you asked for "{instruction}"; this track reads: {track.caption}.')
                for track, contradicts in zip(mine, verdicts, strict=True)
                if contradicts
            ]

    def keep_warnings(self, notes: JobNotes, earlier: Result) -> None:
        """Keeps an earlier job's warnings about tracks that still exist with the same caption."""
        before = {track.uid: track.caption for track in earlier.tracks}
        now = {track.uid: track.caption for track in self.result.tracks}
        self.warnings += [
            one for one in notes.warnings if now.get(one.track) and now[one.track] == before.get(one.track)
        ]

    def outcome(self, strategy: str, follow_up: tuple[JobRequest, ...] = ()) -> JobOutcome:
        """The tracks with their doubt, the frames to review next, how they were refined, and the warnings.

        Args:
            strategy: name of the review strategy that chooses the frames.
            follow_up: jobs to queue once this one is done.
        """
        reviewing = load_strategy(strategy)
        review, doubts = [], []
        for track in self.result.tracks:
            evidence = self.evidence.get(track.uid, NOTHING_KNOWN)
            doubts.append(float(reviewing.doubts(track, evidence).mean()) if track.present else NO_TRACK_DOUBT)
            empty = TrackWarning(track=track.uid, text="nothing was found: no frame has a mask.")
            if not track.present and empty not in self.warnings:
                self.warnings.append(empty)
            suggested = reviewing.suggest(track, evidence=evidence)
            frames = [DoubtfulFrame(index=one.index, reason=one.reason, doubt=round(one.doubt, 4)) for one in suggested]
            review.append(TrackReview(track=track.uid, label=track.label, frames=tuple(frames)))
        report = {}
        if self.comparison is not None:
            doubts.append(1 - self.comparison.mean)
            first = disagreement(self.comparison)
            review[:0] = [first] if first else []
            report = {"comparison": self.comparison.to_json()}
        notes = JobNotes(
            # The least certain track decides; without tracks nobody knows whether that is right.
            doubt=round(max(doubts, default=NO_TRACK_DOUBT), 4),
            visible=sum(bool(track.present) for track in self.result.tracks),
            review=tuple(review),
            refinement=tuple(self.refinement),
            warnings=tuple(self.warnings),
        )
        return JobOutcome(self.result, notes, report, follow_up)
