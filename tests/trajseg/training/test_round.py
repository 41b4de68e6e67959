"""A round compares on videos, regardless of the number of tasks per video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajseg.data.corrections import Corrections, side_of
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust
from trajseg.training.round import RoundTask, by_video, run_round, videos_of
from trajseg.video import open_clip


def labelled(tiny_clip: Any, name: str, identity: str) -> LabelledClip:
    clip = open_clip(tiny_clip.path)
    count = len(clip)
    track = MaskTrack.from_masks("t1", tiny_clip.red, clip.frame_map.times, [0.9] * count, caption="a red square")
    return LabelledClip(
        name,
        clip.width,
        clip.height,
        clip.fps,
        count,
        (LabelledTrack(track, (Trust.PAINTED,) * count, caption_trust=Trust.PAINTED),),
        (Expression(f"what {name} asks for", ("t1",), Trust.PAINTED),),
        f"https://videos.example/{identity}.mp4",
        identity,
        clip,
    )


@pytest.fixture
def folder(tiny_clip: Any, tmp_path: Path) -> Path:
    """Three tasks about two held-out videos, and one about a video to train on."""
    identities: dict[str, list[str]] = {"train": [], "held-out": []}
    for number in range(50):
        identities[side_of(f"sha256:{number}")].append(f"sha256:{number}")
    one, two = identities["held-out"][:2]
    tasks = {"task-1": one, "task-2": two, "task-3": one, "task-4": identities["train"][0]}
    export([labelled(tiny_clip, *task) for task in tasks.items()], Native, tmp_path / "export")
    return tmp_path / "export"


def test_tasks_about_one_video_are_one_held_out_video(folder: Path, tmp_path: Path) -> None:
    task = RoundTask("trajseg-tiny", str(folder), str(tmp_path / "work"), str(tmp_path / "1"), "v")
    decision = run_round(task)
    assert decision is not None
    assert "2 videos are held out of training, and 3 are the least" in decision.reason
    videos = videos_of(Corrections(folder, "held-out"))
    assert videos == {"task-1": "task-1", "task-2": "task-2", "task-3": "task-1"}
    joined = by_video({"task-1": [0.1, 0.2], "task-2": [0.5], "task-3": [0.9]}, videos)
    assert joined.keys() == {"task-1", "task-2"}
    np.testing.assert_allclose(joined["task-1"], [0.1, 0.2, 0.9])
