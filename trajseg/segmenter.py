"""VideoSegmenter: a clip and an instruction in, mask tracks out, in one pass over the key frames and one over all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trajseg.engine import Progress, check_instruction
from trajseg.errors import CheckpointError
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.dialogue import captions_of
from trajseg.model.mask_decoder import FrameFeatures, Tracker
from trajseg.model.processor import frame_indices
from trajseg.tracks import MaskTrack, Result, TrackFrame, rle
from trajseg.video import Clip, open_clip

CHECKPOINTS = Path(__file__).parent / "checkpoints"
ENCODED_AT_ONCE = 8
"""Frames that go through SAM 2's image encoder together."""


class VideoSegmenter:
    """The TrajSeg engine: one loaded checkpoint, any number of clips."""

    def __init__(self, model: TrajSegModel, processor: TrajSegProcessor, model_version: str) -> None:
        self.model = model
        self.processor = processor
        self._model_version = model_version

    @classmethod
    def from_pretrained(cls, name: str | Path = "trajseg-tiny", device: str | None = None) -> VideoSegmenter:
        """Loads a shipped checkpoint by name, or a folder.

        Args:
            name: "trajseg-tiny", or a folder in Hugging Face's form.
            device: torch's name of a device; by default the first GPU, else the CPU.

        Raises:
            CheckpointError: no such checkpoint, or its files do not fit together.
        """
        folder = CHECKPOINTS / name if (CHECKPOINTS / name).is_dir() else Path(name)
        if not folder.is_dir():
            shipped = ", ".join(sorted(path.name for path in CHECKPOINTS.glob("*/"))) or "none"
            raise CheckpointError(
                f"There is no checkpoint {name}.",
                f"Name a folder, or one of those that ship with trajseg: {shipped}.",
            )
        model = TrajSegModel.from_pretrained(folder)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, TrajSegProcessor.from_pretrained(folder), model.config.model_name)

    @property
    def model_version(self) -> str:
        """Engine, base weights and adapter, as predictions carry it."""
        return self._model_version

    @torch.inference_mode()
    def segment(self, clip: Clip | str | Path, instruction: str, progress: Progress | None = None) -> Result:
        """One track for each object that the instruction means; none when the model says that there is none.

        Args:
            clip: an open clip, or the path of a video.
            instruction: 1 to 1000 characters.
            progress: called with (frames done, frames in all) after each frame; what it raises ends the run.

        Raises:
            InstructionError: the instruction is empty or too long.
            VideoError: the video cannot be read.
        """
        instruction = check_instruction(instruction)
        clip = clip if isinstance(clip, Clip) else open_clip(clip)
        clock = _Clock()
        sampled = frame_indices(len(clip), self.model.config.llm_frames)
        # Memory starts at frame 0, so it is a key frame even when the language model does not see it.
        keys = sorted({0, *sampled})
        key_frames = dict(clip.frames(keys))
        clock.lap("read key frames")
        prompt = self._prompt([key_frames[index] for index in sampled], instruction)
        answer = self.model.answer(prompt, self.processor.end_id)
        text = self.processor.text(answer.ids)
        clock.lap("language")
        tracks: list[MaskTrack] = []
        if len(answer.trajectories):
            key_features = self._encode(list(key_frames.values()))
            prompts = self.model.key_prompts(answer.trajectories, key_features)
            captions = captions_of(text)
            tracks = [
                MaskTrack(f"t{i + 1}", f"track-{i + 1}", caption, 0.0, [], instruction=instruction)
                for i, caption in enumerate(captions)
            ]
            self._draw(clip, tracks, dict(zip(keys, prompts.unbind(1), strict=True)), progress)
            clock.lap("masks")
        elif progress:
            progress(len(clip), len(clip))
        return Result(
            video=str(clip.path),
            fps=clip.frame_map.fps,
            width=clip.width,
            height=clip.height,
            frame_count=len(clip),
            instruction=instruction,
            answer=text,
            model_version=self.model_version,
            tracks=tracks,
            timings=clock.seconds,
        )

    def _prompt(self, key_frames: list[np.ndarray], instruction: str) -> Tensor:
        """Embeddings (L, D) of the question: each frame's visual tokens between its markers, then the text."""
        model, device = self.model, self.model.device
        seen = model.see(self.processor.llm_pixels(key_frames).to(device))
        before, after = self.processor.prompt_ids(instruction, len(key_frames))
        parts = []
        for number, ids in enumerate(before):
            parts += [
                model.embed_words(torch.tensor(ids, device=device)),
                seen.embeddings[seen.frame == number],
            ]
        parts.append(model.embed_words(torch.tensor(after, device=device)))
        return torch.cat(parts)

    def _encode(self, frames: list[np.ndarray]) -> FrameFeatures:
        return self.model.encode_frames(self.processor.mask_pixels(frames).to(self.model.device))

    def _draw(self, clip: Clip, tracks: list[MaskTrack], prompts: dict[int, Tensor], progress: Progress | None) -> None:
        """Appends every frame's mask to each track; `prompts` are (S, C) by key frame."""
        tracker = Tracker(self.model.visual_model, len(clip), self.model.config.key_frame_memory)
        rows = torch.zeros(len(tracks), dtype=torch.long, device=self.model.device)
        for chunk in _chunks(clip.frames(), ENCODED_AT_ONCE):
            features = self._encode([frame for _, frame in chunk])
            for offset, (index, _) in enumerate(chunk):
                decoded = tracker.step(index, features[rows + offset], prompts.get(index))
                logits = self.processor.to_picture(decoded.gated(), clip.height, clip.width)
                for track, logit, score in zip(tracks, logits, decoded.score.sigmoid(), strict=True):
                    track.frames.append(_track_frame(index, clip.frame_map.times[index], logit, float(score)))
                if progress:
                    progress(index + 1, len(clip))
        for track in tracks:
            drawn = [frame.score for frame in track.frames if frame.rle]
            track.score = sum(drawn) / len(drawn) if drawn else 0.0


def _track_frame(index: int, seconds: float, logit: Tensor, presence: float) -> TrackFrame:
    """Score: belief that the object is in the picture, times how sure its pixels are (1 - presence if absent)."""
    mask = logit > 0
    if not mask.any():
        return TrackFrame(index, seconds, 1.0 - presence if presence < 0.5 else 0.0, None)
    sureness = float(logit[mask].sigmoid().mean())
    return TrackFrame(index, seconds, presence * sureness, rle.encode(mask.cpu().numpy()))


def _chunks(frames: Iterator[tuple[int, np.ndarray]], size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    while chunk := list(islice(frames, size)):
        yield chunk


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
