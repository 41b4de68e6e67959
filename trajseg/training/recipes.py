"""Recipes of joint training, and how to run one on a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from trajseg.checkpoints.base_identity import weights_hash
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.data.samples import ClipSamples, Mixture, Sample, Samples, Source
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import InputError
from trajseg.files import content_hash
from trajseg.training.adapter_folder import name_after, save_adapter
from trajseg.training.adapters import WHOLE, LoraSettings, add_trajectory_encoder, prepare, recompute_layers
from trajseg.training.feed import Feed
from trajseg.training.joint import JointTraining, LossWeights
from trajseg.training.kept_settings import keep_settings
from trajseg.training.run import Schedule, StepsDone, Stop, accelerator, train
from trajseg.training.warm_start import load_warm_start

NORMS = (nn.GroupNorm, nn.LayerNorm)
PAPER_LORA, PAPER_WEIGHTS = LoraSettings(), LossWeights()
Precision = Literal["no", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class JointRecipe:
    """One stage of joint training.

    `batch` samples make a step, over all processes; a process takes `micro` at a time. `frames` is T for a video.
    `recompute` saves memory by recomputing layers in the backward pass. `lora` None trains the language model in full;
    `whole` names the other trained parts (see adapters). With a `precision` other than "no", frozen weights are stored
    in it; `four_bit` stores the language model's in 4 bits.

    With `asks`, a batch is counted in clips, and each clip's frames get this many statements; `micro` is 1 then.
    `mask_frames`: see JointTraining. `rates` holds the rates of parts that differ from the schedule's, in units of its
    rate; see `adapters.prepare` for their names. In parts of `rates`, normalisations learn `norm_rate` times as fast as
    the rest: they are few numbers with a gradient from every pixel or token.
    """

    mixture: Mixture
    schedule: Schedule
    batch: int
    micro: int
    frames: int
    lora: LoraSettings | None = PAPER_LORA
    weights: LossWeights = PAPER_WEIGHTS
    recompute: bool = False
    precision: Precision = "no"
    four_bit: bool = False
    whole: tuple[str, ...] = tuple(WHOLE)
    asks: int = 0
    mask_frames: int | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    norm_rate: float = 1.0


def _paper(steps: int, lr: float = 3e-4, warmup: int = 100, **more: Any) -> Schedule:
    """The paper's optimiser: warm-up, then linear decay to 0, without weight decay."""
    return Schedule(steps=steps, lr=lr, warmup=warmup, weight_decay=0.0, decay="linear", betas=(0.9, 0.95), **more)


IMAGES = Mixture(images=1.0, pseudo_videos=0.0, propagation=0.0, captioning=0.0)
"""The paper's first stage: still images, text to mask."""

RECIPES: Mapping[str, Mapping[int, JointRecipe]] = {
    "paper": {
        1: JointRecipe(IMAGES, _paper(10_000), 80, 2, 10, recompute=True, precision="bf16"),
        2: JointRecipe(Mixture(), _paper(5_000), 80, 1, 10, recompute=True, precision="bf16"),
    },
    "tiny": {
        1: JointRecipe(IMAGES, _paper(300, warmup=30, log_every=10, save_every=50), 8, 8, 8),
        2: JointRecipe(Mixture(), _paper(300, warmup=30, log_every=10, save_every=50), 8, 4, 8),
    },
}
"""By name and stage: the paper's own, and those that fit trajseg-tiny on a CPU."""


class Trained(NamedTuple):
    """A training's output: the folder of the adapter or checkpoint, and whether the training is complete."""

    folder: Path
    finished: bool


