"""Labelled clips: a clip with its tracks, the trust of each frame, and the expressions that refer to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trajseg.errors import InputError
from trajseg.tracks.track import MaskTrack
from trajseg.tracks.trust import Trust
from trajseg.video import Clip

if TYPE_CHECKING:
    from trajseg.video.look import Look

SAFE_NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class LabelledTrack:
    """A track with the trust of its frames.

    Args:
        track: its `uid` is unique in the clip.
        trust: one per frame; default: PREDICTED.
        rejected: whether a person removed all of it.
        caption_trust: PAINTED if a person wrote the caption, ACCEPTED if a person left it unchanged.
    """

    track: MaskTrack
    trust: tuple[Trust, ...] = ()
    rejected: bool = False
    caption_trust: Trust = Trust.PREDICTED

    def __post_init__(self) -> None:
        if not self.trust:
            object.__setattr__(self, "trust", (Trust.PREDICTED,) * len(self.track))
        if len(self.trust) != len(self.track):
            raise InputError(
                f"Track {self.track.uid} has {len(self.track)} frames and {len(self.trust)} levels of trust.",
                "Give one for each frame.",
            )


@dataclass(frozen=True)
class Expression:
    """A sentence and the uids of the tracks that it refers to.

    Args:
        uids: empty if there is no such object.
        trust: reliability of the uids; without uids PAINTED if a person rejected what a model found, ACCEPTED if a
            person agreed.
    """

    text: str
    uids: tuple[str, ...] = ()
    trust: Trust = Trust.PREDICTED


@dataclass(frozen=True)
class LabelledClip:
    """A clip with its tracks and expressions.

    Args:
        name: name of its files: letters, digits, and `_ - .` (not first), at most 100; unique in an export.
        width, height: of a frame, in pixels.
        fps: frames per second, on average.
        frame_count: of every track.
        tracks: including rejected ones.
        expressions: the instructions.
        video: the video's address or path, as in the task or the result.
        identity: the same for the same video under another address: a hash of its bytes, if known.
        clip: the open video; None if only masks are exported.
        side: of the project's corrections, "train" or "held-out", which the video keeps; empty: undecided.
        look: of the video; None if copies of it need not be recognised.

    Raises:
        InputError: the parts are inconsistent.
    """

    name: str
    width: int
    height: int
    fps: float
    frame_count: int
    tracks: tuple[LabelledTrack, ...] = ()
    expressions: tuple[Expression, ...] = ()
    video: str = ""
    identity: str = ""
    clip: Clip | None = None
    side: str = ""
    look: Look | None = None

    def __post_init__(self) -> None:
        if not SAFE_NAME.fullmatch(self.name):
            raise InputError(
                f"A clip cannot be named {self.name[:120]!r}.", "Use at most 100 letters, digits, dots, - and _."
            )
        uids = [held.track.uid for held in self.tracks]
        if len(set(uids)) < len(uids):
            raise InputError(f"Two tracks of clip {self.name} have the same uid.", "Give each track its own uid.")
        for held in self.tracks:
            if len(held.track) != self.frame_count:
                raise InputError(
                    f"Track {held.track.uid} of clip {self.name} has {len(held.track)} frames, not {self.frame_count}.",
                    "Every track has one entry for each frame of its clip.",
                )
        unknown = sorted({uid for expression in self.expressions for uid in expression.uids} - set(uids))
        if unknown:
            raise InputError(
                f"An expression of clip {self.name} refers to track {unknown[0]}, which does not exist.",
                "Refer to tracks by their uids.",
            )
        if self.clip is not None and (self.clip.width, self.clip.height, len(self.clip)) != (
            self.width,
            self.height,
            self.frame_count,
        ):
            raise InputError(
                f"The video of clip {self.name} has {len(self.clip)} frames of {self.clip.width} x {self.clip.height} "
                f"pixels, its tracks have {self.frame_count} of {self.width} x {self.height}.",
                "The video has changed since it was labelled; label it again.",
            )

    @property
    def shown(self) -> list[MaskTrack]:
        """Tracks that are not rejected and have a mask, in order."""
        return [held.track for held in self.tracks if not held.rejected and held.track.present]

    def separate(self, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """(position in `shown`, mask bool [H, W]) of the tracks in frame `index`, without overlap.

        A pixel in several tracks belongs to the one with the highest score in this frame, then to the first.
        """
        present = [(place, track) for place, track in enumerate(self.shown) if track.frames[index].rle is not None]
        taken = np.zeros((self.height, self.width), bool)
        for place, track in sorted(present, key=lambda held: (-held[1].frames[index].score, held[0])):
            mask = track.mask(index) & ~taken
            taken |= mask
            if mask.any():
                yield place, mask
