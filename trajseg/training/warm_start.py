"""Warm start: weights of the vision side from which a small base's fine-tuning starts, instead of the base's own.

A small base has seen one look. Its warm start is the same base, whose vision side was trained further on the base's own
data in random looks (trajseg.data.random_looks), while the language model and the mask decoder were frozen: pictures in
any look become what those already read. This takes an hour once, and each project's short training starts there.

A checkpoint has it beside its weights, as `warm_start.safetensors`: parameters by name, for any part of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from trajseg.checkpoints.folders import checkpoint_folder, fingerprint
from trajseg.data.random_looks import RandomLooks
from trajseg.data.samples import ClipSamples, Mixture, Source
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegModel
from trajseg.model.weights import save_tensors
from trajseg.training.adapters import PARTS, SIGHT, prepare
from trajseg.training.feed import Feed
from trajseg.training.joint import JointTraining
from trajseg.training.kept_settings import keep_settings
from trajseg.training.run import Schedule, StepsDone, Stop, train

WARM_START = "warm_start.safetensors"
MIXTURE = Mixture(images=0.0, pseudo_videos=0.0, propagation=0.05, captioning=0.2)
SCHEDULE = Schedule(
    steps=600, lr=6e-4, warmup=15, weight_decay=0.0, log_every=10, save_every=600, betas=(0.9, 0.95), muon=2.0
)
"""Muon as in the base's own training."""
CLIPS, FRAMES, QUESTIONS, MASK_FRAMES = 4, 8, 4, 2
"""Per step: clips; frames and questions of each; frames of each whose masks are drawn."""


def train_warm_start(
    checkpoint: str,
    out: Path,
    source: Source,
    schedule: Schedule = SCHEDULE,
    seed: int = 0,
    workers: int = 0,
    data: str = "",
    stop: Stop = lambda: False,
    progress: StepsDone = lambda _done, _total: None,
) -> Mapping[str, Tensor] | None:
    """Trains a base's vision side in random looks, or resumes that training.

    Args:
        checkpoint: name or folder of the base.
        out: receives the state and the logs.
        source: the base's own data; all objects of its clips are known.
        workers: processes that prefetch samples (0 or 1).
        data: name of the source.
        stop, progress: see trajseg.training.run.train.

    Returns:
        the vision side's parameters by name; None if `stop` or the schedule's minutes ended the run early.

    Raises:
        InputError: `out` holds a training of another base, on other data, or with another recipe or seed.
        CheckpointError: the checkpoint cannot be used.
    """
    settings = {
        "checkpoint": checkpoint,
        "weights": fingerprint(checkpoint_folder(checkpoint)),
        "data": data,
        "seed": seed,
        "schedule": schedule.deciding(),
        "mixture": asdict(MIXTURE),
        "clips": [CLIPS, FRAMES, QUESTIONS, MASK_FRAMES],
    }
    keep_settings(out, settings)
    loaded = VideoSegmenter.from_pretrained(checkpoint, dtype=torch.float32)
    model = loaded.model
    parts = prepare(model, None, tuple(SIGHT))
    del parts["language model"]
    model.language_model.requires_grad_(False).eval()
    samples = ClipSamples(RandomLooks(source), MIXTURE, FRAMES, QUESTIONS, seed)
    feed = Feed(samples, workers)
    joint = JointTraining(model, loaded.processor, parts, feed.at, mask_frames=MASK_FRAMES, objects_known=True)
    finished = train(
        out, joint, joint.loss, schedule, seed=seed, micro_batches=CLIPS, whole=False, stop=stop, progress=progress
    )
    if not finished:
        return None
    names = [name for part in SIGHT for name in PARTS[part]]
    return {f"{name}.{key}": tensor for name in names for key, tensor in model.get_submodule(name).state_dict().items()}


def save_warm_start(several: Sequence[Mapping[str, Tensor]], path: Path) -> Path:
    """Writes the mean of several trainings in half precision: weights that started alike are better averaged
    (Wortsman et al. 2022, model soups)."""
    mean = {name: torch.stack([each[name].float() for each in several]).mean(0) for name in several[0]}
    save_tensors({name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in mean.items()}, path)
    return path


def warm_start_of(folder: Path) -> Path | None:
    """The file of a checkpoint's warm start; None if it has none."""
    path = folder / WARM_START
    return path if path.is_file() else None


def load_warm_start(model: TrajSegModel, path: Path) -> None:
    """Loads a warm start into a model.

    Raises:
        CheckpointError: it belongs to another model.
    """
    weights, own = load_file(path), model.state_dict()
    foreign = [name for name, tensor in weights.items() if name not in own or own[name].shape != tensor.shape]
    if foreign:
        raise CheckpointError(
            f"{path} does not fit the checkpoint beside it: {foreign[0]} differs.", "Delete it, or train another one."
        )
    model.load_state_dict(weights, strict=False)
