"""Assembles a TrajSeg checkpoint from published ones: a LLaVA and a SAM 2, or a TrajSeg in its authors' layout.

Tensors are copied to the new folder one by one; only one shard of the output is held in memory.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaConfig, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD  # type: ignore[attr-defined]

from trajseg.checkpoints.folders import ASSEMBLED
from trajseg.checkpoints.published import (
    adapted_weights,
    llava_config,
    our_name,
    our_sam2_name,
    recognise_sam2,
    without_training_prefix,
)
from trajseg.data.sentences import SEG_TOKEN
from trajseg.errors import CheckpointError
from trajseg.model.config import SPECIAL_TOKENS, Sam2Config, TrajSegConfig
from trajseg.model.dialogue import LLAVA_TURNS
from trajseg.model.modeling import TrajSegModel
from trajseg.model.processor import TrajSegProcessor
from trajseg.model.weights import SHARD_BYTES, Shape, Weights, check, shapes_of, write

OURS = ("text_hidden_fcs", "fusion_layers", "spi_module")
"""The parts that neither LLaVA nor SAM 2 has."""
VOCABULARY = ("llava.model.language_model.embed_tokens.weight", "llava.lm_head.weight")
GAMMA_AT_FIRST = 1e-6
"""Initial value of SAM 2's layer scale; trained ones are far from it."""
LORA_SCALE = 2.0
"""alpha / r of the authors' adapters: 16 / 8."""


@dataclass
class Assembled:
    """What was written: configuration, freshly initialised parts, added tokens, and size in bytes."""

    folder: Path
    config: TrajSegConfig
    fresh: list[str]
    tokens: list[str]
    sources: dict[str, str]
    size: int = 0


