"""Training texts of the language model: clips as symbols or features, each with many questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trajseg.data.sentences import REQUEST, grounding_answer
from trajseg.model.dialogue import WORDS
from trajseg.model.processor import TrajSegProcessor, word_tokenizer
from trajseg.shapes.recipe.mixtures import (
    ATTRIBUTE_SIZES,
    KINDS,
    NAMES,
    attributes,
    with_corrupted_names,
    with_placeholders,
)
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import (
    REQUEST_SEGMENT_TEMPLATES,
    Instruction,
    caption_requests,
    instructions,
    short_caption,
    vocabulary,
)
from trajseg.shapes.world.phrases import KNOWN_COLOURS, KNOWN_SHAPES, PLURALS
from trajseg.shapes.world.render import boxes
from trajseg.shapes.world.scenes import MOTIONS, SAMPLED_FRAMES, SHAPES, SIZES, Scene
from trajseg.video.spacing import sampled_frames

IGNORED = -100
TEXTS_PER_CLIP = 8
CAPTIONS_PER_CLIP = 1
SMALL_WORDS = ("the", "a", "that", "is", "in", "of", "to", "this", "video", "picture", "only", "one", "please", "here")
SLOT = -1
"""Placeholder for a trajectory token in a request."""
WEIGHTS = {
    "attribute": 3.5,
    "motion": 1.5,
    "place": 1.8,
    "comparison": 1.5,
    "event": 1.8,
    "several": 1.3,
    "none": 2.2,
}
"""Sampling weight of hard kinds of question; 1 for the others."""


def shapes_processor(size: int) -> TrajSegProcessor:
    """The processor of a checkpoint for the shapes world: whole words, pictures of size x size."""
    return TrajSegProcessor(word_tokenizer([*WORDS, *vocabulary()]), llm_size=size, mask_size=size)


@dataclass
class VisibleObjects:
    """Visible objects of a clip's N frames, one row each, in time order and raster order within a frame.

    attributes (M, 3) int64: colour, shape, size; box (M, 4) xyxy in units of the letterboxed side; frame (M,) int64;
    motion (M, 2) int64: the object's motion in the clip, and whether it is fast;
    look (M, LOOKS) float32: see mixtures; None if it follows from the attributes.
    """

    attributes: Tensor
    box: Tensor
    frame: Tensor
    motion: Tensor
    look: Tensor | None = None

    def in_order(self) -> VisibleObjects:
        """The same rows in time order and raster order."""
        column, row = ((self.box[:, :2] + self.box[:, 2:]) * 8).long().unbind(1)
        order = (self.frame * 1024 + row * 32 + column).argsort()
        look = None if self.look is None else self.look[order]
        return VisibleObjects(self.attributes[order], self.box[order], self.frame[order], self.motion[order], look)


@dataclass
class Question:
    """One question about a clip: request and answer as token ids, and the objects that the [SEG]s mean.

    targets: attributes of the target objects, (S, 3) int64: colour, shape, size.
    trajectory: for caption requests, the object's boxes (N, 4) as in VisibleObjects, zero where it is absent; its
    tokens replace each SLOT in `request`; look (LOOKS,): that object's, or None, as in VisibleObjects.
    answer: IGNORED in place of an attribute without a name. read: the teacher-forced input, the answer with some names
    corrupted.
    """

    kind: str
    request: list[int]
    answer: list[int]
    targets: Tensor
    trajectory: Tensor | None = None
    look: Tensor | None = None
    read: list[int] = field(default_factory=list)


def trajectories(scene: Scene, frames: int, least: float = 0.15, facts: Facts | None = None) -> Tensor:
    """Boxes (K, N, 4) of all objects in the N frames, as in VisibleObjects; zero if less than `least` of it is visible.

    facts: Facts(scene), if available; its boxes are used if N is its number of frames.
    """
    if facts is not None and frames == SAMPLED_FRAMES:
        xyxy, visible = facts.xyxy, facts.visible
    else:
        xyxy, visible = boxes(scene, sampled_frames(scene.frame_count, frames))
    return torch.from_numpy(xyxy) / max(1.0, scene.aspect) * (torch.from_numpy(visible) >= least)[..., None]


def names(attributes: Tensor) -> Tensor:
    """Attributes (..., 3) encoded as one number each, (...) int64."""
    return (attributes[..., 0] * len(SHAPES) + attributes[..., 1]) * len(SIZES) + attributes[..., 2]


def presence(seen: VisibleObjects) -> Tensor:
    """Whether each row's object is visible in the first and in the last frame, (M, 2) int64."""
    name = names(seen.attributes)
    ends = (name[seen.frame == seen.frame.min()], name[seen.frame == seen.frame.max()])
    return torch.stack([torch.isin(name, end) for end in ends], dim=1).long()


def seen_objects(scene: Scene, trajectories: Tensor, look: Tensor | None = None) -> VisibleObjects:
    """The visible objects of the N frames, from geometry alone.

    trajectories: boxes of all objects (K, N, 4) as in VisibleObjects, zero where an object is absent; look: of all
    objects, (K, LOOKS), or None, as in VisibleObjects.
    """
    k, frame = trajectories.any(-1).nonzero(as_tuple=True)
    rows = None if look is None else look[k]
    return VisibleObjects(attributes(scene)[k], trajectories[k, frame], frame, motions(scene)[k], rows).in_order()


def motions(scene: Scene) -> Tensor:
    """Motion of each object as an index, and 1 if it is fast, (K, 2) int64."""
    return torch.tensor([(MOTIONS.index(o.motion), int(o.speed == "fast")) for o in scene.objects])


