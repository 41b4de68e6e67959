"""GroundedEngine: detector and SAM 2 find candidates in the whole clip; a vision language model chooses among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from trajseg.correction.memory import MemoryPropagator
from trajseg.engines.base import (
    PLAIN,
    EngineSpec,
    RunContext,
    TrackedObject,
    check_instruction,
)
from trajseg.engines.grounded.candidates import Candidate, CandidateMaker, frame_masks
from trajseg.engines.grounded.captioning import track_captions
from trajseg.engines.grounded.chooser import Chooser
from trajseg.engines.grounded.choosing import Choice, choose
from trajseg.engines.grounded.detector import Detector, spoken
from trajseg.engines.grounded.dialogue import Scene, concepts_question
from trajseg.engines.grounded.pointing import ChooserDetector, convention_of
from trajseg.engines.grounded.prompts import Prompts
from trajseg.engines.grounded.search import CandidateSearch, SearchSettings
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.engines.grounded.viewing import ViewSettings, view
from trajseg.engines.marked import MarkedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import CheckpointError, InstructionError
from trajseg.model.promptable import PromptableSam2
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, TrackFrame
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip

ARTICLES = ("the", "a", "an", "all", "every", "any", "some", "this", "that", "these", "those")
DOUBT = 0.5
"""Factor for the scores of a doubtful object, so that it is among the first to be reviewed."""


@dataclass(frozen=True)
class Found:
    """Candidates for an instruction and the choice among them.

    Args:
        phrases: what the detector looked for.
        choice: with the chooser's answers, in order; empty without a chooser.
        timings: seconds by stage.
        boxed: the detector found nothing, so the candidates come from the chooser's own boxes.
    """

    instruction: str
    phrases: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    choice: Choice
    timings: dict[str, float] = field(default_factory=dict)
    boxed: bool = False

    @property
    def weights(self) -> dict[int, float]:
        """Indices of the candidates that become objects, in order, each with the agreement on it, 0 to 1."""
        weights = self.choice.accepted | dict.fromkeys(self.choice.doubtful, DOUBT)
        return dict(sorted(weights.items()))

    def caption(self, index: int) -> str:
        """The chooser's description of a candidate; the phrase if there is no chooser."""
        return self.choice.words.get(index) or self.candidates[index].phrase

    def rejected(self, clip: Clip) -> list[MaskTrack]:
        """The rejected candidates, as tracks."""
        meant, times = self.weights, clip.frame_map.times
        return [
            MaskTrack(
                uid=f"c{number}",
                label=f"candidate {number}, rejected",
                caption=self.caption(number - 1),
                score=candidate.score,
                frames=[
                    TrackFrame(index, times[index], min(1.0, max(0.0, frame.score)), frame.rle)
                    for index, frame in enumerate(candidate.frames)
                ],
                instruction=self.instruction,
            )
            for number, candidate in enumerate(self.candidates, 1)
            if number - 1 not in meant
        ]

    def answer(self) -> str:
        """A summary of the whole process, for people."""
        lines = [f"Looked for: {', '.join(self.phrases)}."]
        if self.boxed:
            lines.append("The detector found nothing: the candidates are from the chooser's own boxes.")
        for number, candidate in enumerate(self.candidates, 1):
            index = number - 1
            verdict = (
                "accepted"
                if index in self.choice.accepted
                else "doubtful, please check"
                if index in self.choice.doubtful
                else "rejected"
            )
            shown = candidate.shown
            span = f"frames {shown[0]} to {shown[-1]}" if shown else "no frames"
            lines.append(f"{number}. {self.caption(index)} ({candidate.score:.2f}), {span}: {verdict}.")
        if not self.candidates:
            lines.append("Nothing of the kind was found.")
        return "\n".join([*lines, *self.choice.said])


