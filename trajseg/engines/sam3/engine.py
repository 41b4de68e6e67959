"""Sam3Engine: noun phrases to mask tracks with SAM 3; several phrases, such as all labels of a project, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from trajseg.engines.base import (
    PLAIN,
    EngineSpec,
    FrameMasks,
    ObjectMask,
    RunContext,
    TrackedObject,
    check_instruction,
)
from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.engine import ARTICLES
from trajseg.engines.parts import weights_path
from trajseg.engines.sam3.search import Sam3Search
from trajseg.engines.sam3.settings import Sam3Settings
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InstructionError
from trajseg.model.device import chosen
from trajseg.video import Clip, open_clip

_BETWEEN = re.compile(r"[;,\n]")


class Sam3Engine:
    """An engine with one model. It understands noun phrases: no actions, relations or comparisons."""

    def __init__(self, search: Sam3Search) -> None:
        self.search, self.settings = search, search.settings

    @classmethod
    def load(cls, settings: Sam3Settings, device: str = "") -> Sam3Engine:
        """The engine for these settings; raises CheckpointError if its weights are not on this machine."""
        folder = weights_path(settings.weights, "concepts")
        return cls(Sam3Search.from_pretrained(folder, chosen(device or None), settings))

    @property
    def spec(self) -> EngineSpec:
        """What it can do."""
        return self.settings.spec

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """Everything that matches the instruction's phrases; see trajseg.engines.base.

        The whole clip is searched before this returns; the iterator then yields the masks. A search cannot be resumed:
        a second run repeats it, and only skips the finished frames.

        Args:
            instruction: noun phrases separated by commas, semicolons or line breaks: "car, person, traffic light".

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
        """
        phrases = noun_phrases(instruction)
        clip = open_clip(clip)
        started = perf_counter()
        found = self.search.find(clip, phrases, context.progress)
        objects = TrackedObject.numbered([candidate.phrase for candidate in found])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=check_instruction(instruction),
            objects=objects,
            frames=_frames(objects, found, {frame.index for frame in done}),
            answer=_answer(phrases, found),
            done=done,
            timings={"search": perf_counter() - started},
        )


def noun_phrases(instruction: str) -> list[str]:
    """The phrases in an instruction, without articles; raises InstructionError if there is none."""
    phrases = []
    for part in _BETWEEN.split(check_instruction(instruction).strip(" .!?")):
        words = part.split()
        while words and words[0].lower() in ARTICLES:
            words.pop(0)
        phrases += [" ".join(words)] if words else []
    if not phrases:
        raise InstructionError(f"{instruction!r} names nothing.", "Name an object, such as 'the red car'.")
    return list(dict.fromkeys(phrases))


def _answer(phrases: Sequence[str], found: Sequence[Candidate]) -> str:
    lines = [f"Looked for: {', '.join(phrases)}."]
    for number, candidate in enumerate(found, 1):
        shown = candidate.shown
        lines.append(f"{number}. {candidate.phrase} ({candidate.score:.2f}), frames {shown[0]} to {shown[-1]}.")
    return "\n".join(lines if found else [*lines, "Nothing of the kind was found."])


def _frames(objects: Sequence[TrackedObject], found: Sequence[Candidate], done: set[int]) -> Iterator[FrameMasks]:
    """Every frame that is not done, in time order."""
    for index in range(len(found[0].frames) if found else 0):
        if index not in done:
            masks = {}
            for thing, candidate in zip(objects, found, strict=True):
                frame = candidate.frames[index]
                score = min(1.0, max(0.0, frame.score * candidate.score)) if frame.rle else frame.score
                masks[thing.uid] = ObjectMask(frame.rle, score, frame.presence)
            yield FrameMasks(index, masks)
