"""Instructions are true: an independent reader, given only pictures and text, finds the same objects."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from trajseg.shapes.world import language
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import KINDS, caption_requests, instructions, parse_caption, vocabulary, words
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, SHAPES, SIZES, Scene, bin_centres, sample_scene

LOOKS_LIKE = {
    "red": "tomato|blood", "green": "grass|frog", "blue": "deep sea|blueberry", "yellow": "lemon|banana",
    "purple": "grape|eggplant", "orange": "carrot|pumpkin", "cyan": "swimming pool|turquoise",
    "white": "snow|milk", "circle": "full moon|ball", "square": "four corners|four equal sides",
    "triangle": "three corners|three sides", "star": "five points|night sky",
    "cross": "plus sign|four arms", "ring": "hole in it|doughnut",
}  # fmt: skip
MOVES = {
    "left": r"(mov\w+|heading)( to the)? left", "right": r"(mov\w+|heading)( to the)? right",
    "up": r"(mov\w+|heading) up", "down": r"(mov\w+|heading) down",
    "still": r"not mov|(?<!bouncing )still", "circling": "circling", "bouncing": "bounc",
}  # fmt: skip


class Reader:
    """Interprets an instruction word by word, given ids of 8 frames, of each object alone and of all."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.objects = scene, scene.objects
        index = bin_centres(scene.frame_count)
        ids = render(scene, 96, index.tolist())[1]
        self.seen = np.array([(ids == k + 1).sum(axis=(1, 2)) for k in range(len(self.objects))])
        alone = [render(replace(scene, objects=[o]), 96, index.tolist())[1] == 1 for o in self.objects]
        self.whole = np.array([m.sum(axis=(1, 2)) for m in alone])
        self.alone = np.array(alone)

    def place(self, k: int) -> tuple[float, float]:
        ys, xs = np.nonzero(self.alone[k, 0])
        return float(xs.mean()), float(ys.mean())

    def hidden_by(self, k: int, j: int) -> bool:
        if self.objects[j].depth < self.objects[k].depth:
            return False
        covered = (self.alone[k] & self.alone[j]).sum(axis=(1, 2)) / np.maximum(self.whole[k], 1)
        return bool((covered > 0.3).sum() >= 2 and self.objects[k].motion != "still")

    def late(self, k: int) -> bool:
        return not self.whole[k, :2].any()

    def gone(self, k: int) -> bool:
        return not self.whole[k, -2:].any()

    def described(self, text: str) -> list[int]:
        found = []
        for k, o in enumerate(self.objects):
            wanted = {w for w in (*COLOURS, *SHAPES, *SIZES) if re.search(rf"\b{w}(s|es)?\b", text)}
            wanted |= {w for w, like in LOOKS_LIKE.items() if re.search(rf"\b({like})\b", text)}
            if wanted <= {o.colour, o.shape, o.size}:
                found.append(k)
        return found

    def meant(self, text: str) -> set[int]:
        text = re.sub("in this video|in the video|in the picture", "", text).strip(" ?.")
        text = re.sub(r"\b(going round|move|moves|moving) in a circle", "circling", text)
        other = re.search(r"(left of|right of|above|below|behind) the (.*?)( at the start)?$", text)
        if other:
            text = text.replace(other.group(0), " ")
        group = self.described(text)
        if other:
            (o,) = self.described(other.group(2))
            way = other.group(1)
            if way == "behind":
                group = [k for k in group if k != o and self.hidden_by(k, o)]
            else:
                axis, sign = (
                    (0 if way in ("left of", "right of") else 1),
                    (-1 if way in ("left of", "above") else 1),
                )
                here = [k for k in group if self.whole[k, 0] and k != o]
                group = [k for k in here if sign * (self.place(k)[axis] - self.place(o)[axis]) > 0]
        if "another one" in text or "hidden" in text:
            group = [k for k in group if any(self.hidden_by(k, j) for j in range(len(self.objects)) if j != k)]
        return set(self._moving(text, self._ranked(text, group)))

    def _ranked(self, text: str, group: list[int]) -> list[int]:
        enters = re.search("enter|appears|not there at the start", text)
        leaves = re.search("leav|gone", text)
        if enters:
            group = [k for k in group if self.late(k)]
            group.sort(key=lambda k: int(np.argmax(self.seen[k] > 0)))
        if leaves:
            group = [k for k in group if self.gone(k)]
            group.sort(key=lambda k: -int(np.argmax(self.seen[k][::-1] > 0)))
        if enters or leaves:
            return group[:1] if "first" in text else group[-1:] if "last" in text else group
        at_start = [k for k in group if self.whole[k, 0]]
        if second := re.search("second.* from the (left|right)", text):
            ordered = sorted(at_start, key=lambda k: self.place(k)[0])
            return [ordered[1 if second.group(1) == "left" else -2]]
        for pattern, axis, sign in (
            ("leftmost|furthest( to the)? left", 0, 1), ("rightmost|furthest( to the)? right", 0, -1),
            (r"topmost|\bhighest", 1, 1), (r"bottommost|\blowest", 1, -1),
        ):  # fmt: skip
            if re.search(pattern, text):
                return [min(at_start, key=lambda k: sign * self.place(k)[axis])]
        area = {k: float(self.objects[k].radius) for k in group}
        pace = {k: float(np.linalg.norm(np.diff(self.objects[k].centres, axis=0), axis=1).mean()) for k in group}
        moving = [k for k in group if pace[k] > 0]
        if re.search("largest|larger|biggest", text):
            return [max(group, key=lambda k: area[k])]
        if re.search("smallest|smaller", text):
            return [min(group, key=lambda k: area[k])]
        if "fastest" in text:
            return [max(moving, key=lambda k: pace[k])]
        return [min(moving, key=lambda k: pace[k])] if "slowest" in text else group

    def _moving(self, text: str, group: list[int]) -> list[int]:
        if re.search("fastest|slowest|behind|hidden|start", text):
            return group
        if re.search("(do|does) not move|not moving|still", text):
            return [k for k in group if self.objects[k].motion == "still"]
        for motion, pattern in MOVES.items():
            if re.search(pattern, text):
                return [k for k in group if self.objects[k].motion == motion]
        if re.search(r"\bmov", text):
            return [k for k in group if self.objects[k].motion != "still"]
        return group


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_second_reader_finds_exactly_the_objects_that_are_meant(split: str) -> None:
    wrong = []
    kinds: Counter[str] = Counter()
    for seed in range(60):
        scene = sample_scene(seed, split)  # type: ignore[arg-type]
        reader = Reader(scene)
        for asked in instructions(scene, random.Random(seed), limit_per_kind=5):
            kinds[asked.kind] += 1
            if reader.meant(asked.text) != set(asked.targets):
                wrong.append((seed, asked.text, asked.targets, reader.meant(asked.text)))
            for k in asked.targets:
                assert (reader.seen[k] > 0.2 * reader.whole[k].max()).sum() >= 2, (seed, asked)
    assert not wrong, wrong[:8]
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 30


