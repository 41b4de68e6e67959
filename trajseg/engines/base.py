"""Door 1: what an engine is. It turns a clip and an instruction into mask tracks, frame by frame.

An engine is one object with a `spec` and a method `segment`. Its spec states its further capabilities, each of which
requires the method of a protocol: `captions` -> Captioner, `compares` -> Comparer, `marks` -> Marker, `propagates` ->
Propagating. Callers read the spec; they neither use isinstance nor call a method to see whether it fails.

Results:

* `uid` names an object within one result: "t1", "t2", ... in the order of the answer.
* `label` is the name that people see in Label Studio: "track-1", "track-2", ...
* `caption` is a sentence or phrase about the object; it may be empty.
* A frame's `score` is the engine's confidence in that frame, 0 to 1, even where it says that the object is absent.
* `answer` is the engine's own answer, for people. It may be empty and is never parsed.
* If no object matches, there are no objects and no frames. An object without any mask is left out of the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trajseg.errors import InputError, InstructionError
from trajseg.files import printable
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack, Rle, rle
from trajseg.tracks.mark import Mark
from trajseg.tracks.track import checked_score
from trajseg.video import Clip

if TYPE_CHECKING:
    from trajseg.correction import Propagator
    from trajseg.engines.segmentation import Segmentation

MAX_INSTRUCTION_LENGTH = 1000
"""Characters; a longer instruction is rejected with InstructionError."""
MODEL_VERSION = re.compile(r"[\w.+-][\w.+/@:-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is and can do. Backend and doctor read it without loading the engine.

    Args:
        name: of the engine, such as "trajseg".
        model_version: identifies engine, weights and adapter in /setup and predictions; not an import path.
        phrases: understands noun phrases ("the red car").
        sentences: understands sentences ("the car that has to brake").
        several: one instruction may refer to several objects.
        none: can answer that there is no such object.
        captions, compares, marks, propagates, adapts: has the method of Captioner, Comparer, Marker, Propagating,
            Adaptable.
        licence: of the weights, as an SPDX identifier if there is one.
        memory_gb: GPU memory while it runs (or RAM without a GPU).
        needs: packages besides trajseg's own, by their pip names.

    Raises:
        InputError: the model version is empty, longer than 100 characters or contains blanks.
    """

    name: str
    model_version: str
    phrases: bool = True
    sentences: bool = False
    several: bool = False
    none: bool = False
    captions: bool = False
    compares: bool = False
    marks: bool = False
    propagates: bool = False
    adapts: bool = False
    licence: str = ""
    memory_gb: float = 0.0
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not MODEL_VERSION.fullmatch(self.model_version):
            raise InputError(
                f"The engine {self.name} has the invalid model version {self.model_version[:120]!r}.",
                "Use 1 to 100 letters, digits and . _ + - / @ : without blanks.",
            )


@dataclass(frozen=True)
class ObjectMask:
    """One object on one frame.

    Args:
        rle: the mask, of the same size as the clip's frames; None where the object is absent.
        score: the engine's confidence, 0 to 1.
        presence: log-odds that the object is on the frame, for hysteresis; 0 if the engine has none.
    """

    rle: Rle | None
    score: float
    presence: float = 0.0

    @classmethod
    def of(cls, mask: np.ndarray | None, score: float, presence: float = 0.0) -> ObjectMask:
        """From a mask bool [H, W]; an empty mask or None means that the object is absent."""
        return cls(rle.encode(mask) if mask is not None and mask.any() else None, score, presence)


