"""Trust: how a frame of a track came to be, and so how far it can be relied on."""

from __future__ import annotations

from enum import IntEnum


class Trust(IntEnum):
    """Of one frame of one track. A higher value is worth more; `name.lower()` is how it is written in JSON."""

    UNKNOWN = 0
    """Nothing says whether the object is there: a frame of a drawn track that nothing has been propagated to yet."""
    PREDICTED = 1
    """A model's word alone."""
    ACCEPTED = 2
    """A person saw the prediction on this frame and submitted it unchanged."""
    PROPAGATED = 3
    """Carried here from a frame that a person painted or marked."""
    CONFIRMED = 4
    """Propagated here, and then seen and submitted by a person."""
    PAINTED = 5
    """A person painted this mask, or removed it."""

    @property
    def word(self) -> str:
        """As it is written in JSON: "painted", "propagated", ..."""
        return self.name.lower()

    @property
    def vouched(self) -> bool:
        """Whether a person saw the mask and let it stand, or drew it."""
        return self in (Trust.ACCEPTED, Trust.CONFIRMED, Trust.PAINTED)


BY_WORD = {trust.word: trust for trust in Trust}
