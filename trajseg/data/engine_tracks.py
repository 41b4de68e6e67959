"""Engine tracks: what an engine was sure of, beside what persons corrected, as a data set to train on.

`engine:FOLDER` reads the export that `corrections:FOLDER` reads (with all tasks, not with --annotated-only). Where a
person has had a hand in a frame, it counts as there. A frame that only an engine has drawn counts by its score: nothing
below SURE, and at most PREDICTED, which is less than the least that a person has let stand. So a small model learns
from a large one, such as `grounded` with public weights, and a person's word always goes before an engine's.

Held-out videos are never trained on, and nothing is scored on an engine's word.
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
"""Score of a frame below which an engine's word counts for nothing."""
PREDICTED = 0.3
"""What a frame with a score of 1 counts; with SURE it counts nothing, and between the two in proportion."""


class EngineTracks(Corrections):
    """The train side of an export, with engines' tracks.

    Args:
        folder: what `trajseg export --format trajseg` wrote, with videos.
        count: clips at most; None: all.

    Raises:
        InputError: the folder is not such an export, or nothing in it counts.
    """

    def __init__(self, folder: Path, count: int | None = None) -> None:
        super().__init__(folder, "train", count)

    @property
    def name(self) -> str:
        return f"engine:{self.folder}"

    def weight(self, held: CorrectedTrack, index: int) -> float:
        """By trust; of a frame that is only predicted, by score."""
        if held.trust[index] is not Trust.PREDICTED:
            return super().weight(held, index)
        return PREDICTED * max(0.0, held.track.frames[index].score - SURE) / (1 - SURE)

    def weight_of_caption(self, held: CorrectedTrack) -> float:
        """By trust; of a caption that only an engine has written, as the track's frames count."""
        if held.caption_trust is not Trust.PREDICTED:
            return super().weight_of_caption(held)
        return self._sureness(held)

    def weight_of_words(self, corrected: CorrectedClip, targets: Sequence[str], trust: Trust) -> float:
        """By trust; of a sentence that only an engine has answered, as its least sure track counts.

        That an engine has found nothing says little: it counts only where a person has seen it.
        """
        if trust is not Trust.PREDICTED:
            return super().weight_of_words(corrected, targets, trust)
        meant = [held for held in corrected.standing if held.track.uid in targets]
        return min((self._sureness(held) for held in meant), default=0.0)

    def _sureness(self, held: CorrectedTrack) -> float:
        """What a track's frames count on average."""
        return fmean([self.weight(held, index) for index in held.track.present] or [0.0])


def open_engine_tracks(argument: str, options: DatasetOptions) -> Dataset:
    """Refuses: only training may name "engine:FOLDER".

    Raises:
        InputError: always.
    """
    raise InputError(
        f"engine:{argument} is no truth to score on.",
        f"Score on what persons vouched for: corrections:{argument or 'FOLDER'}.",
    )


def open_source(argument: str) -> DatasetSamples:
    """What training takes from "engine:FOLDER".

    Raises:
        InputError: it names a side, is no export, or nothing in it counts.
    """
    folder, side = named_side(argument, "train")
    if side != "train":
        raise InputError(f"Held-out videos are not for training: engine:{argument}.", f"Name engine:{folder} alone.")
    return DatasetSamples(EngineTracks(folder))
