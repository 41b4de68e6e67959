"""Stage `masks`: content integration and the unified mask decoder learn to draw the object that a token names.

It replaces the pre-training of a full-size SAM 2. Here a trajectory token is the sum of three learned embeddings, of
the object's colour, shape and size; later the language side learns to predict these tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.model import TrajSegModel
from trajseg.model.mask_decoder import DecodedMask, Tracker, encode_frames
from trajseg.shapes.recipe.clips import Pictures
from trajseg.shapes.recipe.descriptions import decoys_of, of_objects
from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES
from trajseg.shapes.recipe.precision import quick

LOSS_SIDE = 128
"""Side in pixels at which masks are compared; the decoder's masks have 64."""


class TokenTable(nn.Module):
    """Trajectory tokens of objects by their attributes, (R, 3) int64 -> (R, C).

    named: (R, 3) bool, which of colour, shape and size the token includes; by default all.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in ATTRIBUTE_SIZES)

    def forward(self, attributes: Tensor, named: Tensor | None = None) -> Tensor:
        parts = torch.stack([table(attributes[:, i]) for i, table in enumerate(self.tables)], dim=1)
        if named is not None:
            parts = parts * named[..., None]
        return parts.sum(1) / 3**0.5


Role = Literal["key", "prompted", "carried"]
"""A prompted frame stored in memory as a key frame, another prompted frame, and a frame without a prompt."""


@dataclass(frozen=True)
class PromptRows:
    """The prompts of a batch of clips with n frames: all objects of all clips, then decoys, which are in no frame.

    clip (R,): each row's clip; attributes, named (R, 3): as in Descriptions;
    truth (R, n, side, side): coverage, as from object_planes; counts: objects per clip.
    """

    clip: Tensor
    attributes: Tensor
    named: Tensor
    truth: Tensor
    counts: list[int]

    @classmethod
    def of(cls, clips: list[Pictures], rng: random.Random, decoys: int) -> PromptRows:
        """All objects of `clips`, and at most `decoys` decoys per clip; `rng` chooses the descriptions."""
        asked = [of_objects(clip, rng) for clip in clips] + [decoys_of(clip, rng, decoys) for clip in clips]
        counts = [len(each) for each in asked]
        truth = torch.cat([object_planes(clip) for clip in clips])
        return cls(
            torch.arange(len(clips)).repeat(2).repeat_interleave(torch.tensor(counts)),
            torch.cat([each.attributes for each in asked]),
            torch.cat([each.named for each in asked]),
            torch.cat([truth, truth.new_zeros(sum(counts) - len(truth), *truth.shape[1:])]),
            counts[: len(clips)],
        )


class MaskTraining(nn.Module):
    """Trains the mask side on the paper's mask losses, plus a loss on content integration's attention."""

    def __init__(self, model: TrajSegModel) -> None:
        super().__init__()
        self.sam2 = model.visual_model
        self.key_frame_memory = model.config.key_frame_memory
        self.fusion_layers = model.fusion_layers
        self.tokens = TokenTable(model.config.sam2_config.d_model)
        self.coarse = nn.Linear(model.config.sam2_config.d_model, 1)
        self._cells: list[Tensor] = []
        self.sam2.sam_mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: self._cells.append(output[1])
        )

    def loss(
        self, clips: list[Pictures], roles: list[Role], rng: random.Random, decoys: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Mask losses over a batch of clips of F = len(roles) frames.

        If every frame has a prompt, memory uses the decoder's own object scores, as at inference, and the next prompt
        corrects a wrong mask. Otherwise memory gets the true presence of objects, because a frame without a prompt
        cannot recover from a wrong score.

        Args:
            roles: of the frames; the first is a key frame.
            rng: chooses descriptions and decoys.
            decoys: per clip, at most.
        """
        pixels = torch.cat([clip.pixels for clip in clips])
        with quick():
            features = encode_frames(self.sam2, pixels.contiguous(memory_format=torch.channels_last))
        rows = PromptRows.of(clips, rng, decoys)
        tokens = self.tokens(rows.attributes, rows.named)
        tracker = Tracker(self.sam2, len(roles), self.key_frame_memory)
        carried = "carried" in roles
        total = tokens.new_zeros(())
        figures: dict[str, list[float]] = {}
        for number, role in enumerate(roles):
            frame = features[rows.clip * len(roles) + number]
            target = rows.truth[:, number]
            present = target.amax((1, 2)) > 0.5
            prompt = None
            if role != "carried":
                prompt, attention = self.fusion_layers(tokens, frame.cells())
                guidance = guidance_loss(attention, target, present)
                total = total + 0.3 * guidance
                figures.setdefault("guidance", []).append(float(guidance.detach()))
            with quick():
                drawn = tracker.step(
                    number, frame, prompt, present if carried else None, number + 1 < len(roles), key=role == "key"
                )
            decoded = DecodedMask(drawn.logits.float(), drawn.score.float(), drawn.pointer)
            total = total + mask_loss(decoded, target, present) + self._coarse_loss(target, present)
            with torch.no_grad():
                drawn_well = mask_figures(decoded.logits, target, present, rows.counts)
            for name, value in (gate_figures(decoded.score, present) | drawn_well).items():
                figures.setdefault(f"{name}_{'memory' if role == 'carried' else 'key'}", []).append(value)
        return total / len(roles), {name: sum(values) / len(values) for name, values in figures.items()}

    def _coarse_loss(self, target: Tensor, present: Tensor) -> Tensor:
        """The decoder's cells must predict the object's position before they are upscaled.

        Otherwise a decoder trained from scratch paints every object, whatever the prompt, and never leaves that
        plateau.
        """
        cells = self.coarse(self._cells.pop())[..., 0]
        wanted = F.adaptive_avg_pool2d(target[:, None], round(cells.shape[1] ** 0.5)).flatten(1)
        error = F.binary_cross_entropy_with_logits(cells, wanted, reduction="none").mean(1)
        return 5 * (error * present).sum() / present.sum().clamp(min=1)


