"""Training with and without bidirectional alignment, with and without content integration (the paper's Table III)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from trajseg.data.samples import Mixture, Sample, Source
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.evaluation.metrics import mean
from trajseg.shapes.evaluation.evaluation import evaluate
from trajseg.shapes.samples import ShapesSamples
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.frames import MasksOnly
from trajseg.shapes.studies.fresh import fresh_start
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.table import Table
from trajseg.shapes.world.scenes import Split
from trajseg.training.adapter_folder import merge_adapter
from trajseg.training.recipes import JointRecipe, deciding, train_jointly
from trajseg.training.run import Schedule, signals_stop

CLIPS = 12
"""Default number of clips to evaluate each training on; the same clips for all."""
FIRST = 5000
"""Seed of the first of these clips."""
SPLIT: Split = "test"
FITTED_ON = 64
"""Samples to fit the head on; the same for all trainings."""

SMALL = JointRecipe(
    Mixture(images=0.2, pseudo_videos=0.0, propagation=0.1, captioning=0.5),
    Schedule(
        steps=150, lr=3e-4, warmup=10, weight_decay=0.0, decay="linear", betas=(0.9, 0.95), log_every=10, save_every=20
    ),
    batch=4,
    micro=4,
    frames=8,
)
"""The paper's joint training, reduced to five minutes on one core, from a checkpoint with pre-trained parts."""


ARMS: tuple[tuple[bool, bool], ...] = tuple(itertools.product((False, True), (False, True)))
"""Alignment, integration."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training of the study: with or without bidirectional alignment and content integration, from one seed."""

    alignment: bool
    integration: bool
    seed: int

    @property
    def name(self) -> str:
        """Name in files."""
        words = [f"{part}-{'yes' if there else 'no'}" for part, there in self._parts]
        return "-".join(["training", f"seed-{self.seed}", *words])

    @property
    def label(self) -> str:
        """Label for people."""
        return ", ".join(f"{'with' if there else 'without'} {part}" for part, there in self._parts)

    @property
    def _parts(self) -> tuple[tuple[str, bool], ...]:
        return ("alignment", self.alignment), ("integration", self.integration)


def training(plan: Plan, _: VideoSegmenter, cells: Cells) -> list[Table]:
    """Bidirectional alignment x content integration, after equal steps from equal weights, and both effects."""
    columns = {"referring_jf": "referring J&F", "reasoning_jf": "reasoning J&F"}
    more = {"right_object": "right object", "loss_start": "loss, beginning", "loss_end": "loss, end"}
    steps = plan.steps or SMALL.schedule.steps
    table = Table(
        "training",
        f"Fine-tuning for {steps} steps of {SMALL.batch} samples",
        "trained",
        columns | more,
        drawn=tuple(columns),
        unit="J&F",
        notes=(
            "All start from one checkpoint, with new content integration or none, and with the same fitted head.",
            "Losses are of training samples, which differ with and without alignment.",
        ),
    )
    # Seed by seed, so that an interrupted run has complete seeds.
    found = {arm: trained(plan, arm, cells) for seed in plan.seeds for arm in (Arm(*parts, seed) for parts in ARMS)}
    for parts in ARMS:
        table.add(Arm(*parts, 0).label, [found[Arm(*parts, seed)] for seed in plan.seeds])
    effects = Table(
        "training_effects",
        "Effect of each part, averaged over the other one's two cases, per seed",
        "part",
        columns,
        drawn=tuple(columns),
        unit="J&F",
    )
    for place, label in enumerate(("bidirectional alignment", "content integration")):
        effects.add(label, [{key: _effect(found, seed, place, key) for key in columns} for seed in plan.seeds])
    return [table, effects]


def _effect(found: dict[Arm, dict[str, Any]], seed: int, place: int, key: str) -> float | None:
    """Mean figure with a part (0 alignment, 1 integration) minus that without."""
    means = [mean(found[Arm(*parts, seed)][key] for parts in ARMS if parts[place] == there) for there in (True, False)]
    return None if None in means else means[0] - means[1]  # type: ignore[operator]


def trained(plan: Plan, arm: Arm, cells: Cells) -> dict[str, Any]:
    """The figures of one training; resumes an interrupted one.

    Raises:
        KeyboardInterrupt: stopped by a person; its state is saved.
    """
    recipe = recipe_of(arm, plan.steps)
    clips = plan.clips or CLIPS
    settings = plan.settings(
        arm=dataclasses.asdict(arm), recipe=deciding(recipe), fitted=FITTED_ON, split=SPLIT, clips=clips, first=FIRST
    )
    folder = cells.path(arm.name, settings).with_suffix("")

    def measure() -> dict[str, Any]:
        losses = learn(recipe, arm, plan, folder)
        engine = MasksOnly(VideoSegmenter.from_pretrained(folder / "checkpoint", plan.device))
        found = evaluate(engine, split=SPLIT, count=clips, seed=FIRST, height=plan.height)
        return {"loss_start": losses[0], "loss_end": losses[-1], "losses": losses, **found.headline()}

    figures = cells.measured(arm.name, settings, measure)
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def recipe_of(arm: Arm, steps: int | None) -> JointRecipe:
    """SMALL for an arm: without alignment, captioning samples become grounding samples."""
    mixture = SMALL.mixture if arm.alignment else dataclasses.replace(SMALL.mixture, captioning=0.0)
    schedule = dataclasses.replace(SMALL.schedule, steps=steps or SMALL.schedule.steps)
    return dataclasses.replace(SMALL, mixture=mixture, schedule=schedule)


def learn(recipe: JointRecipe, arm: Arm, plan: Plan, folder: Path, source: Source | None = None) -> list[float]:
    """Trains an arm in `folder` and writes the result to `folder`/checkpoint.

    Returns:
        the mean losses of every `log_every` steps.

    Raises:
        KeyboardInterrupt: stopped by a person before its end.
    """
    source = source or ShapesSamples()
    start = folder / "start"
    if not (start / "processor.json").exists():
        asked = list(islice(_grounding_samples(source, recipe.frames, random.Random("start")), FITTED_ON))
        fresh_start(plan.folder, start, arm.seed, arm.integration, asked)
    with signals_stop() as stop:
        adapter, finished = train_jointly(recipe, str(start), folder, source, arm.seed, stop=stop)
    if not finished:
        raise KeyboardInterrupt
    base = VideoSegmenter.from_pretrained(start, device="cpu")
    merge_adapter(base.model, adapter).save_pretrained(folder / "checkpoint")
    base.processor.save_pretrained(folder / "checkpoint")
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [figures["loss"] for figures in map(json.loads, lines) if "loss" in figures]


def _grounding_samples(source: Source, frames: int, rng: random.Random) -> Iterator[Sample]:
    """Endless grounding samples with at least one target."""
    while True:
        sample = source.video(rng, frames, "grounding")
        if len(sample.masks):
            yield sample
