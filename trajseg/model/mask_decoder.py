"""The unified mask decoder: one SAM 2 decoder draws every frame, from prompts on key frames and from memory on others.

Shapes: R rows (one object of a clip each), C channels of SAM 2 (256 at full size), h = w = image size / 16.
Frame rules (paper, unified mask decoder): a key frame is decoded from its own prompt without reading memory and
writes a conditioning memory; any other frame has no prompt, reads the memories of all earlier key frames and
of the last six other frames, and writes an ordinary memory. Ours differs from the released code on frame 0,
which gets the no-memory embedding and writes its memory like every other key frame.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TypedDict

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional as F

from trajseg.model.recomputing import worked

NO_OBJECT_LOGIT = -1024.0


@dataclass(frozen=True)
class FrameFeatures:
    """SAM 2's features of n pictures: top (n, C, h, w), s0 (n, C/8, 4h, 4w), s1 (n, C/4, 2h, 2w)."""

    top: Tensor
    s0: Tensor
    s1: Tensor

    def __getitem__(self, index: Tensor | slice) -> FrameFeatures:
        return FrameFeatures(self.top[index], self.s0[index], self.s1[index])

    @property
    def nbytes(self) -> int:
        """Their memory in bytes."""
        return self.top.nbytes + self.s0.nbytes + self.s1.nbytes

    def cells(self) -> Tensor:
        """The top level as a sequence, (n, h*w, C)."""
        return self.top.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class DecodedMask:
    """The decoder's output for R objects on one frame.

    logits (R, 4h, 4w) before the object gate; score (R,) logit that the object is in the picture;
    pointer (R, C) for later frames.
    """

    logits: Tensor
    score: Tensor
    pointer: Tensor

    def gated(self) -> Tensor:
        """Mask logits with absent objects emptied, (R, 4h, 4w), for inference and memory."""
        return torch.where(self.score[:, None, None] > 0, self.logits, NO_OBJECT_LOGIT)


def encode_frames(sam2: SAM2Base, pixels: Tensor) -> FrameFeatures:
    """Features of normalised, letterboxed pictures (n, 3, S, S)."""
    dtype = sam2.no_mem_embed.dtype
    s0, s1, top = sam2.image_encoder(pixels.to(dtype))["backbone_fpn"]
    decoder = sam2.sam_mask_decoder
    # SAM 2's neck adds its levels in float32.
    return FrameFeatures(top.to(dtype), decoder.conv_s0(s0), decoder.conv_s1(s1))


class FrameMemory(TypedDict):
    """The memory of R objects on one frame, with SAM 2's key names.

    maskmem_features: (R, M, S/16, S/16). maskmem_pos_enc: their position encoding, in a list of one.
    obj_ptr: (R, C), the object pointers.
    """

    maskmem_features: Tensor
    maskmem_pos_enc: list[Tensor]
    obj_ptr: Tensor


