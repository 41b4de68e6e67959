"""A round compares on videos, regardless of the number of tasks per video."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.folders import SHIPPED
from trajseg.checkpoints.manifest import WEIGHTS, read_manifest
from trajseg.data.corrections import Corrections
from trajseg.data.sides import side_of
from trajseg.errors import InputError
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust
from trajseg.training import round as rounds
from trajseg.training.finetune import FULL_SIZE, FinetuneRecipe
from trajseg.training.gate import GateRules
from trajseg.training.round import by_video, run_round, videos_of
from trajseg.training.round_task import RoundTask, task_from_json, task_to_json
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


def test_without_any_correction_the_decision_says_how_many_are_needed(tmp_path: Path) -> None:
    export([], Native, tmp_path / "nothing")
    decision = run_round(RoundTask("trajseg-tiny", str(tmp_path / "nothing"), str(tmp_path / "work"), "1", "v"))
    assert decision is not None
    assert decision.reason.startswith("Not promoted: needs about 6 more corrected videos; 0 videos are held out")


def test_if_all_videos_are_held_out_there_is_nothing_to_train_on(tiny_clip: Any, tmp_path: Path) -> None:
    identities = [identity for number in range(50) if side_of(identity := f"sha256:{number}") == "held-out"]
    export([labelled(tiny_clip, identity[7:], identity) for identity in identities[:3]], Native, tmp_path / "all")
    with pytest.raises(InputError, match="All 3 corrected videos are held out of training"):
        run_round(RoundTask("trajseg-tiny", str(tmp_path / "all"), str(tmp_path / "work"), "1", "v"))


def test_a_video_about_which_nothing_can_be_asked_does_not_count(tiny_clip: Any, folder: Path, tmp_path: Path) -> None:
    """The training would have been in vain: the gate has no scores of it."""
    asked = labelled(tiny_clip, "task-1", Corrections(folder, "held-out").corrected(0).identity)
    drawn = labelled(tiny_clip, "task-2", Corrections(folder, "held-out").corrected(1).identity)
    alone = dataclasses.replace(drawn.tracks[0], caption_trust=Trust.PREDICTED)
    drawn = dataclasses.replace(drawn, tracks=(alone,), expressions=())
    export([asked, drawn], Native, tmp_path / "drawn")
    assert videos_of(Corrections(tmp_path / "drawn", "held-out")) == {"task-1": "task-1"}


@pytest.mark.parametrize("recipe", [FinetuneRecipe(), FULL_SIZE])
def test_a_task_is_the_same_in_another_process(recipe: FinetuneRecipe) -> None:
    task = RoundTask("trajseg-tiny", "corrections", "work", "1", "v", recipe=recipe, cache="scores")
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task


@dataclasses.dataclass(frozen=True)
class FakeMeasured:
    """Scores by clip, without answers."""

    by_clip: dict[str, list[float]]


@pytest.fixture
def losses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[float, float]:
    """Fakes training and measuring: by blend, what the candidate loses on the base set. It gains 0.3 on the project."""
    by_blend: dict[float, float] = {}

    def finetune(recipe: FinetuneRecipe, _checkpoint: str, _data: Any, work: Path, *_rest: Any) -> Path:
        (work / "adapter").mkdir(parents=True, exist_ok=True)
        (work / "recipe.json").write_text("{}")
        for name in WEIGHTS:
            (work / "adapter" / name).write_text(str(recipe.blend))
        return work / "adapter"

    def measure(version: Path | None, dataset: Any, *_rest: Any) -> FakeMeasured:
        blend = None if version is None else float((version / WEIGHTS[0]).read_text())
        if isinstance(dataset, Corrections):
            gain = 0.0 if blend is None else 0.3
            return FakeMeasured({f"task-{number}": [0.5 + gain] * 4 for number in (1, 2, 3)})
        loss = 0.0 if blend is None else by_blend[blend]
        return FakeMeasured({f"base-{number}": [0.9 - loss] * 6 for number in range(4)})

    engine = SimpleNamespace(adapted=lambda version: version)
    monkeypatch.setattr(rounds, "VideoSegmenter", SimpleNamespace(from_pretrained=lambda *_: engine))
    monkeypatch.setattr(rounds, "finetune", finetune)
    monkeypatch.setattr(rounds, "measure", measure)
    monkeypatch.setattr(rounds, "draw_differences", lambda *_: None)
    return by_blend


@pytest.mark.parametrize(
    ("by_blend", "promoted", "blend", "words"),
    [
        ({0.8: 0.01}, True, 0.8, "Promoted: "),
        ({0.8: 0.03, 0.6: 0.01}, True, 0.6, "Blended with the base at 0.6: at 0.8 it lost 0.030 on the base set."),
        ({0.8: 0.05, 0.6: 0.04}, False, 0.6, "-0.040 on 4 clips of the base set, and it must lose less than 0.02"),
    ],
)
def test_a_candidate_that_forgets_is_blended_with_the_base_and_compared_again(
    folder: Path,
    tmp_path: Path,
    losses: dict[float, float],
    by_blend: dict[float, float],
    promoted: bool,
    blend: float,
    words: str,
) -> None:
    losses |= by_blend
    rules = GateRules(min_clips=2)
    task = RoundTask("trajseg-tiny", str(folder), str(tmp_path / "work"), str(tmp_path / "1"), "v", rules=rules)
    reported: list[tuple[int, int]] = []
    decision = run_round(task, progress=lambda done, total: reported.append((done, total)))
    assert decision is not None
    assert (decision.promoted, decision.forgets) == (promoted, not promoted)
    assert words in decision.reason
    manifest = read_manifest(tmp_path / "1")
    assert manifest.recipe["blend"] == blend
    assert manifest.base_weights
    assert BaseIdentity.of(SHIPPED / "trajseg-tiny").fits(manifest)
    assert manifest.decision["reason"] == decision.reason
    assert reported[-1][0] == reported[-1][1]
