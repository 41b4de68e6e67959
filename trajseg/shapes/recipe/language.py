"""Stage `language`: the language model learns the world's words and how to answer, before it sees pictures.

It replaces the pre-training of a full-size LLaVA's language model. A frame's visual tokens are symbolic: the word
embeddings of an object's colour, shape and size, plus its box. Later, the projector is trained to produce the same
tokens from pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.shapes.recipe.mixtures import ATTRIBUTE_SIZES, KINDS, STRANGE, pure
from trajseg.shapes.recipe.packed_attention import Layout, packed_attention
from trajseg.shapes.recipe.packing import Packed, attention_targets
from trajseg.shapes.recipe.precision import quick
from trajseg.shapes.recipe.texts import IGNORED, Question, VisibleObjects, presence
from trajseg.shapes.world.scenes import MOTIONS, SPEEDS

MOTION_LAYER = 3
"""The motion loss reads the visual tokens after this many layers."""
FACTS = (len(MOTIONS), len(SPEEDS), 2, 2)
"""Classes of each visual token's facts: motion, speed, object visible in the first frame, in the last frame."""
GUIDED_LAYER = 4
"""The first head of this layer (0-based) is supervised to attend to the object that the answer describes."""
BEGINNING = 5.0
"""Loss weight of an answer's first word."""
FREQUENCIES = 5
NAME_GAIN = 6.0
"""Scale of word embeddings, which start small: in a visual token the names must weigh as much as box and frame number,
or objects cannot be followed from frame to frame by their look."""


