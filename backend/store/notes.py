"""Job notes: a done job's output besides its tracks: doubt, frames to review, refinement, warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trajseg.tracks import Result


class Note(BaseModel):
    """Base of the notes. Unknown keys are ignored, so rows written by another version can still be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DoubtfulFrame(Note):
    """A frame to review next: its 0-based index, the reason, and how doubtful it is (0 to 1)."""

    index: int
    reason: str
    doubt: float = 0.0


class TrackReview(Note):
    """The frames of one track to review next. `track` is the track's uid; empty for the whole result."""

    track: str
    label: str
    frames: tuple[DoubtfulFrame, ...] = ()


class TrackRefinement(Note):
    """How one track was refined.

    Attributes:
        track: the track's uid.
        chosen: the propagator whose masks were taken.
        left_out: by propagator and painted frame: J of its mask there if that frame is withheld.
        painted, hinted: 0-based frames that a person painted or marked.
        carried: frames that the chosen propagator drew.
        extended: 0-based frames that got a mask because a person extended the track's range on the timeline.
        missing: frames of that range on which the object was not found.
    """

    track: str
    label: str
    chosen: str
    left_out: dict[str, dict[int, float]] = Field(default_factory=dict)
    painted: tuple[int, ...] = ()
    hinted: tuple[int, ...] = ()
    carried: int = 0
    extended: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()


class TrackWarning(Note):
    """Something a person should check. `track` is a track's uid; empty for the whole result."""

    text: str
    track: str = ""


class JobNotes(Note):
    """A done job's output besides its tracks.

    Attributes:
        doubt: 0 to 1, the mean doubt over the frames of the least certain track; None if it was not measured.
        visible: tracks that have a mask in some frame; None in rows of earlier versions.
        video_hash: SHA-256 of the file that the job's video was at that time; None in rows of earlier versions.
    """

    doubt: float | None = None
    visible: int | None = None
    video_hash: str | None = None
    review: tuple[TrackReview, ...] = ()
    refinement: tuple[TrackRefinement, ...] = ()
    warnings: tuple[TrackWarning, ...] = ()

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Self:
        """The notes in a result's database JSON; empty notes if there is none."""
        return cls.model_validate(dict(result or {}))

    @model_validator(mode="before")
    @classmethod
    def _read_older_rows(cls, form: dict[str, Any]) -> dict[str, Any]:
        """Earlier versions wrote a warning as one sentence, "label: text", and null for empty values."""
        form = {name: value for name, value in form.items() if value is not None}
        if any(isinstance(warning, str) for warning in form.get("warnings", ())):
            uids = {track["label"]: track["uid"] for track in form.get("tracks", ())}
            form["warnings"] = [_warning(text, uids) for text in form["warnings"]]
        return form

    def to_json(self) -> dict[str, Any]:
        """The form stored in the database."""
        return self.model_dump(mode="json", exclude_none=True)

    def first_frames(self) -> list[int]:
        """0-based frames to review next: those of the whole result first, then the most doubtful of each track."""
        frames = [(bool(track.track), -frame.doubt, frame.index) for track in self.review for frame in track.frames]
        return list(dict.fromkeys(index for *_, index in sorted(frames, key=lambda frame: frame[:2])))

    def sentences(self, result: Result, number_of: Callable[[int], int] | None = None) -> list[str]:
        """The warnings for people, each beginning with the label of the track that it is about.

        Args:
            number_of: converts a 0-based frame to the page's number; by default frames count from 1.
        """
        labels = {track.uid: track.label for track in result.tracks}
        warnings = [f"{labels[one.track]}: {one.text}" if one.track in labels else one.text for one in self.warnings]
        return warnings + [
            f"{one.label}: the range was made longer, but the object was not found on "
            f"{frames_in_words(one.missing, number_of)}. Draw a box on one of them."
            for one in self.refinement
            if one.missing
        ]

    def filled_in(self, number_of: Callable[[int], int] | None = None) -> list[str]:
        """One sentence per track whose extended range was filled in."""
        return [
            f"{one.label}: the longer range was filled in on {frames_in_words(one.extended, number_of)}."
            for one in self.refinement
            if one.extended
        ]


def frames_in_words(indices: Sequence[int], number_of: Callable[[int], int] | None = None) -> str:
    """ "frame 3", or "frames 3 to 7, 9": 0-based frames by the numbers that people see."""
    number_of = number_of or (lambda index: index + 1)
    stretches: list[list[int]] = []
    for number in sorted({number_of(index) for index in indices}):
        if stretches and stretches[-1][1] == number - 1:
            stretches[-1][1] = number
        else:
            stretches.append([number, number])
    words = ", ".join(f"{start} to {end}" if end > start else f"{start}" for start, end in stretches)
    return f"frame{'s' if len(set(indices)) > 1 else ''} {words}"


def _warning(warning: Any, uids: Mapping[str, str]) -> Any:
    if not isinstance(warning, str):
        return warning
    label, colon, text = warning.partition(": ")
    return {"track": uids[label], "text": text} if colon and label in uids else {"text": warning}
