"""The cost of a model: parameters, memory and floating-point operations of each part, counted on the meta device.

Nothing is computed and no weights are needed: torch's own counter counts operations from the shapes alone (a
multiply-add is two operations; attention counts in full, even where a causal mask hides half of it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trajseg.model.config import TrajSegConfig
from trajseg.model.modeling import TrajSegModel
from trajseg.model.quantization import BITS_PER_WEIGHT
from trajseg.video.spacing import sampled_frames

TEXT_TOKENS = 60
"""Tokens of the instruction and its surroundings in the counted clip."""
ANSWER_TOKENS = 20


@dataclass(frozen=True)
class Part:
    """A part of the model.

    `four_bit` is the number of its parameters packed by 4-bit loading. `flops` are for segmenting one object in one
    clip; for the trajectory encoder, for captioning one.
    """

    name: str
    parameters: int
    four_bit: int
    flops: int

    def bytes(self, bits: float) -> float:
        """Memory of the weights with `bits` bits each; with 4 bits, unpacked ones have 16."""
        if bits >= 16:
            return self.parameters * bits / 8
        return (self.four_bit * BITS_PER_WEIGHT + (self.parameters - self.four_bit) * 16) / 8


@dataclass(frozen=True)
class Cost:
    """A model's parts, and the counted setting: frames of the clip, frames and positions the language model reads."""

    name: str
    parts: list[Part]
    frames: int
    llm_frames: int
    positions: int
    cache_bytes: int

    @property
    def total(self) -> Part:
        """All parts together; the operations are for segmenting, without the trajectory encoder's."""
        return Part(
            "all",
            sum(part.parameters for part in self.parts),
            sum(part.four_bit for part in self.parts),
            sum(part.flops for part in self.parts if part.name != TRAJECTORY_ENCODER),
        )


TRAJECTORY_ENCODER = "trajectory encoder"


def cost(config: TrajSegConfig, frames: int = 60) -> Cost:
    """Counts a model of this configuration, segmenting one object in a clip of `frames` frames."""
    model = TrajSegModel.skeleton(config).to("meta").eval()  # type: ignore[arg-type]
    text, vision = config.llava_config.text_config, config.llava_config.vision_config
    sam2: Any = model.visual_model
    width, side = text.hidden_size, config.sam2_config.image_size
    sampled = sampled_frames(frames, config.llm_frames)
    keys = sorted({0, *sampled})
    patches = (vision.image_size // vision.patch_size) ** 2
    seen = len(sampled) * (config.object_tokens or patches)
    positions = seen + 2 * len(sampled) + TEXT_TOKENS

    def of(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    prompt, cache = _language_flops(model, of(1, positions, width))
    grid = side // config.sam2_config.stride
    top = of(1, sam2.hidden_dim, grid, grid)
    s0, s1 = of(1, sam2.hidden_dim // 8, 4 * grid, 4 * grid), of(1, sam2.hidden_dim // 4, 2 * grid, 2 * grid)
    states = _count(lambda: model.vision_states(of(1, 3, vision.image_size, vision.image_size)))
    head = model.llava.lm_head
    packed = sum(p.numel() for n, p in model.language_model.layers.named_parameters() if n.endswith("proj.weight"))
    extra = [getattr(model, name) for name in ("objectness", "frame_embedding") if hasattr(model, name)]
    parts = [
        _part("vision tower", [model.vision_tower], len(sampled) * states),
        _part(
            "projector",
            [model.llava.model.multi_modal_projector, *extra],
            _count(lambda: model.llava.model.multi_modal_projector(of(seen, vision.hidden_size))),
        ),
        _part("language model", [model.language_model], prompt, packed),
        _part("its head", [head], (1 + ANSWER_TOKENS) * _count(lambda: head(of(1, width)))),
        _part("trajectory head", [model.text_hidden_fcs], _count(lambda: model.trajectory_tokens(of(1, width)))),
        _part(
            "content integration",
            [model.fusion_layers],
            _count(
                lambda: model.fusion_layers(of(len(keys), sam2.hidden_dim), of(len(keys), grid**2, sam2.hidden_dim))
            ),
        ),
        _part(
            "SAM 2 image encoder",
            [sam2.image_encoder],
            frames * _count(lambda: sam2.image_encoder(of(1, 3, side, side))),
        ),
        _part("SAM 2 memory attention", [sam2.memory_attention], _reading_flops(model, frames, keys, grid)),
        _part(
            "SAM 2 memory encoder",
            [sam2.memory_encoder],
            frames * _count(lambda: sam2.memory_encoder(top, of(1, 1, side, side), skip_mask_sigmoid=True)),
        ),
    ]

    def draw() -> object:
        return sam2.sam_mask_decoder(
            image_embeddings=top,
            image_pe=sam2.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=of(1, 2, sam2.hidden_dim),
            dense_prompt_embeddings=top,
            multimask_output=False,
            repeat_image=False,
            high_res_features=[s0, s1],
        )

    named = sum(part.parameters for part in parts[-3:])
    rest = sum(parameter.numel() for parameter in sam2.parameters()) - named
    parts.append(Part("SAM 2 mask decoder, and the rest", rest, 0, frames * _count(draw)))
    if config.trajectory_encoder is not None:
        levels = [of(len(sampled), 1 + patches, vision.hidden_size) for _ in range(1 + vision.num_hidden_layers)]
        described = _count(lambda: model.trajectory_embeddings(levels, of(1, len(sampled), 4)))
        parts.append(_part(TRAJECTORY_ENCODER, [model.spi_module], described))
    return Cost(config.model_name, parts, frames, len(sampled), positions, cache)


def _language_flops(model: TrajSegModel, prompt: Tensor) -> tuple[int, int]:
    """Operations for reading a prompt and writing the answer; bytes of its keys and values in 16 bits."""
    language = model.language_model
    kept: list[Any] = []
    reading = _count(lambda: kept.append(language(inputs_embeds=prompt, use_cache=True).cache))
    writing = _count(lambda: language(inputs_embeds=prompt[:, :1], cache=kept[0], use_cache=True))
    text = model.config.llava_config.text_config
    head = text.hidden_size // text.num_attention_heads
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head * (prompt.shape[1] + ANSWER_TOKENS)
    return reading + ANSWER_TOKENS * writing, 2 * cached


def _reading_flops(model: TrajSegModel, frames: int, keys: list[int], grid: int) -> int:
    """Operations of memory attention over a clip: a fixed part per frame, plus one per token of memory."""
    sam2: Any = model.visual_model
    dim, memory = sam2.hidden_dim, sam2.mem_dim

    def read(pictures: int) -> int:
        length = pictures * grid**2
        current, position = (torch.empty(grid**2, 1, dim, device="meta") for _ in range(2))
        stored, place = (torch.empty(length, 1, memory, device="meta") for _ in range(2))
        return _count(lambda: sam2.memory_attention([current], stored, [position], place, 0))

    one, two = read(1), read(2)
    total = 0
    for frame in sorted(set(range(frames)) - set(keys)):
        others = [index for index in range(frame) if index not in keys]
        earlier = sum(key < frame for key in keys)
        pictures = earlier + sum(frame - index < sam2.num_maskmem for index in others)
        pointers = earlier + sum(frame - index < min(frames, sam2.max_obj_ptrs_in_encoder) for index in others)
        stored = pictures + pointers * (dim // memory) / grid**2
        total += round(one + (stored - 1) * (two - one))
    return total


def _part(name: str, modules: list[nn.Module], flops: int, four_bit: int = 0) -> Part:
    return Part(name, sum(p.numel() for module in modules for p in module.parameters()), four_bit, flops)


def _count(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
