"""Teaches a tiny Qwen3-VL to choose among numbered candidates of the shapes world, in three stages.

`eyes`: the vision tower learns to turn a portrait into a code of its colour and shape. `words`: the language model
learns to answer from these codes, without pictures, as a pre-trained one has learned from text. `both`: the two
together, on pictures. Everything at once from nothing does not learn.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from trajseg.engines.grounded.dialogue import Scene as ShownScene
from trajseg.engines.grounded.dialogue import ShownCandidate, choose_parts, scene_parts
from trajseg.engines.grounded.pictures import portrait
from trajseg.engines.grounded.prompts import Part, Prompts, joined
from trajseg.shapes.engines import vlm
from trajseg.shapes.engines.lessons import MISREAD, SIDES, Lesson, asked_looks, draw_lesson, draw_matching
from trajseg.shapes.engines.pictures import PictureStream, Recolouring
from trajseg.shapes.engines.teaching import Stage, Step
from trajseg.shapes.recipe.clips import relit
from trajseg.shapes.recipe.mixtures import SYMBOLS
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, SHAPES, SIZES

PROMPTS = Path(__file__).parent / "prompts"
"""Short ones: a model of this size needs no explanations, and each word costs training time."""
LOOKS = (len(COLOURS), len(SHAPES), len(SIZES), len(MOTIONS))
ASKED = (len(COLOURS) + 1, len(SHAPES) + 1, len(SIZES) + 1, len(MOTIONS) + 1, len(SIDES) + 1)
"""What a sentence says of what it means, or that it does not say."""
COMPARED = 5
"""The layer after which the place of a verdict has to know what the sentence says and what the candidate is."""
MIDDLE = 3
"""The layer after which a candidate's last word has to know its looks and its motion."""
LIT = 0.2
NAMELESS = 0.1
"""Share of candidates whose colour or shape has no name."""
MISHEARD = 0.1
"""Share of the others whose colour is read as another one while the answer is written on."""
SIZE = 2
"""The column of the size among looks."""
RECOLOURED = 0.5
MATCHED = 200
"""Batches of short lessons at first."""
BATCH, POOL = 14, 8
"""Lessons a step, and steps whose lessons are drawn together."""
STAGES = ("eyes", "words", "both")
RATES = {"eyes": 1.5e-3, "words": 1.5e-3, "both": 8e-4}


BARRED_SHAPE = torch.tensor([next((SHAPES.index(s) for c, s in HELD_OUT if c == colour), -1) for colour in COLOURS])
"""The shape that no object of a colour has but in the test split, by colour; -1 for none."""
BARRED_COLOUR = torch.tensor([next((COLOURS.index(c) for c, s in HELD_OUT if s == shape), -1) for shape in SHAPES])


def without(logits: Tensor, barred: Tensor) -> Tensor:
    """logits [n, V] with entry barred [n] of each row out of the running; -1 bars none.

    That an object is red would else teach that it is no star, as red stars are only in the test split.
    """
    out = torch.full_like(logits[:, :1], -1e4)
    struck = logits.scatter(1, barred.clamp(min=0)[:, None], out)
    return struck.where((barred >= 0)[:, None], logits)