_KNOWN = {**KNOWN_SHAPES, **KNOWN_COLOURS}


def questions(
    scene: Scene,
    processor: TrajSegProcessor,
    rng: random.Random,
    limit: int = TEXTS_PER_CLIP,
    look: Tensor | None = None,
    named: Tensor | None = None,
    facts: Facts | None = None,
) -> list[Question]:
    """At most `limit` questions with answers about a scene; hard kinds are sampled more often.

    look, named: of the objects, as from `mixtures.nameless` (None: all attributes are named). No question uses a name
    that is part of an object's blend. facts: as in `instructions`.
    """
    found = instructions(scene, rng, limit_per_kind=3, facts=facts)
    if named is not None and look is not None:
        unclear, whole = _unclear(scene, look, named), named.all(1).tolist()
        found = [
            asked
            for asked in found
            if (asked.kind != "knowledge" or all(whole[k] for k in asked.targets))
            and not any(form in f" {asked.text} " for form in unclear)
        ]
    found.sort(key=lambda q: rng.random() ** (1 / WEIGHTS.get(q.kind, 1.0)), reverse=True)
    return [encode(scene, processor, rng, q, named) for q in found[:limit]]


def _unclear(scene: Scene, look: Tensor, named: Tensor) -> set[str]:
    """All forms, between spaces, of the names that an unnamed object had, or that are part of its blend.

    look (K, LOOKS), named (K, 3): see mixtures.
    """
    in_part = look[:, :NAMES].split(ATTRIBUTE_SIZES, dim=1)
    unclear = set()
    for o, known, *parts in zip(scene.objects, named.tolist(), *in_part, strict=True):
        for name, names, is_known, part in zip((o.colour, o.shape, o.size), KINDS, known, parts, strict=True):
            if not is_known:
                unclear |= {name, *(names[at] for at in part.nonzero()[:, 0].tolist())}
    return {f" {form} " for name in unclear for form in (name, PLURALS.get(name, name), *_KNOWN.get(name, ()))}


def caption_question(
    scene: Scene,
    k: int,
    trajectory: Tensor,
    look: Tensor | None,
    processor: TrajSegProcessor,
    rng: random.Random,
    named: Tensor | None = None,
) -> Question:
    """A caption request for object k, given its boxes (N, 4) and look (LOOKS,) or None; see Question."""
    before, after = processor.caption_ids(rng.choice(caption_requests("train")))
    request = [*before, *[SLOT] * len(trajectory), *after]
    answer, read = _answers(scene, [k], processor, rng, named)
    return Question("caption", request, answer, attributes(scene)[[k]], trajectory, look, read)


def captions(
    scene: Scene,
    trajectories: Tensor,
    look: Tensor | None,
    processor: TrajSegProcessor,
    rng: random.Random,
    limit: int = CAPTIONS_PER_CLIP,
    named: Tensor | None = None,
) -> list[Question]:
    """Caption requests for at most `limit` objects that are visible in at least two frames.

    trajectories: boxes of all objects (K, N, 4) as in VisibleObjects, zero where an object is absent; look: see there.
    """
    shown = (trajectories.any(-1).sum(1) >= 2).nonzero()[:, 0].tolist()
    chosen = rng.sample(shown, min(limit, len(shown)))
    return [
        caption_question(scene, k, trajectories[k], None if look is None else look[k], processor, rng, named)
        for k in chosen
    ]


def with_small_words_changed(text: str, rng: random.Random) -> str:
    """The sentence with one or two small words removed or inserted; its meaning stays the same."""
    tokens = text.split()
    for _ in range(rng.randint(1, 2)):
        small = [at for at, word in enumerate(tokens) if word in SMALL_WORDS]
        if small and rng.random() < 0.5:
            del tokens[rng.choice(small)]
        else:
            tokens.insert(rng.randint(0, len(tokens)), rng.choice(SMALL_WORDS))
    return " ".join(tokens)


def encode(
    scene: Scene, processor: TrajSegProcessor, rng: random.Random, asked: Instruction, named: Tensor | None = None
) -> Question:
    """An instruction as token ids; half of them use the fixed request of inference."""
    template = REQUEST if rng.random() < 0.5 else rng.choice(REQUEST_SEGMENT_TEMPLATES)
    text = with_small_words_changed(asked.text, rng) if scene.split == "train" and rng.random() < 0.4 else asked.text
    _, after = processor.prompt_ids(text, 1, template)
    answer, read = _answers(scene, asked.targets, processor, rng, named)
    return Question(asked.kind, after, answer, attributes(scene)[list(asked.targets)], read=read)


def _answers(
    scene: Scene, targets: Sequence[int], processor: TrajSegProcessor, rng: random.Random, named: Tensor | None
) -> tuple[list[int], list[int]]:
    """The answer that names these objects, and its teacher-forced input; see Question."""
    labelled = forced = [scene.objects[k] for k in targets]
    if scene.split == "train":
        known = [[True] * 3 if named is None else named[k].tolist() for k in targets]
        labelled = [with_placeholders(o, each) for o, each in zip(labelled, known, strict=True)]
        forced = [with_corrupted_names(o, each, rng) for o, each in zip(forced, known, strict=True)]
    answer, read = (
        [*processor.ids(grounding_answer([short_caption(o) for o in objects])), processor.end_id]
        for objects in (labelled, forced)
    )
    unknown = processor.tokenizer.unk_token_id
    return [IGNORED if token == unknown else token for token in answer], read


Reading = Callable[[VisibleObjects, random.Random], VisibleObjects]
"""Simulates recognition: returns a clip's rows with errors."""
