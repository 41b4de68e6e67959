"""Early warnings: the usual causes of a training that does not learn, reported while there is time to act."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

PATIENCE = 30
"""Consecutive steps after which a symptom becomes a warning."""
FLAT = 1e-6
"""A loss that changes by less than this fraction of itself counts as flat."""

GATE = (
    "The object gate replaces a mask whose score is not above 0 by a constant, which has no gradient and is "
    "empty at inference. Use the mask loss on ungated logits (DecodedMask.logits), and start the score above "
    "0: set the last bias of sam_mask_decoder.pred_obj_score_head to +2."
)


@runtime_checkable
class Parted(Protocol):
    """A module that names the parts to watch; otherwise its top-level children are watched."""

    def learning_parts(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by the name of their part."""


def learning_parts(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of a module by part; parts without any are left out."""
    if isinstance(module, Parted):
        named: Mapping[str, Iterable[nn.Parameter]] = module.learning_parts()
    else:
        named = {name: child.parameters() for name, child in module.named_children()}
    parts = {name: [p for p in parameters if p.requires_grad] for name, parameters in named.items()}
    return {name: parameters for name, parameters in parts.items() if parameters}


def gradient_norms(parts: Mapping[str, list[nn.Parameter]]) -> dict[str, float]:
    """The norm of each part's gradient; 0 where it has none."""
    gradients = {name: [p.grad for p in parameters if p.grad is not None] for name, parameters in parts.items()}
    norms = {name: torch.nn.utils.get_total_norm(g) for name, g in gradients.items() if g}
    values = torch.stack(list(norms.values())).tolist() if norms else []
    return dict.fromkeys(parts, 0.0) | dict(zip(norms, values, strict=True))


class Health:
    """Watches a training; each warning is given once.

    Args:
        gated: the module contains SAM 2's object score, so a missing gradient may be caused by its gate.
    """

    def __init__(self, gated: bool = False) -> None:
        self.gated = gated
        self._without: dict[str, int] = {}
        self._shut = 0
        self._losses: deque[float] = deque(maxlen=PATIENCE)
        self._reported: set[str] = set()

    @classmethod
    def of(cls, module: nn.Module) -> Health:
        """A Health for this module."""
        return cls(any(name.endswith("pred_obj_score_head") for name, _ in module.named_modules()))

    def observe(self, loss: float, norms: Mapping[str, float], figures: Mapping[str, float]) -> list[str]:
        """Processes one step's figures; returns new warnings.

        Args:
            norms: of the gradient of each part.
            figures: of the loss; "gate_open" is the share of visible objects whose score is above 0.
        """
        found: list[tuple[str, str]] = []
        for part, norm in norms.items():
            self._without[part] = 0 if norm > 0 else self._without.get(part, 0) + 1
            if self._without[part] == PATIENCE:
                remedy = GATE if self.gated else "Freeze it, or make sure that the loss uses its output."
                found.append((part, f"{part} has had no gradient for {PATIENCE} steps: it does not learn. {remedy}"))
        if "gate_open" in figures:
            self._shut = 0 if figures["gate_open"] > 0 else self._shut + 1
            if self._shut == PATIENCE:
                found.append(("gate", f"No visible object had a score above 0 for {PATIENCE} steps. {GATE}"))
        self._losses.append(loss)
        span = max(self._losses) - min(self._losses)
        if len(self._losses) == PATIENCE and span <= FLAT * abs(loss):
            remedy = GATE if self.gated else "Raise the rate, or make sure that the loss depends on what is trained."
            found.append(("flat", f"The loss has been flat at {loss:.4g} for {PATIENCE} steps. {remedy}"))
        new = [text for key, text in found if key not in self._reported]
        self._reported.update(key for key, _ in found)
        return new


def not_finite(step: int, loss: float, norm: float, figures: Mapping[str, float | Tensor]) -> str:
    """The message for a loss or gradient that is NaN or infinite."""
    what = (
        f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient's norm is {norm} (the loss is {loss:.4g})"
    )
    bad = [name for name, figure in figures.items() if not math.isfinite(float(figure))]
    where = f", and so is its part {', '.join(bad)}" if bad else ""
    return f"{what} at step {step}{where}: lower the rate, or check that step's data. The last saved state is kept."
