"""Stage `language`: the language model learns the world's words and how to answer, before it sees a picture.

It stands for the pre-training that LLaVA's language model brings along at full size. A frame's visual tokens are
made of symbols: the word embeddings of an object's colour, shape and size, and its box. The projector of the
pictures is later trained to give the same tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trajseg.data.shapes.world import COLOURS, MOTIONS, SHAPES, SIZES, SPEEDS
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.training.texts import IGNORED, Packed, Seen

MOTION_LAYER = 3
"""The dense motion loss reads the visual tokens after so many layers."""
FREQUENCIES = 5
NAME_GAIN = 6.0
"""Word embeddings start small; in a visual token the name must weigh as much as the box and the frame's number, or
an object cannot be followed from frame to frame by what it looks like."""


class SymbolicEye(nn.Module):
    """Visual tokens from symbols: word embeddings of the attributes, plus the box, (M, 3) and (M, 4) -> (M, D)."""

    def __init__(self, words: nn.Embedding, processor: TrajSegProcessor) -> None:
        super().__init__()
        self.words = [words]  # not a submodule: the embedding belongs to the language model
        self.tables = [torch.tensor([processor.ids(word)[0] for word in names]) for names in (COLOURS, SHAPES, SIZES)]
        width = words.embedding_dim
        self.box = nn.Sequential(nn.Linear(4 * (1 + 2 * FREQUENCIES), width), nn.GELU(), nn.Linear(width, width))

    def forward(self, seen: Seen) -> Tensor:
        names = sum(self.words[0](table[seen.attributes[:, i]]) for i, table in enumerate(self.tables))
        return NAME_GAIN * names + self.box(box_waves(seen.box))


def box_waves(box: Tensor) -> Tensor:
    """A box (M, 4) in 0..1 with its sines and cosines at doubling frequencies, (M, 4 * (1 + 2 * FREQUENCIES))."""
    angle = box[..., None] * (math.pi * 2.0 ** torch.arange(FREQUENCIES))
    return torch.cat([box, angle.sin().flatten(1), angle.cos().flatten(1)], dim=1)


class LanguageTraining(nn.Module):
    """The language side of a model under cross entropy on answers, with a dense loss on each token's motion."""

    def __init__(self, model: TrajSegModel, processor: TrajSegProcessor) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.lm_head = model.llava.lm_head
        self.frame_embedding = model.frame_embedding
        self.eye = SymbolicEye(self.language_model.embed_tokens, processor)
        width = model.config.llava_config.text_config.hidden_size
        self.motion = nn.Linear(width, len(MOTIONS) + len(SPEEDS))
        self.seg_id = processor.seg_id

    def inputs(self, packed: Packed, tokens: Tensor) -> Tensor:
        """Input embeddings (B, L, D), with the visual tokens (M, D) in their places."""
        words = self.language_model.embed_tokens(packed.ids)
        frame = torch.cat([seen.frame for seen in packed.seen])
        return words.masked_scatter(packed.visual[..., None], tokens + self.frame_embedding(frame))

    def hidden(self, packed: Packed, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states after the last layer (B, L, D), and of the visual tokens after MOTION_LAYER (M, D)."""
        output = self.language_model(
            inputs_embeds=self.inputs(packed, tokens),
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
            output_hidden_states=True,
        )
        return output.last_hidden_state, output.hidden_states[MOTION_LAYER][packed.visual]

    def early_hidden(self, packed: Packed, tokens: Tensor) -> Tensor:
        """Only what the motion loss reads: the visual tokens after MOTION_LAYER (M, D)."""
        hidden = self.inputs(packed, tokens)
        turns = self.language_model.rotary_emb(hidden, packed.positions)
        for layer in self.language_model.layers[:MOTION_LAYER]:
            hidden = layer(hidden, attention_mask=packed.mask, position_ids=packed.positions, position_embeddings=turns)
        return hidden[packed.visual]

    def symbols(self, packed: Packed) -> Tensor:
        """The visual tokens (M, D) of a symbolic batch."""
        return torch.cat([self.eye(seen) for seen in packed.seen])

    def loss(self, packed: Packed, hidden: Tensor, early: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of the answers + 0.5 x motion loss, from what `hidden` gives."""
        answer = packed.labels[:, 1:] != IGNORED
        logits = self.lm_head(hidden[:, :-1][answer])
        text_loss = F.cross_entropy(logits, packed.labels[:, 1:][answer])
        motion_loss, right = self.motion_loss(packed, early)
        return text_loss + 0.5 * motion_loss, {"text": float(text_loss.detach()), "motion": right}

    def motion_loss(self, packed: Packed, early: Tensor) -> tuple[Tensor, float]:
        """Cross entropy of each visual token's motion and speed from `early` (M, D), and the share of right motions.

        An object's first frame cannot show its motion, so the clip's first frame is left out.
        """
        later = torch.cat([seen.frame for seen in packed.seen]) > 0
        moves, pace = torch.cat([seen.motion for seen in packed.seen])[later].unbind(1)
        motion, speed = self.motion(early[later]).split([len(MOTIONS), len(SPEEDS)], dim=-1)
        loss = F.cross_entropy(motion, moves) + F.cross_entropy(speed, pace)
        return loss, float((motion.argmax(-1) == moves).float().mean())

    def watching_loss(self, packed: Packed) -> tuple[Tensor, dict[str, float]]:
        """The motion loss of symbolic clips about which nothing is asked: cheap, since the upper layers rest."""
        loss, right = self.motion_loss(packed, self.early_hidden(packed, self.symbols(packed)))
        return loss, {"watched": right}

    @torch.no_grad()
    def right_objects(self, packed: Packed) -> dict[str, list[float]]:
        """By kind of question: 1 where the answer means the right objects under teacher forcing, of symbols.

        That is: its first word ("a" or "there"), every colour and shape, and every [SEG] are right.
        """
        hidden, _ = self.hidden(packed, self.symbols(packed))
        guess = F.pad(self.lm_head(hidden).argmax(-1)[:, :-1], (1, 0))
        answer = packed.labels != IGNORED
        first = answer & ~F.pad(answer[:, :-1], (1, 0))
        counts = first | torch.isin(packed.labels, torch.cat(self.eye.tables[:2]))
        wrong = counts & (guess != packed.labels)
        # An extra or a missing [SEG] is wrong as well.
        wrong |= answer & ((guess == self.seg_id) != (packed.labels == self.seg_id))
        outcome: dict[str, list[float]] = {}
        bad = set(packed.segments[wrong].tolist())
        for number, question in enumerate(packed.questions):
            outcome.setdefault(question.kind, []).append(float(number not in bad))
        return outcome
