"""Whether a caption and an instruction refer to the same object, in the language model's own judgement.

The model's answer to the instruction names every object. The agreement of a caption is the natural logarithm of a
likelihood ratio: how likely the model was to name an object by the caption, relative to its own words. It is 0 for the
model's own words, slightly below 0 for another name of the same object, and far below 0 for a contradiction, because
every wrong word adds its own logarithm.
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
    """Log likelihood of each caption relative to the model's own words: about 0 or less.

    If the model names several objects, a caption may refer to any of them, and the best value counts. An empty caption
    contradicts nothing: 0.

    Args:
        prompt: embeddings (L, D) of the question about the clip, up to the start of the answer.
        captions: sentences in the form of the model's own captions.
    """
    own_captions = captions_of(processor.text(model.answer(prompt, processor.end_id).ids))
    own = [_naming(own_captions[: place + 1]) for place in range(len(own_captions))] or [NO_OBJECT]
    others = [_naming([*own_captions[:place], caption]) for caption in captions for place in range(len(own))]
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
    """The start of an answer that names these objects."""
    return " ; ".join(f"{caption} {SEG_TOKEN}" for caption in captions)