class Teacher(nn.Module):
    """The model, with the heads and codes that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vlm: Qwen3VLForConditionalGeneration = vlm.fresh()
        self.named = nn.Linear(vlm.WIDTH, len(COLOURS) + len(SHAPES))
        self.looks = nn.Linear(vlm.WIDTH, sum(LOOKS))
        self.asked = nn.Linear(vlm.WIDTH, sum(ASKED))
        self.judged = nn.Linear(vlm.WIDTH, sum(LOOKS))
        # Of their own seed: heads of another size must not change the codes that a tower has learned.
        coded = torch.Generator().manual_seed(0)
        self.colours = nn.Buffer(torch.randn(len(COLOURS), vlm.WIDTH, generator=coded) * 0.04)
        self.shapes = nn.Buffer(torch.randn(len(SHAPES), vlm.WIDTH, generator=coded) * 0.04)

    def eyes_loss(self, pixels: Tensor, grid: Tensor, looks: Tensor) -> tuple[Tensor, dict[str, float]]:
        """looks (n, 2): colour, -1 where it has no name, and shape."""
        seen = self.vlm.model.visual(pixels, grid_thw=grid).pooler_output.view(len(grid), vlm.TOKENS, -1)
        colour, shape = self.named(seen.mean(1) / 0.04).split((len(COLOURS), len(SHAPES)), -1)
        named = looks[:, 0] >= 0
        # A colour without a name may be seen as whatever it is seen as; the shape has to be right all the same.
        taken = self.colours[looks[:, 0].clamp(min=0)].where(named[:, None], colour.detach().softmax(-1) @ self.colours)
        code = (taken + self.shapes[looks[:, 1]])[:, None]
        apart = (seen - code).square().mean() / code.square().mean()
        unlike = BARRED_SHAPE[looks[:, 0].clamp(min=0)].where(named, -1)
        loss = apart + F.cross_entropy(without(shape, unlike), looks[:, 1])
        loss = loss + F.cross_entropy(without(colour, BARRED_COLOUR[looks[:, 1]]), looks[:, 0], ignore_index=-1)
        return loss, {
            "apart": float(apart.detach()),
            "colour": float((colour.argmax(1) == looks[:, 0])[named].float().mean()),
            "shape": float((shape.argmax(1) == looks[:, 1]).float().mean()),
        }

    def codes(self, batch: Batch) -> Tensor:
        """What a perfect tower would see in each portrait, with a little noise: (images * TOKENS, WIDTH)."""
        there = batch.looks[:, SIZE] >= 0
        code = self._coded(self.colours, batch.looks[:, 0]) + self._coded(self.shapes, batch.looks[:, 1])
        code = code * there[:, None]
        code = code + torch.randn_like(code) * 0.04 * (~there[:, None])
        code = code[:, None] + torch.randn(len(code), vlm.TOKENS, vlm.WIDTH) * 0.018
        return code.flatten(0, 1)

    def _coded(self, codes: Tensor, looks: Tensor) -> Tensor:
        """The codes of these looks; for -1 one that has no name: strange, or half-way between two names."""
        count = len(looks)
        strange = torch.randn(count, vlm.WIDTH) * 0.04
        share = SYMBOLS.least_weight + (1 - 2 * SYMBOLS.least_weight) * torch.rand(count, 1)
        pairs = codes[torch.randint(len(codes), (2, count))]
        blend = torch.where(torch.rand(count, 1) < SYMBOLS.blended, share * pairs[0] + (1 - share) * pairs[1], strange)
        return codes[looks.clamp(min=0)].where((looks >= 0)[:, None], blend)

    def answer_loss(self, batch: Batch, visual: Tensor) -> tuple[Tensor, dict[str, float]]:
        model = self.vlm.model
        embeddings = model.get_input_embeddings()(batch.ids)
        pictured = batch.kinds == 1
        if len(visual):
            embeddings = embeddings.masked_scatter(pictured[..., None], visual)
        positions, _ = model.get_rope_index(
            batch.ids, batch.kinds, image_grid_thw=batch.grid, attention_mask=batch.mask
        )
        # Padding stands at the end, where a causal mask alone keeps it from being read; this is faster.
        out = model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            output_hidden_states=True,
            use_cache=False,
        )
        places = batch.labels[:, 1:] >= 0
        logits = self.vlm.lm_head(out.last_hidden_state[:, :-1][places])
        logits = without(logits, batch.barred[:, 1:][places])
        truth = batch.labels[:, 1:][places]
        weight = 1.0 + 14.0 * batch.verdicts[:, 1:][places]
        each = F.cross_entropy(logits, truth, reduction="none")
        loss = (each * weight).sum() / weight.sum()
        figures = {"ce": float(each.detach().mean())}
        decided = batch.verdicts[:, 1:][places]
        right = logits.argmax(-1) == truth
        if decided.any():
            figures["verdict"] = float(right[decided].float().mean())
            accepted = decided & (truth == batch.accept)
            figures["recall"] = float(right[accepted].float().mean())
        if len(batch.asked):
            where = batch.verdicts[:, 1:].nonzero()
            middle = F.rms_norm(out.hidden_states[COMPARED][where[:, 0], where[:, 1]], (vlm.WIDTH,))
            for column, part in enumerate(self.asked(middle).split(ASKED, -1)):
                loss = loss + 0.15 * F.cross_entropy(part, batch.asked[:, column])
                right_asked = (part.argmax(-1) == batch.asked[:, column]).float()
                figures["asked"] = figures.get("asked", 0.0) + float(right_asked.mean()) / len(ASKED)
        real = batch.judged[:, SIZE] >= 0
        where = batch.openings.nonzero()[real]
        if len(where) and len(batch.ends):
            middle = F.rms_norm(out.hidden_states[COMPARED][where[:, 0], where[:, 1]], (vlm.WIDTH,))
            for column, part in enumerate(self.judged(middle).split(LOOKS, -1)):
                target = batch.judged[real, column]
                part = without(part, self._barred(batch.judged[real], column))
                loss = loss + 0.2 * F.cross_entropy(part, target, ignore_index=-1)
                right = (part.argmax(-1) == target)[target >= 0].float()
                figures["met"] = figures.get("met", 0.0) + float(right.mean()) / len(LOOKS)
        if len(batch.ends):
            rows, columns = batch.ends[:, 0], batch.ends[:, 1]
            middle = out.hidden_states[MIDDLE][rows, columns]
            parts = self.looks(F.rms_norm(middle, (vlm.WIDTH,))).split(LOOKS, -1)
            there = batch.looks[:, SIZE] >= 0
            names = ("colour", "shape", "size", "motion")
            for column, (name, part) in enumerate(zip(names, parts, strict=True)):
                target = batch.looks[there, column]
                part = without(part[there], self._barred(batch.looks[there], column))
                loss = loss + 0.08 * F.cross_entropy(part, target, ignore_index=-1)
                figures[name] = float((part.argmax(-1) == target)[target >= 0].float().mean())
        return loss, figures

    def _barred(self, looks: Tensor, column: int) -> Tensor:
        """What is out of the running for a look (0: colour, 1: shape) of candidates with these looks (n, 4)."""
        none = torch.full_like(looks[:, 0], -1)
        if column > 1:
            return none
        other = looks[:, 1 - column]
        return (BARRED_SHAPE if column else BARRED_COLOUR)[other.clamp(min=0)].where(other >= 0, none)


@dataclass(frozen=True)
class Batch:
    """B conversations of at most L tokens with n portraits.

    ids, mask, kinds (1: a visual token), labels (-100: not to be learned) and barred (a token that a label must not
    teach against, or -1) int64 [B, L]; verdicts and openings (where
    the words on a candidate begin) bool [B, L]; asked [V, 5] and judged [V, 4]: for each verdict what the sentence
    says, and the candidate's looks; ends [n, 2] row and column of each candidate's last number; looks [n, 4], -1 for
    false alarms; grid [n, 3] as the processor has it; accept: the token of "accept".
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
    """Turns lessons into batches, by the dialogue of `grounded` and the chat template of the tiny model."""

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
        """(what is asked, what is answered) turns as text with image tokens."""
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
                # The look of a candidate that is not shown cannot be known.
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
                    # The number after the full stop, where all of the candidate has been read.
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
        """Patches and grid of portraits, as the processor gives them."""
        inputs = self.processor.image_processor(images=portraits, return_tensors="pt")
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def _heard(self, said: list[int], answered: list[bool], lesson: Lesson) -> list[int]:
        """An answer as the model reads it while it writes: what has no name is read as some name, and is not learned.

        Nor is the verdict on such a candidate: whether a sentence means it cannot be known.
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
        """Where in an answer the words on each candidate begin: at the quotation mark before them."""
        begins = [False] * len(said)
        if any(verdict):
            for place, token in enumerate(said):
                begins[place] = token == self.mark and said[place - 1] == self.colon
        return begins

    def _barred(self, labels: Tensor) -> Tensor:
        """For a colour before its shape, and a shape behind its colour, the token of what only the test split pairs."""
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
    """The lesson with some candidates' colour or shape taken for one without a name, or read wrongly."""
    if not lesson.shown or [kind for kind, *_ in lesson.turns] != ["choose"]:
        return lesson

    def drawn(looks: tuple[int, ...]) -> int | None:
        if looks and rng.random() < NAMELESS:
            return rng.randrange(2)
        return MISREAD if looks and rng.random() < MISHEARD else None

    return replace(lesson, unnamed=[drawn(one.looks) for one in lesson.candidates])


