"""Fine-tuning: trains an adapter for a base checkpoint on a project's corrections, with replay of the base's own data.

Training always starts from the base, not from the served adapter, so errors do not accumulate over versions. A large
base is trained with LoRA in its language model and in its small heads; its word embeddings and vision parts are
frozen. A small base has seen only one style, so its vision parts are trained, from its warm start
(trajseg.training.warm_start).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trajseg.checkpoints.folders import checkpoint_config, checkpoint_folder
from trajseg.checkpoints.own_data import replay_data
from trajseg.data.dataset import Dataset
from trajseg.data.registry import open_source
from trajseg.data.rehearsal import UNVARIED, Rehearsal, Variety
from trajseg.data.samples import Mixture, Source
from trajseg.model import TrajSegModel
from trajseg.model.device import free_unused
from trajseg.training.adapter_folder import blend_adapter
from trajseg.training.adapters import ADAPTERS, HEADS, LoraSettings
from trajseg.training.joint import LossWeights
from trajseg.training.recipes import JointRecipe, Precision, train_jointly
from trajseg.training.run import Schedule, StepsDone, Stop
from trajseg.training.warm_start import load_warm_start, warm_start_of

FEW: Mapping[str, float] = {"vision tower": 1.0, "mask encoder": 1.0, "mask decoder": 0.25, ADAPTERS: 1.0}
"""The trained parts of a small base, and their learning rates. The path from the answer to the masks is frozen."""
NO_SCORE = LossWeights(score=0.0)
"""A small base's object score is not trained. Most objects of a few clips are always visible, so the score would learn
that objects are always there, and would then find objects that have left the picture."""


@dataclasses.dataclass(frozen=True)
class FinetuneRecipe:
    """How long and on what a project's adapter is trained.

    Args:
        steps: optimiser steps.
        lr: peak learning rate, after a linear warm-up over `warmup` steps and before a cosine decay.
        batch: clips per step, `micro` at a time, with `asks` questions or answers about each. If `asks` is 0: samples
            per step.
        frames: frames per sampled clip, as many as the model sees at inference: with fewer it would have to learn to
            read motion from fewer frames.
        mask_frames: number of these frames whose masks are decoded; None: all.
        replay: share of clips from the base's own data, 0 to 1.
        variety: shares of augmented clips; see Rehearsal.
        mixture: shares of sample kinds, the same for corrections and replay.
        parts: trained parts and their learning rates in units of `lr`; see trajseg.training.adapters.
        norm_rate, weights: see JointRecipe.
        blend: interpolation between the weights at the start (0) and the trained ones (1); see `blend_adapter`.
        milder_blends: blends to try in turn if the candidate gains on the project but loses too much on the base set.
        lora: settings of the language model's LoRA.
        precision, four_bit, recompute: see JointRecipe.
        save_minutes: minutes between checkpoints.
    """

    steps: int = 360
    lr: float = 3e-4
    warmup: int = 5
    batch: int = 2
    asks: int = 4
    micro: int = 1
    frames: int = 8
    mask_frames: int | None = 2
    replay: float = 0.7
    variety: Variety = dataclasses.field(default_factory=Variety)
    mixture: Mixture = dataclasses.field(
        default_factory=lambda: Mixture(images=0.0, pseudo_videos=0.0, propagation=0.05, captioning=0.35)
    )
    parts: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(FEW))
    norm_rate: float = 5.0
    weights: LossWeights = NO_SCORE
    blend: float = 0.8
    milder_blends: tuple[float, ...] = (0.6,)
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
    precision: Precision = "no"
    four_bit: bool = False
    recompute: bool = False
    save_minutes: float = 3.0

    def joint(self) -> JointRecipe:
        """The equivalent joint training recipe."""
        schedule = Schedule(
            steps=self.steps,
            lr=self.lr,
            warmup=min(self.warmup, self.steps),
            weight_decay=0.0,
            log_every=10,
            save_every=self.steps,
            save_minutes=self.save_minutes,
            betas=(0.9, 0.95),
        )
        return JointRecipe(
            self.mixture,
            schedule,
            self.batch,
            self.micro,
            self.frames,
            lora=self.lora,
            recompute=self.recompute,
            precision=self.precision,
            four_bit=self.four_bit,
            whole=tuple(part for part in self.parts if part != ADAPTERS),
            asks=self.asks,
            weights=self.weights,
            mask_frames=self.mask_frames,
            rates=self.parts,
            norm_rate=self.norm_rate,
        )


FULL_SIZE = FinetuneRecipe(
    steps=400,
    lr=1e-4,
    warmup=20,
    batch=8,
    asks=0,
    mask_frames=None,
    replay=0.5,
    variety=UNVARIED,
    mixture=Mixture(images=0.1, pseudo_videos=0.15, propagation=0.1, captioning=0.25),
    parts=dict.fromkeys(HEADS, 1.0),
    norm_rate=1.0,
    weights=LossWeights(),
    blend=1.0,
    milder_blends=(),
    precision="bf16",
    four_bit=True,
    recompute=True,
)
"""For a 7B model on a 24 GB card."""
LARGE = 2048
"""Language models at least this wide use FULL_SIZE."""


def recipe_for(checkpoint: str, steps: int | None = None) -> FinetuneRecipe:
    """The recipe for a base of this size: FULL_SIZE for language models as wide as LLaVA's, else the default.

    Args:
        steps: overrides the recipe's own.
    """
    text = checkpoint_config(checkpoint_folder(checkpoint)).get("llava_config", {}).get("text_config", {})
    recipe = FULL_SIZE if text.get("hidden_size", 0) >= LARGE else FinetuneRecipe()
    return recipe if steps is None else dataclasses.replace(recipe, steps=steps)


def finetune(
    recipe: FinetuneRecipe,
    checkpoint: str,
    corrections: Dataset,
    out: Path,
    replay: str | Source | None = None,
    seed: int = 0,
    stop: Stop = lambda: False,
    progress: StepsDone = lambda _done, _total: None,
) -> Path | None:
    """Trains an adapter for a project, or resumes an interrupted training, float for float on one CPU.

    Args:
        checkpoint: name or folder of the base.
        corrections: the training part of the project's corrected videos.
        out: receives the state, the logs and `adapter/`, a PEFT folder.
        replay: the base's own data, as named in --data; defaults to `replay_data`.
        stop, progress: see trajseg.training.run.train. An exception from `progress` ends the run; the last checkpoint
            stays.

    Returns:
        the adapter's folder; None if `stop` ended the run early.

    Raises:
        InputError: there is nothing to train on, or `out` holds another training.
        CheckpointError: the base cannot be used.
        FloatingPointError: the loss is not finite.
    """
    if replay is None or isinstance(replay, str):
        replay = open_source(replay or replay_data(checkpoint))
    source = Rehearsal(corrections, replay, recipe.replay, recipe.variety)
    if checkpoint_config(checkpoint_folder(checkpoint)).get("trajectory_encoder") is None:
        # A base without captioning is not given that part here: it would take more than corrections.
        recipe = dataclasses.replace(recipe, mixture=dataclasses.replace(recipe.mixture, captioning=0.0))
    initial = warm_start_of(checkpoint_folder(checkpoint))
    adapter, finished = train_jointly(
        recipe.joint(), checkpoint, out, source, seed, stop=stop, progress=progress, initial=initial
    )
    # The trained model and its optimiser; the comparison that follows needs their memory.
    free_unused()
    if not finished:
        return None
    if recipe.blend < 1:
        start = TrajSegModel.from_pretrained(checkpoint_folder(checkpoint))
        if initial is not None:
            load_warm_start(start, initial)
        blend_adapter(adapter, start.state_dict(), recipe.blend)
    return adapter
