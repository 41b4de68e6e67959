"""Packing: texts of a batch in one row of tokens, and where their attention should go."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from trajseg.model.processor import TrajSegProcessor
from trajseg.shapes.recipe.mixtures import attributes, nameless
from trajseg.shapes.recipe.texts import (
    IGNORED,
    SLOT,
    Question,
    Reading,
    VisibleObjects,
    captions,
    names,
    questions,
    seen_objects,
    trajectories,
)
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.scenes import sample_scene


@dataclass
class Packed:
    """B clips with all their questions, one row per clip: its frames once, then every question.

    ids (B, L), 0 at visual and trajectory tokens; visual (B, L) and trajectory (B, L) bool;
    labels (B, L): answers, else -100;
    positions (B, L), restarting after the frames for every question; mask (B, 1, L, L) bool, the attention mask;
    seen: the visual tokens' objects, clip by clip, in the order of `visual`;
    segments (B, L) int64: the number within the batch of the token's question (-1: frames or padding).
    """

    ids: Tensor
    visual: Tensor
    trajectory: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor
    segments: Tensor
    seen: list[VisibleObjects]
    questions: list[Question]


def pack(clips: list[tuple[VisibleObjects, list[Question]]], processor: TrajSegProcessor, frames: int) -> Packed:
    """Packs clips and their questions into a batch."""
    rows: list[tuple[Sequence[int], ...]] = []
    number = 0
    for seen, asked in clips:
        counts = torch.bincount(seen.frame, minlength=frames).tolist()
        before, _ = processor.prompt_ids("", len(counts))
        ids: list[int] = []
        visual: list[bool] = []
        for markers, count in zip(before, counts, strict=True):
            ids += markers + [0] * count
            visual += [False] * len(markers) + [True] * count
        prefix = len(ids)
        labels, positions, segment = [IGNORED] * prefix, list(range(prefix)), [-1] * prefix
        for question in asked:
            text = question.request + question.read
            ids += text
            labels += [IGNORED] * len(question.request) + question.answer
            positions += range(prefix, prefix + len(text))
            segment += [number] * len(text)
            number += 1
        rows.append((ids, visual, labels, positions, segment))
    length = max(len(row[0]) for row in rows)
    batch = len(rows)
    # numpy converts lists much faster than torch; as_tensor uses torch's default device.
    fields = [np.full((batch, length), padding) for padding in (0, False, IGNORED, 0, -2)]
    for b, row in enumerate(rows):
        for field_BL, values in zip(fields, row, strict=True):
            field_BL[b, : len(values)] = values
    ids_BL, visual_BL, labels_BL, positions_BL, segments_BL = (torch.as_tensor(field_BL) for field_BL in fields)
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    frames_read = (segments_BL == -1)[:, None, :].expand(-1, length, -1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (same | frames_read) & causal
    trajectory_BL = ids_BL == SLOT
    return Packed(
        ids_BL.masked_fill(trajectory_BL, 0),
        visual_BL,
        trajectory_BL,
        labels_BL,
        positions_BL,
        mask[:, None],
        segments_BL,
        [seen for seen, _ in clips],
        [question for _, asked in clips for question in asked],
    )


@dataclass
class AttentionTargets:
    """Attention targets of the R states that predict answer tokens.

    rows, positions (R,) int64: where the states are in the batch; wanted (R, L) bool: the positions of its row that
    each should attend to.
    """

    rows: Tensor
    positions: Tensor
    wanted: Tensor


def attention_targets(packed: Packed, seg_id: int) -> AttentionTargets:
    """The states that describe an object in an answer should attend to that object's tokens.

    States without an object, or after the last one, should attend to the first token. States whose object has no token
    that they may attend to are left out.
    """
    rows_R, positions_R = (packed.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    object_R = _answered_objects(packed, seg_id, rows_R, positions_R)
    first_BL = torch.zeros_like(packed.visual)
    first_BL[:, 0] = True
    own_RL = _token_objects(packed)[rows_R] == object_R[:, None]
    readable_RL = packed.mask[rows_R, 0, positions_R]
    wanted_RL = torch.where(object_R[:, None] < 0, first_BL[rows_R], own_RL & readable_RL)
    shown_R = wanted_RL.any(1)
    return AttentionTargets(rows_R[shown_R], positions_R[shown_R], wanted_RL[shown_R])


def _token_objects(packed: Packed) -> Tensor:
    """The object of each visual and trajectory token, encoded as in `names`; -1 at other tokens: (B, L) int64."""
    object_BL = torch.full(packed.ids.shape, -1)
    object_BL[packed.visual] = names(torch.cat([seen.attributes for seen in packed.seen]))
    captioned = [question for question in packed.questions if question.trajectory is not None]
    if captioned:
        object_BL[packed.trajectory] = torch.cat([names(q.targets).expand(len(q.trajectory)) for q in captioned])  # type: ignore[arg-type]
    return object_BL


def _answered_objects(packed: Packed, seg_id: int, rows_R: Tensor, positions_R: Tensor) -> Tensor:
    """The object that each state's answer is describing, encoded as in `names`; -2 after the last: (R,) int64.

    Every [SEG] ends the description of an object.
    """
    most = max(len(question.targets) for question in packed.questions) + 1
    targets_QS = torch.full((len(packed.questions), most), -2)
    for number, question in enumerate(packed.questions):
        targets_QS[number, : len(question.targets)] = names(question.targets)
    question_R = packed.segments[rows_R, positions_R + 1]
    said_R = (packed.labels == seg_id).cumsum(1)[rows_R, positions_R]
    before_Q = torch.full((len(packed.questions),), packed.ids.numel()).scatter_reduce(0, question_R, said_R, "amin")
    return targets_QS[question_R, said_R - before_Q[question_R]]


class QuestionStream(IterableDataset[Packed]):
    """Endless batches of symbolic clips with questions; `read` adds recognition errors. No pictures are rendered."""

    def __init__(
        self,
        processor: TrajSegProcessor,
        seed: int,
        batch: int,
        frames: int,
        split: str = "train",
        read: Reading | None = None,
    ) -> None:
        self.processor, self.seed, self.batch, self.frames, self.split = processor, seed, batch, frames, split
        self.read = read

    def __iter__(self) -> Iterator[Packed]:
        rng = random.Random(f"texts/{self.split}/{self.seed}")
        while True:
            clips: list[tuple[VisibleObjects, list[Question]]] = []
            while len(clips) < self.batch:
                scene = sample_scene(rng.getrandbits(40), self.split)  # type: ignore[arg-type]
                look, named = nameless(attributes(scene), rng) if self.split == "train" else (None, None)
                facts = Facts(scene)
                shown = trajectories(scene, self.frames, facts=facts)
                asked = questions(scene, self.processor, rng, look=look, named=named, facts=facts)
                asked += captions(scene, shown, look, self.processor, rng, named=named)
                if asked:
                    seen = seen_objects(scene, shown, look)
                    clips.append((self.read(seen, rng) if self.read else seen, asked))
            yield pack(clips, self.processor, self.frames)
