"""What a chooser is shown of a clip: the frames, and each candidate's portrait and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.dialogue import Scene, ShownCandidate, ShownFrame
from trajseg.engines.grounded.facts import MOMENTS, scene_facts
from trajseg.engines.grounded.pictures import fitted, outlined, portrait
from trajseg.tracks import rle
from trajseg.video import Clip


@dataclass(frozen=True)
class ViewSettings:
    """How much a chooser sees.

    Args:
        frames: number of frames shown, each with and without outlines; 0 shows portraits only.
        longest: pixels of the longer side of a frame.
        portrait: pixels of a side of a portrait.
    """

    frames: int = 8
    longest: int = 768
    portrait: int = 224


def view(clip: Clip, candidates: Sequence[Candidate], settings: ViewSettings, again: int = 0) -> Scene:
    """The scene with these candidates, numbered from 1 in order.

    Args:
        again: 0 the first time; later times show other frames and portraits.

    Raises:
        VideoError: the video can no longer be read.
    """
    count = len(clip)
    moments = bins(count, MOMENTS)
    portraits = [_portrait_frame(candidate, again) for candidate in candidates]
    shown = shown_frames(candidates, count, settings.frames, again)
    wanted = sorted({*shown, *(index for index in portraits if index is not None)})
    pictures: dict[int, np.ndarray] = {}
    frames: list[ShownFrame] = []
    for index, picture in clip.frames(wanted):
        for number, (candidate, at) in enumerate(zip(candidates, portraits, strict=True), 1):
            box = candidate.box(index) if at == index else None
            if box is not None:
                pictures[number] = portrait(picture, box, settings.portrait)
        if index in shown:
            frames.append(_frame(clip, index, picture, candidates, settings))
    facts = scene_facts([[one.box(index) for index in moments] for one in candidates], clip.height)
    blank = np.full((settings.portrait, settings.portrait, 3), 127, np.uint8)
    return Scene(
        duration=clip.duration,
        width=round(100 * clip.width / clip.height),
        moments=[clip.frame_map.times[index] for index in moments],
        candidates=[
            ShownCandidate(
                number,
                candidate.phrase,
                facts[number - 1],
                pictures.get(number, blank),
            )
            for number, candidate in enumerate(candidates, 1)
        ],
        frames=frames,
    )


def bins(count: int, parts: int, shift: float = 0.5) -> list[int]:
    """The 0-based frame at the same position in each of `parts` equal parts of `count` frames."""
    return [min(count - 1, int((part + shift) * count / parts)) for part in range(parts)]


def shown_frames(candidates: Sequence[Candidate], count: int, frames: int, again: int = 0) -> list[int]:
    """Evenly spaced frames that show each candidate at least once, as far as there is room; in order.

    Later times (`again`) use other frames: the best ones of the candidates in question come first.
    """
    if not frames:
        return []
    even = bins(count, frames, (0.5, 0.2, 0.8)[again % 3])
    if again:
        best = [index for candidate in candidates for index in candidate.best_frames()[: max(1, frames // 2)]]
        return sorted(set([*dict.fromkeys(best), *even][:frames]))
    chosen = list(dict.fromkeys(even))
    for candidate in candidates:
        if candidate.shown and not any(candidate.frames[index].rle for index in chosen):
            chosen.append(candidate.best_frames()[0])
    return sorted(chosen[: frames + frames // 2])


def _portrait_frame(candidate: Candidate, again: int) -> int | None:
    best = candidate.best_frames()
    return best[(again * len(best) // 3) % len(best)] if best else None


def _frame(
    clip: Clip, index: int, picture: np.ndarray, candidates: Sequence[Candidate], settings: ViewSettings
) -> ShownFrame:
    masks = {
        number: rle.decode(code)
        for number, candidate in enumerate(candidates, 1)
        if (code := candidate.frames[index].rle) is not None
    }
    return ShownFrame(
        clip.frame_map.times[index],
        fitted(picture, settings.longest),
        fitted(outlined(picture, masks), settings.longest),
    )
