"""For each engine with public weights: whether it can run on this machine and, if not, the next step."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from backend.label_studio.setup.check import Check
from trajseg.checkpoints.catalogue import ENGINES, FREE_ENGINE, EngineNeeds, Weights, needed
from trajseg.checkpoints.download import location
from trajseg.checkpoints.places import offline
from trajseg.engines.parts import REPOSITORY
from trajseg.engines.registry import engine_factory
from trajseg.engines.settings import SettingsFactory
from trajseg.errors import TrajSegError
from trajseg.machine import GB, memory_gb

SMALLER = {
    "grounded": "Take a smaller chooser or none (TRAJSEG_GROUNDED_CHOOSER=none), or serve it elsewhere "
    "(TRAJSEG_GROUNDED_ADDRESS).",
}
"""What to do if an engine does not fit into memory."""


def engine_checks() -> Iterator[Check]:
    """One check per engine; none is loaded and nothing is downloaded. Never "fail": engines are a choice."""
    for needs in ENGINES.values():
        yield engine_check(needs)


def engine_check(needs: EngineNeeds) -> Check:
    """The first thing that prevents an engine from running here, in the order in which a user meets them."""
    name = f"Engine {needs.name}"
    try:
        factory = engine_factory(needs.name)
    except TrajSegError as error:
        return Check(name, "warn", error.message, error.remedy)
    if factory is None:
        return Check(name, "warn", "is not part of this version of trajseg", f"Use {FREE_ENGINE}.")
    if missing := [package for package in needs.packages if importlib.util.find_spec(package) is None]:
        return Check(name, "warn", f"lacks the packages {', '.join(missing)}", 'pip install "trajseg[model]"')
    parts = needed(needs)
    memory, place = memory_gb()
    wanted = sum(part.memory_gb for part in parts)
    if memory and memory < wanted:
        # Before a download that would be for nothing.
        return Check(
            name,
            "warn",
            f"needs about {wanted:.0f} GB, {place} has {memory:.0f} GB",
            SMALLER.get(needs.name, f"Use a larger GPU, or {FREE_ENGINE}."),
        )
    absent = [part for part in parts if location(part) is None]
    misnamed = [part for part in absent if not REPOSITORY.fullmatch(part.repository)]
    if absent and not misnamed:
        return _absent(name, needs, absent)
    if isinstance(factory, SettingsFactory):
        try:
            factory.check()
        except TrajSegError as error:
            return Check(name, "warn", error.message, error.remedy)
    slow = "" if place == "the GPU" else "; without a GPU it is slow"
    return Check(name, "ok", f"can run: {needs.understands}; all its weights are here{slow}")


def proposal(model_is_set: bool) -> list[str]:
    """What to suggest if `trajseg serve` starts with no model set; nothing is downloaded."""
    if model_is_set:
        return []
    _, place = memory_gb()
    if place != "the GPU":
        return [
            "No model is set: trajseg-tiny knows rendered shapes only, so instructions are useless on real video.",
            f"  Boxes, clicks and strokes work on any video. Engine {FREE_ENGINE} follows instructions, on a GPU.",
        ]
    missing = [part for part in needed(ENGINES[FREE_ENGINE]) if location(part) is None]
    lines = [
        f"This machine has a GPU and no model is set. For your own video: TRAJSEG_MODEL={FREE_ENGINE} trajseg serve"
    ]
    if missing:
        sizes = ", ".join(f"{part.name} ({part.disk_gb:g} GB, {part.licence})" for part in missing)
        lines.append(f"  First run `trajseg weights get {FREE_ENGINE}`, which downloads about {sizes}.")
        lines.append("  TRAJSEG_GROUNDED_CHOOSER=none leaves out the largest part; noun phrases then still work.")
    return lines


def _absent(name: str, needs: EngineNeeds, absent: list[Weights]) -> Check:
    """What to do about missing weights."""
    size = sum(part.disk_gb for part in absent)
    words = f"lacks {', '.join(part.name for part in absent)} (about {size:.1f} GB)"
    get = f"trajseg weights get {needs.name}"
    if offline():
        return Check(name, "warn", f"{words}, and offline mode is on", "Copy them here, or unset TRAJSEG_OFFLINE.")
    gated = [part for part in absent if part.gated]
    if gated and not (os.environ.get("HF_TOKEN") or token_file().is_file()):
        return Check(
            name,
            "warn",
            f"{words}; the owner of {gated[0].repository} must grant access",
            f"Request access at {gated[0].card} and set HF_TOKEN; or use {FREE_ENGINE}, which needs no permission.",
        )
    nearest = next(folder for folder in (hub_home(), *hub_home().parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / GB
    if free < size:
        return Check(
            name, "warn", f"{words}; {free:.1f} GB are free", "Free some space, or set HF_HOME to another disk."
        )
    return Check(name, "warn", words, get)


def hub_home() -> Path:
    """Hugging Face's folder."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser().absolute()


def token_file() -> Path:
    """Where `hf auth login` stores a token."""
    return hub_home() / "token"
