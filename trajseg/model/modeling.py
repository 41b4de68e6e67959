"""TrajSeg: LLaVA reads the clip and the instruction; each [SEG] it writes prompts SAM 2 on the key frames.

Shapes: N frames that the language model sees, P patch tokens per frame, V width of the vision tower, D width of
the language model, S objects in an answer, C channels of SAM 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedModel

from trajseg.errors import CheckpointError
from trajseg.model import qwen
from trajseg.model.cache_memory import in_batches
from trajseg.model.config import TrajectoryEncoderShape, TrajSegConfig
from trajseg.model.content_integration import ContentIntegration
from trajseg.model.conv import ConvStem
from trajseg.model.marks import MarkReader
from trajseg.model.mask_decoder import FrameFeatures, encode_frames
from trajseg.model.quantization import make_four_bit
from trajseg.model.sam2 import build_sam2
from trajseg.model.trajectory_encoder import TrajectoryEncoder
from trajseg.model.weights import FOLDER_FILES, Weights, empty_weights, fill, save_tensors

OBJECT_THRESHOLD = 0.3
"""Minimum objectness of a patch token to count as an object's centre."""

LIKELIHOODS_AT_ONCE = 8
"""Number of texts whose likelihood is computed as a batch."""


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of N frames: embeddings (M, D), and the frame (M,) and cell (M,) of each.

    In time order, and in raster order within a frame.
    """

    embeddings: Tensor
    frame: Tensor
    cell: Tensor


@dataclass(frozen=True)
class Answer:
    """Generated token ids (without the end token) and the trajectory tokens (S, C), one per [SEG]."""

    ids: list[int]
    trajectories: Tensor


class TrajSegModel(PreTrainedModel):
    """The whole model; its parts have the parameter names of published checkpoints (see docs/model.md)."""

    config_class = TrajSegConfig
    base_model_prefix = ""

    def __init__(self, config: TrajSegConfig) -> None:
        super().__init__(config)
        text, vision = config.llava_config.text_config, config.llava_config.vision_config
        channels = config.sam2_config.d_model
        if not self.is_llava and (config.vision_stem, config.object_tokens, config.trajectory_encoder) != (
            "patch",
            0,
            None,
        ):
            raise CheckpointError(
                f"{config.llava_config.model_type} has its own vision tower, which does not support vision_stem, "
                "object_tokens and trajectory_encoder.",
                "Leave these three out.",
            )
        self.llava = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config.llava_config)](config.llava_config)  # type: ignore[operator]
        if getattr(config.llava_config, "mm_projector_type", None) == "linear":
            self.llava.model.multi_modal_projector = nn.Linear(vision.hidden_size, text.hidden_size)
        if config.vision_stem == "conv":
            kwargs = config.sam2_config.trunk_kwargs
            stem = ConvStem(kwargs["widths"][:4], kwargs["blocks"][:4], vision.hidden_size)
            self.vision_tower.embeddings.patch_embedding = stem
        if config.object_tokens:
            self.objectness = nn.Linear(vision.hidden_size, 1)
        if config.frame_embedding:
            self.frame_embedding = nn.Embedding(config.llm_frames, text.hidden_size)
            nn.init.normal_(self.frame_embedding.weight, std=0.3)
        self.text_hidden_fcs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(text.hidden_size, text.hidden_size),
                    nn.ReLU(),
                    nn.Linear(text.hidden_size, channels),
                )
            ]
        )
        self.fusion_layers = ContentIntegration(channels, config.integration_layers, config.integration_heads)
        self.visual_model = build_sam2(config.sam2_config)
        if config.trajectory_encoder is not None:
            shape = TrajectoryEncoderShape(**config.trajectory_encoder)
            self.spi_module = TrajectoryEncoder(shape, vision.hidden_size, text.hidden_size)
        if config.mark_reader:
            self.mark_reader = MarkReader(channels)

    def _init_weights(self, module: nn.Module) -> None:
        """The parts initialise themselves."""

    @classmethod
    def skeleton(cls, config: TrajSegConfig) -> TrajSegModel:
        """The model on the meta device: all names and shapes, no memory. `weights.fill` loads its weights."""
        with empty_weights():
            return cls(config)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        four_bit: bool = False,
        **_: Any,
    ) -> TrajSegModel:
        """Loads a checkpoint folder strictly, tensor by tensor, in evaluation mode.

        Args:
            folder: config.json and model.safetensors (or its index and shards).
            dtype: of the parameters: torch.float32, bfloat16 or float16, regardless of the file; default: that of
                config.json, or float32.
            device: of the parameters.
            four_bit: store the language model's layers in 4 bits, frozen (needs bitsandbytes).

        Raises:
            CheckpointError: a file is missing, or names or shapes differ.
            TrajSegError: 4 bits are requested and bitsandbytes is not installed.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in FOLDER_FILES[:2]):
            raise CheckpointError(
                f"{folder} is not a TrajSeg checkpoint: config.json or model.safetensors is missing.",
                "Name a folder that `trajseg train`, `trajseg model assemble` or save_pretrained wrote.",
            )
        config = TrajSegConfig.from_pretrained(folder)
        model, precision = cls.skeleton(config), dtype or config.dtype or torch.float32
        assert isinstance(precision, torch.dtype)
        if four_bit:
            make_four_bit(model, precision)
        fill(model, Weights(folder), precision, device)
        return model.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, **_: Any) -> None:  # type: ignore[override]
        """Writes config.json and model.safetensors under this module's own parameter names.

        (transformers would rename LLaVA's parameters to those of its older releases.)

        Args:
            dtype: of the file; default: the parameters' own. Loading returns float32 by default.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        weights = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in self.state_dict().items()}
        save_tensors(weights, Path(folder) / "model.safetensors")

    @property
    def is_llava(self) -> bool:
        """Whether pictures go through CLIP and a projector; otherwise through the family's own tower (`qwen.py`)."""
        return self.config.llava_config.model_type not in qwen.MODEL_TYPES

    @property
    def vision_tower(self) -> Any:
        """transformers' CLIP."""
        return self.llava.model.vision_tower

    @property
    def language_model(self) -> Any:
        """transformers' Llama, without its head."""
        return self.llava.model.language_model

    def embed_words(self, ids: Tensor) -> Tensor:
        """Token ids (..., L) -> embeddings (..., L, D)."""
        return self.language_model.embed_tokens(ids)

    def vision_states(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """All hidden states of the vision tower for pictures (N, 3, s, s), (N, 1 + P, V) each, CLS first.

        For other families than LLaVA: only the visual tokens (N, P, D).
        """
        if not self.is_llava:
            return (qwen.visual_tokens(self.llava.model, pixels),)
        return self.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Pictures (N, 3, s, s) -> the vision tower's patch tokens without CLS (N, P, V)."""
        return self.features(self.vision_states(pixels))

    def features(self, states: Sequence[Tensor]) -> Tensor:
        """The projector's input from the vision tower's hidden states (N, 1 + P, V) each: without CLS, (N, P, V)."""
        return states[self.config.llava_config.vision_feature_layer][:, 1:]

    def visual_tokens(self, features: Tensor) -> VisualTokens:
        """Patch tokens (N, P, V) -> projected tokens, without the frame embedding.

        With `object_tokens`, only those at objects' centres.
        """
        frames, patches, _ = features.shape
        keep = torch.ones(frames, patches, dtype=torch.bool, device=features.device)
        if self.config.object_tokens:
            keep = object_centres(self.objectness(features)[..., 0], self.config.object_tokens)
        frame, cell = keep.nonzero(as_tuple=True)
        return VisualTokens(self.llava.model.multi_modal_projector(features[frame, cell]), frame, cell)

    def see(self, hidden_states: Sequence[Tensor], numbers: Tensor | None = None) -> VisualTokens:
        """The visual tokens of N frames, from the output of `vision_states`.

        `numbers` (N,) select the frame embeddings; default: 0, 1, 2, ...
        """
        if self.is_llava:
            tokens = self.visual_tokens(self.features(hidden_states))
        else:
            frame, cell = torch.ones_like(hidden_states[0][..., 0], dtype=torch.bool).nonzero(as_tuple=True)
            tokens = VisualTokens(hidden_states[0].flatten(0, 1), frame, cell)
        frame = tokens.frame if numbers is None else numbers[tokens.frame]
        return replace(tokens, embeddings=self.at_frames(tokens.embeddings, frame))

    def at_frames(self, embeddings: Tensor, frame: Tensor) -> Tensor:
        """Embeddings (..., M, D) of tokens in frames (M,), plus the frame embedding if the model has one."""
        return embeddings + self.frame_embedding(frame) if self.config.frame_embedding else embeddings

    def trajectory_embeddings(self, hidden_states: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Trajectories of one clip -> embeddings for the language model, without the frame embedding.

        Args:
            hidden_states: all hidden states of the vision tower for the N frames, (N, 1 + P, V) each.
            boxes: of K trajectories (K, N, 4), or of one (N, 4): xyxy in units of the letterboxed side, zero if the
                object is absent.

        Returns:
            one embedding per frame, (K, N, D) or (N, D).

        Raises:
            CheckpointError: the checkpoint has no trajectory encoder.
        """
        self.require_trajectory_encoder()
        pyramid = self.spi_module.pyramid([hidden_states[level][:, 1:] for level in self.spi_module.shape.levels])
        tokens = self.spi_module(pyramid, boxes.view(-1, *boxes.shape[-2:]))
        return tokens.view(*boxes.shape[:-1], -1)

    def require_trajectory_encoder(self) -> None:
        """Raises CheckpointError if the checkpoint has no trajectory encoder, and so cannot caption."""
        if self.config.trajectory_encoder is None:
            raise CheckpointError(
                f"{self.config.model_name} cannot describe a trajectory: it was made without a trajectory encoder.",
                "Use a checkpoint whose config.json has `trajectory_encoder`, or train one.",
            )

    def trajectory_tokens(self, hidden: Tensor) -> Tensor:
        """Hidden states that predict [SEG] (S, D) -> trajectory tokens (S, C)."""
        return self.text_hidden_fcs[0](hidden)

    def prompts(self, trajectories: Tensor, frames: FrameFeatures) -> Tensor:
        """Trajectory tokens (S, C) and the features of N frames -> prompts (S, N, C)."""
        objects, cells = len(trajectories), frames.cells()
        tokens = trajectories.repeat_interleave(len(cells), dim=0)
        prompts, _ = self.fusion_layers(tokens, cells.repeat(objects, 1, 1))
        return prompts.unflatten(0, (objects, len(cells)))

    def encode_frames(self, pixels: Tensor) -> FrameFeatures:
        """SAM 2's features of pictures (n, 3, S, S)."""
        return encode_frames(self.visual_model, pixels)

    @torch.inference_mode()
    def answers(self, prompts: Tensor, end_id: int) -> list[Answer]:
        """Greedy decoding of a batch of prompts of the same length, with a key-value cache.

        Args:
            prompts: embeddings of the whole prompts (K, L, D).
            end_id: the token that ends an answer.
        """
        ids: list[list[int]] = [[] for _ in prompts]
        states: list[list[Tensor]] = [[] for _ in prompts]
        going = set(range(len(prompts)))
        inputs, cache = prompts, None
        for _ in range(self.config.max_new_tokens):
            output = self.language_model(inputs_embeds=inputs, cache=cache, use_cache=True)
            cache, hidden = output.cache, output.last_hidden_state[:, -1]
            tokens = self.llava.lm_head(hidden).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if token == end_id:
                    going.discard(row)
                elif row in going:
                    ids[row].append(token)
                    if token == self.config.seg_token_id:
                        states[row].append(hidden[row])
            if not going:
                break
            inputs = self.embed_words(tokens[:, None])
        none = prompts.new_zeros(0, prompts.shape[-1])
        return [
            Answer(row_ids, self.trajectory_tokens(torch.stack(row_states) if row_states else none))
            for row_ids, row_states in zip(ids, states, strict=True)
        ]

    def answer(self, prompt: Tensor, end_id: int) -> Answer:
        """The answer to one prompt (L, D); see `answers`."""
        return self.answers(prompt[None], end_id)[0]

    @torch.inference_mode()
    def log_likelihoods(self, prompt: Tensor, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Natural log of each token's probability, for texts that follow a prompt (L, D): (len(text),) each.

        Without a key-value cache: the texts are read in batches of LIKELIHOODS_AT_ONCE, fewer if memory is short, each
        with the prompt.
        """

        def read(rows: Sequence[Sequence[int]]) -> list[Tensor]:
            # Padding follows the texts, so no token that counts attends to it.
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row, device=prompt.device) for row in rows], batch_first=True)
            inputs = torch.cat([prompt.expand(len(rows), -1, -1), self.embed_words(ids)], dim=1)
            hidden = self.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            spoken = self.llava.lm_head(hidden[:, len(prompt) - 1 : -1]).float().log_softmax(-1)
            each = spoken.gather(-1, ids[..., None])[..., 0]
            return [likelihoods[: len(row)] for likelihoods, row in zip(each, rows, strict=True)]

        return list(in_batches(texts, LIKELIHOODS_AT_ONCE, read))


def object_centres(logits: Tensor, most: int) -> Tensor:
    """Cells at objects' centres: local maxima of objectness (N, P) over 0.3, at most `most` per frame.

    Returns bool (N, P). The best cell of each frame is always kept, so that every frame has a token.
    """
    frames, patches = logits.shape
    side = round(patches**0.5)
    score = logits.sigmoid()
    peak = F.max_pool2d(score.view(frames, 1, side, side), 3, stride=1, padding=1).view(frames, patches)
    score = torch.where(score >= peak, score, 0.0)
    floor = score.topk(min(most, patches), dim=1).values[:, -1:].clamp(min=OBJECT_THRESHOLD)
    return (score >= floor) | (score == score.max(dim=1, keepdim=True).values)
