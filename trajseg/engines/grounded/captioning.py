"""Captions: a vision language model describes tracks, from any source."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.chooser import Chooser
from trajseg.engines.grounded.dialogue import caption_question
from trajseg.engines.grounded.prompts import Prompts
from trajseg.engines.grounded.viewing import ViewSettings, view
from trajseg.errors import InputError
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack
from trajseg.video import Clip


def track_captions(
    chooser: Chooser,
    prompts: Prompts,
    clip: Clip,
    tracks: Sequence[MaskTrack],
    settings: ViewSettings,
    progress: Progress | None = None,
) -> list[str]:
    """A sentence for each track, in order; empty for a track without masks. See Captioner.

    Raises:
        InputError: a track does not belong to this clip.
        VideoError: the video can no longer be read.
        TrajSegError: the model does not answer.
    """
    for track in tracks:
        if len(track) != len(clip):
            raise InputError(
                f"Track {track.uid} has {len(track)} frames, {clip.path.name} has {len(clip)}.",
                "Use the video that the track belongs to.",
            )
    candidates = [_of_track(track) for track in tracks]
    scene = view(clip, candidates, settings)
    captions = []
    for done, candidate in enumerate(candidates, 1):
        text = ""
        if candidate.shown:
            answer = chooser.answer(caption_question(prompts, scene, done))
            text = str(json.loads(answer)["caption"]).strip()
        captions.append(text)
        if progress:
            progress(done, len(tracks))
    return captions


def _of_track(track: MaskTrack) -> Candidate:
    """A track as a candidate, in the form in which it can be shown."""
    frames = [CandidateFrame(frame.rle, frame.score) for frame in track.frames]
    return Candidate("object", track.score, track.present[0] if track.present else 0, frames)
