"""A training stage: steps for a number of minutes, resumed where they were stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Step = Callable[[], tuple[Tensor, dict[str, float]]]
"""Draws examples; returns their loss, and figures to print."""

SAVED_EVERY = 120.0
"""Seconds."""
PRINTED_EVERY = 50
"""Steps."""


@dataclass(frozen=True)
class Stage:
    """Settings of a stage; its state is saved in `<name>.pt`.

    Args:
        rate: AdamW's peak learning rate.
        minutes: CPU time over all runs, so a busy machine does the same work.
        warm_up: steps over which the learning rate rises.
        clip: maximum norm of the gradient.
    """

    name: str
    rate: float
    minutes: float
    warm_up: int = 100
    clip: float = 1.0

    def run(self, out: Path, module: nn.Module, start: Callable[[int], Step]) -> None:
        """Trains a module; resumes from the state in `out` if there is one.

        Args:
            start: called once with the number of steps done; returns the function that computes a step.
        """
        optimiser = torch.optim.AdamW(module.parameters(), lr=self.rate, weight_decay=0.01, betas=(0.9, 0.98))
        spent, done = 0.0, 0
        if (path := self.path(out)).is_file():
            state = torch.load(path, weights_only=True)
            module.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            spent, done = state["spent"], state["step"]
        budget = 60 * self.minutes
        if spent >= budget:
            return
        step, means = start(done), dict[str, float]()
        module.train()
        started, saved = time.process_time() - spent, time.time()
        while spent < budget:
            spent = time.process_time() - started
            share = min(1.0, spent / budget)
            for group in optimiser.param_groups:
                group["lr"] = self.rate * min(1.0, (done + 1) / self.warm_up) * (1 - 0.96 * share**1.5)
            loss, figures = step()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), self.clip)
            optimiser.step()
            done += 1
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                if value == value:
                    means[name] = 0.98 * means.get(name, value) + 0.02 * value
            if done % PRINTED_EVERY == 0:
                said = " ".join(f"{name} {value:.3f}" for name, value in means.items())
                print(f"{self.name} {done} {spent / 60:.1f} min {said}", flush=True)
            if time.time() - saved > SAVED_EVERY or spent >= budget:
                saved = time.time()
                state = {"model": module.state_dict(), "optimiser": optimiser.state_dict()}
                torch.save({**state, "spent": spent, "step": done}, path)

    def path(self, out: Path) -> Path:
        """The file with the stage's state."""
        return out / f"{self.name}.pt"
