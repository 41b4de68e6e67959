"""Choosers: vision language models that answer questions about pictures within a grammar.

LocalChooser runs a transformers model (Qwen3-VL, Qwen3.5, Qwen2.5-VL and others with the same interface).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList

from trajseg.checkpoints.reading import readable
from trajseg.checkpoints.silence import silent_loading
from trajseg.engines.grounded.dialogue import Question
from trajseg.engines.grounded.grammar import Grammar
from trajseg.engines.grounded.prompts import Part
from trajseg.errors import CheckpointError, TrajSegError

LIKELY = 64
"""Number of tokens tried first; nearly always one of the first three fits."""
UNFINISHED = "\ufffd"
"""What a tokenizer returns for an incomplete character."""


class Chooser(Protocol):
    """Answers questions about pictures.

    Attributes:
        family: transformers' model_type, or the served model's name: the meaning of its boxes depends on it.
    """

    family: str

    def answer(self, question: Question) -> str:
        """An answer that matches the question's grammar.

        Raises:
            TrajSegError: the model does not answer.
        """


class LocalChooser:
    """A vision language model on this machine with greedy decoding within the grammar.

    Pictures are passed as images, each after its text, not as a video: video modes merge frames and average times.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.family = str(model.config.model_type)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str = "",
    ) -> LocalChooser:
        """Loads a folder, or a hub repository at a revision.

        Raises:
            CheckpointError: it cannot be loaded, or does not read images and text.
        """
        pinned = {"revision": revision} if revision else {}
        remedy = (
            "Set TRAJSEG_GROUNDED_CHOOSER to the folder of a vision language model in transformers' form (config.json, "
            "safetensors, tokenizer, processor), or to none."
        )
        with readable(f"The chooser {path}", remedy):
            with silent_loading():
                model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, **pinned)
            processor = AutoProcessor.from_pretrained(path, **pinned)
        if not getattr(processor, "chat_template", None):
            raise CheckpointError(
                f"The chooser {path} has no chat template.",
                "Copy chat_template.jinja from the same repository next to its config.json.",
            )
        return cls(model.to(device), processor)  # type: ignore[arg-type]

    @torch.inference_mode()
    def answer(self, question: Question) -> str:
        """See Chooser."""
        messages = [{"role": "user", "content": [_content(part) for part in question.parts]}]
        thinking = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **thinking)
        pictures = [Image.fromarray(part) for part in question.parts if not isinstance(part, str)]
        inputs = self.processor(text=[text], images=pictures or None, return_tensors="pt").to(self.model.device)
        held = GrammarProcessor(question.grammar, self.processor.tokenizer, inputs["input_ids"].shape[1])
        generated = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=question.most_tokens,
            eos_token_id=held.end,
            pad_token_id=held.end,
            logits_processor=LogitsProcessorList([held]),
        )
        answer = held.text(generated[0, inputs["input_ids"].shape[1] :].tolist())
        if not question.grammar.is_whole(answer):
            raise TrajSegError(
                f"The chooser's answer is unfinished: {answer[:200]!r}.", "Ask it about fewer candidates."
            )
        return answer


class GrammarProcessor(LogitsProcessor):
    """Keeps, at each step, only the likeliest token with which the answer can still be completed; for one row."""

    def __init__(self, grammar: Grammar, tokenizer: Any, start: int) -> None:
        self.grammar, self.tokenizer, self.start = grammar, tokenizer, start
        self.end = int(tokenizer.eos_token_id)
        self._special = set(tokenizer.all_special_ids)

    def text(self, ids: Sequence[int]) -> str:
        """Generated tokens as text."""
        return str(
            self.tokenizer.decode(
                [token for token in ids if token not in self._special], clean_up_tokenization_spaces=False
            )
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (1, V) with every token but one at -inf."""
        ids = input_ids[0, self.start :].tolist()
        # A model's vocabulary may be larger than its tokenizer's.
        known = min(scores.shape[1], len(self.tokenizer))
        ordered = scores[0, :known].topk(min(LIKELY, known)).indices.tolist()
        chosen = next((token for token in ordered if self._fits(ids, token)), None)
        if chosen is None:
            ordered = scores[0, :known].argsort(descending=True).tolist()
            chosen = next((token for token in ordered[LIKELY:] if self._fits(ids, token)), self.end)
        held = torch.full_like(scores, float("-inf"))
        held[0, chosen] = 0.0
        return held

    def _fits(self, ids: list[int], token: int) -> bool:
        if token == self.end:
            return self.grammar.is_whole(self.text(ids))
        if token in self._special:
            return False
        before, after = self.text(ids), self.text([*ids, token])
        return after != before and self.grammar.can_go_on(after.rstrip(UNFINISHED))


def _content(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