def as_text(parts: list[Part]) -> str:
    """A turn as the processor writes it, with a portrait's visual tokens in its place."""
    picture = "<|vision_start|>" + "<|image_pad|>" * vlm.TOKENS + "<|vision_end|>"
    return "".join(part if isinstance(part, str) else picture for part in parts)


def portraits_of(lesson: Lesson, rng: random.Random) -> list[np.ndarray]:
    """The candidates' portraits, cut from the moments that show them."""
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


def single_portraits(rng: random.Random, count: int) -> Iterator[tuple[list[np.ndarray], Tensor]]:
    """Endless batches of portraits of single objects, with (count, 2) colour and shape.

    Half of them are in other colours, with -1 for the colour: else a shape is learned only in the colours that the
    training split has it in, and a pair that only the test split has is taken for another one.
    """
    stream = iter(PictureStream(rng.getrandbits(40), 240, frames=2))
    cut: list[np.ndarray] = []
    looks: list[tuple[int, int]] = []
    while True:
        picture = next(stream)
        for (left, top, right, bottom), (colour, shape, _) in zip(picture.boxes, picture.attributes, strict=True):
            off = [rng.gauss(0, 0.04) * (right - left) for _ in range(4)]
            box = (left + off[0], top + off[1], right - left + off[2], bottom - top + off[3])
            one = portrait(picture.rgb, box, vlm.PORTRAIT)
            if rng.random() < RECOLOURED:
                one, named = Recolouring.drawn(rng, COLOURS[colour], SHAPES[shape])(one), -1
            else:
                named = int(colour)
            cut.append(one)
            looks.append((named, int(shape)))
        if len(cut) >= count:
            yield cut[:count], torch.tensor(looks[:count])
            cut, looks = cut[count:], looks[count:]