class SymbolicEye(nn.Module):
    """Visual tokens from symbols: the word embeddings of an object's look, plus its box, -> (M, D)."""

    def __init__(self, words: nn.Embedding, processor: TrajSegProcessor) -> None:
        super().__init__()
        self.ids: Tensor
        self.words = [words]  # not a submodule: the embedding belongs to the language model
        ids = torch.tensor([processor.ids(word)[0] for names in KINDS for word in names])
        self.register_buffer("ids", ids, persistent=False)
        width = words.embedding_dim
        strange = torch.randn(STRANGE, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("strange", strange, persistent=False)
        self.box = nn.Sequential(nn.Linear(4 * (1 + 2 * FREQUENCIES), width), nn.GELU(), nn.Linear(width, width))

    def forward(self, seen: VisibleObjects) -> Tensor:
        look = pure(seen.attributes) if seen.look is None else seen.look
        return self.tokens(look, seen.box)

    def tokens(self, look: Tensor, box: Tensor) -> Tensor:
        """Tokens (M, D) of objects with looks (M, LOOKS) and boxes (M, 4)."""
        return self._names(look) + self.box(box_waves(box))

    def trajectories(self, asked: Sequence[Question]) -> Tensor:
        """Trajectory tokens of caption requests, concatenated; without names in frames where the object is absent."""
        boxes: list[Tensor] = [question.trajectory for question in asked]  # type: ignore[misc]
        box = torch.cat(boxes)
        looks = [pure(question.targets) if question.look is None else question.look[None] for question in asked]
        look = torch.cat([each.expand(len(box), -1) for each, box in zip(looks, boxes, strict=True)])
        here = (box[:, 2:] > box[:, :2]).all(1, keepdim=True)
        return self._names(look) * here + self.box(box_waves(box))

    def names(self) -> list[Tensor]:
        """Contributions to a token of all colours (n, D), all shapes and all sizes."""
        return [NAME_GAIN * self.words[0](ids) for ids in self.ids_by_kind()]

    def ids_by_kind(self) -> tuple[Tensor, ...]:
        """Token ids of all colours (n,), all shapes and all sizes."""
        return self.ids.split(ATTRIBUTE_SIZES)

    def _names(self, look: Tensor) -> Tensor:
        words = self.words[0](self.ids)
        return NAME_GAIN * (look @ torch.cat([words, self.strange * words.detach().std()]))


def box_waves(box: Tensor) -> Tensor:
    """A box (M, 4) in 0..1 with its sines and cosines at doubling frequencies, (M, 4 * (1 + 2 * FREQUENCIES))."""
    angle = box[..., None] * (math.pi * 2.0 ** torch.arange(FREQUENCIES))
    return torch.cat([box, angle.sin().flatten(1), angle.cos().flatten(1)], dim=1)


@dataclass(frozen=True)
class Hidden:
    """Hidden states for the losses: after the last layer (B, L, D), of the visual tokens after MOTION_LAYER (M, D), and
    before GUIDED_LAYER (B, L, D)."""

    last: Tensor
    early: Tensor
    guided: Tensor


class LanguageTraining(nn.Module):
    """Trains the language side on answers, with two auxiliary losses.

    Each visual token must predict its object's motion, and one attention head must attend to the object that the
    answer describes. From answers alone, a small model learns neither in reasonable time.
    """

    def __init__(self, model: TrajSegModel, processor: TrajSegProcessor) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.lm_head = model.llava.lm_head
        self.frame_embedding = model.frame_embedding
        self.eye = SymbolicEye(self.language_model.embed_tokens, processor)
        width = model.config.llava_config.text_config.hidden_size
        self.motion = nn.Linear(width, sum(FACTS))
        self.seg_id = processor.seg_id

    def inputs(self, packed: Packed, tokens: Tensor, trajectories: Tensor | None) -> Tensor:
        """Input embeddings (B, L, D), including visual tokens (M, D) and trajectory tokens (T, D)."""
        words = self.language_model.embed_tokens(packed.ids)
        frame = torch.cat([seen.frame for seen in packed.seen])
        words = words.masked_scatter(packed.visual[..., None], tokens + self.frame_embedding(frame))
        if trajectories is None or not len(trajectories):
            return words
        number = torch.arange(self.frame_embedding.num_embeddings).repeat(
            len(trajectories) // self.frame_embedding.num_embeddings
        )
        return words.masked_scatter(packed.trajectory[..., None], trajectories + self.frame_embedding(number))

    def hidden(self, packed: Packed, tokens: Tensor, trajectories: Tensor | None = None) -> Hidden:
        """The hidden states for the losses; tokens (M, D), trajectories (T, D)."""
        with quick(), packed_attention(self.language_model.config):
            output = self.language_model(
                inputs_embeds=self.inputs(packed, tokens, trajectories),
                attention_mask=packed.mask,
                position_ids=packed.positions,
                use_cache=False,
                output_hidden_states=True,
                layout=Layout.of(packed),
            )
        states = output.hidden_states
        return Hidden(output.last_hidden_state, states[MOTION_LAYER][packed.visual], states[GUIDED_LAYER])

    def early_hidden(self, packed: Packed, tokens: Tensor) -> Tensor:
        """Only the hidden states of the motion loss: the visual tokens after MOTION_LAYER (M, D)."""
        hidden, layout = self.inputs(packed, tokens, None), Layout.of(packed)
        turns = self.language_model.rotary_emb(hidden, packed.positions)
        with quick(), packed_attention(self.language_model.config):
            for layer in self.language_model.layers[:MOTION_LAYER]:
                hidden = layer(hidden, position_embeddings=turns, layout=layout)
        return hidden[packed.visual]

    def symbols(self, packed: Packed) -> tuple[Tensor, Tensor | None]:
        """The visual tokens (M, D) and the trajectory tokens (T, D) of a symbolic batch."""
        asked = [question for question in packed.questions if question.trajectory is not None]
        return torch.cat([self.eye(seen) for seen in packed.seen]), self.eye.trajectories(asked) if asked else None

    def loss(self, packed: Packed, hidden: Hidden) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of the answers + 0.5 x motion loss + 0.3 x guidance loss."""
        text_loss = self.answer_loss(packed, hidden.last)
        motion_loss, figures = self.motion_loss(packed, hidden.early)
        guidance, looked = self.guidance_loss(packed, hidden.guided)
        figures |= {"text": float(text_loss.detach()), "looked": looked}
        return text_loss + 0.5 * motion_loss + 0.3 * guidance, figures

    def answer_loss(self, packed: Packed, last: Tensor) -> Tensor:
        """Cross entropy of the answers, from the hidden states after the last layer (B, L, D).

        The first word of an answer (and a word after an ignored name) has weight BEGINNING, because it decides whether
        the object is in the clip at all.
        """
        answer = packed.labels[:, 1:] != IGNORED
        begins = answer & (packed.labels[:, :-1] == IGNORED)
        weight = torch.where(begins, BEGINNING, 1.0)[answer]
        loss = F.cross_entropy(self.lm_head(last[:, :-1][answer]), packed.labels[:, 1:][answer], reduction="none")
        return (loss * weight).mean()

    def motion_loss(self, packed: Packed, early: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy of each visual token's facts, predicted from `early` (M, D), and accuracies.

        The clip's first frame is left out, because an object's first frame cannot show its motion.
        """
        later = torch.cat([seen.frame for seen in packed.seen]) > 0
        truth = torch.cat([torch.cat([seen.motion, presence(seen)], dim=1) for seen in packed.seen])[later]
        parts = self.motion(early[later]).split(FACTS, dim=-1)
        loss = torch.stack([F.cross_entropy(part, truth[:, number]) for number, part in enumerate(parts)]).sum()
        right = [float((part.argmax(-1) == truth[:, number]).float().mean()) for number, part in enumerate(parts)]
        return loss, {"motion": right[0], "leaves": right[3]}

    def guidance_loss(self, packed: Packed, guided: Tensor) -> tuple[Tensor, float]:
        """-log of the fraction of the guided head's attention on the right object, and the mean fraction.

        For the targets see `attention_targets`.
        """
        layer = self.language_model.layers[GUIDED_LAYER]
        width = layer.self_attn.head_dim
        states = layer.input_layernorm(guided)
        query, key = (
            F.linear(states, p.weight[:width])[:, None] for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *self.language_model.rotary_emb(states, packed.positions))
        scores = (query @ key.transpose(2, 3)).masked_fill(~packed.mask, -torch.inf)[:, 0] / width**0.5
        at = attention_targets(packed, self.seg_id)
        share = (scores[at.rows, at.positions].softmax(-1) * at.wanted).sum(-1)
        return -share.clamp(min=1e-6).log().mean(), float(share.detach().mean())

    def watching_loss(self, packed: Packed) -> tuple[Tensor, dict[str, float]]:
        """The motion loss of symbolic clips without questions; cheap, because the upper layers are not computed."""
        loss, figures = self.motion_loss(packed, self.early_hidden(packed, self.symbols(packed)[0]))
        return loss, {"watched": figures["motion"]}

    @torch.no_grad()
    def right_objects(self, packed: Packed) -> dict[str, list[float]]:
        """By kind of question: 1 if the answer names the right objects, from symbols and under teacher forcing, else 0.

        Right means: the first word ("a" or "there"), every colour and shape, and every [SEG].
        """
        hidden = self.hidden(packed, *self.symbols(packed)).last
        guess = F.pad(self.lm_head(hidden).argmax(-1)[:, :-1], (1, 0))
        answer = packed.labels != IGNORED
        first = answer & ~F.pad(answer[:, :-1], (1, 0))
        counts = first | torch.isin(packed.labels, torch.cat(self.eye.ids_by_kind()[:2]))
        wrong = counts & (guess != packed.labels)
        # An extra or a missing [SEG] is wrong as well.
        wrong |= answer & ((guess == self.seg_id) != (packed.labels == self.seg_id))
        outcome: dict[str, list[float]] = {}
        bad = set(packed.segments[wrong].tolist())
        for number, question in enumerate(packed.questions):
            outcome.setdefault(question.kind, []).append(float(number not in bad))
        return outcome
