"""Door 2: what a data set is. Clips, expressions about them, and the masks of the objects they refer to.

`evaluate` scores an engine on any data set, and joint training draws samples from any. To add one, subclass `Dataset`
in its own file and register its factory in trajseg.data.registry (or as an entry point of the group
`trajseg.datasets`). tests/contracts/dataset.py checks the rules below.

* A data set is read by number. The same number always gives the same clip, expressions and masks, in every process.
* A clip may be a video file or a folder of pictures; `open_clip` opens both. Its files must exist as long as the
  AnnotatedClip is referenced; a data set may write them on first use.
* Masks have the clip's frame size. A frame missing from an object's masks does not show it.
* Nothing is decoded before it is needed: masks may be a lazy mapping that reads files on access.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trajseg.errors import InputError
from trajseg.tracks import Rle, rle
from trajseg.video import Clip


@dataclass(frozen=True)
class Expression:
    """A sentence about a clip and the objects that it refers to.

    Args:
        text: the sentence, as a person would type it.
        targets: uids of the objects, in the order of a good answer; empty if there is no such object.
        category: "referring", "reasoning", "several", "none", or the data set's own; results are grouped by it.
        kind: a subdivision of the category, defined by the data set; may be empty.
        weight: training weight of the answer's words, 0 to 1.
    """

    text: str
    targets: tuple[str, ...] = ()
    category: str = "referring"
    kind: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class AnnotatedObject:
    """An object of a clip.

    Args:
        uid: unique within its clip.
        masks: by 0-based frame; frames without it are missing. May be lazy.
        caption: a true sentence or phrase about it, as an answer in training; may be empty.
        category: its class, such as "person"; may be empty.
        weights: training weight per 0-based frame, 0 to 1; the default is 1.
        caption_weight: training weight of the caption's words, 0 to 1.
    """

    uid: str
    masks: Mapping[int, Rle]
    caption: str = ""
    category: str = ""
    weights: Mapping[int, float] = field(default_factory=dict)
    caption_weight: float = 1.0


@dataclass(frozen=True)
class AnnotatedClip:
    """A clip with everything that the data set knows about it.

    Args:
        name: unique in the data set, for reports.
        clip: the frames.
        objects: in a fixed order.
        expressions: about it; may be empty.
        annotated: 0-based frames with known masks, increasing; None: all. Other frames are not scored.

    Raises:
        InputError: two objects share a uid, an expression refers to an unknown one, or a frame is not in the clip.
    """

    name: str
    clip: Clip
    objects: tuple[AnnotatedObject, ...]
    expressions: tuple[Expression, ...]
    annotated: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        uids = [thing.uid for thing in self.objects]
        if len(set(uids)) < len(uids):
            raise InputError(f"Two objects of the clip {self.name} have the same uid.", "Give each its own.")
        for expression in self.expressions:
            if unknown := sorted(set(expression.targets) - set(uids)):
                raise InputError(
                    f"The expression {expression.text!r} of {self.name} refers to the unknown object {unknown[0]}.",
                    f"Known are: {', '.join(uids) or 'none'}.",
                )
        frames = self.annotated
        if frames is not None and (
            list(frames) != sorted(set(frames)) or not set(frames) <= set(range(len(self.clip)))
        ):
            raise InputError(
                f"The annotated frames of {self.name} must increase within 0 to {len(self.clip) - 1}.",
                "Count frames from 0.",
            )

    @property
    def scored(self) -> Sequence[int]:
        """The 0-based frames with ground truth."""
        return range(len(self.clip)) if self.annotated is None else self.annotated

    def masks(self, uids: Sequence[str], frames: Sequence[int]) -> np.ndarray:
        """Masks of these objects on these frames, bool [S, T, H, W].

        Raises:
            InputError: a mask differs in size from the frames; or anything that a lazy mapping raises.
        """
        size = (self.clip.height, self.clip.width)
        known = {thing.uid: thing for thing in self.objects}
        masks = np.zeros((len(uids), len(frames), *size), bool)
        for row, uid in enumerate(uids):
            for column, frame in enumerate(frames):
                code = known[uid].masks.get(frame)
                if code is not None and tuple(code["size"]) != size:
                    raise InputError(
                        f"The mask of {uid} in frame {frame} of {self.name} is {code['size']}, not {list(size)}.",
                        "Masks must be as large as the frames, height first.",
                    )
                if code is not None:
                    masks[row, column] = rle.decode(code)
        return masks


class Dataset(ABC):
    """Annotated clips by number. `len(dataset)` is their count; `dataset[n]` is the n-th, 0-based."""

    evaluator: str = ""
    """"module:class" of an Evaluator with additional measurements; empty for most."""

    laboratory: bool = False
    """Whether its clips can be rendered under other conditions; see `trajseg evaluate --conditions`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in `--data`, used in reports."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> AnnotatedClip:
        """Raises IndexError outside of 0 to len - 1; InputError or VideoError if files are missing or damaged."""
