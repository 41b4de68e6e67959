"""The desk: turns lessons into batches of tensors, by the dialogue of `grounded` and the tiny model's chat template."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trajseg.engines.grounded.dialogue import Scene as ShownScene
from trajseg.engines.grounded.dialogue import ShownCandidate, choose_parts, scene_parts
from trajseg.engines.grounded.pictures import portrait
from trajseg.engines.grounded.prompts import Part, Prompts, joined
from trajseg.shapes.engines import vlm
from trajseg.shapes.engines.lessons import MISREAD, SIDES, Lesson, asked_looks
from trajseg.shapes.recipe.clips import relit
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, SHAPES, SIZES

PROMPTS = Path(__file__).parent / "prompts"
"""Short prompts: a model of this size needs no explanations, and each word costs training time."""
LOOKS = (len(COLOURS), len(SHAPES), len(SIZES), len(MOTIONS))
ASKED = (len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1, len(MOTIONS) + 1, len(SIDES) + 1)
"""Number of classes of each attribute that a sentence may state; the last class of each: not stated."""
LIT = 0.2
NAMELESS = 0.1
"""Share of candidates whose colour or shape has no name."""
MISHEARD = 0.1
"""Share of the other candidates whose colour is replaced by another one in the teacher-forced answer."""


@dataclass(frozen=True)
class Batch:
    """B conversations of at most L tokens with n portraits and V verdicts.

    Args:
        ids: int64 [B, L].
        mask: int64 [B, L], 0 on padding.
        kinds: int64 [B, L], 1 on visual tokens.
        labels: int64 [B, L], -100 where nothing is learned.
        barred: int64 [B, L], the token masked out of the loss of a label, or -1.
        verdicts: bool [B, L], the verdicts' tokens.
        openings: bool [B, L], where the description of a candidate begins.
        ends: int64 [n, 2], row and column of each candidate's last number.
        looks: int64 [n, 4], each candidate's, -1 for false alarms.
        asked: int64 [V, 5], for each verdict the attributes that the sentence states.
        judged: int64 [V, 4], for each verdict the candidate's looks.
        grid: int64 [n, 3], as returned by the processor.
        accept: the token of "accept".
    """

    ids: Tensor
    mask: Tensor
    kinds: Tensor
    labels: Tensor
    barred: Tensor
    verdicts: Tensor
    openings: Tensor
    ends: Tensor
    looks: Tensor
    asked: Tensor
    judged: Tensor
    grid: Tensor
    accept: int


class Desk:
    """Turns lessons into batches, with the dialogue of `grounded` and the chat template of the tiny model."""

    def __init__(self) -> None:
        self.prompts = Prompts(PROMPTS)
        self.rng = random.Random(0)
        self.processor = vlm.processor()
        self.words = self.processor.tokenizer
        ids = self.words.convert_tokens_to_ids
        self.image, self.end = ids("<|image_pad|>"), ids("<|im_end|>")
        self.accept, self.reject = ids(" accept"), ids(" reject")
        self.mark, self.colon = ids(' "'), ids(":")
        self.stop, self.picture_end = ids("."), ids("<|vision_end|>")
        self.blank = np.zeros((vlm.PORTRAIT, vlm.PORTRAIT, 3), np.uint8)

    def conversation(self, lesson: Lesson) -> list[tuple[str, str]]:
        """The turns as (question, answer), text with image tokens."""
        shown = [
            ShownCandidate(number, one.phrase, one.facts, self.blank) for number, one in enumerate(lesson.candidates, 1)
        ]
        scene = ShownScene(1.0, lesson.width, (), shown)
        turns = []
        for place, (kind, said, answer) in enumerate(lesson.turns):
            if kind == "choose":
                parts = choose_parts(self.prompts, scene, said)
            else:
                parts = self.prompts.parts(kind, {"number": said, "instruction": said})
            if place == 0 and shown and lesson.shown:
                parts = joined([*scene_parts(self.prompts, scene), *parts])
            turns.append((as_text(parts), answer))
        return turns

    def batch(self, lessons: list[Lesson]) -> Batch:
        rows = []
        for lesson in lessons:
            ids: list[int] = []
            learned: list[bool] = []
            decided: list[bool] = []
            begins: list[bool] = []
            read: list[int] = []
            for asked, answer in self.conversation(lesson):
                question = self._ids(f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n")
                said = self._ids(f"{answer}<|im_end|>")
                after = self._ids("\n")
                ids += [*question, *said, *after]
                verdict = [token in (self.accept, self.reject) for token in said]
                # The looks of a candidate that is not shown cannot be known.
                answered = [True] * len(said) if lesson.shown else verdict
                heard = self._heard(said, answered, lesson) if lesson.unnamed else said
                read += [*question, *heard, *after]
                learned += [False] * len(question) + answered + [False] * len(after)
                decided += [False] * len(question) + verdict + [False] * len(after)
                begins += [False] * len(question) + self._begins(said, verdict) + [False] * len(after)
            rows.append((ids, read, learned, decided, begins))
        length = max(len(ids) for ids, *_ in rows)
        shape = (len(rows), length)
        pad = self.words.pad_token_id
        ids_t, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64)
        labels, verdicts = torch.full(shape, -100), torch.zeros(shape, dtype=torch.bool)
        openings = torch.zeros(shape, dtype=torch.bool)
        ends = []
        for row, (ids, read, learned, decided, begins) in enumerate(rows):
            ids_t[row, : len(ids)] = torch.tensor(read)
            mask[row, : len(ids)] = 1
            labels[row, : len(ids)] = torch.where(torch.tensor(learned), torch.tensor(ids), -100)
            verdicts[row, : len(ids)] = torch.tensor(decided)
            openings[row, : len(ids)] = torch.tensor(begins)
            for column, token in enumerate(ids):
                if token == self.picture_end:
                    # The number after the full stop, where the whole candidate has been read.
                    ends.append((row, ids.index(self.stop, column) + 2))
        unseen = (-1,) * len(LOOKS)
        looks = [
            _named(lesson, at) or unseen for lesson in lessons if lesson.shown for at in range(len(lesson.candidates))
        ]
        judging = [
            (asked_looks(said), _named(lesson, at) or unseen)
            for lesson in lessons
            for kind, said, _ in lesson.turns
            if kind == "choose"
            for at in range(len(lesson.candidates))
        ]
        said_looks, judged = [pair[0] for pair in judging], [pair[1] for pair in judging]
        return Batch(
            ids_t,
            mask,
            (ids_t == self.image).long(),
            labels,
            self._barred(labels),
            verdicts,
            openings,
            torch.tensor(ends, dtype=torch.int64).view(-1, 2),
            torch.tensor(looks, dtype=torch.int64).view(-1, len(LOOKS)),
            torch.tensor(said_looks, dtype=torch.int64).view(-1, len(ASKED)),
            torch.tensor(judged, dtype=torch.int64).view(-1, len(LOOKS)),
            torch.tensor([[1, 4, 4]]).expand(len(looks), 3),
            self.accept,
        )

    def pixels(self, portraits: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Patches and grid of portraits, as returned by the processor."""
        inputs = self.processor.image_processor(images=portraits, return_tensors="pt")
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def _heard(self, said: list[int], answered: list[bool], lesson: Lesson) -> list[int]:
        """The answer as teacher-forced input: a look without a name becomes a random name, which is not learned.

        The verdict on such a candidate is not learned either: whether a sentence refers to it cannot be known.
        """
        heard = list(said)
        begins = self._begins(said, [True])
        places = [at for at, begin in enumerate(begins) if begin]
        for unnamed, one, place in zip(lesson.unnamed, lesson.candidates, places, strict=True):
            if unnamed is None:
                continue
            colour, shape = COLOURS[one.looks[0]], SHAPES[one.looks[1]]
            # After the quotation mark: "a", the size, the colour, the shape.
            word = place + 3 + max(0, unnamed)
            names = [name for name in SHAPES if (colour, name) not in HELD_OUT]
            if unnamed != 1:
                names = [name for name in COLOURS if (name, shape) not in HELD_OUT]
            heard[word] = self.words.convert_tokens_to_ids(f" {self.rng.choice(names)}")
            answered[word] = unnamed == MISREAD
            verdict = next(at for at in range(place, len(said)) if said[at] in (self.accept, self.reject))
            answered[verdict] = False
        return heard

    def _begins(self, said: list[int], verdict: list[bool]) -> list[bool]:
        """Where in an answer the description of each candidate begins: at the quotation mark before it."""
        begins = [False] * len(said)
        if any(verdict):
            for place, token in enumerate(said):
                begins[place] = token == self.mark and said[place - 1] == self.colon
        return begins

    def _barred(self, labels: Tensor) -> Tensor:
        """For a colour before its shape, and a shape after its colour, the token that only the test split pairs with
        it."""
        barred = torch.full_like(labels, -1)
        for colour, shape in HELD_OUT:
            its_colour, its_shape = self.words.convert_tokens_to_ids([f" {colour}", f" {shape}"])
            barred[:, 1:][(labels[:, :-1] == its_colour) & self._is(labels[:, 1:], SHAPES)] = its_shape
            barred[:, :-1][(labels[:, 1:] == its_shape) & self._is(labels[:, :-1], COLOURS)] = its_colour
        return barred

    def _is(self, labels: Tensor, names: tuple[str, ...]) -> Tensor:
        return torch.isin(labels, torch.tensor(self.words.convert_tokens_to_ids([f" {name}" for name in names])))

    def _ids(self, text: str) -> list[int]:
        return self.words(text, add_special_tokens=False)["input_ids"]


