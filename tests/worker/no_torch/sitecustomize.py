"""Real workers and trainings without torch: read by every Python process that has this folder on its PYTHONPATH.

The engine finds red only with an adapter, and a training counts its steps. The round, the gate, the adapter's folder
and all processes are the real ones. TRAINING_PACE names a file with the seconds that a step takes; waiting for the disk
takes half as long.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


def stand_in(name: str, **members: Any) -> None:
    """A module in place of one that loads torch."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def pace() -> float:
    return float(Path(os.environ["TRAINING_PACE"]).read_text())


@dataclasses.dataclass(frozen=True)
class Empty:
    """Settings of a part that does not exist here."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The part of a FinetuneRecipe that a round reads."""

    steps: int = 8
    blend: float = 0.8
    milder_blends: tuple[float, ...] = ()
    replay: float = 0.0
    mixture: Any = dataclasses.field(default_factory=lambda: _mixture())
    variety: Empty = Empty()
    weights: Empty = Empty()
    lora: Empty = Empty()


def _mixture() -> Any:
    from trajseg.data.samples import Mixture

    return Mixture()


def finetune(
    recipe: Recipe, _base: str, _data: Any, work: Path, _replay: Any, _seed: int, stop: Any, progress: Any
) -> Path | None:
    """Trains or resumes; steps.txt has a line "PROCESS STEP" for each step."""
    from trajseg.checkpoints.manifest import WEIGHTS
    from trajseg.files import write_json

    work.mkdir(parents=True, exist_ok=True)
    state = work / "state.json"
    step = json.loads(state.read_text())["step"] if state.exists() else 0
    write_json(work / "recipe.json", {})
    while True:
        progress(step, recipe.steps)
        if stop():
            return None
        if step == recipe.steps:
            break
        time.sleep(pace())
        step += 1
        with (work / "steps.txt").open("a") as lines:
            lines.write(f"{os.getpid()} {step}\n")
        write_json(state, {"step": step})
    (work / "adapter").mkdir(exist_ok=True)
    for name in WEIGHTS:
        (work / "adapter" / name).write_text(f"{name} after {step} steps")
    return work / "adapter"


class Segmenter:
    """In place of VideoSegmenter."""

    @staticmethod
    def from_pretrained(*_: Any, **__: Any) -> Any:
        from tests.scripted import ScriptedEngine
        from trajseg.checkpoints.manifest import checked_files

        class Engine(ScriptedEngine):
            """Finds green."""

            colours = ("green",)

            def __init__(self, version: str) -> None:
                self.spec = dataclasses.replace(ScriptedEngine.spec, model_version=version, adapts=True)

            def adapted(self, folder: Path | None) -> Engine:
                return Engine("trajseg-tiny") if folder is None else Adapted(checked_files(folder)[0].model_version)

        class Adapted(Engine):
            """Finds red."""

            colours = ("red",)

        return Engine("trajseg-tiny")


def slow_writes() -> None:
    """So that a test can interrupt them."""
    from trajseg import files

    sync = files._sync

    def slowly(path: Path) -> None:
        time.sleep(pace() / 2)
        sync(path)

    files._sync = slowly


if "TRAINING_PACE" in os.environ:
    stand_in("trajseg.engines.trajseg", VideoSegmenter=Segmenter)
    stand_in("trajseg.training.run", StepsDone=Any, Stop=Any)
    stand_in("trajseg.training.joint", LossWeights=Empty)
    stand_in("trajseg.training.adapters", LoraSettings=Empty)
    stand_in(
        "trajseg.training.finetune",
        FinetuneRecipe=Recipe,
        Variety=Empty,
        finetune=finetune,
        recipe_for=lambda _base, steps=None: Recipe() if steps is None else Recipe(steps=steps),
    )
    if "trajseg.training.child" in sys.orig_argv:
        from trajseg.data.registry import DatasetOptions
        from trajseg.training import round as rounds

        rounds.BASE_OPTIONS = DatasetOptions()
        slow_writes()
