"""The chat format of the language model, and parsing of its answers; the sentences are in trajseg.data."""

from __future__ import annotations

from dataclasses import dataclass

from trajseg.data.sentences import CAPTION_REQUEST, NO_OBJECT, REQUEST, SEG_TOKEN, plain_words

USER = "user :"
ASSISTANT = "assistant :"
WORDS = f"{USER} {ASSISTANT} {REQUEST} {NO_OBJECT} {CAPTION_REQUEST}".replace("{expression}", "").split()
"""Words that a tokenizer must know for the sentences in this module."""


@dataclass(frozen=True)
class Turns:
    """The text around the two turns of a chat; default: trajseg-tiny's."""

    system: str = ""
    user: str = USER
    after_clip: str = ""
    assistant: str = ASSISTANT


LLAVA_TURNS = Turns(
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    user="USER:",
    after_clip="\n",
    assistant="ASSISTANT:",
)
"""The format of LLaVA's first releases (its conversation "v1")."""


def segment_request(instruction: str, template: str = REQUEST) -> str:
    """The user's turn for an instruction, lower-cased as in training; a question stays unchanged."""
    expression = plain_words(instruction)
    return expression if expression.endswith("?") else template.format(expression=expression)


def captions_of(answer: str) -> list[str]:
    """The captions before each [SEG], in order; the inverse of `trajseg.data.sentences.grounding_answer`."""
    return [part.strip(" ;.,") for part in answer.split(SEG_TOKEN)[:-1]]


def caption_of(answer: str) -> str:
    """The caption in "{caption} [SEG] ."; the whole answer if it has no [SEG]."""
    return answer.split(SEG_TOKEN)[0].strip(" ;.,")
