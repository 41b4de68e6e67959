"""The input of a fine-tuning round, which another process can be given as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trajseg.data.rehearsal import Variety
from trajseg.data.samples import Mixture
from trajseg.training.adapters import LoraSettings
from trajseg.training.finetune import FinetuneRecipe
from trajseg.training.gate import GateRules
from trajseg.training.joint import LossWeights


@dataclasses.dataclass(frozen=True)
class RoundTask:
    """The input of a round. Paths are text, so that it can be passed to another process as JSON.

    Args:
        checkpoint: name or folder of the base.
        corrections: folder that `trajseg export --format trajseg` wrote.
        work: folder for the training's state; the round resumes from what it finds there.
        target: folder to which the adapter is published.
        model_version: of the new version.
        served: folder of the adapter that serves now; None: the base.
        served_version: its model version.
        replay, base_set: data sets, as named in --data; None: the checkpoint's own.
        recipe, rules: of the training and of the gate.
        seed: of the training.
        device: torch's name; None: a GPU if there is one.
        dtype, four_bit: of the weights when the two models are compared, as when serving; see VideoSegmenter.
        cache: folder that keeps versions' scores on base sets, for later rounds; None: nothing is kept.
    """

    checkpoint: str
    corrections: str
    work: str
    target: str
    model_version: str
    served: str | None = None
    served_version: str = ""
    replay: str | None = None
    base_set: str | None = None
    recipe: FinetuneRecipe = dataclasses.field(default_factory=FinetuneRecipe)
    rules: GateRules = dataclasses.field(default_factory=GateRules)
    seed: int = 0
    device: str | None = None
    dtype: str = ""
    four_bit: bool = False
    cache: str | None = None


def task_to_json(task: RoundTask) -> dict[str, Any]:
    """A task as JSON, for another process."""
    return dataclasses.asdict(task)


def task_from_json(form: Mapping[str, Any]) -> RoundTask:
    """The task of `task_to_json`."""
    recipe = dict(form["recipe"])
    recipe |= {"mixture": Mixture(**recipe["mixture"]), "lora": LoraSettings(**recipe["lora"])}
    recipe |= {"variety": Variety(**recipe["variety"]), "weights": LossWeights(**recipe["weights"])}
    recipe["milder_blends"] = tuple(recipe["milder_blends"])
    return RoundTask(**{**form, "recipe": FinetuneRecipe(**recipe), "rules": GateRules(**form["rules"])})
