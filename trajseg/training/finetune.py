"""Fine-tuning: trains an adapter for a base checkpoint on a project's corrections, with replay of the base's own data.

Training always starts from the base, not from the served adapter, so errors do not accumulate over versions. A large
base is trained with LoRA in its language model and in its small heads; its word embeddings and vision parts are
frozen. A small base has seen only one style, so its vision parts are trained, from its warm start
(trajseg.training.warm_start).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from trajseg.checkpoints.folders import checkpoint_config, checkpoint_folder
from trajseg.data.appearance import Appearance
from trajseg.data.borrowed_look import BorrowedLook
from trajseg.data.dataset import Dataset
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.jitter import Jitter
from trajseg.data.registry import open_source
from trajseg.data.samples import Direction, Mixture, Sample, Source, together
from trajseg.errors import InputError
from trajseg.model import TrajSegModel
from trajseg.model.device import free_unused
from trajseg.training.adapters import ADAPTERS, HEADS, LoraSettings, blend_adapter
from trajseg.training.joint import LossWeights
from trajseg.training.recipes import JointRecipe, Precision, train_jointly
from trajseg.training.run import Schedule, StepsDone, Stop
from trajseg.training.warm_start import load_warm_start, warm_start_of

DEFAULT_REPLAY: Mapping[str, str] = {"trajseg-tiny": "shapes:turned"}
"""Replay data of the checkpoints that ship, by model name; others name theirs in config.json, as `replay_data`."""


FEW: Mapping[str, float] = {"vision tower": 1.0, "mask encoder": 1.0, "mask decoder": 0.25, ADAPTERS: 1.0}
"""The trained parts of a small base, and their learning rates. The path from the answer to the masks is frozen."""
NO_SCORE = LossWeights(score=0.0)
"""A small base's object score is not trained. Most objects of a few clips are always visible, so the score would learn
that objects are always there, and would then find objects that have left the picture."""


@dataclasses.dataclass(frozen=True)
class Variety:
    """Shares of clips that are augmented, each 0 to 1. Descriptions of background, material or light may then be wrong;
    those of shape, colour, place and motion stay right.

    Args:
        jittered: share of clips that are rotated, scaled and shifted a little; see Jitter.
        restyled: share of corrected clips with a random appearance; see Appearance.
        borrowed: share of replayed clips in the look of a corrected clip; see BorrowedLook.
        replay_restyled: share of replayed clips with a random appearance. The remaining replayed clips are unchanged,
            not even jittered, so that the base's own look is not forgotten.
    """

    jittered: float = 0.85
    restyled: float = 0.4
    borrowed: float = 0.5
    replay_restyled: float = 0.15


UNVARIED = Variety(0.0, 0.0, 0.0, 0.0)


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

    steps: int = 120
    lr: float = 3e-4
    warmup: int = 5
    batch: int = 4
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
LOOK_FRAMES = 4
"""Frames per corrected clip from which its look is taken."""
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


class Rehearsal:
    """A Source (see trajseg.data.samples) that mixes corrections with the base's own data.

    A kind of sample missing from the corrections, such as captioning without captions, comes from the base's data.

    Args:
        corrections: the corrected videos.
        base: the base's own data.
        share: share of samples from `base`, 0 to 1.
        variety: shares of augmented clips, of both sources.

    Raises:
        InputError: the corrections contain nothing to train on.
    """

    def __init__(self, corrections: Dataset, base: Source, share: float, variety: Variety = UNVARIED) -> None:
        if not 0 <= share < 1:
            raise InputError(f"The share of replay is {share}.", "Choose at least 0 and less than 1.")
        self.base, self.share = base, share
        self.variety = variety
        self.corrections = DatasetSamples(corrections)
        self.directions = trainable_directions(corrections)
        if "grounding" not in self.directions:
            raise InputError(
                f"The data set {corrections.name} has no instruction to train on.",
                "Correct or accept predictions of some videos first.",
            )

    def video(self, rng: random.Random, frames: int, direction: Direction) -> Sample:
        """Frames of a corrected clip, or of one of the base's."""
        source = self._source(rng, direction)
        return self._varied([source.video(rng, frames, direction)], rng, source is self.base)[0]

    def image(self, rng: random.Random, direction: Direction) -> Sample:
        """One frame of a corrected clip, or of one of the base's."""
        source = self._source(rng, direction)
        return self._varied([source.image(rng, direction)], rng, source is self.base)[0]

    def together(self, rng: random.Random, frames: int, directions: Sequence[Direction]) -> list[Sample]:
        """Frames of a corrected clip, or of one from the base's data, with several statements about them."""
        if rng.random() < self.share:
            return self._varied(together(self.base, rng, frames, directions), rng, replayed=True)
        known: list[Direction] = [each if each in self.directions else "grounding" for each in directions]
        return self._varied(self.corrections.together(rng, frames, known), rng, replayed=False)

    def _source(self, rng: random.Random, direction: Direction) -> Source:
        replayed = rng.random() < self.share
        return self.base if replayed or direction not in self.directions else self.corrections

    def _varied(self, samples: list[Sample], rng: random.Random, replayed: bool) -> list[Sample]:
        """Samples of one clip, varied alike."""
        if any(sample.frames is not samples[0].frames for sample in samples):
            return [each for sample in samples for each in self._changed([sample], rng, replayed)]
        return self._changed(samples, rng, replayed)

    def _changed(self, samples: list[Sample], rng: random.Random, replayed: bool) -> list[Sample]:
        """Samples over the same frames, changed alike."""
        jittered, lot = rng.random() < self.variety.jittered, rng.random()
        if replayed and lot >= self.variety.borrowed + self.variety.replay_restyled:
            # Unchanged, so that the base's own look is not forgotten.
            return samples
        if jittered:
            samples = Jitter().apply(samples, rng)
        if not replayed:
            # Objects without a mask may be in the background, so it is not replaced.
            return Appearance().apply(samples, rng) if lot < self.variety.restyled else samples
        if lot < self.variety.borrowed:
            look = self._look(rng)
            return samples if look is None else look.apply(samples, rng)
        return Appearance(swap=True).apply(samples, rng)

    def _look(self, rng: random.Random) -> BorrowedLook | None:
        """The look of a corrected clip; None where it shows no object well enough."""
        sample = self.corrections.together(rng, LOOK_FRAMES, ["grounding"])[0]
        return None if sample.objects is None else BorrowedLook.of(sample.frames, sample.objects, rng)


