"""Engine tracks: an engine's confident tracks as training data, in addition to corrections (distillation).

`engine:FOLDER` reads the same export as `corrections:FOLDER` (with all tasks, not with --annotated-only). Frames
touched by a person count as they do there. A frame drawn only by an engine is weighted by its score: 0 below SURE, and
at most PREDICTED, which is less than the lowest weight of a frame accepted by a person. A small model can thus learn
from a large one, such as `grounded` with public weights, while corrections take precedence.

Held-out videos are never trained on, and nothing is scored against an engine's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from trajseg.data.corrections import CorrectedClip, CorrectedTrack, Corrections, named_side
from trajseg.data.dataset import Dataset
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.registry import DatasetOptions
from trajseg.errors import InputError
from trajseg.tracks.trust import Trust

SURE = 0.7
"""Score below which an engine's frame has no weight."""
PREDICTED = 0.3
"""Weight of a frame with score 1; at SURE it is 0, and linear in between."""


class EngineTracks(Corrections):
    """The train side of an export, including engines' tracks.

    Args:
        folder: the output of `trajseg export --format trajseg`, with videos.
        count: maximum number of clips; None: all.

    Raises:
        InputError: the folder is not such an export, or nothing in it has weight.
    """

    def __init__(self, folder: Path, count: int | None = None) -> None:
        super().__init__(folder, "train", count)

    @property
    def name(self) -> str:
        return f"engine:{self.folder}"

    def weight(self, held: CorrectedTrack, index: int) -> float:
        """By trust; for a frame that is only predicted, by score."""
        if held.trust[index] is not Trust.PREDICTED:
            return super().weight(held, index)
        return PREDICTED * max(0.0, held.track.frames[index].score - SURE) / (1 - SURE)

    def weight_of_caption(self, held: CorrectedTrack) -> float:
        """By trust; for a caption written only by an engine, the mean weight of the track's frames."""
        if held.caption_trust is not Trust.PREDICTED:
            return super().weight_of_caption(held)
        return self._sureness(held)

    def weight_of_words(self, corrected: CorrectedClip, targets: Sequence[str], trust: Trust) -> float:
        """By trust; for a sentence answered only by an engine, the weight of its least certain track.

        An engine's "no such object" is weak evidence: it counts only if a person has confirmed it.
        """
        if trust is not Trust.PREDICTED:
            return super().weight_of_words(corrected, targets, trust)
        meant = [held for held in corrected.standing if held.track.uid in targets]
        return min((self._sureness(held) for held in meant), default=0.0)

    def _sureness(self, held: CorrectedTrack) -> float:
        """Mean weight of a track's frames."""
        return fmean([self.weight(held, index) for index in held.track.present] or [0.0])


def open_engine_tracks(argument: str, options: DatasetOptions) -> Dataset:
    """Always refuses: "engine:FOLDER" is for training only.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"engine:{argument} is not ground truth and cannot be scored on.",
        f"Score on corrections instead: corrections:{argument or 'FOLDER'}.",
    )


def open_source(argument: str) -> DatasetSamples:
    """The training samples of "engine:FOLDER".

    Raises:
        InputError: it names a side, is not an export, or nothing in it has weight.
    """
    folder, side = named_side(argument, "train")
    if side != "train":
        raise InputError(f"Held-out videos are not for training: engine:{argument}.", f"Name engine:{folder} alone.")
    return DatasetSamples(EngineTracks(folder))
