"""The paper's joint training: one loss over words and masks, through the whole model, in both directions.

    grounding    frames + instruction -> answer with [SEG]s -> trajectory tokens -> content integration -> masks
    captioning   frames + boxes of an object + request -> the same answer, and the masks of the object
    propagation  the first frame's mask -> memory -> masks of the other frames; the language model is not used

The mask losses use the logits before the object gate, so a score below 0 does not block their gradient.
Shapes: T frames, S targets, H x W the sample's own pixels, D width of the language model, A tokens of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.data.samples import Sample
from trajseg.errors import InputError
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.mask_decoder import FrameFeatures, Tracker
from trajseg.training.objectness import ObjectnessLoss, known_objects_loss
from trajseg.training.run import Part

EPSILON = 1e-6


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; the defaults are the paper's, except objectness, which the paper does not have."""

    text: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    score: float = 0.5
    objectness: float = 1.0


@dataclass
class Terms:
    """A sample's losses before weighting, scalars; 0 for kinds that a sample does not have.

    gate_open: share of visible (target, frame) pairs whose object score is above 0; 1 where nothing is visible.
    """

    text: Tensor
    bce: Tensor
    dice: Tensor
    score: Tensor
    objectness: Tensor
    gate_open: float = 1.0

    def total(self, weights: LossWeights) -> Tensor:
        """The weighted sum."""
        terms: list[Tensor] = [getattr(weights, field.name) * getattr(self, field.name) for field in fields(weights)]
        return torch.stack(terms).sum()


@dataclass
class _Look:
    """The encoded frames: the vision tower's states; and for those with masks drawn, `drawn` (n,), in time order,
    SAM 2's features and the objectness before training."""

    drawn: Tensor | None = None
    features: FrameFeatures | None = None
    states: tuple[Tensor, ...] | None = None
    objectness: Tensor | None = None


