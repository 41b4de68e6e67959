"""Adapters on a shared base: LoRA and small heads are put into a loaded model and removed again, bit for bit.

Nothing is reloaded, and an adapted model runs as fast as the base: LoRA is merged into the weights, except for 4-bit
weights, where it runs beside the layer. The base's own tensors are set aside and never changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.manifest import NAME, AdapterManifest, checked_files
from trajseg.errors import CheckpointError

PREFIX = "base_model.model."
KEPT = 3
"""Adapters kept in memory."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Args:
        manifest: of its folder.
        lora: by the adapted layer's name: A (r, in) and B (out, r).
        scale: alpha / r.
        heads: by name: parameters and buffers of the modules that were trained in full.
    """

    manifest: AdapterManifest
    lora: dict[str, tuple[Tensor, Tensor]]
    scale: float
    heads: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Loads an adapter from a published folder; every file is checked against its hash.

        Raises:
            CheckpointError: the folder is incomplete, or is not an adapter of this form.
        """
        manifest, files = checked_files(folder)
        try:
            config = json.loads(files["adapter_config.json"])
            scale = float(config["lora_alpha"] / config["r"])
            tensors = load(files["adapter_model.safetensors"])
        except (ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} is not a LoRA adapter ({type(error).__name__}: {error}).", "Train it again."
            ) from error
        lora: dict[str, dict[str, Tensor]] = {}
        heads = {}
        for name, tensor in tensors.items():
            name = name.removeprefix(PREFIX)
            layer, found, half = name.rpartition(".lora_")
            if found:
                lora.setdefault(layer, {})[half.removesuffix(".weight")] = tensor
            else:
                heads[name] = tensor
        if any(halves.keys() != {"A", "B"} for halves in lora.values()):
            raise CheckpointError(f"{folder} is not a LoRA adapter.", "Train it again.")
        return cls(manifest, {layer: (halves["A"], halves["B"]) for layer, halves in lora.items()}, scale, heads)


class AdaptedModel:
    """A loaded model and the adapter that is currently in it.

    Args:
        model: the base; while an adapter is in, some of its tensors are replaced but none is changed.
        base: an adapter of another one is refused.
    """

    def __init__(self, model: nn.Module, base: BaseIdentity) -> None:
        self.model, self.base = model, base
        self.current: Adapter | None = None
        self._loaded: dict[Path, tuple[int, Adapter]] = {}
        self._undo: list[Callable[[], None]] = []
        self._settled = True

    def load(self, folder: Path) -> Adapter:
        """Loads an adapter from its folder; the last few are cached as long as their manifest is unchanged.

        Raises:
            CheckpointError: the folder is incomplete.
        """
        try:
            written = (folder / NAME).stat().st_mtime_ns
        except OSError:
            written = 0
        held = self._loaded.pop(folder, None)
        adapter = held[1] if held and held[0] == written else Adapter.load(folder)
        self._loaded[folder] = (written, adapter)
        while len(self._loaded) > KEPT:
            del self._loaded[next(iter(self._loaded))]
        return adapter

    @torch.inference_mode(False)
    @torch.no_grad()
    def put(self, adapter: Adapter | None) -> None:
        """Puts this adapter, or none, into the model; does nothing if it is already there.

        An exception in the middle, such as a job's timeout, leaves the base in place, or the next call restores it.

        Raises:
            CheckpointError: the adapter does not fit; the base is then in place.
        """
        if adapter is self.current and self._settled:
            return
        self._settled = False
        self._take_out()
        if adapter is not None:
            self._put_in(adapter)
        self.current = adapter
        self._settled = True

    def _put_in(self, adapter: Adapter) -> None:
        self.base.check(adapter.manifest)
        try:
            for layer, (a, b) in adapter.lora.items():
                self._adapt(layer, a, b, adapter.scale)
            for name, tensor in adapter.heads.items():
                self._replace(name, tensor)
        except torch.OutOfMemoryError:
            self._take_out()
            raise
        except (AttributeError, RuntimeError) as error:
            self._take_out()
            raise CheckpointError(
                f"{adapter.manifest.model_version} does not fit the base: {error}", "Train the project again."
            ) from error

    def _take_out(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self.current = None

    def _adapt(self, name: str, a: Tensor, b: Tensor, scale: float) -> None:
        layer: Any = self.model.get_submodule(name)
        weight = layer.weight
        if (len(b), a.shape[1:], a.shape[:1]) != (layer.out_features, (layer.in_features,), b.shape[1:]):
            # Otherwise it might be broadcast; and 4-bit weights do not show it before the layer is used.
            raise RuntimeError(f"the LoRA of {name} is {list(b.shape)} times {list(a.shape)}")
        a, b = a.to(weight.device), b.to(weight.device)
        if type(weight) is nn.Parameter and weight.is_floating_point():
            merged = (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
            self._swap(weight, merged)
            return

        def add(_layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return out + (scale * (given[0].to(a.dtype) @ a.T @ b.T)).to(out.dtype)

        self._undo.append(layer.register_forward_hook(add).remove)

    def _replace(self, name: str, tensor: Tensor) -> None:
        parent, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(parent)
        place: Tensor | None = {**module._buffers, **module._parameters}.get(leaf)
        if place is None or place.shape != tensor.shape:
            raise RuntimeError(f"{name} is {list(tensor.shape)} and has no place of that shape")
        self._swap(place, tensor.to(place.device, place.dtype))

    def _swap(self, place: Tensor, tensor: Tensor) -> None:
        original = place.data

        def undo() -> None:
            place.data = original

        # First, so that an exception in between loses nothing.
        self._undo.append(undo)
        place.data = tensor
