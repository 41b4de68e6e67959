"""Molmo2Engine: Molmo2 points at a sentence's objects on frames of a clip, and SAM 2.1 turns the points into masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from trajseg.correction.memory import MemoryPropagator
from trajseg.engines.base import PLAIN, EngineSpec, RunContext, TrackedObject, check_instruction
from trajseg.engines.grounded.candidates import Candidate, frame_masks
from trajseg.engines.grounded.captioning import track_captions
from trajseg.engines.grounded.prompts import Prompts
from trajseg.engines.grounded.sam2 import load_sam2
from trajseg.engines.grounded.viewing import ViewSettings
from trajseg.engines.marked import MarkedObject
from trajseg.engines.molmo2.answers import PointAnswer, frame_points, read_points
from trajseg.engines.molmo2.pointer import Molmo2Pointer
from trajseg.engines.molmo2.search import PointSearch
from trajseg.engines.molmo2.settings import Molmo2Settings
from trajseg.engines.parts import weights_path
from trajseg.engines.segmentation import Segmentation
from trajseg.model.device import chosen
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip

VIEW = ViewSettings(frames=4, longest=378, portrait=224)
"""Size of pictures for captions: Molmo2 sees them whole, without cutting them into crops."""


class Molmo2Engine:
    """An engine of two parts with public weights."""

    def __init__(self, pointer: Molmo2Pointer, sam2: PromptableSam2, settings: Molmo2Settings) -> None:
        self.pointer, self.sam2, self.settings = pointer, sam2, settings
        self.search = PointSearch(sam2)

    @classmethod
    def load(cls, settings: Molmo2Settings, device: str = "") -> Molmo2Engine:
        """The engine for these settings; raises CheckpointError if its weights are not on this machine."""
        place = chosen(device or None)
        half = torch.bfloat16 if torch.device(place).type == "cuda" else torch.float32
        folder = weights_path(settings.weights, "points")
        pointer = Molmo2Pointer.from_pretrained(folder, place, half, settings)
        return cls(pointer, load_sam2(weights_path(settings.tracker, "tracker"), place, half), settings)

    @property
    def spec(self) -> EngineSpec:
        """What it can do."""
        return self.settings.spec

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """The objects that the instruction refers to; see trajseg.engines.base.

        Molmo2 is asked and the whole clip is tracked before this returns; the iterator then yields the masks. This
        cannot be resumed: a second run repeats it, and only skips the finished frames.

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
            TrajSegError: Molmo2 answers without points.
        """
        instruction = check_instruction(instruction)
        clip = open_clip(clip)
        started = perf_counter()
        report = context.progress
        text, shown = self.pointer.track(clip, instruction, (lambda: report(0, len(clip))) if report else None)
        answer = read_points(text)
        tracks = frame_points(answer, clip.frame_map, shown, clip.width, clip.height)[: self.settings.objects]
        pointed = perf_counter()
        phrase = answer.label or instruction
        found = self.search.find(clip, tracks, phrase, context.progress) if tracks else []
        objects = TrackedObject.numbered([candidate.phrase for candidate in found])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=frame_masks(objects, found, [1.0] * len(found), {frame.index for frame in done}),
            answer=_answer(text, answer, found),
            done=done,
            timings={"points": pointed - started, "search": perf_counter() - pointed},
        )

    def caption(
        self, clip: Clip | str | Path, tracks: Sequence[MaskTrack], progress: Progress | None = None
    ) -> list[str]:
        """A sentence for each track, in order; see Captioner."""
        return track_captions(self.pointer.chooser, Prompts(), open_clip(clip), tracks, VIEW, progress)

    def mark(
        self, clip: Clip | str | Path, mark: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of the object at a box or click, by SAM 2's own prompt encoder; see Marker.

        The instruction is ignored: the mark says which object is meant.
        """
        return MarkedObject(self.sam2, open_clip(clip), mark, known or {}).mask()

    def propagator(self) -> MemoryPropagator:
        """Propagates painted masks through a clip with SAM 2's memory."""
        return MemoryPropagator(self.sam2)


def _answer(text: str, answer: PointAnswer, found: Sequence[Candidate]) -> str:
    """A summary of the whole process, for people."""
    lines = [
        f"{number}. {candidate.phrase}, frames {candidate.shown[0]} to {candidate.shown[-1]}."
        for number, candidate in enumerate(found, 1)
    ]
    if answer.faults:
        lines.append(f"Left out of the answer: {'; '.join(answer.faults)}.")
    return "\n".join([*(lines or ["Nothing was found."]), text])