@dataclass(frozen=True)
class FrameMasks:
    """All objects on one frame: `index` is 0-based, `masks` has every object's uid."""

    index: int
    masks: Mapping[str, ObjectMask]

    def to_json(self) -> dict[str, Any]:
        """The form in which a frame is stored; floats are restored exactly."""
        masks = {uid: {"rle": m.rle, "score": m.score, "presence": m.presence} for uid, m in self.masks.items()}
        return {"index": self.index, "masks": masks}

    @classmethod
    def from_json(cls, data: Any, *, height: int, width: int) -> FrameMasks:
        """The frame that `to_json` wrote, for a clip of `width` x `height` pixels.

        Raises:
            InputError: something is missing, of the wrong type or out of range.
        """
        try:
            index = data["index"]
            if type(index) is not int or index < 0:
                raise InputError(
                    f"A frame's index must be a whole number from 0 on, got {index!r}.", "Number frames from 0."
                )
            masks = {str(uid): _object_mask(mask, height, width) for uid, mask in data["masks"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"A frame's masks cannot be read: {type(error).__name__} {error}.",
                'A frame is {"index": 0, "masks": {"t1": {"score": 0.9, "rle": ...}}}.',
            ) from error
        return cls(index, masks)


def _object_mask(data: Any, height: int, width: int) -> ObjectMask:
    code, presence = data["rle"], float(data["presence"])
    if not math.isfinite(presence):
        raise InputError(
            f"The log-odds that an object is in a frame must be finite, got {presence}.",
            "Clamp them in the engine, for example to -20 to 20.",
        )
    return ObjectMask(
        None if code is None else rle.checked(code, height, width), checked_score(data["score"]), presence
    )


@dataclass(frozen=True)
class TrackedObject:
    """An object that the instruction refers to; see the module's docstring for the terms."""

    uid: str
    label: str
    caption: str = ""

    @classmethod
    def numbered(cls, captions: Sequence[str]) -> list[TrackedObject]:
        """One object per caption: t1 with the label track-1, and so on."""
        return [cls(f"t{number}", f"track-{number}", caption) for number, caption in enumerate(captions, 1)]


@dataclass(frozen=True)
class RunContext:
    """What a run receives besides clip and instruction. Fields may be added; an engine reads those it knows.

    Args:
        done: frames yielded by an earlier run of the same engine on the same clip and instruction, in order.
            They are not yielded again; the engine may prime its memory with them.
        progress: to be called during work that yields no frames.
        kept: a caller with several instructions about one clip passes the same dict with each; in it an engine may
            keep what depends on the clip alone. Valid for one engine and one clip.
    """

    done: Sequence[FrameMasks] = ()
    progress: Progress | None = None
    kept: dict[str, Any] | None = None

    def done_of(self, objects: Sequence[TrackedObject]) -> tuple[FrameMasks, ...]:
        """The finished frames, if all of them have masks of exactly these objects; otherwise none.

        If the engine now finds other objects than in the earlier run, the run starts over.
        """
        uids = {thing.uid for thing in objects}
        return tuple(self.done) if all(set(frame.masks) == uids for frame in self.done) else ()


PLAIN = RunContext()


class Engine(Protocol):
    """The interface of every model. Load one with `trajseg.load_engine`."""

    @property
    def spec(self) -> EngineSpec:
        """What it is and can do; constant over the engine's lifetime."""

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """The objects that the instruction refers to, with an iterator over their masks; see Segmentation.

        Raises InstructionError, VideoError, or whatever `context.progress` raises; iterating may raise the last two.
        """


class Captioner(Protocol):
    """`spec.captions`: captions tracks, from any source."""

    def caption(self, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress | None = None) -> list[str]:
        """A sentence for each track, in order; empty if there is nothing to say.

        `progress` is called with (tracks done, tracks in total). Raises VideoError, InputError if a track does not fit
        the clip, or anything that `progress` raises.
        """


class Comparer(Protocol):
    """`spec.compares`: decides whether captions contradict an instruction."""

    def contradictions(self, clip: Clip, instruction: str, captions: Sequence[str]) -> list[bool]:
        """For each caption, which the engine wrote for a track, whether it contradicts the instruction."""


class Marker(Protocol):
    """`spec.marks`: segments the object at a box or a point on a frame."""

    def mark(
        self, clip: Clip, mark: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of the marked object, bool [H, W]; all False if nothing is found.

        `known` are known masks of the same object on other frames, bool [H, W] by 0-based frame:
        where they contradict the mark, the mark wins. Raises InputError or VideoError.
        """


class Propagating(Protocol):
    """`spec.propagates`: propagates painted masks to other frames with the engine's own memory."""

    def propagator(self) -> Propagator:
        """Propagates masks through any number of clips; see trajseg.correction.propagator."""


class Adaptable(Protocol):
    """`spec.adapts`: one loaded base can switch between projects' adapters."""

    def adapted(self, folder: Path | None) -> Engine:
        """The same base with the adapter of a folder published by trajseg.checkpoints.manifest; None: without any.

        The base's own answers are the same before and after, bit for bit. Raises CheckpointError if the folder is
        incomplete, or was trained on another base.
        """


def check_instruction(instruction: str) -> str:
    """The instruction without surrounding blanks.

    Raises:
        InstructionError: it is empty, longer than MAX_INSTRUCTION_LENGTH, or has a lone surrogate.
    """
    instruction = instruction.strip()
    if not instruction:
        raise InstructionError("The instruction is empty.", 'Say what to segment, such as "the red circle".')
    if len(instruction) > MAX_INSTRUCTION_LENGTH:
        raise InstructionError(
            f"The instruction has {len(instruction)} characters.",
            f"Shorten it to at most {MAX_INSTRUCTION_LENGTH}.",
        )
    if printable(instruction) != instruction:
        raise InstructionError(
            "The instruction contains half a character (a lone surrogate).", "Write it again: an emoji was cut in two."
        )
    return instruction
