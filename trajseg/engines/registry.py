"""Engines by name: a checkpoint's name or folder for trajseg itself, `package.module:factory` for others."""

from __future__ import annotations

import importlib
import re

from trajseg.engines.base import Engine
from trajseg.errors import CheckpointError

FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_engine(model: str, device: str = "") -> Engine:
    """The engine that the setting `model` names, on `device` (torch's name; empty: the engine chooses).

    A name of the form `package.module:factory` is imported and called with `device=`; what it returns must be
    an Engine whose `model_version` is that name, because that is what the backend tells Label Studio.
    Everything else is a checkpoint of trajseg: one that ships, or a folder.

    Raises:
        CheckpointError: there is no such checkpoint, module or factory, or a package is missing.
    """
    if FACTORY.fullmatch(model):
        return _from_factory(model, device)
    try:
        from trajseg.engines.trajseg import VideoSegmenter
    except ImportError as error:
        raise CheckpointError(
            f"The model {model} needs the package {error.name}, which is not installed.",
            'Install the model\'s packages: pip install "trajseg[model]".',
        ) from error
    return VideoSegmenter.from_pretrained(model, device=device or None)


def _from_factory(model: str, device: str) -> Engine:
    module_name, _, factory_name = model.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"The engine {model} cannot be loaded: {error}.",
            "TRAJSEG_MODEL=package.module:factory must name something that can be imported here.",
        ) from error
    engine: Engine = factory(device=device)
    if engine.model_version != model:
        raise CheckpointError(
            f"The engine {model} calls its version {engine.model_version}.",
            f"Its model_version must be {model}: Label Studio shows predictions of no other.",
        )
    return engine