@cache
def asked_of(split: str, seed: int) -> list[language.Instruction]:
    return instructions(sample_scene(seed, split), random.Random(seed))  # type: ignore[arg-type]


def many(split: str, count: int) -> list[language.Instruction]:
    return [asked for seed in range(count) for asked in asked_of(split, seed)]


def frame_of(text: str) -> str:
    """The text without names: only its phrasing is left."""
    for known in LOOKS_LIKE.values():
        text = re.sub(rf"\b(a |the )?({known})\b", "LIKE", text)
    return re.sub(rf"\b({'|'.join((*COLOURS, *SHAPES, *SIZES))})(es|s)?\b", "X", text)


def test_several_are_in_order_from_left_to_right_where_first_seen() -> None:
    for seed in range(60):
        scene = sample_scene(seed)
        facts = Facts(scene)
        for asked in instructions(scene, random.Random(seed), facts=facts):
            assert (len(asked.targets) >= 2) == (asked.category == "several")
            assert (len(asked.targets) == 0) == (asked.category == "none")
            xs = [facts.at[k, facts.first_seen[k], 0] for k in asked.targets]
            assert xs == sorted(xs)


@pytest.mark.slow
def test_test_asks_in_phrasings_that_training_never_meets_with_words_that_it_does() -> None:
    train = {i.text for split in ("train", "val") for i in many(split, 350)}
    test = {i.text for i in many("test", 250)}
    train_frames, test_frames = {frame_of(t) for t in train}, {frame_of(t) for t in test}
    assert len(test_frames - train_frames) > 40
    assert len(train_frames - test_frames) > 40
    assert not {"the only X", "the X coloured X"} & test_frames
    assert not {"the X in X", "the X in this video"} & train_frames
    met = {w for t in (*train, *language.REQUEST_SEGMENT_TEMPLATES) for w in words(t)}
    assert {w for t in test for w in words(t)} <= met
    assert not set(caption_requests("test")) <= set(caption_requests("train"))


def test_training_never_speaks_of_the_held_out_pairs() -> None:
    for asked in many("train", 300):
        said = words(asked.text.replace("coloured ", "").replace("that is ", ""))
        for colour, shape in HELD_OUT:
            assert f"{colour} {shape}" not in " ".join(said), asked
            assert f"{shape} {colour}" not in " ".join(said), asked


def test_the_vocabulary_is_closed_small_and_always_the_same() -> None:
    known = vocabulary()
    assert known == sorted(set(known)) == vocabulary()
    assert len(known) < 400
    texts = [i.text for split in ("train", "test") for i in many(split, 150)]
    texts += [r.format(expression="") for r in language.REQUEST_SEGMENT_TEMPLATES]
    texts += [*caption_requests("train"), *caption_requests("test"), language.NOTHING]
    for seed in range(60):
        scene = sample_scene(seed)
        texts += [language.reference_caption(scene, k) for k in range(len(scene.objects))]
    for text in texts:
        assert text == text.lower()
        assert set(words(text)) <= set(known)
        assert re.sub(r"[a-z0-9',.?; ]", "", text) == ""


def test_requests_hold_the_expression_and_leave_questions_alone() -> None:
    rng = random.Random(0)
    assert all("the red ring" in language.segment_request("the red ring", rng) for _ in range(20))
    assert language.segment_request("which object enters last?", rng) == "which object enters last?"


def test_captions_say_what_can_be_read_back() -> None:
    events: Counter[str] = Counter()
    for seed in range(80):
        scene = sample_scene(seed, "test")
        for k, o in enumerate(scene.objects):
            caption = language.reference_caption(scene, k)
            assert parse_caption(caption) == {
                "size": o.size, "colour": o.colour, "shape": o.shape, "motion": o.motion,
            }  # fmt: skip
            events.update(re.findall("enters late|leaves the picture|passes behind", caption))
    assert all(events[e] > 8 for e in ("enters late", "leaves the picture", "passes behind"))
    assert parse_caption("a green thing") == {"size": None, "colour": "green", "shape": None, "motion": None}