def train(out: Path, minutes: dict[str, float], seed: int = 0) -> None:
    """All stages, each for so many minutes; resumes from what lies in `out`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    teacher, desk = Teacher(), Desk()

    def begin(stage: str, before: Path | None, done: int) -> Step:
        if before is not None and not done:
            teacher.load_state_dict(torch.load(before, weights_only=True)["model"])
        rng = random.Random(f"{seed}/{stage}/{done}")
        singles, drawn = single_portraits(rng, 32), lesson_batches(rng, done if stage == "words" else done + MATCHED)
        return lambda: _step(teacher, desk, stage, rng, singles, drawn)

    before: Path | None = None
    for name in STAGES:
        stage = Stage(name, RATES[name], minutes[name], warm_up=40)
        stage.run(out, teacher, partial(begin, name, before))
        before = stage.path(out)
    folder = out / "checkpoint"
    teacher.vlm.half().save_pretrained(folder)
    desk.processor.save_pretrained(folder)
    shutil.copytree(PROMPTS, folder / "prompts", dirs_exist_ok=True)


def lesson_batches(rng: random.Random, done: int = 0) -> Iterator[list[Lesson]]:
    """Endless batches of lessons of about the same length, so that little of a batch is padding.

    The first MATCHED batches, and every third one after them, are short lessons on matching words: among whole
    conversations, full of the same words, it is not learned.
    """
    while True:
        while done < MATCHED or done % 4 == 0:
            done += 1
            yield [lesson for _ in range(3 * BATCH) if (lesson := draw_matching(rng)) is not None]
        drawn = [lesson for _ in range(BATCH * POOL) if (lesson := draw_lesson(rng)) is not None]
        drawn.sort(key=lambda lesson: (len(lesson.candidates), len(lesson.turns)))
        batches = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
        rng.shuffle(batches)
        for batch in batches:
            done += 1
            yield batch
            if done % 4 == 0:
                done += 1
                yield [lesson for _ in range(3 * BATCH) if (lesson := draw_matching(rng)) is not None]


def _step(
    teacher: Teacher,
    desk: Desk,
    stage: str,
    rng: random.Random,
    singles: Iterator[tuple[list[np.ndarray], Tensor]],
    drawn: Iterator[list[Lesson]],
) -> tuple[Tensor, dict[str, float]]:
    if stage == "eyes":
        cut, looks = next(singles)
        return teacher.eyes_loss(*desk.pixels(cut), looks)
    lessons = next(drawn)
    if stage == "words":
        batch = desk.batch([nameless(lesson, rng) for lesson in lessons])
        return teacher.answer_loss(batch, teacher.codes(batch))
    batch = desk.batch(lessons)
    cut = [
        each for lesson in lessons for each in (portraits_of(lesson, rng) if lesson.shown and lesson.candidates else [])
    ]
    if not cut:
        return teacher.answer_loss(batch, torch.zeros(0, vlm.WIDTH))
    pixels, grid = desk.pixels(cut)
    # The tower stays frozen: it would forget how to see a shape in any colour.
    with torch.no_grad():
        seen = teacher.vlm.model.visual(pixels, grid_thw=grid).pooler_output
    return teacher.answer_loss(batch, seen)


def main() -> None:
    """Trains into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/engines/chooser"))
    for stage, minutes in zip(STAGES, (14, 30, 8), strict=True):
        parser.add_argument(f"--{stage}-minutes", type=float, default=minutes)
    given = parser.parse_args()
    train(given.out, {stage: getattr(given, f"{stage}_minutes") for stage in STAGES})


if __name__ == "__main__":
    main()
