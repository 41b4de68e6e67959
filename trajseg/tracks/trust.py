"""Trust: where a frame's mask comes from, and so how reliable it is."""

from __future__ import annotations

from enum import IntEnum


class Trust(IntEnum):
    """Trust of one frame of one track; higher is more reliable. JSON has `name.lower()`."""

    UNKNOWN = 0
    """Unknown whether the object is there: a frame of a drawn track that has not been propagated to yet."""
    PREDICTED = 1
    """A model's prediction that nobody has seen."""
    ACCEPTED = 2
    """A person saw the prediction on this frame and submitted it unchanged."""
    PROPAGATED = 3
    """Propagated from a frame that a person painted or marked."""
    CONFIRMED = 4
    """Propagated, then seen and submitted by a person."""
    PAINTED = 5
    """A person painted this mask, or removed it."""

    @property
    def word(self) -> str:
        """The form in JSON: "painted", "propagated", ..."""
        return self.name.lower()

    @property
    def vouched(self) -> bool:
        """Whether a person drew the mask, or saw it and left it unchanged."""
        return self in (Trust.ACCEPTED, Trust.CONFIRMED, Trust.PAINTED)


BY_WORD = {trust.word: trust for trust in Trust}
