"""A fine-tuning round: trains an adapter on a project's corrections, compares it with the served version, publishes it.

A candidate that gains on the project but loses too much on the base set is blended with the base more and compared
again. Only a candidate with a significant gain comes that far, so this promotes no more chance gains.

A round can be stopped between any two steps or clips, and resumes where it stopped: training resumes exactly, and
the answers of both versions are stored beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trajseg import __version__
from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.folders import checkpoint_config, checkpoint_folder
from trajseg.checkpoints.manifest import AdapterManifest, publish, read_manifest, record_decision
from trajseg.checkpoints.own_data import base_set_of, check_own_data
from trajseg.data.corrections import Corrections, EmptySideError
from trajseg.data.dataset import Dataset
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.data.sides import SIDES, Side
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import InputError
from trajseg.evaluation.paired import Measured, draw_differences, measure
from trajseg.files import content_hash
from trajseg.training.base_scores import BaseScores
from trajseg.training.finetune import FinetuneRecipe, finetune
from trajseg.training.gate import GateDecision, ScoresByClip, decide, gains_enough, too_few_videos
from trajseg.training.kept_settings import RECIPE
from trajseg.training.round_task import RoundTask
from trajseg.training.run import StepsDone, Stop

BASE_OPTIONS = DatasetOptions(count=24, seed=9000, height=160, if_drawn=True)
"""Size of a base set in clips, and the seed if its clips are generated."""
PER_CLIP = {"project": 8, "base": 6}
"""Most expressions scored per clip. The mean difference over 24 clips with 6 each had a standard error of 0.015; the
gate's margin is 0.02. Expressions of one clip differ as much as those of two clips, so more expressions per clip are
worth as much as more clips.
"""
PICTURE = "differences.png"


class StoppedError(Exception):
    """The round was asked to stop; it resumes when it is run again."""


def run_round(
    task: RoundTask,
    stop: Stop = lambda: False,
    progress: StepsDone = lambda _done, _total: None,
    base_set: Dataset | None = None,
) -> GateDecision | None:
    """Trains, measures, decides and publishes; see RoundTask.

    Args:
        progress: called with (units done, units in total): training steps plus the gate's clips.
        base_set: replaces the task's.

    Returns:
        the decision, which is also in the published manifest; None if `stop` ended the round for now. Without enough
        held-out videos, nothing is trained or published.

    Raises:
        InputError: there is nothing to train on, or no data set to replay or compare.
        CheckpointError: the base or the served adapter cannot be used.
    """
    folder, work = Path(task.corrections), Path(task.work)
    held_out, train = _on(folder, "held-out"), _on(folder, "train")
    videos = {} if held_out is None else videos_of(held_out)
    count = len(set(videos.values()))
    corrected = count + (0 if train is None else len(_identities(train)))
    if held_out is None or count < task.rules.min_clips:
        return too_few_videos(count, corrected, task.rules, task.served_version)
    if train is None:
        raise InputError(
            f"All {count} corrected videos are held out of training; there is none to train on.",
            "Correct and submit more tasks: at least half of all videos are for training.",
        )
    check_own_data(task.checkpoint, task.replay, task.base_set or (None if base_set is None else base_set.name))
    drawn = base_set or open_dataset(task.base_set or base_set_of(task.checkpoint), BASE_OPTIONS)
    blends = (task.recipe.blend, *task.recipe.milder_blends)
    done, steps = 0, task.recipe.steps
    total = steps + (1 + len(blends)) * (len(held_out) + len(drawn))
    served, target = None if task.served is None else Path(task.served), Path(task.target)

    def trained(step: int, _total: int) -> None:
        progress(max(step, done), total)

    def published(blend: float) -> bool:
        """Publishes the adapter at this blend, after the training if it is unfinished; False if `stop` ended it."""
        recipe = dataclasses.replace(task.recipe, blend=blend)
        adapter = finetune(recipe, task.checkpoint, train, work, task.replay, task.seed, stop, trained)
        if adapter is not None:
            publish(_manifest(task, recipe, folder), adapter, target)
        return adapter is not None

    if not published(blends[0]):
        return None
    done = steps
    engine = VideoSegmenter.from_pretrained(task.checkpoint, task.device, task.dtype or None, task.four_bit)
    kept = BaseScores(work if base_set or not task.cache else Path(task.cache), _measured_on(task, base_set))

    def answers(adapter_folder: Path | None, dataset: Dataset, per_clip: int) -> Measured:
        nonlocal done

        def asked(clip: int, _total: int, before: int = done) -> None:
            progress(before + clip, total)
            if stop():
                raise StoppedError

        answered = work / "answers" / _answers_key(adapter_folder, dataset)
        measured = measure(engine.adapted(adapter_folder), dataset, asked, per_clip, answered)
        done += len(dataset)
        return measured

    def compared(before: Measured) -> tuple[GateDecision, Measured]:
        """The decision on the published adapter, and its answers on the held-out videos."""
        after = answers(target, held_out, PER_CLIP["project"])
        old, new = (by_video(measured.by_clip, videos) for measured in (before, after))
        old_base: ScoresByClip | None = None
        new_base: ScoresByClip | None = None
        if gains_enough(old, new, task.rules):
            old_base, new_base = kept.of_both(served, target, lambda at: answers(at, drawn, PER_CLIP["base"]).by_clip)
        return decide(old, new, old_base, new_base, task.rules, task.served_version, corrected), after

    try:
        before = answers(served, held_out, PER_CLIP["project"])
        decision, after = compared(before)
        first = decision
        for blend in blends[1:]:
            if not decision.forgets:
                break
            if not published(blend):
                return None
            decision, after = compared(before)
            decision = dataclasses.replace(decision, reason=_with_blend(decision, first, blend, blends[0]))
    except StoppedError:
        return None
    draw_differences(held_out, before, after, target / PICTURE)
    record_decision(target, decision.to_json())
    progress(total, total)
    return decision


def _answers_key(adapter: Path | None, dataset: Dataset) -> str:
    """What answers depend on, besides the base: another blend of the same training is another version."""
    files = None if adapter is None else read_manifest(adapter).files
    return hashlib.sha256(json.dumps([dataset.name, files], sort_keys=True).encode()).hexdigest()[:24]


def _with_blend(decision: GateDecision, first: GateDecision, blend: float, earlier: float) -> str:
    """The decision's reason, which says that an earlier blend of the same training lost too much."""
    assert first.base_gain is not None
    lost = f"at {earlier:g} it lost {-first.base_gain.mean:.3f} on the base set"
    return f"{decision.reason} Blended with the base at {blend:g}: {lost}."


