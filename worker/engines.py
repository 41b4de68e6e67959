"""Loaded engines: a worker keeps the engines that its jobs use loaded, within its memory budget."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

from trajseg.engines.base import Engine
from trajseg.engines.registry import EngineLoader, engine_factory, engine_spec, load_engine
from trajseg.errors import CheckpointError, InputError
from trajseg.machine import GB, memory_gb

log = logging.getLogger("trajseg.worker")

GPU_SHARE, MACHINE_SHARE = 0.9, 0.5
"""Default share of the memory of a GPU, or of the machine without one, that engines may use."""
DEPTH = 4
"""How deep an engine's attributes are searched for torch modules."""


class LoadedEngines:
    """Engines by name; when memory is short, the least recently used one is unloaded first.

    Args:
        default: the engine for jobs that name none.
        others: further names that a job may use.
        device: torch's name; empty: the engine chooses.
        budget_gb: memory for all engines together; 0 uses most of the device's. An engine larger than the budget is
            still loaded, on its own.
        options: for load_engine, for checkpoints and the default engine.
        load: replaces trajseg.load_engine in tests.
    """

    def __init__(
        self,
        default: str,
        others: Sequence[str] = (),
        device: str = "",
        budget_gb: float = 0.0,
        options: Mapping[str, Any] | None = None,
        load: EngineLoader = load_engine,
    ) -> None:
        self.default, self.names = default, dict.fromkeys((default, *others))
        self._device, self._load, self._options = device, load, dict(options or {})
        self._budget = budget_gb
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._sizes: dict[str, float] = {}

    def get(self, name: str = "", in_use: Sequence[str] = ()) -> Engine:
        """The engine with this name, loaded if necessary; empty: the default engine.

        Args:
            in_use: names of engines that must stay loaded.

        Raises:
            InputError: this worker does not offer it.
            CheckpointError: it cannot be loaded.
        """
        name = name or self.default
        if name not in self.names:
            raise InputError(
                f"This worker does not offer the engine {name[:100]!r}; it has {', '.join(self.names)}.",
                "Add it to TRAJSEG_ENGINES where the worker runs, and restart the worker.",
            )
        if name not in self._engines:
            self._make_room(_declared_gb(name), in_use)
            started = time.monotonic()
            self.put(name, self._load(name, self._device or None, **self._options_of(name)))
            log.info("%s is loaded (%.1f GB, %.0f s)", name, self._sizes[name], time.monotonic() - started)
            self._make_room(0.0, (name, *in_use))
        self._engines.move_to_end(name)
        return self._engines[name]

    def put(self, name: str, engine: Engine) -> None:
        """Adds an engine that is already loaded."""
        self._engines[name or self.default] = engine
        self._sizes[name or self.default] = max(engine.spec.memory_gb, parameter_bytes(engine) / GB)

    def _options_of(self, name: str) -> dict[str, Any]:
        # An engine of another kind chooses its dtypes itself, and would reject the options.
        return self._options if name == self.default or engine_factory(name) is None else {}

    def unload(self) -> None:
        """Unloads all engines; `get` loads them again."""
        log.info("%s unloaded (%.1f GB)", ", ".join(self._engines), sum(self._sizes.values()))
        self._engines.clear()
        self._sizes.clear()
        _free()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the loaded engines, least recently used first."""
        return tuple(self._engines)

    @property
    def budget_gb(self) -> float:
        """GB for all engines together; infinite if the memory size is unknown and nothing is set."""
        if not self._budget:
            memory, place = memory_gb(self._device)
            self._budget = memory * (GPU_SHARE if place == "the GPU" else MACHINE_SHARE) or float("inf")
        return self._budget

    def _make_room(self, wanted_gb: float, in_use: Sequence[str]) -> None:
        """Unloads engines until `wanted_gb` more fit into the budget, or none is left to unload."""
        kept = {name or self.default for name in in_use}
        for name in [name for name in self._engines if name not in kept]:
            if sum(self._sizes[held] for held in self._engines) + wanted_gb <= self.budget_gb:
                return
            log.info("%s is unloaded (%.1f GB)", name, self._sizes.pop(name))
            del self._engines[name]
            _free()


def parameter_bytes(engine: object) -> int:
    """Bytes of the parameters and buffers of all torch modules in an engine, each tensor counted once."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    level: list[Any] = [engine]
    for _ in range(DEPTH):
        below: list[Any] = []
        for thing in level:
            if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType | MethodType | str | bytes):
                continue
            seen.add(id(thing))
            if isinstance(thing, torch.nn.Module):
                for tensor in (*thing.parameters(), *thing.buffers()):
                    sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            elif isinstance(thing, dict):
                below += thing.values()
            elif isinstance(thing, list | tuple):
                below += thing
            else:
                below += getattr(thing, "__dict__", {}).values()
        level = below
    return sum(sizes.values())


def _declared_gb(name: str) -> float:
    try:
        return engine_spec(name).memory_gb
    except CheckpointError:
        # Loading it will report what is wrong.
        return 0.0


def _free() -> None:
    """Returns the memory of unloaded engines to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
