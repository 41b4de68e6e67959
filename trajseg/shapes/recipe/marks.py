"""Stage `boxes`: the mask side learns to draw the object that a person marks with a box or a click.

Only the prompt encoder's embeddings of corners and clicks and the mark reader are trained. Nothing else uses them, so
masks from instructions and from memory do not change.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trajseg.model import TrajSegModel
from trajseg.model.marks import MarkReader, Marks, draw_marked
from trajseg.model.mask_decoder import Tracker, encode_frames
from trajseg.shapes.recipe.clips import Pictures
from trajseg.shapes.recipe.masks import mask_figures, mask_loss, object_planes
from trajseg.shapes.recipe.vision import visible_boxes

JITTER = 0.04
"""Error of a person's box: standard deviation of each side, as a fraction of the box's width or height."""
CLICKS = 1 / 3
"""Probability that an object is marked with a click."""


@dataclass(frozen=True)
class Frozen:
    """Frozen modules that the stage reads; not an nn.Module, so that their parameters are not trained."""

    model: TrajSegModel


class BoxTraining(nn.Module):
    """Corner and click embeddings and the mark reader of a model; adds a mark reader if there is none."""

    def __init__(self, model: TrajSegModel) -> None:
        super().__init__()
        if not model.config.mark_reader:
            model.mark_reader = MarkReader(model.config.sam2_config.d_model)
        model.config.mark_reader = model.config.prompted_by_boxes = True
        model.visual_model.requires_grad_(False)
        self.frozen = Frozen(model)
        self.points = model.visual_model.sam_prompt_encoder.point_embeddings.requires_grad_(True)
        self.points[0].requires_grad_(False)  # embedding of a background click, which is never made
        self.reader = model.mark_reader.requires_grad_(True)

    def loss(self, clips: list[Pictures], rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        """Mask losses of all objects of single pictures, each marked with a box or a click that `rng` draws."""
        sam2 = self.frozen.model.visual_model
        with torch.no_grad():
            features = encode_frames(sam2, torch.cat([clip.pixels for clip in clips]))
        truth = [object_planes(clip)[:, 0] for clip in clips]
        total, figures = features.top.new_zeros(()), dict[str, float]()
        marked = drawn_marks(clips, rng)
        for kind, drawn in marked.items():
            if not drawn:
                continue
            rows = torch.tensor([number for number, _, _ in drawn])
            target = torch.stack([truth[number][k] for number, k, _ in drawn])
            points = torch.stack([mark for _, _, mark in drawn])
            marks = Marks.clicks(points) if kind == "click" else Marks.boxes(points)
            decoded = draw_marked(Tracker(sam2, 1), 0, features[rows], marks, reader=self.reader)
            present = torch.ones(len(rows), dtype=torch.bool)
            total = total + mask_loss(decoded, target, present) * len(rows)
            with torch.no_grad():
                figures[f"iou_{kind}"] = mask_figures(decoded.logits, target, present, [1] * len(rows))["iou"]
        return total / max(1, sum(len(drawn) for drawn in marked.values())), figures


def drawn_marks(clips: list[Pictures], rng: random.Random) -> dict[str, list[tuple[int, int, Tensor]]]:
    """By kind, "box" or "click": picture, object and mark of each object in single pictures.

    A box is its first and last pixel, (4,), with a person's inaccuracy; a click (2,) is a pixel of the object.
    """
    drawn: dict[str, list[tuple[int, int, Tensor]]] = {"box": [], "click": []}
    for number, clip in enumerate(clips):
        size = clip.ids.shape[-1]
        for _, k, xyxy in visible_boxes(clip.planes):
            if rng.random() < CLICKS:
                pixels = (clip.ids[0] == k + 1).nonzero()
                drawn["click"].append((number, k, pixels[rng.randrange(len(pixels))].flip(0).float()))
                continue
            drawn["box"].append((number, k, jittered(xyxy * size - torch.tensor([0, 0, 1, 1]), rng, size)))
    return drawn


def jittered(box: Tensor, rng: random.Random, size: int) -> Tensor:
    """A box (4,), first and last pixel, with random errors on each side, clipped to `size` pixels."""
    across = (box[2:] - box[:2] + 1).repeat(2)
    moved = box + across * JITTER * torch.tensor([rng.gauss(0, 1) for _ in range(4)])
    moved = moved.clamp(0, size - 1)
    return torch.cat([moved[:2], torch.maximum(moved[2:], moved[:2])])
