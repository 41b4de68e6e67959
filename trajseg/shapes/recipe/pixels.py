"""Stage `pixels`: the language model learns to answer about pictures, and to predict trajectory tokens.

The vision tower stays frozen, as in the paper. The projector is first fitted to the symbolic tokens of stage
`language`, and then frozen too: from answers it would learn which pairs of colour and shape exist. The language model
continues to answer questions about symbols and, in some steps, about tokens from pictures. The state that predicts a
[SEG] learns to produce the trajectory token of stage `masks`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.shapes.recipe.clips import Pictures, pictures
from trajseg.shapes.recipe.language import LanguageTraining
from trajseg.shapes.recipe.masks import TokenTable
from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES, NAMES, clearly_unnamed
from trajseg.shapes.recipe.packing import Packed, pack
from trajseg.shapes.recipe.precision import quick
from trajseg.shapes.recipe.texts import IGNORED, Question, VisibleObjects, captions, motions, questions
from trajseg.shapes.recipe.vision import DenseTargets, dense_targets, visible_boxes
from trajseg.shapes.world.scenes import Scene, sample_scene
from trajseg.video.spacing import sampled_frames

SIDE = 16
"""Cells per side of the vision tower."""
TEXTS_PER_PICTURED_CLIP = 14
"""More than in stage `language`, because here the pictures cost most."""
CAPTIONS_PER_PICTURED_CLIP = 3
PICTURES_EVERY = 2
"""Every so many steps, pictures are added: a symbolic clip costs a fifth of a rendered one."""
UNNAMED_CLIPS = 0.25
"""Fraction of clips with unnamed colours, so that pairs of colour and shape are not memorised."""
UNNAMED_OBJECTS = 0.4
"""Fraction of the objects in such a clip with an unnamed colour."""
FITTED_CLIPS = 3000
"""Clips that the projector is fitted on before step 1."""
FITTED_FRAMES = 4
"""Pictures per clip."""
FITTED_BATCHES = 30
"""Batches of symbolic clips that the head of the trajectory tokens is fitted on before step 1."""
FITTING_STEPS = 6000


@dataclass(frozen=True)
class TowerOutput:
    """The vision tower's output for F frames: all hidden states (F, 1 + P, V), and the projector's input (F, P, V)."""

    states: tuple[Tensor, ...]
    features: Tensor


class Pairs(NamedTuple):
    """Inputs (R, V) and targets (R, D) of a small module; errors are multiplied by `rest` (D, D), which removes those
    that do not count."""

    read: Tensor
    wanted: Tensor
    rest: Tensor


@dataclass
class ClipWithQuestions:
    """A rendered clip with questions."""

    scene: Scene
    pictures: Pictures
    questions: list[Question]

    @cached_property
    def targets(self) -> DenseTargets:
        """The dense targets of its pictures; see dense_targets."""
        return dense_targets(self.pictures, SIDE)

    @cached_property
    def trajectories(self) -> Tensor:
        """Visible boxes (K, N, 4) of the objects, xyxy in units of the side; zero if an object is not visible."""
        boxes = torch.zeros(len(self.scene.objects), len(self.pictures.ids), 4)
        for frame, k, xyxy in visible_boxes(self.pictures.planes):
            boxes[k, frame] = xyxy
        return boxes


class ClipQuestionStream(IterableDataset[ClipWithQuestions]):
    """Endless rendered clips, N frames each at the centres of equal bins, with `texts` questions and `captions`."""

    def __init__(
        self,
        processor: TrajSegProcessor,
        seed: int,
        frames: int,
        split: str = "train",
        texts: int = TEXTS_PER_PICTURED_CLIP,
        captions: int = CAPTIONS_PER_PICTURED_CLIP,
    ) -> None:
        self.processor, self.seed, self.frames, self.split = processor, seed, frames, split
        self.texts, self.captions = texts, captions

    def __iter__(self) -> Iterator[ClipWithQuestions]:
        rng = random.Random(f"pixels/{self.split}/{self.seed}")
        while True:
            scene = sample_scene(rng.getrandbits(40), self.split)  # type: ignore[arg-type]
            unnamed = UNNAMED_OBJECTS if self.split == "train" and rng.random() < UNNAMED_CLIPS else 0.0
            scene, look, named = clearly_unnamed(scene, rng, unnamed)
            asked = questions(scene, self.processor, rng, self.texts, look, named)
            times = sampled_frames(scene.frame_count, self.frames)
            scale = rng.choice((1.0, 1.0, 1.5, 0.75))
            light = rng if self.split == "train" else None
            clip = ClipWithQuestions(scene, pictures(scene, times, self.processor.llm_size, scale, look, light), asked)
            clip.questions += captions(scene, clip.trajectories, look, self.processor, rng, self.captions, named)
            if clip.questions:
                yield clip


@dataclass(frozen=True)
class Frozen:
    """Frozen modules that the stage reads; not an nn.Module, so that their parameters are not trained."""

    model: TrajSegModel
    table: TokenTable


class PixelTraining(nn.Module):
    """Language model, trajectory encoder and head of the trajectory tokens, on tokens of the frozen vision tower."""

    def __init__(self, model: TrajSegModel, language: LanguageTraining, table: TokenTable) -> None:
        super().__init__()
        self.frozen = Frozen(model, table)
        self.projector = model.llava.model.multi_modal_projector
        self.trajectory_encoder = model.spi_module
        self.language = language
        self.text_hidden_fcs = model.text_hidden_fcs[0]
        self.frames = model.config.llm_frames
        self.projector.requires_grad_(False)
        # The projector was fitted to these embeddings.
        language.language_model.embed_tokens.requires_grad_(False)
        language.eye.requires_grad_(False)

    def fit_projector(self, clips: Iterator[list[Pictures]]) -> float:
        """Fits the projector alone, on the tokens at objects' centres in FITTED_CLIPS clips; returns the last loss.

        As in stage `vision`, a colour counts only if the shape is unnamed, and vice versa: the error is the distance to
        the nearest token with any mixture of the names that do not count.
        """
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        count = 0
        while count < FITTED_CLIPS:
            batch = next(clips)
            with torch.no_grad():
                targets = [dense_targets(clip, SIDE) for clip in batch]
                columns.append(self._centres(batch, targets, self._tower_output(batch).features))
            count += len(batch)
        read, look, box = (torch.cat(column) for column in zip(*columns, strict=True))
        eye = self.language.eye
        with torch.no_grad():
            wanted = eye.tokens(look, box)
            colours, shapes, _ = eye.names()
        coloured, shaped, _ = (part.sum(1) > 0 for part in look[:, :NAMES].split(ATTRIBUTE_SIZES, dim=1))
        parts = (
            (coloured & ~shaped, shapes),
            (shaped & ~coloured, colours),
            (coloured == shaped, torch.cat([colours, shapes])),
        )
        self.projector.requires_grad_(True)
        loss = _fit(self.projector, [Pairs(read[rows], wanted[rows], _beyond(words)) for rows, words in parts])
        self.projector.requires_grad_(False)
        return loss

    def fit_head(self, texts: Iterator[Packed]) -> float:
        """Fits the head of the trajectory tokens alone, on symbolic clips; returns the last loss."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for _ in range(FITTED_BATCHES):
            packed = next(texts)
            with torch.no_grad():
                hidden = self.language.hidden(packed, *self.language.symbols(packed))
                pairs.append(self._token_pairs(packed, hidden.last))
        read, wanted = (torch.cat(column) for column in zip(*pairs, strict=True))
        return _fit(self.text_hidden_fcs, [Pairs(read, wanted, torch.eye(wanted.shape[1]))])

    def symbol_loss(self, packed: Packed) -> tuple[Tensor, dict[str, float]]:
        """The losses of a symbolic batch: answers, motion, attention and trajectory tokens."""
        return self._answer_loss(packed, *self.language.symbols(packed))

    def picture_loss(
        self, clips: list[ClipWithQuestions], processor: TrajSegProcessor
    ) -> tuple[Tensor, dict[str, float]]:
        """The same losses for rendered clips, and the trajectory encoder's; metrics start with "seen_"."""
        look = self._tower_output([clip.pictures for clip in clips])
        trajectories, wanted = self._trajectory_pairs(clips, look)
        described = F.mse_loss(trajectories, wanted) / wanted.var()
        answered, figures = self._answer_loss(*self.pack(clips, look.features, processor), trajectories)
        figures |= {"encoder": float(described.detach())}
        return described + answered, {f"seen_{name}": value for name, value in figures.items()}

    def caption_loss(
        self, clips: list[ClipWithQuestions], processor: TrajSegProcessor
    ) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of the answers plus the trajectory encoder's loss, for rendered clips."""
        look = self._tower_output([clip.pictures for clip in clips])
        trajectories, wanted = self._trajectory_pairs(clips, look)
        described = F.mse_loss(trajectories, wanted) / wanted.var()
        packed, tokens = self.pack(clips, look.features, processor)
        answered = self.language.answer_loss(packed, self.language.hidden(packed, tokens, trajectories).last)
        return answered + described, {"text": float(answered.detach()), "encoder": float(described.detach())}

    @torch.no_grad()
    def _tower_output(self, clips: list[Pictures]) -> TowerOutput:
        """The frozen vision tower on all frames of the clips."""
        model = self.frozen.model
        pixels = torch.cat([clip.pixels for clip in clips]).contiguous(memory_format=torch.channels_last)
        with quick():
            states = model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        states = tuple(state.float() for state in states)
        return TowerOutput(states, model.features(states))

    def _trajectory_pairs(self, clips: list[ClipWithQuestions], look: TowerOutput) -> tuple[Tensor, Tensor]:
        """Trajectory tokens (T, D) of the caption requests, and the symbolic tokens that are their targets."""
        model = self.frozen.model
        got, asked = [], []
        for number, clip in enumerate(clips):
            own = [question for question in clip.questions if question.trajectory is not None]
            states = [state[number * self.frames : (number + 1) * self.frames] for state in look.states]
            boxes = torch.stack([question.trajectory for question in own])  # type: ignore[misc]
            got.append(model.trajectory_embeddings(states, boxes).flatten(0, 1))
            asked += own
        return torch.cat(got), self.language.eye.trajectories(asked).detach()

    def _answer_loss(
        self, packed: Packed, tokens: Tensor, trajectories: Tensor | None
    ) -> tuple[Tensor, dict[str, float]]:
        hidden = self.language.hidden(packed, tokens, trajectories)
        loss, figures = self.language.loss(packed, hidden)
        states, wanted = self._token_pairs(packed, hidden.last)
        token_loss = F.mse_loss(self.text_hidden_fcs(states), wanted) / wanted.var()
        return loss + 0.5 * token_loss, figures | {"token": float(token_loss.detach())}

    def pack(
        self, clips: list[ClipWithQuestions], features: Tensor, processor: TrajSegProcessor
    ) -> tuple[Packed, Tensor]:
        """A batch with the visual tokens that the model itself keeps, and these tokens (M, D)."""
        model = self.frozen.model
        laid, tokens = [], []
        for clip, patch in zip(clips, features.split(self.frames), strict=True):
            visual = model.visual_tokens(patch)
            tokens.append(visual.embeddings)
            laid.append((seen_tokens(clip, visual.frame, visual.cell), clip.questions))
        return pack(laid, processor, self.frames), torch.cat(tokens)

    def _centres(
        self, clips: list[Pictures], targets: list[DenseTargets], features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Patch tokens at objects' centres (R, V), the objects' looks (R, LOOKS) and boxes (R, 4)."""
        centre = torch.cat([target.centre for target in targets]).flatten(1)
        look = torch.cat([target.of(clip.look) for clip, target in zip(clips, targets, strict=True)])
        box = torch.cat([target.box for target in targets])
        return features[centre], look.flatten(1, 2)[centre], box.flatten(1, 2)[centre]

    def _token_pairs(self, packed: Packed, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States that predict a [SEG] (S, D), and the trajectory tokens that they should give (S, C)."""
        predicts = F.pad(packed.labels[:, 1:] == self.language.seg_id, (0, 1))
        # The table has no tokens for unnamed attributes.
        sayable = [IGNORED not in question.answer for question in packed.questions]
        known = torch.tensor(sayable).repeat_interleave(torch.tensor([len(q.targets) for q in packed.questions]))
        with torch.no_grad():
            wanted = self.frozen.table(torch.cat([question.targets for question in packed.questions]))
        return hidden[predicts][known], wanted[known]


def _beyond(words: Tensor) -> Tensor:
    """The projection (D, D) onto the complement of the span of these words (n, D)."""
    basis = torch.linalg.qr(words.T).Q
    return torch.eye(len(basis)) - basis @ basis.T


def _fit(module: nn.Module, parts: list[Pairs]) -> float:
    """Fits a small module to pairs by squared error, relative to the targets' variance; returns the last loss."""
    parts = [part for part in parts if len(part.read)]
    variance = torch.cat([part.wanted for part in parts]).var()
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FITTING_STEPS)
    total = sum(len(part.read) for part in parts)
    loss = variance.new_zeros(())
    for _ in range(FITTING_STEPS):
        errors = []
        for part in parts:
            rows = torch.randint(len(part.read), (round(512 * len(part.read) / total),))
            errors.append((module(part.read[rows]) - part.wanted[rows]) @ part.rest)
        loss = torch.cat(errors).square().mean() / variance
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return float(loss.detach())


def seen_tokens(clip: ClipWithQuestions, frame: Tensor, cell: Tensor) -> VisibleObjects:
    """The object of each kept token: the owner of its cell (the first object, for cells without an owner)."""
    box = clip.targets.box
    k = clip.targets.owner.flatten(1)[frame, cell].clamp(min=0)
    return VisibleObjects(clip.pictures.attributes[k], box.flatten(1, 2)[frame, cell], frame, motions(clip.scene)[k])
