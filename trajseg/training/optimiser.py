"""AdamW, optionally with Muon for the matrices of hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def optimiser_of(
    module: nn.Module,
    muon: float,
    betas: tuple[float, float],
    weight_decay: float,
    times: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW for all of a module's trainable parameters, or MuonAndAdamW if `muon` is not 0.

    `times` has AdamW's rates per parameter, in units of the schedule's; the default is 1.
    """
    if muon:
        return MuonAndAdamW(module, muon, betas, weight_decay)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault((times or {}).get(parameter, 1.0), []).append(parameter)
    form = [{"params": parameters, "times": rate} for rate, parameters in groups.items()]
    return torch.optim.AdamW(form, betas=betas, weight_decay=weight_decay)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the matrices and kernels inside a module's layers, AdamW for all other parameters.

    Muon updates all directions of a matrix by the same length, so that rare features are learned as fast as frequent
    ones. Hidden layers are those in an `nn.ModuleList`; embeddings and heads are outside of it, and use AdamW. A kernel
    is treated as a matrix of its outputs by everything else.

    Args:
        module: its parameters that require gradients are trained.
        times: Muon's rate, in units of AdamW's; both produce updates of AdamW's usual length.
        betas: of AdamW.
        weight_decay: of both.
    """

    def __init__(self, module: nn.Module, times: float, betas: tuple[float, float], weight_decay: float) -> None:
        inner = {
            parameter
            for part in module.modules()
            if isinstance(part, nn.ModuleList)
            for parameter in part.parameters()
            if parameter.ndim >= 2 and len(parameter) > 1 and parameter.requires_grad
        }
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.inner = [parameter for parameter in trained if parameter in inner]
        # Muon updates matrices that share the parameters' memory.
        self.matrices = [nn.Parameter(parameter.detach().view(len(parameter), -1)) for parameter in self.inner]
        muon = torch.optim.Muon(self.matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        muon.param_groups[0]["times"] = times
        others = [parameter for parameter in trained if parameter not in inner]
        self.parts = [muon, torch.optim.AdamW(others, betas=betas, weight_decay=weight_decay)]
        super().__init__(trained, {})
        self._group()

    def _group(self) -> None:
        # With the module's own parameters instead of Muon's matrices: fp16's scaler looks for gradients here.
        [muon], others = (part.param_groups for part in self.parts)
        self.param_groups = [{**muon, "params": self.inner}, *others]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, matrix in zip(self.inner, self.matrices, strict=True):
            matrix.grad = None if parameter.grad is None else parameter.grad.reshape(matrix.shape)
        self.parts[0].param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in (*self.inner, *self.matrices):
            parameter.grad = None
        self.parts[1].zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._group()
