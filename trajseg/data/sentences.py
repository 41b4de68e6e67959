"""Sentences shared by training data and model: requests, answers, and the token that represents a mask."""

from __future__ import annotations

SEG_TOKEN = "[SEG]"
REQUEST = "segment {expression} in the video ."
"""The fixed request at inference; training varies it."""
NO_OBJECT = "there is no such object ."
CAPTION_REQUEST = "describe the object in this trajectory ."
"""The fixed request for a trajectory's caption; training varies it."""


def plain_words(text: str) -> str:
    """A sentence in the form used in training: lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).rstrip(" .")


def grounding_answer(captions: list[str]) -> str:
    """The assistant's turn: each object's name followed by its [SEG]; NO_OBJECT if there is none (answer type 2)."""
    if not captions:
        return NO_OBJECT
    return " ; ".join(f"{caption} {SEG_TOKEN}" for caption in captions) + " ."