class GroundedEngine:
    """An engine made of three models with public weights.

    Args:
        detector: finds objects in single frames, which SAM 2 tracks; or finds the candidates on its own.
        chooser: None: use a noun phrase directly, and keep all candidates that the detector is certain of.
    """

    def __init__(
        self,
        detector: Detector | CandidateMaker,
        sam2: PromptableSam2,
        chooser: Chooser | None,
        settings: GroundedSettings | None = None,
    ) -> None:
        self.settings = settings or GroundedSettings()
        self.sam2, self.chooser = sam2, chooser
        self.prompts = Prompts(Path(self.settings.prompts) if self.settings.prompts else None)
        own = self.settings
        looks = SearchSettings(own.every, own.looks, own.threshold, own.certain, own.candidates)
        self.search: CandidateMaker = (
            CandidateSearch(detector, sam2, looks) if isinstance(detector, Detector) else detector
        )

    @property
    def spec(self) -> EngineSpec:
        """What it can do with its settings."""
        return self.settings.spec

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """The objects that the instruction refers to; see trajseg.engines.base.

        The whole clip is searched for candidates before this returns; the iterator then yields their masks. A search
        cannot be resumed: a second run repeats it and only skips the masks of finished frames.

        Raises:
            InstructionError: the instruction is empty or too long, or is not a noun phrase and there is no chooser.
            VideoError: the video cannot be read.
            TrajSegError: the chooser does not answer.
        """
        clip = open_clip(clip)
        return self.segmentation(clip, self.find(clip, instruction, context.progress), context)

    def find(self, clip: Clip, instruction: str, progress: Progress | None = None) -> Found:
        """The candidates for an instruction and the choice among them; raises as `segment` does."""
        instruction = check_instruction(instruction)
        started = perf_counter()
        phrases, said = self.concepts(instruction)
        asked = perf_counter()
        candidates = self.search.find(clip, phrases, progress)
        boxed = not candidates
        if boxed:
            candidates, boxes = self.boxed(clip, instruction, progress)
            said += boxes
        searched = perf_counter()
        choice = self.choose(clip, candidates, instruction)
        choice.said[:0] = said
        timings = {
            "concepts": asked - started,
            "candidates": searched - asked,
            "choosing": perf_counter() - searched,
        }
        return Found(instruction, tuple(phrases), tuple(candidates), choice, timings, boxed and bool(candidates))

    def segmentation(self, clip: Clip, found: Found, context: RunContext = PLAIN) -> Segmentation:
        """The result: objects, and an iterator over their masks."""
        weights = found.weights
        chosen = [found.candidates[index] for index in weights]
        objects = TrackedObject.numbered([found.caption(index) for index in weights])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=found.instruction,
            objects=objects,
            frames=frame_masks(objects, chosen, list(weights.values()), {frame.index for frame in done}),
            answer=found.answer(),
            done=done,
            timings=found.timings,
            considered=found.rejected(clip),
        )

    def concepts(self, instruction: str) -> tuple[list[str], list[str]]:
        """What the detector should look for, and the chooser's answer.

        Raises:
            InstructionError: there is nothing to look for.
        """
        if self.chooser is None:
            words = spoken(instruction).split()
            while words and words[0] in ARTICLES:
                words.pop(0)
            if not words:
                raise InstructionError(f"{instruction!r} names nothing.", "Name an object, such as 'the red car'.")
            return [" ".join(words)], []
        answer = self.chooser.answer(concepts_question(self.prompts, instruction))
        phrases = [phrase for phrase in map(spoken, json.loads(answer)["phrases"]) if phrase]
        return list(dict.fromkeys(phrases)) or ["object"], [answer]

    def boxed(
        self, clip: Clip, instruction: str, progress: Progress | None = None
    ) -> tuple[list[Candidate], list[str]]:
        """Candidates from the chooser's own boxes on a few frames, and its answer.

        They are the last resort, since models give worse boxes than detectors. None if there is no chooser, or the
        meaning of its boxes is unknown.
        """
        convention = convention_of(self.chooser.family) if self.chooser else None
        if self.chooser is None or convention is None or not self.settings.boxes:
            return [], []
        own = self.settings
        seen = ChooserDetector(self.chooser, convention, self.prompts, own.longest)
        few = SearchSettings(clip.duration, own.boxes, certain=0.0, most=own.candidates)
        return CandidateSearch(seen, self.sam2, few).find(clip, [instruction], progress), seen.said

    def choose(self, clip: Clip, candidates: Sequence[Candidate], instruction: str) -> Choice:
        """The candidates that the instruction refers to; without a chooser, those the detector is certain of."""
        if self.chooser is None:
            sure = [index for index, one in enumerate(candidates) if one.score >= self.settings.certain]
            return Choice(dict.fromkeys(sure, 1.0))

        def shown(indices: Sequence[int], again: int) -> Scene:
            return view(clip, [candidates[index] for index in indices], self._view, again)

        return choose(self.chooser, self.prompts, shown, len(candidates), instruction, self.settings.rounds)

    def caption(
        self, clip: Clip | str | Path, tracks: Sequence[MaskTrack], progress: Progress | None = None
    ) -> list[str]:
        """A sentence for each track, in order; see Captioner."""
        if self.chooser is None:
            raise CheckpointError(
                f"{self.spec.model_version} has no chooser to caption tracks with (`spec.captions` is False).",
                "Set TRAJSEG_GROUNDED_CHOOSER to a vision language model.",
            )
        return track_captions(self.chooser, self.prompts, open_clip(clip), tracks, self._view, progress)

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

    @property
    def _view(self) -> ViewSettings:
        return ViewSettings(self.settings.frames, self.settings.longest, self.settings.portrait)
