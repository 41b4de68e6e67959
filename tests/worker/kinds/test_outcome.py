"""A job's notes about its tracks."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.settings import Settings
from trajseg.tracks import MaskTrack, Result
from trajseg.video import open_clip
from worker.kinds.outcome import TracksOutcome


def test_a_track_without_a_mask_is_doubtful_and_says_that_nothing_was_found(tiny_clip: Any) -> None:
    clip = open_clip(tiny_clip.path)
    nothing: list[np.ndarray | None] = [None] * len(clip)
    track = MaskTrack.from_masks("t1", nothing, clip.frame_map.times, [0.95] * len(clip), label="track-1")
    result = Result(
        video="v", fps=clip.fps, width=clip.width, height=clip.height, frame_count=len(clip),
        instruction="the yellow star", answer="", model_version="m", tracks=[track],
    )  # fmt: skip
    notes = TracksOutcome(result).outcome(Settings().review_strategy).notes
    assert notes.doubt is not None
    assert notes.doubt >= 0.5
    assert notes.sentences(result) == ["track-1: nothing was found: no frame has a mask."]
