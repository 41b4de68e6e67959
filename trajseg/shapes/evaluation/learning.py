"""Evaluation of learning from corrections, on simulated projects.

A run is one simulated project: real mp4 clips, a simulated annotator (see annotator), the corrections data set, and a
round of learning as in a worker (trajseg.training.round). The candidate is then measured on clips that neither
the training nor the gate has seen. There are three kinds:

    gain      a style that the base was not trained on (posters, or any data set): the gate should promote
    harmful   the same style with labels swapped between clips: the gate must reject
    neutral   clips in the style that the base was trained on: there is nothing to gain
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.data.dataset import AnnotatedClip, Dataset
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.data.sides import expected_held_out
from trajseg.engines.base import Engine
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import InputError
from trajseg.evaluation.paired import measure
from trajseg.files import write_json
from trajseg.shapes.evaluation.annotator import by_side, correct
from trajseg.training.child import PROGRESS
from trajseg.training.finetune import recipe_for
from trajseg.training.gate import GateRules
from trajseg.training.round import run_round
from trajseg.training.round_task import RoundTask
from trajseg.training.warm_start import load_warm_start, warm_start_of

Kind = Literal["gain", "harmful", "neutral"]
RESULT, CORRECTIONS = "result.json", "corrections"
SEEDS_APART = 1000
"""Scenes between the first clips of two projects."""
FRESH_SEED, TEST_SEED = 20_000, 30_000
"""Seeds of the first unseen clip of the project's style, and of the first clip of the base's test set."""
SCAN = 40
"""Clips looked at, at most, per clip needed on one side of the split."""
OWN_STYLE, OWN_TEST = "shapes:train", "shapes:test"
"""Clips that the base was trained on, and its test set."""


@dataclasses.dataclass(frozen=True)
class LearningSettings:
    """Settings that all runs share.

    Args:
        checkpoint: name or folder of the base.
        fresh, test: numbers of unseen clips, in the project's style and in the base's own, for the final measurement.
        height: rows of rendered clips.
        steps: of a training; None: the recipe's.
        style, unseen: data sets of the projects' videos and of the unseen clips, as named in --data. If both are the
            same set, no clip of it has both uses.
    """

    checkpoint: str = "trajseg-tiny"
    fresh: int = 24
    test: int = 24
    height: int = 160
    steps: int | None = None
    style: str = "posters:train"
    unseen: str = "posters:val"

    def sets(self) -> Mapping[str, Dataset]:
        """Evaluation sets of the final measurement, by name."""
        return {
            "fresh": self.clips(self.unseen, self.fresh, FRESH_SEED),
            "test": self.clips(OWN_TEST, self.test, TEST_SEED),
        }

    def clips(self, data: str, count: int, seed: int) -> Dataset:
        """At most `count` clips of a data set; `seed` is that of the first one if they are rendered."""
        return open_dataset(data, DatasetOptions(count=count, seed=seed, height=self.height, if_drawn=True))


@dataclasses.dataclass(frozen=True)
class LearningRun:
    """One simulated project of `videos` corrected videos, on both sides of the split."""

    kind: Kind
    videos: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.kind}-{self.videos}-{self.seed}"

    @property
    def held_out(self) -> int:
        """Held-out videos: as many as in a project of this size, but at least as many as the gate needs."""
        return max(GateRules().min_clips, round(expected_held_out(self.videos)))


@dataclasses.dataclass(frozen=True)
class LearningResult:
    """Result of a run.

    Args:
        decision: the gate's, as from GateDecision.to_json.
        scores: J&F of the candidate by set ("fresh", "test") and clip; empty if not measured.
        minutes: wall-clock time of the round.
    """

    run: LearningRun
    decision: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    minutes: float

    @property
    def promoted(self) -> bool:
        """The gate's verdict."""
        return bool(self.decision["promoted"])

    def gain(self, what: str, served: Mapping[str, Mapping[str, float]]) -> float:
        """Mean J&F of the candidate on a set minus the base's."""
        return mean_gain(self.scores, served, what)


def learn(run: LearningRun, settings: LearningSettings, out: Path) -> LearningResult:
    """One run in the folder `out`/NAME; resumes an interrupted one.

    Raises:
        TrajSegError: the round failed.
    """
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RESULT).exists():
        started = time.monotonic()
        corrections = folder / CORRECTIONS
        if not (corrections / "manifest.json").exists():
            _correct(run, settings, corrections)
        decision = _round(run, settings, folder)
        minutes = (time.monotonic() - started) / 60
        adapter = folder / "adapter"
        measured = run.kind == "gain" and adapter.exists()
        scores = _measured(settings, adapter) if measured else {}
        write_json(folder / RESULT, {"decision": decision, "scores": scores, "minutes": minutes})
    return LearningResult(run, **json.loads((folder / RESULT).read_text(encoding="utf-8")))


def keep_settings(settings: LearningSettings, out: Path) -> None:
    """Records the settings that all runs in a folder share.

    Raises:
        InputError: the folder has runs with other settings.
    """
    path, form, usual = out / "settings.json", dataclasses.asdict(settings), dataclasses.asdict(LearningSettings())
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, form)
    # Earlier runs have no settings that were added since.
    stored = usual | json.loads(path.read_text(encoding="utf-8"))
    if other := sorted(name for name in form if stored[name] != form[name]):
        raise InputError(
            f"{out} has runs with other values of {', '.join(other)}.", "Use the same settings, or another --out."
        )