class JointTraining(nn.Module):
    """A model under the joint loss.

    Args:
        model: prepared by `adapters.prepare`, on its device.
        parts: its trained parameters by part, as returned by `prepare`.
        samples: returns the samples of a part by its number; see `samples.Samples` and `feed.Feed`.
        recompute: save memory on the mask side by recomputing activations in the backward pass.
        mask_frames: number of a clip's frames on which masks are drawn, chosen at random; None: all. The language model
            sees all of them.
        objects_known: every sample has all objects of its clip, so that objectness is trained in all cells.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        parts: dict[str, list[nn.Parameter]],
        samples: Callable[[int], list[Sample]],
        weights: LossWeights | None = None,
        recompute: bool = False,
        mask_frames: int | None = None,
        objects_known: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.samples = samples
        self.weights = weights or LossWeights()
        self.recompute = recompute
        self.mask_frames = mask_frames
        self._parts = parts
        learns = bool(model.config.object_tokens) and model.objectness.weight.requires_grad
        self._objectness = ObjectnessLoss(model) if learns and not objects_known else None
        self._objects_known = learns and objects_known

    def learning_parts(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by part; see health.Parted."""
        return self._parts

    def loss(self, part: Part) -> tuple[Tensor, dict[str, float]]:
        """The mean of the samples' own losses in a part, whatever their lengths and numbers of targets."""
        looks: dict[int, _Look] = {}
        terms = [self.terms(sample, looks) for sample in self.samples(part.number)]
        total = torch.stack([t.total(self.weights) for t in terms]).mean()
        names = [field.name for field in fields(Terms)]
        return total, {name: fmean(float(torch.as_tensor(getattr(t, name)).detach()) for t in terms) for name in names}

    def terms(self, sample: Sample, looks: dict[int, _Look] | None = None) -> Terms:
        """A sample's losses.

        `looks` are the encoded frames of earlier samples, which may share the same array.

        Raises:
            InputError: it has more frames than the model can distinguish.
        """
        masks = torch.from_numpy(sample.masks).to(self.model.device)
        counts = None if sample.mask_weights is None else torch.from_numpy(sample.mask_weights).to(self.model.device)
        if sample.direction == "propagation":
            return self._propagated(sample, masks, counts)
        limit = self.model.config.llm_frames
        if self.model.config.frame_embedding and len(sample.frames) > limit:
            raise InputError(f"A sample has {len(sample.frames)} frames, the model's limit is {limit}.", "Use fewer.")
        look = ({} if looks is None else looks).setdefault(id(sample.frames), _Look())
        if look.drawn is None:
            look.drawn = self._drawn(len(sample.frames))
        if len(masks) and look.features is None:
            # First, while nothing else is in memory: at full size the encoder itself takes gigabytes.
            look.features = self._features(sample.frames[look.drawn.numpy()])
        if look.states is None:
            pixels = self.processor.llm_pixels(sample.frames).to(self.model.device)
            look.states = self.model.vision_states(pixels)
            if self._objectness is not None:
                look.objectness = self._objectness.before(pixels[look.drawn])
        text, trajectories = self.read(sample, look.states)
        text = text * sample.weight
        none = text.new_zeros(())
        drawn = look.drawn.to(masks.device)
        masks, counts = masks[:, drawn], None if counts is None else counts[:, drawn]
        objectness = none
        if self._objectness is not None and look.objectness is not None:
            objectness = self._objectness(look.objectness, self.model.features(look.states)[drawn], masks)
        elif self._objects_known and sample.objects is not None:
            chosen = self.model.objectness(self.model.features(look.states)[drawn])[..., 0]
            objectness = known_objects_loss(chosen, torch.from_numpy(sample.objects)[look.drawn])
        if not len(masks) or look.features is None:
            return Terms(text, none, none, none, objectness)
        logits, score = self._prompted(look.features, trajectories)
        return replace(self._mask_terms(text, logits, score, masks, counts), objectness=objectness)

    def _drawn(self, count: int) -> Tensor:
        """The frames out of `count` on which masks are drawn, (n,) int64, increasing."""
        if self.mask_frames is None or self.mask_frames >= count:
            return torch.arange(count)
        return torch.randperm(count)[: self.mask_frames].sort().values

    def read(self, sample: Sample, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Runs the language model over prompt and answer: mean cross entropy of the answer, trajectory tokens (S, C).

        `states` are the vision tower's for the sample's frames, if known.
        """
        model, processor = self.model, self.processor
        if states is None:
            states = model.vision_states(processor.llm_pixels(sample.frames).to(model.device))
        seen = model.see(states)
        before, after = processor.prompt_ids(sample.instruction, len(sample.frames), sample.template)
        prompt = []
        for number, ids in enumerate(before):
            prompt += [self._words(ids), seen.embeddings[seen.frame == number]]
        if sample.direction == "captioning":
            between, after = processor.caption_ids(sample.instruction)
            boxes = torch.as_tensor(sample.boxes, device=model.device)
            trajectory = model.trajectory_embeddings(states, boxes)
            numbers = torch.arange(len(boxes), device=model.device)
            prompt += [self._words(between), model.at_frames(trajectory, numbers)]
        answer = torch.tensor([*processor.ids(sample.answer), processor.end_id], device=model.device)
        inputs = torch.cat([*prompt, self._words(after), model.embed_words(answer)])
        hidden = model.language_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]
        predicts = hidden[-len(answer) - 1 : -1]
        text = F.cross_entropy(model.llava.lm_head(predicts).float(), answer)
        return text, model.trajectory_tokens(predicts[answer == processor.seg_id])

    def _prompted(self, features: FrameFeatures, trajectories: Tensor) -> tuple[Tensor, Tensor]:
        """Ungated logits (S, T, h, w) and scores (S, T) with every frame prompted."""
        model, count = self.model, len(features.top)
        prompts = model.prompts(trajectories, features)
        tracker = Tracker(model.visual_model, count, model.config.key_frame_memory, recompute=self.recompute)
        if not model.config.key_frame_memory:
            # Prompted frames do not read memory, so a target's frames are decoded at once.
            each = [tracker.step(0, features, prompt, remember=False) for prompt in prompts]
            return torch.stack([d.logits for d in each]), torch.stack([d.score for d in each])
        drawn = [
            tracker.step(
                index, self._rows(features, index, trajectories), prompts[:, index], remember=index + 1 < count
            )
            for index in range(count)
        ]
        return torch.stack([d.logits for d in drawn], dim=1), torch.stack([d.score for d in drawn], dim=1)

    def _propagated(self, sample: Sample, masks: Tensor, counts: Tensor | None) -> Terms:
        """Given the mask on the first frame that shows a target, decodes the others from memory.

        The clip is read backwards if only its last frame shows the target. Memory is gated by the ground truth.
        """
        order = torch.arange(len(sample.frames), device=masks.device)
        start = int(masks.flatten(2).any(2).any(0).nonzero()[0, 0])
        order = order.flip(0) if start == len(order) - 1 else order[start:]
        masks, features = masks[:, order], self._features(sample.frames)[order]
        present = masks.flatten(2).any(2)
        tracker = Tracker(self.model.visual_model, len(order), recompute=self.recompute)
        tracker.paint(0, self._rows(features, 0, masks), self.processor.mask_targets(masks[:, 0]))
        drawn = [
            tracker.step(index, self._rows(features, index, masks), None, present[:, index], index + 1 < len(order))
            for index in range(1, len(order))
        ]
        logits, score = torch.stack([d.logits for d in drawn], dim=1), torch.stack([d.score for d in drawn], dim=1)
        counts = None if counts is None else counts[:, order][:, 1:]
        return self._mask_terms(logits.new_zeros(()), logits, score, masks[:, 1:], counts)

    def _mask_terms(
        self, text: Tensor, logits: Tensor, score: Tensor, masks: Tensor, counts: Tensor | None = None
    ) -> Terms:
        """Logits (S, T, h, w), scores (S, T), truth (S, T, H, W) bool -> a sample's losses (paper, losses).

        `counts` (S, T) weights each target and frame; None: 1 everywhere. Frames without the target count as 0 in
        BCE and dice and are included in the mean over frames.
        """
        height, width = masks.shape[-2:]
        full = self.processor.to_picture(logits.flatten(0, 1), height, width).view(masks.shape)
        truth, seen = masks.float(), masks.flatten(2).any(2)
        bce = F.binary_cross_entropy_with_logits(full, truth, reduction="none").mean((2, 3))
        p = full.sigmoid()
        both, either = (p * truth).sum((2, 3)), p.sum((2, 3)) + truth.sum((2, 3))
        dice = 1 - (2 * both + EPSILON) / (either + EPSILON)
        scored = F.binary_cross_entropy_with_logits(score.float(), seen.float(), reduction="none")
        gate = float((score[seen] > 0).float().mean()) if seen.any() else 1.0
        weights = torch.ones_like(bce) if counts is None else counts
        shown = seen * weights
        score_loss = (scored * weights).mean()
        return Terms(text, (bce * shown).mean(), (dice * shown).mean(), score_loss, text.new_zeros(()), gate)

    def _features(self, frames: np.ndarray) -> FrameFeatures:
        """SAM 2's features of frames uint8 [n, H, W, 3]."""
        pixels = self.processor.mask_pixels(frames).to(self.model.device)
        each = [self.model.encode_frames(some) for some in pixels.split(1 if self.recompute else len(pixels))]
        return FrameFeatures(*(torch.cat([getattr(f, level) for f in each]) for level in ("top", "s0", "s1")))

    def _rows(self, features: FrameFeatures, index: int, targets: Tensor) -> FrameFeatures:
        """A frame's features, one row per target."""
        return features[torch.full((len(targets),), index, device=features.top.device)]

    def _words(self, ids: list[int]) -> Tensor:
        return self.model.embed_words(torch.tensor(ids, device=self.model.device))
