"""Engines by name: the only place that resolves a name to an engine, or to its spec without loading it.

A name is a built-in checkpoint ("trajseg-tiny"), `package.module:factory`, an entry point of the group
`trajseg.engines`, or a checkpoint's folder. A factory is called with `device=`. It has its own `spec` (a class
attribute, or an attribute of the function), so that backend and doctor know the engine without loading it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Protocol

from trajseg.checkpoints.folders import SHIPPED, checkpoint_config, checkpoint_folder
from trajseg.engines.base import Engine, EngineSpec
from trajseg.engines.settings import SettingsFactory
from trajseg.errors import CheckpointError, InputError

FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
GROUP = "trajseg.engines"

DTYPES = ("float32", "bfloat16", "float16")
"""Number formats in which a checkpoint's weights can be loaded, by torch's names."""


class EngineLoader(Protocol):
    """Returns the engine for a name and a device: `load_engine`, or a test's replacement."""

    def __call__(self, name: str, device: str | None = None, **options: Any) -> Engine:
        """See `load_engine`."""


def loading_options(dtype: str | None, four_bit: bool) -> dict[str, Any]:
    """The options of `load_engine` for a dtype (None or empty: the checkpoint's own) and 4-bit layers."""
    return ({"dtype": dtype} if dtype else {}) | ({"four_bit": True} if four_bit else {})


def load_engine(name: str, device: str | None = None, **options: Any) -> Engine:
    """The engine with this name, on `device` (torch's name; by default the engine chooses).

    Args:
        options: further keyword arguments for the factory, or for VideoSegmenter.from_pretrained: `dtype`, one of
            DTYPES, and `four_bit`.

    Raises:
        CheckpointError: there is no such checkpoint, module, factory or entry point; a package is missing; or the
            factory does not make an engine.
        InputError: there is no such device, or the factory does not take one of the options.
        TrajSegError: 4 bits are requested and bitsandbytes is not installed.
    """
    if factory := engine_factory(name):
        _check_options(name, factory, options)
        with _packages_named(name):
            engine: Engine = factory(device=device or "", **options)
        spec, known = getattr(engine, "spec", None), getattr(factory, "spec", None)
        if not isinstance(spec, EngineSpec):
            raise CheckpointError(
                f"The engine {name} has no spec.", "Give it an attribute `spec`, a trajseg.engines.base.EngineSpec."
            )
        # Options may name other weights, and with them another version; what serves is loaded without any.
        if not options and isinstance(known, EngineSpec) and known.model_version != spec.model_version:
            raise CheckpointError(
                f"The factory {name} declares version {known.model_version}, but its engine {spec.model_version}.",
                "Both must be the same: Label Studio shows the predictions of one version.",
            )
        return engine
    folder = checkpoint_folder(name)
    with _packages_named(name):
        from trajseg.engines.trajseg import VideoSegmenter
    return VideoSegmenter.from_pretrained(folder, device=device or None, **options)


def check_engine(name: str) -> None:
    """Raises CheckpointError if there is no such engine or checkpoint, or its weights are missing; loads nothing."""
    factory = engine_factory(name)
    if factory is None:
        checkpoint_folder(name)
    elif isinstance(factory, SettingsFactory):
        factory.check()


@contextmanager
def _packages_named(name: str) -> Iterator[None]:
    """Raises CheckpointError, with the package's name, if the engine needs one that is not installed."""
    try:
        yield
    except ImportError as error:
        raise CheckpointError(
            f"The engine {name} needs the package {error.name}, which is not installed.",
            'Install the model\'s packages: pip install "trajseg[model]".',
        ) from error


def engine_spec(name: str) -> EngineSpec:
    """An engine's spec, without loading the engine; a checkpoint's is read without torch.

    Raises:
        CheckpointError: there is no such engine, or its factory has no spec.
    """
    if factory := engine_factory(name):
        spec = getattr(factory, "spec", None)
        if not isinstance(spec, EngineSpec):
            raise CheckpointError(
                f"The factory {name} has no spec, so its model version is unknown until it is loaded.",
                "Set `spec` on it: a class attribute of an engine's class, or an attribute of the function.",
            )
        return spec
    folder = checkpoint_folder(name)
    return checkpoint_spec({"model_name": folder.resolve().name} | checkpoint_config(folder))


SHIPPED_TERMS = {"trajseg-tiny": ("Apache-2.0", 1.1)}
"""Licence and memory (GB, measured on a CPU, including libraries) of the built-in checkpoints. Your own config.json
may have `licence` and `memory_gb`; the built-in files stay as they are, since adapters depend on their hash."""


def nothing_found(model_version: str) -> str:
    """What to tell a person if there is no track: a built-in checkpoint finds nothing on real video."""
    if model_version not in SHIPPED_TERMS:
        return "No such object: no tracks."
    return (
        f"No such object: no tracks. {model_version} only knows the rendered shapes that it was trained on; for your "
        "own video use the engine grounded (docs/engines.md)."
    )


def checkpoint_spec(config: Mapping[str, Any]) -> EngineSpec:
    """The spec of a TrajSeg checkpoint, from its config.json."""
    licence, memory_gb = SHIPPED_TERMS.get(str(config["model_name"]), ("", 0.0))
    return EngineSpec(
        name="trajseg",
        model_version=str(config["model_name"]),
        sentences=True,
        several=True,
        none=True,
        captions=config.get("trajectory_encoder") is not None,
        compares=True,
        marks=bool(config.get("prompted_by_boxes")),
        propagates=True,
        adapts=True,
        licence=str(config.get("licence", licence)),
        memory_gb=float(config.get("memory_gb", memory_gb)),
        needs=("torch", "transformers", "sam2"),
    )


def engine_factory(name: str) -> Callable[..., Engine] | None:
    """The factory with this name, imported; None if the name is a checkpoint's.

    Raises:
        CheckpointError: it cannot be imported.
    """
    if (SHIPPED / name / "config.json").is_file():
        return None
    if FACTORY.fullmatch(name):
        module, _, attribute = name.partition(":")
        return _imported(name, lambda: getattr(importlib.import_module(module), attribute))
    for point in entry_points(group=GROUP, name=name):
        return _imported(name, point.load)
    return None


def _check_options(name: str, factory: Callable[..., Engine], options: Mapping[str, Any]) -> None:
    """Raises InputError if a factory does not accept an option."""
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise InputError(
                f"The engine {name} has no option {option}.",
                f"Leave out --{option.replace('_', '-')} (TRAJSEG_{option.upper()}): the engine chooses this itself.",
            )


def _imported(name: str, load: Callable[[], Any]) -> Callable[..., Engine]:
    try:
        factory: Callable[..., Engine] = load()
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"The engine {name} cannot be loaded: {error}.",
            f"package.module:factory, or an entry point of the group {GROUP}, must name something importable here.",
        ) from error
    if not callable(factory):
        raise CheckpointError(f"The engine {name} is a {type(factory).__name__}.", "Name a class or a function.")
    return factory