@dataclass
class _Plan:
    """The source of each tensor of the new checkpoint."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    readers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    def add(self, name: str, shape: Shape, reader: Callable[[], Tensor]) -> None:
        self.shapes[name] = shape
        self.readers[name] = reader


def assemble(
    llava: str | Path,
    out: str | Path,
    sam2: str | Path | None = None,
    clip: str | Path | None = None,
    sam2_config: Sam2Config | None = None,
    trajectory_encoder: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Assembled:
    """Writes a TrajSeg checkpoint folder from published checkpoints.

    From a LLaVA, the trajectory head, the content integration and the trajectory encoder are freshly initialised, and
    so are the rows of new tokens (the mean of the others, plus a little noise): the folder says so in `assembled.json`,
    and its masks are meaningless before training. From a checkpoint of TrajSeg's authors (merged, or from training with
    adapters, which are merged here) everything is used, and the model treats frame 0 and crops pictures to their centre
    as theirs does.

    Args:
        llava: folder of a LLaVA in Hugging Face's form or its authors', or of TrajSeg in its authors' layout.
        out: folder to write; must not contain a checkpoint.
        sam2: Meta's .pt file of SAM 2 or 2.1; not needed if the folder has one (then it only restores a layer
            scale that an older release of transformers failed to save).
        clip: folder of the CLIP, if the LLaVA only names its vision tower.
        sam2_config: of a SAM 2 that is not one of Meta's sizes.
        trajectory_encoder: what differs from the paper's (see TrajSegConfig).
        dtype: of the weights in the new folder.
        seed: for the freshly initialised parts.
        shard_bytes: largest file, bytes.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, unexpected or of the wrong shape.
    """
    llava, out = Path(llava), Path(out)
    if (out / "config.json").exists():
        raise CheckpointError(f"{out} already has a checkpoint.", "Choose another folder.")
    plan, sources = _Plan(), {"llava": str(llava)}
    adapted = _take_llava(plan, Weights(llava))
    if clip is not None:
        sources["clip"] = str(clip)
        _take(plan, Weights(clip), our_name)
    authors_own = any(name.startswith("visual_model.") for name in plan.shapes)
    if sam2 is not None:
        sources["sam2"] = str(sam2)
        sam2_config = _take_sam2(plan, Weights(sam2), sam2_config, only_gammas=authors_own)
    elif not authors_own:
        raise CheckpointError(f"{llava} has no SAM 2.", "Give Meta's .pt file of SAM 2 or 2.1 with --sam2.")
    if authors_own:
        _look_at_gammas(plan)
        sam2_config = sam2_config or recognise_sam2(_without(plan.shapes, "visual_model."))

    tokenizer, tokens = _tokenizer(llava)
    config = TrajSegConfig(
        llava_config=_read_config(llava, clip),
        sam2_config=sam2_config,
        trajectory_encoder=trajectory_encoder or {},
        released_behaviour=authors_own,
        # The authors trained SAM 2's decoder further, without any boxes.
        prompted_by_boxes=not authors_own,
        model_name=out.name,
    )
    text = config.llava_config.text_config
    rows = text.vocab_size
    text.vocab_size = max(rows, len(tokenizer))
    config.seg_token_id = int(tokenizer.convert_tokens_to_ids(SEG_TOKEN))  # type: ignore[arg-type]
    config.dtype = dtype
    for name in VOCABULARY:
        if text.vocab_size > rows and name in plan.shapes:
            _lengthen(plan, name, text.vocab_size, seed)
    model = TrajSegModel.skeleton(config)
    fresh = _add_fresh(plan, model, seed)
    remedy = "Use checkpoints that belong together; the parts are listed in docs/full_size.md."
    check(shapes_of(model), plan.shapes, " + ".join(sources.values()), remedy)

    size = write(out, _tensors(plan, dtype), shard_bytes)
    config.save_pretrained(out)
    _processor(tokenizer, config.llava_config, config.sam2_config.image_size, authors_own).save_pretrained(out)  # type: ignore[arg-type]
    made = Assembled(out, config, fresh, tokens, sources, size)
    note = {"sources": sources, "adapters_merged": adapted, "never_trained": fresh, "new_tokens": tokens, "seed": seed}
    (out / ASSEMBLED).write_text(json.dumps(note, indent=2) + "\n")
    return made


def _take(plan: _Plan, weights: Weights, rename: Callable[[str], str | None]) -> None:
    for name in weights:
        if (ours := rename(name)) is not None:
            plan.add(ours, weights.shape(name), lambda name=name: weights[name])  # type: ignore[misc]


def _take_llava(plan: _Plan, weights: Weights) -> int:
    """Adds a LLaVA, or a TrajSeg; merges adapters and returns how many there were."""
    adapted = adapted_weights(weights)
    hidden = {name for names in adapted.values() for name in names}
    _take(plan, weights, lambda name: None if name in hidden else our_name(without_training_prefix(name)))
    for published, (plain, down, up) in adapted.items():

        def merged(plain: str = plain, down: str = down, up: str = up) -> Tensor:
            return weights[plain].float() + LORA_SCALE * (weights[up].float() @ weights[down].float())

        ours = our_name(published)
        assert ours is not None
        plan.add(ours, weights.shape(plain), merged)
    return len(adapted)


def _take_sam2(plan: _Plan, weights: Weights, config: Sam2Config | None, only_gammas: bool) -> Sam2Config:
    config = config or recognise_sam2(weights.shapes())
    _take(plan, weights, lambda name: our_sam2_name(name) if name.endswith("gamma") or not only_gammas else None)
    return config


def _look_at_gammas(plan: _Plan) -> None:
    for name, reader in plan.readers.items():
        if name.endswith(".gamma") and bool((reader().float() - GAMMA_AT_FIRST).abs().max() < GAMMA_AT_FIRST / 100):
            raise CheckpointError(
                f"{name} is untrained: older releases of transformers lose it on loading.",
                "Also give Meta's .pt file of SAM 2 (--sam2), which contains it.",
            )


def _read_config(llava: Path, clip: str | Path | None) -> LlavaConfig:
    def read(folder: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} has no usable config.json: {error}", "Copy the whole folder.") from error
        return content

    return llava_config(read(llava), read(Path(clip)) if clip is not None else None)


def _tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The folder's tokenizer with TrajSeg's tokens, and those of them that were missing, in the order of their ids."""
    packed = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if packed and find_spec("sentencepiece") is None:
        # transformers would ask for tiktoken, which cannot read this file.
        raise CheckpointError(
            f"{folder}/tokenizer.model needs the package sentencepiece, which is not installed.",
            'Install the model\'s packages: pip install "trajseg[model]".',
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {error}", "Copy the whole folder.") from error
    known = tokenizer.get_vocab()
    tokens = [token for token in (SEG_TOKEN, *SPECIAL_TOKENS) if token not in known]
    tokenizer.add_tokens([SEG_TOKEN])
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    return tokenizer, tokens


def _lengthen(plan: _Plan, name: str, rows: int, seed: int) -> None:
    """Rows for new tokens: the mean of the others, plus noise to distinguish them."""
    reader, (before, width) = plan.readers[name], plan.shapes[name]

    def lengthened() -> Tensor:
        table = reader().float()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(rows - before, width, generator=generator) * 0.1 * table.std()
        return torch.cat([table, table.mean(0) + noise])

    plan.add(name, (rows, width), lengthened)


def _add_fresh(plan: _Plan, model: TrajSegModel, seed: int) -> list[str]:
    """Initialises those of our own parts that are missing from the sources."""
    fresh = []
    for part in OURS:
        module = getattr(model, part)
        if any(name.startswith(f"{part}.") for name in plan.shapes):
            continue
        fresh.append(part)
        for name, tensor in module.state_dict().items():
            plan.add(f"{part}.{name}", tuple(tensor.shape), lambda part=part, name=name: initial(part)[name])  # type: ignore[misc]

    held: dict[str, dict[str, Tensor]] = {}

    def initial(part: str) -> dict[str, Tensor]:
        # One part is in memory at a time: the trajectory encoder alone has 300 M parameters.
        if part not in held:
            held.clear()
            held[part] = _initialised(copy.deepcopy(getattr(model, part)), seed).state_dict()
        return held[part]

    return fresh


def _initialised(module: nn.Module, seed: int) -> nn.Module:
    """Allocates a module from the meta device, with the random numbers of its layers' constructors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = module.to_empty(device="cpu")
        for parameter in module.parameters():
            nn.init.constant_(parameter, float("nan"))
        for layer in reversed(list(module.modules())):
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if reset is not None:
                reset()
    left = [name for name, parameter in module.named_parameters() if bool(parameter.isnan().any())]
    assert not left, f"nothing initialises {left}"
    return module


def _tensors(plan: _Plan, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, reader in plan.readers.items():
        tensor = reader()
        # SAM 2's random frequencies are a buffer and keep their precision, as in `weights.fill`.
        keep = not tensor.is_floating_point() or name.endswith("gaussian_matrix")
        yield name, tensor if keep else tensor.to(dtype)


def _without(shapes: dict[str, Shape], prefix: str) -> dict[str, Shape]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _processor(
    tokenizer: PreTrainedTokenizerBase, llava: LlavaConfig, mask_size: int, released: bool
) -> TrajSegProcessor:
    return TrajSegProcessor(
        tokenizer,
        llm_size=llava.vision_config.image_size,  # type: ignore[union-attr]
        mask_size=mask_size,
        llm_mean=OPENAI_CLIP_MEAN,
        llm_std=OPENAI_CLIP_STD,
        centre_crop=released,
        turns=LLAVA_TURNS,
    )
