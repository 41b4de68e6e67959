"""The sentences that training data and the model share: requests, answers, and the token that stands for a mask."""

from __future__ import annotations

SEG_TOKEN = "[SEG]"
REQUEST = "segment {expression} in the video ."
"""The fixed request of inference; training varies it."""
NO_OBJECT = "there is no such object ."
CAPTION_REQUEST = "describe the object in this trajectory ."
"""The fixed request for the caption of a trajectory; training varies it."""


def plain_words(text: str) -> str:
    """A sentence as training has it: lower-cased, single blanks, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(" .")


def grounding_answer(captions: list[str]) -> str:
    """The assistant's turn: each object named, then its [SEG]; NO_OBJECT for none (answer type 2)."""
    if not captions:
        return NO_OBJECT
    return " ; ".join(f"{caption} {SEG_TOKEN}" for caption in captions) + " ."