def trainable_directions(dataset: Dataset) -> set[Direction]:
    """The training directions for which a data set has samples; see trajseg.training.joint."""
    directions: set[Direction] = set()
    for number in range(len(dataset)):
        annotated = dataset[number]
        things = {thing.uid: thing for thing in annotated.objects}
        if any(all(things[uid].masks for uid in asked.targets) for asked in annotated.expressions):
            directions.add("grounding")
        tracked = [thing for thing in annotated.objects if len(thing.masks) > 1]
        if tracked:
            directions.add("propagation")
        if any(thing.caption for thing in tracked):
            directions.add("captioning")
    return directions


def replay_data(checkpoint: str) -> str:
    """The base's own training data, as named in `--data`, for replay.

    Raises:
        InputError: the checkpoint's config.json does not name it, and the checkpoint is not a built-in one.
        CheckpointError: there is no such checkpoint.
    """
    config = checkpoint_config(checkpoint_folder(checkpoint))
    data = config.get("replay_data") or DEFAULT_REPLAY.get(str(config.get("model_name")))
    if not data:
        raise InputError(
            f"The checkpoint {checkpoint} does not say what it was trained on, so nothing can be replayed.",
            "Name a data set: TRAJSEG_REPLAY_DATA=ref-youtube-vos:/data/ref-youtube-vos/train, or `replay_data` in the "
            "checkpoint's config.json.",
        )
    return str(data)


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