def measure_base(settings: LearningSettings, out: Path) -> Mapping[str, Mapping[str, float]]:
    """J&F of the base by set and clip; cached in `out`."""
    kept = out / "base.json"
    if not kept.exists():
        write_json(kept, _measured(settings, None))
    return json.loads(kept.read_text(encoding="utf-8"))


def measure_warm_start(settings: LearningSettings, out: Path) -> Mapping[str, Mapping[str, float]] | None:
    """J&F of the base's warm start, before any corrections, by set and clip; None without one; cached in `out`."""
    path, kept = warm_start_of(checkpoint_folder(settings.checkpoint)), out / "warm-start.json"
    if path is None:
        return None
    if not kept.exists():
        engine = VideoSegmenter.from_pretrained(settings.checkpoint)
        load_warm_start(engine.model, path)
        write_json(kept, _scores(settings, engine))
    return json.loads(kept.read_text(encoding="utf-8"))


def videos_of(run: LearningRun, settings: LearningSettings) -> list[AnnotatedClip]:
    """The videos of a run's project, which share none with the unseen clips.

    Raises:
        InputError: the data set is unknown, its files are missing, or it has too few clips.
    """
    seed = SEEDS_APART * (1 + run.seed + (100 if run.kind == "harmful" else 0))
    data = OWN_STYLE if run.kind == "neutral" else settings.style
    taken: set[str] = set()
    if data == settings.unseen:
        unseen = settings.sets()["fresh"]
        taken = {unseen[number].name for number in range(len(unseen))}
    style = settings.clips(data, len(taken) + SCAN * run.videos, seed)
    return by_side(style, {"train": run.videos - run.held_out, "held-out": run.held_out}, taken)


def share_done(run: LearningRun, out: Path) -> float:
    """Progress of a run's round, 0 to 1."""
    folder = out / run.name
    if (folder / RESULT).exists():
        return 1.0
    try:
        form = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return 0.0
    return 0.95 * float(form["done"]) / max(1.0, float(form["total"]))


def summary(
    results: Sequence[LearningResult],
    served: Mapping[str, Mapping[str, float]],
    videos: int,
    warm: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The summary. Gains are those of the model served after the gate: 0 if it rejected the candidate.

    Args:
        served: the base's scores.
        videos: gain and loss are for projects with this many corrected videos.
        warm: the warm start's scores. `gain_warm_start` is the part of the gain that takes no corrections.
    """
    asked = [one for one in results if one.run.kind == "gain" and one.run.videos == videos]
    promoted = [one for one in asked if one.promoted]
    harmful = [one for one in results if one.run.kind == "harmful"]
    share = len(promoted) / len(asked) if asked else 0.0
    return {
        "gain_project": round(share * fmean(one.gain("fresh", served) for one in promoted), 4) if promoted else 0.0,
        "loss_base": round(-share * fmean(one.gain("test", served) for one in promoted), 4) if promoted else 0.0,
        "harmful_refused": sum(not one.promoted for one in harmful),
        "harmful_runs": len(harmful),
        "neutral_promoted": sum(one.promoted for one in results if one.run.kind == "neutral"),
        "promoted": len(promoted),
        "runs": len(asked),
        "gain_warm_start": round(mean_gain(warm, served, "fresh"), 4) if warm else 0.0,
    }


def mean_gain(scores: Mapping[str, Mapping[str, float]], served: Mapping[str, Mapping[str, float]], what: str) -> float:
    """Mean J&F on a set minus the base's, clip by clip."""
    return fmean(scores[what][clip] - served[what][clip] for clip in served[what])


def standard_error(
    scores: Mapping[str, Mapping[str, float]], served: Mapping[str, Mapping[str, float]], what: str
) -> float:
    """Standard error of `mean_gain`, paired by clip; NaN for a single clip."""
    gains = [scores[what][clip] - score for clip, score in served[what].items()]
    return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan


def _correct(run: LearningRun, settings: LearningSettings, out: Path) -> None:
    correct(videos_of(run, settings), out, shuffled=random.Random(run.seed) if run.kind == "harmful" else None)


def _round(run: LearningRun, settings: LearningSettings, folder: Path) -> Mapping[str, Any]:
    """The gate's decision on a run's candidate, which is then in `folder`/adapter; resumes an interrupted round."""
    task = RoundTask(
        checkpoint=settings.checkpoint,
        corrections=str((folder / CORRECTIONS).resolve()),
        work=str((folder / "work").resolve()),
        target=str((folder / "adapter").resolve()),
        model_version=f"{Path(settings.checkpoint).name}/{run.name}@1",
        served_version=Path(settings.checkpoint).name,
        recipe=recipe_for(settings.checkpoint, settings.steps),
        seed=run.seed,
        cache=str((folder.parent / "base-scores").resolve()),
    )

    def progress(done: int, total: int) -> None:
        write_json(folder / PROGRESS, {"done": done, "total": total})

    decision = run_round(task, progress=progress)
    assert decision is not None, "nothing stops it"
    return decision.to_json()


def _measured(settings: LearningSettings, adapter: Path | None) -> dict[str, dict[str, float]]:
    return _scores(settings, VideoSegmenter.from_pretrained(settings.checkpoint).adapted(adapter))


def _scores(settings: LearningSettings, engine: Engine) -> dict[str, dict[str, float]]:
    return {what: dict(measure(engine, dataset).scores) for what, dataset in settings.sets().items()}
