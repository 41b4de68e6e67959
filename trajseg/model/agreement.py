"""Whether a caption and an instruction speak of the same thing, by the language model's own judgement.

Asked the instruction, the model writes an answer that names every object it means. How likely would it have been to
name an object by the caption instead? The natural logarithm of that likelihood ratio is 0 where the caption is what
the model said itself, a little below where it is another name for the same thing, and far below where the two
contradict each other: each word that the model holds for wrong costs its own logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trajseg.data.sentences import NO_OBJECT, SEG_TOKEN
from trajseg.model.dialogue import captions_of
from trajseg.model.modeling import TrajSegModel
from trajseg.model.processor import TrajSegProcessor

CONTRADICTION = -4.0
"""A caption whose agreement with an instruction is below this contradicts it."""


def agreement(model: TrajSegModel, processor: TrajSegProcessor, prompt: Tensor, captions: Sequence[str]) -> list[float]:
    """Log of how much likelier the model's own words are than each caption, negated: about 0 or less.

    Where the model names several objects a caption may stand for any of them: the best is taken. An empty caption
    says nothing and contradicts nothing: 0.

    Args:
        prompt: embeddings (L, D) of the whole question about the clip, up to where the answer begins.
        captions: sentences in the model's own words, as it writes them of tracks.
    """
    said = captions_of(processor.text(model.answer(prompt, processor.end_id).ids))
    own = [_naming(said[: place + 1]) for place in range(len(said))] or [NO_OBJECT]
    others = [_naming([*said[:place], caption]) for caption in captions for place in range(len(own))]
    likelihoods = [
        float(each.sum()) for each in model.log_likelihoods(prompt, [processor.ids(t) for t in own + others])
    ]
    best, rest = likelihoods[: len(own)], likelihoods[len(own) :]
    found = []
    for number, caption in enumerate(captions):
        mine = rest[number * len(own) : (number + 1) * len(own)]
        found.append(max(a - b for a, b in zip(mine, best, strict=True)) if caption else 0.0)
    return found


def _naming(captions: Sequence[str]) -> str:
    """The beginning of an answer that names these objects."""
    return " ; ".join(f"{caption} {SEG_TOKEN}" for caption in captions)
