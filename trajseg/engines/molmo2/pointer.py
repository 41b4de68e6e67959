"""Molmo2Pointer: shows Molmo2 a clip and asks it to track the instruction's objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, LogitsProcessorList, Molmo2ForConditionalGeneration
from transformers.video_utils import VideoMetadata

from trajseg.checkpoints.reading import readable
from trajseg.checkpoints.silence import silent_loading
from trajseg.engines.grounded.chooser import GrammarProcessor, LocalChooser
from trajseg.engines.grounded.pictures import fitted
from trajseg.engines.molmo2.answers import track_grammar
from trajseg.engines.molmo2.settings import Molmo2Settings
from trajseg.errors import CheckpointError
from trajseg.video import Clip

MODEL_TYPE = "molmo2"
SHOWN_SIDE = 1280
"""Longer side of the stored frames, pixels; Molmo2 sees them at 378 x 378."""
CLOCK = 1000.0
"""Clock rate for times, per second: the processor needs whole frame numbers, but times may be any."""


class Molmo2Pointer:
    """A Molmo2 on this machine, with greedy decoding within the grammar.

    Args:
        model: switched to evaluation mode.
        processor: Molmo2Processor, with the checkpoint's chat template.
    """

    def __init__(self, model: Any, processor: Any, settings: Molmo2Settings) -> None:
        self.model, self.processor, self.settings = model.eval(), processor, settings
        self.chooser = LocalChooser(model, processor)
        """The same model for questions about pictures, such as captions."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        settings: Molmo2Settings | None = None,
    ) -> Molmo2Pointer:
        """Loads a folder.

        Raises:
            CheckpointError: it cannot be loaded, or is not a Molmo2.
        """
        check_kind(Path(path))
        with readable(f"The Molmo2 {path}", "Run `trajseg weights check molmo2`."):
            with silent_loading():
                model = Molmo2ForConditionalGeneration.from_pretrained(path, dtype=dtype)
            processor = AutoProcessor.from_pretrained(path)
        if not processor.chat_template:
            raise CheckpointError(
                f"{path} has no chat template.",
                "Copy chat_template.jinja from the same repository next to its config.json.",
            )
        return cls(model.to(device), processor, settings or Molmo2Settings())  # type: ignore[arg-type]

    def shown(self, clip: Clip) -> list[int]:
        """The 0-based frames that Molmo2 sees: `fps` a second, at most `frames`, evenly spaced over the clip."""
        times = clip.frame_map.times
        count = max(1, int((times[-1] - times[0]) * self.settings.fps) + 1)
        step = 1 / self.settings.fps
        if count > self.settings.frames:
            count = self.settings.frames
            step = (times[-1] - times[0]) / max(1, count - 1)
        return sorted({clip.frame_map.index_at(times[0] + number * step) for number in range(count)})

    @torch.inference_mode()
    def track(self, clip: Clip, instruction: str, progress: Callable[[], None] | None = None) -> tuple[str, list[int]]:
        """Molmo2's answer to "Track <instruction>.", and the frames that it saw.

        An answer longer than `tokens` is cut off. Raises VideoError, or anything that `progress` raises, which is
        called before the model runs.
        """
        indices = self.shown(clip)
        pictures = np.stack([fitted(picture, SHOWN_SIDE) for _, picture in clip.frames(indices)])
        if progress:
            progress()
        inputs = self.inputs(pictures, [clip.frame_map.times[index] for index in indices], instruction)
        grammar = track_grammar()
        start = inputs["input_ids"].shape[1]
        held = GrammarProcessor(grammar, self.processor.tokenizer, start)
        generated = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.settings.tokens,
            eos_token_id=held.end,
            pad_token_id=held.end,
            logits_processor=LogitsProcessorList([held]),
        )
        return held.text(generated[0, start:].tolist()), indices

    def inputs(self, pictures: np.ndarray, times: list[float], instruction: str) -> Any:
        """The model's input: pictures RGB uint8 [N, H, W, 3], each after its time in seconds, and the request."""
        request = instruction.strip().rstrip(".!?;, ")
        content = [{"type": "text", "text": f"Track {request}."}, {"type": "video"}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        clock = [round(time * CLOCK) for time in times]
        metadata = VideoMetadata(total_num_frames=clock[-1] + 1, fps=CLOCK, frames_indices=clock)
        inputs = self.processor(
            text=[text], videos=[pictures], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
        )
        return inputs.to(self.model.device, self.model.dtype)


def check_kind(folder: Path) -> None:
    """Raises CheckpointError if a folder's config.json is not a Molmo2's."""
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type", "")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{config} cannot be read: {error}", "Name the folder of a Molmo2.") from error
    if kind != MODEL_TYPE:
        raise CheckpointError(
            f"{folder} holds a {kind or 'model without a model_type'}, not a Molmo2.",
            "Set TRAJSEG_MOLMO2_WEIGHTS to a general Molmo2, such as allenai/Molmo2-4B or allenai/Molmo2-8B.",
        )