def _measured_on(task: RoundTask, base_set: Dataset | None) -> Mapping[str, Any]:
    """What scores on the base set depend on, besides the adapter."""
    base = BaseIdentity.of(checkpoint_folder(task.checkpoint))
    return {
        "base": [base.configs[0], base.weights],
        "set": "" if base_set else task.base_set or base_set_of(task.checkpoint),
        "options": dataclasses.asdict(BASE_OPTIONS),
        "per_clip": PER_CLIP["base"],
        "weights": [task.dtype, task.four_bit],
        "code": __version__,
    }


def _on(folder: Path, side: Side) -> Corrections | None:
    """The project's videos on this side; None if there are none."""
    try:
        return Corrections(folder, side)
    except EmptySideError:
        return None


def _identities(corrections: Corrections) -> set[str]:
    return {corrections.corrected(number).identity for number in range(len(corrections))}


def videos_of(corrections: Corrections) -> Mapping[str, str]:
    """The video of each clip with an expression, by name: one shared by several tasks is named after its first clip.

    Clips without expressions, such as those of which only tracks without an instruction were drawn, cannot be scored.
    """
    first: dict[str, str] = {}
    asked = [number for number in range(len(corrections)) if corrections[number].expressions]
    clips = [corrections.corrected(number) for number in asked]
    return {clip.name: first.setdefault(clip.identity, clip.name) for clip in clips}


def by_video(scores: ScoresByClip, videos: Mapping[str, str]) -> ScoresByClip:
    """Scores by clip as scores by video: tasks about the same video are not independent samples."""
    joined: dict[str, list[float]] = {}
    for clip, each in scores.items():
        joined.setdefault(videos[clip], []).extend(each)
    return joined


def _manifest(task: RoundTask, blended: FinetuneRecipe, corrections: Path) -> AdapterManifest:
    base, clips = checkpoint_folder(task.checkpoint), []
    identity = BaseIdentity.of(base)
    recipe = json.loads((Path(task.work) / RECIPE).read_text(encoding="utf-8"))
    # What the loop itself does not know.
    recipe |= {name: dataclasses.asdict(blended)[name] for name in ("replay", "variety", "blend")}
    for side in SIDES:
        dataset = Corrections(corrections, side)
        for number in range(len(dataset)):
            clip = dataset.corrected(number)
            clips.append({"name": clip.name, "identity": clip.identity, "side": side, "tracks": len(clip.tracks)})
    return AdapterManifest(
        model_version=task.model_version,
        base=str(checkpoint_config(base)["model_name"]),
        base_config=identity.configs[0],
        data={"hash": content_hash(corrections / "manifest.json"), "clips": clips},
        recipe=recipe,
        seed=task.seed,
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base_weights=identity.weights,
    )
