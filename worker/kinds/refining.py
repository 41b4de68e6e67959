"""Refining: propagates what persons painted on a few frames of a clip's tracks to all other frames.

Only tracks with changes are touched. A painted frame is returned exactly as it was painted, whatever the propagators
produce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.store import PaintedTrack
from backend.store.notes import TrackRefinement
from backend.store.params import TrackMark
from trajseg.correction.filling import filled_in
from trajseg.correction.joining import without
from trajseg.correction.marking import Draw, erased, mask_of
from trajseg.correction.strategy import Evidence
from trajseg.engines.base import Engine, Marker
from trajseg.engines.capabilities import marker, propagators
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.tracks.mark import Mark
from trajseg.video import Clip

if TYPE_CHECKING:
    from trajseg.correction import Painted, Propagator, Refinement

Refine = Callable[..., "Refinement"]


@dataclass
class Refined:
    """The result of refining.

    Attributes:
        tracks: all tracks of the clip, refined or not.
        notes: for each refined track, which propagator was used, and how well each one predicted withheld painted
        frames.
        known: by the track's uid: what shows where it is doubtful.
    """

    tracks: list[MaskTrack] = field(default_factory=list)
    notes: list[TrackRefinement] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)


class Refiner:
    """Refines the tracks of one clip with one engine's capabilities.

    Args:
        refine: replaces trajseg.correction.refine in tests.
        marks_model: segments boxes and clicks, in preference to the engine.
    """

    def __init__(
        self,
        engine: Engine,
        clip: Clip,
        instruction: str,
        refine: Refine | None = None,
        marks_model: Marker | None = None,
    ) -> None:
        self.engine, self.clip, self.instruction = engine, clip, instruction
        self._markers = [one for one in (marks_model, marker(engine)) if one is not None]
        self._refine = refine
        self._propagators: list[Propagator] = []

    def run(
        self,
        tracks: Sequence[MaskTrack],
        painted: Sequence[PaintedTrack],
        marks: Sequence[TrackMark] = (),
        progress: Progress | None = None,
    ) -> Refined:
        """The tracks with the painted frames propagated; tracks that a person removed entirely are left out.

        Args:
            tracks: identified by their labels; `painted` and `marks` may name new ones, which are created.
            progress: called with (frames done, frames in total), over all refined tracks.

        Raises:
            InputError: a mask or a mark does not fit the clip.
            VideoError: the video can no longer be read.
        """
        made = Refined()
        by_label = {one.label: one for one in painted}
        of_label = {mark.label: [one for one in marks if one.label == mark.label] for mark in marks}
        rejected = {one.label for one in painted if one.rejected and one.label not in of_label}
        known = {track.label: track for track in tracks}
        uids = {track.uid for track in tracks}
        # Without a track there is nothing that could be carried into a longer range.
        touched = [one.label for one in painted if one.vouched or (one.extended and one.label in known)]
        touched += of_label
        wanted = [label for label in dict.fromkeys(touched) if label not in rejected]
        for label in wanted:
            if label not in known:
                held = by_label.get(label)
                uid = _unused(held.track_uid if held else f"marked-{label}", uids)
                known[label] = self._empty(uid, label)
        for label, track in known.items():
            if label in rejected:
                continue
            if label in wanted:
                part = _part(progress, wanted.index(label), len(wanted), len(self.clip))
                track = self._track(track, by_label.get(label), of_label.get(label, []), made, part)
            made.tracks.append(track)
        if progress and not wanted:
            progress(len(self.clip), len(self.clip))
        return made

    def _track(
        self,
        track: MaskTrack,
        painted: PaintedTrack | None,
        marks: Sequence[TrackMark],
        made: Refined,
        progress: Progress | None,
    ) -> MaskTrack:
        if marks or (painted and painted.vouched):
            track = self._corrected(track, painted, marks, made, progress)
            progress = None
        if painted and painted.extended:
            track = self._filled_in(track, painted.extended, made, progress)
        return track

    def _corrected(
        self,
        track: MaskTrack,
        painted: PaintedTrack | None,
        marks: Sequence[TrackMark],
        made: Refined,
        progress: Progress | None,
    ) -> MaskTrack:
        masks = {index: self._mask(code) for index, code in (painted.masks if painted else {}).items()}
        prompts = [one.mark for one in marks if not one.negative]
        prompts += [Mark(index, box) for index, box in (painted.boxes if painted else {}).items()]
        draws = self._draws()
        prompted = {
            one.index: mask_of(one, self.clip, track, masks, draws) for one in prompts if one.index not in masks
        }
        for one in marks:
            index = one.index
            if one.negative and index not in masks:
                size = (self.clip.height, self.clip.width)
                prompted[index] = erased(prompted.get(index, track.mask(index, size)), one.mark)
        anchors: Painted = {**prompted, **masks}
        seen = self._beside_removed(track, painted, anchors)
        if not any(mask.any() for mask in anchors.values()):
            # Nothing to propagate: someone only said where the object is not.
            frames = without(track, set(anchors), painted.shown if painted else set(track.present) - set(anchors))
            if progress:
                progress(len(self.clip), len(self.clip))
            made.evidence[track.uid] = Evidence(sorted(masks))
            return replace(track, frames=frames)
        if self._refine is None:
            from trajseg.correction import refine

            self._refine = refine
        self._load_propagators()
        anchors |= {index: track.mask(index) for index in seen}
        refinement = self._refine(self.clip, track, anchors, self._propagators, progress, marked=set(prompted))
        frames = list(refinement.track.frames)
        for index in seen:
            frames[index] = replace(track.frames[index], provenance=track.frames[index].provenance or track.provenance)
        for index, mask in masks.items():
            code = rle.encode(mask) if mask.any() else None
            frames[index] = replace(frames[index], rle=code, score=1.0, provenance="person")
        for index in prompted:
            frames[index] = replace(frames[index], provenance="hint")
        present = [frame.score for frame in frames if frame.rle is not None]
        score = sum(present) / len(present) if present else 0.0
        made.evidence[track.uid] = Evidence(sorted(masks), refinement.agreement)
        made.notes.append(
            TrackRefinement(
                track=track.uid,
                label=track.label,
                chosen=refinement.chosen,
                left_out={
                    name: {index: round(float(value), 4) for index, value in figures.items()}
                    for name, figures in refinement.left_out.items()
                },
                painted=tuple(sorted(masks)),
                hinted=tuple(sorted(prompted)),
                carried=sum(1 for frame in frames if frame.provenance in {one.name for one in self._propagators}),
            )
        )
        return replace(refinement.track, frames=frames, score=score)

    def _filled_in(
        self, track: MaskTrack, extended: Collection[int], made: Refined, progress: Progress | None
    ) -> MaskTrack:
        """The track with masks on frames that a person has put inside a range of the timeline; the note says which."""
        filled = filled_in(self.clip, track, extended, self._load_propagators(), progress)
        there = {index for index in extended if index < len(self.clip)}
        missing = sorted(index for index in there if filled.frames[index].rle is None)
        new = sorted(index for index in there - set(missing) if track.frames[index].rle is None)
        note = next((one for one in made.notes if one.track == track.uid), None)
        if note is None:
            names = Counter(filled.frames[index].provenance for index in new)
            chosen = names.most_common(1)[0][0] if names else self._propagators[0].name
            note = TrackRefinement(track=track.uid, label=track.label, chosen=chosen)
            made.notes.append(note)
        made.notes[made.notes.index(note)] = note.model_copy(
            update={"extended": tuple(new), "missing": tuple(missing), "carried": note.carried + len(new)}
        )
        return filled

    def _load_propagators(self) -> list[Propagator]:
        self._propagators = self._propagators or propagators(self.engine)
        return self._propagators

    @staticmethod
    def _beside_removed(track: MaskTrack, painted: PaintedTrack | None, anchors: Painted) -> list[int]:
        """Frames next to those without the object, at which a person ended a box track but kept the box."""
        if painted is None or not painted.boxes:
            return []
        removed = {index for index, code in painted.masks.items() if code is None}
        beside = {index + step for index in removed for step in (-1, 1)} & painted.shown
        return sorted(index for index in beside if index not in anchors and track.frames[index].rle is not None)

    def _draws(self) -> list[Draw]:
        """What segments a mark: the marks model, then the engine."""

        def drawing(marking: Marker) -> Draw:
            return lambda clip, mark, known: marking.mark(clip, mark, self.instruction, known)

        return [drawing(marking) for marking in self._markers]

    def _mask(self, code: Any) -> np.ndarray:
        size = (self.clip.height, self.clip.width)
        if code is None:
            return np.zeros(size, bool)
        return rle.decode(rle.checked(code, *size))

    def _empty(self, uid: str, label: str) -> MaskTrack:
        times = self.clip.frame_map.times
        absent: list[np.ndarray | None] = [None] * len(times)
        return MaskTrack.from_masks(
            uid, absent, times, [0.0] * len(times), label=label, instruction=self.instruction, provenance="person"
        )


def source_tracks(
    base: Result | None,
    painted: Iterable[PaintedTrack],
    result_of: Callable[[str], Result | None],
    base_id: str | None,
    earlier: Collection[str] = (),
) -> list[MaskTrack]:
    """The tracks that persons started from, each under the label it had for them.

    Args:
        base: of the prediction; None if the person started from nothing.
        result_of: by job id; tracks may come from other jobs if a suggestion was accepted.
        base_id: the job of `base`.
        earlier: jobs whose tracks the base refined: their tracks are in the base, under the same labels.
    """
    tracks = list(base.tracks) if base else []
    by_uid = {track.uid: track for track in tracks}
    uids = set(by_uid)
    for one in painted:
        if one.job_id is None:
            continue
        if one.job_id == base_id:
            if one.track_uid in by_uid:
                by_uid[one.track_uid].label = one.label
            continue
        if one.job_id in earlier and any(track.label == one.label for track in tracks):
            continue
        result = result_of(one.job_id)
        track = next((held for held in result.tracks if held.uid == one.track_uid), None) if result else None
        if track is not None:
            uid = _unused(track.uid, uids)
            tracks.append(replace(track, uid=uid, label=one.label))
    return tracks


def _unused(uid: str, taken: set[str]) -> str:
    number, fresh = 2, uid
    while fresh in taken:
        fresh, number = f"{uid}-{number}", number + 1
    taken.add(fresh)
    return fresh


def _part(progress: Progress | None, number: int, parts: int, frames: int) -> Progress | None:
    """The progress of one of several tracks, in frames."""
    if progress is None:
        return None
    whole = progress

    def report(done: int, total: int) -> None:
        whole(number * frames + round(frames * done / max(total, 1)), parts * frames)

    return report