def train_jointly(
    recipe: JointRecipe,
    checkpoint: str,
    out: Path,
    source: Source,
    seed: int = 0,
    workers: int = 0,
    run: Accelerator | None = None,
    stop: Stop = lambda: False,
    progress: StepsDone = lambda _done, _total: None,
    initial: Path | None = None,
    data: str | None = None,
) -> Trained:
    """Trains a checkpoint with a recipe, or resumes that training; writes what was learned, even when stopped.

    Args:
        checkpoint: a built-in checkpoint's name, or a folder.
        out: receives the state, the logs, and `adapter/` (with LoRA) or `checkpoint/`.
        workers: processes that prefetch samples (0 or 1).
        run: this process's part; defaults to how it was launched.
        stop, progress: as for `train`.
        initial: a warm start (see trajseg.training.warm_start); None: the checkpoint's own weights.
        data: name of the source, which a resumed training must share; None: the caller makes sure of that.

    Raises:
        InputError: the batch cannot be divided evenly, `out` holds a training with other settings, or 4-bit weights
            would have to be trained directly.
        CheckpointError: the checkpoint cannot be used.
        TrajSegError: 4 bits are requested and bitsandbytes is not installed.
    """
    run = run or accelerator(precision=recipe.precision)
    micro_batches, rest = divmod(recipe.batch, recipe.micro * run.num_processes)
    if rest or not micro_batches:
        raise InputError(
            f"A batch of {recipe.batch} cannot be divided into {run.num_processes} x {recipe.micro} samples.",
            "Choose a batch that is a multiple of processes x micro-batch.",
        )
    if recipe.four_bit and recipe.lora is None:
        raise InputError("4-bit weights cannot be trained directly.", "Train adapters over them: leave out --no-lora.")
    if run.is_main_process:
        settings = {"checkpoint": checkpoint, "seed": seed, **deciding(recipe)}
        settings["base_weights"] = weights_hash(checkpoint_folder(checkpoint))
        settings["warm_start"] = "" if initial is None else content_hash(initial)
        if data is not None:
            settings["data"] = data
        keep_settings(out, settings, earlier={"base_weights": settings["base_weights"], "warm_start": "", "data": data})
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    loaded = VideoSegmenter.from_pretrained(checkpoint, str(run.device), dtype, recipe.four_bit)
    model, processor = loaded.model, loaded.processor
    if initial is not None:
        load_warm_start(model, initial)
    torch.manual_seed(seed)  # new adapters and a new trajectory encoder are drawn alike in every process
    if recipe.mixture.captioning and recipe.mixture.images < 1:
        add_trajectory_encoder(model)
    parts = prepare(model, recipe.lora, recipe.whole)
    if recipe.recompute:
        recompute_layers(model)
    samples: Callable[[int], list[Sample]] = Samples(source, recipe.mixture, recipe.frames, recipe.micro, seed)
    if recipe.asks:
        samples = ClipSamples(source, recipe.mixture, recipe.frames, recipe.asks, seed)
    feed = Feed(samples, workers, stride=run.num_processes)
    joint = JointTraining(model, processor, parts, feed.at, recipe.weights, recipe.recompute, recipe.mask_frames)
    finished = train(
        out,
        joint,
        joint.loss,
        recipe.schedule,
        seed=seed,
        micro_batches=micro_batches,
        whole=False,
        times=learning_rates(recipe, model, parts),
        run=run,
        stop=stop,
        progress=progress,
    )
    result = out / ("checkpoint" if recipe.lora is None else "adapter")
    if run.is_main_process:
        model.eval()
        if recipe.lora is None:
            model.save_pretrained(result)
            name_after(model, result / "model.safetensors")
            model.config.save_pretrained(result)
            processor.save_pretrained(result)
        else:
            save_adapter(model, recipe.lora, checkpoint, result, recipe.whole)
    run.wait_for_everyone()
    return Trained(result, finished)


def learning_rates(
    recipe: JointRecipe, model: nn.Module, parts: Mapping[str, list[nn.Parameter]]
) -> dict[nn.Parameter, float]:
    """The rate of each parameter in parts with their own rate, in units of the schedule's."""
    norms = {p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    return {
        parameter: rate * (recipe.norm_rate if parameter in norms else 1.0)
        for part, rate in recipe.rates.items()
        for parameter in parts.get(part, ())
    }


def deciding(recipe: JointRecipe) -> dict[str, Any]:
    """The fields of a recipe that affect the result."""
    return {**dataclasses.asdict(recipe), "schedule": recipe.schedule.deciding()}
