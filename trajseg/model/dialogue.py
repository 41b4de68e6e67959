"""The sentences between a person and the language model, and how an answer is read, in one place."""

from __future__ import annotations

from trajseg.model.config import SEG_TOKEN

USER = "user :"
ASSISTANT = "assistant :"
REQUEST = "segment {expression} in the video ."
"""The fixed request of inference; training varies it."""

NO_OBJECT = "there is no such object ."
CAPTION_REQUEST = "describe the object in this trajectory ."
"""The fixed request for the caption of a trajectory; training varies it."""
WORDS = f"{USER} {ASSISTANT} {REQUEST} {NO_OBJECT} {CAPTION_REQUEST}".replace("{expression}", "").split()
"""Words that a tokenizer must know for the sentences of this page."""


def segment_request(instruction: str, template: str = REQUEST) -> str:
    """The user's turn for an instruction, lower-cased as in training; a question stays as it is."""
    expression = " ".join(instruction.lower().split()).rstrip(" .")
    return expression if expression.endswith("?") else template.format(expression=expression)


def grounding_answer(captions: list[str]) -> str:
    """The assistant's turn: each object named, then its [SEG]; NO_OBJECT for none (answer type 2)."""
    if not captions:
        return NO_OBJECT
    return " ; ".join(f"{caption} {SEG_TOKEN}" for caption in captions) + " ."


def captions_of(answer: str) -> list[str]:
    """What the model says before each [SEG], in order; the inverse of `grounding_answer`."""
    return [part.strip(" ;.,") for part in answer.split(SEG_TOKEN)[:-1]]


def caption_of(answer: str) -> str:
    """The sentence on a trajectory in "{caption} [SEG] ."; the whole answer where it has no [SEG]."""
    return answer.split(SEG_TOKEN)[0].strip(" ;.,")
