"""One training stage: optimiser, schedule, checkpoints that resume exactly, and a log that people can read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns: `lr` is the peak, warmed up over `warmup` steps, then cosine to 0.05 of it.

    A stage also ends after `minutes`, its rate then running down over the time that is left, not over the steps.
    """

    minutes: float
    lr: float
    warmup: int = 50
    clip: float = 1.0
    weight_decay: float = 0.01
    log_every: int = 50
    save_every: int = 200


def train(
    folder: Path,
    module: nn.Module,
    loss: Callable[[float], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    report: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Trains `module`'s parameters that require gradients until the stage's time is over.

    Args:
        folder: receives `state.pt` (weights, optimiser, step, seconds used) and `log.jsonl`; an existing state
            is continued.
        loss: gives, for the share of the stage's time that is over, the loss and the figures to log.
        report: slower figures, asked for at every save.

    Raises:
        FloatingPointError: the loss is not finite; the last saved state is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    step, used = 0, 0.0
    state_file = folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        step, used = state["step"], state["seconds"]
    total = schedule.minutes * 60
    started = time.monotonic() - used
    sums: dict[str, float] = {}
    while (used := time.monotonic() - started) < total:
        share = used / total
        rate = schedule.lr * min(1.0, (step + 1) / schedule.warmup)
        rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate
        value, figures = loss(share)
        if not torch.isfinite(value):
            raise FloatingPointError(f"The loss is {float(value.detach())} at step {step}: lower the rate.")
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        figures["gradient"] = float(nn.utils.clip_grad_norm_(parameters, schedule.clip))
        optimiser.step()
        for name, figure in {"loss": float(value.detach()), **figures}.items():
            sums[name] = sums.get(name, 0.0) + figure
        step += 1
        if step % schedule.log_every == 0:
            means = {name: round(total_ / schedule.log_every, 4) for name, total_ in sums.items()}
            sums = {}
            if step % schedule.save_every == 0:
                _save(state_file, module, optimiser, step, time.monotonic() - started)
                if report:
                    means.update(report())
            left = (total - (time.monotonic() - started)) / 60
            line = {"step": step, "minutes": round(used / 60, 2), "lr": round(rate, 6), **means}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            console.print(f"{folder.name}: {left:.1f} min left", json.dumps(line), soft_wrap=True)
    _save(state_file, module, optimiser, step, time.monotonic() - started)


def _save(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, step: int, seconds: float) -> None:
    partial = path.with_suffix(".part")
    torch.save(
        {
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds,
        },
        partial,
    )
    partial.replace(path)
