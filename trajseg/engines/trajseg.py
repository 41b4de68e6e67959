"""VideoSegmenter: an instruction about a clip becomes mask tracks, and a mask track becomes words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trajseg.engines.base import CONTRADICTION, Progress, check_instruction
from trajseg.engines.marked import Hinted
from trajseg.errors import CheckpointError, InputError
from trajseg.model import TrajSegModel, TrajSegProcessor
from trajseg.model.agreement import agreement
from trajseg.model.device import chosen
from trajseg.model.dialogue import caption_of, captions_of
from trajseg.model.mask_decoder import FrameFeatures, Tracker
from trajseg.model.sampling import Sampling
from trajseg.tracks import MaskTrack, Result, TrackFrame, rle
from trajseg.tracks.mark import Mark
from trajseg.video import Clip, open_clip

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
ENCODED_AT_ONCE = 8
"""Frames that go through SAM 2's image encoder together."""
CAPTIONED_AT_ONCE = 8
"""Trajectories of a clip that the language model describes together; each holds a key-value cache of its own."""


@dataclass(frozen=True)
class Said:
    """An answer in words, [SEG] kept, and the natural logs of its tokens' probabilities, the end's last."""

    text: str
    log_likelihoods: tuple[float, ...]


class VideoSegmenter:
    """The TrajSeg engine: one loaded checkpoint, any number of clips.

    Args:
        sampling: which frames it looks at; by default as the checkpoint was made for.

    Raises:
        InputError: `sampling` has more frames than the model can tell apart.
    """

    def __init__(
        self,
        model: TrajSegModel,
        processor: TrajSegProcessor,
        model_version: str,
        sampling: Sampling | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self._model_version = model_version
        self.sampling = sampling or Sampling()
        wanted, known = self.sampling.llm_frames or 0, model.config.llm_frames
        if model.config.frame_embedding and wanted > known:
            raise InputError(f"{wanted} frames are asked for, {model_version} knows {known}.", "Ask for fewer.")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "trajseg-tiny",
        device: str | None = None,
        dtype: torch.dtype | None = None,
        four_bit: bool = False,
    ) -> VideoSegmenter:
        """Loads a shipped checkpoint by name, or a folder.

        Args:
            name: "trajseg-tiny", or a folder in Hugging Face's form.
            device: torch's name of a device; by default the first GPU, else the CPU.
            dtype: of the weights; by default what the checkpoint's config.json asks for, else float32.
            four_bit: the language model's layers in 4 bits (needs bitsandbytes).

        Raises:
            CheckpointError: no such checkpoint, or its files do not fit together.
            InputError: no such device.
            TrajSegError: 4 bits are asked for and bitsandbytes is not installed.
        """
        folder = CHECKPOINTS / name if (CHECKPOINTS / name).is_dir() else Path(name)
        if not folder.is_dir():
            shipped = ", ".join(sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json"))) or "none"
            raise CheckpointError(
                f"There is no checkpoint {name}.",
                f"Name a folder, or one of those that ship with trajseg: {shipped}.",
            )
        model = TrajSegModel.from_pretrained(folder, dtype, chosen(device), four_bit)
        return cls(model, TrajSegProcessor.from_pretrained(folder), model.config.model_name)

    @property
    def model_version(self) -> str:
        """Engine, base weights and adapter, as predictions carry it."""
        return self._model_version

    def sampled(self, sampling: Sampling) -> VideoSegmenter:
        """The same model, looking at other frames; raises InputError where it cannot tell so many apart."""
        return VideoSegmenter(self.model, self.processor, self._model_version, sampling)

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
        seen = self._seen(clip)
        # Memory starts at frame 0, so it is a key frame even when the language model does not see it.
        keys = self.sampling.keys(seen)
        frames = dict(clip.frames(sorted({*keys, *seen})))
        clock.lap("read key frames")
        prompt = self._question([frames[index] for index in seen], instruction)
        answer = self.model.answer(prompt, self.processor.end_id)
        text = self.processor.text(answer.ids)
        clock.lap("language")
        tracks: list[MaskTrack] = []
        if len(answer.trajectories):
            features = self._encode([frames[index] for index in keys])
            captions = captions_of(text)
            tracks = [
                MaskTrack(f"t{i + 1}", f"track-{i + 1}", caption, 0.0, [], instruction=instruction)
                for i, caption in enumerate(captions)
            ]
            self._draw(clip, tracks, answer.trajectories, _by_frame(keys, features), progress)
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

    @torch.inference_mode()
    def caption(
        self, clip: Clip | str | Path, tracks: Sequence[MaskTrack], progress: Progress | None = None
    ) -> list[str]:
        """A sentence on each track, in their order, whoever drew them.

        The clip is looked at once for all tracks. A track that shows in none of the frames that the language model
        sees gets an empty sentence.

        Args:
            clip: an open clip, or the path of a video.
            tracks: with a frame for each of the clip's.
            progress: called with (tracks done, tracks in all); what it raises ends the run.

        Raises:
            CheckpointError: the checkpoint has no trajectory encoder.
            InputError: a track has another number of frames than the clip.
            VideoError: the video cannot be read.
        """
        clip = clip if isinstance(clip, Clip) else open_clip(clip)
        self.model.require_trajectory_encoder()
        for track in tracks:
            if len(track) != len(clip):
                raise InputError(f"Track {track.uid} has {len(track)} frames, {clip.path.name} has {len(clip)}.")
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
        """What the model says of trajectories (K, N, 4) over the frames `sampled`, CAPTIONED_AT_ONCE at a time."""
        model, processor = self.model, self.processor
        states = self._look([frame for _, frame in clip.frames(sampled)])
        before, _ = processor.prompt_ids("", len(sampled))
        between, after = processor.caption_ids()
        start, end = torch.cat([self._frames(states, before), self._words(between)]), self._words(after)
        tokens = model.trajectory_embeddings(states, trajectories.to(model.device))
        tokens = model.at_frames(tokens, self._numbers(len(sampled)))
        for chunk in tokens.split(CAPTIONED_AT_ONCE):
            prompts = torch.stack([torch.cat([start, row, end]) for row in chunk])
            for answer in model.answers(prompts, processor.end_id):
                yield caption_of(processor.text(answer.ids))

    @torch.inference_mode()
    def answer(self, clip: Clip | str | Path, instruction: str) -> Said:
        """What the model says to an instruction, and how sure it is of its words; nothing is drawn.

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
        """Whether captions contradict an instruction, for each; raises as `agreement`."""
        return [value < CONTRADICTION for value in self.agreement(clip, instruction, captions)]

    def _seen(self, clip: Clip) -> list[int]:
        """The frames that the language model sees."""
        return self.sampling.seen(len(clip), self.model.config.llm_frames)

    def _numbers(self, seen: int) -> Tensor:
        """The numbers that these frames are known by to the language model, (seen,)."""
        return torch.tensor(self.sampling.numbers(seen, self.model.config.llm_frames), device=self.model.device)

    @property
    def prompted(self) -> bool:
        """Whether the weights were trained with boxes and clicks, so that `prompt` can be asked."""
        return self.model.config.prompted_by_boxes

    @torch.inference_mode()
    def prompt(
        self, clip: Clip | str | Path, prompt: Mark, instruction: str, known: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """The mask of what a box or a click marks on one frame, bool [H, W]; see trajseg.engines.marked.

        All False where the model is not sure of it: trajseg.correction.grabcut.cut_out goes by colours.

        Args:
            clip: an open clip, or the path of a video.
            prompt: in pixels of the clip.
            instruction: what the object may be said to be; may be empty.
            known: masks of the same object on other frames, bool [H, W] by 0-based frame.

        Raises:
            CheckpointError: the weights were not trained with boxes.
            InputError: the mark lies outside the picture, or on a frame that the clip has not.
            InstructionError: the instruction is too long.
            VideoError: the video cannot be read.
        """
        if not self.prompted:
            raise CheckpointError(
                f"{self.model_version} cannot segment what a box marks: its weights were not trained with boxes.",
                "Take a checkpoint whose config.json has `prompted_by_boxes`, or trajseg.correction.grabcut.cut_out.",
            )
        clip = clip if isinstance(clip, Clip) else open_clip(clip)
        hinted = Hinted(self.model, self.processor, clip, prompt, known or {})
        meant = torch.zeros(0, self.model.config.sam2_config.d_model, device=self.model.device)
        if instruction.strip():
            asked = self._question(
                [frame for _, frame in clip.frames(self._seen(clip))], check_instruction(instruction)
            )
            meant = self.model.answer(asked, self.processor.end_id).trajectories
        return hinted.mask(meant)

    def _asked(self, clip: Clip | str | Path, instruction: str) -> Tensor:
        """The prompt of an instruction about a clip, (L, D)."""
        instruction = check_instruction(instruction)
        clip = clip if isinstance(clip, Clip) else open_clip(clip)
        return self._question([frame for _, frame in clip.frames(self._seen(clip))], instruction)

    def _question(self, frames: list[np.ndarray], instruction: str) -> Tensor:
        """Embeddings (L, D) of an instruction about pictures, up to where the answer begins."""
        before, after = self.processor.prompt_ids(instruction, len(frames))
        return torch.cat([self._frames(self._look(frames), before), self._words(after)])

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

    def _encode(self, frames: list[np.ndarray]) -> FrameFeatures:
        return self.model.encode_frames(self.processor.mask_pixels(frames).to(self.model.device))

    def _encoded(self, clip: Clip, known: Mapping[int, FrameFeatures]) -> Iterator[tuple[int, FrameFeatures]]:
        """Every frame's number and features, one picture each; those of `known` are not made again."""
        for chunk in _chunks(clip.frames(), ENCODED_AT_ONCE):
            others = {index: frame for index, frame in chunk if index not in known}
            made = _by_frame(others, self._encode(list(others.values()))) if others else {}
            for index, _ in chunk:
                yield index, made[index] if index in made else known[index]

    def _draw(
        self,
        clip: Clip,
        tracks: list[MaskTrack],
        trajectories: Tensor,
        keys: Mapping[int, FrameFeatures],
        progress: Progress | None,
    ) -> None:
        """Appends every frame's mask to each track; `trajectories` are (S, C), `keys` key frames' features."""
        config = self.model.config
        tracker = Tracker(self.model.visual_model, len(clip), config.key_frame_memory, start_score=config.start_score)
        scores: list[Tensor] = []
        everywhere = config.prompt_every_frame and self.sampling.key_frames is None
        rows = torch.zeros(len(tracks), dtype=torch.long, device=self.model.device)
        for index, features in self._encoded(clip, keys):
            frame, authors_way = features[rows], index == 0 and config.released_behaviour
            prompted = everywhere or index in keys
            prompt = self.model.prompts(trajectories, features)[:, 0] if prompted else None
            if authors_way and prompt is not None:
                decoded = tracker.draw_first(frame, prompt)
            else:
                decoded = tracker.step(index, frame, prompt, key=index in keys)
            logits = self.processor.to_picture(decoded.gated(), clip.height, clip.width)
            if authors_way:
                tracker.paint(index, frame, self.processor.mask_targets(logits > 0))
            scores.append(decoded.score)
            for track, logit, score in zip(tracks, logits, decoded.score.sigmoid(), strict=True):
                track.frames.append(_track_frame(index, clip.frame_map.times[index], logit, float(score)))
            if progress:
                progress(index + 1, len(clip))
        for track, own in zip(tracks, torch.stack(scores, dim=1).tolist(), strict=True):
            _empty_unsure(track.frames, own, config.start_score)
            drawn = [frame.score for frame in track.frames if frame.rle]
            track.score = sum(drawn) / len(drawn) if drawn else 0.0


def trajectory(track: MaskTrack, clip: Clip, indices: Sequence[int]) -> Tensor:
    """A track's boxes at some frames, (n, 4) xyxy in units of the letterboxed side, zero where it is absent."""
    boxes = torch.zeros(len(indices), 4)
    for row, index in enumerate(indices):
        box = track.box(index)
        if box is not None:
            x, y, width, height = box
            boxes[row] = torch.tensor([x, y, x + width, y + height]) / max(clip.width, clip.height)
    return boxes


def _by_frame(indices: Iterable[int], features: FrameFeatures) -> dict[int, FrameFeatures]:
    """Features of some frames, one picture each, by the frame's number."""
    return {index: features[row : row + 1] for row, index in enumerate(indices)}


def _track_frame(index: int, seconds: float, logit: Tensor, presence: float) -> TrackFrame:
    """Score: belief that the object is in the picture, times how sure its pixels are (1 - presence if absent)."""
    mask = logit > 0
    if not mask.any():
        return TrackFrame(index, seconds, 1.0 - presence if presence < 0.5 else 0.0, None)
    sureness = float(logit[mask].sigmoid().mean())
    return TrackFrame(index, seconds, presence * sureness, rle.encode(mask.cpu().numpy()))


def _empty_unsure(frames: list[TrackFrame], scores: list[float], bound: float) -> None:
    """Empties, in place, each run of drawn frames none of whose object scores (one a frame) is above `bound`."""
    for drawn, numbers in groupby(range(len(frames)), lambda number: frames[number].rle is not None):
        run = list(numbers)
        if drawn and max(scores[number] for number in run) <= bound:
            for number in run:
                frames[number].score, frames[number].rle = 0.0, None


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
