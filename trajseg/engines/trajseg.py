"""VideoSegmenter: turns an instruction about a clip into mask tracks, and a mask track into a caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from trajseg.checkpoints.base_identity import BaseIdentity
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.correction.memory import MemoryPropagator
from trajseg.engines.adapters import AdaptedModel, Adapter
from trajseg.engines.base import (
    PLAIN,
    EngineSpec,
    FrameMasks,
    ObjectMask,
    RunContext,
    TrackedObject,
    check_instruction,
)
from trajseg.engines.drawing import ClipDrawing
from trajseg.engines.marked import MarkedObject
from trajseg.engines.registry import checkpoint_spec
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import CheckpointError, InputError
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.agreement import CONTRADICTION, agreement
from trajseg.model.cache_memory import answers_at_once, cache_bytes, free_bytes, in_batches
from trajseg.model.clip_tracker import FrameRule
from trajseg.model.device import chosen, chosen_dtype
from trajseg.model.dialogue import caption_of, captions_of
from trajseg.model.mask_decoder import FrameFeatures
from trajseg.model.modeling import Answer
from trajseg.model.promptable import PromptableSam2
from trajseg.model.sampling import Sampling
from trajseg.progress import Progress
from trajseg.tracks import MaskTrack
from trajseg.tracks.hysteresis import empty_unsure_runs
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip

CAPTIONED_AT_ONCE = 8
"""Most trajectories of a clip that the language model captions together; fewer if memory is short."""


@dataclass(frozen=True)
class Said:
    """A text answer, including [SEG], and its tokens' log-probabilities (natural), ending with the end token's."""

    text: str
    log_likelihoods: tuple[float, ...]


class VideoSegmenter:
    """The TrajSeg engine: one loaded checkpoint, any number of clips.

    Args:
        sampling: which frames it looks at; defaults to the checkpoint's.
        weights: the model with its adapters; defaults to the base alone.
        adapter: that this engine uses; None: the base.

    Raises:
        InputError: `sampling` has more frames than the model can distinguish.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        model_version: str,
        sampling: Sampling | None = None,
        weights: AdaptedModel | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self._weights = weights or AdaptedModel(model, BaseIdentity())
        self._adapter = adapter
        self.model = model
        self.processor = processor
        self._model_version = model_version
        self.sampling = sampling or Sampling()
        wanted, known = self.sampling.llm_frames or 0, model.config.llm_frames
        if model.config.frame_embedding and wanted > known:
            raise InputError(f"{wanted} frames are requested, {model_version} knows {known}.", "Use fewer frames.")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "trajseg-tiny",
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        four_bit: bool = False,
    ) -> VideoSegmenter:
        """Loads a built-in checkpoint by name, or a folder.

        Args:
            name: "trajseg-tiny", or a folder in Hugging Face's form.
            device: torch's name of a device; defaults to the first GPU, else the CPU.
            dtype: of the weights, torch's or its name; defaults to the one in the checkpoint's config.json, else
                float32.
            four_bit: the language model's layers in 4 bits (needs bitsandbytes).

        Raises:
            CheckpointError: there is no such checkpoint, or its files do not fit together.
            InputError: no such device, no such dtype, or float16 on a CPU.
            TrajSegError: 4 bits are requested and bitsandbytes is not installed.
        """
        folder, device = checkpoint_folder(name), chosen(device)
        model = TrajSegModel.from_pretrained(folder, chosen_dtype(dtype, device), device, four_bit)
        weights = AdaptedModel(model, BaseIdentity.of(folder))
        return cls(model, TrajSegProcessor.from_pretrained(folder), model.config.model_name, weights=weights)

    @property
    def spec(self) -> EngineSpec:
        """What the loaded weights can do."""
        return checkpoint_spec(self.model.config.to_dict() | {"model_name": self._model_version})

    def sampled(self, sampling: Sampling) -> VideoSegmenter:
        """The same model, looking at other frames; raises InputError if they are too many to distinguish."""
        version, weights, adapter = self._model_version, self._weights, self._adapter
        return VideoSegmenter(self.model, self.processor, version, sampling, weights, adapter)

    def adapted(self, folder: Path | None) -> VideoSegmenter:
        """The same loaded base with a project's adapter, or (None) without one; see trajseg.engines.adapters.

        All of these engines share one model, so only one can work at a time: finish a segmentation before using another
        engine.

        Raises:
            CheckpointError: the folder is incomplete, or was trained on another base.
        """
        adapter = None if folder is None else self._weights.load(folder)
        version = self.model.config.model_name if adapter is None else adapter.manifest.model_version
        engine = VideoSegmenter(self.model, self.processor, version, self.sampling, self._weights, adapter)
        engine._ready()
        return engine

    def _ready(self) -> None:
        """Puts this engine's adapter into the shared model."""
        self._weights.put(self._adapter)

    @torch.inference_mode()
    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """The objects that the instruction refers to, and an iterator over their masks; see trajseg.engines.base.

        The language model has answered when this returns. A run that resumes from `context.done` has the same answer,
        and the tracker's memory is filled from the stored masks.

        Args:
            clip: an open clip, or the path of a video.
            instruction: 1 to 1000 characters.
            context: finished frames, and a progress callback.

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
        """
        instruction = check_instruction(instruction)
        self._ready()
        clip = open_clip(clip)
        started, seen = perf_counter(), self._seen(clip)
        # Memory starts at frame 0, so it is a prompted frame even if the language model does not see it.
        keys = self.sampling.keys(seen)
        frames = dict(clip.frames(sorted({*keys, *seen})))
        read = perf_counter()
        if context.progress:
            context.progress(len(context.done), len(clip))
        kept = {} if context.kept is None else context.kept
        if "vision states" not in kept:
            kept["vision states"] = self._look([frames[index] for index in seen])
        question = self._question(kept["vision states"], instruction, len(seen))
        answer = self.model.answer(question, self.processor.end_id)
        text = self.processor.text(answer.ids)
        answered = perf_counter()
        objects = TrackedObject.numbered(captions_of(text)) if len(answer.trajectories) else []
        done = context.done_of(objects)
        key_pictures = {index: frames[index] for index in keys}
        features = None if context.kept is None else kept.setdefault("features", {})
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=self._drawn(clip, objects, answer.trajectories, key_pictures, done, features),
            answer=text,
            done=done,
            finish=self._finish,
            timings={"read key frames": read - started, "language": answered - read},
        )

    @torch.inference_mode()
    def caption(
        self, clip: Clip | str | Path, tracks: Sequence[MaskTrack], progress: Progress | None = None
    ) -> list[str]:
        """A sentence for each track, in order.

        The clip is encoded once for all tracks. A track that is not visible on any frame seen by the language model
        gets an empty sentence.

        Args:
            clip: an open clip, or the path of a video.
            tracks: each with one frame per frame of the clip.
            progress: called with (tracks done, tracks in total); an exception from it ends the run.

        Raises:
            CheckpointError: the checkpoint has no trajectory encoder.
            InputError: a track and the clip differ in number of frames.
            VideoError: the video cannot be read.
        """
        self._ready()
        clip = open_clip(clip)
        self.model.require_trajectory_encoder()
        for track in tracks:
            if len(track) != len(clip):
                raise InputError(
                    f"Track {track.uid} has {len(track)} frames, {clip.path.name} has {len(clip)}.",
                    "Use the video that the track belongs to.",
                )
        sampled, fitted = self._seen(clip), self.processor.seen_boxes
        trajectories = [fitted(trajectory(track, clip, sampled), clip.height, clip.width) for track in tracks]
        shown = [number for number, boxes in enumerate(trajectories) if boxes.any()]
        captions = [""] * len(tracks)
        if not shown:
            return captions
        described = self._describe(clip, sampled, torch.stack([trajectories[number] for number in shown]))
        for done, (number, caption) in enumerate(zip(shown, described, strict=True), len(tracks) - len(shown) + 1):
            captions[number] = caption
            if progress:
                progress(done, len(tracks))
        return captions

    def _describe(self, clip: Clip, sampled: list[int], trajectories: Tensor) -> Iterator[str]:
        """The captions of trajectories (K, N, 4) over the frames `sampled`, in batches as large as memory allows."""
        model, processor = self.model, self.processor
        states = self._look([frame for _, frame in clip.frames(sampled)])
        before, _ = processor.prompt_ids("", len(sampled))
        between, after = processor.caption_ids()
        start, end = torch.cat([self._frames(states, before), self._words(between)]), self._words(after)
        tokens = model.trajectory_embeddings(states, trajectories.to(model.device))
        tokens = model.at_frames(tokens, self._numbers(len(sampled)))
        length = len(start) + tokens.shape[1] + len(end) + model.config.max_new_tokens
        row = cache_bytes(model.config.llava_config.text_config, length, model.dtype)

        def answered(some: Sequence[Tensor]) -> list[Answer]:
            return model.answers(torch.stack([torch.cat([start, each, end]) for each in some]), processor.end_id)

        at_once = answers_at_once(row, free_bytes(model.device), CAPTIONED_AT_ONCE)
        for answer in in_batches(list(tokens), at_once, answered):
            yield caption_of(processor.text(answer.ids))

    @torch.inference_mode()
    def answer(self, clip: Clip | str | Path, instruction: str) -> Said:
        """The model's text answer to an instruction, with its log-probabilities; no masks are drawn.

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
        """
        prompt = self._asked(clip, instruction)
        ids, end = self.model.answer(prompt, self.processor.end_id).ids, self.processor.end_id
        [likelihoods] = self.model.log_likelihoods(prompt, [[*ids, end]])
        return Said(self.processor.text(ids), tuple(likelihoods.tolist()))

    @torch.inference_mode()
    def agreement(self, clip: Clip | str | Path, instruction: str, captions: Sequence[str]) -> list[float]:
        """How well captions of tracks agree with an instruction about the clip; see trajseg.model.agreement.

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
        """
        prompt = self._asked(clip, instruction)
        return agreement(self.model, self.processor, prompt, captions)

    def contradictions(self, clip: Clip | str | Path, instruction: str, captions: Sequence[str]) -> list[bool]:
        """For each caption, whether it contradicts the instruction; raises as `agreement` does."""
        return [value < CONTRADICTION for value in self.agreement(clip, instruction, captions)]

    def _seen(self, clip: Clip) -> list[int]:
        """The frames that the language model sees."""
        return self.sampling.seen(len(clip), self.model.config.llm_frames)

    def _numbers(self, seen: int) -> Tensor:
        """The language model's numbers for these frames, (seen,)."""
        return torch.tensor(self.sampling.numbers(seen, self.model.config.llm_frames), device=self.model.device)

    def promptable(self) -> PromptableSam2:
        """The model's SAM 2 on its own: it segments marks and tracks painted masks."""
        self._ready()
        reader = self.model.mark_reader if self.model.config.mark_reader else None
        return PromptableSam2(self.model.visual_model, letterboxed=True, reader=reader)

    def propagator(self) -> MemoryPropagator:
        """Propagates painted masks through a clip with SAM 2's memory."""
        return MemoryPropagator(self.promptable())

    @torch.inference_mode()
    def mark(
        self, clip: Clip | str | Path, mark: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of the object at a box or point on one frame, bool [H, W]; see trajseg.engines.marked.

        All False if the model is not certain of it; trajseg.correction.grabcut.cut_out segments by colour instead.

        Args:
            clip: an open clip, or the path of a video.
            mark: in pixels of the clip.
            instruction: a description of the object; may be empty.
            known: masks of the same object on other frames, bool [H, W] by 0-based frame.

        Raises:
            CheckpointError: the weights were not trained with marks (`spec.marks` is False).
            InputError: the mark lies outside the picture, or the clip has no such frame.
            InstructionError: the instruction is too long.
            VideoError: the video cannot be read.
        """
        if not self.spec.marks:
            raise CheckpointError(
                f"{self._model_version} cannot segment boxes: its weights were not trained with boxes.",
                "Use a checkpoint whose config.json has `prompted_by_boxes`, or trajseg.correction.grabcut.cut_out.",
            )
        self._ready()
        clip = open_clip(clip)
        marked = MarkedObject(self.promptable(), clip, mark, known or {})
        prompts = None
        if instruction.strip():
            question = self._asked(clip, instruction)
            trajectories = self.model.answer(question, self.processor.end_id).trajectories
            prompts = self.model.prompts(trajectories, marked.frame)[:, 0] if len(trajectories) else None
        return marked.mask(prompts)

    def _asked(self, clip: Clip | str | Path, instruction: str) -> Tensor:
        """The prompt of an instruction about a clip, (L, D)."""
        self._ready()
        instruction = check_instruction(instruction)
        clip = open_clip(clip)
        frames = [frame for _, frame in clip.frames(self._seen(clip))]
        return self._question(self._look(frames), instruction, len(frames))

    def _question(self, states: tuple[Tensor, ...], instruction: str, pictures: int) -> Tensor:
        """Embeddings (L, D) of an instruction about pictures with these vision states, up to the answer's start."""
        before, after = self.processor.prompt_ids(instruction, pictures)
        return torch.cat([self._frames(states, before), self._words(after)])

    def _look(self, frames: list[np.ndarray]) -> tuple[Tensor, ...]:
        """The vision tower's hidden states of pictures."""
        return self.model.vision_states(self.processor.llm_pixels(frames).to(self.model.device))

    def _frames(self, states: tuple[Tensor, ...], before: list[list[int]]) -> Tensor:
        """Embeddings (L, D) of a prompt's start: each frame's visual tokens after its markers."""
        seen = self.model.see(states, self._numbers(len(before)))
        parts = []
        for number, ids in enumerate(before):
            parts += [self._words(ids), seen.embeddings[seen.frame == number]]
        return torch.cat(parts)

    def _words(self, ids: list[int]) -> Tensor:
        return self.model.embed_words(torch.tensor(ids, device=self.model.device))

    @torch.inference_mode()
    def _drawn(
        self,
        clip: Clip,
        objects: Sequence[TrackedObject],
        trajectories: Tensor,
        key_pictures: Mapping[int, np.ndarray],
        done: Sequence[FrameMasks],
        kept: dict[int, FrameFeatures] | None,
    ) -> Iterator[FrameMasks]:
        self._ready()
        rule = FrameRule.of(self.model.config, self.sampling, key_pictures)  # type: ignore[arg-type]
        drawing = ClipDrawing(self.model, self.processor, clip, rule, key_pictures, kept)
        yield from drawing.frames([thing.uid for thing in objects], trajectories, done)

    def _finish(self, tracks: list[MaskTrack], masks: Mapping[str, Sequence[ObjectMask]]) -> None:
        for track in tracks:
            presence = [mask.presence for mask in masks[track.uid]]
            empty_unsure_runs(track.frames, presence, self.model.config.start_score)


def trajectory(track: MaskTrack, clip: Clip, indices: Sequence[int]) -> Tensor:
    """A track's boxes on some frames, (n, 4) xyxy in units of the letterboxed side, zero where it is absent."""
    boxes = torch.zeros(len(indices), 4)
    for row, index in enumerate(indices):
        box = track.box(index)
        if box is not None:
            x, y, width, height = box
            boxes[row] = torch.tensor([x, y, x + width, y + height]) / max(clip.width, clip.height)
    return boxes