def _named(lesson: Lesson, at: int) -> tuple[int, ...]:
    """The looks of a candidate, -1 for what has no name."""
    looks = lesson.candidates[at].looks
    unnamed = lesson.unnamed[at] if lesson.unnamed else None
    return (
        looks if unnamed in (None, MISREAD) else tuple(-1 if at == unnamed else look for at, look in enumerate(looks))
    )


def nameless(lesson: Lesson, rng: random.Random) -> Lesson:
    """The lesson with the colour or shape of some candidates replaced by one without a name, or misread."""
    if not lesson.shown or [kind for kind, *_ in lesson.turns] != ["choose"]:
        return lesson

    def drawn(looks: tuple[int, ...]) -> int | None:
        if looks and rng.random() < NAMELESS:
            return rng.randrange(2)
        return MISREAD if looks and rng.random() < MISHEARD else None

    return replace(lesson, unnamed=[drawn(one.looks) for one in lesson.candidates])


def as_text(parts: list[Part]) -> str:
    """A turn as the processor writes it, with visual tokens in place of each portrait."""
    picture = "<|vision_start|>" + "<|image_pad|>" * vlm.TOKENS + "<|vision_end|>"
    return "".join(part if isinstance(part, str) else picture for part in parts)


def portraits_of(lesson: Lesson, rng: random.Random) -> list[np.ndarray]:
    """The candidates' portraits, cropped from the frames that show them."""
    height = rng.randint(150, 260)
    moments = sorted({one.moment for one in lesson.candidates})
    frames, _ = render(lesson.scene, height, moments)
    if rng.random() < LIT:
        frames = relit(frames, rng)
    by_moment = dict(zip(moments, frames, strict=True))
    cut = []
    for one in lesson.candidates:
        x, y, width, across = (side * height for side in one.box)
        cut.append(portrait(by_moment[one.moment], (x, y, width, across), vlm.PORTRAIT))
    return cut