class Tracker:
    """Draws R objects frame by frame, forwards or backwards in time, and keeps their memories.

    Args:
        sam2: the SAM 2 whose decoder and memory are used.
        frame_count: frames of the clip; limits how many object pointers are read.
        key_frame_memory: let key frames read memory as well (ours, off in the paper's model).
        backwards: frames come in decreasing order.
        recompute: in training, recompute each step in the backward pass.
        start_score: hysteresis: the object score above which memory treats an object as present if it was absent on the
            previous frame; if it was present, 0 is enough (ours; always 0 in SAM 2).
        several: on a frame without prompt draw three masks, and use the one with the highest predicted IoU, as SAM 2
            does by default; the paper's model always draws one.
    """

    def __init__(
        self,
        sam2: SAM2Base,
        frame_count: int,
        key_frame_memory: bool = False,
        backwards: bool = False,
        recompute: bool = False,
        start_score: float = 0.0,
        several: bool = False,
    ) -> None:
        self.sam2 = sam2
        self.frame_count = frame_count
        self.key_frame_memory = key_frame_memory
        self.backwards = backwards
        self.recompute = recompute
        self.start_score = start_score
        self.several = several
        self._there: Tensor | None = None
        self.key_memories: dict[int, FrameMemory] = {}
        self.other_memories: dict[int, FrameMemory] = {}

    def step(
        self,
        index: int,
        frame: FrameFeatures,
        prompt: Tensor | None,
        present: Tensor | None = None,
        remember: bool = True,
        key: bool | None = None,
    ) -> DecodedMask:
        """Decodes frame `index` (0-based; indices only increase, or only decrease when going backwards).

        Args:
            frame: features, one picture per row (R pictures; the same one repeated for objects of one clip).
            prompt: the frame's prompts (R, C); None to draw from memory alone.
            present: in training, the true object gate (R,) bool, for memory.
            remember: False if no later frame will read this one.
            key: whether it is a key frame; default: if there is a prompt.
        """
        if key is None:
            key = prompt is not None
        # With copies, so that recomputation reads the same memories.
        work = self._now()._step if self.recompute else self._step
        decoded, memory = worked(work, index, frame, prompt, present, remember, key, again=self.recompute)
        self._there = self._believed(decoded.score, present)
        if memory is None:
            return decoded
        self._keep(index, memory, key)
        return decoded

    @property
    def reach(self) -> int:
        """The memory of an ordinary frame is read by fewer than this many following frames."""
        return max(self.sam2.num_maskmem, self.sam2.max_obj_ptrs_in_encoder)

    def recall(self, index: int, frame: FrameFeatures, masks: Tensor, scores: Tensor, key: bool) -> None:
        """Stores the memory of frame `index` from the masks of an earlier run, instead of `step`.

        The memory comes from the masks, as in `paint`, and so differs slightly from one made from logits.

        Args:
            frame: features, one picture per row.
            masks: (R, S, S) float32 of 0 and 1, letterboxed like the pictures.
            scores: object scores (R,) of the earlier run.
            key: whether it is a key frame.
        """
        self._keep(index, self._painted(frame, masks, self.believe(scores)), key)

    def believe(self, scores: Tensor) -> Tensor:
        """Whether memory treats the objects with scores (R,) as present, (R,) bool; stored for later frames."""
        self._there = self._believed(scores, None)
        return self._there

    def _keep(self, index: int, memory: FrameMemory, key: bool) -> None:
        (self.key_memories if key else self.other_memories)[index] = memory
        self.other_memories.pop(index + self.reach if self.backwards else index - self.reach, None)

    def draw_first(self, frame: FrameFeatures, prompt: Tensor) -> DecodedMask:
        """Draws frame 0 as in the authors' code: without the no-memory embedding, and without storing a memory.

        Call `paint` with the resulting mask to store one. Prompts are (R, C).
        """
        return self.draw(frame.top, frame, prompt[:, None], self._no_prompt(frame.top)[1])

    def paint(self, index: int, frame: FrameFeatures, masks: Tensor) -> None:
        """Stores the memory of frame `index` from given masks, as a key frame.

        As for the first frame in the paper's code: the memory comes from the mask itself (logits of +-10, at the
        decoder's resolution), the pointer from the decoder with the mask as a dense prompt.

        Args:
            frame: features, one picture per row.
            masks: (R, S, S) float32, 1 inside and 0 outside, letterboxed like the pictures; all 0 for an object that is
                not in the picture.
        """
        self.key_memories[index] = self._painted(frame, masks, masks.amax((1, 2)) > 0)

    def _painted(self, frame: FrameFeatures, masks: Tensor, present: Tensor) -> FrameMemory:
        """The memory of a frame from given masks (R, S, S); `present` (R,) bool is the object gate."""
        sam2 = self.sam2
        sparse, _ = self._no_prompt(frame.top)
        dense = sam2.sam_prompt_encoder.mask_downscaling(sam2.mask_downsample(masks[:, None].to(frame.top.dtype)))
        drawn = self.draw(frame.top, frame, sparse, dense, present)
        logits = F.interpolate(
            20 * masks[:, None] - 10, drawn.logits.shape[-2:], mode="bilinear", antialias=True, align_corners=False
        )[:, 0]
        given = DecodedMask(logits, drawn.score, drawn.pointer)
        return self._remember(frame, given, present)

    def forget(self, keys_kept: int, index: int | None = None) -> None:
        """Keeps the first and the latest key frames' memories, `keys_kept` (1 or more) in total.

        Args:
            keys_kept: limits memory for many key frames.
            index: also forget this frame, if it is not a key frame.
        """
        painted = list(self.key_memories)
        for key in painted[1 : max(1, len(painted) - keys_kept + 1)]:
            del self.key_memories[key]
        if index is not None:
            self.other_memories.pop(index, None)

    def remembering(self, index: int, frame: FrameFeatures, reads: bool = True) -> Tensor:
        """The top level (R, C, h, w) of frame `index`, conditioned on memory or with the no-memory embedding.

        Args:
            reads: whether to read memory, if there is any.
        """
        if reads and self.key_memories:
            return self._read(index, frame)
        return frame.top + self.sam2.no_mem_embed.view(1, -1, 1, 1)

    def draw(
        self,
        top: Tensor,
        frame: FrameFeatures,
        sparse: Tensor,
        dense: Tensor,
        present: Tensor | None = None,
        several: bool = False,
    ) -> DecodedMask:
        """One pass of SAM 2's decoder.

        Args:
            top: from `remembering`.
            frame: the same frame's features, for the finer levels.
            sparse, dense: embeddings of prompts, (R, P, C) and (R, C, h, w).
            present: the true object gate (R,) bool, if known.
            several: draw three masks, and return the one with the highest predicted IoU.
        """
        sam2 = self.sam2
        logits, ious, tokens, score = sam2.sam_mask_decoder(
            image_embeddings=top,
            image_pe=sam2.sam_prompt_encoder.get_dense_pe().to(top.dtype),
            sparse_prompt_embeddings=sparse.to(top.dtype),
            dense_prompt_embeddings=dense.to(top.dtype),
            multimask_output=several,
            repeat_image=False,
            high_res_features=[frame.s0, frame.s1],
        )
        rows, best = torch.arange(len(top), device=top.device), ious.argmax(1)
        seen = self._believed(score[:, 0], present)
        pointer = torch.where(seen[:, None], sam2.obj_ptr_proj(tokens[rows, best]), sam2.no_obj_ptr)
        return DecodedMask(logits[rows, best], score[:, 0], pointer)

    def _now(self) -> Tracker:
        """A tracker with a copy of the current memory."""
        other = copy(self)
        other.key_memories, other.other_memories = dict(self.key_memories), dict(self.other_memories)
        return other

    def _step(
        self, index: int, frame: FrameFeatures, prompt: Tensor | None, present: Tensor | None, remember: bool, key: bool
    ) -> tuple[DecodedMask, FrameMemory | None]:
        """The output of `step`, and its memory if requested."""
        top = self.remembering(index, frame, self.key_frame_memory or not key)
        sparse, dense = self._no_prompt(top)
        several = self.several and prompt is None
        decoded = self.draw(top, frame, sparse if prompt is None else prompt[:, None], dense, present, several)
        return decoded, self._remember(frame, decoded, self._believed(decoded.score, present)) if remember else None

    def _believed(self, score: Tensor, present: Tensor | None) -> Tensor:
        """Whether objects with these object scores (R,) are present: (R,) bool; the ground truth if known."""
        if present is not None:
            return present
        if self._there is None:
            return score > self.start_score
        return score > torch.where(self._there, 0.0, self.start_score)

    def _no_prompt(self, top: Tensor) -> tuple[Tensor, Tensor]:
        """Sparse (R, 2, C) and dense (R, C, h, w) embeddings of an empty prompt."""
        empty = torch.zeros(len(top), 1, 2, device=top.device)
        labels = -torch.ones(len(top), 1, dtype=torch.int32, device=top.device)
        sparse, dense = self.sam2.sam_prompt_encoder(points=(empty, labels), boxes=None, masks=None)
        return sparse, dense

    def _read(self, index: int, frame: FrameFeatures) -> Tensor:
        flat = frame.top.flatten(2).permute(2, 0, 1)
        position = self.sam2.image_encoder.neck.position_encoding(frame.top).to(frame.top.dtype)
        return self.sam2._prepare_memory_conditioned_features(
            frame_idx=index,
            is_init_cond_frame=False,
            current_vision_feats=[flat],
            current_vision_pos_embeds=[position.flatten(2).permute(2, 0, 1)],
            feat_sizes=[frame.top.shape[-2:]],
            output_dict={
                "cond_frame_outputs": self.key_memories,
                "non_cond_frame_outputs": self.other_memories,
            },
            num_frames=self.frame_count,
            track_in_reverse=self.backwards,
        )

    def _remember(self, frame: FrameFeatures, decoded: DecodedMask, present: Tensor) -> FrameMemory:
        score = present.to(decoded.score.dtype) - 0.5
        logits = torch.where(score[:, None, None] > 0, decoded.logits, NO_OBJECT_LOGIT)
        size = (self.sam2.image_size, self.sam2.image_size)
        features, position = self.sam2._encode_new_memory(
            current_vision_feats=[frame.top.flatten(2).permute(2, 0, 1)],
            feat_sizes=[frame.top.shape[-2:]],
            pred_masks_high_res=F.interpolate(logits[:, None].float(), size, mode="bilinear").to(frame.top.dtype),
            object_score_logits=score[:, None],
            is_mask_from_pts=False,
        )
        return {"maskmem_features": features, "maskmem_pos_enc": position, "obj_ptr": decoded.pointer}
