"""Trains a tiny Qwen3-VL to choose among numbered candidates of the shapes world, in three stages.

`eyes`: the vision tower learns to encode a portrait's colour and shape as a code. `words`: the language model learns
to answer from these codes, without pictures, as a pre-trained model has learned from text. `both`: the two together,
on pictures. Trained end to end from scratch, the model does not learn.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from trajseg.engines.grounded.pictures import portrait
from trajseg.shapes.engines import vlm
from trajseg.shapes.engines.desk import ASKED, LOOKS, PROMPTS, Batch, Desk, nameless, portraits_of
from trajseg.shapes.engines.lessons import Lesson, draw_lesson, draw_matching
from trajseg.shapes.engines.pictures import PictureStream, Recolouring
from trajseg.shapes.engines.teaching import Stage, Step
from trajseg.shapes.recipe.mixtures import SYMBOLS
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, SHAPES

COMPARED = 5
"""After this layer the verdict's position must encode what the sentence states and what the candidate is."""
MIDDLE = 3
"""After this layer a candidate's last word must encode its looks and its motion."""
SIZE = 2
"""The size's column among the looks."""
RECOLOURED = 0.5
MATCHED = 200
"""Number of batches of short lessons at the start."""
BATCH, POOL = 14, 8
"""Lessons per step, and number of steps whose lessons are drawn together."""
STAGES = ("eyes", "words", "both")
RATES = {"eyes": 1.5e-3, "words": 1.5e-3, "both": 8e-4}


BARRED_SHAPE = torch.tensor([next((SHAPES.index(s) for c, s in HELD_OUT if c == colour), -1) for colour in COLOURS])
"""By colour: the shape that occurs with it only in the test split; -1 for none."""
BARRED_COLOUR = torch.tensor([next((COLOURS.index(c) for c, s in HELD_OUT if s == shape), -1) for shape in SHAPES])


def without(logits: Tensor, barred: Tensor) -> Tensor:
    """logits [n, V] with one class per row masked out, barred [n]; -1 masks none.

    Otherwise the model would learn that a red object is never a star, since red stars occur only in the test split.
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
        # With a separate seed: heads of another size must not change the codes that a tower has learned.
        coded = torch.Generator().manual_seed(0)
        self.colours = nn.Buffer(torch.randn(len(COLOURS), vlm.WIDTH, generator=coded) * 0.04)
        self.shapes = nn.Buffer(torch.randn(len(SHAPES), vlm.WIDTH, generator=coded) * 0.04)

    def eyes_loss(self, pixels: Tensor, grid: Tensor, looks: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of the codes of n portraits; looks (n, 2): colour, -1 if it has no name, and shape."""
        seen = self.vlm.model.visual(pixels, grid_thw=grid).pooler_output.view(len(grid), vlm.TOKENS, -1)
        colour, shape = self.named(seen.mean(1) / 0.04).split((len(COLOURS), len(SHAPES)), -1)
        named = looks[:, 0] >= 0
        # The code of a colour without a name is free; the shape must still be right.
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
        """The output of a perfect tower for each portrait, with a little noise: (images * TOKENS, WIDTH)."""
        there = batch.looks[:, SIZE] >= 0
        code = self._coded(self.colours, batch.looks[:, 0]) + self._coded(self.shapes, batch.looks[:, 1])
        code = code * there[:, None]
        code = code + torch.randn_like(code) * 0.04 * (~there[:, None])
        code = code[:, None] + torch.randn(len(code), vlm.TOKENS, vlm.WIDTH) * 0.018
        return code.flatten(0, 1)

    def _coded(self, codes: Tensor, looks: Tensor) -> Tensor:
        """The codes of these looks; for -1 (no name) a random code, or a blend of two named ones."""
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
        # Padding is at the end, so the causal mask already hides it; without an attention mask this is faster.
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
        """The class to mask out for a look (0: colour, 1: shape) of candidates with these looks (n, 4)."""
        none = torch.full_like(looks[:, 0], -1)
        if column > 1:
            return none
        other = looks[:, 1 - column]
        return (BARRED_SHAPE if column else BARRED_COLOUR)[other.clamp(min=0)].where(other >= 0, none)


def single_portraits(rng: random.Random, count: int) -> Iterator[tuple[list[np.ndarray], Tensor]]:
    """Endless batches of portraits of single objects, with (count, 2) colour and shape.

    Half of them are recoloured, with -1 for the colour. Otherwise a shape is learned only in the colours that it has
    in the training split, and a pair that occurs only in the test split is misread.
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
    """Trains all stages, each for a number of minutes; resumes from the states in `out`."""
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

    The first MATCHED batches, and every fourth one after them, are short lessons on matching words: from whole
    conversations, full of the same words, the model does not learn to match them.
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
    # The tower stays frozen: it would forget how to recognise a shape in any colour.
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