def object_planes(clip: Pictures) -> Tensor:
    """Coverage of each object at LOSS_SIDE pixels: (K, n, side, side) float32 in 0..1."""
    return F.avg_pool2d(clip.planes.transpose(0, 1), clip.ids.shape[-1] // LOSS_SIDE)


def mask_loss(decoded: DecodedMask, target: Tensor, present: Tensor) -> Tensor:
    """5 BCE + dice on ungated logits of present objects, + 0.5 BCE of the object score.

    target (R, side, side) coverage, present (R,) bool. These weights are for pre-training the mask side; the paper's
    joint weights are in trajseg.training.
    """
    logits = F.interpolate(decoded.logits[:, None], target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1e-6) / (p.sum((1, 2)) + target.sum((1, 2)) + 1e-6)
    here = present.float()
    masks = ((5 * bce + dice) * here).sum() / here.sum().clamp(min=1)
    return masks + 0.5 * F.binary_cross_entropy_with_logits(decoded.score, here)


def guidance_loss(attention: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """-log of the fraction of content integration's attention (R, heads, P) on the object, over present objects."""
    side = round(attention.shape[-1] ** 0.5)
    inside = F.adaptive_max_pool2d(target[:, None], side).flatten(1)
    share = (attention.mean(1) * inside).sum(1)
    return -(share.clamp(min=1e-4).log() * present).sum() / present.sum().clamp(min=1)


def mask_figures(logits: Tensor, target: Tensor, present: Tensor, counts: list[int]) -> dict[str, float]:
    """iou: mean with the truth; right: fraction of rows whose mask fits their own object best among the clip's;
    same: mean IoU between the masks of different objects on one frame (high if the prompt is ignored).

    counts: objects per clip; further rows (decoys) do not count."""
    logits, target, present = (rows[: sum(counts)] for rows in (logits, target, present))
    logits = F.interpolate(logits[:, None], target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    ious, right, same = [], [], []
    for mask, truth, here in zip(
        (logits > 0).split(counts), (target > 0.5).split(counts), present.split(counts), strict=True
    ):
        table = pairwise_iou(mask, truth)
        ious += table.diagonal()[here].tolist()
        right += (table.argmax(1) == torch.arange(len(mask)))[here].float().tolist()
        between = pairwise_iou(mask, mask)[here][:, here]
        same += between[~torch.eye(len(between), dtype=torch.bool)].tolist()
    return {
        name: sum(values) / max(1, len(values)) for name, values in (("iou", ious), ("right", right), ("same", same))
    }


def gate_figures(score: Tensor, present: Tensor) -> dict[str, float]:
    """seen: fraction of present rows with an object score (R,) above 0; denied: of absent rows, those without."""
    figures = {}
    for name, rows, right in (("seen", present, score > 0), ("denied", ~present, score <= 0)):
        if rows.any():
            figures[name] = float(right[rows].float().mean())
    return figures


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every mask in a (n, h, w) bool with every mask in b (m, h, w): (n, m)."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1)[None] - both).clamp(min=1)


def frame_roles(rng: random.Random, frames: int) -> list[Role]:
    """Roles of a training clip's frames: the first is a key frame; of the others most, half or none are carried.

    Half of the clips have no carried frames.
    """
    carried = rng.choice((0.9, 0.5, 0.0, 0.0))
    return ["key", *(_role(rng, carried) for _ in range(frames - 1))]


def _role(rng: random.Random, carried: float) -> Role:
    if rng.random() < carried:
        return "carried"
    return "key" if rng.random() < 0.5 else "prompted"
