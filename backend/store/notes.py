"""Job notes: what a done job says beside its tracks: doubt, frames to look at, how it refined, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trajseg.tracks import Result


class Note(BaseModel):
    """Base of the notes. Unknown keys are ignored: rows written by another version can still be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DoubtfulFrame(Note):
    """A frame to look at next: its 0-based index, why, and how doubtful it is (0 to 1)."""

    index: int
    reason: str
    doubt: float = 0.0


class TrackReview(Note):
    """The frames of one track to look at next. `track` is the track's uid; empty for the whole result."""

    track: str
    label: str
    frames: tuple[DoubtfulFrame, ...] = ()


class TrackRefinement(Note):
    """How one track was refined.

    Attributes:
        track: the track's uid.
        chosen: the propagator whose masks were taken.
        left_out: by propagator and painted frame: J of what it draws there when that frame is withheld.
        painted, hinted: 0-based frames that a person painted, or marked.
        carried: frames that the chosen propagator drew.
    """

    track: str
    label: str
    chosen: str
    left_out: dict[str, dict[int, float]] = Field(default_factory=dict)
    painted: tuple[int, ...] = ()
    hinted: tuple[int, ...] = ()
    carried: int = 0


class TrackWarning(Note):
    """Something a person should look at. `track` is a track's uid; empty for the whole result."""

    text: str
    track: str = ""


class JobNotes(Note):
    """What a done job's result says beside its tracks.

    Attributes:
        doubt: 0 to 1, the mean doubt of the least sure track's frames; None where nobody measured it.
        visible: tracks that have a mask in some frame; None in rows of earlier versions.
    """

    doubt: float | None = None
    visible: int | None = None
    review: tuple[TrackReview, ...] = ()
    refinement: tuple[TrackRefinement, ...] = ()
    warnings: tuple[TrackWarning, ...] = ()

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Self:
        """The notes in the database's JSON of a result; empty ones where there is none."""
        return cls.model_validate(dict(result or {}))

    @model_validator(mode="before")
    @classmethod
    def _read_older_rows(cls, form: dict[str, Any]) -> dict[str, Any]:
        """Earlier versions wrote a warning as one sentence, "label: text", and null for what is empty."""
        form = {name: value for name, value in form.items() if value is not None}
        if any(isinstance(warning, str) for warning in form.get("warnings", ())):
            uids = {track["label"]: track["uid"] for track in form.get("tracks", ())}
            form["warnings"] = [_warning(text, uids) for text in form["warnings"]]
        return form

    def to_json(self) -> dict[str, Any]:
        """The form that the database keeps."""
        return self.model_dump(mode="json", exclude_none=True)

    def first_frames(self) -> list[int]:
        """0-based frames to look at next: those of the whole result first, then the most doubtful of the tracks."""
        frames = [(bool(track.track), -frame.doubt, frame.index) for track in self.review for frame in track.frames]
        return list(dict.fromkeys(index for *_, index in sorted(frames, key=lambda frame: frame[:2])))

    def sentences(self, result: Result) -> list[str]:
        """The warnings for people, each beginning with the label of the track that it is about."""
        labels = {track.uid: track.label for track in result.tracks}
        return [f"{labels[one.track]}: {one.text}" if one.track in labels else one.text for one in self.warnings]


def _warning(warning: Any, uids: Mapping[str, str]) -> Any:
    if not isinstance(warning, str):
        return warning
    label, colon, text = warning.partition(": ")
    return {"track": uids[label], "text": text} if colon and label in uids else {"text": warning}
